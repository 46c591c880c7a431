"""Record a table of trainings: points of a space by seeds, every epoch's accuracy of each.

    python -m bench.samplers.record FILE.jsonl [--verb study] [key=value ...]
        [--points 256] [--only-first N] [--best N] [--first-seed 0] [--seeds 6]

The keys are those of the verb, `study` or `search`: `arch=c4-5-4 space=article`, or
`--verb search family=separable max_params=700`, of which nets that are too large are left out.
Points are of a scrambled Sobol sequence, and seed k is the same for every point, so that points can
be compared seed by seed. One line a training is appended
as it ends: the same command goes on where it stopped. Seeds come one after another, each over all
points, so that a table that is not finished is one of fewer seeds. With --best only the points that
are best by the seeds before --first-seed are trained: the better ones can have more seeds.

`accuracy` is of the data that the protocol's objective is measured on, after each epoch; `test` is
of the test set, after the last. MNIST is read from $GOLF_DATA (default data/).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats import qmc

from golf_opt.cli.compose import compose
from golf_opt.config.check import load
from golf_opt.config.schema import StudyConfig
from golf_opt.engines.lanes import Run, train
from golf_opt.study.build import describe
from golf_opt.study.description import StudyDescription
from golf_opt.study.run import engine_for
from golf_opt.study.space import Space
from golf_opt.task import rng
from golf_opt.task.data import load as load_data

Key = tuple[int, int]  # point, seed
DIGITS = 6  # of a real parameter, so that a table can be read


def value_at(distribution: optuna.distributions.BaseDistribution, fraction: float) -> Any:
    """Return the value at a fraction in [0, 1) of a distribution, on its own scale."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(fraction * len(distribution.choices))]
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    low, high = distribution.low, distribution.high
    if isinstance(distribution, IntDistribution) and not distribution.log:
        steps = (high - low) // distribution.step + 1
        return low + int(fraction * steps) * distribution.step
    value = low * (high / low) ** fraction if distribution.log else low + (high - low) * fraction
    if isinstance(distribution, IntDistribution):
        return min(high, max(low, round(value)))
    return min(high, max(low, float(f"{value:.{DIGITS}g}")))


def sobol(space: Space, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return the first `count` points of a scrambled Sobol sequence over a space."""
    names = list(space.tuned)
    power = max(1, (count - 1).bit_length())
    unit = qmc.Sobol(len(names), seed=seed).random_base2(power)[:count]
    points = []
    for row in unit:
        fractions = dict(zip(names, row, strict=True))
        every = {name: value_at(space.tuned[name].distribution, fractions[name]) for name in names}
        trial = optuna.trial.FixedTrial(every)  # what does not matter is not asked for
        values = space.values(trial)
        points.append({name: values[name] for name in names if name in values})
    return points


def seed_of(index: int) -> int:
    """Return seed `index` of every point."""
    return rng.derive("compare-samplers", "seed", index)


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a table's head and its trainings; a last line cut short by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows[0], rows[1:]


def points_of(plan: StudyDescription, count: int) -> list[dict[str, Any]]:
    """Return Sobol points of a study's space whose nets are not too large."""
    space = plan.search_space
    points = sobol(space, count)
    if plan.max_params is None:
        return points
    most = plan.max_params
    return [p for p in points if plan.net_of(dict(space.fixed) | p).num_params <= most]


def head_of(plan: StudyDescription, points: list[dict[str, Any]]) -> dict[str, Any]:
    kept = ("arch", "family", "max_params", "space", "data", "digest", "protocol", "epochs")
    head = {key: getattr(plan, key) for key in kept}
    return {key: value for key, value in head.items() if value is not None} | {"points": points}


def runs_of(
    missing: list[Key], points: list[dict[str, Any]], plan: StudyDescription
) -> Iterator[Run[Key]]:
    fixed = dict(plan.search_space.fixed)
    for point, seed in missing:
        yield Run((point, seed), plan.job_of(fixed | points[point], seed_of(seed)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--verb", choices=("study", "search"), default="study")
    parser.add_argument("--points", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only-first", type=int, help="of the points")
    parser.add_argument("--best", type=int, help="of the points, as the seeds before tell")
    options = parser.parse_intermixed_args()
    root = os.environ.get("GOLF_DATA", "data")
    keys = [f"data.root={root}", "data=mnist", "protocol=holdout", "storage=memory"]
    config = load(StudyConfig, compose(options.verb, [*keys, *options.overrides]))
    assert config.data is not None
    view = load_data(config.data).view(config.protocol)
    plan = describe(config, view, "")
    path: Path = options.file
    head = head_of(plan, points_of(plan, options.points))
    points = head["points"]
    rows: list[Mapping[str, Any]] = []
    if path.exists():
        stored, rows = read(path)  # type: ignore[assignment]
        assert stored == json.loads(json.dumps(head)), f"{path} is a table of something else"
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(head) + "\n")
    there = {(row["point"], row["seed"]) for row in rows}
    chosen = list(range(options.only_first or len(points)))
    if options.best:
        finals: dict[int, list[float]] = {}
        for row in rows:
            if row["seed"] < options.first_seed:
                finals.setdefault(row["point"], []).append(row["accuracy"][-1])
        means = {point: sum(values) / len(values) for point, values in finals.items()}
        chosen = sorted(means, key=lambda point: (-means[point], point))[: options.best]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    missing = [(point, seed) for seed in seeds for point in chosen if (point, seed) not in there]
    engine = engine_for(config.engine, plan, config.data, view, print)
    started, done, epochs = time.perf_counter(), 0, 0
    with path.open("a") as table:
        for run, part in train(engine, runs_of(missing, points, plan)):
            epochs += part.result is not None
            if not run.over:
                continue
            row = {"point": run.key[0], "seed": run.key[1]}
            row["accuracy"] = [round(result.accuracy, 6) for result in run.history]
            if run.error is None:
                tensors = engine.state(part.lane).tensors
                row["test"] = round(engine.evaluate(run.job.net, tensors, view.test), 6)
            table.write(json.dumps(row, separators=(",", ":")) + "\n")
            table.flush()
            done += 1
            pace = (time.perf_counter() - started) / done
            left_min = pace * (len(missing) - done) / 60
            print(f"{done} of {len(missing)}, {pace:.1f} s each, {left_min:.0f} min", flush=True)


if __name__ == "__main__":
    main()
