"""A trained net: what it says of images, as a torch module, on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from golf_opt.api.asked import Arch, asking, data_config, given_of, module_of
from golf_opt.api.shown import table, titled
from golf_opt.config.errors import UsageError, short
from golf_opt.config.schema import DataConfig
from golf_opt.config.types import wrong_path
from golf_opt.golf.dead import num_nonzero
from golf_opt.golf.deploy.run import exported
from golf_opt.golf.source import TrainedNet, load_data, load_file
from golf_opt.task import forward
from golf_opt.task.inputs import InputSpec
from golf_opt.task.layers import show_shape
from golf_opt.task.modules.resolve import provide
from golf_opt.utils.files import replace_file
from golf_opt.utils.text import percent

if TYPE_CHECKING:
    from torch import nn

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Net:
    """A net with its weights, of a trial, a training, a pruning or a file.

    >>> import golf_opt as golf
    >>> trained = golf.train("c2-2", "article", seeds=1, epochs=1, data="digits", say=None)
    >>> net = trained.nets[0]
    >>> net.num_params
    2082
    >>> net.predict(np.zeros((2, 28, 28), dtype=np.uint8)).shape
    (2,)
    """

    def __init__(
        self,
        trained: TrainedNet,
        accuracy: float | None = None,
        data: DataConfig | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self._trained = trained
        self._measured = accuracy
        self._data = data
        self.facts: dict[str, Any] = dict(facts or {})  # how it was made, as plain data

    # --- what it is

    @property
    def name(self) -> str:
        """Where it is from, such as `c4-5-4, trial 17`."""
        return self._trained.label

    @property
    def arch(self) -> dict[str, Any]:
        """The architecture, `{name, layers}`, as `golf.train` and `golf.study` take it."""
        return self._trained.net.arch

    @property
    def data(self) -> DataConfig | None:
        """What it was trained on, as far as that is known."""
        return self._data

    @property
    def trained(self) -> TrainedNet:
        """The same net as the rest of golf_opt has it."""
        return self._trained

    @property
    def input(self) -> InputSpec:
        """The shape of an image, how its bytes become numbers, and the classes."""
        return self._trained.net.input

    @property
    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """`weights/<layer>.<tensor>` and `buffers/<layer>.<tensor>`, float32."""
        return dict(self._trained.tensors)

    @property
    def num_params(self) -> int:
        """How many numbers were trained."""
        return self._trained.net.num_params

    @property
    def num_nonzero(self) -> int:
        """How many of them are not zero."""
        return num_nonzero(self._trained.net, self._trained.tensors)

    # --- what it does

    def predict(self, images: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return the class [n] of each of n images, a number from 0.

        Args:
            images: uint8 [n, channels, height, width]; of one channel also [n, height, width].

        Raises:
            UsageError: they are something else.
        """
        classes: npt.NDArray[np.int64] = self.logits(images).argmax(axis=1)
        return classes

    def logits(self, images: npt.ArrayLike) -> Floats:
        """Return the class scores [n, classes] of images as `predict` takes them, float32."""
        checked = as_images(images, self.input)
        return forward.logits(self._trained.net, self._trained.tensors, checked)

    def normalise(self, images: npt.ArrayLike) -> Floats:
        """Return images as `to_torch` takes them: float32 [n, channels, height, width]."""
        shown = forward.normalise(self.input, as_images(images, self.input), np.float32)
        return shown.astype(np.float32)

    def accuracy(self, data: Any = None, **overrides: Any) -> float:
        """Return the share in [0, 1] of images that get their label.

        Args:
            data: what the test set is taken of, as `data=` of the command line has it; None for
                what it was trained on. Or a pair of images, as `predict` takes them, and labels.
            **overrides: such as `**{"data.root": "elsewhere"}`.

        Raises:
            UsageError: the data cannot be had, or is not of the net's input.
        """
        if isinstance(data, tuple):
            images, labels = _pair(data)
        else:
            test = self.dataset(data, **overrides).test
            images, labels = test.images, test.labels
        predicted = self.predict(images)
        if len(labels) != len(predicted):
            raise UsageError(f"there are {len(labels):,} labels of {len(predicted):,} images.")
        return float((predicted == labels).mean())

    def dataset(self, data: Any = None, **overrides: Any) -> Any:
        """Return the data set of that name or path; None is the one that the net is from."""
        given = given_of({"data": data}, overrides)
        with asking("accuracy", given):
            own = self._data if not given else None
            return load_data(own or data_config(given), self._trained)

    def to_torch(self) -> nn.Module:
        """Return the net as a torch module in evaluation mode, from `normalise(images)` to scores.

        It is yours: what you do to its weights does not reach this net.
        """
        from torch import nn  # seconds to import

        from golf_opt.engines.torch.module import CounterDropout, build_module

        module = build_module(self._trained.net, self._trained.tensors)
        for name, layer in module.layers.items():
            if isinstance(layer, CounterDropout):  # whose mask an engine would set
                module.layers[name] = nn.Dropout(layer.p)
        return module.eval()

    def save(self, path: str | Path) -> Path:
        """Write the net to a safetensors file, from which `golf.load_net` makes it again.

        Raises:
            UsageError: the file cannot be written.
        """
        return write(path, exported(self._trained, "safetensors"))

    # --- how it looks

    def __repr__(self) -> str:
        nonzero = self.num_nonzero
        pruned = "" if nonzero == self.num_params else f", {nonzero:,} not zero"
        known = "" if self._measured is None else f", {percent(self._measured)}"
        return f"<Net {self.name}: {self.num_params:,} parameters{pruned}{known}>"

    def _repr_html_(self) -> str:
        rows = [
            (node.name, show_shape(node.output_shape), f"{node.num_params:,}")
            for node in self._trained.net.nodes
        ]
        head = repr(self).strip("<>").removeprefix("Net ")
        return titled(head, table(("layer", "output", "parameters"), rows))


def load_net(path: str | Path, arch: Arch | None = None) -> Net:
    """Return a net that `Net.save`, or `golf-opt deploy format=safetensors`, wrote.

    Args:
        path: of the file.
        arch: of a net that is a module of yours: that module, which no file names to us.

    Raises:
        UsageError: the file cannot be read, or is no such file.
    """
    if (wrong := wrong_path(path)) is not None:
        raise UsageError(f"path is {str(path)!r}, but must be {wrong}")
    trained = load_file(Path(path))
    if arch is not None:
        provide(module_of(arch), trained.net, str(path))
    return Net(trained)


def write(path: str | Path, data: bytes) -> Path:
    """Write a file, whole or not at all; return its path."""
    if (wrong := wrong_path(path)) is not None:
        raise UsageError(f"path is {str(path)!r}, but must be {wrong}")
    path = Path(path)
    try:
        replace_file(path, data)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
    return path


def as_images(given: npt.ArrayLike, spec: InputSpec) -> Bytes:
    """Return images as uint8 [n, channels, height, width].

    Raises:
        UsageError: they are of another type or shape.
    """
    images = np.asarray(given)
    if images.dtype != np.uint8:
        fix = "bytes from 0 to 255, not normalised; the net does that itself"
        raise UsageError(f"images are {images.dtype}, but must be uint8: {fix}.")
    if spec.shape[0] == 1 and images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.shape[1:] != spec.shape:
        least = show_shape(spec.shape[1:] if spec.shape[0] == 1 else spec.shape)
        raise UsageError(
            f"images are {list(np.shape(given))}, but must be n x {least}; for one alone give "
            "images[None]."
        )
    checked: Bytes = images
    return checked


def _pair(data: tuple[Any, ...]) -> tuple[Any, npt.NDArray[Any]]:
    if len(data) != 2:
        raise UsageError(f"data has {len(data)} parts, but must be a name or (images, labels).")
    labels = np.asarray(data[1])
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UsageError(f"labels are {short(data[1])}, but must be whole numbers, [n].")
    return data[0], labels
