"""What the dashboard tells Prometheus, read by the parser of its own client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from serving import ask, served

parser = pytest.importorskip("prometheus_client.parser")
PASSWORD = "eighteen holes of golf"
STUDY = ("study", "data=digits", "engine=torch", "space.batch_size=32", "epochs=2", "trials=3")


@pytest.mark.slow
def test_metrics_are_those_of_the_studies(begun: Callable[..., None], tmp_path: Path) -> None:
    begun(*STUDY, "pruner=none", 'study.name="a \\"b\\""')
    with served(tmp_path, GOLF_DASHBOARD_PASSWORD=PASSWORD) as url:
        assert ask(url, "/metrics").status == 401
        answer = ask(url, "/metrics", Authorization=f"Bearer {PASSWORD}")
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/plain")
    found = {
        (sample.name, sample.labels.get("state")): sample
        for family in parser.text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }
    values = {key: sample.value for key, sample in found.items()}
    assert values["golf_trials", "complete"] == 3 and values["golf_trials", "running"] == 0
    assert values["golf_epochs_total", None] == 6 and values["golf_workers", None] == 0
    assert 0 < values["golf_best_value", None] <= 1
    assert 0 < values["golf_database_seconds", None] < 60
    assert found["golf_best_value", None].labels == {"study": 'a "b"'}
