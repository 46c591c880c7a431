"""Every command of the README runs, and its options are the ones that exist."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from conftest import ROOT, Ran, net, random_tensors
from safetensors.numpy import save_file

import bench.readme
from golf_opt.config.paths import CONF_DIR
from golf_opt.engines.native import compiler
from golf_opt.engines.torch import TorchNet

if TYPE_CHECKING:
    from postgres import Server

pytest_plugins = ["postgres"]

README = (ROOT / "README.md").read_text()
COMMANDS = [line[2:] for line in README.splitlines() if line.startswith("$ ")]
QUICK = ("data=digits", "epochs=1", "trials=1", "engine=torch", "space.batch_size=32")
# make as the README has it, with this interpreter in place of .venv
MAKE = ("SETUP=", f"GOLF={sys.executable} -m golf_opt")


def commands(head: str) -> list[str]:
    return [command for command in COMMANDS if command.startswith(head)]


def test_every_command_is_covered_here() -> None:
    heads = ("make study", "make test", "make dashboard", "make demo", "make bench",
             "make reproduce", "make records", "golf-opt ")  # fmt: skip
    assert COMMANDS and [c for c in COMMANDS if not c.startswith(heads)] == []


LOCAL = [c for c in commands("golf-opt study") if "storage=postgres" not in c]


@pytest.mark.parametrize("command", LOCAL + commands("golf-opt arch"))
def test_golf_opt_commands(golf: Callable[..., Ran], command: str) -> None:
    arguments = shlex.split(command)[1:]
    if arguments[0] == "study" and not arguments[-1].startswith(("-", "job")):
        arguments = [a for a in arguments if not a.startswith("trials=")] + list(QUICK)
        if "study.enqueue=article" in arguments:
            arguments.remove("space.batch_size=32")
    ran = golf(*arguments)
    assert ran.status == 0, ran.err
    assert ran.out


@pytest.mark.postgres
def test_going_on_elsewhere(
    golf: Callable[..., Ran], postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two commands as they stand, over a small study of the name that they give."""
    monkeypatch.setenv("GOLF_STORAGE_URL", postgres.url(postgres.create_database()))
    (begin,) = [c for c in commands("golf-opt study") if "storage=postgres" in c]
    (go_on,) = commands("golf-opt worker")
    begun = golf(*shlex.split(begin)[1:], *QUICK, "study.name=c4-5-4")
    assert begun.status == 0, begun.err
    joined = golf(*shlex.split(go_on)[1:], "engine=torch", "engine.lanes=1")
    assert joined.status == 0, joined.err
    assert "1 of 1 trials finished" in joined.out


@pytest.mark.parametrize("command", commands("golf-opt prune"))
def test_prune_commands(golf: Callable[..., Ran], tmp_path: Path, command: str) -> None:
    torch.save(dict(TorchNet(net("c4-5-4-prelu")).tensors()), tmp_path / "net.pt")
    for name, protocol in (("c4-5-4-prelu", "test"), ("careful", "holdout")):
        golf("study", "arch=c4-5-4-prelu", *QUICK, f"study.name={name}", f"protocol={protocol}")
    quick = ("data=digits", "target=0.05", "rounds.share=0.9", "rounds.epochs=1")
    arguments = [a for a in shlex.split(command)[1:] if not a.startswith("target=")]
    if "method=saliency" in arguments and compiler() is None:
        pytest.skip("no C++ compiler, and PyTorch's engine gives no gradients")
    ran = golf(*arguments, *quick)
    assert ran.status == 0, ran.err
    assert "non-zero parameters of 820" in ran.out


VERBS = ("confirm", "record", "verify", "reproduce")
NEW = [command for verb in VERBS for command in commands(f"golf-opt {verb}")]


@pytest.mark.parametrize("command", NEW)
def test_commands_of_trained_nets_compose(golf: Callable[..., Ran], command: str) -> None:
    """What they do is tested beside their modules; every key of the README is one of theirs."""
    ran = golf(*shlex.split(command)[1:], "--cfg", "job")
    assert ran.status == 0, ran.err
    for override in shlex.split(command)[3:]:
        assert f"{override.partition('=')[0]}: " in ran.out


def test_reports(golf: Callable[..., Ran]) -> None:
    """`report` and `compare` as they stand, over two studies of the names that they give."""
    for arch in ("c4-5-4", "c5-5-4"):
        assert golf("study", f"arch={arch}", f"study.name={arch}", *QUICK).status == 0
    for command in [*commands("golf-opt report"), *commands("golf-opt compare")]:
        ran = golf(*shlex.split(command)[1:])
        assert ran.status == 0, ran.err
        assert [Path(line).is_file() for line in ran.out.splitlines()[-2:]] == [True, True]


def test_make_demo(tmp_path: Path) -> None:
    """Less of it, and the address that it ends with."""
    shown = subprocess.run(
        ["make", "--no-print-directory", "-n", "demo", *MAKE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    *studies, dashboard = shown.stdout.splitlines()
    assert len(studies) == 2
    for line in studies:
        arguments = shlex.split(line)[3:] + list(QUICK) + [f"dir={tmp_path}"]
        subprocess.run(
            [sys.executable, "-m", "golf_opt", *arguments], cwd=tmp_path, check=True,
            capture_output=True,
        )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "golf_opt", *shlex.split(dashboard)[3:], f"dir={tmp_path}",
         "dashboard.port=0"], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().startswith("dashboard: http://127.0.0.1:")
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.parametrize("command", commands("golf-opt interpret") + commands("golf-opt deploy"))
def test_commands_on_a_trained_net(golf: Callable[..., Ran], tmp_path: Path, command: str) -> None:
    save_file(random_tensors(net("c4-5-4-prelu")), tmp_path / "pruned.safetensors")
    golf("study", "arch=c4-5-4-prelu", "study.name=c4-5-4-prelu", *QUICK)
    verb, *arguments = shlex.split(command)[1:]
    if verb == "interpret":
        arguments = [a for a in arguments if "steps" not in a] + ["data=digits", "steps=1"]
    ran = golf(verb, *arguments)
    assert ran.status == 0, ran.err


def test_make_study(tmp_path: Path) -> None:
    (command,) = commands("make study")
    arguments = f"ARGS={' '.join(QUICK[:1] + QUICK[3:])} dir={tmp_path}/studies"
    ran = subprocess.run(
        [*shlex.split(command), *MAKE, arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert "best test accuracy" in ran.stdout and "3 of 3 trials" in ran.stdout


@pytest.mark.parametrize(
    "command",
    ["make dashboard", *commands("golf-opt dashboard")],
)
def test_dashboards(tmp_path: Path, command: str) -> None:
    """Each prints the address it serves, and ends on SIGINT."""
    arguments = ["dashboard", f"dir={tmp_path}/studies", "dashboard.port=0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "golf_opt", *arguments], cwd=tmp_path, stdout=subprocess.PIPE,
        text=True, env=os.environ,
    )  # fmt: skip
    assert process.stdout is not None
    assert re.match(r"dashboard: http://127\.0\.0\.1:\d+/", process.stdout.readline())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)


def test_keeping_studies(golf: Callable[..., Ran], tmp_path: Path) -> None:
    golf("study", "data=digits", "epochs=2", "trials=1", "engine=torch", "space.batch_size=32")
    chosen = [c for head in ("ls", "export", "import", "rm") for c in commands(f"golf-opt {head}")]
    assert len(chosen) == 4
    for command in chosen:
        ran = golf(*shlex.split(command)[1:])
        assert (ran.status, ran.err) == (0, "")
        assert "c4-5-4@digits-2epochs" in ran.out or "copy" in ran.out
    assert len(golf("ls").out.splitlines()) == 2
    assert (tmp_path / "backup" / "trials.jsonl").is_file()


@pytest.mark.parametrize(
    "target",
    [
        "study",
        "demo",
        "dashboard",
        "test",
        "check",
        "bench",
        "bench-storage",
        "setup",
        "reproduce",
        "records",
    ],
)
def test_make_targets_exist_and_help_names_them(target: str) -> None:
    dry = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"make {target} " in shown.stdout


def test_the_options_table_has_every_key(golf: Callable[..., Ran]) -> None:
    """Each top-level key and group of the configuration is in the README."""
    table = set(re.findall(r"^\| `([\w.]+)`", README, re.MULTILINE))
    job = golf("study", "--cfg", "job").out
    keys = set(re.findall(r"^(\w+):", job, re.MULTILINE)) - {"study"}
    assert keys <= table
    for file in CONF_DIR.glob("*/*.yaml"):
        if file.parent.name in ("sampler", "pruner", "storage", "data"):
            assert f"`{file.stem}`" in README, (
                f"{file.parent.name}={file.stem} is not in the README"
            )


def test_the_speed_is_what_the_benchmarks_wrote() -> None:
    for begin, end, section in bench.readme.SECTIONS:
        assert README.split(begin)[1].split(end)[0] == section()


def test_the_file_tree_is_the_tree() -> None:
    tree = README.split("## Where things are")[1].split("```")[1]
    named = set(re.findall(r"^  (\w+\.py)", tree, re.MULTILINE))
    modules = {path.name for path in (ROOT / "golf_opt").glob("*.py")}
    assert named == modules - {"__init__.py", "__main__.py"}
