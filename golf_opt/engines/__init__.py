"""Engines train trials in lanes; `base` is what the study loop knows of them."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from golf_opt import __version__
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import EngineConfig
from golf_opt.engines.base import Engine
from golf_opt.task.arch import Net
from golf_opt.task.data import View
from golf_opt.task.modules.given import why_not_ours
from golf_opt.utils.processes import git_commit


def create_engine(
    config: EngineConfig,
    view: View,
    net: Net,
    say: Callable[[str], None],
    *,
    nets_differ: bool = False,
) -> Engine:
    """Return the engine that `engine=...` asks for.

    Where nets differ from trial to trial, a lane waits at times for the next trial or for another
    lane's compile. So `lanes=auto` of the native engine is then one more than there are cores.

    `auto` takes the native engine wherever it can: a step of PyTorch on nets this small is bound by
    its launches, on a GPU too. `engine=cuda` asks for the native engine's kernel on the GPU, and
    `engine.device=cuda` for PyTorch there. A module of the user's is for PyTorch alone.
    """
    if config.name == "python":
        raise UsageError(
            "engine is 'python', which runs functions (golf-opt study objective=MODULE:FUNCTION) "
            "and no nets; take auto, native, torch or cuda."
        )
    if (layer := net.module) is not None:
        if config.name in ("native", "cuda"):
            raise UsageError(
                f"engine is {config.name}, but must be torch or auto: {why_not_ours(layer)}."
            )
        chosen = "engine=auto takes torch: " if config.name == "auto" else ""
        say(f"{chosen}{why_not_ours(layer)}")
    if config.name == "cuda":
        from golf_opt.engines.cuda import CudaEngine

        gpu = CudaEngine(view, config.lanes, say)
        gpu.prepare(net)
        return gpu
    if config.name != "torch" and net.module is None:
        from golf_opt.engines import native

        try:
            if config.device.startswith("cuda"):
                raise UsageError(
                    f"engine.device is {config.device!r}, but engine=native must have cpu or auto."
                )
            lanes = config.lanes or native.physical_cores() + nets_differ
            engine = native.NativeEngine(view, lanes, say)
            engine.prepare(net)
            return engine
        except UsageError as obstacle:
            if config.name == "native":
                raise
            say(f"engine=auto takes torch: {str(obstacle).splitlines()[0]}")

    from golf_opt.engines.torch import TorchEngine  # seconds to import; native needs none of it

    return TorchEngine(view, config.lanes or 1, config.device, config.threads)


def provenance(engine: Engine[Any]) -> dict[str, Any]:
    """Return what produced a trial: versions, commit, engine, device."""
    packages = ("torch", "optuna", "numpy")
    return {
        "engine": engine.name,
        "device": engine.device,
        "versions": {"golf_opt": __version__, "python": platform.python_version()}
        | {package: version(package) for package in packages},
        "git_commit": git_commit(),
    }
