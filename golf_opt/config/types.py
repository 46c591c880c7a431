"""The types of configuration keys: what a value must be, each said once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, StrictFloat, StrictInt, WrapValidator

from golf_opt.config import CONF_DIR, load_yaml
from golf_opt.config.command import runnable
from golf_opt.config.errors import UsageError, check_choice

Protocol = Literal["test", "holdout"]
Board = Literal["article", "holdout", "99", "dense"]
BOARDS: tuple[str, ...] = get_args(Board)
EngineName = Literal["auto", "native", "torch", "cuda", "python"]
PruneMethod = Literal["index", "magnitude", "saliency", "anneal", "surgeon", "rounds"]
Scope = Literal["weights", "all"]


def _number_as_text(value: object) -> object:
    return str(value) if type(value) in (int, float) else value


def _refuse(wrong: Callable[[Any], bool], must: str) -> AfterValidator:
    """Return a check that says what a value must be where it is wrong."""

    def check(value: Any) -> Any:
        if wrong(value):
            raise ValueError(must)
        return value

    return AfterValidator(check)


def wrong_path(path: str | Path) -> str | None:
    """Return what is wrong with a path before anything is opened or made there, or None."""
    text = str(path)
    if not text.strip(" \t\n"):
        return "a path, and that is empty."
    if "\0" in text:
        return "a path, and that has a NUL in it."
    try:
        if any(len(os.fsencode(part)) > MOST_OF_A_NAME for part in Path(text).parts):
            return f"a path of names of at most {MOST_OF_A_NAME} bytes."
        Path(text).stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None  # who opens or makes it says so
    except (OSError, ValueError) as error:  # too long, a loop of links; letters that are none
        return f"a path: {getattr(error, 'strerror', None) or 'it cannot be encoded'}."
    return None


def _path(value: object) -> object:
    value = _number_as_text(value)
    if isinstance(value, (str, Path)) and (wrong := wrong_path(value)):
        raise ValueError(wrong)
    return value


def _given(name: object) -> object:
    if name is None:
        raise UsageError(f"study is missing; give study=NAME, as `{runnable('ls')}` lists them.")
    return name


def _two_or_more(names: object) -> object:
    if not isinstance(names, list) or len(set(map(str, names))) < 2:
        raise ValueError("the names of two or more; golf-opt compare studies=[A,B]")
    return tuple(dict.fromkeys(map(str, names)))


def _points(enqueue: object) -> object:
    """Return the points to run first: a name in conf/points, a mapping, or a list of mappings."""
    if isinstance(enqueue, str):
        folder = CONF_DIR / "points"
        names = [path.stem for path in folder.glob("*.yaml")]
        enqueue = load_yaml(folder / f"{check_choice('study.enqueue', enqueue, names)}.yaml")
    points = enqueue if isinstance(enqueue, (list, tuple)) else () if enqueue is None else [enqueue]
    for point in points:
        if not isinstance(point, dict) or not point:
            raise UsageError(
                f"study.enqueue holds {point!r}, but must hold mappings of parameter to value, "
                "such as {batch_size: 14, lr: 8e-4}."
            )
    return points


def _as_given(value: object, checked: Callable[[object], object]) -> object:
    checked(value)
    return value


AsGiven = WrapValidator(_as_given)  # an integer stays one where a float is wanted
MOST_OF_A_NAME = 255  # bytes, on every system of today
LONGEST_NAME = 200  # bytes; while it is made a file has a longer name, and systems take 255
MOST = 2**31 - 1  # that a column of whole numbers holds in any database
Positive = Annotated[StrictInt, Field(ge=1, le=MOST)]
TEACHERS = "teachers"  # the folder of teachers, among the studies
USUAL_TRIALS = 50  # of a study with neither a total nor a budget
USUAL_TRIALS_OF_A_SEARCH = 200
Trials = Positive | None
Epochs = Annotated[StrictInt, Field(ge=1, le=10_000)]
Seed = Annotated[StrictInt, Field(ge=0, le=2**63 - 1)]
Fraction = Annotated[StrictFloat, Field(gt=0, lt=1, description="a share above 0 and below 1")]
Target = Annotated[Fraction | None, Field(description="a share above 0 and below 1, or null")]
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}  # of a budget of time, in seconds


@dataclass(frozen=True)
class Budget:
    """What one run of a study may take: time, or epochs of training in all."""

    seconds: float | None = None
    epochs: int | None = None


def _budget(value: object) -> object:
    """Return the budget that is written as `10m`, `1.5h` or `20000epochs`."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?) ?(s|m|h|d|epochs?)", str(value))
    if value is None or isinstance(value, Budget):
        return value
    if found is None or float(found[1]) == 0:
        raise ValueError("a time such as 90s, 10m, 2h or 1d, or epochs such as 20000epochs")
    number, unit = found.groups()
    if unit in UNITS:
        return Budget(seconds=float(number) * UNITS[unit])
    if "." in number:
        raise ValueError("a whole number of epochs, such as 20000epochs")
    return Budget(epochs=int(number))


BudgetOrNone = Annotated[Budget | None, BeforeValidator(_budget)]
BudgetGiven = Annotated[
    Budget,
    BeforeValidator(_budget),
    Field(description="a time such as 90s, 10m, 2h or 1d, or epochs such as 2000epochs"),
]
MaxParams = Annotated[Positive | None, Field(description="a whole number of parameters, or null")]
Sizes = Annotated[
    Annotated[tuple[Positive, ...], Field(min_length=1)] | None,
    BeforeValidator(lambda sizes: tuple(sizes) if isinstance(sizes, list) else sizes),
    Field(description="a list of numbers of parameters, or null"),
]
EpochsOrNone = Annotated[Epochs | None, Field(description="a whole number of epochs, or null")]
Mapped = dict[str, Any]
Callbacks = Annotated[Mapped, BeforeValidator(lambda value: value or {})]  # null: none
FilePath = Annotated[Path, BeforeValidator(_path), Field(description="a path")]
FilePathOrNone = Annotated[FilePath | None, Field(description="a path, or null")]
Folder = Annotated[
    FilePath,
    _refuse(lambda path: path.exists() and not path.is_dir(), "a folder, and that is a file."),
]
NewPath = Annotated[
    FilePath,
    _refuse(
        lambda path: len(os.fsencode(path.name)) > LONGEST_NAME,
        f"a path whose last part has at most {LONGEST_NAME} bytes.",
    ),
]
ExistingFolder = Annotated[
    FilePath, _refuse(lambda path: not path.is_dir(), "a folder that is there.")
]
NewFolder = Annotated[
    NewPath,
    _refuse(lambda path: path.exists(), "a folder that is not there yet."),
    Field(description="a folder to make"),
]
NewFile = Annotated[NewPath, _refuse(lambda path: path.is_dir(), "a file, and that is a folder.")]
StudyName = Annotated[
    str,
    _refuse(
        lambda name: not name.strip() or len(name) > 200 or not name.isprintable(),
        "1 to 200 printable characters, not only blanks.",
    ),
]
FolderNameOrNone = Annotated[
    Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.@-]{0,99}$")] | None,
    Field(description="a folder's name of up to 100 letters, digits, ., _, @ and -, or null"),
]
ExistingStudy = Annotated[StudyName, BeforeValidator(_given)]
Trial = Annotated[
    Literal["best"] | Annotated[StrictInt, Field(ge=0, le=MOST)],
    Field(description="best or a trial's number"),
]
TrialOrNone = Annotated[Trial | None, Field(description="best, a trial's number, or null")]
TwoOrMore = Annotated[tuple[str, ...], BeforeValidator(_two_or_more)]
StudyNames = Annotated[
    tuple[StudyName, ...],
    BeforeValidator(lambda names: tuple(names) if isinstance(names, list) else names or ()),
    Field(description="a list of names of studies, or null"),
]
Points = Annotated[tuple[Mapped, ...], BeforeValidator(_points)]
Objective = Annotated[
    str,
    Field(
        pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$",
        max_length=200,
    ),
]
ObjectiveOrNone = Annotated[
    Objective | None, Field(description="MODULE:FUNCTION, such as my_module:train")
]
Directions = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=100)], Literal["minimize", "maximize"]],
    Field(min_length=1, max_length=10),
]
DirectionsOrNone = Annotated[
    Directions | None, Field(description="a mapping such as {loss: minimize}")
]
DataName = Annotated[str, BeforeValidator(_path), Field(description="a data set's name or a path")]
Side = Annotated[StrictInt, Field(ge=1, le=4096)]
PictureSize = Annotated[  # one number is both sides; None: as they are
    tuple[Side, Side] | None,
    BeforeValidator(lambda size: (size, size) if isinstance(size, int) else size),
    BeforeValidator(lambda size: tuple(size) if isinstance(size, list) else size),  # JSON has lists
    Field(description="a number of pixels, or [height, width], or null"),
]
Seeds = Annotated[  # of each point
    Annotated[StrictInt, Field(ge=1, le=1000)]
    | Annotated[str, Field(pattern=r"^race(:([2-9]|[1-9]\d{1,2}))?$")],
    Field(description="a number from 1 to 1000, race, or race:N with N from 2 to 999"),
]
Statistic = Annotated[
    str,
    Field(
        pattern=r"^(mean|lower|best|share:-?\d+(\.\d+)?(e-?\d+)?)$",
        max_length=40,
        description="mean, lower, best, or share:TARGET such as share:0.98",
    ),
]
Device = Annotated[
    str, Field(pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$", description="auto, cpu, cuda or cuda:N")
]
Fold = Annotated[StrictInt, Field(ge=0, le=5)]
Lanes = Annotated[  # None: as many as the engine finds useful
    Annotated[StrictInt, Field(ge=1, le=4096)] | None,
    BeforeValidator(lambda lanes: None if lanes == "auto" else lanes),
]
BoardName = Annotated[Board, BeforeValidator(_number_as_text)]  # 99 comes as a number
Reading = Annotated[
    Literal["last", "best"] | Positive, Field(description="last, best or an epoch's number")
]
