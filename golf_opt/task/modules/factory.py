"""A net that its user wrote in PyTorch: found by `module:name`, called, and put to the proof.

What is asked of it: called with the shape of an image and the number of classes it gives a
torch.nn.Module, from images [n, channels, height, width] to scores [n, classes], whose training is
a function of its float32 tensors, the images and PyTorch's own randomness.
"""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from golf_opt.config.errors import UsageError, near, short
from golf_opt.task.inputs import InputSpec
from golf_opt.utils.text import one_line

PROBE = 3  # images, of a try
TORCH = Path(torch.__file__).parent
PLAIN = (bool, int, float, str, bytes, type(None))


@dataclass(frozen=True)
class Factory:
    """What makes a user's module for one kind of input."""

    target: str  # my_nets:Odd
    call: Callable[..., Any]
    spec: InputSpec

    def build(self, seed: int) -> nn.Module:
        """Return a new module; PyTorch's randomness begins at `seed` and is left as it was."""
        with seeded(seed), blamed(self.target, f"called with {self.spec.shape}"):
            made = self.call(self.spec.shape, self.spec.classes)
        if not isinstance(made, nn.Module):
            raise UsageError(
                f"arch {self.target} gives a {type(made).__name__}, but must give a "
                "torch.nn.Module when it is called with the shape of an image and the number of "
                "classes."
            )
        return made

    def images(self, seed: int = 0) -> Tensor:
        """Return images to try a module with, [PROBE, channels, height, width]."""
        with seeded(seed):
            return torch.randn(PROBE, *self.spec.shape)


@contextmanager
def seeded(seed: int, *devices: torch.device) -> Iterator[None]:
    """Let PyTorch's randomness begin at a seed, and be as it was behind the block."""
    generators = [torch.default_generator]
    for device in devices:
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            generators.append(torch.cuda.default_generators[index])
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


@contextmanager
def blamed(target: str, doing: str) -> Iterator[None]:
    """Tell what a user's code raises in one line."""
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"arch {target}, {doing}, raised {last_line(error)}") from error


def last_line(error: BaseException) -> str:
    """Return what a traceback ends with, and the line of the user's code that it comes from."""
    words = one_line(str(error)).removesuffix(".")
    told = f"{type(error).__name__}: {words}" if words else type(error).__name__
    if len(told) > 300:
        told = f"{told[:300]}..."
    ours = Path(__file__).parents[2]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_file()
        and not any(Path(frame.filename).is_relative_to(place) for place in (TORCH, ours))
        and Path(frame.filename).parent.name != "importlib"
    ]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{told}{where}."


def find(target: str, spec: InputSpec) -> Factory:
    """Import what the user names; the current folder is on the path of imports.

    Args:
        target: `module:name`, of the user's own command line and of nothing that is stored.
        spec: what the net takes and gives.

    Raises:
        UsageError: there is no such module or name, or the import raised something.
    """
    module_name, _, name = target.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        with blamed(target, f"while {module_name} was imported"):
            module = importlib.import_module(module_name)
    except UsageError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and (
            module_name == missing.name or module_name.startswith(f"{missing.name}.")
        ):
            raise UsageError(
                f"arch is {target!r}, but there is no module {missing.name} in {here} or where "
                "Python looks for modules; go to its folder, or add that to PYTHONPATH."
            ) from error
        raise
    found = getattr(module, name, None)
    if not callable(found):
        known = sorted(
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__
        )
        what = "is no class or function" if hasattr(module, name) else "is not there"
        raise UsageError(
            f"arch is {target!r}, but {name} {what} in {module_name}; it has "
            f"{', '.join(known) or 'none'}{near(name, known)}"
        )
    return Factory(target, found, spec)


def prove(factory: Factory) -> nn.Module:
    """Return a module of the factory after it has done what a training asks of it.

    Raises:
        UsageError: it did not, and what is wrong is named.
    """
    target, module = factory.target, factory.build(0)
    _check_tensors(target, module)
    again = factory.build(0)
    mine, theirs = tensors_of(module), tensors_of(again)
    if mine.keys() != theirs.keys() or not all(mine[k].equal(theirs[k]) for k in mine):
        raise UsageError(
            f"arch {target} begins with other numbers each time, but must draw them from PyTorch's "
            "own generator: a trial is a function of its seed."
        )
    _check_evaluation(factory, again.eval())
    _check_training(factory, again.train())
    return module


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of floats, each once, as live tensors by name."""
    named = dict(module.named_parameters()) | dict(module.named_buffers())
    return {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}


def trained(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that training changes, as live tensors by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def kept(module: nn.Module) -> dict[str, Tensor]:
    """Return what else is kept of a module: buffers, and parameters that are frozen."""
    changing = trained(module)
    return {name: t for name, t in tensors_of(module).items() if name not in changing}


def _check_tensors(target: str, module: nn.Module) -> None:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise UsageError(
                f"arch {target}: {name} has no shape before the first image (nn.Lazy...); give the "
                "layer its number of inputs."
            )
        is_parameter = isinstance(tensor, nn.Parameter)
        if tensor.dtype != torch.float32 and (is_parameter or tensor.is_floating_point()):
            raise UsageError(
                f"arch {target}: {name} is {str(tensor.dtype).removeprefix('torch.')}, but must be "
                "float32."
            )
        if tensor.numel() == 0 or tensor.is_complex():
            raise UsageError(f"arch {target}: {name} holds no real numbers.")
    if not trained(module):
        raise UsageError(f"arch {target} has no parameters, but must have some to train.")


def _check_evaluation(factory: Factory, module: nn.Module) -> None:
    target, images = factory.target, factory.images()
    n, classes = len(images), factory.spec.classes
    before = images.clone()
    with torch.no_grad(), blamed(target, f"given images {list(images.shape)}"):
        with seeded(1):
            scores = module(images)
        if not isinstance(scores, Tensor):
            raise UsageError(
                f"arch {target} gives a {type(scores).__name__} for images, but must give scores "
                f"[n, {classes}]."
            )
        if scores.shape != (n, classes):
            raise UsageError(
                f"arch {target} gives {list(scores.shape)} for {n} images, but must give "
                f"[{n}, {classes}], a score for each class."
            )
        if not images.equal(before):
            raise UsageError(f"arch {target} changes the images it is given; let it copy them.")
        with seeded(2):
            again = module(images)
    if not scores.equal(again):
        raise UsageError(
            f"arch {target} gives other scores for the same images in evaluation; what is random "
            "must ask self.training."
        )


def _check_training(factory: Factory, module: nn.Module) -> None:
    target = factory.target
    before = _not_kept(module)
    with blamed(target, "trained for a step"), seeded(3):
        scores = module(factory.images())
        labels = torch.arange(PROBE) % factory.spec.classes
        torch.nn.functional.cross_entropy(scores, labels).backward()  # type: ignore[no-untyped-call]
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and parameter.grad.layout != torch.strided:
            raise UsageError(f"arch {target}: the gradient of {name} is sparse; make it dense.")
    after = _not_kept(module)
    for name in before | after:
        if before.get(name) != after.get(name):
            raise UsageError(
                f"arch {target} changes {name} when it is trained, which no checkpoint keeps; make "
                "it a buffer of float32 (register_buffer)."
            )


def _not_kept(module: nn.Module) -> dict[str, Any]:
    """Return what a module holds beside its tensors of floats, as far as it can be compared."""
    found: dict[str, Any] = {}
    for path, part in module.named_modules():
        prefix = f"{path}." if path else ""
        for key, value in vars(part).items():
            if isinstance(value, PLAIN) and key != "training":
                found[prefix + key] = value
            elif isinstance(value, Tensor):
                found[prefix + key] = short(value.tolist())
        for key, buffer in part.named_buffers(recurse=False):
            counts_batches = key == "num_batches_tracked" and getattr(part, "momentum", None)
            if not buffer.is_floating_point() and not counts_batches:
                found[prefix + key] = buffer.tolist()
    return found


def show_line(trace: str | None) -> str:
    """Return ` (line 17)` of the innermost line of a stack that is not PyTorch's."""
    places = re.findall(r'File "(.+?)", line (\d+)', trace or "")
    mine = [line for file, line in places if not Path(file).is_relative_to(TORCH)]
    return f" (line {mine[-1]})" if mine else ""
