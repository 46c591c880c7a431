"""The machine as a device of the CUDA engine: what NVRTC compiled runs, and is counted."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.gpu_model.machine import Interval, Memory, Program, run_block
from bench.gpu_model.ptx import parse
from golf_opt.engines.base import Message
from golf_opt.engines.cuda.devices import SHARED_LIMIT
from golf_opt.engines.cuda.program import Block, Info, compile_with_nvrtc, nvrtc_options
from golf_opt.engines.native.codegen import generate
from golf_opt.task.arch import Net

MEMORY = 1 << 26  # bytes
RUBBISH = 1e30  # what shared memory holds at first


class CountedBuffer:
    def __init__(self, memory: Memory, size: int) -> None:
        self.address = memory.allocate(max(1, size))
        self._bytes = memory.bytes[self.address : self.address + size]

    def write(self, values: npt.NDArray[Any], offset: int = 0) -> None:
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self._bytes[offset : offset + flat.size] = flat

    def read(self) -> npt.NDArray[np.uint8]:
        return self._bytes.copy()


class CountedProgram:
    """The kernel of one net, whose last run is counted."""

    def __init__(self, memory: Memory, ptx: str, report: str) -> None:
        self.module = parse(ptx)
        self.code = re.sub(r"//.*|\.(version|target).*", "", ptx)
        self.program = Program(self.module, memory)
        numbers = np.frombuffer(self.module.constants["golf_info"], np.int64)
        self.info = Info(*numbers.tolist())
        self.report = report
        self.counted: list[list[Interval]] = []  # of the last block of the last run

    def run(self, function: str, blocks: int, shared_bytes: int, *arguments: int | float) -> None:
        memory = self.program.memory
        for block in range(blocks):
            memory.bytes[1024 : 1024 + shared_bytes].view(np.float32)[:] = RUBBISH
            self.counted = run_block(
                self.program, function, self.info.warps, block, blocks, list(arguments)
            )

    def per_core(self, shared_bytes: int) -> int:
        return 1

    def facts(self) -> dict[str, int]:
        found = re.search(
            r"'golf_slice'.*?(\d+) bytes spill stores.*?Used (\d+) registers", self.report, re.S
        )
        assert found is not None, self.report
        return {"registers": int(found[2]), "spill_bytes": int(found[1])}


class Counted:
    """A device that runs PTX for an architecture, thread by thread, on the CPU."""

    cores = 1

    def __init__(self, arch: str = "sm_90", shared_limit: int = SHARED_LIMIT) -> None:
        self.name, self.arch, self.shared_limit = f"ptx of {arch}", arch, shared_limit
        self.memory = Memory(MEMORY)
        self._programs: dict[tuple[str, Block, int], CountedProgram] = {}

    def allocate(self, size: int) -> CountedBuffer:
        return CountedBuffer(self.memory, size)

    def load(self, net: Net, block: Block, place: int, say: Message | None) -> CountedProgram:
        header = generate(net)
        if (header, block, place) not in self._programs:
            self._programs[header, block, place] = self._compile(header, block, place)
        self.last = self._programs[header, block, place]
        return self.last

    def _compile(self, header: str, block: Block, place: int) -> CountedProgram:
        options = [*nvrtc_options(block, place, self.arch), "--generate-line-info"]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            compile_with_nvrtc(header, options, folder)
            ptx, report = ((folder / f"made.{kind}").read_text() for kind in ("ptx", "log"))
        return CountedProgram(self.memory, ptx, report)

    @contextmanager
    def queue(self) -> Iterator[None]:
        yield

    def clock(self) -> float:
        return time.perf_counter()
