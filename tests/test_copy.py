"""Another database is merged into the one in force: nothing is lost, and nothing changes twice."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import transcripts
from project import Project
from scenes import CHOICES, Scene, work_in_a_pause
from tables import FORKS, KEYS, Database, Machine, assert_same, embedded, read, run_forked
from test_crash import killed_after
from transcripts import Message

import ccusage_importer
from ccusage_importer import (
    Record,
    Settings,
    Tokens,
    child_environment,
    merge_blocks,
    merge_rows,
    source_settings,
)

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from scenes import Choose
    from tables import Query

HISTORY = "ccusage_import_history"
PARENTS = [table for table in KEYS if table.startswith("ccusage_usage_")]


class Fleet(NamedTuple):
    """Two machines that imported into one embedded database, and another one of theirs."""

    first: Machine
    second: Machine
    wanted: dict[str, list[Any]]

    @property
    def copy(self) -> tuple[str, str]:
        return "--copy-from", str(self.first.path)

    def env(self, path: Path) -> dict[str, str]:
        return {"CH_HOST": "", "CH_EMBEDDED_PATH": str(path), "MACHINE_NAME": ""}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed copy or import is not waited for long."""
    monkeypatch.setattr(ccusage_importer, "WRITING", 0.1)


@pytest.fixture
def database(new_database: Database) -> Database:
    """A database that is not there yet, as what is copied comes with its tables."""
    return new_database


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    home = tmp_path_factory.mktemp("fleet")
    first = Machine(home, "m1")
    first.populate(days=4)
    first.stores()
    second = Machine(home, "m2", CH_EMBEDDED_PATH=str(first.path))
    second.populate(days=2, start=date(2025, 8, 30), seed=7)
    second.stores()
    first.stores("--agents", "claude")  # a second run
    return Fleet(first, second, at(first.path))


def contents(query: Query) -> dict[str, list[Any]]:
    """All rows of all tables, but for the updated_at of usage; each key once without FINAL."""
    found: dict[str, list[Any]] = {}
    for machine in ("m1", "m2"):
        tables = read(query, machine, keep=True)
        for table, rows in tables.items():
            for row in rows.values():
                row.pop("updated_at")
            found[f"{machine} {table}"] = sorted(map(str, rows.items()))
    sql = f"SELECT * FROM {HISTORY} ORDER BY machine_name, updated_at"
    found[HISTORY] = list(map(str, query(sql)))
    assert len(found) == 2 * len(KEYS) + 1
    assert all(rows for name, rows in found.items() if name.startswith("m1"))
    return found


def at(path: Path) -> dict[str, list[Any]]:
    with embedded(path) as query:
        return contents(query)


def address(database: Database) -> str:
    server = database.server
    return f"http://{server.host}:{server.port}/{database.name}"


def another(database: Database) -> Database:
    return Database(database.server, f"{database.name}_other")


def moved_to(database: Database) -> dict[str, str]:
    return {**database.env(), "MACHINE_NAME": ""}


# --- from one database to the next ---------------------------------------------------------


def test_a_history_moves_from_database_to_database_and_stays_the_same(
    fleet: Fleet, new_database: Database, tmp_path: Path
) -> None:
    database = new_database
    wanted, machine = fleet.wanted, fleet.first
    other, back, last = another(database), tmp_path / "back", tmp_path / "last"
    machine.stores(*fleet.copy, **moved_to(database))
    assert contents(database.query) == wanted
    machine.stores("--copy-from", address(database), **moved_to(other))
    assert contents(other.query) == wanted
    machine.stores("--copy-from", address(other), **fleet.env(back))
    assert at(back) == wanted
    machine.stores("--copy-from", str(back), **fleet.env(last))  # one after the other
    assert at(last) == wanted
    assert at(back) == wanted


def test_copying_twice_changes_nothing(fleet: Fleet, database: Database) -> None:
    machine, env = fleet.first, moved_to(database)
    machine.stores("--copy-from", str(machine.path), **env)
    before = contents(database.query)
    database.server.statements(reset=True)
    done = machine.imports("--copy-from", str(machine.path), "--format", "json", **env)
    answer = json.loads(done.out)
    assert (answer["rows"], answer["runs"]) == (0, 0)
    assert database.writes() == []
    assert contents(database.query) == before


def test_a_dry_run_shows_machines_and_months_and_writes_nothing(
    fleet: Fleet, database: Database
) -> None:
    machine, env = fleet.first, moved_to(database)
    done = machine.imports("--copy-from", str(machine.path), "--dry-run", **env)
    assert "m1 2025-09 " in done.out
    assert "m2 2025-08 " in done.out
    assert database.writes() == []
    args = ("--copy-from", str(machine.path), "--dry-run", "--machine", "m2", "--format", "json")
    months = json.loads(machine.imports(*args, **env).out)["months"]
    assert [month["machine"] for month in months] == ["m2"] * len(months)
    assert all(month["rows_here"] == 0 < month["rows_there"] for month in months)
    assert all(month["rows_after"] == month["rows_there"] for month in months)
    days = fleet.second.feeds()["daily"]["daily"]
    august = sum(day["totalCost"] for day in days if day["date"] < "2025-09")
    assert months[0]["cost_after"] == pytest.approx(august)


def test_one_machine_can_be_copied(fleet: Fleet, database: Database) -> None:
    machine, env = fleet.first, moved_to(database)
    machine.stores("--copy-from", str(machine.path), "--machine", "m2", **env)
    for table in (*KEYS, HISTORY):
        names = database.query(f"SELECT DISTINCT machine_name FROM {table}")
        assert names in ([("m2",)], []), table
    done = machine.imports(
        "--copy-from", str(machine.path), "--machine", "m3", "--quiet", code=2, **env
    )
    assert "--machine: 'm3' never imported; m1, m2 did" in done.err


def test_cut_off_at_any_table_it_can_be_repeated(fleet: Fleet, database: Database) -> None:
    """Each copy is cut off some tables after the point that the one before it has reached."""
    codes = []
    while not codes or codes[-1]:
        database.server.arm("code:241", when="after", match="^INSERT", nth=6)
        done = fleet.first.main(*fleet.copy, "--quiet", **moved_to(database))
        database.server.disarm()
        codes.append(done.code)
        assert len(codes) < 9, done.err
    assert codes[:-1] == [3] * (len(codes) - 1)
    assert len(codes) > 2
    assert contents(database.query) == fleet.wanted


def a_copy(tmp_path: Path, database: Database) -> Scene:
    """A server that lacks what a machine used since, and to which its other database is copied.

    Every table gets new rows and larger ones, and a block goes that the other cut lacks.
    """
    machine = Machine(tmp_path, database=database)
    machine.populate(days=4)
    machine.stores()
    source = another(database)
    machine.stores("--copy-from", address(database), **moved_to(source))
    work_in_a_pause(machine)
    machine.populate(start=date(2025, 9, 23), days=2, seed=5)
    machine.stores(**source.env())
    wanted = read(source.query, machine.name)
    scene = Scene(machine, "--copy-from", address(source))
    assert_same(scene.after, wanted)
    blocks = (state["ccusage_usage_blocks"].keys() for state in (scene.before, scene.after))
    assert next(blocks) - next(blocks)
    return scene


@CHOICES
def test_a_copy_to_a_server_that_is_killed_at_any_statement_can_be_repeated(
    choose: Choose, tmp_path: Path, database: Database
) -> None:
    scene = a_copy(tmp_path, database)
    moments = choose(range(scene.statements_of_a_run()), 17)
    torn = 0
    for moment in moments:
        killed_after(scene, moment, 0.002 * (moment % 4))
        torn += scene.check_between()
        if not scene.untouched():
            scene.recover()
            scene.reset()
    assert torn  # the kills did hit the writing


def kill_at_write(machine: Machine, args: tuple[str, ...], number: int, seconds: float) -> bool:
    """Kill a process when it begins its write of this number, or a little later.

    Says whether there was such a write.
    """
    told, telling = multiprocessing.Pipe(duplex=False)
    process = FORKS.Process(target=tell_writes, args=(telling, machine.env, args))
    process.start()
    telling.close()
    try:
        for _ in range(number):
            told.recv()
    except EOFError:
        process.join()
        return False
    time.sleep(seconds)
    process.kill()
    process.join()
    return True


def tell_writes(telling: Connection, env: dict[str, str], args: tuple[str, ...]) -> None:
    """Run the program, and tell when it begins to insert or delete."""

    def watched(name: str) -> None:
        original = getattr(ccusage_importer.ClickHouseImporter, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            telling.send(name)
            return original(*args, **kwargs)

        setattr(ccusage_importer.ClickHouseImporter, name, wrapper)

    watched("_insert")
    watched("_delete")
    run_forked(env, args)


@CHOICES
def test_a_copy_between_embedded_databases_that_is_killed_at_any_write_can_be_repeated(
    choose: Choose, tmp_path: Path, database: Database
) -> None:
    scene = a_copy(tmp_path / "server", database)
    machine, source = Machine(tmp_path), Machine(tmp_path / "source")
    for copy, place in ((machine, database), (source, another(database))):
        copy.stores("--copy-from", address(place))
    before = tmp_path / "before"
    shutil.copytree(machine.path, before, symlinks=True)
    args, torn = ("--copy-from", str(source.path)), 0
    files = sorted(machine.state.iterdir())
    for number in choose(range(1, 16), 5):
        assert kill_at_write(machine, args, number, 0.003 * (number % 4))
        assert sorted(machine.state.iterdir()) == files  # no rows lie between the two
        for table, rows in machine.tables(final=True).items():
            if rows != scene.before[table]:
                assert_same({table: rows}, {table: scene.after[table]})
                torn += 1
        machine.stores(*args)
        assert_same(machine.tables(), scene.after)
        shutil.rmtree(machine.path)
        shutil.copytree(before, machine.path, symlinks=True)
    assert not kill_at_write(machine, args, 99, 0)
    assert torn


def test_the_next_import_goes_on_as_if_it_had_always_been_there(
    tmp_path: Path, database: Database
) -> None:
    machine = Machine(tmp_path, "m1")
    machine.populate(days=2)
    machine.stores()
    machine.stores("--copy-from", str(machine.path), **database.env())
    before = read(database.query, "m1", keep=True)
    transcripts.write_session(
        machine.claude, "-p", "late", [Message(datetime(2025, 9, 29, 9, tzinfo=timezone.utc))]
    )
    machine.stores(**database.env())
    after = read(database.query, "m1")
    assert_same(after, machine.expected())
    assert len(after["ccusage_usage_daily"]) == len(before["ccusage_usage_daily"]) + 1
    installations = database.query(f"SELECT DISTINCT installation_id FROM {HISTORY}")
    assert len(installations) == 1


def test_what_is_copied_is_of_a_moment_at_which_no_import_writes(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ccusage_importer, "WRITING", 20.0)
    machine = Machine(tmp_path, "m1", database=database)
    machine.populate(days=1)
    machine.stores()
    late = [Message(datetime(2025, 9, 29, 9, tzinfo=timezone.utc), model="claude-new-1")]
    transcripts.write_session(machine.claude, "-p", "late", late)
    database.server.arm("delay:2", match="^INSERT.*usage_daily")
    new = "SELECT count() FROM ccusage_models_used WHERE model_name = 'claude-new-1'"
    process = machine.fork()
    while process.is_alive() and database.query(new) == [(0,)]:
        time.sleep(0.02)
    began = len(machine.history())
    copy = {"CH_HOST": "", "CH_DATABASE": "", "MACHINE_NAME": ""}
    own = {"CCUSAGE_STATE_DIR": str(tmp_path / "own")}  # the import holds the lock of its own
    machine.stores("--copy-from", address(database), **copy, **own)
    process.join()
    assert (began, len(machine.history())) == (1, 2)
    with embedded(machine.path) as query:
        assert_same(read(query, "m1"), read(database.query, "m1"))


@pytest.mark.stress
def test_a_server_is_copied_exactly_while_other_machines_import_in_a_loop(
    tmp_path: Path, database: Database
) -> None:
    machine, busy = (Machine(tmp_path, name, database=database) for name in ("m1", "m2"))
    machine.populate(days=3)
    busy.populate(days=1, seed=2)
    machine.stores()
    busy.stores()
    copies, stop = [database], threading.Event()

    def work() -> None:
        for number in itertools.takewhile(lambda _: not stop.is_set(), itertools.count(2)):
            busy.populate(days=min(number, 20), seed=2)
            process = busy.fork("--quiet")
            process.join()
            assert process.exitcode == 0

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        for number in range(4):
            copies.append(Database(database.server, f"{database.name}_copy{number}"))
            copy = ("--copy-from", address(database))
            machine.stores(*copy, CCUSAGE_STATE_DIR=str(tmp_path / "own"), **moved_to(copies[-1]))
            assert_same(read(copies[-1].query, "m1"), read(database.query, "m1"))
            read(copies[-1].query, "m2")  # each key once
        stop.set()
        working.result()
    assert len(busy.history()) > 4
    machine.stores("--copy-from", address(database), **moved_to(copies[-1]))
    assert contents(copies[-1].query) == contents(database.query)


# --- which of two rows stays ---------------------------------------------------------------


def test_of_two_states_of_a_machine_the_larger_rows_stay(
    tmp_path: Path, database: Database
) -> None:
    """Each database holds a day that the other lacks, and more than the other of one day."""
    machine = Machine(tmp_path, "m1")
    machine.populate(days=2)
    machine.stores()
    machine.stores("--copy-from", str(machine.path), **database.env())
    before = machine.tables()
    late = [datetime(2025, 9, day, 23, tzinfo=timezone.utc) for day in (20, 30)]
    transcripts.write_session(machine.claude, "-x", "late", [Message(moment) for moment in late])
    machine.stores(**database.env())
    wanted = read(database.query, "m1")
    assert wanted != before == machine.tables()
    machine.stores("--copy-from", address(database))  # the larger one into the smaller one
    assert_same(machine.tables(), wanted)
    for table in KEYS:
        database.query(f"ALTER TABLE {table} DELETE WHERE agent < 'd' SETTINGS mutations_sync = 1")
    machine.stores("--copy-from", str(machine.path), **database.env())
    assert_same(read(database.query, "m1"), wanted)  # what was deleted has come back


@pytest.mark.rotates(4)
@pytest.mark.parametrize("cut", [2, 5])
@pytest.mark.parametrize("half_done", ["there", "here"])
def test_what_a_killed_import_left_half_done_is_copied_row_by_row_with_its_models(
    half_done: str, cut: int, tmp_path: Path, database: Database
) -> None:
    """The source, or the target, has two versions of some rows, and no history of the newer."""
    machine, other = Machine(tmp_path, database=database), another(database)
    copy = ("--copy-from", address(other))
    machine.populate(days=3)
    machine.stores()
    machine.stores("--copy-from", address(database), **moved_to(other))
    path = min((machine.claude / "projects").glob("*/*.jsonl"))
    transcripts.grow(path, [Message(datetime(2025, 9, 29, 9, tzinfo=timezone.utc))])
    machine.freeze()
    torn = other if half_done == "there" else database
    torn.server.arm("code:241", when="after", match="^INSERT", nth=cut)
    machine.stores(code=3, **torn.env())
    torn.server.disarm()
    wanted = read(torn.query, "m1", final=True)
    machine.stores(*copy, **moved_to(database))
    found = read(database.query, "m1")  # each key once, even without FINAL
    for table in PARENTS:
        assert_same({table: found[table]}, {table: wanted[table]})
    for place in (other, database):
        machine.stores(**place.env())
    machine.stores(*copy, **moved_to(database))
    assert_same(read(database.query, "m1"), machine.expected())
    assert_same(read(other.query, "m1"), machine.expected())


def test_two_installations_under_one_name_become_one_machine_with_the_runs_of_both(
    tmp_path: Path, database: Database
) -> None:
    """What both used counts once, by its larger row; the next import tells of the other one."""
    one = Machine(tmp_path / "one", "m1", database=database)
    two = Machine(tmp_path / "two", "m1")
    one.populate(days=3)
    shutil.copytree(one.claude, two.claude, dirs_exist_ok=True)
    one.populate(start=date(2025, 8, 1), days=2, seed=3)
    two.populate(start=date(2025, 9, 23), days=2, seed=4)
    one.stores()
    two.stores()
    ours, theirs = one.tables(), two.tables()
    runs = one.history("installation_id", "updated_at")
    runs += two.history("installation_id", "updated_at")
    one.stores("--copy-from", str(two.path))
    after = one.tables()
    for table in ("ccusage_usage_daily", "ccusage_usage_sessions", "ccusage_usage_projects_daily"):
        assert after[table].keys() == ours[table].keys() | theirs[table].keys()
        for key, row in after[table].items():
            tokens = [state[table][key]["total_tokens"] for state in (ours, theirs)
                      if key in state[table]]  # fmt: skip
            assert row["total_tokens"] == max(tokens), (table, key)
    assert one.history("installation_id", "updated_at") == sorted(runs, key=lambda run: run[1])
    one.stores("--copy-from", str(two.path))
    assert one.tables() == after
    done = one.imports("--quiet")
    assert "another installation" in done.err
    assert one.tables() == after


def record(key: tuple[Any, ...], tokens: int, cost: float = 1.0, **details: Any) -> Record:
    return Record("claude", key, Tokens(total=tokens), cost, frozenset(), {}, details)


def block(hour: int, tokens: int, *, gap: bool = False) -> Record:
    start = datetime(2025, 9, 20, hour, tzinfo=timezone.utc)
    times = {"start_time": start, "end_time": start + timedelta(hours=5)}
    return record((f"{'gap-' * gap}{hour}",), tokens, is_gap=int(gap), **times)


def by_id(*records: Record) -> dict[tuple[Any, ...], Record]:
    return {each.id: each for each in records}


def test_the_row_that_holds_more_stays_under_the_name_that_is_shown_here() -> None:
    here = by_id(record(("a",), 10, project_id="x"), record(("b",), 10), record(("c",), 5, 0.0))
    there = by_id(
        record(("a",), 11, project_id="y"),
        record(("b",), 10, cost=2.0),  # the past keeps its price
        record(("c",), 5, 3.0),  # but a price is better than none
        record(("d",), 1),
    )
    after = merge_rows(here, there)
    assert [(row.key[0], row.tokens.total, row.cost) for row in after.values()] == [
        ("a", 11, 1.0), ("b", 10, 1.0), ("c", 5, 3.0), ("d", 1, 1.0),
    ]  # fmt: skip
    assert after["claude", "a"].details == {"project_id": "x"}
    assert merge_rows(after, there) == after


@pytest.mark.parametrize(
    ("tokens", "names"),
    [(30, ["2", "8", "gap-13"]), (20, ["0", "6", "gap-11"])],
    ids=["theirs", "ours, as it holds as much"],
)
def test_of_blocks_the_cut_that_holds_more_stays(tokens: int, names: list[str]) -> None:
    mine = by_id(block(0, 10), block(6, 10), block(11, 0, gap=True))
    other = by_id(block(2, tokens - 5), block(8, 5), block(13, 0, gap=True))
    after = merge_blocks(mine, other)
    assert [name for _, name in sorted(after, key=lambda key: (len(key[1]), key[1]))] == names
    assert merge_blocks(after, other) == after


# --- privacy and keys ----------------------------------------------------------------------


def test_names_are_shown_as_the_target_shows_them(tmp_path: Path, database: Database) -> None:
    plain = Machine(tmp_path / "plain", "m1")
    plain.populate(days=1)
    plain.stores("--no-hash-projects")
    hashed = Machine(tmp_path / "hashed", "m1", CLAUDE_CONFIG_DIR=str(plain.claude))
    hashed.stores()
    wanted = hashed.tables()
    hashed.stores("--copy-from", str(plain.path))
    assert hashed.tables() == wanted
    hashed.stores("--copy-from", str(plain.path), **database.env())  # into nothing: as this machine
    assert read(database.query, "m1") == wanted
    plain.stores("--copy-from", address(database))
    assert plain.tables() != wanted  # names that are known stay


def test_another_hash_key_is_refused(fleet: Fleet, database: Database, tmp_path: Path) -> None:
    copy, env = ("--copy-from", str(fleet.first.path)), moved_to(database)
    refused = "PROJECT_HASH_KEY: the projects of m1 are stored under another key"
    # Into nothing it is the key that is set, and later the one that is stored.
    done = fleet.first.imports(*copy, "--quiet", code=2, **env, PROJECT_HASH_KEY="k")
    assert done.err.startswith(refused)
    machine = Machine(tmp_path, "m3", database=database, PROJECT_HASH_KEY="k")
    machine.populate(days=1)
    machine.stores()
    done = fleet.first.imports(*copy, "--quiet", code=2, **env)
    assert done.err.startswith(refused)
    assert database.query(f"SELECT DISTINCT machine_name FROM {HISTORY}") == [("m3",)]


# --- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["http://me:s3cret@db/x", "http://me:s3/cret@db:1/x", "https://:s3cret@db/x", "me:s3cret@db/x",
     "http://db:s3cret/x", "http://s3cret", "ftp://s3cret@db/x", "http://db/x?password=s3cret"],
)  # fmt: skip
def test_no_password_in_an_address_is_repeated(tmp_path: Path, address: str) -> None:
    done = Machine(tmp_path).main("--copy-from", address)
    assert (done.code, done.out) == (2, "")
    assert "--copy-from: " in done.err
    if "@" in address:
        assert "s3cret" not in done.err


def test_what_an_address_says() -> None:
    settings = Settings.from_env({"COPY_FROM_PASSWORD": "p", "CH_PASSWORD": "q", "CH_USER": "u"})
    source = source_settings(settings, "https://me%40work@[::1]/my%20data")
    assert source[4:9] == ("[::1]", 8443, "me@work", "p", "my data")
    assert source_settings(settings, "http://db:9/x")[4:8] == ("db", 9, "default", "p")
    assert "p" not in child_environment({"COPY_FROM_PASSWORD": "p"}).values()


def test_a_source_that_is_the_target_is_refused(fleet: Fleet, database: Database) -> None:
    machine, env = fleet.first, moved_to(database)
    link = machine.home / "link"
    link.symlink_to(machine.path)
    for path in (machine.path, link):
        done = machine.imports("--copy-from", str(path), "--quiet", code=2)
        assert done.err.endswith("is the database in force itself\n")
    machine.stores("--copy-from", str(machine.path), **env)
    for host in (database.server.host, "127.0.0.1", "localhost"):
        url = f"http://{host}:{database.server.port}/{database.name}"
        done = machine.imports("--copy-from", url, "--quiet", code=2, **env)
        assert done.err.endswith("is the database in force itself\n")


def test_a_source_that_is_none_is_refused(fleet: Fleet, database: Database, tmp_path: Path) -> None:
    machine, env = fleet.first, moved_to(database)
    done = machine.imports("--copy-from", str(tmp_path), "--quiet", code=2, **env)
    assert done.err.startswith(
        "--copy-from: expected the directory of an embedded database, or http"
    )
    assert list(tmp_path.iterdir()) == []
    done = machine.imports("--copy-from", address(another(database)), "--quiet", code=2)
    assert "has no tables of ours" in done.err
    url = f"http://nobody@{database.server.host}:{database.server.port}/x"
    done = machine.imports("--copy-from", url, "--quiet", code=1, COPY_FROM_PASSWORD="x")
    assert "COPY_FROM_PASSWORD" in done.err
    assert "CH_PASSWORD" not in done.err


# --- told in time --------------------------------------------------------------------------


def test_an_import_into_a_new_database_says_once_where_the_history_lies(
    tmp_path: Path, database: Database
) -> None:
    machine = Machine(tmp_path, "m1")
    machine.populate(days=2)
    machine.stores()
    days = len(machine.feeds()["daily"]["daily"])
    done = machine.main("--check", **database.env())
    assert f"holds {days} days of m1, $" in " ".join(done.out.split())
    command = f"ccusage_importer.py --copy-from {machine.path}"
    first, second = (machine.imports("--quiet", **database.env()).err for _ in range(2))
    assert f"holds {days} days of m1, $" in first
    assert first.count("\n") == 1
    assert first.endswith(f"to bring it here, run {command}\n")
    assert second == ""
    back = {"CH_EMBEDDED_PATH": str(tmp_path / "new")}
    first, second = (machine.imports(**back).err for _ in range(2))
    assert "m1 has imported before, but the embedded database" in first
    assert "imported before" not in second


def test_a_lost_machine_json_comes_back_from_the_history_and_this_is_said(
    tmp_path: Path, database: Database
) -> None:
    machine = Machine(tmp_path, "m1", database=database)
    machine.populate(days=1)
    machine.stores()
    path = machine.state / "machine.json"
    before = json.loads(path.read_text())
    path.unlink()
    done = machine.imports("--format", "json")  # MACHINE_NAME is set
    assert "m1: takes up the identity that imported last on " in done.err
    assert before["installation_id"] in done.err
    after = json.loads(path.read_text())
    assert {**after, "newest_run": before["newest_run"]} == before
    assert "takes up" not in machine.imports("--format", "json").err


# --- backup --------------------------------------------------------------------------------


def test_a_backup_and_its_restore_in_the_shell_while_dotenv_names_a_server(
    tmp_path: Path, database: Database
) -> None:
    project = Project(tmp_path, database)
    project.machine.stores()
    wanted = read(database.query, "m1", keep=True)
    settings = database.env() | {"MACHINE_NAME": "m1"}
    project.dotenv.write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))
    env = {k: v for k, v in project.machine.env.items() if k not in (*settings, "CH_EMBEDDED_PATH")}

    def shell(command: str) -> None:
        where = {
            "PYTHON": sys.executable,
            "BACKUP": str(tmp_path / "backup/usage"),
            "SERVER": address(database),
        }
        subprocess.run(
            ["/bin/sh", "-ec", command], cwd=project.folder, env=env | where, check=True,
            capture_output=True, timeout=120,
        )  # fmt: skip

    shell('CH_HOST= CH_EMBEDDED_PATH="$BACKUP" "$PYTHON" ccusage_importer.py --copy-from "$SERVER"')
    database.server.query(f"DROP DATABASE {database.name} SYNC")
    shell('"$PYTHON" ccusage_importer.py --copy-from "$BACKUP"')
    found = read(database.query, "m1", keep=True)
    for tables in (found, wanted):
        for row in (row for rows in tables.values() for row in rows.values()):
            row.pop("updated_at")
    assert_same(found, wanted)
