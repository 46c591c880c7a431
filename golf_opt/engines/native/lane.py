"""A lane of the native engine at work: its memory, and the steps that compiled code does for it."""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from golf_opt.engines import background, base
from golf_opt.engines.base import Floats
from golf_opt.engines.native.codegen import dropout_nodes
from golf_opt.engines.native.passes import ForwardPass, Images
from golf_opt.engines.native.table import Criterion, Distortion, Library, Training, Update
from golf_opt.engines.order import Places, places_of
from golf_opt.task.recipe import average_rates


@dataclass(kw_only=True)
class Run(background.Run):
    """A lane at work; its thread trains `at` in place."""

    places: Places | None = None  # of the epoch in progress
    losses: Floats | None = None  # of the images there, where the recipe looks at them
    stop: ctypes.c_int32 = field(default_factory=lambda: ctypes.c_int32(0))
    thread: threading.Thread | None = None


@dataclass
class Machine:
    """Compiled code and memory for a run."""

    kernel: Library
    forward: ForwardPass
    workspace: npt.NDArray[np.uint8]


def train_steps(
    run: Run, machine: Machine, data: Images, rates: npt.NDArray[np.float64], limit_s: float
) -> tuple[int, int, float]:
    """Run compiled code for a slice; return its outcome, the step and the sum of losses.

    Args:
        run: what to train.
        machine: by what.
        data: all images.
        rates: the learning rate of each step of the epoch.
        limit_s: how long to train, unless the epoch ends before.
    """
    at, candidate, steps = run.at, run.job.candidate, len(rates)
    places = run.places or _begin_epoch(run, machine.kernel, len(data))
    nodes = dropout_nodes(run.job.net)
    before = at.epoch * steps
    keys = base.dropout_keys(run.job.seed, nodes, np.arange(before, before + steps))
    averages = average_rates(candidate, at.epoch, run.job.epochs, steps)
    row_bytes = 4 * run.layout.padded
    weights, first, second, buffers = (at.flat.ctypes.data + i * row_bytes for i in range(4))
    distortion = Distortion.of(candidate, run.job.seed, at.epoch)
    training = Training(
        **data.addresses,
        order=places.images.ctypes.data,
        worth=_address(places.worth),
        losses=_address(run.losses),
        rates=rates.ctypes.data,
        dropout_keys=keys.ctypes.data,
        weights=weights,
        first=first,
        second=second,
        mask=_address(run.mask),
        buffers=buffers,
        average=None if averages is None else weights + 4 * run.layout.average_at,
        average_rates=_address(averages),
        workspace=machine.workspace.ctypes.data,
        stop=ctypes.addressof(run.stop),
        distortion=ctypes.addressof(distortion) if candidate.draws_images else None,
        n=len(data),
        batch_size=candidate.batch_size,
        num_dropouts=len(nodes),
        num_buffers=run.layout.num_buffers,
        steps_before=before,
        step=at.step,
        loss_sum=at.loss_sum,
        limit_s=limit_s,
        update=Update.of(candidate),
        criterion=Criterion.of(candidate),
    )
    outcome = int(machine.kernel.train(ctypes.byref(training)))
    if at.hardness is not None and run.losses is not None:
        done = slice(at.step * candidate.batch_size, int(training.step) * candidate.batch_size)
        at.hardness.note(places.images[done], run.losses[done])
    return outcome, int(training.step), float(training.loss_sum)


def _begin_epoch(run: Run, kernel: Library, n: int) -> Places:
    shuffled = epoch_order(kernel, run.job.seed, run.at.epoch, n)
    run.places = places_of(run.job, run.at.epoch, n, run.at.hardness, shuffled)
    run.losses = np.zeros(n, dtype=np.float32) if run.at.hardness else None
    return run.places


def epoch_order(kernel: Library, seed: int, epoch: int, n: int) -> npt.NDArray[np.uint32]:
    """`base.data_order` in compiled code: numpy takes a few percent of an epoch for it."""
    keys = np.array(base.order_keys(seed, epoch), dtype=np.uint32)
    order = np.empty(n, dtype=np.uint32)
    kernel.order(keys.ctypes.data, base.order_half(n), n, order.ctypes.data)
    return order


def _address(array: npt.NDArray[np.generic] | None) -> int | None:
    return None if array is None else array.ctypes.data
