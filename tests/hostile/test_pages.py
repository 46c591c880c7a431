"""The dashboard's pages over a study that nobody should believe; and who gets a connection."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
import pytest
import uvicorn
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import BaseStorage
from serving import WAIT_S, ask, served

from golf_opt.dashboard import connections
from golf_opt.dashboard.connections import Connection
from golf_opt.storage.optuna_internals import id_of_trial

PASSWORD = "a password of this test"
JSON = {"Content_Type": "application/json"}
PICTURE = "00000000-0000-0000-0000-00000000000a"
LINKED = "00000000-0000-0000-0000-00000000000b"
SPLIT = "00000000-0000-0000-0000-00000000000c"
CANARY = "what nobody is to read"
SAYS_NOTHING = ""


def database(folder: Path) -> Iterator[BaseStorage]:
    folder.joinpath("studies/artifacts").mkdir(parents=True)
    storage = optuna.storages.get_storage(f"sqlite:///{folder}/studies/golf.db")
    yield storage
    storage._backend.engine.dispose()


opened = contextlib.contextmanager(database)


def add_study(storage: BaseStorage, name: str) -> optuna.Study:
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    for value in (0.25, 0.75, 0.5):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.report(value, 1)
        study.tell(trial, value)
    return study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three trials, and another one."""
    folder = tmp_path_factory.mktemp("routes")
    with opened(folder) as storage:
        add_study(storage, "first")
        add_study(storage, "second")
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with served(folder, err=SAYS_NOTHING) as address:
        yield address


@contextlib.contextmanager
def editable(folder: Path, copied: Path) -> Iterator[str]:
    """Give the address of a dashboard that allows edits, over a copy."""
    shutil.copytree(folder / "studies", copied / "studies")
    with served(copied, "dashboard.write=true", err=SAYS_NOTHING) as address:
        yield address


@pytest.fixture(scope="module")
def writing(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with editable(folder, tmp_path_factory.mktemp("writing")) as address:
        yield address


def test_a_header_that_is_no_text_is_refused(url: str) -> None:
    assert ask(url, "/static/bundle.js", Accept_Encoding="\xbe\xbe").status == 400


def deep(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    "body",
    [
        "", "{", "[]", "1", '"text"', "null", "\udcff", '{"study_name": "\ud800"}', deep(10**5),
        '{"study_name": NaN, "directions": ["maximize"]}', f'{{"version": {"9" * 5000}}}',
        '{"study_name": {}, "directions": ["maximize"]}', '{"study_name": "a", "directions": 3}',
        '{"study_name": "", "directions": ["maximize"]}',
        '{"study_name": "a\\nb", "directions": ["maximize"]}',
        f'{{"study_name": "{"a" * 10_000}", "directions": ["maximize"]}}',
        '{"study_name": "a", "directions": [null]}', '{"version": 1, "body": [1, 2]}',
        '{"version": "1", "body": ""}', '{"version": 1e999, "body": ""}', '{"state": 3}',
        '{"state": "Complete", "values": 7}', '{"state": "Complete", "values": [1e999]}',
        '{"user_attrs": [1]}', '{"user_attrs": {"": 1}}', '{"user_attrs": {"a": 1e999}}',
        f'{{"user_attrs": {{"{"a" * 600}": 1}}}}', '{"file": 3}', '{"file": "no data"}',
        '{"file": "data:x", "filename": {}}', '{"mode": []}',
        '{"candidates": "x", "clicked": 1}', '{"output_type": {}}',
    ],
)  # fmt: skip
def test_a_body_that_no_route_takes_is_refused(writing: str, body: str) -> None:
    before = ask(writing, "/api/studies").body, ask(writing, "/api/studies/1").body
    data = body.encode("utf-8", "surrogatepass")
    for method, path in (
        ("POST", "/api/studies"),
        ("POST", "/api/studies/1/rename"),
        ("PUT", "/api/studies/1/note"),
        ("PUT", "/api/studies/1/1/note"),
        ("POST", "/api/studies/1/preference"),
        ("PUT", "/api/studies/1/preference_feedback_component"),
        ("POST", "/api/trials/1/tell"),
        ("POST", "/api/trials/1/user-attrs"),
        ("POST", "/api/studies/1/1/skip"),
        ("POST", "/api/artifacts/1/1"),
        ("POST", "/api/artifacts/1"),
        ("DELETE", "/api/studies/9"),
    ):
        answer = ask(writing, path, method, data, **JSON)
        assert answer.status in (400, 404, 409), (method, path, answer)
        assert "reason" in json.loads(answer.body)
    assert (ask(writing, "/api/studies").body, ask(writing, "/api/studies/1").body) == before


def test_a_finished_trial_cannot_be_told_again(writing: str) -> None:
    body = json.dumps({"state": "Complete", "values": [1.0]})
    assert ask(writing, "/api/trials/1/tell", "POST", body, **JSON).status == 400
    assert ask(writing, "/api/trials/99/tell", "POST", body, **JSON).status == 404


# --- what lies in the storage


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dashboard over a study whose every attribute is a trick, and a good one."""
    folder = tmp_path_factory.mktemp("hostile")
    secret = folder / "secret"
    secret.write_text(CANARY)
    with opened(folder) as storage:
        study = add_study(storage, "bad\r\nSet-Cookie: a=b\u2028")
        trial = id_of_trial(study.trials[0])
        mark = storage.set_study_system_attr
        rows = {
            PICTURE: {"filename": "a", "mimetype": "text/plain", "encoding": None},
            LINKED: {"filename": "link", "mimetype": "text/plain", "encoding": None},
            SPLIT: {"filename": "a\r\nb", "mimetype": "text/plain\r\nX-Evil: 1", "encoding": 3},
            "../../secret": {"filename": "x", "mimetype": "text/plain"},
        }
        for artifact, row in rows.items():
            value = json.dumps(row | {"artifact_id": artifact})
            mark(1, f"artifacts:{artifact}", value)
            mark(1, f"dashboard:artifacts:{trial}:{artifact}", value)
        for key, value in {
            "artifacts:aa": 5,
            "artifacts:bb": "[]",
            "artifacts:cc": json.dumps({"artifact_id": "../../secret", "filename": "x"}),
            f"dashboard:artifacts:{trial}:dd": "{",
            "dashboard:artifacts:99999999999999999999:aa": "null",
            "dashboard:note_ver": "one",
            "dashboard:note_str:7": "a part without the others",
            f"dashboard:{trial}:note_ver": 1,
            f"dashboard:{trial}:note_str:0": [1],
            f"dashboard:{trial + 1}:note_ver": 1,
            f"dashboard:{trial + 1}:note_str:7": "a part without the others",
            "dashboard:plot_data:x:3": "{}",
            "dashboard:form_widgets:v2": 7,
            "preference:is_preferential": False,
            "preference:values1": 3,
            "study:metric_names": 3,
        }.items():
            mark(1, key, value)
        storage.set_study_user_attr(1, "nan", float("nan"))
        more = optuna.trial.create_trial(
            value=0.875,
            system_attrs={"constraints": [float("nan")], "artifacts:ee": 3, "fixed_params": 4},
            user_attrs={"inf": float("inf"), "<b>": ["\u2028"]},
        )
        study.add_trial(more)
        add_study(storage, "good")
    artifacts = folder / "studies/artifacts"
    artifacts.joinpath(PICTURE).write_text("a picture")
    artifacts.joinpath(SPLIT).write_text("a picture")
    artifacts.joinpath(LINKED).symlink_to(secret)
    line = r"dashboard: trial 1 of study '[^\n]*' cannot be shown: [^\n]*\n"
    others = r"(golf-opt: [^\n]*\n)*"  # what the storage's gate leaves out
    with served(folder, "dashboard.write=true", err=f"{others}{line}{others}") as address:
        yield address
    assert secret.read_text() == CANARY


def strict(body: bytes) -> Any:
    """Read JSON as a browser does, which knows no NaN."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    return json.loads(body, parse_constant=refuse)


def test_a_bad_study_is_shown_with_all_its_trials(hostile: str) -> None:
    bad, good = strict(ask(hostile, "/api/studies").body)["study_summaries"]
    assert (bad["study_id"], good["study_name"]) == (1, "good")
    assert bad["study_name"].isprintable()
    study = strict(ask(hostile, "/api/studies/1").body)
    values = [trial.get("values") for trial in study["trials"]]
    assert values == [[0.25], [0.75], [0.5], [0.875]]
    assert [trial["state"] for trial in study["trials"]] == ["Complete"] * 4
    assert [trial["number"] for trial in study["best_trials"]] == [3]
    assert [trial["artifacts"] for trial in study["trials"][1:]] == [[], [], []]
    assert [row["artifact_id"] for row in study["artifacts"]] == [PICTURE, LINKED]
    assert [row["filename"].isprintable() for row in study["artifacts"]] == [True, True]
    assert study["note"] == {"version": 0, "body": ""}
    assert len(strict(ask(hostile, "/api/studies/2").body)["trials"]) == 3


def test_its_files_are_what_the_folder_holds_and_no_link_out_of_it(hostile: str) -> None:
    for path in (f"/artifacts/1/{PICTURE}", f"/artifacts/1/1/{PICTURE}"):
        answer = ask(hostile, path)
        assert (answer.status, answer.body) == (200, b"a picture")
        assert answer.headers["X-Evil"] is None
    for path in (f"/artifacts/1/{LINKED}", f"/artifacts/1/1/{LINKED}", f"/artifacts/1/{SPLIT}"):
        answer = ask(hostile, path)
        assert answer.status == 404
        assert CANARY.encode() not in answer.body


def test_its_table_can_be_loaded_whatever_its_name(hostile: str) -> None:
    answer = ask(hostile, "/csv/1")
    assert answer.status == 200
    assert answer.headers["Set-Cookie"] is None
    assert len(answer.body.splitlines()) == 5


BEGINNINGS = [  # of requests; the second and the third are answered before their bodies are there
    "",
    "POST /api/studies HTTP/1.1\nHost: localhost\nOrigin: http://a\nTransfer-Encoding: chunked\n\n",
    "POST /api/studies HTTP/1.1\nHost: localhost\nOrigin: http://a\nContent-Length: 9\n\n",
    "POST /api/studies HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n\n",
    "GET /api/studies HTTP/1.1\nHost: localhost\n\nGET ",
]


@fuzz(examples=100)
@given(st.sampled_from(BEGINNINGS), st.binary(max_size=400))
def test_no_bytes_at_all_are_a_fault_of_the_server(fuzzed: str, begin: str, data: bytes) -> None:
    status = send(fuzzed, begin.replace("\n", "\r\n").encode() + data)
    assert status is None or status < 500
    assert ask(fuzzed, "/healthz").status == 200


@pytest.fixture(scope="module")
def fuzzed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with editable(folder, tmp_path_factory.mktemp("fuzzed")) as address:
        yield address


def send(url: str, data: bytes) -> int | None:
    """Send bytes, and return the status; None where the server has no answer to that."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=WAIT_S) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        answer = HTTPResponse(client)
        with contextlib.suppress(HTTPException, OSError):
            answer.begin()
            return answer.status
    return None


def test_clients_that_do_not_read_hold_no_thread(url: str) -> None:
    """More of them than there are threads, each of a file that no buffer takes."""
    place = urlsplit(url)
    with contextlib.ExitStack() as slow:
        for number in range(24):
            client = slow.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((place.hostname, place.port))
            part = b"Range: bytes=0-\r\n" if number % 2 else b""
            begin = b"GET /static/bundle.js HTTP/1.1\r\nHost: localhost\r\n"
            client.sendall(begin + part + b"\r\n")
            assert client.recv(8) == b"HTTP/1.1"
        assert len(ask(url, "/api/studies/1").body) > 1000


@contextlib.contextmanager
def connected(app: Any, most: int) -> Iterator[Callable[[str, str], socket.socket]]:
    """Serve an application in this process; give what connects from an address and sends."""
    listener = socket.create_server(("127.0.0.1", 0))
    kind = functools.partial(Connection, most=most, proxy=None)
    config = uvicorn.Config(
        app, http=kind, ws="none", lifespan="off", log_config=None, log_level="error"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    with contextlib.ExitStack() as clients:

        def connect(source: str, text: str) -> socket.socket:
            place = listener.getsockname()
            client = socket.create_connection(place, WAIT_S, source_address=(source, 0))
            clients.enter_context(client)
            client.sendall(text.replace("\n", "\r\n").encode())
            return client

        try:
            yield connect
        finally:
            server.should_exit = True
    thread.join(WAIT_S)


EMPTY = [(b"content-length", b"0")]


async def hello(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": EMPTY})
    await send({"type": "http.response.body", "body": b""})


GET = "GET / HTTP/1.1\nHost: a\n\n"
PARTS = ("GET / HTTP/1.1\nHost: a\nX: ", "POST / HTTP/1.1\nHost: a\nContent-Length: 9999\n\na")


def test_the_time_begins_with_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_S", 0.3)
    with connected(hello, most=9) as connect:
        client = connect("127.0.0.1", GET)
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        time.sleep(0.6)
        client.sendall(GET.replace("\n", "\r\n").encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_who_comes_last_gets_the_connection_that_waits_longest_of_who_has_most() -> None:
    with connected(hello, most=4) as connect:
        slow = [connect("127.0.0.1", PARTS[number % 2]) for number in range(3)]
        other = connect("127.0.0.3", PARTS[0])
        late = connect("127.0.0.2", GET)
        assert late.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert closed(slow[0])
        late_too = connect("127.0.0.1", GET)
        assert late_too.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert closed(slow[1])
        for client in (slow[2], other, late):
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)


def test_where_all_are_being_answered_the_newest_of_who_has_most_has_to_go() -> None:
    answer = threading.Event()

    async def busy(scope: Any, receive: Any, send: Any) -> None:
        if scope["client"][0] == "127.0.0.1":
            while not answer.is_set():
                await asyncio.sleep(0.01)
        await hello(scope, receive, send)

    with connected(busy, most=3) as connect:
        first = [connect("127.0.0.1", GET) for _ in range(3)]
        time.sleep(0.3)  # until they are under way
        assert closed(connect("127.0.0.1", GET))
        assert connect("127.0.0.2", GET).recv(1000).startswith(b"HTTP/1.1 200 ")
        answer.set()
        assert closed(first[2])
        for client in first[:2]:
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


def closed(client: socket.socket) -> bool:
    try:
        return client.recv(1000) == b""
    except ConnectionError:
        return True
