"""ccusage_import.log tells of every run, in lines with times, and not for ever."""

from __future__ import annotations

import errno
import re
from datetime import date, datetime, timezone
from pathlib import Path

import pytest
from tables import Database, Machine, at
from transcripts import Message, write_session

LINE = re.compile(
    r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \d+ (DEBUG|INFO|WARNING|ERROR) (.*)", re.DOTALL
)
PASSWORD = "s3cret-Pa55"


@pytest.fixture
def machine(tmp_path: Path, database: Database) -> Machine:
    machine = Machine(tmp_path, database=database)
    machine.populate(days=3, projects=("-home-dev-secret-plan", "-home-dev-other-secret"))
    return machine


def lines(machine: Machine) -> list[str]:
    """The events in the log; what goes on in a further line is indented."""
    text = (machine.state / "ccusage_import.log").read_text(encoding="utf-8")
    found = [LINE.fullmatch(event) for event in re.split(r"\n(?! )", text.rstrip("\n"))]
    assert all(found), text
    return [f"{match[1]} {match[2]}" for match in found if match]


def test_every_event_of_a_run_is_a_line_with_its_time_and_level(machine: Machine) -> None:
    assert machine.database
    machine.database.query("DROP TABLE ccusage_usage_daily SYNC")
    machine.imports("--quiet")
    text = "\n".join(lines(machine))
    server = machine.database.server.url
    assert re.search(rf"start: ccusage-import \S+ into ClickHouse at {server}$", text, re.M)
    assert f"lock: {machine.state / '.ccusage_import.lock'}" in text
    assert f"INFO {machine.database.name}: create the table ccusage_usage_daily\n" in text
    for feed in ("daily", "monthly", "session", "blocks", "projects"):
        assert re.search(rf"^INFO \d/5 {feed} +\d+\.\d\d s$", text, re.M), feed
    assert re.search(r"^DEBUG other agents \d+\.\d\d s$", text, re.M)
    assert re.search(r"^DEBUG ccusage_usage_daily: 3 rows written$", text, re.M)
    assert re.search(r"^DEBUG finish: m1, \d+ rows written, \d+\.\d s$", text, re.M)
    machine.imports("--quiet")
    assert lines(machine)[-1].startswith("DEBUG finish: m1, 0 rows written, ")


def test_held_rows_are_told_with_the_reason(machine: Machine) -> None:
    machine.stores()
    stub = machine.stub()
    daily = machine.report("daily")
    daily["daily"].pop()
    row = daily["daily"][0]
    moved = row["modelBreakdowns"][0]["inputTokens"]
    assert moved > 0
    for part in (row, row["modelBreakdowns"][0]):
        part["inputTokens"] -= moved
    row["totalTokens"] -= moved
    fields = ("inputTokens", "outputTokens", "cacheCreationTokens", "cacheReadTokens")
    for name in (*fields, "totalTokens", "totalCost"):
        daily["totals"][name] = sum(each[name] for each in daily["daily"])
    stub.say(daily=daily)
    with at(datetime(2026, 6, 1, tzinfo=timezone.utc)):
        machine.stores()
    assert "DEBUG 1 row not as reported: their transcripts are gone" in lines(machine)


@pytest.mark.parametrize(
    ("env", "code", "said"),
    [
        ({"CH_PASSWORD": "wrong"}, 1, "ERROR .*\n  remedy: check CH_USER and CH_PASSWORD"),
        ({"CH_PORT": "many"}, 2, "ERROR CH_PORT: expected .*, got 'many'"),
        ({"CCUSAGE_COMMAND": "/no/where"}, 2, "ERROR CCUSAGE_COMMAND: no such program"),
        ({"CCUSAGE_TIMEZONE": "Mars"}, 2, "ERROR CCUSAGE_TIMEZONE: 'Mars' is no IANA time zone"),
    ],
)
def test_every_failure_is_in_the_log_with_its_remedy(
    machine: Machine, env: dict[str, str], code: int, said: str
) -> None:
    done = machine.main("--quiet", **env)
    assert done.code == code
    assert re.match(said, lines(machine)[-1])
    assert done.err  # for cron's mail


def test_a_failed_report_is_one_line_with_its_remedy(machine: Machine) -> None:
    stub = machine.stub()
    stub.fail("blocks", message="Error:\n  EACCES: permission denied\n")
    done = machine.main("--quiet")
    assert done.code == 3
    (error,) = [line for line in lines(machine) if line.startswith("ERROR")]
    assert "EACCES: permission denied" in error
    assert "\n  remedy: make Claude Code's files readable" in error
    assert any(line.startswith("INFO blocks: trying again: ") for line in lines(machine))


def test_no_secret_and_no_name_is_logged(machine: Machine) -> None:
    machine.env["PROJECT_HASH_KEY"] = "the-key"
    machine.imports("--verbose")
    machine.main(CH_PASSWORD=PASSWORD)
    stub = machine.stub()
    projects = machine.report("projects")
    projects["projects"]["-home-dev-secret-plan"][0]["totalCost"] = "x"
    stub.say(projects=projects)
    stub.fail("session", message="cannot read /x/projects/-home-dev-secret-plan/a.jsonl")
    assert machine.main("--verbose").code == 3
    text = "\n".join(lines(machine))
    for secret in ("secret-plan", "other-secret", "the-key", PASSWORD):
        assert secret not in text
    assert "projects/…" in text


def test_the_log_is_rotated_at_a_megabyte_into_three_files(machine: Machine) -> None:
    machine.stores()
    log = machine.state / "ccusage_import.log"
    for number in range(1, 5):
        log.write_text(f"{number}\n" + "x" * 1_000_000)
        machine.stores()
    files = sorted(path.name for path in machine.state.iterdir() if path.name.startswith("ccus"))
    assert files == ["ccusage_import.log", "ccusage_import.log.1", "ccusage_import.log.2"]
    assert log.stat().st_size < 100_000
    assert (machine.state / "ccusage_import.log.2").read_text().startswith("3\n")


def test_a_quiet_run_prints_nothing_unless_something_fails(machine: Machine) -> None:
    assert machine.main("--quiet") == (0, "", "")
    session = date(2025, 9, 25)
    moment = datetime(session.year, session.month, session.day, 12, tzinfo=timezone.utc)
    write_session(machine.claude, "-home-p", "f00d", [Message(at=moment)])
    assert machine.main("--quiet") == (0, "", "")
    stub = machine.stub()
    stub.fail("daily")
    done = machine.main("--quiet")
    assert (done.code, done.out) == (3, "")
    assert "out of luck" in done.err


def test_a_check_writes_no_log(machine: Machine) -> None:
    machine.main("--check")
    assert not machine.state.exists()
    machine.stores()
    before = lines(machine)
    machine.main("--check")
    assert lines(machine) == before


def test_a_full_disk_is_told_in_one_line(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # a write names no file

    with monkeypatch.context() as disk:
        disk.setattr(Path, "touch", full)
        done = machine.main()
    assert done.code == 1
    last = done.err.splitlines()[-1]
    assert re.fullmatch(
        r".*No space left on device: '.*/machine.json': check the disk and its permissions", last
    )
    machine.stores()


def test_a_log_for_which_the_disk_has_no_room_does_not_stop_the_import(machine: Machine) -> None:
    machine.state.mkdir()
    (machine.state / "ccusage_import.log").symlink_to("/dev/full")
    assert machine.run("--quiet") == (0, "", "")
    machine.check()
