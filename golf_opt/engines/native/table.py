"""What Python and the compiled code share: structures, and the pieces of a net in a table."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from golf_opt.engines.native.codegen import Pieces
from golf_opt.task.distortion import distortion_key
from golf_opt.task.recipe import (
    ADAM_BETAS,
    ADAM_EPS,
    DISTORTIONS,
    OPTIMIZERS,
    SGD_MOMENTUM,
    Candidate,
)


class Update(ctypes.Structure):
    """`golf::Update` of kernel/optimizer.hpp."""

    _fields_ = [
        ("optimizer", ctypes.c_int32),
        *((name, ctypes.c_double) for name in ("beta1", "beta2", "eps", "momentum")),
        ("weight_decay", ctypes.c_double),
    ]

    @classmethod
    def of(cls, candidate: Candidate) -> Update:
        optimizer = OPTIMIZERS.index(candidate.optimizer)
        return cls(optimizer, *ADAM_BETAS, ADAM_EPS, SGD_MOMENTUM, candidate.weight_decay)


class Criterion(ctypes.Structure):
    """`golf::Criterion` of kernel/loss.hpp."""

    _fields_ = [(name, ctypes.c_float) for name in ("label_smoothing", "distill", "temperature")]

    @classmethod
    def of(cls, candidate: Candidate) -> Criterion:
        return cls(candidate.label_smoothing, candidate.distill, candidate.temperature)


class Distortion(ctypes.Structure):
    """`golf::Distortion` of kernel/distort.hpp: how strongly, and the key of the epoch."""

    _fields_ = [
        *((name, ctypes.c_float) for name in (*DISTORTIONS, "mixup")),
        ("key", ctypes.c_uint32),
    ]

    @classmethod
    def of(cls, candidate: Candidate, seed: int, epoch: int) -> Distortion:
        strengths = {name: getattr(candidate, name) for name in DISTORTIONS}
        strengths["rotate"] = math.radians(candidate.rotate)
        return cls(**strengths, mixup=candidate.mixup, key=distortion_key(seed, epoch))


class Row(ctypes.Structure):
    """`golf::Row` of kernel/driver.hpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("forward", "backward")),
        *((name, ctypes.c_int64) for name in ("weights", "buffers", "dropouts", "second")),
        *((name, ctypes.c_int64) for name in ("activation", "gradient", "saved", "state")),
    ]


class Table(ctypes.Structure):
    """`golf::Table` of kernel/driver.hpp."""

    _fields_ = [
        ("rows", ctypes.POINTER(Row)),
        ("input", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("count", "first", "numbers", "classes")),
        *((name, ctypes.c_int64) for name in ("padded", "segmented", "own", "at_pass")),
        *((name, ctypes.c_int64) for name in ("shared", "scratch")),
    ]


class Training(ctypes.Structure):
    """`golf::Training` of kernel/trial.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("images", "labels", "soft", "order", "worth")),
        *((name, ctypes.c_void_p) for name in ("losses", "rates")),
        *((name, ctypes.c_void_p) for name in ("dropout_keys", "weights", "first", "second")),
        *((name, ctypes.c_void_p) for name in ("mask", "buffers", "average", "average_rates")),
        *((name, ctypes.c_void_p) for name in ("workspace", "stop", "distortion")),
        *((name, ctypes.c_int64) for name in ("n", "batch_size", "num_dropouts", "num_buffers")),
        *((name, ctypes.c_int64) for name in ("steps_before", "step")),
        *((name, ctypes.c_double) for name in ("loss_sum", "limit_s")),
        ("update", Update),
        ("criterion", Criterion),
    ]


LIMIT, EPOCH_END, STOPPED, NOT_FINITE = range(4)  # `golf::Outcome`


class Library:
    """The kernel of one net with `images` images side by side in vectors of `width` floats.

    Args:
        driver: the library of trial.cpp.
        parts: what the net is made of.
        compiled: the library of each piece, by the piece's source.
        width: floats per vector.
        images: images side by side.
    """

    train: Callable[..., int]
    gradients: Callable[..., float]
    scores: Callable[..., None]
    correct: Callable[..., int]
    workspace_bytes: Callable[[int], int]

    def __init__(
        self,
        driver: ctypes.CDLL,
        parts: Pieces,
        compiled: Mapping[str, ctypes.CDLL],
        width: int,
        images: int,
    ) -> None:
        self.width, self.images = width, images

        def address(source: str, name: str) -> int:
            return ctypes.addressof(ctypes.c_char.in_dll(compiled[source], f"golf_{name}"))

        rows = (Row * (len(parts.layers) + 1))()  # the table keeps it
        for row, piece in zip(rows, parts.layers, strict=False):
            row.forward = address(piece.source, "forward")
            row.backward = address(piece.source, "backward") if piece.trained else None
            row.weights, row.buffers, row.dropouts = piece.weights, piece.buffers, piece.dropouts
            row.second = piece.second
        self._table = Table(
            rows=rows,
            input=address(parts.input, "input"),
            count=len(parts.layers),
            first=parts.first_trained,
            numbers=parts.numbers,
            classes=parts.classes,
        )
        driver.golf_plan(ctypes.byref(self._table))
        self.padded_params = int(self._table.padded)
        # ctypes releases Python's lock during a call
        pointer, integer, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
        data = [pointer, pointer, integer]
        types: dict[str, tuple[Any, list[Any]]] = {
            "train": (ctypes.c_int32, [pointer]),
            "gradients": (real, [pointer, *data, *[pointer] * 7]),
            "scores": (None, [pointer, integer, *[pointer] * 4]),
            "correct": (integer, [*data, *[pointer] * 4]),
            "workspace_bytes": (integer, [integer]),
        }
        for name, (result, arguments) in types.items():
            function = getattr(driver, f"golf_{name}")
            function.restype, function.argtypes = result, [pointer, *arguments]
            setattr(self, name, partial(function, ctypes.addressof(self._table)))
        self.order = driver.golf_order
        self.order.argtypes, self.order.restype = [pointer, ctypes.c_int32, integer, pointer], None
