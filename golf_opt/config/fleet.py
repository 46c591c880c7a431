"""The configuration of `golf-opt fleet`: what starts the workers, how many, and what each gets."""

from __future__ import annotations

from dataclasses import field

from pydantic import StrictBool

from golf_opt.config.check import model
from golf_opt.config.on import On, Workers
from golf_opt.config.schema import WorkerConfig


@model
class FleetConfig(WorkerConfig):
    """One run of `golf-opt fleet`."""

    on: On = field(kw_only=True)
    workers: Workers = field(kw_only=True)  # None: as many as there are, on this machine its cores
    stop: StrictBool = field(kw_only=True)  # whether to end them
    notify: str | None = field(default=None, kw_only=True)  # a URL of apprise's
