"""golf-opt report and compare: real studies, pages that stand alone, mistakes named."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from conftest import Ran, golf_in

from golf_opt.config.schema import DataConfig
from golf_opt.dashboard.shown import Shown
from golf_opt.dashboard.trial_pictures import TrialPictures
from golf_opt.storage.checkpoint import open_checkpoints
from golf_opt.study.description import description_of

QUICK = ("data=digits", "engine=torch", "epochs=2", "trials=3", "space.batch_size=32")
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of studies with two of them, one named like an attack."""
    folder = tmp_path_factory.mktemp("paper") / "studies"
    for more in (("study.name=one",), ("arch=c3-4-4", f'study.name="{EVIL}"')):
        golf_in(folder.parent, "study", *QUICK, *more)
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
        (("report",), "study is missing; give study=NAME"),
        (("report", "study=nix"), "study 'nix' is not in the storage; there are none yet"),
        (("compare",), "studies is [], but must be the names of two or more"),
        (("compare", "studies=[a,a]"), "must be the names of two or more"),
        (("compare", "studies=[a,b]"), "study 'a' is not in the storage"),
    ]:
        ran = golf(*arguments)
        assert (ran.status, ran.out) == (2, "")
        assert words in ran.err and len(ran.err.splitlines()) == 1
    assert not Path("studies/reports").exists()


ODD = (
    "text", True, -1, 10**400, float("inf"), float("nan"), None, [], [["x"]], {"optuna": {}}
)  # fmt: skip
READ = (
    "seed", "epoch_losses", "train_accuracy", "num_params", "versions", "engine", "device",
    "git_commit", "worker",
)  # fmt: skip


def odd_study(folder: Path) -> optuna.Study:
    """Study `one` again as `odd`, with all that Optuna lets a trial say in its attributes."""
    storage = f"sqlite:///{folder}/golf.db"
    old = optuna.load_study(study_name="one", storage=storage)
    with contextlib.suppress(KeyError):
        optuna.delete_study(study_name="odd", storage=storage)
    optuna.copy_study(
        from_study_name="one", from_storage=storage, to_storage=storage, to_study_name="odd"
    )
    made = optuna.load_study(study_name="odd", storage=storage)
    good = old.best_trial
    for number, value in enumerate(ODD):
        trial = optuna.trial.create_trial(
            value=good.value, params=good.params, distributions=good.distributions,
            user_attrs=dict.fromkeys(READ, value), intermediate_values={1: 0.5, 2: good.value},
        )  # fmt: skip
        made.add_trial(trial)
        bad = (float("nan"), float("inf"), float("-inf"), 1e308, -5.0)[number % 5]
        trial.intermediate_values = {0: bad, 1: 0.5, 2: bad, 3: bad}
        trial.value = float("inf") if bad != bad else bad
        made.add_trial(trial)
    return made


@pytest.mark.parametrize("verb", ["report", "compare"])
def test_what_trials_say_is_not_trusted(golf: Callable[..., Ran], folder: Path, verb: str) -> None:
    """Values and steps that are no accuracy, and attributes of any kind, are left out."""
    made = odd_study(folder)
    names = "study=odd" if verb == "report" else "studies=[odd,one]"
    ran = golf(verb, names, f"dir={folder}")
    assert ran.status == 0 and "Traceback" not in ran.err
    page, _ = page_of(ran)
    best = max(trial.value or 0 for trial in made.trials if 0 <= (trial.value or 0) <= 1)
    assert f"{100 * best:.2f}" in page
    assert "nan %" not in page and "inf" not in re.sub("<[^>]*>|information", "", page)


def test_the_dashboard_draws_what_trials_say(folder: Path) -> None:
    made = odd_study(folder)
    shown, drawer = Shown("odd", made), TrialPictures(DataConfig("auto", folder))
    shown.checkpoints, shown.description = open_checkpoints(made, folder), description_of(made)
    for trial in made.trials:
        curve = drawer.drawn(shown, trial, "learning-curve")
        assert curve is not None and curve.startswith(b"<svg")
        assert b"trial %d:" % trial.number in (drawer.drawn(shown, trial, "log") or b"")
