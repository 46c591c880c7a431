"""golf-opt VERB key=value ...: the arguments, Hydra, and how errors are told."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from golf_opt import __version__
from golf_opt.cli.errors import explain, raised_by_hydra
from golf_opt.cli.verbs import EXIT_SIGNAL, HYDRA_VERBS, VERBS, arch
from golf_opt.config import CONF_DIR
from golf_opt.config.command import remember
from golf_opt.config.errors import UsageError, did_you_mean
from golf_opt.task.grammar import parse_grammar

SHOW_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
EXIT_USAGE = 2
EXIT_FAULT = 1  # the machine, and not the user, did it
POSITIONAL = {"verify": "path"}  # verb -> the key that a word without `=` is the value of

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


class Warnings(logging.Handler):
    """Shows what the program logs, a line each, on whatever is stderr by then."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"golf-opt: {record.getMessage()}", file=sys.stderr)


def main() -> None:
    """Run `golf-opt`; a user's mistake is one message and exit status 2."""
    log = logging.getLogger("golf_opt")
    log.handlers, log.propagate = [Warnings()], False
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
        if not raised_by_hydra(error):
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
    overrides = list(map(hide_password, name_positional(verb, overrides)))
    remember(sys.argv[0], verb, overrides)
    overrides = ["callbacks.progress.mode=quiet" if o == "--quiet" else o for o in overrides]
    sys.argv = [program or f"golf-opt {verb}", *overrides]
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
        except Exception as error:
            from golf_opt.engines.base import EngineFault  # here: what a command needs of these
            from golf_opt.storage.failures import explain_failure  # two is imported by now

            if isinstance(error, EngineFault):
                told = f"{error}; its trials wait to go on from their checkpoints"
                fail(error, f"{told}: give the same command again", EXIT_FAULT)
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
    from golf_opt.storage.url import PASSWORD_ENV, take_password

    url, password = take_password(value)
    if password is not None:
        os.environ[PASSWORD_ENV] = password
    return f"{key}{equals}{url}"


class GrammarSource(ConfigSource):
    """Lets Hydra compose `arch=c4-5-4` although there is no file of that name.

    A source of configs, `arch://grammar`, whose group `arch` holds every name of the grammar.
    """

    @staticmethod
    def scheme() -> str:
        return "arch"

    def load_config(self, config_path: str) -> ConfigResult:
        arch = parse_grammar(self._name(config_path) or "")
        assert arch is not None
        return ConfigResult(
            self.provider, f"arch://{self.path}", OmegaConf.create(arch), header={"package": None}
        )

    def is_group(self, config_path: str) -> bool:
        return config_path in ("", "arch")

    def is_config(self, config_path: str) -> bool:
        name = self._name(config_path)
        return name is not None and parse_grammar(name) is not None

    def available(self) -> bool:
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return ["arch"] if config_path == "" and results_filter != ObjectType.CONFIG else []

    @staticmethod
    def _name(config_path: str) -> str | None:
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        return name if group == "arch" else None
