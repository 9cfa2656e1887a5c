"""Cut off from the server at any statement, a run says so, and the next one ends exact."""

from __future__ import annotations

import contextlib
import itertools
import resource
import subprocess
from datetime import date
from typing import TYPE_CHECKING, Any
from unittest import mock

import clickhouse_connect
import pytest
from clickhouse_server import ClickHouseServer
from scenes import CHOICES, Scene, Seesaw, first_import, part
from tables import KEYS, Database, Done, Machine, assert_same, read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scenes import Choose

HISTORY = "INSERT INTO ccusage_import_history"


@pytest.fixture(scope="module")
def balanced(
    tmp_path_factory: pytest.TempPathFactory, clickhouse: ClickHouseServer
) -> Iterator[Seesaw]:
    name = "seesaw"
    yield Seesaw(tmp_path_factory.mktemp(name), Database(clickhouse, name))
    clickhouse.query(f"DROP DATABASE IF EXISTS {name}")


@pytest.fixture
def seesaw(balanced: Seesaw) -> Iterator[Seesaw]:
    """In balance, as each test leaves it."""
    balanced.server.control(reset=True, disarm=True)
    yield balanced
    balanced.server.control(reset=True, disarm=True)


def disturb(scene: Seesaw | Scene, kind: str, **fault: Any) -> Done:
    """A run in which the server fails at a statement; afterwards the server is well again."""
    scene.server.control(reset=True)
    scene.server.arm(kind, **fault)
    done = scene.machine.main(*scene.args)
    scene.server.disarm()
    scene.settle()
    if done.code:
        assert done.code in (1, 3), done.err
        assert scene.server.host in done.err
        assert "remedy" in done.err
        assert "Traceback" not in done.err
    return done


def check_and_heal(seesaw: Seesaw, done: Done) -> None:
    """What a disturbed run left is consistent, and a clean one makes it exact."""
    state = seesaw.look()
    if state == "done":
        seesaw.turn()
    elif state == "torn":
        assert done.code
        seesaw.recover()
    else:
        assert done.code


FAULTS = [(kind, when) for kind in ("http500", "close") for when in ("before", "after")]


@CHOICES
def test_a_failure_at_any_statement_of_an_update_is_healed_by_the_next_run(
    choose: Choose, seesaw: Seesaw
) -> None:
    numbers = range(1, seesaw.statements_of_a_run() + 1)
    codes: dict[str, list[int]] = {"http500": [], "close": []}
    for number, (kind, when) in choose(itertools.product(numbers, FAULTS), 19):
        done = disturb(seesaw, kind, when=when, nth=number)
        check_and_heal(seesaw, done)
        codes[kind].append(done.code)
    assert codes["http500"].count(0) < 7  # of reads that a run can do without
    # clickhouse-connect asks once more
    assert codes["close"].count(0) > len(codes["close"]) / 4 or choose is part


@CHOICES
def test_a_server_that_is_gone_from_any_statement_on_is_an_error_that_the_next_run_heals(
    choose: Choose, seesaw: Seesaw
) -> None:
    after = 2  # all is written and recorded: a look at the tables, and statistics
    for number in choose(range(2, seesaw.statements_of_a_run() + 1 - after), 13):
        done = disturb(seesaw, "close", nth=number, times=-1)
        assert done.code
        check_and_heal(seesaw, done)


@CHOICES
def test_a_failure_at_any_statement_of_a_first_import_is_healed_by_the_next_run(
    choose: Choose, tmp_path: Path, database: Database
) -> None:
    scene = first_import(tmp_path, database)
    numbers = range(1, scene.statements_of_a_run() + 1)
    faults = [("http500", "after"), ("reset", "before")]
    for number, (kind, when) in choose(itertools.product(numbers, faults), 41):
        disturb(scene, kind, when=when, nth=number, times=2)
        scene.check_between()
        scene.recover()
        scene.reset()


@pytest.mark.rotates(3)
@pytest.mark.parametrize(
    ("match", "nth", "when"),
    [
        ("^SELECT", 5, "after"),
        ("^INSERT", 2, "before"),
        ("^INSERT", 5, "after"),
        ("^DELETE", 3, "after"),
        (HISTORY, 1, "after"),
    ],
)
def test_an_answer_that_comes_too_late_is_an_error_that_the_next_run_heals(
    match: str, nth: int, when: str, seesaw: Seesaw
) -> None:
    with impatient():
        done = disturb(seesaw, "delay:1.2", nth=nth, times=2, match=match, when=when)
    check_and_heal(seesaw, done)


def test_an_insert_that_comes_after_the_next_run_does_no_harm(seesaw: Seesaw) -> None:
    seesaw.server.arm("delay:3", match="^INSERT INTO ccusage_usage_sessions", times=2)
    with impatient():
        done = seesaw.machine.main(*seesaw.args)
        assert done.code in (1, 3)
    seesaw.server.disarm()
    seesaw.machine.stores(*seesaw.args)
    shown = read(seesaw.database.query, seesaw.machine.name, final=True)
    assert_same(shown, seesaw.after)
    seesaw.settle()
    shown = read(seesaw.database.query, seesaw.machine.name, final=True)
    assert_same(shown, seesaw.after)
    seesaw.recover()


def impatient() -> Any:
    """Clients wait for a second."""
    real = clickhouse_connect.get_client

    def get_client(**options: Any) -> Any:
        return real(**{**options, "send_receive_timeout": 1})

    return mock.patch.object(clickhouse_connect, "get_client", get_client)


def test_a_proxy_that_is_overloaded_is_an_error_that_the_next_run_heals(seesaw: Seesaw) -> None:
    for match in ("^SELECT", "^INSERT", "^DELETE"):
        done = disturb(seesaw, "http503", match=match, times=-1)
        assert done.code in (1, 3)
        check_and_heal(seesaw, done)


def test_a_run_that_wrote_something_before_it_failed_ends_with_3(seesaw: Seesaw) -> None:
    for match, code in (
        ("INSERT INTO ccusage_models_used", 1),
        ("INSERT INTO ccusage_model_breakdowns", 3),
        ("DELETE FROM ccusage_usage_daily", 3),
        ("INSERT INTO ccusage_import_history", 3),
    ):
        done = disturb(seesaw, "http500", match=match)
        assert done.code == code
        check_and_heal(seesaw, done)


def test_an_insert_that_the_client_sends_twice_is_one_insert(seesaw: Seesaw) -> None:
    done = disturb(seesaw, "close", when="after", match="^INSERT", times=1)
    assert done.code == 0
    inserts = [s for s in seesaw.server.statements() if s.query.startswith("INSERT")]
    tokens = [s.settings["insert_deduplication_token"] for s in inserts]
    assert len(tokens) > len(set(tokens))
    check_and_heal(seesaw, done)


def test_every_insert_has_its_own_token_made_of_run_machine_and_table(
    seesaw: Seesaw,
) -> None:
    tokens = []
    for _ in range(3):  # the same rows come back
        seesaw.server.statements(reset=True)
        seesaw.recover()
        inserts = [s for s in seesaw.server.statements() if s.query.startswith("INSERT")]
        assert len(inserts) == len(KEYS) + 1
        tokens += [s.settings["insert_deduplication_token"] for s in inserts]
    assert len(set(tokens)) == len(tokens)
    assert all(seesaw.machine.name in token for token in tokens)
    assert all(any(table in token for token in tokens) for table in KEYS)


# --- refused -----------------------------------------------------------------------------------

USERS = ("default:secret", "reader:pw:readonly=1", "limited:pw:deny=ALTER DELETE")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    with ClickHouseServer(tmp_path_factory.mktemp("guarded"), users=USERS) as server:
        yield server


@pytest.fixture
def machine(tmp_path: Path, guarded: ClickHouseServer) -> Iterator[Machine]:
    """A machine that has imported once, and has more to import."""
    guarded.query("DROP DATABASE IF EXISTS usage SYNC")
    machine = Machine(tmp_path, database=Database(guarded, "usage"))
    machine.populate(days=5)
    machine.stores()
    machine.populate(start=date(2025, 9, 26), days=3, seed=3)
    yield machine
    guarded.control(disarm=True)


def test_a_run_that_is_refused_is_a_clear_error_and_changes_nothing(machine: Machine) -> None:
    before = machine.tables(keep=True)
    refused(machine, "http://127.0.0.1:1", "CH_PORT", CH_PORT="1")
    refused(machine, "no-such-host.invalid", "CH_HOST", CH_HOST="no-such-host.invalid")
    refused(machine, "CH_PASSWORD", CH_PASSWORD="wr0ng-one")
    refused(machine, "CH_PASSWORD", CH_USER="nobody", CH_PASSWORD="wr0ng-one")
    refused(machine, "right", CH_USER="reader", CH_PASSWORD="pw")
    assert machine.tables(keep=True) == before
    heals(machine)


def refused(machine: Machine, *words: str, code: int = 1, **settings: str) -> None:
    """A run that fails says so in these words, without the password."""
    done = machine.main(**settings)
    assert done.code == code, done.err
    for word in (*words, "remedy"):
        assert word in done.err
    assert "Traceback" not in done.err
    password = settings.get("CH_PASSWORD") or machine.env.get("CH_PASSWORD")
    assert not password or password not in done.err + done.out


def heals(machine: Machine) -> None:
    machine.stores()
    machine.check()


def test_a_user_that_may_not_delete_is_a_clear_error_and_nothing_is_lost(machine: Machine) -> None:
    before = machine.tables()
    done = machine.main(CH_USER="limited", CH_PASSWORD="pw")
    assert done.code in (1, 3)
    assert "ALTER DELETE" in done.err
    assert "grant" in done.err
    shown = machine.tables(final=True)
    for table, rows in before.items():
        assert rows.keys() <= shown[table].keys()
    heals(machine)


def test_a_database_that_may_not_be_created_is_an_error_with_the_statement_to_run(
    tmp_path: Path,
) -> None:
    users = ("default:", "humble:pw:deny=CREATE DATABASE")
    with ClickHouseServer(tmp_path / "server", users=users) as server:
        database = Database(server, "new`base")
        machine = Machine(tmp_path, database=database, CH_USER="humble", CH_PASSWORD="pw")
        machine.populate(days=3)
        refused(machine, "CREATE DATABASE IF NOT EXISTS `new\\`base`")
        server.query("CREATE DATABASE `new\\`base`")
        machine.stores()


def test_a_server_that_restarts_or_disappears_is_an_error_that_the_next_run_heals(
    machine: Machine,
) -> None:
    server = machine.database.server
    for match in ("^SELECT name", "^INSERT INTO ccusage_usage_monthly", "^DELETE"):
        server.arm("exit", match=match, when="after")
        done = machine.main()
        assert done.code in (1, 3)
        assert "remedy" in done.err
        server.restart()
    heals(machine)


def test_a_table_that_is_gone_is_made_again_from_what_ccusage_still_has(machine: Machine) -> None:
    machine.database.query("DROP TABLE ccusage_usage_monthly SYNC")
    machine.database.server.query("DROP VIEW usage.ccusage_v_monthly_trends SYNC")
    heals(machine)


def test_a_database_that_is_dropped_is_made_again(machine: Machine) -> None:
    machine.database.server.query("DROP DATABASE usage SYNC")
    heals(machine)


# --- the embedded database ---------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MB."""
    path = tmp_path / "small"
    path.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64m", "tmpfs"]
    done = subprocess.run(["mount", *options, str(path)], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("a small disk can only be mounted by root")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_full_disk_is_a_clear_error_that_the_next_run_heals(
    tmp_path: Path, small_disk: Path
) -> None:
    machine = Machine(tmp_path, CH_EMBEDDED_PATH=str(small_disk / "clickhouse"))
    machine.path = small_disk / "clickhouse"
    machine.populate(days=5)
    assert machine.run().code == 0
    before = machine.tables()
    machine.populate(start=date(2025, 9, 26), days=3, seed=3)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    done = machine.run()
    assert done.code in (1, 3), done.err
    assert "disk" in done.err
    assert "Traceback" not in done.err
    filler.unlink()
    for table, rows in before.items():
        assert machine.tables(final=True)[table].keys() >= rows.keys()
    assert machine.run().code == 0
    machine.check()


def test_files_that_may_not_grow_are_a_clear_error_that_the_next_run_heals(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.populate(days=5)
    assert machine.run().code == 0
    machine.populate(start=date(2025, 9, 26), days=3, seed=3)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (256, 256))

    done = subprocess.run(
        machine.argv(),
        env=machine.env,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    assert done.returncode in (1, 2, 3), done.stderr
    heals(machine)


def test_an_embedded_path_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    machine = Machine(tmp_path, CH_EMBEDDED_PATH="/proc/nowhere/clickhouse")
    words = ("/proc/nowhere", "set CH_EMBEDDED_PATH to")
    refused(machine, *words, code=2, CH_EMBEDDED_PATH="/proc/nowhere/clickhouse")
