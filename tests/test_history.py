"""When may a row get smaller? Pure functions of what is stored, reported, and the window."""

from __future__ import annotations

import itertools
import json
from datetime import date, datetime, timedelta, timezone
from random import Random
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccusage_importer import (
    GONE,
    RECREDITED,
    RECUT,
    Decision,
    Ids,
    Policy,
    Record,
    Share,
    Tokens,
    add,
    cleanup_period,
    decide,
    decide_all,
    earliest,
    settled_units,
    shrinks,
    unit_of,
    what_to_compare,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

UTC = timezone.utc
BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
NEW, OLD = "20.0.24", "20.0.11"
OPUS, SONNET = "opus", "sonnet"
IDS = Ids("", hidden=False)
IN = date(2026, 3, 20)  # a day inside the window of 29 days
OUT = date(2026, 2, 20)  # and one outside


# --- builders ----------------------------------------------------------------------------------


def tokens(number: int) -> Tokens:
    """A number of tokens, spread over the counters."""
    part = number // 4
    return Tokens(part, part, part, number - 3 * part, number)


def record(
    key: tuple[Any, ...], shares: dict[str, tuple[int, float]], version: str = NEW, **more: Any
) -> Record:
    """A record of what its models hold: (tokens, cost) each."""
    agent = more.pop("agent", "claude")
    former = more.pop("former", ())
    summed = [tokens(n) for n, _ in shares.values()]
    return Record(
        agent=agent,
        key=key,
        tokens=Tokens(*(sum(t[i] for t in summed) for i in range(5))),
        cost=round(sum(cost for _, cost in shares.values()), 8),
        models=frozenset(shares),
        shares={name: Share(tokens(n), cost, version) for name, (n, cost) in shares.items()},
        details=more,
        version=version,
        former=former,
    )


def day(at: date, number: int, version: str = NEW, cost: float = 1.0, **more: Any) -> Record:
    return record((at,), {OPUS: (number, cost)}, version, **more)


def month(name: str, number: int, version: str = NEW, cost: float = 1.0) -> Record:
    return record((name,), {OPUS: (number, cost)}, version)


def session(
    name: str,
    number: int,
    version: str = NEW,
    first: datetime | None = None,
    *,
    last: datetime | None = None,
    project: str = "p",
    **more: Any,
) -> Record:
    if not more.pop("subagents", False):
        former = IDS.key(f"{project}/{name}", "subagents"), IDS.key("Unknown Project", project)
        more["former"] = former
    more["project_path"], more["session_id"] = project, name
    more["first_activity"], more["last_activity"] = first, last or NOW - timedelta(days=2)
    shares = more.pop("shares", {OPUS: (number, 1.0)})
    return record((IDS.key(project, name),), shares, version, **more)


def block(start: datetime, number: int, version: str = NEW, cost: float = 1.0) -> Record:
    made = record((start.isoformat(),), {OPUS: (number, cost)}, version)
    times = {"start_time": start, "end_time": start + timedelta(hours=5), "is_gap": False}
    return made._replace(shares={}, details=times)


def gap(start: datetime, end: datetime, version: str = NEW) -> Record:
    made = record((f"gap-{start.isoformat()}",), {}, version)
    return made._replace(details={"start_time": start, "end_time": end, "is_gap": True})


def by_id(records: Iterable[Record]) -> dict[tuple[Any, ...], Record]:
    return {one.id: one for one in records}


def policy(days: int | None = 29, version: str = NEW, **more: Any) -> Policy:
    numbers = tuple(map(int, version.split(".")))
    start = None if days is None else NOW - timedelta(days=days)
    return Policy(numbers, start, more.pop("zone", UTC), **more)  # type: ignore[arg-type]


def apply(stored: dict[Any, Record], decision: Decision, version: str = NEW) -> dict[Any, Record]:
    """What is stored afterwards: what is put without a version is of this run's."""
    written = {
        key: one if one == stored.get(key) else one._replace(version=one.version or version)
        for key, one in decision.put.items()
    }
    return {key: one for key, one in {**stored, **written}.items() if key not in decision.drop}


def reported(*records: Record) -> dict[Any, Record]:
    """As a feed has them: of no version yet."""
    return by_id(
        one._replace(
            version="",
            shares={n: share._replace(version="") for n, share in one.shares.items()},
        )
        for one in records
    )


def held(feed: str, old: Record, new: Record, how: Policy | None = None) -> str | None:
    """The reason for which `old` stays, after the decision says so in every way."""
    decision = decide(feed, by_id([old]), reported(new), how or policy())
    after = apply(by_id([old]), decision)[old.id]
    reason = decision.held.get(old.id)
    stays = old if reason else new
    assert (after.tokens, after.cost, after.shares.keys()) == (
        stays.tokens,
        stays.cost,
        stays.shares.keys(),
    )
    return reason


def at_day(at: date, hour: float = 0) -> datetime:
    return datetime(at.year, at.month, at.day, tzinfo=UTC) + timedelta(hours=hour)


def one_of(feed: str, at: date, number: int, version: str = NEW, cost: float = 1.0) -> Record:
    """A record of any feed, whose earliest usage is at midnight of that day (that month)."""
    start = at_day(at)
    make = {
        "daily": lambda: day(at, number, version, cost),
        "monthly": lambda: month(f"{at:%Y-%m}", number, version, cost),
        "session": lambda: session("s", number, version, start, shares={OPUS: (number, cost)}),
        "blocks": lambda: block(start, number, version, cost),
        "projects": lambda: record((at, "k"), {OPUS: (number, cost)}, version, project_id="p"),
    }
    return make[feed]()


FEEDS = ("daily", "monthly", "session", "blocks", "projects")
MARCH = date(2026, 3, 1)


# --- smaller -----------------------------------------------------------------------------------

A, B = {OPUS: (100, 1.0)}, {OPUS: (60, 0.6), SONNET: (40, 0.4)}


@pytest.mark.parametrize(
    ("old", "new", "smaller"),
    [
        (A, A, False),
        (A, {OPUS: (99, 1.0)}, True),
        (A, {OPUS: (99, 2.0)}, True),
        (A, {OPUS: (101, 0.0)}, False),
        (A, {OPUS: (100, 0.5)}, False),
        (A, {OPUS: (100, 0.0)}, True),
        (A, {OPUS: (100, 2.0)}, False),
        (B, {OPUS: (60, 0.6), SONNET: (40, 0.0)}, True),
        (B, {OPUS: (60, 0.6), SONNET: (40, 0.1)}, False),
        (B, {OPUS: (100, 1.0)}, True),
        (B, {OPUS: (20, 0.2), SONNET: (80, 0.8)}, False),
        ({OPUS: (100, 0.0)}, {OPUS: (100, 0.0)}, False),
        ({OPUS: (100, 0.0)}, {SONNET: (100, 0.0)}, False),
        ({OPUS: (0, 0.0)}, {}, False),
        (B, {OPUS: (60, 0.6), SONNET: (41, 0.0)}, False),
    ],
)
def test_smaller_is_fewer_tokens_or_as_many_with_a_models_cost_gone(
    old: Any, new: Any, smaller: bool
) -> None:
    assert shrinks(record((IN,), old), record((IN,), new)) is smaller


def test_a_block_has_no_models_costs_so_its_own_cost_counts() -> None:
    assert shrinks(block(NOW, 100, cost=1.0), block(NOW, 100, cost=0.0))
    assert not shrinks(block(NOW, 100, cost=1.0), block(NOW, 100, cost=0.5))


# --- held and corrected ------------------------------------------------------------------------


@pytest.mark.parametrize("feed", FEEDS)
def test_a_row_that_the_same_ccusage_reports_smaller_stays(feed: str) -> None:
    for at in (IN, MARCH, OUT):
        assert held(feed, one_of(feed, at, 100), one_of(feed, at, 99)) == GONE
        assert held(feed, one_of(feed, at, 100), one_of(feed, at, 100, cost=0.0)) == GONE


@pytest.mark.parametrize("feed", FEEDS)
def test_a_row_that_grows_or_stays_as_large_is_replaced(feed: str) -> None:
    for version in (NEW, OLD):
        for at in (IN, OUT):
            if feed != "session":  # a session must have moved
                assert held(feed, one_of(feed, at, 100, version), one_of(feed, at, 101)) is None
            cheaper = one_of(feed, at, 100, cost=0.5)
            assert held(feed, one_of(feed, at, 100, version), cheaper) is None


@pytest.mark.parametrize("feed", FEEDS)
def test_another_ccusage_that_reports_less_inside_the_window_is_believed(feed: str) -> None:
    inside = MARCH if feed == "monthly" else IN
    for version in (OLD, "18.0.11", "20.0.30", "21.0.0"):
        old = one_of(feed, inside, 100, version)
        assert held(feed, old, one_of(feed, inside, 99), policy(31)) is None
        assert held(feed, old, one_of(feed, inside, 100, cost=0.0), policy(31)) is None
        decision = decide(feed, by_id([old]), reported(one_of(feed, inside, 99)), policy(31))
        assert len(decision.lowered) == 1


@pytest.mark.parametrize("feed", FEEDS)
def test_another_ccusage_that_reports_less_outside_the_window_is_not_believed(feed: str) -> None:
    old = one_of(feed, OUT, 100, OLD)
    assert held(feed, old, one_of(feed, OUT, 99)) == GONE
    assert held(feed, old, one_of(feed, OUT, 100, cost=0.0)) == GONE


@pytest.mark.parametrize("feed", FEEDS)
def test_nothing_is_inside_a_window_that_is_off_or_unknown(feed: str) -> None:
    assert held(feed, one_of(feed, IN, 100, OLD), one_of(feed, IN, 99), policy(None)) == GONE


@pytest.mark.parametrize("feed", FEEDS)
def test_the_user_may_allow_any_row_to_shrink(feed: str) -> None:
    for version in (NEW, OLD):
        for at in (IN, OUT):
            old, new = one_of(feed, at, 100, version), one_of(feed, at, 0, cost=0.0)
            assert held(feed, old, new, policy(None, allow_shrink=True)) is None
            decision = decide(feed, by_id([old]), reported(new), policy(None, allow_shrink=True))
            assert [(o.id, n.id) for o, n in decision.lowered] == [(old.id, new.id)]


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("allow", [False, True])
def test_rows_that_a_feed_no_longer_mentions_stay(feed: str, allow: bool) -> None:
    stored = by_id([one_of(feed, IN, 100), one_of(feed, OUT, 100, OLD)])
    how = policy(allow_shrink=allow)
    other = one_of(feed, date(2026, 4, 1), 5)
    if feed == "session":
        other = other._replace(key=("other",))
    for said in ({}, reported(other)):
        assert apply(stored, decide(feed, stored, said, how)).items() >= stored.items()


def test_a_session_whose_first_days_are_gone_is_no_correction() -> None:
    last = NOW - timedelta(days=1)
    old = session("s", 100, OLD, first=NOW - timedelta(days=40), last=last)
    new = session("s", 60, first=NOW - timedelta(days=20), last=last)
    assert held("session", old, new) == GONE


def test_a_session_whose_first_day_is_unknown_is_outside_the_window() -> None:
    old = session("s", 100, "18.0.11", first=None)
    assert held("session", old, session("s", 60, first=NOW - timedelta(days=3))) == GONE


def test_a_month_is_as_old_as_its_first_day() -> None:
    assert earliest("monthly", month("2026-03", 1), UTC) == at_day(MARCH)
    old, new = month("2026-03", 100, OLD), month("2026-03", 90)
    assert held("monthly", old, new, policy(31)) is None
    assert held("monthly", old, new, policy(30)) == GONE


def test_a_day_begins_in_the_recorded_zone() -> None:
    start = datetime(2026, 3, 19, 23, tzinfo=UTC)
    assert earliest("daily", day(IN, 1), BERLIN) == start
    exact = Policy((20, 0, 24), start, BERLIN)
    late = Policy((20, 0, 24), start + timedelta(seconds=1), BERLIN)
    assert held("daily", day(IN, 100, OLD), day(IN, 99), exact) is None
    assert held("daily", day(IN, 100, OLD), day(IN, 99), late) == GONE


def test_a_held_row_keeps_its_version_and_so_may_still_be_corrected_later() -> None:
    old = day(IN, 100, OLD)
    after = apply(by_id([old]), decide("daily", by_id([old]), reported(day(IN, 9)), policy(5)))
    assert after[old.id] == old
    assert held("daily", after[old.id], day(IN, 9), policy(29)) is None


def test_a_held_row_is_shown_as_the_run_shows_names() -> None:
    old = one_of("projects", OUT, 100)
    new = one_of("projects", OUT, 9)._replace(details={"project_id": "hidden"})
    decision = decide("projects", by_id([old]), reported(new), policy())
    assert decision.put[old.id] == old._replace(details={"project_id": "hidden"})


@pytest.mark.parametrize("version", [NEW, OLD])
def test_other_agents_purge_nothing_so_their_window_has_no_end(version: str) -> None:
    old = day(OUT, 100, version, agent="codex")
    new = day(OUT, 99, agent="codex")
    assert held("daily", old, new) == (GONE if version == NEW else None)


# --- the window --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "days"),
    [
        (None, 30),
        ("{}", 30),
        ('{"cleanupPeriodDays": 7}', 7),
        ('{"cleanupPeriodDays": 365}', 365),
        ('{"cleanupPeriodDays": 0}', 0),
        ('{"cleanupPeriodDays": -5}', 0),
        ('{"cleanupPeriodDays": "30"}', 0),
        ('{"cleanupPeriodDays": null}', 0),
        ('{"cleanupPeriodDays": true}', 0),
        ('{"cleanupPeriodDays": 7.5}', 0),
        ("[]", 0),
        ('{"cleanupPeriodDays": 99999}', 99999),
        ("{broken", 0),
        ("\xff", 0),
    ],
)
def test_the_window_comes_from_claude_codes_settings(
    tmp_path: Path, content: str | None, days: int
) -> None:
    if content is not None:
        (tmp_path / "settings.json").write_bytes(content.encode("latin-1"))
    assert cleanup_period({"CLAUDE_CONFIG_DIR": str(tmp_path)}) == days


def test_of_several_directories_the_shortest_period_counts(tmp_path: Path) -> None:
    for name, days in (("a", 90), ("b", 14), ("c", 60)):
        (tmp_path / name).mkdir()
        content = json.dumps({"cleanupPeriodDays": days})
        (tmp_path / name / "settings.json").write_text(content)
    names = ",".join(str(tmp_path / name) for name in ("a", "missing", "b", "c"))
    assert cleanup_period({"CLAUDE_CONFIG_DIR": names}) == 14


def test_a_directory_with_transcripts_and_no_settings_keeps_them_for_30_days(
    tmp_path: Path,
) -> None:
    for name in ("a/projects", "b/projects", "c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a" / "settings.json").write_text('{"cleanupPeriodDays": 365}')
    for names, days in (("a", 365), ("a,b", 30), ("a,c", 365), ("a/projects", 365), ("c", 30)):
        listed = ",".join(str(tmp_path / name) for name in names.split(","))
        assert cleanup_period({"CLAUDE_CONFIG_DIR": listed}) == days


def test_without_the_variable_both_default_directories_are_read(tmp_path: Path) -> None:
    for folder, days in ((".claude", 20), (".config/claude", 10)):
        (tmp_path / folder).mkdir(parents=True)
        content = json.dumps({"cleanupPeriodDays": days})
        (tmp_path / folder / "settings.json").write_text(content)
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / ".config")}
    assert cleanup_period(home) == 10


# --- months ------------------------------------------------------------------------------------


def months_and_days(
    stored: Iterable[Record], days: Iterable[Record], months: Iterable[Record], how: Policy
) -> dict[str, Record]:
    """The months that a run stores, by name; `stored` holds days and months."""
    both = list(stored)
    before: dict[str, Any] = {feed: {} for feed in FEEDS}
    before["daily"] = by_id(one for one in both if isinstance(one.key[0], date))
    before["monthly"] = by_id(one for one in both if isinstance(one.key[0], str))
    said = {("daily", "claude"): reported(*days), ("monthly", "claude"): reported(*months)}
    decisions = decide_all(before, said, IDS, how)
    after = apply(before["monthly"], decisions["monthly"])
    return {one.key[0]: one for one in after.values()}


def test_a_month_is_what_is_reported_plus_its_days_that_are_gone() -> None:
    stored = [day(date(2026, 3, d), 100) for d in (1, 2, 3)]
    months = months_and_days(
        [*stored, month("2026-03", 300, cost=3.0)],
        [day(date(2026, 3, 3), 100), day(date(2026, 3, 4), 50)],
        [month("2026-03", 150, cost=2.0)],
        policy(),
    )
    assert months["2026-03"].tokens == tokens(350)
    assert months["2026-03"].cost == 4.0
    assert months["2026-03"].shares[OPUS][:2] == (tokens(350), 4.0)


def test_a_month_is_what_is_reported_plus_what_its_held_days_lost() -> None:
    """Per counter, cost and model: a model may even be more in what is reported now."""
    at = date(2026, 3, 5)
    old = record((at,), {OPUS: (100, 5.0), SONNET: (40, 1.0)})
    now = record((at,), {OPUS: (8, 0.4), SONNET: (60, 1.5)})
    whole = record(("2026-03",), {OPUS: (100, 5.0), SONNET: (40, 1.0)})
    rest = record(("2026-03",), {OPUS: (28, 1.4), SONNET: (60, 1.5)})
    months = months_and_days([old, whole], [now, day(date(2026, 3, 6), 20)], [rest], policy())
    assert months["2026-03"].shares[OPUS][:2] == (tokens(120), 6.0)
    assert months["2026-03"].shares[SONNET][:2] == (tokens(40), 1.0)
    assert months["2026-03"].tokens == tokens(160)
    assert months["2026-03"].cost == 7.0


def test_a_model_whose_days_are_all_gone_is_still_used_in_the_month() -> None:
    old = record((MARCH,), {SONNET: (40, 1.0)})
    months = months_and_days(
        [old, record(("2026-03",), {SONNET: (40, 1.0)})],
        [day(IN, 100)],
        [month("2026-03", 100)],
        policy(),
    )
    assert months["2026-03"].models == {OPUS, SONNET}
    assert months["2026-03"].shares[SONNET][:2] == (tokens(40), 1.0)


def test_a_day_held_for_its_cost_alone_gives_the_month_that_cost() -> None:
    months = months_and_days(
        [day(IN, 100, cost=2.0), month("2026-03", 100, cost=2.0)],
        [day(IN, 100, cost=0.0)],
        [month("2026-03", 100, cost=0.0)],
        policy(),
    )
    assert (months["2026-03"].tokens, months["2026-03"].cost) == (tokens(100), 2.0)


def test_a_month_of_which_nothing_is_reported_stays() -> None:
    stored = [day(OUT, 100, OLD), month("2026-02", 100, OLD)]
    months = months_and_days(stored, [day(IN, 10)], [month("2026-03", 10)], policy())
    assert months["2026-02"] == stored[1]
    assert months["2026-03"].tokens == tokens(10)


def test_days_corrected_inside_the_window_are_not_added_to_the_month() -> None:
    stored = [day(IN, 100, OLD), month("2026-03", 100, OLD)]
    months = months_and_days(stored, [day(IN, 60)], [month("2026-03", 60)], policy(31))
    assert months["2026-03"].tokens == tokens(60)


@pytest.mark.parametrize(
    ("said", "number", "after"),
    [
        ([], 300, 300),  # the days were purged between the two reports
        ([(3, 100)], 300, 300),
        ([(2, 100), (3, 100)], 250, 300),  # as the month was read, half of a day was gone
        ([(3, 100), (4, 50)], 350, 350),
        ([(3, 100), (4, 50)], 360, 360),  # worked on after the days were read
        ([(3, 100)], 100, 300),  # a purge before both
    ],
)
def test_a_month_that_still_holds_days_which_the_other_report_lost_is_not_doubled(
    said: list[tuple[int, int]], number: int, after: int
) -> None:
    stored = [day(date(2026, 3, d), 100) for d in (1, 2, 3)]
    found = months_and_days(
        [*stored, month("2026-03", 300, cost=3.0)],
        [day(date(2026, 3, d), n) for d, n in said],
        [month("2026-03", number, cost=3.0)],
        policy(),
    )
    assert found["2026-03"].tokens.total == after


def test_a_month_keeps_what_it_always_had_beside_its_days() -> None:
    """As ccusage 20 has, which counts some messages of sub-agents in one of the reports alone."""
    months = months_and_days(
        [day(date(2026, 3, 1), 100), day(date(2026, 3, 2), 100), month("2026-03", 240)],
        [day(date(2026, 3, 2), 130)],
        [month("2026-03", 160)],
        policy(),
    )
    assert months["2026-03"].tokens.total == 260


def test_a_model_that_a_held_day_does_not_have_is_none_of_the_month() -> None:
    months = months_and_days(
        [record((IN,), {OPUS: (50, 2.0)}), record(("2026-03",), {OPUS: (50, 2.0)})],
        [record((IN,), {SONNET: (20, 1.0)})],
        [record(("2026-03",), {SONNET: (20, 1.0)})],
        policy(),
    )
    assert months["2026-03"].models == {OPUS}
    assert set(months["2026-03"].shares) == {OPUS}


def test_days_that_the_user_lets_shrink_are_not_added_to_the_month() -> None:
    how = policy(allow_shrink=True)
    stored = [day(IN, 100), day(MARCH, 5), month("2026-03", 105)]
    months = months_and_days(stored, [day(IN, 60)], [month("2026-03", 60)], how)
    assert months["2026-03"].tokens == tokens(65)  # a day that is no longer mentioned stays


def test_without_a_daily_feed_the_shrink_rule_alone_holds_for_months() -> None:
    before: dict[str, Any] = {feed: {} for feed in FEEDS}
    before["daily"] = by_id([day(MARCH, 70), day(IN, 30)])
    before["monthly"] = by_id([month("2026-03", 100)])
    for number, stays in ((30, 100), (100, 100), (130, 130)):
        said = {("monthly", "claude"): reported(month("2026-03", number))}
        decision = decide_all(before, said, IDS, policy())["monthly"]
        (after,) = apply(before["monthly"], decision).values()
        assert after.tokens == tokens(stays)


def test_the_days_of_one_agent_do_not_make_another_agents_month() -> None:
    before: dict[str, Any] = {feed: {} for feed in FEEDS}
    before["daily"] = by_id([day(MARCH, 70, agent="codex")])
    said = {
        ("daily", "claude"): reported(day(IN, 10)),
        ("monthly", "claude"): reported(month("2026-03", 10)),
    }
    decision = decide_all(before, said, IDS, policy())["monthly"]
    assert [one.tokens for one in decision.put.values()] == [tokens(10)]


# --- sessions ----------------------------------------------------------------------------------


def test_a_session_that_has_not_moved_does_not_grow() -> None:
    last = NOW - timedelta(days=3)
    assert held("session", session("s", 50, last=last), session("s", 90, last=last)) == RECREDITED


def test_a_session_that_has_moved_grows() -> None:
    last = NOW - timedelta(days=3)
    later = last + timedelta(milliseconds=1)
    assert held("session", session("s", 50, last=last), session("s", 90, last=later)) is None


def test_another_ccusage_may_find_more_in_a_session_that_has_not_moved() -> None:
    for old in (session("s", 50, OLD), session("s", 50, "19.0.3")):
        assert held("session", old, session("s", 90)) is None


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (datetime(2026, 3, 20, 15, tzinfo=UTC), None),  # the day went on after the import
        (datetime(2026, 3, 20, 22, 59, tzinfo=UTC), None),
        (datetime(2026, 3, 20, 23, 0, tzinfo=UTC), RECREDITED),  # midnight in Berlin
        (datetime(2026, 3, 25, 12, tzinfo=UTC), RECREDITED),
        (None, RECREDITED),
    ],
)
def test_up_to_19_the_day_of_the_last_activity_may_have_gone_on(
    seen: datetime | None, reason: str | None
) -> None:
    last = datetime(2026, 3, 19, 23, tzinfo=UTC)  # the 20th in Berlin
    how = policy(version="19.0.3", zone=BERLIN, seen_until=seen)
    old, new = session("s", 50, "19.0.3", last=last), session("s", 90, "19.0.3", last=last)
    assert held("session", old, new, how) == reason


def test_with_allow_shrink_a_session_is_what_is_reported() -> None:
    how = policy(allow_shrink=True)
    assert held("session", session("s", 50), session("s", 90), how) is None


def test_sessions_of_other_agents_may_have_no_date() -> None:
    old = session("s", 50, agent="opencode")._replace(details={"last_activity": None})
    new = session("s", 90, agent="opencode")._replace(details={"last_activity": None})
    assert held("session", old, new) is None
    assert held("session", new, old) == GONE


# --- the upgrade from 18 -----------------------------------------------------------------------

V18 = "18.0.11"


def lumped(project: str, number: int, **more: Any) -> Record:
    """A row of ccusage 15 to 18: a project's sessions in one."""
    return session(project, number, V18, project="Unknown Project", **more)


def subagents(project: str, name: str, number: int, **more: Any) -> Record:
    return session("subagents", number, V18, project=f"{project}/{name}", **more)


def upgraded(stored: Iterable[Record], *sessions: Record, **more: Any) -> dict[Any, Record]:
    """What is stored after the first import by ccusage 20, by session id."""
    before = by_id(stored)
    decision = decide("session", before, reported(*sessions), policy(**{"upgraded": False, **more}))
    after = apply(before, decision)
    return {(one.details["project_path"], one.details["session_id"]): one for one in after.values()}


def test_a_projects_row_loses_what_its_sessions_hold() -> None:
    stored = [lumped("p", 100, shares={OPUS: (80, 8.0), SONNET: (20, 1.0)})]
    after = upgraded(stored, session("s", 32, shares={OPUS: (20, 2.0), SONNET: (12, 0.5)}))
    rest = after["Unknown Project", "p"]
    assert rest.tokens == tokens(68)
    assert rest.shares[OPUS][:2] == (tokens(60), 6.0)
    assert rest.shares[SONNET][:2] == (tokens(8), 0.5)
    assert rest.cost == 6.5
    assert after["p", "s"].tokens == tokens(32)


def test_a_projects_row_that_its_sessions_explain_is_removed() -> None:
    after = upgraded([lumped("p", 100)], session("s", 60), session("t", 40))
    assert set(after) == {("p", "s"), ("p", "t")}


def test_a_projects_row_never_falls_below_zero() -> None:
    """19 counts the largest copy of a streamed answer, 18 the first."""
    assert set(upgraded([lumped("p", 100)], session("s", 120))) == {("p", "s")}


def test_a_model_that_is_no_longer_in_the_rest_goes_with_its_share() -> None:
    stored = [lumped("p", 100, shares={OPUS: (60, 6.0), SONNET: (40, 1.0)})]
    after = upgraded(stored, session("s", 40, shares={SONNET: (40, 1.0)}))
    assert after["Unknown Project", "p"].models == {OPUS}
    assert set(after["Unknown Project", "p"].shares) == {OPUS}


def test_a_session_is_taken_first_from_its_subagents_row_then_from_its_projects() -> None:
    stored = [lumped("p", 100), subagents("p", "s", 30)]
    after = upgraded(stored, session("s", 90))
    assert set(after) == {("p", "s"), ("Unknown Project", "p")}
    assert after["Unknown Project", "p"].tokens == tokens(40)


def test_a_subagents_row_may_outlive_its_session() -> None:
    stored = [subagents("p", "s", 30), subagents("p", "gone", 20)]
    after = upgraded(stored, session("s", 30))
    assert set(after) == {("p", "s"), ("p/gone", "subagents")}


def test_sessions_reduce_their_own_project_alone() -> None:
    stored = [lumped("p", 100), lumped("q", 100), subagents("q", "s", 10)]
    after = upgraded(stored, session("s", 60))
    assert after["Unknown Project", "p"].tokens == tokens(40)
    assert after["Unknown Project", "q"].tokens == tokens(100)
    assert after["q/s", "subagents"].tokens == tokens(10)


def test_a_session_that_18_told_apart_too_is_not_taken_from_its_project() -> None:
    """`projects/p/UUID/chat.jsonl` is the session UUID of p in every version."""
    stored = [lumped("p", 100), session("s", 60, V18)]
    after = upgraded(stored, session("s", 60))
    assert after["Unknown Project", "p"].tokens == tokens(100)
    assert after["p", "s"].tokens == tokens(60)


@pytest.mark.parametrize("more", [{"upgraded": True}, {"version": V18}])
def test_projects_rows_are_reduced_once_and_only_by_19_or_newer(more: Any) -> None:
    after = upgraded([lumped("p", 100)], session("s", 60), **more)
    assert after["Unknown Project", "p"].tokens == tokens(100)


def test_a_reduced_row_is_of_the_new_ccusage_and_so_reduced_once() -> None:
    stored = [lumped("p", 100)]
    first = upgraded(stored, session("s", 60))
    second = upgraded(first.values(), session("s", 60))
    assert second["Unknown Project", "p"].tokens == tokens(40)
    assert second["Unknown Project", "p"].version == NEW


# --- blocks ------------------------------------------------------------------------------------

MORNING = at_day(IN, 10)


def hours(number: float) -> timedelta:
    return timedelta(hours=number)


def kept_blocks(
    stored: Iterable[Record], said: Iterable[Record], how: Policy | None = None
) -> list[tuple[float, int]]:
    """The blocks afterwards: hours after MORNING, and tokens."""
    before = by_id(stored)
    after = apply(before, decide("blocks", before, reported(*said), how or policy()))
    return sorted(
        ((one.details["start_time"] - MORNING) / hours(1), one.tokens.total)
        for one in after.values()
        if not one.details["is_gap"]
    )


def blocks(*pairs: tuple[float, int], version: str = NEW) -> list[Record]:
    return [block(MORNING + hours(start), number, version) for start, number in pairs]


@pytest.mark.parametrize(
    ("stored", "said", "after"),
    [
        ([], [(0, 5)], [(0, 5)]),
        ([(0, 5)], [], [(0, 5)]),
        # far from the cut: gone, or the same
        ([(0, 5), (24, 7)], [(24, 7)], [(0, 5), (24, 7)]),
        ([(0, 5), (24, 7)], [(24, 9), (48, 1)], [(0, 5), (24, 9), (48, 1)]),
        ([(24, 7)], [(24, 6)], [(24, 7)]),
        # one that starts before the first reported one stays, and what overlaps it is dropped
        ([(0, 50)], [(1, 60)], [(0, 50)]),
        ([(0, 50), (5, 40)], [(1, 60), (6, 90)], [(0, 50), (6, 90)]),
        ([(0, 50), (5, 40), (10, 30)], [(6, 35), (11, 29)], [(0, 50), (5, 40), (10, 30)]),
        # of the rest the cut with more tokens, per stretch
        ([(0, 9), (24, 50)], [(0, 9), (25, 60)], [(0, 9), (25, 60)]),
        ([(0, 9), (24, 50)], [(0, 9), (25, 50)], [(0, 9), (24, 50)]),
        ([(0, 9), (24, 50)], [(0, 9), (25, 40)], [(0, 9), (24, 50)]),
        ([(0, 1), (5, 10), (10, 10)], [(0, 1), (7, 30)], [(0, 1), (7, 30)]),
        ([(0, 1), (5, 10), (10, 20)], [(0, 1), (7, 29)], [(0, 1), (5, 10), (10, 20)]),
        # a stretch is decided apart from the next
        (
            [(0, 1), (24, 10), (48, 10)],
            [(0, 1), (25, 20), (49, 5)],
            [(0, 1), (25, 20), (48, 10)],
        ),
        # blocks that only touch do not overlap
        ([(0, 9), (5, 9)], [(0, 9), (10, 9)], [(0, 9), (5, 9), (10, 9)]),
    ],
)
def test_of_two_cuts_one_is_kept(stored: Any, said: Any, after: Any) -> None:
    assert kept_blocks(blocks(*stored), blocks(*said)) == after


def test_a_recut_stretch_is_held_with_its_reason() -> None:
    stored, said = blocks((0, 1), (24, 50)), blocks((0, 1), (25, 40))
    decision = decide("blocks", by_id(stored), reported(*said), policy())
    assert decision.held == {stored[1].id: RECUT}


def test_another_ccusage_that_cuts_recent_blocks_otherwise_is_believed() -> None:
    stored, said = blocks((0, 9), (24, 50), version=OLD), blocks((0, 9), (25, 40))
    assert kept_blocks(stored, said) == [(0, 9), (25, 40)]
    assert kept_blocks(stored, said, policy(5)) == [(0, 9), (24, 50)]


def test_the_user_may_allow_a_cut_with_fewer_tokens() -> None:
    how = policy(allow_shrink=True)
    assert kept_blocks(blocks((0, 9), (24, 50)), blocks((0, 9), (25, 4)), how) == [(0, 9), (25, 4)]


def test_a_block_that_has_ended_is_updated_though_it_is_as_large() -> None:
    old, new = block(MORNING, 9), block(MORNING, 9)
    old.details["is_active"], new.details["is_active"] = True, False
    after = apply(by_id([old]), decide("blocks", by_id([old]), reported(new), policy()))
    assert after[old.id].details["is_active"] is False


def gaps_after(stored: Iterable[Record], said: Iterable[Record]) -> list[tuple[float, float]]:
    before = by_id(stored)
    after = apply(before, decide("blocks", before, reported(*said), policy()))
    return sorted(
        tuple((one.details[name] - MORNING) / hours(1) for name in ("start_time", "end_time"))  # type: ignore[misc]
        for one in after.values()
        if one.details["is_gap"]
    )


def pause(start: float, end: float) -> Record:
    return gap(MORNING + hours(start), MORNING + hours(end))


@pytest.mark.parametrize(
    ("stored", "pauses", "said", "new_pauses", "after"),
    [
        ([], [], [(0, 5), (24, 5)], [(7, 24)], [(7, 24)]),
        # those of the latest feed replace the stored ones within its range
        ([(0, 5), (24, 5)], [(7, 24)], [(0, 5), (24, 5)], [(8, 24)], [(8, 24)]),
        ([(0, 5), (24, 5)], [(7, 24)], [(0, 5), (12, 9), (24, 5)], [(17, 24)], [(17, 24)]),
        # not those before it
        ([(0, 5), (24, 5)], [(7, 24)], [(24, 5), (48, 5)], [(30, 48)], [(7, 24), (30, 48)]),
        # except where they overlap a stored block that the feed does not report
        ([(0, 5), (12, 9), (24, 5)], [], [(0, 5), (24, 5)], [(7, 24)], []),
        ([(0, 50), (24, 5)], [], [(1, 40), (24, 5)], [(4.5, 24)], []),
    ],
)
def test_gaps_are_those_of_the_latest_feed(
    stored: Any, pauses: Any, said: Any, new_pauses: Any, after: Any
) -> None:
    before = [*blocks(*stored), *(pause(*p) for p in pauses)]
    now = [*blocks(*said), *(pause(*p) for p in new_pauses)]
    assert gaps_after(before, now) == after


# --- whatever happens --------------------------------------------------------------------------


def ccusage_blocks(messages: list[tuple[int, int]]) -> list[Record]:
    """Messages (minutes after the epoch, tokens) cut as ccusage does."""
    found: list[Record] = []
    group: list[tuple[int, int]] = []

    def close() -> None:
        start = at_day(date(2026, 3, 3)) + timedelta(hours=group[0][0] // 60)
        found.append(block(start, sum(n for _, n in group)))

    for minute, number in sorted(messages):
        if group:
            start, last = group[0][0] // 60 * 60, group[-1][0]
            if minute > start + 300 or minute > last + 300:
                close()
                if minute > last + 300:
                    begin = at_day(date(2026, 3, 3)) + timedelta(minutes=last + 300)
                    end = at_day(date(2026, 3, 3)) + timedelta(minutes=minute)
                    found.append(gap(begin, end))
                group = []
        group.append((minute, number))
    if group:
        close()
    return found


def overlapping(records: Iterable[Record]) -> list[tuple[Record, Record]]:
    spans = sorted(
        (one for one in records if not one.details["is_gap"]),
        key=lambda one: one.details["start_time"],
    )
    return [
        (a, b)
        for a, b in itertools.pairwise(spans)
        if b.details["start_time"] < a.details["end_time"]
    ]


MESSAGES = st.lists(st.tuples(st.integers(0, 6000), st.integers(1, 1000)), max_size=40)


@given(MESSAGES, st.lists(st.integers(0, 6000), max_size=6), st.booleans())
@settings(max_examples=300, deadline=None)
def test_blocks_never_overlap_nor_lose_tokens_whatever_a_purge_leaves(
    messages: list[tuple[int, int]], purges: list[int], allow: bool
) -> None:
    stored: dict[Any, Record] = {}
    for number, purged in enumerate(sorted(purges)):
        until = 6000 * (number + 1) // len(purges)
        left = [m for m in messages if purged <= m[0] <= until]
        said = reported(*ccusage_blocks(left))
        how = policy(allow_shrink=allow)
        after = apply(stored, decide("blocks", stored, said, how))
        assert not overlapping(after.values())
        if not allow:
            assert sum(b.tokens.total for b in after.values()) >= sum(
                b.tokens.total for b in stored.values()
            )
        assert apply(after, decide("blocks", after, said, how)) == after
        stored = after


MONTH_ENDS = [(date(2026, month, 1) - date(2026, 3, 3)).days * 1440 for month in range(4, 13)]


def work(chance: Random, messages: list[tuple[int, int]]) -> None:
    """More messages, often where a month ends, and some that are lost, often just before."""
    for _ in range(chance.randint(1, 2)):
        minute = max(messages, default=(0, 0))[0] + chance.choice([10, 400, 4000, 40_000])
        if chance.random() < 0.4:
            end = next((end for end in MONTH_ENDS if end > minute), minute)
            minute = max(minute, end - chance.randint(0, 700))
        elif chance.random() < 0.2:
            minute = max(minute - chance.randint(10, 800), 0)
        for _ in range(chance.randint(1, 4)):
            messages.append((minute, chance.randint(1, 99)))
            minute += chance.choice([7, 60, 61, 130, 250, 299, 301, 400, 700])
    messages.sort()
    loss = chance.random()
    if loss < 0.1:
        del messages[: chance.randint(0, len(messages))]
    elif loss < 0.4:
        start = max(len(messages) - 1 - int(chance.expovariate(0.25)), 0)
        del messages[start : start + chance.randint(1, 6)]


def is_read(key: tuple[Any, ...], keys: list[str], since: str) -> bool:
    """As the statement that reads what is stored has it."""
    month = unit_of("blocks", *key)[2]
    return month >= since or month in keys or key[1] in keys


def compare_all_and_some(steps: Iterable[tuple[dict[Any, Record], Policy]]) -> None:
    """What runs leave that compare only what a change reaches, and what those that compare all."""
    whole: dict[Any, Record] = {}
    stored: dict[Any, Record] = {}
    left: set[str] = set()
    for said, how in steps:
        whole = apply(whole, decide("blocks", whole, said, how))
        units: dict[Any, str] = {}
        for one in said.values():
            unit = unit_of("blocks", *one.id)
            units[unit] = units.get(unit, "") + repr(one)
        known, keys, since = what_to_compare(units, left)
        found = {key: one for key, one in stored.items() if is_read(key, keys, since)}
        news = {k: one for k, one in said.items() if unit_of("blocks", *k) not in known}
        decision = decide("blocks", found, news, how)
        rest = {key: one for key, one in stored.items() if key not in found}
        stored = {**rest, **apply(found, decision)}
        assert stored == whole
        left = settled_units(units, {("blocks", "claude"): news}, {"blocks": decision})


def test_where_only_what_a_change_reaches_is_compared_the_same_blocks_are_left() -> None:
    for seed in range(60):
        chance = Random(seed)
        messages: list[tuple[int, int]] = []
        steps = []
        for _ in range(12):
            work(chance, messages)
            how = policy(allow_shrink=chance.random() < 0.06)
            steps.append((reported(*ccusage_blocks(messages)), how))
        compare_all_and_some(steps)


def test_a_block_that_reaches_into_the_next_month_is_compared_with_that_months() -> None:
    early = block(at_day(date(2026, 1, 5)), 9)
    before, after = block(at_day(date(2026, 2, 28), 22), 1), block(at_day(date(2026, 3, 1)), 2)
    said = [reported(early, before), reported(early), reported(early, after)]
    compare_all_and_some([(one, policy()) for one in said])


BLOCKS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 50)), max_size=12, unique_by=lambda b: b[0]
)


def apart(pairs: list[tuple[int, int]], version: str) -> list[Record]:
    """Blocks that do not overlap."""
    chosen: list[tuple[int, int]] = []
    for pair in sorted(pairs):
        if not chosen or pair[0] >= chosen[-1][0] + 5:
            chosen.append(pair)
    return blocks(*chosen, version=version)


@given(BLOCKS, BLOCKS, st.sampled_from([NEW, OLD]), st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_two_cuts_make_one_that_counts_nothing_twice(
    one: list[tuple[int, int]], other: list[tuple[int, int]], version: str, allow: bool
) -> None:
    stored, said = by_id(apart(one, version)), reported(*apart(other, NEW))
    how = policy(allow_shrink=allow)
    after = apply(stored, decide("blocks", stored, said, how))
    assert not overlapping(after.values())
    assert apply(after, decide("blocks", after, said, how)) == after
    if version == NEW and not allow:
        total = sum(b.tokens.total for b in stored.values())
        assert sum(b.tokens.total for b in after.values()) >= total


USE = st.tuples(
    st.integers(0, 45), st.sampled_from([OPUS, SONNET]), st.integers(1, 99), st.integers(0, 5)
)


def tally(uses: Iterable[tuple[int, str, int, int]], monthly: bool) -> list[Record]:
    """Days, or months, of what was used: (day, model, tokens, dollars)."""
    shares: dict[Any, dict[str, tuple[int, float]]] = {}
    for number, model, count, cost in uses:
        at = date(2026, 2, 1) + timedelta(days=number)
        place = shares.setdefault(f"{at:%Y-%m}" if monthly else at, {})
        before = place.get(model, (0, 0.0))
        place[model] = (before[0] + 4 * count, before[1] + cost)
    return [record((key,), found, "") for key, found in shares.items()]


@given(st.lists(st.lists(st.tuples(USE, st.booleans()), max_size=12), max_size=5))
@settings(max_examples=300, deadline=None)
def test_months_are_the_sum_of_their_days_and_never_fall_whatever_is_purged(
    imports: list[list[tuple[Any, bool]]],
) -> None:
    """Before each import something was used; after it some of that is purged."""
    stored: dict[str, Any] = {feed: {} for feed in FEEDS}
    exists: list[Any] = []
    for uses in imports:
        exists += [use for use, _ in uses]
        said = {
            ("daily", "claude"): by_id(tally(exists, monthly=False)),
            ("monthly", "claude"): by_id(tally(exists, monthly=True)),
        }
        decisions = decide_all(stored, said, IDS, policy())
        after = {feed: apply(stored[feed], decisions[feed]) for feed in FEEDS}
        for feed in ("daily", "monthly"):
            for key, old in stored[feed].items():
                assert after[feed][key].tokens.total >= old.tokens.total
        for one in after["monthly"].values():
            days = [d for d in after["daily"].values() if f"{d.key[0]:%Y-%m}" == one.key[0]]
            whole = add(days[0], *days[1:])
            assert (one.tokens, one.cost) == (whole.tokens, whole.cost)
            assert one.models >= whole.models
            assert {n: s[:2] for n, s in one.shares.items() if any(s.tokens)} == {
                n: s[:2] for n, s in whole.shares.items() if any(s.tokens)
            }
        again = decide_all(after, said, IDS, policy())
        assert {feed: apply(after[feed], again[feed]) for feed in FEEDS} == after
        stored = after
        for use, purged in uses:
            if purged:
                exists.remove(use)


SESSIONS = st.dictionaries(
    st.sampled_from("abcd"), st.tuples(st.integers(0, 200), st.integers(0, 50)), max_size=4
)


@given(SESSIONS, SESSIONS, st.booleans())
@settings(max_examples=300, deadline=None)
def test_sessions_never_fall_and_grow_only_when_they_move(
    before: dict[str, tuple[int, int]], now: dict[str, tuple[int, int]], allow: bool
) -> None:
    def made(sessions: dict[str, tuple[int, int]]) -> list[Record]:
        return [session(n, 4 * t, last=NOW - hours(h)) for n, (t, h) in sessions.items()]

    stored, said = by_id(made(before)), reported(*made(now))
    how = policy(allow_shrink=allow)
    after = apply(stored, decide("session", stored, said, how))
    assert after.keys() == stored.keys() | said.keys()
    for key, old in stored.items():
        if allow or after[key].tokens == old.tokens:
            continue
        assert after[key].tokens.total > old.tokens.total
        assert after[key].details["last_activity"] > old.details["last_activity"]
    assert apply(after, decide("session", after, said, how)) == after


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), max_size=8))
@settings(max_examples=200, deadline=None)
def test_an_upgrade_counts_each_token_of_a_project_once(uses: list[tuple[str, int]]) -> None:
    """Where 18 and 20 count alike, what was lumped is what the sessions hold and the rest."""
    sums: dict[str, int] = {}
    for name, count in uses:
        sums[name] = sums.get(name, 0) + 4 * count
    stored = [lumped("p", sum(sums.values()))] if sums else []
    kept = {name: number for name, number in sums.items() if name != "a"}  # a is purged
    after = upgraded(stored, *(session(n, number) for n, number in kept.items()))
    assert sum(one.tokens.total for one in after.values()) == sum(sums.values())
    again = decide(
        "session",
        by_id(after.values()),
        reported(*(session(n, number) for n, number in kept.items())),
        policy(upgraded=True),
    )
    assert apply(by_id(after.values()), again) == by_id(after.values())
