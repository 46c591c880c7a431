"""The comparison as a page and a picture, written from the lines of runs.jsonl alone."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bench import statistics
from bench.pages import into_docs, save_figure
from bench.report import ROOT
from bench.samplers import importance
from bench.samplers.rows import BASE
from bench.samplers.table import Table
from golf_opt.utils.stats import points

STUDIES = ROOT / "studies" / "samplers"
PICTURE = "critical-difference.svg"

FEWER = 0.3  # of the epochs
PARTS = (1 / 6, 1 / 3, 2 / 3)  # of the epochs, at which picks are looked at, too
STEP = 10  # epochs between two looks for where a row is as good
MARGIN = 0.0005  # of accuracy: worse by less is as good

Runs = list[dict[str, Any]]
QUESTIONS = (  # what the rows are asked: better than, and with how many epochs
    ("Does racing find a better recipe than one seed?", "tpe median race"),
    ("Does racing help where nothing is stopped early?", "tpe none race"),
    ("Do three seeds for every point help?", "tpe median 3 seeds"),
    ("Does pausing and promoting beat median pruning?", "tpe promote"),
    ("Do both together?", "tpe promote race"),
    ("How much do the last epochs give the base itself?", BASE),
    ("Would no pruning be better?", "tpe none"),
    ("Would chance be better than a model?", "random median"),
)


def table_path(folder: Path) -> Path:
    """Return where a folder's table is: studies/samplers' where it has none of its own."""
    own = folder / "table.jsonl"
    return own if own.exists() else STUDIES / own.name


def by_row(path: Path) -> tuple[int, dict[str, Runs]]:
    """Return the budget, and the runs of every row that has all repeats, by repeat."""
    runs = [json.loads(line) for line in path.read_text().splitlines()]
    budget = Counter(run["budget"] for run in runs).most_common(1)[0][0]
    rows: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for run in runs:
        if run["budget"] == budget:
            rows[run["row"]][run["repeat"]] = run
    repeats = max(map(len, rows.values()))
    whole = {name: kept for name, kept in rows.items() if len(kept) == repeats}
    return budget, {name: [kept[k] for k in sorted(kept)] for name, kept in whole.items()}


def write(folder: Path) -> None:
    """Write README.md and critical-difference.svg of a folder, from its table and runs.jsonl."""
    table = Table(table_path(folder))
    budget, rows = by_row(folder / "runs.jsonl")
    # of what was picked, as the table tells it today: more seeds may have been recorded since
    for run in (run for runs in rows.values() for run in runs):
        run["confirmed"] = table.confirmed(run["point"])
        run["picks"] = [(spent, table.confirmed(point)) for spent, point in run["picks"]]
    names = list(rows)
    results = np.array([[run["confirmed"] for run in rows[name]] for name in names])
    ranks = statistics.mean_ranks(results)
    difference = statistics.critical_difference(*results.shape)
    picture(folder / PICTURE, names, ranks, difference)
    text = page(table, budget, rows, results, ranks, difference)
    if (folder / "live.jsonl").exists():
        text += "\n".join(beside_live(table, rows, budget, folder / "live.jsonl")) + "\n"
    (folder / "README.md").write_text(text)
    print(f"{folder / 'README.md'} and its picture are written")
    if folder.resolve() == STUDIES.resolve():
        into_docs("samplers", "make compare-samplers", text, folder / PICTURE)


def page(
    table: Table,
    budget: int,
    rows: dict[str, Runs],
    results: statistics.Floats,
    ranks: statistics.Floats,
    difference: float,
) -> str:
    """Return the page."""
    names, repeats = list(rows), results.shape[1]
    order = np.argsort(ranks)
    base = names.index(BASE) if BASE in names else 0
    others = [index for index in range(len(names)) if index != base]
    told = statistics.against(results[base], [results[index] for index in others])
    chance = dict(zip(others, told, strict=True))
    best = table.best()
    subject = table.head.get("arch", table.head.get("family", {}))["name"]
    trainings = sum(map(len, table.curves.values()))
    own, rest = table.noise()
    held = fmean(run["point"] in held_back(table) for runs in rows.values() for run in runs)
    lines = [
        f"# What helps a study of {subject}",
        "",
        "Written by `make compare-samplers`; what is measured and how is in docs/samplers.md.",
        "",
        f"- {repeats} studies a row, {budget:,} epochs each "
        f"({budget // table.epochs} whole trainings of {table.epochs})",
        f"- replayed from a table of {trainings:,} recorded trainings: {len(table.known)} points, "
        f"up to {max(map(len, table.curves.values()))} seeds of the better ones; "
        f"{table.head['data']}, protocol {table.head['protocol']}",
        f"- confirmed: mean test accuracy of the picked point over seeds that no study saw "
        f"({held:.0%} of the picks; the others' own seeds stand in), less what these seeds give "
        f"at every point (seeds differ by {points(own)} points everywhere alike, and by "
        f"{points(rest)} otherwise; standard deviations)",
        f"- the best point of the table has {points(table.confirmed(best))}; in brackets "
        f"{statistics.LEVEL:.0%} bootstrap intervals",
        f"- Friedman: p = {statistics.friedman(results):.1g}; mean ranks that differ by less than "
        f"{difference:.2f} are not told apart (Nemenyi)",
        f"- p: against `{names[base]}`, Wilcoxon's signed ranks, corrected by Holm",
        "",
        "| sampler, pruner, seeds | rank | confirmed | difference | p | seen | points | complete |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for index in order:
        runs = rows[names[index]]
        low, high = statistics.interval(results[index])
        gap = "" if index == base else statistics.gap(results[index] - results[base])
        p = "" if index == base else f"{chance[int(index)]:.2g}"
        complete = fmean(run["trials"].get("complete", 0) for run in runs)
        lines.append(
            f"| {names[index]} | {ranks[index]:.2f} | {points(results[index].mean())} "
            f"[{points(low)}, {points(high)}] | {gap} | {p} | "
            f"{points(fmean(run['seen'] for run in runs))} | "
            f"{fmean(run['points'] for run in runs):.0f} | {complete:.0f} |"
        )
    lines += [
        "",
        "`seen` is what a study saw of its pick, on the data it optimised on; `points` those it "
        "asked for, and `complete` the trainings that reached the last epoch.",
        "",
        f"![Mean ranks; rows joined by a bar are not told apart]({PICTURE})",
        "",
        *answers(names, rows, results, budget, base, chance),
        *sooner([names[index] for index in order], rows, budget, names[base]),
        *importance.section(table),
    ]
    return "\n".join(lines) + "\n"


def held_back(table: Table) -> set[int]:
    return {point for point in table.known if table.is_held_back(point)}


def answers(
    names: list[str],
    rows: dict[str, Runs],
    results: statistics.Floats,
    budget: int,
    base: int,
    chance: dict[int, float],
) -> list[str]:
    """Return what the figures say to the questions whose rows there are."""
    early = 1 - FEWER
    lines = [
        "## Answers",
        "",
        f"Against `{names[base]}`: the difference at the same budget, and with {FEWER:.0%} fewer "
        f"epochs than it has. `as good` is an interval that ends above -{100 * MARGIN:.2f} points.",
        "",
        f"| question | row | difference | answer | with {FEWER:.0%} fewer epochs | as good |",
        "| --- | --- | ---: | --- | ---: | --- |",
    ]
    for question, name in QUESTIONS:
        if name not in names:
            continue
        index = names.index(name)
        gaps = results[index] - results[base]
        low, high = statistics.interval(gaps)
        answer = "" if index == base else "not told apart"
        if chance.get(index, 1.0) <= 1 - statistics.LEVEL:
            answer = "yes" if low > 0 else "no, worse" if high < 0 else answer
        traces = [run["picks"] for run in rows[name]]
        picks = [statistics.picked_after(trace, early * budget) for trace in traces]
        sooner = np.array(picks) - results[base]
        as_good = "yes" if statistics.interval(sooner)[0] > -MARGIN else "not shown"
        same = "" if index == base else statistics.gap(gaps)
        fewer = statistics.gap(sooner)
        lines.append(f"| {question} | {name} | {same} | {answer} | {fewer} | {as_good} |")
    return lines


def sooner(names: list[str], rows: dict[str, Runs], budget: int, base: str) -> list[str]:
    """Return what the rows would have picked with fewer epochs, from the same studies."""
    times = np.arange(STEP, budget + 1, STEP, dtype=float)
    curves = {
        name: np.array([statistics.curve(run["picks"], times) for run in rows[name]])
        for name in names
    }
    places = [max(0, round(part * budget / STEP) - 1) for part in (*PARTS, 1)]
    heads = [f"{times[place]:.0f}" for place in places]
    lines = [
        "",
        "## With fewer epochs",
        "",
        "What the same studies had picked by then; next to nothing in a study depends on where its "
        f"budget ends. In brackets the difference to `{base}` after as many epochs, and its "
        f"interval. `needed` is when a row's mean is first within {100 * MARGIN:.2f} points of "
        f"what `{base}` "
        "has at the end.",
        "",
        f"| row | {' | '.join(heads)} | needed |",
        f"| --- |{' ---: |' * (len(heads) + 1)}",
    ]
    for name in names:
        cells = []
        for place in places:
            now = curves[name][:, place]
            if not now.all() or not curves[base][:, place].all():
                cells.append("no pick yet")
                continue
            gap = "" if name == base else f" ({statistics.gap(now - curves[base][:, place])})"
            cells.append(f"{points(now.mean())}{gap}")
        first, low, high = (
            f"{times[int(place)]:.0f}" if math.isfinite(place) else "more"
            for place in statistics.needed(curves[name], curves[base][:, -1], MARGIN)
        )
        lines.append(f"| {name} | {' | '.join(cells)} | {first} [{low}, {high}] |")
    return lines


def beside_live(table: Table, rows: dict[str, Runs], budget: int, path: Path) -> list[str]:
    """Return what live studies came to, and the replays of their rows."""
    live: dict[tuple[str, int], Runs] = defaultdict(list)
    for made in map(json.loads, path.read_text().splitlines()):
        live[made["row"], made["budget"]].append(made)
    lines = [
        "",
        "## Replays and live studies",
        "",
        "The same rows, really trained, and what they picked confirmed by training it with the "
        "seeds held back. A replayed study asks for points between those of the table and is "
        "given the nearest: `nearest` is what the table's points nearest to the live picks have, "
        f"which tells what that changes. (Of the table's better points, one and its nearest other "
        f"are {points(table.rounding())} apart, root mean square.) With so few live studies this "
        "is a look at both, no test of agreement.",
        "",
        "| row | epochs | live studies | confirmed | nearest | replayed | confirmed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (name, epochs), made in sorted(live.items()):
        confirmed = np.array([run["confirmed"] for run in made]) - table.held_back_effect
        near = fmean(table.confirmed(run["point"]) for run in made)
        replays = rows.get(name, []) if epochs <= budget else []
        then = np.array([statistics.picked_after(run["picks"], epochs) for run in replays])
        lines.append(
            f"| {name} | {epochs} | {len(made)} | {_mean(confirmed)} | {points(near)} | "
            f"{len(replays)} | {_mean(then) if replays else ''} |"
        )
    return lines


def _mean(values: statistics.Floats) -> str:
    low, high = statistics.interval(values)
    return f"{points(values.mean())} [{points(low)}, {points(high)}]"


def picture(path: Path, names: list[str], ranks: statistics.Floats, difference: float) -> None:
    """Draw mean ranks on a line, and a bar over each group that they do not tell apart."""
    order = np.argsort(ranks)
    count = len(names)
    spans = statistics.cliques(ranks, difference)
    height = 0.22 * count + 0.16 * len(spans) + 0.8
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    low, high = math.floor(ranks.min()), math.ceil(ranks.max())
    axes.set_xlim(low - 0.35 * (high - low), high + 0.1)
    axes.set_ylim(-len(spans) - 1.5, count)
    for place, index in enumerate(order):
        y = count - 1 - place
        axes.plot([ranks[index]] * 2, [y, -0.5], color="0.85", lw=0.8, zorder=0)
        axes.plot(ranks[index], y, "o", color="tab:blue", ms=5)
        axes.text(
            ranks[index] - 0.01 * (high - low), y, f"{names[index]}  ", ha="right", va="center"
        )
    for place, (first, last) in enumerate(spans):
        ends = ranks[order[first]], ranks[order[last]]
        axes.plot(ends, [-1.2 - place] * 2, color="black", lw=3, solid_capstyle="butt")
    axes.set_xlabel(f"mean rank, 1 is best; critical difference {difference:.2f}")
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.set_yticks([])
    save_figure(figure, path)
