"""Which rows differ, and by how much: intervals, ranks, and what the ranks tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
LEVEL = 0.95
DRAWS = 10_000


def interval(values: Floats, seed: int = 0) -> tuple[float, float]:
    """Return the bootstrap interval of a mean."""
    draw = np.random.default_rng(seed).integers(0, len(values), (DRAWS, len(values)))
    low, high = np.quantile(values[draw].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def gap(gaps: Floats) -> str:
    """Return mean and interval of differences of accuracies in points: `+0.12 [+0.06, +0.20]`."""
    low, high = interval(gaps)
    return f"{100 * gaps.mean():+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def mean_ranks(results: Floats) -> Floats:
    """Return the mean rank of each row, 1 the best, of results [rows, repeats]."""
    ranks: Floats = stats.rankdata(-results, axis=0).mean(axis=1)
    return ranks


def critical_difference(rows: int, repeats: int) -> float:
    """Return by how much the mean ranks of two rows must differ (Nemenyi, Demsar 2006)."""
    q = stats.studentized_range.ppf(LEVEL, rows, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(rows * (rows + 1) / (6 * repeats)))


def friedman(results: Floats) -> float:
    """Return how likely ranks so different are if all rows were the same."""
    return float(stats.friedmanchisquare(*results).pvalue)


def against(base: Floats, others: Sequence[Floats]) -> list[float]:
    """Return the p-value of each against the base: Wilcoxon's signed ranks, corrected by Holm."""
    raw = [1.0 if (base == row).all() else stats.wilcoxon(row, base).pvalue for row in others]
    corrected = [1.0] * len(raw)
    largest = 0.0
    for place, index in enumerate(np.argsort(raw)):
        largest = max(largest, min(1.0, raw[index] * (len(raw) - place)))
        corrected[index] = largest
    return corrected


def cliques(ranks: Floats, difference: float) -> list[tuple[int, int]]:
    """Return the spans of rows, by place in rank order, that ranks do not tell apart."""
    ordered = np.sort(ranks)
    spans = [
        (first, last)
        for first, last in combinations(range(len(ordered)), 2)
        if ordered[last] - ordered[first] <= difference
    ]
    return [
        span
        for span in spans
        if not any(o != span and o[0] <= span[0] and span[1] <= o[1] for o in spans)
    ]


def picked_after(trace: Sequence[tuple[int, float]], epochs: float) -> float:
    """Return the confirmed mean of what a study would have picked after so many epochs.

    Args:
        trace: [epochs spent, confirmed mean of its pick from then on].
        epochs: spent; at an earlier time than the first pick's, that one counts.
    """
    return next((value for at, value in reversed(trace) if at <= epochs), trace[0][1])


def curve(trace: Sequence[tuple[int, float]], epochs: Floats) -> Floats:
    """Return the confirmed mean of a study's pick at each of `epochs`; 0 before its first pick."""
    at, value = np.array(trace).T
    place = np.searchsorted(at, epochs, side="right") - 1
    return np.where(place >= 0, value[np.maximum(place, 0)], 0.0)


def needed(
    curves: Floats, base: Floats, margin: float, seed: int = 0
) -> tuple[float, float, float]:
    """Return where a row's mean first comes to the base's last one, and the bootstrap interval.

    Args:
        curves: of the row [repeats, times].
        base: what the base's studies ended with [repeats]; repeat k of both is drawn together.
        margin: less by so much is as good.

    Returns:
        The place among the times, and its interval; infinite where it is not reached.
    """
    count = len(base)
    draw = np.random.default_rng(seed).integers(0, count, (DRAWS // 10, count))
    means = np.vstack([curves.mean(axis=0), curves[draw].mean(axis=1)])
    ends = np.append(base.mean(), base[draw].mean(axis=1))
    there = means >= ends[:, None] - margin
    first = np.where(there.any(axis=1), there.argmax(axis=1), np.inf)
    tails = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    low, high = np.quantile(first[1:], tails, method="nearest")
    return float(first[0]), float(low), float(high)
