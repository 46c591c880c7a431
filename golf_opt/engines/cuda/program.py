"""The kernel of one net as a program of thread blocks: compiled, cached, measured.

The same sources become a cubin by NVRTC, or, where blocks are emulated on the CPU, a shared library
by the C++ compiler. Neither needs a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf_opt.config.errors import UsageError
from golf_opt.engines.base import Message
from golf_opt.engines.native import library
from golf_opt.engines.native.codegen import dropout_nodes, generate, reader
from golf_opt.task.arch import Net
from golf_opt.utils.text import count

WIDTH = 32  # threads of a warp
FLAGS = ("--std=c++17", "--device-as-default-execution-space", "--ftz=true")
INFO = ("padded", "images", "warps", "front", "pass_floats", "segmented", "place", "width")


@dataclass(frozen=True)
class Block:
    """How a block is laid out; what suits a net best is a matter of measuring."""

    images: int  # side by side in a warp; the rest of its lanes are neighbouring positions
    warps: int = 8
    splits: int = 2  # parts that the rows behind a weight's gradient are summed in
    blocks: int = 2  # on a multiprocessor, that registers have to be left for
    distorts: bool = False  # the images that it trains on
    by_loss: bool = False  # tells the loss of each image, and weighs them
    mixes: bool = False  # the images of a batch

    def defines(self, place: int) -> list[str]:
        sizes = {"IMAGES": self.images, "WARPS": self.warps, "PLACE": place}
        sizes |= {"SPLITS": self.splits, "BLOCKS": self.blocks}
        reads = reader(self.distorts, self.mixes)
        more = [] if reads == "Loader" else [f"-DGOLF_READER={reads}"]
        more += library.loss_defines(self.by_loss, self.mixes)
        return [*(f"-DGOLF_{name}={value}" for name, value in sizes.items()), *more]

    def __str__(self) -> str:
        parts = (self.images, "image"), (self.warps, "warp"), (self.splits, "split")
        return ", ".join(count(*part) for part in (*parts, (self.blocks, "block")))


def block_for(batch_size: int, tuned: Mapping[int, Block] | None = None) -> Block:
    """Return the layout for a batch size: wide enough, and so small that blocks share a core.

    Args:
        batch_size: of the trial.
        tuned: what was best on this GPU, by the batch size that it was best at; the next larger one
            counts, or the largest.
    """
    if tuned:
        return tuned[min((size for size in tuned if size >= batch_size), default=max(tuned))]
    return Block(images=4 if batch_size <= 4 else 8)


def shown(layouts: Mapping[int, Block]) -> str:
    """Return layouts in one line, such as `batch 14: 8 images, 8 warps, 2 splits, 2 blocks`."""
    return "; ".join(f"batch {size}: {block}" for size, block in sorted(layouts.items()))


def blocks_of(told: Mapping[str, Mapping[str, Any]]) -> dict[int, Block]:
    """Return layouts by batch size as JSON has them."""
    return {int(size): Block(**block) for size, block in told.items()}


@dataclass(frozen=True)
class Info:
    """`golf_info` of kernel/block.cpp. Sizes are in floats."""

    padded: int  # numbers of weights, rounded up
    images: int
    warps: int
    front: int  # all in front of the activations
    pass_floats: int  # activations of one pass
    segmented: int  # whether each pass of a batch has its own
    place: int  # what lies in global memory: 0 nothing, 1 the activations, 2 all
    width: int

    def passes(self, batch_size: int) -> int:
        """Mirrors `Net::passes_floats`."""
        count = -(-batch_size // self.images) if self.segmented else 1
        return self.pass_floats * count + self.width

    def tail(self, batch_size: int, dropouts: int) -> int:
        """Mirrors `Layout::tail`."""
        words = max(batch_size, self.images) + dropouts + self.width - 1
        return words // self.width * self.width

    def shared_bytes(self, net: Net, batch_size: int) -> int:
        """Shared memory that a block wants."""
        passes, tail = self.passes(batch_size), self.tail(batch_size, len(dropout_nodes(net)))
        return 4 * (self.front + passes + tail, self.front + tail, 0)[self.place]

    def spill_bytes(self, net: Net, batch_size: int) -> int:
        """Global memory that a block works in."""
        passes, tail = self.passes(batch_size), self.tail(batch_size, len(dropout_nodes(net)))
        return 4 * (0, passes, self.front + passes + tail)[self.place]


def nvrtc_options(block: Block, place: int, arch: str) -> list[str]:
    return [*FLAGS, f"--gpu-architecture={arch}", *block.defines(place)]


def compile_cubin(net: Net, block: Block, place: int, arch: str, say: Message | None) -> Path:
    """Return the path of the machine code for a GPU such as `sm_90`.

    Raises:
        UsageError: NVRTC is not there, or does not know the GPU.
    """
    header, options = generate(net), nvrtc_options(block, place, arch)
    note = f"compiling the kernel of {net.name} for {arch} ({block.images} images wide), once"
    return library.cached(
        f"{library.key_of(*options, str(require_nvrtc().nvrtcVersion()), header)}.cubin",
        lambda folder: compile_with_nvrtc(header, options, folder),
        lambda: say(note) if say else None,
    )


def compile_emulation(
    net: Net, block: Block, place: int, flags: tuple[str, ...], say: Message | None
) -> Path:
    """Return the path of a shared library in which a thread stands for each warp."""
    header = generate(net)
    build = [*library.require_compiler(), "-std=c++17", "-fPIC", "-pthread", "-Wno-psabi"]
    build += [library.this_cpu(), *flags, f"-DGOLF_WIDTH={WIDTH}", *block.defines(place)]
    note = f"compiling the kernel of {net.name} for an emulated GPU, once"
    return library.cached(
        f"{library.key_of_build(build, header)}.so",
        lambda folder: library.compile_shared(build, "block.cpp", header, folder),
        lambda: say(note) if say else None,
    )


def require_nvrtc() -> Any:
    """Return `cuda.bindings.nvrtc`.

    Raises:
        UsageError: it cannot be loaded.
    """
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError, OSError) as error:
        raise UsageError(
            f"engine=cuda must have NVRTC to compile for the GPU ({error}); "
            "install a CUDA build of PyTorch, which brings it, or use engine=native."
        ) from error
    return nvrtc


def nvrtc_version() -> str:
    """Return NVRTC's version, such as `12.4`.

    Raises:
        UsageError: see `require_nvrtc`.
    """
    _, major, minor = require_nvrtc().nvrtcVersion()
    return f"{major}.{minor}"


def compile_with_nvrtc(header: str, options: list[str], folder: Path) -> Path:
    """Compile into a folder; return the cubin's path. Beside it are its PTX and the report."""
    nvrtc = require_nvrtc()
    headers = {name: text for name, text in library.sources().items() if name != "block.cpp"}
    headers["net.inc"] = header
    _, program = nvrtc.nvrtcCreateProgram(
        library.sources()["block.cpp"].encode(),
        b"block.cpp",
        len(headers),
        [text.encode() for text in headers.values()],
        [name.encode() for name in headers],
    )
    options = [*options, '-DGOLF_NET="net.inc"', "--ptxas-options=-v"]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
    log = _output(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
    if int(status) != 0:
        raise UsageError(
            f"NVRTC cannot compile the kernel ({status.name}); use engine=native.\n{log.decode()}"
        )
    outputs = {
        "log": log,
        "ptx": _output(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program),
        "cubin": _output(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program),
    }
    for name, output in outputs.items():
        Path(folder, f"made.{name}").write_bytes(output)
    nvrtc.nvrtcDestroyProgram(program)
    return folder / "made.cubin"


def _output(size_of: Callable[[Any], Any], get: Callable[[Any, bytes], Any], program: Any) -> bytes:
    """Return what NVRTC writes into a buffer of the size that it names."""
    _, size = size_of(program)
    output = b" " * int(size)
    get(program, output)
    return output
