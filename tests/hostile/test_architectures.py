"""Files of architectures that somebody else wrote: each is counted, or refused in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import Ran, told
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as some

from golf_opt.task.kinds import kinds
from golf_opt.task.layers import KINDS

Golf = Callable[..., Ran]
LAST = "{kind: linear, features: 10}"
MODULE = (
    "{kind: module, of: 'evil:Net', graph: '0123456789abcdef', image: [1, 28, 28], features: 10, "
    "trained: [[w, [3]]], kept: []}"
)
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}], k{new}: 1}}\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "an alias bomb": (BOMB, "more than 20,000 entries"),
    "a bomb of merges": (MERGES, "more than 20,000 entries"),
    "a cycle": ("layers: &l [*l]", "the alias *l stands for nothing before it"),
    "no anchor": ("layers: *l", "the alias *l stands for nothing before it"),
    "a python tag": (
        "layers: !!python/object/apply:os.system ['touch canary']",
        "could not determine a constructor",
    ),
    "a target": (f"_target_: os.system\nlayers: [{LAST}]", "must have name and layers alone"),
    "a package": ("# @package _global_\ntrials: 5\n", "must have name and layers alone"),
    "defaults": ("defaults: [/sampler: gp]\n", "must have name and layers alone"),
    "hydra": ("hydra: {run: {dir: /tmp}}\n", "must have name and layers alone"),
    "an interpolation": (f"name: ${{oc.env:HOME}}\nlayers: [{LAST}]", "must have values alone"),
    "duplicate keys": ("name: a\nname: b", "line 2: found duplicate key name"),
    "deep nesting": ("[" * 100_000, "nested more than 50 deep"),
    "deep blocks": ("\n".join(" " * n + "a:" for n in range(200)), "nested more than 50 deep"),
    "a huge file": ("a: " + "x" * 300_000, "300,003 bytes, but must have at most 262,144"),
    "a huge number": ("layers: " + "9" * 5000, "4300 digits"),
    "a list": (f"- {LAST}", "is a list, but must be a mapping"),
    "a number": ("5", "cannot be read as YAML"),
    "nothing": ("", "layers is None, but must be a list of layers"),
    "binary": (bytes(range(256)), "it is not UTF-8"),
    "latin-1": ("name: é".encode("latin-1"), "it is not UTF-8"),
    "UTF-16": ("name: a".encode("utf-16"), "it is not UTF-8"),
    "NUL": ("name: a\0b", "cannot be read as YAML"),
    "ESC": ("name: a\x1b[2J", "cannot be read as YAML"),
    "an ESC escaped": (f'name: "a\\e[2J"\nlayers: [{LAST}]', r"arch.name is 'a\x1b[2J'"),
    "two documents": ("---\nname: a\n---\nname: b", "cannot be read as YAML"),
    "a set": ("layers: !!set {a, b}", "cannot be read as YAML"),
    "a key that is a list": ("? [1, 2]\n: 3", "cannot be read as YAML"),
    "a key that is null": ("null: 3", "cannot be read as YAML"),
    "a name of a list": (f"name: [1]\nlayers: [{LAST}]", "arch.name is [1]"),
    "a long name": (f"name: {'x' * 300}\nlayers: [{LAST}]", "1 to 200 printable characters"),
    "layers of a text": ("layers: abc", "must be a list of layers"),
    "many layers": (f"layers: [{'{kind: relu}, ' * 300}{LAST}]", "a list of layers, 256 at most"),
    "a layer of a number": ("layers: [5]", "a layer must be a mapping with a kind"),
    "no kind": ("layers: [{channels: 5}]", "a layer must be a mapping with a kind"),
    "a kind of a list": ("layers: [{kind: [relu]}]", "must be"),
    "an unknown kind": ("layers: [{kind: cnv}]", "did you mean 'conv'?"),
    "an unknown key": ("layers: [{kind: conv, chanels: 3}]", "did you mean 'channels'?"),
    "a key of reuse": (
        "layers: [{kind: conv, name: a, channels: 1, kernel: 1}, {kind: reuse, of: a, x: 1}]",
        "'x' is no option of reuse",
    ),
    "a negative size": ("layers: [{kind: conv, channels: -1, kernel: 3}]", "at least 1"),
    "a size of NaN": ("layers: [{kind: conv, channels: .nan, kernel: 3}]", "a whole number"),
    "a size of three": ("layers: [{kind: max_pool, size: [1, 2, 3]}]", "or two of them"),
    "a sum of later": (f"layers: [{{kind: add, of: linear1}}, {LAST}]", "add.of is 'linear1'"),
    "a sum of a list": (f"layers: [{{kind: add, of: [1]}}, {LAST}]", "of is [1], but must be"),
    "a slope of NaN": ("layers: [{kind: leaky_relu, slope: .nan}]", "from 0 to below 1"),
    "a slope of infinity": ("layers: [{kind: leaky_relu, slope: .inf}]", "from 0 to below 1"),
    "a huge net": (
        "layers: [{kind: pointwise, channels: 60000}, {kind: pointwise, channels: 60000}]",
        "so large a net cannot be trained",
    ),
    "a path for a name": (f"layers: [{{kind: relu, name: '../a'}}, {LAST}]", "must be a letter"),
    "a module to import": (f"module: os:system\nlayers: [{LAST}]", "have name and layers alone"),
    "a module and layers": (f"layers: [{MODULE}, {LAST}]", "must be the only one"),
    "a module of no tensors": ("layers: [" + MODULE.replace("[w, [3]]", "") + "]", "trained is"),
    "a module of one name": (
        "layers: [" + MODULE.replace("kept: []", "kept: [[w, [3]]]") + "]",
        "has two tensors of one name",
    ),
    "a module of no size": ("layers: [" + MODULE.replace("[3]", "[-3]") + "]", "trained[0] is -3"),
    "a module of no hash": ("layers: [" + MODULE.replace("0123", "../.") + "]", "graph"),
    "a name of \\n": (f'layers: [{{kind: relu, name: "a\\nb"}}, {LAST}]', "must be a letter"),
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "arch").mkdir()
    return tmp_path / "arch" / "theirs.yaml"


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write(file: Path, content: str | bytes) -> None:
    file.write_bytes(content.encode() if isinstance(content, str) else content)


COUNT = ("arch", "arch/theirs.yaml")
STUDY = (
    "study", "--config-dir", ".", "arch=theirs", "data=digits", "engine=torch",
    "storage.url=sqlite:////proc/nowhere/golf.db",
)  # fmt: skip


@pytest.mark.parametrize("command", [COUNT, STUDY], ids=["arch", "study"])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused(
    golf: Golf, tmp_path: Path, file: Path, what: str, command: tuple[str, ...]
) -> None:
    content, message = HOSTILE[what]
    write(file, content)
    said = told(golf(*command))
    assert message in said and said.isprintable()
    assert written(tmp_path) == ["arch", "arch/theirs.yaml"]


@pytest.mark.parametrize("command", [COUNT, STUDY], ids=["arch", "study"])
def test_what_is_no_file_is_refused(
    golf: Golf, file: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    os.mkfifo(file)
    assert told(golf(*command))
    file.unlink()
    file.symlink_to("theirs.yaml")
    assert told(golf(*command))
    file.unlink()
    file.mkdir()
    assert told(golf(*command))
    (tmp_path / "arch" / "theirs.yaml").rmdir()
    file.symlink_to("/dev/zero")
    assert told(golf(*command))


@pytest.mark.parametrize("command", [COUNT, STUDY], ids=["arch", "study"])
def test_a_good_file_is_taken(golf: Golf, file: Path, command: tuple[str, ...]) -> None:
    """With an alias that stands for a layer or two, as people write them."""
    layers = "[{kind: conv, channels: 4, kernel: 3}, &act {kind: relu}, {kind: max_pool}, *act, "
    write(file, f"name: mine\nlayers: {layers}{LAST}]")
    ran = golf(*command)
    if command is COUNT:
        assert (ran.status, ran.err) == (0, "")
        assert "mine" in ran.out and f"{4 * 9 + 4 + 4 * 13 * 13 * 10 + 10:,}" in ran.out
    else:
        assert "storage sqlite:////proc/nowhere/golf.db cannot be used" in told(ran)


def test_the_module_that_a_file_names_is_not_imported(
    golf: Golf, file: Path, tmp_path: Path
) -> None:
    """It is counted, and no study of it begins."""
    (tmp_path / "evil.py").write_text("from pathlib import Path; Path('canary').touch()")
    write(file, f"layers: [{MODULE}]")
    assert "total parameters" in golf(*COUNT).out
    assert "is never imported because a database or file names it" in told(golf(*STUDY))
    assert not (tmp_path / "canary").exists()


def test_a_file_without_a_name_has_that_of_the_file(golf: Golf, file: Path) -> None:
    write(file, f"layers: [{LAST}]")
    assert golf(*COUNT).out.startswith("theirs\n")


@pytest.mark.parametrize("group", ["space", "sampler", "pruner", "callbacks"])
def test_other_groups_have_the_same_gate(golf: Golf, tmp_path: Path, group: str) -> None:
    (tmp_path / group).mkdir()
    for content, message in (HOSTILE["an alias bomb"], HOSTILE["a cycle"], HOSTILE["a python tag"]):
        write(tmp_path / group / "theirs.yaml", content)
        arguments = [f"{group}=theirs" if a == "arch=theirs" else a for a in STUDY]
        assert message in told(golf(*arguments))


VALUES = some.recursive(
    some.one_of(
        some.none(), some.booleans(), some.integers(), some.floats(), some.text(max_size=8),
        some.sampled_from([1, 3, 5, 10, "same", "conv1", 2**70, "${a}", "\x00"]),
    ),
    lambda inner: some.lists(inner, max_size=3)
    | some.dictionaries(some.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
OPTIONS = sorted({option.name for kind in kinds() for option in kind.options} | {"name"})
LAYERS = some.one_of(
    some.dictionaries(some.sampled_from(OPTIONS), VALUES, max_size=4).flatmap(
        lambda keys: some.sampled_from([*KINDS, "reuse"]).map(lambda kind: {"kind": kind} | keys)
    ),
    some.sampled_from([{"kind": "relu"}, {"kind": "linear", "features": 10}]),
    VALUES,
)
FILES = some.one_of(
    some.fixed_dictionaries({"layers": some.lists(LAYERS, max_size=5)}, optional={"name": VALUES}),
    some.dictionaries(some.sampled_from(["name", "layers", "defaults"]), VALUES),
    VALUES,
).map(yaml.safe_dump) | some.text(alphabet="{}[]:,-&*!? \n'\"abkindlayers019\t#%|>")


@fuzz(examples=100)
@given(content=some.one_of(FILES, some.binary(max_size=200)), at=some.integers(0, 200))
def test_no_file_has_a_traceback(golf: Golf, tmp_path: Path, content: str | bytes, at: int) -> None:
    (tmp_path / "arch").mkdir(exist_ok=True)
    file = tmp_path / "arch" / "theirs.yaml"
    try:
        write(file, content)
    except UnicodeEncodeError:  # hypothesis makes up halves of letters, and files hold none
        return
    ran = golf(*(STUDY if at == 0 else COUNT))
    assert ran.status in (0, 2), ran
    if ran.status:
        assert told(ran).isprintable() and "a fault of golf-opt" not in ran.err
    assert written(tmp_path) == ["arch", "arch/theirs.yaml"]
