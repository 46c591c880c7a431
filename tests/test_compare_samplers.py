"""Comparing samplers: a table answers for its neighbourhood, replays are exact, ranks tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import statistics
from bench.samplers.compare import run
from bench.samplers.importance import by_parameter, section
from bench.samplers.record import sobol
from bench.samplers.rows import ROWS, Row
from bench.samplers.shown import write
from bench.samplers.table import Table
from golf_opt.config import CONF_DIR, load_yaml
from golf_opt.study.space import build_space
from golf_opt.task.grammar import parse_grammar

EPOCHS = 5
ROW = {row.name: row for row in ROWS}


def made_up(point: dict[str, Any]) -> float:
    return 0.9 - 0.1 * abs(np.log10(point["lr"] / 1e-3))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of 16 made-up points: the nearer its rate is to 1e-3, the better."""
    space = load_yaml(CONF_DIR / "space" / "article.yaml")
    points = sobol(build_space(space), 16)
    head = {
        "arch": parse_grammar("c4-5-4"), "space": space, "data": "mnist", "digest": "0" * 16,
        "protocol": "holdout", "epochs": EPOCHS, "points": points,
    }  # fmt: skip
    rows = []
    for index, point in enumerate(points):
        final = made_up(point)
        for seed in range(4):
            curve = [round(final - 0.05 / epoch + 0.001 * seed, 4) for epoch in range(1, 6)]
            rows.append({"point": index, "seed": seed, "accuracy": curve, "test": final})
    path = tmp_path / "table.jsonl"
    path.write_text("\n".join(map(json.dumps, [head, *rows])) + '\n{"point": 3, "se')
    return path


def test_the_nearest_point_answers(table: Path) -> None:
    kept = Table(table)
    assert [kept.nearest(point) for point in kept.points] == list(range(16))
    beside = kept.points[7] | {"lr": kept.points[7]["lr"] * 1.01}
    assert kept.nearest(beside) == 7
    assert kept.num_search_seeds == 2  # of four: two are held back
    assert kept.curve(7, 0)[-1] == kept.curve(7, 2)[-1] != kept.curve(7, 1)[-1]


def test_no_point_gains_by_the_seeds_that_it_happens_to_have(table: Path) -> None:
    lines = [json.loads(line) for line in table.read_text().splitlines()[:-1]]
    for row in lines[1:]:
        row["test"] += 0.001 * row["seed"]
    less = [row for row in lines if row.get("point") != 5 or row["seed"] in (0, 2)]
    less = [row for row in less if row.get("point") != 6 or row["seed"] == 0]
    table.write_text("\n".join(map(json.dumps, less)))
    kept, final = Table(table), [made_up(point) for point in lines[0]["points"]]
    assert kept.curve(5, 1) == pytest.approx([v + 0.001 for v in kept.curve(5, 0)], abs=1e-9)
    own, rest = kept.noise()
    assert own == pytest.approx(np.std([0, 0.001, 0.002, 0.003])) and rest < 1e-9
    for point in (4, 5, 6):  # all seeds; one held back; none
        assert kept.confirmed(point) == pytest.approx(final[point] + 0.0015, abs=1e-9)


def test_a_replayed_study_spends_its_budget_and_picks_by_what_it_saw(table: Path) -> None:
    made = run(ROW["random none"], 0, table, 60)
    assert made["spent"] == 60
    assert made["trials"]["complete"] == 60 // EPOCHS
    kept = Table(table)
    assert made["seen"] == pytest.approx(kept.confirmed(made["point"]) - 0.01, abs=0.0011)
    assert made["picks"][-1][1] == made["point"]
    again = run(ROW["random none"], 0, table, 60)
    assert again | {"s": 0} == made | {"s": 0}


def test_pruned_studies_try_more_points(table: Path) -> None:
    every, pruned = (run(ROW[name], 1, table, 100) for name in ("random none", "random median"))
    assert every["points"] == 100 // EPOCHS
    assert pruned["points"] > every["points"]
    assert pruned["trials"]["pruned"] > 0


def test_the_page_says_what_was_found(table: Path) -> None:
    rows: list[Row] = [ROW["tpe median"], ROW["random median"], ROW["tpe none"]]
    made = [run(row, repeat, table, 40) for row in rows for repeat in range(3)]
    (table.parent / "runs.jsonl").write_text("\n".join(map(json.dumps, made)) + "\n")
    write(table.parent)
    page = (table.parent / "README.md").read_text()
    assert "3 studies a row, 40 epochs each" in page
    best = max(map(made_up, Table(table).points))
    assert f"has {100 * best:.2f};" in page
    assert page.count("\n| tpe median |") == 2  # the results, and those with fewer epochs
    assert (table.parent / "critical-difference.svg").read_text().count("</svg>") == 1


def test_importances_are_of_one_seed_a_point_and_of_the_mean(table: Path) -> None:
    kept = Table(table)
    whole = by_parameter(kept, {point: kept.test(point) for point in kept.known})
    assert sum(whole.values()) == pytest.approx(1)
    assert max(whole, key=whole.__getitem__) == "lr"  # nothing else was made to matter
    head, _, one, mean, *_ = section(kept)[5:]
    assert one.startswith("| all (16) | one seed |") and mean.startswith("| all (16) | mean")
    assert one.count("± 0.00") == len(whole)  # its seeds give the same on the test set
    assert [cell.strip() for cell in head.split("|")[3:-1]] == list(whole)


def test_ranks_and_intervals() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (3, 20))
    results = noise + np.array([[0.0], [0.0], [5.0]])
    assert statistics.mean_ranks(results)[2] == 1.0
    # Demsar 2006, table 5: q = 2.343 for three rows
    critical = statistics.critical_difference(3, 20)
    assert critical == pytest.approx(2.343 * np.sqrt(3 * 4 / (6 * 20)), rel=1e-3)
    ranks = statistics.mean_ranks(results)
    assert statistics.cliques(ranks, critical) == [(1, 2)]
    same, better = statistics.against(results[0], [results[1], results[2]])
    assert better < 0.001 < 0.05 < same
    low, high = statistics.interval(results[2])
    assert low < results[2].mean() < high
    assert high - low == pytest.approx(2 * 1.96 * results[2].std() / np.sqrt(20), rel=0.1)


def test_what_a_study_would_have_picked_earlier() -> None:
    trace = [(10, 0.8), (60, 0.9), (80, 0.7)]
    assert [statistics.picked_after(trace, at) for at in (5, 10, 79.9, 80)] == [0.8, 0.8, 0.9, 0.7]


def test_how_many_epochs_a_row_needs_for_what_another_ends_with() -> None:
    times = np.array([10.0, 20.0, 30.0, 40.0])
    fast = np.array([statistics.curve([(15, 0.96), (30, 0.97)], times)] * 5)
    assert fast[0].tolist() == [0.0, 0.96, 0.97, 0.97]
    assert statistics.needed(fast, np.full(5, 0.97), 0.0005) == (2.0, 2.0, 2.0)
    assert statistics.needed(fast, np.full(5, 0.9603), 0.0005) == (1.0, 1.0, 1.0)
    assert statistics.needed(fast, np.full(5, 0.98), 0.0005)[0] == np.inf
    either = np.vstack([fast[:2], np.full((3, 4), 0.97)])  # repeats that differ
    assert statistics.needed(either, np.full(5, 0.97), 0.0045) == (1.0, 0.0, 2.0)


def test_seeds_of_a_study_are_those_of_the_table(table: Path) -> None:
    made = run(ROW["tpe none 3 seeds"], 0, table, 90)
    assert made["trials"]["complete"] == 90 // EPOCHS
    assert made["points"] == 90 // EPOCHS // 3
    kept = Table(table)
    two = [kept.curve(made["point"], index)[-1] for index in range(2)]  # for three seeds
    means = [(sum(two) + again) / 3 for again in two]
    assert min(abs(made["seen"] - mean) for mean in means) < 1e-9
