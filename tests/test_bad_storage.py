"""Storages that are not what they should be: each costs one line, and nothing that was there."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
from conftest import Ran
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from sqlalchemy.engine import make_url

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import StorageConfig
from golf_opt.golf.source import load_trained
from golf_opt.storage import connect
from golf_opt.storage.connect import open_storage, opened_storage
from golf_opt.storage.studies import STUDY_ID, marks
from golf_opt.storage.workers import coordination
from golf_opt.study.description import find_study
from tests.postgres import PASSWORD

if TYPE_CHECKING:
    from postgres import Server

pytest_plugins = ["postgres"]

Golf = Callable[..., Ran]
QUICK = (
    "study", "data=digits", "engine=torch", "epochs=2", "space.batch_size=32",
    "callbacks.progress.mode=plain", "study.name=s",
)  # fmt: skip
SECRET = "Gehe1m"


def told(ran: Ran) -> str:
    """The one line of a command that was refused, which names no password."""
    assert ran.status == 2, ran
    lines = ran.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("golf-opt: "), ran.err
    assert SECRET not in ran.out + ran.err
    return lines[0].removeprefix("golf-opt: ")


# --- PostgreSQL


@pytest.mark.postgres
@pytest.mark.parametrize("verb", ["study", "dashboard", "ls"])
def test_a_database_that_does_not_exist_is_named(
    golf: Golf, tmp_path: Path, postgres: Server, verb: str
) -> None:
    arguments = QUICK if verb == "study" else (verb, *["dashboard.port=0"][: verb == "dashboard"])
    said = told(golf(*arguments, f"storage.url={postgres.url('nowhere')}"))
    assert 'database "nowhere" does not exist' in said
    assert "CREATE DATABASE" in said
    assert list(tmp_path.iterdir()) == []


def role(server: Server, database: str, name: str, *grants: str) -> str:
    """Make a role with these rights in a database; return its URL."""
    with server.connect(database) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{SECRET}'")
        for grant in grants:
            connection.execute(f"GRANT {grant} TO {name}")
    return f"postgresql://{name}:{SECRET}@127.0.0.1:{server.port}/{database}"


@pytest.mark.postgres
def test_a_role_that_may_create_nothing_is_named(
    golf: Golf, tmp_path: Path, postgres: Server
) -> None:
    database = postgres.create_database()
    said = told(golf(*QUICK, f"storage.url={role(postgres, database, 'guest')}"))
    assert "guest:***@127.0.0.1" in said and "permission denied for schema public" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.postgres
def test_a_role_that_may_only_read_lists_and_is_refused_the_rest(
    golf: Golf, tmp_path: Path, postgres: Server
) -> None:
    database = postgres.create_database()
    assert golf(*QUICK, "trials=1", f"storage.url={postgres.url(database)}").status == 0
    url = role(postgres, database, "reader", "SELECT ON ALL TABLES IN SCHEMA public")
    listed = golf("ls", f"storage.url={url}")
    assert (listed.status, listed.err) == (0, "") and "\ns\tc4-5-4\t807" in listed.out
    before = golf("ls", f"storage.url={postgres.url(database)}").out
    for command in (
        [*QUICK, "trials=2"],
        [*QUICK, "trials=2", "study.name=new"],
        ["rm", "study=s", "yes=true", f"dir={tmp_path}/other"],
    ):
        assert "permission denied for table" in told(golf(*command, f"storage.url={url}"))
    assert golf("ls", f"storage.url={postgres.url(database)}").out == before


@pytest.mark.postgres
def test_a_role_that_may_not_even_read_is_named(golf: Golf, postgres: Server) -> None:
    database = postgres.create_database()
    golf(*QUICK, "trials=1", f"storage.url={postgres.url(database)}")
    url = role(postgres, database, "nobody")
    assert "permission denied for table" in told(golf("ls", f"storage.url={url}"))


@pytest.mark.postgres
def test_tables_of_another_optuna_give_the_upgrade_command(
    golf: Golf, tmp_path: Path, postgres: Server
) -> None:
    database = postgres.create_database()
    url = postgres.url(database)
    golf("ls", f"storage.url={url}")
    with postgres.connect(database) as connection:
        connection.execute("UPDATE version_info SET library_version = '3.0.0'")
        connection.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
    said = told(golf(*QUICK, f"storage.url={url}"))
    assert "was made by another version of Optuna" in said
    assert "optuna storage upgrade --storage" in said and f"/{database}" in said
    assert list(tmp_path.iterdir()) == []


# --- a disk that fills


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    if os.getuid() != 0:
        pytest.skip("only root may mount a file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


def fill(disk: Path, leave: int) -> None:
    """Leave so many bytes of a file system."""
    free = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(free.f_bavail * free.f_frsize - leave))


@pytest.mark.parametrize("full", ["database", "checkpoints"])
def test_a_disk_that_fills_ends_the_study_and_space_lets_it_go_on(
    golf: Golf,
    golf_process: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    small_disk: Path,
    full: str,
) -> None:
    """In a process of its own, whose end tells others that its trials are free."""
    if full == "database":
        where = (f"storage.url=sqlite:///{small_disk}/golf.db", f"dir={tmp_path}/studies")
    else:
        where = (f"storage.url=sqlite:///{tmp_path}/golf.db", f"dir={small_disk}")
        where += ("arch=c20", "engine=native")  # too large for the database
    assert golf(*QUICK, *where, "trials=1").status == 0
    fill(small_disk, leave=150_000 if full == "database" else 0)
    process = golf_process(*QUICK, *where, "trials=8", HYDRA_FULL_ERROR="")
    out, err = process.communicate()
    said = told(Ran(process.returncode, out, err))
    assert ("database or disk is full" if full == "database" else "No space left on device") in said
    resize(small_disk, "64m")
    after = golf(*QUICK, *where, "trials=8")
    assert (after.status, after.err) == (0, "")
    assert "8 of 8 trials finished" in after.out
    with opened_storage(StorageConfig(where[0].split("=", 1)[1], None)) as storage:
        trials = optuna.load_study(study_name="s", storage=storage).trials
    assert [trial.number for trial in trials] == list(range(8))
    assert all(t.state.name == "COMPLETE" and t.value == t.intermediate_values[2] for t in trials)


@pytest.mark.parametrize(
    ("storage", "leave"), [("sqlite", 0), ("sqlite", 8_192), ("sqlite", 250_000), ("journal", 0)]
)
def test_a_study_that_a_full_disk_refuses_leaves_nothing(
    golf: Golf, small_disk: Path, storage: str, leave: int
) -> None:
    (small_disk / "there").mkdir()
    fill(small_disk, leave)
    ran = golf(*QUICK, f"dir={small_disk}/there/a/b", f"storage={storage}", "trials=1")
    told(Ran(ran.status, "", ran.err))  # the study may have been announced
    assert sorted(small_disk.rglob("*")) == [small_disk / "ballast", small_disk / "there"]


def test_a_full_disk_costs_nothing_that_was_there(golf: Golf, small_disk: Path) -> None:
    folder = small_disk / "studies"
    (folder / "artifacts").mkdir(parents=True)  # empty, and not ours to remove
    assert golf(*QUICK, f"dir={folder}", "trials=1").status == 0
    before = {path for path in small_disk.rglob("*") if not path.name.endswith(("-shm", "-wal"))}
    fill(small_disk, 0)
    told(golf(*QUICK, f"dir={folder}", "trials=2", "study.name=other", "engine=torch"))
    assert before <= set(small_disk.rglob("*"))
    (small_disk / "ballast").unlink()
    assert golf("ls", f"dir={folder}").out.count("\n") == 2


def test_a_mistake_leaves_no_empty_folder(golf: Golf, tmp_path: Path) -> None:
    told(golf("worker", "study=none", "dir=a/b", "engine=torch"))
    assert list(tmp_path.iterdir()) == []


def test_an_export_to_a_full_disk_leaves_nothing(
    golf: Golf, begun: Callable[..., None], small_disk: Path
) -> None:
    begun(*QUICK, "trials=2")
    fill(small_disk, leave=4_096)
    said = told(golf("export", "study=s", f"output={small_disk}/out"))
    assert said.endswith("cannot be written: No space left on device.")
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def test_an_import_to_a_full_disk_leaves_nothing(
    golf: Golf, begun: Callable[..., None], tmp_path: Path, small_disk: Path
) -> None:
    begun(*QUICK, "trials=2")
    (tmp_path / "studies" / "artifacts").mkdir(exist_ok=True)
    store = FileSystemArtifactStore(tmp_path / "studies" / "artifacts")
    with opened_storage(StorageConfig(f"sqlite:///{tmp_path}/studies/golf.db", None)) as storage:
        study = find_study(storage, "s")
        for _ in range(2):
            upload_artifact(artifact_store=store, file_path=__file__, study_or_trial=study)
    golf("export", "study=s", "output=out")
    fill(small_disk, leave=Path(__file__).stat().st_size + 4_096)  # one of two
    url = f"storage.url=sqlite:///{tmp_path}/other.db"
    said = told(golf("import", "input=out", url, f"dir={small_disk}"))
    assert said.endswith("cannot be written: No space left on device.")
    assert golf("ls", url, "format=json").out == "[]\n"
    assert list(small_disk.rglob("*")) == [small_disk / "ballast"]
    assert golf("import", "input=out", url).status == 0


# --- weights that are not what they should be


def test_weights_that_are_damaged_or_of_another_net_are_refused(golf: Golf, tmp_path: Path) -> None:
    golf(*QUICK, "trials=1")
    golf(*QUICK, "trials=1", "study.name=other", "arch=c8-5-4")
    folder = tmp_path / "studies"
    with opened_storage(StorageConfig(f"sqlite:///{folder}/golf.db", None)) as storage:
        study, other = find_study(storage, "s"), find_study(storage, "other")
        mine, theirs = marks(study)[STUDY_ID], marks(other)[STUDY_ID]
        ledger = coordination(storage).ledger
        assert load_trained(study, folder, 0).tensors["weights/conv1.weight"].shape == (4, 1, 4, 4)
        whole = ledger.load_checkpoint(mine, 0)
        ledger.put_checkpoint(mine, 0, whole[: len(whole) // 2])
        with pytest.raises(UsageError, match=r"weights of trial 0 of s cannot be had: .* cannot"):
            load_trained(study, folder, 0)
        ledger.put_checkpoint(mine, 0, ledger.load_checkpoint(theirs, 0))
        with pytest.raises(UsageError, match="is of another trial: its net"):
            load_trained(study, folder, 0)
        ledger.delete_checkpoints(mine)
        with pytest.raises(UsageError, match="weights of trial 0 of s cannot be had"):
            load_trained(study, folder, 0)
        ledger.put_checkpoint(mine, 0, whole)
        assert load_trained(study, folder, 0).trial.number == 0


# --- not bad at all, but empty


@pytest.mark.parametrize("attempt", range(3))
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_workers_may_meet_in_an_empty_database(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, attempt: int
) -> None:
    """Each of them finds no tables and makes them, all at the same moment."""
    url = f"sqlite:///{tmp_path}/golf.db"
    if kind == "postgres":
        server = request.getfixturevalue("postgres")
        url = server.url(server.create_database())
    together = threading.Barrier(8, timeout=60)

    def enter() -> int:
        together.wait()
        with opened_storage(StorageConfig(url, None)) as storage:
            together.wait()
            study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
            together.wait()
            return study.ask().number

    with ThreadPoolExecutor(8) as pool:
        entered = [pool.submit(enter) for _ in range(8)]
        assert sorted(future.result() for future in entered) == list(range(8))


@pytest.mark.postgres
def test_who_finds_no_connection_left_waits_a_moment(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one connection is all it has, from the first moment on."""
    name = postgres.create_database()
    guest = make_url(postgres.url(name)).set(username=f"{name}_guest")
    url = guest.render_as_string(hide_password=False)
    with postgres.connect() as connection:  # limits are not for USER, who may do all
        connection.execute(f"CREATE ROLE {name}_guest LOGIN PASSWORD '{PASSWORD}'")
        connection.execute(f"ALTER DATABASE {name} OWNER TO {name}_guest")
        connection.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 1")
    taken = postgres.connect(name)
    with monkeypatch.context() as patch:
        patch.setattr(connect, "MEETING_PAUSES_S", (0.01,))
        with pytest.raises(UsageError, match=r"cannot be used: .* too many connections"):
            open_storage(StorageConfig(url, None))
    threading.Timer(0.3, taken.close).start()
    with opened_storage(StorageConfig(url, None)) as storage:
        assert optuna.create_study(study_name="s", storage=storage).ask().number == 0
