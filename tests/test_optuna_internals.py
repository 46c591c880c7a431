"""The private parts of Optuna and optuna-dashboard that golf_opt uses do what it relies on.

A new release may take any of them away. A test that fails here names the part, and the message says
what of golf_opt does not work any more.
"""

from __future__ import annotations

import inspect
import json
import math
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import optuna_dashboard
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import select

from golf_opt.storage import optuna_internals as internals
from golf_opt.storage import tables
from golf_opt.storage.bulk import BulkStorage


@pytest.fixture
def storage() -> BaseStorage:
    return InMemoryStorage()


@pytest.fixture
def study(storage: BaseStorage) -> optuna.Study:
    """A study whose first trial is complete and whose second runs."""
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    study.sampler = optuna.samplers.RandomSampler(seed=1)
    optuna.create_study(storage=storage, study_name="other").ask()
    first = study.ask({"lr": FloatDistribution(0.0, 1.0)})
    first.report(0.25, 1)
    study.tell(first, 0.5)
    study.ask()
    return study


def test_a_study_knows_its_storage_and_its_id(study: optuna.Study, storage: BaseStorage) -> None:
    assert internals.storage_of(study) is storage, "study._storage: nothing can be stored"
    expected = storage.get_study_id_from_name("s")
    assert internals.id_of_study(study) == expected, "study._study_id: nothing can be stored"
    for frozen in storage.get_all_studies():
        assert isinstance(frozen, internals.FrozenStudy), "optuna.study._frozen: for types alone"
        expected = storage.get_study_id_from_name(frozen.study_name)
        assert internals.id_of_study(frozen) == expected, "FrozenStudy._study_id: the dashboard"


def test_a_trial_knows_its_id(study: optuna.Study, storage: BaseStorage) -> None:
    running = study.ask()
    for number, trial in enumerate([*study.get_trials(deepcopy=False)[:2], running]):
        expected = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
        assert internals.id_of_trial(trial) == expected, "trial._trial_id: requeueing, checkpoints"


def test_a_running_trial_knows_what_it_reported(study: optuna.Study) -> None:
    trial = study.ask()
    assert internals.reported(trial) == {}
    trial.report(0.5, 3)
    assert internals.reported(trial) == {3: 0.5}, (
        "trial._cached_frozen_trial: a resumed trial reports its epochs twice"
    )


def test_a_trial_ends_as_it_is_told_once(study: optuna.Study) -> None:
    trial = study.ask()
    trial.report(0.5, 3)
    for values, state in ((None, TrialState.PRUNED), ([0.7], TrialState.COMPLETE)):
        internals.tell(study, trial, values, state)
    ended = study.trials[trial.number]
    why = "study._tell._tell_with_warning: how the loop ends trials"
    assert (ended.state, ended.value) == (TrialState.PRUNED, 0.5), why


def test_a_trial_reports_where_objectives_are_several(storage: BaseStorage) -> None:
    study = optuna.create_study(storage=storage, directions=["minimize", "maximize"])
    trial = study.ask()
    internals.report(trial, 0.5, 3)
    assert internals.reported(trial) == {3: 0.5}
    (frozen,) = study.get_trials()
    assert frozen.intermediate_values == {3: 0.5}, "trial.storage: what a pruner would be told"


def test_a_trial_checks_itself() -> None:
    fine = optuna.trial.create_trial(value=0.5)
    internals.check_trial(fine)
    fine.state = TrialState.FAIL  # the value stays, and that no failed trial may have
    fine.datetime_complete = None
    with pytest.raises(ValueError):
        internals.check_trial(fine)
        pytest.fail("trial._validate: a damaged export is imported")


def test_distributions_describe_themselves() -> None:
    described = internals.describe_distribution(FloatDistribution(1e-5, 1e-2, log=True))
    assert described == {"low": 1e-5, "high": 1e-2, "log": True, "step": None}, (
        "distribution._asdict: the fingerprints of stored studies differ from today's"
    )
    described = internals.describe_distribution(IntDistribution(4, 32))
    assert described == {"low": 4, "high": 32, "log": False, "step": 1}
    described = internals.describe_distribution(CategoricalDistribution(("step", None)))
    assert described == {"choices": ("step", None)}


@pytest.mark.parametrize(
    ("distribution", "inside", "outside"),
    [
        (FloatDistribution(0.0, 1.0), [0, 0.5, 1.0], [-1e-9, 1.5, "a", None, math.nan]),
        (IntDistribution(4, 32), [4, 32], [3, 33, "a"]),
        (CategoricalDistribution(("step", None)), ["step", None], ["cosine", 0]),
    ],
)
def test_distributions_know_what_they_contain(
    distribution: optuna.distributions.BaseDistribution, inside: list, outside: list
) -> None:
    message = "distribution._contains: study.enqueue takes points that are outside the space"
    assert [internals.contains(distribution, value) for value in inside] == [True] * len(inside), (
        message
    )
    assert [internals.contains(distribution, value) for value in outside] == [False] * len(
        outside
    ), message


def test_a_grid_knows_its_points() -> None:
    sampler = optuna.samplers.GridSampler({"lr": [0.1, 0.2, 0.3], "step": [1, 2]})
    assert internals.num_grid_points(sampler) == 6, (
        "GridSampler._all_grids: a study asks for more trials than its grid has points"
    )


# --- databases


@pytest.fixture
def database(tmp_path: Path) -> Iterator[RDBStorage]:
    storage = RDBStorage(f"sqlite:///{tmp_path}/x.db")
    yield storage
    storage.remove_session()
    storage.engine.dispose()


def test_the_models_describe_the_tables(database: RDBStorage) -> None:
    """Our own statements find in them what Optuna wrote."""
    study = optuna.create_study(storage=database, study_name="s", direction="maximize")
    trial = study.ask({"lr": FloatDistribution(0.0, 1.0)})
    trial.report(math.inf, 2)
    trial.set_user_attr("u", [1])
    study.set_user_attr("v", 2)
    study.tell(trial, 0.5)
    at = {
        tables.STUDIES: {"study_name": "s"},
        tables.TRIALS: {"number": 0, "state": TrialState.COMPLETE},
        tables.PARAMS: {"param_name": "lr", "param_value": trial.params["lr"]},
        tables.OBJECTIVES: {"objective": 0, "value": 0.5},
        tables.REPORTS: {"step": 2, "intermediate_value": None},
        tables.USER_ATTRS: {"key": "u", "value_json": "[1]"},
        tables.STUDY_USER_ATTRS: {"key": "v", "value_json": "2"},
    }
    with database.engine.connect() as connection:
        for table, expected in at.items():
            (row,) = connection.execute(select(*(table.c[name] for name in expected))).all()
            assert tuple(row) == tuple(expected.values()), (
                f"optuna.storages._rdb.models, {table}: the write-behind storage and the bulk "
                "reader do not understand Optuna's tables"
            )
    for table, unique in tables.UNIQUE.items():
        if table is not tables.CHECKPOINTS:
            found = [
                tuple(column.name for column in constraint.columns)
                for constraint in table.constraints
            ]
            assert unique in found, f"{table} has no key {unique}: rows cannot be replaced"


def test_numbers_are_stored_as_the_models_do_it() -> None:
    models = internals.models
    for model, store, read in (
        ("TrialValueModel", "value_to_stored_repr", "stored_repr_to_value"),
        (
            "TrialIntermediateValueModel",
            "intermediate_value_to_stored_repr",
            "stored_repr_to_intermediate_value",
        ),
    ):
        kind = getattr(models, model)
        for number in (0.5, math.inf, -math.inf):
            stored = getattr(kind, store)(number)
            assert getattr(kind, read)(*stored) == number, (
                f"{model}.{store}: values that are not finite are stored wrongly"
            )


def test_optunas_cache_reads_through_the_method_that_ours_replaces(
    database: RDBStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, optunas = (inspect.signature(kind._get_trials) for kind in (BulkStorage, RDBStorage))
    assert mine.parameters.keys() == optunas.parameters.keys(), (
        "RDBStorage._get_trials has other arguments: no study can be read"
    )
    study = optuna.create_study(storage=database, study_name="s")
    study.add_trials([optuna.trial.create_trial(value=0.5)] * 2)
    asked = []
    read = database._get_trials

    def recorded(*args: Any, **rest: Any) -> list[FrozenTrial]:
        asked.append(inspect.signature(read).bind(*args, **rest).arguments)
        return read(*args, **rest)

    monkeypatch.setattr(database, "_get_trials", recorded)
    cached = optuna.storages.get_storage(database)
    assert [trial.value for trial in cached.get_all_trials(study._study_id)] == [0.5, 0.5]
    everything = {"states": None, "included_trial_ids": set(), "trial_id_greater_than": -1}
    assert asked == [{"study_id": study._study_id} | everything], (
        "RDBStorage._get_trials is not what Optuna's cache reads through: long studies are read "
        "as slowly as Optuna does it"
    )


def test_a_caching_storage_can_forget_a_study(database: RDBStorage) -> None:
    cached = optuna.storages.get_storage(database)
    study = optuna.create_study(storage=cached, study_name="one")
    assert cached.get_study_name_from_id(study._study_id) == "one"
    database.delete_study(study._study_id)
    again = optuna.create_study(storage=database, study_name="two")
    assert again._study_id == study._study_id
    internals.forget_study(cached, study._study_id)
    assert cached.get_study_name_from_id(study._study_id) == "two", (
        "_CachedStorage._studies: the dashboard shows a removed study in place of a new one"
    )


# --- optuna-dashboard


def test_a_note_is_what_the_dashboard_shows(study: optuna.Study) -> None:
    internals.save_note(study, "# old")
    internals.save_note(study, "# new")
    assert optuna_dashboard.get_note(study) == "# new", (
        "optuna_dashboard/_note.py: the note of a study is not on the dashboard"
    )


def test_a_trial_is_serialized_as_the_dashboards_page_reads_it(study: optuna.Study) -> None:
    trial = study.trials[0]
    row = internals.serialize_trial(study._study_id, trial, {})
    shown = {key: row[key] for key in ("trial_id", "number", "state", "values", "artifacts")}
    assert shown == {
        "trial_id": trial._trial_id, "number": 0, "state": "Complete", "values": [0.5],
        "artifacts": [],
    }, "optuna_dashboard._serializer: trials are not on the dashboard"  # fmt: skip
    (curve,) = row["intermediate_values"]
    assert (curve["step"], curve["value"]) == (1, 0.25)


def test_the_dashboards_cache_can_be_emptied(study: optuna.Study, storage: BaseStorage) -> None:
    """Its application keeps what it read for seconds."""
    app = optuna_dashboard.wsgi(storage)
    message = "app._inmemory_cache: the dashboard shows trials from up to ten seconds ago"
    path = f"/api/studies/{study._study_id}"

    def num_trials() -> int:
        environ = {
            "REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "after=0",
            "SERVER_NAME": "x", "SERVER_PORT": "80", "wsgi.url_scheme": "http",
        }  # fmt: skip
        return len(json.loads(b"".join(app(environ, lambda *_: None)))["trials"])

    assert num_trials() == 2
    study.ask()
    assert num_trials() == 2, "the dashboard keeps no trials any more: optuna_internals is too long"
    internals.refetch_trials(app, study._study_id)
    assert num_trials() == 3, message
    study.ask()
    internals.forget_all_trials(app)
    assert num_trials() == 4, message


def climb(sampler: type[optuna.samplers.CmaEsSampler], **options: Any) -> optuna.Study:
    """Forty trials of a smooth hill, each with a sampler of its own, as the study loop has them."""
    study = optuna.create_study(direction="maximize")
    for number in range(40):
        study.sampler = sampler(
            seed=number, n_startup_trials=1, warn_independent_sampling=False, **options
        )
        trial = study.ask()
        x = trial.suggest_float("x", 1e-5, 1, log=True)
        y = trial.suggest_int("y", 4, 32)
        z = trial.suggest_float("z", 0.1, 0.9)
        study.tell(trial, -((x - 0.01) ** 2) - (y - 14) ** 2 / 100 - (z - 0.6) ** 2)
    return study


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    "options", [{}, {"with_margin": True}, {"use_separable_cma": True}], ids=str
)
def test_cma_es_without_a_pickle_asks_what_optunas_asks(options: dict[str, Any]) -> None:
    ours = climb(internals.RebuiltCmaEs, **options)
    theirs = climb(optuna.samplers.CmaEsSampler, **options)
    for mine, other in zip(ours.trials, theirs.trials, strict=True):
        assert mine.params == pytest.approx(other.params), "CmaEsSampler's parts: sampler=cmaes"
        assert not any("optimizer" in key for key in mine.system_attrs)
    assert any("optimizer" in key for trial in theirs.trials for key in trial.system_attrs)


def test_cma_es_unpickles_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "canary",)

    study = climb(internals.RebuiltCmaEs)
    for trial in study.trials:
        attributes = {"cma:optimizer:0": pickle.dumps(Evil()).hex(), "cma:generation": 0}
        study._storage._studies[0].trials[trial.number].system_attrs |= attributes
    study.sampler = internals.RebuiltCmaEs(seed=1, n_startup_trials=1)
    study.ask({"x": FloatDistribution(1e-5, 1, log=True), "y": IntDistribution(4, 32)})
    assert not (tmp_path / "canary").exists()
    study.sampler = optuna.samplers.CmaEsSampler(seed=1, n_startup_trials=1)
    study.ask({"x": FloatDistribution(1e-5, 1, log=True), "z": FloatDistribution(0.1, 0.9)})
    assert (tmp_path / "canary").exists(), "Optuna's no longer unpickles: take it again"


def test_importances_come_without_scikit_learn_until_a_forest_is_asked_for() -> None:
    code = """
import sys
from golf_opt.utils.spared import import_importances
import_importances()
assert "optuna.importance" in sys.modules and "sklearn" not in sys.modules
import optuna
optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=5)
forest = optuna.importance.FanovaImportanceEvaluator(n_trees=2, seed=0)
found = optuna.importance.get_param_importances(study, evaluator=forest)
print(float(found["x"]), "sklearn" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == "1.0 True\n", ran.stderr
