"""The dashboard in a real browser, over a study that the command line made."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NAME = "seen"
STUDY = (
    "study", "data=digits", "engine=torch", "trials=3", "epochs=2", "space.batch_size=32",
    f"study.name={NAME}",
)  # fmt: skip
WAIT_S = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a study of three trials, two epochs each."""
    folder = tmp_path_factory.mktemp("dashboard")
    program = [sys.executable, "-m", "golf_opt", *STUDY]
    subprocess.run(program, cwd=folder, check=True, capture_output=True)
    return folder


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `golf-opt dashboard ARGS...`."""
    return subprocess.Popen(
        [sys.executable, "-m", "golf_opt", "dashboard", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    process.terminate()
    return process.communicate(timeout=WAIT_S)


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """The address that a running dashboard printed."""
    process = start(folder, "dashboard.port=0")
    try:
        line = process.stdout.readline()
        yield re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
    finally:
        end(process)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium; skip where it or its driver is missing."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run", "--no-proxy-server",
        "--window-size=1400,2000", f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(flag)
    chrome = webdriver.Chrome(options, webdriver.ChromeService(executable_path=driver))
    yield chrome
    chrome.quit()


def wait(browser: Any, condition: Callable[[Any], Any]) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, WAIT_S).until(condition)


def text(browser: Any) -> str:
    return browser.find_element("tag name", "body").text


def points(browser: Any, plot: str) -> list[list[float]]:
    """Return the y values of every trace that Plotly drew in the element of this id."""
    script = "return (document.getElementById(arguments[0])?.data ?? []).map(t => [...t.y])"
    return browser.execute_script(script, plot)


def get(url: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=WAIT_S) as answer:
        return json.load(answer)


def test_the_api_has_the_study_its_trials_and_its_note(url: str) -> None:
    (summary,) = get(f"{url}api/studies")["study_summaries"]
    assert (summary["study_name"], summary["directions"]) == (NAME, ["maximize"])
    study = get(f"{url}api/studies/{summary['study_id']}")
    assert study["objective_names"] == ["test accuracy"]
    assert study["has_intermediate_values"]
    assert "# c4-5-4: 807 parameters" in study["note"]["body"]
    assert len(study["trials"]) == 3
    for number, trial in enumerate(study["trials"]):
        steps = trial["intermediate_values"]
        assert [step["step"] for step in steps] == [1, 2]
        assert trial["values"] == [steps[1]["value"]]
        (artifact,) = trial["artifacts"]
        assert artifact["filename"].startswith(f"learning-curve-{number}.")
        assert artifact["mimetype"].startswith("image/")


@pytest.mark.browser
def test_the_study_is_listed(browser: Any, url: str) -> None:
    browser.get(url)
    wait(browser, lambda browser: NAME in text(browser))
    links = [link.get_attribute("href") for link in browser.find_elements("tag name", "a")]
    assert f"{url}dashboard/studies/1" in links


@pytest.mark.browser
def test_the_study_page_plots_history_and_intermediate_values(browser: Any, url: str) -> None:
    trials = get(f"{url}api/studies/1")["trials"]
    browser.get(f"{url}dashboard/studies/1")
    history = wait(browser, lambda browser: points(browser, "plot-history"))
    assert [trial["values"][0] for trial in trials] in history
    curves = wait(browser, lambda browser: points(browser, "graph-intermediate-values"))
    assert curves == [[step["value"] for step in trial["intermediate_values"]] for trial in trials]
    assert browser.find_element("css selector", "#plot-history svg").size["width"] > 300
    assert "Best Trial (number=" in text(browser)


@pytest.mark.browser
def test_the_note_says_what_the_study_is(browser: Any, url: str) -> None:
    browser.get(f"{url}dashboard/studies/1/note")
    heading = wait(browser, lambda browser: browser.find_elements("tag name", "h1"))
    assert "c4-5-4: 807 parameters" in [element.text for element in heading]
    page = text(browser)
    assert f"golf-opt {' '.join(STUDY)}" in page
    assert "digits (1,438 training images)" in page
    assert "3 complete of 3" in page
    assert re.search(r"Best so far: \d\d\.\d\d %", page)


@pytest.mark.browser
def test_the_trial_page_shows_its_steps_and_its_learning_curve(browser: Any, url: str) -> None:
    trial = get(f"{url}api/studies/1")["trials"][0]
    browser.get(f"{url}dashboard/studies/1/trials?numbers=0")
    picture = wait(browser, lambda browser: browser.find_elements("tag name", "img"))[0]
    wait(browser, lambda _: picture.get_property("complete"))
    assert "/artifacts/1/1/" in picture.get_attribute("src")
    assert picture.get_property("naturalWidth") > 300
    assert picture.get_property("naturalHeight") > 200
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
        begin = time.monotonic()
        out, err = end(process)
    assert (process.returncode, out, err) == (0, "", "")
    assert time.monotonic() - begin < 5


def answers(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((host, port)) == 0


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(tmp_path, f"dashboard.port={port}")
        out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (2, "")
    assert err.startswith(f"golf-opt: dashboard cannot listen on 127.0.0.1:{port}: ")
    assert err.endswith("choose another with dashboard.port=N.\n")
    assert len(err.splitlines()) == 1
    assert list(tmp_path.rglob("*")) == []


def test_an_unknown_host_is_named(tmp_path: Path) -> None:
    process = start(tmp_path, "dashboard.port=0", "dashboard.host=no-such-host.invalid")
    _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 2
    assert err.startswith("golf-opt: dashboard cannot listen on no-such-host.invalid:0: ")
    assert len(err.splitlines()) == 1
