"""The architecture: imports point one way, and counting a network needs no torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "golf_opt"

# The floors, lowest first. A package imports from the floors below its own, and no other.
FLOORS = [
    {"utils"},
    {"config"},
    {"task"},
    {"engines"},
    {"storage", "visualization"},
    {"study"},
    {"golf", "dashboard", "reports", "manage", "fleet"},
    {"cli"},
    {"api"},
]
GOLF = [
    {"golf"},
    {"golf.deploy", "golf.interpret", "golf.pruning"},
    {"golf.records", "golf.retrain"},
]
FLOOR = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}
GOLF_FLOOR = {package: floor for floor, packages in enumerate(GOLF) for package in packages}
STEERS = re.compile(r"study\.(ask|tell)\(|\btell\(self\._study")
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.parent != PACKAGE
}


def imports(path: Path) -> set[str]:
    """The golf_opt modules that a file imports, anywhere in it; the version aside."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("golf_opt."):
            base = (node.module or "").removeprefix("golf_opt.")
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(
                    next(
                        m
                        for m in (inner, f"{inner}.__init__", base, f"{base}.__init__")
                        if m in MODULES
                    )
                )
    return found


def golf_package(module: str) -> str:
    """`golf.pruning` for a module of it, `golf` for one that stands in the room itself."""
    parent = module.rpartition(".")[0]
    return parent if parent in GOLF_FLOOR else "golf"


def test_every_package_has_one_floor_and_modules_stand_in_packages() -> None:
    assert {module.partition(".")[0] for module in MODULES} == set(FLOOR)
    assert len(list(PACKAGE.glob("*.py"))) <= 3


def test_imports_point_down() -> None:
    wrong = []
    for module, path in MODULES.items():
        package = module.partition(".")[0]
        for target in imports(path):
            other = target.partition(".")[0]
            if other != package and FLOOR[other] >= FLOOR[package]:
                wrong.append(f"{module} imports {target}")
            here, there = golf_package(module), golf_package(target)
            inside = package == other == "golf" and here != there
            if inside and GOLF_FLOOR[there] >= GOLF_FLOOR[here]:
                wrong.append(f"{module} imports {target}")
    assert wrong == []


def test_no_module_imports_itself_in_a_circle() -> None:
    order = list(TopologicalSorter({m: imports(p) for m, p in MODULES.items()}).static_order())
    assert set(MODULES) <= set(order)


def test_the_scheduler_knows_only_the_standard_library() -> None:
    tree = ast.parse((PACKAGE / "engines" / "scheduler.py").read_text())
    roots = {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    roots |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert roots - sys.stdlib_module_names == set()


def test_only_the_study_steers_optuna() -> None:
    """ask and tell appear in two modules of study alone."""
    users = [m for m, p in MODULES.items() if STEERS.search(p.read_text())]
    assert sorted(users) == ["study.asking", "study.loop"]
    assert users[0].startswith("study.")


def test_size_of_modules_and_classes() -> None:
    """A module has at most 400 lines and a class 250, so that each has one thing to say."""
    sizes = {module: path.read_text().count("\n") for module, path in MODULES.items()}
    long = [f"{module}: {lines} lines" for module, lines in sizes.items() if lines > 400]
    for module, path in MODULES.items():
        classes = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)]
        lines = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in classes}
        long += [f"{module}.{name}: {count} lines" for name, count in lines.items() if count > 250]
    assert long == []


def test_counting_a_net_imports_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['golf-opt', 'arch', 'c4-5-4', 'deepml-separable'];"
        "from golf_opt.cli.main import main; main(); print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "False"
