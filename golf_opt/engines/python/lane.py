"""The process of a lane: it imports the objective once, and runs one trial after the other.

Its engine talks to it through a socket, a line of JSON each way:

    {"objective": "my_module:train", ...}       -> {"digest": ...} or {"refused": why}
    {"params": ..., "seed": ..., "done": 0}     -> {"epoch": 1, "values": [...], "time_s": ...}
    "go" on with the next epoch                 -> the same, or {"error": why}
    "stop": the trial has no more epochs to run

After every value it waits, so a pruned trial costs nothing more. When the engine's end of the
socket is closed, by kill -9 too, the process and all that it started end at once.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from golf_opt.config import PACKAGE
from golf_opt.config.check import check
from golf_opt.config.errors import did_you_mean, short
from golf_opt.config.schema import DataConfig
from golf_opt.engines.process import Messages
from golf_opt.engines.python.files import TrialFiles
from golf_opt.engines.python.job import ObjectiveJob
from golf_opt.task.data import View, load
from golf_opt.utils.text import one_line

Objective = Callable[[ObjectiveJob], Iterator[Any]]


class Refused(Exception):
    """The objective cannot be had, or what it gave is no value; the message says why."""


def main() -> None:
    """Serve the engine whose socket is the file descriptor of the first argument."""
    messages = Messages()
    hello = messages.take()
    sys.path[:0] = [path for path in (os.getcwd(),) if path not in sys.path]  # noqa: PTH109
    try:
        function = find(hello["objective"])
    except Refused as refusal:
        messages.put(refused=str(refusal))
        return
    messages.put(digest=digest(function))
    lane = Lane(function, hello, messages)
    while True:
        message = messages.take()
        if isinstance(message, dict):
            lane.run(message)


class Lane:
    """Runs trials of an objective."""

    def __init__(self, function: Objective, hello: Mapping[str, Any], messages: Messages) -> None:
        self._function, self._names, self._messages = function, hello["names"], messages
        data, protocol = hello["data"], hello["protocol"]
        self._load = None if data is None else cache(lambda: view_of(data, protocol))

    def run(self, message: Mapping[str, Any]) -> None:
        """Run a trial until it is stopped; tell each epoch's values, or why there are none."""
        files = TrialFiles(Path(message["folder"]))
        try:
            files.begin(message["done"])
            job = ObjectiveJob(
                params=message["params"],
                seed=message["seed"],
                epochs=message["epochs"],
                number=message["number"],
                checkpoint=files.checkpoint,
                done=message["done"],
                _load=self._load,
            )
            self._epochs(job, files)
        except Refused as refusal:
            self._messages.put(error=str(refusal))
        except BaseException as error:  # SystemExit and KeyboardInterrupt are the objective's, too
            self._messages.put(error=reason(error, self._function))

    def _epochs(self, job: ObjectiveJob, files: TrialFiles) -> None:
        epochs = self._function(job)
        if not hasattr(epochs, "__next__"):
            raise Refused(f"it returned {short(epochs)}, but must yield a value an epoch")
        for epoch in range(job.done + 1, job.epochs + 1):
            begun = time.monotonic()
            try:
                given = next(epochs)
            except StopIteration:
                ended = f"it ended after {epoch - 1} of its {job.epochs} epochs"
                raise Refused(f"{ended}: it must yield one value for each") from None
            values = values_of(given, self._names, epoch)
            time_s = time.monotonic() - begun
            files.commit(epoch, values, time_s)
            self._messages.put(epoch=epoch, values=values, time_s=time_s)
            if self._messages.take() == "stop":
                break
        with contextlib.suppress(Exception):  # what it does when it is over is not the trial's
            epochs.close()  # type: ignore[attr-defined]


def view_of(data: Mapping[str, Any], protocol: str) -> View:
    """Return what the study's protocol lets a trial see."""
    config: DataConfig = check(DataConfig, data, "data")
    return load(config).view(protocol)


def find(objective: str) -> Objective:
    """Import an objective.

    Raises:
        Refused: it is not there, or cannot be one.
    """
    name, _, wanted = objective.partition(":")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise Refused(
                f"objective is {objective!r}, but there is no module {name!r}; it must be a module "
                f"in this folder, {os.getcwd()}, or an installed one"  # noqa: PTH109
            ) from error
        raise Refused(f"objective {objective} cannot be imported: {reason(error, None)}") from error
    except BaseException as error:  # whatever the module does when it is imported
        raise Refused(f"objective {objective} cannot be imported: {reason(error, None)}") from error
    function = getattr(module, wanted, None)
    if function is None:
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise Refused(f"objective is {objective!r}, but must be {did_you_mean(wanted, known)}")
    if not callable(function):
        raise Refused(f"objective {objective} is {short(function)}, but must be a function")
    if inspect.isfunction(function) and not inspect.isgeneratorfunction(inspect.unwrap(function)):
        raise Refused(f"objective {objective} is no generator: it must yield one value an epoch")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise Refused(f"objective {objective} must take one argument, the job: {error}") from error
    found: Objective = function
    return found


def digest(function: Any) -> str:
    """Return 16 hex digits of the source file that an objective is in; none where it has none."""
    with contextlib.suppress(OSError, TypeError):
        return sha256(Path(_file_of(function)).read_bytes()).hexdigest()[:16]
    return ""


def _file_of(function: Any) -> str:
    """Return the source file of an objective.

    Raises:
        TypeError: it has none.
    """
    return inspect.getfile(inspect.unwrap(function))


def values_of(given: Any, names: Sequence[str], epoch: int) -> list[float]:
    """Return the values of an epoch, an objective each.

    Args:
        given: what was yielded: a number; of several objectives a mapping, or a tuple in order.
        names: of the objectives.
        epoch: for the message.

    Raises:
        Refused: it is none of that, or not finite.
    """
    several = given if isinstance(given, (Mapping, tuple, list)) else [given]
    right = (
        set(several) == set(names) if isinstance(several, Mapping) else len(several) == len(names)
    )
    if not right:
        must = " and ".join(names)
        raise Refused(f"epoch {epoch} gave {short(given)}, but must give {must}")
    row = [several[name] for name in names] if isinstance(several, Mapping) else several
    return [_finite(value, name, epoch) for value, name in zip(row, names, strict=True)]


def _finite(value: Any, name: str, epoch: int) -> float:
    number = math.nan
    if not isinstance(value, (str, bytes)):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            number = float(value)
    if not math.isfinite(number):
        raise Refused(
            f"epoch {epoch} gave {short(value)} for {name}, but must give a finite number"
        )
    return number


def reason(error: BaseException, function: Any) -> str:
    """Return the last line of a traceback, and where in the objective's module it came up."""
    last = one_line(traceback.format_exception_only(error)[-1], most=500)
    frames = traceback.extract_tb(error.__traceback__)
    with contextlib.suppress(TypeError):
        file = _file_of(function) if function is not None else None
        mine = [frame for frame in frames if file is None or frame.filename == file]
        users = [frame for frame in mine if not _is_ours(frame.filename)]
        if users and users[-1].lineno is not None:
            return f"{last} ({Path(users[-1].filename).name}, line {users[-1].lineno})"
    return last


def _is_ours(filename: str) -> bool:
    return filename.startswith("<frozen") or Path(filename).is_relative_to(PACKAGE)


if __name__ == "__main__":
    main()
