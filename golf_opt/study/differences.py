"""In what two studies differ, in the words of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from golf_opt.utils.text import slug

MOST_SHOWN = 4
NOTHING = "nothing"


class Difference(NamedTuple):
    """One of them: what stands for it on the command line, and what it is in both."""

    key: str
    before: str
    now: str
    word: str = ""  # short enough for the name of a study; empty where it is not


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Return in what two identities differ, as `StudyDescription.identity` gives them."""
    found = []
    for key, typed in (("arch", "arch"), ("family", "family"), ("function", "objective")):
        old, new = before.get(key, NOTHING), now.get(key, NOTHING)
        if old != new:  # the layers follow
            found.append(Difference(typed, old, new, "" if new == NOTHING else new))
    if not found and "layers" in now:
        found += _of_layers(before["layers"], now["layers"])
    if not found and "arch" not in now and before["objective"] != now["objective"]:
        typed = "goals" if "family" in now else "directions"
        found.append(Difference(typed, before["objective"], now["objective"]))
    found += _of_spaces(before["space"], now["space"])
    if before["data"].rpartition("(")[2] != now["data"].rpartition("(")[2]:  # by whatever path
        names = [row["data"].rpartition(" ")[0] or NOTHING for row in (before, now)]
        same = names[0] == names[1]
        shown = (before["data"], now["data"]) if same else (names[0], names[1])
        found.append(Difference("data", *shown, "" if same else names[1]))
    if before["protocol"] != now["protocol"]:
        found.append(Difference("protocol", before["protocol"], now["protocol"], now["protocol"]))
    if before["epochs"] != now["epochs"]:
        epochs = str(before["epochs"]), str(now["epochs"])
        found.append(Difference("epochs", *epochs, f"{now['epochs']}epochs"))
    old, new = before.get("teacher", NOTHING), now.get("teacher", NOTHING)
    if old != new:
        found.append(Difference("teacher", old, new, "" if new == NOTHING else f"teacher{new[:6]}"))
    if before["seeds"] != now["seeds"]:
        found.append(Difference("seeds", before["seeds"], now["seeds"], "seeds"))
    return found


def _of_layers(before: Sequence[str], now: Sequence[str]) -> list[Difference]:
    found = []
    for index, (old, new) in enumerate(zip_longest(before, now, fillvalue=NOTHING), 1):
        kind, _, options = old.partition("(")
        if new.startswith(f"{kind}("):  # what else of it differs
            rows = options.removesuffix(")").split(", "), new[len(kind) + 1 : -1].split(", ")
            left, right = (
                ", ".join(row for row in mine if row not in theirs)
                for mine, theirs in (rows, rows[::-1])
            )
            if left or right:
                found.append(Difference(f"layer {index}, {kind}", left, right))
        elif old != new:
            found.append(Difference(f"layer {index}", old, new))
    return found


def _of_spaces(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    found = []
    for name in dict.fromkeys([*before, *now]):
        if before.get(name) != now.get(name):
            shown = _shown(before.get(name)), _shown(now.get(name))
            fixed = name in now and not isinstance(now[name], Mapping)
            found.append(Difference(f"space.{name}", *shown, f"{name}{shown[1]}" if fixed else ""))
    return found


def _shown(row: Any) -> str:
    """Return a row of `Space.describe` as `4..32`, `one of step, cosine` or a value."""
    if not isinstance(row, Mapping):
        return NOTHING if row is None else str(row)
    if "choices" in row:
        words = f"one of {', '.join(map(str, row['choices']))}"
    else:
        words = f"{row['low']}..{row['high']}{' (log)' if row['log'] else ''}"
        if row["step"] not in (None, 1):
            words += f" in steps of {row['step']}"
    for other, allowed in row.get("when", {}).items():
        words += f" where {other} is {' or '.join(map(str, allowed))}"
    return words


def told(found: Sequence[Difference]) -> str:
    """Return `space.batch_size: 4..32 before, 14 now; epochs: 18 before, 2 now`."""
    rows = [f"{key}: {before} before, {now} now" for key, before, now, _ in found[:MOST_SHOWN]]
    more = len(found) - MOST_SHOWN
    return "; ".join([*rows, f"and {more} more"] if more > 0 else rows)


def name_for(name: str, found: Sequence[Difference], space: str | None) -> str:
    """Return a name for a study that differs so from the one of a name.

    Args:
        name: of the study that is there.
        found: in what the other one differs.
        space: the group's choice, if the user made one.
    """
    words = [difference.word for difference in found]
    suffix = "-".join(words) if len(words) <= 2 and all(words) else space
    if not suffix:
        return name
    return f"{name[:150]}{'-' if '@' in name else '@'}{slug(suffix)[:40]}"
