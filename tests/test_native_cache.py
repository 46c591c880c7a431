"""The cache of compiled kernels: damaged files, killed and simultaneous processes, no compiler."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from golf_opt.config.errors import UsageError
from golf_opt.engines.native import compiler, library
from golf_opt.task.arch import Net, build_net

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
TINY = {
    "name": "tiny",
    "layers": [{"kind": "max_pool", "size": 7}, {"kind": "linear", "features": 10}],
}
FLAGS = ("-O0",)
Interrupted = Callable[[str, int, signal.Signals], tuple[str, int]]
LOAD = f"""
from golf_opt.task.arch import build_net
from golf_opt.engines.native import library
print(library.load(build_net({TINY!r}), 4, 4, print, {FLAGS!r}).images)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and nothing loaded yet."""
    monkeypatch.setenv("GOLF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "_loaded", {})
    return tmp_path / "cache"


def tiny() -> Net:
    return build_net(TINY)


def load(messages: list[str] | None = None) -> library.Library:
    on_message = None if messages is None else messages.append
    return library.load(tiny(), 4, 4, on_message, FLAGS)


def start(code: str = LOAD) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(true: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not true() and time.monotonic() < end:
        time.sleep(0.01)


def test_a_kernel_is_compiled_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    assert load(messages).images == 4
    assert messages == ["compiling the kernel of tiny (4 images wide), once"]
    load(messages)
    monkeypatch.setattr(library, "_loaded", {})  # as a new process
    load(messages)
    assert len(messages) == 1
    suffixes = Counter(path.suffix for path in folder.iterdir())
    assert suffixes == {".lock": 5, ".sha256": 5, ".so": 4, ".gch": 1}


@pytest.mark.parametrize("suffix", [".so", ".sha256"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_a_damaged_kernel_is_compiled_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, damage: str
) -> None:
    process = start()  # in another process: this one has not mapped the file
    assert process.communicate()[0].endswith("4\n")
    path = next(folder.glob(f"*{suffix}"))
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    messages: list[str] = []
    assert load(messages).images == 4
    assert len(messages) == 1


def test_nets_share_their_pieces(folder: Path) -> None:
    """Another linear layer behind the same pool: one more piece."""
    load()
    before = set(folder.glob("*.so"))
    layers = [*TINY["layers"], {"kind": "linear", "features": 10}]
    library.load(build_net(TINY | {"layers": layers}), 4, 4, None, FLAGS)
    assert len(before) == 4  # reading images, driving, a pool and a linear layer
    assert len(set(folder.glob("*.so")) - before) == 1


def test_two_threads_compile_a_piece_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    real = library.compile_shared

    def compile_shared(build: list[str], source: str, header: str, folder: Path) -> Path:
        compiled.append(header)
        return real(build, source, header, folder)

    monkeypatch.setattr(library, "compile_shared", compile_shared)
    with ThreadPoolExecutor(3) as pool:
        kernels = list(pool.map(lambda _: load(), range(3)))
    assert {kernel.padded_params for kernel in kernels} == {172}
    assert len(compiled) == len(set(compiled)) == 4


def test_two_processes_compile_once(folder: Path) -> None:
    outputs = [process.communicate()[0] for process in [start(), start()]]
    assert all(output.endswith("4\n") for output in outputs)
    assert any("compiling" in output for output in outputs)


def test_a_killed_compile_leaves_a_working_cache(folder: Path) -> None:
    process = start()
    wait_for(lambda: list(folder.glob("*.tmp/piece.cpp")))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert list(folder.glob("*.tmp"))
    assert load().images == 4
    assert not list(folder.glob("*.tmp"))


SLOW_COMPILER = """#!/bin/sh
case "$*" in *-shared*) [ -e {begun} ] || {{ echo $$ >{begun}; sleep {seconds}; }};; esac
exec {command} "$@"
"""


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Interrupted:
    """Signals to the group of a process that waits for a compiler that takes a while.

    Takes what it runs, for how long the first compile waits, and the signal; returns what was
    printed and the compiler's process.
    """
    begun, script = tmp_path / "begun", tmp_path / "slow-c++"
    command = " ".join(library.require_compiler())
    monkeypatch.setenv("CXX", str(script))

    def run(code: str, seconds: int, how: signal.Signals) -> tuple[str, int]:
        script.write_text(SLOW_COMPILER.format(begun=begun, seconds=seconds, command=command))
        script.chmod(0o755)
        process = start(code)
        wait_for(lambda: begun.exists() and begun.read_text())
        time.sleep(3)  # it may be about to learn that the compiler has begun
        os.killpg(process.pid, how)
        return process.communicate(timeout=60)[0], int(begun.read_text())

    return run


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_does_not_reach_the_compiler(
    interrupted: Interrupted, how: signal.Signals
) -> None:
    """Whoever waits for the compiler is to end cleanly, not to find that it failed."""
    noted = f"import signal\nsignal.signal({int(how)}, lambda *_: print('noted'))\n"
    out, _ = interrupted(noted + LOAD, 5, how)
    assert "noted" in out and out.endswith("4\n"), out


def test_a_compiler_that_nobody_waits_for_is_ended(interrupted: Interrupted, folder: Path) -> None:
    out, compiling = interrupted(LOAD, 120, signal.SIGINT)
    assert "compiling" in out and not out.endswith("4\n")
    with pytest.raises(ProcessLookupError):
        os.kill(compiling, 0)
    assert not list(folder.glob("*.tmp"))


def test_a_cache_that_cannot_be_written_to_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("GOLF_CACHE", str(blocked / "cache"))
    with pytest.raises(UsageError, match=r"cache folder is .*must be .* written to .*GOLF_CACHE"):
        load()


def test_a_read_only_cache_still_serves_what_it_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load()
    monkeypatch.setattr(library, "_loaded", {})
    monkeypatch.setattr(library, "compile_shared", None)  # would fail if it were called
    assert load().images == 4


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(library, "compile_shared", full)
    with pytest.raises(UsageError, match=r"No space left on device.*engine=torch"):
        load()


def test_without_a_compiler_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiler() is None
    with pytest.raises(UsageError, match=r"apt install g\+\+.*engine=torch"):
        load()
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(UsageError, match=r"CXX is 'no-such-compiler -O1', but"):
        load()


def test_a_failing_compiler_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken-c++"
    broken.write_text(
        "#!/bin/sh\ncase $1 in --version) echo 1.0;; *) echo boom >&2; exit 3;; esac\n"
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(UsageError) as caught:
        load()
    message = str(caught.value)
    assert "boom" in message and f"command: {broken}" in message and "engine=torch" in message


def test_options_of_cxx_belong_to_the_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load()
    command = " ".join([*library.require_compiler(), "-DNOTHING"])
    monkeypatch.setenv("CXX", command)
    load()
    assert len(list(folder.glob("*.so"))) == 8


def test_loading_leaves_denormals_alone() -> None:
    """Linked with -ffast-math, a library would flush them in the whole process."""
    code = LOAD + "import numpy as np; print(np.float32(1e-40) * np.ones(1, np.float32) > 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[ True]\n")
