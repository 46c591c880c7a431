"""The GPU proves itself: what it computes is held to another engine, then their speeds compared.

This is what runs in a process of its own, so that a GPU that faults or hangs takes nothing with it.
`verdict` starts it and keeps what it says:

    {"net": ..., "input": ..., "device": ..., "rival": ..., "lanes": ..., "race_s": ...,
     "layouts": {"14": ...}}
        -> {"stage": "the compile"}, ... {"why": None, "rate": ...} or {"why": what is wrong}

With `only` a batch size is proved by itself, and the GPU's speed at it measured without a rival.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from golf_opt.config.errors import UsageError
from golf_opt.engines import base
from golf_opt.engines.base import Engine, EngineFault, Introspective, Job, LaneState, Tensors
from golf_opt.engines.cuda.devices import Device, Gpu, OutOfMemory
from golf_opt.engines.cuda.engine import CudaEngine
from golf_opt.engines.cuda.program import Block, blocks_of
from golf_opt.engines.lanes import Run, train
from golf_opt.engines.native.codegen import dropout_nodes
from golf_opt.engines.process import Messages
from golf_opt.engines.speed import BATCH_SIZES, images_per_second, made_up
from golf_opt.task.arch import Net, build_net
from golf_opt.task.data import View
from golf_opt.task.inputs import InputSpec
from golf_opt.task.recipe import Candidate
from golf_opt.utils.text import one_line

IMAGES, TESTED = 100, 50
STEPS = 50  # of each training, at the least
SMOOTHING = 0.1
RACED, RACED_TESTED = 3000, 500  # images: MNIST's share of evaluation
# What float32 and another order of adding leave between two engines that are both right; what a
# normalisation cancels has nothing but noise.
APART, LOSS_APART = 5e-4, 1e-3
NOISE, NOISE_OF_NORMALISED = 1e-5, 1e-2


class Wrong(Exception):
    """The GPU computes something else; the message says what."""


@dataclass
class Proof:
    """A net on a device, beside another engine.

    Args:
        net: what is trained.
        device: where, as `CudaEngine` takes it.
        rival: makes the other engine of a view and a number of lanes.
        tell: is given the name of each stage as it begins.
    """

    net: Net
    device: Device
    rival: Callable[[View, int | None], Engine]
    tell: Callable[[str], None]
    layouts: Mapping[int, Block] = field(default_factory=dict)  # those that were tuned
    only: int | None = None  # the batch size to look at; None: BATCH_SIZES
    view: View = field(init=False)
    beside: str = ""  # the name of the other engine

    def __post_init__(self) -> None:
        self.view = made_up(self.net.input, IMAGES, TESTED)

    @property
    def sizes(self) -> tuple[int, ...]:
        return BATCH_SIZES if self.only is None else (self.only,)

    def check(self) -> None:
        """Compare gradients, trainings and a training that was stopped.

        Raises:
            Wrong: they are not the same.
        """
        self.tell("the compile")
        jobs = self._jobs()
        with self._gpu(self.view, lanes=len(jobs), slice_s=10.0) as gpu:
            gpu.prepare(self.net, self.sizes)
            self._check_spills(gpu)
            with self._other(self.view, len(jobs)) as other:
                self.beside = other.name
                expected = trained(other, jobs)  # which compiles, too
                self.tell("the gradients")
                for size in self.sizes:
                    self._check_gradients(gpu, other, size)
            self.tell("the training")
            found = trained(gpu, jobs)
        for job, (losses, _), (others, _) in zip(jobs, found, expected, strict=True):
            _compare(losses, others, job.candidate.batch_size)
        self.tell("the stop and resume")
        middle = len(jobs) // 2
        self._check_resume(jobs[middle], *found[middle])

    def race(self, seconds: float, lanes: int | None) -> dict[str, Any]:
        """Return images a second: of the GPU with its lanes full, of one of them, of the rival."""
        self.tell("the race")
        view, found = made_up(self.net.input, RACED, RACED_TESTED), dict[str, Any]()
        with self._gpu(view, lanes=lanes) as gpu:
            gpu.prepare(self.net, self.sizes)
            found["lanes"] = gpu.num_lanes
            measured = partial(
                images_per_second, gpu, self.net, RACED,
                batch_sizes=self.sizes, clock=self.device.clock,
            )  # fmt: skip
            found["rate"] = measured(seconds)
            if self.only is not None:
                return found
            found["rate_of_one"] = measured(seconds / 2, lanes=1)
        self.tell("the race of its rival")
        with self._other(view, lanes) as other:
            found["rival_lanes"] = other.num_lanes
            found["rival_rate"] = images_per_second(other, self.net, RACED, seconds)
        return found

    # --- engines ---

    def _gpu(self, view: View, **more: Any) -> contextlib.closing[CudaEngine]:
        more |= {"device": self.device, "layouts": self.layouts}
        return contextlib.closing(CudaEngine(view, **more))

    def _other(self, view: View, lanes: int | None) -> contextlib.closing[Engine]:
        return contextlib.closing(self.rival(view, lanes))

    # --- checks ---

    def _check_spills(self, gpu: CudaEngine) -> None:
        """Refuse a layout to be tuned for whose registers go to memory; others may be all slow."""
        spilled = max(row.get("spill_bytes", 0) for row in gpu.kernels())
        if self.only is not None and spilled:
            raise Wrong(f"it spills {spilled} bytes of registers")

    def _check_gradients(self, gpu: CudaEngine, other: Engine, size: int) -> None:
        batch = self.view.train.take("batch", np.arange(size))
        tensors = base.initial_weights(self.net, 3)
        keys = [1000 + node for node in range(len(dropout_nodes(self.net)))]
        found_loss, found = gpu.single_pass(self.net, tensors, size).gradients(
            batch, SMOOTHING, keys
        )
        loss, expected = _gradients(other, self.net, tensors, batch, keys)
        expected = {name: v for name, v in expected.items() if name.startswith("gradients/")}
        largest = max(float(np.abs(values).max()) for values in expected.values())
        noise = NOISE_OF_NORMALISED if self.net.buffers else NOISE
        for name, values in expected.items():
            scale = max(float(np.abs(values).max()), noise * largest)
            apart = float(np.abs(found[name] - values).max()) / scale
            if not apart <= APART:
                what = name.removeprefix("gradients/")
                raise Wrong(f"the gradient of {what} is off by {apart:.2%} at batch size {size}")
        if not abs(found_loss - loss) <= APART * abs(loss):
            raise Wrong(
                f"the loss is {found_loss:.6g} at batch size {size}, but must be {loss:.6g}"
            )

    def _jobs(self) -> list[Job]:
        """Return a training of each batch size, of about as many steps each."""
        jobs = []
        for seed, size in enumerate(self.sizes):
            epochs = -(-STEPS // base.steps_per_epoch(IMAGES, size))
            recipe = Candidate(size, 1e-3, label_smoothing=SMOOTHING)
            jobs.append(Job(self.net, recipe, seed, epochs))
        return jobs

    def _check_resume(self, job: Job, losses: list[float], tensors: Tensors) -> None:
        """Stop the same training in an epoch, a step in each launch, and let it go on."""
        with self._gpu(self.view, lanes=2, slice_s=0.0) as gpu:
            state = half_way(gpu, job)
            ((rest, after),) = trained(gpu, [job], state)
        same = rest == losses[state.epoch :] and after.keys() == tensors.keys()
        differ = [
            name for name, values in tensors.items() if not np.array_equal(after[name], values)
        ]
        if not same or differ:
            what = differ[0] if differ else "its loss"
            raise Wrong(f"a training that was stopped goes on as another one ({what} differs)")


def _compare(losses: Sequence[float], others: Sequence[float], size: int) -> None:
    apart = max(abs(a - b) / max(abs(b), 1e-3) for a, b in zip(losses, others, strict=True))
    if not apart <= LOSS_APART:
        raise Wrong(f"losses are off by {apart:.2%} along {STEPS} steps at batch size {size}")


def trained(
    engine: Engine, jobs: Sequence[Job], state: LaneState | None = None
) -> list[tuple[list[float], Tensors]]:
    """Train jobs side by side; return the losses of each, an epoch each, and its tensors."""
    runs = [Run(number, job, state) for number, job in enumerate(jobs)]
    tensors: dict[int, Tensors] = {}
    for run, part in train(engine, runs):
        if run.error is not None:
            raise Wrong(run.error)
        if run.over:
            tensors[run.key] = engine.state(part.lane).tensors
    return [([result.loss for result in run.history], tensors[run.key]) for run in runs]


def half_way(engine: Engine, job: Job) -> LaneState:
    """Train until somewhere in the second epoch, and stop."""
    with contextlib.closing(train(engine, [Run(0, job)])) as slices:
        for _, part in slices:
            if part.epoch == 2 and 0 < part.progress < 1:
                return engine.state(part.lane)
    raise Wrong("a launch does not end when its time is over")


def _gradients(
    engine: Engine, net: Net, tensors: Tensors, batch: Any, keys: Sequence[int]
) -> tuple[float, Tensors]:
    if isinstance(engine, Introspective):
        return engine.gradients(net, tensors, batch, SMOOTHING, keys)
    from golf_opt.engines.torch.gradients import gradients

    return gradients(net, tensors, batch, SMOOTHING, keys)


def native_or_torch(view: View, lanes: int | None) -> Engine:
    """Return the engine that trains where there is no GPU."""
    from golf_opt.engines.native import NativeEngine

    try:
        return NativeEngine(view, lanes)
    except UsageError:  # no compiler
        from golf_opt.engines.torch import TorchEngine

        return TorchEngine(view, lanes or 1, "cpu")


def named(name: str) -> Any:
    """Return what `module:name` names."""
    module, _, what = name.partition(":")
    return getattr(importlib.import_module(module), what)


def main() -> None:
    """Check the GPU for the net of the first message; say what came of it."""
    messages = Messages()
    asked, begun = messages.take(), time.monotonic()
    net = build_net(asked["net"], InputSpec(**asked["input"]))
    answer: dict[str, Any] = {"why": None}
    with _told(answer):
        device = named(asked["device"])
        if device is Gpu:
            importlib.import_module("torch")  # in its own time, whatever the disk
        messages.put(stage="the start of the GPU")
        rival = named(asked["rival"])
        layouts = blocks_of(asked["layouts"])
        proof = Proof(
            net, device(), rival, lambda stage: messages.put(stage=stage), layouts, asked["only"]
        )
        proof.check()
        answer["rival"] = proof.beside
        if asked["race_s"]:
            answer |= proof.race(asked["race_s"], asked["lanes"])
    messages.put(**answer, seconds=time.monotonic() - begun)


@contextlib.contextmanager
def _told(answer: dict[str, Any]) -> Iterator[None]:
    """Put into the answer why a block failed, and whether it is worth another try soon."""
    try:
        yield
    except (Wrong, UsageError, EngineFault) as error:
        answer |= {"why": one_line(str(error), 300), "passing": isinstance(error, OutOfMemory)}
    except Exception as error:
        answer["why"] = one_line(f"{type(error).__name__}: {error}", 300)


if __name__ == "__main__":
    main()
