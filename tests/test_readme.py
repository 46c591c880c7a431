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

import pytest
import torch
from conftest import ROOT, Ran, net, random_tensors
from safetensors.numpy import save_file

import bench.readme
from golf_opt import cli
from golf_opt.engines.native import compiler
from golf_opt.engines.torch import TorchNet

README = (ROOT / "README.md").read_text()
COMMANDS = [line[2:] for line in README.splitlines() if line.startswith("$ ")]
QUICK = ("data=digits", "epochs=1", "trials=1", "engine=torch", "space.batch_size=32")
# make as the README has it, with this interpreter in place of .venv
MAKE = ("SETUP=", f"GOLF={sys.executable} -m golf_opt")


def commands(head: str) -> list[str]:
    return [command for command in COMMANDS if command.startswith(head)]


def test_every_command_is_covered_here() -> None:
    heads = ("make study", "make test", "make dashboard", "make bench", "golf-opt ")
    assert COMMANDS and [c for c in COMMANDS if not c.startswith(heads)] == []


@pytest.mark.parametrize("command", commands("golf-opt study") + commands("golf-opt arch"))
def test_golf_opt_commands(golf: Callable[..., Ran], command: str) -> None:
    arguments = shlex.split(command)[1:]
    if arguments[0] == "study" and not arguments[-1].startswith(("-", "job")):
        arguments = [a for a in arguments if not a.startswith("trials=")] + list(QUICK)
        if "study.enqueue=article" in arguments:
            arguments.remove("space.batch_size=32")
    ran = golf(*arguments)
    assert ran.status == 0, ran.err
    assert ran.out


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


@pytest.mark.parametrize("target", ["study", "dashboard", "test", "check", "bench", "setup"])
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
    for file in cli.CONF_DIR.glob("*/*.yaml"):
        if file.parent.name in ("sampler", "pruner", "storage", "data"):
            assert f"`{file.stem}`" in README, (
                f"{file.parent.name}={file.stem} is not in the README"
            )


def test_the_speed_is_what_the_benchmarks_wrote() -> None:
    written = README.split(bench.readme.BEGIN)[1].split(bench.readme.END)[0]
    assert written == bench.readme.section()


def test_the_file_tree_is_the_tree() -> None:
    tree = README.split("## Where things are")[1].split("```")[1]
    named = set(re.findall(r"^  (\w+\.py)", tree, re.MULTILINE))
    modules = {path.name for path in (ROOT / "golf_opt").glob("*.py")}
    assert named == modules - {"__init__.py", "__main__.py"}
