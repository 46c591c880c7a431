"""As few non-zero parameters as keep an accuracy."""
