"""setup_cronjob.sh installs one line, with which cron imports as its user does by hand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import real_ccusage
from crontab import TAG, run_as_cron
from dotenv import dotenv_values
from project import Project
from tables import Expected

from ccusage_importer import Settings

if TYPE_CHECKING:
    from tables import Database

PASSWORD = "p#w 'q' \"x\" $HOME `id` %d \\n\\"
FOREIGN = (
    b"MAILTO=me\n"
    b"# m h  dom mon dow   command # ccusage-import\n"
    b"5 4 * * *\techo \\% 'caf\xe9'  \n"
    b"#1 * * * * old # ccusage-import\n"
    b"\n"
    b"1 * * * * echo '# ccusage-import' again\n"
)


@pytest.fixture
def project(tmp_path: Path, database: Database) -> Project:
    return Project(tmp_path, database)


@pytest.fixture
def alone(tmp_path: Path) -> Project:
    """With an embedded database, in directories with difficult names."""
    project = Project(tmp_path)
    project.machine.path = tmp_path / "da ta's 5%" / "clickhouse"
    project.machine.env["CH_EMBEDDED_PATH"] = str(project.machine.path)
    return project


# --- the crontab -------------------------------------------------------------------------------


def test_installing_twice_is_installing_once(project: Project) -> None:
    done = project.setup()
    (entry,) = project.crontab.entries
    assert done.stdout == entry + "\n"
    assert re.match(r"[0-5]?\d \* \* \* \* ", entry)
    once = project.crontab.text
    project.setup()
    assert project.crontab.text == once
    assert project.crontab.writes == 1


def test_the_other_entries_survive_byte_for_byte(project: Project) -> None:
    project.crontab.file.write_bytes(FOREIGN)
    project.setup()
    project.setup("--schedule", "*/30 * * * *")
    text = project.crontab.text
    assert text
    assert text.startswith(FOREIGN)
    assert text.removeprefix(FOREIGN).decode().startswith("*/30 * * * * ")
    assert text.removeprefix(FOREIGN).count(b"\n") == 1
    project.setup("--remove")
    assert project.crontab.text == FOREIGN
    project.setup("--remove")
    assert project.crontab.writes == 3


def test_a_last_line_without_an_end_stays_a_line_of_its_own(project: Project) -> None:
    project.crontab.file.write_bytes(b"1 2 3 4 5 last")
    project.setup()
    assert project.crontab.text
    assert project.crontab.text.startswith(b"1 2 3 4 5 last\n")
    assert len(project.crontab.entries) == 1


@pytest.mark.parametrize("args", [(), ("--force",), ("--remove",), ("--print",)])
def test_an_unreadable_crontab_is_never_overwritten(project: Project, args: tuple[str]) -> None:
    project.crontab.file.write_bytes(FOREIGN)
    project.crontab.break_()
    done = project.setup(*args, code=1)
    assert "cannot chdir" in done.stderr
    assert project.crontab.writes == 0
    assert project.crontab.text == FOREIGN
    assert not project.dotenv.exists()


def test_printing_changes_nothing(project: Project) -> None:
    line = project.setup("--print", CH_PASSWORD="wrong").stdout
    assert line.endswith(f"--quiet {TAG}\n")
    assert project.crontab.writes == 0
    assert not project.dotenv.exists()
    assert not project.machine.state.exists()


def test_a_schedule_is_kept_until_another_is_given(project: Project) -> None:
    minutes = {project.setup("--print").stdout.split()[0] for _ in range(4)}
    assert len(minutes) > 1
    assert minutes <= {str(minute) for minute in range(60)}
    project.setup("--schedule", "1,31 6-22 * * mon-fri")
    assert project.crontab.entries[0].startswith("1,31 6-22 * * mon-fri HOME=")
    assert project.setup("--print").stdout.startswith("1,31 6-22 * * mon-fri HOME=")
    project.setup("--schedule", "@hourly")
    assert project.crontab.entries[0].startswith("@hourly HOME=")
    assert project.setup("--print").stdout.startswith("@hourly HOME=")


@pytest.mark.parametrize(
    "args",
    [
        ("--schedule", "* * * *"),
        ("--schedule", "* * * * * rm"),
        ("--schedule", "* * * * *\n* * * * * rm"),
        ("--schedule", ""),
        ("--schedule",),
        ("--shedule", "* * * * *"),
    ],
)
def test_wrong_usage_changes_nothing(project: Project, args: tuple[str, ...]) -> None:
    project.setup(*args, code=2)
    assert project.crontab.text is None


def test_nothing_is_installed_when_the_check_fails(project: Project) -> None:
    done = project.setup(code=1, CH_PASSWORD="wrong")
    assert "check CH_USER and CH_PASSWORD" in done.stderr
    assert "--force" in done.stderr
    assert project.crontab.text is None
    assert not project.dotenv.exists()
    project.setup("--force", CH_PASSWORD="wrong")
    assert len(project.crontab.entries) == 1


def test_the_check_is_that_of_the_env_file_where_there_is_one(project: Project) -> None:
    project.setup()
    text = project.dotenv.read_text()
    project.dotenv.write_text(text.replace("CH_USER=default", "CH_USER=nobody"))
    done = project.setup(code=1)
    assert "check CH_USER and CH_PASSWORD" in done.stderr


# --- .env --------------------------------------------------------------------------------------


def test_env_is_for_its_owner_alone_and_says_what_the_environment_said(alone: Project) -> None:
    alone.machine.env |= {
        "CH_PASSWORD": PASSWORD,
        "PROJECT_HASH_KEY": "#",
        "CH_USER": "  two spaces ",
        "CH_CA_CERT": "a.crt",
        "CCUSAGE_ARGS": "--offline '--mode' \"auto\"",
        "MACHINE_NAME": "ma'chine \\",
        "CCUSAGE_TIMEZONE": "UTC",
        "CCUSAGE_JOBS": "2",
        "CODEX_HOME": "~/co dex, /other",
    }
    previous = os.umask(0)
    try:
        alone.setup()
    finally:
        os.umask(previous)
    assert alone.dotenv.stat().st_mode & 0o777 == 0o600
    values = dict(dotenv_values(alone.dotenv, interpolate=False))
    env = {name: value for name, value in values.items() if value is not None}
    assert env["CODEX_HOME"] == f"{alone.machine.env['HOME']}/co dex,/other"
    assert env["XDG_CONFIG_HOME"] == alone.machine.env["XDG_CONFIG_HOME"]
    wanted = Settings.from_env(alone.machine.env)
    found = Settings.from_env(env)
    for name in Settings.__slots__:
        if name not in ("environment", "ca_cert"):
            assert getattr(found, name) == getattr(wanted, name), name
    assert env["CH_CA_CERT"] == "/a.crt"
    assert "GOOSE_PATH_ROOT" not in env
    assert "CH_HOST" not in env
    assert not alone.machine.state.exists()


def test_a_present_env_is_left_alone_and_its_differences_are_named(project: Project) -> None:
    project.setup()
    before = project.dotenv.read_bytes()
    assert project.setup().stderr == ""
    done = project.setup(MACHINE_NAME="other", PROJECT_HASH_KEY="se-cret", TZ="Asia/Tokyo")
    assert project.dotenv.read_bytes() == before
    named = re.findall(r"warning: .* does not say of (\w+) ", done.stderr)
    assert named == ["MACHINE_NAME", "PROJECT_HASH_KEY", "TZ"]
    assert "se-cret" not in done.stdout + done.stderr


def test_no_setting_and_no_secret_is_in_the_line(project: Project) -> None:
    project.machine.env["PROJECT_HASH_KEY"] = "se-cret"
    project.setup()
    text = project.crontab.entries[0]
    assert "se-cret" not in text
    assert set(re.findall(r"(\w+)=", text)) == {"HOME", "PATH"}


# --- as cron runs it ---------------------------------------------------------------------------


def test_cron_fills_the_same_embedded_database(alone: Project, tmp_path: Path) -> None:
    alone.setup()
    done = run_as_cron(alone.crontab.entries[0], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    alone.machine.check()
    assert len(alone.machine.history()) == 1
    log = (alone.machine.state / "ccusage_import.log").read_text()
    assert re.search(r"^20\d\d-\d\d-\d\d \d\d:\d\d:\d\d,\d+ \d+ DEBUG finish: m1, ", log, re.M)


def test_cron_fills_the_same_server(project: Project, tmp_path: Path) -> None:
    project.setup()
    done = run_as_cron(project.crontab.entries[0], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    project.machine.check()


def test_options_of_the_import_are_kept_until_others_are_given(
    project: Project, tmp_path: Path
) -> None:
    for args, options in (
        (("--", "--no-hash-projects", "--agents", "claude,codex"), "--agents claude,codex "),
        (("--schedule", "1 * * * *"), "--agents claude,codex "),
        (("--", "--no-hash-projects"), ""),
    ):
        project.setup(*args)
        (entry,) = project.crontab.entries
        assert entry.endswith(f" --quiet --no-hash-projects {options}{TAG}")
    done = run_as_cron(entry, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    project.machine.check(Expected(hidden=False).claude(project.machine.feeds()).tables)
    for wrong in ("--no-such-option", "--help", "--version", "--check", "--dry-run", "--stats"):
        project.setup("--", wrong, code=1)
    project.setup("--")
    assert project.crontab.entries[0].endswith(f" --quiet {TAG}")


def test_cron_hears_of_failures_alone(project: Project, tmp_path: Path) -> None:
    stub = project.machine.stub()
    project.setup()
    assert run_as_cron(project.crontab.entries[0], tmp_path).stderr == ""
    stub.fail("blocks")
    done = run_as_cron(project.crontab.entries[0], tmp_path)
    assert done.returncode == 3
    assert done.stdout == ""
    assert "out of luck" in done.stderr
    assert "remedy: " in done.stderr


def test_cron_finds_the_node_that_the_user_has(project: Project, tmp_path: Path) -> None:
    """ccusage from npm is a script for `env node`, and cron's PATH leads to none or another."""
    mine = tmp_path / "my node's" / "bin"
    mine.mkdir(parents=True)
    node, script = real_ccusage.command(real_ccusage.NEWEST, wrapper=True)
    (mine / "ccusage").symlink_to(script)
    (mine / "node").write_text(f'#!/bin/sh\necho used >> "{mine}/log"\nexec {node} "$@"\n')
    (mine / "node").chmod(0o755)
    env = project.machine.env
    del env["CCUSAGE_COMMAND"]
    env["PATH"] = f"{mine}:{env['PATH']}"
    project.setup()
    assert str(mine / "ccusage") in dotenv_values(project.dotenv)["CCUSAGE_COMMAND"].replace(  # type: ignore[union-attr]
        "'\"'\"'", "'"
    )
    (mine / "log").unlink()
    done = run_as_cron(project.crontab.entries[0], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (mine / "log").exists()


# --- the interpreter ---------------------------------------------------------------------------


def stub(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_environment_of_the_project_comes_first(project: Project, tmp_path: Path) -> None:
    python = project.folder / ".venv" / "bin" / "python"
    stub(python, f'exec "{sys.executable}" "$@"')
    line = project.setup("--print").stdout
    assert ".venv/bin/python" in line
    project.setup()
    assert run_as_cron(project.crontab.entries[0], tmp_path).returncode == 0


def test_a_python_with_the_packages_comes_next(project: Project) -> None:
    assert f" {sys.executable.replace('/python', '/python')}" in project.setup("--print").stdout


def test_uv_comes_last(project: Project, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    stub(tools / "python3", "exit 1")
    shift = 'while [ "$1" != python ]; do shift; done; shift'
    stub(tools / "uv", f'echo "$@" >> "{tools}/log"\n{shift}\nexec "{sys.executable}" "$@"')
    path = f"{tools}:{project.machine.env['PATH']}"
    project.setup(PATH=path)
    assert f" {tools}/uv run --quiet --no-dev --extra embedded " in project.crontab.entries[0]
    assert run_as_cron(project.crontab.entries[0], tmp_path).returncode == 0
    (tools / "uv").unlink()
    for name in ("bash", "cat", "sed", "dirname", "mktemp", "rm", "grep"):
        (tools / name).symlink_to(shutil.which(name) or name)
    done = project.setup(PATH=f"{tools}:{project.crontab.folder}", code=1)
    assert "neither uv nor a python3" in done.stderr


# --- the real cron -----------------------------------------------------------------------------


@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("cron"), reason="needs root and Debian's cron"
)
def test_the_cron_daemon_runs_the_entry_within_two_minutes(alone: Project) -> None:
    env = alone.machine.env
    env["PATH"] = env["PATH"].removeprefix(f"{alone.crontab.folder}:")
    before = subprocess.run(["crontab", "-l"], capture_output=True, check=False)
    daemon = subprocess.Popen(["cron", "-f"], stderr=subprocess.DEVNULL)  # ends if one runs
    try:
        alone.setup("--schedule", "* * * * *")
        log = alone.machine.state / "ccusage_import.log"
        deadline = time.monotonic() + 120
        while not (log.exists() and "finish: m1" in log.read_text()):
            assert time.monotonic() < deadline, "cron has not run the entry"
            time.sleep(0.5)
    finally:
        if before.returncode == 0:
            subprocess.run(["crontab", "-"], input=before.stdout, check=True)
        else:
            subprocess.run(["crontab", "-r"], check=True)
        daemon.terminate()
        daemon.wait()
    time.sleep(1)  # the import closes its database
    alone.machine.check()
