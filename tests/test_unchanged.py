"""An import after one that changed nothing reads no rows back, and still misses nothing."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tables import Machine
from transcripts import SONNET, Message, midnight_of, write_session

if TYPE_CHECKING:
    from pathlib import Path

    from tables import Database

DAY = "ccusage_usage_daily"


@pytest.fixture
def machine(tmp_path: Path, database: Database) -> Machine:
    """Imported until a run changed nothing."""
    machine = Machine(tmp_path, database=database)
    machine.populate(days=4)
    for _ in range(2):
        machine.imports()
    return machine


def reads(machine: Machine) -> int:
    """How many statements of the runs since the last question read rows back."""
    asked = machine.database.server.statements(reset=True)
    return sum("is_deleted FROM" in statement.query for statement in asked)


def test_the_next_run_reads_nothing_back_and_says_the_same(machine: Machine) -> None:
    before = machine.tables(keep=True)
    said = json.loads(machine.imports("--format", "json").out)
    assert reads(machine) > 0
    again = json.loads(machine.imports("--format", "json").out)
    assert reads(machine) == 0
    same = ("tables", "held", "total_tokens", "total_cost", "feeds_imported", "identity")
    assert {name: again[name] for name in same} == {name: said[name] for name in same}
    assert sum(count["unchanged"] for count in again["tables"].values()) > 50
    assert machine.tables(keep=True) == before
    columns = ("rows_inserted", "feeds_imported", "total_tokens", "held_reasons", "ccusage_version")
    rows = machine.history(*columns)
    assert len(rows) == 4
    assert rows[3] == rows[2] == rows[1]
    machine.check()


@pytest.mark.parametrize(
    "damage",
    [
        f"ALTER TABLE {DAY} UPDATE total_tokens = 1 WHERE 1 SETTINGS mutations_sync = 1",
        "ALTER TABLE ccusage_model_breakdowns UPDATE cost = 9 WHERE 1 SETTINGS mutations_sync = 1",
        "DELETE FROM ccusage_models_used WHERE 1",
        "DELETE FROM ccusage_usage_sessions WHERE 1",
        f"INSERT INTO {DAY} SELECT * REPLACE (1 AS is_deleted, updated_at + 1 AS updated_at) "
        f"FROM {DAY} LIMIT 1",
    ],
)
def test_what_somebody_did_to_the_tables_is_noticed(damage: str, machine: Machine) -> None:
    machine.database.query(damage)
    machine.imports("--allow-shrink")
    machine.check()


def test_usage_a_name_shown_and_a_failed_report_are_noticed(machine: Machine) -> None:
    moment = midnight_of(date(2025, 9, 21)) + timedelta(hours=3)
    path = write_session(machine.claude, "-p", "new", [Message(moment, model=SONNET)])
    machine.imports()
    machine.check()
    for _ in range(2):
        machine.imports()
    machine.imports("--no-hash-projects")
    machine.check(machine.expected(hidden=False))
    stub = machine.stub()
    stub.fail("daily")
    for _ in range(2):
        assert "out of luck" in machine.imports("--no-hash-projects", code=3).err
    assert machine.history("feeds_failed")[-1] == (["daily"],)
    assert path.exists()


def test_rows_that_are_held_are_told_of_each_time(machine: Machine) -> None:
    stub = machine.stub()
    feeds: dict[str, Any] = machine.feeds()
    row = feeds["daily"]["daily"][0]
    row["inputTokens"] -= 1
    row["totalTokens"] -= 1
    totals = feeds["daily"]["totals"]
    totals["inputTokens"] -= 1
    totals["totalTokens"] -= 1
    stub.say(**feeds)
    held = [json.loads(machine.imports("--format", "json").out)["held"] for _ in range(3)]
    reads(machine)
    machine.imports()
    assert reads(machine) == 0
    assert held == [{"their transcripts are gone": 1}] * 3
    rows = machine.history("rows_held", "held_reasons")
    assert rows[-4:] == [(1, {"their transcripts are gone": 1})] * 4
