"""/metrics: what Prometheus reads of the studies, a number for each thing, at the moment it asks.

Speeds are for Prometheus to work out: `rate(golf_epochs_total[1m])` is epochs a second.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from typing import Any

import optuna
from optuna.storages import BaseStorage

from golf_opt.storage.optuna_internals import id_of_study
from golf_opt.storage.workers import coordination, is_held
from golf_opt.utils.points import best_trial
from golf_opt.utils.trials import counts


class Metrics:
    """A collector of Prometheus' client.

    Args:
        reader: the storage as the pages see it.
        keeper: the same as `storage.open_storage` returned it, which knows the workers.
    """

    def __init__(self, reader: BaseStorage, keeper: BaseStorage) -> None:
        self._reader, self._workers = reader, coordination(keeper)

    def text(self) -> bytes | None:
        """Return the answer; None where Prometheus' client is not installed."""
        if importlib.util.find_spec("prometheus_client") is None:
            return None
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return bytes(generate_latest(registry))

    def describe(self) -> list[Any]:
        return []  # the registry would collect once more to know the names

    def collect(self) -> Iterator[Any]:
        """Yield the families of numbers."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        begun = time.perf_counter()
        self._workers.now()
        latency_s = time.perf_counter() - begun
        trials = GaugeMetricFamily("golf_trials", "Trials by state.", labels=("study", "state"))
        workers = GaugeMetricFamily("golf_workers", "Workers that have a trial.", labels=("study",))
        best = GaugeMetricFamily("golf_best_value", "Of the best trial.", labels=("study",))
        epochs = CounterMetricFamily(
            "golf_epochs", "Epochs that trials reported.", labels=("study",)
        )
        for frozen in self._reader.get_all_studies():
            name = frozen.study_name
            study = optuna.Study(name, self._reader)
            tally = counts(study)
            for state, count in tally.items():
                trials.add_metric((name, state), count)
            known = study.get_trials(deepcopy=False)
            epochs.add_metric((name,), sum(len(trial.intermediate_values) for trial in known))
            workers.add_metric((name,), self._busy(id_of_study(frozen), tally["running"]))
            if (found := best_trial(study)) is not None:
                best.add_metric((name,), found.values[0])
        yield from (trials, workers, best, epochs)
        yield GaugeMetricFamily("golf_database_seconds", "For a question to it.", latency_s)

    def _busy(self, study_id: int, running: int) -> int:
        """Return how many workers have a trial; where none runs, nobody is asked."""
        leases = self._workers.leases(study_id) if running else []
        return len({lease.owner for lease in leases if is_held(lease)})
