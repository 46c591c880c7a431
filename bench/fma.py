"""The limit of a GPU: float32 fused multiply-adds on registers alone, measured."""

from __future__ import annotations

import ctypes
import time
from typing import Any

import torch

THREADS, BLOCKS_PER_SM, CHAINS, UNROLL = 256, 8, 8, 16
SECONDS = 0.05  # of a measurement
SOURCE = f"""
extern "C" __global__ void fma_loop(float* out, int rounds) {{
    float a[{CHAINS}];
    const float x = 0.999f - 1e-9f * threadIdx.x, y = 1e-7f * blockIdx.x;
    for (int i = 0; i < {CHAINS}; i++) a[i] = i;
    for (int k = 0; k < rounds; k++) {{
        #pragma unroll
        for (int u = 0; u < {UNROLL}; u++)
            #pragma unroll
            for (int i = 0; i < {CHAINS}; i++) a[i] = fmaf(a[i], x, y);
    }}
    float sum = 0;
    for (int i = 0; i < {CHAINS}; i++) sum += a[i];
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}}
"""


def check(result: tuple[Any, ...]) -> Any:
    """Return what a call of cuda.bindings gives beside its status, which must be 0."""
    status, *values = result
    if int(status) != 0:
        raise RuntimeError(f"CUDA says {status.name}")
    return values[0] if values else None


def compile_loop(capability: tuple[int, int]) -> bytes:
    """Compile the loop for a compute capability, such as (9, 0). It needs no GPU."""
    from cuda.bindings import nvrtc

    program = check(nvrtc.nvrtcCreateProgram(SOURCE.encode(), b"fma.cu", 0, [], []))
    target = f"--gpu-architecture=sm_{capability[0]}{capability[1]}".encode()
    check(nvrtc.nvrtcCompileProgram(program, 1, [target]))
    cubin = b" " * check(nvrtc.nvrtcGetCUBINSize(program))
    check(nvrtc.nvrtcGetCUBIN(program, cubin))
    return cubin


class Peak:
    """The compiled loop on the current GPU, in PyTorch's context."""

    def __init__(self) -> None:
        from cuda.bindings import driver

        sms = torch.cuda.get_device_properties().multi_processor_count
        self.blocks = sms * BLOCKS_PER_SM
        self.out = torch.empty(self.blocks * THREADS, device="cuda")  # makes the context, too
        module = check(driver.cuModuleLoadData(compile_loop(torch.cuda.get_device_capability())))
        self.kernel = check(driver.cuModuleGetFunction(module, b"fma_loop"))
        self._seconds(1000)
        self.rounds = int(20_000 * SECONDS / self._seconds(20_000))

    def gflops(self) -> float:
        """Return GFLOP/s, two for a multiply-add."""
        operations = 2 * CHAINS * UNROLL * self.rounds * self.blocks * THREADS
        return operations / self._seconds(self.rounds) / 1e9

    def _seconds(self, rounds: int) -> float:
        from cuda.bindings import driver

        stream = torch.cuda.current_stream().cuda_stream
        arguments = (self.out.data_ptr(), rounds), (ctypes.c_void_p, ctypes.c_int)
        torch.cuda.synchronize()
        started = time.perf_counter()
        check(
            driver.cuLaunchKernel(
                self.kernel, self.blocks, 1, 1, THREADS, 1, 1, 0, stream, arguments, 0
            )
        )
        torch.cuda.synchronize()
        return time.perf_counter() - started
