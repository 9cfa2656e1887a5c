"""--query, --list-queries and --param: exact answers, on a server and embedded; nothing writes."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import subprocess
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from clickhouse_server import ClickHouseServer
from tables import Database, Machine, footprint, noon, read
from transcripts import Message, write_session

from ccusage_importer import (
    QUERIES,
    ConfigError,
    Query,
    bind,
    find_query,
    main,
    read_queries,
    written_query,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tables import Done

UTC = timezone.utc
NAMES = [
    name
    for name in read_queries(QUERIES.read_text(encoding="utf-8"))
    if not name.startswith(("statistics-", "report-", "integrity-"))
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """With an embedded database."""
    return two_days(Machine(tmp_path_factory.mktemp("machine")))


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, clickhouse: ClickHouseServer
) -> Iterator[Machine]:
    database = Database(clickhouse, "query_cli")
    yield two_days(Machine(tmp_path_factory.mktemp("machine"), database=database))
    database.drop()


@pytest.fixture(params=["alone", "served"])
def machine(request: pytest.FixtureRequest) -> Machine:
    machine: Machine = request.getfixturevalue(request.param)
    return machine


def two_days(machine: Machine) -> Machine:
    """Two days of usage, imported once for all that only reads."""
    for number, ago in enumerate((0, 1)):
        name = f"{number:08d}-0000-4000-8000-000000000000"
        write_session(machine.claude, "-home-dev", name, [Message(at=noon() - timedelta(ago))])
    machine.stores()
    return machine


def ask(machine: Machine, sql: str, *args: str, monkeypatch: pytest.MonkeyPatch) -> Done:
    monkeypatch.setattr("sys.stdin", io.StringIO(sql))
    return machine.main("--query", "-", *args)


# --- queries by name -----------------------------------------------------------------------------


def test_every_query_answers_with_its_defaults(machine: Machine) -> None:
    done = machine.main("--list-queries", "--format", "json")
    listed = json.loads(done.out)
    assert [query["name"] for query in listed] == NAMES
    for name in NAMES[::9]:
        done = machine.main("--query", name, "--format", "json")
        assert (done.code, done.err) == (0, "")
        assert isinstance(json.loads(done.out), list)


def test_the_list_shows_names_and_questions(machine: Machine) -> None:
    done = machine.main("--list-queries")
    assert done.code == 0
    assert re.match("Name +Question\n\nDays:\nall-time-totals  ", done.out)
    assert "\n\nModels:\nmodel-costs  " in done.out
    assert "\ndaily-cost-trend  " in done.out
    assert "What did each of the last days cost" in done.out
    assert "week before it? [days=30, machine='']" in " ".join(done.out.split())
    assert max(map(len, done.out.splitlines())) <= 120


def test_json_and_csv_are_exact_and_tables_are_for_people(machine: Machine) -> None:
    args = ("--query", "daily-cost-trend", "--param", "days=3")
    rows = json.loads(machine.main(*args, "--format", "json").out)
    with machine.asking() as query:
        stored = dict(query("SELECT date, total_cost FROM ccusage_v_daily_summary ORDER BY date"))
    days = [noon().date() - timedelta(ago) for ago in (2, 1, 0)]
    assert [row["date"] for row in rows] == [str(day) for day in days]
    assert [row["total_cost"] for row in rows] == [stored.get(day, 0.0) for day in days]
    assert rows[1]["total_tokens"] == 110
    lines = list(csv.DictReader(io.StringIO(machine.main(*args, "--format", "csv").out)))
    assert [float(line["total_cost"]) for line in lines] == [row["total_cost"] for row in rows]
    assert [line["date"] for line in lines] == [row["date"] for row in rows]
    shown = machine.main(*args).out
    title, about, empty, header, *lines = shown.splitlines()
    assert title.startswith("What did each of the last days cost")
    assert about == f"{days[0]} – {days[2]}; days: 3; machine: all"
    assert (empty, header.split("  ")[0]) == ("", "date")
    assert f"{days[1]}           110     $0.0015" in shown
    assert lines[3].split() == ["total", "220", "$0.0031"]
    markdown = machine.main(*args, "--format", "markdown").out.split("\n")
    assert markdown[1].startswith("| --- | ---: | ---: |")
    assert markdown[0].startswith("| date | total tokens |")


def test_an_answer_without_rows_keeps_its_columns(machine: Machine) -> None:
    args = ("--query", "daily-cost-trend", "--param", "days=0")
    assert json.loads(machine.main(*args, "--format", "json").out) == []
    assert machine.main(*args, "--format", "csv").out.startswith("date,total_tokens,")
    assert machine.main(*args).out.endswith("\ndays: 0; machine: all\n\nno rows\n\n")
    assert machine.main(*args, "--format", "markdown").out.startswith("| date | total tokens |")


def test_an_answer_goes_to_a_file(machine: Machine, tmp_path: Path) -> None:
    target = tmp_path / "days.csv"
    args = ("--query", "all-time-totals", "--format", "csv", "--output", str(target))
    assert machine.main(*args) == (0, "", "")
    assert target.read_text().startswith("first_day,last_day,")


def test_parameters_are_bound_and_never_pasted(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = "o'brien' OR 1=1 -- \\ %s {x} ☃\n"
    sql = "SELECT {name:String} AS name, {n:Nullable(UInt8)} AS n, 'a%b' LIKE '%b' AS percent"
    done = ask(machine, sql, "--param", f"name={evil}", "--param", "n=7", "--format", "json",
               monkeypatch=monkeypatch)  # fmt: skip
    assert json.loads(done.out) == [{"name": evil, "n": 7, "percent": 1}]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["daily-costs-trend"],
            "no query is named 'daily-costs-trend'; the nearest are daily-cost-",
        ),
        (["forecast"], "the nearest are month-forecast"),
        (["zzz"], "no query is named 'zzz'; --list-queries lists all"),
        (
            ["daily-cost-trend", "--param", "dayz=3"],
            "daily-cost-trend: it has no parameter dayz; its parameters: days, machine",
        ),
        (["all-time-totals", "--param", "x=1"], "it has no parameter x; its parameters: none"),
        (
            ["daily-cost-trend", "--param", "days=abc"],
            "--query daily-cost-trend: days: expected a whole number below 100000, got 'abc'\n",
        ),
        (["daily-cost-trend", "--param", "days=4294967296"], "below 100000, got '4294967296'"),
        (["daily-cost-trend", "--param", "days=-1"], "below 100000, got '-1'"),
        (["budget-left", "--param", "budget=x"], "budget: expected a number, got 'x'"),
        (["budget-left", "--param", "budget=nan"], "budget: expected a number, got 'nan'"),
        (["hours-of-day", "--param", "timezone=Mars/Base"], "'Mars/Base' is no IANA time zone"),
        (["statistics-models", "--param", "since=May"], "since: expected a day such as 2026-01-"),
        (["model-costs", "--param", "machine=m2"], "--machine: 'm2' never imported; m1 did"),
        (["model-costs", "--machine", "m2"], "--machine: 'm2' never imported; m1 did"),
        (["month-forecast", "--machine", "m1"], "it has no parameter machine"),
    ],
)
def test_wrong_names_and_parameters_are_code_2_and_told(
    args: list[str], message: str, served: Machine
) -> None:
    done = served.main("--query", *args)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--query", "x", "--param", "days"], "expected NAME=VALUE, got 'days'"),
        (["--query", "x", "--param", "=3"], "expected NAME=VALUE, got '=3'"),
        (["--param", "days=3"], "argument --param: not with an import, only with --query"),
        (["--query", "x", "--list-queries"], "not allowed with argument"),
        (["--query", ""], "expected a name, or - for SQL from stdin"),
        (["--query", "x", "--agents", "codex"], "argument --agents: not with --query"),
    ],
)
def test_wrong_usage_is_code_2(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(args)
    assert left.value.code == 2
    assert message in capsys.readouterr().err


# --- SQL from stdin ------------------------------------------------------------------------------


def test_values_of_all_kinds_arrive_exactly(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = """
        SELECT toDate32('2199-12-31') AS day,
            toDateTime64('2026-01-02 03:04:05.678', 3, 'UTC') AS t,
            nan AS n, NULL AS nothing, 0.1 + 0.2 AS sum, 18446744073709551615 AS large, [1, 2] AS a,
            map('k', 1.5) AS m, toDecimal64(1.10, 2) AS d, true AS yes, 'a"b,c\\nd' AS text;
        -- a comment after it
    """
    done = ask(machine, sql, "--format", "json", monkeypatch=monkeypatch)
    assert (done.code, done.err) == (0, "")
    wanted: dict[str, Any] = {
        "day": "2199-12-31",
        "t": "2026-01-02T03:04:05.678000+00:00",
        "n": None,
        "nothing": None,
        "sum": 0.30000000000000004,
        "large": 18446744073709551615,
        "a": [1, 2],
        "m": {"k": 1.5},
        "d": "1.10",
        "yes": True,
        "text": 'a"b,c\nd',
    }
    assert json.loads(done.out) == [wanted]
    done = ask(machine, sql, "--format", "csv", monkeypatch=monkeypatch)
    ((header), (cells)) = list(csv.reader(io.StringIO(done.out)))
    assert header == list(wanted)
    assert cells == [
        "2199-12-31",
        "2026-01-02T03:04:05.678000+00:00",
        "",
        "",
        "0.30000000000000004",
        "18446744073709551615",
        "[1, 2]",
        '{"k": 1.5}',
        "1.10",
        "true",
        'a"b,c\nd',
    ]


WRITING = (
    "INSERT INTO ccusage_usage_daily (machine_name) VALUES ('x')",
    "INSERT INTO ccusage_usage_daily (machine_name) SELECT 'x'",
    "INSERT INTO FUNCTION file('stolen.csv', 'CSV', 'x Int8') SELECT 1",
    "DELETE FROM ccusage_usage_daily WHERE 1",
    "ALTER TABLE ccusage_usage_daily DELETE WHERE 1",
    "DROP TABLE ccusage_usage_daily",
    "TRUNCATE TABLE ccusage_usage_daily",
    "OPTIMIZE TABLE ccusage_usage_daily FINAL",
    "CREATE TABLE t (x Int8) ENGINE = Memory",
    "CREATE TEMPORARY TABLE t (x Int8)",
    "SET readonly = 0",
    "SELECT 1 SETTINGS readonly = 0",
)


def test_a_statement_that_writes_is_refused(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stored(machine)
    for statement in WRITING:
        done = ask(machine, statement, monkeypatch=monkeypatch)
        assert (done.code, done.out) == (2, ""), statement
        assert "--query only reads" in done.err, statement
    done = ask(machine, "SELECT 1; DROP TABLE ccusage_usage_daily", monkeypatch=monkeypatch)
    assert done.code == 2
    assert stored(machine) == before


def stored(machine: Machine) -> Any:
    with machine.asking() as query:
        name = machine.database.name if machine.database else "default"
        return read(query, machine.name), footprint(query, name)


@pytest.mark.parametrize(
    ("sql", "code", "message"),
    [
        ("SELECT {days:UInt8}, {a:String}", 2, "no value for a, days; its parameters: days, a"),
        ("SELECT 1 INTO OUTFILE '/tmp/never'", 2, "for a file, use --output"),
        ("SELECT '--' INTO/**/OUTFILE '/tmp/never'", 2, "for a file, use --output"),
        ("SELECT 1 AS a; SELECT 2 AS b, 3 AS c", 2, "Multi-statements are not allowed"),
        ("SELECT 1 AS a, 2 AS a", 2, "a"),
        ("SELECT throwIf(1, 'as asked')", 2, "as asked"),
        (" \n ; ", 2, "no SQL came from stdin"),
        ("-- nothing but a comment", 2, "no SQL came from stdin"),
        ("SELEC 1", 2, "Syntax error"),
        ("SELECT nothing_like_it", 2, "nothing_like_it"),
        ("SELECT * FROM no_such_table", 2, "no_such_table"),
        ("SELECT 1;" + "\n-- a comment" * 3_000 + "\nSELECT 2;", 2, "Multi-statements are not"),
        (QUERIES.read_text(encoding="utf-8"), 2, "Multi-statements are not allowed"),
    ],
)
def test_sql_that_cannot_be_run_says_why(
    sql: str, code: int, message: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = ask(machine, sql, monkeypatch=monkeypatch)
    assert (done.code, done.out) == (code, "")
    assert message in done.err


@pytest.mark.parametrize(
    ("sql", "row"),
    [
        ("SELECT 1 AS a;;\n;", {"a": 1}),
        ("SELECT ';' AS a -- ;\n", {"a": ";"}),
        ("SELECT '--' AS a ; /* ; */ -- ;", {"a": "--"}),
        ("/* ; */ SELECT 1 AS `a;` /* ; */ -- x\n; -- y", {"a;": 1}),
        ("SELECT 2-1 / 2 AS a;", {"a": 1.5}),
        ("SELECT 'it\\'s; --' AS a;", {"a": "it's; --"}),
        ("SELECT '-- b;' AS a /* open; */", {"a": "-- b;"}),
    ],
)
def test_comments_and_semicolons_may_end_sql_from_stdin(
    sql: str, row: dict[str, Any], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = ask(machine, sql, "--format", "json", monkeypatch=monkeypatch)
    assert done.err == ""
    assert json.loads(done.out) == [row]


def test_a_query_of_the_file_may_be_piped_with_its_defaults(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = "-- a question\nSET param_x = 4;\nSET param_y = 'INTO OUTFILE';\nSELECT {x:UInt8} AS x, "
    sql += "{y:String} AS y, 'INTO OUTFILE' AS z;\n"
    done = ask(machine, sql, "--format", "json", monkeypatch=monkeypatch)
    assert json.loads(done.out) == [{"x": 4, "y": "INTO OUTFILE", "z": "INTO OUTFILE"}]
    done = ask(machine, sql, "--format", "csv", "--param", "x=9", monkeypatch=monkeypatch)
    assert done.out.splitlines()[1] == "9,INTO OUTFILE,INTO OUTFILE"


@pytest.mark.parametrize("sql", ["SHOW TABLES", "DESCRIBE ccusage_usage_daily", "EXPLAIN SELECT 1"])
def test_statements_that_look_around_are_answered(
    sql: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = ask(machine, sql, "--format", "json", monkeypatch=monkeypatch)
    assert done.code == 0, done.err
    assert json.loads(done.out)


def test_a_user_who_may_only_read_can_ask_and_see_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = ("default:", "reader1:pw:readonly=1", "reader2:pw:readonly=2")
    with ClickHouseServer(tmp_path / "server", users=users) as server:
        machine = Machine(tmp_path, database=Database(server, "usage"))
        machine.stores()
        for user in ("reader1", "reader2"):
            machine.env |= {"CH_USER": user, "CH_PASSWORD": "pw"}
            done = machine.main("--query", "all-time-totals", "--format", "json")
            assert done.code == 0, done.err
            assert machine.main("--stats").code == 0
            done = ask(machine, "DROP TABLE ccusage_usage_daily", monkeypatch=monkeypatch)
            assert done.code == 2


def test_a_database_that_is_not_there_is_not_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path)
    done = machine.main("--query", "model-costs")
    assert done.code == 1
    assert "run an import once" in done.err
    assert ask(machine, "SELECT 1 AS one", monkeypatch=monkeypatch).out == "one\n1\n\n"
    assert not machine.path.exists()
    assert not machine.state.exists()


# --- the parts -----------------------------------------------------------------------------------


def test_a_query_is_found_by_its_name() -> None:
    assert find_query("daily-cost-trend").parameters == {"days": "30", "machine": ""}


def test_what_is_given_goes_before_the_default() -> None:
    query = Query("q", "?", {"days": "30", "machine": ""}, "SELECT 1")
    assert bind(query, {"days": "7"}) == {"days": "7", "machine": ""}
    with pytest.raises(ConfigError, match="it has no parameter x; its parameters: days, machine"):
        bind(query, {"x": "7"})


def test_the_parameters_of_sql_from_stdin_need_values() -> None:
    query = written_query(io.StringIO("SET param_y = 4;\nSELECT {x:UInt8}, {y:UInt8};"))
    assert query.parameters == {"x": None, "y": "4"}


# --- for people ----------------------------------------------------------------------------------


def test_a_machine_may_be_named_by_either_option(machine: Machine) -> None:
    args = ("--query", "model-costs", "--format", "json")
    either = [
        machine.main(*args, *more) for more in (["--machine", "m1"], ["--param", "machine=m1"])
    ]
    assert either[0] == either[1] == machine.main(*args)
    assert json.loads(either[0].out)


def test_times_and_today_are_those_of_the_recorded_zone(tmp_path: Path, database: Database) -> None:
    """One of two zones is on another day than UTC at any hour."""
    now = datetime.now(UTC)
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        machine = Machine(tmp_path, zone[-4:], zone=zone, database=database)
        at = now - timedelta(minutes=1)
        name = "00000000-0000-4000-8000-000000000000"
        write_session(machine.claude, "-home-dev", name, [Message(at=at)])
        machine.stores()
        done = machine.main("--query", "today-so-far", "--machine", machine.name)
        assert f"timezone: {zone}" in done.out
        assert json.loads(machine.main("--query", "today-so-far", "--machine", machine.name,
                          "--format", "json").out)[0]["today_tokens"] == 110  # fmt: skip
        shown = machine.main("--query", "recent-blocks", "--machine", machine.name).out
        assert f"times in {zone}" in shown
        local = at.astimezone(ZoneInfo(zone))
        assert f"{local:%Y-%m-%d %H}:00" in shown
        asked = machine.main("--query", "today-so-far", "--param", "timezone=UTC").out
        assert "timezone: UTC" in asked


def test_a_chart_is_drawn_and_keeps_its_numbers_elsewhere(machine: Machine) -> None:
    args = ("--query", "chart-cost-by-machine", "--param", "days=5")
    shown = machine.main(*args).out
    assert re.search("^m1: \\$0.0031 in all$", shown, re.MULTILINE)
    assert "█" in shown
    assert machine.main(*args, "--format", "csv").out.count("\n") == 6
    assert machine.main(*args, "--format", "markdown").out.startswith("| time | value | series |")


def test_the_budget_is_the_one_that_is_set(machine: Machine) -> None:
    def budget(*args: str, **env: str) -> float:
        done = machine.main("--query", "budget-left", "--format", "json", *args, **env)
        (row,) = json.loads(done.out)
        return round(row["spent"] + row["left"])

    assert budget() == 200
    assert budget(BUDGET_MONTH="350.5") == round(350.5)
    assert budget("--param", "budget=50", BUDGET_MONTH="350") == 50


def test_what_statistics_are_made_of_is_not_listed_but_answers(machine: Machine) -> None:
    listed = machine.main("--list-queries").out
    assert not re.search("^(statistics|report)-", listed, re.MULTILINE)
    done = machine.main("--query", "statistics-days", "--param", "agents=codex,claude")
    assert re.search(r"^total +\$0.0031 +220 ", done.out, re.MULTILINE)
    assert "no rows" in machine.main("--query", "statistics-days", "--param", "agents=x,claud").out


@pytest.mark.parametrize(
    ("redirection", "message"),
    [
        ("<&-", "--query -: no SQL came from stdin"),
        ("< /dev/null", "--query -: no SQL came from stdin"),
        ("<<< $'SELECT \\xff'", "--query -: stdin is not in UTF-8"),
    ],
)
def test_a_stdin_that_holds_no_sql_is_told(redirection: str, message: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    script = f"{shlex.join(machine.argv('--query', '-'))} {redirection}"
    done = subprocess.run(
        ["bash", "-c", script], env=machine.env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
