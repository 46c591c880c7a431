"""The figures of README.md and docs/, from the files that the benchmarks wrote.

python -m bench.readme          print them
python -m bench.readme --write  put them into the pages, between their marks

Each CPU model has a folder of bench/results; a figure stands for every model that has its file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.report import PICTURES, RESULTS, ROOT, slug
from golf_opt.utils.files import print_or_write

NET, BATCH_SIZE = "c4-5-4", 14  # the article's, which the README quotes
STORAGES = (("sqlite", "SQLite"), ("postgres", "PostgreSQL"))


@dataclass(frozen=True)
class Machine:
    """A CPU model and what was measured on it, by the benchmark's name."""

    cpu: str
    results: dict[str, dict[str, Any]]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return what bench.engines measured: a row for each net and batch size."""
        found: list[dict[str, Any]] = self.results["engines"]["rows"]
        return found


def machines(folder: Path = RESULTS) -> list[Machine]:
    """Return the CPU models whose engines were measured, by name."""
    found = []
    for engines in sorted(folder.glob("*/engines.json")):
        files = sorted(engines.parent.glob("*.json"))
        results = {path.stem: json.loads(path.read_text()) for path in files}
        found.append(Machine(results["engines"]["machine"]["cpu"], results))
    return found


def in_short(found: list[Machine]) -> str:
    """Return the sentence on speed for those in a hurry: the range over all CPU models."""
    rows = [row for machine in found for row in machine.rows]
    here = [row for row in rows if (row["net"], row["batch_size"]) == (NET, BATCH_SIZE)]
    names = ", ".join(machine.cpu for machine in found)
    return (
        f"One core trains `{NET}` {span([row['ratio'] for row in here])} times as fast as eager "
        f"PyTorch with its data in memory (batch {BATCH_SIZE}),\nat "
        f"{span([100 * row['peak_share'] for row in here])} % of what the core can do at most; "
        f"over all nets and batch sizes it is {span([row['ratio'] for row in rows])} times.\n"
        f"Measured on {names}.\n"
    )


def span(values: list[float]) -> str:
    """Return `40`, or `23 to 40` where they differ."""
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"


def in_full(found: list[Machine]) -> str:
    """Return all tables, a section for each CPU model."""
    return "\n".join("\n".join(machine_section(machine)) for machine in found)


def machine_section(machine: Machine) -> Iterator[str]:
    about = machine.results["engines"]["machine"]
    yield f"## {machine.cpu}"
    yield ""
    yield ", ".join([f"{about['cores']} cores", about["vectors"], about["compiler"]])
    yield f"and torch {about['torch']}."
    yield ""
    yield from ratio_table(machine.rows)
    if (PICTURES / f"engines-{slug(machine.cpu)}.png").is_file():
        yield f"![Images a second over eager PyTorch](pictures/engines-{slug(machine.cpu)}.png)"
        yield ""
    yield from peer_table(machine.rows)
    for name, paragraph in PARAGRAPHS.items():
        if name in machine.results:
            yield paragraph(machine.results[name])
            yield ""


def ratio_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    sizes = sorted({row["batch_size"] for row in rows})
    yield "Images a second of one core in training, native engine over eager PyTorch:"
    yield ""
    yield f"| net | {' | '.join(f'batch {size}' for size in sizes)} | of the core's peak |"
    yield f"|---|{'---:|' * len(sizes)}---:|"
    for net in dict.fromkeys(row["net"] for row in rows):
        mine = {row["batch_size"]: row for row in rows if row["net"] == net}
        cells = " | ".join(f"{mine[size]['ratio']:.0f}x" if size in mine else "" for size in sizes)
        peak = [100 * row["peak_share"] for row in mine.values()]
        yield f"| `{net}` | {cells} | {min(peak):.0f}-{max(peak):.0f} % |"
    yield ""


def peer_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    mine = [row for row in rows if (row["net"], row["batch_size"]) == (NET, BATCH_SIZE)]
    for row in mine:
        yield f"`{NET}` at batch {BATCH_SIZE}, images a second of one core:"
        yield ""
        yield f"| {' | '.join(row['images_per_s'])} |"
        yield f"|{'---:|' * len(row['images_per_s'])}"
        yield f"| {' | '.join(f'{rate:,.0f}' for rate in row['images_per_s'].values())} |"
        yield ""


def lanes(result: dict[str, Any]) -> str:
    return (
        f"{list(result['epochs_per_s'])[-1]} lanes on as many cores do {result['ratio']:.2f} times "
        "the work of one."
    )


def study(result: dict[str, Any]) -> str:
    how = "run whole" if result["plain_is_measured_whole"] else "its epochs sampled and added up"
    return (
        f"A whole study of 12 candidates, {result['epochs']} epochs, two lanes, is "
        f"{result['ratio']:.0f} times faster than a hand-written Optuna + PyTorch script in two "
        f"processes ({how}); {100 * result['cpu_share_outside_kernel']:.1f} % of its processor "
        "time is not training or evaluation, half of that Python starting."
    )


def dashboard(result: dict[str, Any]) -> str:
    return (
        f"With a study of {result['trials']:,} trials the dashboard's page is there "
        f"{result['first_load_ratio']:.0f} times faster than `optuna-dashboard URL` has it once "
        f"both listen, {result['from_start_ratio']:.1f} times faster counted from the command, and "
        f"a refresh is {result['refresh_ratio']:.1f} times faster. An open page costs a running "
        f"study {100 * result['server_share_of_the_cores']:.1f} % of the cores."
    )


def storage(result: dict[str, Any]) -> str:
    times = [
        " / ".join(f"{row['ratio']:.0f}" for row in result[kind].values() if isinstance(row, dict))
        + f" times as long on {name}"
        for kind, name in STORAGES
    ]
    return (
        f"Keeping a trial's books (ask, 4 suggestions, {result['steps']} reports and prune checks, "
        f"tell; {result['filled']:,} trials before it) takes plain Optuna {', and '.join(times)}, "
        "with 1 / 8 / 64 trials under way."
    )


PARAGRAPHS = {"lanes": lanes, "study": study, "dashboard": dashboard, "storage": storage}


def kills(found: list[Machine]) -> str:
    """Return the paragraph on what killed workers cost."""
    runs = {
        kind: [m.results[f"chaos-{kind}"] for m in found if f"chaos-{kind}" in m.results]
        for kind, _ in STORAGES
    }
    rounds = {kind: [row for run in runs[kind] for row in run["rounds"]] for kind in runs}
    every = [row for part in rounds.values() for row in part]
    total = {key: sum(row[key] for row in every) for key in every[0]}
    about = next(run for part in runs.values() for run in part)
    return (
        "`python -m tests.chaos` does the worst of it at once. In "
        f"{len(rounds['postgres'])} rounds on PostgreSQL and {len(rounds['sqlite'])} on SQLite "
        f"of {about['trials']} trials with {about['workers']} workers, "
        f"{total['kills']} workers were killed (-9), {total['terms']} "
        f"terminated, and PostgreSQL {total['server_restarts']} times restarted. Every trial "
        "finished once, with all values that undisturbed training gives; "
        f"{total['epochs_repeated']:,} of {total['epochs']:,} epochs were trained again, "
        f"{1e3 * total['repeated_s'] / total['kills']:.0f} ms of training a kill.\n"
    )


def gpu_model() -> str:
    """Return what the model predicts of GPUs, before and after what it led to."""
    before, after = (
        {
            (row["net"], row["batch_size"], row["gpu"]): row
            for row in json.loads((RESULTS / f"gpu-model{which}.json").read_text())["rows"]
        }
        for which in ("-before", "")
    )
    lines = [
        "| net | GPU | blocks/SM | limit | warps busy | shared memory | evaluation | one lane | "
        "all lanes |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for key, new in after.items():
        seen = [rows[key] for rows in (before, after) if key in rows]

        def both(of: Callable[[dict[str, Any]], Any], form: str, seen=seen) -> str:
            return " -> ".join(format(of(row), form) for row in seen)

        lines.append(
            f"| `{key[0]}`, batch {key[1]} | {key[2]} ({new['arch']}) | "
            f"{both(lambda row: row['blocks_per_sm'], 'd')} | "
            f"{both(lambda row: row['step']['limit'], '')} | "
            f"{both(lambda row: row['step']['warps_busy'], '.0%')} | "
            f"{both(lambda row: row['step']['shared_memory'], ',d')} | "
            f"{both(lambda row: row['evaluation_share'], '.1%')} | "
            f"{both(lambda row: row['epochs_per_s_of_one'], '.2f')}/s | "
            f"{both(lambda row: row['epochs_per_s'], ',.0f')}/s |"
        )
    return "\n".join([*lines, ""])


@dataclass(frozen=True)
class Section:
    """A part of a page, between `<!-- NAME: python -m bench.readme --write -->` and its end."""

    page: Path
    name: str
    text: str

    @property
    def begin(self) -> str:
        return f"<!-- {self.name}: python -m bench.readme --write -->\n"

    @property
    def end(self) -> str:
        return f"<!-- /{self.name} -->"


def sections() -> list[Section]:
    """Return every section as the result files of this checkout give it."""
    found = machines()
    return [
        Section(ROOT / "README.md", "speed", in_short(found)),
        Section(ROOT / "docs" / "index.md", "speed", in_short(found)),
        Section(ROOT / "docs" / "benchmarks.md", "speed", in_full(found)),
        Section(ROOT / "docs" / "benchmarks.md", "gpu-model", gpu_model()),
        Section(ROOT / "docs" / "storage.md", "kills", kills(found)),
    ]


if __name__ == "__main__":
    for section in sections():
        print_or_write(section.page, section.begin, section.end, section.text)
