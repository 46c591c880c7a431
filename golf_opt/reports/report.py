"""`golf-opt report`: one study on paper, as an HTML file that stands alone and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import ReportConfig
from golf_opt.storage.checkpoint import DamagedCheckpoint, open_checkpoints
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.studies import NOTE_SECTIONS, TEST_READINGS, marks, readings_of
from golf_opt.study.aims import answer, best_of_all
from golf_opt.study.card import HEAD, layer_rows
from golf_opt.study.description import (
    StudyDescription,
    description_of,
    find_study,
    snapshot_of,
)
from golf_opt.study.front import fresh_words, front_rows, nets_words
from golf_opt.study.note import PROTOCOL_WORDS, noise_words, result_words, target_words
from golf_opt.task.data import objective_split
from golf_opt.task.forward import check_tensors
from golf_opt.task.goals import show_goals
from golf_opt.task.modules.given import is_given
from golf_opt.utils.text import count, percent, show_params
from golf_opt.utils.trials import attribute, counts, epoch_losses
from golf_opt.visualization import pictures
from golf_opt.visualization.document import (
    Block,
    Heading,
    Paragraph,
    Picture,
    Table,
    write_document,
)
from golf_opt.visualization.optuna_plots import optuna_pictures
from golf_opt.visualization.plots import Figure, svg
from golf_opt.visualization.size_and_accuracy import kept_records
from golf_opt.visualization.snapshot import StudySnapshot, repeats, values_by_epoch
from golf_opt.visualization.study_figures import study_figures

TOP = 10  # trials in the table


def write_report(config: ReportConfig) -> list[Path]:
    """Write the report of one study; return the paths of the HTML and the Markdown.

    Raises:
        UsageError: there is no such study, or it has no finished trial.
    """
    with opened_storage(config.storage) as storage:
        study = find_study(storage, config.study)
        blocks = list(_report(study, snapshot_with_best(study), storage, config))
    title = f"Study {study.study_name}"
    return write_document(config.folder / "reports", study.study_name, title, blocks)


def snapshot_with_best(study: optuna.Study) -> StudySnapshot:
    """Return what there is to report; raises UsageError where no trial is complete."""
    snapshot = snapshot_of(study)
    if not snapshot.points:
        raise UsageError(
            f"study {study.study_name!r} has no complete trial yet; nothing to report."
        )
    return snapshot


def picture(figure: Figure) -> Picture:
    return Picture(figure.key, figure.title, figure.caption, svg(figure))


def _report(
    study: optuna.Study, snapshot: StudySnapshot, storage: BaseStorage, config: ReportConfig
) -> Iterator[Block]:
    goals, best = snapshot.goals, snapshot.best
    aim = description_of(study).by_seed.aim(goals[0])
    yield Heading("Result")
    seeds = repeats(snapshot)
    if seeds is not None:
        yield Paragraph(f"Nothing was tuned. {goals[0].name.capitalize()}: {seeds.words}.")
    if best is not None:
        yield Paragraph(
            f"Best {aim} {result_words(best, goals)} with "
            f"{show_params(best.params) or 'no tuned parameters'}."
        )
    elif not snapshot.net_front:
        yield Paragraph(
            f"Optimised: {show_goals(goals)}. No other trial beats one of the front, of "
            f"{count(len(snapshot.front), 'trial')}, in all of it."
        )
    if snapshot.net_front:
        yield from _front_of_nets(study, snapshot)
    else:
        for reading in marks(study).get(TEST_READINGS, []):
            yield Paragraph(
                f"Test accuracy of trial {reading['trial']}, read once after "
                f"{reading['after_trials']} trials: {percent(reading['test_accuracy'])}."
            )
    if seeds is None and best is not None:
        yield Paragraph(noise_words(snapshot).replace("**", ""))
    for title, text in marks(study).get(NOTE_SECTIONS, {}).items():
        yield Heading(title)
        yield from _from_markdown(text)
    yield Heading("Methods")
    shown = best or snapshot.front[0]
    yield Paragraph(methods(study, shown))
    yield Heading("Figures")
    records = kept_records(config.folder / "records")
    for figure in study_figures(snapshot, best_of_all(storage, but=study.study_name), records):
        yield picture(figure)
    if snapshot.net_front:
        yield from _nets_of_front(study, snapshot)
    if best is None:
        if not snapshot.net_front:
            yield Heading(f"The front, {'its first' if len(snapshot.front) > TOP else 'all'} of it")
            yield best_table(snapshot)
        return
    yield from optuna_pictures(study, snapshot.worth)
    yield Heading(f"The best trial, {best.number}")
    yield from _best_pictures(study, best, config)
    yield Heading(f"The best {TOP} trials" if len(snapshot.complete) > TOP else "Complete trials")
    yield best_table(snapshot)


def methods(study: optuna.Study, best: FrozenTrial) -> str:
    """Return the paragraph that lets a reader do it again: space, data, protocol, engine."""
    plan = description_of(study)
    tally = counts(study)
    bounds = [
        f"{name} ({_bounds(row)})" if isinstance(row, Mapping) else f"{name} (fixed at {row})"
        for name, row in plan.search_space.describe().items()
    ]
    versions = attribute(best, "versions", dict) or {}
    parts = (plan.sampler, plan.pruner)
    which = "The best trial" if len(plan.goals) == 1 else "The first trial of the front"
    sampler, pruner = (str(part.get("_target_")).split(".")[-1] for part in parts)
    if len(plan.goals) > 1 and pruner != "Promote":  # Optuna's prune by one value
        pruner = "no pruner"
    paused = f", {tally['paused']} are paused" if tally["paused"] else ""
    return (
        f"{_what_was_done(plan, best)} "
        f"Hyperparameters: {', '.join(bounds)}. They were chosen by Optuna "
        f"{versions.get('optuna', '?')} ({sampler}, {pruner}, study seed {plan.seed}); of "
        f"{sum(tally.values())} trials {tally['complete']} are complete{paused}, {tally['pruned']} "
        f"were pruned and {tally['fail']} failed. Results are those after the last epoch, not the "
        f"best on the way. {which} ran on the {attribute(best, 'engine', str) or '?'} "
        f"engine, {attribute(best, 'device', str) or '?'}, golf_opt "
        f"{versions.get('golf_opt', '?')} at commit "
        f"{attribute(best, 'git_commit', str) or 'unknown'}, Python {versions.get('python', '?')}, "
        f"with seed {'?' if (seed := attribute(best, 'seed', int)) is None else seed}."
    )


def _what_was_done(plan: StudyDescription, best: FrozenTrial) -> str:
    """Say what a trial was, on which data and by which rule."""
    if plan.objective is not None:
        on = f" on {plan.data_and_digest}" if plan.data else ""
        return (
            f"The function {plan.subject} (source {attribute(best, 'objective_digest', str) or '?'}"
            f") was run{on} for {plan.epochs} epochs a trial, one seed each, to optimise "
            f"{show_goals(plan.goals)}."
        )
    if plan.nets is not None:
        return (
            f"Nets of the family {plan.subject} were trained on {plan.data_and_digest} for up to "
            f"{plan.epochs} epochs a trial, to optimise {plan.identity()['objective']}. Protocol "
            f"{plan.protocol}: {PROTOCOL_WORDS[plan.protocol]}."
        )
    return (
        f"The network {plan.net.name} ({attribute(best, 'num_params', int) or '?'} parameters) "
        f"was trained on {plan.data_and_digest} for {plan.epochs} epochs a trial, one seed each. "
        f"Protocol {plan.protocol}: {PROTOCOL_WORDS[plan.protocol]}."
    )


def _bounds(row: Mapping[str, Any]) -> str:
    if "choices" in row:
        return " or ".join(map(str, row["choices"]))
    if "low" not in row:
        return ", ".join(f"{key} {value}" for key, value in row.items())
    return f"{row['low']:g} to {row['high']:g}{', log scale' if row.get('log') else ''}"


def _best_pictures(
    study: optuna.Study, best: FrozenTrial, config: ReportConfig
) -> Iterator[Picture | Paragraph]:
    """Draw what the best trial's weights show, as far as they and the images are there."""
    plan = description_of(study)
    goal = plan.goals[0]
    steps = list(values_by_epoch(best, goal).values())
    drawn = pictures.learning_curve(f"trial {best.number}", goal, steps, epoch_losses(best))
    words = "Accuracy and training loss" if goal.accuracy else goal.name
    yield Picture("best-learning-curve", f"{words} by epoch", "", drawn)
    if plan.objective is not None:
        return
    net = plan.job(best).net
    try:
        tensors = open_checkpoints(study, config.folder).load(best.number).state.net
        check_tensors(net, tensors)
    except (FileNotFoundError, DamagedCheckpoint, UsageError):
        yield Paragraph("Its weights were not kept here, so there is nothing more to show of it.")
        return
    yield Picture("best-weights", "Its kernels", "", pictures.weights(net.name, net, tensors))
    if not is_given(net):
        yield Paragraph(
            f"The net is a module of its user's, {net.name}, which a report does not import: no "
            "table of mistakes. golf-opt interpret shows one where it is given the module."
        )
        return
    split = objective_split(plan.data_config(config.data), plan.protocol, plan.digest)
    if split is None:
        yield Paragraph(
            f"The images of {plan.data} are not in {config.data.root}: no table of mistakes."
        )
        return
    readings = pictures.read(net, tensors, split)
    wrong = round(len(split) * (1 - readings.accuracy))
    title = f"{wrong:,} of {len(split):,} images wrong ({split.name})"
    table, worst = pictures.confusion(title, readings), pictures.mistakes(title, readings)
    yield Picture("best-confusion", "What it takes for what", "", table)
    yield Picture("best-mistakes", "The worst of its mistakes", "", worst)


def _front_of_nets(study: optuna.Study, snapshot: StudySnapshot) -> Iterator[Block]:
    """Say how good the nets of each size are that a search found, and how many it looked at."""
    plan = description_of(study)
    trials = study.get_trials(deepcopy=False)
    table = front_rows(snapshot, readings_of(study))
    best = answer(study)
    words = [target_words(plan, best)] if plan.target is not None else []
    words += [nets_words(plan, trials)] if plan.nets is not None else []
    words.append(f"of these {len(table.rows)} each is better than every smaller net")
    words += [fresh_words(snapshot)] if fresh_words(snapshot) else []
    yield Paragraph(" ".join(f"{text[0].upper()}{text[1:]}." for text in words))
    yield Table(table.head, table.rows)


def _nets_of_front(study: optuna.Study, snapshot: StudySnapshot) -> Iterator[Block]:
    """Show the layers and the parameters of the nets that a search found, the largest first."""
    plan = description_of(study)
    for _, trial in list(reversed(snapshot.net_front))[:TOP]:
        net = plan.job(trial).net
        yield Heading(f"{net.name}, trial {trial.number}")
        yield Paragraph(show_params(trial.params))
        yield Table(list(HEAD), layer_rows(net))


def best_table(snapshot: StudySnapshot) -> Table:
    """Return the best trials, or the front of several objectives."""
    best, goals = snapshot.ranked(TOP), snapshot.goals
    names = list(dict.fromkeys(name for trial in best for name in trial.params))
    nets = goals[0].accuracy
    rows = []
    for trial in best:
        train = attribute(trial, "train_accuracy", float)
        cells = [str(trial.number)]
        cells += [goal.show(v) for goal, v in zip(goals, trial.values, strict=True)]
        if nets:
            cells.append(percent(train) if train is not None else "-")
        cells += [_cell(trial.params.get(name, "-")) for name in names]
        rows.append(cells)
    values = ["accuracy", "train accuracy"] if nets else [goal.name for goal in goals]
    return Table(["trial", *values, *names], rows)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _from_markdown(text: str) -> Iterator[Paragraph | Table]:
    """Read back paragraphs and tables, which is what notes of ours are made of."""
    for part in re.split(r"\n\s*\n", text.strip()):
        lines = part.splitlines()
        if len(lines) > 1 and all(line.startswith("|") for line in lines):
            cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            yield Table(cells[0], cells[2:])
        else:
            yield Paragraph(part.replace("**", "").replace("`", ""))
