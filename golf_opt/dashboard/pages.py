"""What optuna-dashboard is given besides its own: figures of each study, pictures of each trial.

Wraps what answers some routes of the dashboard's application (bottle):

/api/studies/N          the application's answer, with trials from a cache of their JSON (finished
                        trials do not change), and with figures and pictures added
/artifacts/N/TRIAL/ID   a picture that is drawn when it is asked for
.../param_importances   the application's answer, of the trials as they are now

What an answer says is about a second old at most, whoever wrote it: the page itself (see
page/golf-live.js) asks often enough that nobody looks at anything older than five.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bottle import Bottle, HTTPResponse, Route, request, response
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from golf_opt.config.schema import DataConfig
from golf_opt.dashboard.others import BestOfAll
from golf_opt.dashboard.reading import ARTIFACT_ID, ShownStorage
from golf_opt.dashboard.routes import Callback, dumps, refuse
from golf_opt.dashboard.shown import Kinds, Shown, ShownStudies, revision
from golf_opt.dashboard.trial_pictures import TrialPictures, as_artifacts, kind_of, mimetype
from golf_opt.storage.optuna_internals import (
    id_of_study,
    id_of_trial,
    refetch_trials,
    serialize_trial,
)
from golf_opt.utils.text import printable
from golf_opt.visualization.plots import plotly_json
from golf_opt.visualization.study_figures import study_figures

FIGURES_EVERY_S = 1.0  # at most, whoever asks
FIGURES_SHARE = 0.25  # of the time, at most, that drawing them takes
MOST_TOLD = 1000  # lines about what cannot be shown
DETAIL = "GET", "/api/studies/<study_id:int>"
PICTURE = "GET", "/artifacts/<study_id:int>/<trial_id:int>/<artifact_id:re:[0-9a-fA-F-]+>"
IMPORTANCES = "GET", "/api/studies/<study_id:int>/param_importances"
PHONE = "Golf-Phone"  # the header with which a narrow page asks
ENDED = "Golf-Ended"  # the header that changes with what is shown of trials that have ended


class StudyPages:
    """Adds figures and pictures to what the dashboard's application answers.

    Args:
        app: optuna-dashboard's application over `storage`.
        storage: what the application reads; it keeps trials in memory.
        keeper: the same as `storage.open_storage` returned it; checkpoints are read through it.
        folder: of the studies; it holds checkpoints/, artifacts/ and records/.
        data: where the images are to be had; nothing is downloaded from here.
        write: let the page offer edits.
        say: prints a line about what cannot be shown.
    """

    def __init__(
        self,
        app: Bottle,
        storage: ShownStorage,
        keeper: BaseStorage,
        folder: Path,
        data: DataConfig,
        write: bool,
        say: Callable[[str], None],
    ) -> None:
        self._app, self._storage, self._folder = app, storage, folder
        self._write, self._say = write, say
        self._studies = ShownStudies(app, storage, keeper, folder)
        self._others = BestOfAll(storage, keeper, folder / "records")
        self._pictures = TrialPictures(data)
        self._told: set[tuple[int, str]] = set()

    def wrap(self, callback: Callback, route: Route) -> Callback:
        """Return what answers a route."""
        wrappers: dict[tuple[str, str], Callback] = {
            DETAIL: self._detail,
            PICTURE: self._picture,
            IMPORTANCES: self._importances,
        }
        wrapper = wrappers.get((route.method, route.rule))
        return functools.partial(wrapper, callback) if wrapper else callback

    def warm(self) -> None:
        """Read every study before somebody asks for it, the newest first."""
        with contextlib.suppress(Exception):  # /healthz tells of a storage that cannot be read
            for frozen in reversed(self._storage.get_all_studies()):
                with contextlib.suppress(Exception):  # who asks for that one is told
                    shown = self._studies.open(id_of_study(frozen))
                    with shown.lock:
                        trials = shown.study.get_trials(deepcopy=False)
                        self._rows(shown, trials, self._pictures.offers(shown, trials))
                        self._figures(shown, trials, phone=False)

    def _detail(self, callback: Callback, study_id: int) -> Any:
        """Answer with the study from the trial of index `after` on."""
        after = request.query.get("after", "0")
        if not re.fullmatch(r"[0-9]{1,9}", after):
            return refuse(400, "`after` must be a number from 0 on")
        shown, phone = self._studies.open(study_id), request.get_header(PHONE) is not None
        with shown.lock:
            trials = shown.study.get_trials(deepcopy=False)
            offers = self._pictures.offers(shown, trials)
            rows = self._rows(shown, trials, offers)
            figures = self._figures(shown, trials, phone)
            user_attributes = self._storage.get_study_user_attrs(study_id)
            key = [revision(trials), shown.attributes, user_attributes, offers, figures]
            made_of, head = shown.heads.get(phone, ([], ""))
            if made_of != key:
                made = self._without_trials(callback, study_id)
                if isinstance(made, HTTPResponse) or response.status_code != 200:
                    return made
                del made["trials"]
                if not self._write:
                    made.pop("form_widgets", None)
                for best in made["best_trials"]:
                    kinds = offers.get(best["trial_id"], ())
                    best["artifacts"] += as_artifacts(study_id, best["trial_id"], kinds)
                made["plotly_graph_objects"] += figures
                head = dumps(made)
                shown.heads[phone] = key, head
        response.content_type = "application/json; charset=utf-8"
        response.set_header(ENDED, self._ended(shown))
        return f'{head[:-1]}, "trials": [{", ".join(rows[int(after) :])}]}}'

    def _importances(self, callback: Callback, study_id: int) -> Any:
        self._studies.open(study_id)
        refetch_trials(self._app, study_id)
        return callback(study_id=study_id)

    def _ended(self, shown: Shown) -> str:
        """Return what changes with the notes and files of trials, which a page asks for once.

        A file that is replaced keeps its name: its time is in it. Pictures need the images.
        """
        state = hashlib.sha256(f"{shown.own_id} {self._pictures.misses_images(shown)}".encode())
        for trial_id, notes in sorted(shown.of_trials.items()):
            for name, value in notes:
                state.update(repr((trial_id, name, value)).encode(errors="replace"))
                if ARTIFACT_ID.fullmatch(name):
                    with contextlib.suppress(OSError):
                        found = (self._folder / "artifacts" / name).stat()
                        state.update(f"{found.st_mtime_ns} {found.st_size}".encode())
        return state.hexdigest()[:16]

    def _without_trials(self, callback: Callback, study_id: int) -> Any:
        """Return the application's answer as if there were no trials, which it is slow to write."""
        # it would answer from what it read up to ten seconds ago, and we keep the answer
        refetch_trials(self._app, study_id)
        request["QUERY_STRING"] = f"after={10**9}"
        return callback(study_id=study_id)

    def _rows(
        self, shown: Shown, trials: Sequence[FrozenTrial], offers: Mapping[int, Kinds]
    ) -> list[str]:
        """Return the JSON of each trial, of which that of finished ones is kept."""
        rows, json, of_trials = [], shown.json, shown.of_trials
        for trial in trials:
            trial_id = id_of_trial(trial)
            kinds, notes = offers.get(trial_id, ()), of_trials.get(trial_id)
            kept = json.get(trial_id)
            if kept is None or kept[0] is not trial or kept[1] != kinds or kept[2] != notes:
                row = self._row(shown, trial)
                row["artifacts"] += as_artifacts(row["study_id"], trial_id, kinds)
                kept = trial, kinds, notes, dumps(row)
                if trial.state.is_finished():
                    json[trial_id] = kept
            rows.append(kept[3])
        return rows

    def _row(self, shown: Shown, trial: FrozenTrial) -> dict[str, Any]:
        """Return a trial as the page has it; one that the page cannot take, as a failed one."""
        study_id = id_of_study(shown.study)
        for attributes in (shown.attributes, {}):  # {}: without a note that lacks a part
            try:
                return serialize_trial(study_id, trial, attributes)
            except Exception as error:
                self._tell(shown, f"trial {trial.number}", error)
        return serialize_trial(study_id, _failed(trial), {})

    def _tell(self, shown: Shown, what: str, error: Exception) -> None:
        """Say once that something of a study cannot be shown."""
        study_id = id_of_study(shown.study)
        if (study_id, what) not in self._told and len(self._told) < MOST_TOLD:
            self._told.add((study_id, what))
            reason = printable(f"{type(error).__name__}: {error}")[:200]
            name = printable(shown.study.study_name)[:200]
            self._say(f"{what} of study {name!r} cannot be shown: {reason}")

    def _figures(
        self, shown: Shown, trials: Sequence[FrozenTrial], phone: bool
    ) -> list[dict[str, str]]:
        """Return the figures as optuna-dashboard has them; drawn again when something is new."""
        plan, begin = shown.description, time.monotonic()
        drawn = shown.drawn.get(phone, [])
        if plan is None or (phone in shown.drawn and begin < shown.draw_at):
            return drawn
        try:
            snapshot = plan.snapshot(shown.study.study_name, trials, shown.attributes)
            drawn_of = (*revision(trials), self._others.refresh(), snapshot.fresh)
            if shown.drawn_of != drawn_of:
                others, records = self._others.but(id_of_study(shown.study))
                shown.figures = study_figures(snapshot, others, records)
                shown.drawn, shown.drawn_of = {}, drawn_of
            if phone not in shown.drawn:
                drawn = [
                    {"id": figure.key, "graph_object": plotly_json(figure, phone)}
                    for figure in shown.figures
                ]
        except Exception as error:  # the figures are no reason to hide the trials
            self._tell(shown, "the figures", error)
        shown.drawn[phone] = drawn
        now = time.monotonic()
        shown.draw_at = now + max(FIGURES_EVERY_S, (now - begin) * (1 / FIGURES_SHARE - 1))
        return drawn

    def _picture(
        self, callback: Callback, study_id: int, trial_id: int, artifact_id: str
    ) -> bytes | Any:
        """Answer with a picture of ours; the application answers where none has this id."""
        kind = kind_of(study_id, trial_id, artifact_id)
        data = None if kind is None else self._drawn(study_id, trial_id, kind)
        if kind is None or data is None:
            return callback(study_id=study_id, trial_id=trial_id, artifact_id=artifact_id)
        response.content_type = f"{mimetype(kind)}; charset=utf-8"
        return data

    def _drawn(self, study_id: int, trial_id: int, kind: str) -> bytes | None:
        shown = self._studies.open(study_id)
        trials = shown.study.get_trials(deepcopy=False)
        trial = next((trial for trial in trials if id_of_trial(trial) == trial_id), None)
        try:
            return None if trial is None else self._pictures.drawn(shown, trial, kind)
        except Exception as error:  # its checkpoint, or what the study says of its net
            self._tell(shown, f"{kind} of trial {trial.number if trial else trial_id}", error)
            return None


def _failed(trial: FrozenTrial) -> FrozenTrial:
    """Return what is shown of a trial that the page cannot take."""
    number, trial_id = trial.number, id_of_trial(trial)
    return FrozenTrial(
        number=number,
        state=TrialState.FAIL,
        value=None,
        datetime_start=None,
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        trial_id=trial_id,
    )
