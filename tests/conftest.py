"""Fixtures: the CLI in this process and in its own, data small enough for tests, real MNIST."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golf_opt.cli import main as cli
from golf_opt.config import command
from golf_opt.engines.base import Tensors, initial_weights
from golf_opt.engines.native import library
from golf_opt.storage import gate
from golf_opt.task.arch import Net, build_net
from golf_opt.task.data import Split, View
from golf_opt.task.grammar import load_arch

ROOT = Path(__file__).parents[1]
# a shell starts what runs in the background with Ctrl-C ignored, and programs hand that on
signal.signal(signal.SIGINT, signal.default_int_handler)
# What is imported and collected stays to the end: fewer searches for garbage, as in `__main__.py`.
gc.set_threshold(50_000, 20, 100)


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    status: int
    out: str
    err: str


def told(ran: Ran) -> str:
    """Check that the command was refused as it must be, and return its one message."""
    assert ran.status == 2, ran
    assert ran.out == ""
    assert "Traceback" not in ran.err
    lines = ran.err.splitlines()
    assert len(lines) == 1, ran.err
    assert lines[0].startswith("golf-opt: ")
    return lines[0].removeprefix("golf-opt: ")


# Modules whose tests compile, serve or train for long; with what is marked by itself and what needs
# a server, a browser or a process of its own they are what `make test-fast` leaves out.
SLOW = (
    "bad_storage", "bench_gpu", "chaos", "command", "confirm", "cuda", "dashboard", "deploy",
    "docker", "doctor", "files", "fleet", "fleet_engines", "fleet_kubernetes", "interpret",
    "lanes", "leaderboard", "native", "native_cache", "objectives", "older_version", "paper",
    "proof", "prune", "records", "reproduce", "routes", "stored", "stored_words", "terminal",
    "transfer", "worker",
)  # fmt: skip


# Of those, what takes longest: it comes first, so that no core waits for it in the end.
LONG = (
    "chaos", "cuda", "fleet_engines", "fleet_kubernetes", "gpu_model", "native", "older_version",
    "prune", "study", "tasks", "tune", "worker",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONG)
    for item in items:
        if item.path.stem.removeprefix("test_") in SLOW or "golf_process" in item.fixturenames:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No storage is given from outside, and what `cli.main` sets is undone after the test."""
    for name in (
        "HYDRA_FULL_ERROR", "GOLF_STORAGE_URL", "GOLF_STORAGE_PASSWORD",
        "GOLF_STORAGE_PASSWORD_FILE",
    ):  # fmt: skip
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(command, "_typed", command.Typed())
    gate.forget_what_was_told()


@pytest.fixture(scope="session")
def kernels() -> Path:
    """The cache that all runs share: a file's name says all that it depends on."""
    return library.cache_folder()


@pytest.fixture
def golf(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Ran]:
    """Run `golf-opt ARGS...` in this process, with the working directory in tmp_path."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["golf-opt", *arguments])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return run


def golf_in(folder: Path, *arguments: str) -> str:
    """Run `golf-opt ARGS...` in this process, with the working directory in a folder.

    For what fixtures of several tests begin with: it must end well, and what it says is returned.
    """
    said = contextlib.redirect_stdout(io.StringIO())
    with pytest.MonkeyPatch.context() as patch, said as out:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["golf-opt", *arguments])
        patch.setenv("HYDRA_FULL_ERROR", "")
        try:
            cli.main()
        except SystemExit as stop:
            assert not stop.code
    return out.getvalue()


@pytest.fixture(scope="session")
def studies_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Give the folder that `golf-opt ARGS...` has worked in, once for all tests of this process."""
    made: dict[tuple[str, ...], Path] = {}

    def folder(*arguments: str) -> Path:
        if arguments not in made:
            made[arguments] = tmp_path_factory.mktemp("made")
            golf_in(made[arguments], *arguments)
        return made[arguments]

    return folder


@pytest.fixture
def begun(studies_of: Callable[..., Path], tmp_path: Path) -> Callable[..., None]:
    """Put into tmp_path what `golf-opt ARGS...` leaves behind: a copy, since it ran once."""

    def put(*arguments: str) -> None:
        shutil.copytree(studies_of(*arguments), tmp_path, dirs_exist_ok=True)

    return put


@pytest.fixture
def golf_process(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `golf-opt ARGS...` as a process of its own, with the working directory in tmp_path."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "golf_opt", *arguments],
            cwd=tmp_path,
            env=os.environ | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def net(name: str) -> Net:
    """A net by its name, preset or grammar."""
    return load_arch(name)


def tiny_net(*layers: dict[str, object]) -> Net:
    """A net of these layers and the closing linear layer."""
    return build_net({"name": "tiny", "layers": [*layers, {"kind": "linear", "features": 10}]})


RESIDUAL: list[dict[str, Any]] = [  # what a net of today may be: sums, windows with two sides
    {"kind": "conv", "channels": 4, "kernel": [3, 5], "stride": 2, "padding": "same"},
    {"kind": "gelu"},
    {"kind": "batch_norm", "name": "first"},
    {"kind": "conv", "channels": 4, "kernel": 3, "padding": "same", "bias": False},
    {"kind": "batch_norm"},
    {"kind": "add", "of": "first"},
    {"kind": "hard_swish"},
    {"kind": "max_pool"},
    {"kind": "scale"},
    {"kind": "depthwise", "kernel": [3, 1], "stride": [2, 1]},
    {"kind": "tanh"},
    {"kind": "avg_pool", "size": [2, 3]},
    {"kind": "pointwise", "channels": 4, "stride": [1, 2]},
    {"kind": "gelu"},
    {"kind": "linear", "features": 12},
    {"kind": "tanh", "name": "hidden"},
    {"kind": "linear", "features": 12},
    {"kind": "add", "of": "hidden"},
    {"kind": "add", "of": "add2"},
]


def residual_net() -> Net:
    """A net of `RESIDUAL` and the closing linear layer."""
    return tiny_net(*RESIDUAL)


def every_layer_net() -> Net:
    """A net with every kind of layer that `RESIDUAL` lacks and more, one of them used twice."""
    return tiny_net(
        {"kind": "conv", "channels": 3, "kernel": 5, "stride": 2},
        {"kind": "batch_norm"},
        {"kind": "prelu"},
        {"kind": "depthwise", "kernel": 3, "padding": "same", "name": "spatial"},
        {"kind": "max_pool", "size": 3},
        {"kind": "pointwise", "channels": 3, "bias": False},
        {"kind": "leaky_relu", "slope": 0.1},
        {"kind": "reuse", "of": "spatial"},
        {"kind": "global_avg_pool"},
        {"kind": "dropout", "p": 0.3},
        {"kind": "linear", "features": 12},
        {"kind": "relu"},
    )


def random_tensors(of: Net, seed: int = 3) -> Tensors:
    """Weights wide enough for scores that depend on the image; no two numbers are the same."""
    tensors, rng = initial_weights(of, seed), np.random.default_rng(seed)
    for name, values in tensors.items():
        if values.ndim == 1:
            drawn = rng.uniform(0.2, 1.2, values.shape)
        else:
            drawn = rng.uniform(-3, 3, values.shape) / np.sqrt(values[0].size)
        tensors[name] = drawn.astype(np.float32)
    return tensors


@pytest.fixture(scope="session")
def small_view() -> View:
    """150 training and 70 test images whose class shows: a bright bar in the row of the class."""
    rng = np.random.default_rng(7)

    def split(name: str, n: int) -> Split:
        labels = rng.integers(0, 10, n).astype(np.uint8)
        images = rng.integers(0, 60, (n, 1, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[0, 2 + 2 * label : 5 + 2 * label, 4:24] += 150
        return Split(name, images, labels)

    train, test = split("train", 150), split("test", 70)
    return View("small", "test", train, test, test, digest="")


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The folder that holds MNIST/raw, from GOLF_DATA or data/."""
    root = Path(os.environ.get("GOLF_DATA", ROOT / "data"))
    if not (root / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        pytest.skip(f"MNIST is not in {root}; set GOLF_DATA to a folder that has MNIST/raw/")
    return root


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium; skip where it or its driver is missing."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run", "--no-proxy-server",
        "--window-size=1400,2000", f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(flag)
    chrome = webdriver.Chrome(options, webdriver.ChromeService(executable_path=driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def browser(chromium: Any) -> Iterator[Any]:
    """A browser whose page is left after the test: an open one asks again and again."""
    yield chromium
    chromium.get("about:blank")
