"""The verb `interpret`: what a trained net has learned, as pictures and one page.

What is looked at is the split that the net was measured on: the test images, or with
`protocol=holdout` the held-out training images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import InterpretConfig
from golf_opt.golf.dead import count
from golf_opt.golf.interpret import mosaics as figures
from golf_opt.golf.interpret.ascent import Climber
from golf_opt.golf.interpret.mosaics import Array
from golf_opt.golf.source import TrainedNet, load_data, load_source
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.studies import attach
from golf_opt.study.description import find_study
from golf_opt.task import layers
from golf_opt.task.arch import Net, Node
from golf_opt.task.data import Split, View
from golf_opt.task.forward import BATCH, Tensors, accuracy, check_tensors, forward, normalise
from golf_opt.task.layers import show_shape
from golf_opt.utils.files import staged_folder
from golf_opt.utils.text import percent, slug
from golf_opt.utils.trials import attribute
from golf_opt.visualization.document import Picture, Table, html
from golf_opt.visualization.pictures import confusion_matrix, in_grey, tall
from golf_opt.visualization.plots import to_png

MAX_UNITS = 256  # of a layer, that are visualised
MAX_MISTAKES = 60  # shown
DRAWN_ANYWAY = ("confusion.png",)  # by the dashboard, beside which another one would only confuse


def interpret(config: InterpretConfig, say: Callable[[str], None]) -> Path:
    """Draw all pictures of a net, write them and their page, attach them; return the page.

    Raises:
        UsageError: the net or its data cannot be had.
    """
    trained = load_source(config, say)
    check_tensors(trained.net, trained.tensors)
    for note in trained.notes:
        say(note)
    dataset = load_data(config.data, trained)
    if dataset.fallback:
        say(f"these are not MNIST but scikit-learn's digits: {dataset.fallback}")
    made_by = trained.description.protocol if trained.description else "test"
    view = dataset.view(config.protocol or made_by)
    look = observe(trained, view)
    say(f"{trained.label}: {look.headline}; drawing")
    pictures = list(draw(look, config.steps))
    about = Table((), list(facts(look).items()))
    page = html(f"Inside {trained.label}", [about, *pictures])
    files = {"index.html": page.encode()} | {picture.file: picture.data for picture in pictures}
    folder = config.folder / "interpret" / slug(trained.label)
    try:
        with staged_folder(folder) as made:
            for name, data in files.items():
                (made / name).write_bytes(data)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}.") from error
    if trained.trial is not None and trained.study is not None:
        with opened_storage(config.storage) as storage:
            study = find_study(storage, trained.study)
            new = {name: data for name, data in files.items() if name not in DRAWN_ANYWAY}
            attach(study, config.folder, trained.trial, new)
        say(f"attached to trial {trained.trial.number} on the dashboard")
    say(f"{len(pictures)} pictures: {folder / 'index.html'}")
    return folder / "index.html"


@dataclass(frozen=True)
class Look:
    """What a net does with the images that it is measured on.

    `features` are the inputs of the last linear layer, numbered as (channel, y, x).
    """

    trained: TrainedNet
    view: View
    scores: npt.NDArray[np.float32]  # [n, classes]
    features: Array  # mean of each class, [classes, channels, features of a channel]
    train_accuracy: float

    @property
    def net(self) -> Net:
        return self.trained.net

    @property
    def seen(self) -> Split:
        return self.view.objective

    @property
    def digits(self) -> npt.NDArray[np.int64]:
        """What each image is taken for, [n]."""
        return np.asarray(self.scores.argmax(axis=1))

    @property
    def wrong(self) -> npt.NDArray[np.int64]:
        """The misclassified images, the most confident first."""
        wrong = np.flatnonzero(self.digits != self.seen.labels)
        return np.asarray(wrong[np.argsort(-self.confidence[wrong], kind="stable")])

    @property
    def confidence(self) -> npt.NDArray[np.float64]:
        """Softmax of the highest score, [n]."""
        shifted = self.scores.astype(np.float64) - self.scores.max(axis=1, keepdims=True)
        return np.asarray(1 / np.exp(shifted).sum(axis=1))

    @property
    def headline(self) -> str:
        right = 1 - len(self.wrong) / len(self.seen)
        return (
            f"{self.seen.name} accuracy {percent(right)} ({len(self.seen):,} images), "
            f"train accuracy {percent(self.train_accuracy)} ({len(self.view.train):,} images)"
        )


def observe(trained: TrainedNet, view: View, train: float | None = None) -> Look:
    """Run the net over the images that it is measured on.

    Args:
        trained: the net.
        view: the images.
        train: its accuracy on training images, where that is known; else it is measured.
    """
    net, seen = trained.net, view.objective
    shape, classes = net.nodes[head(net)].input_shape, net.input.classes
    scores = np.empty((len(seen), classes), dtype=np.float32)
    sums = np.zeros((classes, int(np.prod(shape))))
    for at in range(0, len(seen), BATCH):
        x = normalise(net.input, seen.images[at : at + BATCH])
        labels = seen.labels[at : at + BATCH]
        outputs = [x, *(output for _, output in forward(net, trained.tensors, x))]
        np.add.at(sums, labels, outputs[head(net)].reshape(len(x), -1))
        scores[at : at + BATCH] = outputs[-1]
    numbers = np.bincount(seen.labels, minlength=classes).clip(1)
    means = (sums / numbers[:, None]).reshape(classes, shape[0], -1)
    if train is None and trained.trial is not None:
        train = attribute(trained.trial, "train_accuracy", float)
    if train is None:
        train = accuracy(net, trained.tensors, view.train.images, view.train.labels)
    return Look(trained, view, scores, means, train)


def head(net: Net) -> int:
    """Return the last linear layer, by its place; the last layer where there is none."""
    places = [i for i, node in enumerate(net.nodes) if isinstance(node.layer, layers.Linear)]
    return places[-1] if places else len(net.nodes) - 1


@dataclass(frozen=True)
class Block:
    """A convolution with the batch norm and activation behind it; `end` is the last one's place."""

    name: str
    end: int
    channels: int


def blocks(net: Net) -> list[Block]:
    """Return the convolutions of a net in order; one that is used again is there again."""
    found = []
    followers = (layers.BatchNorm, *layers.ACTIVATIONS)
    for start, node in enumerate(net.nodes):
        if not isinstance(node.layer, layers.Conv):
            continue
        behind = takewhile(lambda n: isinstance(n.layer, followers), net.nodes[start + 1 :])
        names = [node.name, *(later.name for later in behind)]
        again = ", used again" if node.shared else ""
        end = start + len(names) - 1
        found.append(Block(" + ".join(names) + again, end, node.output_shape[0]))
    return found


def facts(look: Look) -> dict[str, str]:
    """Return what heads the page."""
    net, counted = look.net, count(look.net, dict(look.trained.tensors))
    rule = "held-out training images; the test set was not read"
    if look.view.protocol == "test":
        rule = "trials are chosen by their accuracy on these images"
    if look.trained.trial is None:
        rule = "nobody knows here which images guided training or pruning"
    rows = {
        "net": f"{look.trained.label}, {net.name}",
        "parameters": f"{counted.size:,}, of which {counted.nz:,} are not zero"
        + (f" ({counted.dead:,} of these without effect)" if counted.dead else ""),
        "accuracy": f"{look.headline}, n = 1 net",
        "images": f"{look.view.dataset}, {look.seen.name}: {rule}",
    }
    if look.trained.job is not None:
        rows["seed"] = str(look.trained.job.seed)
    return rows


def draw(look: Look, steps: int) -> Iterator[Picture]:
    """Yield every picture of the page, in its order."""
    if blocks(look.net):
        yield first_channels(look)
    if look.net.module is None:  # of one nobody knows what is a feature
        yield Picture(
            "features",
            "Mean activation of the features in each class",
            f"The features are what {look.net.nodes[head(look.net)].name} reads. A row that "
            "differs from the others is how the net tells that class.",
            figures.class_features(
                f"Mean features by class, {look.seen.name} images", look.features
            ),
        )
    yield from visualisations(look, steps)
    yield confusion(look)
    yield mistakes(look)
    yield survivors(look.net, look.trained.tensors)
    yield from filters(look.net, look.trained.tensors)


def first_channels(look: Look) -> Picture:
    """One image a class, the first one that the net gets right, in every first-layer channel."""
    block, seen, names = blocks(look.net)[0], look.seen, look.net.input.class_names
    chosen = []
    for digit in np.unique(seen.labels):
        own = np.flatnonzero(seen.labels == digit)
        right = own[look.digits[own] == digit]
        chosen.append(int(right[0] if len(right) else own[0]))
    images = seen.images[chosen]
    outputs = forward(look.net, look.trained.tensors, normalise(look.net.input, images))
    shown = next(x for index, (_, x) in enumerate(outputs) if index == block.end)
    title = f"What the channels of {block.name} put out"
    return Picture(
        "first-channels",
        title,
        "One image of each class, the first that the net gets right.",
        figures.channel_outputs(
            title,
            [names[label] for label in seen.labels[chosen]],
            in_grey(images),
            tall(shown),
            block.name,
        ),
    )


def visualisations(look: Look, steps: int) -> Iterator[Picture]:
    """Channels of every convolution, the features, and the classes, by gradient ascent."""
    net = look.net
    climber = Climber(net, look.trained.tensors, steps)
    how = f"Gradient ascent on the input, {steps} steps from an even grey."
    rows = [
        (block.name, in_grey(climber.channels(block.end, _units(block.channels)).images))
        for block in blocks(net)
    ]
    if rows:
        yield Picture(
            "visualised-channels",
            "The image that drives each channel highest, on average over its positions",
            how + _left_out(max(block.channels for block in blocks(net)), "channels of a layer"),
            figures.ascent_rows("The image that drives each channel highest", rows),
        )
    if net.module is None:
        yield _visualised_features(look, climber, how)
    classes = climber.features(len(net.nodes) - 1, range(net.input.classes))
    scores = [
        f"{name}\n{score:.1f}"
        for name, score in zip(net.input.class_names, classes.reached, strict=True)
    ]
    yield Picture(
        "visualised-classes",
        "The image that drives each class's score highest",
        f"{how} Below each class, the score that its image reaches.",
        figures.ascent_grid(
            "The image that drives each class's score highest", in_grey(classes.images)[None],
            None, scores,
            "class and score",
        ),
    )  # fmt: skip


def _visualised_features(look: Look, climber: Climber, how: str) -> Picture:
    _, channels, each = look.features.shape
    units = _units(channels * each)
    images = in_grey(climber.features(head(look.net) - 1, units).images)
    shape = look.net.nodes[head(look.net)].input_shape
    if each > 1 and len(units) == channels * each:
        tiles = images.reshape(channels, each, *images.shape[1:])
        rows: list[str] | None = [f"channel {channel}" for channel in range(channels)]
        columns = [f"{y},{x}" for y in range(shape[1]) for x in range(shape[2])]
        across = "y, x of the feature in its channel"
    else:
        tiles = figures.wrapped(images, min(12, len(images)))
        rows, across = None, "feature"
        columns = list(map(str, range(tiles.shape[1])))
    title = "The image that drives each feature highest"
    return Picture(
        "visualised-features",
        title,
        f"{how} What a feature cannot see stays grey." + _left_out(channels * each, "features"),
        figures.ascent_grid(title, tiles, rows, columns, across),
    )


def _units(number: int) -> range:
    return range(min(number, MAX_UNITS))


def _left_out(number: int, what: str) -> str:
    return "" if number <= MAX_UNITS else f" The first {MAX_UNITS} of {number:,} {what}."


def confusion(look: Look) -> Picture:
    title = f"{len(look.wrong):,} of {len(look.seen):,} {look.seen.name} images misclassified"
    return Picture(
        "confusion",
        "Confusion matrix",
        f"{title}. The colour tells the mistakes; the diagonal, in grey, is right.",
        confusion_matrix(
            title, look.seen.labels, look.digits, look.net.input, partial(to_png, dpi=150)
        ),
    )


def mistakes(look: Look) -> Picture:
    shown = look.wrong[:MAX_MISTAKES]
    names = look.net.input.class_names
    captions = [
        f"{names[look.seen.labels[i]]} → {names[look.digits[i]]}  {100 * look.confidence[i]:.0f} %"
        for i in shown
    ]
    title = f"Misclassified: {len(shown)} of {len(look.wrong):,}, the most confident first"
    return Picture(
        "mistakes",
        "Misclassified images",
        f"{title}. What it is → what it was taken for, and with what confidence (softmax).",
        figures.mistakes(title, look.seen.images[shown], captions),
    )


def survivors(net: Net, tensors: Tensors) -> Picture:
    rows = []
    for node in net.nodes:
        for parameter in () if node.shared else node.parameters:
            values = tensors[f"weights/{parameter.name}"]
            if values.ndim <= 1:
                kept = values.reshape(1, 1, -1)
            else:
                inputs = values.shape[1] if net.module is not None else _inputs(node)
                kept = values.reshape(len(values), inputs, -1)
                kept = kept.transpose(0, 2, 1) if kept.shape[2] == 1 else kept
            rows.append((parameter.name, kept))
    nonzero = sum(int(np.count_nonzero(values)) for _, values in rows)
    title = f"{nonzero:,} of {net.num_params:,} parameters are not zero"
    return Picture(
        "survivors",
        "Which weights survive",
        f"{title}. Blue: not zero. A row an output, its weights in groups by input channel; a "
        "group too large to draw is one cell, its shade the share that is not zero.",
        figures.survivors(title, rows),
    )


def filters(net: Net, tensors: Tensors) -> Iterator[Picture]:
    """The kernels of every convolution, and the weights of every linear layer, as images."""
    for node in net.nodes:
        if node.shared or not isinstance(node.layer, (layers.Conv, layers.Linear)):
            continue
        weights = tensors[f"weights/{node.name}.weight"]
        sides = node.input_shape[1:] or (1, 1)
        rows, columns = "output channel", "input channel"
        if isinstance(node.layer, layers.Linear):
            weights = weights.reshape(len(weights), _inputs(node), *sides)
            rows = "class" if node is net.nodes[-1] else "output"
            columns = "input channel" if math.prod(sides) > 1 else "input"
        size = show_shape(weights.shape)
        if _inputs(node) == 1:
            rows, columns = "", rows
            weights = figures.wrapped(weights[:, 0], min(12, len(weights)))
        title = f"Weights of {node.name}"
        yield Picture(
            f"weights-{node.name}",
            title,
            f"{size}. Grey: exactly zero.",
            figures.filters(title, weights, rows, columns),
        )


def _inputs(node: Node) -> int:
    """Channels that each output of a layer reads."""
    return 1 if isinstance(node.layer, layers.Depthwise) else node.input_shape[0]
