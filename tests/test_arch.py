"""Names and preset files -> layers, shapes, counts; and what cannot be built."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import net, residual_net, tiny_net

from golf_opt.config.errors import UsageError
from golf_opt.task.arch import build_net
from golf_opt.task.grammar import load_arch, parse_grammar, presets
from golf_opt.task.inputs import MNIST, InputSpec

COUNTS = {
    "c4-5-4": 807,
    "c8-5-4": 1055,
    "c7-5-4": 993,
    "c6-5-4": 931,
    "c5-5-4": 869,
    "c4-5-4-prelu": 820,
    "c4-5-4-leaky0.2": 807,
    "deepml-standard": 19466,
    "deepml-small": 1418,
    "deepml-batchnorm": 1466,
    "deepml-separable": 1986,
    "pytorch-example": 1199882,
    "separable-697": 697,
    "reused-separable": 1994,
    "separable-wide": 1646,
    "teacher": 43922,
}


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_parameter_counts_of_the_sources(name: str, count: int) -> None:
    assert net(name).num_params == count
    assert sum(node.num_params for node in net(name).nodes) == count


def test_every_preset_is_counted_above() -> None:
    assert set(presets()) <= set(COUNTS)


def test_arch_prints_the_totals_without_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from golf_opt.cli.main import main; main(); sys.exit('torch' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, "arch", *COUNTS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    totals = [line.split()[-1] for line in ran.stdout.splitlines() if "total" in line]
    assert totals == [f"{count:,}" for count in COUNTS.values()]
    assert "  conv1                         4x25x25         68" in ran.stdout


def test_shapes_of_c4_5_4() -> None:
    shapes = [node.output_shape for node in net("c4-5-4").nodes if node.layer.kind != "relu"]
    assert shapes == [(4, 25, 25), (4, 12, 12), (5, 10, 10), (5, 5, 5), (4, 3, 3), (10,)]


def test_kernels_and_slopes_of_the_grammar() -> None:
    convs = [n.layer for n in net("c3-4-4-k5-3-3").nodes if n.layer.kind == "conv"]
    assert [(c.channels, c.kernel) for c in convs] == [(3, 5), (4, 3), (4, 3)]
    leaky = [n.layer for n in net("c4-5-4-leaky0.2").nodes if n.layer.kind == "leaky_relu"]
    assert [layer.slope for layer in leaky] == [0.2, 0.2, 0.2]


@pytest.mark.parametrize("name", ["", "c", "c4-", "4-5-4", "c4-5-4-swish", "c4-5-4-k", "C4-5-4"])
def test_other_names_are_not_of_the_grammar(name: str) -> None:
    assert parse_grammar(name) is None
    with pytest.raises(UsageError, match="arch is"):
        load_arch(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("c4-5-4-k9-9-9", r"layer 4 \(conv\): kernel 9x9 is larger|layer 7 .*larger"),
        ("c4-5-4-k4-3", "3 convolutions and 2 kernels"),
        ("c4-0-4", "channels is 0, but must be at least 1"),
        ("c4-5-4-relu0.2", "relu takes no number"),
        ("c1-1-1-1-1-1", "larger than its input"),
    ],
)
def test_impossible_names_say_why(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_arch(name)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"kind": "convv", "channels": 3}, "kind is 'convv'.*did you mean 'conv'"),
        ({"kind": "conv", "channels": 3}, "kernel is missing"),
        ({"kind": "conv", "channels": 3, "kernal": 3}, "'kernal' is no option.*'kernel'"),
        ({"kind": "conv", "channels": 3, "kernel": 29}, "29x29 is larger than its input 28x28"),
        ({"kind": "conv", "channels": 3, "kernel": 4, "padding": "same"}, "must be odd"),
        ({"kind": "conv", "channels": 3, "kernel": 3, "padding": "full"}, "padding is 'full'"),
        ({"kind": "conv", "channels": -1, "kernel": 3}, "channels is -1"),
        ({"kind": "depthwise", "channels": 3, "kernel": 3}, "'channels' is no option"),
        ({"kind": "pointwise", "channels": 3, "kernel": 3}, "'kernel' is no option"),
        ({"kind": "dropout", "p": 1.0}, "p is 1.0"),
        ({"kind": "max_pool", "size": 30}, "30x30 is larger"),
        ({"kind": "reuse", "of": "nothing"}, "reuse.of is 'nothing'"),
        (
            {"kind": "conv", "channels": 3, "kernel": [3, 0]},
            r"kernel is .*, but must be a whole nu",
        ),
        (
            {"kind": "conv", "channels": 3, "kernel": [3, 3, 3]},
            r"or two of them, \[height, width\]",
        ),
        ({"kind": "conv", "channels": 3, "kernel": [3, 29]}, "3x29 is larger than its input 28x28"),
        ({"kind": "conv", "channels": 3, "kernel": [3, 4], "padding": "same"}, r"\[3, 4\], .* odd"),
        ({"kind": "avg_pool", "size": [1, 30]}, "1x30 is larger"),
        ({"kind": "add", "of": "nothing"}, "add.of is 'nothing'"),
        ({"kind": "add"}, "of is missing; it must be the name of an earlier layer"),
        ({"kind": "relu", "name": "a.b"}, "name is 'a.b'"),
        ("relu", "must be a mapping with a kind"),
    ],
)
def test_bad_layers_are_refused_by_name(layer: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny_net(layer)  # type: ignore[arg-type]


def test_a_sum_wants_one_shape() -> None:
    first = {"kind": "conv", "name": "first", "channels": 2, "kernel": 3}
    with pytest.raises(UsageError, match=r"'first' gives 2x26x26, but what .* is 2x13x13; both"):
        tiny_net(first, {"kind": "max_pool"}, {"kind": "add", "of": "first"})
    sums = tiny_net(first, {"kind": "add", "of": "first"}, {"kind": "add", "of": "add1"})
    assert [node.of for node in sums.nodes] == [None, 0, 1, None]
    with pytest.raises(UsageError, match="'add1' is an add, which has no tensors to reuse"):
        tiny_net(first, {"kind": "add", "of": "first"}, {"kind": "reuse", "of": "add1"})


def test_equal_sides_are_one_number() -> None:
    """So that a net is the same however it was written; and as plain data it reads again."""
    one = {"kind": "conv", "channels": 2, "kernel": 3, "stride": 2}
    two = {"kind": "conv", "channels": 2, "kernel": [3, 3], "stride": [2, 2]}
    assert tiny_net(one).describe() == tiny_net(two).describe()
    expected = {"channels": 2, "kernel": 3, "stride": 2, "padding": "valid", "bias": True}
    row = {"name": "conv1", "kind": "conv", "shared": False} | expected
    assert tiny_net(one).describe()[0] == row
    wide = tiny_net({"kind": "conv", "channels": 2, "kernel": [3, 5], "padding": "same"})
    assert wide.describe()[0]["kernel"] == [3, 5]
    assert wide.nodes[0].output_shape == (2, 28, 28) and wide.num_params == 2 * 15 + 2 + 15_690
    assert tiny_net(*residual_rows()).describe() == residual_net().describe()


def residual_rows() -> list[dict[str, Any]]:
    nodes = residual_net().nodes[:-1]
    return [{"kind": n.layer.kind, "name": n.name, **n.layer.options} for n in nodes]


def test_image_layers_refuse_features() -> None:
    with pytest.raises(UsageError, match="conv needs an image, but its input is 5"):
        tiny_net({"kind": "linear", "features": 5}, {"kind": "conv", "channels": 1, "kernel": 1})


def test_a_net_has_something_to_train() -> None:
    three = InputSpec((3, 8, 8), 3, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(UsageError, match="arch mean has no parameters, but must have some"):
        build_net({"name": "mean", "layers": [{"kind": "global_avg_pool"}]}, three)


def test_a_net_must_end_in_ten_scores() -> None:
    with pytest.raises(UsageError, match="ends in 3, but must end in 10 features"):
        build_net({"name": "x", "layers": [{"kind": "linear", "features": 3}]})


def test_a_reused_layer_counts_once_and_must_fit() -> None:
    block = {"kind": "conv", "name": "block", "channels": 2, "kernel": 3, "padding": "same"}
    widen = {"kind": "pointwise", "channels": 2}
    shared = tiny_net(widen, block, {"kind": "reuse", "of": "block"})
    assert shared.num_params == 4 + 38 + 15_690
    assert [parameter.name for parameter in shared.parameters].count("block.weight") == 1
    with pytest.raises(UsageError, match="'block' was made for 1x28x28 and cannot be reused on 2x"):
        tiny_net(block, {"kind": "reuse", "of": "block"})


def test_every_output_feeds_the_next_input() -> None:
    for name in COUNTS:
        shape = MNIST.shape
        for node in net(name).nodes:
            assert node.input_shape == shape
            shape = node.output_shape
