"""After an import the tables say what ccusage says, once; a second import changes nothing."""

from __future__ import annotations

import itertools
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
import recorded
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tables import (
    FEED_TABLES,
    KEYS,
    NO_OTHERS,
    RECORD_TYPES,
    Database,
    Expected,
    Machine,
    assert_same,
    at,
    digits,
    footprint,
    total,
)
from transcripts import (
    OPUS,
    PROJECTS,
    SONNET,
    Features,
    Message,
    answer,
    grow,
    midnight_of,
    write_lines,
    write_session,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tables import Rows, Tables

UTC = timezone.utc
NOON = datetime(2025, 9, 20, 12, tzinfo=UTC)
NOTHING_BUT: dict[str, bool] = dict.fromkeys(Features._fields, False)


def credits_at_random(version: str) -> bool:
    """Up to 18 a message that two files hold goes to either of their projects and sessions."""
    return int(version.partition(".")[0]) < 19


@pytest.fixture
def machine(tmp_path: Path, database: Database) -> Machine:
    return Machine(tmp_path, database=database)


def dump(machine: Machine) -> str:
    """Every value of every row of every machine, without FINAL."""
    with machine.asking() as query:
        rows = [query(f"SELECT * FROM {table}") for table in (*KEYS, "ccusage_import_history")]
    return repr(rows)


def surroundings(machine: Machine) -> str:
    """What the program left beside the database."""
    return "".join(p.read_text() for p in machine.state.rglob("*") if p.is_file())


# --- faithful ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "where"),
    [
        ("15.9.7", "server"),
        pytest.param("16.2.5", "server", marks=pytest.mark.stress),
        pytest.param("17.2.1", "embedded", marks=pytest.mark.stress),
        ("18.0.11", "server"),
        ("19.0.3", "server"),
        ("20.0.24", "embedded"),
        ("20.0.24", "server"),
    ],
)
def test_every_table_equals_ccusages_own_json_and_stays_as_it_is(
    version: str, where: str, tmp_path: Path, new_database: Database
) -> None:
    machine = Machine(
        tmp_path, version=version, database=new_database if where == "server" else None
    )
    machine.populate(resumed=not credits_at_random(version))
    run = machine.run if where == "embedded" else machine.main
    done = run("--no-hash-projects")
    assert done.code == 0, done.err
    feeds = machine.freeze()
    wanted = Expected(version, hidden=False).claude(feeds).tables
    machine.check(wanted, views=True)
    for feed in ("daily", "monthly", "session", "projects"):
        assert total(wanted, feed) == feeds[feed]["totals"]["totalTokens"] > 0
    name = machine.database.name if machine.database else "default"
    with machine.asking() as query:
        before = footprint(query, name)
    assert run("--no-hash-projects").code == 0
    with machine.asking() as query:
        after = footprint(query, name)
    del before["ccusage_import_history"], after["ccusage_import_history"]
    assert set(before) == set(KEYS)
    assert after == before  # no new part, no mutation
    assert_same(machine.tables(), wanted)
    assert len(machine.history()) == 2


@pytest.mark.parametrize(
    "kinds",
    [
        "midnight multi_day resumed gaps",
        "sidechains subagents progress replays gaps",
        "streaming hour_cache synthetic unpriced busy",
    ],
)
def test_each_kind_of_transcript_arrives_as_ccusage_counts_it(kinds: str, machine: Machine) -> None:
    features = NOTHING_BUT | dict.fromkeys(kinds.split(), True)
    machine.populate(days=8, seed=5, **features)
    machine.stores()
    machine.check(views=True)
    machine.database.server.statements(reset=True)
    machine.stores()
    assert [w.split()[2] for w in machine.database.writes()] == ["ccusage_import_history"]


@pytest.mark.parametrize(
    ("version", "zone"),
    [("18.0.11", "America/St_Johns"), ("20.0.24", "Asia/Tokyo")],
)
def test_days_are_those_of_the_machines_zone(
    version: str, zone: str, tmp_path: Path, database: Database
) -> None:
    machine = Machine(tmp_path, version=version, database=database, zone=zone)
    machine.populate(days=6, resumed=False)
    machine.stores()
    machine.check(views=True)
    assert machine.history("timezone") == [(zone,)]


@pytest.mark.parametrize("version", ["18.0.11", "20.0.24"])
def test_the_years_1970_and_2199_are_years_too(
    version: str, tmp_path: Path, database: Database
) -> None:
    machine = Machine(tmp_path, version=version, database=database)
    for year in (1970, 2199):
        moments = [datetime(year, 1, 2, hour, tzinfo=UTC) for hour in (1, 9)]
        write_session(machine.claude, "-p", f"s{year}", [Message(moment) for moment in moments])
    machine.freeze()
    machine.stores()
    machine.check(views=True)
    dates = [key[1] for key in machine.tables()["ccusage_usage_daily"]]
    assert sorted(dates) == [date(1970, 1, 2), date(2199, 1, 2)]


@pytest.mark.parametrize("version", ["18.0.11", "20.0.24"])
def test_nothing_to_import_is_no_error(version: str, tmp_path: Path, database: Database) -> None:
    machine = Machine(tmp_path, version=version, database=database)
    machine.stores()
    assert not any(machine.tables().values())
    assert machine.history("rows_inserted") == [(0,)]


@pytest.mark.parametrize("empty", ["list", "object"])
def test_both_shapes_of_an_empty_feed_are_empty(empty: str, machine: Machine) -> None:
    stub = machine.stub()
    totals = NO_OTHERS["totals"]
    objects = {
        "daily": {"daily": [], "totals": totals},
        "monthly": {"monthly": [], "totals": totals},
        "session": {"sessions": [], "totals": totals},
        "projects": {"daily": [], "totals": totals},
        "blocks": {"blocks": []},
    }
    lists: dict[str, Any] = {feed: [] for feed in objects}
    stub.say(agents=NO_OTHERS, **(objects if empty == "object" else lists))
    machine.stores()
    assert not any(machine.tables().values())
    assert machine.history("feeds_imported", "feeds_failed") == [(sorted(FEED_TABLES), [])]


def test_an_active_block_has_a_burn_rate_that_alone_is_no_change(machine: Machine) -> None:
    now = datetime.now(UTC)
    messages = [Message(now - timedelta(minutes=m)) for m in (9, 5, 1)]
    write_session(machine.claude, "-p", "s", messages)
    machine.stores()
    machine.check()
    (row,) = [row for row in machine.tables()["ccusage_usage_blocks"].values() if row["is_active"]]
    assert row["burn_rate"] > 0
    assert row["projection"] > 0
    view = machine.database.query("SELECT total_tokens FROM ccusage_v_active_blocks")
    assert view == [(row["total_tokens"],)]
    machine.database.server.statements(reset=True)
    machine.stores()
    assert len(machine.database.writes()) == 1


def test_a_usage_limit_is_stored_with_its_block(machine: Machine) -> None:
    said = answer(Message(NOON), "s")
    text = f"Claude AI usage limit reached|{round(NOON.timestamp()) + 7200}"
    limit = answer(Message(NOON + timedelta(minutes=3), text=text), "s")
    limit["isApiErrorMessage"] = True
    write_lines(machine.claude / "projects/-p/s.jsonl", [said, limit], NOON)
    machine.stores()
    machine.check()
    (row,) = machine.tables()["ccusage_usage_blocks"].values()
    assert row["usage_limit_reset_time"] == datetime(2025, 9, 20, 14)


# So few that no sum over rows leaves UInt64, in which the views add up.
TOKENS = st.integers(0, 2**58) | st.integers(0, 1000).map(float)
COSTS = st.floats(0, 1e9) | st.integers(0, 1000) | st.floats(-10, 0)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50)


@given(
    st.dictionaries(
        st.dates(date(1901, 1, 1), date(2298, 12, 31)), st.tuples(TOKENS, COSTS), max_size=9
    ),
    st.dictionaries(NAMES, st.tuples(TOKENS, COSTS), max_size=5),
    st.booleans(),
)
@settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_valid_feed_survives_the_way_through_the_database(
    tmp_path: Path, database: Database, days: Any, names: Any, hidden: bool
) -> None:
    machine = Machine(tmp_path, f"m{next(NUMBERS)}", database=database)
    feeds = feeds_of(days, names)
    machine.stub().say(agents=NO_OTHERS, **feeds)
    machine.stores(*([] if hidden else ["--no-hash-projects"]))
    machine.check(Expected(hidden=hidden).claude(feeds).tables)


NUMBERS = itertools.count()


def feeds_of(days: Any, names: Any) -> dict[str, Any]:
    """Feeds with these days, and with projects, sessions and models of these names."""
    feeds = recorded.build_feeds(1, 1, until=date(2025, 9, 20))
    shares = [
        {"modelName": name, **dict.fromkeys(recorded.COUNTERS, n), "cost": cost}
        for name, (n, cost) in names.items()
    ]

    def row(n: Any, cost: Any, **key: str) -> dict[str, Any]:
        counts = dict.fromkeys(recorded.COUNTERS, 0) | {"inputTokens": n, "totalTokens": n}
        used = {"modelsUsed": list(names), "modelBreakdowns": shares}
        return {**key, **counts, "totalCost": cost, **used}

    daily = [row(n, cost, date=str(day)) for day, (n, cost) in days.items()]
    activity = {"lastActivity": "2025-09-20T10:00:00.123Z"}
    sessions = [
        row(n, cost, sessionId=name, projectPath=name, **activity)
        for name, (n, cost) in names.items()
    ]
    projects = {name: [row(n, c, date="2025-09-20")] for name, (n, c) in names.items()}
    flat = [rows[0] for rows in projects.values()]
    feeds["daily"] = {"daily": daily, "totals": totals_of(daily)}
    feeds["session"] = {"sessions": sessions, "totals": totals_of(sessions)}
    feeds["projects"] = {"projects": projects, "totals": totals_of(flat)}
    return feeds


def totals_of(rows: list[Any]) -> dict[str, Any]:
    sums = {name: min(sum(r[name] for r in rows), 2**64 - 1) for name in recorded.COUNTERS}
    sums["totalTokens"] = sums["inputTokens"]
    return {**sums, "totalCost": sum(row["totalCost"] for row in rows)}


# --- names -------------------------------------------------------------------------------------


def test_what_is_shown_may_change_but_rows_keep_their_identity(machine: Machine) -> None:
    machine.populate(days=5)
    machine.stores()
    hidden = machine.tables(keep=True)
    machine.check(machine.expected(hidden=True))
    machine.stores("--no-hash-projects")
    machine.check(machine.expected(hidden=False))
    shown = machine.tables(keep=True)
    machine.stores("--hash-projects")
    machine.check(machine.expected(hidden=True))
    for table in KEYS:
        assert hidden[table].keys() == shown[table].keys()
        for key, row in hidden[table].items():
            assert shown[table][key]["created_at"] == row["created_at"]


def test_with_privacy_no_name_is_anywhere(machine: Machine, capfd: Any) -> None:
    machine.populate(days=5)
    paths = list((machine.claude / "projects").rglob("*.jsonl"))
    names = {*PROJECTS, *(p.stem for p in paths), *(p.parent.name for p in paths)} - {"subagents"}
    done = machine.run("--verbose")
    text = dump(machine) + surroundings(machine) + done.out + done.err
    assert not [name for name in names if name in text]


def test_names_of_what_is_gone_are_hidden_too_once_privacy_is_on(machine: Machine) -> None:
    machine.populate(days=5)
    machine.stores("--no-hash-projects")
    wanted = machine.expected(hidden=True)
    names = [*PROJECTS, *(p.stem for p in (machine.claude / "projects").rglob("*.jsonl"))]
    assert names[0] in dump(machine)
    for path in (machine.claude / "projects").rglob("*.jsonl"):
        path.unlink()
    machine.stores("--hash-projects")
    assert not [name for name in names if name in dump(machine)]
    machine.check(wanted)


def collision() -> tuple[str, str]:
    """Two names whose hashes begin with the same 8 digits."""
    seen: dict[str, str] = {}
    for number in itertools.count():
        name = f"-home-dev-{number}"
        if other := seen.get(shown := digits(name)[:8]):
            return other, name
        seen[shown] = name
    raise AssertionError


def test_two_names_with_the_same_8_digits_stay_two_rows_with_their_own_sums(
    machine: Machine,
) -> None:
    one, two = collision()
    for project, session, output in ((one, one, 100), (two, two, 30), (one, two, 7), (two, one, 1)):
        at_ = NOON + timedelta(minutes=output)
        write_session(machine.claude, project, session, [Message(at_, output=output)])
    machine.stores()
    machine.check()
    tables = machine.tables()
    sessions = tables["ccusage_usage_sessions"].values()
    assert len({(row["project_path"], row["session_id"]) for row in sessions}) == 1
    assert sorted(row["output_tokens"] for row in sessions) == [1, 7, 30, 100]
    projects = tables["ccusage_usage_projects_daily"].values()
    assert len({row["project_id"] for row in projects}) == 1
    assert sorted(row["output_tokens"] for row in projects) == [31, 107]


NASTY = ("it's", 'say "hi"', "back\\slash", "{x:String}", "a\nb", "😀 née", "-- ;", "%s", "\\N")


@pytest.mark.parametrize("version", ["18.0.11", "20.0.24"])
def test_nasty_names_arrive_exactly(version: str, tmp_path: Path, database: Database) -> None:
    machine = Machine(tmp_path, "it's \\ me 😀", version=version, database=database)
    for number, name in enumerate(NASTY):
        message = Message(NOON + timedelta(minutes=number), model=f"claude-{name}")
        write_session(machine.claude, name, f"{name} {number}", [message])
    machine.freeze()
    for hidden in (False, True):
        machine.stores("--hash-projects" if hidden else "--no-hash-projects")
        machine.check(machine.expected(hidden=hidden))
    for number, name in enumerate(NASTY):  # superseded rows are found and deleted
        path = machine.claude / "projects" / name / f"{name} {number}.jsonl"
        grow(path, [Message(NOON + timedelta(hours=1), model=f"claude-{name}-2", text=name)])
    machine.freeze()
    machine.stores()
    machine.check(views=True)


def test_names_that_no_file_can_have_arrive_exactly(machine: Machine) -> None:
    names = ("nul\0nul", "\0", "n" * 10_000, "😀" * 2_500, "\r\n\t", "\ufeffbom", "\u2028", " ")
    days = {date(2025, 9, 20): (5, 0.5)}
    feeds = feeds_of(days, {name: (n, 0.5) for n, name in enumerate(names, 1)})
    stub = machine.stub()
    for hidden in (False, True):
        stub.say(agents=NO_OTHERS, **feeds)
        machine.stores("--hash-projects" if hidden else "--no-hash-projects")
        machine.check(Expected(hidden=hidden).claude(feeds).tables)
    feeds = feeds_of(days, {name + "!": (n, 0.5) for n, name in enumerate(names, 1)})
    stub.say(agents=NO_OTHERS, **feeds)
    machine.stores("--allow-shrink")
    wanted = Expected().claude(feeds).tables
    actual = machine.tables()
    for table, key in (("ccusage_usage_daily", ("claude", date(2025, 9, 20))),):
        assert actual[table][key] == wanted[table][key]
    kind = ("claude", "daily", "2025-09-20")
    models = {key[3] for key in actual["ccusage_models_used"] if key[:3] == kind}
    assert models == {name + "!" for name in names}


def test_thousands_of_rows_are_replaced_at_once(machine: Machine) -> None:
    """Longer than a form field of ClickHouse may be."""
    stub = machine.stub()
    feeds = recorded.build_feeds(4000, 100, until=date(2025, 9, 20))
    stub.say(agents=NO_OTHERS, **feeds)
    machine.stores()
    machine.stores("--no-hash-projects")
    machine.check(Expected(hidden=False).claude(feeds).tables)


def test_a_key_makes_other_hashes_and_may_not_change(tmp_path: Path, database: Database) -> None:
    machine = Machine(tmp_path, database=database, PROJECT_HASH_KEY="s3cret key 😀")
    machine.populate(days=4)
    machine.stores()
    machine.check()
    plain = Expected().claude(machine.feeds()).tables
    sessions = machine.tables()["ccusage_usage_sessions"]
    assert not sessions.keys() & plain["ccusage_usage_sessions"].keys()
    assert "s3cret" not in dump(machine) + surroundings(machine)
    before = machine.tables(keep=True)
    for key in ("another", ""):
        done = machine.imports(code=2, PROJECT_HASH_KEY=key)
        assert "PROJECT_HASH_KEY" in done.err
        (machine.state / "machine.json").unlink(missing_ok=True)  # the history knows it as well
    assert machine.tables(keep=True) == before


# --- versions of rows --------------------------------------------------------------------------


def test_created_at_is_of_the_first_import_and_updated_at_of_the_last_that_changed_the_row(
    machine: Machine,
) -> None:
    first, second = [midnight_of(date(2025, 9, d)) + timedelta(hours=1) for d in (21, 22)]
    path = write_session(machine.claude, "-p", "s", [Message(NOON)])
    with at(first):
        machine.stores()
    grow(path, [Message(NOON + timedelta(days=1), model=OPUS)])
    with at(second):
        machine.stores()
    machine.check()
    tables = machine.tables(keep=True)
    days = tables["ccusage_usage_daily"]
    one, two = days["claude", date(2025, 9, 20)], days["claude", date(2025, 9, 21)]
    naive = [moment.replace(tzinfo=None) for moment in (first, second)]
    assert [one["created_at"], one["updated_at"]] == [naive[0], naive[0]]
    assert [two["created_at"], two["updated_at"]] == [naive[1], naive[1]]
    (session,) = tables["ccusage_usage_sessions"].values()
    assert [session["created_at"], session["updated_at"]] == naive
    assert machine.history("updated_at") == [(moment,) for moment in naive]


def test_a_clock_that_goes_back_does_not_lose_an_update(machine: Machine) -> None:
    path = write_session(machine.claude, "-p", "s", [Message(NOON)])
    with at(NOON + timedelta(days=100)):
        machine.stores()
    grow(path, [Message(NOON + timedelta(minutes=1))])
    with at(NOON + timedelta(days=1)):
        machine.stores()
    machine.check()
    (first,), (second,) = machine.history("updated_at")
    assert second == first + timedelta(milliseconds=1)


# --- isolated ----------------------------------------------------------------------------------


def two_machines(tmp_path: Path, database: Database) -> Iterator[Machine]:
    """The same names on both, other numbers."""
    for number, name in enumerate(("alice", "bob")):
        machine = Machine(tmp_path, name, database=database)
        machine.populate(days=6 + number, seed=number)
        moment = NOON + timedelta(minutes=number)
        write_session(machine.claude, "-same", "same", [Message(moment, input=7 + number)])
        yield machine


@pytest.mark.parametrize("order", ["abab", "bba"])
def test_two_machines_in_one_database_are_each_exact_in_any_order(
    order: str, tmp_path: Path, database: Database
) -> None:
    alice, bob = two_machines(tmp_path, database)
    for letter in order:
        (alice if letter == "a" else bob).stores()
    alice.check()
    bob.check()


def test_whatever_one_machine_does_another_machines_rows_are_not_touched(
    tmp_path: Path, database: Database
) -> None:
    alice, bob = two_machines(tmp_path, database)
    alice.stores()
    bob.stores()
    before = bob.tables(keep=True)
    grow(alice.claude / "projects/-same/same.jsonl", [Message(NOON + timedelta(hours=9))])
    alice.stores("--no-hash-projects")
    assert bob.tables(keep=True) == before
    for path in (alice.claude / "projects").rglob("*.jsonl"):
        if path.stem != "same":
            path.unlink()
    alice.stores("--allow-shrink")
    alice.use("19.0.3")
    alice.freeze()
    alice.stores("--agents", "claude", "--allow-shrink")
    assert bob.tables(keep=True) == before
    assert len(bob.history()) == 1
    assert bob.imports().code == 0
    assert bob.tables(keep=True) == before


# --- a failed feed is not an empty feed --------------------------------------------------------


def test_a_failed_feed_leaves_its_tables_as_they_are_and_the_others_are_imported(
    machine: Machine,
) -> None:
    machine.populate(days=5)
    machine.stores()
    before = machine.tables(keep=True)
    stub = machine.stub()
    for hour, feed in enumerate(FEED_TABLES, 18):
        moment = midnight_of(date(2025, 9, 24)) + timedelta(hours=hour)
        write_session(machine.claude, PROJECTS[0], f"late {hour}", [Message(moment, model=SONNET)])
        wanted = machine.expected()
        stub.say(agents=NO_OTHERS, **machine.feeds())
        stub.fail(feed, message="out of luck")
        calls = stub.called().count(feed)
        done = machine.imports("--quiet", code=3)
        assert "out of luck" in done.err
        assert feed in done.err
        after = machine.tables(keep=True)
        own, others = (parts_of(feed, tables) for tables in (after, wanted))
        assert own[0] == parts_of(feed, before)[0]
        for key, row in others[1].items():
            assert own[1].pop(key).items() >= row.items()
        assert not own[1]
        assert machine.history("feeds_imported", "feeds_failed")[-1] == (
            sorted(FEED_TABLES.keys() - {feed}),
            [feed],
        )
        assert stub.called().count(feed) >= calls + 3  # it was tried again
        stub.fail()
        machine.stores()
        machine.check(wanted)
        before = machine.tables(keep=True)


def parts_of(feed: str, tables: Tables) -> tuple[Rows, Rows]:
    """The rows that this feed makes, and all others, by table and key."""
    mine: Rows = {}
    others: Rows = {}
    for table, rows in tables.items():
        for key, row in rows.items():
            made = table == FEED_TABLES[feed] or (len(key) == 4 and key[1] == RECORD_TYPES[feed])
            (mine if made else others)[(table, *key)] = row
    return mine, others


def test_when_all_feeds_fail_nothing_is_written_and_no_import_is_recorded(
    machine: Machine,
) -> None:
    stub = machine.stub()
    machine.populate(days=5)
    stub.fail(*FEED_TABLES, "agents")
    machine.stores(code=1)
    assert not any(machine.tables().values())
    assert machine.history() == []
    stub.fail()
    machine.stores()
    before = machine.tables(keep=True)
    stub.fail(*FEED_TABLES, "agents")
    machine.database.server.statements(reset=True)
    machine.stores(code=1)
    assert machine.database.writes() == []
    assert machine.tables(keep=True) == before
    assert len(machine.history()) == 1


def test_a_ccusage_that_names_no_version_imports_nothing(machine: Machine) -> None:
    machine.stub().fail("version")
    done = machine.imports(code=1)
    assert "--version" in done.err


def test_a_feed_that_does_not_add_up_is_refused(machine: Machine) -> None:
    stub = machine.stub()
    machine.populate(days=5)
    daily = machine.report("daily")
    daily["totals"]["outputTokens"] += 1
    stub.say(daily=daily)
    done = machine.imports(code=3)
    assert "daily.totals.outputTokens" in done.err
    assert not machine.tables()["ccusage_usage_daily"]
    assert machine.tables()["ccusage_usage_monthly"]


def test_a_row_that_appears_twice_in_a_feed_of_claude_is_refused(machine: Machine) -> None:
    stub = machine.stub()
    machine.populate(days=5)
    blocks = machine.report("blocks")
    blocks["blocks"].append(blocks["blocks"][0])
    stub.say(blocks=blocks)
    machine.stores(code=3)
    assert not machine.tables()["ccusage_usage_blocks"]


def test_a_dry_run_writes_nothing_anywhere(machine: Machine) -> None:
    machine.populate(days=5)
    machine.stores()
    before = machine.tables(keep=True)
    write_session(machine.claude, "-p", "s", [Message(NOON)])
    machine.database.server.statements(reset=True)
    machine.stores("--dry-run")
    assert machine.database.writes() == []
    assert machine.tables(keep=True) == before
    assert len(machine.history()) == 1


@pytest.mark.parametrize("where", ["embedded", "server"])
def test_a_dry_run_needs_nothing_to_be_there(
    where: str, tmp_path: Path, new_database: Database
) -> None:
    machine = Machine(tmp_path, database=new_database if where == "server" else None)
    machine.populate(days=5)
    machine.stores("--dry-run")
    assert (new_database.name,) not in new_database.server.query("SHOW DATABASES")
    assert not machine.path.exists()
    assert not (machine.state / "machine.json").exists()
