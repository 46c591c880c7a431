"""`golf-opt search`: families of nets, what they are to reach, what is done with a trial of one."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Ran
from serving import wait_for

import golf_opt as golf
from golf_opt.config import CONF_DIR
from golf_opt.config.errors import UsageError
from golf_opt.golf.confirmations import kept_results
from golf_opt.golf.retrain.confirm import chosen_trials, evenly
from golf_opt.manage.listing import study_row
from golf_opt.storage.studies import NOTE_SECTIONS, marks
from golf_opt.task.family import build_family, read_family
from golf_opt.task.grammar import load_arch

Golf = Callable[..., Ran]
Start = Callable[..., subprocess.Popen[str]]
# four nets, whose sizes are below
FAMILY = """
name: few
space:
  channels: {type: categorical, choices: [2, 4]}
  deep: {type: int, low: 0, high: 1}
layers:
  - {kind: conv, channels: $channels, kernel: 3}
  - {kind: relu}
  - repeat: $deep
    layers:
      - {kind: conv, channels: 4, kernel: 3}
      - {kind: relu}
  - {kind: global_avg_pool}
  - {kind: linear, features: classes}
"""
SIZES = {(2, 0): 50, (2, 1): 146, (4, 0): 90, (4, 1): 238}
QUICK: dict[str, Any] = {
    "data": "digits", "epochs": 2, "engine": {"name": "torch", "lanes": 2}, "sampler": "random",
    "say": None, "space": {"batch_size": 32}, "pruner": "none", "seeds": 1,
}  # fmt: skip


def size_of(trial: golf.Trial) -> int:
    return SIZES[trial.params["channels"], trial.params["deep"]]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("family") / "few.yaml"
    path.write_text(FAMILY)
    return path


@pytest.fixture(scope="module")
def found(few: Path, tmp_path_factory: pytest.TempPathFactory) -> golf.Study:
    """Eight trials of four nets, in a folder of their own."""
    return golf.search(few, 8, **QUICK, dir=tmp_path_factory.mktemp("studies"))


def test_each_trial_has_a_net_and_is_weighed_by_both(found: golf.Study) -> None:
    trials = found.all
    assert found.name == "few@digits-2epochs"
    assert [trial.state for trial in trials] == ["complete"] * 8
    assert {size_of(trial) for trial in trials} >= {50, 238}
    for trial in trials:
        accuracy, size = trial.values
        assert size == size_of(trial) == trial.user_attrs["num_params"]
        assert accuracy == trial.history[-1] > 0.05
    sizes = [size_of(trial) for trial in found.front]
    assert sizes == sorted(sizes, reverse=True) and 50 in sizes


def test_a_trial_of_a_search_has_its_own_trained_net(found: golf.Study) -> None:
    trial = found.front[0]
    net = found.net(trial.number)
    assert net.num_params == size_of(trial)
    assert net.arch["name"] == f"few-{size_of(trial)}"
    assert found.net(found.front[-1].number).num_params == 50


def test_a_search_goes_on_and_another_one_is_refused(few: Path, found: golf.Study) -> None:
    place = {"dir": found.place.folder}
    more = golf.search(few, 9, **QUICK, **place)
    assert [trial.state for trial in more.all] == ["complete"] * 9
    wider = yaml.safe_load(FAMILY.replace("[2, 4]", "[2, 3, 4]"))
    with pytest.raises(UsageError, match=r"space.channels: one of 2, 4 before, one of 2, 3, 4 now"):
        golf.search(wider, 9, **QUICK, **place)
    other = yaml.safe_load(FAMILY.replace("kind: relu", "kind: gelu"))
    with pytest.raises(UsageError, match=r"layer 2: relu\(\) before, gelu\(\) now"):
        golf.search(other, 9, **QUICK, **place)
    renamed = yaml.safe_load(FAMILY.replace("name: few", "name: other"))
    with pytest.raises(UsageError, match=r"family: few before, other now"):
        golf.search(renamed, 9, **QUICK, **place, **{"study.name": found.name})


def test_nets_above_max_params_are_not_trained(few: Path, tmp_path: Path) -> None:
    said: list[str] = []
    done = golf.search(few, 10, max_params=100, **QUICK | {"say": said.append}, dir=tmp_path)
    large = [trial for trial in done.all if size_of(trial) > 100]
    small = [trial for trial in done.all if size_of(trial) <= 100]
    assert done.name == "few@digits-2epochs-max100"
    assert large and small and len(done.all) == 10, "what is too large counts as a trial"
    assert {(trial.state, trial.history) for trial in large} == {("pruned", ())}
    assert {trial.state for trial in small} == {"complete"}
    with done.opened() as study:
        missed = {t.number: t.constraints["parameters"] for t in study.get_trials()}
    assert missed == {trial.number: size_of(trial) - 100 for trial in done.all}
    assert done.best is not None and size_of(done.best) <= 100
    nets, too_large = ({size_of(trial) for trial in trials} for trials in (done.all, large))
    words = f"{len(nets)} nets looked at, {len(too_large)} of them too large (max_params=100)"
    assert any(words in line for line in said)


def test_a_search_that_finds_no_net_small_enough_can_be_stopped(
    golf_process: Start, tmp_path: Path
) -> None:
    """Of 60,000 nets one is; the others are rejected one after the other, untrained."""
    wide = FAMILY.replace(
        "{type: categorical, choices: [2, 4]}", "{type: int, low: 2, high: 60000}"
    )
    (tmp_path / "wide.yaml").write_text(wide.replace("high: 1}", "high: 0}"))
    given = ("data=digits", "epochs=1", "engine=torch", "sampler=random", "trials=1000000")
    search = golf_process("search", "family=wide.yaml", "max_params=50", *given, "study.name=s")
    assert search.stdout is not None and "family few" in search.stdout.readline()

    def trials() -> tuple[golf.Trial, ...]:
        return golf.load("s", dir=tmp_path / "studies").all

    wait_for(lambda: (tmp_path / "studies" / "golf.db").exists() and len(trials()) > 20)
    search.send_signal(signal.SIGTERM)
    out, err = search.communicate(timeout=60)
    assert (search.returncode, err) == (128 + signal.SIGTERM, ""), out
    assert {trial.state for trial in trials()} == {"pruned"}


def test_a_search_asks_for_what_can_be(few: Path, tmp_path: Path) -> None:
    def refused(words: str, **given: Any) -> None:
        with pytest.raises(UsageError, match=words):
            golf.search(few, 2, **{**QUICK, **given}, dir=tmp_path)

    refused("the smallest of 100 nets of family few has 50 parameters", max_params=49)
    refused("target and max_params are both given", target=0.9, max_params=100)
    refused("target is 98, but must be a share above 0", target=98)
    refused("a search without max_params has 2", sampler="cmaes")
    with pytest.raises(UsageError, match=r"family is 'seperable', but must be one of .*separable"):
        golf.search("seperable", 2, **QUICK, dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_target_is_reached_with_the_fewest_parameters(few: Path, tmp_path: Path) -> None:
    said: list[str] = []
    done = golf.search(few, 10, target=0.12, **(QUICK | {"say": said.append}), dir=tmp_path)
    reaching = [trial for trial in done.all if trial.values[0] >= 0.12]
    assert 0 < len(reaching) < 10
    smallest = min(reaching, key=lambda trial: (size_of(trial), -trial.values[0]))
    assert done.best is not None and done.best.number == smallest.number
    with done.opened() as study:
        missed = [trial.constraints["accuracy"] for trial in study.get_trials()]
    assert missed == [0.12 - trial.values[0] for trial in done.all]
    words = f"smallest net that reaches 12.00 %: {size_of(smallest)} parameters"
    assert any(words in line for line in said)
    assert done.net().num_params == size_of(smallest)
    with done.opened() as study:
        row = study_row(study)
    assert (row.parameters, row.best_trial) == (size_of(smallest), smallest.number)
    assert row.best == smallest.values[0]


def test_best_of_a_front_is_for_the_user_to_say(found: golf.Study) -> None:
    assert found.best is None
    with pytest.raises(UsageError, match="give trial=N, such as one of its front: "):
        found.net()


def confirmed(study: golf.Study, golf_main: Golf, *more: str) -> Ran:
    place = f"dir={study.place.folder}"
    return golf_main("confirm", f"study={study.name}", place, "engine=torch", "seeds=2", *more)


def test_a_front_is_confirmed_by_size_for_more_epochs(
    found: golf.Study, request: pytest.FixtureRequest
) -> None:
    golf_main: Golf = request.getfixturevalue("golf")
    ran = confirmed(found, golf_main, "sizes=[60,150]", "top=1", "epochs=3", "test=true")
    assert ran.status == 0, ran.err
    with found.opened() as study:
        assert kept_results(study) == {}
        rows = kept_results(study, 3)
        best = {
            size: max(
                (t for t in found.all if size_of(t) <= size),
                key=lambda trial: (trial.values[0], -trial.number),
            )
            for size in (60, 150)
        }
        assert set(rows) == {str(trial.number) for trial in best.values()}
        assert all(len(of) == 2 for of in rows.values())
        tests = [row["test_accuracy"] for of in rows.values() for row in of.values()]
        assert all(0 < accuracy < 1 for accuracy in tests)
        for of in rows.values():
            mean = sum(row["accuracy"] for row in of.values()) / 2
            assert f"{100 * mean:.2f}" in ran.out
        assert "Confirmed on fresh seeds, 3 epochs" in marks(study)[NOTE_SECTIONS]
    ran = confirmed(found, golf_main, "sizes=[40]")
    assert ran.status == 2 and "no trial of 'few@digits-2epochs' has at most 40" in ran.err


def test_without_sizes_the_front_is_confirmed(found: golf.Study) -> None:
    with found.opened() as study:
        front = [trial.number for trial in found.front]
        assert [trial.number for trial in chosen_trials(study, 99)] == front
        assert [trial.number for trial in chosen_trials(study, 1)] == front[:1]
    shares = [evenly(range(10), top) for top in (1, 2, 4, 99)]
    assert shares == [[0], [0, 9], [0, 3, 6, 9], list(range(10))]


def test_the_card_of_a_net(found: golf.Study, request: pytest.FixtureRequest) -> None:
    golf_main: Golf = request.getfixturevalue("golf")
    trial = next(trial for trial in found.all if size_of(trial) == 50)
    place = f"dir={found.place.folder}"
    ran = golf_main("report", f"study={found.name}", place, f"trial={trial.number}")
    assert ran.status == 0, ran.err
    # the digits are scaled to 28x28, which has 26x26 places for two kernels of 9 weights
    lines = [line.split() for line in ran.out.splitlines()]
    assert ["conv1", "2x26x26", "20", "12,168"] in lines
    assert ["total", "50", "12,188"] in lines
    assert f"trial {trial.number}: holdout accuracy {100 * trial.values[0]:.2f} %" in ran.out
    assert "cost: 2 epochs in " in ran.out


def test_a_report_shows_the_front_and_its_nets(
    found: golf.Study, request: pytest.FixtureRequest
) -> None:
    golf_main: Golf = request.getfixturevalue("golf")
    ran = golf_main("report", f"study={found.name}", f"dir={found.place.folder}")
    assert ran.status == 0, ran.err
    page = Path(ran.out.splitlines()[-1]).with_suffix(".md").read_text()
    assert "Parameters against accuracy on digits" in page
    for trial in found.front:
        assert f"few-{size_of(trial)}, trial {trial.number}" in page


def test_a_search_begins_with_what_its_family_knows(few: Path, tmp_path: Path) -> None:
    points = "points: [{channels: 4, deep: 1, lr: 0.005}, {channels: 3, deep: 0}, {channels: 2}]\n"
    known = yaml.safe_load(FAMILY + points)
    done = golf.search(known, 3, **QUICK, dir=tmp_path)
    first, second, third = (trial.params for trial in done.all)
    assert (first["channels"], first["deep"], first["lr"]) == (4, 1, 0.005)
    assert (second["deep"], third["channels"]) == (0, 2), "three channels are not in the space"
    with pytest.raises(UsageError, match=r"family.points is 3, but must be a list of mappings"):
        golf.search(known | {"points": 3}, 3, **QUICK, dir=tmp_path)


def test_the_published_net_is_one_of_its_family() -> None:
    family = build_family(read_family(CONF_DIR / "family" / "separable.yaml"))
    point = {name: value for name, value in family.points[0].items() if name != "lr"}
    ours, published = family.net(point), load_arch("separable-697")
    assert ours.num_params == 697
    assert [node.layer for node in ours.nodes] == [node.layer for node in published.nodes]


def test_a_search_begins_with_the_best_of_others(few: Path, found: golf.Study) -> None:
    place = {"dir": found.place.folder, "study.name": "second"}
    again = golf.search(few, 4, **QUICK, **place, **{"study.warm_start": [found.name]})
    front = [dict(trial.params) for trial in found.front]
    assert [dict(trial.params) for trial in again.all][: len(front)] == front[:4]
    with pytest.raises(UsageError, match="nobody"):
        golf.search(few, 4, **QUICK, **place | {"study.warm_start": ["nobody"], "study.name": "x"})
