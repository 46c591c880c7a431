"""Optuna's own figures on paper: which parameters matter, and which pairs of values are good.

Optuna calls them experimental, and draws with pyplot, whose state belongs to the process. Both are
dealt with here and nowhere else.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from golf_opt.utils.points import MEAN, Statistic, as_trials, is_further_seed
from golf_opt.utils.spared import import_importances
from golf_opt.visualization.document import Picture
from golf_opt.visualization.plots import paper, to_svg

FEWEST_TRIALS = 10  # complete ones; of fewer, the best tenth is none
MOST_PAIRED = 3  # parameters, the most important ones


def optuna_pictures(study: optuna.Study, worth: Statistic = MEAN) -> Iterator[Picture]:
    """Draw importances and ranks, if there are trials enough and some parameter matters.

    Args:
        study: of one goal.
        worth: of a point with several seeds, which counts once.
    """
    trainings, study = study, of_points(study, worth)
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < FEWEST_TRIALS:
        return
    import_importances()
    from optuna.visualization import matplotlib as by_optuna

    importances = importances_of(study)
    if not any(importances.values()):
        return
    caption = "By PED-ANOVA: how far it decides whether a trial is among the best tenth."
    if study is not trainings:
        alone = ", ".join(f"{name} {x:.3f}" for name, x in importances_of(trainings).items())
        caption += f" Seeds of a point are averaged; each taken by itself gives {alone}."
    yield Picture(
        "importances",
        "Importance of each parameter",
        caption,
        _svg(lambda: by_optuna.plot_param_importances(study), 1.0 + 0.4 * len(importances)),
    )
    paired = list(importances)[:MOST_PAIRED]
    if len(paired) > 1:
        yield Picture(
            "ranks",
            "Pairs of parameters",
            "A dot is a complete trial, its colour the rank of its accuracy.",
            _svg(lambda: by_optuna.plot_rank(study, paired), 6.5),
        )


def of_points(study: optuna.Study, worth: Statistic) -> optuna.Study:
    """Return a study of the points of one, each one trial; the very study without further seeds."""
    trials = study.get_trials(deepcopy=False)
    if not any(map(is_further_seed, trials)):
        return study
    made = optuna.create_study(directions=study.directions)
    signs = [-1 if direction == StudyDirection.MINIMIZE else 1 for direction in study.directions]
    made.add_trials(as_trials(trials, worth, signs))
    return made


def importances_of(study: optuna.Study) -> dict[str, float]:
    """Return the importance of each parameter, not normalised, the largest first."""
    import_importances()
    from optuna.importance import get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some parameter makes no difference
        return get_param_importances(study, normalize=False)


def _svg(draw: Callable[[], Any], height: float) -> str:
    """Return what `draw` makes with pyplot, 8.5 inches wide and so many high, as an SVG element."""
    from matplotlib import pyplot

    with paper(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental; an axis with a single value
        pyplot.switch_backend("agg")
        pyplot.rcParams["text.parse_math"] = True  # powers of ten on an axis
        pyplot.rcParams["savefig.bbox"] = "tight"
        canvas = np.ravel(draw())[0].figure
        canvas.set_size_inches(8.5, height)
        drawn = to_svg(canvas)
        pyplot.close("all")  # Optuna leaves an empty one
    return drawn
