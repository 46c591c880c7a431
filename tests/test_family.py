"""Families of nets: what their files say, and the nets that parameters make of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from golf_opt.config import CONF_DIR
from golf_opt.config.errors import UsageError
from golf_opt.task.family import Family, build_family, read_family
from golf_opt.task.inputs import InputSpec

FAMILIES = sorted(path.stem for path in (CONF_DIR / "family").glob("*.yaml"))

TINY = """
name: tiny
space:
  depth: {type: int, low: 1, high: 3}
  channels: {type: categorical, choices: [2, 4], each: depth}
  same: {type: categorical, choices: [true, false]}
layers:
  - {kind: conv, channels: 4, kernel: 3, padding: same}
  - repeat: $depth
    share: $same
    layers:
      - {kind: relu, name: begin}
      - {kind: conv, channels: 4, kernel: 3, padding: same, when: {same: true}}
      - {kind: conv, channels: $channels, kernel: 3, padding: same, when: {same: false}}
      - {kind: add, of: begin, when: {same: true}}
  - {kind: global_avg_pool}
  - {kind: linear, features: classes}
"""


def family(name: str) -> Family:
    return build_family(read_family(CONF_DIR / "family" / f"{name}.yaml"))


def drawn(of: Family, draw: random.Random) -> dict[str, Any]:
    """Return a value for every parameter that matters, as a study would ask for them."""
    params: dict[str, Any] = {}
    for name, node in of.space.items():
        if not isinstance(node, dict):  # fixed
            params[name] = node
            continue
        when = node.get("when", {})
        if all(params.get(o) in (v if isinstance(v, list) else [v]) for o, v in when.items()):
            choices = node.get("choices") or range(node["low"], node["high"] + 1)
            params[name] = draw.choice(list(choices))
    return params


@pytest.mark.parametrize("name", FAMILIES)
def test_every_point_of_a_family_is_a_net(name: str) -> None:
    of, draw = family(name), random.Random(3)
    sizes = [of.net(drawn(of, draw)).num_params for _ in range(300)]
    assert min(sizes) < 350 and max(sizes) > 1500


def test_the_separable_family_holds_a_small_stack() -> None:
    params = {
        "stem": 6, "stem_kernel": 3, "stem_stride": 1, "activation": "leaky_relu", "bias": True,
        "early": 1, "early_channels_1": 5, "early_kernel": 3, "pool": "max_pool", "shared": False,
        "late": 2, "late_channels_1": 8, "late_channels_2": 8, "late_kernel": 3,
    }  # fmt: skip
    net = family("separable").net(params)
    by_hand = 6 * 10 + (6 * 9 + 6 * 5 + 5) + (5 * 9 + 5 * 8 + 8) + (8 * 9 + 8 * 8 + 8) + 9 * 10
    assert net.num_params == by_hand == 476
    assert net.name == "separable-476"
    assert {node.output_shape[1:] for node in net.nodes} == {(28, 28), (14, 14), (7, 7), ()}


def test_channels_of_layers_that_are_not_there_are_not_asked_for() -> None:
    tiny = build_family(yaml.safe_load(TINY))
    assert "when" not in tiny.space["channels_1"]
    assert tiny.space["channels_3"]["when"] == {"depth": [3]}
    net = tiny.net({"depth": 2, "same": False, "channels_1": 2, "channels_2": 4})
    assert [node.output_shape[0] for node in net.nodes if node.layer.kind == "conv"] == [4, 2, 4]


def test_shared_blocks_count_once_and_add_to_their_own_beginning() -> None:
    tiny = build_family(yaml.safe_load(TINY))
    once, thrice = (tiny.net({"depth": depth, "same": True}) for depth in (1, 3))
    assert once.num_params == thrice.num_params
    assert sum(node.shared for node in thrice.nodes) == 2
    adds = [node for node in thrice.nodes if node.layer.kind == "add"]
    assert [thrice.nodes[add.of or 0].layer.kind for add in adds] == ["relu"] * 3
    assert len({add.of for add in adds}) == 3


def test_a_fixed_parameter_is_no_part_of_what_is_asked_for() -> None:
    content = yaml.safe_load(TINY)
    content["space"]["depth"] = 2
    tiny = build_family(content)
    assert [name for name in tiny.space if name.startswith("channels")] == [
        "channels_1", "channels_2",
    ]  # fmt: skip
    assert "when" not in tiny.space["channels_2"]
    assert len(tiny.net({"same": False, "channels_1": 2, "channels_2": 2}).nodes) == 7


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("channels: $channels", "channels: $chanels", "must be one of channels, depth, same; did"),
        ("each: depth", "each: dept", "each is 'dept', but must be one of"),
        ("{type: int, low: 1, high: 3}", "{type: int, low: 1, high: 99}", "to 32 at most"),
        ("  same:", "  other: {type: int, low: 1, high: 2}\n  same:", "other stands in no layer"),
        ("kind: relu, name: begin", "name: begin", "a mapping with a kind or with `repeat`"),
        ("when: {same: true}}\n      - {kind: conv", "when: same}\n      - {kind: conv", "when is"),
        ("repeat: $depth", "repeat: 2.5", "repeat is 2.5, but must be a whole number"),
        ("share: $same", "shared: $same", "shared is not a key"),
        ("name: tiny", "name: tiny\nseeds: 3", "family.seeds is not a key"),
    ],
)
def test_what_is_no_family_is_refused(old: str, new: str, words: str) -> None:
    assert old in TINY
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        build_family(yaml.safe_load(TINY.replace(old, new))).check()


def test_a_family_that_fits_no_picture_is_refused_before_a_trial() -> None:
    content = yaml.safe_load(TINY.replace("kind: global_avg_pool", "kind: max_pool, size: 40"))
    with pytest.raises(UsageError, match=r"family tiny has no net for this data: .*pool 40x40"):
        build_family(content).check(InputSpec((1, 28, 28), 10, (0.0,), (1.0,)))


def test_a_file_of_anybody_is_plain_data(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TINY.replace("name: tiny", "name: ${oc.env:HOME}"))
    with pytest.raises(UsageError, match=r"\$\{...\} in it"):
        read_family(path)
    path.write_text(TINY.replace("name: tiny\n", ""))
    assert build_family(read_family(path)).name == "mine"
