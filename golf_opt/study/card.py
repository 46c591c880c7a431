"""The card of a trial's net: layers, parameters by layer, accuracy by seed, what it costs."""

from __future__ import annotations

import math

import optuna
from optuna.trial import FrozenTrial

from golf_opt.storage.studies import marks, readings_of
from golf_opt.study.description import description_of
from golf_opt.study.fresh import fresh_of
from golf_opt.task.arch import Net, Node
from golf_opt.task.layers import show_shape
from golf_opt.utils.stats import Spread
from golf_opt.utils.text import aligned, count, percent, show_params
from golf_opt.utils.trials import attribute

HEAD = ("layer", "output", "parameters", "multiply-adds")


def multiply_adds(node: Node) -> int:
    """Return how often a layer's weights are multiplied by something for one image."""
    weights = [p.size for p in node.parameters if p.name.endswith(".weight") and len(p.shape) > 1]
    places = math.prod(node.output_shape[1:])  # of a picture; one where features come out
    return sum(weights) * places


def layer_rows(net: Net) -> list[list[str]]:
    """Return a row for each layer, as HEAD has them, and the total."""
    rows = [
        [
            f"{node.name} (shared)" if node.shared else node.name,
            show_shape(node.output_shape),
            f"{node.num_params:,}",
            f"{multiply_adds(node):,}",
        ]
        for node in net.nodes
    ]
    total = sum(map(multiply_adds, net.nodes))
    return [*rows, ["total", "", f"{net.num_params:,}", f"{total:,}"]]


def accuracies(study: optuna.Study, trial: FrozenTrial) -> dict[int, float]:
    """Return what each seed of a trial's point came to, by the number of its trial."""
    first = attribute(trial, "point", int)
    point = trial.number if first is None else first
    found = {}
    for other in study.get_trials(deepcopy=False):
        own = attribute(other, "point", int)
        if (other.number if own is None else own) == point and other.intermediate_values:
            found[other.number] = other.intermediate_values[max(other.intermediate_values)]
    return found


def card(study: optuna.Study, trial: FrozenTrial) -> list[str]:
    """Return the card in lines of text.

    Args:
        study: of ours, that trains nets.
        trial: of it.

    Raises:
        UsageError: the trial's parameters make no net.
    """
    plan = description_of(study)
    net = plan.job(trial).net
    goal = plan.goals[0]
    time_s = attribute(trial, "time_s", float)
    epochs = max(trial.intermediate_values, default=0)
    cost = f"{count(epochs, 'epoch')}" + ("" if time_s is None else f" in {time_s:.1f} s of a lane")
    lines = [
        f"{net.name}: trial {trial.number} of {study.study_name}, {trial.state.name.lower()}",
        "",
        show_params(trial.params),
        "",
        *aligned(HEAD, layer_rows(net), "lrrr"),
        "",
    ]
    seeds = accuracies(study, trial)
    for number, value in seeds.items():
        lines.append(f"trial {number}: {goal.name} {goal.show(value)}")
    if len(seeds) > 1:
        lines.append(f"{goal.name}: {Spread(list(seeds.values())).words}")
    fresh = fresh_of(marks(study), plan.epochs).get(trial.number)
    if fresh is not None:
        after = f", {count(fresh.epochs, 'epoch')}"
        lines.append(f"on fresh seeds{after}: {_words(fresh.ours)}")
        if fresh.test.n:
            lines.append(f"test accuracy of those: {_words(fresh.test)}")
    if trial.number in (test := readings_of(study)):
        lines.append(f"test accuracy of the trial's own net: {percent(test[trial.number])}")
    return [*lines, f"cost: {cost}"]


def _words(spread: Spread) -> str:
    return percent(spread.mean) if spread.n == 1 else spread.words
