"""Where a trained net comes from: a trial of a study, or a file of weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DataConfig, ReportConfig, SourceConfig
from golf_opt.engines.base import Job, Tensors
from golf_opt.golf.net_file import net_of
from golf_opt.golf.weights import read_weights
from golf_opt.storage.checkpoint import DamagedCheckpoint, open_checkpoints
from golf_opt.storage.connect import opened_storage, opened_to_read
from golf_opt.study.aims import answer
from golf_opt.study.card import card
from golf_opt.study.description import (
    StudyDescription,
    description_of,
    find_study,
    snapshot_of,
)
from golf_opt.task.arch import Net, build_net
from golf_opt.task.data import Dataset, View, load
from golf_opt.task.forward import check_tensors
from golf_opt.task.inputs import MNIST, InputSpec
from golf_opt.task.layers import show_shape
from golf_opt.task.modules.resolve import Say, provide, resolve

MOST_NAMED = 10  # trials, in a message


@dataclass(frozen=True)
class TrainedNet:
    """A net with its weights, and what is known of how they were made."""

    label: str  # such as `c4-5-4, trial 17`
    net: Net
    tensors: Tensors  # `weights/<parameter>` and `buffers/<buffer>`, float32
    job: Job | None = None  # what trained it, as a trial of a study
    description: StudyDescription | None = None  # of the study
    trial: FrozenTrial | None = None
    study: str | None = None  # its name
    notes: tuple[str, ...] = ()  # what a user should know of how it was read


def load_trained(study: optuna.Study, folder: Path, which: str | int = "best") -> TrainedNet:
    """Return the net of a complete trial.

    Args:
        study: as `find_study` returns it.
        folder: of the studies; it holds checkpoints/.
        which: a trial's number, or `best`.

    Raises:
        UsageError: there is no such trial, it is not complete, or its weights were not kept.
    """
    require_net(study)
    trial = find_trial(study, which)
    description = description_of(study)
    job = description.job(trial)
    try:
        state = open_checkpoints(study, folder).load(trial.number, job).state
    except (FileNotFoundError, DamagedCheckpoint) as error:
        raise UsageError(
            f"the weights of trial {trial.number} of {study.study_name} cannot be had: {error}"
        ) from error
    check_tensors(job.net, state.net)
    label = f"{study.study_name}, trial {trial.number}"
    return TrainedNet(label, job.net, state.net, job, description, trial, study.study_name)


def load_file(path: Path, net: Net | None = None) -> TrainedNet:
    """Return a net with the weights of a file; see `weights.read_weights`.

    Args:
        path: of the file.
        net: what it holds the weights of; None is what the file itself says.

    Raises:
        UsageError: the file cannot be read, holds code, or does not fit the net.
    """
    net = net or net_of(path)
    tensors, renamed = read_weights(path, net)
    notes = (f"names differ, matched by order: {', '.join(renamed)}",) if renamed else ()
    shown = "/".join(path.resolve().parts[-2:])  # of a pruned net, the folder's name tells more
    return TrainedNet(f"{shown} as {net.name}", net, tensors, notes=notes)


def load_source(source: SourceConfig, say: Say) -> TrainedNet:
    """Return the net that `study= trial=` or `weights= arch=` name.

    With a study, `arch=` is the module that its net is. Weights whose file does not say what net
    they are of are of MNIST's input, or of that of `data=`.

    Raises:
        UsageError: it cannot be had.
    """
    if source.weights is not None:
        if source.arch is None:
            return load_file(source.weights)
        spec = MNIST if source.data.name == "auto" else load(source.data).input
        arch = resolve(source.arch, spec, say)
        return load_file(source.weights, build_net(arch, spec))
    assert source.study is not None
    with opened_storage(source.storage) as opened:
        study = find_net_study(opened, source.study)
        provide(source.arch, description_of(study).one_net, f"study {source.study!r}")
        return load_trained(study, source.folder, source.trial)


def find_net_study(storage: BaseStorage, name: str) -> optuna.Study:
    """Return a study by its name, as `find_study` does, that trains a net.

    Raises:
        UsageError: there is none, or it is of an objective.
    """
    study = find_study(storage, name)
    require_net(study)
    return study


def require_net(study: optuna.Study) -> None:
    """Refuse a study of an objective.

    Raises:
        UsageError: it is one.
    """
    objective = description_of(study).objective
    if objective is not None:
        raise UsageError(
            f"study {study.study_name!r} is of {objective.name}, but must be of a net of ours; "
            "golf-opt report, compare, export and the dashboard are for both."
        )


def load_data(data: DataConfig, trained: TrainedNet) -> Dataset:
    """Load the data that was asked for; `auto` stands for that of the study, if there is one.

    It is normalised as the data that the net was trained on.

    Raises:
        UsageError: it cannot be had, or is of another shape or number of classes than the net's.
    """
    study = trained.description
    found, needed = load(data if study is None else study.data_config(data)), trained.net.input
    if (found.input.shape, found.input.classes) != (needed.shape, needed.classes):
        raise UsageError(
            f"data is {found.name} ({_show_input(found.input)}), but {trained.label} takes "
            f"{_show_input(needed)}; give the data=... that it was trained on."
        )
    return replace(found, input=needed)


def _show_input(spec: InputSpec) -> str:
    return f"{show_shape(spec.shape)}, {spec.classes} classes"


def study_view(study: optuna.Study, data: DataConfig) -> View:
    """Return the splits that a study's trials saw; `auto` stands for the study's own data set.

    Raises:
        UsageError: the data cannot be had, or is not what the study was made on.
    """
    made_on = description_of(study)
    view = load(made_on.data_config(data)).view(made_on.protocol)
    if view.digest != made_on.digest:
        raise UsageError(
            f"data is {view.dataset} ({view.digest}), but study {study.study_name!r} was made on "
            f"{made_on.data_and_digest}; give data={made_on.data}."
        )
    return view


def find_trial(study: optuna.Study, which: str | int = "best") -> FrozenTrial:
    """Return a complete trial by its number, or the best.

    Raises:
        UsageError: there is none.
    """
    if which == "best":
        best = answer(study)
        front = snapshot_of(study).front
        if best is None and front:
            numbers = ", ".join(str(trial.number) for trial in front[:MOST_NAMED])
            raise UsageError(
                f"no trial of {study.study_name!r} is best, since accuracy is weighed against "
                f"parameters; give trial=N, such as one of its front: {numbers}."
            )
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


def show_card(config: ReportConfig) -> str:
    """Return the card of a trial's net.

    Raises:
        UsageError: there is no such study or trial, or it is of an objective.
    """
    with opened_to_read(config.storage) as storage:
        study = find_net_study(storage, config.study)
        trial = find_trial(study, "best" if config.trial is None else config.trial)
        return "\n".join(card(study, trial))
