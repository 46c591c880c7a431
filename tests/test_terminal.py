"""What `golf-opt study` looks like in a real pseudo-terminal, in a file, without colour."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Ran

from golf_opt.study.progress import sparkline
from golf_opt.utils.live import rewraps

STUDY = ("study", "data=digits", "engine=torch", "trials=4", "epochs=4", "space.batch_size=32")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def in_terminal(folder: Path, columns: int, *more: str, **env: str) -> str:
    """Run the study in a pseudo-terminal of so many columns; return all that it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "golf_opt", *STUDY, f"study.name=wide{columns}", *more],
        cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "", "LINES": ""} | env,
    )  # fmt: skip
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65_536)
        except OSError:  # Linux: everybody else has closed it
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait(timeout=120) == 0
    return written.decode()


@pytest.mark.parametrize("columns", [60, 200])
def test_the_live_view_fits_its_terminal(tmp_path: Path, columns: int) -> None:
    written = in_terminal(tmp_path, columns)
    assert "\x1b[" in written
    lines = [line.strip("\r") for line in CONTROL.sub("", written).splitlines()]
    live = [
        line for line in lines if re.match(r"\d/4 trials  |best[: ]+\d|lane  trial|   \d  ", line)
    ]
    assert len(live) >= 8
    assert max(map(len, live)) <= columns
    status = [line for line in live if "/4 trials" in line]
    assert re.match(r"\d/4 trials  (-|[\d.]+)/min  pruned \d+ %  .+ left", status[-1])
    best = [line for line in live if line.startswith("best ") and "none" not in line]
    assert re.match(r"best \d\d\.\d\d %  [▁▂▃▄▅▆▇█]+  trial \d  lr=", best[-1])
    assert sum(" complete " in line or " pruned " in line for line in lines) >= 4
    assert any(line.startswith("study wide") and "4 of 4 trials" in line for line in lines)


class Tmux:
    """A terminal that one can look at, and that breaks its lines anew when it becomes narrower."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def __call__(self, *words: str) -> str:
        command = ["tmux", "-S", str(self._socket), "-f", "/dev/null", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def screen(self) -> list[str]:
        """What stands there, with what was scrolled away."""
        return self("capture-pane", "-p", "-S", "-").rstrip().splitlines()

    def wait_for(self, pattern: str) -> list[str]:
        """Look until a line matches, and again after two more frames."""
        deadline = time.monotonic() + 120
        while not any(re.search(pattern, line) for line in self.screen()):
            assert time.monotonic() < deadline, "\n".join(self.screen())
            time.sleep(0.1)
        time.sleep(0.6)
        return self.screen()


@contextmanager
def tmux(folder: Path, columns: int, command: str) -> Iterator[Tmux]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    terminal = Tmux(folder / "tmux")
    size = ("-x", str(columns), "-y", "24")
    terminal("new-session", "-d", *size, "-c", str(folder), f"{command}; sleep 600")
    try:
        yield terminal
    finally:
        terminal("kill-server")


def test_a_terminal_that_shrinks_has_one_frame_and_all_lines(tmp_path: Path) -> None:
    arguments = shlex.join([*STUDY, "study.name=s", "pruner=none", "epochs=60", "trials=99"])
    command = f"env -u COLUMNS -u LINES {sys.executable} -m golf_opt {arguments}"
    # a screen that is not full scrolls when tmux breaks lines
    with tmux(tmp_path, 150, f"seq 40; {command}") as terminal:
        terminal.wait_for("trial +0 +epoch +60/60.*complete")
        for columns in (60, 35, 20):
            terminal("resize-window", "-x", str(columns), "-y", "24")
            shown = terminal.wait_for("^lane")
            frames = [line for line in shown if re.match(r"\d/99 trials|lane ", line)]
            assert len(frames) == 2, shown  # of one frame
            assert sum(line.startswith("trial    0 ") for line in shown) == 1, shown
            assert "gamma=0." in "".join(shown).split("/99 trials")[0].split("complete")[-1], shown


@pytest.mark.parametrize(
    ("environment", "rewrapping"),
    [
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "xterm-256color", "XTERM_VERSION": "XTerm(379)"}, False),
        ({"TERM": "screen", "TMUX": "/run/tmux,1,0", "XTERM_VERSION": "XTerm(379)"}, True),
        ({"TERM": "screen", "STY": "1.pts"}, False),
        ({"TERM": "rxvt-unicode-256color"}, False),
        ({"TERM": "linux"}, False),
    ],
)
def test_terminals_that_break_lines_anew_are_known(
    environment: dict[str, str], rewrapping: bool
) -> None:
    assert rewraps(environment) is rewrapping


def test_no_color_is_obeyed(tmp_path: Path) -> None:
    written = in_terminal(tmp_path, 80, "trials=2", NO_COLOR="1")
    assert re.search(r"\x1b\[[\d;]*3[0-7]m", written) is None


def test_a_file_gets_plain_lines(golf: Callable[..., Ran]) -> None:
    ran = golf(*STUDY, "study.name=file", "epochs=2")
    assert ran.status == 0 and "\x1b" not in ran.out and "\r" not in ran.out
    assert len(re.findall(r"^trial +\d  epoch +\d/2 ", ran.out, re.MULTILINE)) >= 4


def test_quiet_says_what_runs_and_what_came_out(golf: Callable[..., Ran]) -> None:
    ran = golf(*STUDY, "study.name=quiet", "epochs=1", "--quiet")
    assert ran.status == 0 and "trial    " not in ran.out
    assert ran.out.startswith("quiet: 807 parameters") and "\nbest test accuracy" in ran.out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("golf-opt st", "study"),
        ("golf-opt study sampler=g", "sampler=gp sampler=grid"),
        ("golf-opt dashboard dashboard.wr", "dashboard.write="),
    ],
)
def test_bash_completes_verbs_keys_and_choices(tmp_path: Path, line: str, expected: str) -> None:
    """As a terminal would ask: through the function that Hydra's script defines."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    program = tmp_path / "golf-opt"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m golf_opt "$@"\n')
    program.chmod(0o755)
    script = f"""
        eval "$(golf-opt -sc install=bash)"
        COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}
        COMP_WORDS=($COMP_LINE); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        hydra_bash_completion; echo "${{COMPREPLY[@]}}"
    """
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        [bash, "-c", script], cwd=tmp_path, env=os.environ | {"PATH": path}, text=True,
        capture_output=True,
    )  # fmt: skip
    assert ran.stdout.split() == expected.split(), ran.stderr


def test_sparklines() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.5]) == "█"
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline(list(range(160))) == "▁▁▂▂▃▃▄▄▅▅▆▆▇▇██"
