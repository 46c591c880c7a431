"""Emulated GPUs that fail, each in its own way, and an engine that a slow GPU can beat."""

from __future__ import annotations

import ctypes
import os
import time
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.engines.base import Message, Slice
from golf_opt.engines.cuda.devices import (
    Buffer,
    EmulatedBuffer,
    EmulatedProgram,
    Emulation,
    OutOfMemory,
)
from golf_opt.engines.cuda.lanes import BATCHED, LANE
from golf_opt.engines.cuda.program import Block, compile_emulation
from golf_opt.engines.native import NativeEngine
from golf_opt.task.arch import Net
from golf_opt.task.data import View

MEMORY = 1_000_000  # bytes of the GPU that has too few


def rows(address: Any, kind: npt.DTypeLike, count: int) -> npt.NDArray[Any]:
    """Structures in the memory of an emulated GPU, as a view."""
    size = np.dtype(kind).itemsize * count
    return np.frombuffer((ctypes.c_char * size).from_address(int(address)), kind)


class Faulty(Emulation):
    """`spoil` comes before a function runs, `spoiled` afterwards."""

    def load(self, net: Net, block: Block, place: int, say: Message | None) -> Any:
        path = str(compile_emulation(net, block, place, ("-Og",), say))
        device = self

        class Program(EmulatedProgram):
            def run(self, function: str, blocks: int, shared: int, *given: int | float) -> None:
                device.spoil(function, blocks, given)
                super().run(function, blocks, shared, *given)
                device.spoiled(function, blocks, given)

        return Program(path)

    def spoil(self, function: str, blocks: int, given: Any) -> None: ...

    def spoiled(self, function: str, blocks: int, given: Any) -> None: ...


class WrongGradient(Faulty):
    def spoiled(self, function: str, blocks: int, given: Any) -> None:
        if function == "golf_gradients":
            address = int(rows(given[2], BATCHED, 1)["gradients"][0])
            ctypes.c_float.from_address(address).value += 0.1


class WrongStep(Faulty):
    """Its gradients are right, and what it makes of them is not."""

    def spoiled(self, function: str, blocks: int, given: Any) -> None:
        for lane in rows(given[0], LANE, blocks) if function == "golf_slice" else ():
            ctypes.c_double.from_address(int(lane["results"])).value *= 1.1  # of the first epoch


class WrongResume(Faulty):
    """It forgets a little where it stopped in an epoch."""

    def spoil(self, function: str, blocks: int, given: Any) -> None:
        for lane in rows(given[0], LANE, blocks) if function == "golf_slice" else ():
            if lane["step"]:
                ctypes.c_float.from_address(int(lane["state"])).value += 1e-3


class Fault(Faulty):
    def spoil(self, function: str, blocks: int, given: Any) -> None:
        if function == "golf_slice":
            raise RuntimeError("CUDA error: an illegal memory access was encountered\ndetails")


class Crash(Faulty):
    def spoil(self, function: str, blocks: int, given: Any) -> None:
        if function == "golf_slice":
            os.abort()


class Hang(Faulty):
    def spoil(self, function: str, blocks: int, given: Any) -> None:
        if function == "golf_slice":
            time.sleep(3600)


class Full(Faulty):
    used = 0

    def allocate(self, size: int) -> Buffer:
        self.used += size
        if self.used > MEMORY:
            raise OutOfMemory(f"the GPU has no {size:,} bytes left; give fewer lanes")
        return EmulatedBuffer(size)


class Snail(NativeEngine):
    """It says that it has done next to nothing."""

    def step(self) -> list[Slice]:
        return [
            replace(part, epoch=1, progress=(part.epoch - 1 + part.progress) / 1e4)
            for part in super().step()
        ]


def snail(view: View, lanes: int | None) -> Snail:
    return Snail(view, lanes)


def no_race(view: View, lanes: int | None) -> NativeEngine:
    """Make no engine for a race, which has more images than a check."""
    assert len(view.train) <= 100
    return NativeEngine(view, lanes)
