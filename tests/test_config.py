"""The configuration: every verb's tree is its model's, defaults stand once, mistakes are told."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from pydantic import Field, StrictBool, StrictFloat, StrictInt

from golf_opt.cli import sources
from golf_opt.config import CONF_DIR, defaults, schema
from golf_opt.config.check import check, load, model
from golf_opt.config.errors import UsageError
from golf_opt.config.fleet import FleetConfig
from golf_opt.config.hunt import HuntConfig
from golf_opt.config.reproduce import ReproduceConfig

VERBS: dict[str, tuple[type, list[str]]] = {
    "study": (schema.StudyConfig, []),
    "worker": (schema.WorkerConfig, ["study=a"]),
    "fleet": (FleetConfig, ["study=a"]),
    "dashboard": (schema.DashboardConfig, []),
    "report": (schema.ReportConfig, ["study=a"]),
    "compare": (schema.CompareConfig, ["studies=[a,b,a]"]),
    "ls": (schema.ListConfig, []),
    "rm": (schema.RemovalConfig, ["study=a"]),
    "export": (schema.ExportConfig, ["study=a", "output=new"]),
    "import": (schema.ImportConfig, ["input=there"]),
    "prune": (schema.PruneConfig, ["study=a"]),
    "confirm": (schema.ConfirmConfig, ["study=a"]),
    "record": (schema.RecordConfig, ["study=a", "board=99", "slug=x"]),
    "hunt": (HuntConfig, ["board=99"]),
    "leaderboard": (schema.LeaderboardConfig, []),
    "verify": (schema.VerifyConfig, []),
    "reproduce": (ReproduceConfig, []),
    "interpret": (schema.InterpretConfig, ["study=7", "trial=3"]),
    "deploy": (schema.DeployConfig, ["weights=f.pt", "arch=c4-5-4"]),
    "doctor": (schema.DoctorConfig, []),
    "tune": (schema.TuneConfig, []),
}


def composed(verb: str, *overrides: str) -> Any:
    GlobalHydra.instance().clear()
    sources.register()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return load(VERBS[verb][0], compose(verb, [*VERBS[verb][1], *overrides]))


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_refuses_what_it_does_not_know(verb: str) -> None:
    config = composed(verb, "dir=here")
    assert config.folder == Path("here")
    assert config.storage == schema.StorageConfig("sqlite:///here/golf.db", None)
    with pytest.raises(UsageError, match=r"^storag is not a key; .*; did you mean 'storage'\?$"):
        composed(verb, "+storag=1")


def test_values_come_out_as_what_they_are() -> None:
    assert composed("compare").studies == ("a", "b")
    assert composed("record").board == "99"
    assert composed("hunt").on.target == 0.99
    assert (composed("interpret").study, composed("interpret").trial) == ("7", 3)
    assert composed("study").engine.lanes is None
    assert composed("study", "engine.lanes=3").engine.lanes == 3
    assert composed("verify", "dir=here").path == Path("here/records")
    assert composed("deploy").arch["name"] == "c4-5-4"


def test_the_defaults_of_pruning_stand_in_conf() -> None:
    options = schema.prune_options()
    assert asdict(options) == {name: defaults("prune")[name] for name in asdict(options)}
    assert composed("prune").options == options
    assert schema.prune_options(target=0.9).target == 0.9


@model
class Oven:
    celsius: Annotated[StrictInt, Field(ge=50, le=250)]
    mode: Literal["fan", "grill"]
    door: Annotated[StrictFloat, Field(gt=0)] | None = None
    light: StrictBool = True


@model
class Kitchen:
    ovens: tuple[Oven, ...]
    by_name: dict[str, Oven]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"celsius": 300}, "celsius is 300, but must be at least 50 and at most 250."),
        ({"celsius": "hot"},
         "celsius is 'hot', but must be a whole number of at least 50 and at most 250."),
        ({"mode": "gril"},
         "mode is 'gril', but must be one of fan, grill; did you mean 'grill'?"),
        ({"door": 0}, "door is 0, but must be above 0."),
        ({"door": "ajar"}, "door is 'ajar', but must be a number above 0."),
        ({"light": 1}, "light is 1, but must be true or false."),
        ({"lihgt": 1},
         "lihgt is not a key; it must be one of celsius, door, light, mode; did you mean 'light'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_the_dotted_key(changes: dict[str, Any], message: str) -> None:
    good = {"celsius": 180, "mode": "fan"}
    with pytest.raises(UsageError) as said:
        Oven(**{**good, **changes})
    assert str(said.value) == message
    rows = {"ovens": [good, {**good, **changes}], "by_name": {}}
    with pytest.raises(UsageError) as said:
        check(Kitchen, rows)
    assert str(said.value) == f"ovens[1].{message}"
    with pytest.raises(UsageError) as said:
        check(Kitchen, {"ovens": [], "by_name": {"left": {**good, **changes}}}, "house")
    assert str(said.value) == f"house.by_name.left.{message}"


def test_a_model_is_a_frozen_dataclass() -> None:
    oven = Oven(180, "fan")
    assert [field.name for field in fields(oven)] == ["celsius", "mode", "door", "light"]
    assert {oven: 1}[Oven(celsius=180, mode="fan")] == 1
    with pytest.raises(AttributeError):
        oven.celsius = 200  # type: ignore[misc]
    with pytest.raises(UsageError, match=r"^mode is missing; it must be one of fan, grill\.$"):
        Oven(180)  # type: ignore[call-arg]
