"""--check looks at what is stored: it finds each kind of fault, and none after real imports."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from tables import KEYS, Database, Machine
from transcripts import Message, write_session

from ccusage_importer import QUERIES, read_queries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clickhouse_server import ClickHouseServer

DAILY, MONTHLY, SESSIONS, BLOCKS, PROJECTS, SHARES, _ = KEYS
ASKED = {
    name.removeprefix("integrity-"): query.sql
    for name, query in read_queries(QUERIES.read_text(encoding="utf-8")).items()
    if name.startswith("integrity-")
}
DAY, SESSION = "date = '2025-09-22'", "first_activity = '2025-09-22 08:00:00'"
SHARE = "record_type = 'daily' AND record_key = '2025-09-22'"


def copied(table: str, where: str, **changed: str) -> str:
    """A statement that adds a copy of the machine's row, with what is changed in it."""
    changes = ", ".join(f"{value} AS {column}" for column, value in changed.items())
    replacing = f"REPLACE ({changes})" if changes else ""
    of_machine = "machine_name = {machine:String}"
    rows = f"SELECT * FROM {table} FINAL WHERE {of_machine} AND {where} LIMIT 1"
    return f"INSERT INTO {table} SELECT * {replacing} FROM ({rows})"


def rewritten(table: str, where: str, **changed: str) -> str:
    """A statement that replaces the row by a newer version."""
    return copied(table, where, updated_at="updated_at + 1", **changed)


# What is done to a machine, by the name of the machine; and all that is found of it then: which
# query finds it, in which table, under which key, and a word of what it says.
FAULTS: dict[str, tuple[list[str], list[tuple[str, str, str, str]]]] = {
    "a model holds more tokens": (
        [rewritten(SHARES, SHARE, total_tokens="total_tokens + 7")],
        [("models", DAILY, "claude 2025-09-22", "7 tokens and $0 more")],
    ),
    "a model costs more": (
        [rewritten(SHARES, SHARE, cost="cost + 0.5")],
        [("models", DAILY, "claude 2025-09-22", "0 tokens and $0.5 more")],
    ),
    "a model of no row": (
        [copied(SHARES, SHARE, record_type="'monthly'", record_key="'2024-01'")],
        [("models", MONTHLY, "claude 2024-01", "not there")],
    ),
    "a key is there twice": (
        [copied(BLOCKS, "block_id = '2025-09-22T08:00:00.000Z'")],
        [("keys", BLOCKS, "claude 2025-09-22T08:00:00.000Z", "2 times")],
    ),
    "blocks overlap": (
        [
            copied(
                BLOCKS,
                "block_id = '2025-09-22T08:00:00.000Z'",
                block_id="'later'",
                start_time="start_time + toIntervalHour(4)",
                actual_end_time="NULL",
            )
        ],
        [("blocks", BLOCKS, "claude later", "begins before")],
    ),
    "a cost is no number": (
        [rewritten(SESSIONS, SESSION, total_cost="nan")],
        [("numbers", SESSIONS, "claude KEY", "costs nan")],
    ),
    "a cost is below nothing": (
        [rewritten(SHARES, SHARE, cost="-1")],
        [("numbers", SHARES, "claude daily 2025-09-22 claude-sonnet-4-20250514", "costs -1")],
    ),
    "a total is below its counters": (
        [rewritten(SESSIONS, SESSION, input_tokens="input_tokens + 1")],
        [("numbers", SESSIONS, "claude KEY", "smaller than the sum")],
    ),
    "a session ends before it begins": (
        [rewritten(SESSIONS, SESSION, first_activity="last_activity + 1")],
        [("numbers", SESSIONS, "claude KEY", "time that cannot be")],
    ),
    "a month that no calendar has": (
        [
            copied(
                MONTHLY,
                "month = '2025-09'",
                month="'2025-13'",
                total_tokens="0",
                **dict.fromkeys(
                    ("input_tokens", "output_tokens", "cache_creation_tokens", "cache_read_tokens"),
                    "0",
                ),
            )
        ],
        [("numbers", MONTHLY, "claude 2025-13", "time that cannot be")],
    ),
    "a session in the far future": (
        [rewritten(SESSIONS, SESSION, last_activity="toDateTime64('2290-01-01', 3, 'UTC')")],
        [("numbers", SESSIONS, "claude KEY", "in the future")],
    ),
    "a project holds more": (
        [
            rewritten(
                PROJECTS, DAY, output_tokens="output_tokens + 5", total_tokens="total_tokens + 5"
            )
        ],
        [("projects", DAILY, "claude 2025-09-22", "5 tokens and $0 less")],
    ),
    "a project costs less": (
        [rewritten(PROJECTS, DAY, total_cost="total_cost + 0.25")],
        [("projects", DAILY, "claude 2025-09-22", "0 tokens and $0.25 less")],
    ),
    "a month holds more than its days": (
        [rewritten(MONTHLY, "month = '2025-09'", total_tokens="total_tokens + 1")],
        [("months", MONTHLY, "claude 2025-09", "its days")],
    ),
    "a session holds more than its month": (
        [rewritten(SESSIONS, SESSION, total_tokens="total_tokens + 1000000")],
        [("months", MONTHLY, "claude 2025-09", "the sessions within it")],
    ),
}


@pytest.fixture(scope="module")
def machine(
    clickhouse: ClickHouseServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """A machine after an import, of which each fault has a copy of its own."""
    database = Database(clickhouse, "integrity")
    machine = Machine(tmp_path_factory.mktemp("integrity"), database=database)
    moments = [datetime(2025, 9, day, 8, tzinfo=timezone.utc) for day in (22, 23, 25)]
    for moment in moments:
        name = f"{moment:%Y%m%d}-0000-4000-8000-000000000000"
        write_session(machine.claude, "-home-dev-alpha", name, [Message(at=moment)])
    machine.stores()
    for table in (*KEYS, "ccusage_import_history"):
        clickhouse.query(f"SYSTEM STOP MERGES integrity.{table}")
        for name in FAULTS:
            database.query(
                f"INSERT INTO {table} SELECT * REPLACE ({{name:String}} AS machine_name) "
                f"FROM (SELECT * FROM {table} WHERE machine_name = 'm1')",
                name=name,
            )
    yield machine
    clickhouse.query("DROP DATABASE integrity")


def findings(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """What the queries find of each machine that has a fault, with their names before it."""
    found: dict[str, list[tuple[Any, ...]]] = {fault: [] for fault in FAULTS}
    for name, sql in ASKED.items():
        for machine, *row in database.query(sql.replace("currentDatabase()", "'integrity'")):
            found.setdefault(machine, []).append((name, *row))
    return {fault: found[fault] for fault in FAULTS}


@pytest.fixture(scope="module")
def found(machine: Machine) -> dict[str, list[tuple[Any, ...]]]:
    """What they find once each machine has its fault, and had nothing before."""
    database = machine.database
    assert database
    assert not any(findings(database).values())
    for fault, (statements, _) in FAULTS.items():
        for statement in statements:
            database.query(statement, machine=fault)
    return findings(database)


def integrity(machine: Machine) -> list[dict[str, str]]:
    done = machine.main("--check", "--format", "json")
    found = [one for one in json.loads(done.out) if one["name"] == "integrity"]
    assert {one["status"] for one in found} <= {"ok", "warning"}
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_nothing_beside_it(
    machine: Machine, found: dict[str, list[tuple[Any, ...]]], fault: str
) -> None:
    database = machine.database
    assert database
    _, wanted = FAULTS[fault]
    sql = f"SELECT session_key FROM {SESSIONS} FINAL WHERE machine_name = {{name:String}}"
    keys = [key for (key,) in database.query(sql, name=fault)]
    rows = [row for row in found[fault] if not is_version(row, wanted)]
    assert len(rows) == len(wanted), rows
    for row, (query, table, key, word) in zip(rows, wanted, strict=True):
        assert row[:2] == (query, table)
        assert row[2] == key or (key == "claude KEY" and row[2].removeprefix("claude ") in keys)
        assert word in row[3]
        assert row[4]


def is_version(row: tuple[Any, ...], wanted: list[tuple[str, str, str, str]]) -> bool:
    """Whether a row is only told because the fault stands in a second version of it."""
    return row[0] == "keys" and "keys" not in {query for query, *_ in wanted}


def test_a_check_names_the_faults_of_all_machines_with_the_remedy(machine: Machine) -> None:
    database = machine.database
    assert database
    for number in range(9):
        share = copied(SHARES, SHARE, model_name=f"'m{number}'", machine_name="'no history'")
        database.query(share, machine="m1")
    found = integrity(machine)
    assert all(one["status"] == "warning" for one in found), found
    details = [one["detail"] for one in found]
    assert f"no history: {SHARES}: claude: has 9 rows, but no import in the history" in details
    (remedy,) = (one["remedy"] for one in found if "no history: ccusage_model" in one["detail"])
    assert remedy == "run ccusage_importer.py on that machine"


def test_what_real_imports_store_is_in_order_and_agent_progress_is_no_fault(
    tmp_path: Path, database: Database
) -> None:
    machine = Machine(tmp_path, database=database)
    machine.populate()
    machine.stores()
    assert [one["detail"] for one in integrity(machine)] == ["the tables are in order"]
    began = datetime(2025, 11, 3, 8, tzinfo=timezone.utc)
    messages = [Message(at=began.replace(minute=n), progress=n == 9) for n in range(10)]
    write_session(machine.claude, "-home-dev-alpha", "with-progress", messages)
    machine.stores()
    explained, summary = integrity(machine)
    assert explained["detail"].startswith("m1: ccusage_usage_monthly: claude 2025-11: holds ")
    assert explained["detail"].endswith("ccusage 20 counts agent_progress lines in days alone")
    assert summary["detail"] == "the tables are in order"
    assert explained["status"] == summary["status"] == "ok"
