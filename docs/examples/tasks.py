"""Four tasks, each from its data to a net in C:  python docs/examples/tasks.py TASK [FOLDER]

mnist     the article's: digits of 28x28
digits8   scikit-learn's digits, as they are: 8x8
photos    which of scikit-learn's two sample photographs a patch of 32x32 in colour is of
signals   which of five noisy waveforms a signal of 128 samples is

Each makes its data (mnist aside), and then runs what a user would: a study, confirm, prune,
interpret, deploy and report. In the end the C is compiled, and its answers for all test images are
held against those of the engine. FOLDER/result.json has what came out.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.config.schema import DataConfig, EngineConfig, StorageConfig
from golf_opt.engines import create_engine
from golf_opt.engines.base import Introspective
from golf_opt.golf.confirmations import kept_results
from golf_opt.golf.source import TrainedNet, load_trained
from golf_opt.storage.connect import opened_to_read
from golf_opt.study.description import find_study
from golf_opt.task.data import load

Arrays = dict[str, npt.NDArray[Any]]
AUTO = EngineConfig("auto", "auto", 1, 1)

HERE = Path(__file__).parent
PATCH, STEP = 32, 8
TRAIN_COLUMNS = 416  # of a photograph's 640; what is right of them is for the test
WAVES = ("sine", "square", "saw", "chirp", "burst")
LENGTH = 128


@dataclass(frozen=True)
class Task:
    """What is asked of golf-opt for one of the tasks."""

    arch: str
    data: str
    epochs: int


TASKS = {
    "mnist": Task("c4-5-4", "mnist", 18),
    "digits8": Task("c8-8-k3-3", "digits8.npz", 40),
    "photos": Task("c4-6-8-k5-3-3", "photos.npz", 20),
    "signals": Task(str(HERE / "wave.yaml"), "signals.npz", 30),
}


def digits8() -> Arrays:
    """All 1,797 digits, and no test part: golf-opt splits one off."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (found.images * (255 / 16)).round().astype(np.uint8)
    return {"x_train": images, "y_train": found.target}


def photos() -> Arrays:
    """Patches [n, 32, 32, 3] from the left of both photographs, and for the test from the right."""
    from sklearn.datasets import load_sample_images

    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ("x_train", "x_test")}
    labels: dict[str, list[int]] = {name: [] for name in ("y_train", "y_test")}
    for label, photo in enumerate(load_sample_images().images):
        for part, columns in (
            ("train", range(0, TRAIN_COLUMNS - PATCH + 1, STEP)),
            ("test", range(TRAIN_COLUMNS, photo.shape[1] - PATCH + 1, STEP)),
        ):
            for y in range(0, photo.shape[0] - PATCH + 1, STEP):
                for x in columns:
                    parts[f"x_{part}"].append(photo[y : y + PATCH, x : x + PATCH])
                    labels[f"y_{part}"].append(label)
    stacked = {name: np.stack(patches) for name, patches in parts.items()}
    numbers = {name: np.array(values) for name, values in labels.items()}
    return stacked | numbers | {"class_names": np.array(["china", "flower"])}


def signals() -> Arrays:
    """Waveforms of any phase, frequency and loudness in noise, as bytes [n, 1, 1, 128]."""
    draw = np.random.default_rng(7)
    found: Arrays = {"class_names": np.array(WAVES)}
    for part, n in (("train", 6000), ("test", 2000)):
        labels = draw.integers(0, len(WAVES), n)
        waves = np.stack([_wave(WAVES[label], draw) for label in labels])
        noisy = waves + draw.normal(0, 0.35, waves.shape)
        bytes_ = np.clip(128 + 50 * noisy, 0, 255).astype(np.uint8)
        found |= {f"x_{part}": bytes_.reshape(n, 1, 1, LENGTH), f"y_{part}": labels}
    return found


def _wave(name: str, draw: np.random.Generator) -> npt.NDArray[Any]:
    time = np.linspace(0, 1, LENGTH)
    turns = draw.uniform(3, 8) * time + draw.uniform()  # phase in whole turns
    if name == "sine":
        wave = np.sin(2 * np.pi * turns)
    elif name == "square":
        wave = np.sign(np.sin(2 * np.pi * turns))
    elif name == "saw":
        wave = 2 * (turns % 1) - 1
    elif name == "chirp":
        wave = np.sin(2 * np.pi * (turns + draw.uniform(6, 12) * time**2))
    else:
        centre = draw.uniform(0.2, 0.8)
        wave = np.sin(2 * np.pi * 3 * turns) * np.exp(-(((time - centre) / 0.08) ** 2)) * 1.5
    return wave * draw.uniform(0.6, 1.2)


MAIN = """
#include <stdio.h>
#include "net.h"
int main(void)
{{
    uint8_t image[{pixels}];
    float scores[{classes}];
    while (fread(image, 1, sizeof image, stdin) == sizeof image) {{
        putchar(golf_predict(image, scores));
    }}
    return 0;
}}
"""


def golf(*words: str) -> None:
    """Run golf-opt, and show what it is asked and what it says."""
    print(f"$ golf-opt {shlex.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "golf_opt", *words], check=True)


def result(name: str, folder: Path, data: str) -> dict[str, Any]:
    """Return what came out: of study, fresh seeds, pruning and C."""
    with opened_to_read(StorageConfig(f"sqlite:///{folder}/golf.db")) as storage:
        study = find_study(storage, name)
        trained = load_trained(study, folder)
        assert trained.trial is not None
        confirmed = kept_results(study)[str(trained.trial.number)].values()
        trials = len(study.trials)
    (pruned,) = (folder / "pruned").glob("*/prune.json")
    summary = json.loads(pruned.read_text())
    same, images = compare(trained, folder, data)
    return {
        "task": name,
        "arch": trained.net.name,
        "input": trained.net.input.shape,
        "classes": trained.net.input.classes,
        "parameters": trained.net.num_params,
        "trials": trials,
        "best": trained.trial.value,
        "confirmed": [row["accuracy"] for row in confirmed],
        "non_zero": summary["nz"],
        "pruned": summary["test_accuracy"],
        "same": same,
        "images": images,
    }


def compare(trained: TrainedNet, folder: Path, data: str) -> tuple[int, int]:
    """Return of how many test images the C says what the engine says, and of how many there are."""
    view = load(DataConfig(data, Path(os.environ.get("GOLF_DATA", "data")))).view("test")
    net = trained.net
    with contextlib.closing(create_engine(AUTO, view, net, print)) as engine:
        assert isinstance(engine, Introspective)
        expected = engine.logits(net, trained.tensors, view.test.images).argmax(axis=1)
    program = MAIN.format(pixels=view.test.images[0].size, classes=net.input.classes)
    (folder / "main.c").write_text(program)
    build = ["cc", "-std=c99", "-O2", str(folder / "main.c"), "-o", str(folder / "main"), "-lm"]
    subprocess.run(build, check=True)
    ran = subprocess.run([folder / "main"], input=view.test.images.tobytes(), capture_output=True)
    found = np.frombuffer(ran.stdout, dtype=np.uint8)
    return int((found == expected).sum()), len(view.test)


def run(
    name: str, folder: Path, trials: int = 20, epochs: int | None = None, more: Sequence[str] = ()
) -> None:
    """Do one of the tasks; data, study and all that comes of it are in the folder.

    `more` is for the study.
    """
    task = TASKS[name]
    folder.mkdir(parents=True, exist_ok=True)
    data = task.data
    if name in MAKERS:
        data = str(folder / task.data)
        made: Any = MAKERS[name]()
        np.savez_compressed(data, **made)
    where, study = f"dir={folder}", f"study={name}"
    golf(
        "study", f"arch={task.arch}", f"data={data}", f"study.name={name}", f"trials={trials}",
        f"epochs={epochs or task.epochs}", where, *more,
    )  # fmt: skip
    golf("confirm", study, f"top={min(trials, 3)}", f"seeds={min(trials, 10)}", where)
    golf("prune", study, where)
    golf("interpret", study, f"steps={4 * trials}", where)
    golf("deploy", study, "format=c", f"output={folder / 'net.h'}", where)
    golf("report", study, where)
    found = result(name, folder, data)
    (folder / "result.json").write_text(json.dumps(found, indent=1) + "\n")
    same, images = found["same"], found["images"]
    print(f"net.h says what the engine says of {same:,} of {images:,} test images")
    if same != images:
        raise SystemExit(1)


MAKERS = {"digits8": digits8, "photos": photos, "signals": signals}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TASKS:
        raise SystemExit(__doc__)
    run(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else f"studies/{sys.argv[1]}"))
