"""What a user can type that is wrong: one line, status 2, nothing written, whatever it is."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from conftest import Ran, told
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as some
from optuna.trial import create_trial

from golf_opt.config import comments
from golf_opt.manage import listing
from golf_opt.task.layers import KINDS
from golf_opt.utils.processes import worker_id

Golf = Callable[..., Ran]
STUDY = ("study", "data=digits", "engine=torch", "trials=1", "epochs=1")
VERBS = {
    "study": STUDY[1:],
    "worker": ("study=a",),
    "fleet": ("study=a",),
    "dashboard": (),
    "report": ("study=a",),
    "compare": ("studies=[a,b]",),
    "ls": (),
    "rm": ("study=a",),
    "export": ("study=a", "output=new"),
    "import": ("input=new",),
    "prune": ("study=a",),
    "confirm": ("study=a",),
    "record": ("study=a", "board=99", "slug=x"),
    "verify": (),
    "reproduce": ("part=tables",),
    "interpret": ("study=a",),
    "deploy": ("study=a",),
    "doctor": (),
    "tune": (),
}
LONG, DEEP = "x" * 300, "/x" * 2500


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def refused(golf: Golf, tmp_path: Path) -> Callable[..., str]:
    """Run a command that must be refused; return its one line."""

    def run(*arguments: str) -> str:
        before = written(tmp_path)
        said = told(golf(*arguments))
        assert written(tmp_path) == before
        assert said.isprintable() and "a fault of golf-opt" not in said
        return said

    return run


# --- every verb


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("dir=", "dir is '', but must be a path"),
        ("dir=null", "dir is None, but must be a path"),
        (f"dir={LONG}", "255 bytes"),
        (f"dir={DEEP}", "File name too long"),
        ("dir=loop", "Too many levels of symbolic links"),
    ],
    ids=lambda value: value[:24],
)
def test_no_folder_lies_there(
    refused: Callable[..., str], tmp_path: Path, verb: str, argument: str, message: str
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert message in refused(verb, *VERBS[verb], argument)


@pytest.mark.parametrize("verb", ["study", "ls"])
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("hydra.run.dir=/proc/nope", "hydra.run.dir is Hydra's own"),
        ("hydra.mode=MULTIRUN", "hydra.mode is Hydra's own"),
        ("--config-dir=/nonexistent", "--config-dir is '/nonexistent'"),
        ("--multirun", "a command runs one configuration"),
        ("--experimental-rerun=x", "unrecognized arguments"),
        ("--nope", "unrecognized arguments"),
        ("nope=1", "'nope' is no key"),
        ("dir=a,b", "dir is a,b, but must be one value"),
        ("dir=${nope}", "Interpolation key 'nope' not found"),
        ("{", "Error parsing override '{'"),
        ("dir=a\x1b[2Jb", "Error parsing override"),
        ("dir=a\0b", "Error parsing override"),
        ("dir=\udcff", "Error parsing override"),
        ("dir=" + "{a:" * 400, ""),
        ("dir=" + "[" * 3000, "Error parsing override"),
        ("dir=" + "x" * 20_000, "an argument has 20,004 characters"),
    ],
    ids=lambda value: value[:24].encode("ascii", "replace").decode().replace("\0", "?"),
)
def test_no_verb_takes_it(
    refused: Callable[..., str], verb: str, argument: str, message: str
) -> None:
    assert message in refused(verb, *VERBS[verb], argument)


@pytest.mark.parametrize("verb", ["study", "worker", "dashboard", "ls", "import", "deploy"])
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("5", "storage.url is not a URL"),
        ("''", "storage.url is '', but must look like sqlite:///"),
        ("journal:/etc/passwd", "is no journal of Optuna's"),
        ("journal:", "the file of the storage is '', but must be a path"),
        ("journal:pipe", "must be a file, and that is something else"),
        ("sqlite:///pipe", "must be a file, and that is something else"),
        ("sqlite:///loop", "Too many levels of symbolic links"),
        ("journal:loop", "Too many levels of symbolic links"),
        (f"sqlite:///{LONG}", "255 bytes"),
        (f"journal:{LONG}", "255 bytes"),
    ],
    ids=lambda value: value[:24],
)
def test_no_storage_lies_there(
    refused: Callable[..., str], tmp_path: Path, verb: str, url: str, message: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "new").mkdir()
    said = refused(verb, *VERBS[verb], f"storage.url={url}")
    assert message in said or (verb == "import" and "study.json" in said)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "study=a", f"output={LONG}"], "255 bytes"),
        (["export", "study=a", f"output={'x' * 250}"], "at most 200 bytes"),
        (["deploy", "study=a", f"output={LONG}"], "255 bytes"),
        (["record", "study=a", "board=99", f"slug={LONG}"], "up to 100 small letters"),
        (["reproduce", "rows=5"], "rows is 5, but must be a list."),
        (["dashboard", "dashboard=5"], "dashboard is 5, but must be a group choice or a mapping."),
        (["verify", "/nonexistent"], "must be a record or a folder of records"),
        (["verify", "empty"], "no record lies there or below"),
        (["verify", "loop"], "Too many levels of symbolic links"),
        (["rm", "sampler=gp", "study=x"], "'sampler' is no key. golf-opt rm --help lists them."),
        (["study=5"], "is no verb"),
        (["\x1b[2J"], r"'\x1b[2J' is no verb"),
        (["arch", "c" + "1-" * 500 + "1"], "must be"),
        (["arch", "nowhere.yaml"], "nowhere.yaml cannot be read as YAML: No such file"),
        (["-sc", "install=nope"], ""),
    ],
    ids=lambda value: (
        " ".join(value)[:40].encode("ascii", "replace").decode() if isinstance(value, list) else ""
    ),
)
def test_one_verb_refuses_it(
    refused: Callable[..., str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    assert message in refused(*arguments)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("callbacks.progress.mode=fancy", "must be one of auto, live, plain, quiet"),
        ("sampler.n_startup_trials=-5", "must be at least 0"),
        ("sampler.n_startup_trials=nan", "must be a whole number"),
        ("sampler.n_startup_trials=2.5", "must be a whole number"),
        ("sampler.n_startup_trials=true", "must be a whole number"),
        ("sampler.n_startup_trials=null", "must be a whole number"),
        ("sampler.n_startup_trials=abc", "must be a whole number"),
        ("sampler.n_ei_candidates=99999999999", "at most 1000000"),
        ("+sampler.multivariate=maybe", "must be true or false or null"),
        ("sampler._target_=5", "must be a mapping with a _target_"),
        ("sampler={a: 1}", "sampler must be one of cmaes"),
        ("sampler=" + "x" * 5000, "no choice has so long a name"),
        ("pruner.n_warmup_steps=-1", "must be at least 0"),
        ("pruner._target_=optuna.samplers.RandomSampler", "pruner cannot be built"),
        ("trials=99999999999999999999", "at most 2147483647"),
        ("+callbacks.x._target_=no.such.Thing", "No module named 'no'"),
        ("+callbacks.x._target_=os.getcwd", "must make a Callback"),
        ("+callbacks.x._target_=", "callbacks.x"),
        ("+callbacks.x=5", "must be a mapping with a _target_"),
        (
            "space.lr=0.001,0.01",
            "space.lr.low=... space.lr.high=..., or choices as +space",
        ),
        ("space.lr.log=5", "space.lr.log is 5, but must be true or false."),
        ("+space.lr.step=nan", "space.lr"),
        ("space.lr='{type: categorical, choices: [{a: 1}]}'", "must be"),
        ("space.batch_size.high=99999999999999999999", "at most 2147483647"),
        ("data.root=", "data.root is '', but must be a path"),
        ("engine.device=cuda:99999", "must be auto, cpu, cuda or cuda:N"),
        ("study.name='a\x1b[2J'", r"study.name is 'a\x1b[2J', but must be 1 to 200 printable"),
        ("space.lr={type: categorical, choices: [1]}", "+space.lr=VALUE adds one"),
        ("arch=c" + "9" * 5000, "no choice has so long a name"),
        ("arch=c1-1" + "-1" * 90, "must be a list of layers, 256 at most"),
        ("arch=../../../etc/passwd", "must be one of"),
    ],
    ids=lambda value: value[:40].encode("ascii", "replace").decode(),
)
def test_a_study_refuses_it(refused: Callable[..., str], argument: str, message: str) -> None:
    assert message in refused(*STUDY, argument)


def test_choices_are_given_as_the_message_says(golf: Golf, tmp_path: Path) -> None:
    said = told(golf(*STUDY, "space.lr=0.001,0.01"))
    _, _, shown = said.partition("or choices as ")
    argument = shown.rstrip(".").replace("'", "")  # the shell's
    assert golf(*STUDY, argument).status == 0
    assert golf(*STUDY, argument).out.count("going on at 1 of 1 trial") == 1


def test_a_database_that_is_a_text_is_left_as_it_is(golf: Golf, tmp_path: Path) -> None:
    """Optuna would take a last line that it cannot read for one cut short, and write behind it."""
    (tmp_path / "notes.txt").write_text("my notes")
    for verb in ("ls", "study"):
        said = told(golf(verb, *VERBS[verb], "storage.url=journal:notes.txt"))
        assert "journal:notes.txt is no journal of Optuna's" in said
    assert (tmp_path / "notes.txt").read_text() == "my notes"


def test_a_journal_goes_on(golf: Golf) -> None:
    for _ in range(2):
        ran = golf(*STUDY, "storage=journal", "callbacks.progress.mode=quiet")
        assert (ran.status, ran.err) == (0, "")
    assert "going on at 1 of 1 trial" in ran.out


def test_a_message_has_one_printable_line_whatever_a_name_holds(golf: Golf, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/foreign.db"
    for name in ("a\x1b[31m\nb", "a\u2028c"):
        optuna.create_study(study_name=name, storage=storage)
    said = told(golf("report", "study=b", f"storage.url={storage}"))
    assert r"must be one of a\x1b[31m\nb, a\u2028c." in said
    for verb in ("ls", "export"):
        ran = golf(verb, *VERBS[verb], f"storage.url={storage}")
        assert "\x1b" not in ran.out + ran.err


def test_a_fault_of_ours_is_one_line_and_says_where(
    golf: Golf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise KeyError("two\nlines \x1b[31m")

    monkeypatch.setattr(listing, "study_rows", fails)
    ran = golf("ls")
    assert (ran.status, ran.out) == (1, "")
    (line,) = ran.err.splitlines()
    assert line.startswith("golf-opt: a fault of golf-opt in manage/listing.py:")
    assert "KeyError: " in line and "HYDRA_FULL_ERROR=1" in line and "\x1b" not in line


# --- what was meant


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Three studies; something happened in the second of them last."""
    url = f"sqlite:///{tmp_path}/studies/golf.db"
    (tmp_path / "studies").mkdir()
    now = datetime.now()
    for name, minutes in (("c4-5-4@6epochs", 5), ("c5-5-4", 1), ("c5-5-4@digits", 9)):
        study = optuna.create_study(study_name=name, storage=url, direction="maximize")
        dead = f"{os.uname().nodename}:999999999:1:dead"
        trial = create_trial(value=0.123456789, user_attrs={"worker": dead})
        trial.datetime_start = trial.datetime_complete = now - timedelta(minutes=minutes)
        study.add_trial(trial)
    return tmp_path / "studies" / "golf.db"


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("c4-5-4", "c4-5-4@6epochs"),
        ("c4", "c4-5-4@6epochs"),
        ("c5-5-4", None),
        ("c5-5-4@", "c5-5-4@digits"),
        ("last", "c5-5-4"),
    ],
)
def test_a_study_is_found_by_what_only_it_begins_with(
    golf: Golf, studies: Path, tmp_path: Path, given: str, taken: str | None
) -> None:
    ran = golf("export", f"study={given}", "output=copy")
    assert ran.status == 0
    assert ran.err == (f"golf-opt: study={given} is {taken}\n" if taken else "")
    assert f"exported {taken or given}: " in ran.out


def test_what_several_studies_begin_with_names_them(golf: Golf, studies: Path) -> None:
    said = told(golf("export", "study=c5", "output=copy"))
    assert said == "study 'c5' is not in the storage; it must be one of c5-5-4, c5-5-4@digits."


def test_a_study_that_is_called_last_is_meant_by_it(golf: Golf, studies: Path) -> None:
    optuna.create_study(study_name="last", storage=f"sqlite:///{studies}")
    ran = golf("export", "study=last", "output=copy")
    assert "exported last: " in ran.out and ran.err == ""


@pytest.mark.parametrize("name", ["c4-5-4", "last"])
def test_nothing_is_removed_unasked_by_less_than_its_name(
    golf: Golf, studies: Path, name: str
) -> None:
    assert f"study '{name}' is not in the storage" in told(golf("rm", f"study={name}", "yes=true"))
    with closing(sqlite3.connect(studies)) as connection:
        assert connection.execute("SELECT count(*) FROM studies").fetchone() == (3,)


def test_ls_rounds_for_people_and_lists_workers_that_live(golf: Golf, studies: Path) -> None:
    url = f"sqlite:///{studies}"
    plain = golf("ls", "format=plain").out
    assert "0.123457" in plain and "0.1234567" not in plain and "999999999" not in plain
    assert '"best": 0.123456789' in golf("ls", "format=json").out
    study = optuna.load_study(study_name="c5-5-4", storage=url)
    trial = create_trial(value=0.5, user_attrs={"worker": worker_id()})
    study.add_trial(trial)
    assert f":{os.getpid()}\t" in golf("ls", "format=plain").out
    study.add_trial(create_trial(value=0.5, user_attrs={"worker": "rubbish"}))
    assert golf("ls", "format=table").status == 0


def test_counts_of_parameters_have_their_separators(golf: Golf) -> None:
    out = golf("arch", "deepml-standard").out
    assert "19,466" in out and "19466" not in out


# --- help


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_a_verbs_own_keys_with_their_comments(golf: Golf, verb: str) -> None:
    ran = golf(verb, "--help")
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert len(lines) < 50
    for key in comments.own_keys(verb):
        (line,) = [line for line in lines if line.split()[:1] == [key.path]]
        assert line.endswith(key.comment)
    for group in comments.groups(verb):
        assert f"  {group.path}: {', '.join(comments.choices(group.path))} (" in ran.out


def test_the_keys_that_help_shows_are_those_that_are_taken(golf: Golf) -> None:
    for verb in VERBS:
        shown = yaml.safe_load(golf(verb, *VERBS[verb], "--cfg", "job").out)
        known = {key.partition(".")[0] for key in comments.known_keys(verb)}
        assert set(shown) <= known, verb


def test_the_help_of_arch_has_every_kind_of_layer(golf: Golf) -> None:
    out = golf("arch", "--help").out
    for kind in [*KINDS, "reuse"]:
        assert f"  {{kind: {kind}" in out
    assert "padding: one of same, valid; valid unless said" in out


# --- made up

KEYS = {verb: comments.known_keys(verb) for verb in VERBS}
VALUES = some.one_of(
    some.text(max_size=40),
    some.integers().map(str),
    some.floats().map(str),
    some.sampled_from([
        "", "null", "true", "[]", "{}", "[1,2]", "{a: 1}", "1,2", "nan", "-inf", "1e400", "''",
        "../..", "${dir}", "${oc.env:HOME}", "/dev/zero", "/dev/stdin", "?", "???", "*", "glob(*)",
        "choice(1)", "range(1,3)", "9" * 5000, "'a\\'", "\\", "a=b", "\x00", "\x1b[2J", "\ud800",
    ]),
)  # fmt: skip
# whatever else is right ends here, before anything runs
NOWHERE = "storage.url=sqlite:////proc/nowhere/golf.db"


@fuzz(examples=60)
@given(data=some.data())
def test_no_value_has_a_traceback(golf: Golf, tmp_path: Path, data: some.DataObject) -> None:
    verb = data.draw(some.sampled_from(sorted(VERBS.keys() - {"doctor"})))  # which always runs
    key = data.draw(some.sampled_from(KEYS[verb]))
    prefix = data.draw(some.sampled_from(["", "", "", "+", "++", "~"]))
    argument = f"{prefix}{key}={data.draw(VALUES)}"
    nowhere = [NOWHERE, "dir=/proc/nowhere"] if verb == "reproduce" else [NOWHERE]
    ran = golf(verb, *VERBS[verb], argument, *nowhere)
    assert ran.status in (0, 1, 2), (argument, ran)
    assert "Traceback" not in ran.err and "a fault of golf-opt" not in ran.err, (argument, ran)
    if ran.status:
        assert len(ran.err.splitlines()) == 1 and ran.err[:-1].isprintable(), (argument, ran)
    assert written(tmp_path) == [], argument
