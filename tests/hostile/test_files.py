"""Weights and records that somebody else made: nothing in them runs, one line says why not."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Ran, net, random_tensors, told
from evil import Evil
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as some
from safetensors.numpy import save

from golf_opt.cli import main as cli
from golf_opt.golf.pruning.folder import PruningFolder
from golf_opt.golf.records import verify as records

Golf = Callable[..., Ran]
ARCH = "c2-2-2-prelu"
STATE = {
    name.partition("/")[2]: values for name, values in random_tensors(net(ARCH)).items()
}  # of a net's tensors by name
FIRST = next(iter(STATE))


def header(content: object, rest: bytes = b"") -> bytes:
    """A safetensors file with a header of our choice."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text + rest


def one(dtype: str, shape: list[int], offsets: list[int], rest: bytes = b"") -> bytes:
    row = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    return header({"x": row}, rest)


def by_torch(value: object, **options: Any) -> Callable[[Path], object]:
    return lambda path: torch.save(value, path, **options)


def link(path: Path) -> None:
    path.symlink_to(path.name)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", b"\x80\x02N.")


def evil(path: Path) -> object:
    return Evil(path.with_name("canary"))


def of_torch(**changed: object) -> dict[str, object]:
    return {name: torch.from_numpy(values) for name, values in STATE.items()} | changed


EMPTY = torch.empty(0, dtype=torch.int64)
HUGE = torch.sparse_coo_tensor(
    EMPTY.reshape(4, 0), torch.empty(0), (1 << 20, 1, 1 << 20, 4), check_invariants=True
)
WEIGHTS: dict[str, bytes | Callable[[Path], object]] = {
    "missing": lambda path: None,
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "link to itself": link,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "empty": b"",
    "text": b"hello\nworld\n" * 99,
    "long header": (2**62).to_bytes(8, "little") + b"{}",
    "header no mapping": header([1]),
    "header deep": header(b"[" * 100_000),
    "header of nothing": header({}),
    "name with lines": header(
        {"a\nb\x1b[2J": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "name of digits": header(
        {"9" * 5000: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "bfloat": one("BF16", [2], [0, 4], bytes(4)),
    "float of 8 bits": one("F8_E4M3", [4], [0, 4], bytes(4)),
    "outside": one("F32", [2], [0, 2**40]),
    "shape without end": one("F32", [2**62, 4], [0, 0]),
    "nothing wide": one("F32", [0, 2**62], [0, 0]),
    "whole numbers": save({k: v.astype(np.int32) for k, v in STATE.items()}),
    "one of booleans": save(STATE | {FIRST: STATE[FIRST] > 0}),
    "not finite": save(STATE | {FIRST: np.full_like(STATE[FIRST], np.nan)}),
    "too large for floats": save(STATE | {FIRST: np.full(STATE[FIRST].shape, 1e300)}),
    "pickle, protocol 0": lambda path: path.write_bytes(pickle.dumps(evil(path), 0)),
    "pickle, protocol 2": lambda path: path.write_bytes(pickle.dumps(evil(path), 2)),
    "pickle, protocol 4": lambda path: path.write_bytes(pickle.dumps(evil(path), 4)),
    "pickle, protocol 5": lambda path: path.write_bytes(pickle.dumps(evil(path), 5)),
    "pickle of another time": b"\x80\x63.",
    "torch, with code": lambda path: torch.save(of_torch(more=evil(path)), path),
    "torch of old, with code": lambda path: torch.save(
        of_torch(more=evil(path)), path, _use_new_zipfile_serialization=False
    ),
    "torch, other protocol": by_torch(of_torch(more=[1]), pickle_protocol=5),
    "torch, cut off": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(50)),
    "torch, no tensors": by_torch([1, 2]),
    "torch, whole numbers": by_torch({k: v.int() for k, v in of_torch().items()}),  # type: ignore[attr-defined]
    "torch, complex": by_torch(
        of_torch(**{FIRST: torch.zeros(STATE[FIRST].shape).to(torch.complex64)})
    ),
    "torch, empty and huge": by_torch(of_torch(**{FIRST: HUGE})),
    "zip": zipped,
}


@pytest.fixture
def refused(golf: Golf, tmp_path: Path) -> Callable[..., str]:
    """Run a command that must be refused; return its one line."""

    def run(*arguments: str) -> str:
        before = set(tmp_path.rglob("*"))
        said = told(golf(*arguments))
        assert set(tmp_path.rglob("*")) == before
        return said

    return run


@pytest.mark.parametrize("key", WEIGHTS)
def test_weights_that_are_none(refused: Callable[..., str], tmp_path: Path, key: str) -> None:
    path, made = tmp_path / "w", WEIGHTS[key]
    if isinstance(made, bytes):
        path.write_bytes(made)
    else:
        made(path)
    assert "w" in refused("deploy", "weights=w", f"arch={ARCH}", "format=safetensors")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pytorch_warns_of_nothing(
    golf_process: Callable[..., subprocess.Popen[str]], tmp_path: Path, protocol: int
) -> None:
    """A process of its own: in a test, a warning would be an error, and so be caught."""
    (tmp_path / "w").write_bytes(pickle.dumps({"a": [1]}, protocol))
    out, err = golf_process("deploy", "weights=w", f"arch={ARCH}").communicate(timeout=120)
    assert out == "" and err.startswith("golf-opt: weights w ") and err.count("\n") == 1


def test_the_weights_that_are_spoilt_here_are_good(golf: Golf, tmp_path: Path) -> None:
    torch.save(of_torch(), tmp_path / "a")
    (tmp_path / "b").write_bytes(save(STATE))
    for padding in range(0, 256, 8):  # a header whose length begins as a pickle does
        data = save(STATE, {"padding": "x" * padding})
        if data[0] == 0x80:
            (tmp_path / "c").write_bytes(data)
    for name in ("a", "b", "c"):
        ran = golf("deploy", f"weights={name}", f"arch={ARCH}", f"output={name}.safetensors")
        assert ran.status == 0, ran.err


@fuzz(examples=30)
@given(data=some.binary(max_size=200), at=some.integers(0, 2000), cut=some.booleans())
def test_any_weights(
    refused: Callable[..., str], tmp_path: Path, data: bytes, at: int, cut: bool
) -> None:
    """Of another net: so nothing fits, whatever is changed in a good file."""
    good = save(STATE)
    (tmp_path / "w").write_bytes(good[:at] + data + (b"" if cut else good[at + len(data) :]))
    refused("deploy", "weights=w", "arch=c3-2-2", "format=safetensors")


# --- records


VERIFY = ("verify", "records", "data=digits")


def command(*arguments: str) -> None:
    """Run a command that works, for a fixture of the whole module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(records.TARGETS, "article", 0.01)  # no net of small data is good enough
        patch.setattr(sys, "argv", ["golf-opt", *arguments])
        cli.main()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of studies with two records of a small net."""
    folder = tmp_path_factory.mktemp("made")
    few = ("data=digits", "trials=1", "epochs=1", "engine=torch", "callbacks.progress.mode=quiet")
    command("study", f"arch={ARCH}", "study.name=small", f"dir={folder}", *few)
    for name in ("a", "b"):
        to = ("board=article", f"slug={name}", "data=digits", f"dir={folder}")
        command("record", "study=small", *to)
    return folder


@pytest.fixture
def record(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of one that may be spoilt; beside it lies the other."""
    monkeypatch.setitem(records.TARGETS, "article", 0.01)
    shutil.copytree(made / "records", tmp_path / "records")
    (folder,) = tmp_path.glob("records/article/*_a")
    return folder


def change(folder: Path, **changes: Any) -> None:
    path = folder / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def claim(folder: Path) -> Any:
    return json.loads((folder / "record.json").read_text())


def replace(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return spoil


def with_weights(data: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "weights.safetensors").write_bytes(data)
        change(folder, files=claim(folder)["files"] | {"weights.safetensors": records.sha256(data)})

    return spoil


def more_files(name: str) -> Callable[[Path], None]:
    return lambda folder: change(folder, files=claim(folder)["files"] | {name: "0" * 64})


def with_net(layers: object) -> Callable[[Path], None]:
    return lambda folder: change(folder, net={"name": "x", "layers": layers})


def outside(path: Path) -> None:
    target = path.parents[3] / "elsewhere"
    target.write_text("secret")
    path.symlink_to(target)


WIDE = [{"kind": "conv", "channels": 10**9, "kernel": 3}, {"kind": "linear", "features": 10}]


def text(content: str | bytes) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: replace(RECORD, lambda path: path.write_bytes(data))(folder)


def says(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder, **changes)


def first_layer(values: Any) -> Callable[[Path], None]:
    """Weights as a record keeps them, but for one tensor."""
    return with_weights(save(random_tensors(net(ARCH)) | {f"weights/{FIRST}": values}))


RECORD, OF_RECORD = "record.json", "weights.safetensors"
SHAPE = STATE[FIRST].shape
ENDLESS = {name: {"correct": 10**400, "of": 1} for name in ("train", "test")}
RECORDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (replace(RECORD, os.mkfifo), "record.json cannot be read: it is no regular file"),
    "link out": (replace(RECORD, outside), "record.json cannot be read: it leads out"),
    "link to itself": (replace(RECORD, link), "record.json cannot be read"),
    "folder": (replace(RECORD, Path.mkdir), "record.json cannot be read"),
    "binary": (text(b"\xff\0"), "record.json: Invalid JSON"),
    "deep": (text("[" * 100_000), "record.json: Invalid JSON"),
    "list": (text("[]"), "record.json: "),
    "long number": (text('{"format": ' + "9" * 9999 + "}"), ""),
    "weights a pipe": (replace(OF_RECORD, os.mkfifo), "it is no regular file"),
    "weights elsewhere": (replace(OF_RECORD, outside), "cannot be read: it leads out"),
    "log elsewhere": (replace("log.txt", outside), "log.txt cannot be read: it leads out"),
    "weights of text": (with_weights(b"x"), "weights.safetensors cannot be read"),
    "weights without header": (with_weights((2**62).to_bytes(8, "little")), "cannot be read"),
    "weights of bfloats": (with_weights(one("BF16", [2], [0, 4], bytes(4))), "cannot be read"),
    "weights whole": (first_layer(np.ones(SHAPE, np.int32)), "must be float32"),
    "weights of NaN": (first_layer(np.full(SHAPE, np.nan, np.float32)), "is not finite"),
    "file above": (more_files("../elsewhere"), "files"),
    "file of the system": (more_files("/etc/passwd"), "files"),
    "file of lines": (more_files("a\nb"), "files"),
    "board elsewhere": (says(board="../.."), "board"),
    "name of lines": (says(name="a\nb\x1b[2J"), "name"),
    "counts of text": (says(params={"dense": "9", "nz": 1, "dead": 0}), "params.dense"),
    "counts without end": (says(params={"dense": 10**400, "nz": 10**300, "dead": 0}), ""),
    "images without end": (says(splits=ENDLESS), ""),
    "data of lines": (says(data={"name": "x\ny", "md5": "0" * 32}), "made on"),
    "net of nothing": (with_net([]), ""),
    "net of text": (with_net([{"kind": "conv\n", "channels": "x"}]), ""),
    "net too wide": (with_net(WIDE), ""),
    "net nested": (with_net([{"kind": {"a": [[[]]]}}]), ""),
}


@pytest.mark.parametrize("key", RECORDS)
def test_a_record_that_is_none_is_rejected_by_name(golf: Golf, record: Path, key: str) -> None:
    """In one line, and the record beside it is verified as before."""
    spoil, message = RECORDS[key]
    spoil(record)
    ran = golf(*VERIFY)
    assert (ran.status, ran.err) == (1, ""), ran
    rejected, verified, last = ran.out.splitlines()
    assert rejected.startswith(f"REJECTED  article/{record.name}: ") and message in rejected
    assert rejected.isprintable() and "secret" not in rejected
    assert verified.startswith("verified  article/") and last == "1 of 2 records verified"


KEY = some.text(max_size=5)
PLAIN = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | KEY,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(KEY, inner, max_size=3),
    max_leaves=5,
)


def places(content: Any, *above: Any) -> Iterator[tuple[Any, ...]]:
    """Every place in nested lists and mappings."""
    rows = content.items() if isinstance(content, dict) else ()
    for key, inner in enumerate(content) if isinstance(content, list) else rows:
        yield (*above, key)
        yield from places(inner, *above, key)


@fuzz(examples=25)
@given(which=some.integers(0, 10**6), value=PLAIN)
def test_any_record(golf: Golf, record: Path, which: int, value: Any) -> None:
    path = record / "record.json"
    good = path.read_text()
    content = json.loads(good)
    known = list(places(content))
    *above, last = known[which % len(known)]
    inner = content
    for key in above:
        inner = inner[key]
    inner[last] = value
    try:
        path.write_text(json.dumps(content))
        ran = golf(*VERIFY)
    finally:
        path.write_text(good)
    assert ran.err == "" and len(ran.out.splitlines()) == 3, ran
    assert ran.status == (0 if "2 of 2" in ran.out else 1)


# --- what cannot be written


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Whoever writes a longer file is told that it is too large; so a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_record_that_fails_leaves_no_folder(
    golf: Golf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("arch=c30-30-30", "data=digits", "trials=1", "epochs=1", "engine=torch")
    assert golf("study", *few, "study.name=wide", "dir=.").status == 0
    make = ("record", "study=wide", "board=article", "slug=c", "data=digits", "dir=.")
    monkeypatch.setitem(records.TARGETS, "article", 0.999)
    assert "c is no record: board article asks for" in told(golf(*make))
    assert not (tmp_path / "records").exists()
    monkeypatch.setitem(records.TARGETS, "article", 0.01)
    with no_file_above(1 << 16):  # its weights take more, what SQLite writes does not
        assert "cannot be written: File too large" in told(golf(*make))
    assert not (tmp_path / "records").exists()
    (tmp_path / "records").write_text("no folder")
    assert "cannot be written: " in told(golf(*make))
    assert (tmp_path / "records").read_text() == "no folder"
    (tmp_path / "records").unlink()
    assert golf(*make).status == 0


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"\xff", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
        (b"[]", "prune.json"),
        (b"{}", "arch"),
        (b'{"trial": "0"}', "arch"),
        (None, "it is no regular file"),
    ],
)
def test_a_folder_that_is_no_pruning(
    refused: Callable[..., str], tmp_path: Path, content: bytes | None, place: str
) -> None:
    (tmp_path / "p").mkdir()
    path = PruningFolder(tmp_path / "p").summary
    path.write_bytes(content) if content is not None else os.mkfifo(path)
    said = refused("record", "source=p", "board=99", "slug=x", "data=digits")
    assert "must be a folder that pruning wrote" in said and place in said
