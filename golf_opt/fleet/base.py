"""What a fleet needs of whatever starts its workers.

A launcher starts, counts and stops processes, and knows nothing of studies: whether a study is over
is asked of its database, since what an engine says of a job may be old, or missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from golf_opt.config import command
from golf_opt.config.fleet import FleetConfig

OWN_KEYS = ("on", "workers", "stop", "notify", "study")  # of the fleet; all others are its workers'


class Unreachable(Exception):
    """The engine does not answer now; what it runs goes on."""


@dataclass(frozen=True)
class Tally:
    """How many workers an engine has."""

    queued: int
    running: int
    why: str = ""  # some are queued, where the engine says it

    @property
    def all(self) -> int:
        return self.queued + self.running


class Launcher(Protocol):
    """An engine that starts the workers of one study.

    `tally` and `stop` are about all workers of the study there, whichever command started them.
    """

    stays: bool  # whether its workers go on when the command that started them ends

    def start(self, count: int) -> None:
        """Start so many more workers.

        Raises:
            UsageError: the engine refuses them.
        """

    def tally(self) -> Tally:
        """Count the workers.

        Raises:
            Unreachable: the engine does not answer.
        """

    def stop(self, queued: bool = False) -> None:
        """End all workers, or those that are queued: SIGTERM first, upon which they checkpoint."""

    def last_words(self) -> str:
        """Return what the worker that ended last complained of, or else said."""


def worker_command(
    program: Sequence[str],
    config: FleetConfig,
    study: str,
    lanes: int | None = None,
    instead: Sequence[str] = (),
) -> list[str]:
    """Return the command of a worker: what the user typed, but for the fleet's own keys.

    Args:
        program: that starts golf-opt.
        config: of the fleet.
        study: the whole name.
        lanes: of the engine, unless the user gives them.
        instead: overrides in place of what the user typed for their keys.
    """
    more = [] if lanes is None or config.engine.lanes is not None else [f"engine.lanes={lanes}"]
    but = (*OWN_KEYS, *map(command.key_of, instead))
    changed = [command.override("study", study), *more, *instead]
    return [*program, *command.handed_on("worker", but, *changed)]


def last_words(folder: Path) -> str:
    """Return how the worker that wrote last ended: its complaint, or else the last line."""
    logs = (*folder.glob("*.log"), *folder.glob("*_log.out"))  # submitit names those of Slurm
    if not logs:
        return "nothing"
    newest = max(logs, key=lambda path: path.stat().st_mtime)
    return complaint(newest.read_text("utf-8", "replace")) or "nothing"


def complaint(log: str) -> str:
    """Return the last complaint of a worker in what it said, or else its last line."""
    lines = [line.strip() for line in log.splitlines()]
    complaints = [line for line in lines if line.startswith("golf-opt: ")]
    return next(iter(complaints[-1:] or [*filter(None, lines)][-1:]), "")
