"""The dashboard in a real browser, over a study that the command line made."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree

import optuna
import optuna_dashboard
import pytest
from conftest import Ran, golf_in, told
from serving import WAIT_S, Answer, ask, end, served, start, text, wait_for

from golf_opt.dashboard.guard import READ_RULES
from golf_opt.storage.optuna_internals import save_note

Golf = Callable[..., Ran]
NAME = "seen"
STUDY = (
    "study", "data=digits", "engine=torch", "trials=3", "epochs=2", "space.batch_size=32",
    f"study.name={NAME}",
)  # fmt: skip
PASSWORD = "a password of this test"
FIGURES = {"learning-curves", "accuracy-by-parameter", "parameters-and-accuracy", "lanes-over-time"}
FIGURE = "user-defined-plot:{}"  # its id in the page
PICTURES = ["learning-curve.svg", "log.txt", "confusion.svg", "mistakes.svg", "weights.svg"]


@pytest.fixture(scope="module")
def folder(studies_of: Callable[..., Path]) -> Path:
    """A working directory with a study of three trials, two epochs each."""
    return studies_of(*STUDY)


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """The address that a running dashboard printed."""
    with served(folder) as address:
        yield address


@pytest.fixture(scope="module")
def locked(folder: Path) -> Iterator[str]:
    """The address of a dashboard with a password, of which another process knows the proxy."""
    with served(folder, "dashboard.trusted_proxy=127.0.0.1", GOLF_DASHBOARD_PASSWORD=PASSWORD) as a:
        yield a


def wait(browser: Any, condition: Callable[[Any], Any]) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, WAIT_S).until(condition)


def points(browser: Any, plot: str) -> list[list[float]]:
    """Return the y values of every trace that Plotly drew in the element of this id."""
    script = "return (document.getElementById(arguments[0])?.data ?? []).map(t => [...t.y])"
    return browser.execute_script(script, plot)


def get(url: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=WAIT_S) as answer:
        return json.load(answer)


def log_in(url: str, password: str, **headers: str) -> Answer:
    kind = "application/x-www-form-urlencoded"
    form = urlencode({"password": password, "next": "/dashboard/studies/1"})
    return ask(url, "/login", "POST", form, Content_Type=kind, **headers)


def artifact_paths(url: str, number: int) -> dict[str, str]:
    trial = get(f"{url}api/studies/1")["trials"][number]
    return {
        row["filename"]: f"/artifacts/1/{trial['trial_id']}/{row['artifact_id']}"
        for row in trial["artifacts"]
    }


def test_the_api_has_the_study_its_trials_and_its_note(url: str) -> None:
    (summary,) = get(f"{url}api/studies")["study_summaries"]
    assert (summary["study_name"], summary["directions"]) == (NAME, ["maximize"])
    study = get(f"{url}api/studies/{summary['study_id']}")
    assert study["objective_names"] == ["test accuracy"]
    assert study["has_intermediate_values"]
    assert "# c4-5-4: 807 parameters" in study["note"]["body"]
    assert len(study["trials"]) == 3
    for trial in study["trials"]:
        steps = trial["intermediate_values"]
        assert [step["step"] for step in steps] == [1, 2]
        assert trial["values"] == [steps[1]["value"]]
        assert [artifact["filename"] for artifact in trial["artifacts"]] == PICTURES
    assert {figure["id"] for figure in study["plotly_graph_objects"]} == FIGURES
    (best,) = study["best_trials"]
    assert best["artifacts"] == study["trials"][best["number"]]["artifacts"]


def test_a_part_of_the_trials_is_what_the_page_asks_for_when_it_has_the_others(url: str) -> None:
    whole = get(f"{url}api/studies/1")["trials"]
    assert get(f"{url}api/studies/1?after=2")["trials"] == whole[2:]
    assert get(f"{url}api/studies/1?after=99")["trials"] == []
    assert ask(url, "/api/studies/1?after=-1").status == 400
    assert ask(url, "/api/studies/7").status == 404


def test_pictures_are_drawn_when_asked_for(url: str) -> None:
    """Every kind is an answer of its type; nothing of them was written."""
    for filename, path in artifact_paths(url, 0).items():
        answer = ask(url, path)
        assert answer.status == 200
        if filename == "log.txt":
            assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert b"epoch  accuracy" in answer.body
        else:
            assert answer.headers["Content-Type"].startswith("image/svg+xml")
            assert ElementTree.fromstring(answer.body).tag.endswith("svg")
            assert len(answer.body) > 3000
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in answer.headers
    other = path.replace("/artifacts/1/1/", "/artifacts/1/2/")
    assert ask(url, other).status == 404


@pytest.mark.browser
def test_the_study_is_listed(browser: Any, url: str) -> None:
    browser.get(url)
    wait(browser, lambda browser: NAME in text(browser))
    links = browser.execute_script("return [...document.links].map(link => link.href)")
    assert f"{url}dashboard/studies/1" in links


@pytest.mark.browser
def test_the_study_page_plots_history_and_intermediate_values(browser: Any, url: str) -> None:
    trials = get(f"{url}api/studies/1")["trials"]
    browser.get(f"{url}dashboard/studies/1")
    history = wait(browser, lambda browser: points(browser, "plot-history"))
    assert [trial["values"][0] for trial in trials] in history
    for key in FIGURES:
        assert wait(browser, lambda browser, key=key: points(browser, FIGURE.format(key))), key
    assert "Learning curves of 3 trials" in text(browser)
    curves = wait(browser, lambda browser: points(browser, "graph-intermediate-values"))
    assert curves == [[step["value"] for step in trial["intermediate_values"]] for trial in trials]
    width = "return document.querySelector('#plot-history svg').getBoundingClientRect().width"
    assert browser.execute_script(width) > 300
    assert "Best Trial (number=" in text(browser)


@pytest.mark.browser
def test_the_note_says_what_the_study_is(browser: Any, url: str) -> None:
    browser.get(f"{url}dashboard/studies/1/note")
    headings = "return [...document.querySelectorAll('h1')].map(heading => heading.innerText)"
    shown = wait(browser, lambda browser: browser.execute_script(headings))
    assert "c4-5-4: 807 parameters" in shown
    page = text(browser)
    assert f"golf-opt {' '.join(STUDY)}" in page
    assert "digits (1,438 training images)" in page
    assert "3 complete of 3" in page
    assert re.search(r"Best so far: \d\d\.\d\d %", page)


@pytest.mark.browser
def test_the_trial_page_shows_its_steps_and_its_learning_curve(browser: Any, url: str) -> None:
    trial = get(f"{url}api/studies/1")["trials"][0]
    browser.get(f"{url}dashboard/studies/1/trials?numbers=0")

    def pictures(browser: Any) -> list[tuple[str, int, int]]:
        """Address, width and height of each, when there are four and all are loaded."""
        sizes = "image => [image.src, image.naturalWidth, image.naturalHeight]"
        found = browser.execute_script(f"return [...document.images].map({sizes})")
        return found if len(found) == 4 and all(width for _, width, _ in found) else []

    for address, width, height in wait(browser, pictures):
        assert "/artifacts/1/1/" in address and width > 300 and height > 100
    page = text(browser)
    assert "Intermediate Values" in page
    for step in trial["intermediate_values"]:
        assert f"{step['step']} {step['value']}" in page
    assert "num_params 807" in page


def test_sigterm_ends_the_server_with_status_0(tmp_path: Path) -> None:
    """It listens on this machine alone, also where there is no study yet."""
    process = start(tmp_path, "dashboard.port=0")
    try:
        address = re.search(r"http://(.+):(\d+)/", process.stdout.readline())
        assert address[1] == "127.0.0.1"
        assert get(f"{address[0]}api/studies") == {"study_summaries": []}
        assert not answers("127.0.0.2", int(address[2]))
        assert answers("127.0.0.1", int(address[2]))
    finally:
        out, err = end(process)
    assert (process.returncode, out, err) == (0, "", "")


def test_sigterm_at_once_after_the_address_is_told_ends_it_too(tmp_path: Path) -> None:
    process = start(tmp_path, "dashboard.port=0")
    process.stdout.readline()
    assert end(process) == ("", "")
    assert process.returncode == 0


def answers(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((host, port)) == 0


def test_a_taken_port_is_named(golf: Golf, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = told(golf("dashboard", f"dashboard.port={port}"))
    assert said.startswith(f"dashboard cannot listen on 127.0.0.1:{port}: ")
    assert said.endswith("choose another with dashboard.port=N.")
    assert list(tmp_path.rglob("*")) == []


def test_an_unknown_host_is_named(golf: Golf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLF_DASHBOARD_PASSWORD", PASSWORD)
    said = told(golf("dashboard", "dashboard.port=0", "dashboard.host=no-such-host.invalid"))
    assert said.startswith("dashboard cannot listen on no-such-host.invalid:0: ")


@pytest.mark.browser
def test_values_grow_in_an_open_page_while_a_study_runs(browser: Any, tmp_path: Path) -> None:
    command = ("study", "data=digits", "engine=torch", "trials=400", "epochs=40", "engine.lanes=2")
    study = subprocess.Popen(
        [sys.executable, "-m", "golf_opt", *command, "space.batch_size=32", "pruner=none"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: (tmp_path / "studies/golf.db").is_file())
        with served(tmp_path) as url:
            wait_for(lambda: get(f"{url}api/studies")["study_summaries"])
            browser.get(f"{url}dashboard/studies/1")
            browser.execute_script("window.notReloaded = true")

            def drawn(key: str) -> int:
                return sum(len(line) for line in points(browser, key))

            first = wait(browser, lambda _: drawn("graph-intermediate-values"))
            curves = wait(browser, lambda _: drawn(FIGURE.format("learning-curves")))
            wait(browser, lambda _: drawn("graph-intermediate-values") > first)
            wait(browser, lambda _: drawn(FIGURE.format("learning-curves")) > curves)
            assert browser.execute_script("return window.notReloaded") is True
    finally:
        study.terminate()
        study.wait(WAIT_S)


# --- who may come in


def test_without_the_password_nothing_is_told(locked: str, url: str) -> None:
    picture = artifact_paths(url, 0)["confusion.svg"]
    for path in ("/", "/dashboard", "/api/studies", "/api/studies/1", "/csv/1", picture,
                 "/static/bundle.js", "/api/meta", "/favicon.ico", "/nothing"):  # fmt: skip
        answer = ask(locked, path)
        assert answer.status == 401, path
        assert json.loads(answer.body) == {"reason": "log in"}
        page = ask(locked, path, Accept="text/html")
        assert (page.status, page.headers["Location"][:13]) == (303, "/login?next=/")
    assert ask(locked, "/healthz").status == 200


def test_the_password_opens_a_session_that_can_be_ended(locked: str) -> None:
    answer = log_in(locked, PASSWORD)
    assert (answer.status, answer.headers["Location"]) == (303, "/dashboard/studies/1")
    cookie = answer.headers["Set-Cookie"]
    assert {"httponly", "samesite=strict", "path=/"} <= set(cookie.lower().split("; "))
    session = cookie.split(";")[0]
    assert ask(locked, "/api/studies", Cookie=session).status == 200
    assert ask(locked, "/api/studies", Cookie=session + "x").status == 401
    assert ask(locked, "/logout", "POST", Cookie=session).status == 303
    assert ask(locked, "/api/studies", Cookie=session).status == 401


def test_a_program_gives_the_password_as_a_token(locked: str) -> None:
    assert ask(locked, "/api/studies", Authorization=f"Bearer {PASSWORD}").status == 200
    wrong = {"X_Forwarded_For": "192.0.2.1"}
    assert ask(locked, "/api/studies", Authorization="Bearer no", **wrong).status == 401


def test_behind_a_proxy_with_https_the_cookie_is_secure(locked: str) -> None:
    answer = log_in(
        locked, PASSWORD, X_Forwarded_Proto="https", X_Forwarded_Host="golf.example.org",
        Origin="https://golf.example.org",
    )  # fmt: skip
    assert answer.status == 303
    assert re.match(r"__Host-golf=\S+; .*; Secure$", answer.headers["Set-Cookie"])


def test_five_wrong_guesses_lock_an_address_and_no_other(locked: str) -> None:
    """The address is the proxy's word here, because the proxy is trusted."""
    guesses = [log_in(locked, "guess", X_Forwarded_For="192.0.2.7").status for _ in range(6)]
    assert guesses == [401] * 5 + [429]
    assert log_in(locked, PASSWORD, X_Forwarded_For="192.0.2.7").status == 429
    token = {"Authorization": f"Bearer {PASSWORD}", "X_Forwarded_For": "192.0.2.7"}
    assert ask(locked, "/api/studies", **token).status == 429
    assert log_in(locked, PASSWORD, X_Forwarded_For="192.0.2.8").status == 303


def test_a_login_from_another_site_is_refused(locked: str) -> None:
    assert log_in(locked, PASSWORD, Origin="http://evil.example").status == 403
    assert log_in(locked, PASSWORD, Origin="null").status == 403
    assert log_in(locked, PASSWORD, Sec_Fetch_Site="cross-site").status == 403


@pytest.mark.parametrize("target", ["//evil.example/", "/\\evil.example", "https://evil.example/"])
def test_a_login_leads_to_this_site_alone(locked: str, target: str) -> None:
    form = urlencode({"password": PASSWORD, "next": target})
    answer = ask(locked, "/login", "POST", form)
    assert (answer.status, answer.headers["Location"]) == (303, "/")


@pytest.mark.browser
def test_logging_in_with_a_browser(browser: Any, locked: str) -> None:
    browser.delete_all_cookies()
    browser.get(f"{locked}dashboard/studies/1")
    field = wait(browser, lambda browser: browser.find_element("id", "password"))
    assert NAME not in text(browser)
    field.send_keys("not the password")
    field.submit()
    wait(browser, lambda browser: "That is not the password." in text(browser))
    browser.find_element("id", "password").send_keys(PASSWORD)
    browser.find_element("id", "password").submit()
    wait(browser, lambda browser: NAME in text(browser))
    assert wait(browser, lambda browser: points(browser, "plot-history"))
    assert browser.current_url == f"{locked}dashboard/studies/1"
    assert browser.execute_script("return document.cookie") == ""
    browser.delete_all_cookies()


def test_an_address_that_others_reach_needs_a_password(golf: Golf, tmp_path: Path) -> None:
    said = told(golf("dashboard", "dashboard.port=0", "dashboard.host=0.0.0.0"))
    assert "others can reach" in said and "GOLF_DASHBOARD_PASSWORD" in said
    assert list(tmp_path.rglob("*")) == []


def test_a_short_password_and_a_file_that_others_read_are_refused(
    golf: Golf, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("too short\n")
    file.chmod(0o600)
    command = ("dashboard", "dashboard.port=0", f"dashboard.password_file={file}")
    said = told(golf(*command))
    assert "at least 12" in said and "too short" not in said
    file.write_text(PASSWORD)
    file.chmod(0o644)
    assert f"chmod 600 {file}" in told(golf(*command))


def test_without_a_password_only_local_names_are_answered(url: str) -> None:
    """So that a site cannot point its own name at this machine and read the studies."""
    port = urlsplit(url).port
    assert ask(url, "/api/studies", Host=f"localhost:{port}").status == 200
    assert ask(url, "/api/studies", Host=f"evil.example:{port}").status == 403
    assert ask(url, "/api/studies", Host="").status == 403


# --- what they may do


def requests_of_every_rule() -> list[tuple[str, str, str]]:
    """Method, rule and a path for each route of optuna-dashboard's own table."""
    app = optuna_dashboard.wsgi(optuna.storages.InMemoryStorage())
    fill = {"int": "1", "path": "bundle.js", "": "slice"}

    def path(rule: str) -> str:
        rule = re.sub(r"<:re:.*?>(?=$|/)", "", rule)
        rule = re.sub(r"<\w+:re:[^>]*>", "00000000-0000-0000-0000-000000000000", rule)
        return re.sub(r"<\w+(?::(\w+))?>", lambda match: fill[match[1] or ""], rule)

    return [(route.method, route.rule, path(route.rule)) for route in app.routes]


@pytest.mark.parametrize(("method", "rule", "path"), requests_of_every_rule())
def test_read_only_refuses_every_write_of_the_route_table(
    url: str, folder: Path, method: str, rule: str, path: str
) -> None:
    body = json.dumps({"study_name": "new", "directions": ["maximize"], "version": 999, "body": ""})
    before = dump(folder)
    answer = ask(
        url, path, method, body if method != "GET" else None, Content_Type="application/json"
    )
    if method == "GET":
        unplotted = "<plot_type>" in rule and find_spec("plotly") is None
        absent = rule not in READ_RULES or "<artifact_id" in rule or unplotted
        assert (answer.status == 404) == absent, answer
    else:
        assert answer.status == 403
        assert "read-only" in json.loads(answer.body)["reason"]
    assert dump(folder) == before


def dump(folder: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(folder / "studies/golf.db")) as connection:
        return list(connection.iterdump())


def test_other_methods_are_refused(url: str) -> None:
    for method in ("PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"):
        assert ask(url, "/api/studies", method).status in (400, 403), method
    assert ask(url, "/api/studies", "HEAD").status == 200


def test_write_true_allows_edits_from_this_site_alone(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder / "studies", tmp_path / "studies")
    note = json.dumps({"version": 999, "body": "mine"})
    with served(tmp_path, "dashboard.write=true") as url:
        place = urlsplit(url).netloc
        version = get(f"{url}api/studies/1")["note"]["version"]
        note = json.dumps({"version": version + 1, "body": "mine"})
        arguments = ("/api/studies/1/note", "PUT", note)
        kind = {"Content_Type": "application/json"}
        assert ask(url, *arguments, Origin="http://evil.example", **kind).status == 403
        assert ask(url, *arguments, Origin=f"http://{place}", **kind).status == 204
        assert get(f"{url}api/studies/1")["note"]["body"] == "mine"
        assert ask(url, "/api/studies/1", "DELETE", "{}", **kind).status == 204
        assert get(f"{url}api/studies")["study_summaries"] == []


def test_a_study_that_takes_the_id_of_a_removed_one_is_shown_as_itself(
    tmp_path: Path, folder: Path
) -> None:
    """SQLite gives the ids of the last study and its trials out again."""
    shutil.copytree(folder / "studies", tmp_path / "studies")
    with served(tmp_path) as url:
        assert len(get(f"{url}api/studies/1")["trials"]) == 3
        optuna.delete_study(study_name=NAME, storage=f"sqlite:///{tmp_path}/studies/golf.db")
        second = ("trials=1", "epochs=1", "study.name=second", "space.batch_size=32")
        golf_in(tmp_path, *STUDY[:3], *second)
        study = get(f"{url}api/studies/1")
        assert study["name"] == "second"
        assert [len(trial["intermediate_values"]) for trial in study["trials"]] == [1]


# --- what it withstands


@pytest.mark.parametrize(
    "path",
    [
        "/artifacts/1/1/../../../golf.db",
        "/artifacts/1/1/..%2f..%2fgolf.db",
        "/artifacts/1/..%2f..%2f..%2fgolf.db",
        "/artifacts/1/1/%2e%2e%2f%2e%2e%2fgolf.db",
        "/artifacts/1/1//etc/passwd",
        "/static/../../_app.py",
        "/static/..%2f..%2f_app.py",
        "/static/%2fetc%2fpasswd",
    ],
)
def test_no_path_leads_out(url: str, path: str) -> None:
    answer = ask(url, path)
    assert answer.status in (403, 404)
    assert b"SQLite" not in answer.body and b"root:" not in answer.body


@pytest.mark.browser
def test_script_in_names_notes_and_attributes_is_text(browser: Any, tmp_path: Path) -> None:
    evil = "<img src=x onerror='window.hit=1'><script>window.hit=1</script>"
    storage = optuna.storages.get_storage(f"sqlite:///{tmp_path}/golf.db")
    study = optuna.create_study(study_name=evil, storage=storage, direction="maximize")
    study.set_user_attr(evil, evil)
    save_note(study, f"{evil}\n\n[x](javascript:window.hit=1)\n\n{evil}")
    trial = study.ask()
    trial.suggest_categorical(evil, [evil, "b"])
    trial.set_user_attr(evil, evil)
    study.tell(trial, 1.0)
    storage._backend.engine.dispose()
    with served(tmp_path, f"dir={tmp_path}") as url:
        for page in ("", "/studies/1", "/studies/1/note", "/studies/1/trials?numbers=0",
                     "/studies/1/trialTable"):  # fmt: skip
            browser.get(f"{url}dashboard{page}")
            wait(browser, lambda browser: "onerror" in text(browser))
            time.sleep(0.5)
            assert browser.execute_script("return window.hit") is None, page


def test_requests_that_are_too_large_are_refused(url: str) -> None:
    assert ask(url, "/login", "POST", "x" * 100_000).status == 413
    assert ask(url, "/api/studies", Cookie="x" * 40_000).status == 431
    assert ask(url, "/healthz").status == 200


@pytest.mark.parametrize("rest", ["X-Slow: ", "Content-Length: 100\r\n\r\na"])
def test_slow_clients_keep_nobody_waiting(url: str, rest: str) -> None:
    """Sixty that stop in their headers, or in the body: more than there are threads."""
    place = urlsplit(url)
    slow = []
    for _ in range(60):
        client = socket.create_connection((place.hostname, place.port))
        client.sendall(b"GET /api/studies HTTP/1.1\r\nHost: localhost\r\n" + rest.encode())
        slow.append(client)
    begin = time.monotonic()
    assert ask(url, "/api/studies").status == 200
    assert time.monotonic() - begin < 25  # before any of theirs is given up
    for client in slow:
        client.close()


def test_fifty_clients_at_once_get_what_they_ask_for(url: str) -> None:
    paths = ["/api/studies", "/api/studies/1", "/dashboard", *artifact_paths(url, 1).values()]
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda i: ask(url, paths[i % len(paths)]), range(200)))
    assert {answer.status for answer in answers} == {200}
    same = {answer.body for answer in answers[1 :: len(paths)]}
    assert len(same) == 1


def test_an_answer_under_way_is_sent_before_the_server_ends(folder: Path) -> None:
    process = start(folder, "dashboard.port=0")
    url = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())[0]
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port)) as client:
        client.sendall(b"GET /static/bundle.js HTTP/1.0\r\nHost: localhost\r\n\r\n")
        got = len(client.recv(1024))
        process.terminate()
        client.settimeout(WAIT_S)
        while part := client.recv(1 << 20):
            got += len(part)
    _, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, err) == (0, "")
    assert got > 6_000_000


def test_a_client_that_does_not_read_is_left_when_the_server_ends(folder: Path) -> None:
    process = start(folder, "dashboard.port=0")
    place = urlsplit(re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())[0])
    with socket.create_connection((place.hostname, place.port)) as client:
        client.sendall(b"GET /static/bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(8) == b"HTTP/1.1"
        out, err = end(process)
    assert (process.returncode, out, err) == (0, "", "")


def test_healthz_tells_when_the_storage_is_gone(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder / "studies", tmp_path / "studies")
    with served(tmp_path) as url:
        assert ask(url, "/healthz").status == 200
        with contextlib.closing(sqlite3.connect(tmp_path / "studies/golf.db")) as connection:
            connection.execute("ALTER TABLE studies RENAME TO gone")
        assert ask(url, "/healthz").status == 503
