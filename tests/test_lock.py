"""One import at a time per user, and one process at a time in an embedded database."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tables import Database, Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def machine(tmp_path: Path, database: Database) -> Machine:
    machine = Machine(tmp_path, database=database)
    machine.populate(days=5)
    return machine


def until(true: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lock_file(machine: Machine) -> Path:
    return machine.state / ".ccusage_import.lock"


def log_of(machine: Machine) -> str:
    return (machine.state / "ccusage_import.log").read_text()


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Another process holds the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write("4711")
        file.flush()
        yield


def holder(machine: Machine) -> subprocess.Popen[str]:
    """An import that is in the middle of asking ccusage."""
    machine.freeze()
    stub = machine.stub()
    stub.slow(0.7)
    process = machine.start()
    until(lambda: "daily" in stub.called())
    return process


def test_of_two_imports_at_once_the_second_waits_and_finds_nothing_to_do(machine: Machine) -> None:
    first = holder(machine)
    assert lock_file(machine).read_text() == str(first.pid)
    second, third = machine.start(), machine.start()
    outputs = [process.communicate(timeout=60) for process in (first, second, third)]
    assert [process.returncode for process in (first, second, third)] == [0, 0, 0]
    assert "waiting" not in outputs[0][1]
    for _, err in outputs[1:]:
        assert f"PID {first.pid}" in err
        assert "waiting" in err
    assert f"PID {first.pid}" in log_of(machine)
    machine.check()
    inserted = machine.history("rows_inserted")
    assert inserted[0][0] > 0
    assert inserted[1:] == [(0,), (0,)]


def test_when_the_holder_is_killed_the_waiting_import_goes_on(machine: Machine) -> None:
    first = holder(machine)
    second = machine.start()
    until(lambda: "waiting" in log_of(machine))
    first.kill()
    first.communicate()
    _, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    machine.check()


def test_a_lock_that_is_held_too_long_ends_with_4_before_ccusage_is_asked(
    machine: Machine,
) -> None:
    stub = machine.stub()
    with held(lock_file(machine)):
        began = time.monotonic()
        done = machine.main("--lock-timeout", "0.6")
        assert 0.6 <= time.monotonic() - began < 5
        assert done.code == 4
        assert "4711" in done.err
        assert not stub.called()
        assert machine.main("--lock-timeout", "0").code == 4
    machine.stores()


def test_the_file_that_a_crash_left_is_no_obstacle(machine: Machine) -> None:
    machine.state.mkdir(parents=True)
    lock_file(machine).write_text("99999999")
    machine.stores("--lock-timeout", "0")
    machine.check()


def test_a_lock_that_cannot_be_written_is_a_clear_error(machine: Machine) -> None:
    blocked = machine.home / "file"
    blocked.write_text("")
    done = machine.main(CCUSAGE_STATE_DIR=str(blocked / "state"))
    assert done.code == 2
    assert "CCUSAGE_STATE_DIR" in done.err
    assert "Traceback" not in done.err


def test_two_machines_may_import_at_once_into_one_server(
    tmp_path: Path, database: Database
) -> None:
    machines = [Machine(tmp_path, name, database=database) for name in ("alice", "bob")]
    for seed, machine in enumerate(machines):
        machine.populate(days=5, seed=seed)
    for _ in range(2):
        running = [machine.start() for machine in machines]
        for process in running:
            _, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
    for machine in machines:
        machine.check()


def test_two_users_of_one_embedded_database_take_turns(tmp_path: Path) -> None:
    """Each has a state directory; the second lock lies beside the database."""
    machine = Machine(tmp_path)
    machine.populate(days=4)
    with held(machine.path.with_name("clickhouse.lock")):
        done = machine.main("--lock-timeout", "0.3")
        assert done.code == 4
        assert str(machine.path) in done.err
    other = {"CCUSAGE_STATE_DIR": str(tmp_path / "other"), "MACHINE_NAME": "m2"}
    running = [machine.start(), machine.start(**other)]
    for process in running:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    machine.check()


def test_only_the_embedded_database_makes_other_commands_wait(
    machine: Machine, tmp_path: Path
) -> None:
    commands = ("--stats", "--check")
    machine.stores()
    with held(lock_file(machine)):
        for command in commands:
            assert machine.main(command, "--lock-timeout", "0.2").code == 0
    alone = Machine(tmp_path, "alone")
    alone.populate(days=3)
    alone.stores()
    with held(alone.path.with_name("clickhouse.lock")):
        for command in commands:
            done = alone.main(command, "--lock-timeout", "0.2")
            assert done.code in (1, 4)
            assert "4711" in done.out + done.err


@pytest.mark.rotates(2)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_import_that_is_interrupted_frees_the_lock_and_ends_ccusage(
    number: signal.Signals, machine: Machine
) -> None:
    process = holder(machine)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err
    with lock_file(machine).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    command = ["pgrep", "-f", str(machine.home / "stub" / "ccusage")]
    assert not subprocess.run(command, capture_output=True, check=False).stdout
    assert machine.history() == []


def test_the_new_directory_of_a_lock_is_for_its_user_alone(machine: Machine) -> None:
    machine.stores("--dry-run")
    assert lock_file(machine).parent.stat().st_mode & 0o077 == 0


def test_a_disk_without_locks_is_named(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    done = machine.main()
    assert done.code == 2
    assert f"{lock_file(machine)}: cannot be locked: No locks available\n" in done.err
    assert "remedy: set CCUSAGE_STATE_DIR to a directory of yours on a local disk" in done.err
