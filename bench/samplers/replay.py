"""An engine that trains nothing: its lanes replay what a table recorded, an epoch a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench.samplers.table import Table
from golf_opt.engines.base import EpochResult, Job, LaneState, Slice, Tensors
from golf_opt.study.callbacks import Callback, TrialRun
from golf_opt.task import rng
from golf_opt.task.arch import Net
from golf_opt.task.data import Split

MOST_SEEDS = 64  # of a point, in a study that trains it with several


@dataclass
class _Lane:
    job: Job
    curve: list[float]
    epoch: int  # finished
    until: int


class ReplayEngine:
    """Implements `engines.base.Engine` over a table.

    Args:
        table: of recorded trainings.
        seed: of the study, whose seeds are shuffled onto those of the table.
        lanes: trials side by side; all go through their epochs at the same pace.
    """

    name = "replay"
    device = "a table"

    def __init__(self, table: Table, seed: int, lanes: int = 2) -> None:
        self.table, self.num_lanes = table, lanes
        self.coming: Mapping[str, Any] = {}  # parameters of the trial that a lane is to get
        self._lanes: dict[int, _Lane] = {}
        count = table.num_search_seeds
        self._shuffled = rng.permutation(rng.derive(seed, "table"), count)
        self._index = {rng.derive(seed, "seed", k): k % count for k in range(MOST_SEEDS)}

    def start(
        self, lane: int, job: Job, state: LaneState | None = None, until: int | None = None
    ) -> None:
        assert lane not in self._lanes
        point = self.table.nearest(self.coming)
        # a seed of the study's own, the same for every point, is one of the table's; any other
        # falls on one of them
        index = self._index.get(job.seed, job.seed % len(self._shuffled))
        curve = self.table.curve(point, int(self._shuffled[index]))
        begun = state.epoch if state is not None else 0
        self._lanes[lane] = _Lane(job, curve, begun, until or job.epochs)

    def extend(self, lane: int, until: int) -> None:
        self._lanes[lane].until = until

    def step(self) -> list[Slice]:
        """Return an epoch of each lane that is not at its rest."""
        slices = []
        for lane, held in self._lanes.items():
            if held.epoch >= held.until:
                continue
            held.epoch += 1
            if held.epoch > len(held.curve):
                slices.append(Slice(lane, held.epoch, 1.0, error="training failed when recorded"))
                continue
            value = held.curve[held.epoch - 1]
            result = EpochResult(held.epoch, 0.0, value, held.job.candidate.lr, 0.0)
            if held.epoch == held.job.epochs:
                result = replace(result, train_accuracy=value)
            slices.append(Slice(lane, held.epoch, 1.0, result))
        return slices

    def state(self, lane: int) -> LaneState:
        return LaneState({}, self._lanes[lane].epoch, 0, 0.0, 0.0)

    def stop(self, lane: int) -> None:
        del self._lanes[lane]

    def evaluate(self, net: Net, tensors: Tensors, split: Split) -> float:
        raise NotImplementedError("a table has no weights")

    def close(self) -> None:
        self._lanes.clear()


class Remembering(Callback):
    """Keeps where a trial stands, as `Checkpointing` does, in memory; tells the engine its point.

    Of a family's net the engine could not say which parameters made it.
    """

    def __init__(self, engine: ReplayEngine) -> None:
        self._engine = engine
        self._kept: dict[int, tuple[LaneState, list[Any]]] = {}

    def on_trial_start(self, run: TrialRun) -> None:
        self._engine.coming = run.trial.params
        if run.number in self._kept:
            run.resume, history = self._kept[run.number]
            run.history = list(history)
            run.epochs_done = run.resume.epoch

    def on_epoch_end(self, run: TrialRun) -> None:
        state = LaneState({}, len(run.history), 0, 0.0, 0.0)
        self._kept[run.number] = (state, list(run.history))
