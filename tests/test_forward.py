"""The NumPy evaluator equals the torch engine for every kind of layer, and needs no torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import every_layer_net, net, random_tensors, residual_net, tiny_net

from golf_opt.config.errors import UsageError
from golf_opt.engines.torch import TorchEngine
from golf_opt.task.arch import Net
from golf_opt.task.data import View
from golf_opt.task.forward import accuracy, forward, logits, normalise
from golf_opt.task.inputs import MNIST
from golf_opt.task.layers import KINDS

SMALL = [
    tiny_net({"kind": "conv", "channels": 3, "kernel": 4, "stride": 3}, {"kind": "batch_norm"}),
    tiny_net({"kind": "conv", "channels": 2, "kernel": 5, "padding": "same", "stride": 2}),
    tiny_net({"kind": "pointwise", "channels": 3}, {"kind": "depthwise", "kernel": 3, "stride": 2}),
    tiny_net({"kind": "linear", "features": 9}, {"kind": "batch_norm"}, {"kind": "prelu"}),
    tiny_net({"kind": "max_pool", "size": 3}, {"kind": "dropout"}, {"kind": "leaky_relu"}),
    tiny_net({"kind": "conv", "channels": 7, "kernel": 3}, {"kind": "global_avg_pool"}),
]
NETS = [every_layer_net(), residual_net(), *SMALL] + [
    net(name) for name in ("c4-5-4-prelu", "deepml-separable", "separable-697", "reused-separable")
]


def test_the_nets_below_have_every_kind_of_layer() -> None:
    nodes = (*every_layer_net().nodes, *residual_net().nodes)
    assert {node.layer.kind for node in nodes} == set(KINDS)


@pytest.mark.parametrize("of", NETS, ids=lambda of: of.name)
def test_scores_are_those_of_torch(of: Net, small_view: View) -> None:
    tensors = random_tensors(of)
    images = small_view.test.images
    module = TorchEngine(small_view, dtype=torch.float64)._module(of, tensors).eval()
    with torch.no_grad():
        expected = module(torch.from_numpy(normalise(of.input, images, np.float64))).numpy()
    assert np.ptp(expected, axis=0).min() > 0.01  # the scores depend on the image
    np.testing.assert_allclose(logits(of, tensors, images, np.float64), expected, rtol=1e-6)
    ours = logits(of, tensors, images)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("of", [every_layer_net(), residual_net()], ids=["every", "residual"])
def test_float64_is_float64(of: Net) -> None:
    x = normalise(MNIST, np.full((1, 1, 28, 28), 90, dtype=np.uint8), np.float64)
    assert {out.dtype for _, out in forward(of, random_tensors(of), x)} == {np.dtype(np.float64)}


@pytest.mark.parametrize("of", [every_layer_net(), residual_net()], ids=["every", "residual"])
def test_every_output_has_the_shape_of_the_architecture(of: Net) -> None:
    x = normalise(MNIST, np.zeros((2, 1, 28, 28), dtype=np.uint8))
    for node, output in forward(of, random_tensors(of), x):
        assert output.shape == (2, *node.output_shape)


def test_accuracy_is_that_of_the_engine(small_view: View) -> None:
    of = net("c4-5-4")
    tensors = random_tensors(of)
    expected = TorchEngine(small_view).evaluate(of, tensors, small_view.train)
    found = accuracy(of, tensors, small_view.train.images, small_view.train.labels)
    assert found == expected
    assert 0 < found < 1


def test_tensors_of_another_net_are_refused(small_view: View) -> None:
    tensors = random_tensors(net("c4-5-4"))
    with pytest.raises(UsageError, match=r"conv2\.weight of c4-6-4 is \[5, 4, 3, 3\]"):
        logits(net("c4-6-4"), tensors, small_view.test.images)
    del tensors["weights/linear1.bias"]
    with pytest.raises(UsageError, match=r"linear1\.bias of c4-5-4 is missing"):
        logits(net("c4-5-4"), tensors, small_view.test.images)


def test_it_needs_no_torch() -> None:
    code = "import sys; import golf_opt.task.forward; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
