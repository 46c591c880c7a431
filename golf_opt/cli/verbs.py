"""The verbs: each checks what Hydra composed and calls the module that does the work.

That module is imported in the verb, so that `golf-opt arch` and `--help` answer at once.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from golf_opt.config import schema
from golf_opt.config.check import load
from golf_opt.config.command import override, turn_into
from golf_opt.config.comments import known_keys
from golf_opt.config.fleet import FleetConfig
from golf_opt.config.reproduce import ReproduceConfig
from golf_opt.task.arch import Net, build_net
from golf_opt.task.grammar import load_arch, parse_target, presets
from golf_opt.task.inputs import MNIST, InputSpec
from golf_opt.task.kinds import NAME, kinds_in_lines
from golf_opt.task.layers import show_shape
from golf_opt.utils.files import tidied
from golf_opt.utils.said import tell as say

if TYPE_CHECKING:
    from golf_opt.study.run import Outcome

DATA = ("data=", "data.")  # how keys of data begin
EXIT_SIGNAL = 128  # plus the signal's number, as shells do


def command() -> str:
    """Return what the user typed."""
    return f"{sys.argv[0]} {shlex.join(sys.argv[1:])}".strip()


def leave(signal: int | None) -> None:
    """End with the status of a shell command that a signal ended, if one did."""
    if signal is not None:
        sys.exit(EXIT_SIGNAL + signal)


def end(outcome: Outcome) -> None:
    """Say the last words, and exit as the signal that ended the study asks for."""
    say(outcome.closing)
    leave(outcome.signal)


def quiet_optuna() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


def study(cfg: DictConfig) -> None:
    from golf_opt.study.run import begin_study, run_study

    quiet_optuna()
    config = load(schema.StudyConfig, cfg)
    if config.workers is None:
        end(run_study(config, command(), say))
    else:
        fleet(as_fleet(begin_study(config, command(), say), config))


def as_fleet(name: str, config: schema.StudyConfig) -> DictConfig:
    """Take `study ... workers=N` for `fleet study=NAME workers=N` with what is a fleet's of it."""
    from golf_opt.cli.arguments import parse
    from golf_opt.cli.compose import compose

    keys = {key.partition(".")[0] for key in known_keys("fleet")} - {"study", "stop"}
    if config.arch is None or "module" not in config.arch:
        keys.remove("arch")  # the study has it
    asked = parse("fleet", turn_into("fleet", keys, override("study", name)))
    return compose("fleet", asked.overrides, asked.config_dir)


def search(cfg: DictConfig) -> None:
    study(cfg)  # of another configuration: the same loop


def worker(cfg: DictConfig) -> None:
    from golf_opt.study.run import join_study

    quiet_optuna()
    end(join_study(load(schema.WorkerConfig, cfg), say))


def fleet(cfg: DictConfig) -> None:
    from golf_opt.fleet.run import run_fleet

    quiet_optuna()
    leave(run_fleet(load(FleetConfig, cfg), say))


def prune(cfg: DictConfig) -> None:
    from golf_opt.golf.pruning.run import run_prune

    end(run_prune(load(schema.PruneConfig, cfg), command(), say))


def hunt(cfg: DictConfig) -> None:
    from golf_opt.config.hunt import HuntConfig
    from golf_opt.golf.records.hunt import Hunt

    quiet_optuna()
    end(Hunt(load(HuntConfig, cfg), command(), say).run())


def dashboard(cfg: DictConfig) -> None:
    from golf_opt.dashboard.server import serve

    serve(load(schema.DashboardConfig, cfg), say)


def confirm(cfg: DictConfig) -> None:
    from golf_opt.golf.retrain import confirm as work

    leave(work.confirm(load(schema.ConfirmConfig, cfg), say))


def teach(cfg: DictConfig) -> None:
    from golf_opt.golf.teach import teach as work

    leave(work(load(schema.TeachConfig, cfg), command(), say))


def record(cfg: DictConfig) -> None:
    from golf_opt.golf.records.make import make_record

    say(f"record: {make_record(load(schema.RecordConfig, cfg))}")


def verify(cfg: DictConfig) -> None:
    from golf_opt.golf.records.verify import verify_all

    if not verify_all(load(schema.VerifyConfig, cfg), say):
        sys.exit(1)


def leaderboard(cfg: DictConfig) -> None:
    from golf_opt.golf.records.leaderboard import write_leaderboard

    if not write_leaderboard(load(schema.LeaderboardConfig, cfg), say):
        sys.exit(1)


def reproduce(cfg: DictConfig) -> None:
    from golf_opt.golf.retrain import reproduce as work

    leave(work.reproduce(load(ReproduceConfig, cfg), say))


def report(cfg: DictConfig) -> None:
    from golf_opt.reports.report import write_report

    config = load(schema.ReportConfig, cfg)
    if config.trial is not None:
        from golf_opt.golf.source import show_card

        say(show_card(config))
        return
    for path in write_report(config):
        say(str(path))


def compare(cfg: DictConfig) -> None:
    from golf_opt.reports.compare import write_comparison
    from golf_opt.visualization.document import print_table

    table, paths = write_comparison(load(schema.CompareConfig, cfg))
    print_table(table)
    for path in paths:
        say(str(path))


def ls(cfg: DictConfig) -> None:
    from golf_opt.manage.listing import list_studies

    list_studies(load(schema.ListConfig, cfg), say)


def doctor(cfg: DictConfig) -> None:
    from golf_opt.manage.doctor import examine

    examine(load(schema.DoctorConfig, cfg), say)


def tune(cfg: DictConfig) -> None:
    from golf_opt.manage.tune import tune as work

    work(load(schema.TuneConfig, cfg), say)


def rm(cfg: DictConfig) -> None:
    from golf_opt.manage.removal import remove

    if not remove(load(schema.RemovalConfig, cfg), say):
        sys.exit(1)


def export(cfg: DictConfig) -> None:
    from golf_opt.manage.transfer import export_study

    export_study(load(schema.ExportConfig, cfg), say)


def import_(cfg: DictConfig) -> None:
    from golf_opt.manage.transfer import import_study

    quiet_optuna()
    import_study(load(schema.ImportConfig, cfg), say)


def interpret(cfg: DictConfig) -> None:
    from golf_opt.golf.interpret import run as work

    work.interpret(load(schema.InterpretConfig, cfg), say)


def deploy(cfg: DictConfig) -> None:
    from golf_opt.golf.deploy import run as work

    work.deploy(load(schema.DeployConfig, cfg), say)


def arch(names: list[str]) -> None:
    """Print layer, output shape and parameters of each net, and the total."""
    overrides = [name for name in names if name.startswith(DATA)]
    names = [name for name in names if name not in overrides]
    if not names or names[0] in ("-h", "--help"):
        say("golf-opt arch NAME...\n\ndata=NAME counts for its images instead of MNIST's")
        say(f"\npresets: {', '.join(presets())}\n\nor by grammar:")
        say("  c4-5-4   c4-5-4-prelu   c4-5-4-leaky0.2   c3-4-4-k5-3-3")
        say("\nor a class of yours that gives a torch.nn.Module:\n  my_nets:Tiny")
        say("\nor a file, FILE.yaml, of a name and layers, such as")
        say("  name: mine\n  layers: [{kind: conv, channels: 4, kernel: 5}, {kind: relu}, ...]")
        say(f"\nkinds of layers; {NAME}:")
        for line in kinds_in_lines():
            say(line)
        return
    spec = _input_of(overrides)
    for net in [_net_of(name, spec) for name in names]:
        say(f"{net.name}")
        for node in net.nodes:
            label = f"{node.name} (shared)" if node.shared else node.name
            say(f"  {label:<24} {show_shape(node.output_shape):>12} {node.num_params:>10,}")
        say(f"  {'total parameters':<24} {'':>12} {net.num_params:>10,}\n")


def _input_of(overrides: list[str]) -> InputSpec:
    """Return what nets for the data of `data=NAME` and the like take: MNIST's where none is."""
    if not overrides:
        return MNIST
    from golf_opt.cli.compose import compose
    from golf_opt.task.data import load as load_data

    tree = compose("report", overrides).data
    return load_data(load(schema.DataConfig, tree)).input


def _net_of(name: str, spec: InputSpec) -> Net:
    """Return the net of a name for images of `spec`; one of a module's is imported."""
    from golf_opt.task.modules.resolve import resolve

    module = parse_target(name)
    if module is None:
        return load_arch(name, spec)
    net = build_net(resolve(module, spec, say), spec)
    if net.module is not None:
        from golf_opt.task.modules.given import why_not_ours

        say(why_not_ours(net.module))
    return net


def tidy(verb: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Let a verb that fails, for want of room or for a mistake, leave no empty folders in `dir`."""

    def run(cfg: DictConfig) -> None:
        folder = None
        with contextlib.suppress(OmegaConfBaseException, ValueError, OSError):
            folder = tidied(Path(str(cfg.dir)))
        with folder or contextlib.nullcontext():
            verb(cfg)

    return run


HYDRA_VERBS: dict[str, Callable[[DictConfig], None]] = {
    verb.__name__.rstrip("_"): tidy(verb)
    for verb in (
        study, search, worker, fleet, dashboard, report, compare, ls, rm, export, import_, prune,
        confirm, teach, hunt, record, verify, leaderboard, reproduce, interpret, deploy, doctor,
        tune,
    )
}  # fmt: skip
VERBS = (*HYDRA_VERBS, "arch")
