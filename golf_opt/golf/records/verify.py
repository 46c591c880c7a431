"""Records: nets that are kept, each in a folder that proves what it says. Needs no torch.

    <board>/<date>_<name>/
      record.json          what is claimed, see schema.py
      weights.safetensors  weights/... and buffers/..., float32
      config.yaml          what the net was made with
      seeds.json           every seed that was trained on the way, chosen or not
      log.txt              how it was made, step by step

`verify` believes none of it: it checks the files' hashes, counts the parameters and evaluates the
weights on the images with the evaluator of `task.forward`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import VerifyConfig
from golf_opt.engines.base import Tensors
from golf_opt.golf.dead import count
from golf_opt.golf.records.schema import FILES, WEIGHTS, Claim, Counted, Params
from golf_opt.task.arch import Net, build_net
from golf_opt.task.data import Dataset, View
from golf_opt.task.data import load as load_data
from golf_opt.task.forward import check_tensors, logits, work_of
from golf_opt.task.inputs import InputSpec
from golf_opt.utils.files import read_regular
from golf_opt.utils.text import one_line

RECORD = "record.json"
MOST_WORK = 10**9  # multiplications for an image, that a stranger's record may ask for
# test accuracy that a board asks for
TARGETS = {"article": 0.98, "holdout": 0.98, "99": 0.99, "dense": 0.98}
Say = Callable[[str], None]


class RecordFault(ValueError):
    """A record is not what it says; the message names the record and the fault, in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


@dataclass(frozen=True)
class Record:
    """A record as it lies in its folder, its form checked and nothing else."""

    folder: Path
    claim: Claim

    @property
    def label(self) -> str:
        return f"{self.claim.board}/{self.folder.name}"

    def net(self, spec: InputSpec) -> Net:
        """Return the net for the data that it was made on."""
        return build_net(self.claim.net.model_dump(), spec)

    @property
    def tensors(self) -> Tensors:
        """The weights; raises RecordFault where they cannot be read."""
        try:
            tensors: Tensors = load(read_regular(self.folder / WEIGHTS, inside=self.folder))
        except OSError as error:
            reason = error.strerror
            raise RecordFault(f"{self.label}: {WEIGHTS} cannot be read: {reason}") from error
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RecordFault(f"{self.label}: {WEIGHTS} cannot be read: {error}") from error
        return tensors

    def accuracy(self, split: str) -> float:
        """Return what is claimed for a split, in [0, 1]."""
        counted: Counted = getattr(self.claim.splits, split)
        return counted.correct / counted.of


def load_record(folder: Path) -> Record:
    """Read a record and check its form.

    Raises:
        RecordFault: record.json is missing, is no JSON, or is not of the schema.
    """
    label = f"{folder.parent.name}/{folder.name}"
    try:
        claim = Claim.model_validate_json(read_regular(folder / RECORD, inside=folder))
    except OSError as error:
        raise RecordFault(f"{label}: {RECORD} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or RECORD
        raise RecordFault(f"{label}: {place}: {first['msg']}") from error
    return Record(folder, claim)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def splits_of(view: View) -> dict[str, Any]:
    """Return the splits that a record counts, by name."""
    splits = {"train": view.train, "test": view.test}
    return splits | ({"holdout": view.objective} if view.protocol == "holdout" else {})


def evaluate(
    net: Net, tensors: Tensors, view: View, only: Collection[str] | None = None
) -> dict[str, Counted]:
    """Return how many images of each split get their label, by an evaluator of our own."""
    return {
        name: Counted(
            correct=int((logits(net, tensors, split.images).argmax(axis=1) == split.labels).sum()),
            of=len(split),
        )
        for name, split in splits_of(view).items()
        if only is None or name in only
    }


def count_params(net: Net, tensors: Tensors) -> Params:
    """Return the trained numbers of a net: all, non-zero, and non-zero without effect."""
    counted = count(net, tensors)
    return Params(dense=counted.size, nz=counted.nz, dead=counted.dead)


def verify(record: Record, dataset: Dataset, splits: Collection[str] | None = None) -> None:
    """Check everything that a record says, or of its accuracies only those on some splits.

    Raises:
        RecordFault: something is not as it says; the first such thing is named.
    """
    for fault in faults(record, dataset, splits):
        raise RecordFault(f"{record.label}: {fault}")


def faults(
    record: Record, dataset: Dataset, splits: Collection[str] | None = None
) -> Iterator[str]:
    """Yield what is wrong with a record, the cheap checks first."""
    claim, folder = record.claim, record.folder
    place = f"{claim.board}/{claim.date}_{claim.name}"
    if f"{folder.parent.name}/{folder.name}" != place:
        yield f"it lies in {folder.parent.name}/{folder.name}, but must lie in {place}"
    for name, digest in claim.files.items():
        try:
            found = sha256(read_regular(folder / name, inside=folder))
        except FileNotFoundError:
            yield f"{name} is missing"
        except OSError as error:
            yield f"{name} cannot be read: {error.strerror}"
        else:
            if found != digest:
                yield f"{name} is not the file it was recorded with: its SHA-256 differs"
    data = claim.data
    if data.md5 != dataset.digest:
        yield f"it was made on {data.name} ({data.md5}), not on {dataset.name} ({dataset.digest})"
    yield from _faults_of_net(record, dataset, splits)


def _faults_of_net(
    record: Record, dataset: Dataset, splits: Collection[str] | None
) -> Iterator[str]:
    claim = record.claim
    try:
        net, tensors = record.net(dataset.input), record.tensors
        if net.module is not None:
            raise UsageError(f"it is {net.module.of}, a module, but must be layers of ours")
        check_tensors(net, tensors)
    except UsageError as error:
        yield str(error)
        return
    for name, values in tensors.items():
        if values.dtype != np.float32:
            yield f"{name} is {values.dtype}, but must be float32"
            return
        if not np.isfinite(values).all():
            yield f"{name} is not finite"
    if (work := work_of(net)) > MOST_WORK:
        yield f"an image takes it {work:,} multiplications; verify does {MOST_WORK:,}"
        return
    if (found := count_params(net, tensors)) != claim.params:
        yield f"it says {_show(claim.params)} parameters, but has {_show(found)}"
    view = dataset.view(claim.protocol.rule)
    if claim.splits.model_fields_set != splits_of(view).keys():
        yield f"it must have the splits {', '.join(splits_of(view))}"
    for name, is_ in evaluate(net, tensors, view, splits).items():
        said = getattr(claim.splits, name)
        if said != is_:
            yield f"it says {_show(said)} on {name}, but its weights give {_show(is_)}"
    yield from faults_of_board(record)


def faults_of_board(record: Record) -> Iterator[str]:
    """Yield what keeps a record, whose numbers are right, from its board."""
    board = record.claim.board
    if record.accuracy("test") < TARGETS[board]:
        yield (
            f"board {board} asks for {100 * TARGETS[board]:.2f} % test accuracy, and it has "
            f"{100 * record.accuracy('test'):.2f} %"
        )
    if board == "holdout" and record.claim.protocol.rule != "holdout":
        yield "board holdout asks for rule holdout: nothing chosen by the test set"
    zeros = record.claim.params.dense - record.claim.params.nz
    if board == "dense" and zeros:
        yield f"board dense asks for nothing zeroed, and {zeros} of its parameters are"


def _show(numbers: Params | Counted | None) -> str:
    return "nothing" if numbers is None else ", ".join(f"{v} {k}" for k, v in numbers)


def record_folders(path: Path) -> list[Path]:
    """Return the folders of records at or below a path: those that hold files.

    Raises:
        UsageError: there is no such folder.
    """
    if not path.is_dir():
        raise UsageError(f"path is {str(path)!r}, but must be a record or a folder of records.")
    below = [p for p in sorted(path.rglob("*")) if p.is_dir() and not p.parent.name.startswith(".")]
    return [
        folder
        for folder in [path, *below]
        if any((folder / name).exists() for name in (RECORD, *FILES))
    ]


def verify_all(config: VerifyConfig, say: Say) -> bool:
    """Verify every record at or below a path, and say of each what was found.

    Returns whether all of them are what they say.

    Raises:
        UsageError: there is none.
    """
    folders = record_folders(config.path)
    if not folders:
        raise UsageError(f"path is {str(config.path)!r}, but no record lies there or below.")
    dataset = load_data(config.data)
    wrong = 0
    for folder in folders:
        try:
            record = load_record(folder.resolve())
            verify(record, dataset)
        except RecordFault as fault:
            wrong += 1
            say(f"REJECTED  {fault}")
        else:
            say(f"verified  {summary(record)}")
    say(f"{len(folders) - wrong} of {len(folders)} records verified")
    return wrong == 0


def summary(record: Record) -> str:
    """Return a record in a line."""
    params, test, train = record.claim.params, record.claim.splits.test, record.claim.splits.train
    return (
        f"{record.label}: {params.nz} non-zero of {params.dense}, "
        f"test {test.correct:,} of {test.of:,}, train {train.correct:,} of {train.of:,}"
    )
