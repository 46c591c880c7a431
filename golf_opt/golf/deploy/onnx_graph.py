"""A trained net as an ONNX model, node by node from its list of layers.

The input is what a data set holds, bytes, and the model normalises them itself:
so nobody has to know the mean and the standard deviation that a net was trained with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from golf_opt import __version__
from golf_opt.task import layers
from golf_opt.task.arch import Net, Node
from golf_opt.task.inputs import InputSpec

OPSET, IR_VERSION = 17, 8  # of 2022: runtimes of microcontrollers and phones lag behind
INPUT, OUTPUT = "images", "scores"
Array = npt.NDArray[Any]


def onnx_model(net: Net, tensors: Mapping[str, Array], about: Mapping[str, str]) -> bytes:
    """Return the model, checked by onnx.

    Args:
        net: the layers.
        tensors: `weights/<parameter>` and `buffers/<buffer>`.
        about: becomes the model's metadata.
    """
    model = helper.make_model(
        _Graph(net, tensors).build(),
        producer_name="golf_opt",
        producer_version=__version__,
        doc_string=_doc(net.input),
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    helper.set_model_props(model, {"classes": ", ".join(net.input.class_names)} | dict(about))
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


def _doc(spec: InputSpec) -> str:
    return (
        f"images: uint8 [n, {', '.join(map(str, spec.shape))}] as in the data, from 0 to 255, not "
        "normalised; the "
        f"model does that itself. scores: float32 [n, {spec.classes}], before any softmax, of the "
        f"classes {', '.join(spec.class_names)}."
    )


class _Graph:
    """Collects nodes, each reading what the one before it wrote, and constants, each once."""

    def __init__(self, net: Net, tensors: Mapping[str, Array]) -> None:
        self._net, self._tensors = net, tensors
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._last = INPUT
        self._outputs: list[str] = []  # of the net's nodes

    def build(self) -> Any:
        self._add("Cast", to=TensorProto.FLOAT)
        spec = self._net.input
        for operator, name in (("Sub", "mean"), ("Div", "std")):
            values = np.array(getattr(spec, name)).reshape(-1, 1, 1) * 255
            self._add(operator, self._constant(name, values.astype(np.float32)))
        for node in self._net.nodes:
            self._layer(node)
            self._outputs.append(self._last)
        self._nodes[-1].output[0] = OUTPUT
        return helper.make_graph(
            self._nodes,
            self._net.name,
            [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["n", *spec.shape])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", spec.classes])],
            list(self._constants.values()),
        )

    def _layer(self, node: Node) -> None:
        layer = node.layer
        match layer:
            case layers.Conv():
                groups = node.input_shape[0] if isinstance(layer, layers.Depthwise) else 1
                self._add(
                    "Conv", *self._weights(node), group=groups, kernel_shape=layer.kernels,
                    pads=[*layer.pads, *layer.pads], strides=layer.strides,
                )  # fmt: skip
            case layers.Linear():
                if len(node.input_shape) > 1:
                    self._add("Flatten")
                self._add("Gemm", *self._weights(node), transB=1)
            case layers.BatchNorm():
                statistics = [self._weight("buffers", b.name) for b in node.buffers]
                own = [*self._weights(node), *statistics]
                self._add("BatchNormalization", *own, epsilon=layer.EPS)
            case layers.ReLU():
                self._add("Relu")
            case layers.LeakyReLU():
                self._add("LeakyRelu", alpha=layer.slope)
            case layers.PReLU():
                self._add("PRelu", self._per_channel(node))
            case layers.Scale():
                self._add("Mul", self._per_channel(node))
            case layers.HardSwish():
                self._add("HardSwish")
            case layers.Tanh():
                self._add("Tanh")
            case layers.GELU():
                self._gelu()
            case layers.MaxPool():
                self._add("MaxPool", kernel_shape=layer.sizes, strides=layer.sizes)
            case layers.AvgPool():
                self._add("AveragePool", kernel_shape=layer.sizes, strides=layer.sizes)
            case layers.Add():
                assert node.of is not None
                self._add("Add", self._outputs[node.of])
            case layers.GlobalAvgPool():
                self._add("GlobalAveragePool")
                self._add("Flatten")
            case layers.Dropout():
                pass  # it does nothing outside of training
            case _:
                raise AssertionError(f"no ONNX node for {layer.kind}")

    def _gelu(self) -> None:
        """x / 2 * (1 + erf(x / sqrt(2))); an operator of its own came later than OPSET."""
        x = self._last
        self._add("Mul", self._constant("sqrt_half", np.float32(math.sqrt(0.5))))
        self._add("Erf")
        self._add("Add", self._constant("one", np.float32(1)))
        self._add("Mul", self._constant("half", np.float32(0.5)))
        self._add("Mul", x)

    def _per_channel(self, node: Node) -> str:
        """Return a constant with a number for each channel, that broadcasts over an image."""
        values = self._tensors[f"weights/{node.name}.weight"]
        shape = (-1, *[1] * (len(node.input_shape) - 1))
        shared = any(other.shared and other.name == node.name for other in self._net.nodes)
        name = f"{node.name}.slope{len(shape)}" if shared else f"{node.name}.weight"
        return self._constant(name, values.reshape(shape))

    def _weights(self, node: Node) -> list[str]:
        return [self._weight("weights", p.name) for p in node.parameters]

    def _weight(self, kind: str, name: str) -> str:
        return self._constant(name, self._tensors[f"{kind}/{name}"])

    def _constant(self, name: str, values: Any) -> str:
        self._constants[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def _add(self, operator: str, *others: str, **attributes: Any) -> None:
        """Append an operator on the last output and others, or constants."""
        output = f"{operator.lower()}{len(self._nodes)}"
        inputs = [self._last, *others]
        self._nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        self._last = output
