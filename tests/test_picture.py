"""Learning curves: valid SVG, round ticks that hold the values, points where they belong."""

from xml.etree import ElementTree

import pytest

from golf_opt.picture import BOTTOM, LEFT, RIGHT, TOP, learning_curve, ticks

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (91.2, 97.7, [90, 92, 94, 96, 98]),
        (0.1, 0.9, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (5.0, 5.0, None),
        (0.0, 0.0, None),
        (1e-4, 2.3, [0, 0.5, 1, 1.5, 2, 2.5]),
    ],
)
def test_ticks_are_round_and_hold_the_values(
    low: float, high: float, expected: list[float] | None
) -> None:
    found = ticks(low, high)
    assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 8
    assert expected is None or found == expected


def test_the_curve_has_every_epoch_within_the_frame() -> None:
    root = ElementTree.fromstring(learning_curve("a < b", [0.9, 0.95, 0.97], [0.5, 0.3, 0.2]))
    circles = [(float(c.get("cx", 0)), float(c.get("cy", 0))) for c in root.iter(f"{SVG}circle")]
    assert len(circles) == 3
    assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in circles)
    assert circles[0][1] > circles[1][1] > circles[2][1]  # better is higher
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"a < b", "epoch", "1", "2", "3"} <= set(texts)


def test_one_epoch_is_a_picture_too() -> None:
    assert learning_curve("t", [0.1], [2.3]).count("<circle") == 1
