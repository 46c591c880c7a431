"""What optuna-dashboard is given besides its own: figures of each study, pictures of each trial.

A plugin of the dashboard's application (bottle), which wraps what answers two of its routes:

/api/studies/N          the application's answer, with trials from a cache of their JSON (finished
                        trials do not change), and with figures and pictures added
/artifacts/N/TRIAL/ID   a picture that is drawn when it is asked for
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import re
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from bottle import Bottle, Route, request, response
from cachetools import LRUCache
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from golf_opt.storage.checkpoint import DamagedCheckpoint, open_checkpoints
from golf_opt.storage.optuna_internals import (
    forget_all_trials,
    forget_study,
    id_of_study,
    id_of_trial,
    refetch_trials,
    serialize_trial,
)
from golf_opt.storage.studies import STUDY_ID
from golf_opt.study.description import StudyDescription, best_of_all, readable, snapshot_of
from golf_opt.study.note import log
from golf_opt.task.data import Split, objective_split
from golf_opt.utils.text import percent
from golf_opt.utils.trials import best_trials
from golf_opt.visualization import pictures
from golf_opt.visualization.plots import plotly_json
from golf_opt.visualization.size_and_accuracy import kept_records
from golf_opt.visualization.study_figures import study_figures

BEST_SHOWN, NEWEST_SHOWN = 20, 20  # trials with all their pictures; the others have the first
FIGURES_EVERY_S = 5.0  # while a study runs
MOST_PICTURES = 256  # kept in memory
NAMESPACE = uuid.UUID("6ba6a6c5-8f0f-4d0c-9a3b-0c6f5e7d9a41")  # of the pictures' ids
EVERY = ("learning-curve", "log")  # of every trial
KINDS = (*EVERY, "confusion", "mistakes", "weights")
DETAIL = "GET", "/api/studies/<study_id:int>"
PICTURE = "GET", "/artifacts/<study_id:int>/<trial_id:int>/<artifact_id:re:[0-9a-fA-F-]+>"
Callback = Callable[..., Any]
TRIAL_NOTE = re.compile(r"dashboard:(\d+):note_ver")


class StudyPages:
    """Adds figures and pictures to the dashboard's application, which `install`s it.

    Args:
        app: optuna-dashboard's application over `storage`.
        storage: what the application reads; it keeps trials in memory.
        keeper: the same as `storage.open_storage` returned it; checkpoints are read through it.
        folder: of the studies; it holds checkpoints/.
        data_root: the folder that holds MNIST/raw/; nothing is downloaded to it from here.
    """

    name, api = "study-pages", 2  # of a bottle plugin

    def __init__(
        self,
        app: Bottle,
        storage: BaseStorage,
        keeper: BaseStorage,
        folder: Path,
        data_root: Path,
    ) -> None:
        self._app, self._storage, self._keeper = app, storage, keeper
        self._folder, self._data_root = folder, data_root
        self._lock = threading.Lock()
        self._shown: dict[int, _Shown] = {}
        self._pictures: LRUCache[tuple[str, int, str], bytes] = LRUCache(MOST_PICTURES)
        self._splits: dict[str, Split | None] = {}

    def apply(self, callback: Callback, route: Route) -> Callback:
        """Return what answers a route; bottle calls this once for each."""
        wrappers: dict[tuple[str, str], Callback] = {DETAIL: self._detail, PICTURE: self._picture}
        wrapper = wrappers.get((route.method, route.rule))
        return functools.partial(wrapper, callback) if wrapper else callback

    def warm(self) -> None:
        """Read every study before somebody asks for it, the newest first."""
        for frozen in reversed(self._storage.get_all_studies()):
            with contextlib.suppress(KeyError):  # removed meanwhile
                shown = self._open(id_of_study(frozen))
                with shown.lock:
                    trials = shown.study.get_trials(deepcopy=False)
                    self._rows(shown, trials, self._offers(shown, trials))
                    self._figures(shown, trials)

    def _detail(self, callback: Callback, study_id: int) -> Any:
        """Answer with the study from the trial of index `after` on."""
        after = request.query.get("after", "0")
        try:
            shown = self._open(study_id)
        except (KeyError, OverflowError):
            shown = None
        if shown is None or not re.fullmatch(r"\d{1,9}", after):
            return callback(study_id=study_id)
        with shown.lock:
            trials = shown.study.get_trials(deepcopy=False)
            offers = self._offers(shown, trials)
            rows = self._rows(shown, trials, offers)
            figures = self._figures(shown, trials)
            user_attributes = self._storage.get_study_user_attrs(study_id)
            key = [_revision(trials), shown.attributes, user_attributes, offers, figures]
            if shown.head_of != key:
                head = self._without_trials(callback, study_id)
                if response.status_code != 200:
                    return head
                del head["trials"]
                for best in head["best_trials"]:
                    kinds = offers[best["number"]]
                    best["artifacts"] += _artifacts(study_id, best["trial_id"], kinds)
                head["plotly_graph_objects"] += figures
                shown.head, shown.head_of = json.dumps(head), key
            head = shown.head
        response.content_type = "application/json; charset=utf-8"
        return f'{head[:-1]}, "trials": [{", ".join(rows[int(after) :])}]}}'

    def _without_trials(self, callback: Callback, study_id: int) -> Any:
        """Return the application's answer as if there were no trials, which it is slow to write."""
        # it would answer from what it read up to ten seconds ago, and we keep the answer
        refetch_trials(self._app, study_id)
        request["QUERY_STRING"] = f"after={10**9}"
        return callback(study_id=study_id)

    def _open(self, study_id: int) -> _Shown:
        """Return what is kept of a study; begin anew when its id belongs to another one now.

        Raises:
            KeyError: there is no such study.
        """
        attributes = self._storage.get_study_system_attrs(study_id)
        own_id = str(attributes.get(STUDY_ID))
        with self._lock:
            shown = self._shown.get(study_id)
            if shown is None or shown.own_id != own_id:
                if shown is not None:  # the caches know the study that had this id before
                    forget_all_trials(self._app)
                    forget_study(self._storage, study_id)
                name = self._storage.get_study_name_from_id(study_id)
                study = optuna.Study(name, self._storage)
                shown = self._shown[study_id] = _Shown(own_id, study)
                if own_id != "None":
                    kept = optuna.Study(name, self._keeper)
                    shown.checkpoints = open_checkpoints(kept, self._folder)
        shown.attributes = attributes
        shown.description = readable(shown.study.study_name, attributes)
        return shown

    def _rows(
        self, shown: _Shown, trials: Sequence[FrozenTrial], offers: Sequence[tuple[str, ...]]
    ) -> list[str]:
        """Return the JSON of each trial, of which that of finished ones is kept."""
        noted = {int(note[1]) for key in shown.attributes if (note := TRIAL_NOTE.fullmatch(key))}
        rows = []
        for trial in trials:
            kinds = offers[trial.number]
            kept = shown.json.get(trial.number)
            if kept is not None and kept[0] == kinds and id_of_trial(trial) not in noted:
                rows.append(kept[1])
                continue
            study_id = id_of_study(shown.study)
            row = serialize_trial(study_id, trial, shown.attributes)
            row["artifacts"] += _artifacts(study_id, id_of_trial(trial), kinds)
            rows.append(json.dumps(row))
            if trial.state.is_finished():
                shown.json[trial.number] = (kinds, rows[-1])
        return rows

    def _offers(self, shown: _Shown, trials: Sequence[FrozenTrial]) -> list[tuple[str, ...]]:
        """Return which pictures each trial has: the best and the newest all, others the first."""
        if shown.description is None:  # not a study of ours
            return [()] * len(trials)
        offers: list[tuple[str, ...]] = [EVERY if t.intermediate_values else () for t in trials]
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        best = best_trials(complete, BEST_SHOWN)
        readable = self._splits.get(shown.own_id, True) is not None
        kinds = KINDS if readable else (*EVERY, "weights")
        wanted = {trial.number for trial in [*best, *complete[-NEWEST_SHOWN:]]}
        for number in wanted & shown.checkpoints.numbers():
            offers[number] = kinds
        return offers

    def _figures(self, shown: _Shown, trials: Sequence[FrozenTrial]) -> list[dict[str, str]]:
        """Return the figures as optuna-dashboard has them; drawn again when something is new."""
        if shown.description is None:
            return []
        revision, now = _revision(trials), time.monotonic()
        if shown.revision != revision and now - shown.drawn_at > FIGURES_EVERY_S:
            others = best_of_all(self._storage, but=shown.study.study_name)
            records = kept_records(self._folder / "records")
            shown.figures = [
                {"id": figure.key, "graph_object": plotly_json(figure)}
                for figure in study_figures(snapshot_of(shown.study), others, records)
            ]
            shown.revision, shown.drawn_at = revision, now
        return shown.figures

    def _picture(
        self, callback: Callback, study_id: int, trial_id: int, artifact_id: str
    ) -> bytes | Any:
        """Answer with a picture of ours; the application answers where none has this id."""
        kind = next((k for k in KINDS if _artifact_id(study_id, trial_id, k) == artifact_id), None)
        data = None if kind is None else self._drawn(study_id, trial_id, kind)
        if kind is None or data is None:
            return callback(study_id=study_id, trial_id=trial_id, artifact_id=artifact_id)
        response.content_type = f"{_mimetype(kind)}; charset=utf-8"
        return data

    def _drawn(self, study_id: int, trial_id: int, kind: str) -> bytes | None:
        """Return a picture, of which those of finished trials are kept; None: there is none."""
        try:
            shown = self._open(study_id)
        except KeyError:
            return None
        trials = shown.study.get_trials(deepcopy=False)
        trial = next((trial for trial in trials if id_of_trial(trial) == trial_id), None)
        if trial is None or kind not in self._offers(shown, trials)[trial.number]:
            return None
        key = (shown.own_id, trial.number, kind)
        with self._lock:
            data = self._pictures.get(key)
        if data is None:
            try:
                drawn = self._draw(kind, trial, shown)
            except (FileNotFoundError, DamagedCheckpoint):
                return None
            data = None if drawn is None else drawn.encode()
            if data is not None and trial.state.is_finished():
                with self._lock:
                    self._pictures[key] = data
        return data

    def _draw(self, kind: str, trial: FrozenTrial, shown: _Shown) -> str | None:
        if kind == "log":
            return log(trial)
        if kind == "learning-curve":
            steps = [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
            title = f"trial {trial.number}: {percent(steps[-1])} after epoch {len(steps)}"
            return pictures.learning_curve(title, steps, trial.user_attrs.get("epoch_losses", []))
        assert shown.description is not None  # of no other study are pictures offered
        net = shown.description.net
        tensors = shown.checkpoints.load(trial.number).state.tensors
        if kind == "weights":
            return pictures.weights(f"trial {trial.number}: {net.name}", net, tensors)
        split = self._split(shown)
        if split is None:
            return None
        readings = pictures.read(net, tensors, split)
        wrong = round(len(split) * (1 - readings.accuracy))
        title = f"trial {trial.number}: {wrong:,} of {len(split):,} images wrong ({split.name})"
        draw = pictures.confusion if kind == "confusion" else pictures.mistakes
        return draw(title, readings)

    def _split(self, shown: _Shown) -> Split | None:
        """Return the split that the study's objective is measured on; None if it is not here."""
        plan = shown.description
        assert plan is not None
        with self._lock:
            if shown.own_id not in self._splits:
                self._splits[shown.own_id] = objective_split(
                    plan.data, self._data_root, plan.protocol, plan.digest
                )
            return self._splits[shown.own_id]


class _Shown:
    """What is kept of a study between two requests."""

    def __init__(self, own_id: str, study: optuna.Study) -> None:
        self.own_id, self.study = own_id, study
        self.lock = threading.Lock()  # of what is made once for everybody who asks
        self.attributes: dict[str, Any] = {}
        self.description: StudyDescription | None = None  # of a study of ours
        self.checkpoints: Any = None  # of a study of ours
        self.json: dict[int, tuple[tuple[str, ...], str]] = {}  # of finished trials, by number
        self.head = ""  # of the answer, and below what it was made of
        self.head_of: list[Any] = []
        self.figures: list[dict[str, str]] = []
        self.revision: tuple[int, ...] = ()
        self.drawn_at = -math.inf


def _revision(trials: Sequence[FrozenTrial]) -> tuple[int, ...]:
    """Return what changes whenever a trial begins, reports or ends."""
    under_way = [trial for trial in trials if not trial.state.is_finished()]
    steps = sum(len(trial.intermediate_values) for trial in under_way)
    return len(trials), len(under_way), steps


def _artifact_id(study_id: int, trial_id: int, kind: str) -> str:
    return str(uuid.uuid5(NAMESPACE, f"{study_id}/{trial_id}/{kind}"))


def _mimetype(kind: str) -> str:
    return "text/plain" if kind == "log" else "image/svg+xml"


def _artifacts(study_id: int, trial_id: int, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Return pictures as optuna-dashboard lists artifacts."""
    return [
        {
            "artifact_id": _artifact_id(study_id, trial_id, kind),
            "filename": f"{kind}.txt" if kind == "log" else f"{kind}.svg",
            "mimetype": _mimetype(kind),
            "encoding": None,
        }
        for kind in kinds
    ]
