"""Where a trained net comes from: a trial of a study, or a file of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from golf_opt.config.schema import DataConfig, SourceConfig, StorageConfig, UsageError
from golf_opt.engines.base import Tensors
from golf_opt.golf.weights import read_weights
from golf_opt.storage.checkpoint import DamagedCheckpoint, open_checkpoints
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.studies import FINGERPRINT, RECIPE, find_study, marks
from golf_opt.study.jobs import candidate_of, job_of
from golf_opt.study.note import best_trial
from golf_opt.task.arch import Net, build_net
from golf_opt.task.data import Dataset, View, load
from golf_opt.task.recipe import Candidate


@dataclass(frozen=True)
class TrainedNet:
    """A net with its weights, and what is known of how they were made."""

    label: str  # such as `c4-5-4, trial 17`
    net: Net
    tensors: Tensors  # `weights/<parameter>` and `buffers/<buffer>`, float32
    candidate: Candidate | None = None  # what trained it
    seed: int | None = None
    recipe: Mapping[str, Any] | None = None  # of the study: arch, space, protocol, epochs, ...
    trial: FrozenTrial | None = None
    notes: tuple[str, ...] = ()  # what a user should know of how it was read


def load_trained(study: optuna.Study, folder: Path, which: str | int = "best") -> TrainedNet:
    """Return the net of a complete trial.

    Args:
        study: as `storage.find_study` returns it.
        folder: of the studies; it holds checkpoints/.
        which: a trial's number, or `best`.

    Raises:
        UsageError: there is no such trial, it is not complete, or its weights were not kept.
    """
    trial = find_trial(study, which)
    recipe = marks(study)[RECIPE]
    try:
        state = open_checkpoints(study, folder).load(trial.number, job_of(recipe, trial)).state
    except (FileNotFoundError, DamagedCheckpoint) as error:
        raise UsageError(
            f"the weights of trial {trial.number} of {study.study_name} cannot be had: {error}"
        ) from error
    kept = {
        name: values
        for name, values in state.tensors.items()
        if name.startswith(("weights/", "buffers/"))
    }
    return TrainedNet(
        f"{study.study_name}, trial {trial.number}",
        build_net(recipe["arch"]),
        kept,
        candidate_of(study, trial),
        trial.user_attrs["seed"],
        recipe,
        trial,
    )


def load_file(path: Path, net: Net) -> TrainedNet:
    """Return a net with the weights of a file; see `weights.read_weights`.

    Raises:
        UsageError: the file cannot be read, holds code, or does not fit the net.
    """
    tensors, renamed = read_weights(path, net)
    notes = (f"names differ, matched by order: {', '.join(renamed)}",) if renamed else ()
    shown = "/".join(path.resolve().parts[-2:])  # of a pruned net, the folder's name tells more
    return TrainedNet(f"{shown} as {net.name}", net, tensors, notes=notes)


def load_source(source: SourceConfig, storage: StorageConfig, folder: Path) -> TrainedNet:
    """Return the net that `study= trial=` or `weights= arch=` name.

    Raises:
        UsageError: it cannot be had.
    """
    if source.weights is not None:
        assert source.arch is not None
        return load_file(source.weights, build_net(source.arch))
    assert source.study is not None
    with opened_storage(storage) as opened:
        return load_trained(find_study(opened, source.study), folder, source.trial)


def load_data(data: DataConfig, recipe: Mapping[str, Any] | None) -> Dataset:
    """Load the data that was asked for; `auto` stands for that of the study, if there is one."""
    if data.name == "auto" and recipe is not None:
        data = replace(data, name=recipe["data"])
    return load(data)


def study_view(study: optuna.Study, data: DataConfig) -> View:
    """Return the splits that a study's trials saw; `auto` stands for the study's own data set.

    Raises:
        UsageError: the data cannot be had, or is not what the study was made on.
    """
    recipe = marks(study)[RECIPE]
    view = load_data(data, recipe).view(recipe["protocol"])
    found, made_on = f"{view.dataset} ({view.digest})", marks(study)[FINGERPRINT]["data"]
    if found != made_on:
        raise UsageError(
            f"data is {found}, but study {study.study_name!r} was made on {made_on}; "
            f"give data={made_on.split()[0]}."
        )
    return view


def find_trial(study: optuna.Study, which: str | int = "best") -> FrozenTrial:
    """Return a complete trial by its number, or the best.

    Raises:
        UsageError: there is none.
    """
    if which == "best":
        best = best_trial(study)
        if best is None:
            raise UsageError(f"study {study.study_name!r} has no complete trial yet.")
        return best
    trials = study.get_trials(deepcopy=False)
    if not isinstance(which, int) or isinstance(which, bool) or not 0 <= which < len(trials):
        raise UsageError(
            f"trial is {which!r}, but must be `best` or the number of a trial of "
            f"{study.study_name!r}, which has {len(trials)}."
        )
    if trials[which].state != TrialState.COMPLETE:
        state = trials[which].state.name.lower()
        raise UsageError(f"trial {which} is {state}, but must be complete.")
    return trials[which]
