"""The pictures of trials: drawn when somebody asks, of what the storage and the folder hold."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cachetools import LRUCache
from optuna.trial import FrozenTrial, TrialState

from golf_opt.config.schema import DataConfig
from golf_opt.dashboard.shown import Kinds, Shown
from golf_opt.storage.checkpoint import DamagedCheckpoint
from golf_opt.storage.optuna_internals import id_of_trial
from golf_opt.study.card import HEAD, layer_rows
from golf_opt.study.description import StudyDescription
from golf_opt.study.note import log
from golf_opt.task.data import Split, objective_split
from golf_opt.task.modules.given import is_given
from golf_opt.utils.points import best_points
from golf_opt.utils.text import aligned
from golf_opt.utils.trials import epoch_losses
from golf_opt.visualization import pictures
from golf_opt.visualization.snapshot import values_by_epoch

BEST_SHOWN, NEWEST_SHOWN = 20, 20  # trials with all their pictures; the others have the first
MOST_PICTURES = 256  # kept in memory
MISSING_S = 4.0  # after which images that were not there are looked for again
NAMESPACE = uuid.UUID("6ba6a6c5-8f0f-4d0c-9a3b-0c6f5e7d9a41")  # of the pictures' ids
EVERY = ("learning-curve", "log")  # of every trial
KINDS = (*EVERY, "confusion", "mistakes", "weights")


class TrialPictures:
    """Draws the pictures, and keeps those of finished trials.

    Args:
        data: where the images are to be had; nothing is downloaded from here.
    """

    def __init__(self, data: DataConfig) -> None:
        self._data = data
        self._lock = threading.Lock()
        self._pictures: LRUCache[tuple[str, int, str], bytes] = LRUCache(MOST_PICTURES)
        self._splits: dict[str, Split] = {}  # by the study's own id
        self._missing: dict[str, float] = {}  # likewise: when its images were last looked for

    def offers(self, shown: Shown, trials: Sequence[FrozenTrial]) -> dict[int, Kinds]:
        """Return which pictures each trial has: the best and the newest all, others the first."""
        if shown.description is None or shown.checkpoints is None:  # not a study of ours
            return {}
        offers: dict[int, Kinds] = {id_of_trial(t): EVERY for t in trials if t.intermediate_values}
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        plan = shown.description  # only nets have more to show
        best = best_points(complete, BEST_SHOWN, statistic=plan.by_seed.worth)
        net = plan.one_net
        runs = plan.objective is None and (net is None or is_given(net))  # a module never is, here
        kinds = KINDS if runs and not self.misses_images(shown) else (*EVERY, "weights")
        with_checkpoint = shown.checkpoints.numbers()
        for trial in [*best, *complete[-NEWEST_SHOWN:]]:
            if trial.number in with_checkpoint:
                offers[id_of_trial(trial)] = kinds
        return offers

    def misses_images(self, shown: Shown) -> bool:
        """Return whether images were asked for and are not here, nor have come since."""
        asked = shown.description is not None and shown.own_id in self._missing
        return asked and self._split(shown) is None

    def drawn(self, shown: Shown, trial: FrozenTrial, kind: str) -> bytes | None:
        """Return a picture; None: there is none.

        One that is no longer offered is drawn all the same: pages that are open have its address.
        """
        if shown.description is None or shown.checkpoints is None or not trial.intermediate_values:
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

    def _draw(self, kind: str, trial: FrozenTrial, shown: Shown) -> str | None:
        assert shown.description is not None  # of no other study are pictures offered
        if kind == "log":
            text = log(trial, shown.description.goals)
            if shown.description.nets is None:
                return text
            lines = aligned(HEAD, layer_rows(shown.description.job(trial).net), "lrrr")
            return "\n".join([text.rstrip(), "", *lines, ""])
        if kind == "learning-curve":
            goal = shown.description.goals[0]
            steps = list(values_by_epoch(trial, goal).values())
            last = "no value" if steps[-1] is None else goal.show(steps[-1])
            title = f"trial {trial.number}: {last} after epoch {len(steps)}"
            return pictures.learning_curve(title, goal, steps, epoch_losses(trial))
        net = shown.description.job(trial).net
        tensors = shown.checkpoints.load(trial.number).state.net
        if kind == "weights":
            return pictures.weights(f"trial {trial.number}: {net.name}", net, tensors)
        split = self._split(shown) if is_given(net) else None
        if split is None:
            return None
        readings = pictures.read(net, tensors, split)
        wrong = round(len(split) * (1 - readings.accuracy))
        title = f"trial {trial.number}: {wrong:,} of {len(split):,} images wrong ({split.name})"
        draw = pictures.confusion if kind == "confusion" else pictures.mistakes
        return draw(title, readings)

    def _load(self, plan: StudyDescription) -> Split | None:
        """Return the split of a study's objective, if its data is where it can be looked for."""
        data = plan.data_config(self._data)
        if data.name != self._data.name and Path(data.name).is_dir():
            return None  # whoever wrote the study may name any folder, however large
        return objective_split(data, plan.protocol, plan.digest)

    def _split(self, shown: Shown) -> Split | None:
        """Return the split that the study's objective is measured on; None if it is not here."""
        plan = shown.description
        assert plan is not None
        own_id, now = shown.own_id, time.monotonic()
        with self._lock:
            again_at = self._missing.get(own_id, -math.inf) + MISSING_S
            if own_id not in self._splits and now >= again_at:
                split = self._load(plan)
                if split is None:
                    self._missing[own_id] = now
                else:
                    self._splits[own_id] = split
                    self._missing.pop(own_id, None)
            return self._splits.get(own_id)


def kind_of(study_id: int, trial_id: int, artifact_id: str) -> str | None:
    """Return which picture of a trial has this id."""
    return next((k for k in KINDS if _artifact_id(study_id, trial_id, k) == artifact_id), None)


def _artifact_id(study_id: int, trial_id: int, kind: str) -> str:
    return str(uuid.uuid5(NAMESPACE, f"{study_id}/{trial_id}/{kind}"))


def mimetype(kind: str) -> str:
    return "text/plain" if kind == "log" else "image/svg+xml"


def as_artifacts(study_id: int, trial_id: int, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Return pictures as optuna-dashboard lists artifacts."""
    return [
        {
            "artifact_id": _artifact_id(study_id, trial_id, kind),
            "filename": f"{kind}.txt" if kind == "log" else f"{kind}.svg",
            "mimetype": mimetype(kind),
            "encoding": None,
        }
        for kind in kinds
    ]
