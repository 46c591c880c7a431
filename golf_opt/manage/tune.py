"""`golf-opt tune`: which layout of a thread block trains a net fastest on this GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import TuneConfig
from golf_opt.engines.cuda import verdict
from golf_opt.engines.cuda.driver import Found, find_gpu
from golf_opt.engines.cuda.program import Block, block_for, blocks_of, shown
from golf_opt.engines.native import unsupported
from golf_opt.engines.speed import BATCH_SIZES
from golf_opt.task.arch import Net, build_net
from golf_opt.task.data import load
from golf_opt.task.modules.resolve import resolve
from golf_opt.utils.said import Say

# What is varied, one after the other, each from the best so far.
CHOICES = {
    "images": (4, 8, 16, 32),
    "warps": (4, 8, 16),
    "blocks": (1, 2, 3, 4),
    "splits": (1, 2, 4),
}
GAIN = 1.02  # what is less faster than that is noise
SECONDS = 2.0  # that each layout is measured for

Measure = Callable[[Block], float | None]  # images a second; None: it failed


def tune(config: TuneConfig, say: Say) -> None:
    """Try layouts at each batch size and keep the best, as long as verdicts are kept.

    What is better is kept at once, so that whoever stops it has the best so far.

    Raises:
        UsageError: there is no GPU, or it fails with the layout that all begin with.
    """
    gpu = found_gpu()
    spec = load(config.data).input
    net = build_net(resolve(config.arch, spec, say), spec)
    if why := unsupported(net):
        raise UsageError(f"arch is {net.name!r}, but must be one that engine=cuda can do: {why}.")
    kept = {size: block_for(size) for size in BATCH_SIZES} | blocks_of(verdict.tuned(gpu, net))
    say(f"tuning {net.name} on {gpu.name}: a layout is checked, then measured for {SECONDS:g} s")
    for size in BATCH_SIZES:
        for best in climb(kept[size], size, measure_by(net, size, say)):
            kept[size] = best
            verdict.keep_tuned(gpu, net, {str(s): asdict(block) for s, block in kept.items()})
    say(f"kept: {shown(kept)}")
    together = verdict.verdict_on(gpu, net, None, say)
    if together.why is not None:
        verdict.keep_tuned(gpu, net, {})
    say(together.in_words(None))


def found_gpu() -> Found:
    gpu = find_gpu()
    if gpu is None or gpu.why is not None:
        what = "none is found" if gpu is None else gpu.why
        raise UsageError(
            f"golf-opt tune must have an NVIDIA GPU and its driver, but {what}; a CPU needs no "
            "tuning, and golf-opt doctor shows what this machine has."
        )
    return gpu


def climb(start: Block, size: int, measure: Measure) -> Iterator[Block]:
    """Yield the first layout, and every one that is faster than the last one yielded.

    Raises:
        UsageError: the first one fails, and so does the one that would be taken without tuning.
    """
    best, rate = start, measure(start)
    if rate is None and start != block_for(size):
        best, rate = block_for(size), measure(block_for(size))
    if rate is None:
        raise UsageError(f"the GPU fails at batch size {size}, and must not be used as it is.")
    yield best
    for what, values in CHOICES.items():
        before = best
        for value in values:
            change: dict[str, Any] = {what: value}
            block = replace(before, **change)
            if block == before or is_wasteful(block, size):
                continue
            found = measure(block)
            if found is not None and found > GAIN * rate:
                best, rate = block, found
                yield best


def is_wasteful(block: Block, size: int) -> bool:
    """Whether half of each vector would be empty."""
    return block.images >= 2 * size and block.images > CHOICES["images"][0]


def measure_by(net: Net, size: int, say: Say) -> Measure:
    def measure(block: Block) -> float | None:
        answer = verdict.measured(net, size, block, SECONDS)
        rate, why = answer.get("rate"), answer["why"]
        found = f"{rate:,.0f} images/s" if why is None else f"left out: {why}"
        say(f"batch {size}: {block}: {found}")
        return rate if why is None else None

    return measure
