"""No name of a project or session is seen, and no secret leaves."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import real_ccusage
from clickhouse_server import ClickHouseServer
from tables import KEYS, NEWEST, VIEWS, Database, Machine
from transcripts import OPUS, Message, write_codex, write_opencode, write_session

import ccusage_importer

if TYPE_CHECKING:
    from collections.abc import Iterator

NOON = datetime(2025, 10, 1, 12, tzinfo=timezone.utc)
# Each name holds "geheim"; quotes, spaces and letters of other scripts are as directories may be.
PROJECTS = (
    "-home-geheim-plain",
    '-home-geheim-o\'brien-"quoted"',
    "-home-geheim-ünï-日本-😀",
    "-home-geheim with spaces",
    "geheim.jsonl-dir",
)
SESSIONS = tuple(f"0geheim{number}-0000-4000-8000-00000000000a" for number in range(5))
MARK = "geheim"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ccusage_importer.random, "uniform", lambda *_: 0.01)


@pytest.fixture
def machine(tmp_path: Path, database: Database) -> Machine:
    """A machine with secret names wherever ccusage finds some."""
    machine = Machine(tmp_path / "machine", database=database)
    for number, (project, session) in enumerate(zip(PROJECTS, SESSIONS, strict=True)):
        at = NOON + timedelta(days=number)
        write_session(machine.claude, project, session, [Message(at), Message(at, OPUS)])
        write_session(machine.claude, project, session, [Message(at, output=7)], f"geheim{number}")
        write_session(machine.claude, f"{project}/{session}", "chat", [Message(at, output=8)])
    home = Path(machine.env["CODEX_HOME"])
    write_codex(home, "0geheim5-0000-4000-8000-0000000000c1", [Message(NOON, "gpt-5")])
    write_opencode(Path(machine.env["OPENCODE_DATA_DIR"]), "ses_geheim6", [Message(NOON, "gpt-5")])
    return machine


def stored(machine: Machine) -> str:
    """Every table and view, as text."""
    assert machine.database
    rows = [
        machine.database.query(f"SELECT * FROM {table}")
        for table in (*KEYS, *VIEWS, "ccusage_import_history")
    ]
    return repr(rows)


def written(machine: Machine) -> str:
    """Every file that the program keeps of its own."""
    return "".join(path.read_text() for path in machine.state.glob("*"))


def nothing_told(machine: Machine, *args: str, code: int = 0, mark: str = MARK, **more: str) -> str:
    """Run the program; it must tell nothing secret, in no way. What it said: all is in its log."""
    done = machine.main(*(args or ["--quiet"]), **more)
    assert done.code == code, done.err
    for text in (done.out, done.err, written(machine), stored(machine)):
        assert mark.lower() not in text.lower()
    return done.out + done.err


# --- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["18.0.11", NEWEST])
def test_no_name_of_a_project_or_session_is_told(machine: Machine, version: str) -> None:
    machine.use(version)
    assert MARK in json.dumps(machine.report("session"))
    nothing_told(machine, "--verbose", *(["--agents", "claude"] if version != NEWEST else []))
    rows = machine.tables()["ccusage_usage_sessions"].values()
    assert len({row["session_id"] for row in rows}) >= 5
    assert (
        len(
            {row["project_id"] for row in machine.tables()["ccusage_usage_projects_daily"].values()}
        )
        >= 5
    )


def test_no_answer_in_any_format_tells_a_name(machine: Machine) -> None:
    machine.imports("--quiet")
    for args in (
        ["--dry-run"],
        ["--format", "json"],
        ["--stats", "--format", "markdown"],
        ["--check"],
    ):
        nothing_told(machine, *args)


def test_the_run_says_whether_names_are_hidden(machine: Machine) -> None:
    hidden, shown = (
        machine.imports("--verbose", *more).out for more in ([], ["--no-hash-projects"])
    )
    assert "names hashed" in hidden
    assert "names stored as they are" in shown


def test_without_hashing_names_are_stored_as_they_are(machine: Machine) -> None:
    machine.imports("--quiet", "--no-hash-projects")
    found = machine.tables()
    shown = {row["project_id"] for row in found["ccusage_usage_projects_daily"].values()}
    assert shown == set(PROJECTS)
    rows = found["ccusage_usage_sessions"]
    pairs = {(r["project_path"], r["session_id"]) for k, r in rows.items() if k[0] == "claude"}
    assert pairs >= set(zip(PROJECTS, SESSIONS, strict=True))
    assert {r["session_id"] for k, r in rows.items() if k[0] == "opencode"} == {"ses_geheim6"}


def test_names_are_hidden_in_error_messages_too(machine: Machine) -> None:
    report = machine.freeze()["projects"]
    stub = machine.stub()
    (name, rows), *_ = report["projects"].items()
    totals = report["totals"]
    lies = [
        {"projects": {**report["projects"], name: {}}},
        {"projects": {name: name}},
        {"projects": {name: [{**rows[0], "date": name}]}},
        {"projects": {name: [{**rows[0], "inputTokens": -1}]}},
        {"projects": {name: [*rows, *rows]}, "totals": totals},
        {"projects": {name: rows}, "totals": {**totals, "inputTokens": 5}},
        {name: rows},
    ]
    for lie in lies:
        stub.say(projects=lie)
        said = nothing_told(machine, code=3)
        assert "projects" in said


def test_a_session_that_is_told_twice_is_not_named(machine: Machine) -> None:
    report = machine.freeze()["session"]
    stub = machine.stub()
    report["sessions"].append(report["sessions"][0])
    for name in ("inputTokens", "outputTokens", "cacheCreationTokens", "cacheReadTokens"):
        report["totals"][name] += report["sessions"][0][name]
    report["totals"]["totalTokens"] += report["sessions"][0]["totalTokens"]
    report["totals"]["totalCost"] += report["sessions"][0]["totalCost"]
    stub.say(session=report)
    assert "is repeated" in nothing_told(machine, code=3)
    stub.say(session={"sessions": [{**report["sessions"][0], "lastActivity": SESSIONS[0]}]})
    nothing_told(machine, code=3)


def test_an_answer_that_is_none_is_not_quoted_with_names(machine: Machine) -> None:
    stub = machine.stub()
    text = json.dumps(machine.freeze()["projects"], ensure_ascii=False)
    for answer in (
        f"loading\n{text}",
        f"[ccusage] loading\n{text}",
        f"{text}\n{text}",
        text[: len(text) // 2],
        f"[{text}]",
    ):
        (stub.folder / "projects.json").write_text(answer)
        assert "projects: " in nothing_told(machine, code=3)


def test_a_transcript_that_cannot_be_read_is_not_named(machine: Machine) -> None:
    """Node names the file in its stack trace."""
    version = "18.0.11"
    (path,) = (machine.claude / "projects" / PROJECTS[1]).glob("*.jsonl")
    path.chmod(0)
    command = real_ccusage.command(version)
    if os.geteuid() == 0:  # who may read everything
        if not shutil.which("setpriv"):
            pytest.skip("root may read everything")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    machine.env["CCUSAGE_COMMAND"] = shlex.join(command)
    done = subprocess.run(
        [*command, *real_ccusage.feed_arguments(version, "daily")],
        check=False, env=machine.env, capture_output=True, text=True,
    )  # fmt: skip
    assert MARK in done.stderr
    said = nothing_told(machine, "--quiet", "--agents", "claude", code=1)
    assert "permission denied" in said
    assert "remedy: make Claude Code's files readable" in said


def test_switching_privacy_on_later_hides_all_names_purged_sessions_too(machine: Machine) -> None:
    machine.imports("--quiet", "--no-hash-projects")
    before = machine.tables()
    assert MARK in stored(machine)
    shutil.rmtree(machine.claude / "projects" / PROJECTS[0])
    nothing_told(machine, "--quiet", "--hash-projects")
    after = machine.tables()
    assert {table: rows.keys() for table, rows in after.items()} == {
        table: rows.keys() for table, rows in before.items()
    }
    sums = [
        [row["total_tokens"] for _, row in sorted(tables["ccusage_usage_sessions"].items())]
        for tables in (before, after)
    ]
    assert sums[0] == sums[1]


def test_rows_that_were_allowed_to_shrink_are_not_named(machine: Machine) -> None:
    machine.imports("--quiet", "--no-hash-projects")
    session = machine.claude / "projects" / PROJECTS[0] / SESSIONS[0]
    shutil.rmtree(session / "subagents")
    said = nothing_told(machine, "--verbose", "--allow-shrink", "--hash-projects")
    assert hashlib.sha256(PROJECTS[0].encode()).hexdigest()[:8] in said


def test_switching_privacy_off_again_shows_what_is_still_reported(machine: Machine) -> None:
    machine.imports("--quiet")
    machine.imports("--quiet", "--no-hash-projects")
    found = machine.tables()["ccusage_usage_projects_daily"].values()
    assert {row["project_id"] for row in found} == set(PROJECTS)


def test_the_key_is_told_nowhere(machine: Machine) -> None:
    key = "my-own-k3y ö'\"$"
    nothing_told(machine, mark=key[:10], PROJECT_HASH_KEY=key)
    nothing_told(machine, code=2, mark=key[:10], PROJECT_HASH_KEY=key + "2")
    nothing_told(machine, code=2, mark="other-k3y", PROJECT_HASH_KEY="other-k3y")


def test_the_files_of_the_program_are_only_for_their_user(machine: Machine) -> None:
    machine.imports("--quiet")
    assert machine.state.stat().st_mode & 0o077 == 0
    assert (machine.state / "machine.json").stat().st_mode & 0o077 == 0


# --- the password --------------------------------------------------------------------------

PASSWORD = "pässw0rd '\"$`\\%/@#=&+ <>{x}"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    users = ("default:", f"alice:{PASSWORD}")
    with ClickHouseServer(tmp_path_factory.mktemp("guarded"), users=users) as server:
        yield server


@pytest.fixture
def alice(tmp_path: Path, guarded: ClickHouseServer) -> Machine:
    machine = Machine(tmp_path, database=Database(guarded, "alices"))
    machine.env |= guarded.env("alice", database="alices")
    write_session(machine.claude, "-home-a", SESSIONS[0], [Message(NOON)])
    return machine


def spellings(password: str) -> list[str]:
    """How a password may show: as it is, in quotes, in a URL, in a header."""
    from base64 import b64encode
    from urllib.parse import quote, quote_plus

    header = b64encode(f"alice:{password}".encode()).decode()
    return [password, repr(password)[1:-1], quote(password), quote_plus(password), header]


def assert_untold(text: str, password: str) -> None:
    for spelling in (*spellings(password), password[:8]):
        assert spelling not in text


@pytest.mark.rotates(2)
@pytest.mark.parametrize(
    ("args", "more"),
    [
        ([], {}),
        (["--check"], {}),
        (["--stats"], {}),
        ([], {"CH_PASSWORD": f"wrong {PASSWORD}"}),
        (["--check"], {"CH_PASSWORD": f"wrong {PASSWORD}"}),
        ([], {"CH_PORT": "9"}),
        ([], {"CH_PROTOCOL": "https"}),
        ([], {"CH_HOST": "no-such-host.invalid"}),
        ([], {"CH_DATABASE": "o'ther`s"}),
        ([], {"CH_PORT": "x"}),
        ([], {"CCUSAGE_COMMAND": "false"}),
    ],
)
def test_the_password_is_in_no_output_and_no_log(
    alice: Machine, args: list[str], more: dict[str, str]
) -> None:
    done = alice.main("--verbose", *args, **more)
    assert_untold(done.out + done.err + written(alice), more.get("CH_PASSWORD", PASSWORD))
    assert_untold(done.out + done.err + written(alice), PASSWORD)


def test_a_wrong_password_ends_with_1_and_says_which_variables(alice: Machine) -> None:
    done = alice.main(CH_PASSWORD="wrong")
    assert done.code == 1
    assert "remedy: check CH_USER and CH_PASSWORD" in done.err


def test_the_password_is_in_no_process_list_and_no_childs_environment(alice: Machine) -> None:
    folder = alice.home / "watch"
    folder.mkdir()
    script = folder / "ccusage"
    script.write_text(
        f"#!/bin/sh\ncd {shlex.quote(str(folder))}\n"
        "tr '\\0' '\\n' < /proc/$PPID/cmdline >> seen; tr '\\0' '\\n' < /proc/$$/cmdline >> seen\n"
        f'env >> seen\nexec {shlex.join(real_ccusage.command(NEWEST))} "$@"\n'
    )
    script.chmod(0o755)
    assert alice.run(CCUSAGE_COMMAND=shlex.quote(str(script)), PROJECT_HASH_KEY="").code == 0
    seen = (folder / "seen").read_text()
    assert "ccusage_importer.py" in seen
    assert "CLAUDE_CONFIG_DIR=" in seen
    assert_untold(seen, PASSWORD)


def test_a_bug_would_not_show_the_password_either(alice: Machine) -> None:
    """A traceback shows lines, not values; but what is raised may show its arguments."""
    settings = ccusage_importer.Settings.from_env(alice.env | {"CH_PASSWORD": "wrong pässw0rd"})
    with pytest.raises(ccusage_importer.StoreError) as failed:
        ccusage_importer.connect(settings)
    chain: list[BaseException] = [failed.value]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    assert_untold(repr(chain) + repr(settings), "wrong pässw0rd")
