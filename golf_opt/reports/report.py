"""`golf-opt report` and `golf-opt compare`: studies on paper, one HTML file and Markdown.

A document is a list of blocks; `html` makes one file of them that needs nothing else, with the
figures in it, and `markdown` a text with its figures beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from golf_opt import __version__
from golf_opt.config.schema import CompareConfig, ReportConfig, UsageError
from golf_opt.storage.checkpoint import DamagedCheckpoint, open_checkpoints
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.studies import (
    NOTE_SECTIONS,
    marks,
)
from golf_opt.study.description import description_of, differences, find_study
from golf_opt.study.note import (
    PROTOCOL_WORDS,
    noise_words,
    result_words,
)
from golf_opt.study.run import TEST_READINGS
from golf_opt.study.view import best_of_all, view_of
from golf_opt.task.data import objective_split
from golf_opt.utils.files import replace_text
from golf_opt.utils.text import percent, show_params
from golf_opt.utils.trials import best_trial, best_trials, counts
from golf_opt.visualization import pictures
from golf_opt.visualization.figures import (
    Figure,
    best_so_far,
    parameters_and_accuracy,
    study_figures,
)
from golf_opt.visualization.plots import svg
from golf_opt.visualization.published import kept_records

TOP = 10  # trials in the table


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    key: str  # of letters and hyphens
    svg: str
    caption: str


Block = Heading | Paragraph | Table | Picture


def write_report(config: ReportConfig) -> list[Path]:
    """Write the report of one study; return the paths of the HTML and the Markdown.

    Raises:
        UsageError: there is no such study, or it has no finished trial.
    """
    with opened_storage(config.storage) as storage:
        study = find_study(storage, config.study)
        if best_trial(study) is None:
            raise UsageError(
                f"study {config.study!r} has no complete trial yet; nothing to report."
            )
        blocks = list(_report(study, storage, config))
    return _write(config.folder / "reports", config.study, f"Study {config.study}", blocks)


def write_comparison(config: CompareConfig) -> tuple[Table, list[Path]]:
    """Write studies side by side; return their table, and the paths of HTML and Markdown.

    Raises:
        UsageError: one of them is not there or has no finished trial.
    """
    with opened_storage(config.storage) as storage:
        studies = [find_study(storage, name) for name in config.studies]
        for study in studies:
            if best_trial(study) is None:
                raise UsageError(f"study {study.study_name!r} has no complete trial yet.")
        table = _side_by_side(studies)
        blocks = list(_comparison(studies, table, config.folder))
    name = "compare " + " ".join(config.studies)
    title = f"Side by side: {', '.join(config.studies)}"
    return table, _write(config.folder / "reports", name, title, blocks)


def _report(study: optuna.Study, storage: BaseStorage, config: ReportConfig) -> Iterator[Block]:
    best, view = best_trial(study), view_of(study)
    assert best is not None
    yield Heading("Result")
    yield Paragraph(
        f"Best {view.objective} {result_words(best)} with "
        f"{show_params(best.params) or 'no tuned parameters'}."
    )
    for reading in marks(study).get(TEST_READINGS, []):
        yield Paragraph(
            f"Test accuracy of trial {reading['trial']}, read once after {reading['after_trials']} "
            f"trials: {percent(reading['test_accuracy'])}."
        )
    yield Paragraph(noise_words(view).replace("**", ""))
    for title, text in marks(study).get(NOTE_SECTIONS, {}).items():
        yield Heading(title)
        yield from _from_markdown(text)
    yield Heading("Methods")
    yield Paragraph(methods(study, best))
    yield Heading("Figures")
    records = kept_records(config.folder / "records")
    for figure in study_figures(view, best_of_all(storage, but=study.study_name), records):
        yield _picture(figure)
    yield Heading(f"The best trial, {best.number}")
    yield from _best_pictures(study, best, config)
    yield Heading(f"The best {TOP} trials" if len(view.complete) > TOP else "Complete trials")
    yield _trials(view.complete)


def methods(study: optuna.Study, best: FrozenTrial) -> str:
    """Return the paragraph that lets a reader do it again: space, data, protocol, engine."""
    plan = description_of(study)
    tally = counts(study)
    bounds = [
        f"{name} ({_bounds(row)})" if isinstance(row, Mapping) else f"{name} (fixed at {row})"
        for name, row in plan.search_space.describe().items()
    ]
    versions = best.user_attrs.get("versions", {})
    sampler, pruner = (str(part["_target_"]).split(".")[-1] for part in (plan.sampler, plan.pruner))
    return (
        f"The network {plan.net.name} ({best.user_attrs.get('num_params', '?')} parameters) "
        f"was trained on {plan.data_and_digest} for {plan.epochs} epochs a trial, one seed each. "
        f"Protocol {plan.protocol}: {PROTOCOL_WORDS[plan.protocol]}. "
        f"Hyperparameters: {', '.join(bounds)}. They were chosen by Optuna "
        f"{versions.get('optuna', '?')} ({sampler}, {pruner}, study seed {plan.seed}); of "
        f"{sum(tally.values())} trials {tally['complete']} are complete, {tally['pruned']} were "
        f"pruned and {tally['fail']} failed. Accuracies are those after the last epoch, not the "
        f"best on the way. The best trial ran on the {best.user_attrs.get('engine', '?')} engine, "
        f"{best.user_attrs.get('device', '?')}, golf_opt {versions.get('golf_opt', '?')} at commit "
        f"{best.user_attrs.get('git_commit') or 'unknown'}, Python {versions.get('python', '?')}, "
        f"with seed {best.user_attrs.get('seed', '?')}."
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
    steps = [best.intermediate_values[step] for step in sorted(best.intermediate_values)]
    drawn = pictures.learning_curve(
        f"trial {best.number}", steps, best.user_attrs.get("epoch_losses", [])
    )
    yield Picture("best-learning-curve", drawn, "Accuracy and training loss by epoch.")
    try:
        tensors = open_checkpoints(study, config.folder).load(best.number).state.tensors
    except (FileNotFoundError, DamagedCheckpoint):
        yield Paragraph("Its weights were not kept here, so there is nothing more to show of it.")
        return
    plan = description_of(study)
    net = plan.net
    yield Picture("best-weights", pictures.weights(net.name, net, tensors), "Its kernels.")
    split = objective_split(plan.data, config.data_root, plan.protocol, plan.digest)
    if split is None:
        yield Paragraph(
            f"The images of {plan.data} are not in {config.data_root}: no table of mistakes."
        )
        return
    readings = pictures.read(net, tensors, split)
    wrong = round(len(split) * (1 - readings.accuracy))
    title = f"{wrong:,} of {len(split):,} images wrong ({split.name})"
    yield Picture("best-confusion", pictures.confusion(title, readings), "What it takes for what.")
    yield Picture("best-mistakes", pictures.mistakes(title, readings), "The worst of its mistakes.")


def _trials(complete: Sequence[FrozenTrial]) -> Table:
    best = best_trials(complete, TOP)
    names = list(dict.fromkeys(name for trial in best for name in trial.params))
    rows = []
    for trial in best:
        train = trial.user_attrs.get("train_accuracy")
        cells = [str(trial.number), percent(trial.value or 0.0)]
        cells.append(percent(train) if train is not None else "-")
        cells += [_cell(trial.params.get(name, "-")) for name in names]
        rows.append(cells)
    return Table(["trial", "accuracy", "train accuracy", *names], rows)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _comparison(studies: Sequence[optuna.Study], table: Table, folder: Path) -> Iterator[Block]:
    yield table
    views = [view_of(study) for study in studies]
    history = best_so_far(views)
    yield _picture(history)
    if (front := parameters_and_accuracy(views, kept_records(folder / "records"))) is not None:
        yield _picture(front)
    yield Heading("What differs")
    first = description_of(studies[0]).identity()
    for study in studies[1:]:
        rows = differences(first, description_of(study).identity() | {"layers": first["layers"]})
        words = [row.replace(" was ", ": ").replace(" and is ", " -> ") for row in rows]
        yield Paragraph(
            f"{studies[0].study_name} -> {study.study_name}: "
            f"{'; '.join(words) or 'nothing but trials and seeds'}."
        )
    if len({(view.data, view.protocol, view.epochs) for view in views}) > 1:
        yield Paragraph(
            "Data, protocol or epochs differ: these accuracies do not measure the same thing."
        )


def _side_by_side(studies: Sequence[optuna.Study]) -> Table:
    head = [
        "study",
        "parameters",
        "data",
        "protocol",
        "epochs",
        "trials",
        "best",
        "train",
        "median",
    ]
    rows = []
    for study in studies:
        view, tally = view_of(study), counts(study)
        best = view.best
        assert best is not None
        values = sorted(trial.value or 0.0 for trial in view.complete)
        train = best.user_attrs.get("train_accuracy")
        rows.append(
            [
                study.study_name,
                str(view.num_params or "?"),
                view.data,
                view.protocol,
                str(view.epochs),
                f"{tally['complete']} + {tally['pruned']} pruned",
                f"{percent(best.value or 0.0)} (trial {best.number}, n = 1)",
                percent(train) if train is not None else "-",
                percent(values[len(values) // 2]),
            ]
        )
    return Table(head, rows)


def in_terminal(table: Table) -> None:
    """Print a table, a study a column where the terminal is too narrow for a row each."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(highlight=False)
    widths = [max(map(len, column)) for column in zip(table.head, *table.rows, strict=True)]
    wide = sum(widths) + 2 * len(widths) <= console.width
    grid = [table.head, *table.rows]
    lines = grid if wide else list(zip(*grid, strict=True))
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for cell in lines[0]:
        shown.add_column(Text(cell), overflow="fold")
    for line in lines[1:]:
        shown.add_row(*map(Text, line))
    console.print(shown)


def _picture(figure: Figure) -> Picture:
    return Picture(figure.key, svg(figure), f"{figure.title}. {figure.caption}")


def _from_markdown(text: str) -> Iterator[Paragraph | Table]:
    """Read back paragraphs and tables, which is what notes of ours are made of."""
    for part in re.split(r"\n\s*\n", text.strip()):
        lines = part.splitlines()
        if len(lines) > 1 and all(line.startswith("|") for line in lines):
            cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            yield Table(cells[0], cells[2:])
        else:
            yield Paragraph(part.replace("**", "").replace("`", ""))


def _write(folder: Path, name: str, title: str, blocks: Sequence[Block]) -> list[Path]:
    stem = re.sub(r"[^\w.@+-]+", "-", name).strip("-.") or "study"
    page, text = folder / f"{stem}.html", folder / f"{stem}.md"
    for block in blocks:
        if isinstance(block, Picture):
            replace_text(folder / stem / f"{block.key}.svg", block.svg)
    replace_text(text, markdown(title, blocks, stem))
    replace_text(page, html(title, blocks))
    return [page, text]


def markdown(title: str, blocks: Sequence[Block], folder: str) -> str:
    """Return the document as Markdown, its pictures in a folder beside it."""
    lines = [f"# {_plain(title)}", ""]
    for block in blocks:
        match block:
            case Heading(text):
                lines += [f"## {_plain(text)}", ""]
            case Paragraph(text):
                lines += [_plain(text), ""]
            case Table(head, rows):
                lines += [_row(head), f"|{'---|' * len(head)}", *map(_row, rows), ""]
            case Picture(key, _, caption):
                lines += [
                    f"![{_plain(caption)}](<{folder}/{key}.svg>)",
                    "",
                    f"*{_plain(caption)}*",
                    "",
                ]
    return "\n".join([*lines, f"Made by golf_opt {__version__}.", ""])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_plain, cells))} |"


def _plain(text: str) -> str:
    """Escape what Markdown or HTML would take for more than text."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def html(title: str, blocks: Sequence[Block]) -> str:
    """Return the document as one HTML file: no script, and nothing from anywhere else."""
    body = []
    number = 0
    for block in blocks:
        match block:
            case Heading(text):
                body.append(f"<h2>{escape(text)}</h2>")
            case Paragraph(text):
                body.append(f"<p>{escape(text)}</p>")
            case Table(head, rows):
                cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
                lines = [
                    f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
                    for row in rows
                ]
                body.append(f"<table><tr>{cells}</tr>{''.join(lines)}</table>")
            case Picture(key, drawn, caption):
                number += 1
                own = _own_ids(drawn, key)
                words = f"<figcaption>Figure {number}. {escape(caption)}</figcaption>"
                body.append(f'<figure id="{key}">{own}{words}</figure>')
    return PAGE.format(title=escape(title), body="\n".join(body), version=__version__)


def _own_ids(drawn: str, key: str) -> str:
    """Give the ids of one drawing a prefix, so that two drawings of a page do not share them."""
    drawn = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', drawn)
    return re.sub(r'(href="|url\()#', rf"\1#{key}-", drawn)


PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<style>
body {{ font: 16px/1.55 Georgia, serif; color: #222; max-width: 52em; margin: 2em auto;
 padding: 0 1em }}
h1, h2, th, td, figcaption {{ font-family: sans-serif }}
h2 {{ margin-top: 2em; border-bottom: 1px solid #ccc }}
table {{ border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }}
th, td {{ text-align: right; padding: .25em .7em; border-bottom: 1px solid #ddd }}
th:first-child, td:first-child {{ text-align: left }}
figure {{ margin: 2em 0; break-inside: avoid }}
figure svg {{ max-width: 100%; height: auto }}
figcaption {{ font-size: 13px; color: #444 }}
footer {{ margin-top: 3em; font: 12px sans-serif; color: #666 }}
</style></head><body>
<h1>{title}</h1>
{body}
<footer>Made by golf_opt {version}.</footer>
</body></html>
"""
