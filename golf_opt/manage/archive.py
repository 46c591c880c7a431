"""The files of an exported study.

    study.json           name, directions, attributes, number of trials
    trials.jsonl         one trial a line, in order: everything that Optuna knows of it
    trials.csv           the same for a spreadsheet: no lists, no distributions
    checkpoints/N.safetensors   the weights of trial N
    artifacts/ID         files of trials, such as learning curves

Numbers that are not finite are written as Python's json does: NaN, Infinity, -Infinity.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from golf_opt import __version__
from golf_opt.config.errors import UsageError
from golf_opt.storage.optuna_internals import check_trial, id_of_trial
from golf_opt.storage.studies import IMPORTING, marks

FORMAT = 1
STUDY_KEYS = {
    "name": str, "directions": list, "trials": int, "user_attrs": dict, "system_attrs": dict,
}  # fmt: skip
CSV_KEYS = ("number", "state", "datetime_start", "datetime_complete")  # of `describe_trial`


@dataclass(frozen=True)
class Exported:
    """An export that was read and checked."""

    study: Mapping[str, Any]  # as `describe_study` gives it
    trials: list[FrozenTrial]  # in order, with the ids that they had
    folder: Path


def write_study(folder: Path, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
    """Write what is no checkpoint and no artifact."""
    described = json.dumps(describe_study(study, len(trials)), indent=2)
    (folder / "study.json").write_text(described + "\n")
    rows = [describe_trial(trial) for trial in trials]
    with (folder / "trials.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    write_csv(folder / "trials.csv", rows)


def checkpoint_path(folder: Path, number: int) -> Path:
    return folder / "checkpoints" / f"{number}.safetensors"


def describe_study(study: optuna.Study, num_trials: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "golf_opt": __version__,
        "optuna": optuna.__version__,
        "name": study.study_name,
        "directions": [direction.name for direction in study.directions],
        "trials": num_trials,
        "user_attrs": study.user_attrs,
        "system_attrs": {k: v for k, v in marks(study).items() if k != IMPORTING},
    }


def describe_trial(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial as JSON; `id` is what the dashboard's attributes of the study refer to."""
    return {
        "number": trial.number,
        "id": id_of_trial(trial),
        "state": trial.state.name,
        "values": trial.values,
        "datetime_start": _show_moment(trial.datetime_start),
        "datetime_complete": _show_moment(trial.datetime_complete),
        "params": trial.params,
        "distributions": {
            name: json.loads(distribution_to_json(distribution))
            for name, distribution in trial.distributions.items()
        },
        "intermediate_values": trial.intermediate_values,
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
    }


def _show_moment(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def write_csv(path: Path, trials: Sequence[Mapping[str, Any]]) -> None:
    """Write a line a trial: its objective, its parameters, and attributes that are one value."""
    rows = []
    for trial in trials:
        row = {key: trial[key] for key in CSV_KEYS}
        row |= {f"value{i or ''}": value for i, value in enumerate(trial["values"] or [])}
        row |= {f"params.{name}": value for name, value in trial["params"].items()}
        row |= {
            f"user_attrs.{name}": value
            for name, value in trial["user_attrs"].items()
            if isinstance(value, (str, int, float))
        }
        rows.append(row)
    columns = dict.fromkeys(["number", "state", "value", *(key for row in rows for key in row)])
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), restval="")
        writer.writeheader()
        writer.writerows(rows)


def read_export(folder: Path) -> Exported:
    """Read and check an export.

    Raises:
        UsageError: it is none, or is damaged.
    """
    path = folder / "study.json"
    try:
        study = json.loads(path.read_text())
        if study["format"] != FORMAT:
            raise UsageError(
                f"{path} has format {study['format']!r}, but must have {FORMAT}: it was made by "
                "another version of golf-opt."
            )
        lines = (folder / "trials.jsonl").read_text().splitlines()
    except OSError as error:
        raise UsageError(
            f"input is {str(folder)!r}, but must be a folder that golf-opt export wrote: "
            f"{error.filename} cannot be read: {error.strerror}."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path} is damaged: {_reason(error)}.") from error
    for key, kind in STUDY_KEYS.items():
        if not isinstance(study.get(key), kind):
            raise UsageError(f"{path} is damaged: its {key} is {study.get(key)!r}.")
    for direction in study["directions"]:
        if direction not in StudyDirection.__members__:
            raise UsageError(f"{path} is damaged: {direction!r} is no direction.")
    if len(lines) != study["trials"]:
        raise UsageError(
            f"{folder / 'trials.jsonl'} is damaged: it has {len(lines)} lines, but must have "
            f"{study['trials']}."
        )
    trials = [_trial_of_line(folder, number, line) for number, line in enumerate(lines)]
    return Exported(study, trials, folder)


def _trial_of_line(folder: Path, number: int, line: str) -> FrozenTrial:
    try:
        trial = parse_trial(json.loads(line))
        check_trial(trial)
        if trial.number != number:
            raise ValueError(f"trial {trial.number} stands where trial {number} must")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        where = f"{folder / 'trials.jsonl'}, line {number + 1}"
        raise UsageError(f"{where}, is damaged: {_reason(error)}.") from error
    return trial


def _reason(error: Exception) -> str:
    text = str(error).rstrip(".")
    return f"it has no {text}" if isinstance(error, KeyError) else text


def parse_trial(row: Mapping[str, Any]) -> FrozenTrial:
    """Return the trial that `describe_trial` wrote."""
    return FrozenTrial(
        number=row["number"],
        trial_id=row["id"],
        state=TrialState[row["state"]],
        value=None,
        values=row["values"],
        datetime_start=_read_moment(row["datetime_start"]),
        datetime_complete=_read_moment(row["datetime_complete"]),
        params=row["params"],
        distributions={
            name: json_to_distribution(json.dumps(distribution))
            for name, distribution in row["distributions"].items()
        },
        intermediate_values={
            int(step): value for step, value in row["intermediate_values"].items()
        },
        user_attrs=row["user_attrs"],
        system_attrs=row["system_attrs"],
    )


def _read_moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
