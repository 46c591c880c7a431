"""Compile the pieces of nets for this machine, each once, into a cache folder, and load them.

A piece is a layer of certain shapes, both ways: one compile for each takes a quarter longer. Nets
that have it share it. The cache holds `<key>.so` and beside it `<key>.sha256`, the checksum of the
former. Both appear by renaming, so a reader sees a whole file or none; a library without its
checksum is as good as none.
One process at a time compiles a key, behind a lock that the system drops when its holder dies.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from golf_opt.config.errors import UsageError
from golf_opt.engines.base import Message
from golf_opt.engines.native.codegen import pieces, unsupported
from golf_opt.engines.native.table import Library
from golf_opt.task.arch import Net

PRECOMPILED = "pieces.hpp.gch"
COMPILERS = ("c++", "g++", "clang++")
# -ffast-math for fused multiply-adds and selects without care for nan; but sums stay in the order
# they are written in: reordered, they no longer fit the registers, and take twice as long.
FLAGS = (
    "-std=c++17", "-O3", "-ffast-math", "-fno-associative-math", "-fPIC", "-fvisibility=hidden",
)  # fmt: skip
# (macro of the compiler, name of the instruction set, floats per vector), best first
VECTORS = (
    ("__AVX512F__", "avx512", 16),
    ("__AVX__", "avx2", 8),
    ("__ARM_NEON", "neon", 4),
    ("__SSE2__", "sse", 4),
)
INSTALL = "install one, such as g++ (apt install g++, dnf install gcc-c++, xcode-select --install)"
FALLBACK = "or use engine=torch"


def compiler() -> str | None:
    """Return the C++ compiler's path: `$CXX`, else the first of COMPILERS; None without one."""
    command = _command()
    return shutil.which(command[0]) if command else None


def _command() -> list[str]:
    """Return the compiler's command; `$CXX` may hold options, as in make."""
    if wanted := shlex.split(os.environ.get("CXX", "")):
        return wanted if shutil.which(wanted[0]) else []
    return next(([name] for name in COMPILERS if shutil.which(name)), [])


def require_compiler() -> list[str]:
    """Return the compiler's command.

    Raises:
        UsageError: there is none.
    """
    if command := _command():
        return command
    given = os.environ.get("CXX")
    what = f"CXX is {given!r}" if given else f"a C++ compiler is missing ({', '.join(COMPILERS)})"
    raise UsageError(
        f"{what}, but engine=native must have a C++ compiler to call; {INSTALL}, {FALLBACK}."
    )


def cache_folder() -> Path:
    """`$GOLF_CACHE`, else `$XDG_CACHE_HOME/golf_opt`, else `~/.cache/golf_opt`."""
    if own := os.environ.get("GOLF_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "golf_opt"


def vectors() -> tuple[str, int]:
    """Return the instruction set's name and its floats per vector, as the compiler sees them."""
    return _vectors(tuple(require_compiler()))


@cache
def _vectors(command: tuple[str, ...]) -> tuple[str, int]:
    said = _run([*command, *_flags(), "-dM", "-E", "-x", "c++", os.devnull])
    defined = {line.split()[1] for line in said.splitlines() if line.startswith("#define ")}
    return next(((name, width) for macro, name, width in VECTORS if macro in defined), ("c", 1))


def _flags() -> list[str]:
    return [*FLAGS, this_cpu()]


def this_cpu() -> str:
    """Return the compiler's option for the instructions of this CPU."""
    return "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"


_loaded: dict[tuple[str, ...], ctypes.CDLL] = {}
_loading: dict[tuple[str, ...], threading.Lock] = {}
_guard = threading.Lock()


def check(net: Net) -> None:
    """Raise a UsageError where the kernel cannot do a net."""
    if why := unsupported(net):
        raise UsageError(f"engine is 'native', but must be 'torch' here: {why}.")


def load(
    net: Net,
    images: int,
    width: int | None = None,
    on_message: Message | None = None,
    extra_flags: tuple[str, ...] = (),
    *,
    distorts: bool = False,
    by_loss: bool = False,
    mixes: bool = False,
) -> Library:
    """Return the kernel, its pieces from this process, the cache folder or the compiler.

    Args:
        net: what it trains.
        images: how many images lie side by side in a vector; divides the width.
        width: floats per vector; None is the machine's.
        on_message: told in one line before a compile.
        extra_flags: for the compiler, after ours.
        distorts: whether it distorts the images that it trains on.
        by_loss: whether it tells the loss of each image, and weighs them.
        mixes: whether it mixes the images of a batch.

    Raises:
        UsageError: no compiler, one that fails, a folder that cannot be written to, or a layer
            that the kernel cannot do.
    """
    check(net)
    width = width or vectors()[1]
    defines = [f"-DGOLF_WIDTH={width}", f"-DGOLF_IMAGES={images}"]
    build = (*require_compiler(), *_flags(), *extra_flags, *defines)
    parts = pieces(net, distorts, mixes)
    driver = (*build, *loss_defines(by_loss, mixes), "trial.cpp", "")
    texts = {parts.input, *(piece.source for piece in parts.layers)}
    keys = {text: (*build, "piece.cpp", text) for text in texts}
    note = Once(on_message, f"compiling the kernel of {net.name} ({images} images wide), once")
    found = _libraries([driver, *sorted(keys.values())], note)
    compiled = {text: found[key] for text, key in keys.items()}
    return Library(found[driver], parts, compiled, width, images)


def loss_defines(by_loss: bool, mixes: bool) -> list[str]:
    """Return the compiler's options for what the loss of a recipe wants besides."""
    wanted = {"BY_LOSS": by_loss, "MIXED": mixes}
    return [f"-DGOLF_{name}=1" for name, on in wanted.items() if on]


@dataclass
class Once:
    """Tells something at the first call."""

    say: Message | None
    what: str

    def __call__(self) -> None:
        if self.say is not None:
            self.say(self.what)
        self.say = None


def _libraries(
    keys: Sequence[tuple[str, ...]], announce: Callable[[], None]
) -> dict[tuple[str, ...], ctypes.CDLL]:
    """Return a library for each (command, source, header), compiled where it has to be.

    What another thread is at is left for last, so that threads that need the same do a part each.
    """
    for wait in (False, True):
        for key in keys:
            if key in _loaded:
                continue
            with _guard:
                lock = _loading.setdefault(key, threading.Lock())
            if lock.acquire(blocking=wait):
                try:
                    if key not in _loaded:
                        _loaded[key] = _library(key, announce)
                finally:
                    lock.release()
    return {key: _loaded[key] for key in keys}


def _library(key: tuple[str, ...], announce: Callable[[], None]) -> ctypes.CDLL:
    *build, source, header = key
    path = cached(
        f"{key_of_build(build, source + header)}.so",
        lambda folder: compile_shared(build, source, header, folder),
        announce,
    )
    return ctypes.CDLL(str(path))  # it releases Python's lock during a call


def key_of(*parts: str) -> str:
    """Everything that a compiled file depends on, the kernel's sources too, as 24 hex digits."""
    sha = hashlib.sha256()
    for part in (*parts, *sources().values()):
        sha.update(part.encode() + b"\0")
    return sha.hexdigest()[:24]


def key_of_build(build: list[str], header: str) -> str:
    """Return `key_of` for what a C++ compiler makes for this CPU."""
    return key_of(*build, version_of(build[0]), _cpu(), header)


@cache
def version_of(executable: str) -> str:
    """What a compiler says of itself."""
    return _run([executable, "--version"])


@cache
def _cpu() -> str:
    """What `-march=native` depends on."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    lines = info.read_text(errors="replace").split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(wanted))


@cache
def sources() -> dict[str, str]:
    """The kernel's files by name."""
    folder = resources.files("golf_opt.engines.native") / "kernel"
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {file.name: file.read_text() for file in files if file.name.endswith(("pp",))}


def _run(command: list[str]) -> str:
    """Return what a command printed.

    A signal to our process group, such as Ctrl-C, does not reach it: it is for us to say what ends.
    """
    try:
        process = subprocess.Popen(
            command, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        raise UsageError(f"{command[0]} cannot be run: {error.strerror}; {FALLBACK}.") from error
    with process:
        try:
            out, err = process.communicate()
        except BaseException:
            if process.poll() is None:  # nobody waits for it any more
                os.killpg(process.pid, signal.SIGTERM)
            raise
    if process.returncode:
        said = (err or out).strip() or f"exit status {process.returncode}"
        raise UsageError(
            f"the C++ compiler is {command[0]!r}, but must be one that compiles the kernel; it "
            f"failed with:\n{said}\ncommand: {shlex.join(command)}\n"
            f"Set CXX to another compiler, {FALLBACK}."
        )
    return out


def _checksum(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _is_whole(path: Path) -> bool:
    """Whether the library is there and is what was once written."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == _checksum(path).read_text()
    except (OSError, UnicodeDecodeError):
        return False


def kept(name: str) -> Path | None:
    """Return the path of a file of the cache folder, None where it is not there, or not whole."""
    path = cache_folder() / name
    return path if _is_whole(path) else None


def forget(name: str) -> None:
    """Have a file of the cache folder made anew when it is asked for next."""
    (cache_folder() / name).unlink(missing_ok=True)


def cached(name: str, make: Callable[[Path], Path], announce: Callable[[], None]) -> Path:
    """Return the path of a file of the cache folder, made at the first call.

    Args:
        name: of the file.
        make: makes it anywhere in an empty folder; returns where.
        announce: called before that.

    Raises:
        UsageError: the folder cannot be written to, or whatever `make` raises.
    """
    path = cache_folder() / name
    if _is_whole(path):
        return path
    with _writable(path.parent), _locked(path.with_suffix(".lock")):
        if _is_whole(path):  # another process was faster
            return path
        announce()
        for stale in path.parent.glob(f"{path.stem}.*.tmp"):  # of a process that was killed
            shutil.rmtree(stale, ignore_errors=True)
        with tempfile.TemporaryDirectory(
            prefix=f"{path.stem}.", suffix=".tmp", dir=path.parent, ignore_cleanup_errors=True
        ) as folder:
            made = make(Path(folder))
            checksum = Path(folder, "checksum")
            checksum.write_text(hashlib.sha256(made.read_bytes()).hexdigest())
            made.replace(path)
            checksum.replace(_checksum(path))
    return path


def compile_shared(build: list[str], source: str, header: str, folder: Path) -> Path:
    """Compile one of the kernel's sources with a net's header; return the shared library."""
    for name, text in sources().items():
        Path(folder, name).write_text(text)
    Path(folder, "net.inc").write_text(header)
    if source == "piece.cpp":
        (folder / PRECOMPILED).symlink_to(_precompiled(cache_folder(), *build))
    library = folder / "made.so"
    # Without start-up code: with -ffast-math, gcc adds some that changes how the whole process
    # rounds denormal numbers, numpy's and torch's too.
    command = [*build, '-DGOLF_NET="net.inc"', "-shared", "-nostartfiles"]
    _run([*command, str(folder / source), "-o", str(library)])
    return library


@cache
def _precompiled(_folder: Path, *build: str) -> Path:
    """Return where in this cache folder what all pieces include is compiled, for them to begin.

    A compiler that cannot use it, or finds it gone, reads the header.
    """

    def make(folder: Path) -> Path:
        for name, text in sources().items():
            Path(folder, name).write_text(text)
        made = folder / PRECOMPILED
        header = str(made.with_suffix(""))
        _run([*build, "-x", "c++-header", header, "-o", str(made)])
        return made

    return cached(f"{key_of_build(list(build), PRECOMPILED)}.gch", make, lambda: None)


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Turn a folder that cannot be written to into a UsageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UsageError(
            f"the cache folder is {folder}, but must be one that can be written to "
            f"({error.strerror}); set GOLF_CACHE to another folder, {FALLBACK}."
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
