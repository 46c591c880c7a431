"""Where results go: a folder for each CPU model, a JSON file for each benchmark."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from golf_opt.engines.native import library

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PICTURES = ROOT / "docs" / "pictures"
PACKAGES = ("torch", "optuna", "numpy", "jax")


def machine() -> dict[str, Any]:
    """Return what the figures depend on: CPU, compiler, versions."""
    command = library.require_compiler()
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "vectors": library.vectors()[0],
        "compiler": version.stdout.splitlines()[0],
        **versions(),
    }


def cpu_model() -> str:
    """Return the CPU's name, as in `AMD EPYC 9R14 96-Core Processor`."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def slug(cpu: str) -> str:
    """Return the folder's name of a CPU model, the same whatever clock rate it boasts of.

    >>> slug("Intel(R) Xeon(R) Processor @ 2.50GHz")
    'intel-xeon-processor'
    """
    words = re.sub(r"\((R|TM)\)|@.*|\bCPU\b", " ", cpu, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") or "unknown"


def versions() -> dict[str, str | None]:
    """Return the versions of Python and the packages, None where one is missing."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def save(name: str, result: dict[str, Any], folder: Path | None = None) -> Path:
    """Write <name>.json for the CPU that this runs on, or into a given folder; return its path."""
    folder = folder or RESULTS / slug(cpu_model())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path
