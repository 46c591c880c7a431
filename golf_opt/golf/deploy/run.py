"""A trained net as a file that other programs run or read: C99 header, ONNX, safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from golf_opt import __version__
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DeployConfig
from golf_opt.golf.batch_norm import folded
from golf_opt.golf.dead import num_nonzero
from golf_opt.golf.net_file import pack_net
from golf_opt.golf.source import TrainedNet, load_source
from golf_opt.study.note import result_words
from golf_opt.task.forward import check_tensors
from golf_opt.utils.files import replace_file
from golf_opt.utils.text import slug


def deploy(config: DeployConfig, say: Callable[[str], None]) -> Path:
    """Write the net in one format, batch norm folded, whole or not at all; return the file.

    Raises:
        UsageError: there is no such net, its weights are not fit for use, or the file cannot be
            written.
    """
    trained = folded(load_source(config, say))
    for note in trained.notes:
        say(note)
    suffix = "h" if config.format == "c" else config.format
    path = config.output or config.folder / "deploy" / f"{slug(trained.label)}.{suffix}"
    data = exported(trained, config.format)
    try:
        replace_file(path, data)
    except OSError as error:
        raise UsageError(
            f"output {path} cannot be written: {error.strerror}; give another output=FILE."
        ) from error
    facts = about(trained)
    say(f"{path}: {len(data):,} bytes")
    say(f"  {facts['arch']}, parameters: {facts['parameters']}")
    say(f"  {facts['accuracy']}")
    return path


def exported(trained: TrainedNet, form: str) -> bytes:
    """Return the file of a net in `c`, `onnx` or `safetensors`.

    Raises:
        UsageError: a tensor is missing, of another shape, or not finite.
    """
    net, facts = trained.net, about(trained)
    check_tensors(net, trained.tensors)
    tensors = {
        name: np.asarray(values, dtype=np.float32, order="C")
        for name, values in trained.tensors.items()
        if name.startswith(("weights/", "buffers/"))  # a pruned net's masks are no part of it
    }
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            raise UsageError(f"{name} of {trained.label} holds numbers that are not finite.")
    if net.module is not None and form != "safetensors":
        raise UsageError(
            f"format is {form!r}, but must be safetensors for {net.name}: it is {net.module.of}, a "
            "module that is no list of layers of ours."
        )
    if form == "c":
        from golf_opt.golf.deploy.c_code import c_header

        return c_header(net, tensors, facts).encode()
    if form == "onnx":
        from golf_opt.golf.deploy.onnx_graph import onnx_model  # protobuf: a third of a second

        return onnx_model(net, tensors, facts)
    spelled_out = {"layers": json.dumps(net.describe()), "input": json.dumps(net.input.to_dict())}
    return pack_net(net, tensors, facts | spelled_out)


def about(trained: TrainedNet) -> dict[str, str]:
    """Return what a reader of the file should know, as lines of text."""
    net = trained.net
    nonzero = num_nonzero(net, trained.tensors)
    return {
        "net": trained.label,
        "arch": net.name,
        "parameters": f"{net.num_params:,}, of which {nonzero:,} are not zero",
        "accuracy": accuracy_words(trained),
        "made by": f"golf_opt {__version__}",
    }


def accuracy_words(trained: TrainedNet) -> str:
    """Return the accuracies that are known of a net, with protocol and n."""
    if trained.trial is None or trained.description is None:
        return "accuracy not measured"
    rules = {"test": "test", "holdout": "holdout (test set not read)"}
    return f"{rules[trained.description.protocol]} accuracy {result_words(trained.trial)}"
