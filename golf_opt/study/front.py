"""A search's front as a table: of each net its size, accuracy, how sure that is, and its test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from optuna.trial import FrozenTrial, TrialState

from golf_opt.study.description import StudyDescription
from golf_opt.utils.points import is_further_seed, seeds_of
from golf_opt.utils.stats import points
from golf_opt.utils.text import count, show_params
from golf_opt.visualization.snapshot import StudySnapshot, value_of

MOST = 10  # rows, where nobody asked for all


class Rows(NamedTuple):
    """A table: its head, a row a trial, and for each column whether it is left- or right-bound."""

    head: list[str]
    rows: list[list[str]]
    sides: str


def front_rows(
    study: StudySnapshot, test: Mapping[int, float] | None = None, most: int | None = None
) -> Rows:
    """Return the front of several goals; of nets by size, the largest first.

    What was confirmed on fresh seeds is told in place of what the search saw, and said so.

    Args:
        study: of several goals, or of a family of nets.
        test: accuracy on the test set by trial's number, as it was read of the trial's own net.
        most: rows; None: all.
    """
    if study.net_front:
        return _of_nets(study, test or {}, most)
    names = [goal.name for goal in study.goals]
    rows = [
        [
            str(trial.number),
            *(goal.show(v) for goal, v in zip(study.goals, trial.values, strict=True)),
            show_params(trial.params),
        ]
        for trial in study.front[:most]
    ]
    return Rows(["trial", *names, "parameters"], rows, f"r{'r' * len(names)}l")


def _of_nets(study: StudySnapshot, test: Mapping[int, float], most: int | None) -> Rows:
    head = ["trial", "parameters", study.goal.name, "95 %", "n", "test"]
    rows = [
        [str(trial.number), f"{size:,}", *_measured(study, trial, test.get(trial.number))]
        for size, trial in list(reversed(study.net_front))[:most]
    ]
    # columns that nobody has anything in are left out
    kept = [index for index in range(len(head)) if any(row[index] != "-" for row in rows)]
    cut = [[row[index] for index in kept] for row in rows]
    return Rows([head[index] for index in kept], cut, "r" * len(kept))


def _measured(study: StudySnapshot, trial: FrozenTrial, test: float | None) -> list[str]:
    """Return accuracy, half its interval, on how many seeds, and accuracy on the test set."""
    fresh = study.fresh.get(trial.number)
    if fresh is None:
        mean, half, seeds = value_of(trial), study.half_interval(trial), str(seeds_of(trial))
    else:
        mean, half, seeds = fresh.ours.mean, study.half_of(fresh), f"{fresh.ours.n} fresh"
        seeds += f", {fresh.epochs} epochs" if fresh.epochs != study.epochs else ""
        test = fresh.test.mean if fresh.test.n else test
    bar = "-" if half is None else f"±{points(half)}"
    return [f"{points(mean)} %", bar, seeds, "-" if test is None else f"{points(test)} %"]


def nets_words(plan: StudyDescription, trials: Sequence[FrozenTrial]) -> str:
    """Return `12 nets looked at, 3 of them too large (max_params=700)`, of a family's study."""
    assert plan.nets is not None
    names = plan.nets.space.keys()
    nets: dict[frozenset[tuple[str, object]], bool] = {}
    for trial in trials:
        if trial.params and not is_further_seed(trial):
            own = frozenset((name, value) for name, value in trial.params.items() if name in names)
            nets[own] = too_large(trial)
    words = f"{count(len(nets), 'net')} looked at"
    if plan.max_params is None:
        return words
    large = sum(nets.values())
    return f"{words}, {large:,} of them too large (max_params={plan.max_params})"


def too_large(trial: FrozenTrial) -> bool:
    """Whether a trial's net has more parameters than it may, and was not trained."""
    return trial.state == TrialState.PRUNED and trial.constraints.get("parameters", 0.0) > 0


def fresh_words(study: StudySnapshot) -> str:
    """Say what an accuracy of fresh seeds is; nothing where none was confirmed."""
    known = [study.fresh[t.number] for _, t in study.net_front if t.number in study.fresh]
    if not known:
        return ""
    own = "" if all(fresh.test.n for fresh in known) else "; test: of the net that the search made"
    return f"fresh: mean of nets trained anew on seeds that had no part in choosing them{own}"
