"""What our kernel would do on three GPUs, predicted from its PTX. No GPU is needed.

    python -m bench.gpu_model [--nets c4-5-4,separable-697] [--batch-sizes 4,14,32] [--output FILE]

Nothing here was measured on a GPU: see `roofline` for what is counted and what is assumed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.gpu_model.profile import Prediction, Profiler
from bench.gpu_model.roofline import GPUS, Load
from bench.report import RESULTS
from golf_opt.engines.cuda.program import Block, nvrtc_version
from golf_opt.task.grammar import load_arch

CONSOLE = Console(width=130)
SHOWN = 8  # kinds of intervals


def row(found: Prediction) -> dict[str, Any]:
    """Return a prediction as JSON."""
    training_s, evaluation_s = found.epoch_s
    return {
        "net": found.net, "batch_size": found.batch_size, "layout": asdict(found.block),
        "gpu": found.gpu.name, "arch": found.gpu.arch, "registers": found.registers,
        "spill_bytes": found.spill_bytes, "shared_bytes": found.shared_bytes,
        "blocks_per_sm": found.held, "epochs_per_s": round(found.epochs_per_s, 1),
        "epochs_per_s_of_one": round(found.alone_epochs_per_s, 2),
        "evaluation_share": round(evaluation_s / (training_s + evaluation_s), 3),
        "step": told(found, found.total(found.step)) | {"limit": found.limit(found.step)},
        "intervals": [
            {"what": name} | told(found, load)
            for (name, _), load in sorted(found.step.items(), key=lambda item: -item[1].cycles)
        ][:SHOWN],
    }  # fmt: skip


def told(found: Prediction, load: Load) -> dict[str, Any]:
    warps = found.block.warps
    return {
        "cycles": round(load.cycles), "barriers": load.intervals, "multiply_adds": load.fused,
        **{name.replace(" ", "_"): round(value) for name, value in load.busiest(found.gpu).items()},
        "bank_conflicts": round(load.shared - load.needed),
        "warps_busy": round(load.warps / max(1, warps * load.slowest), 2),
    }  # fmt: skip


def table(rows: Iterable[dict[str, Any]]) -> Table:
    heads = (
        "net", "batch", "layout", "GPU", "regs", "blocks/SM", "epochs/s", "one lane", "limit",
        "evaluation", "warps busy", "conflicts",
    )  # fmt: skip
    made = Table(*heads, title="predicted, not measured")
    for told_row in rows:
        layout, step = told_row["layout"], told_row["step"]
        made.add_row(
            told_row["net"], str(told_row["batch_size"]), str(Block(**layout)), told_row["gpu"],
            f"{told_row['registers']}", str(told_row["blocks_per_sm"]),
            f"{told_row['epochs_per_s']:,.0f}", f"{told_row['epochs_per_s_of_one']:.2f}",
            step["limit"], f"{told_row['evaluation_share']:.0%}", f"{step['warps_busy']:.0%}",
            f"{step['bank_conflicts'] / max(1, step['shared_memory']):.0%}",
        )  # fmt: skip
    return made


def predictions(nets: Iterable[str], sizes: Iterable[int]) -> Iterator[dict[str, Any]]:
    for name in nets:
        for size in sizes:
            profiler = Profiler(load_arch(name), size)
            for gpu in GPUS:
                yield row(profiler.predict(gpu))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nets", default="c4-5-4,separable-697")
    parser.add_argument("--batch-sizes", default="4,14,32")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu-model.json")
    options = parser.parse_args()
    sizes = [int(size) for size in options.batch_sizes.split(",")]
    rows = []
    for told_row in predictions(options.nets.split(","), sizes):
        rows.append(told_row)
        CONSOLE.print(f"{told_row['net']}, batch {told_row['batch_size']}, {told_row['gpu']}")
        result = {"measured": False, "nvrtc": nvrtc_version(), "rows": rows}
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    CONSOLE.print(table(rows))


if __name__ == "__main__":
    main()
