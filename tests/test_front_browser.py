"""The front of a search on the dashboard, in a real browser, as wide as a desk's and a phone's."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from serving import WAIT_S, served
from test_search import QUICK, few, size_of

import golf_opt as golf

__all__ = ["few"]
pytestmark = pytest.mark.browser
DESK, PHONE = (1400, 1000), (390, 844)
FRONT = """
const plot = document.getElementById("user-defined-plot:front");
if (!plot?.data || !plot.querySelector(".legend")) return null;
const box = element => {
  const { left, right, top, bottom } = element.getBoundingClientRect();
  return { left, right, top, bottom };
};
return {
  traces: plot.data.map(trace => ({
    name: trace.name, x: [...trace.x], text: trace.text, bars: trace.error_y?.array,
  })),
  title: plot.layout.title.text.split("<br>"),
  ticks: [...plot.querySelectorAll(".xtick text")].map(box),
  boxes: Object.fromEntries(
    [".gtitle", ".nsewdrag", ".legend", ".modebar-container"].map(
      name => [name, box(plot.querySelector(name))]
    )
  ),
  whole: box(plot),
  page: [innerWidth, document.documentElement.scrollWidth],
};
"""


@pytest.fixture(scope="module")
def found(few: Path, tmp_path_factory: pytest.TempPathFactory) -> golf.Study:
    """A search of five trials, of which a net was confirmed on two fresh seeds."""
    study = golf.search(few, 5, **QUICK, dir=tmp_path_factory.mktemp("studies"))
    golf.confirm(study, top=1, seeds=2, engine="torch", say=None)
    return study


@pytest.fixture(scope="module")
def page(found: golf.Study) -> Iterator[str]:
    with served(found.place.folder, f"dir={found.place.folder}") as address:
        yield f"{address}dashboard/studies/1"


@pytest.fixture
def browser(browser: Any) -> Iterator[Any]:
    """The browser of all tests, whose window is as wide as before afterwards."""
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def drawn(browser: Any, page: str, size: tuple[int, int]) -> dict[str, Any]:
    """Return what the front looks like in a window of this size."""
    from selenium.webdriver.support.ui import WebDriverWait

    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page)
    return WebDriverWait(browser, WAIT_S).until(lambda browser: browser.execute_script(FRONT))


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_front_has_its_nets_and_bars(
    browser: Any, page: str, found: golf.Study, size: tuple[int, int]
) -> None:
    front = drawn(browser, page, size)
    nets, line, barred, _, confirmed = front["traces"]
    assert nets["name"] == "nets (5)"
    assert sorted(nets["x"]) == sorted(map(size_of, found.all))
    assert {text.split()[0] for text in nets["text"]} == {"trial"}
    assert line["x"] == barred["x"] == sorted(size_of(trial) for trial in found.front)
    assert confirmed["x"] == [size_of(found.front[0])]
    assert confirmed["text"] == [f"trial {found.front[0].number}, mean of 2 fresh seeds"]
    assert confirmed["bars"][0] > 0


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_nothing_covers_another_thing_or_is_off_the_page(
    browser: Any, page: str, size: tuple[int, int]
) -> None:
    front = drawn(browser, page, size)
    boxes, whole = front["boxes"], front["whole"]
    assert front["page"][0] == size[0] and front["page"][1] <= size[0]
    assert whole["left"] >= 0 and whole["right"] <= size[0]
    assert whole["right"] - whole["left"] > (250 if size == PHONE else 500)
    for name, box in boxes.items():
        if name != ".modebar-container":
            assert whole["left"] <= box["left"] and box["right"] <= whole["right"] + 1, name
    ticks = front["ticks"]
    assert boxes[".gtitle"]["bottom"] <= boxes[".nsewdrag"]["top"]
    assert max(tick["bottom"] for tick in ticks) <= boxes[".legend"]["top"]
    assert boxes[".legend"]["bottom"] <= whole["bottom"] + 1
    assert len(ticks) >= 2
    for left, right in pairwise(ticks):
        assert left["right"] < right["left"]
    buttons = boxes[".modebar-container"]
    if size == PHONE:
        assert buttons["right"] == buttons["left"]  # hidden: they would cover the title
        assert len(front["title"]) >= 4
    else:
        assert boxes[".gtitle"]["right"] <= whole["right"]
        assert len(front["title"]) <= 3
