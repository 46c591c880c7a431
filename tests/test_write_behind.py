"""The storage that writes behind: Optuna's own expectations, and what ours adds to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.storages import RDBStorage
from optuna.testing.pytest_storages import StorageTestCase

from golf_opt.write_behind import WriteBehindStorage


class TestOptunasOwnExpectations(StorageTestCase):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[WriteBehindStorage]:
        storage = WriteBehindStorage(RDBStorage(f"sqlite:///{tmp_path}/x.db"), "me")
        yield storage
        storage.close()
