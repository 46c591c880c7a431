"""Logistic regression on a table: which regularisation classifies scikit-learn's wines best?

golf-opt study objective=wine:train space=wine.yaml epochs=5 trials=20
"""

from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from golf_opt.engines.python import ObjectiveJob


def train(job: ObjectiveJob) -> Iterator[float]:
    """Yield the mean accuracy over so many folds as there were epochs; the last is the trial's."""
    table, kinds = load_wine(return_X_y=True)
    model = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=job.params["C"], max_iter=job.params["max_iter"], tol=1e-2),
    )
    folds = StratifiedKFold(job.epochs, shuffle=True, random_state=job.seed).split(table, kinds)
    scores = list(np.load(job.checkpoint)) if job.done else []
    for number, (fit, held_out) in enumerate(folds):
        if number < job.done:
            continue  # it was done before an interrupt
        scores.append(model.fit(table[fit], kinds[fit]).score(table[held_out], kinds[held_out]))
        with job.checkpoint.open("wb") as file:
            np.save(file, scores)
        yield float(np.mean(scores))
