"""Where blocks run: a GPU, by PyTorch's memory and the CUDA driver, or an emulation on the CPU.

Both hold buffers of bytes at addresses and start the functions of a program. Work is queued in the
order of the calls of a thread; `read` waits for it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from golf_opt.config.errors import UsageError
from golf_opt.engines.base import EngineFault, Message
from golf_opt.engines.cuda.program import INFO, Block, Info, compile_cubin, compile_emulation
from golf_opt.engines.flat import aligned
from golf_opt.task.arch import Net

SHARED_LIMIT = 227 * 1024  # of a block on the largest GPUs so far
EMULATED_CORES = 2
Bytes = npt.NDArray[np.uint8]


class OutOfMemory(EngineFault):
    """The device has no memory left; others may use it."""


class Buffer(Protocol):
    """Bytes on the device."""

    address: int

    def write(self, values: npt.NDArray[Any], offset: int = 0) -> None: ...

    def read(self) -> Bytes: ...


class Program(Protocol):
    """The compiled kernel of one net."""

    info: Info

    def run(self, function: str, blocks: int, shared_bytes: int, *arguments: int | float) -> None:
        """Queue a function on as many blocks; integers are 64 bits wide, such as addresses."""

    def per_core(self, shared_bytes: int) -> int:
        """Return how many blocks a multiprocessor holds at once."""

    def facts(self) -> dict[str, int]:
        """Return what is known of the machine code, such as its registers."""


class Device(Protocol):
    name: str
    cores: int  # multiprocessors
    shared_limit: int  # bytes of shared memory that a block may have

    def allocate(self, size: int) -> Buffer:
        """Return zeros."""

    def load(self, net: Net, block: Block, place: int, say: Message | None) -> Program: ...

    def queue(self) -> Any:
        """Return a context in which a thread queues its work by itself."""

    def clock(self) -> float:
        """Return seconds from any moment on, in which its work is measured."""


def put(device: Device, values: npt.NDArray[Any]) -> Buffer:
    """Return a new buffer that holds the values."""
    buffer = device.allocate(values.nbytes)
    buffer.write(values)
    return buffer


# --- a GPU ---


class GpuBuffer:
    def __init__(self, size: int) -> None:
        import torch

        self._torch = torch
        try:
            self._bytes = torch.zeros(max(1, size), dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"the GPU has no {size:,} bytes left; give fewer lanes (engine.lanes=...)"
            ) from error
        self.address = int(self._bytes.data_ptr())

    def write(self, values: npt.NDArray[Any], offset: int = 0) -> None:
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self._bytes[offset : offset + flat.size].copy_(self._torch.from_numpy(flat))

    def read(self) -> Bytes:
        found: Bytes = self._bytes.cpu().numpy()
        return found


class GpuProgram:
    def __init__(self, path: str) -> None:
        from cuda.bindings import driver

        self._driver = driver
        self._module = self._call(driver.cuModuleLoad, path.encode())
        self._functions: dict[str, Any] = {}
        self.info = self._info()
        self.get("golf_slice")

    def get(self, function: str) -> Any:
        """Return a function, allowed to have as much shared memory as there is."""
        if function not in self._functions:
            found = self._call(self._driver.cuModuleGetFunction, self._module, function.encode())
            attribute = self._driver.CUfunction_attribute
            limit = attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._call(self._driver.cuFuncSetAttribute, found, limit, _shared_limit())
            self._functions[function] = found
        return self._functions[function]

    def run(self, function: str, blocks: int, shared_bytes: int, *arguments: int | float) -> None:
        import torch

        types = [ctypes.c_double if isinstance(a, float) else ctypes.c_void_p for a in arguments]
        self._call(
            self._driver.cuLaunchKernel,
            self.get(function),
            *(blocks, 1, 1),
            *(self.info.warps * self.info.width, 1, 1),
            shared_bytes,
            torch.cuda.current_stream().cuda_stream,
            (tuple(arguments), tuple(types)),
            0,
        )

    def per_core(self, shared_bytes: int) -> int:
        threads = self.info.warps * self.info.width
        count = self._driver.cuOccupancyMaxActiveBlocksPerMultiprocessor
        return int(self._call(count, self.get("golf_slice"), threads, shared_bytes))

    def facts(self) -> dict[str, int]:
        attribute = self._driver.CUfunction_attribute
        wanted = {
            "registers": attribute.CU_FUNC_ATTRIBUTE_NUM_REGS,
            "spill_bytes": attribute.CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES,
        }
        function = self.get("golf_slice")
        return {
            name: int(self._call(self._driver.cuFuncGetAttribute, key, function))
            for name, key in wanted.items()
        }

    def _info(self) -> Info:
        address, size = self._call(self._driver.cuModuleGetGlobal, self._module, b"golf_info")
        numbers = np.zeros(len(INFO), dtype=np.int64)
        assert size == numbers.nbytes
        self._call(self._driver.cuMemcpyDtoH, numbers.ctypes.data, address, size)
        return Info(*numbers.tolist())

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        status, *found = function(*arguments)
        if int(status) != 0:
            raise EngineFault(f"the GPU's driver says {status.name} ({function.__name__})")
        return found[0] if len(found) == 1 else found


class Gpu:
    """The current CUDA device of PyTorch."""

    def __init__(self) -> None:
        import torch

        if not torch.cuda.is_available():
            raise UsageError(
                "engine is 'cuda', which must have an NVIDIA GPU, its driver and a CUDA build of "
                "PyTorch, but PyTorch sees none; use engine=native."
            )
        self._torch = torch
        properties = torch.cuda.get_device_properties()
        self.name = f"cuda ({properties.name})"
        self.cores = properties.multi_processor_count
        self.shared_limit = _shared_limit()
        self._arch = f"sm_{properties.major}{properties.minor}"
        torch.zeros(1, device="cuda")  # makes the context that the driver's calls are in

    def allocate(self, size: int) -> Buffer:
        return GpuBuffer(size)

    def load(self, net: Net, block: Block, place: int, say: Message | None) -> Program:
        return GpuProgram(str(compile_cubin(net, block, place, self._arch, say)))

    @contextmanager
    def queue(self) -> Iterator[None]:
        with self._torch.cuda.stream(self._torch.cuda.Stream()):  # type: ignore[no-untyped-call]
            yield

    def clock(self) -> float:
        return time.perf_counter()


def _shared_limit() -> int:
    import torch

    return int(torch.cuda.get_device_properties().shared_memory_per_block_optin)


# --- an emulation ---


class EmulatedBuffer:
    def __init__(self, size: int) -> None:
        self._bytes = aligned(size, np.uint8)
        self.address = int(self._bytes.ctypes.data)

    def write(self, values: npt.NDArray[Any], offset: int = 0) -> None:
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self._bytes[offset : offset + flat.size] = flat

    def read(self) -> Bytes:
        return self._bytes.copy()


class EmulatedProgram:
    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)  # lets go of Python's lock during a call
        numbers = (ctypes.c_int64 * len(INFO))()
        self._library.golf_info(numbers)
        self.info = Info(*numbers)

    def run(self, function: str, blocks: int, shared_bytes: int, *arguments: int | float) -> None:
        call = self._library[function]
        call.restype = None
        types = [ctypes.c_double if isinstance(a, float) else ctypes.c_void_p for a in arguments]
        call.argtypes = [ctypes.c_int64, ctypes.c_int64, *types]
        call(blocks, shared_bytes // 4, *arguments)

    def per_core(self, shared_bytes: int) -> int:
        return 1

    def facts(self) -> dict[str, int]:
        return {}


class Emulation:
    """Thread blocks on the CPU: slow, and all that a GPU would do but its speed."""

    name = "cpu (an emulated gpu)"
    cores = EMULATED_CORES

    def __init__(self, flags: tuple[str, ...] = ("-Og",), shared_limit: int = SHARED_LIMIT) -> None:
        self._flags = flags
        self.shared_limit = shared_limit

    def allocate(self, size: int) -> Buffer:
        return EmulatedBuffer(size)

    def load(self, net: Net, block: Block, place: int, say: Message | None) -> Program:
        return EmulatedProgram(str(compile_emulation(net, block, place, self._flags, say)))

    @contextmanager
    def queue(self) -> Iterator[None]:
        yield

    def clock(self) -> float:
        return time.perf_counter()
