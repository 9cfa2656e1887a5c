"""Rows on their own: the window of retention, the upgrade from 18, cuts of blocks."""

from __future__ import annotations

import itertools
import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccusage_importer import (
    Ids,
    Policy,
    Record,
    Share,
    Tokens,
    cleanup_periods,
    decide_all,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

UTC = timezone.utc
NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
NEW, OLD = "20.0.24", "20.0.11"
OPUS, SONNET = "opus", "sonnet"
IDS = Ids("", hidden=False)
FEEDS = ("daily", "monthly", "session", "blocks", "projects")


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
    details = {**times, "actual_end_time": start + timedelta(hours=4), "entries": 1}
    return made._replace(shares={}, details=details)


def gap(start: datetime, end: datetime, version: str = NEW) -> Record:
    made = record((f"gap-{start.isoformat()}",), {}, version)
    return made._replace(details={"start_time": start, "end_time": end, "is_gap": True})


def by_id(records: Iterable[Record]) -> dict[tuple[Any, ...], Record]:
    return {one.id: one for one in records}


def policy(days: int | None = 29, version: str = NEW, **more: Any) -> Policy:
    numbers = tuple(map(int, version.split(".")))
    start = None if days is None else NOW - timedelta(days=days)
    return Policy(numbers, start, UTC, **more)  # type: ignore[arg-type]


def after(feed: str, stored: dict[Any, Record], said: dict[Any, Record], how: Policy) -> Any:
    """What a table holds after one feed of a run that follows one of the same ccusage."""
    before = {name: stored if name == feed else {} for name in FEEDS}
    decision = decide_all(before, {(feed, "claude"): said}, IDS, how)[feed]
    return written(decision.after, how)


def written(records: dict[Any, Record], how: Policy) -> dict[Any, Record]:
    return {
        key: one._replace(
            version=one.version or how.version_text,
            shares={
                n: share._replace(version=share.version or how.version_text)
                for n, share in one.shares.items()
            },
        )
        for key, one in records.items()
    }


def reported(*records: Record) -> dict[Any, Record]:
    """As a feed has them: of no version yet."""
    return by_id(
        one._replace(
            version="",
            shares={n: share._replace(version="") for n, share in one.shares.items()},
        )
        for one in records
    )


# --- the window --------------------------------------------------------------------------------


def shortest_period(env: dict[str, str]) -> int:
    return min(cleanup_periods(env).values(), default=30)


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
    assert shortest_period({"CLAUDE_CONFIG_DIR": str(tmp_path)}) == days


def test_of_several_directories_the_shortest_period_counts(tmp_path: Path) -> None:
    for name, days in (("a", 90), ("b", 14), ("c", 60)):
        (tmp_path / name).mkdir()
        content = json.dumps({"cleanupPeriodDays": days})
        (tmp_path / name / "settings.json").write_text(content)
    names = ",".join(str(tmp_path / name) for name in ("a", "missing", "b", "c"))
    assert shortest_period({"CLAUDE_CONFIG_DIR": names}) == 14


def test_a_directory_with_transcripts_and_no_settings_keeps_them_for_30_days(
    tmp_path: Path,
) -> None:
    for name in ("a/projects", "b/projects", "c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a" / "settings.json").write_text('{"cleanupPeriodDays": 365}')
    for names, days in (("a", 365), ("a,b", 30), ("a,c", 365), ("a/projects", 365), ("c", 30)):
        listed = ",".join(str(tmp_path / name) for name in names.split(","))
        assert shortest_period({"CLAUDE_CONFIG_DIR": listed}) == days


def test_without_the_variable_both_default_directories_are_read(tmp_path: Path) -> None:
    for folder, days in ((".claude", 20), (".config/claude", 10)):
        (tmp_path / folder).mkdir(parents=True)
        content = json.dumps({"cleanupPeriodDays": days})
        (tmp_path / folder / "settings.json").write_text(content)
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / ".config")}
    assert shortest_period(home) == 10


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
    found = after("session", before, reported(*sessions), policy(**{"upgraded": False, **more}))
    return {(one.details["project_path"], one.details["session_id"]): one for one in found.values()}


def test_a_projects_row_loses_what_its_sessions_hold() -> None:
    stored = [lumped("p", 100, shares={OPUS: (80, 8.0), SONNET: (20, 1.0)})]
    rows = upgraded(stored, session("s", 32, shares={OPUS: (20, 2.0), SONNET: (12, 0.5)}))
    rest = rows["Unknown Project", "p"]
    assert rest.tokens == tokens(68)
    assert rest.shares[OPUS][:2] == (tokens(60), 6.0)
    assert rest.shares[SONNET][:2] == (tokens(8), 0.5)
    assert rest.cost == 6.5
    assert rows["p", "s"].tokens == tokens(32)


def test_a_projects_row_that_its_sessions_explain_is_removed() -> None:
    rows = upgraded([lumped("p", 100)], session("s", 60), session("t", 40))
    assert set(rows) == {("p", "s"), ("p", "t")}


def test_a_projects_row_never_falls_below_zero() -> None:
    """19 counts the largest copy of a streamed answer, 18 the first."""
    assert set(upgraded([lumped("p", 100)], session("s", 120))) == {("p", "s")}


def test_a_model_that_is_no_longer_in_the_rest_goes_with_its_share() -> None:
    stored = [lumped("p", 100, shares={OPUS: (60, 6.0), SONNET: (40, 1.0)})]
    rows = upgraded(stored, session("s", 40, shares={SONNET: (40, 1.0)}))
    assert rows["Unknown Project", "p"].models == {OPUS}
    assert set(rows["Unknown Project", "p"].shares) == {OPUS}


def test_a_session_is_taken_first_from_its_subagents_row_then_from_its_projects() -> None:
    stored = [lumped("p", 100), subagents("p", "s", 30)]
    rows = upgraded(stored, session("s", 90))
    assert set(rows) == {("p", "s"), ("Unknown Project", "p")}
    assert rows["Unknown Project", "p"].tokens == tokens(40)


def test_a_subagents_row_may_outlive_its_session() -> None:
    stored = [subagents("p", "s", 30), subagents("p", "gone", 20)]
    rows = upgraded(stored, session("s", 30))
    assert set(rows) == {("p", "s"), ("p/gone", "subagents")}


def test_sessions_reduce_their_own_project_alone() -> None:
    stored = [lumped("p", 100), lumped("q", 100), subagents("q", "s", 10)]
    rows = upgraded(stored, session("s", 60))
    assert rows["Unknown Project", "p"].tokens == tokens(40)
    assert rows["Unknown Project", "q"].tokens == tokens(100)
    assert rows["q/s", "subagents"].tokens == tokens(10)


def test_a_session_that_18_told_apart_too_is_not_taken_from_its_project() -> None:
    """`projects/p/UUID/chat.jsonl` is the session UUID of p in every version."""
    stored = [lumped("p", 100), session("s", 60, V18)]
    rows = upgraded(stored, session("s", 60))
    assert rows["Unknown Project", "p"].tokens == tokens(100)
    assert rows["p", "s"].tokens == tokens(60)


@pytest.mark.parametrize("more", [{"upgraded": True}, {"version": V18}])
def test_projects_rows_are_reduced_once_and_only_by_19_or_newer(more: Any) -> None:
    rows = upgraded([lumped("p", 100)], session("s", 60), **more)
    assert rows["Unknown Project", "p"].tokens == tokens(100)


# --- whatever happens --------------------------------------------------------------------------

EPOCH = datetime(2026, 3, 3, tzinfo=UTC)


def ccusage_blocks(messages: list[tuple[int, int]]) -> list[Record]:
    """Messages (minutes after the epoch, tokens) cut as ccusage does."""
    found: list[Record] = []
    group: list[tuple[int, int]] = []

    def close() -> None:
        start = EPOCH + timedelta(hours=group[0][0] // 60)
        found.append(block(start, sum(n for _, n in group)))

    for minute, number in sorted(messages):
        if group:
            start, last = group[0][0] // 60 * 60, group[-1][0]
            if minute > start + 300 or minute > last + 300:
                close()
                if minute > last + 300:
                    begin = EPOCH + timedelta(minutes=last + 300)
                    end = EPOCH + timedelta(minutes=minute)
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
        rows = after("blocks", stored, said, how)
        assert not overlapping(rows.values())
        if not allow:
            assert sum(b.tokens.total for b in rows.values()) >= sum(
                b.tokens.total for b in stored.values()
            )
        assert after("blocks", rows, said, how) == rows
        stored = rows
