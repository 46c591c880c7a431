"""Engines whose lanes go on in threads while their caller handles what was returned.

Each slice comes with a copy of the lane's tensors at its end, so `state` answers for the slice that
was returned, however far ahead the lane is.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Self, TypeVar

from golf_opt.engines.base import MOMENTS, Floats, Job, LaneState, Slice, initial_weights
from golf_opt.engines.flat import Layout, pack, unpack
from golf_opt.engines.order import Hardness


@dataclass(frozen=True)
class Place:
    """How far a lane is, as in `LaneState`, with its tensors in one array."""

    flat: Floats  # as the run's layout has it
    epoch: int
    step: int
    loss_sum: float
    time_s: float
    hardness: Hardness | None  # of the images, where the recipe looks at it

    def next_epoch(self, flat: Floats) -> Place:
        """Return the beginning of the epoch behind this one."""
        hardness = self.hardness.at_epochs_end() if self.hardness else None
        return Place(flat, self.epoch + 1, 0, 0.0, 0.0, hardness)

    def copy(self) -> Place:
        hardness = self.hardness.copy() if self.hardness else None
        return replace(self, flat=self.flat.copy(), hardness=hardness)


@dataclass(kw_only=True)
class Run:
    """A lane at work, and what its thread leaves for the caller."""

    job: Job
    layout: Layout
    mask: Floats | None
    at: Place  # the thread's
    returned: Place  # at the end of the slice that the caller took last
    until: int  # the epoch at whose end it rests
    pending: deque[tuple[Slice, Place]] = field(default_factory=deque)
    done: bool = False  # nothing more will be pending, unless it rests and is extended
    failed: bool = False  # its training cannot go on

    @classmethod
    def begin(
        cls, job: Job, state: LaneState | None, until: int | None, padded: int, n: int, **parts: Any
    ) -> Self:
        """Return the run of a job on n images, from its beginning or where `state` left it."""
        until = job.epochs if until is None else until
        net, tensors = job.net, state.tensors if state else initial_weights(job.net, job.seed)
        kinds = ("weights", *MOMENTS[job.candidate.optimizer])
        layout = Layout(net, kinds, padded, job.candidate.average != "none")
        masked = any(name.startswith("masks/") for name in tensors)
        mask = pack(tensors, "masks", net.parameters, padded, missing=1.0) if masked else None
        flat = layout.join(tensors)
        if mask is not None:
            flat[:padded] *= mask
        hardness = Hardness.begin(job, state, n)
        state = state or LaneState({}, 0, 0, 0.0, 0.0)
        at = Place(flat, state.epoch, state.step, state.loss_sum, state.time_s, hardness)
        return cls(
            job=job, layout=layout, mask=mask, at=at, returned=at.copy(), until=until, **parts
        )

    @property
    def rests(self) -> bool:
        """Whether it is as far as it is meant to go."""
        return self.at.epoch >= self.until

    def state(self) -> LaneState:
        """Return a copy of the returned state, its tensors by name."""
        at, tensors = self.returned, self.layout.split(self.returned.flat)
        if self.mask is not None:
            tensors |= unpack(self.mask, "masks", self.layout.net.parameters)
        if at.hardness is not None:
            tensors |= at.hardness.tensors(at.step)
        tensors = {name: values.copy() for name, values in tensors.items()}
        return LaneState(tensors, at.epoch, at.step, at.loss_sum, at.time_s)


AnyRun = TypeVar("AnyRun", bound=Run)


class BackgroundEngine(Generic[AnyRun]):
    """The part of `engines.base.Engine` that hands slices from threads to the caller."""

    num_lanes: int

    def __init__(self) -> None:
        self._runs: dict[int, AnyRun] = {}
        self._changed = threading.Condition()
        self._failure: BaseException | None = None

    def step(self) -> list[Slice]:
        with self._changed:
            while not (slices := self._take()) and any(not r.done for r in self._runs.values()):
                self._changed.wait()
            self._changed.notify_all()
        return slices

    def state(self, lane: int) -> LaneState:
        return self._runs[lane].state()

    def extend(self, lane: int, until: int) -> None:
        with self._changed:
            run = self._runs[lane]
            run.until = until
            run.done = run.done and (run.rests or run.failed)
            self._changed.notify_all()

    def _take(self) -> list[Slice]:
        """Return the next slice of every lane that has one; raise what ended a thread."""
        if self._failure is not None:
            raise self._failure
        slices = []
        for run in self._runs.values():
            if run.pending:  # one at a time, so that `state` is that of the slice returned
                part, run.returned = run.pending.popleft()
                slices.append(part)
        return slices

    def _hand_over(self, run: AnyRun, entries: Sequence[tuple[Slice, Place]]) -> None:
        """Leave slices for the caller, the last of them at the run's `at`."""
        with self._changed:
            run.pending.extend(entries)
            run.failed = any(part.error for part, _ in entries)
            run.done = run.failed or run.rests
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        """Let the caller's next step raise this."""
        with self._changed:
            self._failure = error
            self._changed.notify_all()
