"""The native engine: a thread per lane, each training in compiled code that holds no Python lock.

A lane runs ahead of its caller by at most AHEAD slices.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from golf_opt.engines import base
from golf_opt.engines.background import BackgroundEngine
from golf_opt.engines.base import EpochResult, Floats, Job, LaneState, Message, Slice, Tensors
from golf_opt.engines.flat import aligned, pack, unpack
from golf_opt.engines.native import library, table
from golf_opt.engines.native.codegen import dropout_nodes
from golf_opt.engines.native.lane import Machine, Run, train_steps
from golf_opt.engines.native.passes import BackwardPass, ForwardPass, Images
from golf_opt.engines.native.table import Criterion, Library
from golf_opt.task.arch import Net
from golf_opt.task.data import Split, View
from golf_opt.task.recipe import learning_rates

SLICE_S = 0.3
AHEAD = 2
CPU_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


class NativeEngine(BackgroundEngine[Run]):
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
            list(pool.map(lambda _: self._kernel(net, self._width), lanes))

    # --- the protocol ---

    def start(
        self, lane: int, job: Job, state: LaneState | None = None, until: int | None = None
    ) -> None:
        assert lane not in self._runs and 0 <= lane < self.num_lanes
        library.check(job.net)
        base.check_teacher(job, self._view)
        padded = -(-job.net.num_params // self._width) * self._width
        run = Run.begin(job, state, until, padded, len(self._train))
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
        kernel = self._kernel(net, self._width)
        weights = pack(tensors, "weights", net.parameters, kernel.padded_params)
        return weights, pack(tensors, "buffers", net.buffers), ForwardPass(net, kernel)

    def _machine(self, job: Job) -> Machine:
        """Return what trains and evaluates, compiled where it has to be."""
        recipe, size = job.candidate, job.candidate.batch_size
        images = self._images or images_wide(size, self._width)
        kernel = self._kernel(job.net, images, **recipe.asks_of_code)
        wide = self._kernel(job.net, self._width)
        workspace = aligned(kernel.workspace_bytes(size), np.uint8)
        return Machine(kernel, ForwardPass(job.net, wide), workspace)

    # --- a lane ---

    def _work(self, lane: int, run: Run) -> None:
        """The thread of a lane: slice after slice until the job ends or is stopped."""
        try:
            machine = self._machine(run.job)
            while not run.stop.value and (part := self._slice(lane, run, machine)) is not None:
                self._hand_over(run, [(part, run.at.copy())])
                with self._changed:
                    while (run.done or len(run.pending) >= AHEAD) and not run.stop.value:
                        self._changed.wait()
        except BaseException as error:  # shown by the caller's next step
            self._fail(error)

    def _slice(self, lane: int, run: Run, machine: Machine) -> Slice | None:
        """Train until the epoch or the slice's time ends; None when stopped."""
        at, job = run.at, run.job
        if run.rests:
            return Slice(lane, at.epoch, 1.0)
        started = time.thread_time()
        steps = base.steps_per_epoch(len(self._train), job.candidate.batch_size)
        rates = learning_rates(job.candidate, at.epoch, job.epochs, steps)
        outcome, step, loss_sum = train_steps(run, machine, self._train, rates, SLICE_S)
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
        run.at, run.places = at.next_epoch(at.flat), None
        return Slice(lane, epoch, 1.0, result)

    def _accuracy(self, run: Run, machine: Machine, data: Images) -> float:
        """Return the fraction of images that get their label; means nothing after a stop."""
        net = run.layout.evaluated(run.at.flat)
        return machine.forward.correct(*net, data, run.stop) / len(data)


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
