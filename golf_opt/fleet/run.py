"""`golf-opt fleet`: keeps a study at its number of workers, and shows how they do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import optuna
from rich.console import Console
from rich.text import Text

from golf_opt.config import command
from golf_opt.config.errors import UsageError
from golf_opt.config.fleet import FleetConfig
from golf_opt.config.on import KubernetesConfig, LocalConfig, SlurmConfig
from golf_opt.fleet.base import Launcher, Tally, Unreachable, worker_command
from golf_opt.fleet.local import PROGRAM, Local, cores
from golf_opt.fleet.notify import Notifier
from golf_opt.fleet.standing import Moment, Standing
from golf_opt.storage.connect import opened_to_read
from golf_opt.storage.failures import StorageUnreachable
from golf_opt.storage.studies import STUDY_ID, marks
from golf_opt.storage.url import file_of
from golf_opt.study.description import description_of, find_study
from golf_opt.study.run import check_same_objective
from golf_opt.utils.live import LiveLines, may_move
from golf_opt.utils.said import Say
from golf_opt.utils.signals import Stop, stop_on_signals
from golf_opt.utils.text import count, one_line, slug

Answer = TypeVar("Answer")
LOOK_S = 1.0  # between two looks at engine and database
PLAIN_EVERY_S = 10.0  # a plain line, where only trials and epochs have changed
LEAVE_S = 90.0  # for workers to end by themselves once the study is over
FEWEST_TRIES = 2  # workers in a row that may end without an epoch of anyone's


@dataclass(frozen=True)
class Seen:
    """What is shown of a moment."""

    tally: Tally
    moment: Moment
    replaced: int
    epochs_per_s: float
    idle: float | None


def run_fleet(config: FleetConfig, say: Say) -> int | None:
    """Start workers and watch over them until the study is over; return the signal that ended it.

    Raises:
        UsageError: there is no such study, or nothing that could start workers, or they all fail.
    """
    with opened_to_read(config.storage) as storage:
        study = find_study(storage, config.study)
        check_same_objective(config, description_of(study))
        standing = Standing(study)
        if isinstance(config.on, KubernetesConfig) and config.on.dry_run:
            show_job(config, config.on, study, say)
            return None
        launcher, workers = launcher_of(config, study)
        tally = answered(launcher.tally)
        if config.stop:
            stop(launcher, tally, say)
            return None
        workers = workers or tally.all
        if not workers:
            raise UsageError(
                f"study {study.study_name!r} has no workers on {config.on.name}; start some with "
                "workers=N."
            )
        return Fleet(config, standing, launcher, workers, say).run()


def launcher_of(config: FleetConfig, study: optuna.Study) -> tuple[Launcher, int | None]:
    """Return what starts a study's workers, and how many there are to be; None: as many as now."""
    name, on, folder = study.study_name, config.on, logs_of(config, study)
    if isinstance(on, LocalConfig):
        if config.stop:
            raise UsageError(
                "stop=true has nothing to end on=local: its workers end with the command that "
                "started them, by Ctrl-C; give on=slurm."
            )
        workers = config.workers or len(cores())
        return Local(worker_command(PROGRAM, config, name), workers, folder), workers
    if isinstance(on, KubernetesConfig):
        from golf_opt.fleet.kubernetes import Kubernetes

        return Kubernetes(on, label_of(study), words_for_pods(config, on, study)), config.workers
    words = worker_command(PROGRAM, config, name, on.cpus)
    if isinstance(on, SlurmConfig):
        from golf_opt.fleet.slurm import Slurm

        return Slurm(on, label_of(study), words, folder), config.workers
    from golf_opt.fleet.ray import Ray

    return Ray(on, label_of(study), words, folder), config.workers


def label_of(study: optuna.Study) -> str:
    """Return the name of a study's workers on their engine, which no other study's have."""
    return f"golf-{slug(study.study_name)}-{str(marks(study).get(STUDY_ID))[:8]}"


def words_for_pods(config: FleetConfig, on: KubernetesConfig, study: optuna.Study) -> list[str]:
    """Return what golf-opt is given in each pod of Kubernetes.

    Raises:
        UsageError: no pod could read the study's storage.
    """
    if file_of(config.storage) is not None:
        raise UsageError(
            f"study {study.study_name!r} is in a file of this machine, which pods do not see; take "
            "it to PostgreSQL by golf-opt export and import, and give storage=postgres."
        )
    from golf_opt.fleet.manifest import INSTEAD

    return worker_command((), config, study.study_name, on.cpus, INSTEAD)


def show_job(config: FleetConfig, on: KubernetesConfig, study: optuna.Study, say: Say) -> None:
    """Print the Job that Kubernetes would be given."""
    from golf_opt.fleet import manifest

    manifest.check_packages()
    label, words = manifest.cluster_name(label_of(study)), words_for_pods(config, on, study)
    say(manifest.in_yaml(manifest.job(on, label, words, config.workers or 1)))


def logs_of(config: FleetConfig, study: optuna.Study) -> Path:
    """Return the folder of the logs of a study's workers."""
    return config.folder / "fleet" / slug(study.study_name)


def answered(ask: Callable[[], Answer]) -> Answer:
    """Return what an engine answers where nothing can be done without.

    Raises:
        UsageError: it does not answer.
    """
    try:
        return ask()
    except Unreachable as error:
        raise UsageError(f"the workers cannot be looked after: {error}") from error


def stop(launcher: Launcher, tally: Tally, say: Say) -> None:
    """End the workers that there are, and wait until they have."""
    answered(launcher.stop)
    until = time.monotonic() + LEAVE_S
    while (left := answered(launcher.tally).all) and time.monotonic() < until:
        time.sleep(LOOK_S)
    still = f"; {left} still checkpoint" if left else ""
    say(f"{count(tally.all, 'worker')} ended{still}; trials under way wait to go on")


class Fleet:
    """Workers of one study, kept at their number until it is over."""

    def __init__(
        self, config: FleetConfig, standing: Standing, launcher: Launcher, workers: int, say: Say
    ) -> None:
        self._config, self._standing, self._launcher = config, standing, launcher
        self._workers, self._say = workers, say
        self._notifier = Notifier(config.notify, say)
        self._view = View(standing, config.on.name, workers, say)
        self._tally, self._answers, self._reachable = Tally(0, 0), True, True
        self._replaced = 0
        self._begun = False  # whether workers were started, or found
        self._finished = 0
        self._tries, self._progress = 0, (-1, -1)  # started in vain, since the study was there

    def run(self) -> int | None:
        """Watch until the study is over or a signal comes; return the signal."""
        with stop_on_signals() as signal, self._view:
            try:
                over = self._until_over(signal)
                if over:
                    self._let_leave(signal)
            finally:
                if not self._launcher.stays:
                    self._launcher.stop()
                    self._look()  # at what they ended with
        self._say_goodbye(over)
        return signal.signal

    def _until_over(self, signal: Stop) -> bool:
        while signal.signal is None:
            self._count()
            moment = self._look()
            if moment is not None:
                if moment.over:
                    return True
                self._fill(moment)
                self._show(moment)
            time.sleep(LOOK_S)
        return False

    def _look(self) -> Moment | None:
        """Return how the study stands; None where its database does not answer now."""
        try:
            moment = self._standing.look(self._tally.running)
        except StorageUnreachable as error:
            if self._reachable:
                self._tell(f"the storage does not answer: {one_line(str(error), 200)}")
            self._reachable = False
            return None
        self._reachable, self._finished = True, moment.finished
        return moment

    def _count(self) -> None:
        """Ask the engine for its workers; while it does not answer, those it had count."""
        try:
            self._tally, answers = self._launcher.tally(), True
        except Unreachable as error:
            answers = False
            if self._answers:
                self._view.say(
                    f"{self._config.on.name} does not answer; its workers go on: {error}"
                )
        self._answers = answers

    def _fill(self, moment: Moment) -> None:
        """Start the workers that are missing.

        Raises:
            UsageError: those before them ended one after the other, and nothing was trained.
        """
        progress = (moment.finished, moment.epochs)
        if progress != self._progress:
            self._progress, self._tries = progress, 0
        missing = self._workers - self._tally.all
        if missing <= 0 or not self._answers:
            self._begun = True
            return
        if self._begun:
            self._tries += missing
            if self._tries > max(FEWEST_TRIES, self._workers):
                raise UsageError(self._words_of_failure())
            self._replaced += missing
            self._tell(f"{count(missing, 'worker')} ended before the study did; replaced")
        self._launcher.start(missing)
        self._begun = True
        self._count()

    def _tell(self, what: str) -> None:
        self._view.say(what)
        self._notifier.tell(f"{self._standing.study.study_name}: {what}")

    def _words_of_failure(self) -> str:
        return (
            "workers end without training anything, and are started no more; the last said: "
            f"{answered(self._launcher.last_words)}"
        )

    def _let_leave(self, signal: Stop) -> None:
        """Wait for workers that see that the study is over; what is queued need not begin."""
        until = time.monotonic() + LEAVE_S
        while signal.signal is None and time.monotonic() < until:
            try:
                self._launcher.stop(queued=True)
                self._tally = self._launcher.tally()
            except Unreachable:
                pass  # asked again
            else:
                if not self._tally.all:
                    return
            time.sleep(LOOK_S / 4)

    def _show(self, moment: Moment) -> None:
        speed, idle = self._standing.epochs_per_s, self._standing.idle
        self._view.show(Seen(self._tally, moment, self._replaced, speed, idle))

    def _say_goodbye(self, over: bool) -> None:
        name, total = self._standing.study.study_name, self._standing.plan.trials
        of = "" if total is None else f" of {total:,}"
        words = f"study {name}: {self._finished:,}{of} trials finished"
        self._say(words)
        if over:
            self._notifier.tell(words)
            self._say(f"next: {command.runnable('dashboard')}")
        elif self._launcher.stays:
            this = [command.override("study", name), f"on={self._config.on.name}"]
            self._say(
                f"{count(self._tally.all, 'worker')} go on; to look again: "
                f"{command.runnable('fleet', *this)}"
            )
            self._say(f"or to end them: {command.runnable('fleet', *this, 'stop=true')}")
        else:
            self._say(f"the workers ended, trials under way wait; next: {command.again('fleet')}")


class View:
    """Shows a fleet: two lines that change in a terminal, otherwise a line where something changes.

    Args:
        standing: of its study.
        engine: that starts the workers.
        workers: how many there are to be.
        say: prints a line to the user.
    """

    def __init__(self, standing: Standing, engine: str, workers: int, say: Say) -> None:
        self._standing, self._engine, self._workers = standing, engine, workers
        self._tell = say
        self._seen: Seen | None = None
        self._shown: tuple[object, ...] = ()
        self._shown_at = -1e9
        self._console = Console(highlight=False)
        moves = may_move(self._console, say)
        self._live = LiveLines(self._lines, self._console, 4) if moves else None

    def __enter__(self) -> View:
        name = self._standing.study.study_name
        self._tell(f"{name}: {count(self._workers, 'worker')} on {self._engine}")
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        if self._live is None:
            self._tell(line)
        else:
            self._console.print(Text(line), soft_wrap=True)

    def show(self, seen: Seen) -> None:
        self._seen = seen
        if self._live is not None:
            return
        state = (seen.tally, seen.replaced)
        news = (*state, seen.moment.finished, seen.moment.epochs)
        late = time.monotonic() - self._shown_at > PLAIN_EVERY_S
        if state != self._shown[:2] or (late and news != self._shown):
            self._shown, self._shown_at = news, time.monotonic()
            self._tell("  ".join(self._words(seen)))

    def _lines(self) -> Sequence[Text]:
        if self._seen is None:
            return []
        workers, *study = self._words(self._seen)
        return [Text("  ".join(study), style="bold"), Text(workers)]

    def _words(self, seen: Seen) -> list[str]:
        total = self._standing.plan.trials
        of = "" if total is None else f"/{total:,}"
        idle = "-" if seen.idle is None else f"{100 * seen.idle:.0f} %"
        replaced = f", {seen.replaced} replaced" if seen.replaced else ""
        why = f" ({seen.tally.why})" if seen.tally.why else ""
        return [
            f"{seen.tally.running} running, {seen.tally.queued} queued{why}{replaced}",
            f"{seen.moment.finished:,}{of} trials",
            f"{seen.epochs_per_s:.1f} epochs/s",
            f"idle {idle}",
        ]
