"""PTX, as NVRTC writes it for our kernel -> functions of basic blocks.

https://docs.nvidia.com/cuda/parallel-thread-execution/
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

ENDS = ("bra", "ret", "exit", "call", "bar", "barrier", "brx", "trap")


@dataclass(frozen=True)
class Instruction:
    op: str  # such as `fma`
    modifiers: tuple[str, ...]  # such as `rn`, `f32`
    operands: tuple[str, ...]  # a vector is one, such as `{%f1,%f2}`
    guard: str = ""  # the predicate that it runs by, such as `!%p1`
    place: str = ""  # where it was written

    @property
    def type(self) -> str:
        """The type of what it works on, such as `f32`."""
        return next((m for m in reversed(self.modifiers) if TYPE.fullmatch(m)), "")

    @property
    def reads(self) -> list[str]:
        named = self.operands if self.op in ("st", "bra") else self.operands[1:]
        return REGISTER.findall(" ".join((*named, self.guard)))

    @property
    def writes(self) -> list[str]:
        return [] if self.op in ("st", "bra") else REGISTER.findall(" ".join(self.operands[:1]))


@dataclass
class Block:
    """Instructions that run one after the other; the last one may go elsewhere."""

    instructions: list[Instruction] = field(default_factory=list)

    @property
    def end(self) -> Instruction | None:
        last = self.instructions[-1] if self.instructions else None
        return last if last is not None and last.op in ENDS and not _is_free(last) else None


@dataclass
class Function:
    name: str
    parameters: dict[str, int]  # offsets in bytes
    result: str = ""
    registers: dict[str, int] = field(default_factory=dict)  # bits, by prefix such as `%rd`
    local: dict[str, int] = field(default_factory=dict)  # bytes of a thread's own arrays
    blocks: list[Block] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # the block that one is in front of
    tables: dict[str, list[str]] = field(default_factory=dict)  # of labels


@dataclass
class Module:
    functions: dict[str, Function]
    constants: dict[str, bytes]
    shared: list[str]  # names of dynamic shared memory


TYPE = re.compile(r"[fbsu](8|16|32|64)|pred|b128")
REGISTER = re.compile(r"%[A-Za-z]+\d*")
SIZE = {"b8": 1, "b16": 2, "b32": 4, "b64": 8, "u8": 1, "u32": 4, "u64": 8, "f32": 4, "f64": 8}
HEAD = re.compile(
    r"\.(?:func|entry)\s+(?:\(([^)]*)\)\s*)?([\w$]+)\s*\(([^)]*)\)([^{;]*)([{;])", re.S
)
CONSTANT = re.compile(r"\.const[^;]*?\.([bu]\d+)\s+([\w$]+)\[(\d+)\]\s*=\s*\{([^}]*)\}")

STATEMENT = re.compile(
    r"\s*(?:([$\w]+):(?!:)|(\.loc\s[^\n]*)|([{}])(?=\s*(?:\n|$|\.reg))|([^;]*;))", re.S
)


def parse(text: str) -> Module:
    """Read a module; debug sections are left out."""
    text = re.sub(r"//[^\n]*", "", text)
    names = {number: name for number, name in re.findall(r'\.file\s+(\d+)\s+"([^"]+)"', text)}
    functions = {}
    for head in HEAD.finditer(text):
        if head[5] == "{":
            body = _body(text, head.end())
            functions[head[2]] = _function(head[2], head[3], head[1] or "", body, names)
    constants = {}
    for kind, name, count, values in CONSTANT.findall(text):
        numbers = [int(value, 0) for value in values.split(",")]
        size = SIZE[kind]
        told = b"".join((n % 256**size).to_bytes(size, "little") for n in numbers)
        constants[name] = told.ljust(size * int(count), b"\0")  # zeros at the end go without saying
    shared = re.findall(r"\.extern\s+\.shared[^;]*?([\w$]+)\[\]", text)
    return Module(functions, constants, shared)


def _body(text: str, start: int) -> str:
    depth, at = 1, start
    for found in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            at = found.start()
            break
    return text[start:at]


def _function(name: str, given: str, result: str, body: str, files: dict[str, str]) -> Function:
    made = Function(name, _offsets(given), next(iter(_offsets(result)), ""))
    block, place = Block(), ""
    made.blocks.append(block)

    def begin() -> Block:
        made.blocks.append(Block())
        return made.blocks[-1]

    for kind, line in _statements(body):
        if kind == "label":
            if block.instructions:
                block = begin()
            made.labels[line] = len(made.blocks) - 1
        elif line.startswith(".loc "):
            place = _place(line, files)
        elif line.startswith(".reg"):
            for prefix in re.findall(r"(%[A-Za-z]+)", line):
                bits = re.search(r"\.(pred|[bfsu](\d+))", line)
                assert bits is not None
                made.registers[prefix] = 1 if bits[1] == "pred" else int(bits[2])
        elif line.startswith(".local"):
            found = re.search(r"\.b8\s+([\w$]+)\[(\d+)\]", line)
            assert found is not None, line
            made.local[found[1]] = int(found[2])
        elif line.startswith(".branchtargets"):
            last = list(made.labels)[-1]
            made.tables[last] = re.findall(r"\$\w+", line)
        elif not line.startswith("."):
            block.instructions.append(_instruction(line, place))
            if block.end is not None:
                block = begin()
    return made


def _offsets(parameters: str) -> dict[str, int]:
    return {
        part.split()[-1]: 8 * index
        for index, part in enumerate(filter(str.strip, parameters.split(",")))
    }


def _statements(body: str) -> Iterator[tuple[str, str]]:
    """Yield labels and statements; the braces around a call are left out."""
    position = 0
    token = re.compile(
        r"\s*(?:([$\w]+):(?!:)|(\.loc\s[^\n]*)|([{}])(?=\s*(?:\n|$|\.reg))|([^;]*;))", re.S
    )
    while found := token.match(body, position):
        position = found.end()
        if found[1]:
            yield "label", found[1]
        elif found[2] or found[4]:
            yield "line", " ".join((found[2] or found[4]).rstrip(";").split())


def _place(line: str, files: dict[str, str]) -> str:
    found = re.match(r"\.loc\s+(\d+)\s+(\d+)", line)
    assert found is not None
    return f"{files.get(found[1], found[1])}:{found[2]}"


def _instruction(line: str, place: str) -> Instruction:
    guard = ""
    if line.startswith("@"):
        guard, line = line[1:].split(None, 1)
    name, _, rest = line.partition(" ")
    op, *modifiers = name.split(".")
    operands = re.findall(r"\{[^}]*\}|\([^)]*\)|\[[^\]]*\]|[^,\s]+", rest)
    return Instruction(op, tuple(modifiers), tuple(operands), guard, place)


def _is_free(instruction: Instruction) -> bool:
    """Whether it only keeps a warp's threads together, which they are here anyway."""
    return instruction.op == "bar" and instruction.modifiers[:1] == ("warp",)
