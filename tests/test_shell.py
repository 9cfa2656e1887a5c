"""verify_setup.sh sees with curl alone whether imports arrive; both scripts are sound bash."""

from __future__ import annotations

import io
import os
import plistlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clickhouse_server import ClickHouseServer
from dotenv import dotenv_values
from project import SCRIPTS, Project, setup_helper
from tables import KEYS, PROGRAM, VIEWS, Database

from ccusage_importer import VARIABLES, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "p#w 'q' \"x\" $HOME `touch /tmp/never` %d \\n\\"
USERS = (f"default:{PASSWORD}",)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    with ClickHouseServer(tmp_path_factory.mktemp("guarded"), users=USERS, tls=True) as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, new_database: Database) -> Project:
    return Project(tmp_path, new_database)


def forget(project: Project) -> None:
    """Leave the settings to .env."""
    for name in [name for name in project.machine.env if name.startswith("CH_")]:
        del project.machine.env[name]


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_finds_nothing_and_nothing_is_hidden_from_it(name: str) -> None:
    script = PROGRAM.with_name(name)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "shellcheck disable" not in script.read_text()


@pytest.mark.parametrize("command", ["check --ignore=S311,SIM905", "format --check"])
def test_the_python_in_the_shell_is_as_clean_as_all_other(command: str) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    argv = [ruff, *command.split(), "--quiet", "--stdin-filename", PROGRAM.with_name("x.py"), "-"]
    done = subprocess.run(argv, input=setup_helper(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_header_is_the_help(name: str) -> None:
    script = PROGRAM.with_name(name)
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    short = subprocess.run([script, "-h"], capture_output=True, text=True, check=True)
    assert short.stdout == done.stdout
    header = script.read_text().partition("\nset -euo pipefail\n")[0].split("\n")[1:]
    assert done.stdout == "".join(
        f"{line.removeprefix('#').removeprefix(' ')}\n" for line in header
    )
    assert f"usage: {name} " in done.stdout
    for option in ("--schedule", "--force", "--print", "--remove") if name == SCRIPTS[0] else ():
        assert option in done.stdout


def test_a_sound_setup_is_verified_line_by_line(project: Project) -> None:
    project.machine.stores()
    project.setup()
    forget(project)
    found = project.verify()
    tables = project.machine.tables()
    for table in KEYS:
        assert found[table] == ("ok", f"{len(tables[table])} rows"), table
    for view in VIEWS:
        assert found[view][0] == "ok", view
    assert found["last import"] == ("ok", "m1: 0 hours ago")
    assert found["cron"] == ("ok", project.crontab.entries[0])
    assert found[".env"][1].endswith(": -rw-------")
    assert {"server", "authentication", "database", "ccusage"} < found.keys()
    assert len(found) == 3 + 7 + 5 + 4


def test_the_password_reaches_curl_on_stdin_and_an_https_server_whole(
    guarded: ClickHouseServer, tmp_path: Path
) -> None:
    project = Project(tmp_path, Database(guarded, "default"))
    project.machine.stores()
    project.setup()
    forget(project)
    log = tmp_path / "curl.log"
    curl = project.crontab.folder / "curl"
    curl.write_text(f'#!/bin/sh\necho "$@" >> "{log}"\nPATH=${{PATH#*:}} exec curl "$@"\n')
    curl.chmod(0o755)
    found = project.verify()
    assert found["server"][1].startswith("https://")
    assert found["authentication"] == ("ok", "default")
    assert "--config -" in log.read_text()
    assert "p#w" not in log.read_text()
    assert not Path("/tmp/never").exists()
    assert project.verify(code=1, CH_CA_CERT="")["server"][0] == "FAIL"
    assert project.verify(CH_CA_CERT="", CH_VERIFY="false")["server"][0] == "ok"


@pytest.mark.rotates(3)
@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("CH_USER=plain", "plain"),
        ("CH_USER=a b # comment", "a b"),
        ("CH_USER='it\\'s \\\\ \"#\" $x' # comment", 'it\'s \\ "#" $x'),
        ('CH_USER="a \\"b\\" $(touch never) `id`"', 'a "b" $(touch never) `id`'),
        ("  export CH_USER = spaced  ", "spaced"),
        ("CH_USER=first\nCH_USER=last", "last"),
        ("CH_USER=#1", "#1"),
        ("CH_USER=a=b", "a=b"),
        ("CH_USER=", "default"),
        ("# CH_USER=x\nNOT_CH_USER=y", "default"),
    ],
)
def test_an_env_file_is_read_as_the_importer_reads_it_and_never_run(
    project: Project, line: str, value: str
) -> None:
    host, port = project.machine.env["CH_HOST"], project.machine.env["CH_PORT"]
    project.dotenv.write_text(f"CH_HOST={host}\nCH_PORT={port}\n{line}\n")
    forget(project)
    found = project.verify(code=1)
    assert found["server"][0] == "ok"
    if value == "default":
        assert found["authentication"] == ("ok", "default")
    else:
        assert f"DB::Exception: {value}: Auth" in found["authentication"][1]
    assert not (project.folder / "never").exists()


def test_what_is_wrong_fails_in_its_line_alone(project: Project) -> None:
    found = project.verify(code=1)
    wrong = {name for name, (verdict, _) in found.items() if verdict == "FAIL"}
    assert wrong == {"database", ".env"}
    project.machine.stores()
    database = project.machine.database
    assert database
    project.crontab.file.write_text("1 * * * * x # ccusage-import\n")
    project.dotenv.touch(mode=0o600)
    project.verify()
    project.dotenv.chmod(0o604)
    assert "others may read it" in project.verify(code=1)[".env"][1]
    project.dotenv.chmod(0o600)
    for entries in ("# 1 * * * * x # ccusage-import\n", "1 * * * * x # ccusage-import\n" * 2):
        project.crontab.file.write_text(entries)
        verdict, text = project.verify()["cron"]  # as --check: one may import by another timer
        assert verdict == "warn"
        assert "setup_cronjob.sh" in text
    project.crontab.file.write_text("1 * * * * x # ccusage-import\n")
    assert project.verify(code=1, CCUSAGE_COMMAND="'/no where'")["ccusage"] == (
        "FAIL",
        "not found: /no where",
    )
    found = project.verify(code=1, MACHINE_NAME="m2")
    assert found["last import"][1].startswith("m2: none; uv run ")
    assert found["machine name"][1].startswith("MACHINE_NAME is m2, but machine.json says m1")
    database.server.query(f"DROP VIEW {database.name}.ccusage_v_daily_summary")
    assert "UNKNOWN_TABLE" in project.verify(code=1)["ccusage_v_daily_summary"][1]


@pytest.mark.parametrize("name", [pytest.param("m1", marks=pytest.mark.stress), "a \"b\\c' d"])
def test_the_machine_is_the_one_that_the_first_import_recorded(project: Project, name: str) -> None:
    project.machine.stores(MACHINE_NAME=name)
    project.machine.env["MACHINE_NAME"] = ""
    project.setup()
    assert project.verify()["last import"] == ("ok", f"{name}: 0 hours ago")
    del project.machine.env["CCUSAGE_STATE_DIR"]  # .env says it
    assert project.verify()["last import"] == ("ok", f"{name}: 0 hours ago")


@pytest.mark.rotates(2)
@pytest.mark.parametrize(
    ("value", "code"), [("False", 0), ("OFF", 0), ("No", 0), (" ", 1), ("TRUE", 1), ("never", 1)]
)
def test_the_verification_of_certificates_is_the_importers(
    guarded: ClickHouseServer, tmp_path: Path, value: str, code: int
) -> None:
    project = Project(tmp_path, Database(guarded, "default"))
    project.machine.env |= {"CH_CA_CERT": "", "CH_VERIFY": value}
    server = project.run("verify_setup.sh", code=1).stdout.splitlines()[
        : 2 if value == "never" else 1
    ]
    assert (server[-1][:4] == "FAIL") == bool(code)
    if value == "never":
        assert server[0].startswith("FAIL  CH_VERIFY")


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"])
def test_curl_trusts_the_certificates_that_the_importer_trusts(
    guarded: ClickHouseServer, tmp_path: Path, name: str
) -> None:
    project = Project(tmp_path, Database(guarded, "default"))
    project.machine.env["CH_CA_CERT"] = ""
    project.dotenv.write_text(f"{name}={guarded.certificate}\n")
    assert project.verify(code=1)["authentication"] == ("ok", "default")


def test_the_ccusage_that_is_found_is_a_program_on_path(project: Project) -> None:
    project.machine.env["CCUSAGE_COMMAND"] = ""
    ccusage = project.crontab.folder / "ccusage"
    ccusage.write_text("#!/bin/sh\n")
    ccusage.chmod(0o755)
    assert project.verify(code=1)["ccusage"] == ("ok", str(ccusage))


def test_an_old_import_of_this_machine_fails_and_one_of_another_does_not(project: Project) -> None:
    project.machine.stores()
    project.setup()
    database = project.machine.database
    assert database
    history = f"{database.name}.ccusage_import_history"
    database.server.query(
        f"INSERT INTO {history} (machine_name, finished_at) SELECT 'o\\'ld', now() - 9 * 86400"
    )
    lines = project.run("verify_setup.sh").stdout
    assert "ok    last import                  o'ld: 216 hours ago\n" in lines
    database.server.query(f"ALTER TABLE {history} DELETE WHERE machine_name = 'm1'")
    database.server.query(
        f"INSERT INTO {history} (machine_name, finished_at) SELECT 'm1', now() - 2 * 86400"
    )
    lines = project.run("verify_setup.sh", code=1).stdout
    assert "FAIL  last import                  m1: 48 hours ago\n" in lines


def test_a_server_that_is_not_there_or_refuses_is_one_line(project: Project) -> None:
    found = project.verify(code=1, CH_PORT="1")
    assert "Failed to connect" in found["server"][1] or "refused" in found["server"][1]
    assert "authentication" not in found
    found = project.verify(code=1, CH_PASSWORD="wrong")
    assert found["server"][0] == "ok"
    assert "Authentication failed" in found["authentication"][1]
    assert "database" not in found


def test_the_example_names_every_setting_and_sets_none() -> None:
    example = PROGRAM.with_name(".env.example")
    assert dotenv_values(example) == {}
    assert len(VARIABLES) > 15
    assert set(re.findall(r"^#([A-Z_]+)=", example.read_text(), re.MULTILINE)) >= VARIABLES.keys()
    defaults = Settings.from_env({})
    said = dotenv_values(
        stream=io.StringIO(re.sub(r"^#(?=[A-Z_]+=)", "", example.read_text(), flags=re.MULTILINE))
    )
    env = {name: value for name, value in said.items() if value}
    kept = ("host", "timezone", "ccusage_command", "environment", "budget_month", "budget_day")
    for name in Settings._fields:
        if name not in kept:
            assert getattr(Settings.from_env(env), name) == getattr(defaults, name), name


def readme(language: str) -> str:
    """The one block of this language in README.md."""
    text = PROGRAM.with_name("README.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd")
def test_the_timer_in_the_readme_is_valid(tmp_path: Path) -> None:
    text = readme("ini").replace("%h", str(tmp_path))
    python = tmp_path / "ccusage-import/.venv/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    for name, unit in re.findall(r"^# (\S+)\n((?:[^#].*\n)+)", text, re.MULTILINE):
        (tmp_path / name).write_text(unit)
    argv = ["systemd-analyze", "--user", "verify", "--man=no"]
    units = sorted(tmp_path.glob("ccusage-import.*"))
    env = {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run([*argv, *units], env=env, capture_output=True, text=True, check=False)
    assert [unit.suffix for unit in units] == [".service", ".timer"]
    assert (done.returncode, done.stderr) == (0, "")


def test_the_agent_in_the_readme_is_a_property_list() -> None:
    agent = plistlib.loads(readme("xml").encode())
    assert agent["ProgramArguments"][-1] == "--quiet"
    assert agent["StartInterval"] == 3600


def test_without_a_server_it_points_to_the_check(project: Project) -> None:
    done = project.run("verify_setup.sh", code=2, CH_HOST="")
    assert "CH_HOST is not set" in done.stdout
    assert "ccusage_importer.py --check" in done.stdout
    assert project.run("verify_setup.sh", "--halp", code=2).stdout.startswith("Verify")
