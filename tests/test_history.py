"""When may a row get smaller? Pure functions of what is stored, reported, and the window."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
import tables
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
    shrinks,
    whole_months,
    why_hold,
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
    return replace(made, shares={}, details=times)


def gap(start: datetime, end: datetime, version: str = NEW) -> Record:
    made = record((f"gap-{start.isoformat()}",), {}, version)
    return replace(made, details={"start_time": start, "end_time": end, "is_gap": True})


def by_id(records: Iterable[Record]) -> dict[tuple[Any, ...], Record]:
    return {one.id: one for one in records}


def policy(days: int | None = 29, version: str = NEW, **more: Any) -> Policy:
    numbers = tuple(map(int, version.split(".")))
    start = None if days is None else NOW - timedelta(days=days)
    return Policy(numbers, start, more.pop("zone", UTC), **more)  # type: ignore[arg-type]


def apply(stored: dict[Any, Record], decision: Decision, version: str = NEW) -> dict[Any, Record]:
    """What is stored afterwards: what is put without a version is of this run's."""
    written = {
        key: one if one == stored.get(key) else replace(one, version=one.version or version)
        for key, one in decision.put.items()
    }
    return {key: one for key, one in {**stored, **written}.items() if key not in decision.drop}


def reported(*records: Record) -> dict[Any, Record]:
    """As a feed has them: of no version yet."""
    return by_id(
        replace(
            one,
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
    assert (after.tokens, after.cost) == ((old.tokens, old.cost) if reason else (new[2:4]))
    return reason
