"""An emulated GPU whose work takes as long as bench.gpu_model predicts, whatever this CPU needs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from faulty_gpus import WrongGradient, rows

from bench.gpu_model.profile import Profiler
from bench.gpu_model.roofline import GPUS
from golf_opt.engines.base import Message, steps_per_epoch
from golf_opt.engines.cuda.devices import EmulatedProgram, Emulation
from golf_opt.engines.cuda.lanes import DATA, LANE
from golf_opt.engines.cuda.program import Block, compile_emulation
from golf_opt.task.arch import Net

LAUNCH_S = 0.0  # a step each: what was launched and not told of yet is little, on any CPU
SPILLS, WRONG = 3, 4  # blocks on a multiprocessor: one layout spills registers, one adds up wrongly
TIMES = "GOLF_TEST_TIMES"  # for the proof's process: seconds of a pass, by layout


def predict(net: Net, batch_size: int, blocks: Sequence[Block]) -> str:
    """Return what TIMES is to be: seconds of a pass, shared by the blocks of a multiprocessor."""
    times = {}
    for block in blocks:
        found = Profiler(net, batch_size, block).predict(GPUS[1])
        step_s = found.cycles(found.step) / (found.gpu.ghz * 1e9) / found.held
        times[str(block)] = step_s / -(-batch_size // block.images)
    return json.dumps(times)


class Modelled(Emulation):
    seconds = 0.0

    def clock(self) -> float:
        return self.seconds

    def load(self, net: Net, block: Block, place: int, say: Message | None) -> Any:
        path = str(compile_emulation(net, block, place, ("-Og",), say))
        device, wrong, times = self, WrongGradient(), json.loads(os.environ[TIMES])

        class Program(EmulatedProgram):
            def run(self, function: str, blocks: int, shared: int, *given: int | float) -> None:
                if function != "golf_slice":
                    super().run(function, blocks, shared, *given)
                    if block.blocks == WRONG:
                        wrong.spoiled(function, blocks, given)
                    return
                before = rows(given[0], LANE, blocks)
                at = [int(lane["step"]) for lane in before]
                super().run(function, blocks, shared, *given[:-1], LAUNCH_S)
                n = int(rows(given[1], DATA, 1)["n"][0])
                device.seconds += sum(
                    self._passes(lane, start, n) * times[str(block)]
                    for lane, start in zip(before, at, strict=True)
                )

            def _passes(self, lane: Any, start: int, n: int) -> int:
                size = int(lane["batch_size"])
                epochs = int(lane["epochs_done"]) * steps_per_epoch(n, size)
                return (epochs + int(lane["step"]) - start) * -(-size // block.images)

            def facts(self) -> dict[str, int]:
                return {"spill_bytes": 96 if block.blocks == SPILLS else 0}

        return Program(path)
