"""What a study optimises: a name, a direction, and how its values are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from golf_opt.utils.text import percent

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Goal:
    """One objective. An accuracy is a share in [0, 1], shown in percent; others are as they are."""

    name: str
    direction: Direction = "maximize"
    accuracy: bool = True

    def show(self, value: float) -> str:
        return percent(value) if self.accuracy else f"{value:.6g}"

    def admits(self, value: float | None) -> bool:
        """Whether a stored value can be one: finite, and of an accuracy in [0, 1]."""
        if value is None or not math.isfinite(value):
            return False
        return not self.accuracy or 0 <= value <= 1

    def scaled(self, value: float) -> float:
        """Return a value as a figure has it: of accuracies, percent."""
        return 100 * value if self.accuracy else value

    @property
    def sign(self) -> int:
        """What makes the better one of two values the larger one."""
        return -1 if self.direction == "minimize" else 1

    @property
    def axis(self) -> str:
        """What stands at an axis of a figure."""
        return f"{self.name} (%)" if self.accuracy else self.name


def show_values(goals: Sequence[Goal], values: Sequence[float]) -> str:
    """Return `97.72 %`, `0.0314`, or of several objectives `loss=0.0314 seconds=1.5`."""
    if len(goals) == 1:
        return goals[0].show(values[0])
    pairs = zip(goals, values, strict=True)
    return " ".join(f"{goal.name}={goal.show(value)}" for goal, value in pairs)


def show_goals(goals: Sequence[Goal]) -> str:
    """Return `test accuracy`, or `loss (minimize), seconds (minimize)`."""
    if len(goals) == 1 and goals[0].accuracy:
        return goals[0].name
    return ", ".join(f"{goal.name} ({goal.direction})" for goal in goals)
