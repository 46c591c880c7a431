"""Names of architectures: a name such as `c4-5-4`, or of a file in conf/arch -> layers.

    c4-5-4              conv channels 4, 5, 4; kernels 4, 3, 3; ReLU
    c4-5-4-prelu        the same with one learned slope per channel
    c4-5-4-leaky0.2     the same with LeakyReLU of slope 0.2 (0.01 where no number is given)
    c3-4-4-k5-3-3       kernels 5, 3, 3

Every convolution of the grammar is valid (no padding), has a bias and stride 1, and is followed by
the activation and, but for the last, by a 2x2 max pool; a linear layer gives the classes.

    my_nets:Tiny        a class or function of the user's, that `task.modules` imports and traces
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from golf_opt.config import CONF_DIR, load_yaml, yaml_file
from golf_opt.config.errors import UsageError, did_you_mean, short
from golf_opt.task.arch import CLASSES, Net, build_net
from golf_opt.task.inputs import MNIST, InputSpec
from golf_opt.task.layers import LeakyReLU

GRAMMAR = "c<channels>-<channels>-...[-k<kernel>-...][-relu|-prelu|-leaky[slope]]"

TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def parse_grammar(name: str) -> dict[str, Any] | None:
    """Return `{name, layers}` for a name of the grammar, None for any other name."""
    match = re.fullmatch(
        r"c(\d+(?:-\d+)*)(?:-k(\d+(?:-\d+)*))?(?:-(relu|prelu|leaky)([\d.]*))?", name
    )
    if match is None:
        return None
    channels = [int(number) for number in match[1].split("-")]
    kernels = [int(k) for k in match[2].split("-")] if match[2] else [4] + [3] * (len(channels) - 1)
    if len(kernels) != len(channels):
        raise UsageError(
            f"arch {name} has {len(channels)} convolutions and {len(kernels)} kernels, "
            "but must have one kernel for each."
        )
    activation = _activation(name, match[3] or "relu", match[4] or "")
    layers: list[dict[str, Any]] = []
    for width, kernel in zip(channels, kernels, strict=True):
        layers += [{"kind": "conv", "channels": width, "kernel": kernel}, dict(activation)]
        layers += [{"kind": "max_pool", "size": 2}]
    layers[-1] = {"kind": "linear", "features": CLASSES}  # no pool after the last convolution
    return {"name": name, "layers": layers}


def _activation(name: str, word: str, slope: str) -> dict[str, Any]:
    if word != "leaky":
        if slope:
            raise UsageError(f"arch {name}: {word} takes no number; only leaky does.")
        return {"kind": word}
    if not re.fullmatch(r"(\d+(\.\d+)?)?", slope):
        raise UsageError(f"arch {name}: slope {slope!r} must be a number such as 0.2.")
    return {"kind": "leaky_relu", "slope": float(slope or LeakyReLU.slope)}


def parse_target(name: str) -> dict[str, Any] | None:
    """Return `{name, module}` for `my_nets:Tiny`, None for what is no such name."""
    if not TARGET.fullmatch(name) or len(name) > 200:
        return None
    return {"name": name.rpartition(":")[2], "module": name}


def presets() -> list[str]:
    """Return the names of the preset files."""
    return sorted(path.stem for path in (CONF_DIR / "arch").glob("*.yaml"))


def read_arch(path: Path) -> dict[str, Any]:
    """Return `{name, layers}` of a file that may be anybody's: plain data, and no more than that.

    Raises:
        UsageError: it is no such file.
    """
    plain = yaml_file.load_plain(path, "with name and layers")
    if more := set(plain) - {"name", "layers"}:
        shown = ", ".join(sorted(map(short, more)))
        raise UsageError(f"{path} has {shown}, but must have name and layers alone.")
    return {"name": path.stem, **plain}


def load_arch(name: str, spec: InputSpec = MNIST) -> Net:
    """Build the net of this name: a preset file of conf/arch, the grammar, or a file's path."""
    known = presets()
    if name in known:
        return build_net(load_yaml(CONF_DIR / "arch" / f"{name}.yaml"), spec)
    if name.endswith((".yaml", ".yml")):
        return build_net(read_arch(Path(name)), spec)
    arch = parse_grammar(name)
    if arch is None:
        raise UsageError(unknown_arch(name, known))
    return build_net(arch, spec)


def unknown_arch(name: str, known: Sequence[str]) -> str:
    """Return the message for a name that is neither a preset nor of the grammar."""
    return (
        f"arch is {name!r}, but must be {GRAMMAR}, such as c4-5-4 or c4-5-4-prelu, my_nets:Tiny "
        "for a net of yours, or "
        f"{did_you_mean(name, [*known, 'c4-5-4', 'c4-5-4-prelu'])}"
    )
