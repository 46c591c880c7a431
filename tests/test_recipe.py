"""Candidates are checked; learning rates are PyTorch's schedulers'."""

import numpy as np
import pytest
import torch

from golf_opt.config.errors import UsageError
from golf_opt.task.recipe import Candidate, learning_rates

EPOCHS, STEPS = 7, 13


def torch_rates(candidate: Candidate) -> list[float]:
    """What torch.optim.lr_scheduler gives, step by step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=candidate.lr)
    total = EPOCHS * STEPS
    scheduler = {
        "step": lambda: torch.optim.lr_scheduler.StepLR(
            optimizer, candidate.step_size, candidate.gamma
        ),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total),
        "one_cycle": lambda: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, candidate.lr, total, cycle_momentum=False
        ),
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
    }[candidate.schedule]()
    rates = []
    for step in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if candidate.schedule != "step" or (step + 1) % STEPS == 0:
            scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", ["step", "cosine", "one_cycle", "constant"])
def test_learning_rates_are_those_of_torch(schedule: str) -> None:
    candidate = Candidate(14, 8e-4, step_size=2, gamma=0.62, schedule=schedule)
    ours = np.concatenate([learning_rates(candidate, e, EPOCHS, STEPS) for e in range(EPOCHS)])
    np.testing.assert_allclose(ours, torch_rates(candidate), rtol=1e-6)


def test_gamma_one_is_a_constant_rate() -> None:
    """The article's published runs never stepped their scheduler."""
    rates = [learning_rates(Candidate(8, 1e-3), epoch, 18, 5) for epoch in range(18)]
    assert set(np.concatenate(rates)) == {1e-3}


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
        ({"lr": "fast"}, "lr is 'fast', but must be a number"),
    ],
)
def test_bad_candidates_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Candidate(**({"batch_size": 14, "lr": 1e-3} | values))  # type: ignore[arg-type]
