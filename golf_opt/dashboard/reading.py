"""What the pages read of a storage: nothing that lies in it breaks a page, or gets out of it.

optuna-dashboard believes what it keeps under its own keys, and fails for a whole study where one
attribute is of another type. A study may come from anybody, so what it is shown passes here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import BaseStorage

from golf_opt.storage.gate import admit_attributes
from golf_opt.storage.optuna_internals import FrozenStudy, check_study_page, id_of_study, named
from golf_opt.utils.text import printable

ARTIFACT_ID = re.compile(r"[0-9a-fA-F-]{1,64}")
# what optuna-dashboard keeps under keys of its own, in the order in which it is gone without
PAGE_KEYS = (
    re.compile(r"preference:.*|dashboard:(?!artifacts:|(\d+:)?note_).*", re.DOTALL),
    re.compile(r"dashboard:(?!artifacts:).*|study:metric_names", re.DOTALL),
    re.compile(r"(dashboard:|artifacts:).*", re.DOTALL),
)


def shown_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return system attributes without those that a page could not take."""
    return admit_attributes(attributes, [])  # a database's passed here before, a journal's did not


def _through(name: str) -> Any:
    def call(self: ShownStorage, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._inner, name)(*args, **kwargs)

    return call


# a storage whose every method is that of another one
_Through: Any = type(
    "_Through", (BaseStorage,), {name: _through(name) for name in BaseStorage.__abstractmethods__}
)


class ShownStorage(_Through):  # type: ignore[misc]
    """A storage as the pages see it; what they change goes through to it.

    Names have no line breaks here, because they get into headers.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self._inner = storage
        self._names: dict[str, str] = {}  # as they are shown -> as they are

    def get_all_studies(self) -> list[FrozenStudy]:
        studies = [self._shown(study) for study in self._inner.get_all_studies()]
        return sorted(studies, key=id_of_study)  # a database may return them in any order

    def _shown(self, study: FrozenStudy) -> FrozenStudy:
        """Return a study with as much of what the page keeps in it as the page can take."""
        attributes, name = shown_attributes(study.system_attrs), printable(study.study_name)
        for without in PAGE_KEYS:
            shown = named(study, name, attributes)
            try:
                check_study_page(shown)
                return shown
            except Exception:  # whatever somebody has put there
                attributes = {k: v for k, v in attributes.items() if not without.fullmatch(k)}
        return named(study, name, attributes)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return shown_attributes(self._inner.get_study_system_attrs(study_id))

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        return shown_attributes(self._inner.get_trial_system_attrs(trial_id))

    def get_study_name_from_id(self, study_id: int) -> str:
        name = self._inner.get_study_name_from_id(study_id)
        self._names[printable(name)] = name
        return printable(name)

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._inner.get_study_id_from_name(self._names.get(study_name, study_name))


class ArtifactFolder(FileSystemArtifactStore):
    """The files of trials and studies: regular ones of the folder, by ids that are ids."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder

    def open_reader(self, artifact_id: str) -> BinaryIO:
        self._check(artifact_id)
        path = self._folder / artifact_id
        if path.is_symlink() or not path.is_file():
            raise ArtifactNotFound("not found")
        return super().open_reader(artifact_id)

    def remove(self, artifact_id: str) -> None:
        self._check(artifact_id)
        super().remove(artifact_id)

    def _check(self, artifact_id: str) -> None:
        if not ARTIFACT_ID.fullmatch(artifact_id):
            raise ArtifactNotFound("not found")
