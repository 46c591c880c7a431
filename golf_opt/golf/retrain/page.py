"""The page of a reproduction: tables, findings and figures, made from its results alone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from golf_opt.config.errors import check_choice
from golf_opt.config.reproduce import Curve, PublishedCount, PublishedRow, ReproduceConfig
from golf_opt.task.arch import Net
from golf_opt.utils.files import replace_file, replace_text
from golf_opt.utils.stats import Spread, points
from golf_opt.utils.text import markdown_table
from golf_opt.visualization.plots import to_png

PAGE = "README.md"
NOT_RUN = "(not run)"
NOT_YET = "Not run yet."
ENOUGH_FOR_SD = 6  # seeds; fewer say little of their spread
LUCKY_SHARE = 0.25  # a figure that fewer seeds reach than this is luck
Content = Mapping[str, Any]


def check_page(config: ReproduceConfig) -> None:
    """Check rows, curves and findings against the names of the trainings.

    Raises:
        UsageError: a row names a table or a training that is not there.
    """
    for index, row in enumerate(config.rows):
        check_choice(f"rows[{index}].table", row.table, config.tables)
        check_choice(f"rows[{index}].of", row.of, config.trainings)
    for index, count in enumerate(config.pruned_rows):
        check_choice(f"pruned_rows[{index}].of", count.of, config.prunings)
    known = [*config.trainings, *config.prunings]
    for file, curve in config.curves.items():
        for name in curve.of:
            check_choice(f"curves.{file}.of", name, config.trainings)
    for text in config.findings:
        for name, _, _ in PLACEHOLDER.findall(text):
            check_choice("findings", name, known)


def values_of(content: Content, training: str, key: str) -> list[Any]:
    """Return one result of every seed of a training, or of a pruning, that has it."""
    row = content["trainings"].get(training, {"seeds": {}})
    return [seed[key] for seed in row["seeds"].values() if key in seed]


def measured(content: Content, training: str, read: object = "last") -> Spread:
    """Return the test accuracies of a training's seeds: the last epoch's, the best, or the nth."""
    curves = values_of(content, training, "accuracies")
    if read == "best":
        return Spread([max(curve) for curve in curves])
    at = -1 if read == "last" else int(str(read)) - 1
    return Spread([curve[at] for curve in curves])


def verdict(published: float | None, ours: Spread, tolerance: float = 0.0) -> str:
    """Return in a sentence how a published accuracy, in [0, 1], stands to ours."""
    if ours.n == 0:
        return NOT_YET
    if published is None:
        return "No figure was published."
    reached = ours.reaching(published - tolerance)
    if reached == 0:
        far = ""
        if ours.n >= ENOUGH_FOR_SD:
            far = f", and {(published - ours.mean) / ours.sd:.1f} sd above our mean"
        return f"Not reached: our best of {ours.n} is {points(ours.high)}{far}."
    if published + tolerance < ours.low:
        return f"Too low: our worst of {ours.n} has {points(ours.low)}."
    if reached <= LUCKY_SHARE * ours.n:
        return f"A lucky seed: {reached} of {ours.n} get there."
    return f"Holds: {reached} of {ours.n} seeds get there."


def row_cells(row: PublishedRow, content: Content, nets: Mapping[str, Net]) -> list[str]:
    """Return the cells of one row of a table."""
    published, tolerance = row.published, row.tolerance
    ours = measured(content, row.of, row.read)
    # the train accuracy is known after the last epoch alone
    train = Spread(values_of(content, row.of, "train_accuracy") if row.read == "last" else [])
    about = "about " if tolerance else ""
    return [
        row.system,
        f"{nets[row.of].num_params:,}",
        "-" if published is None else f"{about}{published:.2f}",
        points(ours.mean) if ours.n else NOT_RUN,
        points(ours.sd),
        points(ours.high),
        str(ours.n),
        points(train.mean),
        verdict(None if published is None else published / 100, ours, tolerance / 100),
    ]


HEAD = ("system", "parameters", "published", "ours, mean", "sd", "best", "n", "train", "verdict")


def table(key: str, config: ReproduceConfig, content: Content, nets: Mapping[str, Net]) -> str:
    """Return one table in Markdown."""
    rows = [row_cells(row, content, nets) for row in config.rows if row.table == key]
    return markdown_table(HEAD, rows, f"l{'r' * 7}l")


def verdict_on_cut(published: int, ours: Spread, trained: int) -> str:
    """Return in a sentence how a published count stands to ours, of so many trained nets."""
    if ours.n == 0:
        return f"None of our {trained} nets had the target to begin with." if trained else NOT_YET
    fewer = sum(count <= published for count in ours.values)
    if fewer == 0:
        return f"Not reached: our fewest of {ours.n} is {ours.low:.0f}."
    return f"Reached by {fewer} of our {ours.n} nets; the fewest is {ours.low:.0f}."


CUT_HEAD = ("system", "published", "ours, mean", "sd", "fewest", "n", "test before", "test after",
            "train after", "verdict")  # fmt: skip


def cut_cells(row: PublishedCount, trained_as: str, content: Content) -> list[str]:
    """Return the cells of one row of the table of prunings."""
    counts, *fractions = (
        Spread(values_of(content, row.of, key))
        for key in ("nz", "before", "test_accuracy", "train_accuracy")
    )
    return [
        row.system,
        str(row.published),
        *map(whole, (counts.mean, counts.sd, counts.low)),
        str(counts.n),
        *(points(fraction.mean) for fraction in fractions),
        verdict_on_cut(row.published, counts, len(values_of(content, trained_as, "accuracies"))),
    ]


def whole(count: float) -> str:
    return "-" if math.isnan(count) else f"{count:.0f}"


def cut_table(config: ReproduceConfig, content: Content) -> str:
    """Return the table of prunings in Markdown."""
    rows = [cut_cells(row, config.prunings[row.of].of, content) for row in config.pruned_rows]
    return markdown_table(CUT_HEAD, rows, f"l{'r' * 8}l")


PLACEHOLDER = re.compile(r"\{([\w-]+)(?:@(\w+))?\.(\w+)\}")


def fill_in(text: str, content: Content) -> str:
    """Replace `{training.mean}`, `{training@3.best}` by figures of the results.

    Fields are n, mean, sd, best, worst and train, the mean train accuracy. `@3` reads epoch 3,
    `@best` each seed's best epoch. Of a pruning: n, mean and fewest parameters.
    """

    def figure(match: re.Match[str]) -> str:
        name, read, field = match[1], match[2] or "last", match[3]
        if values := values_of(content, name, "nz"):
            counts = Spread(values)
            return whole({"n": counts.n, "mean": counts.mean, "fewest": counts.low}[field])
        ours = measured(content, name, read)
        if field == "train":
            ours = Spread(values_of(content, name, "train_accuracy"))
        if ours.n == 0:
            return NOT_RUN
        if field == "n":
            return str(ours.n)
        read_off = {"mean": ours.mean, "sd": ours.sd, "best": ours.high, "worst": ours.low}
        return points((read_off | {"train": ours.mean})[field])

    return PLACEHOLDER.sub(figure, text)


def page(config: ReproduceConfig, content: Content, nets: Mapping[str, Net]) -> str:
    """Return the page in Markdown."""
    parts = ["# Every figure of the sources, trained again", config.introduction.strip()]
    for key, title in config.tables.items():
        parts += [f"## {title}", table(key, config, content, nets)]
        parts += [f"![{title}](figures/{key}.png)"]
    if config.pruned_rows:
        parts += ["## Non-zero parameters left by pruning", config.about_pruning.strip()]
        parts += [cut_table(config, content)]
    parts += ["## What was found"]
    parts += [fill_in(text.strip(), content) for text in config.findings]
    parts += [f"![{curve.title}](figures/{file}.png)" for file, curve in config.curves.items()]
    return "\n\n".join(parts) + "\n"


def write_page(config: ReproduceConfig, content: Content, nets: Mapping[str, Net]) -> str:
    """Write the page and its figures; return the page."""
    text = page(config, content, nets)
    replace_text(config.output / PAGE, text)
    folder = config.output / "figures"
    for key, title in config.tables.items():
        rows = [row for row in config.rows if row.table == key]
        replace_file(folder / f"{key}.png", to_png(draw_rows(title, rows, content)))
    for file, curve in config.curves.items():
        replace_file(folder / f"{file}.png", to_png(draw_curves(curve, content)))
    return text


def _figure(height: float) -> Any:
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display

    return Figure(figsize=(8, height), layout="constrained", dpi=120)


def draw_rows(title: str, rows: Sequence[PublishedRow], content: Content) -> Any:
    """Return a figure with a line for each row: a dot for each seed, a cross where published."""
    figure = _figure(1.2 + 0.4 * len(rows))
    axes = figure.add_subplot()
    for y, row in enumerate(rows):
        ours = measured(content, row.of, row.read)
        seed_label = "a seed of ours" if y == 0 else None
        axes.plot([100 * v for v in ours.values], [y] * ours.n, "o", alpha=0.4, color="tab:blue",
                  label=seed_label)  # fmt: skip
        if ours.n:
            axes.plot(100 * ours.mean, y, "|", markersize=18, color="tab:blue")
        if row.published is not None:
            axes.plot(row.published, y, "x", color="tab:red", markersize=9, markeredgewidth=2,
                      label="published" if y == 0 else None)  # fmt: skip
    axes.set_yticks(range(len(rows)), [row.system for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy, %")
    axes.set_title(title)
    axes.grid(axis="x", alpha=0.3)
    if rows:
        axes.legend(loc="best")
    return figure


def draw_curves(curve: Curve, content: Content) -> Any:
    """Return a figure of mean test accuracy by epoch, each seed thin, published points on top."""
    figure = _figure(5.5)
    axes = figure.add_subplot()
    for index, name in enumerate(curve.of):
        color = f"C{index}"
        curves = values_of(content, name, "accuracies")
        for values in curves:
            axes.plot(range(1, len(values) + 1), [100 * v for v in values], color=color, alpha=0.25)
        if curves:
            means = [100 * sum(column) / len(column) for column in zip(*curves, strict=True)]
            axes.plot(range(1, len(means) + 1), means, color=color, linewidth=2, label=name)
    for marker, (label, at) in zip("x+1234", curve.published.items(), strict=False):
        axes.plot(at["epochs"], at["accuracies"], marker, color="black", markersize=9,
                  markeredgewidth=2, label=label)  # fmt: skip
    axes.set_ylim(bottom=curve.start)
    axes.set_xlabel("epoch")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(curve.title)
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    return figure
