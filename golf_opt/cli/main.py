"""golf-opt VERB key=value ...: the verbs, each a Hydra application, and how errors are told."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from golf_opt import __version__
from golf_opt.cli.grammar_source import GrammarSource
from golf_opt.config.schema import (
    UsageError,
    compare_config,
    confirm_config,
    dashboard_config,
    deploy_config,
    did_you_mean,
    export_config,
    import_config,
    interpret_config,
    list_config,
    prune_config,
    record_config,
    removal_config,
    report_config,
    reproduce_config,
    study_config,
    verify_config,
    worker_config,
)
from golf_opt.engines.base import EngineFault
from golf_opt.storage.failures import explain_failure
from golf_opt.storage.url import PASSWORD_ENV, take_password
from golf_opt.task.arch import load_arch, presets, show_shape, unknown_arch

if TYPE_CHECKING:
    from golf_opt.study.run import Outcome

PACKAGE = Path(__file__).parents[1]
# in a wheel the configuration lies in the package, in a checkout beside it
CONF_DIR = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
SHOW_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
EXIT_USAGE = 2
EXIT_FAULT = 1  # the machine, and not the user, did it
EXIT_SIGNAL = 128  # plus the signal's number, as shells do

USAGE = """\
golf-opt VERB key=value ...

  study      run a study, or go on with it:  golf-opt study arch=c4-5-4 trials=50
  worker     run trials beside others:     golf-opt worker study=c4-5-4 storage=postgres
  dashboard  browse the studies:             golf-opt dashboard
  report     a study on one page:            golf-opt report study=c4-5-4
  compare    studies side by side:           golf-opt compare studies=[c4-5-4,c5-5-4]
  prune      prune a trained net:            golf-opt prune study=c4-5-4 method=rounds
  confirm    the best trials on fresh seeds: golf-opt confirm study=NAME top=5 seeds=10
  record     keep a net as a record:         golf-opt record study=NAME board=article slug=NAME
  verify     check the records:              golf-opt verify
  reproduce  the sources' figures again:     golf-opt reproduce part=quick
  interpret  look inside a trained net:      golf-opt interpret study=c4-5-4
  deploy     write it as C, ONNX, weights:   golf-opt deploy study=c4-5-4 format=c
  arch       count networks:                 golf-opt arch c4-5-4 c4-5-4-prelu
  ls         list the studies:               golf-opt ls
  export     write a study to files:         golf-opt export study=NAME output=FOLDER
  import     take one into a storage:        golf-opt import input=FOLDER storage=postgres
  rm         remove a study:                 golf-opt rm study=NAME

golf-opt study --quiet says only what it runs and what came out.
golf-opt VERB --help lists a verb's keys, --cfg job shows what would run.
"""


def study(cfg: DictConfig) -> None:
    """Run a study."""
    import optuna  # here, so that `golf-opt arch` and `--help` answer at once

    from golf_opt.study.run import run_study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    config = study_config(cfg, CONF_DIR)
    end(run_study(config, f"{sys.argv[0]} {shlex.join(sys.argv[1:])}".strip(), say))


def worker(cfg: DictConfig) -> None:
    """Run trials of a study that was begun elsewhere."""
    import optuna

    from golf_opt.study.run import join_study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    end(join_study(worker_config(cfg), say))


def end(outcome: Outcome) -> None:
    """Say the last words, and exit as the signal that ended the study asks for."""
    say(outcome.closing)
    leave(outcome.signal)


def prune(cfg: DictConfig) -> None:
    """Prune a trained net."""
    from golf_opt.golf.pruning.run import run_prune

    outcome = run_prune(prune_config(cfg), f"{sys.argv[0]} {shlex.join(sys.argv[1:])}", say)
    say(outcome.closing)
    leave(outcome.signal)


def dashboard(cfg: DictConfig) -> None:
    """Serve optuna-dashboard."""
    from golf_opt.dashboard.server import serve

    serve(dashboard_config(cfg), say)


def confirm(cfg: DictConfig) -> None:
    """Retrain the best trials of a study on fresh seeds."""
    from golf_opt.golf.retrain import confirm as work

    leave(work.confirm(confirm_config(cfg), say))


def record(cfg: DictConfig) -> None:
    """Make a record of a net."""
    from golf_opt.golf.records.make import make_record

    say(f"record: {make_record(record_config(cfg), CONF_DIR)}")


def verify(cfg: DictConfig) -> None:
    """Verify records."""
    from golf_opt.golf.records.verify import verify_all

    if not verify_all(verify_config(cfg), say):
        sys.exit(1)


def reproduce(cfg: DictConfig) -> None:
    """Train again what the sources published."""
    from golf_opt.golf.retrain import reproduce as work

    leave(work.reproduce(reproduce_config(cfg), CONF_DIR, say))


def leave(signal: int | None) -> None:
    """End with the status of a shell command that a signal ended, if one did."""
    if signal is not None:
        sys.exit(EXIT_SIGNAL + signal)


def report(cfg: DictConfig) -> None:
    """Write a study's report."""
    from golf_opt.reports.report import write_report

    for path in write_report(report_config(cfg)):
        say(str(path))


def compare(cfg: DictConfig) -> None:
    """Print studies side by side, and write the same with figures."""
    from golf_opt.reports.report import in_terminal, write_comparison

    table, paths = write_comparison(compare_config(cfg))
    in_terminal(table)
    for path in paths:
        say(str(path))


def ls(cfg: DictConfig) -> None:
    """List the studies."""
    from golf_opt.manage.listing import list_studies

    list_studies(list_config(cfg), say)


def rm(cfg: DictConfig) -> None:
    """Remove a study."""
    from golf_opt.manage.removal import remove

    if not remove(removal_config(cfg), say):
        sys.exit(1)


def export(cfg: DictConfig) -> None:
    """Write a study to files."""
    from golf_opt.manage.transfer import export_study

    export_study(export_config(cfg), say)


def import_(cfg: DictConfig) -> None:
    """Take an exported study into a storage."""
    import optuna

    from golf_opt.manage.transfer import import_study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    import_study(import_config(cfg), say)


def interpret(cfg: DictConfig) -> None:
    """Draw what a trained net has learned."""
    from golf_opt.golf.interpret import run as work

    work.interpret(interpret_config(cfg), say)


def deploy(cfg: DictConfig) -> None:
    """Write a trained net for other programs."""
    from golf_opt.golf.deploy import run as work

    work.deploy(deploy_config(cfg), say)


def arch(names: list[str]) -> None:
    """Print layer, output shape and parameters of each net, and the total."""
    if not names or names[0] in ("-h", "--help"):
        say(f"golf-opt arch NAME...\n\npresets: {', '.join(presets(CONF_DIR))}\n\nor by grammar:")
        say("  c4-5-4   c4-5-4-prelu   c4-5-4-leaky0.2   c3-4-4-k5-3-3")
        return
    for net in [load_arch(name, CONF_DIR) for name in names]:
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
POSITIONAL = {"verify": "path"}  # verb -> the key that a word without `=` is the value of
VERBS = (*HYDRA_VERBS, "arch")


def say(line: str) -> None:
    """Print a line at once, so that a log shows it when it happens."""
    print(line, flush=True)


def main() -> None:
    """Run `golf-opt`; a user's mistake is one message and exit status 2."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    if arguments[0] == "--version":
        print(f"golf-opt {__version__}")
        return
    if arguments[0] in ("-sc", "--shell-completion"):
        complete(arguments)
        return
    verb, rest = arguments[0], arguments[1:]
    try:
        if verb not in VERBS:
            raise UsageError(f"{verb!r} is no verb; it must be {did_you_mean(verb, VERBS)}")
        arch(rest) if verb == "arch" else run_hydra(verb, rest)
    except (UsageError, HydraException, OmegaConfBaseException) as error:
        fail(error, explain(error))
    except ValueError as error:  # Hydra has some of its own for what a user typed
        if not _raised_by_hydra(error):
            raise
        fail(error, f"{error}; overrides are key=value")
    except KeyboardInterrupt:
        sys.exit(EXIT_SIGNAL + 2)
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_SIGNAL + 13)


def complete(arguments: list[str]) -> None:
    """Answer the shell as Hydra does, which knows of no verbs: the one on the line is cut out."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    verb = words[1] if len(words) > 1 and words[1] in HYDRA_VERBS else None
    if line and (verb is None or line.endswith(verb)):
        begun = words[1] if len(words) > 1 else ""
        print(" ".join(name for name in VERBS if name.startswith(begun)))
        return
    if verb is not None:
        os.environ["COMP_LINE"] = line.replace(f" {verb}", "", 1)
        os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    run_hydra(verb or "study", arguments, "golf-opt")


def run_hydra(verb: str, overrides: list[str], program: str | None = None) -> None:
    """Hand over to Hydra, which calls the verb with the composed configuration."""
    overrides = ["callbacks.progress.mode=quiet" if o == "--quiet" else o for o in overrides]
    overrides = name_positional(verb, overrides)
    sys.argv = [program or f"golf-opt {verb}", *map(hide_password, overrides)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra is to raise, `main` tells
    Plugins.instance().register(GrammarSource)
    GlobalHydra.instance().clear()
    hydra.main(config_path=str(CONF_DIR), config_name=verb, version_base="1.3")(_told(verb))()


def _told(verb: str) -> Callable[[DictConfig], None]:
    """Return the verb with its errors told in here, before Hydra adds a line of its own."""

    def task(cfg: DictConfig) -> None:
        try:
            HYDRA_VERBS[verb](cfg)
        except UsageError as error:
            fail(error, str(error))
        except EngineFault as error:
            told = f"{error}; its trials wait to go on from their checkpoints"
            fail(error, f"{told}: give the same command again", EXIT_FAULT)
        except Exception as error:
            if (message := explain_failure(error)) is None:
                raise
            fail(error, message)

    return task


def fail(error: Exception, message: str, status: int = EXIT_USAGE) -> NoReturn:
    """Print the message and leave; with HYDRA_FULL_ERROR=1 raise the error instead."""
    if SHOW_TRACEBACK:
        raise error
    print(f"golf-opt: {message}", file=sys.stderr)
    sys.exit(status)


def _raised_by_hydra(error: Exception) -> bool:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_globals["__name__"].split(".")[0] == "hydra"


def name_positional(verb: str, arguments: list[str]) -> list[str]:
    """Turn the PATH of `golf-opt verify PATH ...` into the override that Hydra wants."""
    if verb not in POSITIONAL or not arguments or "=" in arguments[0] or arguments[0][:1] == "-":
        return arguments
    quoted = arguments[0].replace("'", "\\'")
    return [f"{POSITIONAL[verb]}='{quoted}'", *arguments[1:]]


def hide_password(override: str) -> str:
    """Move the password of `storage.url=` to the environment, out of every configuration dump."""
    key, equals, value = override.partition("=")
    if key.lstrip("+") not in ("storage.url", "storage"):
        return override
    url, password = take_password(value)
    if password is not None:
        os.environ[PASSWORD_ENV] = password
    return f"{key}{equals}{url}"


def explain(error: Exception) -> str:
    """Return one clear message for an error of ours, of Hydra's or of OmegaConf's."""
    if isinstance(error, MissingConfigException):
        return _explain_missing(error)
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    unknown = re.search(r"Could not override '([\w.]+)'|Key '(\w+)' is not in struct", text)
    if isinstance(error, HydraException) and unknown:
        return _explain_unknown_key(unknown[1] or unknown[2])
    return text


def _explain_missing(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if group == "arch":
        return unknown_arch(name, error.options or [])
    if not group:
        return " ".join(str(error).split())
    return f"{group} is {name!r}, but must be {did_you_mean(name, error.options or [])}"


def _explain_unknown_key(key: str) -> str:
    known = _known_keys()
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{key!r} is no key{hint} --cfg job shows every key; +{key}=VALUE adds one."


def _known_keys() -> list[str]:
    keys: list[str] = []
    for path in [*CONF_DIR.glob("*.yaml"), *CONF_DIR.glob("*/*.yaml")]:
        prefix = "" if path.parent == CONF_DIR else f"{path.parent.name}."
        node = OmegaConf.to_container(OmegaConf.load(path))
        keys += [path.parent.name] if prefix else []
        keys += _keys_below(node, prefix) if isinstance(node, dict) else []
    return sorted(set(keys))


def _keys_below(node: dict[Any, Any], prefix: str) -> list[str]:
    keys = []
    for key, value in node.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, dict):
            keys += _keys_below(value, f"{prefix}{key}.")
    return [key for key in keys if not key.startswith(("hydra", "defaults"))]
