"""What each rule decides, one row or two at a time: what random lives do not show.

Other agents, versions of ccusage, names, prices, blocks, and what people are told.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from test_history import (
    FEEDS,
    IDS,
    NEW,
    OLD,
    OPUS,
    SONNET,
    UTC,
    V18,
    block,
    by_id,
    gap,
    lumped,
    policy,
    record,
    reported,
    session,
    subagents,
)

from ccusage_importer import (
    UINT64_MAX,
    Cause,
    Decision,
    Ids,
    Policy,
    Record,
    Share,
    Tokens,
    add,
    decide_all,
    hide_names,
    keep_prices,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

DAY = date(2026, 3, 29)
NEXT = DAY + timedelta(1)


def at(hour: float, day: date = DAY) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(hours=hour)


def daily(number: int, version: str = NEW, day: date = DAY, **more: Any) -> Record:
    cost = more.pop("cost", number / 10)
    return record((day,), {OPUS: (number, cost)}, version, **more)


def month(number: int, version: str = NEW, name: str = "2026-03", **more: Any) -> Record:
    return record((name,), {OPUS: (number, number / 10)}, version, **more)


def project(number: int, name: str = "p", version: str = NEW, day: date = DAY) -> Record:
    shares = {OPUS: (number, number / 10)}
    return record((day, IDS.key(name)), shares, version, project_id=name)


def of(name: str, number: int, hours: tuple[float, float] | None = (1, 2), **more: Any) -> Record:
    """A session of some hours of the day; None: it is not known when it began."""
    first, last = (at(hour) for hour in hours) if hours else (None, at(2))
    shares = {OPUS: (number, more.pop("cost", number / 10))}
    return session(name, number, first=first, last=last, shares=shares, **more)


def timeless(one: Record) -> Record:
    """A session of which no time is known."""
    return one._replace(details={**one.details, "first_activity": None, "last_activity": None})


Rows = dict[str, list[Record]]


def decide(
    stored: Rows, said: Rows, how: Policy | None = None, agent: str = "claude", without: str = ""
) -> dict[str, Decision]:
    """The decisions of a run whose feeds, but for one, say this."""
    before = {feed: by_id(stored.get(feed, ())) for feed in FEEDS}
    feeds = {
        (feed, agent): reported(*said.get(feed, ()))
        for feed in FEEDS
        if feed != without and not (feed in ("projects", "blocks") and agent != "claude")
    }
    return decide_all(before, feeds, IDS, how or policy())


def held(decision: Decision) -> list[int]:
    return sorted(row.tokens.total for row in decision.after.values())


def decided(
    feed: str, stored: Rows, said: Rows, how: Policy | None = None, **more: Any
) -> list[int]:
    return held(decide(stored, said, how, **more)[feed])


# --- evidence ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "without", "evidence", "wanted"),
    [
        ("claude", "", True, 12),
        ("claude", "", False, 10),
        ("claude", "session", True, 10),
        ("claude", "projects", True, 10),
        ("codex", "", True, 12),
        ("codex", "", False, 10),
        ("codex", "session", True, 10),
    ],
)
def test_only_with_evidence_what_is_used_comes_on_top_of_what_is_lost(
    agent: str, without: str, evidence: bool, wanted: int
) -> None:
    stored = {
        "daily": [daily(10, agent=agent)],
        "session": [of("lost", 6, agent=agent), of("s", 4, (3, 4), agent=agent)],
        "projects": [project(10)] if agent == "claude" else [],
    }
    said = {
        "daily": [daily(6, agent=agent)],
        "session": [of("s", 6, (3, 5), agent=agent)],
        "projects": [project(6)],
    }
    how = policy(evidence=evidence)
    assert decided("daily", stored, said, how, agent=agent, without=without) == [wanted]


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, 6),
        ({"version": NEW}, 10),
        ({"previous": NEW}, 10),
        ({"days": 1}, 10),
        ({"days": None}, 10),
        ({"days": None, "agent": "codex"}, 6),
        ({"evidence": False}, 10),
        ({"lost": of("lost", 1)}, 10),
        ({"lost": of("lost", 1, (-9, 0))}, 10),
        ({"lost": of("lost", 1, (-9, -1))}, 6),
        ({"lost": of("lost", 1, (24, 25))}, 6),
        ({"lost": of("lost", 1, None)}, 10),
        ({"lost": of("lost", 1, None, agent="codex")}, 6),
        ({"lost": of("lost", 1, (-24 * 1200, 25))}, 10),
        ({"lost": of("lost", 1, (-24 * 1200, -24))}, 6),
        ({"lost": session("lost", 1, first=None, last=at(0))}, 10),  # the day of its last activity
        ({"lost": session("lost", 1, first=None, last=at(-24))}, 6),
        ({"lost": of("lost", 1), "disk": "lost"}, 6),
        ({"lost": of("lost", 1, None, agent="codex"), "agent": "codex"}, 10),
        ({"lost": timeless(of("lost", 1, agent="codex")), "agent": "codex"}, 10),
    ],
)
def test_another_ccusage_corrects_a_day_of_which_nothing_is_lost(
    change: dict[str, Any], wanted: int
) -> None:
    agent = change.get("agent", "claude")
    lost = [change["lost"]] if "lost" in change else []
    how = policy(
        change.get("days", 29),
        previous=change.get("previous", OLD),
        evidence=change.get("evidence", True),
        on_disk=frozenset(IDS.key(name)[:8] for name in [change.get("disk", "")]),
    )
    stored = {"daily": [daily(10, change.get("version", OLD), agent=agent)], "session": lost}
    decision = decide(stored, {"daily": [daily(6, agent=agent)]}, how, agent)["daily"]
    assert held(decision) == [wanted]
    assert [*decision.lowered.values()] == [Cause.CORRECTED] * (wanted == 6)
    assert [*decision.kept.values()] == [Cause.GONE] * (wanted == 10)


@pytest.mark.parametrize("old", [of("s", 5, None, version=OLD), timeless(of("s", 5, version=OLD))])
@pytest.mark.parametrize(("lost", "wanted"), [([of("lost", 1, (-9, -8))], [1, 5]), ([], [4])])
def test_a_session_that_may_have_begun_at_any_time_may_hold_what_is_lost(
    old: Record, lost: list[Record], wanted: list[int]
) -> None:
    stored = [one._replace(agent="codex") for one in (old, *lost)]
    said = {"session": [of("s", 4, None, agent="codex")]}
    how = policy(previous=OLD)
    assert decided("session", {"session": stored}, said, how, agent="codex") == wanted


@pytest.mark.parametrize(("hours", "wanted"), [((24, 25), [1, 4]), ((1.5, 3), [1, 5])])
def test_a_session_is_corrected_if_nothing_of_its_time_is_lost(
    hours: tuple[float, float], wanted: list[int]
) -> None:
    stored = {"session": [of("s", 5, version=OLD), of("lost", 1, hours)]}
    assert decided("session", stored, {"session": [of("s", 4)]}, policy(previous=OLD)) == wanted


def test_a_session_without_times_is_of_any_time_in_every_zone() -> None:
    stored = {"daily": [daily(10, OLD)], "session": [timeless(of("lost", 1, version=OLD))]}
    for zone in map(ZoneInfo, ("Asia/Tokyo", "America/Los_Angeles")):
        how = policy(previous=OLD)._replace(zone=zone)
        assert decided("daily", stored, {"daily": [daily(6)]}, how) == [10]


@pytest.mark.parametrize(
    ("lost", "wanted"),
    [
        (of("s", 1), 10),
        (of("s", 1, project="q"), 6),
        (lumped("p", 1), 10),
        (lumped("q", 1), 6),
        (subagents("q", "s", 1), 10),  # of any project
    ],
)
def test_a_lost_session_of_another_project_does_not_keep_a_projects_day(
    lost: Record, wanted: int
) -> None:
    stored = {"projects": [project(10, version=OLD)], "session": [lost]}
    said = {"projects": [project(6)]}
    assert decided("projects", stored, said, policy(previous=OLD)) == [wanted]


@pytest.mark.parametrize("feed", ["daily", "projects", "session"])
@pytest.mark.parametrize(
    ("disk", "previous", "goes"),
    [("copies", OLD, True), ("copies", NEW, False), ("other", OLD, False)],
)
def test_what_counts_nowhere_any_more_goes_with_another_ccusage(
    feed: str, disk: str, previous: str, goes: bool
) -> None:
    """Its transcript is there: an older ccusage counted copies."""
    stored = {
        "daily": [daily(5, OLD)],
        "projects": [project(5, version=OLD)],
        "session": [of("copies", 5, version=OLD)],
    }
    how = policy(previous=previous, on_disk=frozenset([IDS.key(disk)[:8]]))
    decision = decide(stored, {}, how)[feed]
    assert held(decision) == ([] if goes else [5])
    assert [*decision.lowered] == ([one.id for one in stored[feed]] if goes else [])


def test_a_row_that_is_not_reported_stays_if_nothing_uncounted_was_in_it() -> None:
    stored = {"daily": [daily(5, OLD)], "projects": [project(5, version=OLD)]}
    decisions = decide(stored, {}, policy(previous=OLD))
    assert held(decisions["daily"]) == held(decisions["projects"]) == [5]


# --- sessions that move ------------------------------------------------------------------------


def test_a_session_that_moves_takes_its_name_and_the_first_import_with_it() -> None:
    stored = {"session": [of("s", 4)], "projects": [project(4)], "daily": [daily(4)]}
    said = {
        "session": [of("s", 5, project="q")],
        "projects": [project(5, "q")],
        "daily": [daily(5)],
    }
    decisions = decide(stored, said)
    assert all(held(decision) == [5] for feed in FEEDS[:3:2] for decision in [decisions[feed]])
    assert held(decisions["projects"]) == [5]
    assert decisions["projects"].lowered[stored["projects"][0].id] == Cause.MOVED
    (row,) = decisions["session"].after.values()
    assert row.details["project_path"] == "q"


@pytest.mark.parametrize(
    ("reprice", "paid", "asked", "wanted"),
    [(False, 0.4, 0.2, 0.4), (True, 0.4, 0.2, 0.2), (False, 0.0, 0.0, 0.0)],
)
def test_what_moved_keeps_its_price(
    reprice: bool, paid: float, asked: float, wanted: float
) -> None:
    """A session of several days: it is not known what it cost on each."""
    stored = {
        "session": [of("s", 8, (1, 30))],
        "projects": [record(project(4).key, {OPUS: (4, paid)}, project_id="p")],
        "daily": [daily(4, cost=paid)],
    }
    said = {
        "session": [of("s", 8, (1, 30), project="q")],
        "projects": [record(project(4, "q").key, {OPUS: (4, asked)}, project_id="q")],
        "daily": [daily(4, cost=asked)],
    }
    decisions = decide(stored, said, policy(reprice=reprice))
    for feed in ("projects", "daily"):
        assert [row.cost for row in decisions[feed].after.values()] == [wanted]
    del stored["daily"]  # such as before a feed that always failed
    assert decided("projects", stored, said, without="daily") == [4]


def test_a_row_that_a_session_left_gets_what_its_day_holds_beside_the_others() -> None:
    """Another session of several days is lost: it is not known what it used on each."""
    stored = {
        "session": [of("s", 1), of("t", 3, (3, 4)), of("lost", 20, (5, 30))],
        "projects": [project(10), project(4, "r")],
        "daily": [daily(14)],
    }
    said = {
        "session": [of("s", 1, project="q"), of("t", 3, (3, 4))],
        "projects": [project(3), project(1, "q"), project(4, "r")],
        "daily": [daily(8)],
    }
    rows = decide(stored, said)["projects"].after.values()
    wanted = {"p": 9, "q": 1, "r": 4}
    assert {row.details["project_id"]: row.tokens.total for row in rows} == wanted


def test_a_row_that_sessions_left_keeps_what_is_lost_of_it() -> None:
    stored = {
        "session": [
            *(of("s", 4), of("lost", 6, (3, 4))),
            *(of("t", 2, (5, 6), project="r"), of("more", 3, (7, 8), project="r")),
        ],
        "projects": [project(10), project(5, "r")],
        "daily": [daily(15)],
    }
    said = {
        "session": [of("s", 4, project="q"), of("t", 2, (5, 6), project="q")],
        "projects": [project(6, "q")],
        "daily": [daily(6)],
    }
    rows = decide(stored, said)["projects"].after.values()
    wanted = {"p": 6, "q": 6, "r": 3}
    assert {row.details["project_id"]: row.tokens.total for row in rows} == wanted


def test_without_evidence_a_moved_session_stays_at_its_path() -> None:
    stored = {"session": [of("s", 4)]}
    said = {"session": [of("s", 5, project="q")]}
    decision = decide(stored, said, without="projects")["session"]
    assert [row.details["project_path"] for row in decision.after.values()] == ["p"]
    assert held(decision) == [5]


def test_of_a_session_that_was_copied_one_path_stays() -> None:
    """An older ccusage counted both: the one that is gone is the same one."""
    stored = {"session": [of("s", 4), of("s", 3, project="q")]}
    for number, wanted in ((5, 7), (9, 9)):
        said = {"session": [of("s", number, project="q")]}
        assert decided("session", stored, said) == [wanted]
        assert decided("session", stored, said, without="projects") == [4, number]
    said = {"session": [of("s", 9, project="r")]}
    assert decided("session", stored, said) == [9]
    assert decided("session", stored, said, without="projects") in ([3, 9], [4, 9])


def test_a_row_of_version_1_of_another_agent_is_the_same_session() -> None:
    old = of("2026/rollout", 4, agent="codex")
    new = of("rollout", 6, agent="codex")._replace(former=(old.key[0],))
    assert decided("session", {"session": [old]}, {"session": [new]}, agent="codex") == [6]


def test_sessions_of_two_agents_with_one_name_are_two() -> None:
    stored = {"session": [of("s", 4, agent="codex")]}
    assert decided("session", stored, {"session": [of("s", 6, project="q")]}) == [4, 6]


def test_rows_of_18_never_move() -> None:
    """All sessions of sub-agents have one name there."""
    stored = {"session": [subagents("p", "s", 4)]}
    said = {"session": [subagents("q", "t", 6)]}
    assert decided("session", stored, said, policy(version=V18, upgraded=False)) == [4, 6]


@pytest.mark.parametrize(("number", "wanted"), [(4, 10), (5, 6)])
def test_a_row_of_18_that_holds_less_has_lost_something(number: int, wanted: int) -> None:
    stored = {"daily": [daily(10, OLD)], "session": [lumped("p", 5, last=at(3))]}
    said = {"daily": [daily(6)], "session": [lumped("p", number, last=at(3))]}
    how = policy(version=V18, upgraded=False, previous=OLD)
    assert decided("daily", stored, said, how) == [wanted]


# --- conversations -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fork", "disk", "previous", "wanted"),
    [
        (15, "", NEW, {"fork": 15}),
        (11, "", NEW, {"original": 10, "fork": 5}),
        (11, "original", NEW, {"original": 10, "fork": 5}),
        (11, "original", OLD, {"fork": 11}),  # another ccusage counts less; all are there
    ],
)
def test_a_conversation_follows_the_feed_if_that_says_no_less(
    fork: int, disk: str, previous: str, wanted: dict[str, int]
) -> None:
    stored = {
        "session": [of("original", 10, version=OLD), of("fork", 5, (3, 4), version=OLD)],
        "daily": [daily(15, OLD)],
    }
    said = {"session": [of("fork", fork, (1, 4))], "daily": [daily(fork)]}
    how = policy(previous=previous, on_disk=frozenset([IDS.key(disk)[:8]]))
    decisions = decide(stored, said, how)
    rows = decisions["session"].after.values()
    assert {row.details["session_id"]: row.tokens.total for row in rows} == wanted
    assert held(decisions["daily"]) == [max(fork, 11 if previous == OLD else 15)]


@pytest.mark.parametrize(("end", "wanted"), [(2, [10]), (2.5, [10, 11])])
def test_sessions_that_end_at_the_same_instant_are_a_conversation(
    end: float, wanted: list[int]
) -> None:
    """The first messages of a fork are gone, and its original is, too."""
    said = {"session": [of("fork", 4 if end == 2 else 11, (1.5, end))]}
    assert decided("session", {"session": [of("original", 10)]}, said) == wanted


def test_a_conversation_of_which_less_is_said_keeps_its_day_with_another_ccusage() -> None:
    stored = {
        "session": [of("original", 10, version=OLD), of("fork", 5, (3, 4), version=OLD)],
        "daily": [daily(15, OLD)],
    }
    said = {"session": [of("fork", 4, (1, 4))], "daily": [daily(4)]}
    decisions = decide(stored, said, policy(previous=OLD))
    assert held(decisions["daily"]) == [15]
    assert [*decisions["session"].kept.values()] == [Cause.ELSEWHERE]


def test_of_a_conversation_that_waits_nothing_new_is_stored() -> None:
    stored = {"session": [of("original", 10)]}
    decision = decide(stored, {"session": [of("fork", 4)]})["session"]
    assert held(decision) == [10]
    assert decision.prices == decision.kept == {}


@pytest.mark.parametrize(
    ("begins", "ends", "wanted"),
    [
        pytest.param(4, 9, [40, 60], id="copies of a lost session are credited to it"),
        pytest.param(8, 9, [50, 60], id="nothing that is lost was in its time"),
        pytest.param(4, 10, [50, 60], id="it was used"),
    ],
)
def test_a_session_that_was_not_used_does_not_grow_by_what_a_lost_one_held(
    begins: float, ends: float, wanted: list[int]
) -> None:
    stored = [of("fork", 40, (8, 9)), of("lost", 60, (3, 5))]
    assert (
        decided("session", {"session": stored}, {"session": [of("fork", 50, (begins, ends))]})
        == wanted
    )


def test_a_session_of_which_only_the_day_is_told_grows_beside_a_lost_one() -> None:
    stored = {"session": [of("here", 40, None), of("lost", 60, (0.5, 1.5))]}
    assert decided("session", stored, {"session": [of("here", 50, None)]}) == [50, 60]


def test_other_agents_have_no_conversations() -> None:
    stored = {"session": [of("a", 10, agent="codex"), of("b", 5, agent="codex")]}
    said = {"session": [of("b", 16, agent="codex")]}
    assert decided("session", stored, said, agent="codex") == [10, 16]


# --- parts -------------------------------------------------------------------------------------


def test_a_whole_keeps_what_a_session_in_it_cost() -> None:
    stored = {"session": [of("s", 4)], "projects": [project(4)], "daily": [daily(4)]}
    said = {
        "session": [of("s", 4, cost=0.2), of("t", 2, (5, 6), cost=0.1)],
        "projects": [record(project(6).key, {OPUS: (6, 0.3)}, project_id="p")],
        "daily": [daily(6, cost=0.3)],
    }
    decisions = decide(stored, said)
    for feed in ("session", "projects", "daily"):
        assert sum(row.cost for row in decisions[feed].after.values()) == pytest.approx(0.5), feed


@pytest.mark.parametrize(
    ("version", "without", "wanted"),
    [(OLD, "", 16), (NEW, "", 20), (OLD, "daily", 20), (OLD, "projects", 20)],
)
def test_a_month_falls_by_what_its_days_fell(version: str, without: str, wanted: int) -> None:
    stored = {"daily": [daily(10, version), daily(10, version, NEXT)], "monthly": [month(20)]}
    said = {"daily": [daily(6), daily(10, day=NEXT)], "monthly": [month(16)]}
    decision = decide(stored, said, policy(previous=OLD), without=without)["monthly"]
    assert held(decision) == [wanted]


def test_what_a_session_that_stays_no_longer_holds_comes_on_top_of_nothing() -> None:
    """It may be counted elsewhere. The same holds for a project's row that nobody left."""
    stored = {"session": [of("s", 9)], "projects": [project(9)], "daily": [daily(9)]}
    said = {
        "session": [of("s", 6), of("t", 2, (5, 6), project="q")],
        "projects": [project(6), project(2, "q")],
        "daily": [daily(8)],
    }
    decisions = decide(stored, said)
    assert held(decisions["daily"]) == [9]
    assert sum(held(decisions["projects"])) <= 9


def test_a_row_keeps_what_is_lost_while_its_day_grows() -> None:
    stored = {
        "session": [of("s", 3), of("lost", 20, (5, 30))],
        "projects": [project(9)],
        "daily": [daily(9)],
    }
    said = {
        "session": [of("s", 3), of("t", 5, (8, 9), project="q")],
        "projects": [project(3), project(5, "q")],
        "daily": [daily(8)],
    }
    decisions = decide(stored, said)
    assert held(decisions["daily"]) == [14]
    assert held(decisions["projects"]) == [5, 9]
    assert decisions["projects"].kept == {project(9).id: Cause.GONE}


def test_a_model_of_which_nothing_was_used_stays_in_what_is_reported() -> None:
    shares = {OPUS: (4, 0.4), SONNET: (0, 0.0)}
    one, day = of("s", 4), record((DAY,), shares)
    one = one._replace(shares=day.shares, models=day.models)
    projects = [day._replace(key=project(4).key, details=project(4).details)]
    rows = {"session": [one], "daily": [day], "projects": projects}
    for feed in ("daily", "projects"):
        (row,) = decide(rows, rows)[feed].after.values()
        assert row.models == {OPUS, SONNET}


def test_a_month_holds_no_more_than_its_days_whatever_is_used_between_the_feeds() -> None:
    stored = {
        "session": [of("s", 4), of("lost", 6, (3, 4))],
        "daily": [daily(10)],
        "monthly": [month(10)],
    }
    for number in (4, 9):
        said = {"session": [of("s", 4)], "daily": [daily(4)], "monthly": [month(number)]}
        decision = decide(stored, said)["monthly"]
        assert held(decision) == [10]
        assert [*decision.kept.values()] == [Cause.GONE]


def test_a_month_falls_no_deeper_than_its_days() -> None:
    stored = {"daily": [daily(10, OLD)], "monthly": [month(20)]}
    assert decided(
        "monthly", stored, {"daily": [daily(6)], "monthly": [month(15)]}, policy(previous=OLD)
    ) == [20]


@pytest.mark.parametrize("other", [[], [daily(3, day=NEXT)]])
def test_a_month_goes_with_the_last_of_its_days(other: list[Record]) -> None:
    stored = {
        "daily": [daily(5, OLD), *other],
        "monthly": [month(5, OLD), month(9, OLD, "2026-02")],
        "session": [of("copies", 5, version=OLD)],
    }
    how = policy(previous=OLD, on_disk=frozenset([IDS.key("copies")[:8]]))
    assert decided("monthly", stored, {}, how) == ([5, 9] if other else [9])


def test_without_the_days_a_month_is_the_larger_of_stored_and_reported() -> None:
    stored = {"daily": [daily(10)], "monthly": [month(10)]}
    assert decided("monthly", stored, {"monthly": [month(3)]}, without="daily") == [10]
    assert decided("monthly", stored, {"monthly": [month(12)]}, without="daily") == [12]


# --- people's wishes, and prices ---------------------------------------------------------------


def test_rows_get_smaller_where_people_say_so() -> None:
    stored = {
        feed: [row] for feed, row in zip(FEEDS, (daily(9), month(9), of("s", 9)), strict=False)
    }
    said = {feed: [row] for feed, row in zip(FEEDS, (daily(6), month(6), of("s", 6)), strict=False)}
    for allowed in (False, True):
        decisions = decide(stored, said, policy(allow_shrink=allowed))
        for feed in FEEDS[:3]:
            assert held(decisions[feed]) == [6 if allowed else 9]
            causes = [*decisions[feed].lowered.values()]
            assert causes == [Cause.ALLOWED] * allowed


@pytest.mark.parametrize(
    ("old", "new", "cost", "repriced"),
    [
        ({OPUS: (4, 2.0)}, {OPUS: (4, 3.0)}, 2.0, 3.0),
        ({OPUS: (4, 0.0)}, {OPUS: (4, 3.0)}, 3.0, 3.0),
        ({OPUS: (4, 2.0)}, {OPUS: (8, 3.0)}, 3.0, 3.0),
        ({OPUS: (4, 2.0)}, {OPUS: (8, 0.0)}, 2.0, 0.0),
        ({OPUS: (4, 2.0)}, {OPUS: (4, 3.0), SONNET: (4, 1.0)}, 3.0, 4.0),
        ({OPUS: (4, 2.0)}, {OPUS: (4, 2.0)}, 2.0, 2.0),
        ({OPUS: (8, 2.0)}, {OPUS: (4, 3.0)}, 2.0, 2.0),
    ],
)
def test_the_past_keeps_its_price(old: Any, new: Any, cost: float, repriced: float) -> None:
    stored, said = {"daily": [record((DAY,), old)]}, {"daily": [record((DAY,), new)]}
    for reprice, wanted in ((False, cost), (True, repriced)):
        decision = decide(stored, said, policy(reprice=reprice))["daily"]
        (row,) = decision.after.values()
        assert row.cost == wanted
        asked = said["daily"][0].cost - row.cost
        same = row.tokens == said["daily"][0].tokens
        assert [*decision.prices.values()] == ([asked] if asked and same else [])


@pytest.mark.parametrize(("reprice", "cost"), [(False, 2.0), (True, 2.4)])
def test_what_is_lost_keeps_its_price_beside_what_is_priced_anew(
    reprice: bool, cost: float
) -> None:
    stored = {"daily": [daily(20)], "session": [of("s", 8), of("lost", 12, (3, 4))]}
    said = {"daily": [daily(8, cost=1.2)], "session": [of("s", 8, cost=1.2)]}
    (row,) = decide(stored, said, policy(reprice=reprice))["daily"].after.values()
    assert (row.tokens.total, row.cost) == (20, cost)


def test_what_is_stored_as_reported_is_told_as_nothing() -> None:
    rows = {"daily": [daily(4)], "monthly": [month(4)], "session": [of("s", 4)]}
    rows["blocks"] = [block(at(1), 4)]
    for decision in decide(rows, rows).values():
        assert not decision.kept
        assert not decision.lowered
        assert not decision.prices


def test_what_is_stored_as_reported_stays_the_object_that_is_stored() -> None:
    """So the import need not compare it once more, nor make rows of it."""
    rows = {"daily": [daily(4)], "monthly": [month(4)], "session": [of("s", 4)]}
    rows |= {"blocks": [block(at(1), 4), gap(at(6), at(9))], "projects": [project(4)]}
    stored = {feed: by_id(rows[feed]) for feed in FEEDS}
    said = {(feed, "claude"): reported(*rows[feed]) for feed in FEEDS}
    decisions = decide_all(stored, said, Ids("", hidden=False), policy())
    for feed, before in stored.items():
        after = decisions[feed].after
        assert after.keys() == before.keys()
        assert all(after[key] is row for key, row in before.items()), feed


@pytest.mark.parametrize(
    ("numbers", "costs", "wanted"),
    [((4, 4), (2.0, 3.0), 2.0), ((4, 6), (2.0, 3.0), 3.0), ((4, 6), (2.0, 0.0), 2.0)],
)
def test_where_models_do_not_add_up_the_whole_keeps_its_price(
    numbers: tuple[int, int], costs: tuple[float, float], wanted: float
) -> None:
    old, new = (daily(n)._replace(cost=cost) for n, cost in zip(numbers, costs, strict=True))
    for shares in ({}, old.shares):
        row = keep_prices(old._replace(shares=shares), new._replace(shares=shares))
        assert (row.cost, row.shares) == (wanted, shares)


def test_sums_stay_within_what_a_column_holds() -> None:
    most = Tokens(UINT64_MAX, 0, 0, 0, UINT64_MAX)
    row = daily(4)._replace(tokens=most, cost=1.0, shares={OPUS: Share(most, 1.0)})
    assert add(row, row).tokens == most
    both = Tokens(0, UINT64_MAX, 0, 0, UINT64_MAX)
    assert add(row, row._replace(tokens=both)).tokens == Tokens(UINT64_MAX, *both[1:])
    assert add(daily(4), less=[daily(4)._replace(tokens=Tokens(total=9))]).tokens.total == 0
    less = add(daily(4), less=[row])
    assert less.tokens == Tokens(0, 1, 1, 1, 3)
    assert add(daily(4), less=[daily(4, cost=9.0)]).cost == 0.0


def test_a_total_may_hold_more_than_the_counters() -> None:
    row = daily(4)._replace(tokens=Tokens(1, 1, 1, 1, 9))
    assert add(row, row).tokens == Tokens(2, 2, 2, 2, 18)


def test_a_model_without_cost_and_tokens_goes_with_what_is_taken_away() -> None:
    row = record((DAY,), {OPUS: (4, 1.0), SONNET: (4, 1.0)})
    rest = add(row, less=[record((DAY,), {OPUS: (4, 1.0)})])
    assert set(rest.models) == set(rest.shares) == {SONNET}
    for one in ({OPUS: (4, 1.5)}, {OPUS: (8, 1.0)}, {OPUS: (8, 0.0)}):
        assert set(add(record((DAY,), one), less=[record((DAY,), {OPUS: (4, 1.0)})]).shares) == {
            OPUS
        }
    unused = record((DAY,), {OPUS: (4, 1.5), SONNET: (0, 0.0)})
    assert set(add(unused, less=[record((DAY,), {OPUS: (4, 1.0)})]).shares) == {OPUS, SONNET}


# --- names -------------------------------------------------------------------------------------


def test_a_session_of_another_agent_is_no_lump_of_18() -> None:
    old = of("2026/rollout", 10, agent="codex", version=V18)
    new = of("rollout", 4, agent="codex")._replace(former=(old.key[0],))
    how = policy(upgraded=False, previous=NEW)
    assert decided("session", {"session": [old]}, {"session": [new]}, how, agent="codex") == [10]


def test_models_that_a_killed_run_has_split_off_are_not_split_off_again() -> None:
    """It wrote the models, and was killed before it wrote the sessions."""
    old = lumped("p", 100)
    left = {OPUS: Share(record((), {OPUS: (40, 0.4)}).tokens, 0.4, NEW)}
    stored = {"session": [old._replace(shares=left)]}
    said = {"session": [session("s", 60, first=at(1), last=at(2))]}
    rows = decide(stored, said, policy(upgraded=False))["session"].after
    assert rows[old.id].tokens.total == 40
    assert rows[old.id].shares == left


@pytest.mark.parametrize(
    ("names", "hidden", "shown"),
    [
        (("p", "s"), True, [IDS.key("p")[:8], IDS.key("s")[:8]]),
        (("p", "s"), False, ["p", "s"]),
        (("p", ""), True, [IDS.key("p")[:8], ""]),
        (("01234567", "89abcdef"), True, [IDS.key("01234567")[:8], IDS.key("89abcdef")[:8]]),
    ],
)
def test_names_are_hidden_where_they_are_names(
    names: tuple[str, str], hidden: bool, shown: list[str]
) -> None:
    row = session(names[1], 4, project=names[0])
    rows = by_id([row])
    hide_names(rows, Ids("", hidden=hidden))
    (after,) = rows.values()
    assert [after.details["project_path"], after.details["session_id"]] == shown


def test_names_that_are_no_hashes_of_this_key_stay() -> None:
    rows = by_id([session("s", 4)._replace(key=("another",))])
    hide_names(rows, Ids(""))
    assert [row.details["session_id"] for row in rows.values()] == ["s"]


# --- blocks ------------------------------------------------------------------------------------


def blocks(stored: Iterable[Record], said: Iterable[Record], **more: Any) -> dict[datetime, int]:
    """What the blocks of a run hold afterwards, by their start."""
    lost = more.pop("lost", [])
    how = policy(**more)
    found = decide({"blocks": [*stored], "session": lost}, {"blocks": [*said]}, how)["blocks"]
    return {row.details["start_time"]: row.tokens.total for row in found.after.values()}


def part(start: float, end: float | None, number: int) -> Record:
    """A block that ccusage cut where the first message that is left was."""
    made = block(at(start), number)
    return made._replace(details={**made.details, "actual_end_time": end and at(end)})


@pytest.mark.parametrize(
    ("said", "lost", "wanted"),
    [
        ([part(3, 4.5, 4)], [of("lost", 6, (1, 2))], {1: 10}),
        ([part(3, 4.5, 6)], [of("lost", 6, (1, 2))], {1: 12}),
        ([part(3, 6.5, 6)], [of("lost", 6, (1, 2))], {1: 10}),  # it ends later
        ([part(0, 4.5, 3)], [of("lost", 6, (1, 2))], {1: 10}),  # it begins earlier
        ([part(0, 4.5, 6)], [of("lost", 6, (1, 2))], {0: 12}),
        ([part(3, None, 6)], [of("lost", 6, (1, 2))], {1: 10}),
        ([part(3, 4.5, 6)], [], {1: 10}),
        ([part(3, 4.5, 11)], [], {3: 11}),
        ([part(3, 4.5, 6), part(40, 41, 2)], [of("lost", 6, (1, 2))], {1: 12, 40: 2}),
        ([part(3, 4.5, 6)], [of("lost", 6, (7, 8))], {1: 10}),
        ([part(2, 4.5, 4), part(-3, -2, 2)], [of("lost", 6, (1, 2))], {1: 10}),
    ],
)
def test_a_block_whose_first_messages_are_lost_goes_on_in_the_stored_one(
    said: list[Record], lost: list[Record], wanted: dict[int, int]
) -> None:
    rows = blocks([block(at(1), 10)], said, lost=lost)
    assert rows == {at(start): number for start, number in wanted.items()}


@pytest.mark.parametrize(("before", "now"), [(7, 1), (1, 7)])
def test_a_block_that_goes_on_keeps_its_hours_and_entries(before: int, now: int) -> None:
    old, new = block(at(1), 10), part(3, 4.5, 6)
    old = old._replace(details={**old.details, "entries": before})
    new = new._replace(details={**new.details, "entries": now})
    (row,) = decide({"blocks": [old], "session": [of("lost", 6, (1, 2))]}, {"blocks": [new]})[
        "blocks"
    ].after.values()
    assert (row.id, row.details["end_time"], row.details["entries"]) == (old.id, at(6), 7)


def test_a_block_that_holds_what_is_lost_keeps_its_details() -> None:
    old, new = block(at(1), 10), part(1, 2, 4)
    old = old._replace(details={**old.details, "entries": 7})
    decision = decide({"blocks": [old], "session": [of("lost", 6)]}, {"blocks": [new]})["blocks"]
    assert [row.details for row in decision.after.values()] == [old.details]


@pytest.mark.parametrize(
    ("last", "wanted"),
    [(at(0), 10), (at(0.5), 6), (at(-24), 6)],
    ids=["day", "time", "another day"],
)
def test_where_only_the_day_of_the_last_activity_is_known_it_may_be_any_time_of_it(
    last: datetime, wanted: int
) -> None:
    lost = [session("lost", 1, first=None, last=last)]
    rows = blocks([block(at(5), 10, OLD)], [block(at(5), 6)], lost=lost, previous=OLD)
    assert rows == {at(5): wanted}


@pytest.mark.parametrize(
    ("more", "said", "wanted", "lowered"),
    [
        ({"previous": NEW}, 9, {1: 10}, []),
        ({"previous": NEW}, 11, {3: 11}, []),
        ({"previous": NEW, "allow_shrink": True}, 9, {3: 9}, [Cause.ALLOWED]),
        ({"previous": OLD}, 9, {3: 9}, [Cause.CORRECTED]),
    ],
)
def test_of_two_cuts_the_larger_stays_unless_something_speaks_for_the_new_one(
    more: Any, said: int, wanted: dict[int, int], lowered: list[str]
) -> None:
    stored = {"blocks": [block(at(1), 10, OLD)]}
    decision = decide(stored, {"blocks": [block(at(3), said)]}, policy(**more))["blocks"]
    rows = {row.details["start_time"]: row.tokens.total for row in decision.after.values()}
    assert rows == {at(start): number for start, number in wanted.items()}
    assert [*decision.lowered.values()] == lowered
    assert [*decision.kept.values()] == [Cause.GONE] * (1 in wanted)


@pytest.mark.parametrize("allow", [False, True])
def test_a_block_that_is_not_reported_stays_and_is_told_as_nothing(allow: bool) -> None:
    stored = {"blocks": [block(at(1), 10, OLD)]}
    how = policy(previous=OLD, allow_shrink=allow)
    decision = decide(stored, {"blocks": [block(at(30), 4)]}, how)["blocks"]
    assert held(decision) == [4, 10]
    assert decision.kept == decision.lowered == {}


def test_gaps_are_those_of_the_latest_feed_within_its_range() -> None:
    stored = [gap(at(hour), at(hour + 1)) for hour in (-40, 3, 90)]
    said = [block(at(-20), 4), block(at(40), 4), gap(at(-15), at(40))]
    rows = blocks(stored, said)
    assert {start for start, number in rows.items() if not number} == {at(-40), at(90), at(-15)}
    assert len(blocks(stored, [])) == 3


def test_a_gap_may_end_after_the_full_hour_at_which_a_block_begins() -> None:
    rows = [block(at(0), 4), gap(at(9), at(40.5)), block(at(40), 4)]
    assert len(blocks([], rows)) == 3


def test_a_gap_in_which_a_stored_block_stays_is_none() -> None:
    rows = blocks([block(at(10), 4)], [block(at(0), 4), block(at(40), 4), gap(at(5), at(40))])
    assert rows == {at(0): 4, at(10): 4, at(40): 4}
