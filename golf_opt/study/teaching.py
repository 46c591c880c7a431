"""Studies whose nets learn from a teacher: which one it is, and where it is to be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from golf_opt.config.errors import UsageError
from golf_opt.config.types import TEACHERS
from golf_opt.study.description import StudyDescription
from golf_opt.study.space import Space
from golf_opt.task.data import View
from golf_opt.task.data.teacher import Teacher, find_teacher, read_teacher, taught
from golf_opt.utils.said import Say


def find_given(path: Path | None, space: Space) -> Teacher | None:
    """Return the teacher that a user gives for a new study, if they do.

    Raises:
        UsageError: it cannot be read, or the space leaves it out, or asks for one in vain.
    """
    if space.free:
        return None  # of an objective
    check_space(path, space)
    return None if path is None else read_teacher(path)


def check_space(path: Path | None, space: Space) -> None:
    """Refuse a teacher that nobody listens to, and pupils without a teacher.

    Raises:
        UsageError: so it is.
    """
    fixed: Any = space.fixed.get("distill", 0)
    listens = "distill" in space.tuned or fixed > 0
    if path is not None and not listens:
        raise UsageError(
            "teacher is given, but the space has no distill, the share of the loss that is the "
            "teacher's; tune it or fix it, as with +space.distill=0.5, or take space=distil."
        )
    if path is None and listens:
        raise UsageError(
            "the space has distill, but there is no teacher; give teacher=FOLDER, which golf-opt "
            "teach makes, or teacher=FILE.npy of logits."
        )


def teach_view(
    view: View, plan: StudyDescription, name: str, given: Path | None, folder: Path, say: Say
) -> View:
    """Return what trials of a study that is there see of the data, its teacher with it.

    Args:
        view: of the data alone.
        plan: the study's description.
        name: the study's.
        given: where the user says that the teacher is; None: where it was, or in `folder`.
        folder: of the studies.
        say: prints a line to the user.

    Raises:
        UsageError: the study's teacher is not there, or the study has none.
    """
    if plan.teacher is None:
        if given is not None:
            raise UsageError(f"teacher is given, but study {name!r} learns from none.")
        return view
    places = [Path(plan.teacher.path), folder / TEACHERS] if given is None else [given]
    for place in places:
        if (found := find_teacher(place, plan.teacher.digest)) is not None:
            if found.path != places[0]:
                say(f"teacher: {found.path}")
            return taught(view, found)
    raise UsageError(
        f"study {name!r} learns from teacher {plan.teacher.digest} ({plan.teacher.words}), which "
        f"is not at {' or '.join(map(str, places))}; give teacher=PATH, where it is now."
    )
