"""Making a record: of a study's trial, or of a net that pruning wrote to a folder."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial
from safetensors.numpy import save

from golf_opt import __version__
from golf_opt.config import PACKAGE
from golf_opt.config.check import check
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import RecordConfig
from golf_opt.config.types import BOARDS
from golf_opt.engines.base import Tensors
from golf_opt.golf.batch_norm import fold_norms, fold_notes
from golf_opt.golf.confirmations import kept_results
from golf_opt.golf.pruning.folder import PruningFolder
from golf_opt.golf.records import verify as records
from golf_opt.golf.records.schema import CONFIG, LOG, SEEDS, WEIGHTS, Claim
from golf_opt.golf.source import (
    TrainedNet,
    find_net_study,
    find_trial,
    load_data,
    load_trained,
)
from golf_opt.golf.weights import read_weights
from golf_opt.storage.connect import opened_storage
from golf_opt.study.description import description_of
from golf_opt.task.arch import Net, build_net
from golf_opt.task.goals import Goal
from golf_opt.task.grammar import load_arch
from golf_opt.task.inputs import InputSpec
from golf_opt.utils.files import read_regular, staged_folder
from golf_opt.utils.processes import git_commit
from golf_opt.utils.text import percent, show_params
from golf_opt.utils.trials import attribute, epoch_losses, of_kind
from golf_opt.visualization.snapshot import values_by_epoch

WORDS = {
    "test": "the test set guided: it chose among {seeds} trainings{pruned}",
    "holdout": "held-out training images guided; the test set was read once, at the end",
}
FITTED = ", and a search fitted values to it"
LOCAL_KEYS = ("dir=", "data.root=", "storage")
ELSEWHERE = r"^(weights=).*/(?=studies/)"  # a path to a net of ours, in somebody's folder
PROVENANCE = ("engine", "device", "versions")  # of what pruned


@dataclass(frozen=True)
class Making:
    """A net and what a record tells of how it was made."""

    net: Net
    tensors: Tensors
    rule: str
    seeds: list[dict[str, Any]]  # every training, chosen or not
    how: str
    config: Mapping[str, Any]
    log: Sequence[str]
    pruned: str = ""  # what the guide did in pruning, in words


def make_record(config: RecordConfig) -> Path:
    """Write a record and return its folder.

    Raises:
        UsageError: there is no such net, or it is not up to the board, or the folder is there.
    """
    with contextlib.ExitStack() as stack:
        study = None
        if config.study is not None:
            storage = stack.enter_context(opened_storage(config.storage))
            study = find_net_study(storage, config.study)
        fold = config.data.fold or (0 if study is None else description_of(study).fold)
        if fold:
            raise UsageError(f"data.fold is {fold}, but must be 0: records are of one split.")
        if config.source is not None:
            making = from_folder(config, study)
        else:
            assert study is not None
            making = from_study(config, study)
    return write_record(config, making)


def from_study(config: RecordConfig, study: optuna.Study) -> Making:
    """Return a study's trial as something to record."""
    trained = load_trained(study, config.folder, config.trial)
    plan, trial, job = trained.description, trained.trial, trained.job
    assert plan is not None and trial is not None and job is not None
    return Making(
        trained.net,
        trained.tensors,
        plan.protocol,
        seeds_of(study),
        f"{plan.epochs} epochs, {show_params(trial.params)}",
        {"study": study.study_name, "trial": trial.number, "seed": job.seed}
        | {"recipe": plan.model_dump(), "candidate": job.candidate.to_dict()},
        log_of(study, trial),
    )


def from_folder(config: RecordConfig, study: optuna.Study | None) -> Making:
    """Return what pruning wrote to a folder as something to record.

    Raises:
        UsageError: it is no such folder, or was of a trial of a study that is not given.
    """
    assert config.source is not None
    folder = PruningFolder(config.source)
    try:  # one that was stopped will do: its weights keep the target too
        summary = folder.read_summary()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"source is {str(config.source)!r}, but must be a folder that pruning wrote: {error}."
        ) from error
    number = summary["trial"]
    if number is not None and study is None:
        raise UsageError(
            f"study is None, but must be the one that {summary['source']} is of: the record tells "
            "of all its trainings."
        )
    net = _net_of(summary)
    tensors, _ = read_weights(folder.weights, net)
    *earlier, _ = steps = _steps_to(config, summary)
    first = steps[0]["source"]
    seeds = _seeds_of_record(config, first) or [{"source": first}]
    before = [json.dumps(row) for step in earlier for row in step["log"]]
    made = _told(summary) | ({"before": list(map(_told, earlier))} if earlier else {})
    if study is not None:
        trial = find_trial(study, number)
        seeds, before = seeds_of(study), log_of(study, trial)
        made["recipe"] = description_of(study).model_dump()
        made["candidate"] = summary["trained_with"]
    method, epochs = summary["options"]["method"], summary["trained_epochs"]
    return Making(
        net,
        tensors,
        summary["options"]["rule"],
        seeds,
        f"{epochs} epochs, then pruned by {method}" if epochs else f"pruned by {method}",
        made,
        [*before, *map(json.dumps, summary["log"])],
        " and said how far to prune" + (FITTED if any(map(_drifted, steps)) else ""),
    )


def _drifted(step: Mapping[str, Any]) -> bool:
    """Whether values were fitted to the guide in a pruning."""
    rounds = step["options"].get("rounds")
    return isinstance(rounds, dict) and bool(rounds.get("drift"))


def _steps_to(config: RecordConfig, summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the prunings that a net went through, one after the other, this one last."""
    steps, seen = [summary], set[str]()
    while (name := steps[0]["source"].partition("/")[0]) not in seen:
        seen.add(name)
        try:
            steps.insert(0, PruningFolder(config.folder / "pruned" / name).read_summary())
        except (OSError, ValueError):
            break  # what it began with was pruned elsewhere, or never
    return steps


def _told(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record tells of a pruning."""
    told = ("source", "options", "command", "finished", "time_s", "evaluations", *PROVENANCE)
    return {key: step[key] for key in told if key in step}


def _seeds_of_record(config: RecordConfig, source: str) -> list[dict[str, Any]]:
    """Return the trainings behind a record, of a net that was pruned further from its weights."""
    name = source.partition("/")[0]
    for board in BOARDS:
        folder = config.folder / "records" / board / name
        if source.startswith(f"{name}/{WEIGHTS}") and (folder / SEEDS).is_file():
            rows: list[dict[str, Any]] = json.loads(read_regular(folder / SEEDS, inside=folder))
            return rows
    return []


def _net_of(summary: Mapping[str, Any]) -> Net:
    """Return the net that was pruned."""
    if summary["net"] is None:
        return load_arch(summary["arch"])
    spec: InputSpec = check(InputSpec, summary["input"], "input")
    return build_net(summary["net"], spec)


def portable(made: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a net was made with, without the places of this machine in its commands."""
    rows: dict[str, Any] = dict(made)
    if "recipe" in rows:
        rows["recipe"] = portable(rows["recipe"])
    if "before" in rows:
        rows["before"] = list(map(portable, rows["before"]))
    if "command" in rows:
        rows["command"] = portable_command(rows["command"])
    return rows


def portable_command(command: str) -> str:
    """Return a command of ours as it runs elsewhere."""
    words = command.split()[1:]  # the first is where the program was
    kept = (re.sub(ELSEWHERE, r"\1", word) for word in words if not word.startswith(LOCAL_KEYS))
    return " ".join(["golf-opt", *kept])


def seeds_of(study: optuna.Study) -> list[dict[str, Any]]:
    """Return every training of a study, those of its confirmation too."""
    trials = [
        {
            "trial": trial.number,
            "seed": attribute(trial, "seed", int),
            "state": trial.state.name.lower(),
            "params": trial.params,
            "accuracy": of_kind((trial.values or [None])[0], float),
            "train_accuracy": attribute(trial, "train_accuracy", float),
        }
        for trial in study.get_trials(deepcopy=False)
    ]
    confirmed = [
        {"trial": int(number), "seed": int(seed), "state": "confirmed"} | result
        for number, results in kept_results(study).items()
        for seed, result in results.items()
    ]
    return trials + confirmed


def log_of(study: optuna.Study, trial: FrozenTrial) -> list[str]:
    """Return a trial's epochs as lines."""
    job = description_of(study).job(trial)
    losses = dict(enumerate(epoch_losses(trial), 1))
    train = attribute(trial, "train_accuracy", float)
    return [
        f"study {study.study_name}, trial {trial.number}, seed {job.seed}",
        show_params(job.candidate.to_dict()),
        *(
            f"epoch {epoch:>3}  loss {losses.get(epoch, math.nan):.5f}  "
            f"accuracy {percent(accuracy)}"
            for epoch, accuracy in values_by_epoch(trial, Goal("accuracy")).items()
            if accuracy is not None
        ),
        f"train accuracy {'unknown' if train is None else percent(train)}",
    ]


def write_record(config: RecordConfig, making: Making) -> Path:
    """Write the folder of a record, whole or not at all; return it."""
    if making.net.module is not None:
        raise UsageError(
            f"{making.net.name} is {making.net.module.of}, a module of its user's, but a record "
            "must be layers of ours, which anybody can evaluate."
        )
    making = _folded(making)
    date = datetime.date.today()
    folder = config.folder / "records" / config.board / f"{date}_{config.slug}"
    if folder.exists():
        raise UsageError(f"slug is {config.slug!r}, but {folder} is there already.")
    if (git_commit() or "").endswith("+") and PACKAGE.parent in folder.resolve().parents:
        raise UsageError(
            "this checkout has changes, but a record in it must be of a commit that others have; "
            "commit them, and run the same command again."
        )
    try:
        with staged_folder(folder) as part:
            record = records.Record(part, _write_files(config, making, part, date))
            text = record.claim.model_dump_json(indent=1, exclude_unset=True)
            (part / records.RECORD).write_text(text + "\n")
            for fault in records.faults_of_board(record):
                raise UsageError(f"{config.slug} is no record: {fault}.")
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}.") from error
    return folder


def _folded(making: Making) -> Making:
    """Return it as it would be deployed: records count nets without batch norm."""
    net, tensors = fold_norms(making.net, making.tensors)
    log = [*making.log, *fold_notes(making.net, net)]
    return replace(making, net=net, tensors=tensors, log=log)


def _write_files(config: RecordConfig, making: Making, part: Path, date: datetime.date) -> Claim:
    """Write all files but record.json; return what it says."""
    net = making.net
    dataset = load_data(config.data, TrainedNet(config.slug, net, making.tensors))
    files = {
        WEIGHTS: save(dict(making.tensors)),
        CONFIG: OmegaConf.to_yaml(OmegaConf.create(portable(making.config))).encode(),
        SEEDS: (json.dumps(making.seeds, indent=1) + "\n").encode(),
        LOG: ("\n".join(making.log) + "\n").encode(),
    }
    for name, data in files.items():
        (part / name).write_bytes(data)
    words = WORDS[making.rule].format(seeds=len(making.seeds), pruned=making.pruned)
    content = {
        "format": 1,
        "board": config.board,
        "date": date,
        "name": config.slug,
        "net": net.arch,
        "data": {"name": dataset.name, "md5": dataset.digest},
        "params": records.count_params(net, making.tensors),
        "splits": records.evaluate(net, making.tensors, dataset.view(making.rule)),
        "protocol": {"rule": making.rule, "words": words, "seeds": len(making.seeds)},
        "how": config.how or making.how,
        "made_by": {"version": __version__, "git_commit": git_commit()},
        "files": {name: records.sha256(data) for name, data in files.items()},
    }
    return Claim.model_validate(content)
