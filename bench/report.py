"""Where results go: the machine they are from, a JSON file, the folder."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from golf_opt.engines.native import library

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "optuna", "numpy", "jax")


def machine() -> dict[str, Any]:
    """Return what the figures depend on: CPU, compiler, versions."""
    cpu = next((line for line in library._cpu().splitlines() if "model name" in line), "")
    command = library.require_compiler()
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    return {
        "cpu": cpu.split(":")[-1].strip() or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "vectors": library.vectors()[0],
        "compiler": version.stdout.splitlines()[0],
        **versions(),
    }


def versions() -> dict[str, str | None]:
    """Return the versions of Python and the packages, None where one is missing."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def save(name: str, result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write <name>.json in bench/results, or in another folder; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path
