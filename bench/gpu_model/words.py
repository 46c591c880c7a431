"""PTX instructions as lines of Python on rows of 32 numbers, one for each thread of a warp."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

from bench.gpu_model.ptx import SIZE, Instruction

Rows = Mapping[str, tuple[int, int]]  # bits and first row of the registers, by prefix
LETTER = {16: "H", 32: "W", 64: "D"}
COMPARE = {
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "lo": "<", "ls": "<=", "hi": ">", "hs": ">=",
}  # fmt: skip
PLAIN = {  # what the operands become, for most types
    "add": "{0}+{1}", "sub": "{0}-{1}", "and": "{0}&{1}", "or": "{0}|{1}", "xor": "{0}^{1}",
    "not": "~{0}", "neg": "-{0}", "abs": "abs({0})", "rcp": "1/{0}", "rsqrt": "1/sqrt({0})",
    "sqrt": "sqrt({0})", "ex2": "exp2({0})", "lg2": "log2({0})", "tanh": "tanh({0})",
    "sin": "sin({0})", "cos": "cos({0})", "shl": "shift_left({0},{1})",
    "shr": "shift_right({0},{1})", "popc": "popcount({0})", "mov": "{0}", "cvta": "{0}",
    "copysign": "copysign({1},{0})", "bfe": "extract({0},{1},{2})", "prmt": "permute({0},{1},{2})",
    "shf": "funnel({0},{1},{2})", "clz": "leading({0})",
}  # fmt: skip


def register(name: str) -> tuple[str, int]:
    found = re.fullmatch(r"(%[A-Za-z]+)(\d*)", name)
    assert found is not None, name
    return found[1], int(found[2] or 0)


class Writer:
    """Writes one instruction."""

    def __init__(self, of: Instruction, rows: Rows, symbols: Mapping[str, int], full: bool) -> None:
        self.of, self.rows, self.symbols = of, rows, symbols
        self.mask = "" if full else "m"
        if of.guard:
            guard = self.value(of.guard, "pred")
            self.mask = guard if full else f"({guard}&m)"

    # --- operands ---

    def is_register(self, name: str) -> bool:
        found = re.fullmatch(r"(%[A-Za-z]+)\d*", name)
        return found is not None and found[1] in self.rows

    def row(self, name: str, type: str) -> str:
        """A register as a type sees it."""
        prefix, index = register(name)
        bits, first = self.rows[prefix]
        if bits == 1:
            return f"P[{first + index}]"
        kind = type[0] if type[0] in "fi" else "i" if type[0] == "s" else "u"
        return f"{LETTER[bits]}{kind}[{first + index}]"

    def value(self, operand: str, type: str) -> str:
        if operand.startswith("!"):
            return f"~{self.value(operand[1:], type)}"
        if self.is_register(operand):
            return self.row(operand, type)
        if operand.startswith("%"):
            return f"w.get({operand!r})"
        if found := re.fullmatch(r"0[fd]([0-9A-Fa-f]+)", operand):
            raw = bytes.fromhex(found[1])
            number = struct.unpack(">f" if len(raw) == 4 else ">d", raw)[0]
            return f"float({str(number)!r})" if type[0] == "f" else str(int(found[1], 16))
        if re.fullmatch(r"-?(0x[0-9A-Fa-f]+|\d+)U?", operand):
            return str(wrapped(int(operand.rstrip("U"), 0), type))
        if operand in self.symbols:
            return str(self.symbols[operand])
        return f"f.local[{operand!r}]"

    def set(self, to: str, value: str) -> str:
        if self.mask:
            return f"copyto({to},{value},where={self.mask},casting='unsafe')"
        return f"{to}[:]={value}"

    # --- instructions ---

    def lines(self) -> list[str]:
        of = self.of
        if of.op in ("ld", "ldu"):
            return self.load()
        if of.op == "st":
            return self.store()
        if of.op == "mov" and "{" in "".join(of.operands):
            return self.pack()
        if of.op in ("bar", "membar", "fence", "prefetch"):
            return []
        if of.op in ("setp", "shfl"):
            to, *more = of.operands[0].split("|")
            value = self.compared() if of.op == "setp" else self.shuffled()
            assert not more or of.op == "shfl", of
            return [self.set(self.row(to, of.type), value)]
        to = self.row(of.operands[0], self.result_type())
        return [self.set(to, self.computed())]

    def result_type(self) -> str:
        of = self.of
        if of.op == "cvt":
            return next(m for m in of.modifiers if re.fullmatch(r"[fsu]\d+", m))
        wide = {"s32": "s64", "u32": "u64", "s16": "s32", "u16": "u32"}
        return wide[of.type] if "wide" in of.modifiers else of.type

    def computed(self) -> str:
        of, type = self.of, self.of.type
        given = [self.value(operand, type) for operand in of.operands[1:]]
        if of.op == "cvt":
            return self.converted(given[0])
        if of.op == "selp":
            given[2] = self.value(of.operands[3], "pred")
            return f"where({given[2]},{given[0]},{given[1]})"
        if of.op in ("mul", "mad") and "wide" in of.modifiers:
            product = f"{'i64' if type[0] == 's' else 'u64'}({given[0]})*{given[1]}"
            last = of.operands[-1]
            return (
                product if of.op == "mul" else f"{product}+{self.value(last, self.result_type())}"
            )
        if of.op == "mul" and "hi" in of.modifiers:
            return f"high({given[0]},{given[1]})"
        if of.op == "mul":
            return f"{given[0]}*{given[1]}"
        if of.op in ("mad", "fma"):
            name = {"f32": "fma32({0},{1},{2})", "f64": "fma64({0},{1},{2})"}
            return name.get(type, "{0}*{1}+{2}").format(*given)
        if of.op in ("div", "rem"):
            if type[0] == "f":
                return f"{given[0]}/{given[1]}"
            return f"{'whole_' if of.op == 'div' else 'rest_'}({given[0]},{given[1]})"
        if of.op in ("min", "max"):
            name = f"f{of.op}" if type[0] == "f" else f"{of.op}imum"
            return f"{name}({given[0]},{given[1]})"
        if of.op == "bfi":
            return f"insert({','.join(given)})"
        if of.op == "testp":
            return f"isfinite({given[0]})"
        if of.op in ("shl", "shr") and of.operands[2].isdigit():
            return f"{given[0]}{'<<' if of.op == 'shl' else '>>'}{int(of.operands[2])}"
        if of.op in PLAIN:
            return PLAIN[of.op].format(*given)
        raise NotImplementedError(f"{of.op}.{'.'.join(of.modifiers)}")

    def compared(self) -> str:
        of = self.of
        a, b = (self.value(operand, of.type) for operand in of.operands[1:3])
        name, unordered = of.modifiers[0], False
        if name not in COMPARE:
            if name == "nan":
                return f"(isnan({a})|isnan({b}))"
            if name == "num":
                return f"~(isnan({a})|isnan({b}))"
            name, unordered = name[:-1], True
        value = f"({a}{COMPARE[name]}{b})"
        if name == "ne" and of.type[0] == "f" and not unordered:
            value = f"({value}&~isnan({a})&~isnan({b}))"
        elif unordered:
            value = f"({value}|isnan({a})|isnan({b}))"
        if len(of.operands) > 3:
            how = {"and": "&", "or": "|", "xor": "^"}[of.modifiers[1]]
            value = f"({value}{how}{self.value(of.operands[3], 'pred')})"
        return value

    def converted(self, given: str) -> str:
        of = self.of
        to, source = (m for m in of.modifiers if re.fullmatch(r"[fsu]\d+", m))
        if source in ("u8", "s8") or (source[0] != "f" and SIZES[source] < 4):
            given = f"({given}).astype(np.{NUMPY[source]})"
        if to[0] != "f" and source[0] == "f":
            how = {"rzi": "trunc", "rni": "rint", "rmi": "floor", "rpi": "ceil"}
            rounding = next(m for m in of.modifiers if m in how)
            return f"whole({how[rounding]}({given}),np.{NUMPY[to]})"
        if to[0] == "f" and source[0] == "f":
            how = {"rzi": "trunc", "rni": "rint", "rmi": "floor", "rpi": "ceil"}
            for m in of.modifiers:
                if m in how:
                    return f"{how[m]}({given})"
        return f"({given}).astype(np.{NUMPY[to]})"

    def shuffled(self) -> str:
        of = self.of
        mode = of.modifiers[1]
        given = [self.value(operand, "u32") for operand in of.operands[1:4]]
        return f"shuffle({mode!r},{','.join(given)})"

    def pack(self) -> list[str]:
        """Move a word into two halves, or two halves into a word."""
        to, source = self.of.operands
        if to.startswith("{"):
            low, high = (part.strip() for part in to.strip("{}").split(","))
            bits = self.rows[register(source)[0]][0]
            half = f"b{bits // 2}"
            lines = []
            word = self.row(source, "b64")
            for name, value in (
                (low, f"{word}&{2 ** (bits // 2) - 1}"),
                (high, f"{word}>>{bits // 2}"),
            ):
                if name != "_":
                    lines.append(self.set(self.row(name, half), value))
            return lines
        low, high = (self.value(part.strip(), "b32") for part in source.strip("{}").split(","))
        bits = self.rows[register(to)[0]][0]
        wide = "u64" if bits == 64 else "u32"
        return [self.set(self.row(to, "b64"), f"{wide}({low})|({wide}({high})<<{bits // 2})")]

    # --- memory ---

    def space(self) -> str:
        spaces = ("param", "shared", "global", "local", "const")
        return next(
            (m.partition("::")[0] for m in self.of.modifiers if m.partition("::")[0] in spaces), ""
        )

    def address(self, operand: str) -> tuple[str, str, int]:
        """What an address in brackets is made of: a register or a symbol, which, an offset."""
        name, _, offset = operand.strip("[]").partition("+")
        if self.is_register(name):
            return "register", self.row(name, "s64"), int(offset or 0)
        return "symbol", name, int(offset or 0)

    def located(self, operand: str, width: int, words: int) -> list[str]:
        how, base, offset = self.address(operand)
        if how == "symbol":
            base = f"(lanes*0+{self.value(base, 'u64')})"
        lines = [f"a={base}+{offset}" if offset else f"a={base}"]
        if self.mask:
            lines += [f"k={self.mask}", "a=where(k,a,0)"]
        if self.space() == "shared":
            mask = "k" if self.mask else "None"
            touched = f"w.touch(a,{width * words},{mask},{self.of.place!r})"
            lines.append(f"if k.any(): {touched}" if self.mask else touched)
        shift = {1: 0, 2: 1, 4: 2, 8: 3}[width]
        return [*lines, f"j=a>>{shift}" if shift else "j=a"]

    def load(self) -> list[str]:
        type = self.of.type
        to, source = self.of.operands
        names = [name.strip() for name in to.strip("{}").split(",")]
        if self.space() == "param":
            _, name, _ = self.address(source)
            value = f"f.given[{name!r}]"
            if type[0] == "f":
                value += (
                    ".view(np.float64)" if type == "f64" else ".astype(np.uint32).view(np.float32)"
                )
            return [self.set(self.row(names[0], type), value)]
        width = SIZES[type]
        lines = self.located(source, width, len(names))
        for index, name in enumerate(names):
            got = f"w.memory.of[{width}][j{f'+{index}' if index else ''}]"
            if type[0] == "s":
                got += f".view(np.{NUMPY[type]})"
            seen = type if type[0] == "s" else f"b{8 * width}"
            lines.append(self.set(self.row(name, seen), got))
        return lines

    def store(self) -> list[str]:
        type = self.of.type
        to, source = self.of.operands
        if self.space() == "param":
            _, name, _ = self.address(to)
            value = self.value(source, f"b{8 * SIZES[type]}")
            return [f"f.given[{name!r}]=u64({value}).copy()"]
        width = SIZES[type]
        parts = [part.strip() for part in source.strip("{}").split(",")]
        lines = self.located(to, width, len(parts))
        for index, part in enumerate(parts):
            at = f"j+{index}" if index else "j"
            value = self.value(part, f"b{8 * width}")
            to_words = f"w.memory.of[{width}]"
            if self.mask:
                lines.append(f"{to_words}[({at})[k]]=every({value},{to_words})[k]")
            else:
                lines.append(f"{to_words}[{at}]={value}")
        return lines


def lines_of(of: Instruction, rows: Rows, symbols: Mapping[str, int], full: bool) -> list[str]:
    """Return the lines that do one instruction, for all threads or for those of the mask `m`."""
    return Writer(of, rows, symbols, full).lines()


def wrapped(number: int, type: str) -> int:
    """An integer as a type holds it."""
    bits = int(type[1:]) if type[1:].isdigit() else 32
    number %= 2**bits
    return number - 2**bits if type[0] == "s" and number >= 2 ** (bits - 1) else number


SIZES = {**SIZE, "s8": 1, "u16": 2, "s16": 2, "s32": 4, "s64": 8, "f16": 2}
NUMPY = {
    "u8": "uint8", "s8": "int8", "u16": "uint16", "s16": "int16", "u32": "uint32",
    "s32": "int32", "u64": "uint64", "s64": "int64", "f32": "float32", "f64": "float64",
}  # fmt: skip
