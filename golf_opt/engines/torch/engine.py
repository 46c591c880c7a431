"""The torch engine: any net of `arch`, on the CPU or a GPU, in plain PyTorch. The oracle.

On a GPU the training step is captured once as a CUDA graph and replayed: one launch instead of a
few dozen. Lanes take turns, a slice each.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from golf_opt.config.errors import UsageError
from golf_opt.engines import base
from golf_opt.engines.base import MOMENTS, EpochResult, Floats, Job, LaneState, Slice, Tensors
from golf_opt.engines.order import Hardness, places_of
from golf_opt.engines.torch.distorted import distorted
from golf_opt.engines.torch.lane import Lane, as_numpy, build_optimizer, torch_moment
from golf_opt.engines.torch.module import TorchNet, build_module
from golf_opt.task.arch import Net
from golf_opt.task.data import Split, View
from golf_opt.task.distortion import distortion_key, sources
from golf_opt.task.modules.factory import last_line, seeded
from golf_opt.task.recipe import Candidate, average_rates, learning_rates

SLICE_S = 0.4
EVAL_BATCH = 2000
GRAPH_WARMUP_STEPS = 3  # as torch.cuda.graphs asks for before a capture


class TorchEngine:
    """Trains lanes one after another with PyTorch; implements `engines.base.Engine`.

    Args:
        view: the data; it is normalised and put on the device once.
        lanes: how many trials are in training side by side.
        device: `auto` (CUDA if there is one), `cpu`, `cuda` or `cuda:N`.
        threads: intra-op threads; these nets are too small for more than one to help.
        dtype: float32, or float64 where the engine is an oracle.
    """

    name = "torch"

    def __init__(
        self,
        view: View,
        lanes: int = 1,
        device: str = "auto",
        threads: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        torch.set_num_threads(threads)
        self._device = pick_device(device)
        self.device = describe_device(self._device)
        self.num_lanes = lanes
        self._dtype = dtype
        self._view = view
        self._train = self._load(view.train)
        self._objective = self._load(view.objective)
        soft = view.train.soft  # a teacher's logits
        self._soft = None if soft is None else torch.tensor(soft).to(self._train[0])
        self._lanes: dict[int, Lane] = {}
        self._turns: deque[int] = deque()

    def start(
        self, lane: int, job: Job, state: LaneState | None = None, until: int | None = None
    ) -> None:
        assert lane not in self._lanes and 0 <= lane < self.num_lanes
        base.check_teacher(job, self._view)
        self._lanes[lane] = self._new_lane(job, state)
        self._lanes[lane].until = job.epochs if until is None else until
        self._turns.append(lane)

    def extend(self, lane: int, until: int) -> None:
        run = self._lanes[lane]
        run.until = until
        if run.epoch < until and lane not in self._turns:
            self._turns.append(lane)

    def step(self) -> list[Slice]:
        if not self._turns:
            return []
        lane = self._turns.popleft()
        run = self._lanes[lane]
        try:
            part = self._slice(lane, run)
        except Exception as error:
            part = _raised(lane, run, error)
        if run.epoch < run.until and part.error is None:
            self._turns.append(lane)
        return [part]

    def state(self, lane: int) -> LaneState:
        return self._lanes[lane].state()

    def stop(self, lane: int) -> None:
        del self._lanes[lane]
        if lane in self._turns:
            self._turns.remove(lane)

    def evaluate(self, net: Net, tensors: Tensors, split: Split) -> float:
        module = self._module(net, tensors)
        return self._accuracy(module, *self._load(split))

    def logits(self, net: Net, tensors: Tensors, images: npt.NDArray[np.uint8]) -> Floats:
        pixels, _ = self._load(Split("images", images, np.zeros(len(images), dtype=np.uint8)))
        return np.asarray(as_numpy(scores_of(self._module(net, tensors), pixels)), dtype=np.float32)

    def close(self) -> None:
        self._lanes.clear()
        self._turns.clear()

    def _load(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return images [n, channels, height, width], normalised, and labels [n] on the device."""
        images = torch.from_numpy(np.array(split.images)).to(self._device)
        labels = torch.from_numpy(split.labels.astype(np.int64)).to(self._device)
        return self._normalized(images.to(self._dtype)), labels

    def _normalized(self, images: Tensor) -> Tensor:
        """Return what bytes, [..., channels, height, width], are to a net."""
        spec = self._view.input
        mean, std = (
            torch.tensor(values, dtype=self._dtype, device=self._device).reshape(-1, 1, 1)
            for values in (spec.mean, spec.std)
        )
        return (images / 255 - mean) / std

    def _module(self, net: Net, tensors: Tensors) -> TorchNet:
        return build_module(net, tensors).to(self._device, self._dtype)

    def _new_lane(self, job: Job, state: LaneState | None) -> Lane:
        tensors = state.tensors if state else base.initial_weights(job.net, job.seed)
        module = self._module(job.net, tensors)
        averages = job.candidate.average != "none"
        live = module.tensors()
        weights = {p.name: live[f"weights/{p.name}"] for p in job.net.parameters}
        on_gpu = self._device.type == "cuda"
        lr = torch.zeros((), dtype=torch.float32, device=self._device)
        optimizer = build_optimizer(
            job.candidate, weights.values(), lr if on_gpu else job.candidate.lr
        )
        run = Lane(
            job,
            module,
            self._module(job.net, base.evaluated(tensors)) if averages else module,
            optimizer,
            weights,
            masks=self._masks(weights, tensors),
            lr=lr,
            average_rate=torch.zeros((), dtype=self._dtype, device=self._device),
            index=torch.zeros(job.candidate.batch_size, dtype=torch.int64, device=self._device),
            loss_sum=torch.zeros((), dtype=torch.float64, device=self._device),
            hardness=Hardness.begin(job, state, len(self._view.train)),
        )
        if state:
            run.epoch, run.step, run.time_s = state.epoch, state.step, state.time_s
            run.loss_sum.fill_(state.loss_sum)
        self._set_moments(run, tensors)
        return run

    def _masks(self, weights: Mapping[str, Tensor], tensors: Tensors) -> dict[str, Tensor]:
        masks = {}
        for name, weight in weights.items():
            if (mask := tensors.get(f"masks/{name}")) is not None:
                masks[name] = torch.from_numpy(np.array(mask)).to(self._device, self._dtype)
                with torch.no_grad():
                    weight.mul_(masks[name])
        return masks

    def _set_moments(self, run: Lane, tensors: Tensors) -> None:
        """Give the optimiser its whole state, so that its first step is like any other."""
        done = run.epoch * self._steps(run.job) + run.step
        for name, weight in run.weights.items():
            state: dict[str, Tensor] = {}
            if run.job.candidate.optimizer != "sgd":
                state["step"] = torch.tensor(float(done), device=self._device)
            for moment in MOMENTS[run.job.candidate.optimizer]:
                value = tensors.get(f"{moment}/{name}")
                start = torch.zeros_like(weight)
                if value is not None:
                    start.copy_(torch.from_numpy(np.array(value)))
                state[torch_moment(moment)] = start
            run.optimizer.state[weight] = state

    def _steps(self, job: Job) -> int:
        return base.steps_per_epoch(len(self._view.train), job.candidate.batch_size)

    def _slice(self, lane: int, run: Lane) -> Slice:
        """Train one lane until the slice's time is over or its epoch ends."""
        started = time.perf_counter()
        steps = self._steps(run.job)
        if run.epoch >= run.until:
            return Slice(lane, run.epoch, 1.0)
        if run.order is None:
            self._begin_epoch(run)
        run.module.train()
        self._train_step(run)  # at least one, however long the epoch took to begin
        while run.step < steps and time.perf_counter() - started < SLICE_S:
            self._train_step(run)
        if not np.isfinite(loss_sum := float(run.loss_sum)):
            return base.not_finite(lane, run.epoch + 1, run.step / steps, loss_sum)
        result = self._end_epoch(run, loss_sum, started) if run.step == steps else None
        run.time_s += 0.0 if result else time.perf_counter() - started
        epoch = run.epoch if result else run.epoch + 1
        return Slice(lane, epoch, 1.0 if result else run.step / steps, result)

    def _begin_epoch(self, run: Lane) -> None:
        run.places = places_of(run.job, run.epoch, len(self._view.train), run.hardness)
        run.order = torch.from_numpy(run.places.images.astype(np.int64)).to(self._device)
        worth = run.places.worth
        run.worth = None if worth is None else torch.from_numpy(worth).to(self._train[0])
        place = (run.job.candidate, run.epoch, run.job.epochs, self._steps(run.job))
        run.rates, run.average_rates = learning_rates(*place), average_rates(*place)

    def _end_epoch(self, run: Lane, loss_sum: float, started: float) -> EpochResult:
        run.note_losses()
        accuracy = self._accuracy(run.shown, *self._objective)
        last = run.epoch + 1 == run.job.epochs
        train_accuracy = self._accuracy(run.shown, *self._train) if last else None
        result = EpochResult(
            epoch=run.epoch + 1,
            loss=loss_sum / len(self._view.train),
            accuracy=accuracy,
            lr=float(run.rates[-1]),
            time_s=run.time_s + time.perf_counter() - started,
            train_accuracy=train_accuracy,
        )
        run.epoch, run.step, run.time_s, run.order = run.epoch + 1, 0, 0.0, None
        run.loss_sum.zero_()
        run.hardness = run.hardness and run.hardness.at_epochs_end()
        return result

    def _train_step(self, run: Lane) -> None:
        assert run.order is not None
        size = run.job.candidate.batch_size
        index = run.order[run.step * size : (run.step + 1) * size]
        self._set_step(run)
        if run.job.net.module is not None:
            with seeded(base.module_key(run.job.seed, run.epoch, run.step), self._device):
                self._update(run, index)
        elif self._device.type == "cuda" and len(index) == size and run.replays:
            run.index.copy_(index)
            if run.replay is None:
                run.replay = _captured(lambda: self._update(run, run.index), run.live)
            run.replay()
        else:
            self._update(run, index)
        run.step += 1

    def _set_step(self, run: Lane) -> None:
        """Set what changes from step to step: rates and the dropout keys."""
        rate = float(run.rates[run.step])
        if self._device.type == "cuda":
            run.lr.fill_(rate)
        else:
            run.optimizer.param_groups[0]["lr"] = rate
        if run.average_rates is not None:
            run.average_rate.fill_(float(run.average_rates[run.step]))
        at = run.epoch * self._steps(run.job) + run.step
        for dropout in run.module.dropouts():
            dropout.key.fill_(base.dropout_key(run.job.seed, dropout.node_index, at))

    def _update(self, run: Lane, index: Tensor) -> None:
        """One training step on the images of `index`: forward, backward, update."""
        images, labels = self._train
        run.module.zero_grad(set_to_none=True)
        scores = run.module(seen(run, images.index_select(0, index), self._normalized))
        soft = None if self._soft is None else self._soft[index]
        loss = loss_of_step(run, scores, labels[index], soft)
        loss.backward()  # type: ignore[no-untyped-call]
        run.update()
        with torch.no_grad():
            for name, mask in run.masks.items():
                run.weights[name].mul_(mask)
            for average, value in run.averages:
                average.lerp_(value, run.average_rate)
            run.loss_sum.add_(loss.detach(), alpha=len(index))

    def _accuracy(self, module: TorchNet, images: Tensor, labels: Tensor) -> float:
        return int((scores_of(module, images).argmax(1) == labels).sum()) / len(labels)


def seen(run: Lane, images: Tensor, normalized: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the images of a step as the recipe has the net see them."""
    images = _distorted(run, images, normalized)
    if run.job.candidate.mixes:
        return images.lerp(images.roll(-1, 0), run.share_of_next)
    return images


def _distorted(run: Lane, images: Tensor, normalized: Callable[[Tensor], Tensor]) -> Tensor:
    candidate = run.job.candidate
    if not candidate.distorts:
        return images
    positions = run.step * candidate.batch_size + np.arange(len(images))
    key = distortion_key(run.job.seed, run.epoch)
    where = sources(candidate, key, positions, *images.shape[-2:])
    return distorted(images, where, normalized(torch.zeros_like(images[0, :, :1, :1])))


@torch.no_grad()
def scores_of(module: TorchNet, images: Tensor) -> Tensor:
    """Return the class scores of images, [n, classes], as the module gives them in evaluation."""
    module.eval()
    parts = [images[at : at + EVAL_BATCH] for at in range(0, len(images), EVAL_BATCH)]
    return torch.cat([module(part) for part in parts])


def loss_of_step(run: Lane, scores: Tensor, labels: Tensor, soft: Tensor | None) -> Tensor:
    """Return the mean loss of a step's images; where the lane looks at the losses, keep them."""
    recipe, each = run.job.candidate, run.hardness is not None
    losses = training_loss(recipe, scores, labels, soft, each)
    if recipe.mixes:
        soft = None if soft is None else soft.roll(-1, 0)
        of_next = training_loss(recipe, scores, labels.roll(-1), soft, each)
        losses = losses.lerp(of_next, run.share_of_next)
    if not each:
        return losses
    run.losses.append(losses.detach())
    if run.worth is None:
        return losses.mean()
    at = run.step * recipe.batch_size
    return (losses * run.worth[at : at + len(losses)]).mean()


def training_loss(
    recipe: Candidate, scores: Tensor, labels: Tensor, soft: Tensor | None, each: bool = False
) -> Tensor:
    """Return the mean loss of some images; all is [images, classes], labels [images].

    Args:
        recipe: says of what it is made.
        scores: of the net.
        labels: their classes.
        soft: a teacher's logits, where the recipe wants them.
        each: return the loss of each image, [images].
    """
    over = "none" if each else "mean"
    loss = F.cross_entropy(scores, labels, label_smoothing=recipe.label_smoothing, reduction=over)
    if not recipe.distill:
        return loss
    assert soft is not None
    net, teacher = ((s / recipe.temperature).log_softmax(1) for s in (scores, soft))
    apart = F.kl_div(net, teacher, reduction="none" if each else "batchmean", log_target=True)
    apart = apart.sum(1) if each else apart
    return (1 - recipe.distill) * loss + recipe.distill * recipe.temperature**2 * apart


def _captured(step: Callable[[], None], live: Sequence[Tensor]) -> Callable[[], None]:
    """Return a step captured as a CUDA graph; the tensors that it changes stay as they were."""
    before = [tensor.detach().clone() for tensor in live]
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(GRAPH_WARMUP_STEPS):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    with torch.no_grad():
        for tensor, value in zip(live, before, strict=True):
            tensor.copy_(value)
    return graph.replay


def _raised(lane: int, run: Lane, error: Exception) -> Slice:
    """Return the slice of a lane whose module raised something; elsewhere the fault is ours."""
    if run.job.net.module is None:
        raise error
    why = f"{run.job.net.module.of} raised {last_line(error)}"
    return Slice(lane, run.epoch + 1, 0.0, error=why)


def pick_device(name: str) -> torch.device:
    """Return the torch device of `engine.device`; refuse a GPU that is not there."""
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if found else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= found:
        have = f"{found} CUDA devices" if found else "no CUDA device"
        raise UsageError(
            f"engine.device is {name!r}, but this machine has {have}; use cpu or auto."
        )
    return device


def describe_device(device: torch.device) -> str:
    """Return `cpu`, or `cuda:0 (NVIDIA H200)`."""
    if device.type == "cpu":
        return "cpu"
    return f"{device} ({torch.cuda.get_device_name(device)})"
