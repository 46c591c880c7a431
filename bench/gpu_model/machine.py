"""Runs a thread block of PTX, 32 threads at a time, and counts what it does.

Threads of a warp that part run on in turns, those that are furthest behind first, so that they meet
again. Warps go on one after the other, from barrier to barrier.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.gpu_model.arithmetic import HELPERS
from bench.gpu_model.ptx import Function, Instruction, Module
from bench.gpu_model.words import lines_of, register

LANES = 32
SHARED_AT = 1024  # where shared memory begins; 0 is no address
Array = npt.NDArray[Any]


@dataclass
class Interval:
    """What a warp did between two barriers."""

    runs: Counter[tuple[str, int]] = field(default_factory=Counter)  # of blocks, by function
    threads: Counter[tuple[str, int]] = field(default_factory=Counter)  # that ran them
    wavefronts: int = 0  # of shared memory
    accesses: int = 0  # of it: as many wavefronts as there would be without bank conflicts


class Memory:
    """All memories in one: shared first, then what is global. Addresses are from its start."""

    def __init__(self, size: int) -> None:
        self.bytes: npt.NDArray[np.uint8] = np.zeros(size, np.uint8)
        kinds = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
        self.of = {width: self.bytes.view(kind) for width, kind in kinds.items()}
        self.used = SHARED_AT + 256 * 1024

    def allocate(self, size: int) -> int:
        at = -(-self.used // 256) * 256
        self.used = at + size
        assert self.used <= len(self.bytes), "more memory than this machine has"
        return at


class Frame:
    """Registers of a function of a warp: rows of 32, as each type sees them."""

    def __init__(self, warp: Warp, function: Function, given: dict[str, Array]) -> None:
        self.warp, self.function, self.given = warp, function, given
        layout = warp.program.layouts[function.name]
        self.P = list(np.zeros((layout[1], LANES), bool))
        for bits, letter in ((16, "H"), (32, "W"), (64, "D")):
            words = np.zeros((layout[bits], LANES), f"u{bits // 8}")
            setattr(self, f"{letter}u", list(words))
            setattr(self, f"{letter}i", list(words.view(f"i{bits // 8}")))
            if bits > 16:
                setattr(self, f"{letter}f", list(words.view(f"f{bits // 8}")))
        self.local = {
            name: warp.program.memory.allocate(size * LANES) + size * np.arange(LANES)
            for name, size in function.local.items()
        }


class Program:
    """A module, ready to run: its blocks become Python when they first do."""

    def __init__(self, module: Module, memory: Memory) -> None:
        self.module, self.memory = module, memory
        self.symbols = dict.fromkeys(module.shared, SHARED_AT)
        for name, values in module.constants.items():
            self.symbols[name] = memory.allocate(len(values))
            at = self.symbols[name]
            memory.bytes[at : at + len(values)] = np.frombuffer(values, np.uint8)
        self.layouts: dict[str, Counter[int]] = {}
        self.rows: dict[str, dict[str, tuple[int, int]]] = {}  # bits and first row, by prefix
        for function in module.functions.values():
            self._lay_out(function)
        self._codes: dict[tuple[str, int, bool], Callable[[Frame, Any], None]] = {}

    def _lay_out(self, function: Function) -> None:
        named: dict[str, set[int]] = {prefix: set() for prefix in function.registers}
        for block in function.blocks:
            for instruction in block.instructions:
                for name in (*instruction.reads, *instruction.writes):
                    prefix, index = register(name)
                    if prefix in named:
                        named[prefix].add(index)
        sizes: Counter[int] = Counter()
        rows = {}
        for prefix, bits in function.registers.items():
            rows[prefix] = bits, sizes[bits]
            sizes[bits] += max(named[prefix], default=0) + 1
        self.layouts[function.name], self.rows[function.name] = sizes, rows

    def code(self, function: Function, index: int, full: bool) -> Callable[[Frame, Any], None]:
        key = (function.name, index, full)
        if key not in self._codes:
            self._codes[key] = self._compile(function, index, full)
        return self._codes[key]

    def _compile(self, function: Function, index: int, full: bool) -> Callable[[Frame, Any], None]:
        block = function.blocks[index]
        plain = block.instructions[:-1] if block.end is not None else block.instructions
        lines = [f"{letter}=f.{letter}" for letter in ("P", "Hu", "Hi", "Wu", "Wi", "Wf")]
        lines += [f"{letter}=f.{letter}" for letter in ("Du", "Di", "Df")] + ["w=f.warp"]
        rows = self.rows[function.name]
        for instruction in plain:
            lines += lines_of(instruction, rows, self.symbols, full)
        source = "def run(f, m):\n" + "".join(f"    {line}\n" for line in lines)
        names: dict[str, Any] = dict(HELPERS)
        try:
            exec(compile(source, f"{function.name}:{index}", "exec"), names)
        except SyntaxError as error:
            raise NotImplementedError(source.splitlines()[(error.lineno or 1) - 1]) from error
        made: Callable[[Frame, Any], None] = names["run"]
        return made


class Warp:
    """32 threads, and what they have done since the last barrier."""

    def __init__(self, program: Program, number: int, warps: int, block: int, blocks: int) -> None:
        self.program, self.memory = program, program.memory
        self.interval, self.intervals = Interval(), list[Interval]()
        lanes = np.arange(LANES, dtype=np.uint32)
        self.special = {
            "%tid.x": lanes + np.uint32(LANES * number), "%laneid": lanes,
            "%ntid.x": LANES * warps, "%ctaid.x": block, "%nctaid.x": blocks,
        }  # fmt: skip
        self.banks: dict[tuple[int, bytes], int] = program.__dict__.setdefault("banks", {})
        self.conflicts: Counter[str] = program.__dict__.setdefault("conflicts", Counter())
        self.reached: Counter[str] = program.__dict__.setdefault("reached", Counter())

    def get(self, name: str) -> Any:
        """A special register's value."""
        if name == "%globaltimer":
            return time.perf_counter_ns()
        return self.special[name]

    def touch(self, address: Array, width: int, mask: Any, place: str) -> None:
        """Count the wavefronts of an access to shared memory."""
        if mask is not None:
            address = address[mask]
        offsets = (address - address[0]).tobytes() + bytes([int(address[0]) % 128])
        key = (width, offsets)
        found = self.banks.get(key)
        if found is None:
            found = self.banks[key] = wavefronts(address, width)
        least = max(1, width // 4) if len(address) > 1 and found > 1 else 1
        self.interval.wavefronts += found
        self.interval.accesses += min(found, least)
        self.conflicts[place] += found - min(found, least)
        self.reached[place] += 1

    def close(self) -> None:
        self.intervals.append(self.interval)
        self.interval = Interval()

    # --- control ---

    def run(self, function: Function, given: dict[str, Array], mask: Array) -> Iterator[None]:
        """Run a function for the threads of a mask; stop at each barrier of the block."""
        frame = Frame(self, function, given)
        end = len(function.blocks)
        at: Any = np.where(mask, 0, end)
        everyone = bool(mask.all())
        waiting = np.zeros(LANES, bool)  # at a barrier, for threads of this warp
        where = 0 if everyone else -1  # the block of all threads, or -1 where they are apart
        while True:
            if where < 0:
                first = int(np.where(waiting, end, at).min())
                active = (at == first) & ~waiting
            else:
                first, active = where, None
            if first >= end:
                if not waiting.any():
                    self.outcome = frame.given
                    return
                waiting[:] = False
                self.close()
                yield
                continue
            block = function.blocks[first]
            key = (function.name, first)
            self.interval.runs[key] += 1
            self.interval.threads[key] += LANES if active is None else int(active.sum())
            self.program.code(function, first, active is None)(frame, active)
            last = block.end
            following: Any = first + 1
            if last is not None:
                if last.op in ("bar", "barrier") and active is not None:
                    waiting |= active
                elif last.op in ("bar", "barrier"):
                    self.close()
                    yield
                elif last.op == "call":
                    yield from self._call(frame, last, active if active is not None else mask)
                else:
                    following = self._jump(frame, last, first)
            if active is None and isinstance(following, int):
                where = following
                continue
            if where >= 0:
                at, active = np.where(mask, where, end), mask
            at = np.where(active, following, at)
            apart = not everyone or waiting.any() or not bool((at == at[0]).all())
            where = -1 if apart else int(at[0])

    def _jump(self, frame: Frame, last: Instruction, first: int) -> Any:
        """Where each thread goes, one number if all go the same way."""
        function = frame.function
        if last.op in ("ret", "exit"):
            target: Any = len(function.blocks)
        elif last.op == "bra":
            target = function.labels[last.operands[0]]
        else:
            raise NotImplementedError(last.op)
        if not last.guard:
            return target
        prefix, index = register(last.guard.lstrip("!"))
        taken = frame.P[self.program.rows[function.name][prefix][1] + index]
        if last.guard.startswith("!"):
            taken = ~taken
        if taken.all():
            return target
        if not taken.any():
            return first + 1
        return np.where(taken, target, first + 1)

    def _call(self, frame: Frame, last: Instruction, mask: Array) -> Iterator[None]:
        groups = [o for o in last.operands if o.startswith("(")]
        name = next(o for o in last.operands if not o.startswith("("))
        function = self.program.module.functions[name]
        names = groups[-1].strip("()").replace(",", " ").split() if groups else []
        given = {
            own: frame.given[theirs] for own, theirs in zip(function.parameters, names, strict=True)
        }
        yield from self.run(function, given, mask)
        if function.result:
            frame.given[groups[0].strip("() ")] = self.outcome[function.result]


def wavefronts(address: Array, width: int) -> int:
    """How many times shared memory is asked: 32 banks of 4 bytes, a word of each at a time.

    Wide accesses go in as many parts as they have words, unless all threads want the same.
    """
    if (address == address[0]).all():
        return 1
    parts = max(1, width // 4)
    total = 0
    for threads in np.array_split(address, parts) if len(address) >= parts else [address]:
        words = np.unique((threads[:, None] // 4 + np.arange(parts)).reshape(-1))
        total += int(np.bincount(words.astype(np.int64) % 32).max())
    return total


def run_block(
    program: Program, function: str, warps: int, block: int, blocks: int, arguments: list[Any]
) -> list[list[Interval]]:
    """Run a thread block to its end; return the intervals of each warp."""
    entry = program.module.functions[function]
    given = {
        name: np.full(LANES, np.array(value, float if isinstance(value, float) else np.uint64))
        for name, value in zip(entry.parameters, arguments, strict=True)
    }
    given = {name: values.view(np.uint64) for name, values in given.items()}
    everyone = np.ones(LANES, bool)
    with np.errstate(all="ignore"):
        team = [Warp(program, number, warps, block, blocks) for number in range(warps)]
        running = [warp.run(entry, dict(given), everyone) for warp in team]
        while running:
            left = []
            for one in running:
                try:
                    next(one)
                    left.append(one)
                except StopIteration:
                    pass
            assert len(left) in (0, len(running)), "not all warps came to a barrier"
            running = left
    for warp in team:
        warp.close()
    return [warp.intervals for warp in team]
