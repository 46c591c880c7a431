"""How fast an engine trains with its lanes full, on images that are made up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from golf_opt.engines.base import Engine, EngineFault, Job
from golf_opt.task.arch import Net
from golf_opt.task.data import Split, View
from golf_opt.task.inputs import InputSpec
from golf_opt.task.recipe import Candidate

ENDLESS = 10_000  # epochs of a job that a stop ends
PATIENCE_S = 120.0  # until every lane trains: some compile first
BATCH_SIZES = (4, 14, 32)  # the ends and the best of conf/space/article.yaml


def made_up(spec: InputSpec, n: int, tested: int) -> View:
    """Return images of noise, in which a bright line of bytes says what they are."""
    draw = np.random.default_rng(0)

    def split(name: str, count: int) -> Split:
        labels = draw.integers(0, spec.classes, count, dtype=np.uint8)
        images = draw.integers(0, 128, (count, *spec.shape), dtype=np.uint8)
        flat = images.reshape(count, -1)
        width = max(1, flat.shape[1] // spec.classes)
        for row, label in zip(flat, labels.tolist(), strict=True):
            row[label * width : (label + 1) * width] += 100
        return Split(name, images, labels)

    train, test = split("train", n), split("test", tested)
    return View("made up", "test", train, test, test, digest="", input=spec)


def images_per_second(
    engine: Engine,
    net: Net,
    n: int,
    seconds: float,
    lanes: int | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return how many images all lanes together train on in a second, evaluation in between.

    Args:
        engine: its lanes are free.
        net: that each lane trains.
        n: the training images of the engine's view.
        seconds: to measure for.
        lanes: that are full; None is all.
        batch_sizes: of the lanes, in turn.
        clock: that tells the seconds.

    Raises:
        EngineFault: a lane does nothing, or cannot go on.
    """
    lanes = engine.num_lanes if lanes is None else lanes
    sizes = [min(n, batch_sizes[lane % len(batch_sizes)]) for lane in range(lanes)]
    for lane, size in enumerate(sizes):
        engine.start(lane, Job(net, Candidate(size, 1e-3), lane, ENDLESS))
    epochs = [0.0] * lanes  # as each lane has told
    try:
        _step(engine, epochs, PATIENCE_S, time.perf_counter, until_all=True)
        before = sum(epochs)
        taken_s = _step(engine, epochs, seconds, clock)
    finally:
        for lane in range(lanes):
            engine.stop(lane)
    return (sum(epochs) - before) * n / taken_s


def _step(
    engine: Engine,
    epochs: list[float],
    limit_s: float,
    clock: Callable[[], float],
    until_all: bool = False,
) -> float:
    """Step for some seconds, or until every lane has told of itself; return the seconds."""
    started, seconds = clock(), 0.0
    while seconds < limit_s and not (until_all and all(epochs)):
        for part in engine.step():
            if part.error:
                raise EngineFault(part.error)
            epochs[part.lane] = part.epoch - 1 + part.progress
        seconds = clock() - started
    if not all(epochs):
        raise EngineFault(f"{epochs.count(0.0)} lanes did nothing in {seconds:.0f} s")
    return seconds
