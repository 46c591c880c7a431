"""What a user types: Hydra's habits, and bad input, each refused in one message with status 2."""

from __future__ import annotations

import functools
import http.server
import resource
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import optuna
import pytest
import torchvision
from conftest import Ran, told
from omegaconf import OmegaConf

from golf_opt import __version__
from golf_opt.config import CONF_DIR
from golf_opt.task.data import own, published

if TYPE_CHECKING:
    from postgres import Server

pytest_plugins = ["postgres"]

Golf = Callable[..., Ran]
FAST = (
    "study", "data=digits", "engine=torch", "trials=1", "epochs=1", "space.batch_size=32",
    "callbacks.progress.mode=plain",
)  # fmt: skip
USER, SECRET = "golfer", "Gehe1m"
PASSWORD = f"{SECRET}@ss:w/rd%?#&="  # every character that means something in a URL
CLOSED = "127.0.0.1:1"  # nothing listens there


@pytest.fixture(scope="session")
def made(studies_of: Callable[..., Path]) -> Path:
    """A database with one finished study, `mine`: c4-5-4 on digits, one trial of one epoch."""
    return studies_of(*FAST, "study.name=mine") / "studies" / "golf.db"


@pytest.fixture
def database(made: Path, tmp_path: Path) -> Path:
    """A copy of it where `golf` looks for one."""
    (tmp_path / "studies").mkdir()
    copy = tmp_path / "studies" / "golf.db"
    with closing(sqlite3.connect(made)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def dump(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())


def written(folder: Path) -> list[str]:
    """Return everything below the folder, but for what SQLite keeps beside an open database."""
    paths = [path for path in folder.rglob("*") if not path.name.endswith(("-wal", "-shm"))]
    return sorted(str(path.relative_to(folder)) for path in paths)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["arch=deepml-smal"], r"arch is 'deepml-smal', .*did you mean 'deepml-small'?"),
        (["arch=c4-5-x"], "arch is 'c4-5-x', but must be c<channels>-"),
        (["arch=c4-5-4-5-5"], "layer 10 (conv): kernel 3x3 is larger than its input 1x1"),
        (["sampler=tpee"], "sampler is 'tpee', .*did you mean 'tpe'?"),
        (["pruner=hyperbnd"], "pruner is 'hyperbnd', .*did you mean 'hyperband'?"),
        (["space=artcle"], "space is 'artcle', .*did you mean 'article'?"),
        (["data=digit"], "data is 'digit', .*did you mean 'digits'?"),
        (["engine=tourch"], "engine is 'tourch', .*did you mean 'torch'?"),
        (["trails=4"], "'trails' is no key; did you mean 'trials'?"),
        (["space.lr.hihg=1"], "'hihg' is no key|'space.lr.hihg' is no key"),
        (["+space.momentum=0.9"], "space.momentum is not a key; .*weight_decay"),
        (["sampler.n_startup=3"], "n_startup' is no key; did you mean .*n_startup_trials'?"),
        (["+sampler.n_startup=3"], "sampler cannot be built: .*n_startup"),
        (["trials"], "Error parsing override 'trials'"),
        (["trials=-1"], "trials is -1, but must be at least 1."),
        (["trials=0"], "trials is 0, but must be at least 1."),
        (["trials=many"], "trials is 'many', but must be a whole number of at least 1."),
        (["trials=null", "budget=0s"], "budget is '0s', but must be"),
        (["epochs=0"], "epochs is 0, but must be at least 1"),
        (["seed=-1"], "seed is -1, but must be at least 0"),
        (["protocol=tset"], "protocol is 'tset', .*did you mean 'test'?"),
        (["engine.device=gpu"], "engine.device is 'gpu', but must be auto, cpu, cuda or cuda:N."),
        (["engine.lanes=0"], "engine.lanes is 0, but must be at least 1"),
        (["space.lr.low=1"], "space.lr.low is 1, but must be at most space.lr.high, 0.01."),
        (["space.lr.high=inf"], "space.lr.high is inf, but must be a number."),
        (["space.gamma.high=2"], "gamma is 2.0, but must be above 0 and at most 1"),
        (["space.batch_size=0"], "batch_size is 0, but must be at least 1"),
        (["space.batch_size=abc"], "batch_size is 'abc', but must be a whole number"),
        (["space.batch_size=null"], "space has no batch_size"),
        (["space.batch_size=1439"], "batch_size goes up to 1439, but must be at most 1438"),
        (["study.enqueue=artcle"], "study.enqueue is 'artcle', .*did you mean 'article'?"),
        (["study.enqueue={lr: 1}"], "study.enqueue has lr=1, but the space holds 1e-05..0.01"),
        (["study.name=''"], "study.name is '', but must be 1 to 200 printable characters"),
        (["sampler=grid", "trials=100"], "trials of a grid of 27 points is 100, but must be"),
        (["sampler=grid", "trials=null"], "trials of a grid of 27 points is 50, but must be"),
        (["storage=postgres"], "storage has no URL: GOLF_STORAGE_URL is not set"),
        (["storage.url=nonsense"], "storage.url is not a URL"),
        (["storage.url=oracle://u@h/d"], "needs a database driver that is not installed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_refused_before_anything_is_written(
    golf: Golf, tmp_path: Path, arguments: list[str], message: str
) -> None:
    said = told(golf(*FAST, *arguments))
    parts = message.split(".*") if ".*" in message else message.split("|")
    assert (all if ".*" in message else any)(part in said for part in parts), said
    assert written(tmp_path) == []


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (["space.batch_size.low=0"], "batch_size is 0, but must be at least 1"),
        (["space.batch_size.high=1439"], "batch_size goes up to 1439, but must be at most 1438"),
        (["space.batch_size.low=33"], "batch_size.low is 33, but must be at most"),
    ],
)
def test_bad_bounds_of_the_batch_size_are_refused(
    golf: Golf, tmp_path: Path, bounds: list[str], message: str
) -> None:
    said = told(golf("study", "data=digits", "engine=torch", *bounds))
    assert message in said
    assert written(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stdy"], "worker; did you mean 'study'?"),
        (["arch", "c4-5-4-5-5"], "layer 10 (conv): kernel 3x3 is larger than its input 1x1"),
        (["arch", "c4-5-4", "deepml-smal"], "did you mean 'deepml-small'?"),
        (["dashboard", "dashboard.prot=1"], "did you mean 'dashboard.port'?"),
        (["dashboard", "dashboard.port=65536"], "must be at least 0 and at most 65535"),
        (["dashboard", "storage.url=nonsense"], "storage.url is not a URL"),
    ],
)
def test_every_verb_refuses_in_the_same_way(
    golf: Golf, tmp_path: Path, arguments: list[str], message: str
) -> None:
    assert message in told(golf(*arguments))
    assert written(tmp_path) == []


def test_hydra_full_error_shows_the_traceback(golf_process: Callable[..., Any]) -> None:
    process = golf_process(*FAST, "trials=-1", HYDRA_FULL_ERROR="1")
    _, err = process.communicate()
    assert process.returncode == 1
    assert "Traceback" in err
    assert "UsageError: trials is -1, but must be at least 1." in err


def test_a_process_ends_with_status_2_and_one_message(
    golf_process: Callable[..., Any], tmp_path: Path
) -> None:
    process = golf_process("study", "trails=3")
    out, err = process.communicate()
    assert "did you mean 'trials'?" in told(Ran(process.returncode, out, err))
    assert written(tmp_path) == []


# --- storage


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///file/golf.db", "cannot be used: [Errno"),
        ("sqlite:///file", "cannot be used: file is not a database"),
        ("sqlite:///folder", "cannot be used: unable to open database file"),
        ("sqlite:////proc/golf.db", "cannot be used: unable to open database file"),
    ],
)
def test_a_storage_that_cannot_be_used_is_named(
    golf: Golf, tmp_path: Path, url: str, message: str
) -> None:
    (tmp_path / "file").write_text("not a database, and long enough to have a header of its own\n")
    (tmp_path / "folder").mkdir()
    before = (tmp_path / "file").read_bytes()
    said = told(golf(*FAST, f"storage.url={url}"))
    assert f"storage {url} {message}" in said
    assert written(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == before


@pytest.mark.parametrize("name", ["mine", "other"])
def test_a_read_only_storage_is_named(golf: Golf, database: Path, name: str) -> None:
    """Neither a new study nor one that has all its trials can go on: both write."""
    before = dump(database)
    url = "sqlite:///file:studies/golf.db?mode=ro&uri=true"
    said = told(golf(*FAST, f"study.name={name}", f"storage.url='{url}'"))
    assert said.startswith("storage ")
    assert "attempt to write a readonly database" in said
    assert dump(database) == before


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("arch=c8-5-4", "arch: c4-5-4 before, c8-5-4 now"),
        ("space.lr.high=3e-2", "space.lr: 1e-05..0.01 (log) before, 1e-05..0.03 (log) now"),
        ("space.gamma=0.5", "space.gamma: 0.1..0.99 before, 0.5 now"),
        ("space=wide", "space.schedule: nothing before, one of step, cosine, one_cycle, constant"),
        ("protocol=holdout", "protocol: test before, holdout now"),
        ("epochs=2", "epochs: 1 before, 2 now"),
    ],
)
def test_a_study_goes_on_only_as_what_it_was(
    golf: Golf, tmp_path: Path, database: Path, argument: str, message: str
) -> None:
    before, files = dump(database), written(tmp_path)
    said = told(golf(*FAST, "study.name=mine", argument))
    assert said.startswith("study 'mine' is another study: ")
    assert message in said
    assert dump(database) == before
    assert written(tmp_path) == files


def test_a_study_does_not_go_on_with_other_images_of_the_same_name(
    golf: Golf, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = own.bundled_digits()
    images[0, 4, 4] += 1
    monkeypatch.setattr(own, "bundled_digits", lambda: (images, labels))
    before = dump(database)
    said = told(golf(*FAST, "study.name=mine"))
    assert "study 'mine' is another study: data: digits (" in said
    assert dump(database) == before


@pytest.mark.mnist
def test_a_study_does_not_go_on_with_another_data_set(
    golf: Golf, database: Path, mnist_root: Path
) -> None:
    before = dump(database)
    said = told(golf(*FAST, "study.name=mine", "data=mnist", f"data.root={mnist_root}"))
    assert "data: digits before, mnist now" in said
    assert dump(database) == before


def test_the_same_study_goes_on(golf: Golf, database: Path) -> None:
    ran = golf(*FAST, "study.name=mine", "seed=3", "sampler=random", "pruner=none")
    assert (ran.status, ran.err) == (0, "")
    assert "going on at 1 of 1 trial" in ran.out


def test_a_foreign_study_of_the_same_name_is_left_alone(golf: Golf, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/foreign.db"
    foreign = optuna.storages.RDBStorage(url)
    optuna.create_study(study_name="mine", storage=foreign, direction="minimize")
    foreign.remove_session()
    foreign.engine.dispose()
    before = dump(tmp_path / "foreign.db")
    said = told(golf(*FAST, "study.name=mine", f"storage.url={url}"))
    assert "study 'mine' is there already and was not made by golf-opt" in said
    assert dump(tmp_path / "foreign.db") == before
    assert not (tmp_path / "studies").exists()


# --- data


@pytest.fixture
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without a network."""
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://{CLOSED}/"])


FILES = tuple(published.IDX_SHAPES)


@pytest.mark.usefixtures("no_mirror")
def test_a_missing_data_folder_is_named(golf: Golf, tmp_path: Path) -> None:
    said = told(golf(*FAST, "data=mnist", "data.root=nowhere"))
    assert "in nowhere/MNIST/raw, and no mirror answered" in said
    assert all(file in said for file in FILES)
    assert written(tmp_path) == []


@pytest.mark.usefixtures("no_mirror")
def test_a_data_folder_that_is_a_file_is_named(golf: Golf, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "file/MNIST/raw" in told(golf(*FAST, "data=mnist", "data.root=file"))
    assert written(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["mnist", "auto"])
@pytest.mark.usefixtures("no_mirror")
def test_a_truncated_data_file_is_named_with_its_checksum(
    golf: Golf, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for file in FILES:
        (folder / file).write_bytes(bytes(1000))
    said = told(golf(*FAST, f"data={name}", "data.root=."))
    assert "MNIST/raw/train-images-idx3-ubyte is damaged: it has 1,000 bytes instead of 47," in said
    assert "(expected MD5 6bbc9ace898e44ae57da46a324031adb)" in said
    assert written(tmp_path) == ["MNIST", "MNIST/raw", *sorted(f"MNIST/raw/{f}" for f in FILES)]


@pytest.mark.usefixtures("no_mirror")
def test_a_truncated_packed_file_is_named_with_its_checksum(golf: Golf, tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(bytes(1000))
    said = told(golf(*FAST, "data=mnist", "data.root=."))
    assert "train-images-idx3-ubyte.gz is damaged: its checksum differs (expected MD5 f68b" in said
    assert not (tmp_path / "studies").exists()


@pytest.mark.mnist
def test_a_changed_data_file_is_named_with_its_checksum(
    golf: Golf, tmp_path: Path, mnist_root: Path
) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for file in FILES:
        (folder / file).symlink_to(mnist_root.absolute() / "MNIST" / "raw" / file)
    labels = folder / "t10k-labels-idx1-ubyte"
    changed = bytearray(labels.read_bytes())
    changed[-1] ^= 1
    labels.unlink()
    labels.write_bytes(changed)
    said = told(golf(*FAST, "data=mnist", "data.root=."))
    assert "t10k-labels-idx1-ubyte is damaged: its checksum differs" in said
    assert "(expected MD5 27ae3e4e09519cfbb04c329615203637)" in said


@pytest.fixture
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A mirror that offers two megabytes under the first file's name."""
    folder = tmp_path_factory.mktemp("mirror")
    (folder / "train-images-idx3-ubyte.gz").write_bytes(bytes(2_000_000))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def copyfile(self, *files: Any) -> None:
            with suppress(ConnectionError):  # the reader gives up
                super().copyfile(*files)

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@contextmanager
def full_disk() -> Iterator[None]:
    """A limit on the size of files stands in for one: the same call fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_data_folder_is_named(
    golf: Golf, tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [mirror])
    with full_disk():
        ran = golf(*FAST, "data=mnist", "data.root=full")
    *progress, message = ran.err.splitlines()  # torchvision's bars come first
    said = told(Ran(ran.status, ran.out, message))
    assert "full/MNIST/raw" in said
    assert "File too large" in said
    assert "Traceback" not in "".join(progress)
    assert written(tmp_path) == []


# --- PostgreSQL, and its password


@pytest.mark.parametrize("host", [CLOSED, "no-such-host.invalid"])
def test_a_postgres_that_does_not_answer_is_named(golf: Golf, tmp_path: Path, host: str) -> None:
    said = told(golf(*FAST, f"storage.url=postgresql://{USER}:{PASSWORD}@{host}/d"))
    assert f"{USER}:***@{host}/d cannot be used: " in said
    assert SECRET not in said
    assert written(tmp_path) == []


def test_a_postgres_that_is_silent_is_given_up(golf: Golf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("golf_opt.storage.connect.CONNECT_TIMEOUT_S", 2)  # libpq's smallest
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        said = told(golf(*FAST, f"storage.url=postgresql://u:{PASSWORD}@127.0.0.1:{port}/d"))
    assert "timeout" in said
    assert SECRET not in said


def given(url: str) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Every way to hand over a URL: arguments and environment."""
    return {
        "bare": ([f"storage.url={url}"], {}),
        "single quotes": ([f"storage.url='{url}'"], {}),
        "double quotes": ([f'storage.url="{url}"'], {}),
        "added": ([f"++storage.url='{url}'"], {}),
        "mapping": ([f"storage={{url: '{url}'}}"], {}),
        "environment": (["storage=postgres"], {"GOLF_STORAGE_URL": url}),
    }


RAW, ENCODED = f"wrong-{PASSWORD}", quote(f"wrong-{PASSWORD}", safe="")


def bad_url(server: Server, password: str) -> str:
    return f"postgresql://{USER}:{password}@127.0.0.1:{server.port}/postgres"


@pytest.mark.postgres
@pytest.mark.parametrize("password", [RAW, ENCODED], ids=["raw", "encoded"])
@pytest.mark.parametrize("way", ["bare", "single quotes", "mapping", "environment"])
def test_a_refused_password_is_not_printed(
    golf: Golf,
    tmp_path: Path,
    postgres: Server,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    password: str,
) -> None:
    arguments, environment = given(bad_url(postgres, password))[way]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    said = told(golf(*FAST, *arguments))
    assert f'password authentication failed for user "{USER}"' in said
    assert SECRET not in said
    assert "rd%" not in said
    assert written(tmp_path) == []


@pytest.mark.parametrize(
    ("way", "dump"),
    [(way, ["--cfg", "all"]) for way in given("")]
    + [("bare", ["--cfg", "job"]), ("single quotes", ["--cfg", "job", "--resolve"])],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_no_dump_has_the_password(
    golf: Golf, monkeypatch: pytest.MonkeyPatch, way: str, dump: list[str]
) -> None:
    arguments, environment = given(f"postgresql://{USER}:{ENCODED}@{CLOSED}/d")[way]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ran = golf(*FAST, *arguments, *dump)
    assert ran.status == 0
    assert SECRET not in ran.out + ran.err
    if not environment:
        assert f"url: postgresql://{USER}@{CLOSED}/d" in ran.out


@pytest.mark.postgres
def test_no_traceback_has_the_password(golf_process: Callable[..., Any], postgres: Server) -> None:
    url = bad_url(postgres, ENCODED)
    process = golf_process(*FAST, f"storage.url={url}", HYDRA_FULL_ERROR="1")
    out, err = process.communicate()
    assert process.returncode == 1
    assert "Traceback" in err
    assert "password authentication failed" in err
    assert SECRET not in out + err


@pytest.mark.postgres
@pytest.mark.parametrize("way", ["bare", "single quotes", "environment"])
def test_a_study_in_postgres_keeps_no_password(
    golf: Golf, tmp_path: Path, postgres: Server, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    name = postgres.create_database()
    arguments, environment = given(postgres.url(name))[way]
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    ran = golf(*FAST, *arguments)
    assert (ran.status, ran.err) == (0, "")
    assert "1 of 1 trial finished" in ran.out
    kept = dump_attributes(postgres, name)
    assert "dashboard:note_str:0" in kept
    assert SECRET not in kept + ran.out
    assert all(SECRET.encode() not in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


def dump_attributes(server: Server, database: str) -> str:
    tables = ("study_system", "study_user", "trial_system", "trial_user")
    with server.connect(database) as connection:
        rows = [
            connection.execute(f"SELECT key, value_json FROM {table}_attributes").fetchall()
            for table in tables
        ]
    return str(rows)


# --- as a Hydra user expects


def composed(golf: Golf, *arguments: str) -> Any:
    ran = golf("study", *arguments, "--cfg", "job", "--resolve")
    assert (ran.status, ran.err) == (0, "")
    return OmegaConf.create(ran.out)


def test_the_configuration_that_would_run_is_shown(golf: Golf, tmp_path: Path) -> None:
    cfg = composed(golf)
    assert (cfg.arch.name, cfg.trials, cfg.epochs, cfg.seed, cfg.protocol) == (
        "c4-5-4", None, 18, 0, "test",
    )  # fmt: skip
    assert list(cfg.space) == ["batch_size", "lr", "step_size", "gamma"]
    assert cfg.storage.url == "sqlite:///studies/golf.db"
    assert written(tmp_path) == []


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("arch=deepml-small", "arch.name", "deepml-small"),
        ("arch=c3-4-4-k5-3-3", "arch.layers[0].kernel", 5),
        ("space=wide", "space.optimizer.type", "categorical"),
        ("space.lr.high=3e-2", "space.lr.high", 0.03),
        ("space.batch_size=14", "space.batch_size", 14),
        ("sampler=gp", "sampler._target_", "optuna.samplers.GPSampler"),
        ("pruner=hyperband", "pruner.max_resource", 18),
        ("storage=memory", "storage.url", None),
        ("storage=postgres", "storage.url_env", "GOLF_STORAGE_URL"),
        ("dir=elsewhere", "storage.url", "sqlite:///elsewhere/golf.db"),
        ("data=fashion", "data.name", "fashion"),
        ("engine=torch", "engine.name", "torch"),
        ("~callbacks.note", "callbacks.note", None),
        ("+callbacks.mine._target_=my.Callback", "callbacks.mine._target_", "my.Callback"),
        ("study.enqueue=article", "study.enqueue", "article"),
    ],
)
def test_an_override_changes_what_it_names(
    golf: Golf, override: str, key: str, value: object
) -> None:
    assert OmegaConf.select(composed(golf, override), key) == value


def test_every_group_lists_its_choices_in_the_help(golf: Golf) -> None:
    ran = golf("study", "--help")
    assert (ran.status, ran.err) == (0, "")
    for line in (
        "sampler: cmaes, gp, grid, nsga2, qmc, random, tpe, tpe_group",
        "pruner: hyperband, median, none, percentile, promote, successive_halving",
        "space: article, distil, search, wide",
        "storage: journal, memory, postgres, sqlite",
        "golf-opt study arch=c4-5-4 trials=50",
    ):
        assert line in ran.out


def test_info_names_the_sources_of_the_configuration(golf_process: Callable[..., Any]) -> None:
    """In a process of its own: Hydra's log would keep this test's stdout."""
    process = golf_process("study", "--info", "searchpath")
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert "arch://grammar" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "golf-opt VERB key=value ..."),
        (["--help"], "golf-opt VERB key=value ..."),
        (["--version"], f"golf-opt {__version__}"),
        (["dashboard", "--help"], "golf-opt dashboard key=value ..."),
        (["arch", "--help"], "golf-opt arch NAME..."),
    ],
)
def test_help_comes_first(golf: Golf, arguments: list[str], line: str) -> None:
    ran = golf(*arguments)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.splitlines()[0] == line


# --- golf-opt arch


def test_every_preset_is_counted(golf: Golf) -> None:
    names = [path.stem for path in (CONF_DIR / "arch").glob("*.yaml")]
    ran = golf("arch", *names)
    assert ran.out.count("total parameters") == len(names) >= 7
