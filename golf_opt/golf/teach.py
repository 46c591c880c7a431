"""Training a teacher: a few nets, and the mean of what they say of every training image."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from golf_opt import __version__
from golf_opt.config.check import check
from golf_opt.config.command import override, runnable
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import TeachConfig
from golf_opt.config.types import TEACHERS
from golf_opt.engines import create_engine
from golf_opt.engines.base import Engine, Floats, Job, Scoring, Tensors
from golf_opt.engines.lanes import Run, train
from golf_opt.golf.progress import TrainingProgress
from golf_opt.study.run import load_view
from golf_opt.study.space import Space
from golf_opt.task import rng
from golf_opt.task.arch import Net, build_net
from golf_opt.task.data import Split, View
from golf_opt.task.data.teacher import FACTS, LOGITS, Facts, digest_of
from golf_opt.task.modules.resolve import resolve
from golf_opt.task.recipe import Candidate
from golf_opt.utils.files import staged_folder
from golf_opt.utils.said import Say
from golf_opt.utils.signals import stop_on_signals
from golf_opt.utils.stats import points
from golf_opt.utils.text import count, percent, show_params, slug


@dataclass
class Said:
    """What nets say of a split's images: the sum of their logits."""

    split: Split
    total: npt.NDArray[np.float64] | float = 0.0

    def add(self, logits: Floats) -> None:
        self.total = self.total + logits.astype(np.float64)

    def accuracy(self) -> float:
        """Return the fraction of images that all nets together get right."""
        return float((np.argmax(self.total, 1) == self.split.labels).mean())


def teach(config: TeachConfig, command: str, say: Say) -> int | None:
    """Train a teacher and keep it; return the signal that ended it early, if one did.

    Args:
        config: what to train.
        command: what the user typed.
        say: prints a line to the user.

    Raises:
        UsageError: it cannot be trained, or its folder is there already.
    """
    candidate: Candidate = check(Candidate, config.recipe, "recipe")
    recipe = candidate.to_dict()
    view = load_view(config.data, config.protocol, Space({}, recipe), say)
    net = build_net(resolve(config.arch, view.input, say), view.input)
    name = config.name or f"{net.name}-{slug(Path(view.dataset).stem)}-{view.protocol}"
    folder = config.folder / TEACHERS / name
    if folder.exists():
        raise UsageError(f"teacher {folder} is there already; give name=... for another one.")
    seeds = [rng.derive(config.seed, "teacher", index) for index in range(config.nets)]
    runs = [Run(seed, Job(net, candidate, seed, config.epochs)) for seed in seeds]
    say(
        f"{name}: {count(len(runs), 'net')} of {net.num_params:,} parameters, {view.dataset}, "
        f"protocol {view.protocol}, {count(config.epochs, 'epoch')}; "
        f"{show_params(recipe)}"
    )
    said = [Said(view.train), Said(view.objective)]
    with contextlib.closing(create_engine(config.engine, view, net, say)) as engine:
        signal = _train(engine, view, runs, said, say)
    if signal is not None:
        say("stopped; nothing is kept of a teacher that is not whole")
        return signal
    facts = _keep(folder, config, view, net, runs, said, command)
    say(
        f"{facts.words}, {percent(facts.train_accuracy)} on {len(view.train):,} training images; "
        f"by themselves {', '.join(map(points, facts.accuracies))}\nin {folder}/: {LOGITS}, {FACTS}"
    )
    given = [override("teacher", str(folder)), f"protocol={view.protocol}", "space=distil"]
    say(f"next: {runnable('study', override('data', view.dataset), *given)}")
    return None


def _train(
    engine: Engine, view: View, runs: Sequence[Run[int]], said: Sequence[Said], say: Say
) -> int | None:
    """Train all nets, and let each say what it thinks; return the signal that ended it early.

    Raises:
        UsageError: the training of one cannot go on.
    """
    epochs = sum(run.job.epochs for run in runs)
    with stop_on_signals() as stop, TrainingProgress(epochs, say) as progress:
        for run, part in train(engine, runs, lambda: stop.signal is not None):
            progress.show(run)
            if run.error is not None:
                raise UsageError(f"seed {run.key} cannot be trained: {run.error}.")
            if run.over:
                tensors = engine.state(part.lane).net
                for split in said:
                    split.add(_logits(engine, view, run.job.net, tensors, split.split))
                progress.say(f"seed {run.key:<10}  {points(run.history[-1].accuracy)} %")
        return stop.signal


def _logits(engine: Engine, view: View, net: Net, tensors: Tensors, split: Split) -> Floats:
    if isinstance(engine, Scoring):
        return engine.logits(net, tensors, split.images)
    from golf_opt.engines.torch import TorchEngine  # seconds to import

    return TorchEngine(view).logits(net, tensors, split.images)


def _keep(
    folder: Path,
    config: TeachConfig,
    view: View,
    net: Net,
    runs: Sequence[Run[int]],
    said: Sequence[Said],
    command: str,
) -> Facts:
    """Write the teacher's folder, whole or not at all."""
    on_train, on_objective = said
    file = io.BytesIO()
    np.save(file, np.asarray(on_train.total / len(runs), dtype=np.float32))
    facts = Facts(
        data=view.dataset,
        data_digest=view.digest,
        protocol=config.protocol,
        num_train=len(view.train),
        net=net.name,
        layers=net.describe(),
        num_params=net.num_params,
        recipe=runs[0].job.candidate.to_dict(),
        epochs=config.epochs,
        seeds=[run.key for run in runs],
        measured_on=view.objective.name,
        accuracy=on_objective.accuracy(),
        accuracies=[run.history[-1].accuracy for run in runs],
        train_accuracy=on_train.accuracy(),
        logits=digest_of(file.getvalue()),
        version=__version__,
        command=command,
    )
    with staged_folder(folder) as part:
        (part / LOGITS).write_bytes(file.getvalue())
        (part / FACTS).write_text(facts.model_dump_json(indent=1) + "\n")
    return facts
