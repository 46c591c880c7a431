"""What the lines of `words` call: instructions that NumPy has no word for."""

from __future__ import annotations

from typing import Any

import numpy as np

LANES = np.arange(32, dtype=np.int64)


def fma32(a: Any, b: Any, c: Any) -> Any:
    return (np.multiply(a, b, dtype=np.float64) + c).astype(np.float32)


def fma64(a: Any, b: Any, c: Any) -> Any:
    return (np.multiply(a, b, dtype=np.longdouble) + c).astype(np.float64)


def shift_left(a: Any, by: Any) -> Any:
    bits = 8 * a.dtype.itemsize
    by = np.asarray(by).astype(np.uint32)
    return np.where(by < bits, a << (by % np.uint32(bits)).astype(a.dtype), 0).astype(a.dtype)


def shift_right(a: Any, by: Any) -> Any:
    bits = 8 * a.dtype.itemsize
    by = np.asarray(by).astype(np.uint32)
    if a.dtype.kind == "i":
        return a >> np.minimum(by, bits - 1).astype(a.dtype)
    return np.where(by < bits, a >> (by % np.uint32(bits)).astype(a.dtype), 0).astype(a.dtype)


def high(a: Any, b: Any) -> Any:
    bits = 8 * a.dtype.itemsize
    product = np.asarray(a).astype(object) * np.asarray(b).astype(object)
    return (product >> bits).astype(a.dtype)


def whole_(a: Any, b: Any) -> Any:
    a, b = np.broadcast_arrays(a, b)
    if a.dtype.kind == "u":
        return a // b
    return np.where((a % b != 0) & ((a < 0) != (b < 0)), a // b + 1, a // b)


def rest_(a: Any, b: Any) -> Any:
    return np.fmod(a, b)


def whole(a: Any, kind: Any) -> Any:
    limits = np.iinfo(kind)
    return np.clip(np.nan_to_num(a.astype(np.longdouble)), limits.min, limits.max).astype(kind)


def extract(a: Any, at: Any, count: Any) -> Any:
    assert a.dtype.kind == "u", "bfe of signed numbers"
    return (a >> np.asarray(at).astype(a.dtype)) & ((1 << count) - 1)


def insert(a: Any, into: Any, at: int, count: int) -> Any:
    mask = (1 << count) - 1
    return (into & (~(mask << at) & 0xFFFFFFFF)) | ((a & mask) << at)


def permute(a: Any, b: Any, how: int) -> Any:
    given = (np.asarray(b).astype(np.uint64) << np.uint64(32)) | np.asarray(a).astype(np.uint64)
    total = np.zeros_like(given)
    for k in range(4):
        pick = how >> 4 * k & 15
        byte = given >> np.uint64(8 * (pick & 7)) & np.uint64(255)
        if pick & 8:
            byte = np.where(byte >> np.uint64(7), np.uint64(255), np.uint64(0))
        total |= byte << np.uint64(8 * k)
    return total.astype(np.uint32)


def funnel(a: Any, b: Any, by: Any) -> Any:
    """shf.l.wrap; the other one is refused where it is compiled."""
    both = (np.asarray(b).astype(np.uint64) << np.uint64(32)) | np.asarray(a).astype(np.uint64)
    return (both >> (np.uint64(32) - np.asarray(by).astype(np.uint64) % np.uint64(32))).astype(
        np.uint32
    )


def leading(a: Any) -> Any:
    bits = 8 * a.dtype.itemsize
    return np.array([bits - int(value).bit_length() for value in a], np.uint32)


def shuffle(mode: str, a: Any, b: Any, c: Any) -> Any:
    segment, last = np.asarray(c) >> 8 & 31, np.asarray(c) & 31
    lanes = LANES
    lowest = lanes & segment
    if mode == "bfly":
        source, limit = lanes ^ b, lowest | (last & ~segment)
        fits = source <= limit
    elif mode == "idx":
        source = lowest | (np.asarray(b).astype(np.int64) & ~segment.astype(np.int64) & 31)
        fits = source <= (lowest | (last & ~segment))
    elif mode == "down":
        source = lanes + b
        fits = source <= (lowest | (last & ~segment))
    else:
        source = lanes - np.asarray(b).astype(np.int64)
        fits = source >= lowest
    return np.where(fits, a[np.where(fits, source, lanes).astype(np.int64)], a)


def every(a: Any, like: Any) -> Any:
    """A number, or one for each thread, as one for each thread."""
    return np.broadcast_to(np.asarray(a).astype(like.dtype), (32,))


HELPERS: dict[str, Any] = {
    "np": np, "lanes": LANES, "copyto": np.copyto, "where": np.where, "fma32": fma32,
    "fma64": fma64, "shift_left": shift_left, "shift_right": shift_right, "high": high,
    "whole_": whole_, "rest_": rest_, "whole": whole, "extract": extract, "permute": permute,
    "funnel": funnel, "leading": leading, "shuffle": shuffle, "popcount": np.bitwise_count,
    "every": every, "insert": insert, "i64": lambda a: np.asarray(a).astype(np.int64),
    "u64": lambda a: np.asarray(a).astype(np.uint64),
    "u32": lambda a: np.asarray(a).astype(np.uint32), "minimum": np.minimum, "maximum": np.maximum,
    "fmin": np.fmin, "fmax": np.fmax, "isnan": np.isnan, "isfinite": np.isfinite,
    "copysign": np.copysign, "sqrt": np.sqrt, "exp2": np.exp2, "log2": np.log2, "tanh": np.tanh,
    "sin": np.sin, "cos": np.cos, "trunc": np.trunc, "rint": np.rint, "floor": np.floor,
    "ceil": np.ceil,
}  # fmt: skip
