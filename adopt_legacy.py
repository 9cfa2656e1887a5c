"""Adopt the tables that the importers before this program wrote.

Between September 2025 and May 2026 there were importers that wrote seven plain MergeTree tables
of the names that this program uses. They hold usage whose transcripts are long gone, and they are
damaged in known ways. This script is needed once: it reads those tables, decides what of them is
true, writes that into tables of this program's schema beside them, compares the sums, and only
then renames the old tables to ccusage_legacy_… and the new ones into their place. The old tables
are never changed. Killed at any moment, it is finished by running it again.

    uv run adopt_legacy.py --dry-run     shows what would become of the tables; writes nothing
    uv run adopt_legacy.py               does it

Exit codes: 0 adopted, or nothing to adopt; 1 failed or refused; 2 wrong usage or configuration;
4 an import holds the lock; 130 interrupted.

The known damage, and what is done about it:

- A day that ccusage still reported was overwritten with what the purge had left of it. But rows of
  projects were written with machine and project exchanged, so that no DELETE ever found them: each
  run's rows are still there. A day is the larger of its own row and of the sum of its projects in
  one run.
- Two imports at once wrote their rows twice. Of several rows with one key, the largest stays.
- A month was overwritten like a day: it is the sum of its days, or its own row where that is more.
- Each machine's import erased the models of the other machines' days. They come back from the
  models of the day's projects, where these hold more.
- After a purge, ccusage cut the first blocks anew, inside the time of old ones: of blocks that
  overlap, the larger stays. Times were stored in a wrong zone, but a block's id is its true start.
- OpenCode's totals left out cache writes, and its projects had the first message of each session
  only. A row of a session held a whole project. Such rows of projects and sessions are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from typing import Any, NamedTuple

from ccusage_importer import (
    ClickHouseImporter,
    Identity,
    Ids,
    ImporterError,
    Report,
    Section,
    Settings,
    StoreError,
    configure_logging,
    connect,
    human,
    import_lock,
    legacy_tables,
    load_environment,
    log,
    machine_name,
    money,
    publish,
    read_schema,
    store_errors,
)

UTC = timezone.utc
VERSION = "0.adopted"  # no ccusage's: the next one corrects what it still reports, and no more
PREFIX, OLD, STAGED = "ccusage_", "ccusage_legacy_", "ccusage_adopting_"
DAYS, MONTHS, SESSIONS = "usage_daily", "usage_monthly", "usage_sessions"
BLOCKS, PROJECTS = "usage_blocks", "usage_projects_daily"
SHARES, USED, HISTORY = "model_breakdowns", "models_used", "import_history"
TABLES = (DAYS, MONTHS, SESSIONS, BLOCKS, PROJECTS, SHARES, USED, HISTORY)
STILL_RUNNING = timedelta(hours=26)  # the old importers run hourly, or once a day
RUN_GAP = 30  # seconds: project rows that were written closer together are of one run
BLOCK = timedelta(hours=5)
ADVICE = (
    f"adopted. The old tables are now {OLD}…, and nothing reads them any more. Take the old "
    "importer out of every crontab and give CH_USER a new password: it deletes from tables of "
    "these names. Then run ccusage_importer.py on each machine, with MACHINE_NAME where it is now "
    "called otherwise than above"
)


# --- what the old tables say --------------------------------------------------------------


class Usage(NamedTuple):
    """Tokens and dollars. The total may hold more than the four counters, such as reasoning."""

    input_tokens: int
    output_tokens: int
    cache_creation_tokens: int
    cache_read_tokens: int
    total_tokens: int
    cost: float

    @classmethod
    def sum(cls, parts: Iterable[Usage]) -> Usage:
        return cls(*map(sum, zip(*parts, strict=True)))


class OldRow(NamedTuple):
    """A row of an old table. `stored` is the total as it stands there; times in Unix seconds."""

    machine: str
    agent: str
    key: str
    usage: Usage
    stored: int
    created: int
    written: int
    details: tuple[Any, ...]


class Source(NamedTuple):
    """The columns to read of an old table: its key, what it measures, and SQL of details."""

    key: str
    measures: str
    details: tuple[str, ...] = ()


TOKENS = "input_tokens, output_tokens, cache_creation_tokens, cache_read_tokens"
SUM = "input_tokens + output_tokens + cache_creation_tokens + cache_read_tokens"
MODEL = ("toString(record_type)", "model_name")
SOURCES = {
    DAYS: Source("date", f"{TOKENS}, total_tokens, total_cost"),
    MONTHS: Source("month", f"{TOKENS}, total_tokens, total_cost"),
    PROJECTS: Source("date", f"{TOKENS}, total_tokens, total_cost", ("project_id",)),
    BLOCKS: Source(
        "block_id",
        f"{TOKENS}, total_tokens, cost_usd",
        (
            "toUnixTimestamp(start_time)",
            "dateDiff('second', start_time, end_time)",
            "dateDiff('second', start_time, actual_end_time)",
            "dateDiff('second', start_time, usage_limit_reset_time)",
            *("is_gap", "is_active", "entries", "burn_rate", "`projection`"),
        ),
    ),
    SHARES: Source("record_key", f"{TOKENS}, {SUM}, cost", MODEL),
    USED: Source("record_key", "0, 0, 0, 0, 0, 0", MODEL),
}
# What a table has that lacks a column: not all generations had all of them.
FALLBACKS = {
    "machine_name": "{machine:String}",
    "source": "'ccusage'",
    "updated_at": "created_at",
    "created_at": "toDateTime(0)",
    **dict.fromkeys(("actual_end_time", "usage_limit_reset_time"), "NULL"),
    **dict.fromkeys(("burn_rate", "projection"), "NULL"),
}

Place = tuple[str, str, str]  # machine, agent, and a day, a month, a block's id


class ProjectDay(NamedTuple):
    """The projects of a day, as the run saw them that saw most. `created`: by the first run."""

    projects: Mapping[str, Usage]
    created: Mapping[str, int]


class Legacy(NamedTuple):
    """What the old tables hold, machines and agents under the names of this program."""

    days: list[OldRow]
    months: list[OldRow]
    projects: Mapping[Place, ProjectDay]
    blocks: list[OldRow]
    shares: list[OldRow]
    used: list[OldRow]
    counts: Mapping[str, int]  # of rows that are worth telling of

    @property
    def last_import(self) -> dict[str, datetime]:
        """When each machine last wrote."""
        times: dict[str, int] = {}
        for row in (*self.days, *self.months, *self.blocks):
            times[row.machine] = max(times.get(row.machine, 0), row.written)
        return {name: datetime.fromtimestamp(at, UTC) for name, at in sorted(times.items())}


def agent_of(source: str) -> str:
    return "claude" if source in ("ccusage", "") else source


class Reader:
    """Reads the old tables. Reads only."""

    def __init__(self, importer: ClickHouseImporter, tables: Iterable[str]) -> None:
        self.importer = importer
        self.tables = frozenset(tables)
        self.columns = {name: set(it.columns) for name, it in importer.engines.items()}
        self.counts: Counter[str] = Counter()
        spellings = defaultdict(set)
        for name in self._machines(MONTHS, DAYS, BLOCKS):
            spellings[name.lower()].add(name)
        this = importer.machine_name
        self.names = {
            low: min(names) if len(names) == 1 else low for low, names in spellings.items()
        }
        if this.lower() in self.names:
            self.names[this.lower()] = this

    def machine(self, name: str) -> str:
        """Names that differ in case alone are one machine, and this one is written as it is now."""
        return self.names.get(name.lower(), name)

    def read(self) -> Legacy:
        return Legacy(
            days=[*self.rows(DAYS)],
            months=[*self.rows(MONTHS)],
            projects=self.projects(),
            blocks=[*self.rows(BLOCKS)],
            shares=[*self.rows(SHARES)],
            used=[*self.rows(USED)],
            counts=self.counts,
        )

    def rows(self, table: str, where: str = "", **parameters: Any) -> Iterator[OldRow]:
        source = SOURCES[table]
        self._require(table, source)
        key = "toDate32(date)" if source.key == "date" else source.key
        times = "toUnixTimestamp(created_at), toUnixTimestamp(updated_at)"
        wanted = ("machine_name", "source", f"toString({key})", times, source.measures)
        for row in self.select(table, ", ".join((*wanted, *source.details)), where, **parameters):
            machine, said, name, created, written = row[:5]
            whole = (self.machine(machine), agent_of(said), name)
            usage = Usage(*row[5:11])
            usage = usage._replace(cost=round(usage.cost, 8))
            if whole[1] != "claude":  # OpenCode's totals left out cache writes
                usage = usage._replace(total_tokens=max(usage[4], sum(usage[:4])))
            yield OldRow(*whole, usage, row[9], created or written, written, tuple(row[11:]))

    def select(self, table: str, wanted: str, rest: str = "", **parameters: Any) -> Any:
        """Rows of an old table, with what stands for columns that it lacks; none if it is new."""
        if PREFIX + table not in self.tables:
            return []
        columns = self.columns[PREFIX + table]
        for name, fallback in FALLBACKS.items():
            if name not in columns:
                wanted = re.sub(rf"`?\b{name}\b`?", fallback, wanted)
        sql = f"SELECT {wanted} FROM {PREFIX}{table} {rest}"  # noqa: S608 (our names)
        return self.importer.query(sql, machine=self.importer.machine_name, **parameters)

    def _require(self, table: str, source: Source) -> None:
        wanted = {source.key, *re.findall("[a-z_]+", source.measures)}
        if lacking := wanted - self.columns.get(PREFIX + table, wanted):
            raise StoreError(
                f"{PREFIX}{table} is no table of an older importer, nor of this program: it lacks "
                f"{', '.join(sorted(lacking))}\n  remedy: rename it, or set another CH_DATABASE"
            )

    def _machines(self, *tables: str) -> list[str]:
        return [name for t in tables for (name,) in self.select(t, "DISTINCT machine_name")]

    def projects(self) -> dict[Place, ProjectDay]:
        """Of each day the run that saw most, read month by month: each run's rows are there."""
        found: dict[Place, ProjectDay] = {}
        months = self.select(PROJECTS, "DISTINCT toYYYYMM(date) AS month", "ORDER BY month")
        for (month,) in months:
            where = "WHERE toYYYYMM(date) = {month:UInt32}"
            found |= best_runs(self._project_rows(self.rows(PROJECTS, where, month=month)))
        return found

    def _project_rows(self, rows: Iterable[OldRow]) -> Iterator[OldRow]:
        """Claude's, each the right way round."""
        for row in rows:
            if row.agent != "claude":
                self.counts["other projects"] += 1
                continue
            (project,) = row.details
            if row.machine.lower() not in self.names and project.lower() in self.names:
                self.counts["exchanged"] += 1
                # What stands as a machine is a project's name, which is no machine's.
                row = row._replace(machine=self.machine(project), details=(row.machine,))  # noqa: PLW2901
            yield row

    def count(self, table: str) -> int:
        return sum(number for (number,) in self.select(table, "count()"))


# --- what of it is adopted ----------------------------------------------------------------


class Kept(NamedTuple):
    """What is adopted under a key, and when it was first written."""

    usage: Usage
    created: int
    details: tuple[Any, ...] = ()


Parent = tuple[str, str, str, str]  # machine, agent, record type, record key as it was
Models = Mapping[Parent, Mapping[str, Kept]]  # by model


class Adoption(NamedTuple):
    """All rows of the new tables, but for those that have no counterpart in the old ones."""

    days: Mapping[Place, Kept]
    months: Mapping[Place, Kept]
    projects: Mapping[Place, ProjectDay]
    blocks: Mapping[Place, Kept]
    shares: Models
    used: Models
    cut: Mapping[Place, Kept]  # blocks in whose time there are larger ones, and gaps


def by_place(rows: Iterable[OldRow]) -> dict[Place, list[OldRow]]:
    places: dict[Place, list[OldRow]] = defaultdict(list)
    for row in rows:
        places[row.machine, row.agent, row.key].append(row)
    return places


def largest(rows: Sequence[OldRow]) -> Kept:
    """Of several rows with one key the largest, of equal ones the latest."""
    best = max(rows, key=lambda row: (row.usage.total_tokens, row.written))
    return Kept(best.usage, min(row.created for row in rows), best.details)


def larger(one: Kept, other: Kept) -> Kept:
    """The larger, of equal ones the first."""
    more = other.usage.total_tokens > one.usage.total_tokens
    return (other if more else one)._replace(created=min(one.created, other.created))


def best_runs(rows: Iterable[OldRow]) -> dict[Place, ProjectDay]:
    """Of each day the projects as one run saw them: the run that saw most."""
    days: dict[Place, list[OldRow]] = defaultdict(list)
    times: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        days[row.machine, row.agent, row.key].append(row)
        times[row.machine].add(row.written)
    runs = {machine: number_runs(moments) for machine, moments in times.items()}
    return {place: best_run(found, runs[place[0]]) for place, found in days.items()}


def number_runs(moments: Iterable[int]) -> dict[int, int]:
    """The number of the run that wrote at each moment."""
    numbers: dict[int, int] = {}
    number, last = 0, 0
    for moment in sorted(moments):
        number += moment - last > RUN_GAP
        numbers[moment], last = number, moment
    return numbers


def best_run(rows: Sequence[OldRow], runs: Mapping[int, int]) -> ProjectDay:
    projects: dict[int, dict[str, list[OldRow]]] = defaultdict(lambda: defaultdict(list))
    created: dict[str, int] = {}
    for row in rows:
        (project,) = row.details
        projects[runs[row.written]][project].append(row)
        created[project] = min(row.created, created.get(project, row.created))
    seen = {
        number: {project: largest(found).usage for project, found in of_run.items()}
        for number, of_run in projects.items()
    }
    best = max(seen, key=lambda number: (Usage.sum(seen[number].values()).total_tokens, number))
    return ProjectDay(seen[best], created)


def decide_days(rows: Iterable[OldRow], projects: Mapping[Place, ProjectDay]) -> dict[Place, Kept]:
    days = {place: largest(found) for place, found in by_place(rows).items()}
    for place, (parts, created) in projects.items():
        whole = Kept(Usage.sum(parts.values()), min(created.values()))
        days[place] = larger(days[place], whole) if place in days else whole
    return days


def decide_months(rows: Iterable[OldRow], days: Mapping[Place, Kept]) -> dict[Place, Kept]:
    parts: dict[Place, list[Kept]] = defaultdict(list)
    for (machine, agent, day), kept in days.items():
        parts[machine, agent, day[:7]].append(kept)
    months = {
        place: Kept(Usage.sum(day.usage for day in found), min(day.created for day in found))
        for place, found in parts.items()
    }
    for place, own in by_place(rows).items():
        months[place] = larger(months[place], largest(own)) if place in months else largest(own)
    return months


class Block(NamedTuple):
    """A block's columns besides its usage, in the order of the table."""

    start_time: datetime
    end_time: datetime
    actual_end_time: datetime | None
    is_active: int
    is_gap: int
    entries: int
    usage_limit_reset_time: datetime | None
    burn_rate: float | None
    projection: float | None

    @classmethod
    def of(cls, block_id: str, details: Sequence[Any], now: datetime) -> Block:
        """Stored times are shifted, all by the same: the id tells by how much."""
        stored, length, activity, reset, gap, active, entries, rate, projection = details
        gap, entries = gap or 0, entries or 0
        start = block_start(block_id) or datetime.fromtimestamp(stored, UTC)

        def after(seconds: int | None) -> datetime | None:
            return None if seconds is None else start + timedelta(seconds=seconds)

        end = start + (timedelta(seconds=length or 0) if gap else BLOCK)
        active = active and end > now
        rates = (rate, projection) if active else (None, None)
        return cls(
            start, end, after(activity), int(active), int(gap), entries, after(reset), *rates
        )

    def overlaps(self, other: Block) -> bool:
        return self.start_time < other.end_time and other.start_time < self.end_time

    def fills(self, gap: Block) -> bool:
        """Whether it lies in the gap. The block that ends a gap starts at its full hour."""
        ends = gap.end_time.replace(minute=0, second=0, microsecond=0)
        return self.overlaps(gap) and self.start_time != ends


def block_start(block_id: str) -> datetime | None:
    with contextlib.suppress(ValueError):
        text = block_id.removeprefix("gap-").replace("Z", "+00:00")
        return datetime.fromisoformat(text).astimezone(UTC)
    return None


def decide_blocks(
    rows: Iterable[OldRow], now: datetime
) -> tuple[dict[Place, Kept], dict[Place, Kept]]:
    """The blocks that stay, and those in whose time there are larger ones."""
    agents: dict[tuple[str, ...], dict[Place, Kept]] = defaultdict(dict)
    for place, own in by_place(rows).items():
        best = largest(own)
        block = Block.of(place[2], best.details, now)
        agents[place[:2]][place] = best._replace(details=block)
    kept: dict[Place, Kept] = {}
    cut: dict[Place, Kept] = {}
    for blocks in agents.values():
        stays = without_overlaps(blocks)
        for place, row in blocks.items():
            (kept if place in stays else cut)[place] = row
    return kept, cut


def without_overlaps(blocks: Mapping[Place, Kept]) -> set[Place]:
    """Of one agent's blocks: of overlapping ones the larger, and the gaps that nothing fills."""
    spans = {place: Block(*block.details) for place, block in blocks.items()}
    stays: set[Place] = set()
    near: dict[date, list[Block]] = defaultdict(list)
    for place in sorted(blocks, key=lambda p: (blocks[p].usage.total_tokens, p), reverse=True):
        span = spans[place]
        if not span.is_gap and not any(map(span.overlaps, around(near, span))):
            stays.add(place)
            near[span.start_time.date()].append(span)
    gaps = (place for place, span in spans.items() if span.is_gap)
    empty = (gap for gap in gaps if not any(b.fills(spans[gap]) for b in around(near, spans[gap])))
    return {*stays, *empty}


def around(near: Mapping[date, list[Block]], span: Block) -> Iterator[Block]:
    """The blocks that start on the days of a span, or the day before."""
    day = span.start_time.date() - timedelta(days=1)
    while day <= span.end_time.date():
        yield from near.get(day, ())
        day += timedelta(days=1)


def parents(
    days: Mapping[Place, Kept],
    projects: Mapping[Place, ProjectDay],
    blocks: Mapping[Place, Kept],
) -> dict[Parent, int]:
    """The rows that have models, and how many tokens they hold."""
    found: dict[Parent, int] = {}
    for kind, rows in (("daily", days), ("block", blocks)):
        for (machine, agent, key), row in rows.items():
            found[machine, agent, kind, key] = row.usage.total_tokens
    for (machine, agent, day), (parts, _) in projects.items():
        for project, usage in parts.items():
            found[machine, agent, "project_daily", f"{day}_{project}"] = usage.total_tokens
    return found


def models_of(rows: Iterable[OldRow]) -> dict[Parent, dict[str, Kept]]:
    found: dict[Parent, dict[str, list[OldRow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        kind, model = row.details
        found[row.machine, row.agent, kind, row.key][model].append(row)
    return {
        parent: {model: largest(own)._replace(details=()) for model, own in models.items()}
        for parent, models in found.items()
    }


def sum_models(parts: Iterable[Mapping[str, Kept]]) -> dict[str, Kept]:
    found: dict[str, list[Kept]] = defaultdict(list)
    for models in parts:
        for model, kept in models.items():
            found[model].append(kept)
    return {
        model: Kept(Usage.sum(one.usage for one in kept), min(one.created for one in kept))
        for model, kept in found.items()
    }


def total(models: Mapping[str, Kept]) -> int:
    return sum(kept.usage.total_tokens for kept in models.values())


def decide_shares(rows: Iterable[OldRow], totals: Mapping[Parent, int]) -> Models:
    """What each model holds of a row, unless it would be more than the row.

    Of a day, its own or the sum of its projects': whichever says more.
    """
    stored = models_of(rows)
    parts: dict[Parent, list[Mapping[str, Kept]]] = defaultdict(list)
    for (machine, agent, kind, key), models in stored.items():
        if kind == "project_daily" and agent == "claude":
            parts[machine, agent, "daily", key[:10]].append(models)
    chosen: dict[Parent, Mapping[str, Kept]] = {}
    for parent, whole in totals.items():
        sides = (stored.get(parent, {}), sum_models(parts.get(parent, ())))
        fitting = [models for models in sides if 0 < total(models) <= whole]
        if fitting:
            chosen[parent] = max(fitting, key=total)
    return chosen


def decide_used(rows: Iterable[OldRow], shares: Models, totals: Mapping[Parent, int]) -> Models:
    """The models of a row: all that were named for it, and all that hold something of it."""
    stored = models_of(rows)
    both = {parent: {**shares.get(parent, {}), **stored.get(parent, {})} for parent in totals}
    return {parent: models for parent, models in both.items() if models}


def by_month(models: Models) -> dict[Parent, dict[str, Kept]]:
    parts: dict[Parent, list[Mapping[str, Kept]]] = defaultdict(list)
    for (machine, agent, kind, key), found in models.items():
        if kind == "daily":
            parts[machine, agent, "monthly", key[:7]].append(found)
    return {parent: sum_models(found) for parent, found in parts.items()}


def decide(legacy: Legacy, now: datetime) -> Adoption:
    """What becomes of the old tables."""
    days = decide_days(legacy.days, legacy.projects)
    blocks, cut = decide_blocks(legacy.blocks, now)
    totals = parents(days, legacy.projects, blocks)
    shares = decide_shares(legacy.shares, totals)
    used = decide_used(legacy.used, shares, totals)
    return Adoption(
        days=days,
        months=decide_months(legacy.months, days),
        projects=legacy.projects,
        blocks=blocks,
        shares={**shares, **by_month(shares)},
        used={**used, **by_month(used)},
        cut=cut,
    )


class Month(NamedTuple):
    """The days of a month: stored - twice + restored = adopted, in tokens; `cost` of what is."""

    machine: str
    agent: str
    month: str
    days: int
    stored: int
    twice: int
    restored: int
    adopted: int
    cost: float


def tally(rows: Iterable[OldRow], days: Mapping[Place, Kept]) -> list[Month]:
    """What becomes of the days, by machine, agent and month."""
    stored = by_place(rows)
    months: dict[Place, list[tuple[float, ...]]] = defaultdict(list)
    for (machine, agent, day), kept in days.items():
        found = [row.stored for row in stored.get((machine, agent, day), ())]
        once, adopted = max(found, default=0), kept.usage.total_tokens
        months[machine, agent, day[:7]].append(
            (1, sum(found), sum(found) - once, adopted - once, adopted, kept.usage.cost)
        )
    return [
        Month(*place, *map(sum, zip(*parts, strict=True)))
        for place, parts in sorted(months.items())
    ]


# --- the new tables -----------------------------------------------------------------------

OWNER = ("machine_name", "agent")
USAGE = Usage._fields[:5]
SYSTEM = ("ccusage_version", "created_at", "updated_at")
COLUMNS = {
    DAYS: (*OWNER, "date", *USAGE, "total_cost", "models_count", *SYSTEM),
    MONTHS: (*OWNER, "month", *USAGE, "total_cost", "models_count", *SYSTEM),
    PROJECTS: (
        *(*OWNER, "date", "project_key", "project_id"),
        *(*USAGE, "total_cost", "models_count", *SYSTEM),
    ),
    BLOCKS: (
        *(*OWNER, "block_id", *Block._fields),
        *(*USAGE, "cost_usd", "models_count", *SYSTEM),
    ),
    SHARES: (*OWNER, "record_type", "record_key", "model_name", *USAGE, "cost", *SYSTEM),
    USED: (*OWNER, "record_type", "record_key", "model_name", *SYSTEM),
}
Lines = list[tuple[Any, ...]]


class NewRows(NamedTuple):
    """What was decided, as rows of the new tables in the order of their COLUMNS."""

    adoption: Adoption
    ids: Ids
    at: datetime

    def tables(self) -> dict[str, Lines]:
        return {
            DAYS: self.rows("daily", self.adoption.days),
            MONTHS: self.rows("monthly", self.adoption.months),
            BLOCKS: self.rows("block", self.adoption.blocks),
            PROJECTS: self.projects(),
            SHARES: list(self.models(self.adoption.shares, measured=True)),
            USED: list(self.models(self.adoption.used, measured=False)),
        }

    def rows(self, kind: str, rows: Mapping[Place, Kept]) -> Lines:
        key = date.fromisoformat if kind == "daily" else str
        return [
            (
                *(*place[:2], key(place[2]), *row.details),
                *(*measures(row.usage), self.models_count(place, kind), *self.system(row.created)),
            )
            for place, row in rows.items()
        ]

    def projects(self) -> Lines:
        return [
            (
                *(
                    machine,
                    agent,
                    date.fromisoformat(day),
                    self.ids.key(name),
                    self.ids.shown(name),
                ),
                *(
                    *measures(usage),
                    self.models_count((machine, agent, f"{day}_{name}"), "project_daily"),
                ),
                *self.system(created[name]),
            )
            for (machine, agent, day), (parts, created) in self.adoption.projects.items()
            for name, usage in parts.items()
        ]

    def models(self, rows: Models, *, measured: bool) -> Iterator[tuple[Any, ...]]:
        for (machine, agent, kind, key), models in rows.items():
            parent = (machine, agent, kind, self.record_key(kind, key))
            for model, kept in models.items():
                held = measures(kept.usage) if measured else ()
                yield *parent, model, *held, *self.system(kept.created)

    def record_key(self, kind: str, key: str) -> str:
        """What models are filed under now; until now a project's name was in it."""
        day, _, project = key.partition("_")
        return f"{day}_{self.ids.key(project)}" if kind == "project_daily" else key

    def models_count(self, place: Place, kind: str) -> int:
        machine, agent, key = place
        return len(self.adoption.used.get((machine, agent, kind, key), ()))

    def system(self, created: int) -> tuple[Any, ...]:
        return VERSION, datetime.fromtimestamp(created, UTC), self.at


def measures(usage: Usage) -> tuple[Any, ...]:
    return *usage[:5], round(usage.cost, 8)


# --- the exchange -------------------------------------------------------------------------


def our_tables(importer: ClickHouseImporter) -> set[str]:
    sql = (
        "SELECT name FROM system.tables "
        "WHERE database = currentDatabase() AND startsWith(name, 'ccusage_')"
    )
    return {name for (name,) in importer.query(sql)}


def is_cut_off(tables: Iterable[str]) -> bool:
    """Whether an adoption ended amid its renames: the new tables are complete, and go on."""
    names = set(tables)
    return any(OLD + t in names for t in TABLES) and any(STAGED + t in names for t in TABLES)


def stage(importer: ClickHouseImporter, rows: Mapping[str, Lines]) -> None:
    """Write the new tables, under names of their own."""
    drop_staged(importer)
    for _, statement, *_ in read_schema():
        head, _, rest = statement.partition("\n")
        if " TABLE " in head:
            importer.command(f"{head.replace(PREFIX, STAGED)}\n{rest}")
    for table, lines in rows.items():
        if lines:
            insert(importer, STAGED + table, COLUMNS[table], lines)


def insert(importer: ClickHouseImporter, table: str, columns: Sequence[str], lines: Lines) -> None:
    """One INSERT, in which names and texts are data and never SQL."""
    content = "\n".join(json.dumps(line, default=as_text, ensure_ascii=False) for line in lines)
    settings = {"async_insert": 0, "precise_float_parsing": 1}
    with store_errors(importer.settings):
        importer.client.raw_insert(
            table, columns, content.encode(), settings=settings, fmt="JSONCompactEachRow"
        )


def as_text(value: date) -> str:
    """A day, or a time in UTC."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(" ", "milliseconds")[:23]
    return value.isoformat()


def drop_staged(importer: ClickHouseImporter) -> None:
    for name in sorted(our_tables(importer)):
        if name.startswith(STAGED):
            importer.command(f"DROP TABLE IF EXISTS {name} SYNC")


# What would be wrong of the new tables: each finds nothing.
FLAWS = {
    "months hold less than their days": """
        SELECT machine_name, agent, month FROM (
            SELECT machine_name, agent, substring(toString(date), 1, 7) AS month,
                sum(total_tokens) AS days_tokens
            FROM ccusage_adopting_usage_daily GROUP BY machine_name, agent, month
        ) AS days
        LEFT JOIN ccusage_adopting_usage_monthly AS months USING (machine_name, agent, month)
        WHERE months.total_tokens < days_tokens""",
    "projects hold more than their day": """
        SELECT machine_name, agent, date FROM (
            SELECT machine_name, agent, date, sum(total_tokens) AS projects_tokens
            FROM ccusage_adopting_usage_projects_daily GROUP BY machine_name, agent, date
        ) AS projects
        LEFT JOIN ccusage_adopting_usage_daily AS days USING (machine_name, agent, date)
        WHERE days.total_tokens < projects_tokens""",
    "models hold more than their day": """
        SELECT machine_name, agent, record_key FROM (
            SELECT machine_name, agent, record_key, sum(total_tokens) AS models_tokens
            FROM ccusage_adopting_model_breakdowns WHERE record_type = 'daily'
            GROUP BY machine_name, agent, record_key
        ) AS models
        LEFT JOIN (
            SELECT machine_name, agent, toString(date) AS record_key, total_tokens
            FROM ccusage_adopting_usage_daily
        ) AS days USING (machine_name, agent, record_key)
        WHERE days.total_tokens < models_tokens""",
    "days are there twice": """
        SELECT machine_name, agent, date FROM ccusage_adopting_usage_daily
        GROUP BY machine_name, agent, date HAVING count() > 1""",
}


def verify(reader: Reader, months: Sequence[Month]) -> None:
    """Compare the sums of old and new tables, as ClickHouse adds them up now."""
    importer, month = reader.importer, "substring(toString(date), 1, 7)"
    stored: Counter[Place] = Counter()
    wanted = f"machine_name, source, {month} AS month, sum(total_tokens)"
    for machine, source, name, tokens in reader.select(DAYS, wanted, "GROUP BY 1, 2, 3"):
        stored[reader.machine(machine), agent_of(source), name] += tokens
    sql = (
        f"SELECT machine_name, agent, {month} AS month, sum(total_tokens) "  # noqa: S608
        f"FROM {STAGED}{DAYS} GROUP BY 1, 2, 3"
    )
    staged = {
        (machine, agent, name): tokens for machine, agent, name, tokens in importer.query(sql)
    }
    for row in months:
        place = (row.machine, row.agent, row.month)
        wrong = staged.get(place) != row.stored - row.twice + row.restored
        if wrong or stored[place] != row.stored:
            raise StoreError(
                f"{' '.join(place)}: {stored[place]:,} tokens are stored, {row.stored:,} were read "
                f"and {staged.get(place, 0):,} written; nothing was renamed\n"
                "  remedy: see that no old importer runs, and run this again"
            )
    for flaw, sql in FLAWS.items():
        if found := importer.query(sql):
            first = " ".join(map(str, found[0]))
            raise StoreError(f"{flaw} ({len(found)}, such as {first}); nothing was renamed")


def exchange(importer: ClickHouseImporter) -> None:
    """Rename the old tables, and the new ones into their place, one after the other.

    The history comes last: as long as a new table waits for its name, no import begins.
    """
    tables = our_tables(importer)
    names = sorted(TABLES, key=lambda table: (table == HISTORY, PREFIX + table not in tables))
    for table in names:
        if STAGED + table not in tables:
            continue
        if {PREFIX + table, OLD + table} <= tables:  # somebody else adopted at the same time
            importer.command(f"DROP TABLE {STAGED}{table} SYNC")
            continue
        if PREFIX + table in tables:
            importer.command(f"RENAME TABLE {PREFIX}{table} TO {OLD}{table}")
        if table == HISTORY:
            redirect_views(importer)
        importer.command(f"RENAME TABLE {STAGED}{table} TO {PREFIX}{table}")


def redirect_views(importer: ClickHouseImporter) -> None:
    """Let materialized views read on from the old tables, and our views from the new ones.

    A materialized view follows a renamed table only until the server starts again: then it would
    take in what is written to the new table of the former name.
    """
    for view, select in materialized_views(importer):
        importer.command(f"ALTER TABLE {view} MODIFY QUERY {select}")
    for _, statement, *_ in read_schema():
        if statement.startswith("CREATE VIEW"):
            importer.command(
                statement.replace("CREATE VIEW IF NOT EXISTS", "CREATE OR REPLACE VIEW", 1)
            )


def materialized_views(importer: ClickHouseImporter) -> Iterator[tuple[str, str]]:
    """Those that read tables of these names, in whatever database, and how they read the old."""
    ((database,),) = importer.query("SELECT currentDatabase()")
    names = "|".join(TABLES)
    reads = re.compile(rf"(?<![\w`.])`?{re.escape(database)}`?\.`?{PREFIX}({names})\b")
    sql = (
        "SELECT database, name, as_select FROM system.tables "
        "WHERE engine = 'MaterializedView' AND position(as_select, 'ccusage_') > 0 "
        "ORDER BY database, name"
    )
    for place, name, select in importer.query(sql):
        if reads.search(select):
            old = re.sub(rf"\b{PREFIX}({names})\b", rf"{OLD}\1", select)
            yield f"{quoted(place)}.{quoted(name)}", old


def quoted(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


# --- the command --------------------------------------------------------------------------


def still_running(legacy: Legacy, this: str, now: datetime) -> dict[str, datetime]:
    """The other machines whose old importer wrote lately."""
    return {
        name: at
        for name, at in legacy.last_import.items()
        if name != this and abs(now - at) < STILL_RUNNING
    }


def refusal(running: Mapping[str, datetime]) -> str:
    machines = ", ".join(f"{name} ({at:%Y-%m-%d %H:%M} UTC)" for name, at in running.items())
    again = max(running.values()) + STILL_RUNNING
    return (
        f"an old importer wrote within the last 26 hours on {machines}; it would remove rows of "
        "the new tables\n  remedy: take it out of every crontab, give CH_USER a new password, "
        "which old cron lines do not hold, and run this again after "
        f"{again:%Y-%m-%d %H:%M} UTC"
    )


class Note(NamedTuple):
    """How many rows are left out, or were wrong, and what becomes of them."""

    what: str
    number: int
    fate: str


def notes(reader: Reader, legacy: Legacy, adoption: Adoption) -> list[Note]:
    cut = [block for block in adoption.cut.values() if not Block(*block.details).is_gap]
    tokens = sum(block.usage.total_tokens for block in cut)
    gaps = len(adoption.cut) - len(cut)
    views = [name for name, _ in materialized_views(reader.importer)]
    unknown = unknown_models(adoption)
    told = (
        Note("sessions", reader.count(SESSIONS), f"left out, in {OLD}{SESSIONS}: {NO_SESSIONS}"),
        Note("overlapping blocks", len(cut), f"left out, {human(tokens)} tokens: {OVERLAP}"),
        Note("gaps between blocks", gaps, f"left out: {OVERLAP}"),
        Note("projects of other agents", legacy.counts["other projects"], FIRST_MESSAGES),
        Note("imports", reader.count(HISTORY), f"left out, in {OLD}{HISTORY}"),
        Note(
            "projects", legacy.counts["exchanged"], "had machine and project exchanged: put right"
        ),
        Note("active blocks", ended(legacy, adoption), "were over long ago: no longer active"),
        Note("days", len(unknown), f"{human(sum(unknown))} tokens of no known model: {ERASED}"),
        Note("materialized views", len(views), f"read on from the old tables: {', '.join(views)}"),
    )
    return [note for note in told if note.number]


NO_SESSIONS = "each holds a whole project, not a session"
OVERLAP = "larger blocks lie in their time"
FIRST_MESSAGES = "left out: they hold the first message of each session only"
ERASED = "imports of other machines erased it"


def ended(legacy: Legacy, adoption: Adoption) -> int:
    """Blocks that are stored as active and are over."""
    active = {place for place, own in by_place(legacy.blocks).items() if largest(own).details[5]}
    both = {**adoption.blocks, **adoption.cut}
    return sum(not Block(*both[place].details).is_active for place in active)


def unknown_models(adoption: Adoption) -> list[int]:
    """By day, how many tokens belong to no model that is known."""
    days = (
        kept.usage.total_tokens - total(adoption.shares.get((machine, agent, "daily", day), {}))
        for (machine, agent, day), kept in adoption.days.items()
    )
    return [tokens for tokens in days if tokens]


def report(months: Sequence[Month], told: Sequence[Note]) -> Report:
    sums = [sum(column) for column in list(zip(*months, strict=True))[3:]] or [0] * 6
    lines = (*months, Month("all", "", "", *sums))
    header = [name.capitalize() for name in Month._fields]
    rows = [(*row[:3], *(f"{number:,}" for number in row[3:8]), money(row.cost)) for row in lines]
    sections = [
        Section(header, rows),
        Section(
            rows=[("Tokens", "stored - twice + restored = adopted"), ("Cost", "of what is adopted")]
        ),
        Section(
            ("What", "Rows", "What becomes of them"),
            [(n.what, f"{n.number:,}", n.fate) for n in told],
        ),
    ]
    value = {"months": [m._asdict() for m in months], "notes": [note._asdict() for note in told]}
    return Report(value, sections, Month._fields, months)


def adopt(importer: ClickHouseImporter, old: Sequence[str]) -> Report:
    """Adopt these old tables, or with --dry-run say what would become of them."""
    settings, now = importer.settings, datetime.now(UTC)
    reader = Reader(importer, old)
    legacy = reader.read()
    adoption = decide(legacy, now)
    months = tally(legacy.days, adoption.days)
    shown = report(months, notes(reader, legacy, adoption))
    running = still_running(legacy, importer.machine_name, now)
    if settings.dry_run:
        log.info("dry run: nothing was changed")
        if running:
            log.warning("without --dry-run this would be refused now: %s", refusal(running))
        return shown
    if running:
        raise StoreError(refusal(running))
    recorded = Identity.load(settings.state_dir)
    hashed = settings.hash_projects
    if hashed is None and recorded:
        hashed = recorded.hashed
    ids = Ids(settings.hash_key, hidden=hashed is not False)
    with abandoning(importer):
        stage(importer, NewRows(adoption, ids, now).tables())
        verify(reader, months)
        exchange(importer)
    log.warning("%s", ADVICE)
    return shown


@contextlib.contextmanager
def abandoning(importer: ClickHouseImporter) -> Iterator[None]:
    """Where it fails before anything is renamed, the new tables go."""
    try:
        yield
    except (ImporterError, KeyboardInterrupt):
        with contextlib.suppress(StoreError):
            if is_cut_off(our_tables(importer)):
                log.error("cut off amid the renames: run this again, and it goes on there")
            else:
                drop_staged(importer)
        raise


def check_places(importer: ClickHouseImporter, old: Iterable[str]) -> None:
    """Refuse where a name that is needed is taken."""
    tables = our_tables(importer)
    if earlier := ", ".join(sorted(tables & {OLD + table for table in TABLES})):
        raise StoreError(
            f"an adoption has been here before: there are {earlier}, and again tables of an older "
            f"importer ({', '.join(old)})\n  remedy: rename the {OLD}… tables, or set another "
            "CH_DATABASE"
        )
    ours = sorted(tables & {PREFIX + table for table in TABLES} - set(old))
    count = "SELECT count() FROM {}"
    if filled := [name for name in ours if importer.query(count.format(name))[0][0]]:
        raise StoreError(
            f"{', '.join(filled)} hold rows of this program, beside tables of an older importer "
            f"({', '.join(old)})\n  remedy: move the old tables to another database, and set "
            "CH_DATABASE to it"
        )


def run(importer: ClickHouseImporter) -> Report | None:
    """Adopt, finish an adoption that was cut off, or find nothing to do."""
    settings = importer.settings
    importer.look()
    if is_cut_off(our_tables(importer)):
        if settings.dry_run:
            log.warning("an adoption was cut off amid its renames; run this without --dry-run")
            return None
        exchange(importer)
        log.warning("an adoption that had been cut off is finished: %s", ADVICE)
    elif old := [n for n in legacy_tables(importer.engines) if not n.startswith(STAGED)]:
        check_places(importer, old)
        log.info("tables of an older importer in %s: %s", settings.where, ", ".join(old))
        return adopt(importer, old)
    else:
        if not settings.dry_run:
            drop_staged(importer)
        log.info("%s: no tables of an older importer, nothing to adopt", settings.where)
    return None


def open_and_run(settings: Settings) -> Report | None:
    if settings.host is None and not settings.embedded_path.exists():
        log.info("%s is not there: nothing to adopt", settings.where)
        return None
    this = machine_name(settings, Identity.load(settings.state_dir))
    with (
        import_lock(settings),
        contextlib.closing(connect(settings, create=False)) as client,
        store_errors(settings),
    ):
        return run(ClickHouseImporter(client, settings, this))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="adopt_legacy.py",
        description="Adopt the tables that the importers before this program wrote.",
    )
    add = parser.add_argument
    add("--dry-run", action="store_true", help="show what would become of them; write nothing")
    add(
        "--no-hash-projects",
        action="store_false",
        dest="hash_projects",
        default=None,
        help="show project names as they are",
    )
    add(
        "--lock-timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long to wait for an import that runs (300)",
    )
    add("--format", choices=("table", "json", "csv", "markdown"), default="table")
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("--quiet", action="store_true", help="print only what is wrong")
    loudness.add_argument("--verbose", action="store_true", help="print every step")
    parser.set_defaults(output=None)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    configure_logging(args)
    try:
        settings = Settings.from_env(
            load_environment(os.environ),
            hash_projects=args.hash_projects,
            dry_run=args.dry_run,
            lock_timeout=args.lock_timeout,
        )
        shown = open_and_run(settings)
        if shown and not args.quiet:
            publish(shown, args)
    except ImporterError as error:
        log.error("%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        log.error("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
