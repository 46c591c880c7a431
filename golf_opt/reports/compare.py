"""`golf-opt compare`: studies side by side, in the terminal, as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import CompareConfig
from golf_opt.reports.report import picture, snapshot_with_best
from golf_opt.storage.connect import opened_storage
from golf_opt.study.description import description_of, find_study
from golf_opt.study.differences import differences
from golf_opt.task.goals import show_goals
from golf_opt.utils.text import percent
from golf_opt.utils.trials import attribute, counts
from golf_opt.visualization.document import Block, Heading, Paragraph, Table, write_document
from golf_opt.visualization.size_and_accuracy import kept_records, parameters_and_accuracy
from golf_opt.visualization.snapshot import StudySnapshot, value_of
from golf_opt.visualization.study_figures import best_so_far

HEAD = (
    "study", "parameters", "data", "protocol", "epochs", "trials", "best", "train", "median",
)  # fmt: skip


def write_comparison(config: CompareConfig) -> tuple[Table, list[Path]]:
    """Write studies side by side; return their table, and the paths of HTML and Markdown.

    Raises:
        UsageError: one of them is not there or has no finished trial.
    """
    with opened_storage(config.storage) as storage:
        studies = [find_study(storage, name) for name in config.studies]
        snapshots = [snapshot_with_best(study) for study in studies]
        check_comparable(snapshots)
        rows = [_row(*pair) for pair in zip(studies, snapshots, strict=True)]
        table = Table(HEAD, rows)
        sizes = parameters_and_accuracy(
            snapshots, kept_records(config.folder / "records"), peers=True
        )
        pictures = [picture(figure) for figure in (best_so_far(snapshots), sizes) if figure]
        blocks = [table, *pictures, *_differences(studies, snapshots)]
    names = [study.study_name for study in studies]
    name = "compare " + " ".join(names)
    title = f"Side by side: {', '.join(names)}"
    return table, write_document(config.folder / "reports", name, title, blocks)


def check_comparable(snapshots: Sequence[StudySnapshot]) -> None:
    """Refuse studies that have no best trials, or none that could stand side by side.

    Raises:
        UsageError: they are such.
    """
    first = snapshots[0].goals
    for snapshot in snapshots:
        mine = snapshot.goals
        told = f"study {snapshot.name!r} optimises {show_goals(mine)}, but must optimise"
        if len(mine) > 1:
            raise UsageError(
                f"{told} one thing to be compared; golf-opt report study=NAME shows its front."
            )
        if mine != first and not (mine[0].accuracy and first[0].accuracy):
            raise UsageError(f"{told} {show_goals(first)}, as {snapshots[0].name!r} does.")


def _row(study: optuna.Study, snapshot: StudySnapshot) -> list[str]:
    best, tally = snapshot.best, counts(study)
    assert best is not None
    goal = snapshot.goal
    values = sorted(map(value_of, snapshot.complete))
    train = attribute(best, "train_accuracy", float)
    return [
        study.study_name,
        str(snapshot.num_params or ("?" if goal.accuracy else "-")),
        snapshot.data or "-",
        snapshot.protocol if snapshot.data else "-",
        str(snapshot.epochs),
        f"{tally['complete']} + {tally['pruned']} pruned",
        f"{goal.show(value_of(best))} (trial {best.number}, n = 1)",
        percent(train) if train is not None else "-",
        goal.show(values[len(values) // 2]),
    ]


def _differences(
    studies: Sequence[optuna.Study], snapshots: Sequence[StudySnapshot]
) -> Iterator[Block]:
    """Say in what each study differs from the first."""
    yield Heading("What differs")
    first, *others = [description_of(study).identity() for study in studies]
    first.pop("layers", None)  # the names of their nets are enough
    for study, now in zip(studies[1:], others, strict=True):
        now.pop("layers", None)
        rows = differences(first, now)
        words = [f"{row.key}: {row.before} -> {row.now}" for row in rows]
        yield Paragraph(
            f"{studies[0].study_name} -> {study.study_name}: "
            f"{'; '.join(words) or 'nothing but trials and seeds'}."
        )
    if len({(snapshot.data, snapshot.protocol, snapshot.epochs) for snapshot in snapshots}) > 1:
        yield Paragraph(
            "Data, protocol or epochs differ: these accuracies do not measure the same thing."
        )
