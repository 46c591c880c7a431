"""A deployed net gives the scores of the engines: as C, as ONNX, as weights alone."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from conftest import Ran, every_layer_net, net, random_tensors, residual_net, tiny_net
from safetensors import safe_open

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DataConfig
from golf_opt.engines.base import Tensors
from golf_opt.engines.native import NativeEngine, compiler
from golf_opt.golf.deploy.onnx_graph import INPUT, OUTPUT
from golf_opt.golf.deploy.run import exported
from golf_opt.golf.source import TrainedNet
from golf_opt.golf.weights import read_weights
from golf_opt.task.arch import Net
from golf_opt.task.data import View, load
from golf_opt.task.forward import logits
from golf_opt.task.inputs import MNIST, InputSpec

CC = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
needs_cc = pytest.mark.skipif(CC is None, reason="there is no C compiler")
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2")
QUICK = ("epochs=1", "trials=1", "space.batch_size=32", "space.lr=3e-3", "pruner=none")

# reads images of 784 bytes, writes for each the digit and the ten scores, as floats
MAIN = """
#include <stdio.h>
#include "net.h"
int main(void)
{
    uint8_t image[784];
    float row[11];
    while (fread(image, 1, sizeof image, stdin) == sizeof image) {
        row[0] = (float)golf_predict(image, row + 1);
        fwrite(row, sizeof row, 1, stdout);
    }
    return 0;
}
"""

SMALL = [
    every_layer_net(),
    residual_net(),
    tiny_net({"kind": "scale"}, {"kind": "max_pool", "size": [3, 2]}, {"kind": "hard_swish"}),
    tiny_net({"kind": "conv", "channels": 3, "kernel": 4, "stride": 3}, {"kind": "batch_norm"}),
    tiny_net({"kind": "conv", "channels": 2, "kernel": 5, "padding": "same", "stride": 2}),
    tiny_net({"kind": "pointwise", "channels": 3}, {"kind": "depthwise", "kernel": 3, "stride": 2}),
    tiny_net({"kind": "linear", "features": 9}, {"kind": "batch_norm"}, {"kind": "prelu"}),
    tiny_net({"kind": "max_pool", "size": 3}, {"kind": "dropout"}, {"kind": "leaky_relu"}),
    tiny_net(
        {"kind": "conv", "channels": 2, "kernel": 3, "padding": "same", "name": "block"},
        {"kind": "max_pool", "size": 2},
        {"kind": "pointwise", "channels": 1},
        {"kind": "prelu", "name": "slope"},
        {"kind": "linear", "features": 1},
        {"kind": "reuse", "of": "slope"},
    ),
]
PRESETS = [
    net(n) for n in ("c4-5-4-prelu", "deepml-batchnorm", "separable-697", "reused-separable")
]
every_net = pytest.mark.parametrize("of", SMALL + PRESETS, ids=lambda of: of.name)


def pruned(of: Net, share: float) -> Tensors:
    """Random tensors of which a share is zero."""
    rng = np.random.default_rng(5)
    return {
        name: (values * (rng.random(values.shape) >= share)).astype(np.float32)
        if name.startswith("weights/")
        else values
        for name, values in random_tensors(of).items()
    }


def run_c(
    folder: Path, header: bytes, images: npt.NDArray[np.uint8], *flags: str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Compile a header, and return the digits [n] and scores [n, 10] of images."""
    assert CC is not None
    (folder / "net.h").write_bytes(header)
    (folder / "main.c").write_text(MAIN)
    command = [CC, *(flags or STRICT), "main.c", "-o", "main"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([folder / "main"], input=images.tobytes(), capture_output=True, check=True)
    rows = np.frombuffer(ran.stdout, dtype=np.float32).reshape(len(images), 11)
    return rows[:, 0], rows[:, 1:]


def run_onnx(model: bytes, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    scores: npt.NDArray[np.float32] = session.run([OUTPUT], {INPUT: images})[0]
    return scores


@needs_cc
@every_net
@pytest.mark.parametrize("share", [0.0, 0.8])
def test_c_gives_the_scores_of_the_net(
    tmp_path: Path, small_view: View, of: Net, share: float
) -> None:
    tensors, images = pruned(of, share), small_view.test.images
    digits, scores = run_c(tmp_path, exported(TrainedNet("x", of, tensors), "c"), images)
    expected = logits(of, tensors, images, np.float64)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    np.testing.assert_array_equal(digits, expected.argmax(axis=1))


@every_net
def test_onnx_gives_the_scores_of_the_net(small_view: View, of: Net) -> None:
    tensors, images = pruned(of, 0.3), small_view.test.images
    scores = run_onnx(exported(TrainedNet("x", of, tensors), "onnx"), images)
    np.testing.assert_allclose(scores, logits(of, tensors, images, np.float64), atol=1e-4)


@needs_cc
def test_pruned_layers_become_smaller_and_only_those(tmp_path: Path, small_view: View) -> None:
    of = net("c4-5-4")
    tensors = random_tensors(of)
    tensors["weights/conv2.weight"][:, 1:] = 0  # a quarter is left: 45 of 180
    header = exported(TrainedNet("x", of, tensors), "c").decode()
    assert "golf_conv2_at[45]" in header and "golf_conv2_first[6]" in header
    assert "golf_conv1_at" not in header and "golf_conv1_weight[64]" in header
    # conv2 takes 45 * (4 + 2) + 6 * 2 bytes in place of 180 * 4
    assert f"{807 * 4 - 180 * 4 + 282:,} bytes of constants" in header
    _, scores = run_c(tmp_path, header.encode(), small_view.test.images)
    np.testing.assert_allclose(scores, logits(of, tensors, small_view.test.images), atol=1e-4)


@needs_cc
def test_a_layer_without_weights_left_compiles(tmp_path: Path, small_view: View) -> None:
    of = net("c4-5-4")
    tensors = random_tensors(of)
    tensors["weights/conv3.weight"][:] = 0
    trained = TrainedNet("x", of, tensors)
    _, scores = run_c(tmp_path, exported(trained, "c"), small_view.test.images)
    np.testing.assert_allclose(scores, logits(of, tensors, small_view.test.images), atol=1e-4)


@needs_cc
def test_c_compiles_as_cpp_and_with_buffers_on_the_stack(tmp_path: Path, small_view: View) -> None:
    of, images = net("c4-5-4"), small_view.test.images
    trained = TrainedNet("a label */ that /* upsets ??/ compilers", of, pruned(of, 0.5))
    header = exported(trained, "c")
    _, plain = run_c(tmp_path, header, images)
    _, stack = run_c(tmp_path, header, images, *STRICT, "-DGOLF_BUFFER=")
    np.testing.assert_array_equal(stack, plain)
    if (cpp := compiler()) is not None:
        flags = ("-xc++", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only", "main.c")
        built = subprocess.run([cpp, *flags], cwd=tmp_path, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr


def test_onnx_says_what_it_wants() -> None:
    of = net("c4-5-4")
    model = onnx.load_from_string(exported(TrainedNet("mine", of, random_tensors(of)), "onnx"))
    assert "uint8 [n, 1, 28, 28]" in model.doc_string and "not normalised" in model.doc_string
    facts = {row.key: row.value for row in model.metadata_props}
    assert facts["net"] == "mine" and facts["arch"] == "c4-5-4"
    assert facts["accuracy"] == "accuracy not measured"
    weights = [row.name for row in model.graph.initializer]
    assert [n for n in weights if "." in n] == [p.name for p in of.parameters]


def test_onnx_has_nothing_that_is_not_used(
    small_view: View, capfd: pytest.CaptureFixture[str]
) -> None:
    """Slopes are there once, in the shape that the model wants, and onnxruntime is silent."""
    for of in (net("c4-5-4-prelu"), *SMALL, net("reused-separable")):
        model = onnx.load_from_string(exported(TrainedNet("x", of, random_tensors(of)), "onnx"))
        read = {name for node in model.graph.node for name in node.input}
        assert {row.name for row in model.graph.initializer} <= read
        run_onnx(model.SerializeToString(), small_view.test.images[:3])
    assert capfd.readouterr().err == ""


def test_safetensors_holds_weights_under_plain_names(tmp_path: Path) -> None:
    of = net("deepml-batchnorm")
    tensors = random_tensors(of) | {"masks/conv1.weight": np.ones((8, 1, 3, 3), np.float32)}
    path = tmp_path / "net.safetensors"
    path.write_bytes(exported(TrainedNet("mine", of, tensors), "safetensors"))
    with safe_open(path, framework="numpy") as file:
        header = file.metadata()
        assert set(file.keys()) == {t.name for t in (*of.parameters, *of.buffers)}
    assert InputSpec(**json.loads(header["input"])) == MNIST
    assert json.loads(header["layers"]) == of.describe()
    again, renamed = read_weights(path, of)
    assert renamed == []
    for name, values in again.items():
        np.testing.assert_array_equal(values, tensors[name])


@pytest.mark.parametrize("form", ["c", "onnx", "safetensors"])
def test_weights_that_are_no_numbers_are_refused(form: str) -> None:
    of = net("c4-5-4")
    tensors = random_tensors(of)
    tensors["weights/conv2.bias"][3] = np.inf
    with pytest.raises(UsageError, match=r"weights/conv2\.bias of x holds .* not finite"):
        exported(TrainedNet("x", of, tensors), form)


@needs_cc
@pytest.mark.mnist
@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("share", [0.0, 0.7])
def test_10000_images_agree_with_the_native_engine(
    golf: Callable[..., Ran], mnist_root: Path, tmp_path: Path, share: float
) -> None:
    """A net trained, deployed and read back by commands alone: the same digit for every image."""
    ran = golf("study", "arch=c4-5-4-prelu", "data=mnist", f"data.root={mnist_root}", *QUICK)
    assert ran.status == 0, ran.err
    name = "study=c4-5-4-prelu@1epochs"
    assert golf("deploy", name, "format=safetensors", "output=whole.safetensors").status == 0
    of = net("c4-5-4-prelu")
    tensors, _ = read_weights(tmp_path / "whole.safetensors", of)
    for key in ("conv2.weight", "linear1.weight"):
        values = tensors[f"weights/{key}"]
        values[np.abs(values) < np.quantile(np.abs(values), share)] = 0
    trained = replace(TrainedNet("x", of, tensors))
    (tmp_path / "w.safetensors").write_bytes(exported(trained, "safetensors"))
    for form in ("c", "onnx"):
        done = golf("deploy", "weights=w.safetensors", "arch=c4-5-4-prelu", f"format={form}")
        assert done.status == 0, done.err
    (header,) = (tmp_path / "studies" / "deploy").glob("*.h")
    (model,) = (tmp_path / "studies" / "deploy").glob("*.onnx")

    view = load(DataConfig("mnist", mnist_root)).view("test")
    engine = NativeEngine(view, lanes=1)
    expected = engine.logits(of, tensors, view.test.images)
    engine.close()
    assert len(expected) == 10_000
    digits, scores = run_c(tmp_path, header.read_bytes(), view.test.images)
    assert (share > 0) == ("golf_sparse" in header.read_text())
    for found in (scores, run_onnx(model.read_bytes(), view.test.images)):
        np.testing.assert_allclose(found, expected, atol=1e-4)
        np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    np.testing.assert_array_equal(digits, expected.argmax(axis=1))


def test_deploy_by_command(golf: Callable[..., Ran], tmp_path: Path) -> None:
    quick = ("data=digits", "engine=torch", *QUICK)
    assert golf("study", "arch=c4-5-4", "study.name=mine", *quick).status == 0
    ran = golf("deploy", "study=mine", "format=onnx", "output=deep/er/net.onnx")
    assert ran.status == 0, ran.err
    assert "parameters: 807, of which 807 are not zero" in ran.out
    assert "n = 1 seed, train accuracy" in ran.out
    onnx.checker.check_model(tmp_path / "deep" / "er" / "net.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "study and weights name the net, and neither is given"),
        (("study=a", "weights=b"), "both are given"),
        (("study=nothing",), "study 'nothing' is not in the storage"),
        (("study=a", "format=cpp"), "format is 'cpp', but must be one of c, onnx, safetensors"),
        (("study=a", "trial=last"), "trial is 'last'"),
        (("weights=none.pt", "arch=c4-5-4"), "none.pt cannot be read"),
        (("study=a", "output=."), "output is '.', but must be a file"),
    ],
)
def test_mistakes_cost_one_line(
    golf: Callable[..., Ran], arguments: tuple[str, ...], message: str
) -> None:
    ran = golf("deploy", *arguments)
    assert ran.status == 2
    assert message in ran.err and ran.err.count("\n") == 1
