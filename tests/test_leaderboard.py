"""The leaderboard: its pages say what the records' files say, are current, and are looked at."""

from __future__ import annotations

import json
import re
import shutil
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Ran, told
from matplotlib.image import imread
from test_deploy import needs_cc, run_c
from test_records import rewrite

from golf_opt.config.schema import DataConfig
from golf_opt.golf.records import leaderboard, tried
from golf_opt.golf.records.facts import NOT_RECORDED, facts_of
from golf_opt.golf.records.leaderboard import Files, entries, read_bars, site
from golf_opt.golf.records.pages import Entry
from golf_opt.golf.records.schema import CONFIG
from golf_opt.golf.records.verify import load_record, record_folders, sha256
from golf_opt.task.data import Dataset
from golf_opt.task.data import load as load_data

RECORDS = ROOT / "studies" / "records"
SITE = ROOT / "docs" / "leaderboard"
ROUNDS = RECORDS / "article" / "2026-11-21_c4-5-4-prelu-rounds"
REGROWTH = RECORDS / "article" / "2026-11-29_c4-5-4-prelu-regrowth"
DESK, PHONE = (1400, 1000), (390, 844)


@pytest.fixture(scope="module")
def mnist(mnist_root: Path) -> Dataset:
    return load_data(DataConfig("mnist", mnist_root))


@pytest.fixture(scope="module")
def shown(mnist: Dataset) -> list[Entry]:
    """The committed records; tests/test_records.py verifies them."""
    return entries([load_record(folder) for folder in record_folders(RECORDS)], mnist)


@pytest.fixture(scope="module")
def files(shown: list[Entry]) -> Files:
    """The site as the checkout's records and log give it."""
    return site(shown, read_bars(RECORDS), tried.read_rows(RECORDS), steps=1)


def without_drawings(page: bytes) -> str:
    """Return a page but for its SVG, whose outlines are those of a version of matplotlib."""
    return re.sub(r"<svg.*?</svg>", "", page.decode(), flags=re.DOTALL)


@pytest.mark.mnist
def test_the_site_and_the_log_are_what_the_records_give(shown: list[Entry], files: Files) -> None:
    """Of the pictures it is the names: their bytes differ from machine to machine."""
    again = "golf-opt leaderboard output=docs/leaderboard writes it again"
    there = {path.relative_to(SITE).as_posix() for path in SITE.rglob("*") if path.is_file()}
    assert there == set(files), again
    for name in files:
        if not name.endswith(".png"):
            own = without_drawings((SITE / name).read_bytes())
            assert own == without_drawings(files[name]()), f"{name}: {again}"
    rows, kept = tried.read_rows(RECORDS), [entry.facts for entry in shown]
    assert (RECORDS / tried.PAGE).read_text() == tried.page(rows, kept), again
    assert tried.merged(rows, []) == rows


@pytest.mark.mnist
def test_a_picture_is_the_committed_one_but_for_rounding(files: Files, tmp_path: Path) -> None:
    name = f"article/{REGROWTH.name}/survivors.png"
    (tmp_path / "new.png").write_bytes(files[name]())
    old, new = imread(SITE / name), imread(tmp_path / "new.png")
    assert old.shape == new.shape and float(np.abs(old - new).mean()) < 0.01
    assert float(np.std(new)) > 0.05  # there is something on it


@needs_cc
@pytest.mark.mnist
@pytest.mark.parametrize("folder", record_folders(RECORDS), ids=lambda folder: folder.name)
def test_the_header_that_is_offered_reads_as_many_images(
    folder: Path, mnist: Dataset, tmp_path: Path
) -> None:
    """The file of the site, compiled: as many digits are right as the record says."""
    record, test = load_record(folder), mnist.view("test").test
    header = (SITE / record.label / "net.h").read_bytes()
    digits, _ = run_c(tmp_path, header, test.images, "-O2", "-std=c99")
    assert int((digits == test.labels).sum()) == record.claim.splits.test.correct


@pytest.mark.mnist
def test_a_page_says_what_the_files_say(shown: list[Entry], files: Files) -> None:
    for entry in shown:
        page = files[f"{entry.path}/index.html"]().decode()
        claim = entry.record.claim
        cells = re.findall(r'<td class="right">(\d+)</td>', page)
        assert len(cells) == 10 and sum(map(int, cells)) == claim.splits.test.correct
        mistakes = re.findall(r'<td style="--p: \d+">(\d*)</td>', page)
        assert len(mistakes) == 90
        assert sum(int(n or 0) for n in mistakes) == 10_000 - claim.splits.test.correct
        (total,) = re.findall(r"<tr><td>total</td>(.*?)</tr>", page, re.DOTALL)
        numbers = [int(n.replace(",", "")) for n in re.findall(r">([\d,]+)</td>", total)]
        assert numbers[:2] == [claim.params.dense, claim.params.nz]
        assert f"golf-opt verify studies/records/{entry.path}" in page
        assert f"{claim.splits.train.correct:,} of {claim.splits.train.of:,}" in page
        pruned = claim.params.nz < claim.params.dense
        assert len(re.findall("<img ", page)) == (3 if pruned else 2)


def test_facts_are_worked_out_from_the_files() -> None:
    facts = facts_of(load_record(ROUNDS))
    rows = json.loads((ROUNDS / "seeds.json").read_text())
    ended = [row["accuracy"] for row in rows if row["state"] == "complete"]
    assert len(rows) == 8 and len(ended) == 6 and min(ended) >= 0.98
    mean, spread = 100 * statistics.mean(ended), 100 * statistics.stdev(ended)
    assert f"8 tried, 6 to the end: mean {mean:.2f} %, sd {spread:.2f}, " in facts.trainings.words
    assert "6 of 8 (75 %) reach 98.00 %" in facts.trainings.words
    assert facts.commands[0].startswith("# the command of golf-test, trial 4 was not recorded")
    assert facts.commands[1] == "golf-opt prune study=golf-test method=rounds"
    assert facts.pruning.startswith("to its end, ") and facts.pruning.endswith(NOT_RECORDED)
    assert "with changes" in facts.commit
    further = facts_of(load_record(REGROWTH))
    (command,) = further.commands
    assert command.startswith("golf-opt prune weights=studies/records/article/2026-11-21_")
    assert further.pruning.startswith("stopped before its end, 30 turns")
    assert "without changes" in further.commit
    assert further.made_again_by([facts, further]) == []


def remade(copy: Path, config: str, **changes: Any) -> Path:
    """Give a copy of a record another configuration and other claims."""
    (copy / CONFIG).write_text(config)
    files = load_record(copy).claim.files | {CONFIG: sha256(config.encode())}
    rewrite(copy, files=files, **changes)
    return copy


@pytest.fixture
def copies(tmp_path: Path) -> Callable[[str], Path]:
    """Copies of the record of 253, under other names, that may be spoilt."""

    def copy(name: str) -> Path:
        folder = tmp_path / "studies" / "records" / "article" / f"2026-11-21_{name}"
        shutil.copytree(ROUNDS, folder)
        rewrite(folder, name=name)
        return folder

    return copy


def test_a_record_of_a_hunt_has_one_command_and_who_made_it_again(
    copies: Callable[[str], Path],
) -> None:
    config = "source: x, trial 1\nfinished: true\ntime_s: 65.0\ncommand: {}\n"
    command = "golf-opt hunt board=article seed=1"
    one = facts_of(load_record(remade(copies("one"), config.format(command))))
    other = facts_of(load_record(remade(copies("other"), config.format("golf-opt prune study=y"))))
    assert one.commands == [command]
    assert one.pruning.endswith("time 1 min 5 s")
    assert one.made_again_by([one, other]) == ["article/2026-11-21_other"]  # of the same weights


def test_of_a_search_only_trainings_of_the_same_net_count(copies: Callable[[str], Path]) -> None:
    folder = copies("dense")
    small, large = {"channels_1": 2}, {"channels_1": 3}
    rows = [
        {"trial": 0, "state": "complete", "params": small, "accuracy": 0.985},
        {"trial": 1, "state": "complete", "params": large, "accuracy": 0.99},
        {"trial": 2, "state": "complete", "params": small, "accuracy": 0.975},
        {"trial": 0, "state": "confirmed", "seed": 7, "accuracy": 0.981},
    ]
    (folder / "seeds.json").write_text(json.dumps(rows))
    found = facts_of(load_record(remade(folder, "trial: 0\nrecipe: {family: {name: separable}}\n")))
    assert found.trainings.accuracies == [0.985, 0.975, 0.981]
    assert "2 of 3 (67 %) reach 98.00 %" in found.trainings.words


@pytest.mark.mnist
def test_what_a_record_says_is_text_and_no_more(
    copies: Callable[[str], Path], mnist: Dataset
) -> None:
    bad = "</table><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}"
    folder = remade(
        copies("evil"), f"finished: false\nsource: '{bad}'\ncommand: \"golf-opt {bad}\"\n", how=bad
    )
    content = json.loads((folder / "record.json").read_text())
    content["net"]["name"], content["protocol"]["words"] = f"*/ {bad}", bad
    content["made_by"] = {"version": bad, "git_commit": bad}
    rewrite(folder, **content)
    (entry,) = entries([load_record(folder)], mnist)
    row = tried.Tried(id="x", kind="hunt", date=None, what=bad, began=bad, rule="test", ended=bad)
    made = site([entry], [], [row], 1)
    for name in ("index.html", "log.html", f"{entry.path}/index.html"):
        page = made[name]().decode()
        assert "<script" not in page and "<img src=x" not in page
        assert "&lt;script&gt;alert(1)" in page and "{{ 7 * 7 }}" in page
    header = made[f"{entry.path}/net.h"]().decode()
    assert header.index("alert(1)") < header.index("*/")
    assert not re.search(r"(?<!\\)<script", tried.page([row], [entry.facts]))


@pytest.mark.mnist
def test_the_command_writes_a_site_and_tells_what_is_no_record(
    golf: Callable[..., Ran], copies: Callable[[str], Path], mnist_root: Path, tmp_path: Path
) -> None:
    good, spoilt = copies("good"), copies("spoilt")
    params = load_record(spoilt).claim.params.model_dump()
    rewrite(spoilt, params=params | {"nz": 1})
    taken = tmp_path / "mine"
    taken.mkdir()
    (taken / "letter.txt").write_text("to keep")
    command = ("leaderboard", f"data.root={mnist_root}", "steps=1")
    ran = golf(*command, "output=mine")
    assert ran.status == 2 and "must be a new folder, or one that golf-opt" in ran.err
    assert [path.name for path in taken.iterdir()] == ["letter.txt"]
    (taken / "log.html").write_text("of a site, which it may replace")
    ran = golf(*command, "output=mine")
    assert ran.status == 1 and not ran.err
    assert "REJECTED  article/2026-11-21_spoilt: it says" in ran.out
    page = (taken / "index.html").read_text()
    assert good.name in page and spoilt.name not in page
    pictures = list((taken / "article" / good.name).glob("*.png"))
    assert len(pictures) == 3 and all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)
    log = (tmp_path / "studies" / "records" / "LOG.md").read_text()
    assert "article/2026-11-21\\_good" in log and "spoilt" not in log


def test_prunings_and_hunts_are_gathered_for_the_log(
    golf: Callable[..., Ran], tmp_path: Path
) -> None:
    weights = f"weights={ROUNDS / 'weights.safetensors'}"
    ran = golf("prune", weights, "arch=c4-5-4-prelu", "data=digits", "engine=torch", "target=0.2",
               "method=index", "dir=studies")  # fmt: skip
    assert ran.status == 0, ran.err
    (path,) = (tmp_path / "studies" / "pruned").glob("*/prune.json")
    made = json.loads(path.read_text())
    (tmp_path / "studies" / "pruned" / "torn").mkdir()
    (tmp_path / "studies" / "pruned" / "torn" / "prune.json").write_text("{")
    hunt = tried.Tried(
        id="hunt 1", kind="hunt", date=None, what="golf-opt hunt", began="x", rule="test", nz=300
    )
    tried.keep_hunt(tmp_path / "studies", hunt, made["data_digest"])
    tried.keep_hunt(tmp_path / "studies", hunt, "of other images")
    rows = tried.gathered(tmp_path / "studies", made["data_digest"])
    assert [row.kind for row in rows] == ["hunt", "pruning"] and rows[0] == hunt
    assert rows[1].nz == made["nz"] < 253 and rows[1].accuracy == made["guide_accuracy"] >= 0.2
    assert str(tmp_path) not in rows[1].what or weights in rows[1].what
    newer = hunt.model_copy(update={"nz": 290})
    assert {row.nz for row in tried.merged([hunt, *rows], [newer])} == {290, made["nz"]}


def test_a_line_of_the_log_that_is_no_row_is_told(golf: Callable[..., Ran], tmp_path: Path) -> None:
    records = tmp_path / "studies" / "records"
    shutil.copytree(ROUNDS, records / "article" / ROUNDS.name)
    (records / tried.ROWS).write_text('{"id": "x"}\n')
    with pytest.raises(leaderboard.UsageError, match=r"tried.jsonl, line 1: kind: Field required"):
        tried.read_rows(records)
    assert "must be a record or a folder of records" in told(golf("leaderboard", "dir=nowhere"))


# --- in a browser

LOOK = """
const over = [...document.querySelectorAll("body *")].filter(element => {
  if (element.closest(".scroll, svg")) return false;
  const box = element.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1);
});
return {
  title: document.title, width: [innerWidth, document.documentElement.scrollWidth],
  over: over.map(element => element.outerHTML.slice(0, 80)),
  images: [...document.images].map(image => image.naturalWidth),
  drawn: [...document.querySelectorAll("figure svg")].map(svg => svg.getBoundingClientRect().width),
  paper: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.body).color,
  links: [...document.querySelectorAll("a")].map(a => a.getAttribute("href")),
};
"""


@pytest.fixture
def window(browser: Any) -> Iterator[Callable[..., dict[str, Any]]]:
    """Show a page in a window of a size and colour scheme; return what it looks like."""

    def show(path: Path, size: tuple[int, int], scheme: str) -> dict[str, Any]:
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get(path.as_uri())
        found: dict[str, Any] = browser.execute_script(LOOK)
        return found

    yield show
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def lightness(colour: str) -> float:
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / (3 * 255)


@pytest.mark.browser
def test_every_page_shows_wide_and_narrow_light_and_dark(
    window: Callable[..., dict[str, Any]],
) -> None:
    pages = sorted(SITE.rglob("*.html"))
    assert len(pages) == 2 + len(record_folders(RECORDS))
    for page in pages:
        for size, scheme in ((DESK, "light"), (PHONE, "dark")):
            seen = window(page, size, scheme)
            place = f"{page.relative_to(SITE)} at {size[0]}, {scheme}"
            assert seen["title"], place
            assert seen["width"][0] == size[0] and seen["width"][1] <= size[0], place
            assert seen["over"] == [], place
            record = page.parent != SITE
            pictures = len(list(page.parent.glob("*.png"))) if record else 0
            assert len(seen["images"]) == pictures and all(seen["images"]), place
            widths = sorted(seen["drawn"])
            assert len(widths) == (2 if page.name == "index.html" and not record else 0), place
            if widths:  # one of the two is for the other size of window
                assert widths[0] == 0 and size[0] / 2.5 < widths[1] <= size[0], place
            paper, ink = lightness(seen["paper"]), lightness(seen["ink"])
            assert (paper > 0.9 and ink < 0.3) == (scheme == "light"), place
            assert (paper < 0.2 and ink > 0.7) == (scheme == "dark"), place
            for link in seen["links"]:
                assert (page.parent / link.partition("#")[0]).exists(), (place, link)
