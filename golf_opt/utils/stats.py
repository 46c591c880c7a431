"""What n seeds gave: mean, standard deviation, confidence interval, range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
ENOUGH = 5  # seeds; of fewer, an interval says nothing that one would act on


@dataclass(frozen=True)
class Spread:
    """Measurements of one thing on n seeds. Of one, sd and interval are NaN; of none, all is."""

    values: Sequence[float]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return float(np.mean(self.values)) if self.n else math.nan

    @property
    def sd(self) -> float:
        """The sample standard deviation, with n - 1."""
        return float(np.std(self.values, ddof=1)) if self.n > 1 else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the mean, by Student's t."""
        if self.n < 2:
            return math.nan, math.nan
        from scipy.special import stdtrit  # a second less than scipy.stats takes to import

        half = float(stdtrit(self.n - 1, (1 + CONFIDENCE) / 2)) * self.sd / math.sqrt(self.n)
        return self.mean - half, self.mean + half

    @property
    def low(self) -> float:
        return min(self.values, default=math.nan)

    @property
    def high(self) -> float:
        return max(self.values, default=math.nan)

    @property
    def words(self) -> str:
        """`mean 97.43 %, sd 0.20 points, 97.21 to 97.72 %, n = 5 seeds`, of accuracies."""
        return (
            f"mean {points(self.mean)} %, sd {points(self.sd)} points, "
            f"{points(self.low)} to {points(self.high)} %, n = {self.n} seeds"
        )

    def reaching(self, target: float) -> int:
        """How many of the values are at least `target`."""
        return sum(value >= target for value in self.values)


def points(accuracy: float) -> str:
    """Return an accuracy or a difference of two, in [0, 1], as `97.72`; NaN as a dash."""
    return "-" if math.isnan(accuracy) else f"{100 * accuracy:.2f}"
