"""Training in compiled code: the batch in the SIMD lanes, every shape a constant."""

from golf_opt.engines.native.codegen import unsupported
from golf_opt.engines.native.engine import NativeEngine, physical_cores
from golf_opt.engines.native.library import compiler

__all__ = ["NativeEngine", "compiler", "physical_cores", "unsupported"]
