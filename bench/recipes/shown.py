"""The comparison of training ideas as a page and a picture, written from the rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bench import statistics
from bench.pages import into_docs, save_figure
from bench.recipes.ideas import ALL, DEAR, IDEAS, TARGETS, Part
from bench.recipes.results import Found, all_found, confirming, joint, picked
from bench.recipes.rows import Rows
from bench.recipes.run import PAIRS, strong_idea
from bench.report import ROOT
from golf_opt.task.data.teacher import FACTS, Facts
from golf_opt.task.grammar import load_arch
from golf_opt.utils.stats import Spread, points
from golf_opt.utils.text import count, show_params

STUDIES = ROOT / "studies" / "recipes"
PICTURE = "differences.svg"
HEAD = (
    "idea", "test", "sd", "held out", "difference", "p", "verdict", "cost", "at equal time",
    "verdict",
)  # fmt: skip
HELPS, SAME, HARMS = "helps", "no difference", "harms"
COLOURS = {HELPS: "tab:blue", SAME: "0.45", HARMS: "tab:red"}


@dataclass(frozen=True)
class Verdict:
    """What is said of an idea against the base: p is corrected for the ideas of the net."""

    gains: statistics.Floats  # of test accuracy, by seed
    p: float

    @property
    def word(self) -> str:
        if self.p > 1 - statistics.LEVEL:
            return SAME
        return HELPS if self.gains.mean() > 0 else HARMS


@dataclass(frozen=True)
class OfNet:
    """What there is of a net."""

    net: str
    there: Sequence[Found]  # the base first; none before it is trained
    verdicts: Sequence[Verdict]  # of the others
    sooner: Sequence[Verdict | None]  # at equal time, None where it was not trained
    together: str | None  # the name of the ideas that help, as one


def read(folder: Path, net: str, part: Part) -> OfNet:
    rows, part = Rows(folder / f"{net}.jsonl"), part.of(net)
    there = all_found(rows, IDEAS, part)
    best = joint(there) if there else None
    if best is not None:
        there = all_found(rows, [*IDEAS, best], part)
    if not there:
        return OfNet(net, [], [], [], None)
    base, others = there[0].test, there[1:]
    verdicts = judge(base, [one.test for one in others])
    timed = [one.then for one in others if one.then is not None]
    at_equal_time = iter(judge(base, timed))
    sooner = [None if one.then is None else next(at_equal_time) for one in others]
    return OfNet(net, there, verdicts, sooner, best and best.name)


def judge(base: statistics.Floats, others: Sequence[statistics.Floats]) -> list[Verdict]:
    chances = statistics.against(base, others)
    return [Verdict(one - base, p) for one, p in zip(others, chances, strict=True)]


def write(folder: Path, part: Part, data: str) -> None:
    """Write README.md and its picture of a folder with rows."""
    folder.mkdir(parents=True, exist_ok=True)
    nets = [read(folder, net, part) for net in part.nets]
    picture(folder / PICTURE, [net for net in nets if net.verdicts])
    text = page(folder, part, data, nets)
    (folder / "README.md").write_text(text)
    print(f"{folder / 'README.md'} and its picture are written")
    if folder.resolve() == STUDIES.resolve():
        into_docs("recipes", "make recipes PART=full", text, folder / PICTURE)


def page(folder: Path, part: Part, data: str, nets: Sequence[OfNet]) -> str:
    """Return the page."""
    return "\n".join(
        [
            "# Training ideas, one by one and together",
            "",
            "Written by `make recipes`; what is measured and how is in docs/recipes.md.",
            "",
            f"- every idea tuned alike: {count(part.points, 'point')} of its space, "
            f"{count(part.seeds, 'seed')} each, {epochs(part)} on five sixths of the training "
            f"images ({data}), picked by the mean on the sixth that is held out",
            f"- then {part.confirmed} fresh seeds of the pick, the same for every idea; the test "
            "set is read once, after the last epoch",
            "- p: against the base by seed, Wilcoxon's signed ranks, corrected by Holm for the "
            f"ideas of a net; a verdict is at {1 - statistics.LEVEL:.2g}; in brackets "
            f"{statistics.LEVEL:.0%} bootstrap intervals of the mean difference, not corrected",
            "- cost: CPU time of an epoch over that of the base at the same batch size, the median "
            f"of {PAIRS} trainings in turns; at equal time: as many epochs as the base's time is "
            "enough for",
            *teacher(folder),
            "",
            f"![Differences to the base, in points of test accuracy]({PICTURE})",
            *(line for net in nets for line in of_net(net)),
            *strong(folder, part),
        ]
    )


def epochs(part: Part) -> str:
    """Return in words how long is trained, and what net shorter."""
    fewer = [f"{net}: {DEAR[net]}" for net in part.nets if net in DEAR]
    return count(part.epochs, "epoch") + (f" ({', '.join(fewer)})" if fewer else "")


def teacher(folder: Path) -> list[str]:
    path = folder / FACTS
    if not path.exists():
        return []
    facts = Facts.model_validate_json(path.read_text())
    return [f"- the teacher of distillation: {facts.words}"]


def of_net(net: OfNet) -> list[str]:
    """Return the part of the page that is about a net."""
    lines = ["", f"## {net.net}", ""]
    known = {one.idea.name for one in net.there}
    missing = [idea.name for idea in ALL if idea.name not in known]
    if net.together is not None and net.together not in known:
        missing.append(net.together)
    if missing and known:
        lines += [f"Not trained yet: {', '.join(missing)}.", ""]
    if not known:
        return [*lines, "Not trained yet.", ""]
    lines += [
        f"| {' | '.join(HEAD)} |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | --- |",
        row(net.there[0], None, None),
    ]
    order = np.argsort([-verdict.gains.mean() for verdict in net.verdicts], kind="stable")
    lines += [row(net.there[at + 1], net.verdicts[at], net.sooner[at]) for at in order]
    lines += ["", "Picked on held-out images:", ""]
    lines += [f"- {one.idea.name}: `{show_params(one.params)}`" for one in net.there]
    return lines


def row(one: Found, verdict: Verdict | None, sooner: Verdict | None) -> str:
    spread = Spread(list(one.test))
    cells = [
        one.idea.name,
        points(spread.mean),
        points(spread.sd),
        points(float(one.held_out.mean())),
        "" if verdict is None else statistics.gap(verdict.gains),
        "" if verdict is None else f"{verdict.p:.2g}",
        "" if verdict is None else verdict.word,
        "" if one.cost is None else f"{one.cost:.2f}",
        *at_equal_time(one, verdict, sooner),
    ]
    return f"| {' | '.join(cells)} |"


def at_equal_time(one: Found, verdict: Verdict | None, sooner: Verdict | None) -> tuple[str, str]:
    """Return the difference with as much time as the base has, and the verdict."""
    if verdict is None or one.cost is None:
        return "", ""
    if sooner is None:
        return f"{count(one.same_time or 0, 'epoch')}, not trained", "does not help"
    if one.then is not None and np.array_equal(one.then, one.test):
        return "the same", verdict.word
    return f"{statistics.gap(sooner.gains)}, {count(one.same_time or 0, 'epoch')}", sooner.word


def strong(folder: Path, part: Part) -> list[str]:
    """Return what `recipe=strong` comes to, by the rows of its trainings."""
    if not part.strong:
        return []
    lines = [
        "",
        "## recipe=strong",
        "",
        f"Learned from all training images, {part.strong} fresh seeds, the test set read once; its "
        "point picked on held-out images.",
        "",
        "| net | parameters | epochs | n | mean | sd | least | most | target | recipe |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    rows = [strong_row(folder, net, part) for net in part.nets if part.of(net).strong]
    return [*lines, *rows, ""]


def strong_row(folder: Path, net: str, part: Part) -> str:
    """Return the row of a net, with as many seeds as there are."""
    rows = Rows(folder / f"{net}.jsonl")
    idea, epochs = strong_idea(net)
    params = picked(rows, idea, part, epochs)
    wanted = [] if params is None else confirming(idea, params, epochs, part.strong, "strong")
    tests = Spread([rows[one]["test"] for one in wanted if one in rows])
    head = f"| {net} | {load_arch(net).num_params:,} | {epochs} |"
    if params is None or not tests.n:
        return f"{head} not trained yet | | | | | | |"
    figures = " | ".join(map(points, (tests.mean, tests.sd, tests.low, tests.high)))
    words, goal = [], TARGETS.get(net)
    if goal is not None:
        words.append(f"{points(goal)}, {'reached' if tests.mean >= goal else 'missed'}")
    if tests.n < part.strong:
        words.append(f"{part.strong - tests.n} seeds to come")
    return f"{head} {tests.n} | {figures} | {'; '.join(words)} | `{show_params(params)}` |"


def picture(path: Path, nets: Sequence[OfNet]) -> None:
    """Draw each idea's mean difference to the base with its interval, a panel for each net."""
    names = [idea.name for idea in ALL[1:]]
    height = 0.24 * (len(names) + 1) + 0.9
    figure = Figure(figsize=(2.6 + 2.4 * max(1, len(nets)), height), layout="constrained")
    panels = figure.subplots(1, max(1, len(nets)), sharey=True, squeeze=False)[0]
    places = [*names, "together"]
    for axes, net in zip(panels, nets, strict=False):
        axes.axvline(0, color="0.8", lw=1, zorder=0)
        for one, verdict in zip(net.there[1:], net.verdicts, strict=True):
            name = "together" if one.idea.name == net.together else one.idea.name
            y, (low, high) = -places.index(name), statistics.interval(verdict.gains)
            colour = COLOURS[verdict.word]
            axes.plot([100 * low, 100 * high], [y, y], color=colour, lw=2, solid_capstyle="butt")
            axes.plot(100 * verdict.gains.mean(), y, "o", color=colour, ms=5)
        axes.set_title(net.net, fontsize=10)
        axes.set_xlabel("points of test accuracy")
        axes.spines[["left", "right", "top"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_yticks([-place for place in range(len(places))], places)
    save_figure(figure, path)
