"""The structures that kernel/slice.hpp shares with the host, field by field."""

from __future__ import annotations

import ctypes

import numpy as np

from golf_opt.engines.native.library import Update

LIMIT, DONE, _, NOT_FINITE = range(4)  # `golf::Outcome`

DATA = np.dtype([("images", "u8"), ("labels", "u8"), ("n", "i8")], align=True)
EPOCH = np.dtype([("rates", "u8"), ("order_keys", "u4", 8)], align=True)
RESULT = np.dtype(
    [("loss_sum", "f8"), ("time_s", "f8"), ("correct", "i8"), ("train_correct", "i8")], align=True
)
LANE = np.dtype(
    [
        *((name, "u8") for name in ("state", "mask", "snapshots", "spill", "epochs", "results")),
        ("dropout_prefixes", "u8"),
        *((name, "i8") for name in ("num_epochs", "num_dropouts", "num_buffers", "batch_size")),
        *((name, "i8") for name in ("steps_before", "train_last", "step", "epochs_done")),
        *((name, "f8") for name in ("loss_sum", "time_s", "label_smoothing")),
        ("update", f"V{ctypes.sizeof(Update)}"),
        ("half", "i4"),
        ("outcome", "i4"),
    ],
    align=True,
)
BATCHED = np.dtype(
    [("order", "u8"), ("dropout_keys", "u8"), ("gradients", "u8"), ("loss_sum", "f8")], align=True
)
