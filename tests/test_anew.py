"""A run compares only what ccusage says anew, and still misses nothing."""

from __future__ import annotations

import copy
import json
import re
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tables import FEED_TABLES, Database, Expected, Machine, assert_same, noon
from test_year import Life
from transcripts import OPUS, SONNET, Message, grow, midnight_of, write_session

import ccusage_importer

if TYPE_CHECKING:
    from pathlib import Path

DAY = "ccusage_usage_daily"
LATER = midnight_of(date(2025, 9, 21)) + timedelta(hours=3)


@pytest.fixture
def machine(tmp_path: Path, database: Database) -> Machine:
    """Has imported four days."""
    machine = Machine(tmp_path, database=database)
    machine.populate(days=4)
    machine.stores()
    return machine


def reads(machine: Machine) -> list[dict[str, str]]:
    """What was asked of the rows, in the runs since the last question: parameters by name."""
    asked = machine.database.server.statements(reset=True)
    return [statement.params for statement in asked if "is_deleted FROM" in statement.query]


def said(machine: Machine, *args: str, code: int = 0) -> dict[str, Any]:
    """What an import says of itself."""
    result: dict[str, Any] = json.loads(machine.imports("--format", "json", *args, code=code).out)
    return result


def test_where_ccusage_says_the_same_nothing_is_read_and_nothing_changes(machine: Machine) -> None:
    before = machine.tables(keep=True)
    reads(machine)
    first, second = said(machine), said(machine)
    assert reads(machine) == []
    for result in (first, second):
        assert all(count[:3] == [0, 0, 0] for count in counts(result).values())
        assert result["feeds_imported"] == sorted(FEED_TABLES)
    assert counts(second)[DAY][3] == 4
    same = ("tables", "held", "total_tokens", "total_cost", "identity", "hashed")
    assert {name: first[name] for name in same} == {name: second[name] for name in same}
    assert machine.tables(keep=True) == before
    columns = ("feeds_imported", "total_tokens", "total_cost", "held_reasons", "ccusage_version")
    assert len(set(map(str, machine.history(*columns)))) == 1
    machine.check()


def counts(result: dict[str, Any]) -> dict[str, list[int]]:
    return {name: list(count.values()) for name, count in result["tables"].items()}


def test_where_an_hour_was_worked_only_its_rows_are_read(machine: Machine) -> None:
    path = write_session(machine.claude, "-p", "new", [Message(LATER, model=SONNET)])
    result = said(machine)
    machine.check()
    assert counts(result)["ccusage_usage_sessions"][:3] == [1, 0, 0]
    reads(machine)
    grow(path, [Message(LATER + timedelta(minutes=5), model=OPUS)])
    result = said(machine)
    machine.check()
    assert counts(result)["ccusage_usage_sessions"][:3] == [0, 1, 0]
    for asked in reads(machine):
        assert asked["since"] == "2025-08"  # of blocks the month before too
        keys = set(re.findall(r"'(.*?)'", asked["keys"]))
        assert "2025-09" in keys
        assert len(keys) == 3  # the month, the session, the project's day
    tables = machine.tables()
    assert result["total_tokens"] == sum(row["total_tokens"] for row in tables[DAY].values())
    cost = sum(row["total_cost"] for row in tables[DAY].values())
    assert result["total_cost"] == pytest.approx(cost, abs=1e-8)


@pytest.mark.parametrize(
    ("version", "steps"),
    [pytest.param("18.0.11", 5, marks=pytest.mark.stress), ("20.0.24", 9)],
)
def test_a_life_of_purges_leaves_what_it_leaves_one_that_forgets_each_time(
    version: str, steps: int, tmp_path: Path, database: Database
) -> None:
    life = Life(Machine(tmp_path, database=database), 4, resumed=version >= "19", days=steps + 4)
    machine, twin = life.machine, Machine(tmp_path, "m2", database=database)
    for one in (machine, twin):
        one.use(version)
    stub = machine.stub()
    twin.env["CCUSAGE_COMMAND"] = machine.env["CCUSAGE_COMMAND"]
    twin.env["CLAUDE_CONFIG_DIR"] = machine.env["CLAUDE_CONFIG_DIR"]
    before, held = midnight_of(life.plan[0].messages[0].at.date()), 0
    for step in range(1, steps + 1):
        now = midnight_of(before.date()) + timedelta(days=1, hours=7 * step % 24)
        life.go_on(before, now)
        feeds = machine.feeds()
        stub.say(**feeds)  # as ccusage 18 credits copied messages by chance
        options = ("--no-hash-projects",) if step in (5, 6) else ()
        options += ("--allow-shrink",) if step == steps - 2 else ()
        results = [said(machine, *options)]
        (twin.state / "imported.json").unlink(missing_ok=True)
        results.append(said(twin, *options))
        assert counts(results[0]) == counts(results[1])
        for name in ("held", "lowered", "total_tokens", "total_cost"):
            assert results[0][name] == results[1][name]
        assert_same(machine.tables(), twin.tables())
        held += sum(results[0]["held"].values())
        before = now
    assert held > 0 or version < "19"


@pytest.mark.parametrize(
    "damage",
    [
        f"ALTER TABLE {DAY} UPDATE total_tokens = 1 WHERE 1 SETTINGS mutations_sync = 1",
        "ALTER TABLE ccusage_model_breakdowns UPDATE cost = 9 WHERE 1 SETTINGS mutations_sync = 1",
        "DELETE FROM ccusage_models_used WHERE 1",
        "DELETE FROM ccusage_usage_sessions WHERE 1",
        f"INSERT INTO {DAY} SELECT * REPLACE (1 AS is_deleted, updated_at + 1 AS updated_at) "
        f"FROM {DAY} LIMIT 1",
        "INSERT INTO ccusage_usage_blocks SELECT * REPLACE (updated_at - 1 AS updated_at) "
        "FROM ccusage_usage_blocks",
    ],
)
def test_what_somebody_did_to_the_tables_is_noticed(damage: str, machine: Machine) -> None:
    wanted = Expected().claude(machine.freeze()).tables
    machine.database.query(damage)
    machine.stores("--allow-shrink")
    machine.check(wanted)


def test_a_row_that_arrives_while_a_run_writes_is_noticed_by_the_next_one(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as that of an earlier run, whose connection broke."""
    record = ccusage_importer.history_row

    def late(*args: Any) -> Any:
        machine.database.query(
            f"INSERT INTO {DAY} SELECT * REPLACE (1 AS total_tokens, "
            f"updated_at - 1 AS updated_at) FROM {DAY} LIMIT 1"
        )
        return record(*args)

    with monkeypatch.context() as patch:
        patch.setattr(ccusage_importer, "history_row", late)
        machine.stores()
    machine.stores()
    machine.check()


def test_without_what_it_remembers_a_run_compares_everything(machine: Machine) -> None:
    wanted = Expected().claude(machine.freeze()).tables
    path = machine.state / "imported.json"
    assert path.stat().st_mode & 0o077 == 0
    for content in (None, "", "{", "[]", '{"tables": 1}', "\0", '{"units": {}}'):
        path.unlink()
        if content is not None:
            path.write_text(content)
        reads(machine)
        assert all(count[:3] == [0, 0, 0] for count in counts(said(machine)).values())
        assert len(reads(machine)) == 3
    machine.check(wanted)
    machine.stores()
    assert reads(machine) == []


def test_another_ccusage_other_agents_and_names_shown_are_compared(machine: Machine) -> None:
    machine.stores("--no-hash-projects")
    machine.check(machine.expected(hidden=False))
    machine.stores()
    machine.check()
    write_session(machine.claude, "-p", "new", [Message(LATER, model=SONNET)])
    machine.stores("--agents", "codex")
    machine.stores()
    machine.check()
    reads(machine)
    machine.use("19.0.3")
    machine.stores()
    assert len(reads(machine)) == 3


def test_after_a_failed_report_everything_is_compared(machine: Machine) -> None:
    write_session(machine.claude, "-p", "new", [Message(LATER, model=SONNET)])
    stub = machine.stub()
    stub.fail("daily")
    for _ in range(2):
        assert "out of luck" in machine.imports(code=3).err
    assert machine.history("feeds_failed")[-1] == (["daily"],)
    stub.fail()
    reads(machine)
    machine.stores()
    assert reads(machine)[0]["since"] == ""  # all
    machine.check()


def test_a_dry_run_remembers_nothing(machine: Machine) -> None:
    write_session(machine.claude, "-p", "new", [Message(LATER, model=SONNET)])
    before = (machine.state / "imported.json").read_bytes()
    shown = said(machine, "--dry-run")
    assert (machine.state / "imported.json").read_bytes() == before
    assert counts(said(machine)) == counts(shown)
    machine.check()


def test_rows_that_are_held_are_told_of_each_time(machine: Machine) -> None:
    stub = machine.stub()
    feeds = machine.feeds()
    lower(feeds, feeds["daily"]["daily"][0])
    stub.say(**feeds)
    held = [said(machine)["held"] for _ in range(3)]
    assert held == [{"their transcripts are gone": 1}] * 3
    rows = machine.history("rows_held", "held_reasons")
    assert rows[-3:] == [(1, {"their transcripts are gone": 1})] * 3
    machine.stores("--allow-shrink")
    machine.stores()
    assert machine.history("rows_held")[-1] == (0,)


def lower(feeds: dict[str, Any], row: dict[str, Any]) -> None:
    for counted in (row, feeds["daily"]["totals"]):
        counted["inputTokens"] -= 1
        counted["totalTokens"] -= 1


def test_what_is_wrong_among_rows_that_are_known_is_still_refused_by_its_place(
    machine: Machine,
) -> None:
    stub = machine.stub()
    right = machine.feeds()
    stub.say(**right)
    before = machine.tables(keep=True)
    sessions = len(right["session"]["sessions"])

    def refused(feed: str, change: Any) -> str:
        wrong = copy.deepcopy(right)
        change(wrong[feed])
        stub.say(**{**right, feed: wrong[feed]})
        error = machine.imports(code=3).err
        assert machine.tables(keep=True) == before
        stub.say(**right)
        machine.stores()  # which remembers again
        return error

    def twice(report: Any, **changes: Any) -> None:
        """One more row with the key of another, which the totals count."""
        row = report["sessions"][3] | changes
        report["sessions"].append(row)
        for name in report["totals"].keys() & row.keys():
            report["totals"][name] += row[name]

    def other(report: Any) -> None:
        twice(report, totalCost=1.0)

    last = sessions - 1
    assert f"sessions[{sessions}]: " in refused("session", twice)
    assert f"sessions[{sessions}]: " in refused("session", other)
    error = refused("session", lambda report: report["sessions"][last].update(totalCost=None))
    assert f"sessions[{last}].totalCost: expected a number, got None" in error
    error = refused("session", lambda report: report["totals"].update(inputTokens=1))
    assert "session.totals.inputTokens: 1, but the rows add up to " in error
    error = refused("daily", lambda report: report["daily"].append(report["daily"][0]))
    assert "daily.totals.inputTokens: " in error
    error = refused("blocks", lambda report: report["blocks"].append(report["blocks"][0]))
    assert "is repeated" in error
    project = next(iter(right["projects"]["projects"]))
    error = refused("projects", lambda report: report["projects"][project].append({"date": None}))
    assert "].date: expected a text, got None" in error


def test_the_rates_of_an_active_block_are_no_news(machine: Machine) -> None:
    now = noon()
    write_session(machine.claude, "-p", "now", [Message(now - timedelta(minutes=20)), Message(now)])
    stub = machine.stub()
    feeds = machine.feeds()
    stub.say(**feeds)
    machine.stores()
    reads(machine)
    for block in feeds["blocks"]["blocks"]:
        block["burnRate"] = {"costPerHour": 9.0}
        block["projection"] = {"totalCost": 9.0}
    stub.say(**feeds)
    machine.stores()
    assert reads(machine) == []
