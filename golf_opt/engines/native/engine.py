"""The native engine: a thread per lane, each training in compiled code that holds no Python lock.

A lane runs ahead of its caller by at most AHEAD slices. Each slice comes with a copy of the lane's
state at its end, so `state` answers for the slice that was returned, however far the lane is.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.engines.base import (
    DROPOUT_KEY,
    EpochResult,
    Job,
    LaneState,
    Slice,
    Tensors,
    initial_weights,
    steps_per_epoch,
)
from golf_opt.engines.native import library
from golf_opt.engines.native.codegen import dropout_nodes
from golf_opt.engines.native.library import Library, Training, Update
from golf_opt.task import rng
from golf_opt.task.arch import NUM_CLASSES, Net, Parameter
from golf_opt.task.data import Split, View
from golf_opt.task.recipe import ADAM_BETAS, ADAM_EPS, OPTIMIZERS, SGD_MOMENTUM, Candidate
from golf_opt.task.recipe import learning_rates as rates_of_epoch

SLICE_S = 0.3
AHEAD = 2
CPU_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
ALIGNMENT = 64  # bytes of a cache line and of the widest vector
MOMENTS = {"adam": ("exp_avg", "exp_avg_sq"), "adamw": ("exp_avg", "exp_avg_sq")}
NEVER = ctypes.c_int32(0)  # the stop flag of what cannot be stopped
Floats = npt.NDArray[np.float32]
Message = Callable[[str], None]


def images_wide(batch_size: int, width: int) -> int:
    """Return how many images to lay side by side in vectors of `width` floats.

    Fewer than fill a vector waste less of small batches, but their vectors span several positions
    of a row, whose ends and shuffles cost a little.
    """

    def cost(images: int) -> float:
        lanes = -(-batch_size // images) * images
        return lanes * (1 + 0.1 * (width // images).bit_length())

    return min((width >> k for k in range(3) if width >> k >= min(4, width)), key=cost)


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


def aligned(count: int, dtype: type[np.generic] = np.float32) -> npt.NDArray[Any]:
    """Return zeros that start at a cache line."""
    size = count * np.dtype(dtype).itemsize
    raw = np.zeros(size + ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype)


def pack(tensors: Mapping[str, npt.NDArray[Any]], kind: str, of: Sequence[Parameter], count: int,
         missing: float = 0.0) -> Floats:  # fmt: skip
    """Return `<kind>/<name>` of all tensors in one flat array of `count` float32."""
    flat = aligned(count)
    at = 0
    for tensor in of:
        values = tensors.get(f"{kind}/{tensor.name}")
        flat[at : at + tensor.size] = missing if values is None else np.ravel(values)
        at += tensor.size
    return flat


def unpack(flat: Floats, kind: str, of: Sequence[Parameter]) -> Tensors:
    """Return the tensors of a flat array by name."""
    tensors: Tensors = {}
    at = 0
    for tensor in of:
        tensors[f"{kind}/{tensor.name}"] = flat[at : at + tensor.size].reshape(tensor.shape)
        at += tensor.size
    return tensors


def update_of(candidate: Candidate) -> Update:
    return Update(
        OPTIMIZERS.index(candidate.optimizer),
        *ADAM_BETAS,
        ADAM_EPS,
        SGD_MOMENTUM,
        candidate.weight_decay,
    )


@dataclass
class _Images:
    """A split as the kernel reads it: images [n, 28, 28] and labels [n], uint8, contiguous."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, split: Split) -> _Images:
        return cls(np.ascontiguousarray(split.images), np.ascontiguousarray(split.labels))

    def __len__(self) -> int:
        return len(self.labels)


class Evaluator:
    """A net's forward pass over any number of images."""

    def __init__(self, net: Net, kernel: Library) -> None:
        self._net = net
        self._kernel = kernel
        self._workspace = aligned(kernel.workspace_bytes(kernel.images), np.uint8)

    def correct(self, weights: Floats, buffers: Floats, data: _Images, stop: ctypes.c_int32) -> int:
        """Return how many images get their label; what it returns after a stop means nothing."""
        return int(
            self._kernel.correct(
                data.images.ctypes.data,
                data.labels.ctypes.data,
                len(data),
                weights.ctypes.data,
                buffers.ctypes.data,
                ctypes.addressof(stop),
                self._workspace.ctypes.data,
            )
        )

    def scores(self, weights: Floats, buffers: Floats, images: npt.NDArray[np.uint8]) -> Floats:
        """Return the class scores, [n, 10] float32."""
        images = np.ascontiguousarray(images)
        scores = np.empty((len(images), NUM_CLASSES), dtype=np.float32)
        self._kernel.scores(
            images.ctypes.data,
            len(images),
            weights.ctypes.data,
            buffers.ctypes.data,
            self._workspace.ctypes.data,
            scores.ctypes.data,
        )
        return scores


@dataclass
class _Snapshot:
    """Where a lane stood at the end of a slice."""

    flat: dict[str, Floats]
    epoch: int
    step: int
    loss_sum: float
    time_s: float


@dataclass
class _Run:
    """A lane at work: the job's arrays, and what the thread leaves for the caller."""

    job: Job
    kernel: Library
    evaluator: Evaluator
    weights: Floats
    moments: dict[str, Floats]
    buffers: Floats
    mask: Floats | None
    workspace: npt.NDArray[np.uint8]
    returned: _Snapshot
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    time_s: float = 0.0
    order: npt.NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, dtype=np.uint32))
    stop: ctypes.c_int32 = field(default_factory=lambda: ctypes.c_int32(0))
    pending: deque[tuple[Slice, _Snapshot]] = field(default_factory=deque)
    failure: BaseException | None = None
    done: bool = False
    thread: threading.Thread | None = None

    def snapshot(self) -> _Snapshot:
        flat = {"weights": self.weights, "buffers": self.buffers, **self.moments}
        copies = {name: values.copy() for name, values in flat.items()}
        return _Snapshot(copies, self.epoch, self.step, self.loss_sum, self.time_s)


class NativeEngine:
    """Trains every lane in a thread of its own; implements `engines.base.Engine`.

    Args:
        view: the data.
        lanes: trials side by side; None is one for each physical core.
        on_message: told in one line before a compile.
        width: floats per vector, None for the machine's; another one is for tests.
        images: images side by side, None to choose by batch size; likewise.
        flags: further ones for the compiler; likewise.

    Raises:
        UsageError: there is no compiler; from `start`, whatever `library.load` says.
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
        instructions, machine_width = library.vectors()
        self.device = f"cpu ({instructions})"
        self.num_lanes = lanes or physical_cores()
        self._width = width or machine_width
        self._images = images
        self._flags = flags
        self._on_message = on_message
        self._view = view
        self._train = _Images.of(view.train)
        self._objective = _Images.of(view.objective)
        self._runs: dict[int, _Run] = {}
        self._changed = threading.Condition()

    def prepare(self, net: Net) -> None:
        """Compile what every trial of the net needs, so that what can go wrong goes wrong first.

        Raises:
            UsageError: see `library.load`.
        """
        self._kernel(net, self._width)

    # --- the protocol ---

    def start(self, lane: int, job: Job, state: LaneState | None = None) -> None:
        assert lane not in self._runs and 0 <= lane < self.num_lanes
        run = self._new_run(job, state)
        run.thread = threading.Thread(
            target=self._work, args=(lane, run), name=f"lane {lane}", daemon=True
        )
        self._runs[lane] = run
        run.thread.start()

    def step(self) -> list[Slice]:
        with self._changed:
            while not (slices := self._take()) and any(not r.done for r in self._runs.values()):
                self._changed.wait()
            self._changed.notify_all()
        return slices

    def state(self, lane: int) -> LaneState:
        run = self._runs[lane]
        at, net = run.returned, run.job.net
        tensors: Tensors = {}
        for kind, flat in at.flat.items():
            tensors |= unpack(flat, kind, net.buffers if kind == "buffers" else net.parameters)
        if run.mask is not None:
            tensors |= unpack(run.mask, "masks", net.parameters)
        tensors = {name: values.copy() for name, values in tensors.items()}
        return LaneState(tensors, at.epoch, at.step, at.loss_sum, at.time_s)

    def stop(self, lane: int) -> None:
        run = self._runs.pop(lane)
        run.stop.value = 1
        with self._changed:
            self._changed.notify_all()
        if run.thread is not None:
            run.thread.join()

    def evaluate(self, net: Net, tensors: Mapping[str, npt.NDArray[Any]], split: Split) -> float:
        weights, buffers, evaluator = self._evaluation(net, tensors)
        return evaluator.correct(weights, buffers, _Images.of(split), NEVER) / len(split)

    def close(self) -> None:
        for lane in list(self._runs):
            self.stop(lane)

    # --- beyond the protocol ---

    def logits(
        self, net: Net, tensors: Mapping[str, npt.NDArray[Any]], images: npt.NDArray[np.uint8]
    ) -> Floats:
        """Return the class scores of images [n, 28, 28] uint8, [n, 10] float32."""
        weights, buffers, evaluator = self._evaluation(net, tensors)
        return evaluator.scores(weights, buffers, images)

    def gradients(
        self,
        net: Net,
        tensors: Mapping[str, npt.NDArray[Any]],
        batch: Split,
        label_smoothing: float = 0.0,
        dropout_keys: Sequence[int] = (),
    ) -> tuple[float, Tensors]:
        """Return the mean loss over one batch, `gradients/...` of it and `buffers/...` after it."""
        kernel = self._kernel(net, self._images or images_wide(len(batch), self._width))
        data = _Images.of(batch)
        buffers = pack(tensors, "buffers", net.buffers, _size(net.buffers))
        gradients = aligned(kernel.padded_params)
        keys = np.array([*dropout_keys, 0], dtype=np.uint32)
        order = np.arange(len(data), dtype=np.uint32)
        weights = pack(tensors, "weights", net.parameters, kernel.padded_params)
        workspace = aligned(kernel.workspace_bytes(len(data)), np.uint8)
        loss = kernel.gradients(
            data.images.ctypes.data,
            data.labels.ctypes.data,
            len(data),
            weights.ctypes.data,
            buffers.ctypes.data,
            keys.ctypes.data,
            label_smoothing,
            order.ctypes.data,
            workspace.ctypes.data,
            gradients.ctypes.data,
        )
        after = unpack(buffers, "buffers", net.buffers)
        return float(loss), unpack(gradients, "gradients", net.parameters) | after

    def gradients_of_each(
        self, net: Net, tensors: Mapping[str, npt.NDArray[Any]], split: Split
    ) -> Floats:
        """Return the gradient of the loss on each image by itself, [n, size of the net] float32.

        Batch normalisation takes the image's own statistics.
        """
        kernel = self._kernel(net, self._images or images_wide(1, self._width))
        data = _Images.of(split)
        weights = pack(tensors, "weights", net.parameters, kernel.padded_params)
        order = np.arange(len(data), dtype=np.uint32)
        keys = np.zeros(len(dropout_nodes(net)) + 1, dtype=np.uint32)

        def part(images: npt.NDArray[np.uint32]) -> Floats:
            rows = aligned(len(images) * kernel.padded_params).reshape(len(images), -1)
            workspace = aligned(kernel.workspace_bytes(1), np.uint8)
            buffers = pack(tensors, "buffers", net.buffers, _size(net.buffers))
            for row, image in zip(rows, images, strict=True):
                kernel.gradients(
                    data.images.ctypes.data,
                    data.labels.ctypes.data,
                    1,
                    weights.ctypes.data,
                    buffers.ctypes.data,
                    keys.ctypes.data,
                    0.0,
                    order[image:].ctypes.data,
                    workspace.ctypes.data,
                    row.ctypes.data,
                )
            return rows[:, : net.num_params]

        with ThreadPoolExecutor(self.num_lanes) as pool:
            return np.concatenate(list(pool.map(part, np.array_split(order, self.num_lanes))))

    def counter(
        self, net: Net, tensors: Mapping[str, npt.NDArray[Any]]
    ) -> Callable[[Floats, Split], int]:
        """Return a function of flat weights and a split: how many images get their label.

        The weights are those of `net.parameters` in order, padded with zeros to whole vectors. It
        has memory of its own, so that each thread can have one.
        """
        _, buffers, evaluator = self._evaluation(net, tensors)
        return lambda weights, split: evaluator.correct(weights, buffers, _Images.of(split), NEVER)

    # --- a lane ---

    def _kernel(self, net: Net, images: int) -> Library:
        return library.load(net, images, self._width, self._on_message, self._flags)

    def _evaluation(
        self, net: Net, tensors: Mapping[str, npt.NDArray[Any]]
    ) -> tuple[Floats, Floats, Evaluator]:
        kernel = self._kernel(net, self._width)
        weights = pack(tensors, "weights", net.parameters, kernel.padded_params)
        buffers = pack(tensors, "buffers", net.buffers, _size(net.buffers))
        return weights, buffers, Evaluator(net, kernel)

    def _kernels(self, job: Job) -> tuple[Library, Library]:
        """Return the kernel to train with and the one to evaluate with, compiled side by side."""
        images = self._images or images_wide(job.candidate.batch_size, self._width)
        with ThreadPoolExecutor(2) as pool:
            train, wide = pool.map(
                lambda count: self._kernel(job.net, count), (images, self._width)
            )
        return train, wide

    def _new_run(self, job: Job, state: LaneState | None) -> _Run:
        kernel, wide = self._kernels(job)
        net, tensors = job.net, state.tensors if state else initial_weights(job.net, job.seed)
        count = kernel.padded_params
        masked = any(name.startswith("masks/") for name in tensors)
        mask = pack(tensors, "masks", net.parameters, count, missing=1.0) if masked else None
        weights = pack(tensors, "weights", net.parameters, count)
        if mask is not None:
            weights *= mask
        moments = MOMENTS.get(job.candidate.optimizer, ("momentum",))
        run = _Run(
            job,
            kernel,
            Evaluator(net, wide),
            weights,
            {name: pack(tensors, name, net.parameters, count) for name in moments},
            pack(tensors, "buffers", net.buffers, _size(net.buffers)),
            mask,
            aligned(kernel.workspace_bytes(job.candidate.batch_size), np.uint8),
            _Snapshot({}, 0, 0, 0.0, 0.0),
        )
        if state:
            run.epoch, run.step = state.epoch, state.step
            run.loss_sum, run.time_s = state.loss_sum, state.time_s
        run.returned = run.snapshot()
        return run

    def _take(self) -> list[Slice]:
        """Return the slices that lanes have finished."""
        slices = []
        for run in self._runs.values():
            if run.failure is not None:
                raise run.failure
            if run.pending:  # one at a time, so that `state` is that of the slice returned
                part, run.returned = run.pending.popleft()
                slices.append(part)
        return slices

    def _work(self, lane: int, run: _Run) -> None:
        """The thread of a lane: slice after slice until the job ends or is stopped."""
        try:
            while not run.stop.value:
                part = self._slice(lane, run)
                if part is None or not self._hand_over(run, part):
                    break
        except BaseException as error:  # shown by the caller's next step
            run.failure = error
        with self._changed:
            run.done = True
            self._changed.notify_all()

    def _hand_over(self, run: _Run, part: Slice) -> bool:
        """Queue a slice, wait until the caller has taken enough; return whether to go on."""
        last = part.error is not None or run.epoch >= run.job.epochs
        entry = (part, run.snapshot())
        with self._changed:
            run.pending.append(entry)
            run.done = last
            self._changed.notify_all()
            while len(run.pending) >= AHEAD and not run.stop.value and not last:
                self._changed.wait()
        return not last

    def _slice(self, lane: int, run: _Run) -> Slice | None:
        """Train until the epoch or the slice's time ends; None when stopped."""
        if run.epoch >= run.job.epochs:
            return Slice(lane, run.epoch, 1.0)
        started = time.thread_time()
        steps = steps_per_epoch(len(self._train), run.job.candidate.batch_size)
        rates = rates_of_epoch(run.job.candidate, run.epoch, run.job.epochs, steps)
        outcome = self._train_steps(run, steps, rates)
        if outcome == library.STOPPED:
            return None
        epoch = run.epoch + 1
        if outcome == library.NOT_FINITE:
            word = "inf" if np.isinf(run.loss_sum) else "nan"
            error = f"training loss became {word} in epoch {epoch}"
            return Slice(lane, epoch, run.step / steps, error=error)
        if outcome == library.LIMIT:
            run.time_s += time.thread_time() - started
            return Slice(lane, epoch, run.step / steps)
        accuracy = self._accuracy(run, self._objective)
        train_accuracy = self._accuracy(run, self._train) if epoch == run.job.epochs else None
        if run.stop.value:
            return None
        result = EpochResult(
            epoch=epoch,
            loss=run.loss_sum / len(self._train),
            accuracy=accuracy,
            lr=float(rates[-1]),
            time_s=run.time_s + time.thread_time() - started,
            train_accuracy=train_accuracy,
        )
        run.epoch, run.step, run.loss_sum, run.time_s = epoch, 0, 0.0, 0.0
        run.order = run.order[:0]
        return Slice(lane, epoch, 1.0, result)

    def _accuracy(self, run: _Run, data: _Images) -> float:
        """Return the share of images that get their label; means nothing after a stop."""
        return run.evaluator.correct(run.weights, run.buffers, data, run.stop) / len(data)

    def _train_steps(self, run: _Run, steps: int, rates: npt.NDArray[np.float64]) -> int:
        """Run compiled code for a slice; return its outcome. Updates the run's place."""
        if not len(run.order):
            run.order = epoch_order(run.kernel, run.job.seed, run.epoch, len(self._train))
        nodes = dropout_nodes(run.job.net)
        before = run.epoch * steps
        keys = dropout_keys(run.job.seed, nodes, np.arange(before, before + steps))
        moments = list(run.moments.values())
        training = Training(
            images=self._train.images.ctypes.data,
            labels=self._train.labels.ctypes.data,
            order=run.order.ctypes.data,
            rates=rates.ctypes.data,
            dropout_keys=keys.ctypes.data,
            weights=run.weights.ctypes.data,
            first=moments[0].ctypes.data,
            second=moments[-1].ctypes.data,
            mask=None if run.mask is None else run.mask.ctypes.data,
            buffers=run.buffers.ctypes.data,
            workspace=run.workspace.ctypes.data,
            stop=ctypes.addressof(run.stop),
            n=len(self._train),
            batch_size=run.job.candidate.batch_size,
            num_dropouts=len(nodes),
            steps_before=before,
            step=run.step,
            loss_sum=run.loss_sum,
            limit_s=SLICE_S,
            label_smoothing=run.job.candidate.label_smoothing,
            update=update_of(run.job.candidate),
        )
        outcome = int(run.kernel.train(ctypes.byref(training)))
        run.step, run.loss_sum = int(training.step), float(training.loss_sum)
        return outcome


def epoch_order(kernel: Library, seed: int, epoch: int, n: int) -> npt.NDArray[np.uint32]:
    """`base.data_order` in compiled code: numpy takes a few percent of an epoch for it."""
    key = rng.derive(seed, "order", epoch)
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    rounds = [rng.derive(key, turn) for turn in range(rng.FEISTEL_ROUNDS)]
    keys = np.array(rounds, dtype=np.uint32)
    order = np.empty(n, dtype=np.uint32)
    kernel.order(keys.ctypes.data, half, n, order.ctypes.data)
    return order


def dropout_keys(
    seed: int, nodes: Sequence[int], steps: npt.NDArray[Any]
) -> npt.NDArray[np.uint32]:
    """Return `base.dropout_key` of many steps at once, [steps, nodes]."""
    keys = np.empty((len(steps), len(nodes)), dtype=np.uint32)
    for column, node in enumerate(nodes):
        prefix = np.uint32(rng.derive(seed, DROPOUT_KEY, node))
        keys[:, column] = rng.mix(prefix ^ steps.astype(np.uint32)) + np.uint32(0x9E3779B9)
    return keys


def _size(tensors: Sequence[Parameter]) -> int:
    return sum(tensor.size for tensor in tensors)
