"""Images and labels as uint8 arrays, whatever they come from, and the splits a protocol allows.

data=mnist, fashion, ...  torchvision's data sets in `data.root`, downloaded if they are not there
data=digits               scikit-learn's bundled 8x8 digits, scaled to MNIST's frame
data=auto                 mnist if it can be had, otherwise digits, saying so loudly
data=FILE.npz             arrays x_train, y_train, x_test, y_test
data=FOLDER               a folder of pictures for each class, or IDX files
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DataConfig
from golf_opt.task.data.published import PUBLISHED, load_published
from golf_opt.task.data.splits import Dataset, MissingData, Split, View

__all__ = ["Dataset", "MissingData", "Split", "View", "load", "objective_split"]


def load(config: DataConfig, download: bool = True) -> Dataset:
    """Load the data set that was asked for.

    Args:
        config: its name or path, and the folder of those with a name.
        download: whether to fetch what is missing.

    Raises:
        UsageError: files are missing and cannot be had, or are not what they should be.
    """
    if config.name == "auto":
        try:
            return load(replace(config, name="mnist"), download)
        except MissingData as missing:
            return replace(load(replace(config, name="digits")), fallback=str(missing))
    return replace(_load(config, download), fold=config.fold)


def _load(config: DataConfig, download: bool) -> Dataset:
    if config.name in PUBLISHED:
        return load_published(config.name, config.root, download)
    from golf_opt.task.data import own  # Pillow and scikit-learn take their time to import

    if config.name == "digits":
        return own.digits()
    return own.load_path(Path(config.name), config.size, config.grey)


def objective_split(data: DataConfig, protocol: str, digest: str) -> Split | None:
    """Return the split that a study's objective was measured on, or None; downloads nothing.

    Args:
        data: the study's.
        protocol: test or holdout.
        digest: of the study's view; other data than that is none.
    """
    try:
        view = load(data, download=False).view(protocol)
    except UsageError:
        return None
    return view.objective if view.digest == digest else None
