"""What produced a trial or a record: versions, commit, engine, device."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from golf_opt import __version__
from golf_opt.engines.base import Engine


@cache
def git_commit() -> str | None:
    """Return the commit of the source tree, with `+` if it has changes; None outside of git."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    words = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        head = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
        return head.stdout.strip() or None
    return None


def provenance(engine: Engine) -> dict[str, Any]:
    """Return what produced a trial: versions, commit, engine, device, host."""
    packages = ("torch", "optuna", "numpy")
    return {
        "engine": engine.name,
        "device": engine.device,
        "versions": {"golf_opt": __version__, "python": platform.python_version()}
        | {package: version(package) for package in packages},
        "git_commit": git_commit(),
    }
