"""Feeds of any size in the shape of ccusage 20, and a command that prints them.

For benchmarks and for what no transcript can hold; what ccusage really prints is in feeds/.
"""

from __future__ import annotations

import json
import random
import shlex
from collections import Counter, defaultdict
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

MODELS = (
    "claude-opus-4-1-20250805",
    "claude-sonnet-4-5-20250929",
    "claude-sonnet-4-20250514",
    "claude-haiku-4-5-20251001",
    "claude-opus-4-5-20251101",
)
COUNTERS = ("inputTokens", "outputTokens", "cacheCreationTokens", "cacheReadTokens")
FEEDS = ("daily", "monthly", "session", "blocks", "projects")
Feeds = dict[str, Any]


def _instant(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.000Z"


def _row(usage: dict[str, Counter[str]], **fields: Any) -> dict[str, Any]:
    """A row of a feed from what each model used; micros are millionths of a dollar."""
    total: Counter[str] = sum(usage.values(), Counter())
    return fields | {
        **{name: total[name] for name in COUNTERS},
        "totalTokens": sum(total[name] for name in COUNTERS),
        "totalCost": total["micros"] / 1e6,
        "modelsUsed": sorted(usage),
        "modelBreakdowns": [
            {"modelName": model, "cost": used["micros"] / 1e6}
            | {name: used[name] for name in COUNTERS}
            for model, used in sorted(usage.items())
        ],
    }


def _totals(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = (*COUNTERS, "totalTokens", "totalCost")
    return {name: sum(row[name] for row in rows) for name in names}


def _block(start: datetime, usage: dict[str, Counter[str]]) -> dict[str, Any]:
    row = _row(usage)
    return {
        "id": _instant(start),
        "startTime": _instant(start),
        "endTime": _instant(start + timedelta(hours=5)),
        "actualEndTime": _instant(start + timedelta(hours=4)),
        "isActive": False,
        "isGap": False,
        "entries": 10,
        "tokenCounts": {
            "inputTokens": row["inputTokens"],
            "outputTokens": row["outputTokens"],
            "cacheCreationInputTokens": row["cacheCreationTokens"],
            "cacheReadInputTokens": row["cacheReadTokens"],
        },
        "totalTokens": row["totalTokens"],
        "costUSD": row["totalCost"],
        "models": row["modelsUsed"],
        "burnRate": None,
        "projection": None,
    }


def build_feeds(
    sessions: int, days: int, *, seed: int = 0, until: date | None = None, recent: int = 0
) -> Feeds:
    """The five feeds of `sessions` sessions within `days` days, each of two models.

    With `recent`, they report the sessions of so many last days alone, as after a purge.
    """
    rng = random.Random(seed)
    until = until or datetime.now(timezone.utc).date()
    usage: dict[str, dict[Any, dict[str, Counter[str]]]] = {
        feed: defaultdict(lambda: defaultdict(Counter)) for feed in FEEDS
    }
    for number in range(sessions):
        age = number * days // sessions
        if recent and age >= recent:
            break
        day = until - timedelta(days=age)
        project = f"-home-dev-project-{rng.randrange(12)}"
        start = datetime(day.year, day.month, day.day, 5 * rng.randrange(4), tzinfo=timezone.utc)
        identity = (project, f"{rng.getrandbits(128):032x}", start)
        for model in rng.sample(MODELS, 2):
            used = Counter({name: rng.randrange(1, 10**6) for name in COUNTERS})
            used["micros"] = rng.randrange(10**6)
            keys = (f"{day}", f"{day:%Y-%m}", identity, start, (project, f"{day}"))
            for feed, key in zip(FEEDS, keys, strict=True):
                usage[feed][key][model].update(used)
    daily = [_row(used, date=day) for day, used in sorted(usage["daily"].items())]
    monthly = [_row(used, month=month) for month, used in sorted(usage["monthly"].items())]
    session = [
        _row(
            used,
            sessionId=session_id,
            projectPath=project,
            firstActivity=_instant(start + timedelta(milliseconds=int(session_id[:6], 16))),
            lastActivity=_instant(
                start + timedelta(hours=5, milliseconds=-int(session_id[:5], 16))
            ),
        )
        for (project, session_id, start), used in usage["session"].items()
    ]
    named: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (project, day), used in sorted(usage["projects"].items()):
        named[project].append(_row(used, date=day, project=project))
    return {
        "daily": {"daily": daily, "totals": _totals(daily)},
        "monthly": {"monthly": monthly, "totals": _totals(monthly)},
        "session": {"sessions": session, "totals": _totals(session)},
        "blocks": {"blocks": [_block(s, used) for s, used in sorted(usage["blocks"].items())]},
        "projects": {"projects": named, "totals": _totals(daily)},
    }


def grow(feeds: Feeds, hours: int = 1, tokens: int = 1000) -> Feeds:
    """The same feeds after some more hours of work: today's rows hold more."""
    grown: Feeds = json.loads(json.dumps(feeds))
    session = grown["session"]["sessions"][0]
    rows = [
        grown["daily"]["daily"][-1],
        grown["monthly"]["monthly"][-1],
        session,
        next(iter(grown["projects"]["projects"].values()))[-1],
    ]
    for row in (*rows, *(grown[feed]["totals"] for feed in FEEDS if feed != "blocks")):
        row["inputTokens"] += hours * tokens
        row["totalTokens"] += hours * tokens
        for share in row.get("modelBreakdowns", ())[:1]:
            share["inputTokens"] += hours * tokens
    moved = datetime.fromisoformat(session["lastActivity"][:-1]) + timedelta(hours=hours)
    session["lastActivity"] = _instant(moved)
    block = grown["blocks"]["blocks"][-1]
    block["tokenCounts"]["inputTokens"] += hours * tokens
    block["totalTokens"] += hours * tokens
    return grown


def write_command(directory: Path, feeds: Feeds, version: str = "20.0.24") -> Path:
    """A command `ccusage` in `directory` that prints these feeds, and no other agent's."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, feed in feeds.items():
        (directory / f"{name}.json").write_text(json.dumps(feed))
    none = {"daily": [], "monthly": [], "session": [], "totals": _totals([])}
    (directory / "agents.json").write_text(json.dumps(none))
    here = shlex.quote(str(directory))
    command = directory / "ccusage"
    command.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        f"    *--version*) echo 'ccusage {version}' ;;\n"
        f"    *--sections*) cat {here}/agents.json ;;\n"
        f"    *--instances*) cat {here}/projects.json ;;\n"
        f'    claude*) cat {here}/"$2".json ;;\n'
        f'    *) cat {here}/"$1".json ;;\n'
        "esac\n"
    )
    command.chmod(0o755)
    return command
