"""`golf-opt doctor`: what this machine has, how fast it trains, and what to do where it fails."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement  # Optuna and PyTorch have it

from golf_opt import __version__
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DataConfig, DoctorConfig, EngineConfig, StorageConfig
from golf_opt.engines import create_engine
from golf_opt.engines.base import EngineFault
from golf_opt.engines.cuda.driver import Found, find_gpu
from golf_opt.engines.cuda.program import nvrtc_version
from golf_opt.engines.cuda.verdict import Verdict, verdict_on
from golf_opt.engines.native import library, physical_cores, unsupported
from golf_opt.engines.speed import images_per_second, made_up
from golf_opt.storage.connect import NETWORK_FILE_SYSTEMS, file_system, opened_to_read
from golf_opt.storage.url import file_of, is_journal, show_url, storage_url
from golf_opt.task.arch import Net, build_net
from golf_opt.task.data import MissingData, load
from golf_opt.task.inputs import MNIST
from golf_opt.task.modules.resolve import resolve
from golf_opt.utils.processes import git_commit
from golf_opt.utils.said import Say
from golf_opt.utils.text import count, one_line

SHOWN = ("torch", "optuna", "numpy")  # whose versions are told; all are checked
QUESTIONS = 11  # to the database, for the median
SLOW_S = 0.1  # of one of them
LEAST_FREE = 1e9  # bytes of a disk
IMAGES, TESTED = 3000, 500  # MNIST's share of evaluation
MEASURED_S = 2.0
QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Line:
    """What was found of a part of the machine, and what to do if it is amiss."""

    part: str
    found: str
    advice: str | None = None  # None: all is well

    @property
    def in_words(self) -> str:
        state = "ok" if self.advice is None else "warning"
        line = f"{state:<8} {self.part:<9} {self.found}"
        return line if self.advice is None else f"{line}\n{'':18} -> {self.advice}"


def examine(config: DoctorConfig, say: Say) -> None:
    """Print what is found, line by line as it is, or all of it as JSON."""
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    head = f"golf-opt {__version__}, {system}, {platform.machine()}"
    if config.format == "json":
        told = [asdict(line) | {"ok": line.advice is None} for line in lines(config)]
        say(json.dumps({"machine": head, "commit": git_commit(), "lines": told}, indent=2))
        return
    say(head)
    found = []
    for line in lines(config):
        say(line.in_words)
        found.append(line)
    warnings = sum(line.advice is not None for line in found)
    say(count(warnings, "warning"))


def lines(config: DoctorConfig) -> Iterator[Line]:
    """Look at one part after the other."""
    yield Line("python", platform.python_version())
    yield packages_line(metadata.requires("golf-opt") or [])
    yield compiler_line()
    yield cores_line(physical_cores(), os.getloadavg()[0], quota(QUOTA))
    gpu = find_gpu()
    yield gpu_line(gpu)
    yield nvrtc_line(gpu)
    yield data_line(config.data)
    yield storage_line(config.storage)
    yield disk_line("disk", config.folder)
    yield cache_line(library.cache_folder())
    yield from engine_lines(config, gpu)


def packages_line(required: Sequence[str]) -> Line:
    """Compare what is installed with what golf-opt asks for, extras aside."""
    wrong, versions = [], {}
    for text in required:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            versions[requirement.name] = version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, but must be {requirement.specifier}")
    shown = ", ".join(f"{name} {versions[name]}" for name in SHOWN if name in versions)
    advice = f"{'; '.join(wrong)}; install golf-opt again" if wrong else None
    return Line("packages", shown or "none", advice)


def compiler_line() -> Line:
    try:
        command = library.require_compiler()
        vectors, width = library.vectors()
        version = library.version_of(command[0]).splitlines()[0]
    except UsageError as error:
        return Line("compiler", "none that works", one_line(str(error)))
    found = f"{version}; {vectors}, {width} floats a vector"
    if width > 1:
        return Line("compiler", found)
    return Line("compiler", found, "it has no vectors for this CPU; set CXX to g++ or clang++")


def cores_line(cores: int, load: float, most: float | None) -> Line:
    """Tell of the cores, and whether they are ours.

    Args:
        cores: physical ones that this process may use.
        load: the average of the last minute.
        most: cores' worth of time that a container has; None is no limit.
    """
    found = f"{cores} physical, load {load:.1f}"
    if most is not None and most < cores:
        advice = f"the container has the time of {most:g}; give engine.lanes={max(1, int(most))}"
        return Line("cores", found, advice)
    if load > 1.5 * cores:
        return Line("cores", found, "others compute too; lanes beyond free cores gain nothing")
    return Line("cores", found)


def quota(path: Path) -> float | None:
    """Return the cores' worth of time that a container may take; None where nothing limits it."""
    with contextlib.suppress(OSError, ValueError):
        most, period = path.read_text().split()
        return int(most) / int(period)
    return None


def gpu_line(gpu: Found | None) -> Line:
    if gpu is None:
        return Line("gpu", "none; trials train on the CPU")
    if gpu.why is not None:
        return Line("gpu", gpu.why, "see what nvidia-smi says; restart, or install the driver anew")
    memory = f"{gpu.memory_bytes / 1e9:.0f} GB"
    return Line("gpu", f"{gpu.name}, {gpu.arch}, {memory}, driver {gpu.driver}")


def nvrtc_line(gpu: Found | None) -> Line:
    if gpu is None:
        return Line("nvrtc", "not needed without a GPU")
    try:
        return Line("nvrtc", nvrtc_version())
    except UsageError as error:
        return Line("nvrtc", "none", one_line(str(error)))


def data_line(config: DataConfig) -> Line:
    """Look for the data without downloading it; `auto` is MNIST."""
    config = replace(config, name="mnist") if config.name == "auto" else config
    try:
        found = load(config, download=False)
    except MissingData:
        advice = "a study downloads it, or with data=auto takes digits; GOLF_DATA is its folder"
        return Line("data", f"no {config.name} in {config.root}", advice)
    except UsageError as error:
        return Line("data", f"{config.name} cannot be read", one_line(str(error)))
    images = f"{len(found.train):,} and {len(found.test):,} images"
    return Line("data", f"{found.name} in {config.root}: {images}")


def storage_line(config: StorageConfig) -> Line:
    """Ask the storage for its studies a few times; one that is not there yet is not made."""
    try:
        path, shown = file_of(config), "memory"
        if path is not None:
            shown = at_home(path)
        elif config.url or config.url_env:
            shown = show_url(storage_url(config))
        if path is not None and not path.exists():
            answers = "made by the first study"
        else:
            with opened_to_read(config) as storage:
                seconds = statistics.median(
                    timed(storage.get_all_studies) for _ in range(QUESTIONS)
                )
            answers = f"answers in {1000 * seconds:.1f} ms"
            if seconds > SLOW_S:
                return Line("storage", f"{shown}: {answers}", SLOW)
    except UsageError as error:
        return Line("storage", "cannot be used", one_line(str(error)))
    kind = file_system(path) if path is not None and not is_journal(config) else ""
    if kind in NETWORK_FILE_SYSTEMS:
        advice = f"{kind} is a network's, where SQLite is slow; give dir= on a disk of this machine"
        return Line("storage", f"{shown}: {answers}", advice)
    return Line("storage", f"{shown}: {answers}")


SLOW = "that is slow: lanes may wait for it; take a server that is nearer, or less busy"


def timed(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def disk_line(part: str, folder: Path) -> Line:
    """Tell how much is free where a folder is, or will be."""
    free = shutil.disk_usage(existing(folder)).free
    found = f"{free / 1e9:,.0f} GB free for {at_home(folder)}"
    return Line(part, found, "make room: a full disk ends a study" if free < LEAST_FREE else None)


def cache_line(folder: Path) -> Line:
    try:
        with tempfile.TemporaryFile(dir=existing(folder)):
            pass
    except OSError:
        return Line("cache", f"{folder} cannot be written to", "set GOLF_CACHE to another folder")
    return disk_line("cache", folder)


def at_home(path: Path) -> str:
    """Return a path with `~` for the user's folder, whose name is nobody's business."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(
        place for place in (folder.absolute(), *folder.absolute().parents) if place.exists()
    )


def engine_lines(config: DoctorConfig, gpu: Found | None) -> Iterator[Line]:
    """Let a GPU prove itself, and measure what trains."""
    try:
        net = build_net(resolve(config.arch, MNIST, lambda line: None), MNIST)
        if gpu is not None and config.engine.name in ("auto", "cuda") and not unsupported(net):
            yield proof_line(verdict_on(gpu, net, config.engine.lanes, lambda line: None))
        yield speed_line(config.engine, net)
    except (UsageError, EngineFault) as error:
        yield Line("engine", f"{config.engine.name} cannot be had", one_line(str(error)))


def proof_line(verdict: Verdict) -> Line:
    if verdict.why is not None:
        again = f"; delete {verdict.kept} to check it again" if verdict.kept else ""
        report = "report it with golf-opt doctor format=json"
        return Line("proof", f"{verdict.gpu} failed: {verdict.why}", f"{report}{again}")
    rate = f"{verdict.rate:,.0f} images/s in {verdict.lanes} lanes"
    rival = f"{verdict.rival} {verdict.rival_rate:,.0f} in {verdict.rival_lanes}"
    took = f"checked against {verdict.rival} in {verdict.seconds:.0f} s"
    return Line("proof", f"{verdict.gpu}: {rate}, {rival}; {took}")


def speed_line(config: EngineConfig, net: Net) -> Line:
    """Measure the engine that a study of many trials would have, with its lanes full."""
    said: list[str] = []
    view = made_up(net.input, IMAGES, TESTED)
    with contextlib.closing(create_engine(config, view, net, said.append, trials=None)) as engine:
        rate = images_per_second(engine, net, IMAGES, MEASURED_S)
        found = f"{engine.name} on {engine.device}, {engine.num_lanes} lanes: {rate:,.0f} images/s"
    why = next((line for line in said if line.startswith("engine=auto takes torch")), None)
    return Line("engine", f"{found} of {net.name}", why)
