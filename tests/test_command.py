"""Messages name commands that run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Ran
from fuzzing import fuzz
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis.strategies import characters, lists, sampled_from, text
from omegaconf import OmegaConf

from golf_opt.config import command

Golf = Callable[..., Ran]
QUICK = (
    "study", "data=digits", "engine=torch", "epochs=1", "space.batch_size=32", "sampler=random",
)  # fmt: skip


def commands_in(out: str) -> list[list[str]]:
    """The words of the commands that the last lines of a study name, without the program."""
    lines = re.findall(r"^(?:next|or)\b[^:]*: (.*)$", out, re.MULTILINE)
    words = [shlex.split(line) for line in lines]
    assert all(line[0] == "golf-opt" for line in words)
    return [line[1:] for line in words]


@pytest.mark.parametrize(
    "places",
    [
        ["dir=else where"],
        ["storage.url=sqlite:///${dir}/other.db", "dir='it\\'s'"],
        ["storage=journal", "study.name='a study, of mine'"],
        ["++storage.url=sqlite:///x.db", "space=mine", "--config-dir", "conf"],
    ],
    ids=lambda places: places[0],
)
def test_the_last_words_run_as_they_stand(golf: Golf, tmp_path: Path, places: list[str]) -> None:
    (tmp_path / "conf" / "space").mkdir(parents=True)
    (tmp_path / "conf" / "space" / "mine.yaml").write_text("{batch_size: 32, lr: 1.0e-3}\n")
    ran = golf(*QUICK, "trials=2", *places)
    assert ran.status == 0, ran.err
    own = [place for place in places if not place.startswith(("study.name", "space"))]
    there = golf("ls", "format=json", *own).out
    dashboard, more = commands_in(ran.out)
    assert dashboard[0] == "dashboard"
    shown = golf(*dashboard, "--cfg", "job", "--resolve")
    assert shown.status == 0, shown.err
    composed = OmegaConf.create(shown.out)
    listed = golf("ls", "format=json", command.override("storage.url", composed.storage.url))
    assert listed.out == there != "[]\n"  # the dashboard opens the very database
    on = golf(*more)
    assert on.status == 0, on.err
    assert "going on at" in on.out


def test_an_interrupted_study_names_the_command_that_goes_on(
    golf: Golf, golf_process: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = golf_process(*QUICK, "dir=elsewhere", "trials=999")
    assert process.stdout is not None
    while not process.stdout.readline().startswith("trial "):
        pass
    process.terminate()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    (going_on,) = re.findall(r"^next, to go on: (.*)$", out, re.MULTILINE)
    (look,) = re.findall(r"^or to look: (.*)$", out, re.MULTILINE)
    assert look.endswith(" -m golf_opt dashboard dir=elsewhere")
    shown = subprocess.run(  # by a shell, with what composes it in place of running it
        f"{going_on} --cfg job", shell=True, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    composed = OmegaConf.create(shown.stdout)
    assert (composed.dir, composed.epochs, composed.trials) == ("elsewhere", 1, 999)


def test_a_worker_names_its_study(golf: Golf) -> None:
    golf(*QUICK, "trials=1", "study.name='a b'", "dir=d")
    ran = golf("worker", "study='a b'", "dir=d", "engine=torch")
    assert ran.status == 0, ran.err
    assert commands_in(ran.out) == [["dashboard", "dir=d"]]


def test_a_grid_that_is_done_offers_no_more_trials(golf: Golf) -> None:
    ran = golf(*QUICK[:-1], "space=article", "sampler=grid", "sampler.points=1", "trials=1")
    assert ran.status == 0, ran.err
    assert commands_in(ran.out) == [["dashboard"]]


def test_a_study_in_memory_has_no_next_words(golf: Golf) -> None:
    ran = golf(*QUICK, "trials=1", "storage=memory")
    assert ran.status == 0, ran.err
    assert commands_in(ran.out) == []


def test_no_password_is_repeated() -> None:
    from golf_opt.cli.arguments import hide_password

    url = "storage.url=postgresql://me:Gehe1m@127.0.0.1/golf"
    command.remember("golf-opt", "study", [hide_password(url)])
    assert command.runnable("dashboard") == (
        "golf-opt dashboard storage.url=postgresql://me@127.0.0.1/golf"
    )


def test_the_program_is_named_as_the_shell_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / ".venv" / "bin" / "golf-opt"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    command.remember(".venv/bin/golf-opt", "study", [])
    assert command.runnable("ls") == ".venv/bin/golf-opt ls"
    command.remember("golf_opt/__main__.py", "study", [])
    assert command.runnable("ls") == f"{sys.executable} -m golf_opt ls"
    monkeypatch.setenv("PATH", str(program.parent))
    command.remember(str(program), "study", ["trials=3", "--quiet", "trials=4"])
    assert command.again("study", "trials=6") == "golf-opt study trials=6 --quiet"
    assert command.again("worker", "study=s") == "golf-opt worker study=s"


@fuzz(examples=300)
@given(
    text(characters(exclude_categories=["C", "Zl", "Zp"]), max_size=20)
    | lists(sampled_from(["\\", "'", '"', "${dir}", "$", "{", "}", "a", ",", " ", "!"])).map(
        "".join
    )
)
def test_every_name_survives_shell_hydra_and_omegaconf(name: str) -> None:
    if name == "???":  # OmegaConf has no way to write it
        return
    command.remember("golf-opt", "", [])
    line = command.runnable("rm", command.override("study", name))
    _, _, override = shlex.split(line)
    parsed = OverridesParser.create().parse_override(override)
    tree = OmegaConf.create({"dir": "elsewhere", "study": parsed.value()})
    assert tree.study == name


@pytest.mark.parametrize("name", ["-x", "!ls", "`id`", "$(id)", '"; id; "', "it's $HOME"])
def test_a_shell_runs_nothing_of_a_name(name: str) -> None:
    command.remember("golf-opt", "", [])
    override = command.override("study", name)
    line = f"printf %s {command.runnable('rm', override).removeprefix('golf-opt rm ')}"
    ran = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    assert ran.stdout == override


# --- make


def dry_run(*arguments: str) -> list[list[str]]:
    """The commands that make would run."""
    words = ["make", "-n", "--no-print-directory", "SETUP=", "GOLF=golf-opt", *arguments]
    shown = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ
    )
    return [shlex.split(line) for line in shown.stdout.splitlines()]


def test_the_demonstration_gives_each_verb_its_arguments(golf: Golf) -> None:
    given = "engine.lanes=1 dashboard.port=0 dir=d/e sampler=random"
    *studies, dashboard = dry_run("demo", f"ARGS={given}")
    assert len(studies) == 2 and dashboard[1] == "dashboard"
    for line in (*studies, dashboard):
        assert "dir=d/e" in line
        composed = golf(*line[1:], "--cfg", "job")
        assert composed.status == 0, composed.err
    assert all({"engine.lanes=1", "sampler=random"} <= set(line) for line in studies)
    assert "dashboard.port=0" in dashboard


def test_what_was_typed_is_taken_for_another_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    """`study ... workers=2` goes on as the fleet of its study, and its last words name that."""
    monkeypatch.setattr(command, "_typed", command.Typed())
    typed = [
        "arch=c2-2", "~space.lr", "study.name=a", "+callbacks.x._target_=m.C", "workers=2",
        "dir='my studies'", "trials=5", "--config-dir", "conf",
    ]  # fmt: skip
    command.remember("golf-opt", "study", typed)
    keys = {"callbacks", "workers", "dir"}
    kept = ["+callbacks.x._target_=m.C", "workers=2", "dir='my studies'", "--config-dir", "conf"]
    assert command.turn_into("fleet", keys, "study=a") == ["study=a", *kept]
    assert command.again("fleet") == (
        "golf-opt fleet study=a +callbacks.x._target_=m.C workers=2 \"dir='my studies'\" "
        "--config-dir conf"
    )
