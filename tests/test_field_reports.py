"""The lives that users report in public: all tables say what was ever used, once.

The real ccusage reads the transcripts. A complete copy of all that ever was, which ccusage reads,
too, says what must be stored.
"""

from __future__ import annotations

import itertools
import shutil
import socket
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from history import History, comparable
from scenes import CHOICES
from tables import FEED_TABLES, NO_OTHERS, Database, Machine, assert_same, total
from transcripts import OPUS, SONNET, Message, write_codex, write_gemini

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from scenes import Choose

NOON = datetime(2025, 9, 20, 12, tzinfo=timezone.utc)
BEFORE, AFTER = "20.0.20", "20.0.24"
MAIN, WORKTREE, OTHER = "-home-dev-repo", "-home-dev-repo--claude-worktrees-fix", "-home-dev-other"
TEXTS = itertools.count()  # equal messages would be copies


def stress(*values: Any) -> Any:
    """A case that is tried under stress alone: in the others each of its values is tried, too."""
    return pytest.param(*values, marks=pytest.mark.stress)


@pytest.fixture(params=["server", pytest.param("embedded", marks=pytest.mark.stress)])
def life(request: pytest.FixtureRequest, tmp_path: Path) -> History:
    if request.param == "server":
        return History(Machine(tmp_path, database=request.getfixturevalue("database")), NOON)
    return History(Machine(tmp_path), NOON)


@pytest.fixture
def quick(tmp_path: Path, database: Database) -> History:
    """Over HTTP alone, where the database makes no difference."""
    return History(Machine(tmp_path, database=database), NOON)


def thousands(number: int, begin: datetime, model: str = SONNET, minutes: int = 3) -> list[Message]:
    """So many messages of 1,000 tokens."""
    return [
        Message(begin + timedelta(minutes=minutes * n), model, input=400, output=600, text=text)
        for n, text in enumerate(map(str, itertools.islice(TEXTS, number)))
    ]


def ago(days: float, hours: float = 0) -> datetime:
    return NOON - timedelta(days=days, hours=hours)


# --- transcripts that move ---------------------------------------------------------------------


@pytest.mark.rotates(2)
@pytest.mark.parametrize(
    ("hours", "stays"), [(3, 3), (14, 0), stress(3, 0), stress(14, 3)]
)  # 14 hours ago was yesterday
def test_a_session_that_enters_a_worktree_and_leaves_it_counts_once(
    stays: int, hours: int, life: History
) -> None:
    life.use("s", *thousands(10, ago(0, hours)), project=MAIN)
    if stays:
        life.use("t", *thousands(stays, ago(0, hours - 1)), project=MAIN)
    life.imports()
    life.move("s", WORKTREE)
    life.use("s", *thousands(5, ago(0, 2)))
    life.imports()
    life.check()
    life.move("s", MAIN)
    life.use("s", *thousands(5, ago(0, 1)))
    done = life.imports()
    life.check()
    assert total(life.machine.tables(), "projects") == 1_000 * (20 + stays)
    assert "transcripts are gone" not in done.err
    assert life.machine.history("rows_held")[-1] == (0,)


@pytest.mark.rotates(3)
@pytest.mark.parametrize(
    ("days", "used"),
    [(0, True), (1, False), (40, True), stress(0, False), stress(1, True), stress(40, False)],
)
def test_a_project_that_is_renamed_with_its_repository_counts_once(
    days: int, used: bool, quick: History
) -> None:
    for number, name in enumerate("stu"):
        quick.use(name, *thousands(3, ago(days + number, 4), minutes=200), project=MAIN)
    quick.use("o", *thousands(2, ago(days, 4)), project=OTHER)
    quick.imports()
    for name in "stu":
        quick.move(name, "-home-dev-renamed")
    if used:
        quick.use("s", *thousands(2, ago(0, 1)))
    quick.imports()
    quick.check()


@pytest.mark.parametrize("where", ["sessions", "archived_sessions"])
def test_a_codex_thread_that_is_archived_and_taken_up_again_counts_once(
    where: str, quick: History
) -> None:
    machine, folder = quick.machine, quick.machine.home / "codex"
    messages = thousands(4, ago(2), "gpt-5")
    path = write_codex(folder, "c", messages[:2])
    write_codex(folder, "d", thousands(1, ago(2, 1), "gpt-5"))
    quick.imports("--agents", "codex")
    archive = folder / "archived_sessions"
    archive.mkdir()
    path = path.rename(archive / path.name)
    quick.imports("--agents", "codex")
    assert tokens(machine, "codex") == [3_000, 3_000, 3_000]
    written = write_codex(folder, "c", messages)  # in sessions/, with two messages more
    path.unlink()
    if where == "archived_sessions":
        written.rename(path)
    quick.imports("--agents", "codex")
    assert tokens(machine, "codex") == [5_000, 5_000, 5_000]
    assert len(machine.tables()[FEED_TABLES["session"]]) == 2


def tokens(machine: Machine, agent: str) -> list[int]:
    """In days, months and sessions."""
    tables = machine.tables()
    return [total(tables, feed, agent) for feed in ("daily", "monthly", "session")]


# --- transcripts that go -----------------------------------------------------------------------


@pytest.mark.rotates(3)
@pytest.mark.parametrize(
    ("days", "gone"),
    [(3, "s"), (40, "st"), (3, "stm"), stress(40, "s"), stress(3, "st"), stress(40, "stm")],
)
def test_a_new_ccusage_erases_nothing_of_a_worktree_that_was_deleted(
    gone: str, days: int, life: History
) -> None:
    life.machine.use(BEFORE)
    life.use("s", *thousands(9, ago(days)), project=WORKTREE)
    life.use("t", *thousands(2, ago(days - 1), OPUS), project=OTHER)
    life.use("m", *thousands(1, ago(days)), project=MAIN)
    life.imports()
    life.delete(*gone)
    life.imports()
    life.check()
    life.machine.use(AFTER)
    life.imports()
    life.check()
    life.use("n", *thousands(3, ago(0, 1)), project=MAIN)
    life.imports()
    life.check()


@pytest.mark.parametrize(
    ("days", "agent"), [(3, "codex"), (40, "gemini"), stress(40, "codex"), stress(3, "gemini")]
)
def test_a_new_ccusage_erases_nothing_of_what_other_agents_purge(
    agent: str, days: int, quick: History
) -> None:
    machine = quick.machine
    machine.use(BEFORE)
    write: Callable[..., Path] = write_codex if agent == "codex" else write_gemini
    model = "gpt-5" if agent == "codex" else "gemini-2.5-pro"
    gone = write(machine.home / agent, "a", thousands(9, ago(days), model))
    write(machine.home / agent, "b", thousands(1, ago(days, 1), model))
    quick.imports("--agents", agent)
    gone.unlink()
    machine.use(AFTER)
    quick.imports("--agents", agent)
    assert tokens(machine, agent) == [10_000] * 3
    write(machine.home / agent, "c", thousands(2, ago(days - 1), model))  # of another day
    quick.imports("--agents", agent)
    assert tokens(machine, agent) == [12_000] * 3


@pytest.mark.rotates(2)
@pytest.mark.parametrize(
    ("times", "at_once"), [(3, False), (1, True), stress(1, False), stress(3, True)]
)
def test_what_is_used_on_the_day_of_a_loss_comes_on_top(
    at_once: bool, times: int, life: History
) -> None:
    """A worktree is merged and deleted at noon; work goes on in the main folder."""
    life.use("m", *thousands(4, ago(0, 3)), project=MAIN)
    for number in range(times):
        life.use(f"w{number}", *thousands(6, ago(0, 2 + number / 9), OPUS), project=WORKTREE)
    life.imports()
    for number in range(times):
        life.delete(f"w{number}")
        if not at_once:
            life.imports()
        life.use("m", *thousands(4, ago(0, 1.8 - number / 2)))
        life.imports()
        life.check()
    assert total(life.machine.tables(), "daily") == 1_000 * (4 + 10 * times)


@pytest.mark.parametrize("deleted", [False, True])
def test_a_correction_of_copies_reaches_every_table(deleted: bool, quick: History) -> None:
    """An older ccusage counted the copies in forked sessions twice; some hold copies alone."""
    machine, original = quick.machine, thousands(4, ago(2))
    quick.use("a", *original, project=MAIN)
    quick.use("lost", *thousands(5, ago(5)), project=OTHER)
    for name, extra in (("b", 2), ("c", 0)):
        copies = [Message(m.at, m.model, m.input, m.output, text=name) for m in original]
        more = thousands(extra, ago(1, ord(name) / 100))
        quick.use(name, *copies, *more, project=WORKTREE)
    stub = machine.stub()
    stub.say(BEFORE, agents=NO_OTHERS, **machine.feeds())
    quick.imports()
    twice = machine.tables()
    for name, extra in (("b", 2), ("c", 0)):  # as this ccusage sees that they are copies
        quick.messages[name] = []
        quick.use(name, *original, *thousands(extra, ago(1, ord(name) / 100)))
    if deleted:
        quick.delete("lost")
    machine.use(AFTER)
    done = quick.imports()
    quick.check()
    assert total(machine.tables(), "daily") == total(twice, "daily") - 8_000
    assert "8,000 tokens" in done.err
    assert BEFORE in done.err


# --- prices that move --------------------------------------------------------------------------


def priced(feeds: Any, factor: float) -> Any:
    """The feeds of a ccusage whose prices are others."""
    if isinstance(feeds, dict):
        costs = ("totalCost", "cost", "costUSD")
        return {k: v * factor if k in costs else priced(v, factor) for k, v in feeds.items()}
    return [priced(part, factor) for part in feeds] if isinstance(feeds, list) else feeds


def costs(machine: Machine) -> dict[str, float]:
    """The dollars in each table."""
    tables = machine.tables()
    name = {"blocks": "cost_usd"}
    return {
        feed: round(sum(row[name.get(feed, "total_cost")] for row in tables[table].values()), 6)
        for feed, table in FEED_TABLES.items()
    }


@pytest.mark.rotates(3)
@pytest.mark.parametrize("factors", [(0.8, 1.0, 0.8), (0.0, 1.0), (0.0, 0.0), stress((1.25, 0.5))])
def test_the_past_keeps_its_price_while_prices_move(
    factors: Sequence[float], quick: History
) -> None:
    machine = quick.machine
    quick.use("s", *thousands(4, ago(3), OPUS), *thousands(2, ago(2)), project=MAIN)
    stub = machine.stub()
    quick.imports()
    before = machine.tables()
    for number, factor in enumerate(factors):
        stub.say(f"20.0.{24 + number}", agents=NO_OTHERS, **priced(machine.feeds(), factor))
        quick.imports()
        assert_same(comparable(machine.tables()), comparable(before))
    paid = costs(machine)
    new = thousands(3, ago(0, 2), OPUS)
    quick.use("n", *new, project=MAIN)
    stub.say(agents=NO_OTHERS, **priced(machine.feeds(), factors[-1]))
    quick.imports()
    share = 3 * sum_of(before, OPUS) / 4 * factors[-1]
    for feed, cost in costs(machine).items():
        wanted = paid[feed] + (share if feed != "monthly" else 0)
        if feed != "monthly":  # of the month, the model's share grew, and is priced anew
            assert cost == pytest.approx(wanted, abs=1e-5), feed
    assert total(machine.tables(), "monthly") == 9_000


def sum_of(tables: Any, model: str) -> float:
    rows = tables["ccusage_model_breakdowns"].items()
    return sum(row["cost"] for key, row in rows if key[1] == "daily" and key[-1] == model)


def test_a_model_without_a_price_costs_what_it_costs_once_that_is_known(quick: History) -> None:
    machine = quick.machine
    quick.use("s", *thousands(4, ago(3)), project=MAIN)
    stub = machine.stub()
    known = machine.feeds()
    stub.say(agents=NO_OTHERS, **priced(known, 0.0))
    quick.imports()
    assert set(costs(machine).values()) == {0.0}
    stub.say(agents=NO_OTHERS, **known)
    quick.imports()
    quick.check()


@pytest.mark.rotates(2)
@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_reprice_takes_the_present_prices(factor: float, quick: History) -> None:
    machine = quick.machine
    quick.use("s", *thousands(4, ago(3)), project=MAIN)
    quick.use("lost", *thousands(4, ago(5)), project=MAIN)
    stub = machine.stub()
    quick.imports()
    paid = costs(machine)["daily"]
    quick.delete("lost")
    stub.say(agents=NO_OTHERS, **priced(machine.feeds(), factor))
    for args in ((), ("--reprice", "--dry-run")):
        quick.imports(*args)
        assert set(costs(machine).values()) == {paid}
    quick.imports("--reprice")
    assert costs(machine) == pytest.approx(dict.fromkeys(FEED_TABLES, paid / 2 * (1 + factor)))


# --- feeds that fail, and things that happen between two feeds ---------------------------------


def some_days(life: History) -> None:
    life.use("s", *thousands(4, ago(3)), project=MAIN)
    life.use("t", *thousands(3, ago(3, 1)), *thousands(2, ago(1)), project=MAIN)
    life.use("u", *thousands(5, ago(1), OPUS), project=OTHER)


def never_above(tables: Any, truth: Any) -> None:
    for feed in FEED_TABLES:
        assert total(tables, feed) <= total(truth, feed), feed


EVENTS: dict[str, Callable[[History], None]] = {
    "purge": lambda life: life.delete("s", "t"),
    "delete": lambda life: life.delete("u"),
    "move": lambda life: life.move("s", WORKTREE),
    "move of days": lambda life: life.move("t", OTHER),
}


@pytest.mark.rotates(2)
@pytest.mark.parametrize(
    ("event", "update"),
    [
        *(("purge", True), ("delete", False), ("move", True), ("move of days", False)),
        *(stress("purge", False), stress("delete", True)),
        *(stress("move", False), stress("move of days", True)),
    ],
)
def test_a_session_feed_that_fails_doubles_and_drops_nothing(
    event: str, update: bool, quick: History
) -> None:
    machine = quick.machine
    machine.use(BEFORE)
    some_days(quick)
    stub = machine.stub()
    quick.imports()
    EVENTS[event](quick)
    quick.use("n", *thousands(2, ago(0, 1)), project=MAIN)
    if update:
        machine.use(AFTER)
        stub = machine.stub()
    stub.fail("session")
    quick.imports(code=3)
    tables = machine.tables()
    never_above(tables, quick.truth())
    for feed in ("daily", "projects", "blocks"):
        assert total(tables, feed) in (16_000, 14_000 if feed == "projects" else 16_000)
    assert total(tables, "session") == 14_000
    stub.fail()
    quick.imports()
    quick.check()


# What happens, and which of the four feeds behind that of sessions are read afterwards.
CASES = [*itertools.product(EVENTS, itertools.product((False, True), repeat=4))]


@CHOICES
def test_what_happens_between_any_two_feeds_doubles_and_drops_nothing(
    choose: Choose, tmp_path: Path, database: Database
) -> None:
    for number, (event, sides) in enumerate(choose(CASES, 13)):
        life = History(Machine(tmp_path, f"m{number}", database=database), NOON)
        happens_between_two_feeds(life, event, sides)


def happens_between_two_feeds(life: History, event: str, sides: Sequence[bool]) -> None:
    machine = life.machine
    some_days(life)
    life.imports()
    feeds = machine.feeds()
    EVENTS[event](life)
    later = machine.feeds()
    stub = machine.stub()
    stub.say_once(session=feeds["session"])
    others = [feed for feed in FEED_TABLES if feed != "session"]
    pairs = zip(others, sides, strict=True)
    said = {feed: (later if side else feeds)[feed] for feed, side in pairs}
    stub.say(session=later["session"], agents=NO_OTHERS, **said)
    life.imports()
    tables = machine.tables()
    truth = life.truth()
    for feed in FEED_TABLES:
        assert total(tables, feed) == total(truth, feed), (feed, event, sides)
    stub.say(**later)
    life.imports()
    life.check()


# --- the upgrade from 18 -----------------------------------------------------------------------


@pytest.mark.rotates(2)
@pytest.mark.parametrize("gone", ["s", "stu", stress("")])
def test_after_an_upgrade_from_18_each_table_holds_all_that_ever_was(
    gone: str, quick: History
) -> None:
    machine = quick.machine
    machine.use("18.0.11")
    some_days(quick)
    quick.imports()
    quick.delete(*gone)
    machine.use(AFTER)
    for _ in range(2):
        quick.imports()
        tables, truth = machine.tables(), quick.truth()
        for feed in FEED_TABLES:
            assert total(tables, feed) == total(truth, feed), feed
    quick.use("n", *thousands(2, ago(1, 1)), project=MAIN)
    quick.imports()
    tables, truth = comparable(machine.tables()), quick.truth()
    for feed in ("daily", "monthly", "projects"):  # of a block, one part may be gone
        rows, true = (
            {key: row["total_tokens"] for key, row in of[FEED_TABLES[feed]].items()}
            for of in (tables, truth)
        )
        if gone != "stu":  # of whole projects, it is not known on which days they were used
            assert rows == true
        assert rows.keys() == true.keys()
        assert all(number <= true[key] for key, number in rows.items())


# --- machines and people -----------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["", "s"])
def test_a_plain_run_by_hand_hides_no_names(gone: str, quick: History) -> None:
    some_days(quick)
    quick.imports("--no-hash-projects")
    quick.delete(*gone)
    quick.imports()
    tables = quick.machine.tables()
    shown = {row["project_path"] for row in tables[FEED_TABLES["session"]].values()}
    assert shown == {MAIN, OTHER}
    assert {row["project_id"] for row in tables[FEED_TABLES["projects"]].values()} == {MAIN, OTHER}
    done = quick.imports("--hash-projects")
    assert not (("names" in done.err) ^ bool(gone))
    shown = {row["project_path"] for row in quick.machine.tables()[FEED_TABLES["session"]].values()}
    assert not shown & {MAIN, OTHER}


def test_a_container_with_a_new_host_name_is_told_before_anything_counts_twice(
    quick: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    some_days(quick)
    machine = quick.machine
    machine.env["MACHINE_NAME"] = ""
    monkeypatch.setattr(socket, "gethostname", lambda: "m1")
    quick.imports()
    shutil.rmtree(machine.state)
    monkeypatch.setattr(socket, "gethostname", lambda: "f00dcafe")
    done = quick.imports(code=2)
    assert "3 of its 3 sessions are stored under the name m1 already" in done.err
    assert "MACHINE_NAME=m1" in done.err
    assert not machine.state.joinpath("machine.json").exists()
    machine.env["MACHINE_NAME"] = "m1"  # the word for this very run
    quick.imports()
    quick.check()


def test_a_second_user_of_a_host_is_asked_for_a_name_before_anything_is_written(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "m1")
    one, two = (
        History(Machine(tmp_path / name, database=database, MACHINE_NAME=""), transcripts_now())
        for name in ("alice", "bob")
    )
    some_days(one)
    two.use("mine", *thousands(7, ago(3)), project=OTHER)
    one.machine.stores()
    before = one.machine.tables(keep=True)
    done = two.machine.imports("--quiet", code=2)
    assert "another installation imported under this name" in done.err
    assert one.machine.tables(keep=True) == before
    two.machine.stores(MACHINE_NAME="bob")
    two.machine.name = "bob"
    two.check()
    assert one.machine.tables(keep=True) == before


def transcripts_now() -> datetime:
    return datetime.now(timezone.utc)
