"""What a study looks like in words: the note on the dashboard, and the closing lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from golf_opt.storage.optuna_internals import id_of_study, save_note
from golf_opt.storage.studies import FACTS, FINGERPRINT, NOTE_SECTIONS, RECIPE, mark, marks
from golf_opt.utils.text import percent, show_params
from golf_opt.visualization.figures import NOISE_SDS, StudyView, not_told_apart, seed_noise


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the complete trial with the highest objective, or None."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(complete, key=lambda trial: trial.value or 0.0, default=None)


def view_of(study: optuna.Study) -> StudyView:
    """Return a study of ours as figures need it."""
    return _view(study.study_name, marks(study), study.get_trials(deepcopy=False))


def best_of_all(storage: BaseStorage, but: str) -> list[StudyView]:
    """Return every study of ours but one, each with its best trial alone."""
    views = []
    for frozen in storage.get_all_studies():
        if frozen.study_name == but or RECIPE not in frozen.system_attrs:
            continue
        try:
            best = storage.get_best_trial(id_of_study(frozen))
        except ValueError:  # no trial is complete
            continue
        views.append(_view(frozen.study_name, frozen.system_attrs, [best]))
    return views


def _view(name: str, kept: Mapping[str, Any], trials: Sequence[FrozenTrial]) -> StudyView:
    fingerprint = kept[FINGERPRINT]
    return StudyView(
        name=name,
        data=fingerprint["data"].partition(" ")[0],
        protocol=fingerprint["protocol"],
        objective=fingerprint["objective"],
        epochs=fingerprint["epochs"],
        trials=trials,
    )


def log(trial: FrozenTrial) -> str:
    """Return a trial as a log that a person reads: what it was, and a line for each epoch."""
    attributes = trial.user_attrs
    start, end = trial.datetime_start, trial.datetime_complete
    lines = [
        f"trial {trial.number}: {trial.state.name.lower()}",
        f"parameters  {show_params(trial.params) or 'none tuned'}",
        f"seed        {attributes.get('seed', '-')}",
        f"engine      {attributes.get('engine', '-')} on {attributes.get('device', '-')}",
        f"started     {start:%Y-%m-%d %H:%M:%S}" if start else "started     -",
        f"ended       {end:%Y-%m-%d %H:%M:%S}" if end else "ended       -",
        "",
        "epoch  accuracy     loss",
    ]
    losses = dict(enumerate(attributes.get("epoch_losses", []), 1))
    for epoch, accuracy in sorted(trial.intermediate_values.items()):
        loss = f"{losses[epoch]:8.4f}" if epoch in losses else "       -"
        lines.append(f"{epoch:>5}  {percent(accuracy):>8}  {loss}")
    if "train_accuracy" in attributes and attributes["train_accuracy"] is not None:
        lines.append(f"\ntrain accuracy at the end  {percent(attributes['train_accuracy'])}")
    if "fail_reason" in attributes:
        lines.append(f"\nfailed: {attributes['fail_reason']}")
    return "\n".join(lines) + "\n"


def counts(study: optuna.Study) -> dict[str, int]:
    """Return how many trials are in each state, by its lower-case name."""
    rows = dict.fromkeys((state.name.lower() for state in TrialState), 0)
    for trial in study.get_trials(deepcopy=False):
        rows[trial.state.name.lower()] += 1
    return rows


def write_note(study: optuna.Study, facts: Mapping[str, Any]) -> None:
    """Write the Markdown note that heads the study on the dashboard."""
    save_note(study, note(study, facts))


def add_section(study: optuna.Study, title: str, text: str) -> None:
    """Put a section of Markdown into the study's note, in place of an earlier one of its title."""
    kept = marks(study)
    mark(study, NOTE_SECTIONS, kept.get(NOTE_SECTIONS, {}) | {title: text})
    if FACTS in kept:
        write_note(study, kept[FACTS])


def note(study: optuna.Study, facts: Mapping[str, Any]) -> str:
    """Return the study in Markdown: what, on what data, by which rule, best so far, the command."""
    tally = counts(study)
    finished = ", ".join(f"{tally[s]} {s}" for s in ("complete", "pruned", "fail") if tally[s])
    lines = [
        f"# {facts['arch']}: {facts['num_params']} parameters",
        "",
        f"Objective: **{facts['objective']}** after {facts['epochs']} epochs, one seed a trial.",
        "",
        "| | |",
        "|---|---|",
        f"| data | {facts['data']} ({facts['num_train']:,} training images) |",
        f"| protocol | `{facts['protocol']}`: {PROTOCOL_WORDS[facts['protocol']]} |",
        f"| tuned | {', '.join(f'`{name}`' for name in facts['tuned']) or 'nothing'} |",
        f"| fixed | {show_params(facts['fixed']) or 'nothing'} |",
        f"| trials | {finished or 'none finished'} of {facts['trials']} |",
        f"| made by | `{facts['command']}` |",
        "",
    ]
    best = best_trial(study)
    if best is not None and best.value is not None:
        train = best.user_attrs.get("train_accuracy")
        beside = f", train accuracy {percent(train)}" if train is not None else ""
        lines += [
            f"Best so far: **{percent(best.value)}**{beside} (trial {best.number}, n = 1 seed): "
            f"`{show_params(best.params) or 'no tuned parameters'}`",
            "",
            noise_words(view_of(study)),
        ]
    for title, text in marks(study).get(NOTE_SECTIONS, {}).items():
        lines += ["", f"## {title}", "", text]
    return "\n".join(lines)


def noise_words(study: StudyView) -> str:
    """Say how many trials cannot be told from the best one, by what is known of seed noise."""
    sd, source = seed_noise(study)
    if sd is None:
        return source
    alike, all_of_them = not_told_apart(study), len(study.complete)
    if alike < 2:
        return f"Seed noise: {source}. No other trial is within {NOISE_SDS:g} sd of the best."
    return (
        f"**{alike} of {all_of_them} complete trials cannot be told apart:** they lie within "
        f"{NOISE_SDS:g} sd of seed noise below the best ({source}). Which of them is really best "
        "takes more seeds."
    )


PROTOCOL_WORDS = {
    "test": "the objective is accuracy on the test set, the article's rule",
    "holdout": "the objective is accuracy on held-out training images; the test set is read at "
    "the end, for the best trial alone",
}


def closing_words(
    study: optuna.Study, finished: int, total: int, test_reading: Mapping[str, Any] | None
) -> str:
    """Return the last lines of `golf-opt study`: best trial, study name, what to do next."""
    best, tally = best_trial(study), counts(study)
    lines = [""]
    if best is not None and best.value is not None:
        train = best.user_attrs.get("train_accuracy")
        beside = f", train accuracy {percent(train)}" if train is not None else ""
        objective = (study.metric_names or ["objective"])[0]
        lines += [
            f"best {objective} {percent(best.value)} (trial {best.number}, n = 1 seed{beside})",
            f"  {show_params(best.params) or 'no tuned parameters'}",
        ]
    if test_reading is not None:
        lines.append(
            f"test accuracy of trial {test_reading['trial']}, read once: "
            f"{percent(test_reading['test_accuracy'])}"
        )
    waiting = f", {tally['waiting']} waiting to go on" if tally["waiting"] else ""
    failed = f", {tally['fail']} failed" if tally["fail"] else ""
    lines.append(
        f"study {study.study_name}: {finished} of {total} trials finished "
        f"({tally['pruned']} pruned{failed}){waiting}"
    )
    if finished < total:
        lines.append("next: the same command goes on where this one stopped; make dashboard")
    else:
        lines.append(f"next: make dashboard; or more trials: TRIALS={max(2 * total, finished + 1)}")
    return "\n".join(lines)
