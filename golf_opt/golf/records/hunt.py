"""The hunt for a record: from nothing to a net for a board, in one command and a given time.

    parents    each is trained by a study of its own, on several seeds
    pruning    of the best training, in rounds and by regrowth or drift, until the budget ends
    the end    says what is left, and the command that makes a record of it

For nets with nothing zeroed a family is searched instead. Each part is what `golf-opt study`,
`search` and `prune` do, kept where they keep it. So a hunt that was stopped goes on where it was,
and so does one whose budget ended. A row of each run, also of one that found nothing, is kept in
`hunts/` for the log of what was tried.
"""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from golf_opt.config import CONF_DIR, defaults, load_yaml
from golf_opt.config.command import again, override, runnable
from golf_opt.config.errors import UsageError
from golf_opt.config.hunt import HuntConfig
from golf_opt.config.schema import NewStudy, PruneConfig, StudyConfig, prune_options
from golf_opt.config.types import Budget
from golf_opt.golf.pruning.run import prune_trained
from golf_opt.golf.records.make import portable_command
from golf_opt.golf.records.tried import Tried, keep_hunt
from golf_opt.golf.records.verify import RecordFault, load_record, record_folders
from golf_opt.golf.source import find_net_study, load_source
from golf_opt.storage.connect import opened_to_read
from golf_opt.study.run import Outcome, run_study
from golf_opt.task.arch import Net
from golf_opt.task.data import load
from golf_opt.task.grammar import load_arch
from golf_opt.utils.said import Say
from golf_opt.utils.text import count, percent, show_duration, slug

TRAINING = 1 / 3  # of the budget at most; the rest is for pruning
SHORTEST_S = 1.0  # that a study gets, however little of its part is left


@dataclass(frozen=True)
class Found:
    """A training of a parent, or a net of a search."""

    study: str
    trial: FrozenTrial

    @property
    def accuracy(self) -> float:
        return float(self.trial.values[0])

    @property
    def source(self) -> list[str]:
        return [override("study", self.study), f"trial={self.trial.number}"]


class Hunt:
    """One run of a hunt.

    Args:
        config: what for.
        command: what the user typed.
        say: tells the user a line.
    """

    def __init__(self, config: HuntConfig, command: str, say: Say) -> None:
        self._config, self._command, self._say = config, command, say
        self._began, self._seconds = time.monotonic(), config.budget.seconds or math.inf
        self._data = load(config.data)
        self._num_trainings = 0
        self._left: tuple[int | None, float | None] = None, None  # non-zero, accuracy

    def run(self) -> Outcome:
        """Hunt until the budget ends, or a signal comes.

        Raises:
            UsageError: a net cannot be had, or no training reaches the target.
        """
        try:
            outcome = self._run()
        except UsageError as error:
            if self._num_trainings:  # or it was a mistake in what was asked
                self._keep(str(error))
            raise
        self._keep("its budget ended" if outcome.signal is None else "stopped")
        return outcome

    def _keep(self, ended: str) -> None:
        """Keep a row of this run for the log."""
        config, (nz, accuracy) = self._config, self._left
        day, command = datetime.date.today(), portable_command(self._command)
        row = Tried(
            id=f"hunt {datetime.datetime.now():%Y-%m-%d %H:%M:%S.%f} {config.board}",
            kind="hunt",
            date=day,
            what=command,
            began=config.on.family or ", ".join(config.parents or config.on.parents),
            n=self._num_trainings or None,
            nz=nz,
            accuracy=accuracy,
            rule=config.on.rule,
            target=config.aim,
            time_s=round(time.monotonic() - self._began, 1),
            ended=ended.splitlines()[0],
        )
        keep_hunt(config.folder, row, self._data.digest)

    def _run(self) -> Outcome:
        on = self._config.on
        if on.family is not None:
            return self._search(on.family)
        found: list[Found] = []
        names = self._config.parents or on.parents
        parents = [load_arch(name, self._data.input) for name in names]
        for place, net in enumerate(parents, 1):
            signal = self._train(net, self._seconds * TRAINING * place / len(parents))
            if signal is not None:
                return self._stopped(signal)
            found += self._complete(self._name(net.name))
        return self._prune(self._best(found))

    def _train(self, net: Net, until_s: float) -> int | None:
        """Train a parent on all seeds; return the signal that ended it, if one did."""
        given = {
            "arch": net.arch,
            "space": self._config.recipe,
            "sampler": _choice("sampler/random"),
            "pruner": _choice("pruner/none"),
            "trials": self._config.seeds,
            "epochs": self._config.epochs,
            "seeds": 1,
        }
        return self._study(self._name(net.name), until_s, given)

    def _search(self, family: str) -> Outcome:
        """Search a family for the smallest net that reaches the target as it is."""
        name, aim = self._name(family), self._config.aim
        given = {key: defaults("search")[key] for key in ("trials", "seeds")} | {
            "epochs": self._config.epochs,
            "family": _choice(f"family/{family}"),
            "space": _choice("space/search"),
            "sampler": _choice("sampler/tpe_group"),
            "pruner": _choice("pruner/promote"),
            "target": aim,
        }
        signal = self._study(name, self._seconds, given)
        if signal is not None:
            return self._stopped(signal)
        complete = self._complete(name)
        self._num_trainings = len(complete)
        self._left = None, max((each.accuracy for each in complete), default=None)
        able = [each for each in complete if each.accuracy >= aim]
        best = min(able, key=lambda each: (each.trial.values[1], -each.accuracy), default=None)
        if best is None:
            raise UsageError(f"no net of {family} has {percent(aim)} yet; go on: {again('hunt')}")
        self._left = int(best.trial.values[1]), best.accuracy
        words = (
            f"{best.trial.values[1]:.0f} parameters, none of them zeroed, {percent(best.accuracy)}"
        )
        return self._closing(words, best.source, family)

    def _study(self, name: str, until_s: float, given: Mapping[str, Any]) -> int | None:
        """Run a study until so much of the budget is over; return the signal that ended it."""
        config = self._config
        budget = config.budget
        if budget.epochs is None:
            budget = Budget(max(SHORTEST_S, self._began + until_s - time.monotonic()))
        asked = StudyConfig(
            folder=config.folder,
            storage=config.storage,
            study=NewStudy(name, ()),
            budget=budget,
            stop=None,
            seed=config.seed,
            statistic="mean",
            protocol=config.on.rule,
            callbacks=_choice("callbacks/default"),
            engine=config.engine,
            data=config.data,
            **given,
        )
        return run_study(asked, self._command, self._say).signal

    def _name(self, what: str) -> str:
        """Return the name of a study of the hunt; boards of one rule share it."""
        fold = f"-fold{self._data.fold}" if self._data.fold else ""
        return f"hunt-{slug(what)}-{self._config.on.rule}{fold}-seed{self._config.seed}"

    def _complete(self, name: str) -> list[Found]:
        """Return the trainings of a study that came to their end."""
        with opened_to_read(self._config.storage) as storage:
            trials = find_net_study(storage, name).get_trials(deepcopy=False)
        return [Found(name, trial) for trial in trials if trial.state == TrialState.COMPLETE]

    def _best(self, found: list[Found]) -> Found:
        """Return the most accurate training.

        Raises:
            UsageError: there is none, or it misses the target.
        """
        config = self._config
        best = max(found, key=lambda each: each.accuracy, default=None)
        self._num_trainings = len(found)
        if best is None:
            raise UsageError(
                f"budget is {show_duration(self._seconds)}, of which a third was too little for "
                f"one training; go on: {again('hunt')}"
            )
        self._left = None, best.accuracy
        if best.accuracy < config.aim:
            raise UsageError(
                f"the best of {count(len(found), 'training')} has {percent(best.accuracy)}, but "
                f"board {config.board} asks for {percent(config.aim)}; give more seeds=, more "
                "epochs=, or other parents=."
            )
        return best

    def _prune(self, best: Found) -> Outcome:
        """Prune a training until the budget ends."""
        config = self._config
        self._say(
            f"the best of {count(self._num_trainings, 'training')}: trial {best.trial.number} of "
            f"{best.study}, {percent(best.accuracy)}"
        )
        options = prune_options(
            method="rounds",
            target=config.aim,
            rule=config.on.rule,
            seed=config.seed,
            rounds=replace(
                config.rounds, drift=config.on.drift, weight_decay=config.on.weight_decay
            ),
        )
        asked = PruneConfig(
            folder=config.folder,
            storage=config.storage,
            study=best.study,
            trial=best.trial.number,
            weights=None,
            data=config.data,
            engine=config.engine,
            **asdict(options),
        )
        trained, until = load_source(asked, self._say), self._began + self._seconds
        ended, folder = prune_trained(trained, asked, self._command, self._say, until)
        made = folder.read_summary()
        self._left = made["nz"], made["guide_accuracy"]
        if ended.signal is not None:
            return self._stopped(ended.signal)
        words = (
            f"{made['nz']} non-zero parameters of {trained.net.num_params}, "
            f"{percent(made['guide_accuracy'])} of the images that decided, "
            f"{show_duration(made['time_s'])} of pruning\nin {folder.path}/"
        )
        source = [override("source", str(folder.path)), *best.source[:1]]
        return self._closing(words, source, trained.net.name)

    def _closing(self, words: str, source: list[str], net: str) -> Outcome:
        """Return the last words: what was found, what the board has, and how to go on."""
        board, data = self._config.board, self._data.name
        known = self._sizes_on_board()
        beside = f"the smallest on board {board} has {min(known)}" if known else ""
        record = [*source, override("board", board), override("slug", f"{slug(net)}-hunt".lower())]
        record += [] if data == "mnist" else [override("data", data)]
        lines = [
            words,
            beside,
            f"next, to make a record of it: {runnable('record', *record)}",
            f"or, to go on by as much again: {again('hunt')}",
        ]
        return Outcome("\n".join(filter(None, lines)), None)

    def _sizes_on_board(self) -> list[int]:
        """Return how many non-zero parameters the board's records of this data have."""
        folder = self._config.folder / "records" / self._config.board
        sizes = []
        for path in record_folders(folder) if folder.is_dir() else []:
            try:
                claim = load_record(path).claim
            except RecordFault:
                continue  # `golf-opt verify` says so
            if claim.data.md5 == self._data.digest:
                sizes.append(claim.params.nz)
        return sizes

    def _stopped(self, signal: int) -> Outcome:
        return Outcome(f"stopped; the same command goes on: {again('hunt')}", signal)


def _choice(name: str) -> dict[str, Any]:
    """Return what a file of conf/ stands for."""
    content: dict[str, Any] = load_yaml(CONF_DIR / f"{name}.yaml")
    return content
