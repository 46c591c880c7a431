"""The verbs: each takes what Hydra composed, checks it, and calls the module that does the work."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from golf_opt.config.check import load
from golf_opt.config.reproduce import ReproduceConfig
from golf_opt.config.schema import (
    CompareConfig,
    ConfirmConfig,
    DashboardConfig,
    DeployConfig,
    ExportConfig,
    ImportConfig,
    InterpretConfig,
    ListConfig,
    PruneConfig,
    RecordConfig,
    RemovalConfig,
    ReportConfig,
    StudyConfig,
    VerifyConfig,
    WorkerConfig,
)
from golf_opt.task.arch import show_shape
from golf_opt.task.grammar import load_arch, presets

if TYPE_CHECKING:
    from golf_opt.golf.pruning.run import Outcome as Pruned
    from golf_opt.study.run import Outcome

EXIT_SIGNAL = 128  # plus the signal's number, as shells do


def say(line: str) -> None:
    """Print a line at once, so that a log shows it when it happens."""
    print(line, flush=True)


def command() -> str:
    """Return what the user typed."""
    return f"{sys.argv[0]} {shlex.join(sys.argv[1:])}".strip()


def study(cfg: DictConfig) -> None:
    """Run a study."""
    import optuna  # here, so that `golf-opt arch` and `--help` answer at once

    from golf_opt.study.run import run_study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    end(run_study(load(StudyConfig, cfg), command(), say))


def worker(cfg: DictConfig) -> None:
    """Run trials of a study that was begun elsewhere."""
    import optuna

    from golf_opt.study.run import join_study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    end(join_study(load(WorkerConfig, cfg), say))


def end(outcome: Outcome | Pruned) -> None:
    """Say the last words, and exit as the signal that ended the study asks for."""
    say(outcome.closing)
    leave(outcome.signal)


def prune(cfg: DictConfig) -> None:
    """Prune a trained net."""
    from golf_opt.golf.pruning.run import run_prune

    end(run_prune(load(PruneConfig, cfg), command(), say))


def dashboard(cfg: DictConfig) -> None:
    """Serve optuna-dashboard."""
    from golf_opt.dashboard.server import serve

    serve(load(DashboardConfig, cfg), say)


def confirm(cfg: DictConfig) -> None:
    """Retrain the best trials of a study on fresh seeds."""
    from golf_opt.golf.retrain import confirm as work

    leave(work.confirm(load(ConfirmConfig, cfg), say))


def record(cfg: DictConfig) -> None:
    """Make a record of a net."""
    from golf_opt.golf.records.make import make_record

    say(f"record: {make_record(load(RecordConfig, cfg))}")


def verify(cfg: DictConfig) -> None:
    """Verify records."""
    from golf_opt.golf.records.verify import verify_all

    if not verify_all(load(VerifyConfig, cfg), say):
        sys.exit(1)


def reproduce(cfg: DictConfig) -> None:
    """Train again what the sources published."""
    from golf_opt.golf.retrain import reproduce as work

    leave(work.reproduce(load(ReproduceConfig, cfg), say))


def leave(signal: int | None) -> None:
    """End with the status of a shell command that a signal ended, if one did."""
    if signal is not None:
        sys.exit(EXIT_SIGNAL + signal)


def report(cfg: DictConfig) -> None:
    """Write a study's report."""
    from golf_opt.reports.report import write_report

    for path in write_report(load(ReportConfig, cfg)):
        say(str(path))


def compare(cfg: DictConfig) -> None:
    """Print studies side by side, and write the same with figures."""
    from golf_opt.reports.report import in_terminal, write_comparison

    table, paths = write_comparison(load(CompareConfig, cfg))
    in_terminal(table)
    for path in paths:
        say(str(path))


def ls(cfg: DictConfig) -> None:
    """List the studies."""
    from golf_opt.manage.listing import list_studies

    list_studies(load(ListConfig, cfg), say)


def rm(cfg: DictConfig) -> None:
    """Remove a study."""
    from golf_opt.manage.removal import remove

    if not remove(load(RemovalConfig, cfg), say):
        sys.exit(1)


def export(cfg: DictConfig) -> None:
    """Write a study to files."""
    from golf_opt.manage.transfer import export_study

    export_study(load(ExportConfig, cfg), say)


def import_(cfg: DictConfig) -> None:
    """Take an exported study into a storage."""
    import optuna

    from golf_opt.manage.transfer import import_study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    import_study(load(ImportConfig, cfg), say)


def interpret(cfg: DictConfig) -> None:
    """Draw what a trained net has learned."""
    from golf_opt.golf.interpret import run as work

    work.interpret(load(InterpretConfig, cfg), say)


def deploy(cfg: DictConfig) -> None:
    """Write a trained net for other programs."""
    from golf_opt.golf.deploy import run as work

    work.deploy(load(DeployConfig, cfg), say)


def arch(names: list[str]) -> None:
    """Print layer, output shape and parameters of each net, and the total."""
    if not names or names[0] in ("-h", "--help"):
        say(f"golf-opt arch NAME...\n\npresets: {', '.join(presets())}\n\nor by grammar:")
        say("  c4-5-4   c4-5-4-prelu   c4-5-4-leaky0.2   c3-4-4-k5-3-3")
        return
    for net in [load_arch(name) for name in names]:
        say(f"{net.name}")
        for node in net.nodes:
            label = f"{node.name} (shared)" if node.shared else node.name
            say(f"  {label:<24} {show_shape(node.output_shape):>12} {node.num_params:>10,}")
        say(f"  {'total parameters':<24} {'':>12} {net.num_params:>10}\n")


HYDRA_VERBS: dict[str, Callable[[DictConfig], None]] = {
    "study": study,
    "worker": worker,
    "dashboard": dashboard,
    "report": report,
    "compare": compare,
    "ls": ls,
    "rm": rm,
    "export": export,
    "import": import_,
    "prune": prune,
    "confirm": confirm,
    "record": record,
    "verify": verify,
    "reproduce": reproduce,
    "interpret": interpret,
    "deploy": deploy,
}
VERBS = (*HYDRA_VERBS, "arch")
