"""Another database is merged into the one in force: nothing is lost, and nothing changes twice."""

from __future__ import annotations

import json
import stat
import subprocess
import tempfile
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import transcripts
from project import Project
from scenes import settle
from tables import KEYS, Database, Machine, embedded, read
from transcripts import Message

import ccusage_importer
from ccusage_importer import (
    ConfigError,
    Record,
    Settings,
    Tokens,
    child_environment,
    merge_blocks,
    merge_rows,
    source_settings,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clickhouse_server import ClickHouseServer
    from tables import Query

HISTORY = "ccusage_import_history"


class Fleet(NamedTuple):
    """Two machines that imported into one embedded database, and another one of theirs."""

    first: Machine
    second: Machine

    def env(self, path: Path) -> dict[str, str]:
        return {"CH_HOST": "", "CH_EMBEDDED_PATH": str(path), "MACHINE_NAME": ""}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed copy or import is not waited for long."""
    monkeypatch.setattr(ccusage_importer, "WRITING", 0.1)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    home = tmp_path_factory.mktemp("fleet")
    first = Machine(home, "m1")
    first.populate(days=4)
    first.stores()
    second = Machine(home, "m2", CH_EMBEDDED_PATH=str(first.path))
    second.populate(days=2, start=date(2025, 8, 30), seed=7)
    second.stores()
    first.stores("--agents", "claude")  # a second run
    return Fleet(first, second)


def contents(query: Query) -> dict[str, list[Any]]:
    """All rows of all tables, but for the updated_at of usage; each key once without FINAL."""
    found: dict[str, list[Any]] = {}
    for machine in ("m1", "m2"):
        tables = read(query, machine, keep=True)
        for table, rows in tables.items():
            for row in rows.values():
                row.pop("updated_at")
            found[f"{machine} {table}"] = sorted(map(str, rows.items()))
    sql = f"SELECT * FROM {HISTORY} ORDER BY machine_name, updated_at"
    found[HISTORY] = list(map(str, query(sql)))
    assert len(found) == 2 * len(KEYS) + 1
    assert all(rows for name, rows in found.items() if name.startswith("m1"))
    return found


def at(path: Path) -> dict[str, list[Any]]:
    with embedded(path) as query:
        return contents(query)


def address(database: Database) -> str:
    server = database.server
    return f"http://{server.host}:{server.port}/{database.name}"


def another(database: Database) -> Database:
    return Database(database.server, f"{database.name}_other")


def moved_to(database: Database) -> dict[str, str]:
    return {**database.env(), "MACHINE_NAME": ""}


# --- from one database to the next ---------------------------------------------------------


def test_a_history_moves_from_database_to_database_and_stays_the_same(
    fleet: Fleet, database: Database, tmp_path: Path
) -> None:
    wanted, machine = at(fleet.first.path), fleet.first
    other, back, last = another(database), tmp_path / "back", tmp_path / "last"
    machine.stores("--copy-from", str(machine.path), **moved_to(database))
    assert contents(database.query) == wanted
    machine.stores("--copy-from", address(database), **moved_to(other))
    assert contents(other.query) == wanted
    machine.stores("--copy-from", address(other), **fleet.env(back))
    assert at(back) == wanted
    machine.stores("--copy-from", str(back), **fleet.env(last))  # one after the other
    assert at(last) == wanted
    assert at(back) == wanted
    assert not [path for path in machine.state.iterdir() if "copy" in path.name]
