"""A trial in training with PyTorch: its live tensors, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from golf_opt.engines.base import MOMENTS, Job, LaneState
from golf_opt.engines.order import Hardness, Places
from golf_opt.engines.torch.module import TorchNet
from golf_opt.engines.torch.untraced import spare_imports, step_of
from golf_opt.task.distortion import distortion_key, share_of_next
from golf_opt.task.recipe import ADAM_BETAS, ADAM_EPS, SGD_MOMENTUM, Candidate


def build_optimizer(
    candidate: Candidate, weights: Iterable[Tensor], lr: float | Tensor
) -> torch.optim.Optimizer:
    """Return the candidate's optimiser; `lr` is a tensor where a CUDA graph reads it."""
    spare_imports()
    options: dict[str, Any] = {"lr": lr, "weight_decay": candidate.weight_decay, "fused": True}
    if candidate.optimizer == "sgd":
        return torch.optim.SGD(weights, momentum=SGD_MOMENTUM, **options)
    cls = torch.optim.Adam if candidate.optimizer == "adam" else torch.optim.AdamW
    captured = isinstance(lr, Tensor)  # its count of steps has to be on the device as well
    return cls(weights, betas=ADAM_BETAS, eps=ADAM_EPS, capturable=captured, **options)


@dataclass
class Lane:
    """One trial in training. `weights` and `masks` are live tensors by parameter name."""

    job: Job
    module: TorchNet
    shown: TorchNet  # what is evaluated: the module itself, or one of averages
    optimizer: torch.optim.Optimizer
    weights: dict[str, Tensor]
    masks: dict[str, Tensor]
    lr: Tensor
    average_rate: Tensor
    index: Tensor  # the images of a full batch; a CUDA graph reads it
    loss_sum: Tensor  # of the epoch in progress, float64
    until: int = 0  # the epoch at whose end it rests
    epoch: int = 0
    step: int = 0
    time_s: float = 0.0
    order: Tensor | None = None
    places: Places | None = None  # of the epoch in progress, in that order
    worth: Tensor | None = None  # what each of them counts
    hardness: Hardness | None = None  # of the images, where the recipe looks at it
    losses: list[Tensor] = field(default_factory=list)  # of the steps that it does not know yet
    rates: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    average_rates: npt.NDArray[np.float64] | None = None
    replay: Callable[[], None] | None = None

    @property
    def replays(self) -> bool:
        """Whether every full step does the same with other numbers, so that it may be captured."""
        return not (self.job.candidate.draws_images or self.job.candidate.by_loss)

    @property
    def share_of_next(self) -> float:
        """How much of the next one is in each image of the step."""
        candidate = self.job.candidate
        key = distortion_key(self.job.seed, self.epoch)
        return share_of_next(candidate, key, self.step * candidate.batch_size)

    @property
    def live(self) -> list[Tensor]:
        """All that a training step changes."""
        states = (self.optimizer.state[weight] for weight in self.weights.values())
        moments = [tensor for state in states for tensor in state.values()]
        averages = [average for average, _ in self.averages]
        return [*self.module.tensors().values(), *averages, self.loss_sum, *moments]

    @cached_property
    def update(self) -> Callable[[], object]:
        """A step of the optimiser."""
        return step_of(self.optimizer)

    @cached_property
    def averages(self) -> list[tuple[Tensor, Tensor]]:
        """Each average and what it follows, all live; none where the recipe averages nothing."""
        if self.shown is self.module:
            return []
        pairs = zip(self.shown.tensors().values(), self.module.tensors().values(), strict=True)
        return list(pairs)

    def note_losses(self) -> None:
        """Let what was trained since the last time say how hard its images are."""
        if self.hardness is not None and self.places is not None and self.losses:
            losses = as_numpy(torch.cat(self.losses))
            end = min(self.step * self.job.candidate.batch_size, len(self.places.images))
            self.hardness.note(self.places.images[end - len(losses) : end], losses)
            self.losses.clear()

    def state(self) -> LaneState:
        """Return a copy of all that it needs to go on elsewhere."""
        tensors = {name: as_numpy(tensor) for name, tensor in self.module.tensors().items()}
        tensors |= {f"masks/{name}": as_numpy(mask) for name, mask in self.masks.items()}
        for name, weight in self.weights.items():
            for moment in MOMENTS[self.job.candidate.optimizer]:
                value = self.optimizer.state[weight][torch_moment(moment)]
                tensors[f"{moment}/{name}"] = as_numpy(value)
        if self.averages:
            for name, average in self.shown.tensors().items():
                tensors[f"average/{name.partition('/')[2]}"] = as_numpy(average)
        if self.hardness is not None:
            self.note_losses()
            tensors |= self.hardness.tensors(self.step)
        return LaneState(tensors, self.epoch, self.step, float(self.loss_sum), self.time_s)


def torch_moment(name: str) -> str:
    return "momentum_buffer" if name == "momentum" else name


def as_numpy(tensor: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = tensor.detach().cpu().numpy().copy()
    return array
