"""Every agent that ccusage knows: each table says what its unified reports say."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tables import (
    FEED_TABLES,
    KEYS,
    NEWEST,
    RECORD_TYPES,
    Database,
    Expected,
    Machine,
    assert_same,
    total,
)
from transcripts import Message, write_codex, write_gemini, write_opencode, write_session

if TYPE_CHECKING:
    from tables import Tables

UTC = timezone.utc
NOON = datetime(2025, 9, 30, 12, tzinfo=UTC)
RECORDED = Path(__file__).parent / "feeds" / "transcripts"
OTHERS = ("codex", "opencode", "gemini")


def messages(model: str, *hours: float, **more: Any) -> list[Message]:
    return [
        Message(NOON + timedelta(hours=hour), model, cache_read=5 + n, output=50 * n + 7, **more)
        for n, hour in enumerate(hours)
    ]


def with_agents(machine: Machine) -> Machine:
    """Work of four agents, over a month's end, some of it recorded from real ones."""
    machine.populate(days=5)
    home = machine.home
    for agent in ("codex", "opencode"):
        shutil.copytree(RECORDED / agent, home / agent)
    write_codex(home / "codex", "c9", messages("gpt-5", 0, 1, 11.5, 30, reasoning=9))
    write_codex(home / "codex", "c10", messages("gpt-5-mini", 2, 40))
    write_opencode(home / "opencode", "o9", messages("claude-sonnet-4-20250514", 3, 35, cost=0.25))
    write_opencode(home / "opencode", "o10", messages("gpt-5", 4, reasoning=11))
    write_gemini(home / "gemini", "g9", messages("gemini-2.5-pro", 5, 33, reasoning=3))
    return machine


@pytest.fixture
def machine(tmp_path: Path, database: Database) -> Machine:
    return with_agents(Machine(tmp_path, database=database))


def expected_of_20(machine: Machine) -> Tables:
    reports = [
        machine.report(name, *by)
        for name, *by in (
            ("all daily", "--by-agent"),
            ("all monthly", "--by-agent"),
            ("all session",),
        )
    ]
    return Expected(machine.version).claude(machine.feeds()).unified(*reports).tables


def agents_in(tables: Tables) -> set[str]:
    return {key[0] for rows in tables.values() for key in rows}


def test_with_ccusage_20_each_table_says_what_the_unified_feeds_say_and_stays_as_it_is(
    machine: Machine,
) -> None:
    machine.stores()
    machine.check(expected_of_20(machine))
    tables = machine.tables()
    assert agents_in(tables) == {"claude", *OTHERS}
    for feed in ("daily", "monthly", "session"):
        totals = machine.report(f"all {feed}")["totals"]
        assert total(tables, feed) == totals["totalTokens"]
        rows = tables[FEED_TABLES[feed]].values()
        assert sum(row["total_cost"] for row in rows) == pytest.approx(totals["totalCost"])
        for agent in ("codex", "opencode"):
            own = machine.report(f"{agent} {feed}")["totals"]
            assert total(tables, feed, agent) == own["totalTokens"]
    assert_same(of(tables, "claude"), machine.expected())
    machine.database.server.statements(reset=True)
    machine.stores()
    assert len(machine.database.writes()) == 1


def of(tables: Tables, *agents: str) -> Tables:
    return {t: {k: r for k, r in rows.items() if k[0] in agents} for t, rows in tables.items()}


@pytest.mark.parametrize("agents", ["codex", "claude,gemini"])
def test_only_the_agents_that_were_asked_for_are_imported(agents: str, machine: Machine) -> None:
    machine.stores("--agents", agents)
    wanted = of(expected_of_20(machine), *agents.split(","))
    machine.check(wanted)
    machine.stores("--agents", "all")
    machine.check(expected_of_20(machine))


def test_an_import_of_codex_never_touches_claudes_rows(machine: Machine) -> None:
    machine.stores()
    before = machine.tables(keep=True)
    shutil.rmtree(machine.claude / "projects")
    path = write_codex(machine.home / "codex", "c11", messages("gpt-5", 50))
    machine.stores("--agents", "codex", "--allow-shrink")
    after = machine.tables(keep=True)
    others = ("claude", "opencode", "gemini")
    assert of(after, *others) == of(before, *others)
    assert total(after, "daily", "codex") > total(before, "daily", "codex")
    path.unlink()
    machine.stores("--agents", "codex")
    assert of(machine.tables(keep=True), *others) == of(before, *others)
    assert machine.tables()["ccusage_usage_daily"] == without_times(after)["ccusage_usage_daily"]


def without_times(tables: Tables) -> Tables:
    times = ("created_at", "updated_at")
    return {
        table: {key: {n: v for n, v in row.items() if n not in times} for key, row in rows.items()}
        for table, rows in tables.items()
    }


@pytest.mark.rotates(2)
@pytest.mark.parametrize("version", ["19.0.3", "20.0.24"])
def test_an_invalid_directory_of_claude_hides_no_other_agent(
    version: str, tmp_path: Path, database: Database
) -> None:
    machine = with_agents(Machine(tmp_path, version=version, database=database))
    machine.env["CLAUDE_CONFIG_DIR"] = str(tmp_path / "nowhere")
    done = machine.imports(code=3)
    assert "CLAUDE_CONFIG_DIR" in done.err
    tables = machine.tables()
    others = {"codex", "opencode"} if version == "19.0.3" else set(OTHERS)
    assert agents_in(tables) == others
    for agent in ("codex", "opencode"):
        own = machine.report(f"{agent} daily")["totals"]
        assert total(tables, "daily", agent) == own["totalTokens"] > 0
    assert machine.imports("--agents", ",".join(others)).code == 0


def test_agents_that_are_absent_cost_nothing(tmp_path: Path, database: Database) -> None:
    machine = Machine(tmp_path, database=database)
    machine.populate(days=3)
    write_gemini(machine.home / "gemini", "g", messages("gemini-2.5-pro", 0))
    machine.stores()
    assert agents_in(machine.tables()) == {"claude", "gemini"}
    machine.check(expected_of_20(machine))


def test_a_failing_feed_of_the_others_leaves_claudes_import_whole(machine: Machine) -> None:
    stub = machine.stub()
    machine.stores()
    before = machine.tables(keep=True)
    write_session(machine.claude, "-p", "late", [Message(NOON)])
    write_codex(machine.home / "codex", "c11", messages("gpt-5", 50))
    stub.fail("agents")
    machine.stores(code=3)
    after = machine.tables(keep=True)
    assert_same(of(without_times(after), "claude"), machine.expected())
    assert of(after, *OTHERS) == of(before, *OTHERS)
    stub.fail()
    machine.stores()
    machine.check(expected_of_20(machine))


@pytest.mark.parametrize(
    ("version", "others"),
    [
        *(("19.0.3", OTHERS[:2]), ("20.0.14", OTHERS)),
        pytest.param("20.0.11", OTHERS, marks=pytest.mark.stress),
    ],
)
def test_before_20_0_17_the_other_agents_say_what_their_own_feeds_say(
    version: str, others: tuple[str, ...], tmp_path: Path, database: Database
) -> None:
    machine = with_agents(Machine(tmp_path, version=version, database=database))
    machine.stores()
    wanted = Expected(version).claude(machine.feeds())
    for agent in others:
        for feed, key in (("daily", "date"), ("monthly", "month"), ("session", "sessionId")):
            for row in machine.report(f"{agent} {feed}")[FEED_KEYS[feed]]:
                if feed == "session":
                    wanted.session(agent, "", row[key], row, row)
                else:
                    period = (
                        datetime.fromisoformat(row[key]).date() if feed == "daily" else row[key]
                    )
                    wanted.add(feed, agent, (period,), row)
    machine.check(wanted.tables)
    totals = machine.report("all daily")["totals"]
    assert total(machine.tables(), "daily") == totals["totalTokens"]
    for row in machine.report("all daily")["daily"]:
        day = datetime.fromisoformat(row["period"]).date()
        sums = [r for k, r in machine.tables()["ccusage_usage_daily"].items() if k[1] == day]
        assert sum(r["total_tokens"] for r in sums) == row["totalTokens"]


FEED_KEYS = {"daily": "daily", "monthly": "monthly", "session": "sessions"}


def test_with_ccusage_19_an_agent_without_data_is_no_failure(
    tmp_path: Path, database: Database
) -> None:
    machine = Machine(tmp_path, version="19.0.3", database=database)
    machine.populate(days=3)
    machine.stores()
    machine.check()


def test_with_ccusage_18_only_claude_is_there(tmp_path: Path, database: Database) -> None:
    machine = with_agents(Machine(tmp_path, version="18.0.11", database=database))
    machine.stores()
    assert agents_in(machine.tables()) == {"claude"}


def test_the_upgrade_from_19_to_20_keeps_the_identity_of_other_agents_rows(
    tmp_path: Path, database: Database
) -> None:
    machine = with_agents(Machine(tmp_path, version="19.0.3", database=database))
    machine.stores()
    before = machine.tables()
    machine.use("20.0.24")
    machine.stores()
    after = machine.tables()
    for table in (FEED_TABLES[feed] for feed in ("daily", "monthly", "session")):
        assert before[table].keys() <= after[table].keys()
    wanted = expected_of_20(machine)
    for tables in (after, wanted):
        for rows in tables.values():
            for row in rows.values():
                del row["ccusage_version"]  # stays where nothing else changed
    assert_same(of(after, *OTHERS), of(wanted, *OTHERS))


def test_rows_of_one_session_id_are_summed_for_other_agents(machine: Machine) -> None:
    stub = machine.stub()
    shutil.rmtree(machine.claude / "projects")
    (machine.claude / "projects").mkdir()
    report = machine.report("all daily", "--sections", "daily,monthly,session", "--by-agent")
    twin = json.loads(json.dumps(next(r for r in report["session"] if r["agent"] == "codex")))
    twin["metadata"]["lastActivity"] = "2025-12-24T00:00:00.000Z"
    report["session"].insert(0, twin)
    stub.say(agents=report)
    machine.stores()
    rows = machine.tables()["ccusage_usage_sessions"].items()
    found = [row for (agent, _), row in rows if row["total_tokens"] == 2 * twin["totalTokens"]]
    assert len(found) == 1
    assert found[0]["input_tokens"] == 2 * twin["inputTokens"]
    assert found[0]["last_activity"] == datetime(2025, 12, 24)


def test_codex_that_comes_first_hides_no_upgrade_of_claudes_sessions(
    tmp_path: Path, database: Database
) -> None:
    machine = Machine(tmp_path, version="18.0.11", database=database)
    machine.populate(days=5, resumed=False, streaming=False, synthetic=False)
    write_codex(machine.home / "codex", "c1", messages("gpt-5", 0, 1))
    machine.stores()
    ever = total(machine.tables(), "session", "claude")
    machine.use(NEWEST)
    machine.stores("--agents", "codex")
    assert machine.history()[-1] == (["codex daily", "codex monthly", "codex session"],)
    stub = machine.stub()
    stub.fail("session")
    machine.stores(code=3)
    stub.fail()
    machine.stores()
    assert total(machine.tables(), "session", "claude") == ever


def test_an_agent_that_ccusage_does_not_know_is_refused(machine: Machine) -> None:
    done = machine.imports("--agents", "claude,cladue", code=2)
    assert "--agents: ccusage 20.0.24 does not know cladue; it knows amp, antigravity," in done.err
    assert machine.imports("--agents", "cladue", "--quiet", code=2).err.count("\n") == 1
    assert not any(machine.tables().values())


@pytest.mark.parametrize("version", [NEWEST, "20.0.11"])
def test_an_agent_without_usage_is_told_in_a_line(version: str, machine: Machine) -> None:
    machine.use(version)
    done = machine.imports("--agents", "claude,codex,pi")
    assert done.code == 0
    assert [line for line in done.err.splitlines() if "no usage" in line] == [
        "ccusage reports no usage of pi"
    ]


def test_a_codex_session_that_is_archived_is_counted_once(machine: Machine) -> None:
    machine.stores()
    before = machine.tables()
    archive = machine.home / "codex" / "archived_sessions"
    archive.mkdir()
    for rollout in (machine.home / "codex" / "sessions").rglob("*.jsonl"):
        rollout.rename(archive / rollout.name)
    machine.stores()
    assert_same(machine.tables(), before)
    machine.check(expected_of_20(machine))


def test_without_any_usage_of_claude_it_says_where_ccusage_looked(
    tmp_path: Path, database: Database
) -> None:
    machine = Machine(tmp_path, database=database)
    (machine.claude / "projects").mkdir(parents=True, exist_ok=True)
    assert f"no usage of claude; it looked in {machine.claude}" in machine.imports().err


def test_other_agents_never_shrink_by_accident_either(machine: Machine) -> None:
    machine.stores()
    before = machine.tables()
    for agent in OTHERS:
        shutil.rmtree(machine.home / agent)
    done = machine.imports()
    assert done.code == 0
    assert_same(machine.tables(), before)
    assert set(RECORD_TYPES) == set(FEED_TABLES)
    assert set(before) == set(KEYS)
