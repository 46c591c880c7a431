"""`import golf_opt as golf`: the same studies, checks and numbers as the command line's."""

from __future__ import annotations

import doctest
import json
import os
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, Ran
from hydra import compose, initialize_config_dir, version
from hydra.core.global_hydra import GlobalHydra

import golf_opt as golf
from golf_opt.api.asked import asking
from golf_opt.config import command

Golf = Callable[..., Ran]
QUICK: dict[str, Any] = {
    "data": "digits", "epochs": 1, "engine": {"name": "torch", "lanes": 2}, "sampler": "random",
    "space": {"batch_size": 32}, "say": None,
}  # fmt: skip
AS_TYPED = (
    "study", "arch=c2-2", "data=digits", "epochs=1", "engine=torch", "engine.lanes=2",
    "sampler=random", "space.batch_size=32", "callbacks.progress.mode=quiet",
)  # fmt: skip
RECIPE = {"batch_size": 16, "lr": 4e-3}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def golf_main(request: pytest.FixtureRequest) -> Golf:
    """The command line, whose fixture has the name of the module here."""
    run: Golf = request.getfixturevalue("golf")
    return run


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> golf.Study:
    """Three trials of c2-2, in a folder of their own."""
    folder = tmp_path_factory.mktemp("studies")
    return golf.study("c2-2", 3, **QUICK, dir=folder)


# --- studies


def test_a_study_is_the_command_lines(here: Path, golf_main: Golf) -> None:
    """Trial by trial the same; each goes on with what the other began."""
    mine = golf.study("c2-2", 2, **QUICK, dir="mine")
    ran = golf_main(*AS_TYPED, "trials=2", "dir=theirs")
    assert ran.status == 0, ran.err
    theirs = golf.load("c2-2@digits-1epochs", dir="theirs")
    rows = [[row | {"time_s": 0} for row in study.rows] for study in (mine, theirs)]
    assert rows[0] == rows[1] and len(rows[0]) == 2
    assert golf_main(*AS_TYPED, "trials=3", "dir=mine").status == 0
    more = golf.study("c2-2", 4, **QUICK, dir="mine")
    assert [trial.state for trial in more.all] == ["complete"] * 4
    assert [trial.number for trial in mine.all] == [0, 1, 2, 3]  # it is read when it is looked at
    best = max(more.all, key=lambda trial: trial.value or 0)
    assert more.best == best
    assert best.history[-1] == best.value and len(best.history) == 1


def test_trials_with_pandas_and_without(tried: golf.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = tried.trials
    assert list(frame.columns[:3]) == ["number", "state", "value"]
    assert frame["value"].max() == tried.best.value if tried.best else False
    monkeypatch.setitem(sys.modules, "pandas", None)  # as where it is not installed
    assert tried.trials == tried.rows == frame.to_dict("records")


def test_a_study_in_memory_lives_with_its_object() -> None:
    one = golf.study("c2-2", 1, **QUICK, storage="memory")
    two = golf.study("c2-2", 2, **QUICK, storage="memory")
    assert (len(one.all), len(two.all)) == (1, 2)


def test_figures_and_html(tried: golf.Study, here: Path) -> None:
    plot = tried.plot("learning-curves")
    assert plot.save("curves.svg").read_text() == plot.svg
    assert plot.svg.startswith("<svg")
    html = tried._repr_html_()
    assert f"<td>{tried.best.number}</td>" in html if tried.best else False
    assert html.count("<svg") == 1 and "<script" not in html
    with pytest.raises(golf.UsageError, match="has too few trials for importances"):
        tried.plot("importances")


def test_names_of_others_are_escaped(here: Path) -> None:
    named = golf.study("c2-2", 1, **QUICK, **{"study.name": "<script>alert(1)</script>"})
    assert "<script" not in named._repr_html_()
    assert "&lt;script&gt;" in named._repr_html_()


def test_ctrl_c_returns_what_is_there(here: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "complete" in line:
            os.kill(os.getpid(), signal.SIGINT)

    stopped = golf.study("c2-2", 40, **QUICK | {"say": say})
    states = [trial.state for trial in stopped.all]
    assert 1 <= states.count("complete") < 40 and "running" not in states
    assert any(line.startswith("\n") and "golf.study('c2-2'" not in line for line in said)
    assert "next, to go on: golf.study(arch='c2-2', trials=40, epochs=1," in said[-1]
    assert signal.getsignal(signal.SIGINT) is before
    whole = golf.study("c2-2", states.count("complete") + 2, **QUICK)
    assert {trial.state for trial in whole.all} <= {"complete", "waiting"}
    assert sum(trial.state == "complete" for trial in whole.all) == states.count("complete") + 2


def test_in_a_thread_and_in_somebody_elses_hydra(here: Path) -> None:
    """Hydra's global state and Optuna's verbosity are the caller's before and after."""
    (here / "theirs").mkdir()
    (here / "theirs" / "app.yaml").write_text("a: 1\n")
    found: list[golf.Study] = []
    with initialize_config_dir(str(here / "theirs"), version_base="1.2"):
        thread = threading.Thread(
            target=lambda: found.append(golf.study("c2-2", 1, **QUICK, storage="memory"))
        )
        thread.start()
        thread.join()
        assert len(found[0].all) == 1
        assert GlobalHydra.instance().is_initialized()
        assert str(version.getbase()) == "1.2"
        assert compose("app").a == 1


def test_an_objective_and_a_net_of_ones_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, or as it is."""
    for name in ("wine.py", "wine.yaml", "my_nets.py"):
        (here / name).write_text((ROOT / "docs" / "examples" / name).read_text())
    monkeypatch.syspath_prepend(here)
    keys: dict[str, Any] = {"space": "wine.yaml", "epochs": 2, "say": None}
    golf.study(objective="wine:train", trials=1, **keys)
    wine = golf.study(objective=import_module("wine").train, trials=2, **keys)
    assert [trial.state for trial in wine.all] == ["complete"] * 2
    assert wine.best is not None and wine.best.values == (wine.best.value,)
    assert wine.front == [wine.best] and {*wine.best.params} == {"C", "max_iter"}
    assert "value" in repr(wine) and "<table>" in wine._repr_html_()
    with pytest.raises(golf.UsageError, match="is of wine:train, but must be of a net of ours"):
        wine.net()
    given = golf.study(import_module("my_nets").Tiny, 1, **QUICK)
    assert given.net().num_params == given.all[0].user_attrs["num_params"]


def test_the_package_study_is_the_function_too() -> None:
    import golf_opt.study.run

    assert callable(golf.study) and golf_opt.study.run.run_study
    one = golf.study("c2-2", 1, **QUICK, storage="memory")
    assert isinstance(one, golf.Study)


def test_importing_costs_nothing() -> None:
    code = "import sys, golf_opt; print({'torch','optuna','numpy','hydra'} & {*sys.modules})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "set()\n"
    assert {*golf.__all__} <= {*dir(golf)}


# --- trainings


def test_a_training_is_the_trial_of_its_seed(tried: golf.Study) -> None:
    best = tried.best
    assert best is not None and best.seed is not None
    recipe = {"batch_size": 32, **best.params}
    again = golf.train(
        "c2-2", recipe, seeds=[best.seed, 5], epochs=1, data="digits", engine="torch", say=None
    )
    assert again.accuracies[again.seeds.index(best.seed)] == best.value
    assert again.curves[again.seeds.index(best.seed)].tolist() == list(best.history)
    same = again.nets[again.seeds.index(best.seed)].tensors
    assert all((same[name] == kept).all() for name, kept in tried.net().tensors.items())


def test_a_training_of_some_seeds(here: Path) -> None:
    recipe = RECIPE | {"average": "ema", "average_span": 0.5}
    trained = golf.train("c2-2", recipe, 3, epochs=1, data="digits", engine="torch", say=None)
    assert trained.accuracies.shape == (3,) and len({*trained.accuracies}) > 1
    assert trained.mean == pytest.approx(trained.accuracies.mean())
    assert trained.sd == pytest.approx(trained.accuracies.std(ddof=1))
    measured = [net.accuracy() for net in trained.nets]
    assert measured == pytest.approx(trained.accuracies.tolist(), abs=1e-9)
    assert trained.best.accuracy() == max(measured)
    assert f"n = {len(trained.nets)} seeds" in repr(trained)


def test_a_training_that_is_stopped_or_fails() -> None:
    def say(line: str) -> None:
        if line.startswith("seed"):
            os.kill(os.getpid(), signal.SIGINT)

    some = golf.train("c2-2", RECIPE, 30, epochs=1, data="digits", engine="torch", say=say)
    assert 1 <= len(some.nets) < 30
    wild = RECIPE | {"lr": 1e30}
    none = golf.train("c2-2", wild, 1, epochs=1, data="digits", engine="torch", say=None)
    assert len(none.nets) == 0 and "training loss became" in next(iter(none.failures.values()))


# --- nets


def test_a_net_predicts_and_is_a_torch_module(tried: golf.Study) -> None:
    net = tried.net()
    test = net.dataset().test
    assert (net.predict(test.images) == test.labels).mean() == net.accuracy()
    assert (net.predict(test.images[:, 0]) == net.predict(test.images)).all()
    module = net.to_torch()
    scores = module(torch.from_numpy(net.normalise(test.images))).detach().numpy()
    np.testing.assert_allclose(scores, net.logits(test.images), atol=1e-4)
    assert net.accuracy((test.images[:7], test.labels[:7])) * 7 == pytest.approx(
        (net.predict(test.images[:7]) == test.labels[:7]).sum()
    )
    with torch.no_grad():
        next(module.parameters()).zero_()
    assert net.num_nonzero == net.num_params  # the module is the caller's own


LAYERS = [
    {"kind": "conv", "channels": 3, "kernel": 3, "padding": "same", "name": "first"},
    {"kind": "batch_norm"}, {"kind": "depthwise", "kernel": 3, "padding": "same", "name": "d"},
    {"kind": "reuse", "of": "d"}, {"kind": "add", "of": "first"}, {"kind": "gelu"},
    {"kind": "max_pool", "size": [2, 4]}, {"kind": "dropout", "p": 0.2},
    {"kind": "linear", "features": "classes"},
]  # fmt: skip


def test_a_file_of_a_net_needs_nothing_else(here: Path) -> None:
    trained = golf.train(
        {"name": "odd", "layers": LAYERS}, RECIPE, 1, epochs=1, data="digits", engine="torch",
        say=None,
    )  # fmt: skip
    net = trained.best
    again = golf.load_net(net.save(here / "sub" / "net.safetensors"))
    assert again.arch == net.arch and again.input == net.input
    assert again.num_params == net.num_params
    test = net.dataset().test
    assert (again.logits(test.images) == net.logits(test.images)).all()
    assert isinstance(again.to_torch().layers["dropout1"], torch.nn.Dropout)  # type: ignore[index]


# --- what one does with them


def test_prune_goes_on_where_it_was_stopped(here: Path) -> None:
    layers = [{"kind": "max_pool", "size": 4}, {"kind": "linear", "features": "classes"}]
    tried = golf.study({"name": "flat", "layers": layers}, 1, **QUICK)
    target = 0.5 * (tried.best.value or 0) if tried.best else 0.0
    options: dict[str, Any] = {"target": target, "engine": "torch", "dir": "pruned"}

    def say(line: str) -> None:
        if line.startswith("pass"):
            os.kill(os.getpid(), signal.SIGINT)

    half = golf.prune(tried, **options, say=say)
    assert half.facts["finished"] is False
    whole = golf.prune(tried, **options, say=None)
    assert whole.facts["finished"] is True
    assert whole.num_nonzero == whole.facts["nz"] < half.num_nonzero
    assert whole.accuracy() == whole.facts["guide_accuracy"] >= target
    said: list[str] = []
    assert golf.prune(tried, **options, say=said.append).num_nonzero == whole.num_nonzero
    assert said[-1].startswith("done already")
    assert golf.load_net(whole.save("pruned.safetensors")).num_nonzero == whole.num_nonzero
    assert golf.prune(tried.net(), **options, say=None).num_nonzero == whole.num_nonzero


def test_confirm_on_fresh_seeds(tried: golf.Study) -> None:
    done = golf.confirm(tried, top=2, seeds=2, say=None, engine="torch")
    assert [row.ours.n for row in done.rows] == [2, 2] and not done.stopped
    assert done.rows[0].tuned == (tried.best.value if tried.best else None)
    seeds = {int(seed) for row in [*kept(tried).values()] for seed in row}
    assert len(seeds) == 2 and not seeds & {trial.seed for trial in tried.all}
    assert done.means.max() == done.best.ours.mean
    said: list[str] = []
    assert golf.confirm(tried, top=2, seeds=2, say=said.append, engine="torch").rows == done.rows
    assert said == []  # nothing was left to train


def kept(study: golf.Study) -> dict[str, Any]:
    from golf_opt.golf.confirmations import kept_results

    with study.opened() as opened:
        return dict(kept_results(opened))


def test_deploy_is_the_command_lines(tried: golf.Study, here: Path, golf_main: Golf) -> None:
    folder = f"dir={tried.place.folder}"
    for form, name in (("c", "a.h"), ("onnx", "a.onnx"), ("safetensors", "a.safetensors")):
        ran = golf_main("deploy", f"study={tried.name}", folder, f"format={form}", f"output={name}")
        assert ran.status == 0, ran.err
        mine = golf.deploy(tried, form, output=f"my-{name}")  # type: ignore[call-overload]
        if form != "safetensors":  # whose header has no order
            assert mine.read_bytes() == Path(name).read_bytes()
    assert golf.deploy(tried.net(), "c") == Path("a.h").read_text()
    assert golf.deploy(tried, "onnx") == Path("a.onnx").read_bytes()
    theirs = golf.load_net("a.safetensors").tensors
    assert all((theirs[name] == kept).all() for name, kept in tried.net().tensors.items())


# --- mistakes

ZEROS = np.zeros((2, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: golf.study("c9"[:1]), "arch is 'c', but must be c<channels>-<channels>"),
        (lambda s: golf.study(trails=3), "trails is not a key; .* did you mean 'trials'?"),
        (lambda s: golf.study(trials=0), "trials is 0, but must be at least 1."),
        (lambda s: golf.study(trials="5"), "trials is '5', but must be a whole number of at least"),
        (lambda s: golf.study(space="wid"), "space is 'wid', but must be .* did you mean 'wide'?"),
        (lambda s: golf.study(space={"lr": {"lwo": 1}}), "space.lr.lwo is not a key; .* 'low'?"),
        (lambda s: golf.study(**{"space.lr.high": -1.0}), "space.lr"),
        (lambda s: golf.study(data=5), "data is 5, but must be a group choice or a mapping."),
        (lambda s: golf.study(engine=object()), "engine is <object .*>, but must be plain data: "),
        (lambda s: golf.study(space={1: 2}), "space has the key 1, but keys must be names."),
        (lambda s: golf.study(**{"a b": 1}), "'a b' is no key; keys look like trials or space.lr"),
        (lambda s: golf.study(storage="mysql"), "storage is 'mysql', but must be one of journal,"),
        (lambda s: golf.study(callbacks="mflow"), "callbacks is 'mflow', .* mean 'mlflow'?"),
        (lambda s: golf.load("gone", dir="."), "study 'gone'"),
        (lambda s: s.net(7), "trial is 7, but must be `best` or the number of a trial of"),
        (lambda s: s.plot("curves"), "kind is 'curves', but must be one of accuracy-by-parameter"),
        (lambda s: golf.train("c2-2", "artikel"), "recipe is 'artikel', but must be one of art"),
        (lambda s: golf.train("c2-2", {"lr": 1e-3}), "recipe.batch_size is missing; it must be"),
        (lambda s: golf.train("c2-2", RECIPE | {"bs": 3}), "recipe.bs is not a key; it must be"),
        (lambda s: golf.train("c2-2", RECIPE, seeds=0), "seeds is 0, but must be at least 1"),
        (lambda s: golf.train("c2-2", RECIPE, seeds=[1, 1]), "seeds is .*, each once."),
        (lambda s: golf.train("c2-2", RECIPE, trials=3), "trials is no key of golf.train"),
        (lambda s: golf.prune(3), "the net is 3, but must be a golf.Net or a study."),
        (lambda s: golf.prune(s, 1.5), "target is 1.5, but must be a share above 0 and below 1"),
        (lambda s: golf.prune(s, 0.999), "0.999|99.90"),
        (lambda s: golf.confirm(s.net()), "study is <Net .*>, but must be what golf.study or"),
        (lambda s: golf.deploy(s, "cpp"), "format is 'cpp', but must be one of c, onnx, safet"),
        (lambda s: golf.deploy(s, output="/proc/x.h"), "/proc/x.h cannot be written"),
        (lambda s: golf.load_net("gone.safetensors"), "gone.safetensors cannot be read: No such"),
        (lambda s: golf.load_net(__file__), "test_python.py does not say what net it is"),
        (lambda s: s.net().predict(ZEROS / 255), "images are float64, but must be uint8: bytes"),
        (
            lambda s: s.net().predict(ZEROS[0]),
            "images are .28, 28., but must be n x 28x28;",
        ),
        (lambda s: s.net().accuracy((ZEROS, [1])), "there are 1 labels of 2 images."),
        (lambda s: s.net().accuracy("digit"), "data is 'digit', but must be .* mean 'digits'?"),
    ],
)
def test_mistakes_in_python(
    tried: golf.Study, here: Path, call: Callable[[golf.Study], object], message: str
) -> None:
    with pytest.raises(golf.UsageError, match=message) as told:
        call(tried)
    text = str(told.value)
    assert "\n" not in text and "golf-opt" not in text.replace("pip install", "")
    assert [*here.iterdir()] == []  # nothing was made


def test_another_study_of_the_name_is_told_as_a_call(tried: golf.Study) -> None:
    with pytest.raises(golf.UsageError, match="is another study") as told:
        golf.study("c2-2", 3, **QUICK | {"epochs": 2}, dir=tried.place.folder,
                   **{"study.name": tried.name})  # fmt: skip
    call = str(told.value).partition("begin a new one: ")[2]
    assert call.startswith("golf.study(arch='c2-2', trials=3, epochs=2, data='digits'")
    assert compile(call, "call", "eval")


def test_no_password_is_kept_or_told(here: Path) -> None:
    with pytest.raises(golf.UsageError) as told:
        golf.study("c2-2", 1, **QUICK, storage="postgresql://me:secret@localhost:1/golf")
    assert "secret" not in str(told.value)
    assert os.environ.get("GOLF_STORAGE_PASSWORD") is None
    url = "postgresql://me:secret@db/golf"
    for given in ({"storage.url": url}, {"storage": {"url": url}}):
        with asking("study", given):  # which is kept with the study, and in messages
            told_ = command.this_call() + command.runnable("ls") + command.again("study")
        assert "secret" not in told_ and "postgresql://me@db/golf" in told_


# --- documented


@pytest.mark.parametrize("name", ["golfing", "nets", "studies", "training"])
def test_examples_of_docstrings(name: str, here: Path) -> None:
    module = import_module(f"golf_opt.api.{name}")
    found = doctest.testmod(
        module, extraglobs={"folder": here, "np": np}, optionflags=doctest.ELLIPSIS
    )
    assert found.attempted > 0 and found.failed == 0


def test_the_pages_show_the_example_and_a_notebook_without_outputs() -> None:
    """Whose outputs the build of the site makes."""
    example = (ROOT / "docs" / "examples" / "python_study.py").read_text()
    assert (
        f'```python title="python_study.py"\n{example}```\n'
        in (ROOT / "docs" / "python.md").read_text()
    )
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 10
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_the_example_of_the_documentation_runs_and_is_typed(here: Path) -> None:
    """The latter by `make check`, which looks at all of its folder."""
    example = ROOT / "docs" / "examples" / "python_study.py"
    ran = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, cwd=here)
    assert ran.returncode == 0, ran.stderr
    assert "digits.h" in [path.name for path in here.iterdir()]
    checked = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert checked["strict"] and "docs/examples" in checked["files"]
