"""Engines train trials in lanes; `base` is what the study loop knows of them."""

from __future__ import annotations

from collections.abc import Callable

from golf_opt.arch import Net
from golf_opt.config import EngineConfig, UsageError
from golf_opt.data import View
from golf_opt.engines.base import Engine


def create_engine(config: EngineConfig, view: View, net: Net, say: Callable[[str], None]) -> Engine:
    """Return the engine that `engine=...` asks for.

    `auto` takes the native engine wherever it can: a step of PyTorch on nets this small is bound by
    its launches, on a GPU too. `engine.device=cuda` asks for PyTorch on the GPU.
    """
    if config.name != "torch":
        from golf_opt.engines import native

        obstacle = _no_native(config, native.unsupported(net), native.compiler())
        if obstacle is None:
            return native.NativeEngine(view, config.lanes, say)
        if config.name == "native":
            raise UsageError(f"engine=native cannot be used: {obstacle}.")
        say(f"engine=auto takes torch: {obstacle}")

    from golf_opt.engines.torch import TorchEngine  # seconds to import; native needs none of it

    return TorchEngine(view, config.lanes or 1, config.device, config.threads)


def _no_native(config: EngineConfig, unsupported: str | None, compiler: str | None) -> str | None:
    """Return why the native engine cannot train this, or None."""
    if config.device.startswith("cuda"):
        return f"the native engine runs on the CPU, and engine.device is {config.device!r}"
    if compiler is None:
        return "there is no C++ compiler; install one, for example the package g++"
    return unsupported
