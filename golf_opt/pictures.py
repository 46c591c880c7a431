"""Pictures of one trial, drawn when somebody looks at it: nothing is made or kept while it trains.

learning-curve   accuracy and training loss by epoch
confusion        which digit was taken for which, on the split of the objective
mistakes         the images that the net is most wrong about
weights          the kernels of every convolution
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.arch import Net
from golf_opt.data import Split
from golf_opt.engines.base import Tensors
from golf_opt.figures import BLUE, ORANGE
from golf_opt.plots import paper, to_svg

KINDS = ("learning-curve", "confusion", "mistakes", "weights")
MOST_MISTAKES = 40
MOST_KERNELS = 64  # of one layer


def learning_curve(title: str, accuracies: Sequence[float], losses: Sequence[float]) -> str:
    """Return accuracy (percent, left axis) and training loss (right axis) against the epoch.

    Args:
        title: above the frame.
        accuracies: after each epoch, shares in [0, 1].
        losses: of each epoch, in nats; as many, or none.
    """
    epochs = range(1, len(accuracies) + 1)
    with paper() as new:
        canvas = new(5.6, 3.4)
        left = canvas.subplots()
        percents = [100 * value for value in accuracies]
        left.plot(epochs, percents, "o-", color=BLUE, label="accuracy")
        left.set(title=title, xlabel="epoch")
        left.set_ylabel("accuracy (%), circles", color=BLUE)
        left.xaxis.get_major_locator().set_params(integer=True)
        if losses:
            right = left.twinx()
            right.plot(epochs, losses, "s--", color=ORANGE, ms=4, label="loss")
            right.set_ylabel("training loss (nats), squares", color=ORANGE)
            right.grid(False)
            right.spines["right"].set_visible(True)
        return to_svg(canvas)


@dataclass(frozen=True)
class Readings:
    """What a net says about every image of a split."""

    split: Split
    scores: npt.NDArray[np.float32]  # [n, 10]

    @property
    def guesses(self) -> npt.NDArray[np.int64]:
        return np.asarray(self.scores.argmax(axis=1), dtype=np.int64)

    @property
    def accuracy(self) -> float:
        return float((self.guesses == self.split.labels).mean())


def read(net: Net, tensors: Tensors, split: Split) -> Readings:
    """Run a net on a split, with PyTorch."""
    import torch

    from golf_opt.data import MEAN, STD
    from golf_opt.engines.torch import build_module

    module = build_module(net).eval()
    images = torch.from_numpy(np.array(split.images)).unsqueeze(1).float()
    with torch.inference_mode():
        for name, tensor in module.tensors().items():
            tensor.copy_(torch.from_numpy(np.array(tensors[name])))
        parts = [module((part / 255 - MEAN) / STD) for part in torch.split(images, 2000)]
    return Readings(split, torch.cat(parts).numpy())


def confusion(title: str, readings: Readings) -> str:
    """Return the table of digits and what they were taken for, counts of images."""
    counts = np.zeros((10, 10), dtype=np.int64)
    np.add.at(counts, (readings.split.labels.astype(np.int64), readings.guesses), 1)
    wrong = counts * (1 - np.eye(10, dtype=np.int64))
    with paper() as new:
        canvas = new(4.8, 4.8)
        ax = canvas.subplots()
        ax.imshow(wrong, cmap="Blues", vmin=0, vmax=max(1, wrong.max()))
        for row, column in np.ndindex(10, 10):
            if counts[row, column]:
                dark = wrong[row, column] > 0.6 * wrong.max()
                ax.text(
                    column, row, str(counts[row, column]), ha="center", va="center", fontsize=8,
                    color="white" if dark else "#999999" if row == column else "black",
                )  # fmt: skip
        ax.set(xticks=range(10), yticks=range(10), xlabel="taken for", ylabel="digit", title=title)
        ax.grid(False)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        return to_svg(canvas)


def mistakes(title: str, readings: Readings) -> str:
    """Return the images with the largest gap between the wrong score and the right one."""
    labels = readings.split.labels.astype(np.int64)
    scores = readings.scores
    gap = scores.max(axis=1) - scores[np.arange(len(labels)), labels]
    wrong = np.flatnonzero(readings.guesses != labels)
    wrong = wrong[np.argsort(-gap[wrong], kind="stable")][:MOST_MISTAKES]
    rows = max(1, -(-len(wrong) // 8))
    with paper() as new:
        canvas = new(5.6, 0.5 + 0.8 * rows)
        canvas.suptitle(title, fontsize=10)
        for ax in canvas.subplots(rows, 8, squeeze=False).flat:
            ax.set_axis_off()
        for ax, index in zip(canvas.axes, wrong, strict=False):
            ax.imshow(readings.split.images[index], cmap="gray_r", vmin=0, vmax=255)
            ax.set_title(f"{labels[index]} as {readings.guesses[index]}", fontsize=8, pad=2)
        return to_svg(canvas)


def weights(title: str, net: Net, tensors: Tensors) -> str:
    """Return the kernels of each convolution: a row an output channel, a column an input."""
    layers: list[tuple[str, npt.NDArray[Any]]] = []
    for node in net.nodes:
        values = tensors.get(f"weights/{node.name}.weight")
        if values is not None and values.ndim == 4 and not node.shared:
            layers.append((node.name, np.asarray(values)))
    with paper() as new:
        canvas = new(5.6, 0.5 + sum(_height(values) for _, values in layers) or 1.0)
        canvas.suptitle(
            f"{title}\nblue: below zero, red: above, each layer on its own scale", fontsize=10
        )
        parts = canvas.subfigures(
            max(1, len(layers)), 1, squeeze=False,
            height_ratios=[_height(values) for _, values in layers] or [1],
        ).flat  # fmt: skip
        for part, (name, values) in zip(parts, layers, strict=False):
            _kernels(part, name, values)
        return to_svg(canvas)


def _height(values: npt.NDArray[Any]) -> float:
    return 0.4 + 0.5 * min(len(values), 8)


def _kernels(part: Any, name: str, values: npt.NDArray[Any]) -> None:
    """Draw one layer's kernels [out, in, height, width] as one picture with gaps."""
    out, into, height, width = values.shape
    shown = values[: max(1, MOST_KERNELS // into)]
    top = float(np.abs(values).max()) or 1.0
    sheet = np.full((len(shown) * (height + 1) - 1, into * (width + 1) - 1), np.nan)
    for row, column in np.ndindex(len(shown), into):
        at = (row * (height + 1), column * (width + 1))
        sheet[at[0] : at[0] + height, at[1] : at[1] + width] = shown[row, column]
    ax = part.subplots()
    ax.imshow(sheet, cmap="RdBu_r", vmin=-top, vmax=top)
    less = f", the first {len(shown)}" if len(shown) < out else ""
    ax.set_title(
        f"{name}: {out} x {into} kernels of {height}x{width}{less}, largest {top:.2f}", fontsize=8
    )
    ax.set_axis_off()
