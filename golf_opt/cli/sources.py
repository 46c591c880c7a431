"""Where Hydra finds configurations: files, each read through our gate, and names with no file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf

from golf_opt.config import CONF_DIR, load_yaml, yaml_file
from golf_opt.config.comments import choices
from golf_opt.config.errors import UsageError
from golf_opt.task.family import read_family
from golf_opt.task.grammar import parse_grammar, parse_target, read_arch

FILES = (".yaml", ".yml")
READERS = {"arch": read_arch, "family": read_family}  # of what is data, whoever wrote it


def register() -> None:
    """Let Hydra read through the sources of this module, where it is asked to by their schemes."""
    Plugins.instance()  # finds Hydra's own
    for source in (GrammarSource, CheckedSource):
        SourcesRegistry.instance().types.setdefault(source.scheme(), source)


def take_over_files() -> None:
    """Let Hydra read every file through ours; only in a process that is all of golf-opt."""
    SourcesRegistry.instance().types[CheckedFiles.scheme()] = CheckedFiles


class CheckedSource(FileConfigSource):
    """Hydra's source of files, but that what it reads is checked.

    A folder that `--config-dir` adds may be somebody else's. Who names one of its samplers or
    callbacks runs code by that; an architecture is data and has no way to more than that.
    """

    @staticmethod
    def scheme() -> str:
        return "checked"

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        header: dict[str, str | None] = {"package": None}
        read = READERS.get(config_path.partition("/")[0])
        if read is not None and not path.is_relative_to(CONF_DIR):
            content: object = OmegaConf.create(read(path))
        else:
            content = yaml_file.load(path)
            with path.open(encoding="utf-8") as file:
                header = self._get_header_dict(file.read(512))
        if not isinstance(content, DictConfig):
            raise UsageError(f"{path} is a list, but must be a mapping.")
        return ConfigResult(self.provider, f"{self.scheme()}://{self.path}", content, header)


class CheckedFiles(CheckedSource):
    """The same under the scheme that Hydra's main program gives to files."""

    @staticmethod
    def scheme() -> str:
        return FileConfigSource.scheme()


Choice = Callable[[str], Mapping[str, Any] | None]


def _data(name: str) -> Mapping[str, Any] | None:
    """Return the configuration of data by a name of torchvision's, or by a path."""
    known = "/" in name or name.endswith(".npz") or Path(name).is_dir() or name in _published()
    return {**load_yaml(CONF_DIR / "data" / "auto.yaml"), "name": name} if known else None


def _published() -> list[str]:
    from golf_opt.task.data.published import PUBLISHED  # NumPy: not every command needs it

    return list(PUBLISHED)


def _arch(name: str) -> Mapping[str, Any] | None:
    """Return the architecture that a file, a name of the grammar, or a class of the user's is."""
    path = Path(f"{name.removesuffix('.yaml')}.yaml")  # Hydra takes the ending off
    if "/" in name and path.is_file():
        return read_arch(path)
    return parse_grammar(name) or parse_target(name)


def _family(name: str) -> Mapping[str, Any] | None:
    """Return the family of a file that is named by its path."""
    return read_family(Path(name)) if name.endswith(FILES) else None


def kind_of(net: object) -> str:
    """Return which part of a recipe is for an architecture or a family: dense or separable."""
    return "separable" if "depthwise" in _kinds(net) else "dense"


def _kinds(node: object) -> Iterator[object]:
    """Yield the kind of every layer, however deep it stands."""
    if isinstance(node, Mapping):
        yield node.get("kind")
        node = list(node.values())
    if isinstance(node, Sequence) and not isinstance(node, str):
        for inner in node:
            yield from _kinds(inner)


def read_recipe(name: str) -> Mapping[str, Any]:
    """Return the recipe of conf/recipe with this name: for each kind of net, epochs and space."""
    content: Mapping[str, Any] = load_yaml(CONF_DIR / "recipe" / f"{name}.yaml")
    return content


def _space(name: str) -> Mapping[str, Any] | None:
    """Return the space of a file that is named by its path, or of `recipe/strong/dense`."""
    group, _, rest = name.partition("/")
    recipe, _, kind = rest.partition("/")
    if group == "recipe" and recipe in choices("recipe"):
        part: Mapping[str, Any] = read_recipe(recipe).get(kind, {})
        return part.get("space")
    if not name.endswith(FILES):
        return None
    content = yaml_file.load_plain(Path(name), "of parameters")
    if "defaults" in content:
        raise UsageError(f"{name} has defaults, but must have parameters alone.")
    return content


CHOICES: Mapping[str, Choice] = {"arch": _arch, "data": _data, "family": _family, "space": _space}


class GrammarSource(ConfigSource):
    """Lets Hydra compose `arch=c4-5-4`, `arch=my_nets:Tiny` or `data=photos/` without such files.

    A source of configs, `arch://grammar`; CHOICES says what a name stands for in each group.
    Nothing is imported here.
    """

    @staticmethod
    def scheme() -> str:
        return "arch"

    def load_config(self, config_path: str) -> ConfigResult:
        content = OmegaConf.create(dict(self._choice(config_path) or {}))
        header: dict[str, str | None] = {"package": None}
        return ConfigResult(self.provider, f"arch://{self.path}", content, header)

    def is_group(self, config_path: str) -> bool:
        return config_path in ("", *CHOICES)

    def is_config(self, config_path: str) -> bool:
        return self._choice(config_path) is not None

    def available(self) -> bool:
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path == "data" and results_filter != ObjectType.GROUP:
            return _published()  # for whoever mistypes one
        return [*CHOICES] if config_path == "" and results_filter != ObjectType.CONFIG else []

    @staticmethod
    def _choice(config_path: str) -> Mapping[str, Any] | None:
        group, _, name = config_path.partition("/")
        if group not in ("family", "space"):  # whose files have their whole name
            name = name.removesuffix(".yaml")
        return CHOICES[group](name) if group in CHOICES else None
