"""What a study looks like: the note on the dashboard, pictures, and the closing words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from golf_opt.engines.base import EpochResult

# Okabe and Ito's palette, told apart by colour-blind readers too
BLUE, ORANGE = "#0072B2", "#D55E00"


def percent(accuracy: float) -> str:
    """Return an accuracy in [0, 1] as `97.72 %`."""
    return f"{100 * accuracy:.2f} %"


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the complete trial with the highest objective, or None."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(complete, key=lambda trial: trial.value or 0.0, default=None)


def counts(study: optuna.Study) -> dict[str, int]:
    """Return how many trials are in each state, by its lower-case name."""
    rows = dict.fromkeys((state.name.lower() for state in TrialState), 0)
    for trial in study.get_trials(deepcopy=False):
        rows[trial.state.name.lower()] += 1
    return rows


def show_params(params: Mapping[str, Any]) -> str:
    """Return `batch_size=14 lr=0.0008 step_size=5 gamma=0.62`."""
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in params.items()
    )


def draw_learning_curve(path: Path, title: str, history: Sequence[EpochResult]) -> None:
    """Draw accuracy and training loss against the epoch, 6x3.5 inches at 100 dpi."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6, 3.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.subplots()
    right = left.twinx()
    epochs = [result.epoch for result in history]
    accuracy = [100 * result.accuracy for result in history]
    left.plot(epochs, accuracy, "o-", color=BLUE, markersize=4)
    right.plot(epochs, [result.loss for result in history], "s--", color=ORANGE, markersize=4)
    left.set_xlabel("epoch")
    left.set_ylabel("accuracy (%)", color=BLUE)
    right.set_ylabel("training loss (nats)", color=ORANGE)
    left.set_title(f"{title}: {accuracy[-1]:.2f} % after epoch {epochs[-1]}")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.grid(alpha=0.3)
    figure.savefig(path)


def write_note(study: optuna.Study, facts: Mapping[str, Any]) -> None:
    """Write the Markdown note that heads the study on the dashboard."""
    from optuna_dashboard import save_note

    save_note(study, note(study, facts))


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
            "Seeds alone move the accuracy of nets this small by about 0.3 points (one standard "
            "deviation, c4-5-4, 18 epochs): trials closer than that are not told apart.",
        ]
    return "\n".join(lines)


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
