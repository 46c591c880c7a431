"""An emulated GPU whose work takes as long as bench.gpu_model predicts, whatever this CPU needs."""

from __future__ import annotations

from functools import cache
from typing import Any

from faulty_gpus import WrongGradient, rows

from bench.gpu_model.profile import Profiler
from bench.gpu_model.roofline import GPUS
from golf_opt.engines.base import Message, steps_per_epoch
from golf_opt.engines.cuda.devices import EmulatedProgram, Emulation
from golf_opt.engines.cuda.lanes import DATA, LANE
from golf_opt.engines.cuda.program import Block, compile_emulation
from golf_opt.task.arch import Net

LAUNCH_S = 0.01  # of this CPU: launches are many, so that their number does not matter
SPILLS, WRONG = 3, 4  # blocks on a multiprocessor: one layout spills registers, one adds up wrongly


@cache
def step_s(net: Net, batch_size: int, block: Block) -> float:
    """Seconds of a step of all blocks that a multiprocessor holds, and of each of them."""
    found = Profiler(net, batch_size, block).predict(GPUS[1])
    return found.cycles(found.step) / (found.gpu.ghz * 1e9) / found.held


class Modelled(Emulation):
    seconds = 0.0

    def clock(self) -> float:
        return self.seconds

    def load(self, net: Net, block: Block, place: int, say: Message | None) -> Any:
        path = str(compile_emulation(net, block, place, ("-Og",), say))
        device, wrong = self, WrongGradient()

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
                    self._steps(lane, start, n) * step_s(net, int(lane["batch_size"]), block)
                    for lane, start in zip(before, at, strict=True)
                )

            def _steps(self, lane: Any, start: int, n: int) -> int:
                per_epoch = steps_per_epoch(n, int(lane["batch_size"]))
                return int(lane["epochs_done"]) * per_epoch + int(lane["step"]) - start

            def facts(self) -> dict[str, int]:
                return {"spill_bytes": 96 if block.blocks == SPILLS else 0}

        return Program(path)
