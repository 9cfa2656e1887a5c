"""Settings come from the environment, `.env` and the command line; what is wrong is named."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tables import PROGRAM, Database, Machine

import ccusage_importer
from ccusage_importer import (
    ConfigError,
    Settings,
    build_parser,
    child_environment,
    cleanup_periods,
    dotenv_path,
    load_environment,
    locked,
    main,
    transcript_directories,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PASSWORD = "p'\"$w ö%:@/\\#=x"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def dotenv(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes the `.env` beside the script, which is elsewhere for these tests."""
    monkeypatch.setattr(ccusage_importer, "HERE", home / "clone")
    (home / "clone").mkdir()

    def write(text: str) -> Path:
        path = home / "clone/.env"
        path.write_text(text, encoding="utf-8")
        return path

    return write


# --- variables -----------------------------------------------------------------------------


def test_without_any_variable_the_defaults_hold(home: Path) -> None:
    settings = Settings.from_env({})
    found = {name: getattr(settings, name) for name in settings._fields}
    assert found == {
        "host": None,
        "port": 8123,
        "protocol": "http",
        "user": "default",
        "password": "",
        "database": "default",
        "cluster": "",
        "ca_cert": None,
        "verify": True,
        "embedded_path": home / ".local/share/ccusage-import/clickhouse",
        "machine_name": None,
        "ccusage_command": (),
        "ccusage_args": (),
        "timezone": None,
        "jobs": 3,
        "timeout": 120,
        "patience": 1.5,
        "hash_key": "",
        "state_dir": home / ".local/state/ccusage-import",
        "environment": {},
        "budget_month": None,
        "budget_day": None,
        "agents": frozenset(),
        "hash_projects": None,
        "claims_name": False,
        "reprice": False,
        "allow_shrink": False,
        "dry_run": False,
        "lock_timeout": 300,
    }


VARIABLES = [
    "CH_HOST",
    "CH_PORT",
    "CH_PROTOCOL",
    "CH_USER",
    "CH_PASSWORD",
    "CH_DATABASE",
    "CH_CA_CERT",
    "CH_VERIFY",
    "CH_CLUSTER",
    "CH_EMBEDDED_PATH",
    "MACHINE_NAME",
    "CCUSAGE_COMMAND",
    "CCUSAGE_ARGS",
    "CCUSAGE_TIMEZONE",
    "CCUSAGE_JOBS",
    "CCUSAGE_TIMEOUT",
    "PROJECT_HASH_KEY",
    "CCUSAGE_STATE_DIR",
]


@pytest.mark.usefixtures("home")
def test_an_empty_variable_is_as_an_unset_one() -> None:
    empty = Settings.from_env(dict.fromkeys(VARIABLES, ""))
    unset = Settings.from_env({})
    names = [name for name in Settings._fields if name != "environment"]
    assert [getattr(empty, name) for name in names] == [getattr(unset, name) for name in names]


@pytest.mark.parametrize(
    ("variable", "value", "field", "wanted"),
    [
        ("CH_HOST", "db.example.com", "host", "db.example.com"),
        ("CH_HOST", "::1", "host", "::1"),
        ("CH_HOST", "[fe80::1]", "host", "[fe80::1]"),
        ("CH_PORT", "9000", "port", 9000),
        ("CH_PORT", "443", "protocol", "https"),
        ("CH_PORT", "8443", "protocol", "https"),
        ("CH_PORT", "9440", "protocol", "https"),
        ("CH_PORT", "80", "protocol", "http"),
        ("CH_PROTOCOL", "https", "protocol", "https"),
        ("CH_USER", "o'brien", "user", "o'brien"),
        ("CH_PASSWORD", PASSWORD, "password", PASSWORD),
        ("CH_DATABASE", "usage", "database", "usage"),
        ("CH_CA_CERT", "/etc/ca.pem", "ca_cert", "/etc/ca.pem"),
        ("CH_VERIFY", "False", "verify", False),
        ("CH_VERIFY", "0", "verify", False),
        ("CH_VERIFY", "no", "verify", False),
        ("CH_VERIFY", "yes", "verify", True),
        ("CH_EMBEDDED_PATH", "/data/ch", "embedded_path", Path("/data/ch")),
        ("XDG_DATA_HOME", "/x", "embedded_path", Path("/x/ccusage-import/clickhouse")),
        ("MACHINE_NAME", "Laptop", "machine_name", "Laptop"),
        ("CCUSAGE_COMMAND", "'a b' c", "ccusage_command", ("a b", "c")),
        ("CCUSAGE_ARGS", "--offline --x 'y z'", "ccusage_args", ("--offline", "--x", "y z")),
        ("CCUSAGE_TIMEZONE", "Asia/Tokyo", "timezone", "Asia/Tokyo"),
        ("CCUSAGE_JOBS", " 5 ", "jobs", 5),
        ("CCUSAGE_TIMEOUT", "0.5", "timeout", 0.5),
        ("PROJECT_HASH_KEY", "s3cret", "hash_key", "s3cret"),
        ("PROJECT_HASH_KEY", " \t ", "hash_key", ""),
        ("CCUSAGE_STATE_DIR", "/s", "state_dir", Path("/s")),
        ("XDG_STATE_HOME", "/x", "state_dir", Path("/x/ccusage-import")),
    ],
)
def test_a_variable_is_read(variable: str, value: str, field: str, wanted: Any) -> None:
    assert getattr(Settings.from_env({variable: value}), field) == wanted


def test_a_protocol_of_ones_own_overrides_the_ports() -> None:
    assert Settings.from_env({"CH_PORT": "8443", "CH_PROTOCOL": "http"}).protocol == "http"


def test_a_tilde_in_a_path_is_home(home: Path) -> None:
    names = {"CH_EMBEDDED_PATH": "~/ch", "CCUSAGE_STATE_DIR": "~/s", "CH_CA_CERT": "~/ca.pem"}
    settings = Settings.from_env(names)
    assert (settings.embedded_path, settings.state_dir) == (home / "ch", home / "s")
    assert settings.ca_cert == str(home / "ca.pem")


WRONG = [
    ("CH_HOST", "http://db", "CH_HOST: expected a host name (its port is CH_PORT), got 'http://db'"),
    ("CH_HOST", "db:9000", "CH_HOST: expected a host name (its port is CH_PORT), got 'db:9000'"),
    ("CH_HOST", "a b", "CH_HOST: expected a host name (its port is CH_PORT), got 'a b'"),
    ("CH_HOST", "ch://me:p@db", "CH_HOST: expected a host name (its port is CH_PORT), got '…@db'"),
    ("CH_PORT", "http", "CH_PORT: expected a whole number above 0 and below 65536, got 'http'"),
    ("CH_PORT", "0", "CH_PORT: expected a whole number above 0 and below 65536, got '0'"),
    ("CH_PORT", "70000", "CH_PORT: expected a whole number above 0 and below 65536, got '70000'"),
    ("CH_PROTOCOL", "ftp", "CH_PROTOCOL: expected http or https, got 'ftp'"),
    ("CH_VERIFY", "maybe", "CH_VERIFY: expected one of true, 1, yes, on, false, 0, no, off, "
                           "got 'maybe'"),
    ("CH_EMBEDDED_PATH", "~nobody-here/x", "~nobody-here/x: Could not determine home directory."),
    ("CCUSAGE_COMMAND", "a 'b", "CCUSAGE_COMMAND: expected a command as in a shell, got \"a 'b\""),
    ("CCUSAGE_ARGS", "a\\", "CCUSAGE_ARGS: expected arguments as in a shell, but the time zone, "
                           "which is CCUSAGE_TIMEZONE's, got 'a\\\\'"),
    (
        "CCUSAGE_ARGS",
        "--offline -z UTC",
        "CCUSAGE_ARGS: expected arguments as in a shell, but the time zone, which "
        "is CCUSAGE_TIMEZONE's, got '--offline -z UTC'",
    ),
    ("CCUSAGE_JOBS", "2.5", "CCUSAGE_JOBS: expected a whole number above 0 and below 65536, "
                            "got '2.5'"),
    ("CCUSAGE_JOBS", "-1", "CCUSAGE_JOBS: expected a whole number above 0 and below 65536, "
                           "got '-1'"),
    ("CCUSAGE_TIMEOUT", "nan", "CCUSAGE_TIMEOUT: expected a number above 0 and below 65536, "
                               "got 'nan'"),
    ("CCUSAGE_TIMEOUT", "1m", "CCUSAGE_TIMEOUT: expected a number above 0 and below 65536, "
                              "got '1m'"),
    *(
        ("CCUSAGE_TIMEZONE", zone, f"CCUSAGE_TIMEZONE: {zone!r} is no IANA time zone; "
         "set CCUSAGE_TIMEZONE to one, such as Europe/Berlin")
        for zone in ("Mars/Olympus", "JST-9", "../etc/passwd", "Europe", "+02:00")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("variable", "value", "message"), WRONG)
def test_a_wrong_variable_is_named_and_ends_with_2(
    tmp_path: Path, variable: str, value: str, message: str
) -> None:
    done = Machine(tmp_path).main(**{variable: value})
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(message)


# --- .env ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("CH_PASSWORD=a$b${HOME}%x", "a$b${HOME}%x"),
        ("CH_PASSWORD='it is $5 \"now\" #1'", 'it is $5 "now" #1'),
        ('CH_PASSWORD="it\'s $5"', "it's $5"),
        ("CH_PASSWORD='it\\'s \\\\'", "it's \\"),
        ("CH_PASSWORD=a#b", "a#b"),
        ("CH_PASSWORD=ab # a comment", "ab"),
        ("CH_PASSWORD = spaced ", "spaced"),
        ("export CH_PASSWORD=exported", "exported"),
        ("CH_PASSWORD='  kept  '", "  kept  "),
        ("CH_PASSWORD=ö😀=:@/\\", "ö😀=:@/\\"),
        ("\ufeffCH_PASSWORD=after a byte order mark", "after a byte order mark"),
        ("# comment\n\nCH_PASSWORD=x\r\n", "x"),
        ("CH_PASSWORD=", ""),
        ("CH_PASSWORD", None),
    ],
)
def test_a_value_in_dotenv_is_taken_as_it_is(
    dotenv: Callable[[str], Path], line: str, value: str | None
) -> None:
    dotenv(line)
    assert load_environment({}).get("CH_PASSWORD") == value


def test_the_environment_goes_before_dotenv(dotenv: Callable[[str], Path]) -> None:
    dotenv("CH_HOST=from-file\nCH_USER=from-file\n")
    env = load_environment({"CH_USER": "from-environment", "CH_DATABASE": "d"})
    assert env == {"CH_HOST": "from-file", "CH_USER": "from-environment", "CH_DATABASE": "d"}


def test_an_empty_variable_switches_off_what_dotenv_sets(dotenv: Callable[[str], Path]) -> None:
    dotenv("CH_HOST=db\n")
    assert Settings.from_env(load_environment({"CH_HOST": ""})).host is None


def test_dotenv_lies_beside_the_script() -> None:
    assert dotenv_path({}) == PROGRAM.parent / ".env"


def test_an_installed_program_reads_it_from_the_users_configuration(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ccusage_importer, "HERE", home / "lib/python3.12/site-packages")
    assert dotenv_path({}) == home / ".config/ccusage-import/.env"
    assert dotenv_path({"XDG_CONFIG_HOME": "/x"}) == Path("/x/ccusage-import/.env")


def test_a_dotenv_that_cannot_be_read_is_a_wrong_configuration(
    dotenv: Callable[[str], Path],
) -> None:
    path = dotenv("")
    path.write_bytes(b"CH_PASSWORD=\xff\n")
    with pytest.raises(ConfigError, match=r"\.env: cannot be read: .*utf-8"):
        load_environment({})


def test_a_line_of_dotenv_that_is_none_is_named_by_its_number_alone(
    dotenv: Callable[[str], Path],
) -> None:
    dotenv("# settings\nCH_PORT=1\n\nCH_PASSWORD s3cret\nCH_USER\n")
    with pytest.raises(ConfigError, match=r"\.env, line 4: expected NAME=VALUE") as error:
        load_environment({})
    assert "s3cret" not in str(error.value)


def test_what_dotenv_sets_reaches_ccusage(dotenv: Callable[[str], Path], tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    stub = write_stub(tmp_path, 'echo "$CLAUDE_CONFIG_DIR, $CODEX_HOME, $CH_PASSWORD" > env')
    dotenv(
        f"CCUSAGE_COMMAND='{stub}'\nCLAUDE_CONFIG_DIR='/my claude'\nCODEX_HOME=/c$x\n"
        "CH_PASSWORD=secret\n"
    )
    for name in ("CCUSAGE_COMMAND", "CLAUDE_CONFIG_DIR", "CODEX_HOME"):
        del machine.env[name]
    machine.stores("--dry-run", "--agents", "claude")
    assert (tmp_path / "env").read_text() == "/my claude, /c$x, \n"


def write_stub(folder: Path, body: str = "", version: str = "20.0.24") -> Path:
    """A ccusage without data."""
    script = folder / "ccusage"
    names = ("inputTokens", "outputTokens", "cacheCreationTokens", "cacheReadTokens")
    totals = dict.fromkeys((*names, "totalTokens", "totalCost"), 0)
    rows: dict[str, Any] = {
        key: [] for key in ("daily", "monthly", "sessions", "session", "blocks")
    }
    script.write_text(
        f"#!/bin/sh\ncd '{folder}'\n"
        f'case "$*" in *--version*) echo {version}; exit;; esac\n'
        f"{body}\necho '{json.dumps(rows | {'totals': totals})}'\n"
    )
    script.chmod(0o755)
    return script


# --- secrets -------------------------------------------------------------------------------


def test_no_secret_is_in_a_repr() -> None:
    env = {"CH_PASSWORD": PASSWORD, "PROJECT_HASH_KEY": "k3y-of-mine", "OTHER": "t0ken"}
    text = repr(Settings.from_env(env))
    assert "k3y-of-mine" not in text
    assert PASSWORD[:6] not in text
    assert "t0ken" not in text


def test_no_secret_reaches_ccusage() -> None:
    env = {"CH_PASSWORD": "p", "PROJECT_HASH_KEY": "k", "CH_HOST": "h", "PATH": "/bin"}
    child = child_environment(env)
    assert {"CH_PASSWORD", "PROJECT_HASH_KEY"} & child.keys() == set()
    assert child["PATH"] == "/bin"


# --- where Claude Code keeps what, and for how long ----------------------------------------


def test_claude_codes_directories_are_those_of_ccusage(home: Path) -> None:
    default = [home / ".config/claude/projects", home / ".claude/projects"]
    assert (
        transcript_directories({}) == transcript_directories({"CLAUDE_CONFIG_DIR": " "}) == default
    )
    listed = {"CLAUDE_CONFIG_DIR": "/a, ~/b,/c/projects"}
    wanted = [Path("/a/projects"), home / "b/projects", Path("/c/projects")]
    assert transcript_directories(listed) == wanted
    assert transcript_directories({"XDG_CONFIG_HOME": "/x"})[0] == Path("/x/claude/projects")


@pytest.mark.parametrize(
    ("texts", "days"),
    [
        ([], 30),
        (["{}"], 30),
        (['{"cleanupPeriodDays": 7}'], 7),
        (['{"cleanupPeriodDays": 99999}', '{"cleanupPeriodDays": 60}'], 60),
        (['{"cleanupPeriodDays": 0}'], 0),
        (['{"cleanupPeriodDays": "7"}'], 0),
        (['{"cleanupPeriodDays": -1}'], 0),
        (['{"cleanupPeriodDays": true}'], 0),
        (["[]"], 0),
        (["not json"], 0),
        (['{"cleanupPeriodDays": 7}', "\x00"], 0),
    ],
)
def test_the_retention_of_transcripts_is_claude_codes_own(
    tmp_path: Path, texts: list[str], days: int
) -> None:
    for number, text in enumerate(texts):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "settings.json").write_text(text)
    listed = ",".join(str(tmp_path / str(number)) for number in range(3))
    periods = cleanup_periods({"CLAUDE_CONFIG_DIR": listed})
    assert min(periods.values(), default=30) == days


# --- command line --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ["--nope"],
        ["import"],
        ["--check", "--stats"],
        ["--quiet", "--verbose"],
        ["--format", "xml"],
        ["--query"],
        ["--output"],
        ["--agents", ""],
        ["--agents", " , "],
        *(["--lock-timeout", value] for value in ("-1", "x", "nan", "inf")),
    ],
)
def test_a_wrong_command_line_ends_with_2(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert re.fullmatch("ccusage-import: .*; see --help\n", err)  # one line


@pytest.mark.parametrize(
    ("text", "agents"),
    [
        ("all", set()),
        ("claude", {"claude"}),
        ("Claude, CODEX", {"claude", "codex"}),
        ("pi,all", {}),
    ],
)
def test_agents_are_listed_with_commas(text: str, agents: Any) -> None:
    assert build_parser().parse_args(["--agents", text]).agents == frozenset(agents)


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_load_none_of_the_packages(flag: str) -> None:
    code = (
        "import sys, ccusage_importer\n"
        "try: ccusage_importer.main(sys.argv[1:])\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    argv = [sys.executable, "-c", code, flag]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=PROGRAM.parent)
    heavy = {"rich", "clickhouse_connect", "chdb", "dotenv", "numpy", "urllib3", "sqlite3"}
    assert heavy & set(done.stderr.split()) == set()
    assert "ccusage-import" in done.stdout


# --- exit codes ----------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path, database: Database) -> Machine:
    machine = Machine(tmp_path, database=database)
    machine.env["CCUSAGE_COMMAND"] = str(write_stub(tmp_path))
    return machine


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ccusage_importer.random, "uniform", lambda *_: 0.01)


def test_code_0_all_was_imported_or_there_was_nothing(machine: Machine) -> None:
    done = machine.main()
    assert done.code == 0
    assert "remedy" not in done.err
    assert machine.history("feeds_imported", "feeds_failed") == [
        (["blocks", "daily", "monthly", "projects", "session"], [])
    ]


@pytest.mark.usefixtures("impatient")
def test_code_1_no_report_could_be_imported(machine: Machine, tmp_path: Path) -> None:
    write_stub(tmp_path, "echo out of luck >&2; exit 5")
    done = machine.main()
    assert done.code == 1
    assert "daily: exit code 5: out of luck" in done.err
    assert done.err.splitlines()[-1] == "no feed could be imported; nothing was changed"
    assert machine.history() == []


def test_code_1_the_server_cannot_be_reached(machine: Machine) -> None:
    done = machine.main(CH_PORT="9")
    assert done.code == 1
    assert "ClickHouse at http://127.0.0.1:9: " in done.err
    assert "remedy: " in done.err


def test_code_2_the_command_does_not_exist_but_1_of_a_check(machine: Machine) -> None:
    done = machine.main(CCUSAGE_COMMAND="/no/such")
    assert done.code == 2
    assert done.err.splitlines()[-1] == "CCUSAGE_COMMAND: no such program: '/no/such'"
    assert machine.main("--check", CCUSAGE_COMMAND="/no/such").code == 1


def test_code_2_the_state_directory_cannot_be_written(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = machine.main(CCUSAGE_STATE_DIR=str(tmp_path / "file/state"))
    assert done.code == 2
    assert "set CCUSAGE_STATE_DIR to a directory of yours" in done.err


@pytest.mark.usefixtures("impatient")
def test_code_3_some_reports_failed(machine: Machine, tmp_path: Path) -> None:
    write_stub(tmp_path, '[ "$2" != monthly ] || exit 1')
    done = machine.main()
    assert done.code == 3, done.err
    assert machine.history("feeds_failed") == [(["monthly"],)]


def test_code_4_another_import_holds_the_lock(machine: Machine) -> None:
    with locked(machine.state / ".ccusage_import.lock", 0):
        done = machine.main("--lock-timeout", "0")
    assert done.code == 4
    assert f"another import (PID {os.getpid()}) holds " in done.err


def test_the_program_ends_with_these_codes(machine: Machine) -> None:
    assert machine.run("--quiet").code == 0
    assert machine.run("--nope").code == 2
    assert machine.run(CCUSAGE_COMMAND="/no/such").code == 2


def test_an_import_by_a_user_without_a_home_is_possible(machine: Machine) -> None:
    del machine.env["HOME"]
    assert machine.main().code == 0


def test_the_summary_as_json_is_all_that_is_on_stdout(machine: Machine) -> None:
    assert isinstance(json.loads(machine.imports("--format", "json").out), dict)
