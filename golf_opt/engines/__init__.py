"""Engines train trials in lanes; `base` is what the study loop knows of them."""

from __future__ import annotations

from collections.abc import Callable

from golf_opt.arch import Net
from golf_opt.config import EngineConfig
from golf_opt.data import View
from golf_opt.engines.base import Engine


def create_engine(config: EngineConfig, view: View, net: Net, say: Callable[[str], None]) -> Engine:
    """Return the engine that `engine=...` asks for; `auto` picks one and says why."""
    from golf_opt.engines.torch import TorchEngine

    return TorchEngine(view, config.lanes or 1, config.device, config.threads)
