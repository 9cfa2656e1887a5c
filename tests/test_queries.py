"""Every query of queries.sql answers its question right, over a history with known answers.

The history is made of `Fact`s: what one model used in one session on one day. The tables are
filled from them as an import would; the answers are reckoned from them in plain Python.
"""

from __future__ import annotations

import contextlib
import re
import time
from calendar import monthrange
from collections import defaultdict
from datetime import date, datetime, timedelta, timezone
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import mean, median, pstdev
from typing import TYPE_CHECKING, Any, NamedTuple

import clickhouse_connect
import pytest

from ccusage_importer import read_queries

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "queries.sql").read_text(encoding="utf-8")
SCHEMA = (ROOT / "ccusage_clickhouse_schema.sql").read_text(encoding="utf-8")
QUERIES = read_queries(TEXT)
# What --stats is made of is checked in test_stats.py, against ccusage itself; what --check asks
# in test_integrity.py, against tables in which something is wrong.
QUESTIONS = [name for name in QUERIES if not name.startswith(("statistics-", "integrity-"))]
WITH_MACHINE = [name for name in QUESTIONS if "machine" in QUERIES[name].parameters]
QUOTED = "o'brien"

# --- the history ---------------------------------------------------------------------------

OPUS, SONNET, MYSTERY, GPT = "claude-opus-4-5", "claude-sonnet-4-5", "mystery-1", "gpt-5"
# Dollars per input token; an output token costs 5, a cache write 1.25, a cache read 0.1 of it.
PRICES = {OPUS: 5e-6, SONNET: 3e-6, MYSTERY: 0.0, GPT: 1.25e-6, "": 0.0}


class Fact(NamedTuple):
    """What a model used in a session on a day; token counts in thousands."""

    machine: str
    agent: str
    ago: int
    project: str
    session: str
    model: str
    input: int
    output: int
    written: int
    read: int

    @property
    def tokens(self) -> int:
        return 1000 * (self.input + self.output + self.written + self.read)

    @property
    def prompt(self) -> int:
        return 1000 * (self.input + self.written + self.read)

    @property
    def cost(self) -> float:
        units = self.input + 5 * self.output + 1.25 * self.written + 0.1 * self.read
        return 1000 * units * PRICES[self.model]

    @property
    def session_key(self) -> str:
        return f"key-{self.project}-{self.session}"

    @property
    def project_key(self) -> str:
        return f"key-{self.project}"

    @property
    def project_id(self) -> str:
        """On one machine the project goes by another name."""
        return f"hash-{self.project}" if self.machine == QUOTED else self.project


FACTS = [
    Fact("laptop", "claude", 0, "alpha", "s1", OPUS, 10, 200, 300, 9000),
    Fact("laptop", "claude", 0, "alpha", "s1", SONNET, 5, 20, 0, 100),
    Fact("laptop", "claude", 1, "alpha", "s1", OPUS, 1, 10, 20, 500),
    Fact("laptop", "claude", 1, "beta", "s2", SONNET, 2, 15, 30, 100),
    *(
        Fact("laptop", "claude", ago, "beta", "s3", SONNET, 10 + ago, 20, 7, 50 * ago)
        for ago in range(2, 10)
    ),
    Fact("laptop", "codex", 4, "", "c2", GPT, 90, 31, 0, 410),
    Fact("laptop", "claude", 20, "alpha", "s4", OPUS, 3, 8, 90, 40),
    Fact("laptop", "claude", 45, "gamma", "s5", SONNET, 12, 44, 210, 900),
    Fact("laptop", "claude", 46, "gamma", "s5", SONNET, 11, 40, 200, 800),
    Fact("laptop", "claude", 75, "gamma", "s6", OPUS, 4, 9, 500, 10),
    Fact("laptop", "claude", 400, "delta", "s7", SONNET, 40, 30, 20, 10),
    Fact("server", "claude", 0, "alpha", "s8", SONNET, 6, 33, 40, 700),
    Fact("server", "claude", 3, "alpha", "s8", SONNET, 7, 35, 50, 810),
    Fact("server", "claude", 5, "beta", "s10", MYSTERY, 60, 70, 0, 0),
    Fact("server", "claude", 16, "alpha", "s12", SONNET, 1, 3, 5, 70),
    Fact("server", "claude", 40, "alpha", "s9", OPUS, 2, 6, 30, 300),
    Fact(QUOTED, "claude", 2, "beta", "s11", OPUS, 2, 14, 60, 330),
    Fact(QUOTED, "claude", 33, "beta", "s3", SONNET, 3, 15, 61, 333),  # as on the laptop
    Fact(QUOTED, "codex", 0, "", "c1", GPT, 70, 20, 0, 300),
    Fact(QUOTED, "codex", 1, "", "c1", GPT, 71, 21, 0, 310),
    Fact(QUOTED, "codex", 10, "", "c0", "", 0, 0, 0, 0),  # ccusage reports such empty days
    Fact(QUOTED, "codex", 31, "", "c3", GPT, 50, 10, 0, 100),
    Fact(QUOTED, "codex", 62, "", "c4", MYSTERY, 5, 1, 0, 10),
]
# Counted by a month whose transcripts were gone before its days could be imported.
PURGED = [Fact("laptop", "claude", 75, "gamma", "s0", OPUS, 100, 100, 100, 100)]
# Imported once, and gone since: only their tombstones say so.
GHOSTS = [Fact("ghost", "claude", 2, "alpha", "g1", OPUS, 999, 999, 999, 999)]


class Block(NamedTuple):
    """A block, or a gap; its machine's costs are in dollars."""

    machine: str
    start: datetime
    minutes: int | None
    cost: float
    tokens: int
    entries: int
    active: bool = False
    limit: bool = False
    gap: bool = False

    @property
    def end(self) -> datetime:
        return self.start + timedelta(hours=5)

    @property
    def last(self) -> datetime | None:
        return None if self.minutes is None else self.start + timedelta(minutes=self.minutes)

    @property
    def reset(self) -> datetime | None:
        return self.end if self.limit else None

    @property
    def hours(self) -> list[datetime]:
        """The hours that it touches."""
        return [self.start + timedelta(hours=n) for n in range((self.minutes or 0) // 60 + 1)]


class Run(NamedTuple):
    """An import that began so many minutes ago and took 90 seconds."""

    machine: str
    minutes_ago: int
    version: str
    failed: tuple[str, ...] = ()
    held: dict[str, int] = {}  # noqa: RUF012


RUNS = [
    Run("laptop", 30, "20.0.24", ("blocks",), {"smaller": 3, "unmoved": 1}),
    Run("laptop", 90, "20.0.24", ("blocks", "daily"), {"smaller": 9}),
    Run("laptop", 60 * 24 * 9, "18.0.11", ("session",)),
    Run("server", 60 * 50 + 30, "20.0.24", ("monthly",)),
    Run("server", 60 * 49 + 30, "20.0.24"),
    Run(QUOTED, 60 * 20 + 30, "19.0.3"),
]
FEEDS = ("blocks", "daily", "monthly", "projects", "session")
COUNTERS = "input_tokens output_tokens cache_creation_tokens cache_read_tokens total_tokens"


class World(NamedTuple):
    """The history as of the engine's now."""

    today: date
    now: datetime
    facts: list[Fact]
    months: list[Fact]
    blocks: list[Block]
    runs: list[Run]

    def only(self, machine: str) -> World:
        """What one machine knows of it."""
        return World(
            self.today,
            self.now,
            *([row for row in rows if row.machine == machine] for rows in self[2:]),
        )

    def day(self, ago: int) -> date:
        return self.today - timedelta(days=ago)

    def at(self, ago: int, hour: int) -> datetime:
        return datetime.combine(self.day(ago), datetime.min.time()) + timedelta(hours=hour)

    def month(self, fact: Fact) -> str:
        return f"{self.day(fact.ago):%Y-%m}"

    def month_back(self, months: int) -> str:
        year, month = divmod(self.today.year * 12 + self.today.month - 1 - months, 12)
        return f"{year}-{month + 1:02}"

    def last(self, days: int) -> list[Fact]:
        return [fact for fact in self.facts if fact.ago < days]

    def sessions(self) -> dict[Any, list[Fact]]:
        return by(self.facts, lambda f: (f.machine, f.agent, f.session_key))

    def first_activity(self, facts: list[Fact]) -> datetime | None:
        known = facts[0].agent == "claude"
        return self.at(max(f.ago for f in facts), 9) if known else None

    def last_activity(self, facts: list[Fact]) -> datetime | None:
        known = facts[0].session != "c2"
        return self.at(min(f.ago for f in facts), 9 + len(facts)) if known else None

    def minutes(self, facts: list[Fact]) -> float | None:
        first, last = self.first_activity(facts), self.last_activity(facts)
        return None if first is None or last is None else (last - first) / timedelta(minutes=1)

    def ended_blocks(self, days: int) -> list[Block]:
        since = self.now - timedelta(days=days)
        return [block for block in self.blocks if not block.gap and block.start > since]


def make_world(today: date, now: datetime) -> World:
    world = World(today, now, FACTS, FACTS + PURGED, [], RUNS)
    hour = now.replace(minute=0, second=0, microsecond=0)
    world.blocks.extend(
        [
            Block("laptop", hour - timedelta(hours=1), 70, 12.5, 9000, 40, active=True),
            Block("laptop", world.at(3, 9), 250, 8.25, 7000, 30, limit=True),
            Block("laptop", world.at(3, 15), 5, 1.5, 600, 2),
            Block("laptop", world.at(10, 22), 130, 4.0, 5000, 20),
            Block("laptop", world.at(100, 8), 60, 77.0, 88000, 99),
            Block("laptop", world.at(3, 13), None, 0, 0, 0, gap=True),
            Block("server", world.at(3, 9), 0, 0.5, 100, 1, active=True),
            Block(QUOTED, world.at(12, 10), 110, 2.25, 1500, 12),
            Block(QUOTED, world.at(11, 3), None, 0, 0, 0, gap=True),
        ]
    )
    return world


# --- into tables ---------------------------------------------------------------------------


def by(rows: Iterable[Any], key: Callable[[Any], Hashable]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(groups)


def models_of(facts: Iterable[Fact]) -> dict[str, list[Fact]]:
    return by((f for f in facts if f.model), lambda f: f.model)


def total(rows: Iterable[Any], field: str = "cost") -> Any:
    return sum((getattr(row, field) for row in rows), 0)


def counters(facts: list[Fact], cost: str) -> dict[str, Any]:
    thousands = [total(facts, name) for name in ("input", "output", "written", "read")]
    values = [*(1000 * value for value in thousands), total(facts, "tokens")]
    return dict(zip(COUNTERS.split(), values, strict=True)) | {cost: total(facts)}


def usage_rows(world: World) -> Iterator[tuple[str, dict[str, Any], list[Fact]]]:
    """(record type, identity and details, facts) of each row but the blocks'."""
    grains: dict[str, tuple[list[Fact], Callable[[Fact], dict[str, Any]]]] = {
        "daily": (world.facts, lambda f: {"date": world.day(f.ago)}),
        "monthly": (world.months, lambda f: {"month": world.month(f)}),
        "session": (
            world.facts,
            lambda f: {
                "session_key": f.session_key,
                "project_path": f.project,
                "session_id": f.session,
            },
        ),
        "project_daily": (
            [fact for fact in world.facts if fact.project],
            lambda f: {
                "date": world.day(f.ago),
                "project_key": f.project_key,
                "project_id": f.project_id,
            },
        ),
    }
    for record_type, (facts, identity) in grains.items():
        owned = [(f, {"machine_name": f.machine, "agent": f.agent} | identity(f)) for f in facts]
        for pairs in by(owned, lambda pair: tuple(pair[1].values())).values():
            group, row = [fact for fact, _ in pairs], dict(pairs[0][1])
            if record_type == "session":
                row["first_activity"] = utc(world.first_activity(group))
                row["last_activity"] = utc(world.last_activity(group))
            yield record_type, row, group


USAGE_TABLES = {
    "daily": ("ccusage_usage_daily", ("date",)),
    "monthly": ("ccusage_usage_monthly", ("month",)),
    "session": ("ccusage_usage_sessions", ("session_key",)),
    "project_daily": ("ccusage_usage_projects_daily", ("date", "project_key")),
}


def table_rows(world: World) -> Iterator[tuple[str, dict[str, Any]]]:
    """(table, row) of everything that an import of this world stores."""
    for record_type, row, facts in usage_rows(world):
        table, key = USAGE_TABLES[record_type]
        shares = models_of(facts)
        yield table, row | counters(facts, "total_cost") | {"models_count": len(shares)}
        part = {name: row[name] for name in ("machine_name", "agent")} | {
            "record_type": record_type,
            "record_key": "_".join(str(row[name]) for name in key),
        }
        for model, share in shares.items():
            yield "ccusage_models_used", part | {"model_name": model}
            yield (
                "ccusage_model_breakdowns",
                part | {"model_name": model} | counters(share, "cost"),
            )
    for block in world.blocks:
        yield from block_rows(block)


def block_rows(block: Block) -> Iterator[tuple[str, dict[str, Any]]]:
    name = f"{'gap-' * block.gap}{block.start.isoformat()}"
    yield (
        "ccusage_usage_blocks",
        {
            "machine_name": block.machine,
            "agent": "claude",
            "block_id": name,
            "start_time": utc(block.start),
            "end_time": utc(block.end),
            "actual_end_time": utc(block.last),
            "is_active": int(block.active),
            "is_gap": int(block.gap),
            "entries": block.entries,
            **dict.fromkeys(COUNTERS.split(), 0),
            "total_tokens": block.tokens,
            "cost_usd": block.cost,
            "models_count": int(not block.gap),
            "usage_limit_reset_time": utc(block.reset),
            "burn_rate": block.cost * 2 if block.active else None,
            "projection": block.cost * 3 if block.active else None,
        },
    )
    if not block.gap:
        yield (
            "ccusage_models_used",
            {
                "machine_name": block.machine,
                "agent": "claude",
                "record_type": "block",
                "record_key": name,
                "model_name": OPUS,
            },
        )


def utc(moment: datetime | None) -> datetime | None:
    return moment and moment.replace(tzinfo=timezone.utc)


def insert(client: Any, rows: Iterable[tuple[str, dict[str, Any]]], **stamp: Any) -> None:
    for table, entries in by(rows, lambda row: row[0]).items():
        dicts = [row | stamp for _, row in entries]
        columns = list(dicts[0])
        data = [[row[name] for name in columns] for row in dicts]
        client.insert(table, data, column_names=columns)


def outdated(rows: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same rows as an earlier run had them: more of everything, so that it would be seen."""
    for table, row in rows:
        more = {name: row[name] * 3 + 1000 for name in row if name.endswith(("tokens", "cost"))}
        yield table, row | more | ({"cost_usd": 999.0} if "cost_usd" in row else {})


def stamp(moment: datetime, version: str = "20.0.24", deleted: int = 0) -> dict[str, Any]:
    stamps = dict.fromkeys(("created_at", "updated_at"), utc(moment))
    return stamps | {"ccusage_version": version, "is_deleted": deleted}


def fill(client: Any, world: World) -> None:
    """Store the world, with superseded versions and tombstones beside its rows, unmerged."""
    client.command("SYSTEM STOP MERGES")
    ghosts = world._replace(facts=GHOSTS, months=GHOSTS, blocks=[])
    old, new = world.now - timedelta(days=1), world.now - timedelta(minutes=30)
    insert(client, outdated([*table_rows(world), *table_rows(ghosts)]), **stamp(old, "18.0.11"))
    insert(client, table_rows(world), **stamp(new))
    insert(client, table_rows(ghosts), **stamp(new, deleted=1))
    for run in world.runs:
        insert(client, [("ccusage_import_history", history_row(world, run))])


def history_row(world: World, run: Run) -> dict[str, Any]:
    started = utc(world.now - timedelta(minutes=run.minutes_ago))
    return {
        "machine_name": run.machine,
        "ccusage_version": run.version,
        "feeds_imported": [feed for feed in FEEDS if feed not in run.failed],
        "feeds_failed": list(run.failed),
        "rows_inserted": run.minutes_ago,
        "rows_deleted": 2,
        "rows_held": sum(run.held.values()),
        "rows_corrected": 1,
        "held_reasons": run.held,
        "started_at": started,
        "updated_at": started,
        "finished_at": started + timedelta(seconds=90),
    }


# --- the answers ---------------------------------------------------------------------------

TRENDS = (
    "daily-cost-trend",
    "weekly-trend",
    "monthly-trend",
    "model-months",
    "burn-rate-by-week",
)
Rows = list[tuple[Any, ...]]
ANSWERS: dict[str, tuple[dict[str, Any], Callable[[World], Rows]]] = {}


def answers(name: str, **parameters: Any) -> Callable[[Any], Any]:
    def register(answer: Callable[[World], Rows]) -> Callable[[World], Rows]:
        ANSWERS[name] = (parameters, answer)
        return answer

    return register


def ratio(part: float | None, whole: float | None, factor: float = 1) -> float | None:
    return None if part is None or not whole else factor * part / whole


def percent(part: float | None, whole: float | None) -> float | None:
    return ratio(part, whole, 100)


def change(new: float, old: float) -> float | None:
    return None if not old else 100 * (new / old - 1)


def ranked(rows: Iterable[tuple[Any, ...]], column: int, *ties: int) -> Rows:
    """Largest first by one column, then ascending by others."""
    return sorted(rows, key=lambda row: (-row[column], *(row[tie] for tie in ties)))


def days_of(facts: Iterable[Fact]) -> int:
    """On how many days something was used."""
    return len({fact.ago for fact in facts if fact.tokens})


def distinct(facts: Iterable[Any], field: str) -> int:
    return len({getattr(fact, field) for fact in facts})


def name_of(facts: Iterable[Fact]) -> str:
    return max(fact.project_id for fact in facts)


def inclusive(values: Iterable[float], level: float) -> float:
    """The quantile that interpolates between the two nearest values."""
    ordered = sorted(values)
    place = level * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def cost_by_day(facts: Iterable[Fact]) -> dict[int, float]:
    return defaultdict(float, {ago: total(day) for ago, day in by(facts, lambda f: f.ago).items()})


def projects_of(facts: Iterable[Fact]) -> dict[str, list[Fact]]:
    return by((f for f in facts if f.project), lambda f: f.project_key)


@answers("all-time-totals")
def _(w: World) -> Rows:
    days, cost = days_of(w.facts), total(w.facts)
    return [(w.day(400), w.day(0), days, 3, 2, total(w.facts, "tokens"), cost, cost / days)]


@answers("daily-cost-trend", days=12)
def _(w: World) -> Rows:
    cost = cost_by_day(w.facts)
    averages = {ago: sum(cost[ago + n] for n in range(1, 8)) / 7 for ago in range(12)}
    tokens = {ago: total((f for f in w.facts if f.ago == ago), "tokens") for ago in range(12)}
    return [
        (w.day(ago), tokens[ago], cost[ago], averages[ago], change(cost[ago], averages[ago]))
        for ago in reversed(range(12))
    ]


@answers("today-so-far", days=45)
def _(w: World) -> Rows:
    cost = cost_by_day(w.facts)
    before = [f for f in w.last(46) if f.ago]
    average = ratio(total(before), days_of(before))
    tokens = total(w.last(1), "tokens")
    return [(tokens, cost[0], cost[1], average, percent(cost[0], average))]


@answers("most-expensive-days", limit=6)
def _(w: World) -> Rows:
    rows = []
    for ago, facts in by(w.facts, lambda f: f.ago).items():
        models = {model: total(group) for model, group in models_of(facts).items()}
        top = max(models, key=lambda model: models[model]) if models else ""
        rows.append((w.day(ago), total(facts, "tokens"), total(facts), top, models.get(top, 0)))
    return ranked(rows, 2)[:6]


@answers("usage-streaks", limit=4)
def _(w: World) -> Rows:
    cost = cost_by_day(w.facts)

    def streak(last: int, first: int) -> tuple[Any, ...]:
        days = range(last, first + 1)
        return w.day(first), w.day(last), len(days), sum(cost[ago] for ago in days), int(last < 2)

    return [streak(0, 9), streak(45, 46), streak(16, 16), streak(20, 20)]


@answers("model-costs", days=46)
def _(w: World) -> Rows:
    facts = w.last(46)
    return ranked(
        (
            (
                model,
                days_of(group),
                total(group, "tokens"),
                total(group),
                percent(total(group), total(facts)),
            )
            for model, group in models_of(facts).items()
        ),
        3,
        0,
    )


@answers("model-effective-prices")
def _(w: World) -> Rows:
    return ranked(
        (
            (
                model,
                (tokens := total(group, "tokens")),
                percent(1000 * total(group, "output"), tokens),
                percent(1000 * total(group, "read"), tokens),
                1000000.0 * total(group) / tokens,
                1000.0 * total(group) / total(group, "output"),
            )
            for model, group in models_of(w.facts).items()
            if model != MYSTERY
        ),
        4,
    )


@answers("model-months", months=3)
def _(w: World) -> Rows:
    cost = {key: total(g) for key, g in by(w.months, lambda f: (f.model, w.month(f))).items()}
    rows = []
    for back in (2, 1, 0):
        month, before = w.month_back(back), w.month_back(back + 1)
        for model in models_of(w.months):
            known = sorted(at for name, at in cost if name == model)
            if known[0] <= month <= known[-1]:
                new, old = cost.get((model, month), 0), cost.get((model, before), 0)
                rows.append((month, model, new, old, new - old))
    return sorted(rows, key=lambda row: (row[0], -row[2], row[1]))


@answers("model-lifetimes")
def _(w: World) -> Rows:
    rows = []
    for model, group in models_of(w.facts).items():
        first, last = max(f.ago for f in group), min(f.ago for f in group)
        rows.append((model, w.day(first), w.day(last), last, days_of(group)))
        rows[-1] += (total(group, "tokens"),)
    return sorted(rows, key=lambda row: (row[3], -row[1].toordinal(), row[0]))


@answers("models-without-price")
def _(w: World) -> Rows:
    return [(MYSTERY, 2, 146_000, percent(146_000, total(w.facts, "tokens")))]


@answers("model-combinations")
def _(w: World) -> Rows:
    costs = defaultdict(list)
    for facts in w.sessions().values():
        costs[" + ".join(sorted(models_of(facts)))].append(total(facts))
    costs.pop("", None)
    rows = ((models, len(each), sum(each), mean(each)) for models, each in costs.items())
    return ranked(rows, 1, 0)


@answers("project-costs", days=46)
def _(w: World) -> Rows:
    projects = projects_of(w.last(46))
    every = sum(map(total, projects.values()))
    rows = ranked(
        (
            (
                name_of(facts),
                distinct(facts, "machine"),
                days_of(facts),
                total(facts, "tokens"),
                total(facts),
                percent(total(facts), every),
            )
            for facts in projects.values()
        ),
        4,
    )
    running = accumulate(row[5] for row in rows)
    return [(*row, so_far) for row, so_far in zip(rows, running, strict=True)]


@answers("project-momentum", days=23)
def _(w: World) -> Rows:
    rows = []
    for facts in projects_of(w.last(46)).values():
        recent, previous = (
            total(f for f in facts if f.ago < 23),
            total(f for f in facts if f.ago >= 23),
        )
        rows.append((name_of(facts), recent, previous, recent - previous))
        rows[-1] += (change(recent, previous),)
    return ranked(rows, 3)


@answers("project-months", months=2)
def _(w: World) -> Rows:
    facts = [f for f in w.facts if f.project and w.month(f) >= w.month_back(1)]
    rows = (
        (month, name_of(group), days_of(group), total(group, "tokens"), total(group))
        for (month, _), group in by(facts, lambda f: (w.month(f), f.project)).items()
    )
    return sorted(rows, key=lambda row: (row[0], -row[4]))


@answers("project-models", days=46)
def _(w: World) -> Rows:
    rows = []
    for project, facts in projects_of(w.last(46)).items():
        name = name_of(f for f in w.facts if f.project_key == project)
        for model, group in models_of(facts).items():
            rows.append((name, model, total(group, "tokens"), total(group)))
            rows[-1] += (percent(total(group), total(facts)),)
    return sorted(rows, key=lambda row: (row[0], -row[3], row[1]))


@answers("dormant-projects", days=45)
def _(w: World) -> Rows:
    def of(project: str) -> float:
        return total(f for f in w.facts if f.project == project)

    return [
        ("gamma", w.day(45), 45, of("gamma")),
        ("delta", w.day(400), 400, of("delta")),
    ]


@answers("most-expensive-sessions", limit=5)
def _(w: World) -> Rows:
    rows = (
        (
            f.project,
            f.session,
            f.machine,
            f.agent,
            w.last_activity(facts),
            total(facts, "tokens"),
            total(facts),
            percent(total(facts), total(w.facts)),
        )
        for (f, *_), facts in zip(w.sessions().values(), w.sessions().values(), strict=True)
    )
    return ranked(rows, 6)[:5]


@answers("longest-sessions", limit=4)
def _(w: World) -> Rows:
    rows = (
        (
            f.project,
            f.session,
            f.machine,
            f.agent,
            w.first_activity(facts),
            w.last_activity(facts),
            minutes,
            total(facts),
            ratio(total(facts), minutes, 60),
        )
        for (f, *_), facts in zip(w.sessions().values(), w.sessions().values(), strict=True)
        for minutes in [w.minutes(facts)]
        if minutes is not None
    )
    return ranked(rows, 6, 2, 3, 0, 1)[:4]


@answers("session-statistics")
def _(w: World) -> Rows:
    rows = []
    for agent, sessions in by(w.sessions().values(), lambda s: s[0].agent).items():
        costs = [total(facts) for facts in sessions]
        minutes = [known for facts in sessions if (known := w.minutes(facts)) is not None]
        rows.append((agent, len(costs), sum(costs), mean(costs), median(costs)))
        rows[-1] += (inclusive(costs, 0.9), max(costs), mean(minutes) if minutes else None)
    return ranked(rows, 1)


@answers("session-cost-distribution")
def _(w: World) -> Rows:
    costs = [total(facts) for facts in w.sessions().values()]
    steps = by(costs, lambda cost: max(step for step in (0, 0.1, 1, 10) if cost >= step))
    return [
        (
            step,
            len(group),
            sum(group),
            percent(len(group), len(costs)),
            percent(sum(group), sum(costs)),
        )
        for step, group in sorted(steps.items())
    ]


def spread(blocks: Iterable[Block]) -> list[tuple[datetime, float]]:
    return [(hour, block.cost / len(block.hours)) for block in blocks for hour in block.hours]


@answers("hours-of-day", timezone="Asia/Tokyo")
def _(w: World) -> Rows:
    hours = by(spread(w.ended_blocks(90)), lambda part: (part[0].hour + 9) % 24)
    return [
        (hour, len(hours.get(hour, [])), sum(cost for _, cost in hours.get(hour, [])))
        for hour in range(24)
    ]


@answers("weekday-hours", timezone="Asia/Tokyo")
def _(w: World) -> Rows:
    tokyo = [(hour + timedelta(hours=9), cost) for hour, cost in spread(w.ended_blocks(90))]
    cells = by(tokyo, lambda part: (part[0].isoweekday(), part[0].hour))
    return [(*cell, sum(cost for _, cost in parts)) for cell, parts in sorted(cells.items())]


WEEKDAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


@answers("weekdays", days=46)
def _(w: World) -> Rows:
    weekdays = by(w.last(46), lambda f: w.day(f.ago).isoweekday())
    return [
        (
            day,
            WEEKDAYS[day - 1],
            days_of(facts),
            total(facts),
            ratio(total(facts), days_of(facts)),
            percent(total(facts), total(w.last(46))),
        )
        for day, facts in sorted(weekdays.items())
    ]


def monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


@answers("weekly-trend", weeks=4)
def _(w: World) -> Rows:
    weeks = by(w.facts, lambda f: monday(w.day(f.ago)))
    rows = []
    for back in (3, 2, 1, 0):
        week = monday(w.today) - timedelta(weeks=back)
        facts, before = weeks.get(week, []), weeks.get(week - timedelta(weeks=1), [])
        rows.append((week, days_of(facts), total(facts, "tokens"), total(facts), total(before)))
        rows[-1] += (change(total(facts), total(before)),)
    return rows


@answers("monthly-trend", months=6)
def _(w: World) -> Rows:
    months = by(w.months, w.month)
    rows = []
    for back in range(5, -1, -1):
        month = w.month_back(back)
        facts, before = months.get(month, []), months.get(w.month_back(back + 1), [])
        rows.append((month, total(facts, "tokens"), total(facts), total(before)))
        rows[-1] += (change(total(facts), total(before)),)
    return rows


def cache(facts: list[Fact]) -> tuple[Any, ...]:
    written, read = 1000 * total(facts, "written"), 1000 * total(facts, "read")
    return written, read, ratio(read, written), percent(read, total(facts, "prompt"))


@answers("cache-by-model", days=46)
def _(w: World) -> Rows:
    models = models_of(w.last(46))
    return ranked(((model, *cache(facts)) for model, facts in models.items()), 4, 0)


@answers("cache-by-project", days=46)
def _(w: World) -> Rows:
    projects = projects_of(w.last(46)).values()
    rows = ((name_of(facts), total(facts), *cache(facts)) for facts in projects)
    return sorted(rows, key=lambda row: row[5])


@answers("cache-savings")
def _(w: World) -> Rows:
    rows = []
    for model in (OPUS, SONNET):
        facts = [f for f in w.months if f.model == model]
        tokens = 1000 * (0.9 * total(facts, "read") - 0.25 * total(facts, "written"))
        cost, saved = total(facts), PRICES[model] * tokens
        rows.append((model, cost, cost + saved, saved, percent(saved, cost + saved)))
    return ranked(rows, 3)


@answers("cache-not-paid-back", tokens=80_000)
def _(w: World) -> Rows:
    cost = {facts[0].session: total(facts) for facts in w.sessions().values()}
    return [("gamma", "s6", "laptop", "claude", 500_000, 10_000, 116_000, cost["s6"])]


@answers("active-blocks")
def _(w: World) -> Rows:
    block = w.blocks[0]
    left = (block.end - w.now) / timedelta(minutes=1)
    return [
        ("laptop", block.start, block.end, pytest.approx(left, abs=2), 40, 9000, 12.5, 25, 37.5)
    ]


@answers("recent-blocks", limit=5)
def _(w: World) -> Rows:
    blocks = sorted((b for b in w.blocks if not b.gap), key=lambda b: b.machine)
    blocks.sort(key=lambda b: b.start, reverse=True)
    return [
        (
            b.start,
            b.last,
            b.machine,
            b.minutes,
            b.entries,
            b.tokens,
            b.cost,
            ratio(b.cost, b.minutes, 60),
        )
        for b in blocks[:5]
    ]


@answers("block-statistics")
def _(w: World) -> Rows:
    rows = []
    for machine, blocks in by(w.ended_blocks(90), lambda b: b.machine).items():
        costs = [block.cost for block in blocks]
        rows.append((machine, len(blocks), mean(b.entries for b in blocks), mean(costs)))
        rows[-1] += (median(costs), inclusive(costs, 0.9), max(costs))
        rows[-1] += (max(block.tokens for block in blocks),)
    return ranked(rows, 1, 0)


@answers("burn-rate-by-week", weeks=2)
def _(w: World) -> Rows:
    weeks = by((b for b in w.blocks if not b.gap), lambda b: monday(b.start.date()))
    return [
        (
            week,
            len(blocks),
            (hours := total(blocks, "minutes") / 60),
            total(blocks),
            ratio(total(blocks), hours),
            ratio(total(blocks, "tokens"), hours * 60),
        )
        for week, blocks in sorted(weeks.items())
        if week >= monday(w.today) - timedelta(weeks=1)
    ]


@answers("usage-limits-reached")
def _(w: World) -> Rows:
    return [
        (w.at(3, 9), w.at(3, 9) + timedelta(minutes=250), w.at(3, 14), "laptop", 30, 7000, 8.25)
    ]


@answers("machine-costs", days=46)
def _(w: World) -> Rows:
    facts = w.last(46)
    rows = (
        (
            machine,
            distinct(group, "agent"),
            days_of(group),
            total(group, "tokens"),
            total(group),
            percent(total(group), total(facts)),
        )
        for machine, group in by(facts, lambda f: f.machine).items()
    )
    return ranked(rows, 4)


@answers("machine-comparison", days=20)
def _(w: World) -> Rows:
    rows = []
    for machine, facts in by(w.last(40), lambda f: f.machine).items():
        recent = [f for f in facts if f.ago < 20]
        tokens = total(recent, "tokens")
        rows.append((machine, total(recent), change(total(recent), total(facts) - total(recent))))
        rows[-1] += (ratio(total(recent), tokens, 1e6),)
        rows[-1] += (percent(1000 * total(recent, "output"), tokens), cache(recent)[3])
    return ranked(rows, 1)


@answers("projects-on-several-machines")
def _(w: World) -> Rows:
    def of(project: str) -> float:
        return total(f for f in w.facts if f.project == project)

    rows = [
        ("alpha", ["laptop", "server"], of("alpha"), "server", w.day(0)),
        ("hash-beta", ["laptop", QUOTED, "server"], of("beta"), "laptop", w.day(1)),
    ]
    return ranked(rows, 2)


@answers("machine-freshness")
def _(w: World) -> Rows:
    def finished(run: Run) -> datetime:
        return w.now - timedelta(minutes=run.minutes_ago, seconds=-90)

    return [
        ("server", finished(RUNS[4]), 49, 1, "20.0.24", w.day(0)),
        (QUOTED, finished(RUNS[5]), 20, 0, "19.0.3", w.day(0)),
        ("laptop", finished(RUNS[0]), 0, 0, "20.0.24", w.day(0)),
    ]


@answers("machine-utilisation", days=20)
def _(w: World) -> Rows:
    rows = []
    for machine, facts in by(w.last(20), lambda f: f.machine).items():
        blocks = [b for b in w.blocks if b.machine == machine and b.start.date() > w.day(20)]
        days, hours = days_of(facts), sum(b.minutes or 0 for b in blocks) / 60
        rows.append((machine, days, percent(days, 20), hours, hours / days))
    return ranked(rows, 1, 0)


@answers("agent-costs", days=46)
def _(w: World) -> Rows:
    facts = w.last(46)
    rows = (
        (
            agent,
            distinct(group, "machine"),
            days_of(group),
            total(group, "tokens"),
            total(group),
            percent(total(group), total(facts)),
            1000000.0 * total(group) / total(group, "tokens"),
        )
        for agent, group in by(facts, lambda f: f.agent).items()
    )
    return ranked(rows, 4)


@answers("agent-months", months=4)
def _(w: World) -> Rows:
    rows = []
    for month, facts in by(w.months, w.month).items():
        for agent, group in by(facts, lambda f: f.agent).items():
            tokens, cost = total(group, "tokens"), total(group)
            rows.append((month, agent, tokens, cost, percent(tokens, total(facts, "tokens"))))
            rows[-1] += (percent(cost, total(facts)),)
    rows.sort(key=lambda row: (row[0], -row[3], row[1]))
    return [row for row in rows if row[0] >= w.month_back(3)]


@answers("month-forecast")
def _(w: World) -> Rows:
    spent = total(f for f in w.facts if f.ago < w.today.day)
    recent = total(f for f in w.facts if 1 <= f.ago <= 7) / 7
    passed, length = w.today.day, monthrange(w.today.year, w.today.month)[1]
    forecasts = (spent / passed * length, spent + recent * (length - passed))
    return [(spent, passed, length, spent / passed, recent, *forecasts)]


@answers("month-to-date")
def _(w: World) -> Rows:
    rows = []
    days = by(w.facts, lambda f: (w.month(f), w.day(f.ago).day))
    this = last = 0.0
    for day in range(1, 32):
        this += total(days.get((w.month_back(0), day), []))
        last += total(days.get((w.month_back(1), day), []))
        rows.append((day, this if day <= w.today.day else None, last))
    return rows


@answers("spending-change", days=20)
def _(w: World) -> Rows:
    new, old = w.last(20), [f for f in w.last(40) if f.ago >= 20]
    row: tuple[Any, ...] = (days_of(new), days_of(old))
    for field in ("tokens", "cost"):
        row += (total(new, field), total(old, field), change(total(new, field), total(old, field)))
    return [row]


@answers("budget-left", budget=20)
def _(w: World) -> Rows:
    spent = total(f for f in w.facts if f.ago < w.today.day)
    length = monthrange(w.today.year, w.today.month)[1]
    left, days_left = 20 - spent, length - w.today.day + 1
    pace = spent / w.today.day
    affordable = max(left, 0) / days_left
    return [(spent, left, 5 * spent, days_left, affordable, pace, int(pace * length <= 20))]


@answers("days-over-limit", limit=1.0)
def _(w: World) -> Rows:
    rows = []
    for ago, facts in by(w.last(30), lambda f: f.ago).items():
        machines = by(facts, lambda f: f.machine)
        top = max(machines, key=lambda machine: total(machines[machine]))
        if total(facts) > 1.0:
            rows.append((w.day(ago), total(facts), total(facts) - 1.0, top))
    return sorted(rows)


@answers("subscription-value", price=5)
def _(w: World) -> Rows:
    months = by((f for f in w.months if f.agent == "claude"), w.month)
    return [
        (month, total(facts), 5, total(facts) - 5, total(facts) / 5)
        for month, facts in sorted(months.items())
    ]


@answers("unusual-days")
def _(w: World) -> Rows:
    cost = cost_by_day(f for f in w.facts if f.tokens)
    rows = []
    for day in sorted(cost, reverse=True):
        before = [cost[ago] for ago in range(day + 1, day + 31) if ago in cost]
        if len(before) >= 7 and cost[day] > mean(before) + 3 * pstdev(before):
            excess = (cost[day] - mean(before)) / pstdev(before)
            rows.append((w.day(day), cost[day], mean(before), excess))
    return rows


@answers("unusual-sessions", factor=10)
def _(w: World) -> Rows:
    facts = [f for f in w.facts if f.session == "s1"]
    alphas = [total(s) for s in w.sessions().values() if s[0].project == "alpha"]
    middle = median(alphas)
    row = ("alpha", "s1", "laptop", "claude", w.last_activity(facts), total(facts))
    return [(*row, middle, total(facts) / middle)]


@answers("project-spikes", factor=10)
def _(w: World) -> Rows:
    cost = cost_by_day(f for f in w.facts if f.project == "alpha")
    middle = median(cost.values())
    return [(w.today, "alpha", cost[0], middle, cost[0] / middle)]


@answers("months-against-days")
def _(w: World) -> Rows:
    month = w.month(PURGED[0])

    def sums(facts: list[Fact]) -> tuple[int, float]:
        kept = [f for f in facts if (f.machine, f.agent, w.month(f)) == ("laptop", "claude", month)]
        return total(kept, "tokens"), total(kept)

    (all_tokens, all_cost), (tokens, cost) = sums(w.months), sums(w.facts)
    return [(month, "laptop", "claude", all_tokens, tokens, all_cost, cost)]


@answers("record-counts")
def _(w: World) -> Rows:
    tables = by(table_rows(w), lambda row: row[0])
    new = w.now - timedelta(minutes=30)
    return [(table, len(rows), 3, new) for table, rows in sorted(tables.items())]


@answers("recent-imports", limit=4)
def _(w: World) -> Rows:
    return [
        (
            w.now - timedelta(minutes=run.minutes_ago),
            run.machine,
            90,
            run.version,
            len(FEEDS) - len(run.failed),
            ", ".join(run.failed),
            run.minutes_ago,
            2,
            sum(run.held.values()),
            1,
        )
        for run in sorted(w.runs, key=lambda run: run.minutes_ago)[:4]
    ]


@answers("failed-feeds")
def _(w: World) -> Rows:
    def ago(minutes: int) -> datetime:
        return w.now - timedelta(minutes=minutes)

    return [
        ("laptop", "blocks", 2, 2, ago(30), 1),
        ("laptop", "daily", 1, 2, ago(90), 0),
        ("server", "monthly", 1, 2, ago(3030), 0),
    ]


@answers("held-rows")
def _(w: World) -> Rows:
    at = w.now - timedelta(minutes=30)
    return [("laptop", at, "smaller", 3), ("laptop", at, "unmoved", 1)]


@answers("twin-machines")
def _(w: World) -> Rows:
    machines = by(w.facts, lambda f: (f.agent, f.session_key))
    twins = [
        (agent, by(facts, lambda f: f.machine))
        for (agent, _), facts in machines.items()
        if len({f.machine for f in facts}) > 1
    ]
    groups = by(twins, lambda twin: (", ".join(sorted(twin[1])), twin[0]))
    rows = []
    for (names, agent), several in groups.items():
        tokens, cost = 0, 0.0
        for _, facts in several:
            counts = [total(mine, "tokens") for mine in facts.values()]
            costs = [total(mine) for mine in facts.values()]
            tokens, cost = tokens + sum(counts) - max(counts), cost + sum(costs) - max(costs)
        rows.append((names, agent, len(several), tokens, cost))
    return sorted(rows, key=lambda row: (-row[4], row[0], row[1]))


@answers("ccusage-versions")
def _(w: World) -> Rows:
    return [
        (
            machine,
            "20.0.24",
            len({(f.agent, f.ago) for f in facts}),
            w.day(max(f.ago for f in facts)),
            w.day(0),
            w.now - timedelta(minutes=30),
        )
        for machine, facts in sorted(by(w.facts, lambda f: f.machine).items())
    ]


def chart(w: World, facts: list[Fact], days: int, series: Callable[[Fact], str]) -> Rows:
    """Each series has a point on every day."""
    lines = {name: cost_by_day(group) for name, group in by(facts, series).items()}
    return [
        (w.day(ago), costs[ago], name)
        for name, costs in sorted(lines.items())
        for ago in reversed(range(days))
    ]


@answers("chart-cost-by-machine", days=9)
def _(w: World) -> Rows:
    return chart(w, w.last(9), 9, lambda f: f.machine)


@answers("chart-cost-by-agent", days=9)
def _(w: World) -> Rows:
    return chart(w, w.last(9), 9, lambda f: f.agent)


@answers("chart-cost-by-model", days=9, top=2)
def _(w: World) -> Rows:
    return chart(w, w.last(9), 9, lambda f: f.model if f.model in (OPUS, SONNET) else "others")


@answers("chart-cost-by-project", days=46, top=2)
def _(w: World) -> Rows:
    facts = [f for f in w.last(46) if f.project]
    names = {project: name_of(group) for project, group in by(facts, lambda f: f.project).items()}
    return chart(w, facts, 46, lambda f: "others" if f.project == "gamma" else names[f.project])


@answers("chart-tokens-by-kind", days=9)
def _(w: World) -> Rows:
    kinds = {"cache read": "read", "cache write": "written", "input": "input", "output": "output"}
    return [
        (w.day(ago), 1000 * total((f for f in w.facts if f.ago == ago), field), kind)
        for kind, field in kinds.items()
        for ago in reversed(range(9))
    ]


@answers("chart-cumulative-cost")
def _(w: World) -> Rows:
    rows = []
    for year, facts in sorted(by(w.facts, lambda f: w.day(f.ago).year).items()):
        days = sorted(cost_by_day(facts).items(), reverse=True)
        running = accumulate(cost for _, cost in days)
        rows += [
            (w.day(ago), sum_, str(year)) for (ago, _), sum_ in zip(days, running, strict=True)
        ]
    return rows


@answers("chart-cache-hits", days=20)
def _(w: World) -> Rows:
    points = by((f for f in w.last(20) if f.prompt), lambda f: (f.agent, -f.ago))
    return [(w.day(-ago), cache(facts)[3], agent) for (agent, ago), facts in sorted(points.items())]


# Of the HTML report


def daily(w: World, facts: Iterable[Fact], *parts: str) -> list[tuple[tuple[Any, ...], list[Fact]]]:
    """(machine, agent, part, date) and its facts, in this order."""
    groups = by(facts, lambda f: (f.machine, f.agent, *(getattr(f, p) for p in parts), -f.ago))
    return [((*key[:-1], w.day(-key[-1])), group) for key, group in sorted(groups.items())]


@answers("report-choices")
def _(w: World) -> Rows:
    """By machine and agent, of which '' is all."""
    groups: dict[Any, list[Fact]] = defaultdict(list)
    for fact in w.facts:
        for machine in ("", fact.machine):
            for agent in ("", fact.agent):
                groups[machine, agent, -fact.ago].append(fact)
    return [
        (
            *(*owner, w.day(-ago), total(facts), total(facts, "tokens")),
            *(total(facts, "prompt"), 1000 * total(facts, "read")),
        )
        for (*owner, ago), facts in sorted(groups.items())
    ]


def in_a_row(w: World, facts: Iterable[Fact], *parts: str) -> Iterator[tuple[Any, ...]]:
    """(machine, agent, first day, steps between days, tokens, micro-dollars, part), its facts."""
    for key, rows in by(daily(w, facts, *parts), lambda row: row[0][:-1]).items():
        days = [(row[0][-1] - date(1970, 1, 1)).days for row in rows]
        steps = [0, *(after - before for before, after in pairwise(days))]
        tokens = [total(day, "tokens") for _, day in rows]
        micros = [round(1e6 * total(day)) for _, day in rows]
        yield (
            (*key[:2], days[0], steps, tokens, micros, *key[2:]),
            [f for _, fs in rows for f in fs],
        )


@answers("report-days")
def _(w: World) -> Rows:
    return [row for row, _ in in_a_row(w, w.facts)]


@answers("report-models", agents="codex,claude")
def _(w: World) -> Rows:
    rows = []
    for row, facts in in_a_row(w, (f for f in w.facts if f.model), "model"):
        tokens = 1000 * (0.9 * total(facts, "read") - 0.25 * total(facts, "written"))
        saved = PRICES[row[-1]] * tokens if row[-1].startswith("claude") else 0.0
        rows.append((*row, saved))
    return rows


@answers("report-projects", agents="claude")
def _(w: World) -> Rows:
    of_claude = [f for f in w.facts if f.project]
    names = {key: name_of(facts) for key, facts in projects_of(of_claude).items()}
    return [(*row, names[row[-1]]) for row, _ in in_a_row(w, of_claude, "project_key")]


@answers("report-sessions", limit=2)
def _(w: World) -> Rows:
    rows = [
        (
            *(facts[0].machine, facts[0].agent, facts[0].project, facts[0].session),
            (at := w.last_activity(facts)) and f"{at:%Y-%m-%d %H:%M}",
            w.minutes(facts),
            total(facts, "tokens"),
            total(facts),
        )
        for facts in w.sessions().values()
    ]
    ordered = by(sorted(rows, key=lambda row: (row[:2], -row[7])), lambda row: row[:2])
    return [row for group in ordered.values() for row in group[:2]]


@answers("report-hours", timezone="Asia/Tokyo")
def _(w: World) -> Rows:
    cells: dict[Any, float] = defaultdict(float)
    for block in w.blocks:
        for hour, cost in [] if block.gap else spread([block]):
            tokyo = hour + timedelta(hours=9)
            cells[block.machine, "claude", tokyo.isoweekday(), tokyo.hour] += cost
    return [(*cell, cost) for cell, cost in sorted(cells.items())]


@answers("report-imports")
def _(w: World) -> Rows:
    began = {
        (machine, (w.now - timedelta(minutes=run.minutes_ago)).date())
        for run in w.runs
        if "daily" not in run.failed
        for machine in ("", run.machine)
    }
    return [(*key, 0) for key in sorted(began)]


# --- the engine ----------------------------------------------------------------------------


def connect(path: Path, database: str = "default") -> Any:
    options = {"background_pool_size": 16}
    return clickhouse_connect.get_client(
        interface="chdb", path=str(path), database=database, chdb_options=options
    )


def apply_schema(client: Any) -> None:
    code = "\n".join(line for line in SCHEMA.splitlines() if not line.startswith("--"))
    for statement in re.split(r";$", code, flags=re.MULTILINE):
        if statement.strip():
            client.command(statement)


class Engine(NamedTuple):
    full: Any
    empty: Any
    world: World

    def ask(self, name: str, **parameters: Any) -> Rows:
        return rows_of(self.full, name, **parameters)


def rows_of(client: Any, name: str, **parameters: Any) -> Rows:
    query = QUERIES[name]
    bound = query.parameters | {key: str(value) for key, value in parameters.items()}
    return [tuple(row) for row in client.query(query.sql, parameters=bound).result_rows]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("queries")
    full = connect(path)
    full.command("CREATE DATABASE empty")
    empty = connect(path, "empty")
    today, now, to_midnight = clock(full)
    if to_midnight < 45:
        time.sleep(to_midnight + 1)
        today, now, _ = clock(full)
    world = make_world(today, now)
    apply_schema(full)
    apply_schema(empty)
    fill(full, world)
    yield Engine(full, empty, world)
    empty.close()
    full.close()


def clock(client: Any) -> tuple[date, datetime, int]:
    """The engine's day, its UTC instant, and the seconds until the next of its midnights."""
    sql = "SELECT today(), now64(3, 'UTC'), dateDiff('second', now(), toDateTime(today() + 1))"
    today, now, to_midnight = client.query(sql).result_rows[0]
    return today, now.replace(tzinfo=None), to_midnight


# --- tests ---------------------------------------------------------------------------------


def agree(found: Rows, expected: Rows) -> None:
    assert len(found) == len(expected), (found, expected)
    for got, want in zip(found, expected, strict=True):
        assert len(got) == len(want), (got, want)
        for value, right in zip(got, want, strict=True):
            close = pytest.approx(right, rel=1e-9, abs=1e-9) if isinstance(right, float) else right
            assert value == close, (got, want)


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_query_answers_its_question(engine: Engine, name: str) -> None:
    parameters, answer = ANSWERS[name]
    expected = answer(engine.world)
    assert expected, "an empty answer proves nothing"
    agree(engine.ask(name, **parameters), expected)


def test_a_day_in_the_far_future_moves_no_trend(engine: Engine) -> None:
    later = Fact("laptop", "claude", -60_000, "alpha", "s99", SONNET, 1, 2, 3, 4)
    ours = engine.world
    block = Block("laptop", ours.at(-60_000, 9), 60, 1.0, 10, 1)
    engine.full.command("CREATE DATABASE future")
    with contextlib.closing(connect(Path(engine.full.path), "future")) as future:
        apply_schema(future)
        more = {"facts": [*FACTS, later], "months": [*FACTS, *PURGED, later]}
        fill(future, ours._replace(**more, blocks=[*ours.blocks, block]))
        for name in TRENDS:
            parameters, _ = ANSWERS[name]
            agree(rows_of(future, name, **parameters), engine.ask(name, **parameters))
        streaks = rows_of(future, "usage-streaks", limit=99)
    assert [row[-1] for row in streaks if row[0].year > 2100] == [0]


def test_every_answer_belongs_to_a_query() -> None:
    assert set(ANSWERS) == set(QUESTIONS)


@pytest.mark.parametrize("name", WITH_MACHINE)
@pytest.mark.parametrize("machine", [QUOTED, pytest.param("server", marks=pytest.mark.stress)])
def test_a_machine_narrows_the_answer(engine: Engine, name: str, machine: str) -> None:
    parameters, answer = ANSWERS[name]
    expected = answer(engine.world.only(machine))
    agree(engine.ask(name, **parameters, machine=machine), expected)


EVIL = ("' OR '1' = '1", "x'; DROP TABLE ccusage_usage_daily; --", "\\", "\t%")


@pytest.mark.parametrize("name", WITH_MACHINE)
def test_a_machine_is_a_value_and_never_sql(engine: Engine, name: str) -> None:
    """Each query gets one of the names."""
    machine = EVIL[WITH_MACHINE.index(name) % len(EVIL)]
    of_nobody = engine.ask(name, machine="nobody")
    assert engine.ask(name, machine=machine) == of_nobody != engine.ask(name)


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_survives_an_empty_database(engine: Engine, name: str) -> None:
    for row in rows_of(engine.empty, name):
        assert all(value == value for value in row), f"not a number in {row}"  # noqa: PLR0124


MINUTES = ("active-blocks", "statistics-blocks", "statistics-clock")


def test_the_file_works_pasted_as_a_whole(engine: Engine) -> None:
    code = "\n".join(line for line in TEXT.splitlines() if not line.lstrip().startswith("--"))
    statements = [part.strip() for part in re.split(r";$", code, flags=re.MULTILINE)]
    results = []
    for statement in filter(None, statements):
        if statement.startswith("SET "):
            engine.full.command(statement)
        else:
            results.append([tuple(row) for row in engine.full.query(statement).result_rows])
    for name, result in zip(QUERIES, results, strict=True):
        if name not in MINUTES:  # which may have moved on
            agree(result, engine.ask(name))


def test_the_rows_are_really_unmerged(engine: Engine) -> None:
    for table in {row[0] for row in table_rows(engine.world)}:
        every, newest = (
            engine.full.query(f"SELECT count() FROM {table} {final}").result_rows[0][0]
            for final in ("", "FINAL")
        )
        assert every >= 2 * newest > 0, table


def test_there_are_enough_queries_and_each_has_its_own_name() -> None:
    assert len(QUERIES) >= 45
    assert len(re.findall(r"^-- name:", TEXT, flags=re.MULTILINE)) == len(QUERIES)


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_query_is_well_formed(query: Any) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", query.name)
    assert query.question[0].isupper()
    assert set(re.findall(r"\{(\w+):\w+\}", query.sql)) == set(query.parameters)
    header = TEXT.split(f"-- name: {query.name}\n")[1].split("SET param")[0]
    assert all(f"\n-- {name}: " in header for name in query.parameters)


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_of_several_rows_orders_them(engine: Engine, name: str) -> None:
    answer = QUERIES[name].sql.rpartition("\nSELECT")[2]
    assert "\nORDER BY" in answer or len(engine.ask(name)) == 1


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_query_reads_each_row_once(query: Any) -> None:
    tables = re.findall(r"(?:FROM|JOIN) (ccusage_\w+|merge\(.*\))(?: AS \w+)?( FINAL)?", query.sql)
    assert tables, "reads nothing"
    for table, final in tables:
        plain = table.startswith("ccusage_v_") or table == "ccusage_import_history"
        plain |= query.name == "integrity-keys"  # which looks for what FINAL hides
        assert bool(final) != plain, table
    if query.name.startswith("integrity-"):  # they group by record_type
        return
    per_model = re.findall(r"FROM ccusage_models?_\w+", query.sql)
    assert len(per_model) == len(re.findall(r"\brecord_type = '\w+'", query.sql))


def test_the_file_keeps_its_style() -> None:
    lines = TEXT.splitlines()
    assert [line for line in lines if len(line) > 88 or line != line.rstrip()] == []
    assert TEXT.endswith(";\n")


@pytest.mark.parametrize("name", [name for name in QUERIES if name.startswith("chart-")])
def test_a_chart_has_exactly_time_value_and_series(engine: Engine, name: str) -> None:
    query = QUERIES[name]
    found = engine.full.query(query.sql, parameters=query.parameters).column_names
    assert found == ("time", "value", "series")


def test_defaults_are_read_as_text() -> None:
    text = "-- Top ---\n\n-- name: a\n-- Why?\n-- m: a machine\nSET param_m = '';\n"
    text += "SET param_n = 1.5;\nSELECT\n    ';' -- a comment\n;\n\n-- Banner\n"
    assert read_queries(text)["a"] == (
        "a",
        "Why?",
        {"m": "", "n": "1.5"},
        "SELECT\n    ';' -- a comment\n",
        "Top",
        "-- m: a machine\n",
    )


def test_a_query_knows_the_heading_that_it_stands_under() -> None:
    text = "-- Days ---\n\n-- name: a\n-- Why?\nSELECT 1;\n\n-- name: b\n-- Why?\nSELECT 2;\n"
    queries = read_queries(text + "\n-- Times: all ----\n\n-- name: c\n-- Why?\nSELECT 3;\n")
    assert [query.heading for query in queries.values()] == ["Days", "Days", "Times: all"]
