"""What ccusage says becomes checked records; what it should never say is refused with its place."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import time
from datetime import date, datetime, timezone
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
import tables
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ccusage_importer import (
    BEGINNING,
    FEEDS,
    UINT64_MAX,
    UNIFIED,
    ClickHouseImporter,
    Feed,
    FeedError,
    Ids,
    Record,
    Settings,
    TableRows,
    Tokens,
    connect,
    find_changes,
    parse_feed,
    read_answer,
    stored_records,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDED = Path(__file__).parent / "feeds"
VERSIONS = ("15.9.7", "18.0.11", "19.0.3", "20.0.24")
UTC = timezone.utc
BERLIN = ZoneInfo("Europe/Berlin")
BY_NAME = {feed.name: feed for feed in FEEDS}
NAMES = Ids("", hidden=False)
OPUS, SONNET = "claude-opus-4-1-20250805", "claude-sonnet-4-20250514"
ALPHA, BETA = "-home-dev-work-alpha", "-home-dev-work-beta"

every_version = pytest.mark.parametrize("version", VERSIONS)


def recorded(version: str, name: str) -> Any:
    return json.loads((RECORDED / version / f"{name}.json").read_text())


def parse(feed: Feed, payload: Any, ids: Ids = NAMES, zone: Any = UTC) -> list[Record]:
    """The records of a report, from the bytes on."""
    text = payload if isinstance(payload, str) else json.dumps(payload)
    answer = read_answer(feed, CompletedProcess(["ccusage"], 0, text, ""))
    parsed = parse_feed(feed, answer, ids, zone)
    return [record for records in parsed.values() for record in records.values()]


# --- recorded reports ----------------------------------------------------------------------


@every_version
def test_recorded_days_are_read(version: str) -> None:
    payload = recorded(version, "daily")
    records = parse(BY_NAME["daily"], payload)
    assert [(r.agent, r.key, r.tokens) for r in records] == [
        ("claude", (date(2025, 9, 30),), Tokens(207, 3750, 14500, 203000, 221457)),
        ("claude", (date(2025, 10, 1),), Tokens(1372, 1630, 2640, 41500, 47142)),
        ("claude", (date(2025, 10, 2),), Tokens(225, 2760, 6807, 121040, 130832)),
    ]
    assert [r.cost for r in records] == [round(row["totalCost"], 8) for row in payload["daily"]]
    assert records[0].models == {OPUS, SONNET}
    assert records[0].shares[OPUS].tokens == Tokens(100, 3100, 9200, 123000, 135400)
    assert records[0].shares[OPUS].cost == 0.591


@every_version
def test_recorded_months_are_read(version: str) -> None:
    records = parse(BY_NAME["monthly"], recorded(version, "monthly"))
    assert [(r.key, r.tokens.total) for r in records] == [
        (("2025-09",), 221457),
        (("2025-10",), 177974),
    ]


@every_version
def test_recorded_projects_are_read(version: str) -> None:
    records = parse(BY_NAME["projects"], recorded(version, "projects"))
    assert sum(r.tokens.total for r in records) == 399431
    assert {r.details["project_id"] for r in records} == {ALPHA, BETA}
    assert {r.key[1] for r in records} == {tables.digits(ALPHA)[:32], tables.digits(BETA)[:32]}


@every_version
def test_recorded_blocks_are_read(version: str) -> None:
    records = parse(BY_NAME["blocks"], recorded(version, "blocks"))
    assert [r.details["is_gap"] for r in records] == [False, True] * 3 + [False, False, True]
    first, gap = records[:2]
    assert first.key == ("2025-09-30T09:00:00.000Z",)
    assert first.tokens == Tokens(157, 1550, 6500, 121000, 129207)
    assert (first.cost, first.details["entries"]) == (0.206196, 3)
    assert first.details["start_time"] == datetime(2025, 9, 30, 9, tzinfo=UTC)
    assert first.details["actual_end_time"] == datetime(2025, 9, 30, 10, 40, 0, 1000, UTC)
    assert first.details["burn_rate"] is first.details["projection"] is None
    assert gap.details["actual_end_time"] is None
    assert not any(gap.tokens)


@every_version
def test_a_recorded_active_block_has_a_burn_rate_and_a_projection(version: str) -> None:
    payload = recorded(version, "blocks-active")
    (record,) = parse(BY_NAME["blocks"], payload)
    (row,) = payload["blocks"]
    assert record.details["is_active"] is True
    assert record.details["burn_rate"] == pytest.approx(row["burnRate"]["costPerHour"])
    assert record.details["projection"] == row["projection"]["totalCost"]


@pytest.mark.parametrize("version", ["15.9.7", "18.0.11"])
def test_up_to_18_a_session_is_a_project_and_its_last_day_begins_at_the_zones_midnight(
    version: str,
) -> None:
    records = parse(BY_NAME["session"], recorded(version, "session"), zone=BERLIN)
    shown = {(r.details["project_path"], r.details["session_id"]): r for r in records}
    assert shown.keys() == {("Unknown Project", ALPHA), ("Unknown Project", BETA)}
    beta = shown["Unknown Project", BETA]
    assert beta.details["last_activity"] == datetime(2025, 10, 1, 22, tzinfo=UTC)
    assert beta.details["first_activity"] is None


def test_19_tells_sessions_apart_by_their_last_day() -> None:
    records = parse(BY_NAME["session"], recorded("19.0.3", "session"), zone=BERLIN)
    assert len({(r.details["project_path"], r.details["session_id"]) for r in records}) == 4
    assert all(r.details["first_activity"] is None for r in records)
    assert {r.details["last_activity"].hour for r in records} == {22}


def test_20_tells_when_a_session_began_and_ended() -> None:
    first = parse(BY_NAME["session"], recorded("20.0.24", "session"), zone=BERLIN)[0]
    assert first.key == (tables.digits(BETA, "000000b1-0000-4000-8000-0000000000b1")[:32],)
    assert first.details["first_activity"] == datetime(2025, 9, 30, 22, 58, 1, tzinfo=UTC)
    assert first.details["last_activity"] == datetime(2025, 10, 1, 0, 20, 15, 250000, UTC)


@pytest.mark.parametrize("version", ["18.0.11", "20.0.24"])
@pytest.mark.parametrize("feed", FEEDS, ids=lambda feed: feed.name)
def test_feeds_without_data_are_empty(version: str, feed: Feed) -> None:
    assert parse(feed, recorded(version, f"empty-{feed.name}")) == []
    assert parse(feed, []) == []


def test_the_unified_feed_tells_agents_apart() -> None:
    payload = recorded("20.0.24", "unified-daily-by-agent") | {"monthly": [], "session": []}
    records = parse(UNIFIED, payload)
    assert {(r.agent, str(r.key[0])) for r in records} == {
        (part["agent"], row["period"]) for row in payload["daily"] for part in row["agents"]
    }
    assert {r.agent for r in records} == {"claude", "codex", "opencode"}


@pytest.mark.parametrize("agent", ["codex", "opencode"])
@pytest.mark.parametrize("name", ["daily", "monthly", "session"])
def test_feeds_of_another_agent_are_read(agent: str, name: str) -> None:
    records = parse(BY_NAME[name]._replace(agent=agent), recorded("20.0.24", f"{agent}-{name}"))
    assert records
    assert {r.agent for r in records} == {agent}
    assert all(r.shares.keys() == r.models for r in records)


def codex_session(printed: str) -> Record:
    payload = recorded("20.0.24", "codex-session")
    del payload["sessions"][1:]
    payload["sessions"][0]["sessionId"] = printed
    payload["totals"] = {**payload["sessions"][0]}
    (record,) = parse(BY_NAME["session"]._replace(agent="codex"), payload)
    return record


ROLLOUT = "rollout-2026-11-24T12-00-00-000000c1-0000-4000-8000-0000000000c1"


def test_a_session_of_codex_is_the_same_before_and_after_it_is_archived() -> None:
    used, archived = codex_session(f"2026/11/24/{ROLLOUT}"), codex_session(ROLLOUT)
    assert used == archived
    assert used.key == (NAMES.key("", ROLLOUT),)
    assert used.details["session_id"] == ROLLOUT
    assert used.former == (NAMES.key("", f"2026/11/24/{ROLLOUT}"),)


def test_a_session_of_codex_is_sought_under_the_folders_it_is_in_and_those_of_its_date() -> None:
    assert set(codex_session(f"old/{ROLLOUT}").former) == {
        NAMES.key("", f"{folder}/{ROLLOUT}") for folder in ("old", "2026/11/24")
    }
    named = codex_session("by-hand")
    assert (named.key, named.former) == ((NAMES.key("", "by-hand"),), ())


def test_without_data_ccusage_19_has_null_for_another_agents_totals() -> None:
    feed = BY_NAME["daily"]._replace(agent="codex")
    assert parse(feed, {"daily": [], "totals": None}) == []


# --- lies ----------------------------------------------------------------------------------

GONE = object()
WHOLE = f"expected a whole number from 0 to {UINT64_MAX}, got"
BLOCK = "blocks[0]"
MONTH = "expected a month from 1901-01 to 2298-12"
INSTANT = "expected a time such as 2026-11-22T19:00:00.000Z"
SHARE = "daily[0].modelBreakdowns[0]"
PROJECT = "projects[…]"
PART = "daily[2]"  # the first part of the second day

# feed, place of the lie, the lie, and what is said about it after the place of the field.
LIES: list[tuple[str, str, Any, str]] = [
    # the shape
    ("daily", "daily", None, "daily: expected a list, got null"),
    ("daily", "daily", {"a": 1}, "daily: expected a list, got an object"),
    ("daily", "daily", "none", "daily: expected a list, got a text"),
    ("daily", "daily/1", [], "daily[1]: expected an object, got a list"),
    ("daily", "daily/1", None, "daily[1]: expected an object, got null"),
    ("daily", "totals", GONE, "daily.totals: missing"),
    ("daily", "totals", None, "daily.totals: missing"),
    ("daily", "totals", [], "daily.totals: expected an object or null, got a list"),
    ("daily", "daily/0/modelsUsed", GONE, "daily[0].modelsUsed: missing"),
    ("daily", "daily/0/modelsUsed", "opus", "daily[0].modelsUsed: expected a list, got a text"),
    ("daily", "daily/0/modelBreakdowns", GONE, "daily[0].modelBreakdowns: missing"),
    (
        "daily",
        "daily/0/modelBreakdowns",
        {},
        "daily[0].modelBreakdowns: expected a list, got an object",
    ),
    ("daily", "daily/0/modelBreakdowns/0", 7, f"{SHARE}: expected an object, got a whole number"),
    ("projects", "projects", [], "projects: expected an object, got a list"),
    ("projects", f"projects/{ALPHA}", {}, f"{PROJECT}: expected a list, got an object"),
    ("projects", f"projects/{ALPHA}/0", "x", f"{PROJECT}[0]: expected an object, got a text"),
    ("blocks", "blocks", {}, "blocks: expected a list, got an object"),
    ("blocks", "blocks/0/tokenCounts", [1], f"{BLOCK}.tokenCounts: expected an object, got a list"),
    ("blocks", "blocks/0/models", None, f"{BLOCK}.models: expected a list, got null"),
    (
        "blocks",
        "blocks/0/burnRate",
        [1],
        f"{BLOCK}.burnRate: expected an object or null, got a list",
    ),
    # counts
    (
        "daily",
        "daily/2/inputTokens",
        "12",
        "daily[2].inputTokens: expected a whole number, got a text",
    ),
    ("daily", "daily/2/inputTokens", -1, f"daily[2].inputTokens: {WHOLE} -1"),
    (
        "daily",
        "daily/2/inputTokens",
        1.5,
        "daily[2].inputTokens: expected a whole number, got a number",
    ),
    (
        "daily",
        "daily/2/inputTokens",
        True,
        "daily[2].inputTokens: expected a whole number, got true or false",
    ),
    (
        "daily",
        "daily/2/inputTokens",
        None,
        "daily[2].inputTokens: expected a whole number, got null",
    ),
    ("daily", "daily/2/inputTokens", GONE, "daily[2].inputTokens: missing"),
    (
        "daily",
        "daily/2/inputTokens",
        [],
        "daily[2].inputTokens: expected a whole number, got a list",
    ),
    (
        "daily",
        "daily/2/outputTokens",
        math.nan,
        "broken JSON (JSON is malformed: invalid character (byte 1887))",
    ),
    (
        "daily",
        "daily/2/outputTokens",
        math.inf,
        "broken JSON (JSON is malformed: invalid character (byte 1887))",
    ),
    ("daily", "daily/2/totalTokens", 2**64, f"daily[2].totalTokens: {WHOLE} 18446744073709551616"),
    (
        "daily",
        "daily/2/totalTokens",
        1e300,
        f"daily[2].totalTokens: {WHOLE} 1000000000000000052504760255204420248704",
    ),
    (
        "monthly",
        "monthly/0/cacheReadTokens",
        {},
        "monthly[0].cacheReadTokens: expected a whole number, got an object",
    ),
    ("daily", "daily/0/modelBreakdowns/0/outputTokens", -5, f"{SHARE}.outputTokens: {WHOLE} -5"),
    (
        "blocks",
        "blocks/0/tokenCounts/cacheReadInputTokens",
        GONE,
        f"{BLOCK}.tokenCounts.cacheReadInputTokens: missing",
    ),
    ("blocks", "blocks/0/entries", -1, f"{BLOCK}.entries: {WHOLE} -1"),
    ("daily", "totals/totalTokens", -1, f"daily.totals.totalTokens: {WHOLE} -1"),
    # money
    (
        "daily",
        "daily/0/modelBreakdowns/0/cost",
        "x",
        f"{SHARE}.cost: expected a number, got a text",
    ),
    ("daily", "daily/0/modelBreakdowns/0/cost", GONE, f"{SHARE}.cost: missing"),
    ("daily", "daily/0/totalCost", GONE, "daily[0].totalCost: missing"),
    ("daily", "daily/0/totalCost", None, "daily[0].totalCost: expected a number, got null"),
    (
        "daily",
        "daily/0/totalCost",
        math.nan,
        "broken JSON (JSON is malformed: invalid character (byte 552))",
    ),
    (
        "daily",
        "daily/0/totalCost",
        -math.inf,
        "broken JSON (JSON is malformed: invalid character (byte 553))",
    ),
    (
        "daily",
        "daily/0/totalCost",
        False,
        "daily[0].totalCost: expected a number, got true or false",
    ),
    ("daily", "totals/totalCost", "0", "daily.totals.totalCost: expected a number, got a text"),
    ("blocks", "blocks/0/costUSD", GONE, f"{BLOCK}.costUSD: missing"),
    ("blocks", "blocks/0/burnRate", {}, f"{BLOCK}.burnRate.costPerHour: missing"),
    (
        "blocks",
        "blocks/0/projection",
        {"totalCost": "1"},
        f"{BLOCK}.projection.totalCost: expected a number, got a text",
    ),
    # times
    ("daily", "daily/0/date", GONE, "daily[0].date: missing"),
    (
        "daily",
        "daily/0/date",
        20250930,
        "daily[0].date: expected a date such as 2026-11-22, got a whole number",
    ),
    ("daily", "daily/0/date", "2026-02-30", "daily[0].date: expected a date such as 2026-11-22"),
    ("daily", "daily/0/date", "30.9.2025", "daily[0].date: expected a date such as 2026-11-22"),
    ("daily", "daily/0/date", "٢٠٢٥-٠٩-٣٠", "daily[0].date: expected a date such as 2026-11-22"),
    (
        "daily",
        "daily/0/date",
        "1700-01-01",
        "daily[0].date: expected a year from 1901 to 2298, got 1700-01-01",
    ),
    (
        "projects",
        f"projects/{ALPHA}/0/date",
        "2300-01-01",
        f"{PROJECT}[0].date: expected a year from 1901 to 2298, got 2300-01-01",
    ),
    (
        "monthly",
        "monthly/1/month",
        "2026-13",
        f"monthly[1].month: {MONTH}",
    ),
    (
        "monthly",
        "monthly/1/month",
        "2026-11-01",
        f"monthly[1].month: {MONTH}",
    ),
    (
        "blocks",
        "blocks/0/startTime",
        "2025-09-30T09:00:00.000",
        f"{BLOCK}.startTime: {INSTANT} with a timezone component",
    ),
    (
        "blocks",
        "blocks/0/endTime",
        "2025-09-30T25:00:00.000Z",
        f"{BLOCK}.endTime: expected a time such as 2026-11-22T19:00:00.000Z",
    ),
    (
        "blocks",
        "blocks/0/actualEndTime",
        0,
        f"{BLOCK}.actualEndTime: expected a time such as 2026-11-22T19:00:00.000Z or null, "
        "got a whole number",
    ),
    ("blocks", "blocks/0/actualEndTime", GONE, f"{BLOCK}.actualEndTime: missing"),
    (
        "blocks",
        "blocks/0/usageLimitResetTime",
        "soon",
        f"{BLOCK}.usageLimitResetTime: expected a time such as 2026-11-22T19:00:00.000Z",
    ),
    ("session", "sessions/3/lastActivity", GONE, "sessions[3].lastActivity: missing"),
    (
        "session",
        "sessions/3/lastActivity",
        "2025-10-01T12:30:00",
        f"sessions[3].lastActivity: {INSTANT} with a timezone component",
    ),
    # names
    (
        "session",
        "sessions/1/sessionId",
        "",
        "sessions[1].sessionId: expected a text of length >= 1",
    ),
    ("session", "sessions/1/sessionId", GONE, "sessions[1].sessionId: missing"),
    (
        "session",
        "sessions/1/projectPath",
        None,
        "sessions[1].projectPath: expected a text, got null",
    ),
    (
        "session",
        "sessions/1/projectPath",
        "a\ud800b",
        "broken JSON (JSON is malformed: unexpected end of escaped utf-16 surrogate pair "
        "(byte 1545))",
    ),
    ("projects", "projects/", [], "projects: expected a text of length >= 1"),
    (
        "projects",
        "projects/\udc80",
        [],
        "broken JSON (JSON is malformed: invalid utf-16 surrogate pair (byte 2948))",
    ),
    (
        "daily",
        "daily/0/modelsUsed/0",
        5,
        "daily[0].modelsUsed[0]: expected a text, got a whole number",
    ),
    (
        "daily",
        "daily/0/modelBreakdowns/0/modelName",
        "",
        f"{SHARE}.modelName: expected a text of length >= 1",
    ),
    (
        "daily",
        "daily/0/modelBreakdowns/1/modelName",
        OPUS,
        "daily[0].modelBreakdowns: 'claude-opus-4-1-20250805' is repeated",
    ),
    ("blocks", "blocks/0/id", "", f"{BLOCK}.id: expected a text of length >= 1"),
    ("blocks", "blocks/0/isGap", 0, f"{BLOCK}.isGap: expected true or false, got a whole number"),
    ("blocks", "blocks/0/isActive", None, f"{BLOCK}.isActive: expected true or false, got null"),
    # sums and keys
    ("daily", "daily/1/date", "2025-09-30", "daily[1]: 2025-09-30 is repeated"),
    (
        "blocks",
        "blocks/2/id",
        "2025-09-30T09:00:00.000Z",
        "blocks[2]: 2025-09-30T09:00:00.000Z is repeated",
    ),
    ("daily", "daily/2", GONE, "daily.totals.inputTokens: 1804, but the rows add up to 1579"),
    (
        "daily",
        "totals/cacheReadTokens",
        365541,
        "daily.totals.cacheReadTokens: 365541, but the rows add up to 365540",
    ),
    (
        "monthly",
        "monthly/0/totalTokens",
        221458,
        "monthly.totals.totalTokens: 399431, but the rows add up to 399432",
    ),
    (
        "session",
        "totals/totalCost",
        0.95,
        "session.totals.totalCost: 0.95, but the rows add up to 0.94603225",
    ),
    (
        "projects",
        f"projects/{BETA}",
        GONE,
        "projects.totals.inputTokens: 1804, but the rows add up to 1129",
    ),
]


def lied(payload: Any, place: str, lie: Any) -> Any:
    """The report with something else in that place."""
    payload = copy.deepcopy(payload)
    *way, last = place.split("/")
    node = payload
    for step in way:
        node = node[int(step) if isinstance(node, list) else step]
    where = int(last) if isinstance(node, list) else last
    if lie is GONE:
        del node[where]
    else:
        node[where] = lie
    return payload


@pytest.mark.parametrize(
    ("name", "place", "lie", "message"), LIES, ids=[ascii(lie[3])[:70] for lie in LIES]
)
def test_a_lie_is_refused_with_its_feed_its_place_and_the_reason(
    name: str, place: str, lie: Any, message: str
) -> None:
    payload = lied(recorded("20.0.24", name), place, lie)
    with pytest.raises(FeedError) as refused:
        parse(BY_NAME[name], payload, Ids("", hidden=True))
    assert str(refused.value).split("\n")[0] == f"{name}: {message}"


def test_a_number_beyond_all_floats_is_refused() -> None:
    text = json.dumps(recorded("20.0.24", "daily")).replace("0.6449459999999999", "1e400")
    with pytest.raises(
        FeedError, match=r"^daily: daily\[0\]\.totalCost: expected a number < 1e\+300"
    ):
        parse(BY_NAME["daily"], text)


@pytest.mark.parametrize("lie", ["x" * 10_000, 1e300, [["x" * 10_000]], "secret"])
def test_a_lie_is_neither_quoted_at_length_nor_when_it_may_be_private(lie: Any) -> None:
    for place in ("daily/0/date", "daily/0/inputTokens", "daily/0/modelBreakdowns/0/modelName"):
        payload = lied(recorded("20.0.24", "daily"), place, lie)
        with contextlib.suppress(FeedError):
            parse(BY_NAME["daily"], payload)
            assert place.endswith("modelName")
            continue
        with pytest.raises(FeedError) as refused:
            parse(BY_NAME["daily"], payload)
        assert len(str(refused.value)) < 150
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"daily":' * 50_000, "9" * 5000])
def test_json_that_python_cannot_hold_is_refused(text: str) -> None:
    began = time.process_time()
    with pytest.raises(FeedError, match=r"^daily: (broken JSON|Integer value out of range|no key)"):
        parse(BY_NAME["daily"], text)
    assert time.process_time() - began < 5


def test_a_repeated_session_is_named_by_its_place_and_its_key() -> None:
    payload = recorded("20.0.24", "session")
    payload["sessions"][1] |= {
        name: payload["sessions"][0][name] for name in ("sessionId", "projectPath")
    }
    with pytest.raises(FeedError) as refused:
        parse(BY_NAME["session"], payload, Ids("", hidden=True))
    key = tables.digits(BETA, payload["sessions"][0]["sessionId"])[:32]
    assert str(refused.value) == f"session: sessions[1]: {key} is repeated"


def test_the_same_day_twice_in_another_agents_report_is_summed() -> None:
    payload = recorded("20.0.24", "codex-daily")
    payload["daily"][1]["date"] = payload["daily"][0]["date"]
    (whole,) = parse(BY_NAME["daily"]._replace(agent="codex"), payload)
    assert whole.tokens.total == payload["totals"]["totalTokens"]
    assert whole.cost == pytest.approx(payload["totals"]["costUSD"])
    assert whole.models == {"gpt-5", "gpt-5-codex"}


@pytest.mark.parametrize(
    ("place", "lie", "message"),
    [
        ("daily/0/inputTokens", -1, f"daily[0].inputTokens: {WHOLE} -1"),
        ("daily/0/costUSD", GONE, "daily[0].totalCost: missing"),
        ("daily/0/models", 5, "daily[0].modelsUsed: missing"),
        ("daily/0/models", ["gpt-5"], "daily[0].modelsUsed: missing"),
        (
            "daily/0/models",
            {"gpt-5": 1},
            "daily[0].modelBreakdowns[0]: expected an object, got a whole number",
        ),
        ("totals/inputTokens", 1, "daily.totals.inputTokens: 1, but the rows add up to 3350"),
    ],
)
def test_a_lie_about_another_agent_names_the_agent(place: str, lie: Any, message: str) -> None:
    payload = lied(recorded("20.0.24", "codex-daily"), place, lie)
    with pytest.raises(FeedError) as refused:
        parse(BY_NAME["daily"]._replace(agent="codex"), payload)
    assert str(refused.value).split("\n")[0] == f"codex daily: {message}"


@pytest.mark.parametrize(
    ("place", "lie", "message"),
    [
        ("monthly", GONE, "no key 'monthly' in the answer"),
        ("session", {}, "sessions: expected a list, got an object"),
        ("totals", GONE, "agents.totals: missing"),
        ("daily/0/agents/0/agent", GONE, "daily: a row names no agent"),
        ("daily/0/agents", GONE, "daily[0].date: missing"),
        ("daily/1/agents/0/agent", 1, f"{PART}.agent: expected a text, got a whole number"),
        ("daily/1/agents/0/totalCost", "x", f"{PART}.totalCost: expected a number, got a text"),
        ("daily/1/period", "x", f"{PART}.date: expected a date such as 2026-11-22"),
    ],
)
def test_a_lie_in_the_unified_feed_is_refused(place: str, lie: Any, message: str) -> None:
    payload = recorded("20.0.24", "unified-daily-by-agent") | {"monthly": [], "session": []}
    with pytest.raises(FeedError) as refused:
        parse(UNIFIED, lied(payload, place, lie))
    assert str(refused.value).split("\n")[0] == f"other agents: {message}"


# --- what is no lie ------------------------------------------------------------------------


def day(tokens: int = 10, cost: float = 0.5, **other: Any) -> dict[str, Any]:
    row = {"inputTokens": tokens, "outputTokens": 0, "cacheCreationTokens": 0, "cacheReadTokens": 0}
    row |= {"totalTokens": tokens, "totalCost": cost, "modelsUsed": [], "modelBreakdowns": []}
    return {"date": "2025-10-01", **row, **other}


def report(*rows: dict[str, Any], **totals: Any) -> dict[str, Any]:
    names = ("inputTokens", "outputTokens", "cacheCreationTokens", "cacheReadTokens", "totalTokens")
    sums = {name: sum(row[name] for row in rows) for name in (*names, "totalCost")}
    return {"daily": list(rows), "totals": sums | totals}


def only(payload: Any) -> Record:
    (record,) = parse(BY_NAME["daily"], payload)
    return record


def test_a_whole_number_may_be_written_as_a_float() -> None:
    record = only(report(day(tokens=10.0)))  # type: ignore[arg-type]
    assert record.tokens == Tokens(10, 0, 0, 0, 10)
    assert all(type(count) is int for count in record.tokens)


def test_models_used_and_breakdowns_need_not_agree() -> None:
    share = {"modelName": "unknown", "cost": 0.1, **{k: 1 for k in day() if k.endswith("Tokens")}}
    record = only(report(day(modelsUsed=["<synthetic>", OPUS, OPUS], modelBreakdowns=[share])))
    assert record.models == {"<synthetic>", OPUS}
    assert record.shares.keys() == {"unknown"}


def test_unknown_fields_are_ignored() -> None:
    future = {"metadata": {"x": 1}, "period": "p", "models": 7, "agent": "x", "costUSDCents": "?"}
    assert only(report(day(**future), more={}) | {"more": None}) == only(report(day()))


def test_unknown_fields_of_a_session_are_ignored() -> None:
    payload = recorded("20.0.24", "session")
    known = parse(BY_NAME["session"], payload)
    for row in payload["sessions"]:
        row |= {"metadata": {"lastActivity": "x"}, "period": "p", "agent": "x"}
    assert parse(BY_NAME["session"], payload) == known


def test_a_cost_may_be_negative() -> None:
    assert only(report(day(cost=-0.25))).cost == -0.25


def test_no_cost_is_not_negative_zero() -> None:
    record = only(report(day(cost=-0.0), totalCost=-0.0))
    assert math.copysign(1, record.cost) == 1


def test_money_is_rounded_to_a_hundred_millionth() -> None:
    assert only(report(day(cost=0.1 + 0.2 + 1e-12))).cost == 0.3


def test_a_model_without_a_price_is_read() -> None:
    record = only(recorded("20.0.24", "daily-unpriced"))
    assert record.shares["claude-zeta-9-20301231"].cost == 0


def test_totals_beyond_the_exact_floats_may_be_rounded() -> None:
    rows = day(2**53 + 1), day(2**53 + 3, date="2025-10-02")
    payload = report(*rows, inputTokens=float(2**54 + 4), totalTokens=2**54)
    assert len(parse(BY_NAME["daily"], payload)) == 2


def test_totals_may_be_cut_at_the_largest_number() -> None:
    rows = day(UINT64_MAX), day(UINT64_MAX, date="2025-10-02")
    payload = report(*rows, inputTokens=UINT64_MAX, totalTokens=UINT64_MAX)
    assert parse(BY_NAME["daily"], payload)[1].tokens.total == UINT64_MAX


def test_small_totals_must_be_exact() -> None:
    with pytest.raises(FeedError, match="add up to"):
        parse(BY_NAME["daily"], report(day(2**53 - 2), inputTokens=2**53 - 1))


def test_many_tiny_float_errors_are_no_lie() -> None:
    rows = [
        day(cost=1.0000000049, date=f"2025-{m:02}-{d:02}")
        for m in range(1, 13)
        for d in range(1, 29)
    ]
    assert len(parse(BY_NAME["daily"], report(*rows))) == 336


# --- any valid report ----------------------------------------------------------------------

count = st.one_of(st.integers(0, 10**6), st.integers(0, 2**61))
money = st.one_of(
    st.just(0.0), st.floats(0, 1000), st.floats(-(10**6), 10**6), st.integers(0, 10**6)
)
word = st.one_of(
    st.sampled_from(
        ["a'b", '"', "\\", "a\tb\nc", "{x:String}", "😀", "-home-x", "NULL", "ü" * 5000]
    ),
    st.text(min_size=1, max_size=20),
)
directory = word.map(lambda name: name.replace("\0", "0").replace("/", "-"))
a_day = st.dates(date(1901, 1, 1), date(2298, 12, 31)).map(str)
instant = st.datetimes(datetime(1901, 1, 1), datetime(2298, 12, 31)).map(
    lambda moment: moment.isoformat(timespec="milliseconds") + "Z"
)
COUNTERS = ("inputTokens", "outputTokens", "cacheCreationTokens", "cacheReadTokens")
counters = st.fixed_dictionaries(dict.fromkeys(COUNTERS, count))


@st.composite
def rows(draw: st.DrawFn, **fields: st.SearchStrategy[Any]) -> dict[str, Any]:
    models = draw(st.lists(word, unique=True, max_size=3))
    used = draw(counters)
    return {
        **draw(st.fixed_dictionaries(fields)),
        **used,
        "totalTokens": sum(used.values()),
        "totalCost": draw(money),
        "modelsUsed": draw(st.lists(word, max_size=3)),
        "modelBreakdowns": [
            {"modelName": name, **draw(counters), "cost": draw(money)} for name in models
        ],
    }


def totals(found: list[dict[str, Any]]) -> dict[str, Any]:
    sums = {n: min(sum(row[n] for row in found), UINT64_MAX) for n in (*COUNTERS, "totalTokens")}
    return {**sums, "totalCost": math.fsum(row["totalCost"] for row in found)}


def unique(*names: str) -> Any:
    return lambda row: tuple(row[name] for name in names)


@st.composite
def blocks(draw: st.DrawFn) -> dict[str, Any]:
    used = draw(counters)
    names = ("inputTokens", "outputTokens", "cacheCreationInputTokens", "cacheReadInputTokens")
    active = draw(st.booleans())
    return {
        "id": draw(word),
        **draw(st.fixed_dictionaries({"startTime": instant, "endTime": instant})),
        "actualEndTime": draw(st.none() | instant),
        "isActive": active,
        "isGap": False,
        "entries": draw(count),
        "tokenCounts": dict(zip(names, used.values(), strict=True)),
        "totalTokens": sum(used.values()),
        "costUSD": draw(money),
        "models": draw(st.lists(word, max_size=3)),
        "burnRate": {"costPerHour": draw(money)} if active else None,
        "projection": {"totalCost": draw(money)} if active else None,
        **draw(st.fixed_dictionaries({}, optional={"usageLimitResetTime": instant})),
    }


@st.composite
def reports(draw: st.DrawFn) -> dict[str, Any]:
    """Five reports in ccusage's shape: of 20, or with days instead of times as up to 19."""
    daily = draw(st.lists(rows(date=a_day), max_size=4, unique_by=unique("date")))
    months = a_day.map(lambda text: text[:7])
    monthly = draw(st.lists(rows(month=months), max_size=3, unique_by=unique("month")))
    times = {"firstActivity": instant, "lastActivity": instant}
    if draw(st.booleans()):
        times = {"lastActivity": a_day}
    session = rows(sessionId=directory, projectPath=directory, **times)
    key = unique("projectPath", "sessionId")
    sessions = draw(st.lists(session, max_size=4, unique_by=key))
    project = st.lists(rows(date=a_day), min_size=1, max_size=2, unique_by=unique("date"))
    projects = draw(st.dictionaries(directory, project, max_size=3))
    return {
        "daily": {"daily": daily, "totals": totals(daily)},
        "monthly": {"monthly": monthly, "totals": totals(monthly)},
        "session": {"sessions": sessions, "totals": totals(sessions)},
        "blocks": {"blocks": draw(st.lists(blocks(), max_size=4, unique_by=unique("id")))},
        "projects": {
            "projects": projects,
            "totals": totals([row for found in projects.values() for row in found]),
        },
    }


@pytest.fixture(scope="module")
def importer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseImporter]:
    path = tmp_path_factory.mktemp("records") / "clickhouse"
    wanted = Settings.from_env({"CH_EMBEDDED_PATH": str(path), "HOME": str(path.parent)})
    client = connect(wanted)
    importer = ClickHouseImporter(client, wanted, "m0")
    importer.prepare(create=True)
    yield importer
    client.close()


def records_of(feeds: dict[str, Any], ids: Ids) -> dict[tuple[str, str], Any]:
    return {
        (feed.name, "claude"): {
            r.id: r._replace(former=()) for r in parse(feed, feeds[feed.name], ids, BERLIN)
        }
        for feed in FEEDS
    }


@settings(
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(feeds=reports(), hidden=st.booleans(), key=st.sampled_from(["", "a key"]))
@example(feeds={feed.name: recorded("20.0.24", feed.name) for feed in FEEDS}, hidden=True, key="")
def test_any_valid_feed_is_read_back_from_clickhouse_exactly(
    importer: ClickHouseImporter, feeds: dict[str, Any], hidden: bool, key: str
) -> None:
    importer.machine_name = f"m{int(importer.machine_name[1:]) + 1}"
    ids = Ids(key, hidden)
    reported = records_of(feeds, ids)
    nothing, _ = importer.read_stored(BEGINNING, BERLIN)
    after = {name: records for (name, _), records in reported.items()}
    changes = find_changes(stored_records(nothing), after, nothing, "20.0.24")
    for table, changed in changes.items():
        if changed:
            importer.upsert(table, changed, nothing[table], datetime.now(UTC))
    wanted = tables.Expected("20.0.24", "Europe/Berlin", hidden, key).claude(feeds).tables
    found = tables.read(importer.query, importer.machine_name)  # type: ignore[arg-type]
    tables.assert_same(found, wanted)
    assert as_reported(importer.read_stored(BEGINNING, BERLIN)[0]) == {
        name: dict(sorted(records.items())) for (name, _), records in reported.items()
    }


def as_reported(stored: TableRows) -> dict[str, Any]:
    """What is stored, without what only rows know."""
    return {
        name: {
            key: record._replace(
                version="",
                shares={n: share._replace(version="") for n, share in record.shares.items()},
            )
            for key, record in sorted(records.items())
        }
        for name, records in stored_records(stored).items()
    }


def test_a_feed_nested_beyond_reason_is_refused() -> None:
    text = json.dumps(recorded("20.0.24", "daily") | {"extra": "DEEP"})
    with pytest.raises(FeedError, match=r"^daily: broken JSON \(nested too deeply\)"):
        parse(BY_NAME["daily"], text.replace('"DEEP"', "[" * 5000 + "]" * 5000))


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([[], {}, [None], {"": None}, "\ud800", 2**64, "2026-02-30", GONE]),
)


def places(node: Any, at: str = "") -> Iterator[str]:
    found = node.items() if isinstance(node, dict) else enumerate(node)
    for name, value in found:
        yield f"{at}{name}"
        if isinstance(value, (dict, list)):
            yield from places(value, f"{at}{name}/")


FEEDS_TO_BREAK = [
    *((feed, recorded(version, feed.name)) for feed in FEEDS for version in ("18.0.11", "20.0.24")),
    *((BY_NAME[n]._replace(agent=a), recorded("20.0.24", f"{a}-{n}"))
      for a in ("codex", "opencode") for n in ("daily", "monthly", "session")),
    (UNIFIED, recorded("20.0.24", "unified-sections")),
]  # fmt: skip


@settings(max_examples=200, deadline=None, database=None)
@given(data=st.data())
def test_any_other_value_anywhere_is_read_or_refused_but_never_a_bug(data: st.DataObject) -> None:
    feed, payload = data.draw(st.sampled_from(FEEDS_TO_BREAK))
    place = data.draw(st.sampled_from(list(places(payload))))
    with contextlib.suppress(FeedError):
        parse(feed, lied(payload, place, data.draw(junk)))
