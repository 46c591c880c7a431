"""Which GPU there is, asked of NVIDIA's driver by a process of its own.

PyTorch takes seconds to import, and a driver that is ill may never answer: neither is for the
process that asks. This file runs by itself, so it needs the standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIBRARY = "libcuda.so.1"
PATIENCE_S = 30.0
NO_GPU = (34, 100)  # a stub in the driver's place, and CUDA_ERROR_NO_DEVICE
VERSION = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Found:
    """A GPU as its driver describes it, or why the driver does not."""

    name: str  # such as `NVIDIA H100 80GB HBM3`
    driver: str = ""  # such as `550.54.15, CUDA 12.4`
    arch: str = ""  # such as `sm_90`
    memory_bytes: int = 0
    why: str | None = None


def find_gpu() -> Found | None:
    """Return the GPU that CUDA takes first; None where there is none."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return None  # at once: there is no driver
    command = [sys.executable, "-I", __file__, LIBRARY]
    asked = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = asked.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        asked.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            asked.communicate(timeout=1.0)  # and no longer: a driver may hold it for ever
        return Found("the GPU", why=f"its driver did not answer for {PATIENCE_S:g} s")
    if asked.returncode:
        said = err.strip().splitlines() or [f"exit status {asked.returncode}"]
        return Found("the GPU", why=f"its driver failed: {said[-1]}")
    return Found(**json.loads(out)) if out.strip() else None


def describe(library: str) -> dict[str, Any] | None:
    """Return the fields of `Found`, from the driver itself; None where it sees no GPU."""
    cuda = ctypes.CDLL(library)

    def ask(function: str, *arguments: Any) -> None:
        if status := getattr(cuda, function)(*arguments):
            if status in NO_GPU:
                raise LookupError
            sys.exit(f"{function} says {status}")

    count, device, version, major, minor = (ctypes.c_int() for _ in range(5))
    memory, name = ctypes.c_size_t(), ctypes.create_string_buffer(256)
    try:
        ask("cuInit", 0)
        ask("cuDeviceGetCount", ctypes.byref(count))
    except LookupError:
        return None
    if count.value == 0:
        return None
    ask("cuDeviceGet", ctypes.byref(device), 0)
    ask("cuDeviceGetName", name, len(name), device)
    ask("cuDriverGetVersion", ctypes.byref(version))
    ask("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    ask("cuDeviceGetAttribute", ctypes.byref(major), 75, device)  # compute capability
    ask("cuDeviceGetAttribute", ctypes.byref(minor), 76, device)
    cuda_version = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    return {
        "name": name.value.decode(errors="replace"),
        "driver": ", ".join(filter(None, [_release(), cuda_version])),
        "arch": f"sm_{major.value}{minor.value}",
        "memory_bytes": memory.value,
    }


def _release() -> str:
    """Return the driver's release where the system tells it, such as `550.54.15`."""
    try:
        told = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", VERSION.read_text())
    except OSError:
        return ""
    return told[0] if told else ""


if __name__ == "__main__":
    if found := describe(sys.argv[1]):
        print(json.dumps(found))
