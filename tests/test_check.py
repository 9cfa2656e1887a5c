"""--check finds what the next import would meet, and leaves no trace."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import transcripts
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_server import ClickHouseServer
from crontab import Crontab
from tables import PROGRAM, Database, Machine, at, footprint, noon
from transcripts import Message, write_session

from ccusage_importer import Settings, StoreError, read_schema, store_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tables import Done

UTC = timezone.utc
PASSWORD = "s3cret-Pa55"
USERS = (
    "default:" + PASSWORD,
    "reader:pw:readonly=1",
    "appender:pw:deny=ALTER DELETE",
    "writer:pw:deny=CREATE TABLE,CREATE VIEW,CREATE DATABASE,DROP TABLE",
    "hoarder:pw:deny=DROP TABLE",
    "keeper:pw:deny=DROP TABLE,DROP VIEW,ALTER ADD COLUMN",
)
NO_SERVER = {"CH_PORT": "9"}  # for what it finds without one, which is quicker
FEEDS = ("daily", "monthly", "session", "blocks", "projects")
SECTIONS = ("ClickHouse", "Environment", "ccusage", "Schedule and data")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """A server with passwords, and users who lack rights."""
    with ClickHouseServer(tmp_path_factory.mktemp("guarded"), users=USERS) as server:
        yield server


@pytest.fixture
def theirs(guarded: ClickHouseServer) -> Iterator[Database]:
    guarded.query("CREATE DATABASE IF NOT EXISTS guarded")
    yield Database(guarded, "guarded")
    guarded.query("DROP DATABASE IF EXISTS guarded SYNC")


@pytest.fixture
def crontab(tmp_path: Path) -> Crontab:
    return Crontab(tmp_path / "bin")


@pytest.fixture
def machine(tmp_path: Path, database: Database, crontab: Crontab) -> Machine:
    return on_a_server(tmp_path, database, crontab)


def on_a_server(tmp_path: Path, database: Database, crontab: Crontab) -> Machine:
    """With a day of usage."""
    machine = Machine(tmp_path, database=database)
    machine.env["PATH"] = crontab.path(machine.env["PATH"])
    use(machine, noon())
    return machine


@pytest.fixture
def alone(tmp_path: Path, crontab: Crontab) -> Machine:
    """With an embedded database."""
    machine = Machine(tmp_path, "alone")
    machine.env["PATH"] = crontab.path(machine.env["PATH"])
    use(machine, noon())
    return machine


def use(machine: Machine, *moments: datetime) -> None:
    for moment in moments:
        name = f"{moment:%Y%m%d}-0000-4000-8000-000000000000"
        write_session(machine.claude, "-home-dev-secret-plan", name, [Message(at=moment)])


def check(machine: Machine, *args: str, code: int | None = None, **env: str) -> dict[str, Any]:
    """The findings by name (the last one of a name), of --check in this process."""
    done = machine.main("--check", "--format", "json", *args, **env)
    found = json.loads(done.out)
    assert done.code == (1 if any(one["status"] == "FAILED" for one in found) else 0), done
    assert code in (None, done.code), [one for one in found if one["status"] != "ok"]
    assert all(one["remedy"] for one in found if one["status"] != "ok"), found
    return {one["name"]: one for one in found}


def failures(found: dict[str, Any]) -> list[str]:
    return [name for name, one in found.items() if one["status"] == "FAILED"]


def tree(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if "xdg/cache" not in str(path))


# --- leaving no trace --------------------------------------------------------------------------


def test_a_first_check_leaves_no_trace_on_the_disk(alone: Machine) -> None:
    before = tree(alone.home)
    found = check(alone, code=0)
    assert tree(alone.home) == before
    assert not alone.state.exists()
    assert (found["path"]["status"], found["schema"]["status"]) == ("ok", "warning")
    assert "not there yet" in found["path"]["detail"]
    assert found["writing"]["status"] == "ok"
    assert found["last import"]["status"] == "warning"


def test_a_check_leaves_an_embedded_database_as_it_is(alone: Machine) -> None:
    alone.stores()
    tables, history = alone.tables(keep=True), alone.history()
    files = [path for path in tree(alone.home) if alone.path not in path.parents]
    found = check(alone, code=0)
    assert [path for path in tree(alone.home) if alone.path not in path.parents] == files
    assert alone.tables(keep=True) == tables
    assert alone.history() == history
    path = re.escape(str(alone.path))
    assert re.fullmatch(rf"{path}, [\d,.]+ GB of the disk are free", found["path"]["detail"])
    assert found["schema"]["detail"] == "all tables, views and columns are there"


def test_a_check_leaves_no_trace_on_a_server(
    tmp_path: Path, new_database: Database, crontab: Crontab
) -> None:
    database = new_database
    machine = on_a_server(tmp_path, database, crontab)
    before = tree(machine.home)
    found = check(machine, code=0)
    exists = "SELECT count() FROM system.databases WHERE name = {name:String}"
    assert database.server.query(exists, name=database.name) == [(0,)]
    assert found["schema"]["detail"] == f"nothing is there yet in the database {database.name}"
    assert tree(machine.home) == before
    machine.stores()
    steps = footprint(database.query, database.name)
    found = check(machine, code=0)
    assert footprint(database.query, database.name) == steps
    assert len(machine.history()) == 1
    tables = "SELECT count() FROM system.tables WHERE database = {name:String}"
    assert database.server.query(tables, name=database.name) == [(13,)]
    assert found["writing"]["detail"] == "has the rights that an import needs"


# --- what it finds -----------------------------------------------------------------------------


def test_a_sound_setup_is_ok_in_every_section(machine: Machine, crontab: Crontab) -> None:
    crontab.file.write_text("0 0 * * * true\n7 * * * * cd /; import # ccusage-import\n")
    machine.stores()
    found = check(machine, code=0, CCUSAGE_COMMAND=machine.command)
    assert {one["section"] for one in found.values()} == set(SECTIONS)
    assert {name for name, one in found.items() if one["status"] != "ok"} == set()
    feeds = machine.feeds()
    for name, key in zip(
        FEEDS, ("daily", "monthly", "sessions", "blocks", "projects"), strict=True
    ):
        count = len(feeds[name][key])
        noun = "record" if count == 1 else "records"
        assert found[name]["detail"].startswith(f"{count} {noun}, 110 tokens, $"), found[name]
    assert found["version"]["detail"] == f"20.0.24: {machine.command}"
    assert re.search(r" answers in \d+ ms$", found["connection"]["detail"])
    assert found["schema"]["detail"] == "all tables, views and columns are there"
    assert found["writing"]["detail"] == "has the rights that an import needs"
    assert found.keys().isdisjoint(("ccusage", "bunx", "npx", "left out"))  # what is not needed
    assert found["machine name"]["detail"] == "m1"
    assert found["time zone"]["detail"] == "UTC, as recorded"
    assert found["privacy"]["detail"] == "names are hashed, without PROJECT_HASH_KEY"
    assert found["cron"]["detail"] == "7 * * * *"
    assert found["last import"]["detail"].startswith("0.0 hours ago; UTC 20")
    assert found["newest day"]["detail"].startswith("claude: stored 20")


def test_a_slow_server_is_a_warning(machine: Machine, database: Database) -> None:
    machine.stores()
    database.server.arm("delay:0.51", match="SELECT version", times=-1)
    found = check(machine, code=0)["connection"]
    assert found["status"] == "warning"
    assert re.search(r"answers in \d{3,} ms$", found["detail"])


def test_missing_and_outdated_tables_columns_and_views_are_named(
    machine: Machine, database: Database
) -> None:
    machine.stores()
    name = database.name
    database.server.query(f"DROP VIEW {name}.ccusage_v_active_blocks")
    found = check(machine, code=0)
    assert found["schema"]["detail"] == "create the view ccusage_v_active_blocks"
    assert found["last import"]["status"] == "ok"
    database.server.query(f"DROP VIEW {name}.ccusage_v_daily_summary")
    database.server.query(f"CREATE VIEW {name}.ccusage_v_daily_summary AS SELECT 1 AS date")
    database.server.query(f"ALTER TABLE {name}.ccusage_usage_daily DROP COLUMN models_count")
    found = check(machine, code=0)
    assert "replace the view ccusage_v_daily_summary, which lacks mach" in found["schema"]["detail"]
    assert "add to the table ccusage_usage_daily: models_count" in found["schema"]["detail"]
    assert found["schema"]["remedy"] == "an import does this"
    assert found["writing"]["status"] == "ok"
    machine.stores()
    assert check(machine, code=0)["schema"]["status"] == "ok"


@pytest.mark.parametrize(
    ("env", "name", "remedy"),
    [
        ({"CH_PASSWORD": "wrong"}, "connection", "check CH_USER and CH_PASSWORD"),
        ({"CH_USER": "nobody"}, "connection", "check CH_USER and CH_PASSWORD"),
        ({"CH_USER": "reader", "CH_PASSWORD": "pw"}, "writing", "give CH_USER the right to write"),
        ({"CH_USER": "appender", "CH_PASSWORD": "pw"}, "writing", "grant CH_USER the rights that"),
        ({"CH_USER": "writer", "CH_PASSWORD": "pw"}, "writing", "grant CH_USER the rights that"),
    ],
)
def test_what_the_server_refuses_fails_the_check_as_it_fails_the_import(
    tmp_path: Path, theirs: Database, env: dict[str, str], name: str, remedy: str
) -> None:
    machine = Machine(tmp_path, database=theirs)
    machine.env |= env
    found = check(machine, code=1)
    assert failures(found) == [name]
    assert remedy in found[name]["remedy"]
    if right := {"appender": "ALTER DELETE", "writer": "CREATE VIEW"}.get(env.get("CH_USER", "")):
        assert f"necessary to have the grant {right} ON guarded." in found[name]["detail"]
    assert (
        machine.main().code == 1 or env["CH_USER"] == "appender"
    )  # a first import deletes nothing


@pytest.mark.parametrize("user", ["writer", "hoarder"])
def test_rights_that_an_import_does_not_need_may_be_missing(
    tmp_path: Path, theirs: Database, user: str
) -> None:
    machine = Machine(tmp_path, database=theirs)
    machine.stores()
    steps = footprint(theirs.query, theirs.name)
    found = check(machine, CH_USER=user, CH_PASSWORD="pw", code=0)
    assert found["writing"]["detail"] == "has the rights that an import needs"
    assert footprint(theirs.query, theirs.name) == steps
    machine.stores(CH_USER=user, CH_PASSWORD="pw")


def test_a_first_import_needs_no_right_to_drop(tmp_path: Path, theirs: Database) -> None:
    machine = Machine(tmp_path, database=theirs)
    machine.env |= {"CH_USER": "hoarder", "CH_PASSWORD": "pw"}
    assert check(machine, code=0)["writing"]["status"] == "ok"
    machine.stores()


def test_a_database_that_the_user_may_not_create_fails_the_check(
    tmp_path: Path, theirs: Database
) -> None:
    machine = Machine(tmp_path, database=theirs)
    env = {"CH_DATABASE": "nowhere", "CH_USER": "writer", "CH_PASSWORD": "pw"}
    found = check(machine, code=1, **env)
    assert failures(found) == ["writing"]
    assert "the grant CREATE DATABASE ON nowhere" in found["writing"]["detail"]
    assert machine.main(**env).code == 1
    found = check(machine, code=0, CH_DATABASE="nowhere")
    assert found["schema"]["detail"] == "nothing is there yet in the database nowhere"
    assert found["schema"]["remedy"] == "an import does this"


def test_an_unreachable_server_fails_the_check_with_a_remedy(machine: Machine) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        found = check(machine, CH_PORT=str(unused.getsockname()[1]), code=1)
    assert failures(found) == ["connection"]
    assert "check CH_HOST and CH_PORT" in found["connection"]["remedy"]
    assert found["daily"]["status"] == "ok"


def test_an_unknown_certificate_fails_the_check(tmp_path: Path) -> None:
    with ClickHouseServer(tmp_path / "tls", tls=True) as server:
        machine = Machine(tmp_path, database=Database(server, "default"))
        assert "https://" in check(machine, code=0)["connection"]["detail"]
        missing, garbage = tmp_path / "no.crt", tmp_path / "garbage.crt"
        garbage.write_text("no certificate")
        for variables, remedy in (
            ({"CH_CA_CERT": ""}, "set CH_CA_CERT to the CA's certificate, or CH_VERIFY=false"),
            ({"CH_CA_CERT": str(missing)}, "set CH_CA_CERT to a file with the CA's certificate"),
            ({"CH_CA_CERT": str(garbage)}, "set CH_CA_CERT to a file with the CA's certificate"),
            ({"CH_PROTOCOL": "http"}, "check CH_PROTOCOL (http or https) and CH_PORT"),
        ):
            found = check(machine, code=1, **variables)
            assert failures(found) == ["connection"]
            assert found["connection"]["remedy"].startswith(remedy)
            assert found.keys().isdisjoint(("last import", "newest day"))
    with ClickHouseServer(tmp_path / "plain") as server:
        machine = Machine(tmp_path, "m2", database=Database(server, "default"))
        found = check(machine, CH_PROTOCOL="https", code=1)
        assert found["connection"]["remedy"].startswith("check CH_PROTOCOL (http or https)")


def test_a_broken_report_fails_the_check_with_a_remedy(machine: Machine) -> None:
    stub = machine.stub()
    stub.fail("blocks", message="Error: native binary is not available for linux-x64")
    daily = machine.report("daily")
    daily["totals"]["inputTokens"] += 1
    stub.say(daily=daily, monthly={"nothing": []})
    found = check(machine, code=1)
    assert failures(found) == ["daily", "monthly", "blocks"]
    assert "daily.totals.inputTokens" in found["daily"]["detail"]
    assert "no key 'monthly'" in found["monthly"]["detail"]
    assert "native binary" in found["blocks"]["detail"]
    assert found["blocks"]["remedy"].startswith("npm install -g --include=optional ccusage")
    assert found["session"]["status"] == "ok"


@pytest.mark.parametrize(
    ("command", "remedy"),
    [("/nowhere/ccusage", "CCUSAGE_COMMAND"), ("/bin/false", "run the command by hand")],
)
def test_a_ccusage_that_does_not_run_fails_the_check(
    machine: Machine, command: str, remedy: str
) -> None:
    found = check(machine, CCUSAGE_COMMAND=command, code=1, **NO_SERVER)
    assert failures(found) == ["connection", "version"]
    assert remedy in found["version"]["remedy"]


def test_a_node_that_is_too_old_is_named(machine: Machine, tmp_path: Path) -> None:
    """ccusage 19 then says so on stderr, prints nothing, and leaves with code 0."""
    old = tmp_path / "ccusage19"
    old.write_text("#!/bin/sh\necho 'ccusage needs Node.js >= 22' >&2\n")
    old.chmod(0o755)
    found = check(machine, CCUSAGE_COMMAND=str(old), code=1, **NO_SERVER)
    assert "needs Node.js >= 22" in found["version"]["detail"]
    assert "install the Node.js version" in found["version"]["remedy"]


def test_a_ccusage_that_hangs_is_asked_once_and_named(machine: Machine) -> None:
    stub = machine.stub()
    (stub.folder / "ccusage").write_text(
        (stub.folder / "ccusage").read_text().replace("if [ -e slow ]", 'if [ "$feed" = blocks ]')
    )
    stub.slow(30)
    found = check(machine, CCUSAGE_TIMEOUT="1", code=1, **NO_SERVER)
    assert failures(found) == ["connection", "blocks"]
    assert "no answer within 1 s" in found["blocks"]["detail"]
    assert stub.called().count("blocks") == 1


def test_no_password_and_no_project_is_printed(tmp_path: Path, theirs: Database) -> None:
    machine = Machine(tmp_path, database=theirs)
    machine.env["PROJECT_HASH_KEY"] = "the-key"
    use(machine, noon())
    stub = machine.stub()
    projects = machine.report("projects")
    projects["projects"]["-home-dev-secret-plan"][0]["totalCost"] = "x"
    stub.say(projects=projects)
    for args in ((), ("--format", "json"), ("--verbose",)):
        done = machine.main("--check", *args)
        assert done.code == 1
        for secret in (PASSWORD, "the-key", "secret-plan"):
            assert secret not in done.out + done.err
        assert "with PROJECT_HASH_KEY" in done.out


def test_another_zone_key_or_installation_is_found_before_the_import_finds_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.stores()
    found = check(machine, CCUSAGE_TIMEZONE="Asia/Tokyo", code=1)
    assert failures(found) == ["identity"]
    assert "stored in UTC" in found["identity"]["detail"] + found["identity"]["remedy"]
    assert failures(check(machine, PROJECT_HASH_KEY="x", code=1)) == ["identity"]
    elsewhere = {"CCUSAGE_STATE_DIR": str(machine.home / "other")}
    assert check(machine, **elsewhere, code=0)["machine name"]["status"] == "ok"  # it says its name
    monkeypatch.setattr(socket, "gethostname", lambda: "m1")
    found = check(machine, MACHINE_NAME="", **elsewhere, code=1)
    assert failures(found) == ["name in use"]
    assert "another installation imported under this name" in found["name in use"]["detail"]
    assert "MACHINE_NAME" in machine.imports(MACHINE_NAME="", **elsewhere, code=2).err
    (machine.state / "machine.json").write_text("{")
    assert failures(check(machine, code=1)) == ["identity"]


def test_the_check_says_what_the_next_import_does_with_names(machine: Machine) -> None:
    def said(*args: str) -> str:
        return str(check(machine, *args, code=0)["privacy"]["detail"])

    shown, hashed = "names are stored as they are", "names are hashed, without PROJECT_HASH_KEY"
    assert [said(), said("--no-hash-projects")] == [hashed, shown]
    machine.stores("--no-hash-projects")
    assert [said(), said("--hash-projects")] == [shown, hashed]
    path = machine.state / "machine.json"
    identity = json.loads(path.read_text())
    del identity["hashed"]  # as version 1.0 left it
    path.write_text(json.dumps(identity))
    assert said() == shown
    machine.stores("--hash-projects")
    path.write_text(json.dumps(identity))
    assert said() == hashed


def test_a_directory_that_may_not_be_written_fails_the_check(alone: Machine) -> None:
    alone.env |= {"CCUSAGE_STATE_DIR": "/proc/state", "CH_EMBEDDED_PATH": "/proc/db/clickhouse"}
    found = check(alone, code=1)
    assert {"state", "path"} <= set(failures(found))


def test_the_engine_waits_for_an_import_and_names_it(alone: Machine) -> None:
    alone.stores()
    with (alone.path.parent / "clickhouse.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = check(alone, "--lock-timeout", "0.2", code=1)
    assert failures(found) == ["connection"]
    assert f"another import (PID {os.getpid()})" in found["connection"]["detail"]


# --- what an import does to the schema ---------------------------------------------------------

OLD = (  # what an older version might have left
    "ALTER TABLE {db}.ccusage_usage_daily DROP COLUMN models_count",
    "ALTER TABLE {db}.ccusage_import_history DROP COLUMN held_reasons",
    "DROP VIEW {db}.ccusage_v_active_blocks",
    "DROP VIEW {db}.ccusage_v_daily_summary",
    "CREATE VIEW {db}.ccusage_v_daily_summary AS SELECT 1 AS date",
)
CHANGES = (
    "add to the table ccusage_usage_daily: models_count",
    "add to the table ccusage_import_history: held_reasons",
    "replace the view ccusage_v_daily_summary, which lacks machine_name, agent, ",
    "create the view ccusage_v_active_blocks",
)


def columns(database: Database) -> set[tuple[Any, ...]]:
    return set(
        database.server.query(
            "SELECT table, name, type, default_kind, default_expression, comment "
            "FROM system.columns WHERE database = {name:String}",
            name=database.name,
        )
    )


def test_an_import_brings_the_schema_to_this_version_and_says_each_step(
    machine: Machine, database: Database
) -> None:
    machine.stores()
    wanted, rows = columns(database), machine.tables()
    assert {(i.name, c) for i in read_schema() for c in i.columns} == {
        row[:2] for row in wanted if row[3] != "MATERIALIZED" or row[1] in ("year", "month_num")
    }
    for statement in OLD:
        database.server.query(statement.format(db=database.name))
    database.server.query(f"ALTER TABLE {database.name}.ccusage_usage_daily ADD COLUMN newer UInt8")
    done = machine.imports()
    said = [line.partition(": ")[2] for line in done.err.splitlines() if line.startswith("test_")]
    assert len(said) == len(CHANGES)
    assert all(line.startswith(change) for line, change in zip(said, CHANGES, strict=True))
    newer = ("ccusage_usage_daily", "newer")
    assert {row for row in columns(database) if row[:2] != newer} == wanted
    found = machine.tables()
    assert found["ccusage_usage_daily"].keys() == rows["ccusage_usage_daily"].keys()
    assert "test_" not in machine.imports().err


def test_a_user_who_may_not_change_the_schema_gets_the_statements_to_run(
    tmp_path: Path, theirs: Database
) -> None:
    machine = Machine(tmp_path, database=theirs)
    use(machine, noon())
    machine.stores()
    for statement in OLD:
        theirs.server.query(statement.format(db=theirs.name))
    user = {"CH_USER": "writer", "CH_PASSWORD": "pw"}
    assert failures(check(machine, code=1, **user)) == ["writing"]
    done = machine.main("--dry-run", **user)
    assert done.code == 1
    assert "remedy: run an import once: it adds the columns that are missing" in done.err
    done = machine.main(**user)
    assert done.code == 1
    problem, statements = done.err.split(
        "\n  remedy: have these statements run by somebody who may"
    )
    assert "Not enough privileges" in problem.splitlines()[-1]
    use_it, *statements = statements.splitlines()[1:]
    assert use_it == "    USE `guarded`;"
    verbs = [line.split()[0] for line in statements]
    assert verbs == ["ALTER", "ALTER", "CREATE", "CREATE"]
    for line in statements:
        text = line.strip().removesuffix(";")
        for item in read_schema():
            text = text.replace(f" {item.name} ", f" guarded.{item.name} ")
        theirs.server.query(text)
    machine.stores(**user)


def test_each_right_that_the_schema_needs_is_named(tmp_path: Path, theirs: Database) -> None:
    machine = Machine(tmp_path, database=theirs)
    use(machine, noon())
    machine.stores()
    for statement in OLD:
        theirs.server.query(statement.format(db=theirs.name))
    steps = footprint(theirs.query, theirs.name)
    done = machine.main("--check", "--format", "json", CH_USER="keeper", CH_PASSWORD="pw")
    said = [one["detail"] for one in json.loads(done.out) if one["name"] == "writing"]
    assert len(said) == 2, said
    assert "the grant ALTER ADD COLUMN" in said[0]
    assert re.search("the grant .*DROP VIEW", said[1])
    assert footprint(theirs.query, theirs.name) == steps


def test_a_database_that_is_not_there_is_named(machine: Machine, database: Database) -> None:
    machine.stores()
    for args in (("--stats",), ("--query", "all-time-totals")):
        done = machine.main(*args, CH_DATABASE="typo")
        assert (done.code, done.out) == (1, "")
        assert f"{database.server.url}: there is no database 'typo'\n  remedy: check" in done.err
    assert machine.main("--dry-run", CH_DATABASE="typo").code == 0


@pytest.mark.parametrize("code", [241, 202, 252, 225, 242, 285, 286, 289, 319, 341, 999, 4242])
def test_an_error_of_clickhouse_says_what_to_do_about_it(code: int, tmp_path: Path) -> None:
    settings = Settings.from_env({"HOME": str(tmp_path), "CH_HOST": "db"})
    error = DatabaseError(f"Code: {code}. DB::Exception: no luck", code=code)
    with pytest.raises(StoreError) as raised, store_errors(settings):
        raise error
    remedy = str(raised.value).partition("remedy: ")[2]
    assert len(remedy) > 20
    assert "CH_HOST" not in remedy


# --- schedule and data -------------------------------------------------------------------------


def test_stale_data_is_a_warning_that_counts_the_days(machine: Machine) -> None:
    use(machine, noon() - timedelta(days=5))
    shutil.rmtree(machine.claude / "projects")
    use(machine, noon() - timedelta(days=3))
    machine.stores()
    use(machine, noon())
    found = check(machine, code=0)
    assert found["newest day"]["status"] == "warning"
    assert found["newest day"]["detail"].startswith("stale by 3 days, claude: stored 20")
    assert "run ccusage_importer.py" in found["newest day"]["remedy"]
    with at(datetime.now(UTC) + timedelta(days=4)):
        found = check(machine, code=0)
    assert found["last import"]["detail"].startswith("4 days ago")
    assert "ccusage_import.log" in found["last import"]["remedy"]


def test_the_line_that_keeps_claude_code_from_deleting_is_named(machine: Machine) -> None:
    settings = machine.claude / "settings.json"
    settings.write_text('{"cleanupPeriodDays": 20}')
    assert check(machine, code=0)["deletion"]["detail"] == (
        'Claude Code deletes transcripts after 20 days; "cleanupPeriodDays": 3650 in '
        f"{settings} keeps them for ten years"
    )
    settings.write_text('{"cleanupPeriodDays": 3650}')
    assert "deletion" not in check(machine, code=0)


def test_transcripts_that_ccusage_leaves_out_are_counted(machine: Machine) -> None:
    elsewhere, projects = machine.home / "elsewhere", machine.claude / "projects"
    shutil.copytree(projects, elsewhere)
    assert "left out" not in check(machine, code=0)
    (projects / "-linked").symlink_to(elsewhere / "-home-dev-secret-plan")
    for number in (1, 2):
        (projects / f"-home-dev-secret-plan/{number}.jsonl").symlink_to(next(elsewhere.rglob("*l")))
    found = check(machine, code=0)
    assert found["left out"]["status"] == "warning"
    assert "does not read 1 project folder and 2 transcripts: " in found["left out"]["detail"]
    assert "secret" not in str(found["left out"])


def test_the_last_three_imports_are_listed_with_their_codes(machine: Machine) -> None:
    stub = machine.stub()
    for failing in ((), ("blocks", "daily"), (), ()):
        stub.fail(*failing)
        machine.stores(code=3 if failing else 0)
    found = check(machine, code=0)["last import"]
    assert re.fullmatch(
        r"0\.0 hours ago; UTC 20\S+ \S+ code 0; 20\S+ \S+ code 0; "
        r"20\S+ \S+ code 3 \(without blocks, daily\)",
        found["detail"],
    )
    assert found["status"] == "ok"
    stub.fail("blocks")
    machine.stores(code=3)
    stub.fail()
    found = check(machine, code=0)["last import"]
    assert found["status"] == "warning"
    assert "ccusage_import.log" in found["remedy"]


def test_an_exceeded_budget_and_sessions_of_two_machines_are_warnings(
    tmp_path: Path, database: Database
) -> None:
    machine, twin = (Machine(tmp_path, name, database=database) for name in ("m1", "m2"))
    write_session(machine.claude, "-p", "s", [Message(datetime.now(UTC) - timedelta(seconds=1))])
    machine.stores()
    found = check(machine, code=0, BUDGET_MONTH="9999", BUDGET_DAY="9999")
    assert found["budget"]["status"] == "ok"
    assert "twin machines" not in found
    twin.env["CLAUDE_CONFIG_DIR"] = machine.env["CLAUDE_CONFIG_DIR"]
    twin.stores()
    found = check(machine, code=0, BUDGET_DAY="0.0000001")
    assert found["budget"]["status"] == found["twin machines"]["status"] == "warning"
    assert found["budget"]["detail"].startswith("today: ")
    assert found["twin machines"]["detail"] == "m1, m2: 1 session of claude in common count twice"


@pytest.mark.parametrize(
    ("text", "status", "detail"),
    [
        ("", "warning", "no entry"),
        (
            "1 * * * * PATH=/bin '/no where/python' /a.py # ccusage-import\n",
            "warning",
            "1 * * * *, but /no where/python does not exist any more",
        ),
        (
            "@daily /bin/sh /gone/to\\%/importer.py --quiet # ccusage-import\n",
            "warning",
            "@daily, but /gone/to%/importer.py does not exist any more",
        ),
        ("# 1 * * * * import # ccusage-import\n", "warning", "no entry"),
        ("*/5 1 * * * A=/gone /bin/sh -c /gone # ccusage-import\n", "ok", "*/5 1 * * *"),
        ("@hourly /bin/sh # ccusage-import\r\n", "ok", "@hourly"),  # lines as Windows ends them
        ("1 * * * * a # ccusage-import\n2 * * * * b # ccusage-import\n", "warning", "1 * * * *; 2"),
    ],
)
def test_the_crontab_entry_is_found(
    machine: Machine, crontab: Crontab, text: str, status: str, detail: str
) -> None:
    crontab.file.write_text(text)
    found = check(machine, "--agents", "claude", **NO_SERVER)
    assert found["cron"]["status"] == status
    assert found["cron"]["detail"].startswith(detail)


def test_an_env_file_is_for_its_owner_alone(tmp_path: Path, machine: Machine) -> None:
    place = tmp_path / "project"
    place.mkdir()
    for name in (PROGRAM, PROGRAM.with_name("ccusage_clickhouse_schema.sql")):
        shutil.copy(name, place)
    dotenv = place / ".env"

    def found() -> Any:
        argv = [sys.executable, str(place / PROGRAM.name), "--check", "--format", "json"]
        env = machine.env | NO_SERVER
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        return next((one for one in json.loads(done.stdout) if one["name"] == ".env"), None)

    assert found() is None
    dotenv.touch(mode=0o600)
    assert found() is None
    dotenv.chmod(0o640)
    assert found()["remedy"] == f"chmod 600 {dotenv}"


# --- what it prints ----------------------------------------------------------------------------


def test_the_findings_are_plain_lines_by_section(machine: Machine) -> None:
    done = machine.main("--check", "--agents", "claude")
    assert [part.split("\n")[0] for part in done.out.strip().split("\n\n")] == list(SECTIONS)
    assert re.search(r"^daily +ok +1 record, 110 tokens, ", done.out, re.MULTILINE)
    assert re.search(r"^last import +warning +none yet\n +\S run ", done.out, re.MULTILINE)
    assert "\033" not in done.out


def test_a_quiet_check_prints_failures_alone(machine: Machine) -> None:
    assert machine.main("--check", "--quiet") == (0, "", "")
    done: Done = machine.main("--check", "--quiet", CCUSAGE_COMMAND="/nowhere/ccusage")
    assert done.code == 1
    assert done.out.startswith("ccusage\nversion  FAILED  ")
    assert " ok " not in done.out


def test_colour_is_for_a_terminal_that_wants_it(machine: Machine) -> None:
    def shown(**env: str) -> str:
        argv = ["script", "-qec", f"{sys.executable} {PROGRAM} --check", "/dev/null"]
        return subprocess.run(
            argv, env=machine.env | NO_SERVER | env, capture_output=True, text=True, check=False
        ).stdout

    if not shutil.which("script"):
        pytest.skip("script(1) is not here to make a terminal")
    assert "\033[32mok" in shown()
    assert "\033[32mok" not in shown(NO_COLOR="1")


def test_the_other_agents_are_checked_too(machine: Machine) -> None:
    transcripts.write_codex(Path(machine.env["CODEX_HOME"]), "c0de", [Message(at=noon())])
    machine.stores()
    transcripts.write_codex(
        Path(machine.env["CODEX_HOME"]), "c0df", [Message(at=noon() + timedelta(days=1))]
    )
    done = machine.main("--check")
    (line,) = (line for line in done.out.splitlines() if line.startswith("codex daily"))
    told = machine.report("codex daily")["totals"]
    cost = f"{told['costUSD']:,.2f}"
    assert f"2 records, {told['totalTokens']:,} tokens, ${cost}" in line
    assert "stale by 1 day, codex: stored 20" in done.out
    assert f"claude: stored {date.fromisoformat(f'{noon():%Y-%m-%d}')}" in done.out
