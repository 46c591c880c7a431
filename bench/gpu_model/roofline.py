"""Counts of a step -> the time that it would take on a GPU.

A block runs from barrier to barrier. An interval takes as long as the slowest of these:

- its slowest warp by itself: each basic block as long as its chain of dependent instructions, or
  one cycle for each instruction, with a few cycles for a branch;
- the busiest of the four schedulers: an instruction a cycle for all of its warps;
- its arithmetic: float32 and float64 lanes of the scheduler;
- shared memory: a wavefront a cycle, bank conflicts and shuffles included;

and a barrier on top. That is a block by itself. With B blocks on a multiprocessor a step of all of
them takes that time, or B times what the busiest resource needs over a whole step, whichever is
longer: blocks fill each other's waits.

What it does not know: how ptxas orders, merges and drops instructions (PTX is counted, addresses
are taken as free where they fold into an access), instruction cache misses, banks of registers,
time that blocks lose by bad luck in sharing, clocks that fall under load, launches and the host. So
the truth is slower; ratios between layouts and nets are what it is good for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.gpu_model.machine import Interval
from bench.gpu_model.ptx import Block, Instruction, Module

SCHEDULERS = 4
RESERVED = 1024  # bytes of shared memory that a block has besides
BARRIER, BRANCH = 25, 8  # cycles
GLOBAL, SHARED, SHUFFLE, SPECIAL, DOUBLE, PLAIN = 260, 23, 23, 18, 8, 4  # cycles until a result
FREE = ("cvta", "mov")
LONG = {  # instructions that some become
    ("div", "f32"): 9, ("sqrt", "f32"): 8, ("rcp", "f32"): 1, ("div", "f64"): 16,
    ("sqrt", "f64"): 16, ("rcp", "f64"): 8, ("ex2", "f32"): 3, ("lg2", "f32"): 3,
    ("div", "s32"): 20, ("rem", "s32"): 20, ("div", "u32"): 18, ("rem", "u32"): 18,
    ("div", "s64"): 60, ("rem", "s64"): 60, ("div", "u64"): 50, ("rem", "u64"): 50,
}  # fmt: skip
ARITHMETIC = ("fma", "add", "sub", "mul", "mad", "min", "max", "neg", "abs")
INNER = ("cuda.hpp", "team.hpp", "shapes.hpp", "primitives.hpp", "functions.hpp", "words.hpp")
HEAD = re.compile(r"\s*(?:static )?(?:INLINE )?(?:void|double|int64_t|bool)\s+(\w+)\(")


@dataclass(frozen=True)
class GpuModel:
    """A GPU, by its maker's tables."""

    name: str
    arch: str
    cores: int  # multiprocessors
    ghz: float  # boost
    lanes: int  # float32 multiply-adds of a multiprocessor in a cycle
    doubles: int  # float64 ones
    shared: int  # bytes of a multiprocessor
    registers: int = 65536
    warps: int = 64
    blocks: int = 32

    def held(self, registers: int, warps: int, shared_bytes: int) -> int:
        """Return how many blocks a multiprocessor holds at once."""
        of_warp = -(-32 * registers // 256) * 256
        limits = (
            self.registers // of_warp // warps, self.warps // warps, self.blocks,
            self.shared // (shared_bytes + RESERVED),
        )  # fmt: skip
        return min(limits)


GPUS = (
    GpuModel("A100 SXM", "sm_80", 108, 1.41, 64, 32, 164 * 1024),
    GpuModel("H100/H200 SXM", "sm_90", 132, 1.98, 128, 64, 228 * 1024),
    GpuModel("B200", "sm_100", 148, 1.97, 128, 64, 228 * 1024),
)


@dataclass(frozen=True)
class Cost:
    """Of a basic block, run by a warp."""

    issue: int  # instructions
    fused: int  # float32 multiply-adds
    single: int  # float32 instructions, those included
    double: int  # float64 instructions
    shuffles: int
    chain: int  # cycles, of the warp by itself


def cost_of(block: Block) -> Cost:
    issue = fused = single = double = shuffles = 0
    ready: dict[str, int] = {}
    chain = 0
    for instruction in block.instructions:
        slots = slots_of(instruction)
        issue += slots
        if instruction.op in ARITHMETIC and instruction.type == "f32":
            single += 1
            fused += instruction.op == "fma"
        double += (
            slots if instruction.type == "f64" and instruction.op not in ("ld", "st", "mov") else 0
        )
        shuffles += instruction.op == "shfl"
        start = max((ready.get(name, 0) for name in instruction.reads), default=0)
        for name in instruction.writes:
            ready[name] = start + latency_of(instruction, slots)
        chain = max(chain, start + slots)
    branch = BRANCH if block.end is not None and block.end.op in ("bra", "call", "ret") else 0
    return Cost(issue, fused, single, double, shuffles, max(chain, issue) + branch)


def slots_of(of: Instruction) -> int:
    """How many instructions of the GPU it becomes."""
    if of.op in FREE or (of.op == "ld" and "param" in of.modifiers) or of.op == "bar":
        return 0
    if of.op == "cvt" and of.modifiers[-1] in ("u32", "s32") and of.type in ("u64", "s64"):
        return 0
    if of.op in ("add", "sub") and of.type.endswith("64") and of.type != "f64":
        return 0 if of.operands[-1].lstrip("-").isdigit() else 2
    return LONG.get((of.op, of.type), 1)


def latency_of(of: Instruction, slots: int) -> int:
    if of.op == "ld":
        spaces = {"shared": SHARED, "param": 0}
        return next((spaces[m] for m in of.modifiers if m in spaces), GLOBAL)
    if of.op == "shfl":
        return SHUFFLE
    if slots == 0:
        return 0
    if slots > 1:
        return SPECIAL + PLAIN * slots
    if of.type == "f64":
        return DOUBLE
    return SPECIAL if of.op in ("rcp", "rsqrt", "sqrt", "ex2", "lg2", "tanh") else PLAIN


@dataclass
class Load:
    """What intervals of one kind ask of a multiprocessor, all together."""

    intervals: int = 0
    cycles: float = 0  # of a block by itself
    issue: Counter[int] = field(default_factory=Counter)  # by scheduler
    single: Counter[int] = field(default_factory=Counter)
    double: Counter[int] = field(default_factory=Counter)
    shared: float = 0  # wavefronts, shuffles included
    needed: float = 0  # of them without bank conflicts
    slowest: float = 0  # cycles of the slowest warp, summed over intervals
    warps: float = 0  # cycles of all warps
    fused: int = 0  # multiply-adds of threads

    def add(self, other: Load, times: int = 1) -> None:
        for name in ("intervals", "cycles", "shared", "needed", "slowest", "warps", "fused"):
            setattr(self, name, getattr(self, name) + times * getattr(other, name))
        for name in ("issue", "single", "double"):
            for at, number in getattr(other, name).items():
                getattr(self, name)[at] += times * number

    def busiest(self, gpu: GpuModel) -> dict[str, float]:
        """Cycles that each resource of a multiprocessor needs for it."""
        return {
            "issue": max(self.issue.values(), default=0),
            "fp32": max(self.single.values(), default=0) * 32 * SCHEDULERS / gpu.lanes,
            "fp64": max(self.double.values(), default=0) * 32 * SCHEDULERS / gpu.doubles,
            "shared memory": self.shared,
        }


class Meter:
    """Makes loads of what a machine counted."""

    def __init__(self, module: Module, gpu: GpuModel, sources: dict[str, str]) -> None:
        self.module, self.gpu, self.sources = module, gpu, sources
        self._costs: dict[tuple[str, int], Cost] = {}

    def cost(self, key: tuple[str, int]) -> Cost:
        if key not in self._costs:
            name, index = key
            self._costs[key] = cost_of(self.module.functions[name].blocks[index])
        return self._costs[key]

    def loads(self, counted: Sequence[Sequence[Interval]]) -> dict[tuple[str, int], Load]:
        """Return the load of each kind of interval, by its name and its heaviest basic block."""
        found: dict[tuple[str, int], Load] = {}
        for team in zip(*counted, strict=True):
            load = self._load(team)
            key = self._key(team)
            found.setdefault(key, Load()).add(load)
        return found

    def _load(self, team: Sequence[Interval]) -> Load:
        load, alone = Load(intervals=1), []
        for number, interval in enumerate(team):
            at, mine = number % SCHEDULERS, 0
            for key, times in interval.runs.items():
                cost = self.cost(key)
                load.issue[at] += times * cost.issue
                load.single[at] += times * cost.single
                load.double[at] += times * cost.double
                load.shared += times * cost.shuffles
                load.needed += times * cost.shuffles
                load.fused += interval.threads[key] * cost.fused
                mine += times * cost.chain
            alone.append(mine + interval.wavefronts - interval.accesses)
            load.shared += interval.wavefronts
            load.needed += interval.accesses
        load.slowest, load.warps = max(alone), sum(alone)
        load.cycles = max(load.slowest, *load.busiest(self.gpu).values()) + BARRIER
        return load

    def _key(self, team: Sequence[Interval]) -> tuple[str, int]:
        heavy: Counter[tuple[str, int]] = Counter()
        for interval in team:
            for key, times in interval.runs.items():
                heavy[key] += times * self.cost(key).issue
        if not heavy:
            return "nothing", 0
        name, index = heavy.most_common(1)[0][0]
        block = self.module.functions[name].blocks[index]
        places = Counter(i.place for i in block.instructions)
        outer = Counter({p: n for p, n in places.items() if not p.startswith(INNER)})
        place = (outer or places).most_common(1)[0][0]
        return self._named(place) if place else name, index

    def _named(self, place: str) -> str:
        """Return the function that a line of the sources stands in, such as `conv weight_block`."""
        file, _, line = place.partition(":")
        file = file.rpartition("/")[2]
        lines = self.sources.get(file, "").splitlines()[: int(line)]
        heads = map(HEAD.match, lines)
        return f"{file.partition('.')[0]} {([h[1] for h in heads if h] or ['?'])[-1]}"
