"""Where users keep their trials: MLflow, TensorBoard, Weights & Biases."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from golf_opt.study.tracking import INTERRUPTED, Metrics, Tracked, Tracker, Writer
from golf_opt.utils.text import slug

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "fail": "FAILED", INTERRUPTED: "KILLED"}


class MLflow(Tracker):
    """callbacks=mlflow: a run for each trial, in an experiment for the study.

    Args:
        uri: of the tracking server or database; None is $MLFLOW_TRACKING_URI, or MLflow's default.
        experiment: its name; None is the study's.
    """

    name, package = "mlflow", "mlflow"

    def __init__(self, uri: str | None = None, experiment: str | None = None) -> None:
        super().__init__()
        self._uri, self._experiment = uri, experiment

    def writer(self, study: str, study_id: str) -> Writer:
        return _Runs(self._uri, self._experiment or study, study_id)


class _Runs:
    """Through MLflow's client, which unlike its functions has no run that is the current one."""

    def __init__(self, uri: str | None, experiment: str, study_id: str) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(uri)
        found = self._client.get_experiment_by_name(experiment)
        self._experiment = (
            found.experiment_id if found else self._client.create_experiment(experiment)
        )
        self._study_id = study_id
        self._ids: dict[int, str] = {}  # of the runs of trials in lanes

    def begin(self, trial: Tracked) -> None:
        run_id, known = self._find(trial.number)
        if run_id is None:
            tags = {key: str(value) for key, value in trial.facts.items()}
            tags |= {"golf_opt.study": self._study_id, "golf_opt.trial": str(trial.number)}
            name = f"trial {trial.number}"
            run_id = self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id
            for key, value in trial.params.items():
                self._client.log_param(run_id, key, value)
        else:
            self._client.update_run(run_id, "RUNNING")
        self._ids[trial.number] = run_id
        for epoch, metrics in trial.epochs.items():
            if epoch not in known:
                self.epoch(trial.number, epoch, metrics)

    def _find(self, number: int) -> tuple[str | None, set[int]]:
        """Return the run of a trial that was begun before, and the epochs that it has."""
        same = f"tags.`golf_opt.study` = '{self._study_id}' and tags.`golf_opt.trial` = '{number}'"
        for run in self._client.search_runs([self._experiment], same, max_results=1):
            history = self._client.get_metric_history(run.info.run_id, "time_s")
            return run.info.run_id, {metric.step for metric in history}
        return None, set()

    def epoch(self, number: int, epoch: int, metrics: Metrics) -> None:
        from mlflow.entities import Metric

        now_ms = int(1000 * time.time())
        batch = [Metric(name, value, now_ms, epoch) for name, value in metrics.items()]
        self._client.log_batch(self._ids[number], metrics=batch)

    def end(self, trial: Tracked) -> None:
        run_id = self._ids.pop(trial.number)
        if trial.value is not None:
            self._client.log_metric(run_id, "objective", trial.value)
        self._client.set_tag(run_id, "state", trial.state)
        self._client.set_terminated(run_id, STATUS[trial.state])

    def close(self) -> None:
        """Nothing is open."""


class TensorBoard(Tracker):
    """callbacks=tensorboard: a folder of events for each trial; the HParams tab compares them.

    Args:
        folder: of all studies.
    """

    name, package = "tensorboard", "tensorboard"

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def writer(self, study: str, study_id: str) -> Writer:
        return _Events(Path(self._folder) / slug(study))


class _Events:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter, summary

        self._make: Any = SummaryWriter
        self._hparams: Any = summary.hparams
        self._folder = folder
        self._open: dict[int, Any] = {}

    def begin(self, trial: Tracked) -> None:
        path = self._folder / f"trial-{trial.number:04}"
        self._open[trial.number] = self._make(str(path))
        for epoch, metrics in trial.epochs.items():  # once more: events of one step are one point
            self.epoch(trial.number, epoch, metrics)

    def epoch(self, number: int, epoch: int, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._open[number].add_scalar(name, value, epoch)

    def end(self, trial: Tracked) -> None:
        writer = self._open.pop(trial.number)
        facts = {"state": trial.state, "study": trial.facts["study"]}
        if trial.value is not None:
            for part in self._hparams(dict(trial.params) | facts, {"objective": trial.value}):
                writer.file_writer.add_summary(part)
            writer.add_scalar("objective", trial.value, max(trial.epochs))
        writer.close()

    def close(self) -> None:
        """Each trial's file is closed already."""


class WandB(Tracker):
    """callbacks=wandb: a run for each trial, written when it is over; the study is its group.

    Args:
        project: whose runs they are.
        mode: online, offline or disabled; None is $WANDB_MODE.
        folder: wandb/ is made in it.
    """

    name, package = "wandb", "wandb"

    def __init__(
        self,
        project: str,
        mode: Literal["online", "offline", "disabled"] | None = None,
        folder: str = ".",
    ) -> None:
        super().__init__()
        self._project, self._mode, self._folder = project, mode, folder

    def writer(self, study: str, study_id: str) -> Writer:
        return _WholeRuns(self._project, self._mode, self._folder, study, study_id)


class _WholeRuns:
    """A run in one go: its opening takes a second or more, and an interrupted trial needs none."""

    def __init__(self, project: str, mode: Any, folder: str, study: str, study_id: str) -> None:
        import wandb

        self._wandb = wandb
        self._study_id = study_id
        settings = wandb.Settings(silent=True, console="off")
        self._options = {
            "project": project, "mode": mode, "dir": folder, "group": study, "resume": "allow",
            "reinit": "create_new", "settings": settings,
        }  # fmt: skip

    def begin(self, trial: Tracked) -> None:
        """Nothing is written yet."""

    def epoch(self, number: int, epoch: int, metrics: Metrics) -> None:
        """Nothing is written yet."""

    def end(self, trial: Tracked) -> None:
        if trial.state == INTERRUPTED:
            return
        own_id = f"{self._study_id[:12]}-{trial.number}"
        config = {**trial.facts, **trial.params}
        tags = [trial.state]
        run = self._wandb.init(
            id=own_id, name=f"trial {trial.number}", config=config, tags=tags, **self._options
        )
        for epoch, metrics in trial.epochs.items():
            run.log(dict(metrics), step=epoch)
        if trial.value is not None:
            run.summary["objective"] = trial.value
        run.finish(exit_code=int(trial.state == "fail"))

    def close(self) -> None:
        """Each run is finished already."""
