"""How much each parameter matters: by one training of every point, and by the mean of several."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import optuna

from bench.samplers.table import Table
from golf_opt.utils.spared import import_importances

DRAWS = 20  # of a seed for every point

Importances = dict[str, float]


def by_parameter(table: Table, values: Mapping[int, float]) -> Importances:
    """Return the importance of each parameter, in sum 1, for points of these accuracies."""
    import_importances()
    from optuna.importance import get_param_importances

    study = optuna.create_study(direction="maximize")
    spaces = {name: it.distribution for name, it in table.space.tuned.items()}
    for point, value in values.items():
        params = {name: x for name, x in table.points[point].items() if name in spaces}
        its = {name: spaces[name] for name in params}
        study.add_trial(optuna.create_trial(params=params, distributions=its, value=value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some parameter makes no difference
        return get_param_importances(study)


def section(table: Table) -> list[str]:
    """Return the page's part on importances: of all points, and of those with several seeds."""
    better = [point for point in table.known if table.is_held_back(point)]
    lines = [
        "",
        "## Which parameter matters",
        "",
        "Importances by Optuna's own measure, in sum 1, of the test accuracies in the table. "
        f"`one seed`: every point by one of its seeds, as a study of one seed sees it; the mean "
        f"of {DRAWS} draws and their standard deviation. `mean of seeds`: every point by the mean "
        "of all seeds it has.",
        "",
    ]
    whole = by_parameter(table, {p: table.test(p) for p in table.known})
    lines += [f"| points | by | {' | '.join(whole)} |", f"| --- | --- |{' ---: |' * len(whole)}"]
    for said, chosen in (("all", table.known), ("the better ones", better)):
        if not chosen:
            continue
        rng = np.random.default_rng(0)
        drawn = [
            by_parameter(table, {p: table.test(p, int(rng.choice(table.seeds(p)))) for p in chosen})
            for _ in range(DRAWS)
        ]
        alone = {name: [importances[name] for importances in drawn] for name in whole}
        cells = [f"{np.mean(alone[name]):.2f} ± {np.std(alone[name]):.2f}" for name in whole]
        lines.append(f"| {said} ({len(chosen)}) | one seed | {' | '.join(cells)} |")
        mean = by_parameter(table, {p: table.test(p) for p in chosen})
        cells = [f"{mean[name]:.2f}" for name in whole]
        lines.append(f"| {said} ({len(chosen)}) | mean of seeds | {' | '.join(cells)} |")
    return lines
