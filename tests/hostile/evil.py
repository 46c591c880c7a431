"""A database and an export with every trick.

`PYTHONPATH=.:tests python tests/hostile/evil.py FOLDER` makes both.

They begin as what golf-opt made: study `good` and study `bad`, both with trials 0 to 2. Then rows
are damaged, each in its own way, and attributes are given what would run or read something, if it
were believed. Whatever ran leaves a file, the canary.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import sqlite3
import sys
from pathlib import Path
from typing import Any

from conftest import golf_in

MAKE = (
    "study", "data=digits", "engine=torch", "epochs=2", "trials=3", "space.batch_size=32",
    "sampler=cmaes", "pruner=none", "callbacks.progress.mode=plain",
)  # fmt: skip
DEEP = "[" * 100_000 + "]" * 100_000
UUID = "00000000-0000-4000-8000-00000000000"  # and a digit


class Evil:
    """Unpickled, it makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def make_good(folder: Path) -> None:
    """Make `studies/golf.db` with two studies of three trials, and export one to `exported`."""
    for name in ("good", "bad"):
        golf_in(folder, *MAKE, f"study.name={name}")
    golf_in(folder, "export", "study=bad", "output=exported")


def pickled(canary: Path) -> dict[str, Any]:
    """Attributes of a trial that Optuna's CMA-ES would unpickle."""
    payload = pickle.dumps(Evil(canary)).hex()
    kinds = ("cma", "sepcma", "cmawm")
    return {
        key: value
        for kind in kinds
        for key, value in (
            (f"{kind}:optimizer:0", payload), (f"{kind}:generation", 0), (f"{kind}:n_restarts", 0),
        )
    }  # fmt: skip


def artifact(id_: str, **changed: Any) -> str:
    row = {"artifact_id": id_, "filename": "a.txt", "mimetype": "text/plain", "encoding": None}
    return json.dumps(row | changed)


# Statements that spoil one thing in study `bad`, whose trials are those of the view `theirs`. Each
# with a part of the line that names it, and whether it costs the trials 1 and 2.
TRIAL_1 = "(SELECT trial_id FROM theirs WHERE number = 1)"
STUDY = "(SELECT study_id FROM studies WHERE study_name = 'bad')"
SPOILED: dict[str, tuple[str, str]] = {
    "state": (f"UPDATE trials SET state = 'DONE' WHERE trial_id = {TRIAL_1}", "it has no 'DONE'"),
    "state blob": (f"UPDATE trials SET state = x'ff' WHERE trial_id = {TRIAL_1}", "trial 1"),
    "number text": (
        f"UPDATE trials SET number = 'one' WHERE trial_id = {TRIAL_1}", "its number is 'one'",
    ),
    "number twice": (
        f"UPDATE trials SET number = 0 WHERE trial_id = {TRIAL_1}", "its number is 0",
    ),
    "number huge": (f"UPDATE trials SET number = 1e18 WHERE trial_id = {TRIAL_1}", "its number"),
    "start": (
        f"UPDATE trials SET datetime_start = 'noon' WHERE trial_id = {TRIAL_1}",
        "Invalid isoformat",
    ),
    "complete blob": (
        f"UPDATE trials SET datetime_complete = x'00' WHERE trial_id = {TRIAL_1}", "trial 1",
    ),
    "value": (f"UPDATE trial_values SET value = 'high' WHERE trial_id = {TRIAL_1}", "'high'"),
    "value type": (
        f"UPDATE trial_values SET value_type = 'NAN' WHERE trial_id = {TRIAL_1}", "it has no 'NAN'",
    ),
    "no value": (f"DELETE FROM trial_values WHERE trial_id = {TRIAL_1}", "it has 0 values"),
    "value null": (f"UPDATE trial_values SET value = NULL WHERE trial_id = {TRIAL_1}", "trial 1"),
    "two values": (
        f"INSERT INTO trial_values VALUES (NULL, {TRIAL_1}, 1, 0.5, 'FINITE')", "it has 2 values",
    ),
    "step value": (
        "UPDATE trial_intermediate_values SET intermediate_value = 'x' WHERE trial_id = "
        f"{TRIAL_1}", "'x', but must be a number",
    ),
    "step": (
        "UPDATE trial_intermediate_values SET step = 1e30 WHERE step = 1 AND trial_id = "
        f"{TRIAL_1}", "trial 1",
    ),
    "distribution": (
        f"UPDATE trial_params SET distribution_json = '{{' WHERE trial_id = {TRIAL_1}", "trial 1",
    ),
    "distribution name": (
        "UPDATE trial_params SET distribution_json = "
        f"'{{\"name\": \"os.system\", \"attributes\": {{}}}}' WHERE trial_id = {TRIAL_1}",
        "trial 1",
    ),
    "distribution deep": (
        f"UPDATE trial_params SET distribution_json = '{DEEP}' WHERE trial_id = {TRIAL_1}",
        "nested too deep",
    ),
    "parameter": (
        f"UPDATE trial_params SET param_value = 'fast' WHERE trial_id = {TRIAL_1}", "'fast'",
    ),
    "user attribute": (
        f"UPDATE trial_user_attributes SET value_json = 'no JSON' WHERE trial_id = {TRIAL_1}",
        "Expecting value",
    ),
    "user attribute deep": (
        f"UPDATE trial_user_attributes SET value_json = '{DEEP}' WHERE trial_id = {TRIAL_1}",
        "nested too deep",
    ),
    "user attribute 60 deep": (
        f"UPDATE trial_user_attributes SET value_json = '{'[' * 60}{']' * 60}' WHERE trial_id = "
        f"{TRIAL_1}", "more than 50 levels",
    ),
    "user attribute blob": (
        f"UPDATE trial_user_attributes SET value_json = x'ffff' WHERE trial_id = {TRIAL_1}",
        "bytes stands where JSON must",
    ),
    "surrogate": (
        f"UPDATE trial_user_attributes SET value_json = '\"\\ud800\"' WHERE trial_id = {TRIAL_1}",
        "surrogates not allowed",
    ),
    "system attribute": (
        f"INSERT INTO trial_system_attributes VALUES (NULL, {TRIAL_1}, 'x', '{{')", "trial 1",
    ),
    "study attribute": (
        f"INSERT INTO study_system_attributes VALUES (NULL, {STUDY}, 'x', '{DEEP}')",
        "attribute 'x' is left out",
    ),
    "study user attribute": (
        f"INSERT INTO study_user_attributes VALUES (NULL, {STUDY}, 'x', 'nothing')",
        "attribute 'x' is left out",
    ),
    "description": (
        "UPDATE study_system_attributes SET value_json = '[1]' WHERE key = 'golf_opt:study' "
        f"AND study_id = {STUDY}", "description is damaged",
    ),
    "description without": (
        "UPDATE study_system_attributes SET value_json = '{}' WHERE key = 'golf_opt:study' "
        f"AND study_id = {STUDY}", "description is damaged: it has no 'format'",
    ),
    "fingerprint": (
        "UPDATE study_system_attributes SET key = 'golf_opt:recipe', value_json = '\"r\"' "
        f"WHERE key = 'golf_opt:study' AND study_id = {STUDY}; INSERT INTO study_system_attributes "
        f"VALUES (NULL, {STUDY}, 'golf_opt:fingerprint', '3')", "description is damaged",
    ),
    "own id": (
        "UPDATE study_system_attributes SET value_json = '\"../../outside\"' WHERE key = "
        f"'golf_opt:id' AND study_id = {STUDY}", "attribute 'golf_opt:id' is left out",
    ),
    "note": (
        "UPDATE study_system_attributes SET value_json = '{\"a\": 1}' WHERE key = "
        f"'dashboard:note_ver' AND study_id = {STUDY}", "'dashboard:note_ver' is left out",
    ),
    "note sections": (
        f"INSERT INTO study_system_attributes VALUES (NULL, {STUDY}, 'golf_opt:note_sections', "
        "'[3]')", "'golf_opt:note_sections' is left out",
    ),
    "test readings": (
        f"INSERT INTO study_system_attributes VALUES (NULL, {STUDY}, 'golf_opt:test_readings', "
        "'[{}]')", "'golf_opt:test_readings' is left out",
    ),
    "artifact": (
        f"INSERT INTO study_system_attributes VALUES (NULL, {STUDY}, 'artifacts:{UUID}0', "
        "'\"{}\"')", f"'artifacts:{UUID}0' is left out",
    ),
    "direction": (
        f"UPDATE study_directions SET direction = 'UP' WHERE study_id = {STUDY}",
        "study 'bad': it is left out",
    ),
    "no direction": (
        f"DELETE FROM study_directions WHERE study_id = {STUDY}",
        "study 'bad': it is left out: it has no direction",
    ),
    "name blob": (
        f"UPDATE studies SET study_name = x'ff00' WHERE study_id = {STUDY}",
        "is left out: its name",
    ),
    "name bytes": (
        f"UPDATE studies SET study_name = x'' WHERE study_id = {STUDY}",
        "is left out: its name",
    ),
    "lease": (
        f"UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE trial_id = {TRIAL_1};"
        f" DELETE FROM trial_values WHERE trial_id = {TRIAL_1};"
        f" INSERT INTO golf_leases VALUES ({TRIAL_1}, 'me:and:no', 'soon', 'many')", "",
    ),
    "lease blob": (
        f"UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE trial_id = {TRIAL_1};"
        f" DELETE FROM trial_values WHERE trial_id = {TRIAL_1};"
        f" INSERT INTO golf_leases VALUES ({TRIAL_1}, x'ff00', x'00', 9e999);"
        f" INSERT INTO golf_reservations VALUES ({TRIAL_1}, 'far')", "",
    ),
    "lease of the future": (
        f"UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE trial_id = {TRIAL_1};"
        f" DELETE FROM trial_values WHERE trial_id = {TRIAL_1};"
        f" INSERT INTO golf_leases VALUES ({TRIAL_1}, 'elsewhere', 9e999, {2**63 - 1})", "",
    ),
    "checkpoint": (
        f"UPDATE trials SET state = 'WAITING', datetime_complete = NULL WHERE trial_id = {TRIAL_1};"
        f" DELETE FROM trial_values WHERE trial_id = {TRIAL_1};"
        " UPDATE golf_checkpoints SET data = 'text' WHERE number = 1", "",
    ),
}  # fmt: skip


def spoil(database: Path, *statements: str) -> None:
    """Run statements over the trials of study `bad`."""
    view = f"CREATE TEMP VIEW theirs AS SELECT * FROM trials WHERE study_id = {STUDY}"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.executescript(";\n".join([view, *statements]))
        connection.commit()


def attribute(table: str, owner: str, key: str, value: Any) -> str:
    """Return the statement that gives a trial or study an attribute."""
    texts = [text.replace("'", "''") for text in (key, json.dumps(value))]
    return (
        f"INSERT OR REPLACE INTO {table}_attributes SELECT NULL, {owner}, '{texts[0]}', "
        f"'{texts[1]}'"
    )


def spoil_everything(database: Path, canary: Path) -> int:
    """Give study `bad` twenty trials more, and each a trick; trials 0 and 2 stay good.

    Return how many rows are hostile or damaged.
    """
    copies, tricks = [], [key for key, (sql, _) in SPOILED.items() if TRIAL_1 in sql]
    for number, key in enumerate(tricks, 3):
        owner = f"(SELECT trial_id FROM theirs WHERE number = {number})"
        copies += [
            f"INSERT INTO trials SELECT NULL, {number}, study_id, state, datetime_start, "
            "datetime_complete FROM theirs WHERE number = 2"
        ]
        for table, rest in (
            ("trial_values", "objective, value, value_type"),
            ("trial_intermediate_values", "step, intermediate_value, intermediate_value_type"),
            ("trial_params", "param_name, param_value, distribution_json"),
            ("trial_user_attributes", "key, value_json"),
        ):
            source = f"{table} WHERE trial_id = (SELECT trial_id FROM theirs WHERE number = 2)"
            copies += [f"INSERT INTO {table} SELECT NULL, {owner}, {rest} FROM {source}"]
        copies += [SPOILED[key][0].replace(TRIAL_1, owner)]
    clean = len(copies) - len(tricks)
    for key, value in pickled(canary).items():
        for number in (0, 2):
            owner = f"(SELECT trial_id FROM theirs WHERE number = {number})"
            copies += [attribute("trial_system", owner, key, value)]
    copies += [
        attribute("study_system", STUDY, key, value)
        for key, value in {
            f"artifacts:{UUID}1": artifact("../../../../etc/passwd"),
            f"artifacts:{UUID}2": artifact(f"{UUID}2", mimetype="text/html\r\nX: y"),
            "dashboard:artifacts:1:x": "{",
            "golf_opt:confirmed": 7,
            "a\x1b[2J\nline": "\x1b[2J",
        }.items()
    ]
    copies += [
        SPOILED[key][0] for key in ("note", "note sections", "test readings", "study attribute")
    ]
    spoil(database, *copies)
    return len(copies) - clean


def spoil_export(export: Path, secret: Path, canary: Path) -> None:
    """Put pickles into every trial, damage trial 1, and link artifacts to a file of the user's."""
    path = export / "trials.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        id_ = f"{UUID}{row['number']}"
        row["system_attrs"] |= pickled(canary) | {f"artifacts:{id_}": artifact(id_)}
    rows[1]["values"] = ["high"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (export / "artifacts").mkdir(exist_ok=True)
    (export / "artifacts" / f"{UUID}0").symlink_to(secret)
    study = json.loads((export / "study.json").read_text())
    study["files"][f"artifacts/{UUID}0"] = hashlib.sha256(secret.read_bytes()).hexdigest()
    study["system_attrs"]["golf_opt:study"]["sampler"] = {
        "_target_": "optuna.samplers.CmaEsSampler"
    }
    (export / "study.json").write_text(json.dumps(study))


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True)
    make_good(place)
    (place / "secret").write_text("what nobody else is to read")
    spoil_export(place / "exported", place / "secret", place / "canary")
    spoil_everything(place / "studies" / "golf.db", place / "canary")
