"""golf-opt reproduce: the machinery on small data, and the committed results."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Ran, net
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from golf_opt.config import CONF_DIR
from golf_opt.config.check import load
from golf_opt.config.errors import UsageError
from golf_opt.config.reproduce import ReproduceConfig
from golf_opt.config.schema import DataConfig, EngineConfig, StorageConfig
from golf_opt.golf.retrain import page as reproduce_page
from golf_opt.golf.retrain import reproduce
from golf_opt.golf.retrain.page import fill_in, measured, verdict, verdict_on_cut
from golf_opt.task.data import View
from golf_opt.task.inputs import MNIST
from golf_opt.utils.stats import Spread

(MEAN,), (STD,) = MNIST.mean, MNIST.std

SMALL = {"arch": "c2-2-2", "recipe": {"batch_size": 32, "lr": 5e-3}, "epochs": 2}
ONE = {"quick": 1, "full": 1}


def config_of(folder: Path, **changes: Any) -> ReproduceConfig:
    config = ReproduceConfig(
        storage=StorageConfig(None),
        part="quick",
        folder=folder,
        introduction="Words.",
        tables={"A": "Title"},
        trainings={
            "whole": {**SMALL, "seeds": {"quick": 2, "full": 3}},
            "cut-down": {**SMALL, "train_images": 200, "raw": True, "seeds": ONE},
        },
        rows=(
            {"table": "A", "system": "first", "published": 98.0, "of": "whole"},
            {"table": "A", "system": "second", "published": None, "of": "cut-down", "read": "best"},
        ),
        about_pruning="How.",
        prunings={"whole-index": {"of": "whole", "method": "index", "target": 0.05}},
        pruned_rows=({"system": "pruned", "published": 3, "of": "whole-index"},),
        curves={"both": {"title": "Both", "of": ["whole", "cut-down"]}},
        findings=("whole {whole.mean} of {whole.n}, first epoch {whole@1.best}",),
        data=DataConfig("digits", Path("data")),
        engine=EngineConfig("torch", "cpu", 2, 1),
    )
    return replace(config, **changes)


def quiet(line: str) -> None:
    """Say nothing."""


def contents(folder: Path) -> Any:
    return json.loads((folder / "reproduction" / reproduce.RESULTS).read_text())


def test_everything_is_trained_kept_and_told(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    said: list[str] = []
    assert reproduce.reproduce(config, said.append) is None
    content = contents(tmp_path)
    whole = content["trainings"]["whole"]["seeds"]
    assert set(map(int, whole)) == {reproduce.seed_of(0), reproduce.seed_of(1)}
    assert all(len(row["accuracies"]) == 2 for row in whole.values())
    mean = np.mean([row["accuracies"][-1] for row in whole.values()])
    assert measured(content, "whole").mean == pytest.approx(mean)
    page = (config.output / "README.md").read_text()
    assert f"| first | {net('c2-2-2').num_params} | 98.00 | {100 * mean:.2f} |" in page
    assert "| second |" in page and "| No figure was published. |" in page
    first = max(row["accuracies"][0] for row in whole.values())
    assert f"whole {100 * mean:.2f} of 2, first epoch {100 * first:.2f}" in page
    for figure in ("A", "both"):
        assert (config.output / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    cut = content["trainings"]["whole-index"]["seeds"]
    reached = {seed for seed, row in whole.items() if row["accuracies"][-1] >= 0.05}
    assert set(cut) == reached and reached
    assert all(0 <= row["nz"] < net("c2-2-2").num_params for row in cut.values())
    assert all(row["test_accuracy"] >= 0.05 for row in cut.values())


def test_a_second_run_trains_what_is_missing_alone(tmp_path: Path) -> None:
    config = config_of(tmp_path, prunings={}, pruned_rows=())
    reproduce.reproduce(config, quiet)
    before = contents(tmp_path)
    said: list[str] = []
    reproduce.reproduce(config, said.append)
    assert said[0] == "part quick: 0 trainings to run, 0 epochs"
    assert contents(tmp_path) == before
    reproduce.reproduce(replace(config, part="full"), said.append)
    assert "part full: 1 trainings to run, 2 epochs" in said
    after = contents(tmp_path)["trainings"]["whole"]["seeds"]
    assert len(after) == 3 and before["trainings"]["whole"]["seeds"].items() <= after.items()


def test_a_changed_recipe_drops_its_results(tmp_path: Path) -> None:
    config = config_of(tmp_path, prunings={}, pruned_rows=())
    reproduce.reproduce(config, quiet)
    before = contents(tmp_path)["trainings"]
    changed = {**config.trainings, "whole": replace(config.trainings["whole"], epochs=1)}
    reproduce.reproduce(replace(config, trainings=changed), quiet)
    after = contents(tmp_path)["trainings"]
    assert after["cut-down"] == before["cut-down"]
    assert all(len(row["accuracies"]) == 1 for row in after["whole"]["seeds"].values())


def test_another_data_set_is_refused(tmp_path: Path, mnist_root: Path) -> None:
    config = config_of(tmp_path, prunings={}, pruned_rows=())
    reproduce.reproduce(config, quiet)
    before = contents(tmp_path)
    other = replace(config, data=DataConfig("mnist", mnist_root))
    with pytest.raises(UsageError, match="holds results on 'digits'"):
        reproduce.reproduce(other, quiet)
    assert contents(tmp_path) == before


def test_raw_pixels_come_out_between_zero_and_one(small_view: View) -> None:
    raw = reproduce.variant(small_view, 20, raw=True)
    assert len(raw.train) == 20 and len(raw.objective) == len(small_view.objective)
    seen = (raw.train.images / 255 - MEAN) / STD
    wanted = small_view.train.images[:20] / 255
    assert np.abs(seen - wanted).max() <= 0.5 / 255 / STD + 1e-9
    assert np.array_equal(raw.train.labels, small_view.train.labels[:20])


@pytest.mark.parametrize(
    ("published", "values", "begins"),
    [
        (0.98, [], "Not run yet."),
        (None, [0.9], "No figure was published."),
        (0.98, [0.981, 0.979], "Holds: 1 of 2"),
        (0.98, [0.97, 0.975, 0.976, 0.979], "Not reached: our best of 4 is 97.90."),
        (0.98, [0.97, 0.975, 0.976, 0.98], "A lucky seed: 1 of 4"),
        (0.50, [0.8, 0.9], "Too low: our worst of 2 has 80.00"),
        (0.98, [0.96, 0.96, 0.96, 0.97, 0.97, 0.97],
         "Not reached: our best of 6 is 97.00, and 2.7 sd above our mean."),
    ],
)  # fmt: skip
def test_verdicts(published: float | None, values: list[float], begins: str) -> None:
    assert verdict(published, Spread(values)).startswith(begins)


def test_a_rounded_figure_has_its_tolerance() -> None:
    assert verdict(0.99, Spread([0.987]), 0.005).startswith("Holds")
    assert verdict(0.50, Spread([0.515]), 0.02).startswith("Holds")
    assert verdict_on_cut(575, Spread([560, 600]), 4) == (
        "Reached by 1 of our 2 nets; the fewest is 560."
    )
    assert verdict_on_cut(575, Spread([590.0]), 4) == "Not reached: our fewest of 1 is 590."


def test_placeholders_of_what_was_not_run() -> None:
    content = {"trainings": {}}
    assert fill_in("{a.mean} {b@3.sd}", content) == "(not run) (not run)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": ({"table": "C", "system": "x", "published": 1.0, "of": "whole"},)},
         "rows[0].table is 'C'"),
        ({"rows": ({"table": "A", "system": "x", "published": 1.0, "of": "whle"},)},
         "did you mean 'whole'"),
        ({"findings": ("{hole.mean}",)}, "did you mean 'whole'"),
        ({"trainings": {"whole": {**SMALL, "epoch": 1, "seeds": {"quick": 1, "full": 1}}}},
         "trainings.whole.epoch is not a key"),
        ({"prunings": {"p": {"of": "whole", "method": "indx", "target": 0.9}}},
         "did you mean 'index'"),
    ],
)  # fmt: skip
def test_mistakes_in_the_table(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        reproduce.reproduce(config_of(tmp_path, **changes), quiet)
    assert list(tmp_path.iterdir()) == []


# --- what is committed ---


@pytest.fixture(scope="module")
def committed() -> ReproduceConfig:
    """The configuration of the checkout, with its own folder."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = load(ReproduceConfig, compose("reproduce"))
    return replace(config, folder=ROOT / "studies")


def test_every_row_was_run(committed: ReproduceConfig) -> None:
    """All trainings of the quick part have all their seeds, made with the recipe that is there."""
    content = contents(committed.folder)
    assert content["data"] == "mnist"
    for name, row in committed.trainings.items():
        training = reproduce.parse_training(name, row)
        kept = content["trainings"][name]
        wanted = training.signature(kept["signature"]["data"])
        assert kept["signature"] == json.loads(json.dumps(wanted)), name
        seeds = {str(reproduce.seed_of(index)) for index in range(row.seeds.quick)}
        assert seeds <= kept["seeds"].keys(), name
    for name, row in committed.prunings.items():  # every net that had the target was pruned
        trained = content["trainings"][row.of]["seeds"]
        reached = {s for s, r in trained.items() if r["accuracies"][-1] >= row.target}
        assert reached <= content["trainings"][name]["seeds"].keys(), name
    for row in committed.rows:
        assert measured(content, row.of, row.read).n, row.system


def test_the_rows_are_those_of_the_sources(committed: ReproduceConfig) -> None:
    """Every published figure of tables A and B, and of the author's other points, has a row."""
    published = {(row.table, row.published) for row in committed.rows}
    assert {("A", p) for p in (99.0, 98.06, 98.16, 98.08, 98.39)} <= published
    assert {("author", p) for p in (98.06, 98.12, 98.14)} <= published
    assert {("B", p) for p in (None, 50.0, 56.0, 76.6)} <= published
    assert {row.published for row in committed.pruned_rows} >= {672, 575}
    nets = {training.arch for training in committed.trainings.values()}
    assert nets >= {"pytorch-example", "c8-5-4", "c7-5-4", "c6-5-4", "c5-5-4", "c4-5-4",
                    "c4-5-4-prelu", "deepml-standard", "deepml-small", "deepml-batchnorm",
                    "deepml-separable"}  # fmt: skip


def test_the_page_is_what_the_results_give(committed: ReproduceConfig) -> None:
    nets = {name: net(row.arch) for name, row in committed.trainings.items()}
    page = reproduce_page.page(committed, contents(committed.folder), nets)
    assert page == (committed.output / "README.md").read_text()
    assert reproduce_page.NOT_RUN not in page
    for figure in re.findall(r"\(figures/([\w-]+\.png)\)", page):
        assert (committed.output / "figures" / figure).is_file()


def test_the_command_line(golf: Callable[..., Ran]) -> None:
    ran = golf("reproduce", "part=quik")
    assert ran.status == 2 and "did you mean 'quick'" in ran.err
