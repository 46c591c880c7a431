"""golf-opt VERB key=value ...: the arguments, Hydra, and how errors are told."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra

from golf_opt import __version__
from golf_opt.cli import arguments, sources
from golf_opt.cli.compose import HYDRA, compose, implied
from golf_opt.cli.errors import composing, explain
from golf_opt.cli.verbs import EXIT_SIGNAL, HYDRA_VERBS, VERBS, arch
from golf_opt.config import CONF_DIR
from golf_opt.config.command import remember
from golf_opt.config.comments import help_of
from golf_opt.config.errors import UsageError, did_you_mean
from golf_opt.utils.text import one_line

SHOW_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")

USAGE = """\
golf-opt VERB key=value ...

  study      run a study, or go on with it:  golf-opt study arch=c4-5-4 trials=50
  search     find the smallest good net:    golf-opt search family=separable budget=30m
  worker     run trials beside others:     golf-opt worker study=c4-5-4 storage=postgres
  fleet      workers, and their watch:    golf-opt fleet study=c4-5-4 workers=2
  dashboard  browse the studies:             golf-opt dashboard
  report     a study on one page:            golf-opt report study=c4-5-4
  compare    studies side by side:           golf-opt compare studies=[c4-5-4,c5-5-4]
  prune      prune a trained net:            golf-opt prune study=c4-5-4 method=rounds
  confirm    the best trials on fresh seeds: golf-opt confirm study=NAME top=5 seeds=10
  teach      nets for others to learn from:  golf-opt teach protocol=holdout
  hunt       from nothing to a record:     golf-opt hunt board=article budget=30m
  record     keep a net as a record:         golf-opt record study=NAME board=article slug=NAME
  verify     check the records:              golf-opt verify
  leaderboard  the records as a site:        golf-opt leaderboard output=DIR
  reproduce  the sources' figures again:     golf-opt reproduce part=quick
  interpret  look inside a trained net:      golf-opt interpret study=c4-5-4
  deploy     write it as C, ONNX, weights:   golf-opt deploy study=c4-5-4 format=c
  arch       count networks:                 golf-opt arch c4-5-4 c4-5-4-prelu
  ls         list the studies:               golf-opt ls
  export     write a study to files:         golf-opt export study=NAME output=FOLDER
  import     take one into a storage:        golf-opt import input=FOLDER storage=postgres
  rm         remove a study:                 golf-opt rm study=NAME
  doctor     look at this machine:           golf-opt doctor
  tune       fit a net to this GPU:          golf-opt tune arch=c4-5-4

golf-opt study --quiet says only what it runs and what came out.
golf-opt VERB --help lists a verb's keys, --cfg job shows what would run.
"""


class Warnings(logging.Handler):
    """Shows what the program logs, a line each, on whatever is stderr by then."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"golf-opt: {one_line(record.getMessage())}", file=sys.stderr)


def main() -> None:
    """Run `golf-opt`; whatever goes wrong is told in one line, a user's mistake with status 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name may have letters that stdout has not
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.getLogger("hydra").addHandler(logging.NullHandler())  # what it logs, it raises too
    log = logging.getLogger("golf_opt")
    log.handlers, log.propagate = [Warnings()], False
    given = sys.argv[1:]
    if not given or given[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    if given[0] == "--version":
        print(f"golf-opt {__version__}")
        return
    try:
        run(given[0], given[1:])
    except KeyboardInterrupt:
        sys.exit(EXIT_SIGNAL + 2)
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_SIGNAL + 13)
    except Exception as error:
        fail(error, given[0])


def run(verb: str, given: list[str]) -> None:
    """Run a verb, or answer the shell that completes one."""
    if verb in ("-sc", "--shell-completion"):
        complete([verb, *given])
    elif verb not in VERBS:
        raise UsageError(f"{verb!r} is no verb; it must be {did_you_mean(verb, VERBS)}")
    elif verb == "arch":
        arch(given)
    else:
        run_hydra(verb, given)


def fail(error: Exception, verb: str) -> NoReturn:
    """Print one line and leave; with HYDRA_FULL_ERROR=1 raise the error instead."""
    if SHOW_TRACEBACK:
        raise error
    message, status = explain(error, verb)
    print(f"golf-opt: {one_line(message)}", file=sys.stderr)
    sys.exit(status)


def complete(given: list[str]) -> None:
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
    sys.argv = ["golf-opt", *given]
    ask_hydra(verb or "study")


def run_hydra(verb: str, given: list[str]) -> None:
    """Compose a verb's configuration and run it, or show what would run."""
    asked = arguments.parse(verb, given)
    if asked.help:
        print(help_of(verb))
        return
    folder = [] if asked.config_dir is None else ["--config-dir", str(asked.config_dir)]
    remember(sys.argv[0], verb, [*asked.overrides, *folder])
    sys.argv = [f"golf-opt {verb}", *asked.overrides, *folder, *asked.shown]
    if asked.shown:
        sys.argv[1:1] = implied(verb, asked.overrides, asked.config_dir)
        ask_hydra(verb)
    else:
        HYDRA_VERBS[verb](compose(verb, asked.overrides, asked.config_dir))


def ask_hydra(verb: str) -> None:
    """Let Hydra itself answer what `sys.argv` asks of the configuration."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra is to raise, `main` tells
    sources.register()
    sources.take_over_files()
    GlobalHydra.instance().clear()
    asked = hydra.main(config_path=str(CONF_DIR), config_name=verb, version_base=HYDRA)
    with composing():
        asked(HYDRA_VERBS[verb])()
