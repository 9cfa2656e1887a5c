"""Random lives of transcripts, and what the tables must hold after each import of one.

A pure model, without processes and databases, so that thousands of lives take seconds. A life is a
list of events. `World` holds the transcripts, `scan` counts them as ccusage 20 does (each message
once, for the first file in the order of paths), `Program` asks the rules of the importer what to
store, and `Truth` knows all that an import could ever see. `live` lives a life and judges each
import; `shrink` and `story` make a short story of one that went wrong.

Where this model and the real ccusage differ, the real one is right: see test_real_lives.py.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

import ccusage_importer as importer
from ccusage_importer import Ids, Policy, Record, Share, Tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    Rows = dict[tuple[Any, ...], Record]
    Feeds = dict[str, Rows]

START = datetime(2026, 3, 2, 8, tzinfo=timezone.utc)
FIVE_HOURS = timedelta(hours=5)
FEEDS = ("daily", "monthly", "session", "blocks", "projects")
VERSIONS = ("20.0.20", "20.0.24")
COUNTS_COPIES = "20.0.25"  # an imagined ccusage that counts each copy of a message
PRICES = {"opus": 0.002, "sonnet": 0.001}
PROJECTS = ("-repo", "-repo-wt", "-other", "-zeta")
ZONES = tuple(map(ZoneInfo, ("UTC", "Europe/Berlin", "America/Los_Angeles")))
IDS = Ids("")

# How often each kind of event happens.
PLAIN = {
    "use": 12,
    "move": 2,
    "rename": 0.7,
    "delete": 2,
    "purge": 1.5,
    "wipe": 0.1,
    "hide": 1,
    "show": 1.5,
    "version": 0.8,
    "price": 0.7,
}
# Those that copy messages, or that take a part of a session.
MIXED = {"fork": 1.5, "copy": 0.3, "compact": 0.7, "twice": 0.3}


class Event(NamedTuple):
    kind: str
    at: datetime
    values: tuple[Any, ...] = ()


class Torn(NamedTuple):
    """What happens after so many feeds of an import have been scanned."""

    scanned: int
    event: Event


# --- the world ---------------------------------------------------------------------------------


class Message(NamedTuple):
    number: int
    at: datetime
    day: date
    model: str
    tokens: int


@dataclass(eq=False)
class File:
    project: str
    session: str
    messages: list[Message]
    hidden: bool = False


class World:
    """The transcripts, and the ccusage that reads them. Each `do_` says whether it did anything."""

    def __init__(self, zone: ZoneInfo) -> None:
        self.zone = zone
        self.files: list[File] = []
        self.dead: set[str] = set()
        self.version, self.price, self.retention, self.written = VERSIONS[0], 1.0, 30, 0

    def apply(self, event: Event) -> bool:
        return bool(getattr(self, f"do_{event.kind}")(event.at, *event.values))

    def find(self, session: str, project: str = "") -> File | None:
        """A visible file."""
        mine = (f for f in self.visible() if f.session == session)
        return next((f for f in mine if project in ("", f.project)), None)

    def visible(self) -> list[File]:
        return sorted((f for f in self.files if not f.hidden), key=lambda f: (f.project, f.session))

    def do_use(
        self, at: datetime, session: str, project: str, uses: Sequence[tuple[str, int]], gap: int
    ) -> bool:
        """Messages of a model and some tokens each, `gap` minutes apart."""
        file = next((f for f in self.files if f.session == session), None)
        if session in self.dead or (file and file.hidden):
            return False
        if file is None:
            file = File(project, session, [])
            self.files.append(file)
        for place, (model, tokens) in enumerate(uses):
            self.written += 1
            seconds = timedelta(minutes=gap * place, seconds=self.written % 50 + 0.001)
            day = (at + seconds).astimezone(self.zone).date()
            file.messages.append(Message(self.written, at + seconds, day, model, tokens))
        return True

    def do_fork(self, at: datetime, session: str, old: str, project: str, count: int) -> bool:
        file = self.find(old)
        if file is None or session in self.dead or self.find(session):
            return False
        self.files.append(File(project or file.project, session, file.messages[:count]))
        return True

    def do_copy(self, at: datetime, session: str, project: str) -> bool:
        file = self.find(session)
        if file is None or self.find(session, project):
            return False
        self.files.append(File(project, session, list(file.messages)))
        return True

    def do_move(self, at: datetime, session: str, project: str) -> bool:
        file = self.find(session)
        if file is None or self.find(session, project):
            return False
        file.project = project
        return True

    def do_rename(self, at: datetime, old: str, new: str) -> bool:
        mine = [file for file in self.visible() if file.project == old]
        if any(file.project == new for file in self.files):
            return False
        for file in mine:
            file.project = new
        return bool(mine)

    def drop(self, gone: Sequence[File]) -> bool:
        self.files = [file for file in self.files if file not in gone]
        self.dead |= {f.session for f in gone} - {f.session for f in self.files}
        return bool(gone)

    def do_delete(self, at: datetime, session: str) -> bool:
        return self.drop([f for f in self.files if f.session == session][:1])

    def do_purge(self, at: datetime, days: int) -> bool:
        """Delete what is older, as the settings of Claude Code say."""
        self.retention = min(self.retention, days)
        oldest = at - timedelta(days=days)
        return self.drop([f for f in self.files if f.messages[-1].at < oldest])

    def do_wipe(self, at: datetime) -> bool:
        return self.drop(self.files)

    def do_hide(self, at: datetime, project: str) -> bool:
        """A project's folder is away for a while, or ("") all are."""
        mine = [file for file in self.visible() if project in ("", file.project)]
        for file in mine:
            file.hidden = True
        return bool(mine)

    def do_show(self, at: datetime) -> bool:
        hidden = [file for file in self.files if file.hidden]
        for file in hidden:
            file.hidden = False
        return bool(hidden)

    def do_compact(self, at: datetime, session: str, first: int, count: int) -> bool:
        """Some messages of a session are deleted, while it stays."""
        file = self.find(session)
        if file is None or not file.messages[first : first + count]:
            return False
        del file.messages[first : first + count]
        if not file.messages:
            self.drop([file])
        return True

    def do_version(self, at: datetime, version: str) -> bool:
        changed, self.version = version != self.version, version
        return changed

    do_twice = do_version

    def do_price(self, at: datetime, price: float) -> bool:
        changed, self.price = price != self.price, price
        return changed


# --- ccusage 20 --------------------------------------------------------------------------------


class Use(NamedTuple):
    """A message, and the session to which ccusage credits it."""

    message: Message
    project: str
    session: str

    def cost(self, price: float) -> float:
        return self.message.tokens * PRICES[self.message.model] * price


def scan(world: World) -> list[Use]:
    seen: set[int] = set()
    uses = []
    for file in world.visible():
        for message in file.messages:
            if message.number not in seen or world.version == COUNTS_COPIES:
                uses.append(Use(message, file.project, file.session))
            seen.add(message.number)
    return uses


@functools.cache
def digits(*names: str) -> str:
    return IDS.key(*names)


def grouped(feed: str, uses: Iterable[Use]) -> dict[tuple[Any, ...], list[Use]]:
    rows: dict[tuple[Any, ...], list[Use]] = defaultdict(list)
    for use in uses:
        rows[("claude", *key_of(feed, use))].append(use)
    return rows


def key_of(feed: str, use: Use) -> tuple[Any, ...]:
    if feed == "daily":
        return (use.message.day,)
    if feed == "monthly":
        return (f"{use.message.day:%Y-%m}",)
    if feed == "projects":
        return use.message.day, digits(use.project)
    return (digits(use.project, use.session),)


def cut_blocks(uses: Iterable[Use]) -> Iterator[list[Use]]:
    block: list[Use] = []
    start = last = START
    for use in sorted(uses, key=lambda use: use.message.at):
        at = use.message.at
        if block and (at - start > FIVE_HOURS or at - last > FIVE_HOURS):
            yield block
            block = []
        if not block:
            start = at.replace(minute=0, second=0, microsecond=0)
        block.append(use)
        last = at
    if block:
        yield block


def report(feed: str, uses: list[Use], price: float) -> Rows:
    """What a feed says, as the importer's records."""
    if feed == "blocks":
        return {row.id: row for row in report_blocks(uses, price)}
    return {
        key: record(key[1:], mine, price, details_of(feed, mine))
        for key, mine in grouped(feed, uses).items()
    }


def details_of(feed: str, uses: list[Use]) -> dict[str, Any]:
    project = digits(uses[0].project)[:8]
    if feed == "projects":
        return {"project_id": project}
    if feed != "session":
        return {}
    times = [use.message.at for use in uses]
    return {
        "project_path": project,
        "session_id": digits(uses[0].session)[:8],
        "first_activity": min(times),
        "last_activity": max(times),
    }


def report_blocks(uses: list[Use], price: float) -> Iterator[Record]:
    end = None
    for block in cut_blocks(uses):
        first, last = block[0].message.at, block[-1].message.at
        if end and first - end > FIVE_HOURS:
            times = {"start_time": end + FIVE_HOURS, "end_time": first, "is_gap": True}
            yield record((f"gap-{end + FIVE_HOURS}",), [], price, times)
        start = first.replace(minute=0, second=0, microsecond=0)
        times = {"start_time": start, "end_time": start + FIVE_HOURS, "actual_end_time": last}
        details = {**times, "is_gap": False, "entries": len(block)}
        yield record((str(start),), block, price, details)._replace(shares={})
        end = last


def record(key: tuple[Any, ...], uses: list[Use], price: float, details: dict[str, Any]) -> Record:
    models: dict[str, list[Use]] = defaultdict(list)
    for use in uses:
        models[use.message.model].append(use)
    shares = {
        model: Share(tokens_of(sum(u.message.tokens for u in mine)), cost_of(mine, price))
        for model, mine in models.items()
    }
    total, cost = tokens_of(sum(u.message.tokens for u in uses)), cost_of(uses, price)
    return Record("claude", key, total, cost, frozenset(shares), shares, details)


def tokens_of(number: int) -> Tokens:
    """A number of tokens, spread over the counters: all messages have thousands of them."""
    part = number // 1000
    return Tokens(400 * part, 300 * part, 200 * part, 100 * part, number)


def cost_of(uses: list[Use], price: float) -> float:
    return round(math.fsum(use.cost(price) for use in uses), 8)


# --- the program -------------------------------------------------------------------------------


@dataclass
class Program:
    """The tables of one machine, and what is known of its last run."""

    zone: ZoneInfo
    stored: Feeds = field(default_factory=lambda: {feed: {} for feed in FEEDS})
    version: str = ""

    def run(self, reported: Feeds, sessions: Rows, world: World, now: datetime) -> Feeds:
        """What an import stores. Asked once more which sessions there are, ccusage says so."""
        policy = Policy(
            version=tuple(map(int, world.version.split("."))),  # type: ignore[arg-type]
            window_start=now - timedelta(days=world.retention - 1),
            zone=self.zone,
            previous=self.version,
            on_disk=frozenset(digits(file.session)[:8] for file in world.visible()),
        )
        said = {(feed, "claude"): rows for feed, rows in reported.items()}
        again = {("session", "claude"): sessions}
        feeds = importer.Feeds(policy.version, said, {}, lambda: again)
        decisions = importer.decide_in_time(self.stored, feeds, IDS, policy)
        return {
            feed: write(self.stored[feed], decisions[feed].after, world.version) for feed in FEEDS
        }


def write(stored: Rows, after: Rows, version: str) -> Rows:
    """As an upsert does it: a row with the same values stays, another one gets this version."""
    rows = {}
    for key, new in after.items():
        old = stored.get(key)
        if old is not None and values(old) == values(new):
            rows[key] = old
        else:
            shares = {n: s._replace(version=s.version or version) for n, s in new.shares.items()}
            rows[key] = new._replace(version=new.version or version, shares=shares)
    return rows


def values(row: Record) -> tuple[Any, ...]:
    shares = {name: (share.tokens, round(share.cost, 8)) for name, share in row.shares.items()}
    return row.tokens, round(row.cost, 8), row.models, shares, row.details


# --- the truth ---------------------------------------------------------------------------------


@dataclass
class Truth:
    """Every message that an import could see, counted once, where its session was last seen.

    Three things cannot be told exactly, and `is_exact` knows them: a day of which a lost session
    of several days held a part, and that is used at the same time or later; months of such days;
    and blocks in whose time other sessions were used beside a lost one.
    """

    used: dict[int, Use] = field(default_factory=dict)
    costs: dict[int, float] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)
    credited: set[Use] = field(default_factory=set)
    there: set[str] = field(default_factory=set)
    parted: set[date] = field(default_factory=set)
    open: set[date] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)

    def see(self, world: World, uses: list[Use]) -> None:
        """What one scan can see."""
        fresh = [use for use in uses if use.message.number not in self.used]
        for use in uses:
            self.used.setdefault(use.message.number, use)
            self.costs.setdefault(use.message.number, use.cost(world.price))
        self.homes |= {file.session: file.project for file in reversed(world.visible())}
        self.credited.update(uses)
        there = {use.session for use in uses}
        self.lost |= self.there - there
        self.there = there
        for session in self.lost:
            days = {use.message.day for use in self.used.values() if use.session == session}
            self.parted |= days if len(days) > 1 else set()
        self.open |= self.parted & {use.message.day for use in fresh}

    def blocks_are_exact(self) -> bool:
        """Whether no lost session has others beside it."""
        times: dict[str, list[datetime]] = defaultdict(list)
        for use in self.used.values():
            times[use.session].append(use.message.at)
        return not any(
            min(times[lost]) - FIVE_HOURS <= at <= max(times[lost]) + FIVE_HOURS
            for lost in self.lost & times.keys()
            for other in times.keys() - {lost}
            for at in times[other]
        )

    def is_exact(self, feed: str, key: tuple[Any, ...]) -> bool:
        if feed == "monthly":
            return key[1] not in {f"{day:%Y-%m}" for day in self.open}
        return feed == "session" or key[1] not in self.open

    def anywhere(self) -> set[Use]:
        """The uses of each session in every project.

        A session may be stored at a former path as long as it is not known that it moved.
        """
        places = {use.project for use in self.credited}
        return {use._replace(project=place) for use in self.credited for place in places}

    def uses(self) -> list[Use]:
        return [use._replace(project=self.homes[use.session]) for use in self.used.values()]


# --- judging -----------------------------------------------------------------------------------


class Violation(NamedTuple):
    kind: str
    table: str
    key: Any
    got: float
    wanted: float

    def __str__(self) -> str:
        return f"{self.kind} {self.table} {self.key}: {self.got:,.10g}, wanted {self.wanted:,.10g}"


@dataclass
class Import:
    """An import: what was stored before and after it, and what it knew."""

    before: Feeds
    reported: Feeds
    after: Feeds
    again: Feeds  # after the same feeds once more
    truth: Truth
    happened: frozenset[str]  # the kinds of events up to now
    corrects: bool  # whether this ccusage is another one than that of the last import
    torn: bool  # whether something happened between two of its feeds

    @property
    def plain(self) -> bool:
        return not self.happened & MIXED.keys()

    @property
    def is_believed(self) -> bool:
        """Whether less by another ccusage looks like a correction: no whole session is missing."""
        return self.corrects and not (self.plain and self.whole)

    @property
    def whole(self) -> bool:
        """Whether no import missed a feed, and none fell into a change."""
        return not self.happened & {"torn", "fail"}

    def knows_places(self, feed: str) -> bool:
        """Whether each use counts in the row of one place alone.

        Copies may be credited to one session after another. Where a feed failed, or something
        happened between two feeds, sessions and projects do not tell of the same moment, and a
        move that follows may not be seen. Then their sums are right, if not each row.
        """
        return feed in ("daily", "monthly") or (self.plain and self.whole)

    def judge(self) -> Iterator[Violation]:
        uses = self.truth.uses()
        for feed in FEEDS:
            if feed != "blocks":
                truth = sums(grouped(feed, uses))
                yield from self.above(feed, truth)
                yield from self.below(feed, truth)
                if self.plain and self.whole:
                    yield from self.inexact(feed, truth)
                    yield from self.costs(feed, uses, truth)
            yield from self.unsteady(feed)
        yield from self.totals()
        yield from self.blocks()

    def above(self, feed: str, truth: Mapping[Any, int]) -> Iterator[Violation]:
        """A row holds more than was ever used."""
        if "twice" in self.happened:
            return
        credited = {} if self.knows_places(feed) else sums(grouped(feed, self.truth.anywhere()))
        for key, row in self.after[feed].items():
            most = max(truth.get(key, 0), credited.get(key, 0))
            if row.tokens.total > most:
                yield Violation("above", feed, key[1:], row.tokens.total, most)

    def below(self, feed: str, truth: Mapping[Any, int]) -> Iterator[Violation]:
        """A row holds less than was stored or is reported, and less than was used."""
        if not self.knows_places(feed) or self.is_believed:
            return
        for key in self.before[feed].keys() | self.reported[feed].keys():
            got = tokens(self.after[feed], key)
            least = max(tokens(self.before[feed], key), tokens(self.reported[feed], key))
            if got < min(least, truth.get(key, 0)) and self.truth.is_exact(feed, key):
                yield Violation("below", feed, key[1:], got, min(least, truth.get(key, 0)))

    def inexact(self, feed: str, truth: Mapping[Any, int]) -> Iterator[Violation]:
        for key in truth.keys() | self.after[feed].keys():
            got, wanted = tokens(self.after[feed], key), truth.get(key, 0)
            if got != wanted and self.truth.is_exact(feed, key):
                yield Violation("inexact", feed, key[1:], got, wanted)

    def costs(self, feed: str, uses: list[Use], truth: Mapping[Any, int]) -> Iterator[Violation]:
        """A row costs what it cost when it was used, and so do its models."""
        for key, mine in grouped(feed, uses).items():
            row, old = self.after[feed].get(key), self.before[feed].get(key)
            if row is None or row.tokens.total != truth[key]:
                continue
            cost = math.fsum(self.truth.costs[use.message.number] for use in mine)
            if "price" not in self.happened and differ(row.cost, cost):
                yield Violation("cost", feed, key[1:], row.cost, cost)
            same = "price" in self.happened and old and old.tokens == row.tokens
            if same and differ(row.cost, old.cost):
                yield Violation("cost-kept", feed, key[1:], row.cost, old.cost)
            models = math.fsum(share.cost for share in row.shares.values())
            if differ(row.cost, models):
                yield Violation("cost-models", feed, key[1:], models, row.cost)

    def unsteady(self, feed: str) -> Iterator[Violation]:
        """The same feeds once more change something."""
        one, other = self.after[feed], self.again[feed] if not self.torn else self.after[feed]
        for key in one.keys() | other.keys():
            if key not in one or key not in other or values(one[key]) != values(other[key]):
                found = tokens(other, key), tokens(one, key)
                yield Violation("unsteady", feed, key[1:], *found)

    def totals(self) -> Iterator[Violation]:
        """Each table as a whole, and days, months and projects among each other."""
        uses = self.truth.credited if "twice" in self.happened else self.truth.used.values()
        most = sum(use.message.tokens for use in uses)
        true = sum(use.message.tokens for use in self.truth.used.values())
        for feed in FEEDS:
            before, after = total(self.before[feed]), total(self.after[feed])
            if after > most:
                yield Violation("above-sum", feed, "", after, most)
            if after < min(before, true) and not self.is_believed:
                yield Violation("below-sum", feed, "", after, min(before, true))
            if feed in ("monthly", "projects") and self.whole:
                if after != total(self.after["daily"]):
                    yield Violation("sums", feed, "", after, total(self.after["daily"]))
                elif differ(cost := costs(self.after[feed]), costs(self.after["daily"])):
                    yield Violation("cost-sums", feed, "", cost, costs(self.after["daily"]))

    def blocks(self) -> Iterator[Violation]:
        """Blocks do not overlap, and none holds more than was used in its time."""
        rows = [row for row in self.after["blocks"].values() if not row.details["is_gap"]]
        rows.sort(key=lambda row: row.details["start_time"])
        for one, other in pairwise(rows):
            if other.details["start_time"] < one.details["end_time"]:
                yield Violation("overlap", "blocks", other.key, 0, 0)
        messages = [use.message for use in self.truth.used.values()]
        for row in rows if "twice" not in self.happened else ():
            start, end = row.details["start_time"], row.details["end_time"]
            most = sum(m.tokens for m in messages if start <= m.at < end)
            if row.tokens.total > most:
                yield Violation("above", "blocks", row.key, row.tokens.total, most)
        true = sum(message.tokens for message in messages)
        if self.plain and self.whole and self.truth.blocks_are_exact() and _total(rows) != true:
            yield Violation("inexact", "blocks", "", _total(rows), true)


def sums(groups: Mapping[tuple[Any, ...], list[Use]]) -> dict[tuple[Any, ...], int]:
    return {key: sum(use.message.tokens for use in mine) for key, mine in groups.items()}


def tokens(rows: Rows, key: tuple[Any, ...]) -> int:
    return rows[key].tokens.total if key in rows else 0


def _total(rows: Iterable[Record]) -> int:
    return sum(row.tokens.total for row in rows)


def total(rows: Rows) -> int:
    return _total(rows.values())


def costs(rows: Rows) -> float:
    return math.fsum(row.cost for row in rows.values())


def differ(one: float, other: float) -> bool:
    return abs(one - other) > 1e-6


# --- a life ------------------------------------------------------------------------------------


def live(
    events: Sequence[Event],
    zone: ZoneInfo,
    tell: Callable[[Event, Import | None], None] | None = None,
) -> list[Violation]:
    """Live a life, and judge each import. The first one that violates anything ends it."""
    world, truth, program = World(zone), Truth(), Program(zone)
    happened: set[str] = set()
    for event in events:
        done = None
        if event.kind == "import":
            try:
                done = import_once(event, world, truth, program, happened)
            except Exception as error:  # a life that can be shrunk says more than a trace
                return [Violation(f"crash {error!r}", "daily", "", 0, 0)]
        elif world.apply(event):
            happened.add(event.kind)
        if tell:
            tell(event, done)
        if done and (found := list(done.judge())):
            return found
    return []


def import_once(
    event: Event, world: World, truth: Truth, program: Program, happened: set[str]
) -> Import:
    torn, order, failed = event.values or (None, FEEDS, "")
    uses = scan(world)
    truth.see(world, uses)
    reported: Feeds = {}
    changed = False
    for number, feed in enumerate(("session", *(feed for feed in order if feed != "session"))):
        if torn and torn.scanned == number and world.apply(torn.event):
            changed = True
            happened |= {"torn", torn.event.kind}
            uses = scan(world)
            truth.see(world, uses)
        reported[feed] = report(feed, uses, world.price)
    sessions = report("session", uses, world.price)
    if failed:
        del reported[failed]
        happened.add("fail")
    before, corrects = program.stored, world.version != program.version
    after = program.run(reported, sessions, world, event.at)
    program.stored, program.version = after, world.version
    again = program.run(reported, sessions, world, event.at + timedelta(minutes=1))
    full = {feed: reported.get(feed, {}) for feed in FEEDS}
    return Import(before, full, after, again, truth, frozenset(happened), corrects, changed)


def make_life(seed: int, kinds: Mapping[str, float], most: int = 14) -> list[Event]:
    """A life of so many events at most, in which about half of these kinds of events happen."""
    chance = Random(seed)
    world = World(zone_of(seed))
    now = START
    events: list[Event] = []
    chosen = {kind: often for kind, often in kinds.items() if chance.random() < 0.5}
    chosen["use"] = kinds["use"]
    often = chance.choice((0.8, 0.5, 0.3))
    while len(events) < most:
        (kind,) = chance.choices([*chosen], [*chosen.values()])
        event = make_event(kind, now, chance, world, len(events))
        if event is None or not world.apply(event):
            continue
        events.append(event)
        now = max(now, *(file.messages[-1].at for file in world.files), event.at) + pause(chance)
        if chance.random() < often:
            events.append(make_import(now, chance, world, chosen))
            now += timedelta(minutes=chance.randint(2, 40))
    return [*events, Event("import", now)]


def zone_of(seed: int) -> ZoneInfo:
    return ZONES[seed % len(ZONES)]


def pause(chance: Random) -> timedelta:
    minutes = (7, chance.randint(3, 90), chance.randint(60, 600), chance.randint(600, 1800))
    return timedelta(minutes=chance.choice((*minutes, 1440 * chance.randint(1, 9))))


def make_import(now: datetime, chance: Random, world: World, kinds: Mapping[str, float]) -> Event:
    torn, failed = None, ""
    if chance.random() < 0.06:
        kind = chance.choice([k for k in ("use", "delete", "purge", "move", "hide") if k in kinds])
        event = make_event(kind, now, chance, world, -len(world.files))
        if event:
            torn = Torn(chance.randint(1, 4), event)
            world.apply(event)
    elif chance.random() < 0.05:
        failed = chance.choice(FEEDS)
    return Event("import", now, (torn, tuple(chance.sample(FEEDS, len(FEEDS))), failed))


def make_event(kind: str, now: datetime, chance: Random, world: World, number: int) -> Event | None:
    """An event of this kind; None where there is nothing that it could happen to."""
    files = world.visible()
    if kind == "use":
        if not files or chance.random() < 0.35:
            name, project = f"{chance.choice('abcxyz')}{number}", chance.choice(PROJECTS)
        else:
            file = chance.choice(files)
            name, project = file.session, file.project
        uses = tuple(
            (chance.choice(("opus", "opus", "sonnet")), 1000 * chance.randint(1, 9))
            for _ in range(chance.randint(1, 4))
        )
        return Event(kind, now, (name, project, uses, chance.choice((1, 5, 20, 100, 400))))
    chosen: dict[str, tuple[Any, ...]] = {
        "purge": (chance.choice((30, 30, 7)),),
        "wipe": (),
        "show": (),
        "version": (chance.choice(VERSIONS),),
        "twice": (chance.choice((VERSIONS[1], COUNTS_COPIES)),),
        "price": (chance.choice((0.8, 1.0, 1.25)),),
        "hide": (chance.choice(("", *PROJECTS)),),
    }
    if files and kind not in chosen:
        file, project = chance.choice(files), chance.choice(PROJECTS)
        fork = f"{chance.choice('abcxyz')}{number}f", file.session
        chosen |= {
            "fork": (*fork, chance.choice(("", project)), chance.randint(1, 6)),
            "move": (file.session, project),
            "copy": (file.session, project),
            "rename": (file.project, chance.choice(("-new", "-aaa", *PROJECTS))),
            "delete": (file.session,),
            "compact": (file.session, chance.choice((0, 0, 1)), chance.randint(1, 3)),
        }
    return Event(kind, now, chosen[kind]) if kind in chosen else None


# --- telling of a life -------------------------------------------------------------------------


def shrink(events: list[Event], zone: ZoneInfo, like: Violation) -> list[Event]:
    """As few events as still lead to a violation of the same kind in the same table."""

    def still(life: list[Event]) -> bool:
        return any(v[:2] == like[:2] for v in live(life, zone))

    for size in (8, 4, 2, 1, 1):
        for place in range(len(events) - size, -1, -1):
            if still(fewer := events[:place] + events[place + size :]):
                events = fewer
    for place, event in enumerate(events):
        for simple in simpler(event):
            if still(trial := [*events[:place], simple, *events[place + 1 :]]):
                events = trial
                break
    return events


def simpler(event: Event) -> Iterator[Event]:
    if event.kind == "import":
        yield event._replace(values=())
    if event.kind == "use":
        name, project, uses, gap = event.values
        for fewer in (uses[:1], uses[:2], uses):
            yield event._replace(values=(name, project, (("opus", 1000),) * len(fewer), gap))


def story(events: list[Event], zone: ZoneInfo) -> str:
    """A life in lines: its events, and the tokens in the table that is wrong at the end."""
    lines = []

    def tell(event: Event, done: Import | None) -> None:
        what = " ".join(map(str, event.values))
        lines.append(f"{event.at.astimezone(zone):%m-%d %H:%M} {event.kind} {what}")
        table = found[0].table
        for name, feeds in (("reported", done.reported), ("stored", done.after)) if done else ():
            rows = [(*map(str, key[1:]), row.tokens.total) for key, row in feeds[table].items()]
            shown = ", ".join(" ".join(map(str, row)) for row in sorted(rows))
            lines.append(f"            {table} {name}: {shown}")

    found = live(events, zone)
    live(events, zone, tell if found else None)
    return "\n".join([f"({zone})", *lines, *map(str, found)])
