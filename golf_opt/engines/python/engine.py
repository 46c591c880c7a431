"""The engine of `objective=my_module:train`: each lane is a Python process that runs trials."""

from __future__ import annotations

import dataclasses
import math
import os
import selectors
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DataConfig
from golf_opt.engines.base import LaneState, Slice, Tensors
from golf_opt.engines.process import ChildProcess
from golf_opt.engines.python.job import Call, ObjectiveResult
from golf_opt.task.arch import Net
from golf_opt.task.data import Split

WAIT_S = 0.5  # that a step waits for a value; signals and other workers are looked after between
LANE = "golf_opt.engines.python.lane"


@dataclasses.dataclass
class _Run:
    """A trial in a lane."""

    call: Call
    process: ChildProcess | None  # None: there is nothing more to run, or it has ended
    epoch: int  # that has its values
    until: int = 0  # the epoch at whose end it rests
    waits: bool = False  # the process, for a word to go on


class PythonEngine:
    """Runs an objective's trials, one in each lane; see `lane` for what its processes do.

    Args:
        objective: `module:function`; only the lanes' processes import it.
        names: of what it optimises.
        lanes: how many; None for one on each core.
        threads: of NumPy and PyTorch in each.
        data: for `job.data`, if it is asked for.
        protocol: of the data.
        say: prints a line to the user.

    Raises:
        UsageError: the objective cannot be imported, or is none.
    """

    name, device = "python", "cpu"

    def __init__(
        self,
        objective: str,
        names: Sequence[str],
        lanes: int | None,
        threads: int,
        data: DataConfig | None,
        protocol: str,
        say: Callable[[str], None],
    ) -> None:
        self.num_lanes = lanes or num_cores()
        self._objective, self._threads, self._say = objective, threads, say
        self._hello: Mapping[str, Any] = {
            "objective": objective,
            "names": list(names),
            "data": None if data is None else _as_json(data),
            "protocol": protocol,
        }
        self._runs: dict[int, _Run] = {}
        self._idle: list[ChildProcess] = []  # that can be given a trial
        self._new: set[ChildProcess] = set()  # that have not said yet that they are ready
        first = self._begin()
        try:
            answer = self._welcome(first)
        except BaseException:
            first.kill()
            raise
        self.digest: str = answer["digest"]  # of the module's source file
        self._idle.append(first)

    def _begin(self) -> ChildProcess:
        process = ChildProcess(LANE, self._hello, self._threads, self._say)
        self._new.add(process)
        return process

    def _welcome(self, process: ChildProcess) -> dict[str, Any]:
        """Return what a new process says first; raise a UsageError where it is no welcome."""
        answer = process.take()
        self._new.discard(process)
        if answer is None:
            how = process.ended_with()
            raise UsageError(f"objective {self._objective} ended its process with {how}.")
        if "refused" in answer:
            raise UsageError(f"{answer['refused'].rstrip('.')}.".replace("?.", "?"))
        return answer

    def start(
        self, lane: int, job: Call, state: LaneState | None = None, until: int | None = None
    ) -> None:
        self._runs[lane] = _Run(job, None, state.epoch if state is not None else 0)
        self.extend(lane, job.epochs if until is None else until)

    def extend(self, lane: int, until: int) -> None:
        run = self._runs[lane]
        run.until, job = until, run.call
        if run.epoch < until and run.process is None:
            run.process = self._idle.pop() if self._idle else self._begin()
            run.process.put(
                {
                    "params": dict(job.params), "seed": job.seed, "epochs": job.epochs,
                    "number": job.number, "folder": str(job.folder.absolute()), "done": run.epoch,
                }
            )  # fmt: skip

    def step(self) -> list[Slice]:
        """Let the lanes go on whose values were taken; return what comes within half a second."""
        ready: list[int] = []
        with selectors.DefaultSelector() as selector:
            for lane, run in self._runs.items():
                if run.process is None or run.epoch >= run.until:
                    continue
                if run.waits:
                    run.waits = False
                    run.process.put("go")
                selector.register(run.process.socket, selectors.EVENT_READ, lane)
                if run.process.has_more:
                    ready.append(lane)
            if not ready and selector.get_map():
                ready = [key.data for key, _ in selector.select(WAIT_S)]
        return [part for lane in ready if (part := self._slice(lane)) is not None]

    def _slice(self, lane: int) -> Slice | None:
        """Return what a lane has to say; None where its process has only just begun."""
        run = self._runs[lane]
        assert run.process is not None
        if run.process in self._new:
            try:
                self._welcome(run.process)
            except UsageError as refusal:
                run.process.kill()
                return self._error(lane, str(refusal).removesuffix("."))
            return None
        message = run.process.take()
        if message is None:
            return self._error(lane, f"its process ended with {run.process.ended_with()}")
        if "error" in message:
            self._idle.append(run.process)
            return self._error(lane, message["error"])
        run.epoch, run.waits = message["epoch"], True
        values = tuple(message["values"])
        return Slice(lane, run.epoch, 1.0, result_of(run.epoch, values, message["time_s"]))

    def _error(self, lane: int, why: str) -> Slice:
        run = self._runs[lane]
        run.process = None
        return Slice(lane, run.epoch + 1, 0.0, error=why)

    def state(self, lane: int) -> LaneState:
        """Return how many epochs are done; the rest is in the trial's folder."""
        return LaneState({}, self._runs[lane].epoch, 0, 0.0, 0.0)

    def stop(self, lane: int) -> None:
        """Free the lane; a process in the middle of an epoch ends, another is kept."""
        run = self._runs.pop(lane)
        if run.process is None:
            return
        if run.waits:
            run.process.put("stop")
            self._idle.append(run.process)
        else:
            self._new.discard(run.process)
            run.process.kill()

    def evaluate(self, net: Net, tensors: Tensors, split: Split) -> float:
        """There is no net here."""
        raise AssertionError("an objective has no net of ours to evaluate")

    def close(self) -> None:
        for process in [*self._idle, *(run.process for run in self._runs.values())]:
            if process is not None:
                process.kill()
        self._idle.clear()
        self._runs.clear()


def result_of(epoch: int, values: tuple[float, ...], time_s: float) -> ObjectiveResult:
    """Return an epoch's values as what the study knows of epochs."""
    return ObjectiveResult(epoch, math.nan, values[0], math.nan, time_s, values=values)


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _as_json(data: DataConfig) -> dict[str, Any]:
    """Return a configuration of data for another process."""
    row = dataclasses.asdict(data)
    return {key: str(v) if isinstance(v, os.PathLike) else v for key, v in row.items()}
