"""The dashboard: no request breaks it, nobody slow keeps others waiting, nothing shown is old."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from conftest import Ran, told
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from serving import address_of, ask, end, served, start, text, wait_for

Golf = Callable[..., Ran]
Begun = Callable[..., None]
QUICK = (
    "study", "data=digits", "engine=torch", "epochs=1", "space.batch_size=32", "pruner=none",
)  # fmt: skip
TRIALS = 3


@pytest.fixture(scope="module")
def folder(studies_of: Callable[..., Path]) -> Path:
    return studies_of(*QUICK, f"trials={TRIALS}", "study.name=s")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """A dashboard that says nothing on stderr until it ends."""
    with served(folder, err="") as address:
        yield address


@pytest.fixture(scope="module")
def writable(folder: Path) -> Iterator[str]:
    with served(folder, "dashboard.write=true", err="") as address:
        yield address


# --- what it is told


@pytest.mark.parametrize(
    "option",
    [
        "trusted_proxy=foo", "trusted_proxy='*'", "trusted_proxy=999.1.1.1", "trusted_proxy=''",
        "trusted_proxy=0.0.0.0/0", "trusted_proxy=8.8.0.0/16", "trusted_proxy='10.0.0.1,*'",
        "host=''", "host='a b'", "host=-x", "host='a..b'", f"host={'x' * 300}",
    ],
)  # fmt: skip
def test_a_wrong_address_is_refused(golf: Golf, option: str) -> None:
    key = option.partition("=")[0]
    assert f"dashboard.{key} is " in told(golf("dashboard", f"dashboard.{option}"))


# --- what it is asked


@pytest.mark.parametrize(
    ("path", "statuses"),
    [
        (f"/csv/{'9' * 21}", {404}),
        ("/csv/-1", {404}),
        (f"/artifacts/{'9' * 20}/1/0", {404}),
        ("/artifacts/-1/-1/aa", {404}),
        ("/artifacts/1/1/aa", {404}),
        (f"/artifacts/1/1/{'a' * 5000}", {404, 414}),
        ("/api/studies/1?after=abc", {400}),
        ("/api/studies/1?after=-1", {400}),
        (f"/api/studies/1?after={'9' * 30}", {400}),
        ("/api/studies/1?after=1&after=x", {200, 400}),
        (f"/api/studies/{'9' * 30}", {404}),
        ("/api/studies/2147483648", {404}),
        ("/api/studies/99", {404}),
        ("/api/studies/99/param_importances", {404}),
        ("/api/studies/1/plot/contour", {200, 404}),
        ("/api/studies/1/plot/none", {404}),
        ("/api/studies/99/plot/slice", {404}),
        ("/static/%00", {400, 404}),
        ("/static/" + "a" * 300, {404}),
        ("/dashboard/%E2%80%A8", {200}),
        ("/%ff%fe", {400, 404}),
    ],
)
def test_an_odd_path_has_a_clean_answer(url: str, path: str, statuses: set[int]) -> None:
    assert ask(url, path).status in statuses


BODIES = ["", "{", "[]", "3", "null", '"text"', '{"a":' * 3000, "\xff", '{"study_name": 1}']
ROUTES = [
    ("POST", "/api/studies"), ("POST", "/api/studies/1/rename"), ("DELETE", "/api/studies/99"),
    ("PUT", "/api/studies/1/note"), ("PUT", "/api/studies/1/1/note"),
    ("POST", "/api/studies/1/preference"), ("POST", "/api/trials/1/tell"),
    ("POST", "/api/trials/1/user-attrs"), ("POST", "/api/artifacts/1/1"),
    ("POST", "/api/artifacts/1"), ("PUT", "/api/studies/1/preference_feedback_component"),
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=repr)
def test_a_malformed_body_is_refused(writable: str, body: str) -> None:
    for method, path in ROUTES:
        answer = ask(writable, path, method, body, Content_Type="application/json")
        assert 400 <= answer.status < 500 or (answer.status == 204 and body == "{}"), (path, body)
    assert len(json.loads(ask(writable, "/api/studies/1").body)["trials"]) == TRIALS


def test_a_login_leads_nowhere_by_a_line_separator(folder: Path) -> None:
    password = "a password of this test"
    with served(folder, err="(wrong.*)?", GOLF_DASHBOARD_PASSWORD=password) as url:
        for target in ("/x\u2028y", "/x\u0085y", "/x\ty", "//evil", "/\\evil"):
            form = f"password={quote(password)}&next={quote(target)}"
            kind = {"Content_Type": "application/x-www-form-urlencoded"}
            answer = ask(url, "/login", "POST", form, **kind)
            assert (answer.status, answer.headers["Location"]) == (303, "/")


def test_the_kind_of_a_file_is_no_header(begun: Begun, tmp_path: Path) -> None:
    """One that would end its header, as a database of somebody else's may have it."""
    begun(*QUICK, "trials=1", "study.name=first")
    id_ = "00000000-0000-4000-8000-000000000001"
    (tmp_path / "studies" / "artifacts").mkdir(exist_ok=True)
    (tmp_path / "studies" / "artifacts" / id_).write_text("<b>")
    row = {"artifact_id": id_, "filename": "a", "mimetype": "text/html\r\nX-A: b", "encoding": None}
    statement = "INSERT INTO trial_system_attributes VALUES (NULL, 1, ?, ?)"
    with contextlib.closing(sqlite3.connect(tmp_path / "studies/golf.db")) as database:
        database.execute(statement, (f"artifacts:{id_}", json.dumps(json.dumps(row))))
        database.commit()
    with served(tmp_path) as url:
        answer = ask(url, f"/artifacts/1/1/{id_}")
        assert answer.status in (200, 404) and "X-A" not in answer.headers
        assert ask(url, "/api/studies/1").status == 200


# --- who is slow


def test_a_thousand_slow_connections_of_one_address_keep_no_other_waiting(folder: Path) -> None:
    process = start(folder, "dashboard.port=0")
    sockets: list[socket.socket] = []
    try:
        url = address_of(process)
        sockets += (slow_client(url, "127.0.0.2") for _ in range(1000))
        for turn in range(5):
            for one in sockets:
                with contextlib.suppress(OSError):
                    one.send(b"X")
            began = time.monotonic()
            answer = ask(url, "/api/studies/1")  # from 127.0.0.1
            assert answer.status == 200 and len(json.loads(answer.body)["trials"]) == TRIALS
            took = time.monotonic() - began
            assert took < 60, turn
            print(f"answered another address in {took:.3f} s beside 1,000 slow connections")
    finally:
        for one in sockets:
            one.close()
        end(process)


def slow_client(url: str, source: str) -> socket.socket:
    """Begin a request from an address, and leave it at that."""
    place, one = urlsplit(url), socket.socket()
    one.bind((source, 0))
    one.settimeout(5)
    with contextlib.suppress(OSError):  # its share is used up
        one.connect((place.hostname, place.port))
        one.send(b"GET / HTTP/1.1\r\n")
    return one


@contextlib.contextmanager
def served_with(folder: Path, constant: str, *arguments: str) -> Iterator[str]:
    """Give the address of a dashboard of which a constant of connections.py is another."""
    options = ["golf-opt", "dashboard", "dashboard.port=0", *arguments]
    code = (
        f"import sys; from golf_opt.dashboard import connections; connections.{constant};"
        f"sys.argv = {options}; from golf_opt.cli.main import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        yield address_of(process)
    finally:
        end(process)


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_the_proxy_has_no_share(folder: Path) -> None:
    proxy = "dashboard.trusted_proxy=127.0.0.3"
    with served_with(folder, "MOST_CONNECTIONS = 20", proxy) as url:
        forwarded = [slow_client(url, "127.0.0.3") for _ in range(15)]
        greedy = [slow_client(url, "127.0.0.2") for _ in range(10)]
        wait_for(lambda: sum(map(is_open, greedy)) == 5)
        assert ask(url, "/api/studies").status == 200  # in place of one of these
        wait_for(lambda: sum(map(is_open, greedy)) == 4)
        assert all(map(is_open, forwarded))
        for client in forwarded + greedy:
            client.close()


def test_a_request_has_a_time_as_a_whole(folder: Path) -> None:
    """A byte now and then is not silence, and yet no request."""
    with served_with(folder, "REQUEST_S = 2") as url:
        place = urlsplit(url)
        with socket.create_connection((place.hostname, place.port), timeout=60) as slow:
            slow.send(b"GET / HTTP/1.1\r\nX: ")
            slow.settimeout(0.2)
            answer = b""
            until = time.monotonic() + 60
            while time.monotonic() < until and b"\r\n" not in answer:
                with contextlib.suppress(TimeoutError):
                    answer += slow.recv(1000)
                with contextlib.suppress(OSError):
                    slow.send(b"x")
        assert answer.startswith(b"HTTP/1.1 408 ")


# --- nothing is old


def detail(url: str, number: int = 1) -> Any:
    return json.loads(ask(url, f"/api/studies/{number}").body)


def best_value(url: str, number: int) -> float:
    return float(max(value for trial in detail(url, number)["trials"] for value in trial["values"]))


def sizes(url: str) -> str:
    """The figure of parameters against accuracy, as study 1 has it."""
    figures = {row["id"]: row["graph_object"] for row in detail(url)["plotly_graph_objects"]}
    return str(figures["parameters-and-accuracy"])


def test_what_another_process_writes_is_shown(tmp_path: Path, golf: Golf, begun: Begun) -> None:
    begun(*QUICK, "trials=1", "study.name=first")
    other = (*QUICK, "study.name=other", "arch=c5-5-4", "seed=2")
    assert golf(*other, "trials=1").status == 0
    with served(tmp_path, err="") as url:
        before, first = sizes(url), best_value(url, 2)
        assert "other" in before
        assert golf(*other, "trials=4").status == 0
        assert best_value(url, 2) > first
        wait_for(lambda: sizes(url) != before)  # nothing else has changed
        assert golf(*QUICK, "trials=1", "study.name=third", "arch=c2-2").status == 0
        wait_for(lambda: "third" in sizes(url))

        known = {row["filename"] for row in detail(url)["trials"][0]["artifacts"]}
        assert golf("interpret", "study=first", "steps=2").status == 0
        added = wait_for(
            lambda: {row["filename"] for row in detail(url)["trials"][0]["artifacts"]} - known
        )
        assert any(name.endswith(".html") for name in added)


def test_images_that_come_later_bring_their_pictures(
    tmp_path: Path, golf: Golf, mnist_root: Path
) -> None:
    run = ("data=mnist", f"data.root={mnist_root}", "arch=c2-2", "space.batch_size=1000")
    assert golf(*QUICK, *run, "trials=1", "study.name=s").status == 0

    def shown() -> tuple[set[str], str]:
        """The trial's pictures, and what tells an open page to ask for it again."""
        answer = ask(url, "/api/studies/1")
        (trial,) = json.loads(answer.body)["trials"]
        return {row["filename"] for row in trial["artifacts"]}, answer.headers["Golf-Ended"]

    with served(tmp_path, f"data.root={tmp_path / 'later'}", err="") as url:
        (trial,) = detail(url)["trials"]
        offered, first = shown()
        assert "confusion.svg" in offered
        ids = {row["filename"]: row["artifact_id"] for row in trial["artifacts"]}
        picture = f"/artifacts/1/{trial['trial_id']}/{ids['confusion.svg']}"
        assert ask(url, picture).status == 404
        offered, without = shown()
        assert "confusion.svg" not in offered and without != first
        (tmp_path / "later").symlink_to(mnist_root)
        offered, with_them = wait_for(lambda: "confusion.svg" in shown()[0] and shown())
        assert with_them != without and ask(url, picture).status == 200


@pytest.mark.browser
def test_an_open_page_grows_old_by_seconds_alone(
    tmp_path: Path, golf: Golf, begun: Begun, browser: Any
) -> None:
    begun(*QUICK, "trials=1", "study.name=first")
    with served(tmp_path, err="") as url:
        browser.get(f"{url}dashboard/studies/1/trials?numbers=0")
        wait_for(lambda: "learning-curve.svg" in browser.page_source)
        assert ".html" not in browser.page_source.split("artifact")[-1]
        browser.execute_script("document.body.append(document.createElement('textarea'))")
        browser.execute_script("document.querySelector('body > textarea').focus()")
        assert golf("interpret", "study=first", "steps=2").status == 0
        asked = polls(browser)
        wait_for(lambda: polls(browser) > asked + 2)
        browser.execute_script("document.querySelector('body > textarea').blur()")  # still there
        wait_for(lambda: re.search(r"[\w-]+\.html", text(browser)))  # nobody reloads
        browser.get(f"{url}dashboard")
        wait_for(lambda: "first" in text(browser))
        assert golf(*QUICK, "trials=1", "study.name=second").status == 0
        wait_for(lambda: "second" in text(browser))


def polls(browser: Any) -> int:
    """How often the page has asked for the study since it was loaded."""
    entries = "performance.getEntriesByType('resource')"
    return int(browser.execute_script(
        f"return {entries}.filter(e => e.name.includes('/api/studies/1')).length"
    ))  # fmt: skip


@pytest.mark.browser
def test_a_read_only_page_offers_no_edit(url: str, writable: str, browser: Any) -> None:
    def offered(address: str, path: str, ready: str) -> list[str]:
        browser.get(f"{address}{path}")
        wait_for(lambda: ready in text(browser))
        found = browser.find_elements(
            "css selector",
            '[data-testid="AddBoxIcon"], [data-testid="EditIcon"], [aria-label="delete study"], '
            '[aria-label="rename study"], input[type="file"]',
        )
        shown = [e for e in found if e.is_displayed() or e.get_attribute("type") == "file"]
        return [
            element.get_attribute("data-testid") or element.get_attribute("type") or "label"
            for element in shown
            if browser.execute_script("return arguments[0].closest('[style*=none]') === null && "
                                      "arguments[0].getClientRects().length + "
                                      "(arguments[0].parentElement?.getClientRects().length ?? 0)"
                                      " > 0", element)
        ]  # fmt: skip

    pages = [("dashboard", "s"), ("dashboard/studies/1/trials?numbers=0", "learning-curve.svg")]
    for path, ready in pages:
        assert offered(writable, path, ready), path
        assert offered(url, path, ready) == [], path


# --- made up

SEGMENT = st.one_of(
    st.text(max_size=12).map(lambda s: quote(s, safe="")),
    st.integers(-(10**25), 10**25).map(str),
    st.sampled_from(
        ["api", "studies", "csv", "artifacts", "plot", "contour", "1", "static", "dashboard", "..",
         "param_importances", "login", "healthz", "meta", "favicon.ico", "%00", "%2e%2e", "note"]
    ),
)  # fmt: skip
HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30)


@fuzz(examples=80)
@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
    st.lists(SEGMENT, max_size=5),
    st.dictionaries(st.sampled_from(["after", "next", "x"]), st.text(max_size=9), max_size=2),
    st.one_of(st.none(), st.binary(max_size=60), st.sampled_from([b.encode() for b in BODIES])),
    st.dictionaries(st.sampled_from(["Accept", "Cookie", "Origin", "Range", "Authorization",
                                     "Content-Type", "X-Forwarded-For"]), HEADER, max_size=3),
    st.booleans(),
)  # fmt: skip
def test_whatever_it_is_asked_it_goes_on(
    url: str,
    writable: str,
    method: str,
    segments: list[str],
    query: dict[str, str],
    body: bytes | None,
    headers: dict[str, str],
    write: bool,
) -> None:
    address = writable if write and method not in ("DELETE",) else url
    path = "/" + "/".join(segments)
    if query:
        path += "?" + "&".join(f"{key}={quote(value)}" for key, value in query.items())
    with contextlib.suppress(HTTPException, ConnectionError, UnicodeError):
        answer = ask(address, path, method, body, **headers)
        assert answer.status < 500, (method, path, answer)
    assert ask(address, "/healthz").status == 200
