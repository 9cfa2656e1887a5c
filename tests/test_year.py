"""Months of work while transcripts are purged: what is stored is what was ever there.

The program's clock is set to each import's day; a complete copy of all transcripts is kept
beside, and at the end ccusage tells of that copy what must be stored.
"""

from __future__ import annotations

import json
import os
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
import transcripts
from tables import FEED_TABLES, Database, Expected, Machine, assert_same, at, total
from transcripts import Message, Transcript, midnight_of, write_session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tables import Tables

UTC = timezone.utc
START = date(2025, 7, 1)
NOON = datetime(2025, 9, 20, 12, tzinfo=UTC)


@pytest.fixture
def machine(tmp_path: Path, database: Database) -> Machine:
    return Machine(tmp_path, database=database)


class Life:
    """A machine whose transcripts are written as time goes by, and purged."""

    def __init__(
        self, machine: Machine, retention: int, *, resumed: bool = False, days: int = 60
    ) -> None:
        self.machine = machine
        self.retention = retention
        self.days = days
        self.plan = transcripts.plan(start=START, days=days, sessions_per_day=1, resumed=resumed)
        if resumed:
            self.plan = in_order(self.plan, timedelta(days=retention - 3))
        self.complete = machine.home / "complete"
        for transcript in self.plan:
            write_session(self.complete, *transcript)
        (machine.claude / "settings.json").write_text(json.dumps({"cleanupPeriodDays": retention}))

    def go_on(self, before: datetime, now: datetime) -> None:
        """Write what happened between the two, then delete what Claude Code would."""
        for transcript in self.plan:
            if transcript.messages[-1].at < before or transcript.messages[0].at >= now:
                continue
            part = transcripts.cut(transcript, now)
            if part.messages:
                write_session(self.machine.claude, *part)
        transcripts.purge(self.machine.claude, now, self.retention)

    def live(self, *args: str, every: float) -> Iterator[None]:
        """Import at increasing times."""
        before = midnight_of(START)
        end = before + timedelta(days=self.days)
        while before < end:
            now = min(before + timedelta(days=every), end)
            self.go_on(before, now)
            with at(now):
                self.machine.stores(*args)
            yield
            before = now

    def ever(self) -> Tables:
        """What ccusage says of all that ever was."""
        self.machine.env["CLAUDE_CONFIG_DIR"] = str(self.complete)
        return self.machine.expected()


def in_order(plan: list[Transcript], margin: timedelta) -> list[Transcript]:
    """Session ids that ascend with time, as ccusage credits a copied message to the first of them.

    A copy is left out where the session it comes from may be purged while this one goes on:
    ccusage would then give it the messages of both. So is one of a whole session, which after the
    purge stands for that.
    """
    last: dict[str, datetime] = {}  # of the first session to be purged that has the message
    sessions: list[set[str]] = []
    ordered = []
    for number, transcript in enumerate(plan):
        end = transcript.messages[-1].at
        names = {message.message_id for message in transcript.messages}
        copied = set[str]().union(*(session for session in sessions if session <= names))
        kept = [
            message
            for message in transcript.messages
            if message.message_id not in copied and end < last.get(message.message_id, end) + margin
        ]
        sessions.append({message.message_id for message in kept})
        ordered.append(
            transcript._replace(messages=kept, session_id=f"{number:05}-{transcript.session_id}")
        )
        for message in kept:
            last[message.message_id] = min(end, last.get(message.message_id, end))
    return ordered


def without_gaps(tables: Tables) -> Tables:
    blocks = tables["ccusage_usage_blocks"]
    worked = {key: row for key, row in blocks.items() if not row["is_gap"]}
    return {**tables, "ccusage_usage_blocks": worked}


@pytest.mark.parametrize(
    ("version", "retention", "days", "every"),
    [
        ("20.0.24", 7, 30, 4.7),
        pytest.param("19.0.3", 7, 36, 5.3, marks=pytest.mark.stress),
        pytest.param("20.0.24", 7, 40, 3.7, marks=pytest.mark.stress),
        pytest.param("20.0.24", 7, 60, 3.7, marks=pytest.mark.stress),
        pytest.param("19.0.3", 7, 60, 5.3, marks=pytest.mark.stress),
        pytest.param("20.0.24", 30, 60, 5.9, marks=pytest.mark.stress),
        pytest.param("19.0.3", 30, 60, 9.7, marks=pytest.mark.stress),
    ],
)
def test_after_months_of_purges_every_table_says_what_ever_was(
    version: str, retention: int, days: int, every: float, machine: Machine
) -> None:
    machine.use(version)
    life = Life(machine, retention, resumed=version == "20.0.24", days=days)
    for _ in life.live("--agents", "claude", every=every):
        pass
    left = total(machine.expected(), "daily")
    ever = life.ever()
    assert 0 < left < 0.7 * total(ever, "daily")
    tables = machine.tables()
    assert_same(without_gaps(tables), without_gaps(ever), tolerance=1e-6)
    for feed in ("monthly", "session", "blocks", "projects"):
        assert total(tables, feed) == total(tables, "daily")


def test_with_ccusage_18_no_table_ever_shows_less_than_before(
    tmp_path: Path, database: Database
) -> None:
    machine = Machine(tmp_path, version="18.0.11", database=database)
    before = None
    for _ in Life(machine, 7, days=20).live(every=6.7):
        after = machine.tables()
        never_less(before or after, after)
        before = after
    assert total(machine.tables(), "daily") > 2 * total(machine.expected(), "daily")


def never_less(before: Tables, after: Tables) -> None:
    """Each table has at least as many tokens, and each row but blocks, which are cut anew."""
    for feed, table in FEED_TABLES.items():
        assert total(after, feed) >= total(before, feed)
        if feed == "blocks":
            continue
        for key, row in before[table].items():
            assert after[table][key]["total_tokens"] >= row["total_tokens"]


# --- a correction arrives ----------------------------------------------------------------------


def halved(feeds: dict[str, Any]) -> dict[str, Any]:
    """The feeds of a ccusage that counts half of everything."""
    half: dict[str, Any] = json.loads(json.dumps(feeds))

    def visit(thing: Any) -> None:
        for value in thing.values() if isinstance(thing, dict) else thing:
            if isinstance(value, dict | list):
                visit(value)
        if isinstance(thing, dict):
            for name, value in thing.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    thing[name] = value / 2

    visit(half)
    return half


def even(machine: Machine, ago: float, number: int = 0) -> Message:
    """A message whose counts can be halved."""
    moment = NOON - timedelta(days=ago)
    message = Message(moment, input=8, output=80, cache_read=8 * (number + 1))
    write_session(machine.claude, "-p", f"s{ago}-{number}", [message, later(message)])
    return message


def later(message: Message) -> Message:
    return Message(message.at + timedelta(minutes=1), input=80, output=800)


def settings(machine: Machine, days: int) -> None:
    (machine.claude / "settings.json").write_text(json.dumps({"cleanupPeriodDays": days}))


def days_of(tables: Tables) -> dict[float, int]:
    """Tokens by days ago."""
    rows = tables["ccusage_usage_daily"].items()
    return {(NOON.date() - key[1]).days: row["total_tokens"] for key, row in rows}


def test_another_ccusage_that_reports_less_is_believed_for_recent_days_alone(
    machine: Machine,
) -> None:
    for ago in (1, 20, 27, 30, 45):
        even(machine, ago)
    stub = machine.stub()
    full = machine.feeds()
    stub.say("20.0.23", **full)
    with at(NOON):
        machine.stores()
    before = machine.tables()
    stub.say(**halved(full))
    with at(NOON):  # the same ccusage is not believed
        done = machine.imports()
    assert_same(machine.tables(), before)
    assert machine.history("rows_held")[-1][0] >= 5
    assert "transcripts are gone" in done.err + done.out
    stub.say("20.0.24")
    with at(NOON):
        machine.stores()
    after = machine.tables()
    assert days_of(after) == {ago: 976 if ago > 28 else 488 for ago in (1, 20, 27, 30, 45)}
    for feed in ("session", "projects"):
        sizes = sorted(row["total_tokens"] for row in after[FEED_TABLES[feed]].values())
        assert sizes == [488] * 3 + [976] * 2
    worked = [row for row in after["ccusage_usage_blocks"].values() if not row["is_gap"]]
    assert sorted(row["total_tokens"] for row in worked) == [488] * 3 + [976] * 2
    months = {key[1]: row["total_tokens"] for key, row in after["ccusage_usage_monthly"].items()}
    assert months == {"2025-08": 2 * 488 + 2 * 976, "2025-09": 488}  # as much less as its days
    assert machine.history("rows_corrected")[-1][0] > 0
    sums: dict[Any, int] = {}
    for key, row in after["ccusage_model_breakdowns"].items():
        sums[key[:3]] = sums.get(key[:3], 0) + row["total_tokens"]
    for (_, day), row in after["ccusage_usage_daily"].items():
        assert sums["claude", "daily", str(day)] == row["total_tokens"]


def test_a_window_that_was_raised_after_the_loss_makes_nothing_a_correction(
    machine: Machine,
) -> None:
    for ago in (2, 10):
        even(machine, ago)
    stub = machine.stub()
    full = machine.feeds()
    stub.say("20.0.23", **full)
    settings(machine, 7)
    with at(NOON):
        machine.stores()
    settings(machine, 365)
    stub.say("20.0.24", **halved(full))
    with at(NOON):
        machine.stores()
    assert days_of(machine.tables()) == {2: 488, 10: 976}
    assert machine.history("cleanup_period_days") == [(7,), (7,)]


@pytest.mark.parametrize("content", ['{"cleanupPeriodDays": 0}', "{broken"])
def test_without_a_known_window_no_other_ccusage_is_believed(
    content: str, machine: Machine
) -> None:
    even(machine, 2)
    stub = machine.stub()
    full = machine.feeds()
    stub.say("20.0.23", **full)
    (machine.claude / "settings.json").write_text(content)
    with at(NOON):
        machine.stores()
        before = machine.tables()
        stub.say("20.0.24", **halved(full))
        machine.stores()
    assert_same(machine.tables(), before)


def test_a_window_of_a_lifetime_has_room_for_all_days(machine: Machine) -> None:
    even(machine, 2)
    even(machine, 400)
    stub = machine.stub()
    full = machine.feeds()
    stub.say("20.0.23", **full)
    settings(machine, 999_999)
    with at(NOON):
        machine.stores()
        stub.say("20.0.24", **halved(full))
        machine.stores()
    assert days_of(machine.tables()) == {2: 488, 400: 488}


def test_a_session_whose_first_days_are_gone_is_not_corrected(machine: Machine) -> None:
    old, new = even(machine, 40, 1), even(machine, 2, 2)
    path = write_session(machine.claude, "-p", "long", [old, later(old), new, later(new)])
    stub = machine.stub()
    stub.say("20.0.23", **machine.feeds())
    with at(NOON):
        machine.stores()
    before = machine.tables()["ccusage_usage_sessions"]
    for other in path.parent.glob("s*"):
        other.unlink()
    write_session(machine.claude, "-p", "long", [new, later(new)])  # another ccusage finds this
    stub.say("20.0.24", **machine.feeds())
    with at(NOON):
        machine.stores()
    assert machine.tables()["ccusage_usage_sessions"] == before


def test_the_user_may_accept_less_after_seeing_it(machine: Machine) -> None:
    for ago in (1, 45):
        even(machine, ago)
    even(machine, 3)
    stub = machine.stub()
    stub.say(**machine.feeds())
    machine.stores()
    before = machine.tables(keep=True)
    (machine.claude / "projects/-p/s3-0.jsonl").unlink()  # rows that nobody reports
    lower = halved(machine.feeds())
    stub.say(**lower)
    shown = machine.imports("--dry-run", "--allow-shrink")
    assert machine.tables(keep=True) == before
    done = machine.imports("--allow-shrink")
    for text in (shown.out + shown.err, done.out + done.err):
        assert "976" in text.replace(",", "")
        assert "488" in text.replace(",", "")
    tables = machine.tables()
    assert days_of(tables) == {1: 488, 3: 976, 45: 488}
    wanted = Expected().claude(lower).tables
    for table in ("ccusage_usage_daily", "ccusage_usage_sessions", "ccusage_usage_projects_daily"):
        for key, row in wanted[table].items():
            assert tables[table][key] == row
    assert machine.history("rows_held")[-1] == (0,)


def test_after_the_upgrade_from_18_nothing_counts_twice_and_18_is_refused_for_sessions(
    tmp_path: Path, database: Database
) -> None:
    machine = Machine(tmp_path, version="18.0.11", database=database)
    features = {"resumed": False, "streaming": False, "synthetic": False}
    machine.populate(days=8, **features)
    machine.stores()
    ever = total(machine.tables(), "session")
    paths = sorted((machine.claude / "projects").rglob("*.jsonl"), key=os.path.getmtime)
    for path in paths[: len(paths) // 2]:
        path.unlink()
    machine.use("20.0.24")
    for _ in range(2):
        machine.stores()
        tables = machine.tables()
        for feed in FEED_TABLES:
            assert total(tables, feed) == ever
        keys = tables["ccusage_usage_sessions"].keys()
        assert keys > machine.expected()["ccusage_usage_sessions"].keys()
    machine.use("18.0.11")
    done = machine.imports(code=3)
    assert "session" in done.err
    assert "update ccusage" in done.err
    assert machine.tables()["ccusage_usage_sessions"] == tables["ccusage_usage_sessions"]
