"""Trials on a GPU, one for each thread block, by the native engine's kernel compiled for CUDA."""

from golf_opt.engines.cuda.engine import CudaEngine
from golf_opt.engines.cuda.program import Block

__all__ = ["Block", "CudaEngine"]
