"""What the dashboard tells Prometheus, read by the parser of its own client, and by a real one."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
import pytest
from conftest import ROOT
from serving import ask, served, wait_for

from golf_opt.config.schema import StorageConfig
from golf_opt.storage.connect import opened_storage
from tests.postgres import free_port

parser = pytest.importorskip("prometheus_client.parser")
PASSWORD = "eighteen holes of golf"
STUDY = (
    "study", "data=digits", "engine=torch", "space.batch_size=32", "epochs=2", "trials=3",
    "pruner=none", 'study.name="a \\"b\\""',
)  # fmt: skip


@pytest.mark.slow
def test_metrics_are_those_of_the_studies(begun: Callable[..., None], tmp_path: Path) -> None:
    begun(*STUDY)
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


@contextlib.contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Callable[[str], Any]]:
    """A Prometheus with the files of the documentation; give what asks its API.

    They are as they are there, but for the dashboard's port and the time between two looks.
    """
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed")
    text = (ROOT / "docs" / "examples" / "prometheus.yaml").read_text()
    for before, now in (
        ("127.0.0.1:8080", target),
        ("scrape_interval: 15s", "scrape_interval: 5s"),
        ("evaluation_interval: 15s", "evaluation_interval: 1s"),
    ):
        assert before in text
        text = text.replace(before, now)
    (folder / "prometheus.yaml").write_text(text)
    shutil.copy(ROOT / "docs" / "examples" / "alerts.yaml", folder)
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        program, "--config.file=prometheus.yaml", "--storage.tsdb.path=series",
        f"--web.listen-address={url.removeprefix('http://')}",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)

    def get(path: str) -> Any:
        assert process.poll() is None, (folder / "log").read_text()
        with contextlib.suppress(ConnectionError):
            answer = ask(url, path)
            return json.loads(answer.body)["data"] if answer.status == 200 else None

    try:
        yield get
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_a_real_prometheus_has_the_numbers_of_the_study(
    begun: Callable[..., None], tmp_path: Path
) -> None:
    begun(*STUDY)
    (tmp_path / "dashboard_password").write_text(f"{PASSWORD}\n")
    (tmp_path / "dashboard_password").chmod(0o600)
    with opened_storage(StorageConfig(f"sqlite:///{tmp_path}/studies/golf.db", None)) as storage:
        best = optuna.load_study(study_name='a "b"', storage=storage).best_value
    with (
        served(tmp_path, "dashboard.password_file=dashboard_password") as url,
        prometheus(tmp_path, url.removeprefix("http://").rstrip("/")) as get,
    ):

        def values(query: str) -> list[float]:
            found = get(f"/api/v1/query?query={quote(query)}")
            return [float(row["value"][1]) for row in found["result"]] if found else []

        expected = {
            'golf_trials{state="complete"}': [3],
            'golf_trials{state="running"}': [0],
            "golf_epochs_total": [6],
            "golf_best_value": [best],
            'up{job="golf"}': [1],
        }
        wait_for(lambda: {query: values(query) for query in expected} == expected)
        named = (ROOT / "docs" / "examples" / "alerts.yaml").read_text().count("- alert:")

        def evaluated() -> list[dict[str, Any]]:
            (group,) = get("/api/v1/rules")["groups"]
            return [rule for rule in group["rules"] if rule["health"] == "ok"]

        wait_for(lambda: len(evaluated()) == named)
        assert {rule["state"] for rule in evaluated()} == {"inactive"}
