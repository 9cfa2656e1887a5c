"""The tables of the older importers are adopted whole, and until then nothing touches them.

The fixture is a database that those importers really wrote. Smaller ones, each with one damage,
are made here, in the older importers' own layout.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from datetime import date, datetime, timedelta, timezone
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import clickhouse_connect
import pytest
from clickhouse_server import ClickHouseServer
from scenes import settle
from tables import (
    KEYS,
    NO_OTHERS,
    Database,
    Done,
    Machine,
    at,
    digits,
    read,
)

import adopt_legacy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


EXPORT = Path(__file__).parent / "legacy" / "export.tar.gz"
HISTORY = "ccusage_import_history"
NAMES = (*KEYS, HISTORY)
REMEDY = "remedy: run adopt_legacy.py --dry-run"
UTC = timezone.utc
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)  # three days after the fixture's last import
LONG_AGO = datetime(2026, 1, 15, 10, tzinfo=UTC)
_numbers = itertools.count(1)


# --- a database that the older importers left ----------------------------------------------------


@cache
def exported() -> dict[str, tuple[str, bytes]]:
    """By table its DDL and its rows as JSON lines."""
    with tarfile.open(EXPORT) as archive:
        content = {
            Path(file.name).name: archive.extractfile(file).read()  # type: ignore[union-attr]
            for file in archive
            if file.isfile()
        }
    return {name: (content[f"{name}.sql"].decode(), content[f"{name}.jsonl"]) for name in NAMES}


class Place:
    """A machine whose database is embedded or on a server, and the way to it past the program."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.database = machine.database

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        if self.database:
            yield self._on_server
            return
        client = clickhouse_connect.get_client(interface="chdb", path=str(self.machine.path))
        with contextlib.closing(client):
            yield client

    @cached_property
    def _on_server(self) -> Any:
        """Nothing that it asks is logged, nor does a fault strike it."""
        assert self.database
        self.database.server.query(f"CREATE DATABASE IF NOT EXISTS {self.database.name}")
        return self.database.server.client(
            database=self.database.name,
            headers={"X-Test-Operator": "1"},
            autogenerate_session_id=False,
        )

    def query(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with self.client() as client:
            return [tuple(row) for row in client.query(sql, parameters).result_rows]

    def load(self, tables: dict[str, tuple[str, bytes]]) -> None:
        with self.client() as client:
            for name, (ddl, lines) in tables.items():
                client.command(ddl)
                if lines:
                    client.raw_insert(name, insert_block=lines, fmt="JSONEachRow")

    def drop(self) -> None:
        assert self.database
        self.database.server.query(f"DROP DATABASE IF EXISTS {self.database.name} SYNC")
        self.database.server.query(f"CREATE DATABASE {self.database.name}")

    def content(self) -> dict[str, tuple[int, int]]:
        """By table how many rows it has, and a hash of them."""
        with self.client() as client:
            sql = (
                "SELECT name FROM system.tables WHERE database = currentDatabase() "
                "AND name LIKE 'ccusage%' AND engine LIKE '%MergeTree'"
            )
            names = sorted(name for (name,) in client.query(sql).result_rows)
            sql = " UNION ALL ".join(
                f"SELECT '{name}', count(), sum(cityHash64(* APPLY(toString))) FROM {name}"
                for name in names
            )
            rows = client.query(sql).result_rows if names else []
        return {name: (count, content) for name, count, content in rows}

    def adopted(self) -> dict[str, set[tuple[Any, ...]]]:
        """The new tables, but for the time of the adoption."""
        with self.client() as client:
            return {
                name: set(client.query(f"SELECT * EXCEPT updated_at FROM {name}").result_rows)
                for name in KEYS
            }

    def adopt(self, *args: str, code: int = 0, **more: str) -> Done:
        done = adopt(self.machine, *args, **more)
        assert done.code == code, done.err
        return done

    def months(self, *args: str) -> dict[tuple[str, ...], tuple[int, ...]]:
        """By machine, agent and month: days, stored, twice, restored, adopted."""
        rows = list(csv.reader(io.StringIO(self.adopt(*args, "--format", "csv").out)))[1:]
        return {tuple(row[:3]): tuple(map(int, row[3:8])) for row in rows}


def adopt(machine: Machine, *args: str, **more: str) -> Done:
    """adopt_legacy.py in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, machine.env | more, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = adopt_legacy.main(args)
    return Done(code, out.getvalue(), err.getvalue())


class Layout(NamedTuple):
    """Which of the older importers' tables there are, and their last column."""

    source: bool = True
    tables: Sequence[str] = NAMES


class Old:
    """Rows of an old database, to be made one by one."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}

    def add(self, table: str, written: datetime = LONG_AGO, **row: Any) -> Old:
        tokens = row.pop("tokens", None)
        if tokens is not None:
            row |= {"input_tokens": tokens, "total_tokens": tokens}
        moment = f"{written:%Y-%m-%d %H:%M:%S}"
        row = {"machine_name": "box-a", "created_at": moment, "updated_at": moment, **row}
        self.rows[f"ccusage_{table}"].append(row)
        return self

    def day(self, day: str, tokens: int, written: datetime = LONG_AGO, **row: Any) -> Old:
        return self.add("usage_daily", written, date=day, tokens=tokens, **row)

    def project(
        self, day: str, name: str, tokens: int, written: datetime = LONG_AGO,
        *, swapped: bool = True, machine: str = "box-a", **row: Any,
    ) -> Old:  # fmt: skip
        """As they were written until December 2025: machine and project in each other's column."""
        pair = (name, machine) if swapped else (machine, name)
        return self.add(
            "usage_projects_daily", written, date=day, tokens=tokens,
            machine_name=pair[0], project_id=pair[1], **row,
        )  # fmt: skip

    def block(self, start: str, tokens: int, hours: float = 1, **row: Any) -> Old:
        begin = datetime.fromisoformat(start.removeprefix("gap-")[:19])
        shifted = begin - timedelta(hours=2)  # as stored: in a wrong zone
        return self.add(
            "usage_blocks",
            **{
                "block_id": start, "tokens": tokens, "is_gap": int(start.startswith("gap-")),
                "start_time": f"{shifted:%Y-%m-%d %H:%M:%S}",
                "end_time": f"{shifted + timedelta(hours=5):%Y-%m-%d %H:%M:%S}",
                "actual_end_time": f"{shifted + timedelta(hours=hours):%Y-%m-%d %H:%M:%S}",
                "entries": 3, **row,
            },
        )  # fmt: skip

    def share(self, kind: str, key: str, model: str, tokens: int = 0, **row: Any) -> Old:
        row = {"record_type": kind, "record_key": key, "model_name": model, **row}
        if tokens:
            self.add("model_breakdowns", **row, input_tokens=tokens)
        return self.add("models_used", **row)

    def tables(self, layout: Layout = Layout()) -> dict[str, tuple[str, bytes]]:  # noqa: B008
        made = {}
        for name in layout.tables:
            ddl = exported()[name][0]
            if not layout.source:
                ddl = ddl.replace(",\n    `source` String DEFAULT 'ccusage'", "")
            lines = (
                json.dumps({k: v for k, v in row.items() if f"`{k}`" in ddl})
                for row in self.rows[name]
            )
            made[name] = (ddl, "\n".join(lines).encode())
        return made


@pytest.fixture
def place(tmp_path: Path, new_database: Database) -> Place:
    """A machine called box-a, and a database on the server."""
    return Place(Machine(tmp_path, "box-a", database=new_database))


def tokens(place: Place, table: str, key: str) -> dict[Any, int]:
    """What the new table holds, by its key; each key once."""
    rows = place.query(f"SELECT {key}, total_tokens FROM ccusage_{table}")
    assert len({row[:-1] for row in rows}) == len(rows)
    return {str(row[0]) if len(row) == 2 else row[:-1]: row[-1] for row in rows}


# --- the fixture ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["http", "embedded"])
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory,
    clickhouse: ClickHouseServer,
) -> Iterator[Whole]:  # fmt: skip
    """The fixture, adopted; what was in its tables before; and what was printed."""
    on_server = Database(clickhouse, "legacy_whole") if request.param == "http" else None
    machine = Machine(tmp_path_factory.mktemp("legacy"), "box-a", database=on_server)
    place = Place(machine)
    place.load(exported())
    before = place.content()
    with clock(NOW):
        printed = place.months()
    yield place, before, printed
    if on_server:
        place.drop()


@contextlib.contextmanager
def clock(moment: datetime) -> Iterator[None]:
    """Both programs' clocks stand."""
    with at(moment), mock.patch.object(adopt_legacy, "datetime", adopt_legacy_clock(moment)):
        yield


def adopt_legacy_clock(moment: datetime) -> type[datetime]:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return moment.astimezone(tz)

    return Clock


Whole = tuple[Place, dict[str, tuple[int, int]], dict[tuple[str, ...], tuple[int, ...]]]


def test_by_machine_agent_and_month_stored_less_twice_and_restored_is_adopted(whole: Whole) -> None:
    place, _, printed = whole
    month = "substring(toString(date), 1, 7) AS month"
    old = {
        (machine, "claude" if source == "ccusage" else source, name): (stored, twice)
        for machine, source, name, stored, twice in place.query(
            f"SELECT machine_name, source, {month}, sum(stored), sum(stored - once) FROM ("
            "SELECT machine_name, source, date, sum(total_tokens) AS stored, "
            "max(total_tokens) AS once FROM ccusage_legacy_usage_daily "
            "GROUP BY machine_name, source, date) GROUP BY machine_name, source, month"
        )
    }
    new = {
        tuple(row[:3]): tuple(row[3:])
        for row in place.query(
            f"SELECT machine_name, agent, {month}, uniqExact(date), sum(total_tokens) "
            "FROM ccusage_usage_daily GROUP BY machine_name, agent, month"
        )
    }
    assert printed.keys() == new.keys() == old.keys()
    for key, (days, stored, twice, restored, adopted) in printed.items():
        assert (stored, twice) == old[key]
        assert (days, adopted) == new[key]
        assert stored - twice + restored == adopted
    assert sum(adopted for *_, adopted in printed.values()) == 653_700_553
    assert printed["box-a", "claude", "2026-06"] == (26, 39_959_623, 0, 15_336_433, 55_296_056)
    assert printed["box-b", "claude", "2026-10"][1:] == (
        49_103_580, 10_176_326, 4_847_273, 43_774_527,
    )  # fmt: skip


def test_the_old_tables_are_renamed_and_otherwise_unchanged(whole: Whole) -> None:
    place, before, _ = whole
    after = place.content()
    names = {name.replace("ccusage_", "ccusage_legacy_"): old for name, old in before.items()}
    assert {name: after[name] for name in names} == names
    assert after.keys() == {*names, *NAMES}  # nothing is left of the staging


def test_adopting_twice_is_adopting_once(whole: Whole) -> None:
    place, *_ = whole
    before = place.content()
    assert "nothing to adopt" in place.adopt().err
    assert "nothing to adopt" in place.adopt("--dry-run").err
    assert place.content() == before


def test_what_is_adopted_agrees_with_itself(whole: Whole) -> None:
    place, *_ = whole
    with place.client() as client:
        both = [
            read(lambda sql, **given: client.query(sql, given).result_rows, name)  # each key once
            for name in ("box-a", "box-b")
        ]
    for tables in both:
        days: Counter[Any] = Counter()
        for (agent, day), row in tables["ccusage_usage_daily"].items():
            days[agent, str(day)] = row["total_tokens"]
            days[agent, str(day)[:7]] += row["total_tokens"]
            assert row["ccusage_version"] == "0.adopted"
        for key, row in tables["ccusage_usage_monthly"].items():
            assert row["total_tokens"] == days[key], key
        projects: Counter[Any] = Counter()
        for (agent, day, _), row in tables["ccusage_usage_projects_daily"].items():
            projects[agent, str(day)] += row["total_tokens"]
        assert projects
        assert all(total <= days[key] for key, total in projects.items())
        models: Counter[Any] = Counter()
        for (agent, kind, key, model), row in tables["ccusage_model_breakdowns"].items():
            assert (agent, kind, key, model) in tables["ccusage_models_used"]
            models[agent, kind, key] += row["total_tokens"]
        whole_days = {(a, k) for a, kind, k in models if kind in ("daily", "monthly")}
        assert all(models[a, "daily" if len(k) == 10 else "monthly", k] <= days[a, k]
                   for a, k in whole_days)  # fmt: skip
        assert not tables["ccusage_usage_sessions"]
        blocks = sorted(
            (row["start_time"], row["end_time"])
            for row in tables["ccusage_usage_blocks"].values() if not row["is_gap"]
        )  # fmt: skip
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(blocks))


@pytest.fixture(scope="module")
def feeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the real ccusage reports of each machine's last days."""
    found = {}
    for number, name in enumerate(("box-a", "box-b")):
        machine = Machine(tmp_path_factory.mktemp("feeds"), name)
        machine.populate(start=date(2026, 11, 12), days=9, seed=number)
        found[name] = machine.feeds()
    return found


@pytest.mark.rotates(2)
def test_after_the_first_import_days_on_disk_are_ccusages_and_purged_days_are_the_adopted(
    whole: Whole, feeds: dict[str, dict[str, Any]]
) -> None:
    """Of each machine in turn; the other's rows stay as they are. Last: it changes the tables."""
    place, *_ = whole
    for name, other in (("box-a", "box-b"), ("box-b", "box-a")):
        machine = Machine(place.machine.home / "importing", name, database=place.database)
        machine.env["CH_EMBEDDED_PATH"] = str(place.machine.path)
        machine.stub().say(agents=NO_OTHERS, **feeds[name])
        reported = {("claude", row["date"]): row for row in feeds[name]["daily"]["daily"]}
        before, others = read_days(place, name), read_days(place, other)
        assert before.keys() & reported.keys()
        with clock(NOW):
            machine.stores()
        after = read_days(place, name)
        assert after.keys() == before.keys() | reported.keys()
        for day, (total, version, cost) in after.items():
            if day in reported:
                assert (total, version) == (reported[day]["totalTokens"], machine.version), day
                assert cost == pytest.approx(reported[day]["totalCost"], abs=1e-7)
            else:
                assert (total, version, cost) == before[day]
        assert read_days(place, other) == others


def read_days(place: Place, name: str) -> dict[tuple[str, str], tuple[Any, ...]]:
    sql = (
        "SELECT agent, toString(date), total_tokens, ccusage_version, total_cost "
        "FROM ccusage_usage_daily FINAL WHERE machine_name = {name:String}"
    )
    return {row[:2]: row[2:] for row in place.query(sql, name=name)}


# --- until they are adopted ----------------------------------------------------------------------

NOTHING: dict[str, Any] = {"daily": [], "monthly": [], "session": [], "blocks": [], "projects": []}
COMMANDS = ([], ["--dry-run"], ["--stats"], ["--query", "monthly-trend"])


def refused(place: Place, *commands: list[str]) -> None:
    """Commands of the importer end with code 1 and one remedy."""
    for command in commands or COMMANDS:
        done = place.machine.main(*command)
        assert done.code == 1, command
        said = " ".join((done.out + done.err).split())
        assert said.count("run adopt_legacy.py --dry-run") == 1, command
        assert "ALTER TABLE" not in said, command


def small() -> Old:
    """Two days of two projects, with models, a block, a session and an import."""
    old = Old()
    for day in ("2026-01-02", "2026-01-03"):
        old.day(day, 300)
        old.project(day, "-home-one", 100).project(day, "-home-two", 200)
        old.share("daily", day, "opus", 300).share("daily", day, "haiku")
        old.share("project_daily", f"{day}_-home-one", "opus", 100)
        old.block(f"{day}T08:00:00.000Z", 300).share("block", f"{day}T08:00:00.000Z", "opus")
    old.add("usage_monthly", month="2026-01", year=2026, month_num=1, tokens=600)
    old.add("usage_sessions", session_id="533adfbc", project_path="b7b854cb", tokens=600)
    moment = "2026-01-15 10:00:00"
    old.rows[HISTORY].append(
        {"machine_name": "box-a", "import_timestamp": moment, "created_at": moment}
    )
    return old


@pytest.mark.parametrize("source", [True, False])
def test_every_command_stops_at_old_tables_with_one_remedy(place: Place, source: bool) -> None:
    place.load(small().tables(Layout(source=source)))
    before = place.content()
    place.machine.stub().say(agents=NO_OTHERS, **NOTHING)
    refused(place, *COMMANDS, ["--check"])
    assert place.content() == before


def test_one_old_table_is_enough(place: Place) -> None:
    for table, (ddl, _) in small().tables().items():
        with place.client() as client:
            client.command(ddl)
            done = place.machine.main("--stats")
            client.command(f"DROP TABLE {table} SYNC")
        assert done.code == 1, table
        assert REMEDY in done.err


def test_an_old_table_to_which_our_columns_were_added_is_still_an_old_one(place: Place) -> None:
    """As the importer advised until now."""
    place.load(small().tables())
    with place.client() as client:
        for name in KEYS:
            for column in ("agent String DEFAULT 'claude'", "ccusage_version String"):
                client.command(f"ALTER TABLE {name} ADD COLUMN {column}")
        client.command(f"ALTER TABLE {HISTORY} ADD COLUMN installation_id String")
    refused(place, ["--stats"])
    place.adopt()
    assert tokens(place, "usage_daily", "date") == {"2026-01-02": 300, "2026-01-03": 300}


def test_old_tables_in_an_embedded_database_stop_every_command(tmp_path: Path) -> None:
    place = Place(Machine(tmp_path, "box-a"))
    place.load(small().tables())
    refused(place, [], ["--query", "monthly-trend"])
    place.adopt()
    assert tokens(place, "usage_daily", "date") == {"2026-01-02": 300, "2026-01-03": 300}


def test_a_dry_run_shows_all_and_changes_nothing(place: Place) -> None:
    place.load(small().tables())
    before = place.content()
    place.database.server.statements(reset=True)  # type: ignore[union-attr]
    assert place.months("--dry-run") == {("box-a", "claude", "2026-01"): (2, 600, 0, 0, 600)}
    assert place.database.writes() == []  # type: ignore[union-attr]
    assert place.content() == before
    said = " ".join(place.adopt("--dry-run").out.split())
    assert "sessions 1 left out" in said
    assert "each holds a whole project, not a session" in said


def test_where_nothing_is_there_is_nothing_to_adopt(place: Place, tmp_path: Path) -> None:
    assert "nothing to adopt" in place.adopt().err  # not even the database
    other = Machine(tmp_path / "other", "box-a")
    assert "nothing to adopt" in adopt(other).err
    assert not other.path.exists()


# --- what must not go wrong ----------------------------------------------------------------------


def test_an_old_importer_that_still_runs_on_another_machine_is_refused(place: Place) -> None:
    hour_ago = datetime.now(UTC) - timedelta(hours=25)
    old = small().day("2026-01-02", 5, hour_ago, machine_name="box-b")
    place.load(old.tables())
    before = place.content()
    done = place.adopt(code=1)
    assert "on box-b" in done.err
    assert "take it out of every crontab" in done.err
    assert "give CH_USER a new password" in done.err
    assert "refused now" in place.adopt("--dry-run").err
    assert place.content() == before
    with clock(datetime.now(UTC) + timedelta(hours=2)):
        place.adopt()


def test_this_machines_own_old_importer_may_have_just_run(place: Place) -> None:
    place.load(small().day("2026-01-02", 5, datetime.now(UTC)).tables())
    assert "crontab" in place.adopt().err
    assert place.adopt("--quiet").err == ""


def test_an_old_importer_that_writes_meanwhile_stops_the_adoption(place: Place) -> None:
    """The sums are compared at the end: what came in after the reading would be missing."""
    place.load(small().tables())
    assert place.database
    server = place.database.server
    server.arm("delay:0.5", match="INSERT INTO.*ccusage_adopting_usage_daily")

    def write() -> None:
        deadline = time.monotonic() + 30
        while not any("CREATE" in statement for statement in place.database.writes()):  # type: ignore[union-attr]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        place.query("INSERT INTO ccusage_usage_daily (date, machine_name, total_tokens) "
                    "VALUES ('2026-01-09', 'box-a', 7)")  # fmt: skip

    server.statements(reset=True)
    writer = threading.Thread(target=write)
    writer.start()
    done = place.adopt(code=1)
    writer.join()
    assert "box-a claude 2026-01: 607 tokens are stored, 600 were read" in done.err
    assert place.content().keys() == set(NAMES)  # no staging, no renames
    place.adopt()
    assert sum(tokens(place, "usage_daily", "date").values()) == 607


def test_what_is_in_the_way_is_named(place: Place) -> None:
    place.load(small().tables())
    place.adopt()
    before = place.content()
    with place.client() as client:
        client.command("CREATE TABLE copy AS ccusage_legacy_usage_daily")
        client.command("RENAME TABLE ccusage_usage_daily TO kept, copy TO ccusage_usage_daily")
    done = place.adopt(code=1)
    assert "there are ccusage_legacy_import_history" in done.err
    with place.client() as client:
        client.command("RENAME TABLE ccusage_usage_daily TO copy, kept TO ccusage_usage_daily")
    assert place.content() == before


def test_rows_of_this_program_beside_an_old_table_are_not_renamed_away(place: Place) -> None:
    place.machine.stub().say(agents=NO_OTHERS, **NOTHING)
    place.machine.stores()
    with place.client() as client:
        client.command("INSERT INTO ccusage_usage_monthly (machine_name, month) "
                       "VALUES ('box-a', '2026-01')")  # fmt: skip
        client.command("CREATE TABLE ccusage_usage_other AS ccusage_usage_daily")  # not ours
    before = place.content()
    assert "nothing to adopt" in place.adopt().err
    with place.client() as client:
        client.command("RENAME TABLE ccusage_usage_daily TO kept")
        client.command(exported()["ccusage_usage_daily"][0])
    done = place.adopt(code=1)
    assert "ccusage_usage_monthly hold rows of this program" in done.err
    with place.client() as client:
        client.command("RENAME TABLE ccusage_usage_daily TO old, kept TO ccusage_usage_daily")
    assert place.content() == before


def test_a_table_that_nobody_knows_is_named(place: Place) -> None:
    with place.client() as client:
        client.command("CREATE TABLE ccusage_usage_daily (date Date, cost Float64) "
                       "ENGINE = MergeTree ORDER BY date")  # fmt: skip
    done = place.adopt("--dry-run", code=1)
    assert "it lacks cache_creation_tokens" in done.err


def test_an_import_that_runs_is_waited_for(tmp_path: Path) -> None:
    place = Place(Machine(tmp_path, "box-a"))
    place.load(small().tables())
    lock = place.machine.state / ".ccusage_import.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "holds" in place.adopt("--lock-timeout", "0", code=4).err


# --- each damage ---------------------------------------------------------------------------------


def test_a_day_that_a_purge_ate_into_comes_back_from_its_projects(place: Place) -> None:
    """The day's row was overwritten; the exchanged rows of projects stayed, run by run."""
    june, july = LONG_AGO, LONG_AGO + timedelta(days=30)
    old = Old().day("2026-01-02", 40, july)
    old.project("2026-01-02", "-one", 100, june).project("2026-01-02", "-two", 60, june)
    old.project("2026-01-02", "-one", 40, july)
    old.share("daily", "2026-01-02", "opus", 40)
    place.load(old.tables())
    assert place.months() == {("box-a", "claude", "2026-01"): (1, 40, 0, 120, 160)}
    assert tokens(place, "usage_projects_daily", "project_key") == {
        digits("-one")[:32]: 100, digits("-two")[:32]: 60,
    }  # fmt: skip
    assert tokens(place, "usage_monthly", "month") == {"2026-01": 160}


def test_a_day_is_never_made_of_two_runs(place: Place) -> None:
    """One run saw one project, a later one another: both may have been the same transcripts."""
    old = Old().day("2026-01-02", 70)
    old.project("2026-01-02", "-one", 100).project("2026-01-02", "-two", 20)
    later = LONG_AGO + timedelta(hours=1)
    old.project("2026-01-02", "-moved", 110, later, swapped=False)
    place.load(old.tables())
    assert place.months() == {("box-a", "claude", "2026-01"): (1, 70, 0, 50, 120)}
    assert len(tokens(place, "usage_projects_daily", "project_key")) == 2


def test_swapped_rows_of_projects_are_read_the_right_way_round(place: Place) -> None:
    old = Old().day("2026-01-02", 90).day("2026-01-02", 50, machine_name="box-b")
    old.project("2026-01-02", "-one", 90)
    old.project("2026-01-02", "-one", 50, machine="box-b", swapped=False)
    place.load(old.tables())
    place.adopt()
    assert tokens(place, "usage_projects_daily", "machine_name, project_key") == {
        ("box-a", digits("-one")[:32]): 90, ("box-b", digits("-one")[:32]): 50,
    }  # fmt: skip


def test_rows_that_two_imports_at_once_doubled_count_once(place: Place) -> None:
    old = small()
    seconds = timedelta(seconds=2)
    old.day("2026-01-02", 300, LONG_AGO + seconds)
    old.project("2026-01-02", "-home-one", 100, LONG_AGO + seconds)
    old.project("2026-01-02", "-home-two", 200, LONG_AGO + seconds)
    old.block("2026-01-02T08:00:00.000Z", 300).share("daily", "2026-01-02", "opus", 300)
    old.add("usage_monthly", month="2026-01", year=2026, month_num=1, tokens=600)
    place.load(old.tables())
    assert place.months() == {("box-a", "claude", "2026-01"): (2, 900, 300, 0, 600)}
    assert tokens(place, "usage_monthly", "month") == {"2026-01": 600}
    assert sum(tokens(place, "usage_projects_daily", "date, project_key").values()) == 600
    assert sum(tokens(place, "usage_blocks", "block_id").values()) == 600
    shares = tokens(place, "model_breakdowns", "record_type, record_key, model_name")
    assert shares["daily", "2026-01-02", "opus"] == 300
    assert shares["monthly", "2026-01", "opus"] == 600


def test_of_overlapping_blocks_the_larger_stays(place: Place) -> None:
    old = Old()
    old.block("2026-01-02T08:00:00.000Z", 500).block("2026-01-02T10:00:00.000Z", 90)
    old.block("2026-01-02T14:00:00.000Z", 60)  # overlaps only a block that goes
    old.block("gap-2026-01-02T20:00:00.000Z", 0).block("gap-2026-01-02T09:00:00.000Z", 0)
    place.load(old.tables())
    place.adopt()
    assert tokens(place, "usage_blocks", "block_id") == {
        "2026-01-02T08:00:00.000Z": 500,
        "2026-01-02T14:00:00.000Z": 60,
        "gap-2026-01-02T20:00:00.000Z": 0,
    }


def test_the_block_that_ends_a_gap_does_not_fill_it(place: Place) -> None:
    old = Old().block("2026-01-02T12:00:00.000Z", 60)
    old.block("gap-2026-01-02T07:00:00.000Z", 0, start_time="2026-01-02 05:00:00",
              end_time="2026-01-02 10:40:00")  # fmt: skip
    place.load(old.tables())
    place.adopt()
    ends = dict(place.query("SELECT block_id, toString(end_time) FROM ccusage_usage_blocks"))
    assert ends["gap-2026-01-02T07:00:00.000Z"].startswith("2026-01-02 12:40:00")


def test_a_block_that_was_active_for_ever_has_ended_and_its_times_are_true(place: Place) -> None:
    old = Old().block("2026-01-02T08:00:00.000Z", 60, is_active=1, burn_rate=2.5, projection=9.5)
    place.load(old.tables())
    assert "no longer active" in place.adopt().out
    (row,) = place.query(
        "SELECT toString(start_time), toString(end_time), toString(actual_end_time), is_active, "
        "burn_rate, `projection`, entries FROM ccusage_usage_blocks"
    )
    assert [str(value)[:19] for value in row[:3]] == [
        "2026-01-02 08:00:00", "2026-01-02 13:00:00", "2026-01-02 09:00:00",
    ]  # fmt: skip
    assert row[3:] == (0, None, None, 3)


def test_a_block_that_is_active_now_stays_so(place: Place) -> None:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0, tzinfo=None)
    old = Old().block(f"{hour.isoformat()}.000Z", 60, is_active=1, burn_rate=2.5)
    place.load(old.tables())
    place.adopt()
    assert place.query("SELECT is_active, burn_rate FROM ccusage_usage_blocks") == [(1, 2.5)]


def test_models_that_another_machine_erased_come_back_from_the_projects(place: Place) -> None:
    old = Old().day("2026-01-02", 300)
    old.project("2026-01-02", "-one", 100).project("2026-01-02", "-two", 200)
    old.share("project_daily", "2026-01-02_-one", "opus", 90)
    old.share("project_daily", "2026-01-02_-two", "opus", 120)
    old.share("project_daily", "2026-01-02_-two", "haiku", 80)
    old.share("daily", "2026-01-02", "haiku", 70)  # less than its projects'
    old.share("session", "533adfbc", "opus", 300)
    place.load(old.tables())
    assert "10 tokens of no known model" in place.adopt().out
    assert tokens(place, "model_breakdowns", "record_type, record_key, model_name") == {
        ("daily", "2026-01-02", "opus"): 210,
        ("daily", "2026-01-02", "haiku"): 80,
        ("monthly", "2026-01", "opus"): 210,
        ("monthly", "2026-01", "haiku"): 80,
        ("project_daily", f"2026-01-02_{digits('-one')[:32]}", "opus"): 90,
        ("project_daily", f"2026-01-02_{digits('-two')[:32]}", "opus"): 120,
        ("project_daily", f"2026-01-02_{digits('-two')[:32]}", "haiku"): 80,
    }
    assert place.query("SELECT models_count FROM ccusage_usage_daily") == [(2,)]
    used = place.query("SELECT record_key, model_name FROM ccusage_models_used")
    assert len(set(used)) == len(used) == 7


def test_models_that_hold_more_than_their_row_are_left_out(place: Place) -> None:
    old = Old().day("2026-01-02", 100).share("daily", "2026-01-02", "opus", 101)
    place.load(old.tables())
    place.adopt()
    assert tokens(place, "model_breakdowns", "model_name") == {}
    assert place.query("SELECT model_name FROM ccusage_models_used") == [("opus",), ("opus",)]


def test_a_month_of_which_days_are_missing_keeps_its_own_row(place: Place) -> None:
    old = Old().day("2026-01-02", 100)
    old.add("usage_monthly", month="2026-01", year=2026, month_num=1, tokens=70)
    old.add("usage_monthly", month="2025-10", year=2025, month_num=10, tokens=900)
    place.load(old.tables())
    place.adopt()
    assert tokens(place, "usage_monthly", "month") == {"2026-01": 100, "2025-10": 900}


def test_opencodes_totals_hold_their_cache_writes_and_its_projects_are_left_out(
    place: Place,
) -> None:
    old = Old().day("2026-01-02", 100, source="opencode", cache_creation_tokens=30)
    old.project("2026-01-02", "b7b854cb", 90, swapped=False, source="opencode")
    old.share("project_daily", "2026-01-02_b7b854cb", "opus", 90, source="opencode")
    place.load(old.tables())
    assert place.months() == {("box-a", "opencode", "2026-01"): (1, 100, 0, 30, 130)}
    assert tokens(place, "usage_projects_daily", "project_key") == {}
    assert tokens(place, "model_breakdowns", "model_name") == {}


def test_a_machine_that_was_written_in_two_ways_is_one(place: Place) -> None:
    old = Old()
    for name, day in (("BOX-A", "2026-01-02"), ("box-a", "2026-01-03"), ("Mac", "2026-01-04")):
        old.day(day, 10, machine_name=name)
    old.day("2026-01-05", 10, machine_name="Lab").day("2026-01-06", 10, machine_name="LAB")
    place.load(old.tables())
    place.adopt(MACHINE_NAME="Box-A")
    assert tokens(place, "usage_daily", "machine_name, date").keys() == {
        ("Box-A", date(2026, 1, 2)), ("Box-A", date(2026, 1, 3)), ("Mac", date(2026, 1, 4)),
        ("lab", date(2026, 1, 5)), ("lab", date(2026, 1, 6)),
    }  # fmt: skip


def test_tables_without_sources_machines_or_times_and_missing_tables_are_adopted(
    place: Place,
) -> None:
    """What the first generations left: no blocks, no projects, no history."""
    tables = small().tables(Layout(source=False, tables=[*KEYS][:2]))
    for name, (ddl, lines) in tables.items():
        kept = [line for line in ddl.splitlines() if "created_at" not in line]
        bare = "\n".join(line for line in kept if "`machine_name`" not in line)
        bare = bare.replace(", machine_name)", ")").replace(" DEFAULT now(),", " DEFAULT now()")
        kept_lines = [json.loads(line) for line in lines.splitlines()]
        rows = [{k: v for k, v in row.items() if f"`{k}`" in bare} for row in kept_lines]
        tables[name] = (bare, "\n".join(map(json.dumps, rows)).encode())
    place.load(tables)
    place.adopt(MACHINE_NAME="box-c")
    assert tokens(place, "usage_daily", "machine_name, toString(date)") == {
        ("box-c", "2026-01-02"): 300, ("box-c", "2026-01-03"): 300,
    }  # fmt: skip
    assert set(NAMES) <= place.content().keys()


def test_created_at_is_the_first_import_and_updated_at_one_for_all(place: Place) -> None:
    old = small().day("2026-01-02", 300, LONG_AGO + timedelta(days=3))
    place.load(old.tables())
    before = datetime.now(UTC).replace(tzinfo=None)
    place.adopt()
    times = {
        name: place.query(f"SELECT min(created_at), min(updated_at), max(updated_at) FROM {name}")
        for name in KEYS
        if name != "ccusage_usage_sessions"
    }
    assert {first for ((first, _, _),) in times.values()} == {LONG_AGO.replace(tzinfo=None)}
    ((at_last,),) = {row[0][1:2] for row in times.values()} | {row[0][2:] for row in times.values()}
    assert at_last >= before - timedelta(milliseconds=1)
    assert place.query(f"SELECT count() FROM {HISTORY}") == [(0,)]  # no identity is made up


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "plain"),
    [
        *(("", True), ("secret", False)),
        pytest.param("", False, marks=pytest.mark.stress),
        pytest.param("secret", True, marks=pytest.mark.stress),
    ],
)
def test_names_are_keyed_by_the_hash_key_and_shown_as_asked(
    place: Place, key: str, plain: bool
) -> None:
    place.load(small().tables())
    assert place.database
    place.database.server.statements(reset=True)
    options = ["--no-hash-projects"] if plain else []
    done = place.adopt(*options, PROJECT_HASH_KEY=key)
    assert set(place.query("SELECT project_key, project_id FROM ccusage_usage_projects_daily")) == {
        (digits(name, key=key)[:32], name if plain else digits(name, key=key)[:8])
        for name in ("-home-one", "-home-two")
    }
    records = place.query("SELECT record_key FROM ccusage_models_used "
                          "WHERE record_type = 'project_daily'")  # fmt: skip
    one = digits("-home-one", key=key)[:32]
    assert set(records) == {(f"{day}_{one}",) for day in ("2026-01-02", "2026-01-03")}
    if not plain:
        assert "-home-" not in done.out + done.err
        with place.client() as client:
            texts = [client.raw_query(f"SELECT * FROM {n} FORMAT CSV") for n in KEYS]
        assert b"-home-" not in b"".join(texts)
    sent = " ".join(s.query for s in place.database.server.statements())
    assert "-home-" not in sent
    assert "secret" not in sent


# --- materialized views --------------------------------------------------------------------------

MATERIALIZED = """
    CREATE MATERIALIZED VIEW ccusage_mv_daily_trends
    ENGINE = AggregatingMergeTree ORDER BY (date, source) AS
    SELECT ccusage_usage_daily.date, source, sumState(total_tokens) AS daily_tokens
    FROM ccusage_usage_daily GROUP BY date, source
"""


def test_materialized_views_keep_what_they_hold_and_take_in_nothing_new(place: Place) -> None:
    """Also after the server was started again, when they look their table up by its name."""
    assert place.database
    tables = small().tables()
    place.load({name: (ddl, b"") for name, (ddl, _) in tables.items()})
    elsewhere = f"{place.database.name}_elsewhere"
    with place.client() as client:
        client.command(MATERIALIZED)
        client.command(f"CREATE DATABASE {elsewhere}")
        client.command(
            f"CREATE MATERIALIZED VIEW {elsewhere}.days ENGINE = MergeTree ORDER BY day AS "
            f"SELECT date AS day, source FROM {place.database.name}.ccusage_usage_daily"
        )
        client.command("CREATE VIEW ccusage_v_daily_summary AS SELECT 1 AS wrong")
        for name, (_, lines) in tables.items():
            client.raw_insert(name, insert_block=lines, fmt="JSONEachRow")
    held = "SELECT sumMerge(daily_tokens) FROM ccusage_mv_daily_trends"
    assert place.query(held) == [(600,)]
    shown = place.adopt("--dry-run").out
    assert f"`{elsewhere}`.`days`" in shown
    place.adopt()
    place.database.server.restart()
    place.query("INSERT INTO ccusage_usage_daily (date, machine_name, total_tokens) "
                "VALUES ('2026-02-01', 'box-a', 5)")  # fmt: skip
    assert place.query(held) == [(600,)]
    assert place.query(f"SELECT count() FROM {elsewhere}.days") == [(2,)]
    assert place.query("SELECT sum(total_tokens) FROM ccusage_v_daily_summary") == [(605,)]
    place.query("INSERT INTO ccusage_legacy_usage_daily (date, machine_name, total_tokens) "
                "VALUES ('2026-01-09', 'box-a', 7)")  # fmt: skip
    assert place.query(held) == [(607,)]  # it is still the old table's
    place.database.server.query(f"DROP DATABASE {elsewhere}")


# --- kills ---------------------------------------------------------------------------------------


class Scene:
    """Old tables that are to be adopted again and again, and what then is in the new ones."""

    def __init__(self, place: Place, tables: dict[str, tuple[str, bytes]]) -> None:
        assert place.database
        self.place = place
        self.tables = tables
        self.server = place.database.server
        self.reset()
        self.old = place.content()
        self.server.statements(reset=True)
        place.adopt()
        self.statements = self.server.statements()
        self.after = place.adopted()
        self.reset()

    def reset(self) -> None:
        self.server.disarm()
        self.place.drop()
        self.place.load(self.tables)

    def look(self) -> None:
        """The old tables are as they were, whatever their names now are; no command goes on."""
        content = self.place.content()
        for name, rows in self.old.items():
            renamed = name.replace("ccusage_", "ccusage_legacy_")
            assert content.get(renamed, content.get(name)) == rows
        refused(self.place, ["--stats"])

    def check(self) -> None:
        """All is as after an undisturbed adoption, and nothing is left to do."""
        content = self.place.content()
        assert not [name for name in content if "adopting" in name]
        assert self.place.adopted() == self.after
        for name, rows in self.old.items():
            assert content[name.replace("ccusage_", "ccusage_legacy_")] == rows
        assert "nothing to adopt" in self.place.adopt().err


def test_cut_off_at_each_rename_the_next_run_goes_on_there(place: Place) -> None:
    scene = Scene(place, small().tables())
    for number in range(1, 16):  # the 16th rename is the last
        when, nth = ("after", 1) if number % 2 else ("before", 2)  # either way one is done
        scene.server.arm("close", when=when, match="^RENAME", nth=nth, times=-1)
        assert adopt(place.machine).code == 1
        scene.server.disarm()
        scene.look()
    assert "cut off" in place.adopt("--dry-run").err
    with place.client() as client:  # what is in its place is not put away for somebody else's
        client.command("CREATE TABLE ccusage_adopting_usage_daily AS ccusage_usage_daily")
    place.adopt()
    scene.check()


def test_cut_off_at_statements_before_the_renames_the_next_run_starts_anew(place: Place) -> None:
    scene = Scene(place, small().tables())
    first = next(i for i, s in enumerate(scene.statements) if s.query.startswith("RENAME"))
    for nth in range(1, first + 1, 11):
        scene.server.arm("close", when="after" if nth % 2 else "before", nth=nth, times=-1)
        assert adopt(place.machine).code == 1
        scene.server.disarm()
        scene.look()
    place.adopt()
    scene.check()


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param((0.6, 0.85), id="some"),
        pytest.param([n / 100 for n in range(100)], id="each", marks=pytest.mark.stress),
    ],
)
def test_killed_at_any_statement_the_next_run_ends_as_if_nothing_had_happened(
    place: Place, moments: Sequence[float]
) -> None:
    """A process, by SIGKILL."""
    scene = Scene(place, small().tables())
    killed = 0
    for moment in moments:
        scene.server.statements(reset=True)
        process = start(place.machine)
        deadline = time.monotonic() + 60
        while process.poll() is None and scene.server.progress()[0] < moment * len(
            scene.statements
        ):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.wait()
        settle(scene.server)
        if "nothing to adopt" in place.adopt().err:
            scene.reset()
            continue
        killed += 1
        scene.check()
        scene.reset()
    assert killed >= len(moments) / 2


@pytest.mark.stress
def test_cut_off_amid_the_fixture_the_next_run_ends_the_same(place: Place) -> None:
    scene = Scene(place, exported())
    for nth in range(1, len(scene.statements) + 1, 3):
        when = "before" if nth % 2 else "after"
        scene.server.arm("close", when=when, nth=nth, times=-1)
        adopt(place.machine)
        scene.server.disarm()
        place.adopt()
        scene.check()
        scene.reset()


def test_killed_while_the_database_is_embedded(tmp_path: Path) -> None:
    place = Place(Machine(tmp_path, "box-a"))
    place.load(small().tables())
    before = place.content()
    for seconds in (0.45, 0.6):
        process = start(place.machine)
        time.sleep(seconds)
        process.kill()
        process.wait()
        content = place.content()
        assert all(rows in content.values() for rows in before.values())
    place.adopt()
    assert tokens(place, "usage_daily", "date") == {"2026-01-02": 300, "2026-01-03": 300}
    assert not [name for name in place.content() if "adopting" in name]


def start(machine: Machine) -> subprocess.Popen[bytes]:
    argv = [sys.executable, adopt_legacy.__file__]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(argv, env=machine.env, stdout=quiet, stderr=quiet)
