"""Imports into a server that tests disturb at each of their statements.

A `Scene` is one import that is about to happen; after each disturbance it is set back to that
point. A `Seesaw` goes back and forth between two states, and needs no setting back.
"""

from __future__ import annotations

import shutil
import time
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, TypeVar

import pytest
import transcripts
from tables import (
    KEYS,
    NO_OTHERS,
    VIEWS,
    Machine,
    assert_same,
    check_views,
    finally_shown,
    read,
    read_all,
)
from transcripts import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from clickhouse_server import ClickHouseServer
    from tables import Database, Tables

    Choose = Callable[[Iterable["Moment"], int], list["Moment"]]

HISTORY = "ccusage_import_history"
Moment = TypeVar("Moment")


def part(moments: Iterable[Moment], one_in: int) -> list[Moment]:
    """One in so many of the moments, others every day: after as many days, each had its turn."""
    return list(moments)[date.today().toordinal() % one_in :: one_in]


def whole(moments: Iterable[Moment], one_in: int) -> list[Moment]:
    return list(moments)


# A run can be disturbed at each of its statements: today at some of them, under stress at all.
CHOICES = pytest.mark.parametrize(
    "choose", [part, pytest.param(whole, marks=pytest.mark.stress)], ids=["part", "whole"]
)


def settle(server: ClickHouseServer) -> None:
    """Wait until the server has ended what was sent to it."""
    quiet, deadline = 0, time.monotonic() + 60
    while quiet < 2:
        assert time.monotonic() < deadline, server.statements()
        time.sleep(0.002)
        _, running = server.progress()
        quiet = 0 if running else quiet + 1


class Scene:
    """The tables hold `before`, and a run with `args` makes them hold `after`.

    The first run, which shows what `after` is, asks the real ccusage. Later runs get the same
    answers from a stub. A second database keeps `before`, so that `reset` can restore it.
    """

    def __init__(self, machine: Machine, *args: str) -> None:
        assert machine.database
        self.machine = machine
        self.args = args
        self.database: Database = machine.database
        self.server = self.database.server
        self.backup = f"{self.database.name}_backup"
        self.first = not machine.state.exists()
        self.before: Tables = {table: {} for table in KEYS}
        self.runs = 0
        if not self.first:
            self.before = read(self.database.query, machine.name)
            self.runs = len(machine.history())
            self._save()
        machine.stores(*self.args)
        self.after: Tables = read(self.database.query, machine.name)
        assert len(machine.history()) == self.runs + 1
        machine.freeze()
        self.reset()

    def _save(self) -> None:
        self.server.query(f"DROP DATABASE IF EXISTS {self.backup}")
        self.server.query(f"CREATE DATABASE {self.backup}")
        for table in (*KEYS, HISTORY):
            name = f"{self.backup}.{table}"
            self.server.query(f"CREATE TABLE {name} AS {self.database.name}.{table}")
            self.server.query(f"INSERT INTO {name} SELECT * FROM {self.database.name}.{table}")
        shutil.copytree(self.machine.state, self.machine.home / "state.backup")

    def reset(self) -> None:
        """Everything as before the run."""
        self.server.disarm()
        shutil.rmtree(self.machine.state, ignore_errors=True)
        if self.first:
            self.server.query(f"DROP DATABASE IF EXISTS {self.database.name} SYNC")
            return
        for table in (*KEYS, HISTORY):
            name = f"{self.database.name}.{table}"
            self.server.query(f"TRUNCATE TABLE {name}")
            self.server.query(
                f"INSERT INTO {name} SETTINGS insert_deduplicate = 0 "
                f"SELECT * FROM {self.backup}.{table}"
            )
        shutil.copytree(self.machine.home / "state.backup", self.machine.state)

    def statements_of_a_run(self) -> int:
        """How many statements an undisturbed run sends."""
        self.server.statements(reset=True)
        self.machine.imports(*self.args)
        count = len(self.server.statements(reset=True))
        self.reset()
        return count

    def settle(self) -> None:
        settle(self.server)

    def exists(self) -> bool:
        rows = self.server.query(
            "SELECT name FROM system.tables WHERE database = {db:String}", db=self.database.name
        )
        return {*KEYS, *VIEWS, HISTORY} <= {name for (name,) in rows}

    def check_between(self) -> bool:
        """Check that FINAL shows each table as before or as after: whether any is as after."""
        if not self.exists():
            return False
        shown = read(self.database.query, self.machine.name, final=True)
        changed = False
        for table, rows in shown.items():
            now = {table: rows}
            if rows != self.before[table]:
                assert_same(now, {table: self.after[table]})
                changed = True
        check_views(self.database.query, self.machine.name, shown)
        return changed

    def untouched(self) -> bool:
        """Whether all is as before, also without FINAL."""
        if self.first or not self.exists():
            return False
        if len(self.machine.history()) != self.runs:
            return False
        try:
            return read(self.database.query, self.machine.name) == self.before
        except AssertionError:  # superseded rows, or tombstones
            return False

    def recover(self) -> None:
        """A clean run, after which all is as after an undisturbed one, without FINAL too."""
        self.machine.stores(*self.args)
        assert_same(read(self.database.query, self.machine.name), self.after)
        assert len(self.machine.history()) in (self.runs + 1, self.runs + 2)


class Seesaw:
    """Imports that go back and forth between two states, as a stub reports one or the other.

    Every table changes each time, and rows disappear.
    """

    def __init__(self, tmp_path: Path, database: Database) -> None:
        self.machine = machine = Machine(tmp_path, database=database)
        self.database, self.server = database, database.server
        machine.populate(days=5)
        low = machine.feeds()
        work_in_a_pause(machine)
        machine.populate(start=date(2025, 9, 25), days=2, seed=2)
        high = machine.feeds()
        self.stub = machine.stub()
        self.stub.say(agents=NO_OTHERS)
        self.feeds = (low, high)
        self.states: list[Tables] = [{}, {}]
        self.side = 0
        for side in (1, 0, 1, 0):
            self._say(side)
            machine.stores(*self.args)
            self.states[side] = read(database.query, machine.name)
            self.side = side
        for table in KEYS:
            assert self.before[table] != self.after[table]
        gone = (
            self.after["ccusage_usage_blocks"].keys() - self.before["ccusage_usage_blocks"].keys()
        )
        assert gone  # so that one of the two ways writes tombstones
        self._say(1)

    def _say(self, side: int) -> None:
        self.stub.say(**self.feeds[side])
        self.args = ("--allow-shrink", "--no-hash-projects" if side else "--hash-projects")

    @property
    def before(self) -> Tables:
        return self.states[self.side]

    @property
    def after(self) -> Tables:
        return self.states[1 - self.side]

    def look(self) -> str:
        """Check what a disturbed run left, and tell how far it came."""
        raw = read_all(self.database.query, self.machine.name)
        shown = {table: finally_shown(rows) for table, rows in raw.items()}
        for table, rows in shown.items():
            if rows != self.before[table]:
                assert_same({table: rows}, {table: self.after[table]})
        if any(len(raw[table]) != len(shown[table]) for table in KEYS):
            return "torn"
        if shown == self.before:
            return "untouched"
        return "done" if shown == self.after else "torn"

    def recover(self) -> None:
        """A clean run, after which all is exact without FINAL too. The next run goes back."""
        self.machine.stores(*self.args)
        assert_same(read(self.database.query, self.machine.name), self.after)
        self.turn()

    def turn(self) -> None:
        self.side = 1 - self.side
        self._say(1 - self.side)

    def statements_of_a_run(self) -> int:
        self.server.statements(reset=True)
        self.machine.imports(*self.args)
        count = len(self.server.statements(reset=True))
        self.turn()
        return count

    def settle(self) -> None:
        settle(self.server)


def work_in_a_pause(machine: Machine) -> None:
    """A session where a gap was."""
    gaps = [row for row in machine.report("blocks")["blocks"] if row["isGap"]]
    middle = datetime.fromisoformat(gaps[1]["startTime"][:-1]).replace(tzinfo=timezone.utc)
    late = [Message(middle + timedelta(hours=1), model="claude-new-1")]
    transcripts.write_session(machine.claude, transcripts.PROJECTS[0], "late", late)


def first_import(tmp_path: Path, database: Database) -> Scene:
    machine = Machine(tmp_path, database=database)
    machine.populate(days=5)
    scene = Scene(machine)
    assert_same(scene.after, machine.expected())
    return scene


def an_hour(tmp_path: Path, database: Database) -> Scene:
    """An hour's work: one session goes on, and another begins."""
    machine = Machine(tmp_path, database=database)
    machine.populate(days=5)
    machine.stores()
    path = max((machine.claude / "projects").glob("*/*.jsonl"), key=lambda path: path.name)
    late = datetime(2025, 9, 24, 23, tzinfo=timezone.utc)
    transcripts.grow(path, [Message(late)])
    transcripts.write_session(machine.claude, "-new", "new", [Message(late, model="claude-new-1")])
    scene = Scene(machine)
    assert_same(scene.after, machine.expected())
    return scene


def upgrade(tmp_path: Path, database: Database) -> Scene:
    """From ccusage 18 to 20: rows that stood for whole projects give way to those of sessions."""
    machine = Machine(tmp_path, version="18.0.11", database=database)
    machine.populate(days=5, resumed=False)
    machine.stores()
    path = next((machine.claude / "projects" / transcripts.PROJECTS[0]).glob("*.jsonl"))
    path.unlink()  # its project's row is not explained by sessions alone
    machine.use("20.0.24")
    scene = Scene(machine)
    sessions = [tables["ccusage_usage_sessions"] for tables in (scene.before, scene.after)]
    assert sessions[0].keys() - sessions[1].keys()
    return scene
