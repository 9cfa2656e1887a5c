"""setup_cronjob.sh installs one line, with which cron imports as its user does by hand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import pytest
import real_ccusage
from crontab import TAG, run_as_cron
from dotenv import dotenv_values
from project import Project, setup_helper
from tables import PROGRAM, Expected
from test_config import write_stub

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


def stub(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


# --- the crontab -------------------------------------------------------------------------------


def test_installing_twice_is_installing_once(project: Project) -> None:
    project.setup()
    (entry,) = project.crontab.entries
    assert re.match(r"[0-5]?\d \* \* \* \* ", entry)
    once = project.crontab.text
    assert project.setup().stdout.startswith(f"Already installed: {entry}\nNext run: ")
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
    entry = text.removeprefix(FOREIGN).decode()
    assert project.setup("--remove").stdout == f"Removed from your crontab: {entry}"
    assert project.crontab.text == FOREIGN
    assert project.setup("--remove").stdout.startswith("Nothing to remove: ")
    assert project.crontab.writes == 3


def test_a_last_line_without_an_end_stays_one_and_removing_needs_no_python(
    project: Project, tmp_path: Path
) -> None:
    last = b"1 2 3 4 5 last"
    project.crontab.file.write_bytes(last)
    project.setup()
    assert project.crontab.text
    assert project.crontab.text.startswith(last + b"\n")
    assert len(project.crontab.entries) == 1
    tools = tmp_path / "tools"
    stub(tools / "python3", "exit 1")
    project.setup("--remove", PATH=project.crontab.path(f"{tools}:/usr/bin:/bin"))
    assert project.crontab.text == last + b"\n"


def test_an_installation_says_what_and_when_and_where_the_log_is(project: Project) -> None:
    what, when, where = project.setup("--schedule", "30 6 29 2 *").stdout.splitlines()
    assert what == f"Installed: {project.crontab.entries[0]}"
    assert re.fullmatch(r"First run: \w+day, 20\d\d-02-29 06:30 \(.+\)", when)
    assert where == f"Log: {project.machine.state}/ccusage_import.log"
    when = project.setup("--schedule", "@reboot").stdout.splitlines()[1]
    assert when == "First run: when this machine next starts"


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


# Arguments, and what is said of them.
WRONG_USAGE = [
    (("--schedule", "* * * * *\n* * * * * rm"), "expected five fields"),
    (("--schedule", ""), "got nothing"),
    (("--schedule",), "got nothing"),
    (("--schedule", "99 99 * * *"), "minute: expected 0-59"),
    (("--shedule", "* * * * *"), "--shedule: unknown; see --help"),
    (("--remove", "--schedule", "* * * * *"), "--remove takes no other option"),
    (("--remove", "--", "--quiet"), "--remove takes no other option"),
    (("--", "--no-such-option"), "not options of an import: --no-such-option ("),
    (("--", "--help"), "not options of an import: --help"),
    (("--", "--dry-run"), "not options of an import: --dry-run"),
    (("--", "--stats"), "not options of an import: --stats"),
    (("--", "--verbose"), "not options of an import: --verbose ("),
]


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """With a crontab that cannot be read: what is wrong is told before it is looked at."""
    project = Project(tmp_path_factory.mktemp("idle"))
    project.crontab.break_()
    return project


@pytest.mark.parametrize(("args", "said"), WRONG_USAGE)
def test_wrong_usage_is_one_line_before_anything_else(
    idle: Project, args: tuple[str, ...], said: str
) -> None:
    done = idle.setup(*args, code=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith("setup_cronjob.sh: ")
    assert said in line
    assert not idle.dotenv.exists()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("CH_PORT", "many", "CH_PORT: expected a whole number"),
        ("CCUSAGE_COMMAND", "'", "CCUSAGE_COMMAND: expected a command as in a shell"),
    ],
)
def test_a_wrong_configuration_is_told_in_a_line_with_force_too(
    project: Project, variable: str, value: str, said: str
) -> None:
    done = project.setup("--force", code=2, **{variable: value})
    assert done.stderr.splitlines()[-1].startswith(f"setup_cronjob.sh: {said}")
    assert "Traceback" not in done.stderr
    assert project.crontab.text is None


def test_without_cron_another_timer_is_pointed_to(project: Project) -> None:
    (project.crontab.folder / "crontab").unlink()
    tools = project.crontab.folder.parent / "tools"  # for a folder that holds a real crontab
    tools.mkdir()
    path = []
    for folder in map(Path, project.machine.env["PATH"].split(":")):
        if (folder / "crontab").exists():
            for program in folder.iterdir():
                if program.name != "crontab" and not (tools / program.name).is_symlink():
                    (tools / program.name).symlink_to(program)
        path.append(str(tools if (folder / "crontab").exists() else folder))
    done = project.setup(code=1, PATH=":".join(path))
    assert "systemd or launchd (see README.md)" in done.stderr


def test_nothing_is_installed_when_the_check_fails(project: Project) -> None:
    done = project.setup(code=1, CH_PASSWORD="wrong")
    assert "check CH_USER and CH_PASSWORD" in done.stderr
    assert "--force" in done.stderr
    assert project.crontab.text is None
    assert not project.dotenv.exists()
    done = project.setup("--force", CH_PASSWORD="wrong")
    assert "warning: the check failed: cron's imports will fail until you mend" in done.stderr
    assert len(project.crontab.entries) == 1


def test_the_check_is_that_of_the_env_file_where_there_is_one(project: Project) -> None:
    project.setup()
    text = project.dotenv.read_text()
    project.dotenv.write_text(text.replace("CH_USER=default", "CH_USER=nobody"))
    done = project.setup(code=1)
    assert "check CH_USER and CH_PASSWORD" in done.stderr


# --- schedules ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def helper() -> dict[str, Any]:
    """The functions of the Python in the script."""
    functions: dict[str, Any] = {"__name__": "helper"}
    with mock.patch.object(sys, "argv", ["", str(PROGRAM.parent), "1", sys.executable, "usage"]):
        exec(setup_helper(), functions)
    return functions


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("17 * * * *", "2026-11-26 14:17"),
        ("5 * * * *", "2026-11-26 15:05"),
        ("*/30 * * * *", "2026-11-26 14:30"),
        ("0-59/20 1-23/12 * * *", "2026-11-27 01:00"),
        ("1,31 6-9 * * mon-fri", "2026-11-27 06:01"),
        ("0 0 * * SUN", "2026-11-29 00:00"),
        ("0 0 * * 5-7", "2026-11-27 00:00"),
        ("0 9 1 * *", "2026-12-01 09:00"),
        ("0 9 1 * 1", "2026-11-30 09:00"),  # the first of a month, and each Monday
        ("0 9 */2 * 1", "2026-12-07 09:00"),  # an odd day that is a Monday
        ("0 0 29 feb *", "2028-02-29 00:00"),
        ("@hourly", "2026-11-26 15:00"),
        ("@weekly", "2026-11-29 00:00"),
        ("@yearly", "2027-01-01 00:00"),
    ],
)
def test_the_first_run_is_when_cron_runs_it(
    helper: dict[str, Any], schedule: str, expected: str
) -> None:
    found = helper["first_run"](schedule, datetime(2026, 11, 26, 14, 5, 30))
    assert found == datetime.fromisoformat(expected)


WRONG_MINUTES = ("*/0", "5/10", "1,,2", "-1", "½", "1-", "**", "feb", "1%", "7;")


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("* * * *", "expected five fields"),
        ("* * * * * rm", "expected five fields"),
        ("@noon", "expected five fields, or one of @reboot, @hourly, "),
        ("60 * * * *", "minute: expected 0-59, "),
        ("0 24 * * *", "hour: expected 0-23"),
        ("0 0 0 * *", "day of the month: expected 1-31"),
        ("0 0 * 13 *", "month: expected 1-12"),
        ("0 0 * feb-foo *", "month: expected 1-12"),
        ("0 0 * * 8", "day of the week: expected 0-7"),
        ("0 0 * * fri-mon", "day of the week: expected 0-7"),
        *((f"{minute} * * * *", "minute: ") for minute in WRONG_MINUTES),
        ("0 0 31 2,4 *", "there is no such day"),
    ],
)
def test_a_schedule_that_cron_cannot_keep_is_refused(
    helper: dict[str, Any], capsys: pytest.CaptureFixture[str], schedule: str, said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        helper["first_run"](schedule, datetime(2026, 11, 26, 14, 5, 30))
    assert ended.value.code == 2
    assert f"--schedule: {said}" in capsys.readouterr().err


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
        "NODE_EXTRA_CA_CERTS": "corp,1.pem",
        "SSL_CERT_FILE": "~/all.pem",
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
    for name in Settings._fields:
        if name not in ("environment", "ca_cert"):
            assert getattr(found, name) == getattr(wanted, name), name
    assert env["CH_CA_CERT"] == "/a.crt"
    assert env["NODE_EXTRA_CA_CERTS"] == "/corp,1.pem"
    assert env["SSL_CERT_FILE"] == f"{alone.machine.env['HOME']}/all.pem"
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


def test_no_setting_and_no_secret_is_in_the_line_and_no_host_name_in_env(project: Project) -> None:
    project.machine.env |= {"PROJECT_HASH_KEY": "se-cret", "MACHINE_NAME": ""}
    project.setup()
    assert "MACHINE_NAME" not in dotenv_values(project.dotenv)
    text = project.crontab.entries[0]
    assert "se-cret" not in text
    assert set(re.findall(r"(\w+)=", text)) == {"HOME", "PATH"}


def test_a_copy_of_env_leaves_each_machine_its_recorded_name(
    project: Project, tmp_path: Path
) -> None:
    project.machine.stores()
    project.setup()
    assert "MACHINE_NAME" not in dotenv_values(project.dotenv)
    assert project.setup().stderr == ""
    done = project.setup(MACHINE_NAME="other")
    assert re.findall(r"does not say of (\w+) ", done.stderr) == ["MACHINE_NAME"]
    done = run_as_cron(project.crontab.entries[0], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    with project.machine.asking() as query:
        assert query("SELECT machine_name FROM ccusage_import_history") == [("m1",), ("m1",)]


# --- as cron runs it ---------------------------------------------------------------------------


def test_cron_fills_the_same_embedded_database(alone: Project, tmp_path: Path) -> None:
    alone.machine.use(real_ccusage.NEWEST)  # itself, which Project has repeated
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


# --- version managers -----------------------------------------------------------------------


class Manager(NamedTuple):
    """Where a version manager keeps a version of Node, and its links to it."""

    version: str  # with {} for the number
    shell: str = ""  # for one shell alone
    lasts: str = ""  # an update moves it


MULTISHELL = "run/fnm_multishells/794_1795"
MANAGERS = {
    "fnm": Manager("fnm/node-versions/{}/installation", MULTISHELL),
    "fnm, with a default": Manager(
        "fnm/node-versions/{}/installation", MULTISHELL, "fnm/aliases/default"
    ),
    "mise": Manager("mise/installs/node/{}", lasts="mise/installs/node/latest"),
    "nvm, with a link": Manager(".nvm/versions/node/{}", lasts=".nvm/current"),
    "nvm": Manager(".nvm/versions/node/{}"),
}


def install_ccusage(folder: Path) -> None:
    """A script for `env node`, as npm makes it, and beside it that node, which notes its use."""
    (folder / "bin").mkdir(parents=True)
    node = write_stub(folder / "bin", "echo used >> log")
    node.rename(folder / "bin" / "node")
    (folder / "bin" / "ccusage").write_text("#!/usr/bin/env node\n")
    (folder / "bin" / "ccusage").chmod(0o755)


def link(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(target)


@pytest.mark.rotates(2)
# A link of nvm's is as one of mise's.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.stress) if name == "nvm, with a link" else name
        for name in MANAGERS
    ],
)
def test_cron_goes_on_after_a_reboot_and_an_update_of_node(
    project: Project, name: str, tmp_path: Path
) -> None:
    manager, home = MANAGERS[name], tmp_path / "o m"
    old, new = (home / manager.version.format(number) for number in ("v20.1.0", "v22.0.0"))
    install_ccusage(old)
    if manager.lasts:
        link(home / manager.lasts, old)
    if manager.shell:
        link(home / manager.shell, home / manager.lasts if manager.lasts else old)
    env = project.machine.env
    env["PATH"] = f"{home / manager.shell if manager.shell else old}/bin:{env['PATH']}"
    env["CCUSAGE_COMMAND"] = ""
    project.setup()
    (entry,) = project.crontab.entries
    if manager.shell:
        (home / manager.shell).unlink()  # the shell has ended
    done = run_as_cron(entry, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (old / "bin" / "log").exists()
    if manager.lasts:
        install_ccusage(new)
        link(home / manager.lasts, new)
        shutil.rmtree(old)
        done = run_as_cron(entry, tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert (new / "bin" / "log").exists()


def test_what_a_former_setup_wrote_for_one_shell_alone_is_mended(
    project: Project, tmp_path: Path
) -> None:
    old, shell = tmp_path / "fnm/node-versions/v20/installation", tmp_path / MULTISHELL
    install_ccusage(old)
    link(shell, old)
    env = project.machine.env
    env |= {"PATH": f"{shell}/bin:{env['PATH']}", "CCUSAGE_COMMAND": ""}
    project.setup()
    text = project.dotenv.read_text()
    project.dotenv.write_text(text.replace(str(old), str(shell)))
    assert "does not last" in project.setup().stderr
    assert project.dotenv.read_text() == text


def test_what_an_update_has_not_yet_is_run_as_before(project: Project, tmp_path: Path) -> None:
    """The new Node has no ccusage; the former one is still there, behind it."""
    manager = MANAGERS["mise"]
    old, new = (tmp_path / manager.version.format(number) for number in ("20.1.0", "22.0.0"))
    install_ccusage(old)
    link(tmp_path / manager.lasts, old)
    env = project.machine.env
    env |= {"PATH": f"{old}/bin:{env['PATH']}", "CCUSAGE_COMMAND": ""}
    project.setup()
    install_ccusage(new)
    (new / "bin" / "ccusage").unlink()
    link(tmp_path / manager.lasts, new)
    done = run_as_cron(project.crontab.entries[0], tmp_path)
    assert done.returncode == 0
    assert f"latest/bin/ccusage' is gone, so {old}/bin/ccusage, which is on PATH" in done.stderr


def test_a_ccusage_that_is_gone_is_found_on_path_and_mended_by_the_next_setup(
    project: Project, tmp_path: Path
) -> None:
    old, new = tmp_path / "v1", tmp_path / "v2"
    install_ccusage(old)
    install_ccusage(new)
    env = project.machine.env
    env["CCUSAGE_COMMAND"] = ""
    path = env["PATH"]
    env["PATH"] = f"{old}/bin:{new}/bin:{path}"
    project.setup()
    text = f"# mine\n\n{project.dotenv.read_text()}TZ=UTC\t# end\n"
    project.dotenv.write_text(text)
    shutil.rmtree(old)
    done = run_as_cron(project.crontab.entries[0], tmp_path)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"CCUSAGE_COMMAND: '{old}/bin/ccusage' is gone, so {new}/bin/ccusage, ")
    done = project.setup()
    now = f"CCUSAGE_COMMAND is now {new}/bin/ccusage; {old}/bin/ccusage does not last"
    assert now in done.stderr
    assert project.dotenv.read_text() == text.replace(str(old), str(new))
    assert project.dotenv.stat().st_mode & 0o777 == 0o600
    assert str(old) not in project.crontab.entries[0]
    done = run_as_cron(project.crontab.entries[0], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


# --- the interpreter ---------------------------------------------------------------------------


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
    alone.machine.use(real_ccusage.NEWEST)
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
