"""Lets Hydra compose `arch=c4-5-4` although there is no file of that name: the grammar is one."""

from __future__ import annotations

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from golf_opt.task.grammar import parse_grammar

GROUP = "arch"


class GrammarSource(ConfigSource):
    """A source of configs, `arch://grammar`, whose group `arch` holds every name of the grammar."""

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
        return config_path in ("", GROUP)

    def is_config(self, config_path: str) -> bool:
        name = self._name(config_path)
        return name is not None and parse_grammar(name) is not None

    def available(self) -> bool:
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return [GROUP] if config_path == "" and results_filter != ObjectType.CONFIG else []

    @staticmethod
    def _name(config_path: str) -> str | None:
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        return name if group == GROUP else None
