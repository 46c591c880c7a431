"""A trained net as a C header, an ONNX model or safetensors."""
