"""Gradients of a batch by PyTorch, for what has to agree with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from golf_opt.engines.base import Tensors
from golf_opt.engines.torch.module import build_module
from golf_opt.task.arch import Net
from golf_opt.task.data import Split


def gradients(
    net: Net, tensors: Tensors, batch: Split, label_smoothing: float, dropout_keys: Sequence[int]
) -> tuple[float, Tensors]:
    """Return the mean loss over one batch, and `gradients/...` of it, in float64 on the CPU."""
    module = build_module(net).double().train()
    with torch.no_grad():
        for name, tensor in module.tensors().items():
            tensor.copy_(torch.from_numpy(tensors[name]))
    for dropout, key in zip(module.dropouts(), dropout_keys, strict=True):
        dropout.key.fill_(key)
    mean, std = (torch.tensor(v).double()[:, None, None] for v in (net.input.mean, net.input.std))
    scores = module((torch.from_numpy(batch.images).double() / 255 - mean) / std)
    labels = torch.from_numpy(batch.labels.astype(np.int64))
    loss = torch.nn.functional.cross_entropy(scores, labels, label_smoothing=label_smoothing)
    loss.backward()  # type: ignore[no-untyped-call]
    found: Tensors = {}
    for parameter in net.parameters:
        gradient = module.layers.get_parameter(parameter.name).grad
        assert gradient is not None
        found[f"gradients/{parameter.name}"] = gradient.numpy()
    return float(loss.detach()), found
