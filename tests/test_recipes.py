"""Training ideas compared, and what `recipe=strong` stands for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Ran, told

from bench.recipes.ideas import ALL, IDEAS, PARTS, Part
from bench.recipes.results import (
    COST_EPOCHS,
    all_found,
    confirming,
    joint,
    picked,
    points,
    tuning,
)
from bench.recipes.rows import Rows, key
from bench.recipes.run import Place, Subject
from bench.recipes.shown import STUDIES, judge, write
from bench.report import ROOT
from golf_opt.api.asked import composed
from golf_opt.cli.compose import compose
from golf_opt.config import CONF_DIR, load_yaml
from golf_opt.task.recipe import PARAMETERS

NET = "c2-2"
PART = Part((NET,), 2, 1, 2, 1, ("arch=c2-2", "nets=1", "epochs=1"), 2)
PLENTY = Part((NET,), 2, 1, 12, 6, (), 0)
BY_NAME = {idea.name: idea for idea in IDEAS}
CHOSEN = [BY_NAME[name] for name in ("base", "one cycle", "distillation")]
STRONG: dict[str, Any] = load_yaml(CONF_DIR / "recipe" / "strong.yaml")
Golf = Callable[..., Ran]


def train(folder: Path, said: list[str]) -> list[dict[str, Any]]:
    """Compare a few ideas on digits; return the rows."""
    subject = Subject(NET, PART, Place(folder, "digits", "none", said.append))
    subject.compare(CHOSEN)
    subject.strong()
    lines = (folder / f"{NET}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def test_ideas_are_compared_and_no_training_is_done_twice(
    tmp_path: Path, kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOLF_CACHE", str(kernels))
    rows = train(tmp_path, [])
    stages = [row["stage"] for row in rows]
    assert stages.count("tune") == 3 * PART.points + PART.points  # of three ideas; of strong
    assert stages.count("strong") == PART.strong
    assert all(0 < row["holdout"] <= 1 for row in rows if row["stage"] in ("tune", "confirm"))
    assert {row["stage"] for row in rows if "test" in row} == {"confirm", "strong"}

    file, said = tmp_path / f"{NET}.jsonl", list[str]()
    lines = file.read_text().splitlines()
    assert train(tmp_path, said) == rows and said == []

    file.write_text("\n".join([*lines[:5], lines[6], lines[8][:30]]))  # as a kill leaves it
    again = train(tmp_path, said)
    timed = [[row for row in made if row["stage"] != "cost"] for made in (rows, again)]
    assert sorted(map(json.dumps, timed[0])) == sorted(map(json.dumps, timed[1]))

    write(tmp_path, PART, "digits")
    page = (tmp_path / "README.md").read_text()
    assert page.count("\n| one cycle |") == page.count("\n| distillation |") == 1
    assert f"\n| {NET} | 2,082 | {STRONG['dense']['epochs']} | {PART.strong} |" in page
    assert "Not trained yet: label smoothing, " in page
    assert "the teacher of distillation: 1 net c2-2, " in page


def made_up(path: Path, gains: dict[str, float]) -> Rows:
    """Return rows of ideas that are better than the base by so much, give or take some noise."""
    rows, rng = Rows(path), np.random.default_rng(0)
    for name, gain in gains.items():
        idea = BY_NAME[name]
        for place, one in enumerate(tuning(idea, PLENTY, PLENTY.epochs)):
            rows.add(one, holdout=0.9 + 0.01 * (place == 1))
        params = picked(rows, idea, PLENTY, PLENTY.epochs)
        assert params == points(idea, PLENTY.points)[1]
        for one in confirming(idea, params, PLENTY.epochs, PLENTY.confirmed):
            value = 0.95 + gain + 1e-3 * rng.normal()
            rows.add(one, holdout=value, test=value)
        rows.add(key(name, "cost", COST_EPOCHS, params), ratio=1.5)
    return rows


def test_verdicts_are_of_the_paired_differences(tmp_path: Path) -> None:
    gains = {"base": 0, "one cycle": 5e-3, "ema": 3e-3, "swa, cyclic rate": 2e-3, "erase": -9e-3}
    rows = made_up(tmp_path / f"{NET}.jsonl", gains | {"shift": 0.0})
    there = all_found(rows, IDEAS, PLENTY)
    verdicts = judge(there[0].test, [one.test for one in there[1:]])
    words = {one.idea.name: verdict.word for one, verdict in zip(there[1:], verdicts, strict=True)}
    assert words == {
        "one cycle": "helps", "ema": "helps", "swa, cyclic rate": "helps",
        "shift": "no difference", "erase": "harms",
    }  # fmt: skip
    best = joint(there)
    assert best is not None  # swa averages another way, and has another rate
    assert best.name == "one cycle + ema" and best.nodes["average"] == "ema"
    write(tmp_path, PLENTY, "digits")
    page = (tmp_path / "README.md").read_text()
    assert "| 1.50 | 4 epochs, not trained | does not help |" in page
    assert "Not trained yet: label smoothing, " in page and "one cycle + ema." in page


def test_an_idea_that_this_version_does_not_know_is_left_out() -> None:
    assert all(set(idea.nodes) <= set(PARAMETERS) for idea in IDEAS)
    assert {idea.name for idea in IDEAS} <= {idea.name for idea in ALL}
    assert len(IDEAS) >= 11


def test_the_page_is_what_the_rows_give(tmp_path: Path) -> None:
    shutil.copytree(STUDIES, tmp_path / "recipes", ignore=shutil.ignore_patterns("teachers"))
    write(tmp_path / "recipes", PARTS["full"], "mnist")
    page = (tmp_path / "recipes" / "README.md").read_text()
    assert page == (STUDIES / "README.md").read_text()
    table = page.split("\n\n## ", 1)[1].replace("\n## ", "\n### ")
    assert table in (ROOT / "docs" / "recipes.md").read_text()


# --- recipe=strong ---


@pytest.mark.parametrize(
    ("verb", "net", "kind"),
    [
        ("study", "arch=c4-5-4", "dense"),
        ("study", "arch=separable-697", "separable"),
        ("search", "family=chain", "dense"),
        ("search", "family=separable", "separable"),
        ("search", "family=residual", "separable"),
    ],
)
def test_a_recipe_is_its_space_and_epochs(verb: str, net: str, kind: str) -> None:
    config = compose(verb, [net, "recipe=strong"])
    assert config.space == STRONG[kind]["space"]
    assert config.epochs == STRONG[kind]["epochs"]
    assert config.sampler == compose(verb, [net]).sampler
    assert "recipe" not in config


def test_what_is_given_wins_over_a_recipe() -> None:
    config = compose("study", ["recipe=strong", "epochs=3", "space.lr=0.5", "+space.erase=0.25"])
    assert config.epochs == 3
    assert config.space == STRONG["dense"]["space"] | {"lr": 0.5, "erase": 0.25}
    config = compose("study", ["space=wide", "recipe=strong"])
    assert config.space == compose("study", ["space=wide"]).space
    assert config.epochs == STRONG["dense"]["epochs"]
    arch = load_yaml(CONF_DIR / "arch" / "separable-697.yaml")
    config = composed("study", {"arch": arch, "recipe": "strong", "space": {"lr": 0.5}})
    assert config.space == STRONG["separable"]["space"] | {"lr": 0.5}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("recipe=strog", "recipe is 'strog', but must be one of strong; did you mean 'strong'?"),
        ("recipe=strong objective=own_nets:train", "recipes are for nets of ours"),
        ("recipe=strong recipe.dense.epochs=3", "recipe.dense.epochs is the recipe's own; give"),
    ],
)
def test_what_no_recipe_is_for_is_told_in_a_line(golf: Golf, asked: str, words: str) -> None:
    assert words in told(golf("study", *asked.split()))


def test_teachers_have_a_recipe_of_their_own(golf: Golf) -> None:
    assert "recipe is a mapping, whose keys" in told(golf("teach", "recipe=strong"))
    assert "recipe.lr " in golf("teach", "--help").out
    shown = golf("study", "recipe=strong", "--cfg", "job").out
    assert f"\nepochs: {STRONG['dense']['epochs']}\n" in shown
