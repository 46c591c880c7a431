"""Every command of README, CONTRIBUTING and docs/ runs, and their generated parts are current."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch
import yaml
from conftest import ROOT, Ran, net, random_tensors
from omegaconf import OmegaConf
from safetensors.numpy import save_file

import bench.readme
from bench.report import slug
from golf_opt import __version__
from golf_opt.cli import main as cli
from golf_opt.engines.native import compiler
from golf_opt.engines.torch import TorchNet
from golf_opt.task.family import build_family
from golf_opt.task.layers import KINDS

if TYPE_CHECKING:
    from postgres import Server

pytest_plugins = ["postgres"]

DOCS = sorted(path for path in (ROOT / "docs").rglob("*.md") if not path.is_symlink())
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
}
EXTENDING, OBJECTIVES, FLEET = "docs/extending.md", "docs/objectives.md", "docs/fleet.md"


def commands_of(text: str) -> list[str]:
    return [line[2:] for line in text.splitlines() if line.startswith("$ ")]


# what several pages say is run once
COMMANDS = list(dict.fromkeys(c for page, text in PAGES.items() for c in commands_of(text)))
EXAMPLES = [c for page in (EXTENDING, OBJECTIVES, FLEET) for c in commands_of(PAGES[page])]
QUICK = ("data=digits", "epochs=1", "trials=1", "engine=torch", "space.batch_size=32")
# make as the pages have it, with this interpreter in place of .venv
MAKE = ("SETUP=", f"GOLF={sys.executable} -m golf_opt")
TARGETS = (
    "setup", "study", "demo", "task", "dashboard", "test", "test-fast", "check", "docs", "bench",
    "bench-storage", "reproduce", "records",
)  # fmt: skip


def commands(head: str) -> list[str]:
    return [c for c in COMMANDS if c.startswith(head) and c not in EXAMPLES]


def distinct(chosen: list[str]) -> list[str]:
    """One of several commands that are the same to a small test: names and lengths aside."""

    def shape(command: str) -> str:
        named = re.sub(r"\b(study|weights|output)=\S+", r"\1=", command)
        return re.sub(r" (trials|epochs|target|top|seeds)=\S+", "", named)

    return list({shape(command): command for command in reversed(chosen)}.values())


def script(name: str) -> ModuleType:
    """A script of docs/scripts, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def between(text: str, begin: str, end: str) -> str:
    assert text.count(begin) == text.count(end) == 1
    return text.split(begin)[1].split(end)[0]


def test_the_family_of_the_page_is_one() -> None:
    text = PAGES["docs/search.md"]
    family = build_family(yaml.safe_load(between(text, "```yaml\n", "\n```\n\n- `$name`")))
    params = {"depth": 2, "channels_1": 2, "channels_2": 8, "kernel": 3, "pool": True}
    assert family.net(params).num_params == 20 + 152 + 90


# --- every command


def test_every_command_is_covered_here() -> None:
    """By one of the tests below; `make TARGET` by the one that has make explain it.

    Prometheus is started in test_metrics.py.
    """
    makes = {c for c in COMMANDS if c.startswith("make ") and c.split()[1] in TARGETS}
    golfs = {c for c in COMMANDS if c.startswith("golf-opt ") and c.split()[1] in cli.VERBS}
    rest = set(COMMANDS) - makes - golfs - set(EXAMPLES)
    assert COMMANDS and rest == {
        c for begin in ("cc ", "./", "prometheus ") for c in commands(begin)
    }


LOCAL = [c for c in commands("golf-opt study") if not re.search("storage=postgres|teacher=", c)]


def quick(command: str) -> list[str]:
    """The command's arguments, on few images, for one trial of one epoch."""
    arguments = [a for a in shlex.split(command)[1:] if not re.match("(trials|epochs)=", a)]
    arguments += [part for part in QUICK if not part.startswith("space.") or "space" not in command]
    if "study.enqueue=article" in arguments:  # which has a batch size of its own
        arguments.remove("space.batch_size=32")
    return arguments


@pytest.mark.parametrize("command", distinct(LOCAL) + commands("golf-opt arch"))
def test_golf_opt_commands(golf: Callable[..., Ran], command: str) -> None:
    arguments = shlex.split(command)[1:]
    if arguments[0] == "study" and not arguments[-1].startswith(("-", "job")):
        arguments = quick(command)
    ran = golf(*arguments)
    assert ran.status == 0, ran.err
    assert ran.out


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_a_teacher_and_its_pupils(golf: Callable[..., Ran]) -> None:
    (teach,) = commands("golf-opt teach")
    (study,) = [c for c in commands("golf-opt study") if "teacher=" in c]
    ran = golf(*shlex.split(teach)[1:], "data=digits", "arch=c2-2", "nets=1", "epochs=1")
    assert ran.status == 0, ran.err
    ran = golf(*quick(study))
    assert ran.status == 0, ran.err


@pytest.mark.postgres
def test_going_on_elsewhere(
    golf: Callable[..., Ran], postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two commands as they stand, over a small study of the name that they give."""
    monkeypatch.setenv("GOLF_STORAGE_URL", postgres.url(postgres.create_database()))
    (begin,) = [c for c in commands("golf-opt study") if "storage=postgres" in c]
    (go_on,) = commands("golf-opt worker")
    begun = golf(*shlex.split(begin)[1:], *QUICK, "study.name=c4-5-4")
    assert begun.status == 0, begun.err
    joined = golf(*shlex.split(go_on)[1:], "engine=torch", "engine.lanes=1")
    assert joined.status == 0, joined.err
    assert "1 of 1 trial finished" in joined.out


def study_of(command: str) -> str:
    return dict(a.split("=", 1) for a in shlex.split(command) if "=" in a).get("study", "net")


@pytest.mark.slow
@pytest.mark.parametrize("command", distinct(commands("golf-opt prune")))
def test_prune_commands(golf: Callable[..., Ran], tmp_path: Path, command: str) -> None:
    torch.manual_seed(0)
    torch.save(dict(TorchNet(net("c4-5-4-prelu")).tensors()), tmp_path / "net.pt")
    protocol = "holdout" if "rule=holdout" in command else "test"
    if "study=" in command:
        name = study_of(command)
        golf("study", "arch=c4-5-4-prelu", *QUICK, f"study.name={name}", f"protocol={protocol}")
    easy = ("data=digits", "target=0.05", *ROUNDS)
    arguments = [a for a in shlex.split(command)[1:] if not a.startswith("target=")]
    if "method=saliency" in arguments and compiler() is None:
        pytest.skip("no C++ compiler, and PyTorch's engine gives no gradients")
    ran = golf(*arguments, *easy)
    assert ran.status == 0, ran.err
    assert "non-zero parameters of 820" in ran.out


ROUNDS = [f"rounds.{rest}" for rest in ("share=0.9", "epochs=1", "variants=2", "patience=1")]
VERBS = ("confirm", "record", "search", "verify", "leaderboard", "reproduce", "hunt", "tune")
NEW = [command for verb in VERBS for command in commands(f"golf-opt {verb}")]


@pytest.mark.parametrize("command", NEW)
def test_commands_of_trained_nets_compose(golf: Callable[..., Ran], command: str) -> None:
    """What they do is tested beside their modules; every key of the pages is one of theirs."""
    ran = golf(*shlex.split(command)[1:], "--cfg", "job")
    assert ran.status == 0, ran.err
    shown = OmegaConf.create(ran.out)
    for override in shlex.split(command)[3:]:
        assert OmegaConf.select(shown, override.partition("=")[0], default="no such key") != (
            "no such key"
        )


@pytest.mark.parametrize("command", commands_of(PAGES[FLEET]))
def test_commands_of_fleets_compose(golf: Callable[..., Ran], command: str) -> None:
    """What they do is tested on the engines, one after the other, in test_fleet_engines.py."""
    ran = golf(*shlex.split(command)[1:], "--cfg", "job")
    assert ran.status == 0, ran.err


@pytest.mark.slow
def test_reports(golf: Callable[..., Ran]) -> None:
    """`report` and `compare` as they stand, over small studies of the names that they give."""
    reports = [c for c in commands("golf-opt report") if "trial=" not in c]  # a card, and no file
    chosen = [*reports, *commands("golf-opt compare")]
    names = {name for c in chosen for name in re.findall(r"[\w@-]+", c.partition("=")[2])}
    for name in names:
        assert golf("study", f"arch={name.split('@')[0]}", f"study.name={name}", *QUICK).status == 0
    for command in chosen:
        ran = golf(*shlex.split(command)[1:])
        assert ran.status == 0, ran.err
        assert [Path(line).is_file() for line in ran.out.splitlines()[-2:]] == [True, True]


@pytest.mark.slow
def test_make_demo(golf: Callable[..., Ran], tmp_path: Path) -> None:
    """Less of it, and the address that it ends with."""
    shown = subprocess.run(
        ["make", "--no-print-directory", "-n", "demo", *MAKE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    *studies, dashboard = shown.stdout.splitlines()
    assert len(studies) == 2
    for line in studies:
        assert golf(*shlex.split(line)[3:], *QUICK, f"dir={tmp_path}").status == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "golf_opt", *shlex.split(dashboard)[3:], f"dir={tmp_path}",
         "dashboard.port=0"], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().startswith("dashboard: http://127.0.0.1:")
    process.terminate()
    process.communicate(timeout=120)
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", distinct(commands("golf-opt interpret") + commands("golf-opt deploy"))
)
def test_commands_on_a_trained_net(golf: Callable[..., Ran], tmp_path: Path, command: str) -> None:
    verb, *arguments = shlex.split(command)[1:]
    (weights,) = [a for a in arguments if a.startswith("weights=")] or ["weights="]
    if path := weights.removeprefix("weights="):
        (arch,) = [a.removeprefix("arch=") for a in arguments if a.startswith("arch=")]
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        save_file(random_tensors(net(arch)), tmp_path / path)
    else:
        golf("study", "arch=c4-5-4-prelu", f"study.name={study_of(command)}", *QUICK)
    if verb == "interpret":
        arguments = [a for a in arguments if "steps" not in a] + ["data=digits", "steps=1"]
    ran = golf(verb, *arguments)
    assert ran.status == 0, ran.err


@pytest.mark.slow
def test_make_study(tmp_path: Path) -> None:
    """The README's, as it stands but for data and engine; the others are one `golf-opt` line."""
    command, *others = commands("make study")
    arguments = f"ARGS={' '.join(QUICK[:1] + QUICK[3:])} dir={tmp_path}/studies"
    ran = subprocess.run(
        [*shlex.split(command), *MAKE, arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert "best test accuracy" in ran.stdout and "3 of 3 trials" in ran.stdout
    for other in others:
        dry = [*shlex.split(other), "SETUP=", "GOLF=golf-opt", "-n", "--no-print-directory"]
        shown = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True)
        line = " ".join(shown.stdout.split())
        assert line.startswith("golf-opt study arch=")
        assert "ARGS" not in other or line in COMMANDS  # the page says they are the same


@pytest.mark.slow
def test_dashboards(golf: Callable[..., Ran], tmp_path: Path) -> None:
    """Each composes; one prints the address it serves, and ends on SIGINT."""
    for command in commands("golf-opt dashboard"):
        ran = golf(*shlex.split(command)[1:], "--cfg", "job")
        assert ran.status == 0, ran.err
    arguments = ["dashboard", f"dir={tmp_path}/studies", "dashboard.port=0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "golf_opt", *arguments], cwd=tmp_path, stdout=subprocess.PIPE,
        text=True, env=os.environ,
    )  # fmt: skip
    assert process.stdout is not None
    assert re.match(r"dashboard: http://127\.0\.0\.1:\d+/", process.stdout.readline())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)


def test_keeping_studies(golf: Callable[..., Ran], tmp_path: Path) -> None:
    golf("study", "data=digits", "epochs=2", "trials=1", "engine=torch", "space.batch_size=32")
    chosen = [c for head in ("ls", "export", "import", "rm") for c in commands(f"golf-opt {head}")]
    assert len(chosen) == 4
    for command in chosen:
        ran = golf(*shlex.split(command)[1:])
        assert (ran.status, ran.err) == (0, "")
        assert "c4-5-4@digits-2epochs" in ran.out or "copy" in ran.out
    assert len(golf("ls").out.splitlines()) == 2
    assert (tmp_path / "backup" / "trials.jsonl").is_file()


@pytest.mark.parametrize("target", TARGETS)
def test_make_targets_exist_and_help_names_them(target: str) -> None:
    dry = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(rf"make {target} ", shown.stdout)


# --- examples with files


def files_of(page: str) -> dict[str, str]:
    """The blocks of a page that have a title, by that file name."""
    blocks = re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', PAGES[page], re.M | re.S)
    return dict(blocks)


def put_files(page: str, folder: Path) -> None:
    for name, text in files_of(page).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize("command", [c for c in commands_of(PAGES[EXTENDING]) if "golf-opt" in c])
def test_examples_of_extending(
    golf: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    put_files(EXTENDING, tmp_path)
    if command.startswith("PYTHONPATH=. "):
        monkeypatch.syspath_prepend(tmp_path)
    words = shlex.split(command.removeprefix("PYTHONPATH=. "))[1:]
    small = ["data=digits", "epochs=1"]
    if "study=odd" in words:
        (begin,) = [c for c in EXAMPLES if "study.name=odd" in c]
        assert golf(*shlex.split(begin)[1:], *small).status == 0
    engine = "engine=auto" if "my_nets" in command else "engine=torch"
    ran = golf(*words, *([*small, engine] if words[0] == "study" else []))
    assert ran.status == 0, ran.err
    if words[0] in ("study", "worker"):
        assert "2 of 2 trials finished" in ran.out
    said = PAGES[EXTENDING].split(f"$ {command}\n")[1].splitlines()[0]
    if said.startswith(("my_nets", "engine=")) and compiler() is not None:
        assert said in ran.out.splitlines()


def test_the_nets_of_extending_are_the_file() -> None:
    """Which `make check` has mypy look at."""
    example = ROOT / "docs" / "examples" / "my_nets.py"
    assert files_of(EXTENDING)["my_nets.py"] == example.read_text()


@pytest.mark.slow
def test_examples_of_objectives(golf: Callable[..., Ran], tmp_path: Path) -> None:
    """Each command as it stands, with fewer trials; the worker goes on with the first study."""
    for name, text in files_of(OBJECTIVES).items():
        assert (ROOT / "docs" / "examples" / name).read_text() == text
    put_files(OBJECTIVES, tmp_path)
    first, second, worker = (shlex.split(c)[1:] for c in commands_of(PAGES[OBJECTIVES]))
    for words in (first, second):
        (name,) = [word for word in words if word.startswith("objective=")]
        study = name.partition("=")[2].replace(":", ".")
        small = ["trials=2", "epochs=2", "engine.lanes=1", f"study.name={study}"]
        ran = golf(*(w for w in words if not w.startswith(("trials=", "epochs="))), *small)
        assert ran.status == 0 and "2 of 2 trials finished" in ran.out, ran.err
    ran = golf(*(word for word in worker if word != "storage=postgres"), "engine.lanes=1")
    assert ran.status == 0 and "2 of 2 trials finished" in ran.out, ran.err


@pytest.mark.slow
def test_the_engine_of_extending(tmp_path: Path) -> None:
    """It prints what the page shows."""
    put_files(EXTENDING, tmp_path)
    (command,) = [c for c in EXAMPLES if c.startswith("python ")]
    ran = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert f"$ {command}\n{ran.stdout}" in PAGES[EXTENDING]


@pytest.mark.slow
def test_the_c_program_of_the_tutorial(golf: Callable[..., Ran], tmp_path: Path) -> None:
    """It compiles with the header of a net, and prints a digit."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    put_files("docs/tutorial.md", tmp_path)
    save_file(random_tensors(net("c4-5-4")), tmp_path / "net.safetensors")
    golf("deploy", "weights=net.safetensors", "arch=c4-5-4", "format=c", "output=digits.h")
    for command in [*commands("cc "), *commands("./")]:
        ran = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
    assert re.fullmatch(r"digit \d, score -?\d+\.\d\d\n", ran.stdout)


# --- generated parts


def test_the_configuration_is_that_of_conf(golf: Callable[..., Ran]) -> None:
    """Its tables are current, and have every key of a study."""
    tables = script("configuration")
    page = PAGES["docs/configuration.md"]
    assert between(page, tables.BEGIN, tables.END) == tables.current()
    job = yaml.safe_load(golf("study", "--cfg", "job").out)
    table = set(re.findall(r"^\| `([\w.]+)`", page, re.MULTILINE))
    groups = ("sampler", "pruner", "storage", "data", "engine", "space", "callbacks")
    for key, value in job.items():
        assert key in table
        inner = value if key in (*groups, "study") and isinstance(value, dict) else {}
        dotted = {f"{key}.{name}" for name in inner if name not in ("_target_", "name")}
        assert dotted - {"callbacks.pruning"} <= table
    for file in cli.CONF_DIR.glob("*/*.yaml"):
        assert f"| `{file.stem}` |" in page


def test_every_verb_has_a_table_of_keys() -> None:
    for verb in cli.HYDRA_VERBS:
        assert f"### golf-opt {verb}\n" in PAGES["docs/configuration.md"]


def test_the_kinds_of_layers_are_those_of_the_code() -> None:
    layers, tasks = script("layers"), script("tasks")
    assert between(PAGES["docs/data.md"], tasks.BEGIN, tasks.END) == tasks.table()
    table = between(PAGES[EXTENDING], layers.BEGIN, layers.END)
    assert table == layers.kinds_in_markdown()
    for kind in [*KINDS, "reuse"]:
        assert f"| `{kind}` |" in table


def test_the_packages_are_those_of_the_code() -> None:
    """Picture and table are current, and have the floors that the tests hold."""
    from test_imports import FLOORS

    packages = script("packages")
    assert packages.PICTURE.read_text() == packages.picture()
    assert between(PAGES["CONTRIBUTING.md"], packages.BEGIN, packages.END) == packages.table()
    ET.fromstring(packages.picture())
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    arrows = {name: packages.imports(name) for name in packages.packages(packages.PACKAGE)}
    assert set(arrows) == set(floor)
    for name, targets in arrows.items():
        assert all(floor[target] < floor[name] for target in targets)
        assert packages.words(packages.PACKAGE / name)


def test_the_figures_are_what_the_benchmarks_wrote() -> None:
    for section in bench.readme.sections():
        page = section.page.read_text()
        assert between(page, section.begin, section.end) == section.text


def test_several_cpu_models_give_a_range(tmp_path: Path) -> None:
    """Each has a folder; the README's sentence covers all, and the page has a section for each."""
    (first,) = bench.readme.machines()[:1]
    for cpu, ratio, peak in (("Fast CPU @ 3.00GHz", 40.0, 0.38), ("Slow(R) CPU", 23.0, 0.46)):
        figures = {"net": "c4-5-4", "batch_size": 14, "ratio": ratio, "peak_share": peak}
        row = first.rows[0] | figures
        folder = tmp_path / slug(cpu)
        folder.mkdir()
        about = first.results["engines"]["machine"] | {"cpu": cpu}
        (folder / "engines.json").write_text(json.dumps({"machine": about, "rows": [row]}))
    found = bench.readme.machines(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fast", "slow"]
    assert "23 to 40 times" in bench.readme.in_short(found)
    assert "38 to 46 %" in bench.readme.in_short(found)
    assert [line for line in bench.readme.in_full(found).splitlines() if line[:3] == "## "] == [
        "## Fast CPU @ 3.00GHz",
        "## Slow(R) CPU",
    ]


def test_results_lie_with_their_cpu_model() -> None:
    for machine in bench.readme.machines():
        named = [r["machine"]["cpu"] for r in machine.results.values() if "machine" in r]
        assert {slug(cpu) for cpu in named} == {slug(machine.cpu)}


# --- what pages say


def test_counts_of_named_nets() -> None:
    rows = re.findall(r"^\| `(c[\w-]+)`[^|]* \| ([\d,]+) \|", PAGES[EXTENDING], re.MULTILINE)
    assert len(rows) == 6
    for name, count in rows:
        assert f"{net(name).num_params:,}" == count


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_record_that_is_quoted_is_the_smallest(page: str) -> None:
    files = (ROOT / "studies" / "records" / "article").glob("*/record.json")
    best = min((json.loads(f.read_text()) for f in files), key=lambda r: r["params"]["nz"])
    accuracy = best["splits"]["test"]["correct"] / best["splits"]["test"]["of"]
    words = " ".join(PAGES[page].replace("**", "").split())
    assert re.search(rf"\b{best['params']['nz']}\b[^.]*\b{100 * accuracy:.2f} %", words)


def test_the_readme_is_short() -> None:
    assert PAGES["README.md"].count("\n") <= 180


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page: str) -> None:
    """Links to files and pictures, and paths of the checkout in code."""
    folder = (ROOT / page).parent
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGES[page]):
        assert (folder / link).exists(), link
    for path in re.findall(r"`((?:golf_opt|conf|tests|bench|docker|docs)/[\w./-]+)`", PAGES[page]):
        assert (ROOT / path).exists(), path


def test_the_version_is_the_same_everywhere() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_workflows_call_the_makefile() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    ran = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert {line for line in ran if line.startswith("make ")} == {"make check", "make test"}


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("github-workflows", ".github/workflows/ci.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/bug.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/record.yml"),
        ("citation-file-format", "CITATION.cff"),
    ],
)
def test_files_for_others_have_their_schema(schema: str, file: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    ran = subprocess.run([*command, file], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


def test_hooks_are_the_checks_of_make() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    dry = subprocess.run(["make", "-n", "check"], cwd=ROOT, capture_output=True, text=True)
    for hook in hooks:
        tool = next(word for word in hook["entry"].split() if word.startswith(".venv/bin/"))
        assert tool in dry.stdout
