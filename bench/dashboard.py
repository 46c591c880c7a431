"""The dashboard with a study of 5,000 trials, beside `optuna-dashboard URL`; and what it costs.

    python -m bench.dashboard [--trials N]

A study made by the real command is multiplied to 5,000 trials of 18 epochs in SQLite. Then each
server is started on it and asked for the study as its page asks: at once when it says that it
listens (first load), once more after that has been answered (refresh), in turns.

The second part runs a study on MNIST ($GOLF_DATA, default data/) with and without a dashboard that
is polled every 2.5 seconds, as an open page does, in turns: how much slower it becomes, and how
much processor time the server took.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.report import machine, save

GOLF = (sys.executable, "-m", "golf_opt")
SEED_TRIALS, EPOCHS, STUDY_TRIALS = 20, 18, 12
TURNS, POLL_S = 3, 2.5
KINDS = ("first_load", "refresh", "from_start")
TABLES = {
    "trial_params": "param_name, param_value, distribution_json",
    "trial_values": "objective, value, value_type",
    "trial_intermediate_values": "step, intermediate_value, intermediate_value_type",
    "trial_user_attributes": '"key", value_json',
    "trial_system_attributes": '"key", value_json',
}


def large_study(folder: Path, trials: int) -> Path:
    """Return a database with one study of so many trials: a real one, again and again."""
    options = (f"trials={SEED_TRIALS}", f"epochs={EPOCHS}", f"dir={folder}", "study.name=large")
    subprocess.run([*GOLF, "study", "data=digits", *options], check=True, capture_output=True)
    path = folder / "golf.db"
    with sqlite3.connect(path) as db:
        (top,) = db.execute("SELECT max(trial_id) FROM trials").fetchone()
        for turn in range(1, trials // SEED_TRIALS):
            rest = "study_id, state, datetime_start, datetime_complete"
            db.execute(
                f"INSERT INTO trials (trial_id, number, {rest}) "
                f"SELECT trial_id + ?, number + ?, {rest} FROM trials WHERE trial_id <= ?",
                (turn * top, turn * SEED_TRIALS, top),
            )
            for table, columns in TABLES.items():
                db.execute(
                    f"INSERT INTO {table} (trial_id, {columns}) "
                    f"SELECT trial_id + ?, {columns} FROM {table} WHERE trial_id <= ?",
                    (turn * top, top),
                )
    db.close()
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def get(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=300) as answer:
        return bytes(answer.read())


def answers(url: str) -> bool:
    try:
        return bool(get(url))
    except OSError:
        return False


def loads(command: tuple[str, ...], ready: str, trials: int) -> tuple[float, float, float]:
    """Return seconds of the first load and of a refresh (the median of five) of one server.

    The third is from starting the command to the end of the first load.
    """
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        while (match := re.search(ready, process.stdout.readline())) is None:
            assert process.poll() is None, "the server ended"
        threading.Thread(target=process.stdout.read, daemon=True).start()
        address = match[1].rstrip("/")
        while not answers(f"{address}/api/meta"):  # it says so a little early
            time.sleep(0.01)
        times, whole = [], 0.0
        for _ in range(6):
            started = time.perf_counter()
            body = get(f"{address}/api/studies/1")
            times.append(time.perf_counter() - started)
            whole = whole or time.perf_counter() - begin
            assert len(json.loads(body)["trials"]) == trials
    finally:
        process.terminate()
        process.wait(30)
    return times[0], statistics.median(times[1:]), whole


def compare_loads(folder: Path, trials: int) -> dict[str, Any]:
    database = large_study(folder, trials)
    theirs = Path(sys.executable).with_name("optuna-dashboard")
    servers = {
        "optuna_dashboard": (
            (
                str(theirs),
                f"sqlite:///{database}",
                "--port",
                str(free_port()),
                "--server",
                "wsgiref",
            ),
            r"Listening on (\S+)",
        ),
        "golf_opt": (
            (*GOLF, "dashboard", f"dir={folder}", "dashboard.port=0"),
            r"dashboard: (\S+)",
        ),
    }
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in servers}
    for _ in range(TURNS):
        for name, (command, ready) in servers.items():
            times[name].append(loads(command, ready, trials))
    result: dict[str, Any] = {"trials": trials, "epochs": EPOCHS, "turns": TURNS}
    for index, kind in enumerate(KINDS):
        medians = {name: statistics.median(t[index] for t in rows) for name, rows in times.items()}
        result |= {f"{kind}_s": medians}
        result[f"{kind}_ratio"] = medians["optuna_dashboard"] / medians["golf_opt"]
    return result


@dataclass(frozen=True)
class Run:
    """What a study took: seconds on the clock and of processors, and its dashboard's of these."""

    wall_s: float
    cpu_s: float
    server_cpu_s: float = 0.0
    polls: int = 0


def run_study(root: Path, folder: Path, polled: bool) -> Run:
    """Run a study of the native engine, and beside it a dashboard that a page polls."""
    options = (f"epochs={EPOCHS}", f"trials={STUDY_TRIALS}", "pruner=none", "sampler=random")
    command = [*GOLF, "study", "data=mnist", f"data.root={root}", *options, f"dir={folder}"]
    before = _children_cpu_s()
    started = time.perf_counter()
    study = subprocess.Popen([*command, "space.batch_size=14"], stdout=subprocess.DEVNULL)
    if not polled:
        assert study.wait() == 0
        return Run(time.perf_counter() - started, _children_cpu_s() - before)
    while not (folder / "golf.db").is_file():
        time.sleep(0.05)
    server = subprocess.Popen(
        [*GOLF, "dashboard", f"dir={folder}", "dashboard.port=0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    url = server.stdout.readline().split()[1]
    server_before, polls = process_cpu_s(server.pid), 0
    while True:
        try:
            assert study.wait(POLL_S) == 0
            break
        except subprocess.TimeoutExpired:
            for path in ("api/meta", "api/studies", "api/studies/1"):
                get(f"{url}{path}")
            polls += 1
    wall_s, cpu_s = time.perf_counter() - started, _children_cpu_s() - before
    used = process_cpu_s(server.pid) - server_before
    server.terminate()
    server.communicate()
    return Run(wall_s, cpu_s, used, polls)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def process_cpu_s(pid: int) -> float:
    """Return the processor seconds of a running process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def compare_studies(root: Path, folder: Path) -> dict[str, Any]:
    """Return both, by the clock and by processor time, which other guests of the host leave alone.

    A server that takes a share of the cores that the lanes fill slows the study by that share.
    """
    alone, polled = [], []
    for turn in range(TURNS):
        alone.append(run_study(root, folder / f"alone{turn}", False))
        polled.append(run_study(root, folder / f"polled{turn}", True))

    def ratio(name: str) -> float:
        first, second = ([getattr(run, name) for run in runs] for runs in (alone, polled))
        return statistics.median(second) / statistics.median(first) - 1

    poll_s = sum(run.server_cpu_s for run in polled) / sum(run.polls for run in polled)
    share = poll_s / POLL_S / len(os.sched_getaffinity(0))
    return {
        "study_trials": STUDY_TRIALS,
        "alone": [asdict(run) for run in alone],
        "polled": [asdict(run) for run in polled],
        "slower_by_the_clock": ratio("wall_s"),
        "study_cpu_more": ratio("cpu_s"),
        "poll_cpu_s": poll_s,
        "poll_s": POLL_S,
        "server_share_of_the_cores": share,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=5000)
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        result = compare_loads(Path(name), options.trials)
        for kind in KINDS:
            theirs, ours = result[f"{kind}_s"].values()
            console.print(
                f"{kind:<10}  {theirs:6.2f} s -> {ours:6.2f} s, {result[f'{kind}_ratio']:.1f} times"
            )
        save("dashboard", {"machine": machine(), **result})
        root = Path(os.environ.get("GOLF_DATA", "data")).absolute()
        result |= compare_studies(root, Path(name))
        console.print(
            f"a study with a polled dashboard: {100 * result['slower_by_the_clock']:+.1f} % by the "
            f"clock, {100 * result['study_cpu_more']:+.1f} % of its own processor time; a poll "
            f"takes {1000 * result['poll_cpu_s']:.0f} ms, "
            f"{100 * result['server_share_of_the_cores']:.2f} % of the cores"
        )
    console.print(f"{save('dashboard', {'machine': machine(), **result})}")


if __name__ == "__main__":
    main()
