"""Candidates are checked; learning rates are PyTorch's schedulers'; averages are means."""

import numpy as np
import pytest
import torch

from golf_opt.config.errors import UsageError
from golf_opt.task.recipe import OF_0_1, SCHEDULES, Candidate, average_rates, learning_rates

EPOCHS, STEPS = 7, 13


def torch_rates(candidate: Candidate) -> list[float]:
    """What torch.optim.lr_scheduler gives, step by step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=candidate.lr)
    total, cycle = EPOCHS * STEPS, candidate.step_size * STEPS
    scheduler = {
        "step": lambda: torch.optim.lr_scheduler.StepLR(
            optimizer, candidate.step_size, candidate.gamma
        ),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total),
        "one_cycle": lambda: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, candidate.lr, total, cycle_momentum=False
        ),
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
        "cyclic": lambda: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, cycle),
    }[candidate.schedule]()
    rates = []
    if candidate.schedule == "cyclic":  # the last cycle is whole, not the first
        scheduler.step(-total % cycle)
    for step in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if candidate.schedule != "step" or (step + 1) % STEPS == 0:
            scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_learning_rates_are_those_of_torch(schedule: str) -> None:
    candidate = Candidate(14, 8e-4, step_size=2, gamma=0.62, schedule=schedule)
    ours = np.concatenate([learning_rates(candidate, e, EPOCHS, STEPS) for e in range(EPOCHS)])
    np.testing.assert_allclose(ours, torch_rates(candidate), rtol=1e-6)


def test_gamma_one_is_a_constant_rate() -> None:
    """The article's published runs never stepped their scheduler."""
    rates = [learning_rates(Candidate(8, 1e-3), epoch, 18, 5) for epoch in range(18)]
    assert set(np.concatenate(rates)) == {1e-3}


def averaged(candidate: Candidate, values: np.ndarray) -> np.ndarray:
    """The running average of values, one for each step of the training."""
    rates = [average_rates(candidate, epoch, EPOCHS, STEPS) for epoch in range(EPOCHS)]
    average, along = np.nan, []
    for value, rate in zip(values, np.concatenate(rates), strict=True):
        average = value if rate == 1 else average + rate * (value - average)
        along.append(average)
    return np.array(along)


def test_ema_is_the_mean_of_all_steps_by_their_age() -> None:
    values = np.random.default_rng(0).normal(size=EPOCHS * STEPS)
    found = averaged(Candidate(14, 1e-3, average="ema", average_span=0.2), values)
    for step in (0, 1, 12, 13, 90):
        weights = np.exp(-(step - np.arange(step + 1)) / (0.2 * EPOCHS * STEPS))
        assert found[step] == pytest.approx(np.average(values[: step + 1], weights=weights))


def test_swa_is_the_mean_of_the_last_steps() -> None:
    values = np.random.default_rng(0).normal(size=EPOCHS * STEPS)
    found = averaged(Candidate(14, 1e-3, average="swa", average_span=0.3), values)
    first = 64  # of 91 steps 27 are 30 %
    assert found[:64].tolist() == values[:64].tolist()
    for step in (64, 65, 90):
        assert found[step] == pytest.approx(values[first : step + 1].mean())


@pytest.mark.parametrize(("span", "epochs"), [(0.01, [7]), (0.5, [5, 7]), (1.0, [1, 3, 5, 7])])
def test_swa_of_cycles_is_the_mean_of_their_ends(span: float, epochs: list[int]) -> None:
    values = np.random.default_rng(0).normal(size=EPOCHS * STEPS)
    recipe = {"schedule": "cyclic", "step_size": 2, "average": "swa", "average_span": span}
    found = averaged(Candidate(14, 1e-3, **recipe), values)  # type: ignore[arg-type]
    ends = [epoch * STEPS - 1 for epoch in epochs]
    assert found[-1] == pytest.approx(values[ends].mean())
    assert found[: ends[0]].tolist() == values[: ends[0]].tolist()


def test_what_averages_nothing_is_described_as_in_version_0_1() -> None:
    candidate = Candidate(14, 1e-3)
    assert average_rates(candidate, 0, EPOCHS, STEPS) is None
    assert tuple(candidate.to_dict()) == OF_0_1
    other = Candidate(14, 1e-3, average="swa", average_span=0.25)
    assert Candidate(**other.to_dict()) == other


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0, but must be at least 1"),
        ({"batch_size": 2.5}, "batch_size is 2.5, but must be a whole number"),
        ({"lr": 0.0}, "lr is 0.0, but must be above 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"gamma": 1.1}, "gamma is 1.1, but must be above 0 and at most 1"),
        ({"step_size": 0}, "step_size is 0"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"optimizer": "adamm"}, "did you mean 'adam'"),
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001, but must be at least 0"),
        ({"label_smoothing": 1}, "label_smoothing is 1"),
        ({"shift": -1.0}, "shift is -1.0, but must be at least 0 and at most 96"),
        ({"rotate": 200}, "rotate is 200, but must be at least 0 and at most 180"),
        ({"scale": 0.6}, "scale is 0.6, but must be at least 0 and at most 0.5"),
        ({"erase": "much"}, "erase is 'much', but must be a number"),
        ({"lr": "fast"}, "lr is 'fast', but must be a number"),
        ({"average": "emma"}, "did you mean 'ema'"),
        ({"mixup": 0.6}, "mixup is 0.6, but must be at least 0 and at most 0.5"),
        ({"order": "easy"}, "order is 'easy', but must be"),
        ({"order_share": 1.0}, "order_share is 1.0, but must be at least 0 and at most 0.95"),
        ({"average_span": 0.0}, "average_span is 0.0, but must be above 0 and at most 1"),
    ],
)
def test_bad_candidates_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Candidate(**({"batch_size": 14, "lr": 1e-3} | values))  # type: ignore[arg-type]
