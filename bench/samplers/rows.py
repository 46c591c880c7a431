"""What is compared, as data: a row's name and what it asks of `golf-opt study`."""

from __future__ import annotations

from dataclasses import dataclass

MOST_SEEDS = 7  # of a point in a race: a table has no more to show
BASE = "tpe median"  # the defaults of `golf-opt study`, to which every row is compared


@dataclass(frozen=True)
class Row:
    name: str
    asks: tuple[str, ...]

    @property
    def slow(self) -> bool:
        """Whether asking for a point takes longer than replaying its training: with --all only."""
        return "sampler=gp" in self.asks


def _row(sampler: str, pruner: str, seeds: str = "", first: int = 1) -> Row:
    """Return a row; `first` is the epoch of `promote`'s first rung."""
    name = f"{sampler} {pruner}" + (f" from {first}" if first > 1 else "")
    name += f" {seeds} seeds" if seeds.isdigit() else f" {seeds}"
    keys = {
        "tpe-uni": ("sampler=tpe", "+sampler.multivariate=false"),
    }.get(sampler, (f"sampler={sampler}",))
    asked = f"race:{MOST_SEEDS}" if seeds == "race" else seeds
    more = (f"seeds={asked}",) if seeds else ()
    more += (f"pruner.min_resource={first}",) if pruner == "promote" else ()
    return Row(name.strip(), (*keys, f"pruner={pruner}", *more))


SAMPLERS = ("random", "grid", "qmc", "tpe-uni", "tpe", "gp", "cmaes")
ROWS = (
    *(_row(sampler, "median") for sampler in SAMPLERS),
    _row("random", "none"),
    _row("tpe", "none"),
    _row("cmaes", "none"),
    _row("tpe", "hyperband"),
    _row("tpe", "promote"),
    _row("random", "promote"),
    _row("cmaes", "promote"),
    _row("gp", "promote"),
    _row("tpe", "none", "3"),
    _row("tpe", "median", "3"),
    _row("tpe", "none", "race"),
    _row("tpe", "median", "race"),
    _row("random", "median", "race"),
    _row("cmaes", "median", "race"),
    _row("tpe", "promote", "race"),
    _row("gp", "promote", "race"),
    _row("tpe", "promote", first=2),
    _row("tpe", "promote", "race", first=2),
)
