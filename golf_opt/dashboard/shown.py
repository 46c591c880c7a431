"""What the dashboard keeps of a study between two requests, and when it begins anew."""

from __future__ import annotations

import math
import re
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from bottle import Bottle
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from golf_opt.dashboard.reading import ShownStorage
from golf_opt.storage.checkpoint import open_checkpoints
from golf_opt.storage.optuna_internals import forget_all_trials, forget_study
from golf_opt.storage.studies import STUDY_ID
from golf_opt.storage.workers import coordination
from golf_opt.study.description import StudyDescription, readable
from golf_opt.visualization.plots import Figure

# keys of a study's attributes that belong to one of its trials: a note, a file
OF_TRIAL = re.compile(r"dashboard:(?:artifacts:)?([0-9]{1,18}):(.*)", re.DOTALL)
Kinds = tuple[str, ...]  # of pictures
Notes = tuple[tuple[str, Any], ...]  # of a trial: what the rest of the key says, and the value


class Shown:
    """What is kept of a study."""

    def __init__(self, own_id: str, study: optuna.Study) -> None:
        self.own_id, self.study = own_id, study
        self.lock = threading.Lock()  # of what is made once for everybody who asks
        self.attributes: dict[str, Any] = {}
        self.of_trials: dict[int, Notes] = {}  # those of them that belong to a trial, by its id
        self.description: StudyDescription | None = None  # of a study of ours
        self.checkpoints: Any = None  # of a study of ours
        # of finished trials, by id: of which trial, with which pictures and notes; and the JSON
        self.json: dict[int, tuple[FrozenTrial, Kinds, Notes | None, str]] = {}
        # of the answer, for a phone or not: what it was made of, and its text
        self.heads: dict[bool, tuple[list[Any], str]] = {}
        self.figures: list[Figure] = []
        self.drawn: dict[bool, list[dict[str, str]]] = {}  # as Plotly has them; for a phone or not
        self.drawn_of: tuple[Any, ...] = ()
        self.draw_at = -math.inf  # not before


class ShownStudies:
    """The studies that somebody has asked for.

    Args:
        app: optuna-dashboard's application over `storage`.
        storage: what the application reads; it keeps trials in memory.
        keeper: the same as `storage.open_storage` returned it; checkpoints are read through it.
        folder: of the studies; it holds checkpoints/.
    """

    def __init__(
        self, app: Bottle, storage: ShownStorage, keeper: BaseStorage, folder: Path
    ) -> None:
        self._app, self._storage, self._keeper, self._folder = app, storage, keeper, folder
        self._lock = threading.Lock()
        self._shown: dict[int, Shown] = {}

    def open(self, study_id: int) -> Shown:
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
                    forget_study(coordination(self._keeper).reader, study_id)
                study = optuna.Study(self._storage.get_study_name_from_id(study_id), self._storage)
                shown = Shown(own_id, study)
                if own_id != "None":
                    name = self._keeper.get_study_name_from_id(study_id)
                    kept = optuna.Study(name, self._keeper)
                    shown.checkpoints = open_checkpoints(kept, self._folder)
                self._shown[study_id] = shown
        if shown.attributes != attributes:
            shown.attributes = attributes
            shown.description = readable(shown.study.study_name, attributes)
            shown.of_trials = _of_trials(attributes)
        return shown


def revision(trials: Sequence[FrozenTrial]) -> tuple[int, ...]:
    """Return what changes whenever a trial begins, reports or ends."""
    under_way = [trial for trial in trials if not trial.state.is_finished()]
    parts = sum(len(t.intermediate_values) + len(t.user_attrs) + len(t.params) for t in under_way)
    return len(trials), len(under_way), parts


def _of_trials(attributes: Mapping[str, Any]) -> dict[int, Notes]:
    """Return the attributes of a study that belong to one of its trials, by the trial's id."""
    found: dict[int, Notes] = defaultdict(tuple)
    for key, value in sorted(attributes.items()):
        if match := OF_TRIAL.fullmatch(key):
            found[int(match[1])] += ((match[2], value),)
    return dict(found)
