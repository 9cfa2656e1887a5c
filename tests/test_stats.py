"""--stats and the import's summary: the right figures, few statements, and nothing left behind."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import select
import shlex
import subprocess
import sys
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from tables import PROGRAM, Machine, noon
from transcripts import OPUS, SONNET, UNPRICED, Message, purge, write_codex, write_session

from ccusage_importer import ClickHouseImporter, Scope, Settings, open_client, read_statistics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tables import Database

    from ccusage_importer import Statistics

UTC = timezone.utc
PROJECT = "-home-dev-secret-plan"


def name_of(number: int) -> str:
    return f"{number:08d}-0000-4000-8000-000000000000"


def work(machine: Machine, *moments: datetime, model: str = SONNET, number: int = 1) -> Path:
    return write_session(
        machine.claude, PROJECT, name_of(number), [Message(at=at, model=model) for at in moments]
    )


def statistics(machine: Machine, *args: str, **env: str) -> dict[str, Any]:
    done = machine.main("--stats", "--format", "json", *args, **env)
    assert done.code == 0, done.err
    assert done.err == ""
    content: dict[str, Any] = json.loads(done.out)
    return content


@pytest.fixture(params=["embedded", "server"])
def machine(request: pytest.FixtureRequest, tmp_path: Path, database: Database) -> Machine:
    return Machine(tmp_path, database=database if request.param == "server" else None)


@pytest.fixture
def alone(tmp_path: Path) -> Machine:
    """With an embedded database."""
    return Machine(tmp_path)


@pytest.fixture
def served(tmp_path: Path, database: Database) -> Machine:
    """On a server, which is quicker."""
    return Machine(tmp_path, database=database)


# --- figures -------------------------------------------------------------------------------------


def test_the_figures_are_ccusages_own(machine: Machine) -> None:
    machine.populate()
    machine.stores("--agents", "claude")
    stats = statistics(machine)
    daily, sessions = machine.report("daily"), machine.report("session")
    assert stats["tokens"] == daily["totals"]["totalTokens"]
    assert stats["cost"] == pytest.approx(daily["totals"]["totalCost"], abs=1e-6)
    assert stats["active_days"] == len(daily["daily"])
    assert (stats["first_day"], stats["last_day"]) == (
        daily["daily"][0]["date"],
        daily["daily"][-1]["date"],
    )
    assert stats["sessions"]["number"] == len(sessions["sessions"])
    costs = [row["totalCost"] for row in sessions["sessions"]]
    assert stats["sessions"]["max_cost"] == pytest.approx(max(costs), abs=1e-8)
    assert stats["sessions"]["mean_cost"] == pytest.approx(sum(costs) / len(costs), abs=1e-6)
    assert sum(part["tokens"] for part in stats["models"]) == stats["tokens"]
    assert sum(part["share"] for part in stats["models"]) == pytest.approx(1)
    assert sum(part["tokens"] for part in stats["projects"]) == stats["tokens"]
    totals = daily["totals"]
    read, given = totals["cacheReadTokens"], totals["inputTokens"] + totals["cacheCreationTokens"]
    assert stats["cache_share"] == pytest.approx(read / (read + given))


def test_the_active_block_is_ccusages_own(alone: Machine) -> None:
    now = datetime.now(UTC)
    work(alone, *(now - timedelta(minutes=ago) for ago in (9, 6, 3)))
    alone.stores()
    (block,) = statistics(alone)["blocks"]
    (wanted,) = [row for row in alone.report("blocks")["blocks"] if row["isActive"]]
    assert block["machine"] == "m1"
    assert datetime.fromisoformat(block["end"]) == datetime.fromisoformat(
        wanted["endTime"].replace("Z", "+00:00")
    )
    assert block["tokens"] == wanted["totalTokens"]
    assert block["projected_cost"] >= block["cost"] > 0
    assert 230 <= block["minutes_left"] <= 300
    shown = alone.main("--stats").out
    assert "Active block" in shown
    assert "by then" in shown


def test_what_is_free_for_want_of_a_price_is_named(served: Machine) -> None:
    work(served, noon() - timedelta(1))
    work(served, noon() - timedelta(1), model=UNPRICED, number=2)
    done = served.imports()
    assert re.search(f"lower bound: no price for\\s+{UNPRICED}", done.out)
    assert statistics(served)["unpriced"] == {UNPRICED: 110}


def test_agents_and_machines_are_told_where_there_are_several(
    tmp_path: Path, database: Database
) -> None:
    here, there = (Machine(tmp_path, name, database=database) for name in ("here", "there"))
    for machine in (here, there):
        work(machine, noon() - timedelta(1))
    here.stores()
    assert not re.search("^(Agents|Machines)", here.main("--stats").out, re.M)
    write_codex(here.home / "codex", name_of(7), [Message(at=noon() - timedelta(2), model="gpt-5")])
    here.stores()
    there.stores()
    shown = there.main("--stats").out
    assert re.search("^Machines .*\nhere .*\nthere", shown, re.M)
    assert re.search("^Agents .*\n(claude|codex)", shown, re.M)
    stats = statistics(here)
    assert [(part["name"], part["agent"]) for part in stats["agents"]] == [
        ("claude", "claude"),
        ("codex", "codex"),
    ]
    assert {part["name"]: part["tokens"] for part in stats["machines"]} == {
        "here": 220,
        "there": 110,
    }
    assert [run["machine"] for run in stats["runs"]] == ["there", "here"]
    assert {p["name"] for p in statistics(here, "--agents", "codex")["models"]} == {"gpt-5"}
    only = statistics(here, "--machine", "there")
    assert (only["tokens"], [part["name"] for part in only["machines"]]) == (110, ["there"])


def test_days_narrow_all_but_the_periods(served: Machine) -> None:
    for number, ago in enumerate((0, 1, 40)):
        work(served, noon() - timedelta(ago), number=number)
    served.stores()
    whole, two = statistics(served), statistics(served, "--days", "2")
    assert (whole["tokens"], two["tokens"]) == (330, 220)
    assert (whole["sessions"]["number"], two["sessions"]["number"]) == (3, 2)
    assert two["first_day"] == str(noon().date() - timedelta(1))
    assert [part["tokens"] for part in two["models"]] == [220]
    assert [part["tokens"] for part in two["projects"]] == [220]
    assert len(two["heatmap"]) == 2
    assert two["periods"] == whole["periods"]


def test_today_is_that_of_the_machines_zone(tmp_path: Path, database: Database) -> None:
    now = datetime.now(UTC)
    for zone, hours in (("Pacific/Kiritimati", 14), ("Pacific/Pago_Pago", -11)):
        machine = Machine(tmp_path, zone[-4:], zone=zone, database=database)
        work(machine, now - timedelta(minutes=1))
        machine.stores()
        stats = statistics(machine, "--machine", zone[-4:], TZ="UTC")
        assert stats["scope"]["zone"] == zone
        today = (datetime.now(UTC) + timedelta(hours=hours)).date()
        assert stats["heatmap"][-1]["date"] == str(today)
        assert stats["periods"][0]["tokens"] == 110


def test_a_day_in_the_year_2199_is_counted_and_pointed_at(served: Machine) -> None:
    work(served, noon())
    work(served, datetime(2199, 12, 31, 12, tzinfo=UTC), number=2)
    done = served.imports()
    assert "some days lie in the future, up to 2199-12-31" in done.out
    stats = statistics(served)
    assert stats["tokens"] == 220
    assert stats["heatmap"][-1]["date"] == str(noon().date())
    assert stats["streak"] == 1


def test_rows_between_an_insert_and_its_delete_are_counted_once(
    tmp_path: Path, database: Database
) -> None:
    machine = Machine(tmp_path, database=database)
    machine.populate()
    machine.stores()
    before = statistics(machine)
    for table in ("ccusage_usage_daily", "ccusage_usage_sessions", "ccusage_model_breakdowns"):
        database.query(
            f"INSERT INTO {table} SELECT * REPLACE (updated_at + 1 AS updated_at) FROM {table}"
        )
    after = statistics(machine)
    for content in (before, after):
        del content["scope"]["now"]
    assert after == before


def test_a_second_import_is_compared_with_the_first(machine: Machine) -> None:
    path = work(machine, noon() - timedelta(1))
    first = machine.imports()
    assert "since" not in first.out
    with path.open("a") as file:
        file.write(path.read_text().replace("msg_", "msg_b").replace("req_", "req_b"))
    second = machine.imports()
    assert "+110 tokens since" in " ".join(second.out.split())
    (run,) = statistics(machine)["runs"]
    assert run["added_tokens"] == 110
    assert run["added_cost"] > 0


def test_days_that_no_import_saw_are_unknown_in_the_heatmap(served: Machine) -> None:
    work(served, noon() - timedelta(1))
    work(served, noon() - timedelta(60), number=2)
    served.stores()
    days = {day["date"]: day["level"] for day in statistics(served)["heatmap"]}
    level = [days[str(noon().date() - timedelta(ago))] for ago in (0, 1, 29, 30, 60, 61)]
    assert level == [0, 4, 0, None, 4, None]


def test_a_million_breakdown_rows_are_answered_from_few_statements(served: Machine) -> None:
    assert served.database
    served.stores()  # of nothing: it makes the tables
    for statement in MILLION:
        served.database.query(statement)
    served.database.server.control(reset=True)
    stats = statistics(served)
    assert stats["tokens"] == 10 * 1095 * 1000
    assert [part["name"] for part in stats["models"]] == [f"model-{n}" for n in (5, 4, 3, 2, 1)]
    assert len(stats["machines"]) == 10
    assert len(served.database.server.statements()) <= 12


SYSTEM = "'20.0.24' AS ccusage_version, now64(3) AS created_at, now64(3) AS updated_at"
COUNTS = "0 AS input_tokens, 1000 AS output_tokens, 0 AS cache_creation_tokens, "
MILLION = [
    "INSERT INTO ccusage_usage_daily (machine_name, date, output_tokens, total_tokens, total_cost) "
    "SELECT 'machine-' || toString(number % 10), toDate32('2026-01-01') - intDiv(number, 10), "
    "1000, 1000, 0.5 FROM numbers(10950)",
    "INSERT INTO ccusage_model_breakdowns (machine_name, record_type, record_key, model_name, "
    "total_tokens, cost) "
    "SELECT 'machine-' || toString(number % 10), if(number < 54750, 'daily', 'session'), "
    "toString(toDate32('2026-01-01') - intDiv(number, 50)), "
    "'model-' || toString(intDiv(number, 10) % 5 + 1), 200, 0.01 * (intDiv(number, 10) % 5 + 1) "
    "FROM numbers(1000000)",
    "INSERT INTO ccusage_import_history (machine_name, timezone, total_tokens, started_at, "
    "updated_at, feeds_imported) SELECT 'machine-' || toString(number % 10), 'UTC', number, "
    "now() - number, now() - number, ['daily'] FROM numbers(263000)",
]


def test_statistics_take_one_statement_and_an_hourly_import_at_most_27(
    tmp_path: Path, database: Database
) -> None:
    machine = Machine(tmp_path, database=database)
    path = work(machine, noon() - timedelta(1))
    machine.imports()
    with path.open("a") as file:
        file.write(path.read_text().replace("msg_", "msg_b").replace("req_", "req_b"))
    database.server.control(reset=True)
    machine.imports()
    asked = [s.query for s in database.server.statements()]
    assert len(asked) <= 27
    assert sum("groupArray(tuple(" in query for query in asked) == 1
    database.server.control(reset=True)
    machine.main("--stats")
    assert len(database.server.statements()) <= 12
    assert database.writes() == []
    database.server.control(reset=True)
    assert machine.main("--quiet").out == ""
    assert not [s for s in database.server.statements() if "ccusage_v_daily_summary" in s.query]


# --- nothing there -------------------------------------------------------------------------------


def test_where_nothing_is_imported_that_is_said_and_nothing_is_created(alone: Machine) -> None:
    done = alone.main("--stats")
    assert (done.code, done.out, done.err) == (0, "Empty  nothing is imported yet\n\n", "")
    assert statistics(alone)["tokens"] == 0
    assert not alone.path.exists()
    assert not alone.state.exists()


def test_who_only_looks_is_not_told_that_a_database_is_created(alone: Machine) -> None:
    assert "create the" not in alone.imports("--stats", CH_DATABASE="usage").err
    assert "create the" not in alone.imports("--dry-run", CH_DATABASE="usage").err
    assert "usage: create the database\n" in alone.imports(CH_DATABASE="usage").err


def test_empty_tables_are_as_good_as_none(machine: Machine) -> None:
    machine.stores()
    assert "nothing is stored" in machine.main("--stats").out
    assert statistics(machine)["first_day"] is None


def test_one_row_is_enough(served: Machine) -> None:
    work(served, noon() - timedelta(1))
    served.stores()
    stats = statistics(served)
    assert (stats["tokens"], stats["streak"], stats["longest_streak"]) == (110, 1, 1)
    assert stats["busiest_hour"] == 12
    assert "1 days" not in served.main("--stats").out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--stats", "--machine", "m2"], "--machine: 'm2' never imported; m1 did"),
        (["--days", "3"], "argument --days: not with an import, only with --stats"),
        (
            ["--machine", "x"],
            "argument --machine: not with an import, only with --",
        ),
        (["--stats", "--days", "0"], "expected a number of days, got '0'"),
        (["--stats", "--days", "x"], "expected a number of days, got 'x'"),
        (["--stats", "--check"], "not allowed with argument --stats"),
        (["--stats", "--param", "days=3"], "argument --param: not with --stats, only with --query"),
    ],
)
def test_wrong_usage_is_code_2(args: list[str], message: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    work(machine, noon())
    if "m2" in args:
        machine.stores()
    done = machine.main(*args)
    assert done.code == 2
    assert message in done.err


def test_statistics_wait_for_an_import_that_holds_the_embedded_database(alone: Machine) -> None:
    work(alone, noon())
    alone.stores()
    import fcntl

    with alone.path.with_name(f"{alone.path.name}.lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = alone.main("--stats", "--lock-timeout", "0")
    assert done.code == 4
    assert "another import" in done.err


# --- the summary of an import --------------------------------------------------------------------


def test_the_summary_says_what_was_written_and_what_is_stored(machine: Machine) -> None:
    machine.populate()
    first = " ".join(machine.imports("--agents", "claude", "--verbose").out.split())
    days, sessions = (
        len(machine.report(f)[key]) for f, key in (("daily",) * 2, ("session", "sessions"))
    )
    assert f"daily {days} 0 0 0 " in first
    assert "Machine m1, days in UTC, ccusage 20.0.24, names hashed" in first
    assert re.search(rf"New {days} days, {sessions} sessions changed: \+\$\d+\.\d\d, \+\d", first)
    assert re.search(r"Today \$\d+\.\d\d, .* tokens", first)
    assert re.search(r"This month \$\d+\.\d\d, .* tokens", first)
    second = " ".join(machine.imports("--agents", "claude").out.split())
    assert re.match(r"New nothing new since (\d{4}-\d\d-\d\d )?\d\d:\d\d Today ", second)
    assert "Rows" not in second
    shown = " ".join(machine.main("--stats").out.split())
    assert re.search(r"Total \$\d+\.\d\d, \d+\.\d[KM] tokens, \d+% of the input cached", shown)
    assert re.search(r"Sessions \d+, \$\d", shown)


def test_json_of_an_import_is_all_that_is_on_stdout(machine: Machine) -> None:
    machine.populate()
    done = machine.imports("--format", "json")
    content = json.loads(done.out)
    assert content["tables"]["ccusage_usage_daily"] == {
        "new": content["statistics"]["active_days"],
        "changed": 0,
        "removed": 0,
        "unchanged": 0,
    }
    assert content["identity"]["machine_name"] == "m1"
    assert content["total_tokens"] == content["statistics"]["tokens"]
    assert content["previous"] is None
    assert (
        json.loads(machine.imports("--format", "json").out)["previous"]["total_tokens"]
        == (content["total_tokens"])
    )


def test_quiet_prints_nothing_on_success(served: Machine) -> None:
    work(served, noon())
    done = served.imports("--quiet")
    assert (done.out, done.err) == ("", "")
    target = served.home / "summary.json"
    served.imports("--quiet", "--format", "json", "--output", str(target))
    assert json.loads(target.read_text())["dry_run"] is False


def test_rows_that_are_kept_are_told_with_the_reason(served: Machine) -> None:
    day = noon() - timedelta(40)
    work(served, day)
    work(served, day + timedelta(hours=1), noon(), number=2)
    served.stores()
    assert purge(served.claude, noon())
    shown = " ".join(served.imports().out.split())
    assert re.search(r"Note \d+ rows? kept: their transcripts are gone", shown)
    assert re.search(r"Note  \d+ rows? kept: their transcripts", served.main("--stats").out)
    held = statistics(served)["runs"][0]["held"]
    assert held["their transcripts are gone"] > 0
    would = " ".join(served.imports("--dry-run", "--allow-shrink").out.split())
    assert "Dry run nothing was written" in would
    assert re.search(rf"Would be lowered by --allow-shrink .* daily {day:%Y-%m-%d} 220 110 ", would)
    assert statistics(served)["tokens"] == 330
    done = " ".join(served.imports("--allow-shrink").out.split())
    assert re.search(rf"Lowered by --allow-shrink .* daily {day:%Y-%m-%d} 220 110 ", done)
    assert statistics(served)["tokens"] == 220


def test_a_dry_run_in_an_empty_place_shows_what_would_be_new(alone: Machine) -> None:
    work(alone, noon())
    shown = " ".join(alone.imports("--dry-run").out.split())
    assert "Rows would be new would be changed would be removed unchanged" in shown
    assert "daily 1 0 0 0" in shown
    assert not alone.path.exists()


def test_names_are_hashed_in_everything_that_is_printed_unless_asked_for(served: Machine) -> None:
    work(served, noon())
    outputs = [served.imports("--format", form).out for form in ("table", "json")]
    outputs += [served.main("--stats", "--format", form).out for form in ("table", "json")]
    assert all(PROJECT not in out and name_of(1) not in out for out in outputs)
    done = served.imports("--no-hash-projects", "--verbose")
    assert "names stored as they are" in done.out
    assert PROJECT in served.main("--stats").out


def test_statistics_that_fail_do_not_undo_an_import(tmp_path: Path, database: Database) -> None:
    machine = Machine(tmp_path, database=database)
    work(machine, noon())
    database.server.arm("http500", match="SELECT groupArray")
    done = machine.imports()
    assert "no statistics" in done.err
    assert "1 day, 1 session changed" in done.out
    assert len(machine.history()) == 1


# --- where it is printed -------------------------------------------------------------------------


def test_what_is_piped_is_plain_and_json_and_csv_hold_the_same(served: Machine) -> None:
    machine = served
    machine.populate()
    machine.stores()
    assert "\x1b" not in machine.run("--stats").out
    stats = statistics(machine)
    rows = dict(csv.reader(io.StringIO(machine.main("--stats", "--format", "csv").out)))
    assert rows["figure"] == "value"
    assert float(rows["cost"]) == stats["cost"]
    assert rows["models.1.name"] == stats["models"][0]["name"]
    markdown = machine.main("--stats", "--format", "markdown").out
    assert "| Models | share | cost | tokens |" in markdown
    assert "```\n" in markdown


def test_output_is_written_whole_or_not_at_all(served: Machine) -> None:
    work(served, noon())
    served.stores()
    target = served.home / "report.md"
    target.write_text("before")
    done = served.main("--stats", "--format", "markdown", "--output", str(target))
    assert (done.code, done.out) == (0, "")
    assert target.read_text().startswith("- **Total:**")
    missing = served.home / "no" / "such" / "place.md"
    done = served.main("--stats", "--output", str(missing))
    assert done.code == 2
    assert f"--output {missing}" in done.err


def test_output_that_does_not_fit_leaves_nothing_behind(served: Machine) -> None:
    work(served, noon())
    served.stores()
    argv = shlex.join(served.argv("--stats", "--format", "json", "--output", "report.json"))
    folder = served.home / "full"
    folder.mkdir()
    bash = ["bash", "-c", f"trap '' XFSZ; ulimit -f 1; {argv}"]
    done = subprocess.run(
        bash, env=served.env, cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "--output report.json: File too large\n")
    assert list(folder.iterdir()) == []


def test_output_goes_where_a_link_leads_and_into_what_is_no_file(served: Machine) -> None:
    work(served, noon())
    served.stores()
    target, link, pipe = (served.home / name for name in ("target", "link", "pipe"))
    target.write_text("before")
    target.chmod(0o640)
    link.symlink_to(target)
    assert served.main("--stats", "--output", str(link)).code == 0
    assert link.is_symlink()
    assert target.read_text().startswith("Total")
    assert target.stat().st_mode & 0o777 == 0o640
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True)
    assert served.main("--stats", "--output", str(pipe)).code == 0
    assert reader.communicate(timeout=10)[0] == target.read_text()
    assert pipe.is_fifo()


@pytest.mark.parametrize(("into", "found"), [("| cat", "Total"), ("", "before\nTotal")])
def test_output_may_be_stdout_by_its_name(into: str, found: str, served: Machine) -> None:
    work(served, noon())
    served.stores()
    argv = shlex.join(served.argv("--stats", "--output", "/dev/stdout"))
    file = served.home / "log"
    bash = ["bash", "-c", f"{{ echo before; {argv} {into}; echo after; }} > {file}"]
    subprocess.run(bash, env=served.env, check=True)
    assert found in file.read_text()
    assert file.read_text().endswith("after\n")


def test_a_stored_zone_that_this_machine_does_not_know_is_named(served: Machine) -> None:
    work(served, noon())
    served.stores()
    query = "ALTER TABLE ccusage_import_history UPDATE timezone = 'Mars/Base' WHERE 1"
    served.database.query(f"{query} SETTINGS mutations_sync = 1")
    (served.state / "machine.json").unlink()
    for args in (["--stats"], []):
        done = served.main(*args)
        assert done.code == 2
        assert "import history: 'Mars/Base' is no IANA time zone; update the tz" in done.err


@pytest.mark.rotates(3)
@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [
        (">/dev/full", 1, "the result cannot be printed: No space left on device\n"),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("| :", 0, ""),
        ("2>&1 | :", 0, ""),
    ],
)
def test_an_answer_that_nobody_can_read_is_no_crash(
    redirection: str, code: int, message: str, served: Machine
) -> None:
    work(served, noon())
    served.repeat()
    script = f"set -o pipefail; {shlex.join(served.argv('--verbose'))} {redirection}"
    bash = ["bash", "-c", script]
    done = subprocess.run(bash, env=served.env, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert done.stderr.endswith(message)
    assert ("New" in done.stdout) == (redirection == "2>&-")
    assert len(served.history()) == 1


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}])
def test_an_ascii_locale_gets_ascii(env: dict[str, str], served: Machine) -> None:
    work(served, noon(), model="claude-ünïcode-☃")
    served.repeat()
    done = served.run(**env)
    assert done.code == 0, done.err
    assert not re.search("[·░▒▓█━–…]", done.out)
    assert "less .:+*# more" in served.run("--stats", **env).out


def on_a_terminal(machine: Machine, *args: str, width: int = 80, **env: str) -> str:
    """What the program prints on a terminal."""
    parent, child = pty.openpty()
    env = machine.env | {"TERM": "xterm-256color", "COLUMNS": str(width)} | env
    argv = [sys.executable, str(PROGRAM), *args]
    with subprocess.Popen(argv, env=env, stdin=child, stdout=child, stderr=child) as process:
        os.close(child)
        found = b""
        poll = select.poll()  # which takes descriptors above 1023, too
        poll.register(parent, select.POLLIN)
        while process.poll() is None or poll.poll(100):
            try:
                found += os.read(parent, 65536) if poll.poll(100) else b""
            except OSError:
                break
    os.close(parent)
    assert process.returncode == 0, found
    return found.decode()


def test_a_terminal_gets_progress_colours_and_a_spinner(alone: Machine) -> None:
    work(alone, noon(), model=OPUS)
    alone.repeat()
    shown = on_a_terminal(alone)
    for number in range(1, 6):
        assert re.search(rf"{number}/5 \w+ +\d\.\d\d s", shown)
    assert "importing" in shown
    assert "\x1b[?25h" in shown  # the cursor is back
    assert "\x1b[32m━" in on_a_terminal(alone, "--stats")
    bare = on_a_terminal(alone, "--stats", NO_COLOR="1")
    assert not re.search(r"\x1b\[[\d;]*3\d", bare)
    assert "importing" not in on_a_terminal(alone, "--quiet")


def test_a_reader_who_has_seen_enough_is_no_error(alone: Machine) -> None:
    work(alone, noon())
    alone.stores()
    process = alone.start("--stats", "--format", "json")
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 0


def test_help_and_version_load_neither_rich_nor_the_database(alone: Machine) -> None:
    script = (
        "import sys, ccusage_importer as program\n"
        "try: program.main(['--version'])\n"
        "except SystemExit: pass\n"
        "assert not {'rich', 'clickhouse_connect', 'chdb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=PROGRAM.parent)


# --- on a fixed clock, in the database -----------------------------------------------------------


@pytest.fixture
def facts(database: Database) -> Iterator[ClickHouseImporter]:
    """A database of ours to fill with SQL."""
    settings = Settings.from_env(database.env())
    with open_client(settings, writing=True) as client:
        importer = ClickHouseImporter(client, settings, "")
        importer.prepare(create=True)
        yield importer


def ask(importer: ClickHouseImporter, **scope: Any) -> Statistics:
    now = datetime(2026, 11, 18, 14, 30, tzinfo=UTC)
    return read_statistics(importer, Scope(now, "Europe/Berlin", **scope))


def test_blocks_are_active_and_hours_counted_by_the_given_clock_and_zone(
    facts: ClickHouseImporter,
) -> None:
    facts.client.command(
        "INSERT INTO ccusage_usage_blocks (machine_name, block_id, start_time, end_time, "
        "is_active, is_gap, total_tokens, cost_usd, burn_rate, projection) VALUES "
        "('a', '1', '2026-11-18 12:00:00', '2026-11-18 17:00:00', 1, 0, 70, 2.5, 1.0, 5.0), "
        "('b', '2', '2026-11-18 13:00:00', '2026-11-18 18:00:00', 1, 0, 10, 0.5, NULL, NULL), "
        "('a', '3', '2026-11-18 06:00:00', '2026-11-18 11:00:00', 1, 0, 60, 1.0, 1.0, 1.0), "
        "('a', '4', '2026-11-18 11:00:00', '2026-11-18 19:00:00', 1, 1, 0, 0.0, NULL, NULL), "
        "('a', '5', '2026-11-18 12:30:00', '2026-11-18 17:30:00', 0, 0, 5, 0.0, NULL, NULL)"
    )
    stats = ask(facts)
    found = {block.machine: block for block in stats.blocks}
    assert found.keys() == {"a", "b"}
    assert (found["a"].minutes_left, found["a"].cost_per_hour) == (150, 1.0)
    assert found["a"].projected_cost == 5.0
    assert (found["b"].cost_per_hour, found["b"].projected_cost) == (None, None)
    assert stats.busiest_hour == 13  # 12:00 UTC
    assert ask(facts, machine="b").busiest_hour == 14


def test_sessions_without_a_date_count_only_where_all_days_do(facts: ClickHouseImporter) -> None:
    facts.client.command(
        "INSERT INTO ccusage_usage_sessions (machine_name, agent, session_key, project_path, "
        "session_id, first_activity, last_activity, total_tokens, total_cost) VALUES "
        "('a', 'claude', '1', 'p', 's', '2026-11-17 22:30:00', '2026-11-17 23:30:00', 5, 2.0), "
        "('a', 'codex', '2', '', 't', NULL, NULL, 5, 4.0)"
    )
    stats = ask(facts)
    assert stats.sessions == (2, 3.0, 4.0, "t", 60, "p/s")
    assert ask(facts, days=1).sessions.number == 1  # 00:30 in Berlin
    assert ask(facts, agents=("codex",)).sessions == (1, 4.0, 4.0, "t", 0, "")


def test_names_reach_the_statement_as_parameters(facts: ClickHouseImporter) -> None:
    evil = "o'brien\\ {x} %s --"
    facts.client.insert(
        "ccusage_usage_daily",
        [[evil, evil, date(2026, 11, 18), 5, 1.0]],
        column_names=["machine_name", "agent", "date", "total_tokens", "total_cost"],
    )
    assert ask(facts, machine=evil, agents=(evil,)).tokens == 5
    assert ask(facts, machine="' OR 1 --").tokens == 0
    assert [part.name for part in ask(facts).machines] == [evil]


def test_the_hours_of_a_block_are_told_by_its_start_and_last_entry(
    facts: ClickHouseImporter,
) -> None:
    facts.client.command(
        "INSERT INTO ccusage_usage_blocks (machine_name, block_id, start_time, end_time, "
        "actual_end_time, is_active, is_gap, total_tokens, cost_usd) VALUES "
        "('a', '1', '2026-11-17 12:00:00', '2026-11-17 17:00:00', '2026-11-17 15:10:00', 0, 0, "
        "70, 8.0)"
    )
    facts.client.command(
        "INSERT INTO ccusage_usage_daily (machine_name, date, total_tokens, total_cost) VALUES "
        "('a', '2026-11-17', 70, 8.0), ('a', '2026-11-18', 70, 5.0)"
    )
    today = ask(facts).periods[0]
    # 13 to 17 o'clock in Berlin, a quarter in each hour; it is 15:30 there.
    assert (today.cost_before, today.cost_before_so_far) == (8.0, pytest.approx(5.0))
    assert ask(facts, machine="b").periods[0].cost_before_so_far == 0.0


def test_the_last_twelve_months_are_listed_from_the_first_with_usage_on(
    facts: ClickHouseImporter,
) -> None:
    facts.client.command(
        "INSERT INTO ccusage_usage_daily (machine_name, date, total_tokens, total_cost) VALUES "
        "('a', '2025-11-30', 1, 1.0), ('a', '2026-01-05', 0, 0.0), ('a', '2026-08-01', 5, 2.0), "
        "('a', '2026-10-31', 7, 3.0), ('b', '2026-10-31', 7, 3.0), ('a', '2026-10-30', 1, 0.5), "
        "('a', '2026-12-01', 9, 9.0)"
    )
    assert ask(facts).months == [
        ("2026-08", 2.0, 5, 1),
        ("2026-09", 0.0, 0, 0),
        ("2026-10", 6.5, 15, 2),
        ("2026-11", 0.0, 0, 0),
    ]
    assert [month.month for month in ask(facts, days=25).months] == ["2026-10", "2026-11"]
    assert ask(facts, machine="nobody").months == []


def test_tokens_without_a_price_are_told_unless_the_agent_tells_no_costs_of_models(
    facts: ClickHouseImporter,
) -> None:
    facts.client.command(
        "INSERT INTO ccusage_usage_daily (machine_name, agent, date, total_cost) VALUES "
        "('a', 'claude', '2026-11-18', 1.0), ('a', 'codex', '2026-11-18', 2.0), "
        "('a', 'free', '2026-11-18', 0.0)"
    )
    facts.client.command(
        "INSERT INTO ccusage_model_breakdowns (machine_name, agent, record_type, record_key, "
        "model_name, total_tokens, cost) VALUES "
        "('a', 'claude', 'daily', '2026-11-18', 'known', 7, 1.0), "
        "('a', 'claude', 'daily', '2026-11-18', 'new', 5, 0.0), "
        "('a', 'codex', 'daily', '2026-11-18', 'gpt', 9, 0.0), "
        "('a', 'free', 'daily', '2026-11-18', 'new', 1, 0.0)"
    )
    assert ask(facts).unpriced == {"new": 6}
    assert ask(facts, agents=("codex",)).unpriced == {}


# --- budgets -------------------------------------------------------------------------------------


def test_a_budget_is_that_of_all_machines_whatever_is_asked_for(
    tmp_path: Path, database: Database
) -> None:
    here, there = (Machine(tmp_path, name, database=database) for name in ("here", "there"))
    for machine in (here, there):
        work(machine, noon())
        machine.stores()
    for args in ([], ["--machine", "here"], ["--agents", "codex"], ["--days", "1"]):
        month, day = statistics(here, *args, BUDGET_MONTH="200", BUDGET_DAY="0.001")["budgets"]
        assert month["cost"] == day["cost"] == pytest.approx(0.00306)
        assert (month["limit"], month["reached"]) == (200.0, None)
        assert day["reached"] == str(noon().date())
    assert statistics(here)["budgets"] == []


def test_an_import_rings_when_it_takes_all_machines_over_a_budget(
    tmp_path: Path, database: Database
) -> None:
    here, there = (Machine(tmp_path, name, database=database) for name in ("here", "there"))
    work(here, noon())
    work(there, noon(), number=2)
    limits = {"BUDGET_DAY": "0.002"}  # one machine uses 0.0015 of it
    assert "budget" not in here.imports("--quiet", **limits).err
    rings = there.imports("--quiet", **limits).err
    assert rings == "WARNING: the budget of today is exceeded: <$0.01 of <$0.01 (153 %)\n"
    assert there.imports("--quiet", **limits).err == ""


def test_statistics_end_with_code_5_when_a_budget_is_exceeded_and_nobody_reads_them(
    served: Machine,
) -> None:
    work(served, noon())
    served.stores()
    for env, code in (({}, 0), ({"BUDGET_DAY": "5"}, 0), ({"BUDGET_DAY": "0.001"}, 5),
                      ({"BUDGET_MONTH": "0.001"}, 5)):  # fmt: skip
        assert served.main("--stats", "--quiet", **env) == (code, "", "")
        assert served.main("--stats", **env).code == 0
    shown = " ".join(served.imports(BUDGET_MONTH="5").out.split())
    assert re.search(r"Budget <?\$0\.0\d? of \$5 \(0 %\)", shown)


@pytest.mark.parametrize("text", ["0", "-5", "$200", "abc", "1e3", "nan"])
def test_a_budget_that_is_no_amount_of_dollars_is_refused(text: str, alone: Machine) -> None:
    for name in ("BUDGET_MONTH", "BUDGET_DAY"):
        done = alone.main("--stats", **{name: text})
        assert done.code == 2
        assert f"{name}: expected dollars, such as 200, got '{text}'" in done.err


# --- names ---------------------------------------------------------------------------------------


def test_a_terminal_shows_names_on_demand_and_nothing_keeps_them(alone: Machine) -> None:
    other = "-home-dev-other-plan"
    work(alone, noon())
    write_session(alone.claude, other, name_of(2), [Message(at=noon(), model=OPUS)])
    write_codex(alone.home / "codex", name_of(7), [Message(at=noon(), model="gpt-5")])
    alone.repeat()
    shown = on_a_terminal(alone, "--names", "--verbose", width=120)
    assert PROJECT not in shown  # a summary names no projects
    shown = on_a_terminal(alone, "--stats", "--names", width=120)
    assert re.search("^secret-plan ", shown, re.MULTILINE)
    assert f"(other-plan/{name_of(2)})" in " ".join(shown.split())
    sessions = on_a_terminal(alone, "--query", "most-expensive-sessions", "--names", width=120)
    assert "rollout-" in sessions
    assert name_of(1) in sessions
    assert "secret-plan" not in on_a_terminal(alone, "--stats", width=120)
    kept = [path for path in alone.state.rglob("*") if path.is_file()]
    kept += [path for path in alone.path.rglob("*") if path.is_file()]
    assert not [path for path in kept if b"secret-plan" in path.read_bytes()]


def test_names_match_under_the_key_that_they_were_hashed_with(alone: Machine) -> None:
    alone.env["PROJECT_HASH_KEY"] = "a key"
    work(alone, noon())
    alone.stores()
    assert PROJECT in on_a_terminal(alone, "--stats", "--names", width=120)


@pytest.mark.parametrize(
    "args",
    [
        ["--stats", "--names"],
        ["--names"],
        ["--query", "project-costs", "--names"],
        ["--stats", "--names", "--format", "json"],
        ["--stats", "--names", "--output", "file"],
        ["--check", "--names"],
        ["--list-queries", "--names"],
    ],
)
def test_names_are_for_a_terminal_alone(args: list[str], alone: Machine) -> None:
    done = alone.main(*args)
    assert (done.code, done.out) == (2, "")
    assert "argument --names: " in done.err
    assert ("only on a terminal" in done.err) == (args[0] not in ("--check", "--list-queries"))
    if args != ["--names"]:
        return
    parent, child = pty.openpty()
    argv = [sys.executable, str(PROGRAM), "--stats", "--names", "--format", "json"]
    done = subprocess.run(argv, env=alone.env, stdout=child, stderr=subprocess.PIPE, check=False)
    os.close(parent)
    os.close(child)
    assert done.returncode == 2
