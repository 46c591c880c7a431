"""The native engine: a thread per lane, each training in compiled code that holds no Python lock.

A lane runs ahead of its caller by at most AHEAD slices.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from golf_opt.engines import base
from golf_opt.engines.background import BackgroundEngine, Place, Run
from golf_opt.engines.base import EpochResult, Floats, Job, LaneState, Message, Slice, Tensors
from golf_opt.engines.flat import aligned, pack, unpack
from golf_opt.engines.native import library, table
from golf_opt.engines.native.codegen import dropout_nodes
from golf_opt.engines.native.passes import BackwardPass, ForwardPass, Images
from golf_opt.engines.native.table import Criterion, Distortion, Library, Training, Update
from golf_opt.task.arch import Net
from golf_opt.task.data import Split, View
from golf_opt.task.recipe import average_rates, learning_rates

SLICE_S = 0.3
AHEAD = 2
CPU_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


@dataclass(kw_only=True)
class _Run(Run):
    """A lane at work; its thread trains `at.flat` in place."""

    order: npt.NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, dtype=np.uint32))
    stop: ctypes.c_int32 = field(default_factory=lambda: ctypes.c_int32(0))
    thread: threading.Thread | None = None

    def snapshot(self) -> Place:
        return replace(self.at, flat=self.at.flat.copy())


@dataclass
class _Machine:
    """Compiled code and memory for a run."""

    kernel: Library
    forward: ForwardPass
    workspace: npt.NDArray[np.uint8]


class NativeEngine(BackgroundEngine[_Run]):
    """Trains every lane in a thread of its own; implements `engines.base.Introspective`.

    Args:
        view: the data.
        lanes: trials side by side; None is one for each physical core.
        on_message: told in one line before a compile.
        width: floats per vector, None for the machine's; another one is for tests.
        images: images side by side, None to choose by batch size; likewise.
        flags: further ones for the compiler; likewise.

    Raises:
        UsageError: there is no compiler; from `start`, a net that it cannot do; from `step`,
            whatever else `library.load` says: lanes compile by themselves.
    """

    name = "native"

    def __init__(
        self,
        view: View,
        lanes: int | None = None,
        on_message: Message | None = None,
        *,
        width: int | None = None,
        images: int | None = None,
        flags: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        instructions, machine_width = library.vectors()
        self.device = f"cpu ({instructions})"
        self.num_lanes = lanes or physical_cores()
        self._width = width or machine_width
        self._images = images
        self._flags = flags
        self._on_message = on_message
        self._told: set[int] = set()
        self._view = view
        self._train = Images.of(view.train)
        self._objective = Images.of(view.objective)

    def prepare(self, net: Net) -> None:
        """Compile what every trial of the net needs, so that what can go wrong goes wrong first.

        Raises:
            UsageError: see `library.load`.
        """
        with ThreadPoolExecutor(self.num_lanes) as pool:  # each compiles a part
            lanes = range(self.num_lanes)
            list(pool.map(lambda _: self._kernel(net, self._width, trains=False), lanes))

    # --- the protocol ---

    def start(
        self, lane: int, job: Job, state: LaneState | None = None, until: int | None = None
    ) -> None:
        assert lane not in self._runs and 0 <= lane < self.num_lanes
        library.check(job.net)
        base.check_teacher(job, self._view)
        run = _Run.begin(job, state, until, -(-job.net.num_params // self._width) * self._width)
        run.thread = threading.Thread(
            target=self._work, args=(lane, run), name=f"lane {lane}", daemon=True
        )
        self._runs[lane] = run
        run.thread.start()

    def stop(self, lane: int) -> None:
        run = self._runs.pop(lane)
        run.stop.value = 1
        with self._changed:
            self._changed.notify_all()
        if run.thread is not None:
            run.thread.join()

    def evaluate(self, net: Net, tensors: Tensors, split: Split) -> float:
        weights, buffers, forward = self._evaluation(net, tensors)
        return forward.correct(weights, buffers, Images.of(split)) / len(split)

    def close(self) -> None:
        for lane in list(self._runs):
            self.stop(lane)

    def logits(self, net: Net, tensors: Tensors, images: npt.NDArray[np.uint8]) -> Floats:
        weights, buffers, forward = self._evaluation(net, tensors)
        return forward.scores(weights, buffers, images)

    def gradients(
        self,
        net: Net,
        tensors: Tensors,
        batch: Split,
        label_smoothing: float = 0.0,
        dropout_keys: Sequence[int] = (),
        distill: float = 0.0,
        temperature: float = 1.0,
    ) -> tuple[float, Tensors]:
        kernel = self._kernel(net, self._images or images_wide(len(batch), self._width))
        backward = BackwardPass(net, tensors, kernel, len(batch))
        flat = aligned(kernel.padded_params)
        keys = np.array([*dropout_keys, 0], dtype=np.uint32)
        order = np.arange(len(batch), dtype=np.uint32)
        criterion = Criterion(label_smoothing, distill, temperature)
        loss = backward.run(Images.of(batch), order, keys, criterion, flat)
        gradients = unpack(flat, "gradients", net.parameters)
        return loss, gradients | unpack(backward.buffers, "buffers", net.buffers)

    def gradients_of_each(self, net: Net, tensors: Tensors, split: Split) -> Floats:
        kernel = self._kernel(net, self._images or images_wide(1, self._width))
        data = Images.of(split)
        keys = np.zeros(len(dropout_nodes(net)) + 1, dtype=np.uint32)

        def part(images: npt.NDArray[np.uint32]) -> Floats:
            rows = aligned(len(images) * kernel.padded_params).reshape(len(images), -1)
            backward = BackwardPass(net, tensors, kernel, 1)
            for index, row in enumerate(rows):
                backward.run(data, images[index : index + 1], keys, Criterion(), row)
            return rows[:, : net.num_params]

        parts = np.array_split(np.arange(len(data), dtype=np.uint32), self.num_lanes)
        with ThreadPoolExecutor(self.num_lanes) as pool:
            return np.concatenate(list(pool.map(part, parts)))

    def counter(self, net: Net, tensors: Tensors) -> Callable[[Floats, Split], int]:
        _, buffers, forward = self._evaluation(net, tensors)
        return lambda weights, split: forward.correct(weights, buffers, Images.of(split))

    # --- kernels ---

    def _kernel(self, net: Net, images: int, **what: bool) -> Library:
        """Return a kernel, of `what` as `library.load` takes it; tell the first of a width."""

        def say(message: str) -> None:
            with self._changed:
                told = images in self._told
                self._told.add(images)
            if self._on_message is not None and not told:
                self._on_message(message)

        return library.load(net, images, self._width, say, self._flags, **what)

    def _evaluation(self, net: Net, tensors: Tensors) -> tuple[Floats, Floats, ForwardPass]:
        kernel = self._kernel(net, self._width, trains=False)
        weights = pack(tensors, "weights", net.parameters, kernel.padded_params)
        return weights, pack(tensors, "buffers", net.buffers), ForwardPass(net, kernel)

    def _machine(self, job: Job) -> _Machine:
        """Return what trains and evaluates, compiled where it has to be."""
        size = job.candidate.batch_size
        images = self._images or images_wide(size, self._width)
        kernel = self._kernel(job.net, images, distorts=job.candidate.distorts)
        wide = self._kernel(job.net, self._width, trains=False)
        workspace = aligned(kernel.workspace_bytes(size), np.uint8)
        return _Machine(kernel, ForwardPass(job.net, wide), workspace)

    # --- a lane ---

    def _work(self, lane: int, run: _Run) -> None:
        """The thread of a lane: slice after slice until the job ends or is stopped."""
        try:
            machine = self._machine(run.job)
            while not run.stop.value and (part := self._slice(lane, run, machine)) is not None:
                self._hand_over(run, [(part, run.snapshot())])
                with self._changed:
                    while (run.done or len(run.pending) >= AHEAD) and not run.stop.value:
                        self._changed.wait()
        except BaseException as error:  # shown by the caller's next step
            self._fail(error)

    def _slice(self, lane: int, run: _Run, machine: _Machine) -> Slice | None:
        """Train until the epoch or the slice's time ends; None when stopped."""
        at, job = run.at, run.job
        if run.rests:
            return Slice(lane, at.epoch, 1.0)
        started = time.thread_time()
        steps = base.steps_per_epoch(len(self._train), job.candidate.batch_size)
        rates = learning_rates(job.candidate, at.epoch, job.epochs, steps)
        outcome, step, loss_sum = self._train_steps(run, machine, steps, rates)
        if outcome == table.STOPPED:
            return None
        epoch = at.epoch + 1
        if outcome == table.NOT_FINITE:
            run.at = replace(at, step=step, loss_sum=loss_sum)
            return base.not_finite(lane, epoch, step / steps, loss_sum)
        if outcome == table.LIMIT:
            time_s = at.time_s + time.thread_time() - started
            run.at = replace(at, step=step, loss_sum=loss_sum, time_s=time_s)
            return Slice(lane, epoch, step / steps)
        accuracy = self._accuracy(run, machine, self._objective)
        last = epoch == job.epochs
        train_accuracy = self._accuracy(run, machine, self._train) if last else None
        if run.stop.value:
            return None
        result = EpochResult(
            epoch=epoch,
            loss=loss_sum / len(self._train),
            accuracy=accuracy,
            lr=float(rates[-1]),
            time_s=at.time_s + time.thread_time() - started,
            train_accuracy=train_accuracy,
        )
        run.at, run.order = Place(at.flat, epoch, 0, 0.0, 0.0), run.order[:0]
        return Slice(lane, epoch, 1.0, result)

    def _accuracy(self, run: _Run, machine: _Machine, data: Images) -> float:
        """Return the fraction of images that get their label; means nothing after a stop."""
        net = run.layout.evaluated(run.at.flat)
        return machine.forward.correct(*net, data, run.stop) / len(data)

    def _train_steps(
        self, run: _Run, machine: _Machine, steps: int, rates: npt.NDArray[np.float64]
    ) -> tuple[int, int, float]:
        """Run compiled code for a slice; return its outcome, the step and the sum of losses."""
        at, candidate = run.at, run.job.candidate
        if not len(run.order):
            run.order = epoch_order(machine.kernel, run.job.seed, at.epoch, len(self._train))
        nodes = dropout_nodes(run.job.net)
        before = at.epoch * steps
        keys = base.dropout_keys(run.job.seed, nodes, np.arange(before, before + steps))
        averages = average_rates(candidate, at.epoch, run.job.epochs, steps)
        row_bytes = 4 * run.layout.padded
        weights, first, second, buffers = (at.flat.ctypes.data + i * row_bytes for i in range(4))
        distortion = Distortion.of(candidate, run.job.seed, at.epoch)
        training = Training(
            **self._train.addresses,
            order=run.order.ctypes.data,
            rates=rates.ctypes.data,
            dropout_keys=keys.ctypes.data,
            weights=weights,
            first=first,
            second=second,
            mask=None if run.mask is None else run.mask.ctypes.data,
            buffers=buffers,
            average=None if averages is None else weights + 4 * run.layout.average_at,
            average_rates=None if averages is None else averages.ctypes.data,
            workspace=machine.workspace.ctypes.data,
            stop=ctypes.addressof(run.stop),
            distortion=ctypes.addressof(distortion) if candidate.distorts else None,
            n=len(self._train),
            batch_size=candidate.batch_size,
            num_dropouts=len(nodes),
            num_buffers=run.layout.num_buffers,
            steps_before=before,
            step=at.step,
            loss_sum=at.loss_sum,
            limit_s=SLICE_S,
            update=Update.of(candidate),
            criterion=Criterion.of(candidate),
        )
        outcome = int(machine.kernel.train(ctypes.byref(training)))
        return outcome, int(training.step), float(training.loss_sum)


def epoch_order(kernel: Library, seed: int, epoch: int, n: int) -> npt.NDArray[np.uint32]:
    """`base.data_order` in compiled code: numpy takes a few percent of an epoch for it."""
    keys = np.array(base.order_keys(seed, epoch), dtype=np.uint32)
    order = np.empty(n, dtype=np.uint32)
    kernel.order(keys.ctypes.data, base.order_half(n), n, order.ctypes.data)
    return order


def physical_cores() -> int:
    """Return the physical cores that this process may use."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if allowed is None:
        return os.cpu_count() or 1
    siblings = set()
    for cpu in allowed:
        try:
            siblings.add(Path(CPU_SIBLINGS.format(cpu)).read_text())
        except OSError:
            siblings.add(str(cpu))
    return len(siblings)


def images_wide(batch_size: int, width: int) -> int:
    """Return how many images to lay side by side in vectors of `width` floats.

    Fewer than fill a vector waste less of small batches, but their vectors span several positions
    of a row, whose ends and shuffles cost a little.
    """

    def cost(images: int) -> float:
        lanes = -(-batch_size // images) * images
        return lanes * (1 + 0.1 * (width // images).bit_length())

    return min((width >> k for k in range(3) if width >> k >= min(4, width)), key=cost)
