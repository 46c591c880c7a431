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
    trials: int | None = 1,
) -> Engine:
    """Return the engine that `engine=...` asks for.

    Args:
        config: what was asked for.
        view: the data.
        net: that trials have, or one of those where they differ.
        say: prints a line to the user.
        nets_differ: from trial to trial. Then a lane waits at times for the next trial or for
            another lane's compile, so `lanes=auto` of the native engine is one more than there are
            cores.
        trials: that there are side by side at most; None: as many as there are lanes.

    `auto` takes a GPU that has proved itself for the net and is faster with these trials, and
    otherwise the native engine wherever it can: a step of PyTorch on nets this small is bound by
    its launches, on a GPU too. Nets that differ would each be compiled whole for a GPU, and stay on
    the CPU. `engine=cuda` asks for the native engine's kernel on the GPU, and `engine.device=cuda`
    for PyTorch there. A module of the user's is for PyTorch alone.
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
    elif gpu := _on_gpu(config, view, net, say, 1 if nets_differ else trials):
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


def _on_gpu(
    config: EngineConfig, view: View, net: Net, say: Callable[[str], None], trials: int | None
) -> Engine | None:
    """Return the CUDA engine where it is asked for, or is what `auto` takes."""
    if config.name != "cuda" and (config.name, config.device) != ("auto", "auto"):
        return None
    from golf_opt.engines.cuda import CudaEngine
    from golf_opt.engines.cuda.program import blocks_of
    from golf_opt.engines.cuda.verdict import require_proof, takes_gpu

    if config.name == "cuda":
        verdict = require_proof(net, config.lanes, say)
    elif (verdict := takes_gpu(net, config.lanes, trials, say)) is None:
        return None
    layouts = blocks_of(verdict.layouts) if verdict else None
    gpu = CudaEngine(view, config.lanes, say, layouts=layouts)
    gpu.prepare(net)
    return gpu


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
