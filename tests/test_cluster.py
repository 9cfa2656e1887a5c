"""On replicated tables, on a cluster and in ClickHouse Cloud.

An engine with Keeper inside makes real replicated tables, which stay read-only. What no engine
in a process can be (a second replica, a cluster, the Cloud), the test server pretends: it rewrites
what the program asks, and the engine answers that.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from clickhouse_server import ClickHouseServer
from tables import KEYS, NO_OTHERS, VIEWS, Database, Machine, footprint

from ccusage_importer import (
    ClickHouseImporter,
    ConfigError,
    Engine,
    Identity,
    Settings,
    connect,
    for_replicas,
    read_schema,
    schema_changes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HISTORY = "ccusage_import_history"
TABLES = {*KEYS, HISTORY}
# What a client asks, and what the engine answers in its place.
NO_CLUSTER = {r" ON CLUSTER `[\w.-]+`": ""}
REPLICATED = {
    r"engine, (toString\(uuid\), column_names FROM system\.tables)": (
        r"concat('Replicated', engine), \1"
    )
}
IN_REPLICATED_DATABASE = {
    r"engine, (toString\(uuid\), \[\] FROM system\.databases)": r"'Replicated', \1"
}
CLOUD = {
    r"FROM system\.settings": "FROM (SELECT * REPLACE "
    "(if(name = 'cloud_mode', '1', value) AS value) FROM system.settings)"
}
BALANCER = {r"hostName\(\)": "concat('server-', toString(toUnixTimestamp64Nano(now64(9)) % 1000))"}


def replicas(known: int, active: int, behind: int) -> dict[str, str]:
    row = f"{known} AS total_replicas, {active} AS active_replicas, {behind} AS absolute_delay"
    return {
        r"FROM system\.replicas": "FROM (SELECT currentDatabase() AS database, "
        f"'ccusage_usage_daily' AS table, 0 AS is_readonly, 0 AS is_session_expired, {row})"
    }


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """A server whose replicated tables are there, and read-only."""
    with ClickHouseServer(tmp_path_factory.mktemp("keeper"), keeper=True) as server:
        yield server


@pytest.fixture
def replica(read_only: ClickHouseServer) -> Iterator[Database]:
    read_only.control(reset=True, disarm=True, pretend={})
    yield Database(read_only, "usage")
    read_only.query("DROP DATABASE IF EXISTS usage SYNC")


@pytest.fixture(scope="module")
def feeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ccusage says of two days of usage."""
    machine = Machine(tmp_path_factory.mktemp("feeds"))
    machine.populate(days=2)
    return machine.feeds()


@pytest.fixture
def machine(tmp_path: Path, database: Database, feeds: dict[str, Any]) -> Machine:
    return hearing(Machine(tmp_path, database=database), feeds)


@pytest.fixture
def on_replica(tmp_path: Path, replica: Database, feeds: dict[str, Any]) -> Machine:
    return hearing(Machine(tmp_path, database=replica), feeds)


def hearing(machine: Machine, feeds: dict[str, Any]) -> Machine:
    """A machine to which ccusage always says the same."""
    machine.stub().say(agents=NO_OTHERS, **feeds)
    return machine


def check(machine: Machine, **env: str) -> dict[str, Any]:
    done = machine.main("--check", "--format", "json", **env)
    return {one["name"]: one for one in json.loads(done.out)}


def recorded(machine: Machine) -> Identity:
    identity = Identity.load(machine.state)
    assert identity
    return identity


def forget_newest_run(database: Database) -> None:
    """The history as a replica has it that has not seen the newest run."""
    newest = f"SELECT max(updated_at) FROM {HISTORY}"
    ((updated_at,),) = database.query(newest)
    database.server.query(
        f"DELETE FROM {database.name}.{HISTORY} WHERE updated_at = {{at:DateTime64(3, 'UTC')}}",
        at=updated_at,
    )


# --- statements for replicas ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a b", "a'b", "{cluster}", "a/b", "`", "größe", "a\\", "a;"])
def test_a_cluster_whose_name_could_not_stand_in_a_statement_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^CH_CLUSTER: expected a name"):
        Settings.from_env({"CH_HOST": "h", "CH_CLUSTER": name})


def test_a_wrong_cluster_ends_with_2(machine: Machine) -> None:
    assert "CH_CLUSTER" in machine.imports(code=2, CH_CLUSTER="both; DROP TABLE t").err


def test_the_embedded_database_is_of_no_cluster() -> None:
    assert Settings.from_env({"CH_CLUSTER": "both"}).cluster == ""


@pytest.mark.parametrize("cluster", ["both", "eu-1.prod_2"])
def test_clickhouse_understands_all_statements_for_a_cluster(
    clickhouse: ClickHouseServer, cluster: str
) -> None:
    items = read_schema()
    without_one = {item.name: Engine(columns=list(item.columns)[1:]) for item in items}
    statements = [*schema_changes({}).values(), *schema_changes(without_one).values()]
    assert len(statements) == 2 * len(items)
    statements += ["CREATE DATABASE IF NOT EXISTS usage", "CREATE DATABASE IF NOT EXISTS `a \\`b`"]
    spread = [for_replicas(statement, cluster) for statement in statements]
    sql = "SELECT arrayMap(sql -> formatQuerySingleLine(sql), {all:Array(String)})"
    ((found,),) = clickhouse.query(sql, all=[*statements, *spread])
    place = f"'/clickhouse/tables/{cluster}/{{database}}/{{table}}', '{{shard}}-{{replica}}'"
    for plain, formatted in zip(found[: len(spread)], found[len(spread) :], strict=True):
        rest, named = re.subn(rf" ON CLUSTER `?{re.escape(cluster)}`?", "", formatted)
        assert named == 1
        rest, placed = re.subn(rf"Replicated(\w+)\({re.escape(place)}(?:, )?", r"\1(", rest)
        assert placed == plain.count("ENGINE = ")
        assert rest.replace("Tree()", "Tree") == plain


def test_an_import_on_a_cluster_creates_replicated_tables_in_a_place_of_their_own(
    on_replica: Machine, replica: Database
) -> None:
    replica.server.pretend(NO_CLUSTER)
    began = time.monotonic()
    said = on_replica.imports(code=1, CH_CLUSTER="both").err
    assert time.monotonic() - began < 10
    assert "(TABLE_IS_READ_ONLY)" in said
    assert "remedy: the replica is read-only: look at ClickHouse Keeper" in said
    sql = "SELECT table, zookeeper_path, replica_name FROM system.replicas WHERE database = 'usage'"
    places = {f"/clickhouse/tables/both/usage/{table}" for table in TABLES}
    rows = replica.server.query(sql)
    assert {(path, name) for _, path, name in rows} == {(path, "1-a") for path in places}
    sent = [one for one in replica.server.statements() if re.match("CREATE|ALTER", one.query)]
    assert len(sent) == 1 + len(TABLES) + len(VIEWS)  # the database, too
    for statement in sent:
        assert " ON CLUSTER `both`" in statement.query
        assert int(statement.settings["distributed_ddl_task_timeout"]) < 60
    replica.server.statements(reset=True)
    on_replica.stores(code=1, CH_CLUSTER="both")  # all is there
    assert not [s for s in replica.server.statements() if re.match("CREATE|ALTER", s.query)]


def test_a_replicated_database_gets_replicated_tables_by_itself(
    on_replica: Machine, replica: Database
) -> None:
    replica.server.query("CREATE DATABASE usage")
    replica.server.pretend(IN_REPLICATED_DATABASE)
    on_replica.stores(code=1, CH_CLUSTER="both")
    sql = "SELECT name, engine FROM system.tables WHERE database = 'usage' AND engine != 'View'"
    engines = dict(replica.server.query(sql))
    wanted = dict.fromkeys(KEYS, "ReplicatedReplacingMergeTree")
    assert engines == wanted | {HISTORY: "ReplicatedMergeTree"}
    assert not [one for one in replica.server.statements() if "ON CLUSTER" in one.query]


def test_without_the_right_to_create_the_statements_for_the_cluster_are_shown(
    on_replica: Machine, replica: Database
) -> None:
    replica.server.query("CREATE DATABASE usage")
    replica.server.arm("code:497", match="^CREATE")
    said = on_replica.imports(code=1, CH_CLUSTER="both").err
    assert "CLUSTER ON *.*" in said
    assert said.count(" ON CLUSTER `both`") == len(TABLES) + len(VIEWS)


# --- a replica that lags behind ------------------------------------------------------------------


def test_a_replica_that_has_not_seen_the_newest_run_is_refused_before_anything_is_written(
    machine: Machine, database: Database
) -> None:
    machine.stores()
    machine.stores()
    forget_newest_run(database)
    database.server.pretend(REPLICATED)
    steps, identity = footprint(database.query, database.name), recorded(machine)
    assert identity.newest_run
    for args in ((), ("--dry-run",)):
        said = machine.imports(*args, code=1).err
        assert f"this replica has not yet seen the import of {identity.newest_run}" in said
        assert "try again" in said
    assert footprint(database.query, database.name) == steps
    assert recorded(machine) == identity
    assert check(machine)["newest import"]["status"] == "FAILED"
    columns = "machine_name, installation_id, timezone, updated_at"
    database.query(
        f"INSERT INTO {HISTORY} ({columns}) VALUES ('m1', {{id:String}}, 'UTC', {{at:String}})",
        id=identity.installation_id,
        at=identity.newest_run,
    )  # it has caught up
    machine.stores()


def test_a_restored_backup_is_a_warning_once(machine: Machine, database: Database) -> None:
    machine.stores()
    machine.stores()
    forget_newest_run(database)
    newest = recorded(machine).newest_run
    assert check(machine)["newest import"]["status"] == "warning"
    said = machine.imports("--quiet").err
    assert f"WARNING: the import of {newest} UTC is not in the import history any more" in said
    assert "WARNING" not in machine.imports("--quiet").err


def test_another_database_is_no_hindrance(machine: Machine, database: Database) -> None:
    machine.stores()
    first = recorded(machine)
    database.server.query(f"DROP DATABASE {database.name} SYNC")
    database.server.pretend(REPLICATED)
    said = machine.imports("--quiet").err
    assert [line for line in said.splitlines() if "has imported before" not in line] == []
    second = recorded(machine)
    assert second.history_uuid != first.history_uuid
    assert second.newest_run > first.newest_run
    assert second[:5] == first[:5]


def test_a_machine_json_without_the_newest_run_is_completed(
    machine: Machine, database: Database
) -> None:
    machine.stores()
    path = machine.state / "machine.json"
    content = json.loads(path.read_text())
    for name in ("history_uuid", "newest_run"):
        del content[name]
    path.write_text(json.dumps(content))
    machine.stores()
    identity = recorded(machine)
    sql = f"SELECT toString(uuid) FROM system.tables WHERE name = '{HISTORY}' AND database = "
    assert database.server.query(f"{sql}'{database.name}'") == [(identity.history_uuid,)]
    assert identity.newest_run == f"{machine.history('updated_at')[-1][0]:%F %T.%f}"[:23]


def test_a_run_that_did_not_end_is_not_the_newest_one(machine: Machine, database: Database) -> None:
    machine.stores()
    identity = recorded(machine)
    database.server.arm("http500", match=f"^INSERT INTO `?{HISTORY}")
    assert machine.main("--quiet").code in (1, 3)
    assert recorded(machine) == identity
    database.server.pretend(REPLICATED)
    machine.stores()


# --- settings of the statements ------------------------------------------------------------------


def test_in_the_cloud_all_is_read_consistently(machine: Machine, database: Database) -> None:
    database.server.pretend(CLOUD)
    machine.stores()
    machine.stores("--stats")
    name = "select_sequential_consistency"
    statements = [s for s in database.server.statements() if "system.settings" not in s.query]
    reads = [s for s in statements if "FROM ccusage_" in s.query]
    assert len(reads) > 5
    assert all(statement.settings.get(name) == "1" for statement in reads)
    database.server.pretend({})
    database.server.statements(reset=True)
    machine.stores()
    assert not [s for s in database.server.statements() if name in s.settings]


def test_a_setting_that_the_server_does_not_let_the_user_choose_is_left_alone(
    machine: Machine, database: Database
) -> None:
    rest = (
        "if(name IN ('select_sequential_consistency', 'distributed_ddl_task_timeout'), 1, readonly)"
    )
    ((pattern, replacement),) = CLOUD.items()
    pretence = replacement.replace("value) FROM", f"value, {rest} AS readonly) FROM")
    database.server.pretend({pattern: pretence})
    machine.stores()
    sent = {name for s in database.server.statements() for name in s.settings}
    assert sent.isdisjoint(("select_sequential_consistency", "distributed_ddl_task_timeout"))
    assert "insert_keeper_max_retries" in sent


def test_a_delete_does_not_wait_for_a_replica_that_is_down(
    machine: Machine, database: Database
) -> None:
    machine.stores()
    machine.stores("--no-hash-projects")
    deletes = [s for s in database.server.statements() if s.query.startswith("DELETE")]
    assert deletes
    assert all(s.query.endswith("SETTINGS lightweight_deletes_sync = 1") for s in deletes)


REMEDIES = {
    225: "look at ClickHouse Keeper",
    242: "the replica is read-only",
    285: "too few replicas answer",
    286: "too few replicas answer",
    289: "too few replicas answer",
    319: "import again, which inserts none twice",
    341: "former versions of them are not deleted yet",
    701: "set CH_CLUSTER to a cluster that the server knows",
    999: "look at ClickHouse Keeper",
}


def test_each_error_of_replicas_has_a_remedy_of_its_own(
    machine: Machine, database: Database
) -> None:
    machine.stores()
    for code, remedy in REMEDIES.items():
        database.server.arm(f"code:{code}", match="^INSERT")
        said = machine.imports("--quiet", code=1).err
        assert f"Code: {code}." in said
        assert f"remedy: {remedy}" in said or remedy in said.partition("remedy: ")[2]


# --- the check -----------------------------------------------------------------------------------


def test_the_check_says_that_a_replica_is_read_only_in_ten_seconds(
    on_replica: Machine, replica: Database
) -> None:
    replica.server.pretend(NO_CLUSTER)
    on_replica.stores(code=1, CH_CLUSTER="both")
    replica.server.statements(reset=True)
    began = time.monotonic()
    found = check(on_replica, CH_CLUSTER="both")
    assert time.monotonic() - began < 10
    assert found["replicas"]["status"] == "FAILED"
    assert found["replicas"]["detail"] == f"read-only: {', '.join(sorted(TABLES))}"
    assert "Keeper" in found["replicas"]["remedy"]
    assert found["writing"]["status"] == "ok"  # as to rights
    assert not [s for s in replica.server.statements() if s.query.startswith("CREATE")]


def test_the_check_counts_replicas_and_tries_no_table_where_tables_are_shared(
    machine: Machine, database: Database
) -> None:
    machine.stores()
    for found, status in {
        (2, 2, 0): "ok",
        (1, 1, 300): "ok",
        (3, 2, 0): "warning",
        (2, 2, 301): "warning",
    }.items():
        database.server.pretend(REPLICATED | replicas(*found))
        told = check(machine)
        assert told["replicas"]["status"] == status
        detail = "{} known, {} active, this one {} s behind".format(*found)
        assert told["replicas"]["detail"] == detail
        assert told["writing"]["status"] == "ok"
    assert not [s for s in database.server.statements() if " ccusage_check_" in s.query]


def test_servers_behind_one_name_that_share_no_tables_are_found(
    machine: Machine, database: Database
) -> None:
    machine.stores()
    assert "replicas" not in check(machine)
    database.server.pretend(BALANCER)
    found = check(machine)["replicas"]
    assert found["status"] == "FAILED"
    assert found["detail"].startswith("each statement reaches another server: server-")
    assert found["remedy"] == "name one in CH_HOST, or use CH_CLUSTER"
    assert "AS REPLICATED" in check(machine, CH_CLUSTER="both")["replicas"]["remedy"]
    database.server.pretend(BALANCER | REPLICATED | replicas(2, 2, 0))
    assert check(machine)["replicas"]["status"] == "ok"


def test_servers_behind_one_name_are_found_before_the_first_import(
    tmp_path: Path, new_database: Database, feeds: dict[str, Any]
) -> None:
    database = new_database
    machine = hearing(Machine(tmp_path, database=database), feeds)
    database.server.pretend(BALANCER)
    assert check(machine)["replicas"]["status"] == "FAILED"
    assert "replicas" not in check(machine, CH_CLUSTER="both")  # which an import creates them on
    database.server.pretend(BALANCER | CLOUD)
    assert "replicas" not in check(machine)


def test_tables_that_are_older_than_the_cluster_are_a_warning(
    machine: Machine, database: Database
) -> None:
    machine.stores()
    found = check(machine, CH_CLUSTER="both")
    assert found["replicas"]["status"] == "warning"
    assert "AS REPLICATED" in found["replicas"]["remedy"]
    assert [name for name, one in found.items() if one["status"] == "FAILED"] == []


def test_plain_tables_in_a_replicated_database_are_a_warning(
    machine: Machine, database: Database
) -> None:
    machine.stores()
    database.server.pretend(IN_REPLICATED_DATABASE)
    found = check(machine)
    assert found["replicas"]["status"] == "warning"
    assert found["replicas"]["detail"] == "the tables are on this server alone"
    database.server.pretend(IN_REPLICATED_DATABASE | BALANCER)
    assert check(machine)["replicas"]["status"] == "FAILED"
    assert not [s for s in database.server.statements() if " ccusage_check_" in s.query]


def test_who_may_not_see_the_replicas_is_told_the_grant(
    machine: Machine, database: Database
) -> None:
    machine.stores()
    database.server.pretend(REPLICATED)
    database.server.arm("code:497", match=r"FROM system\.replicas")
    found = check(machine)["replicas"]
    assert found["status"] == "warning"
    assert found["remedy"] == "GRANT SELECT ON system.replicas TO default"


def test_the_program_asks_the_real_server_what_its_tables_are(
    machine: Machine, database: Database
) -> None:
    machine.stores()
    settings = Settings.from_env(machine.env)
    client = connect(settings)
    importer = ClickHouseImporter(client, settings, "m1")
    importer.look()
    engines = importer.engines
    client.close()
    assert engines[""].name == "Atomic"
    assert {name for name, engine in engines.items() if engine.name == "View"} == set(VIEWS)
    assert engines[HISTORY].name == "MergeTree"
    assert not any(engine.shared for engine in engines.values())
    assert engines.keys() - VIEWS == {"", *TABLES}
