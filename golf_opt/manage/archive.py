"""The files of an exported study.

    study.json           name, directions, attributes, number of trials, SHA-256 of other files
    trials.jsonl         one trial a line, in order: everything that Optuna knows of it
    trials.csv           the same for a spreadsheet: no lists, no distributions
    checkpoints/N.safetensors   the weights of trial N
    artifacts/ID         files of trials, such as learning curves

Numbers that are not finite are written as Python's json does: NaN, Infinity, -Infinity. An export
may be anybody's: what is read of it passes `storage.gate`, and no file outside of it is read.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field

from golf_opt import __version__
from golf_opt.config import types
from golf_opt.config.check import check, model
from golf_opt.config.errors import UsageError
from golf_opt.storage import gate
from golf_opt.storage.optuna_internals import check_trial, id_of_trial
from golf_opt.storage.studies import IMPORTING, marks
from golf_opt.utils.files import read_regular

FORMAT = 1
FILES = ("checkpoints", "artifacts")  # folders
CSV_KEYS = ("number", "state", "datetime_start", "datetime_complete")  # of `describe_trial`


@model
class ExportedStudy:
    """What study.json holds; the version of golf-opt and of Optuna are for people."""

    format: types.Positive
    golf_opt: str
    optuna: str
    name: types.StudyName
    directions: Annotated[list[Literal["MAXIMIZE", "MINIMIZE"]], Field(min_length=1)]
    trials: gate.Count
    user_attrs: dict[gate.Key, Any]
    system_attrs: dict[gate.Key, Any]
    files: dict[str, str] | None = None  # path in the folder -> SHA-256; version 0.1 kept none


@dataclass(frozen=True)
class Exported:
    """An export that was read and checked."""

    study: ExportedStudy
    trials: list[FrozenTrial]  # in order, with the ids that they had
    folder: Path

    def read_file(self, name: str) -> bytes | None:
        """Return what a file of the export holds; None where it has none of that name.

        Raises:
            UsageError: it is no regular file inside the folder, or not the one that was exported.
        """
        path, digests = self.folder / name, self.study.files
        if not os.path.lexists(path):
            return None
        data = read_exported(path, self.folder)
        if digests is not None and hashlib.sha256(data).hexdigest() != digests.get(name):
            raise UsageError(f"{path} is damaged: its checksum is not the one in study.json.")
        return data


def write_trials(folder: Path, trials: Sequence[FrozenTrial]) -> None:
    rows = [describe_trial(trial) for trial in trials]
    with (folder / "trials.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    write_csv(folder / "trials.csv", rows)


def checkpoint_name(number: int) -> str:
    return f"checkpoints/{number}.safetensors"


def write_study(folder: Path, study: optuna.Study, num_trials: int) -> None:
    """Write study.json, last: it knows the other files."""
    paths = [path for name in FILES for path in sorted((folder / name).glob("*"))]
    described = {
        "format": FORMAT,
        "golf_opt": __version__,
        "optuna": optuna.__version__,
        "name": study.study_name,
        "directions": [direction.name for direction in study.directions],
        "trials": num_trials,
        "user_attrs": study.user_attrs,
        "system_attrs": {k: v for k, v in marks(study).items() if k != IMPORTING},
        "files": {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in paths
        },
    }
    (folder / "study.json").write_text(json.dumps(described, indent=2) + "\n")


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
    """Read and check an export; a trial that cannot be read is told, and counts as failed.

    Raises:
        UsageError: it is none, or is damaged.
    """
    path, lines_path = folder / "study.json", folder / "trials.jsonl"
    if not path.is_file():
        raise UsageError(
            f"input is {str(folder)!r}, but must be a folder that golf-opt export wrote: it has no "
            "study.json."
        )
    try:
        row = gate.read_json(read_exported(path, folder).decode())
        if row["format"] != FORMAT:
            raise UsageError(
                f"{path} has format {row['format']!r}, but must have {FORMAT}: it was made by "
                "another version of golf-opt."
            )
        study: ExportedStudy = check(ExportedStudy, row)
        lines = read_exported(lines_path, folder).decode().split("\n")
    except gate.UNREADABLE as error:
        if isinstance(error, UsageError) and str(folder) in str(error):
            raise
        raise UsageError(f"{path} is damaged: {gate.reason(error)}.") from error
    if lines.pop():
        lines.append("")  # the last line was cut
    if len(lines) != study.trials:
        raise UsageError(
            f"{lines_path} is damaged: it has {len(lines)} lines, but must have {study.trials}."
        )
    complaints: list[str] = []
    study = replace(study, system_attrs=gate.admit_attributes(study.system_attrs, complaints))
    trials = _trials_of(lines, len(study.directions), complaints)
    gate.tell(str(folder), complaints)
    return Exported(study, trials, folder)


def _trials_of(
    lines: Sequence[str], num_objectives: int, complaints: list[str]
) -> list[FrozenTrial]:
    """Return a trial a line; one that cannot be read, or is of another space than most, failed."""
    trials: list[FrozenTrial | Exception] = []
    for number, line in enumerate(lines):
        try:
            trials.append(_trial_of_line(number, line, num_objectives, complaints))
        except gate.UNREADABLE as error:
            trials.append(error)
    drawn: dict[str, Counter[str]] = defaultdict(Counter)
    for trial in trials:
        for name, distribution in getattr(trial, "distributions", {}).items():
            drawn[name][distribution_to_json(distribution)] += 1
    usual = {
        name: json_to_distribution(counts.most_common(1)[0][0]) for name, counts in drawn.items()
    }
    return [_fitting(number, trial, usual, complaints) for number, trial in enumerate(trials)]


def _fitting(
    number: int,
    trial: FrozenTrial | Exception,
    usual: Mapping[str, BaseDistribution],
    complaints: list[str],
) -> FrozenTrial:
    try:
        if isinstance(trial, Exception):
            raise trial
        for name, distribution in trial.distributions.items():
            check_distribution_compatibility(usual[name], distribution)
    except gate.UNREADABLE as error:
        complaints.append(gate.counts_as_failed(number, error))
        return gate.failed(number, -1 - number, gate.reason(error))
    return trial


def read_exported(path: Path, folder: Path) -> bytes:
    """Read a file of an export.

    Raises:
        UsageError: it cannot be read, or is no regular file inside the folder.
    """
    try:
        return read_regular(path, inside=folder)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error


def _trial_of_line(
    number: int, line: str, num_objectives: int, complaints: list[str]
) -> FrozenTrial:
    """Return the trial of a line; raise one of `gate.UNREADABLE` where it is none."""
    trial = gate.admit(parse_trial(gate.read_json(line)), num_objectives, complaints)
    check_trial(trial)
    if trial.number != number:
        raise ValueError(f"trial {trial.number} stands where trial {number} must")
    return trial


def parse_trial(row: Mapping[str, Any]) -> FrozenTrial:
    """Return the trial that `describe_trial` wrote."""
    return FrozenTrial(
        number=row["number"],
        trial_id=check(gate.Count, row["id"], "id"),
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
