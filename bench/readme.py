"""The README's sections of figures, from the files that the benchmarks wrote.

python -m bench.readme          print them
python -m bench.readme --write  put them into README.md, between their marks
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.report import RESULTS
from golf_opt.utils.files import replace_section

README = Path(__file__).parents[1] / "README.md"


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def section() -> str:
    """Return the section in Markdown."""
    engines, study, lanes = load("engines"), load("study"), load("lanes")
    board, books = load("dashboard"), load("storage")
    rows = engines["rows"]
    sizes = sorted({row["batch_size"] for row in rows})
    lines = [
        "Images a second of one core in training, native engine over eager PyTorch with its data",
        f"in memory, medians of interleaved turns ({engines['machine']['cpu']}, "
        f"{engines['machine']['vectors']}, torch {engines['machine']['torch']}):",
        "",
        f"| net | {' | '.join(f'batch {size}' for size in sizes)} | of the core's peak |",
        f"|---|{'---:|' * len(sizes)}---:|",
    ]
    for net in dict.fromkeys(row["net"] for row in rows):
        mine = {row["batch_size"]: row for row in rows if row["net"] == net}
        ratios = " | ".join(f"{mine[size]['ratio']:.0f}x" for size in sizes)
        shares = [row["peak_share"] for row in mine.values()]
        lines.append(f"| `{net}` | {ratios} | {100 * min(shares):.0f}-{100 * max(shares):.0f} % |")
    how = "run whole" if study["plain_is_measured_whole"] else "its epochs sampled and added up"
    lines += [
        "",
        f"{list(lanes['epochs_per_s'])[-1]} lanes on as many cores do {lanes['ratio']:.2f} times "
        "the work of one. A whole study of 12 candidates, "
        f"{study['epochs']} epochs, two lanes, is {study['ratio']:.0f} times faster than a "
        f"hand-written Optuna + PyTorch script in two processes ({how}); "
        f"{100 * study['cpu_share_outside_kernel']:.1f} % of its processor time is not training or "
        "evaluation, half of that Python starting.",
        "",
        f"With a study of {board['trials']:,} trials the dashboard's page is there "
        f"{board['first_load_ratio']:.0f} times faster than `optuna-dashboard URL` has it once "
        f"both listen, {board['from_start_ratio']:.1f} times faster counted from the command, and "
        f"a refresh is {board['refresh_ratio']:.1f} times faster. An open page costs a running "
        f"study {100 * board['server_share_of_the_cores']:.1f} % of the cores.",
        "",
        f"Keeping a trial's books (ask, 4 suggestions, {books['steps']} reports and prune checks, "
        f"tell; {books['filled']:,} trials before it) takes plain Optuna "
        + ", and ".join(
            " / ".join(
                f"{row['ratio']:.0f}" for row in books[kind].values() if isinstance(row, dict)
            )
            + f" times as long on {name}"
            for kind, name in (("sqlite", "SQLite"), ("postgres", "PostgreSQL"))
        )
        + ", with 1 / 8 / 64 trials under way.",
        "",
    ]
    return "\n".join(lines)


def kills() -> str:
    """Return the paragraph on what killed workers cost."""
    found = [load(f"chaos-{kind}") for kind in ("postgres", "sqlite")]
    rounds = [row for part in found for row in part["rounds"]]
    total = {key: sum(row[key] for row in rounds) for key in rounds[0]}
    about = found[0]
    return (
        "`python -m tests.chaos` does the worst of it at once. In "
        f"{len(found[0]['rounds'])} rounds on PostgreSQL and {len(found[1]['rounds'])} on SQLite "
        f"of {about['trials']} trials with {about['workers']} workers, "
        f"{total['kills']} workers were killed (-9), {total['terms']} "
        f"terminated, and PostgreSQL {total['server_restarts']} times restarted. Every trial "
        "finished once, with all values that undisturbed training gives; "
        f"{total['epochs_repeated']:,} of {total['epochs']:,} epochs were trained again, "
        f"{1e3 * total['repeated_s'] / total['kills']:.0f} ms of training a kill.\n"
    )


SECTIONS = (
    ("<!-- speed: python -m bench.readme --write -->\n", "<!-- /speed -->", section),
    ("<!-- kills: python -m bench.readme --write -->\n", "<!-- /kills -->", kills),
)


def main() -> None:
    for begin, end, write in SECTIONS:
        if "--write" in sys.argv:
            replace_section(README, begin, end, write())
        else:
            print(write())


if __name__ == "__main__":
    main()
