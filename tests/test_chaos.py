"""Workers die at random, the database server too, and the study ends as if nothing had happened.

A small round of each; `python -m tests.chaos` runs the large ones.
"""

import pytest

from tests import chaos, postgres


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_a_study_survives_its_workers(kind: str) -> None:
    if kind == "postgres" and not postgres.found():
        pytest.skip("PostgreSQL's server binaries (initdb, postgres) are not installed")
    report = chaos.run(kind, trials=6, epochs=120, seed=0, workers=2, blows=8, slow_s=0.05)
    assert report.kills + report.terms >= 3
    assert report.server_restarts == (2 if kind == "postgres" else 0)
    assert report.repeated_s <= 1.0 * report.kills  # less than a slice of training each
