"""arch=module:name: a user's net becomes layers of ours where it can, and is trained as it is."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import own_nets
import pytest
import torch
from conftest import Ran, random_tensors, tiny_net, told
from optuna.trial import FrozenTrial
from safetensors.numpy import load_file
from torch import nn

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DataConfig, StorageConfig
from golf_opt.engines.base import Engine, Job, LaneState, Tensors, initial_weights
from golf_opt.engines.native import NativeEngine, compiler
from golf_opt.engines.torch import TorchEngine
from golf_opt.engines.torch import engine as torch_engine
from golf_opt.storage.checkpoint import open_checkpoints
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.studies import mark as mark_study
from golf_opt.storage.studies import marks
from golf_opt.study.description import DESCRIPTION, StudyDescription, description_of, find_study
from golf_opt.task.arch import Net, build_net
from golf_opt.task.data import View, load
from golf_opt.task.forward import forward
from golf_opt.task.inputs import MNIST, InputSpec
from golf_opt.task.modules import given
from golf_opt.task.modules.factory import find
from golf_opt.task.modules.resolve import resolve
from golf_opt.task.modules.trace import trace
from golf_opt.task.recipe import Candidate

TESTS = Path(__file__).parent
Golf = Callable[..., Ran]
COLOUR = InputSpec((3, 17, 20), 7, (0.4, 0.5, 0.6), (0.2, 0.3, 0.2))
CANDIDATE = Candidate(14, 2e-3, step_size=1, gamma=0.7)
DIGITS = ("data=digits", "sampler=random", "pruner=none", "~callbacks.note")


def net_of(name: str, spec: InputSpec = MNIST, say: Callable[[str], None] = print) -> Net:
    return build_net(resolve({"module": f"own_nets:{name}"}, spec, say), spec)


def train(engine: Engine, epochs: int) -> None:
    """Run what is in lane 0 up to the end of an epoch."""
    while engine.state(0).epoch < epochs:
        assert not [part.error for part in engine.step() if part.error]


def kept(
    place: Path, name: str, folder: str = "studies"
) -> tuple[StudyDescription, list[tuple[FrozenTrial, Tensors]]]:
    """What a study is, and its trials, each with its tensors."""
    with opened_storage(StorageConfig(f"sqlite:///{place / folder}/golf.db", None)) as storage:
        study = find_study(storage, name)
        checkpoints = open_checkpoints(study, place / folder)
        trials = study.trials
        return description_of(study), [
            (t, checkpoints.load(t.number).state.tensors) for t in trials
        ]


# --- nets of layers


@pytest.mark.parametrize("spec", [MNIST, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("make", own_nets.OURS, ids=lambda make: make.__name__)
def test_the_layers_give_the_scores_of_the_module(
    make: Callable[..., nn.Module], spec: InputSpec
) -> None:
    """In evaluation, on weights and statistics of which no two numbers are the same."""
    factory = find(f"own_nets:{make.__name__}", spec)
    net, traced = trace(factory, "net")
    assert net.module is None
    module = factory.build(1)
    drawn = random_tensors(net)
    theirs = dict(module.named_parameters()) | dict(module.named_buffers())
    with torch.no_grad():
        for ours, name in traced.tensors.items():
            values = drawn.get(f"weights/{ours}", drawn.get(f"buffers/{ours}"))
            theirs[name].copy_(torch.from_numpy(values).reshape(theirs[name].shape))
    images = np.random.default_rng(0).normal(size=(5, *spec.shape)).astype(np.float32)
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(images)).numpy()
    *_, (_, scores) = forward(net, drawn, images)
    if traced.normalised:
        scores = torch.from_numpy(np.array(scores)).log_softmax(1).numpy()
    assert np.ptp(expected, axis=0).min() > 1e-3  # they depend on the image
    np.testing.assert_allclose(scores, expected, atol=1e-5 * np.abs(expected).max())


def by_hand(name: str) -> Net:
    """own_nets.Residual as a list of layers."""
    return build_net({"name": name, "layers": [
        {"kind": "conv", "name": "stem", "channels": 4, "kernel": 3, "padding": "same"},
        {"kind": "relu"},
        {"kind": "max_pool"},
        {"kind": "conv", "name": "block_0", "channels": 4, "kernel": 3, "padding": "same",
         "bias": False},
        {"kind": "batch_norm", "name": "block_1"},
        {"kind": "relu", "name": "block_2"},
        {"kind": "conv", "name": "block_3", "channels": 4, "kernel": [3, 1], "padding": "same"},
        {"kind": "add", "of": "max_pool1"},
        {"kind": "relu", "name": "relu2"},
        {"kind": "global_avg_pool"},
        {"kind": "linear", "name": "head", "features": 10},
    ]})  # fmt: skip


def test_the_layers_are_those_that_one_would_write() -> None:
    lines: list[str] = []
    assert net_of("Residual", say=lines.append) == by_hand("Residual")
    assert lines == ["own_nets:Residual is 11 layers of ours"]


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_a_residual_net_trains_natively(golf: Golf, tmp_path: Path) -> None:
    """To the very weights of the net that one would write by hand; the study holds no module."""
    ran = golf("study", "arch=own_nets:Residual", *DIGITS, "trials=1", "epochs=2")
    assert ran.status == 0, ran.err
    assert ran.out.startswith("own_nets:Residual is 11 layers of ours: trains natively\n")
    plan, ((trial, tensors),) = kept(tmp_path, "Residual@digits-2epochs")
    assert trial.user_attrs["engine"] == "native"
    assert "own_nets" not in json.dumps(plan.arch)
    view = load(DataConfig("digits", tmp_path)).view("test")
    with contextlib.closing(NativeEngine(view, lanes=1)) as engine:
        engine.start(0, replace(plan.job(trial), net=by_hand("Residual")))
        train(engine, 2)
        expected = engine.state(0).tensors
    for name, values in tensors.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    c = golf("deploy", "study=Residual@digits-2epochs", "format=c", "output=net.h")
    assert c.status == 0, c.err  # as any net of layers


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_native_gradients_are_those_of_the_module_in_float64(small_view: View) -> None:
    net = net_of("Residual")
    tensors = random_tensors(net)
    batch = small_view.train.take("batch", np.arange(20))
    loss, found = NativeEngine(small_view).gradients(net, tensors, batch)
    module = own_nets.Residual((1, 28, 28), 10).double().train()
    theirs = {name.replace(".", "_"): p for name, p in module.named_parameters()}
    with torch.no_grad():
        for p in net.parameters:
            theirs[p.name.replace(".", "_")].copy_(torch.from_numpy(tensors[f"weights/{p.name}"]))
    images, labels = TorchEngine(small_view, dtype=torch.float64)._load(batch)
    expected = nn.functional.cross_entropy(module(images), labels)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for p in net.parameters:
        gradient = theirs[p.name.replace(".", "_")].grad.numpy()
        np.testing.assert_allclose(
            found[f"gradients/{p.name}"], gradient, atol=1e-4 * max(1, np.abs(gradient).max())
        )


def test_a_beginning_of_its_own_is_said_not_to_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    (tmp_path / "zeroed.py").write_text(
        "from own_nets import Residual\nfrom torch import nn\n"
        "def Net(shape, classes):\n"
        "    net = Residual(shape, classes)\n"
        "    nn.init.zeros_(net.block[1].weight)\n"
        "    nn.init.kaiming_normal_(net.stem.weight)\n"
        "    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    resolve({"module": "zeroed:Net"}, MNIST, lines.append)
    assert len(lines) == 2
    assert "zeroed:Net gives stem.weight, block_1.weight a beginning of its own" in lines[1]


# --- modules that are no list of layers


def line_of(text: str) -> int:
    source = Path(own_nets.__file__).read_text().splitlines()
    return next(number for number, line in enumerate(source, 1) if text in line)


def test_an_unknown_operation_trains_by_torch_and_is_named(golf: Golf, tmp_path: Path) -> None:
    ran = golf("study", "arch=own_nets:Odd", *DIGITS, "trials=1", "epochs=1")
    assert ran.status == 0, ran.err
    why = f"own_nets:Odd uses torch.cumsum (line {line_of('torch.cumsum')}), which is no layer"
    assert f"engine=auto takes torch: {why} of ours" in ran.out
    _, ((trial, tensors),) = kept(tmp_path, "Odd@digits-1epochs")
    assert trial.user_attrs["engine"] == "torch"
    assert tensors["weights/temperature"].shape == ()
    assert tensors["buffers/ramp"].shape == (8, 1)
    native = told(golf("study", "arch=own_nets:Odd", *DIGITS, "engine=native", "trials=1"))
    assert native == f"engine is native, but must be torch or auto: {why} of ours."


def test_an_option_that_is_no_number_is_no_layer_of_ours() -> None:
    net = net_of("half_global")
    assert net.module is not None and given.why_not_ours(net.module) == (
        "own_nets:half_global uses nn.AdaptiveAvgPool2d with options that are no numbers, which is "
        "no layer of ours"
    )


def test_a_module_goes_on_bit_for_bit(small_view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of an epoch, dropout and statistics included, wherever others are."""
    monkeypatch.setattr(torch_engine, "SLICE_S", 0.0)
    job = Job(net_of("Odd"), CANDIDATE, seed=5, epochs=3)
    whole = TorchEngine(small_view)
    whole.start(0, job)
    train(whole, 3)
    first = TorchEngine(small_view)
    first.start(0, job)
    for _ in range(15):
        first.step()
    state = first.state(0)
    assert (state.epoch, state.step) == (1, 4)
    torch.manual_seed(99)  # what others draw does not matter
    second = TorchEngine(small_view, lanes=2)
    second.start(0, Job(job.net, CANDIDATE, seed=6, epochs=3))
    second.start(1, job, LaneState(state.tensors, state.epoch, state.step, state.loss_sum, 0.0))
    while second.state(1).epoch < 3:
        second.step()
    for name, values in whole.state(0).tensors.items():
        np.testing.assert_array_equal(second.state(1).tensors[name], values, err_msg=name)
    begun = initial_weights(job.net, 5)
    assert not np.array_equal(begun["weights/head.weight"], state.tensors["weights/head.weight"])
    np.testing.assert_array_equal(begun["buffers/ramp"], state.tensors["buffers/ramp"])


def test_the_seed_draws_the_module_s_own_beginning() -> None:
    net = net_of("Odd")
    one, again, other = (initial_weights(net, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["weights/conv.weight"], other["weights/conv.weight"])
    assert one["weights/temperature"] == np.float32(0.7)


def test_what_a_module_raises_fails_its_trial(
    golf: Golf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of 32 of 1,438 images leave one of 30, which it does not like; its line is named."""
    (tmp_path / "picky.py").write_text(
        "from own_nets import Odd\n"
        "class Net(Odd):\n"
        "    def forward(self, x):\n"
        "        assert len(x) != 30, 'thirty'\n"
        "        return super().forward(x)\n"
    )
    ran = golf(
        "study", "arch=picky:Net", *DIGITS, "trials=1", "epochs=1", "study.name=picky",
        "space.batch_size=32",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    with opened_storage(StorageConfig(f"sqlite:///{tmp_path}/studies/golf.db", None)) as storage:
        (trial,) = find_study(storage, "picky").trials
    assert trial.state.name == "FAIL"
    assert "picky:Net raised AssertionError: thirty (picky.py, line 4)" in str(trial.user_attrs)


@pytest.mark.slow
def test_a_killed_study_goes_on_to_the_same_weights(
    golf: Golf, golf_process: Any, tmp_path: Path
) -> None:
    command = (
        "study", "arch=own_nets:Odd", *DIGITS, "trials=1", "epochs=8", "space.batch_size=4",
        "study.name=odd",
    )  # fmt: skip
    process = golf_process(*command, PYTHONPATH=f"{TESTS.parent}:{TESTS}")
    for line in process.stdout:
        if "epoch   1/8" in line:
            break
    process.kill()
    process.wait()
    went_on = golf(*command)
    assert went_on.status == 0, went_on.err
    assert "going on at 0 of 1 trial" in went_on.out
    twin = golf(*command, "dir=twin")
    assert twin.status == 0, twin.err
    _, ((trial, tensors),) = kept(tmp_path, "odd")
    _, ((twin_trial, twin_tensors),) = kept(tmp_path, "odd", "twin")
    assert trial.intermediate_values == twin_trial.intermediate_values
    for name, values in twin_tensors.items():
        np.testing.assert_array_equal(tensors[name], values, err_msg=name)


# --- a module is given, and never taken from what is stored


MARKED = """
from pathlib import Path
from own_nets import Odd

Path(__file__).with_name("imported").touch()

class Net(Odd):
    def forward(self, x):
        return super().forward(x) * {factor}
"""
EPOCHS = ("trials=2", "epochs=2", *DIGITS)


@pytest.fixture
def marked(golf: Golf, tmp_path: Path) -> Iterator[Callable[[float], Path]]:
    """Write a module anew that makes a file when it is imported, as another process would see it;
    return that file."""

    def write(factor: float) -> Path:
        (tmp_path / "marked.py").write_text(MARKED.format(factor=factor))
        (tmp_path / "imported").unlink(missing_ok=True)
        forget()
        return tmp_path / "imported"

    def forget() -> None:
        sys.modules.pop("marked", None)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        given._GIVEN.clear()

    path = list(sys.path)
    yield write
    forget()
    sys.path[:] = path


def test_nothing_stored_is_imported(
    golf: Golf, marked: Callable[[float], Path], tmp_path: Path
) -> None:
    mark = marked(1.0)
    assert golf("study", "arch=marked:Net", "study.name=odd", *EPOCHS).status == 0
    assert mark.exists()
    mark = marked(1.0)
    study = "study=odd"
    for command in (
        ("ls",), ("report", study), ("export", study, "output=ex"),
        ("import", "input=ex", "name=copy"), ("compare", "studies=[odd,copy]"),
        ("deploy", study, "format=safetensors", "output=net.safetensors"),
    ):  # fmt: skip
        ran = golf(*command)
        assert ran.status == 0, ran.err
    saved = load_file(tmp_path / "net.safetensors")
    assert saved.keys() == {"temperature", "ramp"} | {
        f"{layer}.{of}" for layer in ("conv", "norm", "head") for of in ("weight", "bias")
    } | {"norm.running_mean", "norm.running_var"}  # as load_state_dict takes them
    for command in (
        ("worker", study), ("confirm", study), ("prune", study), ("interpret", study),
        ("study", "arch=marked:Net", "study.name=odd", *EPOCHS, "arch.module=os"),
    ):  # fmt: skip
        ran = golf(*command)
        assert ran.status == 2, ran
        if command[0] != "study":
            assert "give arch=marked:Net with that module here or on PYTHONPATH" in ran.err
    for form in ("c", "onnx"):
        message = told(golf("deploy", study, f"format={form}"))
        assert message.startswith(f"format is {form!r}, but must be safetensors for Net")
    message = told(golf("record", study, "board=article", "slug=odd"))
    assert message.startswith("Net is marked:Net, a module of its user's, but a record must be")
    with opened_storage(StorageConfig(f"sqlite:///{tmp_path}/studies/golf.db", None)) as storage:
        stored = find_study(storage, "odd")
        arch = {"name": "Net", "module": "marked:Net"}
        mark_study(stored, DESCRIPTION, marks(stored)[DESCRIPTION] | {"arch": arch})
    golf("ls")
    assert "the study's description is damaged" in told(golf("worker", study))
    assert not mark.exists()


def test_a_worker_is_given_the_same_module(golf: Golf, marked: Callable[[float], Path]) -> None:
    marked(1.0)
    assert golf("study", "arch=marked:Net", "study.name=odd", *EPOCHS).status == 0
    marked(2.0)
    message = told(golf("worker", "study=odd", "arch=marked:Net"))
    assert re.fullmatch(
        r"arch marked:Net is another module than that of study 'odd': it is graph [0-9a-f]{16}, "
        r"and marked:Net there is graph [0-9a-f]{16}; give the module as it was then\.", message
    )  # fmt: skip
    again = golf("study", "arch=marked:Net", "study.name=odd", *EPOCHS)
    assert again.status == 2
    assert re.search(r"layer 1, module: graph=\w+ before, graph=\w+ now", again.err)
    layers = told(golf("worker", "study=odd", "arch=own_nets:Residual"))
    assert "it is layers of ours, and marked:Net there is graph" in layers
    named = told(golf("worker", "study=odd", "arch=c4-5-4"))
    assert named == (
        "arch is 'c4-5-4', but must be arch=marked:Net for study 'odd', whose net is that module."
    )
    marked(1.0)
    joined = golf("worker", "study=odd", "arch=marked:Net")
    assert joined.status == 0, joined.err
    assert "going on at 2 of 2 trials" in joined.out


@pytest.mark.slow
def test_what_one_does_with_a_trained_module(
    golf: Golf, marked: Callable[[float], Path], tmp_path: Path
) -> None:
    marked(1.0)
    assert golf("study", "arch=marked:Net", "study.name=odd", *EPOCHS).status == 0
    marked(1.0)
    both = ("study=odd", "arch=marked:Net", "data=digits")
    confirmed = golf("confirm", *both, "top=1", "seeds=1")
    assert confirmed.status == 0, confirmed.err
    assert "1 to train" in confirmed.out
    rounds = ("rounds.share=0.5", "rounds.epochs=1", "rounds.variants=1", "rounds.patience=1")
    pruned = golf("prune", *both, "method=rounds", "target=0.05", *rounds)
    assert pruned.status == 0, pruned.err
    (folder,) = (tmp_path / "studies" / "pruned").iterdir()
    summary = json.loads((folder / "prune.json").read_text())
    assert summary["finished"] and summary["nz"] < summary["parameters"] == 1347
    looked = golf("interpret", *both, "steps=2")
    assert looked.status == 0, looked.err
    assert "4 pictures" in looked.out
    weights = golf(
        "deploy", f"weights={folder / 'weights.safetensors'}", "arch=marked:Net",
        "format=safetensors", "output=pruned.safetensors",
    )  # fmt: skip
    assert weights.status == 0, weights.err
    assert f"1,347, of which {summary['nz']:,} are not zero" in weights.out


def test_a_record_of_a_module_is_refused(tmp_path: Path) -> None:
    layer = resolve({"module": "own_nets:Odd"}, MNIST, print)
    assert build_net(layer).module is not None
    with pytest.raises(UsageError, match="a layer of kind module must be the only one"):
        tiny_net(*layer["layers"])


# --- mistakes


MISTAKES = {
    "not_there:Net": "there is no module not_there in",
    "own_nets:Residul": "Residul is not there in own_nets; it has Functional, InPlace",
    "own_nets:math": "math is no class or function in own_nets",
    "broken:Net": "while broken was imported, raised ZeroDivisionError: division by zero (broken",
    "own_nets:no_module": "gives a dict, but must give a torch.nn.Module",
    "own_nets:no_arguments": "takes 0 positional arguments but 2 were given",
    "own_nets:raises": "raised RuntimeError: the moon is not right (own_nets.py, line",
    "own_nets:other_scores": "gives [3, 7] for 3 images, but must give [3, 10]",
    "own_nets:does_not_fit": "raised RuntimeError: addmm: mat1 and mat2 shapes cannot be",
    "own_nets:two_outputs": "gives a tuple for images, but must give scores [n, 10]",
    "own_nets:half_precision": "1.weight is float16, but must be float32",
    "own_nets:no_parameters": "has no parameters, but must have some to train",
    "own_nets:lazy": "1.weight has no shape before the first image",
    "own_nets:always_random": "gives other scores for the same images in evaluation",
    "own_nets:counts_its_steps": "changes calls when it is trained, which no checkpoint keeps",
    "own_nets:draws_elsewhere": "begins with other numbers each time",
}


@pytest.mark.parametrize("target", MISTAKES)
def test_a_mistake_is_one_line_and_makes_nothing(golf: Golf, tmp_path: Path, target: str) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    message = told(golf("study", f"arch={target}", "data=digits", "trials=1"))
    assert MISTAKES[target] in message
    assert target in message
    assert not (tmp_path / "studies").exists()


NOT_OURS = {
    "F.relu6(x)": "uses F.relu6 (line 7), which is no layer of ours",
    "F.max_pool2d(x, 3, 2)": "uses F.max_pool2d with kernel (3, 3) and stride (2, 2) (line 7)",
    "torch.softmax(x, 1)": "uses torch.softmax (line 7)",
    "x if x.sum() > 0 else -x": "cannot be followed by torch.fx: TraceError: symbolically traced",
    "self.other(x) + self.third(x)": "uses nn.Conv2d with what a layer before the last one gave",
    "x * 2": "uses operator.mul (line 7)",
    "x.transpose(2, 3)": "uses Tensor.transpose (line 7)",
    "self.norm(F.relu(x.flatten(1))).view(-1, 4, 26, 26)": (
        "uses nn.BatchNorm1d with an image that is flattened (line 7)"
    ),
}


@pytest.mark.parametrize("operation", NOT_OURS)
def test_the_first_operation_that_is_not_ours_is_named(
    operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"""import torch
from torch import nn
from torch.nn import functional as F
class Net(nn.Module):
    def forward(self, x):
        x = self.conv(x)
        x = {operation}
        return self.head(x.mean((2, 3)))
    def __init__(self, shape, classes):
        super().__init__()
        self.conv, self.head = nn.Conv2d(shape[0], 4, 3), nn.Linear(4, classes)
        self.other, self.third = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm1d(4 * 26 * 26)
"""
    (tmp_path / "not_ours.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "not_ours", raising=False)
    net = build_net(resolve({"module": "not_ours:Net"}, MNIST, print))
    assert net.module is not None
    assert NOT_OURS[operation] in given.why_not_ours(net.module)
