"""What one does with trained nets: prune, confirm on fresh seeds, write for other programs."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from golf_opt.api.asked import asking, configured, given_of, speaker
from golf_opt.api.nets import Net, write
from golf_opt.api.shown import table, titled
from golf_opt.api.studies import Study
from golf_opt.config import command
from golf_opt.config.errors import UsageError, check_choice, short
from golf_opt.config.schema import ConfirmConfig, PruneConfig
from golf_opt.golf.batch_norm import folded
from golf_opt.golf.deploy.run import exported
from golf_opt.golf.pruning.run import prune_trained
from golf_opt.golf.retrain.confirm import HEAD, Confirmed, cells, confirm_study
from golf_opt.golf.source import load_file
from golf_opt.utils.said import Say, tell

Form = Literal["c", "onnx", "safetensors"]


def prune(
    of: Net | Study,
    target: float | None = None,
    method: str | None = None,
    *,
    trial: int | str = "best",
    data: str | Path | Mapping[str, Any] | None = None,
    say: Say | None = tell,
    **overrides: Any,
) -> Net:
    """Prune a net as far as it keeps an accuracy; return what is left of it.

    The result is kept in `dir`, and the same call with the same net returns it at once, or goes on
    where Ctrl-C stopped it. Its `facts` are those of prune.json.

    Args:
        of: the net, or a study.
        target: the accuracy to keep, in [0, 1]; None is the net's own less half a point.
        method: index, magnitude, saliency, anneal, surgeon or rounds.
        trial: of a study: its number, or `best`.
        data: what guides; None is what the net was trained on.
        say: told every line; None is nobody.
        **overrides: any other key of `golf-opt prune`, such as `rule="holdout"` or
            `rounds={"epochs": 3}`.

    Raises:
        UsageError: the net misses the target to begin with, or something cannot be.

    >>> import golf_opt as golf
    >>> recipe = {"batch_size": 16, "lr": 5e-3}
    >>> net = golf.train("c2-2", recipe, seeds=1, epochs=2, data="digits", say=None).best
    >>> pruned = golf.prune(net, target=0.1, say=None, dir=folder)
    >>> pruned.num_nonzero < net.num_nonzero and pruned.accuracy() >= 0.1
    True
    """
    net = _net(of, trial)
    named = {"target": target, "method": method, "data": data}
    given = given_of(named, overrides)
    source = {"study": net.trained.study or "net"}  # which the configuration wants, and is read
    with asking("prune", given):
        config = configured(PruneConfig, "prune", given | source)
        if data is None and net.data is not None:
            config = replace(config, data=net.data)
        if isinstance(of, Study) and "dir" not in given:
            config = replace(config, folder=of.place.folder)
        call, told = command.this_call(), speaker(say)
        ended, folder = prune_trained(net.trained, config, call, told)
        told(ended.closing)
        facts = folder.read_summary()
        left = load_file(folder.weights, folded(net.trained).net)
        left = replace(left, label=f"{net.name}, pruned")
    if ended.signal not in (None, signal.SIGINT):
        signal.raise_signal(ended.signal)
    return Net(left, facts["guide_accuracy"], config.data, facts)


@dataclass(frozen=True)
class Confirmation:
    """What fresh seeds gave, a row for each trial, the best by its tuned value first."""

    rows: list[Confirmed]
    split: str  # what accuracies were measured on
    target: float
    stopped: bool  # by Ctrl-C, before all seeds were trained

    @property
    def means(self) -> npt.NDArray[np.float64]:
        """The mean accuracy of each row, in [0, 1]."""
        return np.array([row.ours.mean for row in self.rows])

    @property
    def best(self) -> Confirmed:
        """The row of the highest mean."""
        if not self.rows:
            raise UsageError("no seed was trained to its end.")
        return max(self.rows, key=lambda row: row.ours.mean)

    def __repr__(self) -> str:
        if not self.rows:
            return "<Confirmation of no trial>"
        best = self.best
        return f"<Confirmation: trial {best.number} is the best by mean, {best.ours.words}>"

    def _repr_html_(self) -> str:
        rows = [cells(row, self.target) for row in self.rows]
        return titled(f"accuracy on {self.split} in %", table(HEAD, rows))


def confirm(
    study: Study,
    top: int | None = None,
    seeds: int | None = None,
    *,
    target: float | None = None,
    say: Say | None = tell,
    **overrides: Any,
) -> Confirmation:
    """Train a study's best trials again on seeds that no trial had: how much of it was luck?

    What is trained is kept with the study; after Ctrl-C the same call goes on.

    Args:
        study: as `golf.study` and `golf.load` return it.
        top: trials, the best first; 5 if not given.
        seeds: for each; 10 if not given.
        target: an accuracy in [0, 1]; the table says what share of the seeds reaches it.
        say: told every line; None is nobody.
        **overrides: the keys of `engine` and `data`.

    Raises:
        UsageError: the study has no complete trial, or its data cannot be had.

    >>> import golf_opt as golf
    >>> tried = golf.study("c2-2", trials=2, epochs=1, data="digits", storage="memory",
    ...                    space={"batch_size": 32}, say=None, dir=folder)
    >>> done = golf.confirm(tried, top=1, seeds=2, say=None)
    >>> [row.number for row in done.rows] == [tried.best.number]
    True
    >>> done.rows[0].ours.n
    2
    """
    if not isinstance(study, Study):
        raise UsageError(f"study is {short(study)}, but must be what golf.study or golf.load gave.")
    given = given_of({"top": top, "seeds": seeds, "target": target}, overrides)
    with asking("confirm", given):
        config = configured(ConfirmConfig, "confirm", given | {"study": study.name})
        if not any(key.partition(".")[0] == "data" for key in given):
            config = replace(config, data=study.place.data or config.data)
        with study.opened() as opened:
            done = confirm_study(opened, config, speaker(say))
    if done.signal not in (None, signal.SIGINT):
        signal.raise_signal(done.signal)
    return Confirmation(done.rows, done.split, config.target, done.signal is not None)


@overload
def deploy(of: Net | Study, format: Literal["c"] = "c", *, trial: int | str = "best") -> str: ...
@overload
def deploy(
    of: Net | Study, format: Literal["onnx", "safetensors"], *, trial: int | str = "best"
) -> bytes: ...
@overload
def deploy(
    of: Net | Study, format: Form = "c", *, output: str | Path, trial: int | str = "best"
) -> Path: ...
def deploy(
    of: Net | Study,
    format: Form = "c",
    *,
    output: str | Path | None = None,
    trial: int | str = "best",
) -> str | bytes | Path:
    """Return a net as a C99 header (a text), an ONNX model or safetensors (bytes).

    Batch norm is folded into the layers beside it, where that is exact.

    Args:
        of: the net, or a study.
        format: c, onnx or safetensors.
        output: a file to write it to; then its path is returned.
        trial: of a study: its number, or `best`.

    Raises:
        UsageError: there is no such format or net, or the file cannot be written.

    >>> import golf_opt as golf
    >>> recipe = {"batch_size": 32, "lr": 2e-3}
    >>> net = golf.train("c2-2", recipe, seeds=1, epochs=1, data="digits", say=None).best
    >>> "golf_predict" in golf.deploy(net)
    True
    """
    check_choice("format", format, ("c", "onnx", "safetensors"))
    data = exported(folded(_net(of, trial).trained), format)
    if output is not None:
        return write(output, data)
    return data.decode() if format == "c" else data


def _net(of: object, trial: int | str) -> Net:
    if isinstance(of, Study):
        return of.net(trial)
    if not isinstance(of, Net):
        raise UsageError(f"the net is {short(of)}, but must be a golf.Net or a study.")
    return of
