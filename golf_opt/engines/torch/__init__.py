"""Training in plain PyTorch: any net, on the CPU or a GPU; what other engines are held to."""

from golf_opt.engines.torch.engine import TorchEngine, pick_device
from golf_opt.engines.torch.module import CounterDropout, TorchNet, build_module

__all__ = ["CounterDropout", "TorchEngine", "TorchNet", "build_module", "pick_device"]
