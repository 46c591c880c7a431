"""Records: every committed one is what it says, and one that is not is rejected by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from conftest import ROOT, Ran
from safetensors.numpy import load, save

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DataConfig, EngineConfig, RecordConfig, StorageConfig
from golf_opt.engines import create_engine
from golf_opt.engines.base import initial_weights
from golf_opt.engines.native import NativeEngine
from golf_opt.golf.records import make
from golf_opt.golf.records import table as record_table
from golf_opt.golf.records import verify as records
from golf_opt.golf.records.facts import facts_of
from golf_opt.golf.records.make import Making, portable_command, write_record
from golf_opt.golf.records.verify import (
    RECORD,
    WEIGHTS,
    Record,
    RecordFault,
    count_params,
    load_record,
    record_folders,
    sha256,
    splits_of,
    verify,
)
from golf_opt.storage.connect import opened_storage
from golf_opt.task.arch import build_net
from golf_opt.task.data import Dataset
from golf_opt.task.data import load as load_data
from golf_opt.task.forward import logits
from golf_opt.task.inputs import MNIST, InputSpec

FOLDER = ROOT / "studies" / "records"
COMMITTED = record_folders(FOLDER)
NAMES = [f"{folder.parent.name}/{folder.name}" for folder in COMMITTED]
SMALLEST = min(COMMITTED, key=lambda f: load_record(f).claim.params.dense)


@pytest.fixture(scope="module")
def mnist(mnist_root: Path) -> Dataset:
    return load_data(DataConfig("mnist", mnist_root))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A record that may be spoilt."""
    return Path(shutil.copytree(SMALLEST, tmp_path / SMALLEST.parent.name / SMALLEST.name))


def rewrite(folder: Path, **changes: Any) -> Record:
    """Change what a record claims."""
    content = json.loads((folder / RECORD).read_text()) | changes
    (folder / RECORD).write_text(json.dumps(content))
    return load_record(folder)


def test_every_board_has_a_record() -> None:
    assert {folder.parent.name for folder in COMMITTED} == {"article", "holdout", "99", "dense"}


@pytest.mark.mnist
@pytest.mark.parametrize("folder", COMMITTED, ids=NAMES)
def test_a_record_is_what_it_says(folder: Path, mnist: Dataset) -> None:
    """Loaded, recounted and evaluated: the two engines and NumPy agree to the image."""
    record = load_record(folder)
    net, tensors = record.net(MNIST), record.tensors
    view = mnist.view(record.claim.protocol.rule)
    verify(record, mnist, splits=())
    ours = logits(net, tensors, view.test.images).argmax(axis=1)
    torch = create_engine(EngineConfig("torch", "cpu", 1, 1), view, net, print)
    native = NativeEngine(view, 1)
    theirs = native.logits(net, tensors, view.test.images).argmax(axis=1)
    assert np.array_equal(ours, theirs)
    for name, split in splits_of(view).items():
        said = getattr(record.claim.splits, name)
        assert native.evaluate(net, tensors, split) == said.correct / said.of, name
    said = record.claim.splits.test
    assert torch.evaluate(net, tensors, view.test) == said.correct / said.of
    assert said.correct == int((ours == view.test.labels).sum())


@pytest.mark.parametrize("folder", COMMITTED, ids=NAMES)
def test_counts_by_hand(folder: Path) -> None:
    record = load_record(folder)
    kept = {n: v for n, v in record.tensors.items() if n.startswith("weights/")}
    params = record.claim.params
    assert params.dense == sum(values.size for values in kept.values())
    assert params.nz == sum(int((values != 0).sum()) for values in kept.values())
    assert 0 <= params.dead <= params.nz
    assert build_net(record.net(MNIST).arch) == record.net(MNIST)
    seeds = json.loads((folder / "seeds.json").read_text())
    assert len(seeds) == record.claim.protocol.seeds


@pytest.mark.mnist
def test_one_altered_weight_is_rejected(copy: Path, mnist: Dataset) -> None:
    """By its hash, and where that is made to fit, by what the weights give."""
    tensors = load((copy / WEIGHTS).read_bytes())
    name = max(tensors, key=lambda name: tensors[name].size if name.startswith("weights/") else 0)
    place = np.unravel_index(np.abs(tensors[name]).argmax(), tensors[name].shape)
    altered = tensors[name].copy()
    altered[place] = -altered[place]
    (copy / WEIGHTS).write_bytes(save(tensors | {name: altered}))
    record = load_record(copy)
    with pytest.raises(RecordFault, match=f"{copy.name}: {WEIGHTS} is not the file"):
        verify(record, mnist)
    files = record.claim.files | {WEIGHTS: sha256((copy / WEIGHTS).read_bytes())}
    with pytest.raises(RecordFault, match=f"{copy.name}: it says .* on test, but its weights give"):
        verify(rewrite(copy, files=files), mnist, splits=("test",))


@pytest.mark.mnist
@pytest.mark.parametrize("key", ["nz", "dense", "dead"])
def test_a_wrong_count_is_rejected(copy: Path, mnist: Dataset, key: str) -> None:
    params = load_record(copy).claim.params.model_dump()
    record = rewrite(copy, params=params | {key: params[key] + 1})
    with pytest.raises(RecordFault, match=f"{copy.name}: it says .* parameters, but has"):
        verify(record, mnist)


@pytest.mark.mnist
def test_a_wrong_accuracy_is_rejected(copy: Path, mnist: Dataset) -> None:
    splits = load_record(copy).claim.splits.model_dump(exclude_unset=True)
    more = {**splits["test"], "correct": splits["test"]["correct"] + 1}
    record = rewrite(copy, splits=splits | {"test": more})
    with pytest.raises(RecordFault, match=f"{copy.name}: it says {more['correct']} correct"):
        verify(record, mnist, splits=("test",))


@pytest.mark.mnist
@pytest.mark.parametrize("name", [RECORD, WEIGHTS, "config.yaml", "seeds.json", "log.txt"])
def test_a_missing_file_is_rejected(
    copy: Path, golf: Callable[..., Ran], mnist_root: Path, name: str
) -> None:
    (copy / name).unlink()
    ran = golf("verify", str(copy), f"data.root={mnist_root}")
    assert ran.status == 1
    assert f"REJECTED  {copy.parent.name}/{copy.name}: {name}" in ran.out


@pytest.mark.mnist
def test_a_record_of_another_board_is_rejected(copy: Path, mnist: Dataset) -> None:
    board = next(b for b in ("article", "holdout") if b != copy.parent.name)
    with pytest.raises(RecordFault, match=f"but must lie in {board}/"):
        verify(rewrite(copy, board=board), mnist)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"format": 2}, "format"),
        ({"params": {"dense": 1, "nz": 1}}, "params"),
        ({"splits": {"test": {"correct": 1, "of": 2}}}, "splits"),
        ({"surplus": 1}, "surplus"),
        ({"date": "yesterday"}, "date"),
    ],
)
def test_the_schema_refuses(copy: Path, changes: dict[str, Any], place: str) -> None:
    with pytest.raises(RecordFault, match=f"{copy.name}: {place}"):
        rewrite(copy, **changes)


@pytest.mark.mnist
def test_verify_needs_no_torch(mnist_root: Path) -> None:
    code = (
        "import sys; sys.argv = ['golf-opt', 'verify', sys.argv[1], 'data.root=' + sys.argv[2]];"
        "from golf_opt.cli.main import main; main(); print('torch' in sys.modules)"
    )
    arguments = [sys.executable, "-c", code, str(SMALLEST), str(mnist_root)]
    ran = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert ran.stdout.splitlines()[0].startswith(f"verified  {SMALLEST.parent.name}/")
    assert ran.stdout.splitlines()[-1] == "False"


def test_the_page_is_what_the_records_give() -> None:
    page = record_table.PAGE.read_text()
    assert page.split(record_table.BEGIN)[1].split(record_table.END)[0] == record_table.current()


def test_the_table_sorts_and_shows_train_beside_test() -> None:
    records = [load_record(folder) for folder in COMMITTED]
    section = record_table.section(records, [])
    for record in records:
        numbers = record.claim.params, record.accuracy("test"), record.accuracy("train")
        link = f"/{'/'.join(('studies/records', *record.folder.parts[-2:]))})"
        line = next(line for line in section.splitlines() if link in line)
        assert f"**{numbers[0].nz}**" in line
        assert f"| {100 * numbers[1]:.2f} | {100 * numbers[2]:.2f} |" in line


def test_a_trial_below_the_board_makes_no_record(golf: Callable[..., Ran], tmp_path: Path) -> None:
    """What is refused leaves nothing behind."""
    study = ("arch=c2-2-2", "data=digits", "trials=1", "epochs=1", "engine=torch",
             "study.name=low", f"dir={tmp_path}")  # fmt: skip
    assert golf("study", *study).status == 0
    ran = golf("record", "study=low", "board=article", "slug=low", "data=digits", f"dir={tmp_path}")
    assert ran.status == 2
    assert "low is no record: board article asks for 98.00 % test accuracy" in ran.err
    assert not list((tmp_path / "records").rglob("*.json"))


def test_a_trial_becomes_a_record(
    golf: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On small data no net is good enough for a board, so the board's target is lowered."""
    monkeypatch.setitem(records.TARGETS, "article", 0.01)
    study = ("arch=c2-2-2-prelu", "data=digits", "trials=2", "epochs=2", "engine=torch",
             "pruner=none", "study.name=small", f"dir={tmp_path}")  # fmt: skip
    assert golf("study", *study).status == 0
    with opened_storage(StorageConfig(f"sqlite:///{tmp_path}/golf.db", None)) as storage:
        optuna.load_study(study_name="small", storage=storage).enqueue_trial({})  # or paused
    make = ("record", "study=small", "trial=1", "board=article", "slug=tiny-net", "data=digits",
            f"dir={tmp_path}")  # fmt: skip
    ran = golf(*make)
    assert ran.status == 0, ran.err
    folder = Path(ran.out.split("record: ")[1].strip())
    record = load_record(folder)
    verify(record, load_data(DataConfig("digits", tmp_path)))
    assert record.claim.net.name == "c2-2-2-prelu"
    assert count_params(record.net(MNIST), record.tensors) == record.claim.params
    seeds = json.loads((folder / "seeds.json").read_text())
    assert [row["trial"] for row in seeds] == [0, 1, 2] and seeds[2]["accuracy"] is None
    assert seeds[1]["accuracy"] == record.accuracy("test")
    again = golf(*make)
    assert again.status == 2 and "is there already" in again.err

    pruned, given = tmp_path / "pruned", [folder, "arch=c2-2-2-prelu"]
    for _ in range(2):  # the record pruned, and what comes of that pruned again
        words = (f"weights={given[0]}/weights.safetensors", *given[1:], "engine=torch")
        ran = golf("prune", *words, "data=digits", "target=0.05", f"dir={tmp_path}")
        assert ran.status == 0, ran.err
        given = list(pruned.iterdir())
    once, twice = sorted(given, key=lambda path: len(path.name))
    ran = golf("record", f"source={twice}", "board=article", "slug=cut-twice", "data=digits",
               f"dir={tmp_path}")  # fmt: skip
    assert ran.status == 0, ran.err
    further = facts_of(load_record(Path(ran.out.split("record: ")[1].strip())))
    assert [command.split("/")[-2] for command in further.commands] == [folder.name, once.name]
    assert further.trainings.rows == seeds


def test_a_command_says_nothing_of_the_machine() -> None:
    typed = "/bin/golf-opt prune weights=/home/me/studies/pruned/a/w.safetensors dir=/x target=0.98"
    expected = "golf-opt prune weights=studies/pruned/a/w.safetensors target=0.98"
    assert portable_command(typed) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("board=article", "slug=x"), "study and source are None"),
        (("study=x", "board=silver", "slug=x"), "board is 'silver', but must be one of"),
        (("study=x", "board=99", "slug=Not this"), "slug is 'Not this', but must be"),
        (("source=nowhere", "board=99", "slug=x"), "must be a folder that pruning wrote"),
    ],
)
def test_mistakes(
    golf: Callable[..., Ran], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    ran = golf("record", f"dir={tmp_path}", *arguments)
    assert ran.status == 2 and message in ran.err


def of_other_images(folder: Path) -> tuple[RecordConfig, Making]:
    """What no record can be made of: digits have one channel, and the net takes three."""
    spec = InputSpec((3, 8, 8), 10, (0.5,) * 3, (0.2,) * 3)
    net = build_net({"name": "x", "layers": [{"kind": "linear", "features": 10}]}, spec)
    config = RecordConfig(
        folder=folder, storage=StorageConfig(None), study="s", trial="best", source=None,
        board="99", slug="mine", how=None, data=DataConfig("digits", folder),
    )  # fmt: skip
    return config, Making(net, initial_weights(net, 0), "test", [], "", {}, [])


def test_a_record_is_evaluated_on_images_of_its_own_shape(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data is digits .* but mine takes 3x8x8, 10 classes"):
        write_record(*of_other_images(tmp_path))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_checkout_with_changes_takes_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "git_commit", lambda: "0123456789ab+")
    with pytest.raises(UsageError, match="this checkout has changes"):
        write_record(*of_other_images(ROOT / "studies"))
    with pytest.raises(UsageError, match="but mine takes 3x8x8"):  # elsewhere it may
        write_record(*of_other_images(tmp_path))
    monkeypatch.setattr(make, "git_commit", lambda: "0123456789ab")
    with pytest.raises(UsageError, match="but mine takes 3x8x8"):
        write_record(*of_other_images(ROOT / "studies"))


def test_a_net_for_the_dense_board_has_nothing_zeroed(copy: Path) -> None:
    params = load_record(copy).claim.params.model_dump()
    whole = rewrite(copy, board="dense", params=params | {"nz": params["dense"]})
    assert not any("nothing zeroed" in fault for fault in records.faults_of_board(whole))
    cut = rewrite(copy, params=params | {"nz": params["dense"] - 2})
    faults = list(records.faults_of_board(cut))
    assert "board dense asks for nothing zeroed, and 2 of its parameters are" in faults


def test_verify_of_nothing(golf: Callable[..., Ran], tmp_path: Path) -> None:
    ran = golf("verify", str(tmp_path / "nowhere"))
    assert ran.status == 2 and "must be a record or a folder of records" in ran.err
