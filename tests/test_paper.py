"""golf-opt report and compare: real studies, pages that stand alone, mistakes named."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran

QUICK = ("data=digits", "engine=torch", "epochs=2", "trials=3", "space.batch_size=32")
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of studies with two of them, one named like an attack."""
    folder = tmp_path_factory.mktemp("paper") / "studies"
    for more in (("study.name=one",), ("arch=c3-4-4", f'study.name="{EVIL}"')):
        program = [sys.executable, "-m", "golf_opt", "study", *QUICK, f"dir={folder}", *more]
        subprocess.run(program, check=True, capture_output=True)
    return folder


def page_of(ran: Ran) -> tuple[str, str]:
    page, text = ran.out.splitlines()[-2:]
    return Path(page).read_text(), Path(text).read_text()


def test_a_report_stands_alone(golf: Callable[..., Ran], folder: Path) -> None:
    ran = golf("report", "study=one", f"dir={folder}")
    assert (ran.status, ran.err) == (0, "")
    page, text = page_of(ran)
    assert page.count("<figure") == 8 and page.count("<svg") == 8
    assert "<script" not in page
    linked = re.findall(r"""(?:src|href)="([^"]+)""", page)
    assert [link for link in linked if not link.startswith(("#", "data:image/png"))] == []
    assert re.search(r"Best test accuracy \d\d\.\d\d % \(trial \d, n = 1 seed, train", page)
    assert "lr (1e-05 to 0.01, log scale)" in page and "807 parameters" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for path in re.findall(r"\]\(<(.+?)>\)", text):
        assert (folder / "reports" / path).read_text().startswith("<svg")


def test_html_in_a_name_is_text(golf: Callable[..., Ran], folder: Path) -> None:
    page, text = page_of(golf("report", f'study="{EVIL}"', f"dir={folder}"))
    assert "&lt;img src=x" in page and "<img" not in page
    assert "# Study \\<img src=x onerror=alert(1)\\>" in text
    page, _ = page_of(golf("compare", f'studies=[one,"{EVIL}"]', f"dir={folder}"))
    assert "<img" not in page and page.count("<svg") == 2
    assert {path.parent.name for path in folder.rglob("*.html")} == {"reports"}


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_comparison_fits_the_terminal(
    golf: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, folder: Path, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    ran = golf("compare", f'studies=[one,"{EVIL}"]', f"dir={folder}")
    assert ran.status == 0
    table = ran.out.splitlines()[:-2]
    assert max(map(len, table)) <= columns
    assert "807" in ran.out and "681" in ran.out


def test_mistakes_are_named(golf: Callable[..., Ran]) -> None:
    for arguments, words in [
        (("report",), "study is not given; golf-opt report study=NAME"),
        (("report", "study=nix"), "study 'nix' is not in the storage; there are none yet"),
        (("compare",), "studies is [], but must be the names of two or more"),
        (("compare", "studies=[a,a]"), "must be the names of two or more"),
        (("compare", "studies=[a,b]"), "study 'a' is not in the storage"),
    ]:
        ran = golf(*arguments)
        assert (ran.status, ran.out) == (2, "")
        assert words in ran.err and len(ran.err.splitlines()) == 1
    assert not Path("studies/reports").exists()
