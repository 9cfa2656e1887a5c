"""Whatever is wrong with what the program is given: a line that names it, the code, no hang.

A case is a line of a table. It says what is given (arguments, environment, `.env`, stdin, files),
and then what comes of it. `{home}` stands for a directory of the case's own, `{used}` for an
embedded database with a day of usage.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import clickhouse_connect
import pytest
from tables import PROGRAM, VIEWS, Done, Machine, noon
from transcripts import Message, write_session

import ccusage_importer
from ccusage_importer import VARIABLES, temporary_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

STATS, QUERY = ("--stats",), ("--query", "-")


class Case(NamedTuple):
    """What is given, the code, and what stderr must say; with code 0 as a warning or not at all."""

    says: str
    args: Sequence[str] = STATS
    env: dict[str, str] = {}  # noqa: RUF012 (never changed)
    dotenv: str = ""
    stdin: bytes | None = b""  # None: closed
    files: Sequence[str] = ()
    code: int = 2


ARGUMENTS = {
    "an unknown option": Case("unrecognized arguments: --nope; see --help", ["--nope"]),
    "a line break in one": Case("unrecognized arguments: --no pe; see --help", ["--no\npe"]),
    "two modes": Case("not allowed with argument --check; see --help", ["--check", "--stats"]),
    "no machine in UTF-8": Case("--machine: expected text", [*STATS, "--machine", "\udcff"]),
    "no parameter in UTF-8": Case("--param: expected NAME=VALUE", [*QUERY, "--param", "a=\udcff"]),
    "output into a directory": Case("{home}: it is a directory", [*STATS, "--output", "{home}"]),
    "output into nothing": Case("--output .: it is a directory", [*STATS, "--output", ""]),
    "output into no directory": Case(
        "--output {home}/no/s.json: its directory does not exist",
        [*STATS, "--output", "{home}/no/s.json"],
    ),
    "output of an import, too": Case("it is a directory", ["--output", "{home}"]),
}  # fmt: skip
# An option, and the modes in which it would do nothing.
IDLE = {
    "--param a=1": ("", "--check", "--stats", "--list-queries"),
    "--days 3": ("", "--check", "--query -", "--list-queries"),
    "--machine m": ("", "--check", "--list-queries"),
    "--names": ("--check", "--list-queries"),
    "--hash-projects": ("--stats", "--query -", "--list-queries"),
    "--no-hash-projects": ("--stats", "--query -", "--list-queries"),
    "--reprice": ("--stats", "--query -", "--list-queries"),
    "--allow-shrink": ("--stats", "--query -", "--list-queries"),
    "--dry-run": ("--check", "--stats", "--query -", "--list-queries"),
    "--agents pi": ("--query -", "--list-queries"),
    "--lock-timeout 9": ("--list-queries",),
}
ENVIRONMENT = {
    "an unknown variable": Case(
        "WARNING: the environment: CH_HSOT is no setting of this program; did you mean CH_HOST?",
        env={"CH_HSOT": "db"}, code=0,
    ),
    "one that resembles none": Case("CH_XYZZY is no setting", env={"CH_XYZZY": "1"}, code=0),
    "one of ccusage's own": Case("", env={"CCUSAGE_MODEL_ALIASES": "a=b"}, code=0),
    "one of somebody else": Case("", env={"MACHINE_NAM": "m", "CH_": ""}, code=0),
    "a file for the database": Case(
        "CH_EMBEDDED_PATH: expected a directory, got '{home}/file'",
        env={"CH_EMBEDDED_PATH": "{home}/file"}, files=["file"],
    ),
    "a file above the database": Case(
        "set CH_EMBEDDED_PATH to a directory of yours", [],
        env={"CH_EMBEDDED_PATH": "{home}/file/ch"}, files=["file"],
    ),
    "a file for the state": Case(
        "CCUSAGE_STATE_DIR: expected a directory, got '{home}/file'", [],
        env={"CCUSAGE_STATE_DIR": "{home}/file"}, files=["file"],
    ),
    "a place where no database can be": Case(
        "remedy: set CH_EMBEDDED_PATH to a directory of yours", [],
        env={"CH_EMBEDDED_PATH": "/proc/ch/clickhouse"},
    ),
    "a name with a line break": Case(
        "MACHINE_NAME: expected one line of UTF-8 without control characters", [],
        env={"MACHINE_NAME": "lap\ntop"},
    ),
    "a user with one": Case("CH_USER: expected one line", env={"CH_USER": "a\rb"}),
    "a name that is no UTF-8": Case("MACHINE_NAME: expected", env={"MACHINE_NAME": "\udcff"}),
    "a key that is none": Case("PROJECT_HASH_KEY: expected", env={"PROJECT_HASH_KEY": "\udcff"}),
    "a database that is not there": Case(
        "the embedded database {used}: there is no database 'typo'\n  remedy: check CH_DATABASE",
        env={"CH_DATABASE": "typo"}, code=1,
    ),
    "no temporary directory": Case(
        "{home}/no cannot be written: No such file or directory; set TMPDIR to a directory of",
        env={"TMPDIR": "{home}/no"},
    ),
    "none of an import": Case("directory /proc cannot be", ["--quiet"], {"TMPDIR": "/proc"}),
    "the same for a query": Case(
        "there is no database 'typo'", QUERY, {"CH_DATABASE": "typo"}, stdin=b"SELECT 1", code=1
    ),
}  # fmt: skip
PLACES = [
    "CH_CA_CERT", "CCUSAGE_STATE_DIR", "TMPDIR", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS",
    "XDG_CONFIG_HOME", "CLAUDE_CONFIG_DIR", "CODEX_HOME", "COPILOT_OTEL_FILE_EXPORTER_PATH",
    "DROID_SESSIONS_DIR", "GOOSE_PATH_ROOT",
]  # fmt: skip
DOTENV = {
    "an unknown variable": Case(
        "clone/.env: CH_HSOT is no setting of this program; did you mean CH_HOST?",
        dotenv="CH_HSOT=db\n", code=0,
    ),
    "one without our prefix": Case("did you mean MACHINE_NAME?", dotenv="MACHINE_NAM=m\n", code=0),
    "those of others": Case("", dotenv="HTTPS_PROXY=http://p\nCODEX_HOME=/c\nEDITOR=vi\n", code=0),
    "a relative database": Case(
        "clone/.env, line 2: CH_EMBEDDED_PATH: expected a path that begins with /, got 'usage.db'",
        dotenv="# here\nCH_EMBEDDED_PATH=usage.db\n",
    ),
    "a relative command": Case("got './ccusage --x'", dotenv="CCUSAGE_COMMAND='./ccusage --x'\n"),
    "a quoted command": Case("", dotenv="CCUSAGE_COMMAND=\"'/my tools/ccusage' --x\"\n", code=0),
    "a bare command": Case("", dotenv="CCUSAGE_COMMAND='ccusage --x'\n", code=0),
    "a tilde for us": Case("", dotenv="CCUSAGE_STATE_DIR=~/state\nCH_CA_CERT=/a\n", code=0),
    "a tilde for ccusage": Case("got '/a,~/b'", dotenv="CLAUDE_CONFIG_DIR='/a,~/b'\n"),
    "no assignment": Case("clone/.env, line 1: expected NAME=VALUE", dotenv="CH_HOST db\n"),
    **{f"a relative {n}": Case(f"{n}: expected a path", dotenv=f"{n}=x\n") for n in PLACES},
}  # fmt: skip
STDIN = {
    "closed": Case("--query -: no SQL came from stdin", QUERY, stdin=None),
    "empty": Case("--query -: no SQL came from stdin", QUERY),
    "nothing but comments": Case("no SQL came from stdin", QUERY, stdin=b"-- a\n" * 20_000),
    "no UTF-8": Case("--query -: stdin is not in UTF-8, at byte 8", QUERY, stdin=b"SELECT '\xff'"),
    "a byte order mark": Case("", QUERY, stdin=b"\xef\xbb\xbfSELECT 1", code=0),
    "a long file of queries": Case(
        "Multi-statements are not allowed", QUERY, stdin=b"-- a title\n\nSELECT 1;\n-- more\n" * 500
    ),
    "a comment left open": Case("--query -:", QUERY, stdin=b"SELECT 1 " + b"/*" * 50_000),
    "a quote left open": Case("--query -:", QUERY, stdin=b"SELECT '" + b"\\'-- " * 10_000),
    "many semicolons": Case("", QUERY, stdin=b"SELECT 1" + b"; -- x\n" * 20_000, code=0),
}
CASES = {
    **{f"argument: {name}": case for name, case in ARGUMENTS.items()},
    **{
        f"idle: {mode or 'import'} {option}": Case(
            f"argument {option.split()[0]}: ", [*mode.split(), *option.split()]
        )
        for option, modes in IDLE.items()
        for mode in modes
    },
    **{f"environment: {name}": case for name, case in ENVIRONMENT.items()},
    **{f"dotenv: {name}": case for name, case in DOTENV.items()},
    **{f"stdin: {name}": case for name, case in STDIN.items()},
}


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """An embedded database with a day of usage."""
    machine = Machine(tmp_path_factory.mktemp("used"))
    write_session(machine.claude, "-home-dev-plan", "f00d", [Message(at=noon())])
    machine.freeze()
    machine.stores()
    return machine


@pytest.fixture
def ten_seconds() -> Iterator[None]:
    """What takes longer hangs."""

    def hangs(*_: object) -> None:
        raise AssertionError("it hangs")

    former = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


@pytest.fixture
def run(
    used: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ten_seconds: None,
) -> Callable[[Case], Done]:
    """Give a case to the program, in this process."""
    (tmp_path / "clone").mkdir()
    places = {"home": tmp_path, "used": used.path}

    def with_places(text: str) -> str:
        for name, path in places.items():
            text = text.replace(f"{{{name}}}", str(path))
        return text

    def run_case(case: Case) -> Done:
        for name in case.files:
            (tmp_path / name).write_text("x")
        (tmp_path / "clone/.env").write_text(case.dotenv)
        stdin = None if case.stdin is None else io.BytesIO(case.stdin)
        with monkeypatch.context() as patch:
            patch.setattr(ccusage_importer, "HERE", tmp_path / "clone")
            patch.setattr(sys, "stdin", stdin and io.TextIOWrapper(stdin, encoding="utf-8"))
            env = {name: with_places(value) for name, value in case.env.items()}
            patch.setattr(os, "environ", {
                name: value for name, value in (used.env | env).items()
                if f"{name}=" not in case.dotenv
            })  # fmt: skip
            try:
                code = ccusage_importer.main([with_places(arg) for arg in case.args])
            except SystemExit as left:
                code = int(left.code or 0)
        done = Done(code, *capsys.readouterr())
        assert with_places(case.says) in done.err
        return done

    return run_case


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_is_given_wrongly_is_told_in_a_line_with_the_right_code(
    case: Case, run: Callable[[Case], Done]
) -> None:
    done = run(case)
    assert done.code == case.code, done
    lines = done.err.splitlines()
    assert len([line for line in lines if not line.startswith("  remedy: ")]) == bool(case.says)
    assert bool(done.out) == (case.code == 0)


def test_every_setting_of_the_example_is_a_known_one() -> None:
    text = PROGRAM.with_name(".env.example").read_text()
    named = set(re.findall("^#([A-Z_]+)=", text, re.MULTILINE))
    assert named >= VARIABLES.keys()
    assert not {name for name in named - VARIABLES.keys() if name.startswith(("CH_", "CCUSAGE_"))}


@pytest.mark.parametrize(
    ("name", "args", "begins"),
    [
        ("s.json", (), "["),
        ("s.JSON", (), "["),
        ("s.csv", (), "name,question,"),
        ("s.md", (), "| Name | "),
        ("s.txt", (), "Name  "),
        ("s", (), "Name  "),
        ("s.json", ("--format", "table"), "Name  "),
        ("s.txt", ("--format", "json"), "["),
    ],
)
def test_the_ending_of_the_output_says_its_form_unless_format_does(
    name: str, args: Sequence[str], begins: str, used: Machine, tmp_path: Path
) -> None:
    assert used.main("--list-queries", "--output", str(tmp_path / name), *args) == (0, "", "")
    assert (tmp_path / name).read_text().startswith(begins)


# --- states of the disk --------------------------------------------------------------------------


@pytest.fixture
def altered(used: Machine, tmp_path: Path) -> Callable[..., Machine]:
    """A database like the used one, altered by statements of SQL."""

    def alter(*statements: str) -> Machine:
        machine = Machine(tmp_path, used.name)
        machine.env["CCUSAGE_COMMAND"] = used.env["CCUSAGE_COMMAND"]
        machine.stores()
        path = str(machine.path)
        with clickhouse_connect.get_client(interface="chdb", path=path) as client:
            for statement in statements:
                client.command(statement)
        return machine

    return alter


def test_missing_views_never_make_stored_data_look_absent(
    altered: Callable[..., Machine], used: Machine
) -> None:
    machine = altered(*(f"DROP VIEW {view}" for view in VIEWS))
    assert "110 tokens" in machine.main("--stats").out
    done = machine.main("--dry-run", "--format", "json")
    assert '"new": 0' in done.out
    assert '"new": 1' not in done.out
    done = machine.imports()
    said = [line for line in done.err.splitlines() if "create the view" in line]
    assert [line.split()[-1] for line in said] == list(VIEWS)


def test_a_missing_table_is_named_and_created_anew(altered: Callable[..., Machine]) -> None:
    machine = altered("DROP TABLE ccusage_usage_daily SYNC")
    done = machine.main("--stats")
    assert done.code == 1
    assert "ccusage_usage_daily" in done.err
    assert "remedy: run an import once: it creates the tables and views" in done.err
    assert '"new": 1' in machine.main("--dry-run", "--format", "json").out
    assert "default: create the table ccusage_usage_daily" in machine.imports().err
    assert machine.main("--stats").code == 0


# --- what killed runs leave ----------------------------------------------------------------------


@pytest.fixture
def fresh(used: Machine, tmp_path: Path) -> Machine:
    """A machine that has not imported yet."""
    machine = Machine(tmp_path, used.name)
    machine.env["CCUSAGE_COMMAND"] = used.env["CCUSAGE_COMMAND"]
    return machine


def temporary(machine: Machine) -> list[Path]:
    return list(Path(machine.env["TMPDIR"]).iterdir())


@pytest.mark.parametrize("args", [(), ("--check",), ("--stats",)], ids=str)
def test_temporary_files_of_a_killed_run_are_removed_by_the_next(
    args: Sequence[str], fresh: Machine
) -> None:
    process = fresh.start(*args)
    while not temporary(fresh):
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert temporary(fresh)
    fresh.stores()
    assert temporary(fresh) == []


def test_what_another_run_uses_is_not_removed(fresh: Machine) -> None:
    with temporary_directory(fresh.env) as first:
        with temporary_directory(fresh.env) as second:
            assert first.exists()
            assert second.exists()
        assert temporary(fresh) == [first]
    assert temporary(fresh) == []


def test_what_a_killed_run_left_beside_the_output_is_removed(used: Machine, tmp_path: Path) -> None:
    part, other = tmp_path / ".s[1].json.part", tmp_path / ".s1.json.part"
    part.write_text("{")
    other.write_text("{")
    used.main("--stats", "--output", str(tmp_path / "s[1].json"))
    assert not part.exists()
    assert other.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"s[1].json", other.name}


def test_output_goes_into_a_pipe_a_device_or_behind_what_a_shell_has_written(
    used: Machine, tmp_path: Path
) -> None:
    program = shlex.join(used.argv("--list-queries", "--format", "json", "--output"))
    for script in (
        f"{program} /dev/stdout",
        f"{program} /dev/stdout | cat",
        f"mkfifo fifo; {program} fifo & cat fifo; wait",
        f"echo first > file; {program} /dev/stdout >> file; tail -n +2 file",
    ):
        done = subprocess.run(
            ["sh", "-c", script], cwd=tmp_path, env=used.env, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.startswith(b"[")


def test_a_file_keeps_its_mode_and_a_link_its_target(used: Machine, tmp_path: Path) -> None:
    target, link = tmp_path / "s.json", tmp_path / "link.json"
    target.write_text("old")
    target.chmod(0o644)
    link.symlink_to(target)
    used.main("--stats", "--output", str(link))
    assert link.is_symlink()
    assert target.read_text() != "old"
    assert target.stat().st_mode & 0o777 == 0o644
    used.main("--stats", "--output", str(tmp_path / "new.json"))
    assert (tmp_path / "new.json").stat().st_mode & 0o777 == 0o600


# --- in processes of their own -------------------------------------------------------------------


def test_a_shell_that_closes_stdin_is_told(used: Machine) -> None:
    script = f"exec {shlex.join(used.argv(*QUERY))} <&-"
    done = subprocess.run(["sh", "-c", script], env=used.env, capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr == b"--query -: no SQL came from stdin\n"


# Sends itself a real SIGINT: while the engine opens, after so many seconds, or while a module is
# imported by code that swallows what is raised.
INTERRUPTED = """
import os, signal, sys, threading, time
import ccusage_importer, clickhouse_connect

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

def opening(*args, **options):
    threading.Timer(float(sys.argv[1]), interrupt).start()
    client = get_client(*args, **options)
    time.sleep(0.2)  # so that the signal comes before the client does
    return client

class Importing:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            sys.meta_path.remove(self)
            try:
                interrupt()
                time.sleep(0.01)
            except KeyboardInterrupt:
                pass

if sys.argv[1][0].isdigit():
    get_client, clickhouse_connect.get_client = clickhouse_connect.get_client, opening
else:
    sys.meta_path.insert(0, Importing())
raise SystemExit(ccusage_importer.main(["--stats"]))
"""


def test_an_interrupt_while_the_engine_opens_ends_the_program(used: Machine) -> None:
    absent = {"CH_EMBEDDED_PATH": str(used.home / "absent")}  # which no lock is for
    env = used.env | absent | {"PYTHONPATH": str(PROGRAM.parent)}

    def run(moment: str) -> tuple[str, int, str]:
        argv = [sys.executable, "-c", INTERRUPTED, moment]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        return moment, done.returncode, done.stdout + done.stderr

    moments = ("0", "0.01", "0.02", "0.05", "chdb", "dotenv.parser")
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, moments)) == [(m, 130, "interrupted\n") for m in moments]
