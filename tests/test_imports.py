"""The architecture: imports point one way, and counting a network needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "golf_opt"

# A module may import from the ranks below its own, and no other.
RANKS = [
    ["__init__", "golf.__init__"],
    ["config", "rng", "bulk", "published", "files", "ledger", "workers", "signals", "golf.stats"],
    ["arch", "recipe", "data", "web", "figures", "write_behind"],
    ["hydra_source", "space", "storage", "scheduler", "engines.base", "plots"],
    [
        "engines.torch",
        "engines.native",
        "checkpoint",
        "golf.forward",
        "golf.c_code",
        "golf.onnx_graph",
    ],
    ["engines.cuda"],
    ["engines.__init__", "report", "pictures", "archive", "artifacts"],
    ["golf.runs", "golf.reproduce_page", "golf.ascent", "golf.figures", "golf.interpret_page"],
    ["callbacks"],
    ["progress", "views", "golf.weights", "golf.dead", "golf.judge", "golf.ranking"],
    ["golf.source", "golf.count", "golf.search", "golf.surgeon", "listing", "removal"],
    ["study", "dashboard", "transfer", "golf.rounds", "golf.deploy", "golf.interpret"],
    ["paper", "golf.prune"],
    ["golf.pruned"],
    ["golf.pruning", "golf.confirm", "golf.records"],
    ["golf.reproduce", "golf.make_record", "golf.record_table"],
    ["cli"],
    ["__main__"],
]
PACKAGES = ("engines.native", "engines.cuda")  # of one rank each
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def rank_of(module: str) -> int:
    for name in (module, f"{module}.__init__"):
        if name in RANK:
            return RANK[name]
    if package := package_of(module):
        return RANK[package]
    raise AssertionError(f"{module} has no rank; give it one in {__file__}")


def package_of(module: str) -> str | None:
    return next((name for name in PACKAGES if module.startswith(name)), None)


def imports(path: Path) -> set[str]:
    """The golf_opt modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("golf_opt"):
            base = (node.module or "").removeprefix("golf_opt").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".strip(".")
                place = PACKAGE / Path(*inner.split("."))
                is_module = place.with_suffix(".py").is_file() or place.is_dir()
                found.add(inner if is_module else base or "__init__")
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("golf_opt")]
            found |= {
                name.removeprefix("golf_opt").removeprefix(".") or "__init__" for name in names
            }
    return found


def test_imports_point_one_way() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        module = module_of(path)
        for target in imports(path):
            same_package = package_of(module) and package_of(module) == package_of(target)
            if not same_package and rank_of(target) >= rank_of(module):
                wrong.append(f"{module} imports {target}")
    assert wrong == []


def test_the_scheduler_knows_only_the_standard_library() -> None:
    tree = ast.parse((PACKAGE / "scheduler.py").read_text())
    roots = {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    roots |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert roots - sys.stdlib_module_names == set()


def test_only_the_study_loop_steers_optuna() -> None:
    """ask and tell appear in study.py alone."""
    users = [
        module_of(path)
        for path in PACKAGE.rglob("*.py")
        if ".ask(" in path.read_text() or ".tell(" in path.read_text()
    ]
    assert users == ["study"]


def test_counting_a_net_imports_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['golf-opt', 'arch', 'c4-5-4', 'deepml-separable'];"
        "from golf_opt.cli import main; main(); print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "False"
