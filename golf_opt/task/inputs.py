"""What a net takes and gives: the shape of an image, how its bytes become numbers, the classes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Self

from pydantic import Field, StrictInt, model_validator

from golf_opt.config.check import model
from golf_opt.config.errors import UsageError

MOST_CLASSES = 256  # a label is a byte
MOST_PIXELS = 96 * 96
Channels = Annotated[StrictInt, Field(ge=1, le=4)]
Side = Annotated[StrictInt, Field(ge=1, le=MOST_PIXELS)]
Mean = Annotated[float, Field(ge=0, le=1)]
Std = Annotated[float, Field(gt=0, le=1)]
ClassName = Annotated[str, Field(max_length=100)]


@model
class InputSpec:
    """An image of `shape` (channels, height, width) as bytes, and the classes it may be of.

    A byte of channel c becomes (byte / 255 - mean[c]) / std[c].
    """

    shape: tuple[Channels, Side, Side]
    classes: Annotated[StrictInt, Field(ge=2, le=MOST_CLASSES)]
    mean: tuple[Mean, ...]
    std: tuple[Std, ...]
    names: tuple[ClassName, ...] = ()  # of the classes, where they have any

    @model_validator(mode="after")
    def _fits(self) -> Self:
        channels, height, width = self.shape
        if not len(self.mean) == len(self.std) == channels:
            raise UsageError(f"an image of {channels} channels needs a mean and a std of each.")
        if height * width > MOST_PIXELS:
            raise UsageError(
                f"images are {height}x{width}, but must have at most {MOST_PIXELS:,} pixels "
                "(96x96)."
            )
        if self.names and len(self.names) != self.classes:
            raise UsageError(f"{len(self.names)} names are given for {self.classes} classes.")
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names: their numbers where they have none."""
        return self.names or tuple(map(str, range(self.classes)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `InputSpec(**data)` takes."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


# The article's normalisation; digits and Fashion-MNIST in MNIST's frame are trained with it too.
MNIST = InputSpec((1, 28, 28), 10, (0.1307,), (0.3081,))
