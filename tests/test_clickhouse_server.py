"""The test server behaves as ClickHouse does, as far as the tests rely on it."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, Error, OperationalError
from clickhouse_server import ClickHouseServer
from scenes import settle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.tools
USERS = ("default:secret", "reader:pw:readonly=1", "limited:pw:deny=ALTER DELETE,CREATE DATABASE")
COSTS = [None, 0.0, 0.1, 1e-8, -0.5, 1e300, 123456789.12345678, 1e15, -1e-300]
NASTY = [
    "",
    "\0",
    "a\0b\n\n;'\"\\",
    "😀" * 100,
    "é" * 10_000,
    "\r\n\t",
    "\\N",
    "NULL",
    "{x:String}",
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    with ClickHouseServer(tmp_path_factory.mktemp("server"), users=USERS) as server:
        yield server


@pytest.fixture
def server(running: ClickHouseServer) -> Iterator[ClickHouseServer]:
    """The one server, with an empty database `test`, an empty log and no faults."""
    running.query("DROP DATABASE IF EXISTS test")
    running.query("CREATE DATABASE test")
    running.control(reset=True, disarm=True)
    yield running
    running.control(reset=True, disarm=True, latency=0)


@pytest.fixture
def client(server: ClickHouseServer) -> Iterator[Any]:
    client = server.client(database="test")
    server.statements(reset=True)
    yield client
    client.close()


def create(client: Any, columns: str, extra: str = "") -> None:
    client.command(f"CREATE TABLE t ({columns}) ENGINE = MergeTree ORDER BY tuple() {extra}")


def curl(server: ClickHouseServer, *options: str, body: bytes | None = None) -> tuple[str, str]:
    """Status and body of curl's request; its configuration arrives on stdin."""
    config = "\n".join(["silent", "noproxy = *", 'write-out = "\\n%{http_code}"', *options])
    command = ["curl", "--config", "-"]
    if body is not None:
        body_file = server.path / "body"
        body_file.write_bytes(body)
        command += ["--data-binary", f"@{body_file}"]
    done = subprocess.run(command, input=config, capture_output=True, text=True, check=False)
    text, _, status = done.stdout.rpartition("\n")
    return status, text


def as_user(name: str = "default", password: str = "secret") -> str:
    return f'user = "{name}:{password}"'


def test_values_come_back_as_they_went_in(client: Any) -> None:
    create(
        client,
        "id UInt64, name String, low LowCardinality(String), at DateTime64(3, 'UTC'), day Date32,"
        " kind Enum8('daily' = 1, 'block' = 4), cost Nullable(Float64), tags Array(String)",
    )
    moments = [dt.datetime(1970, 1, 2), dt.datetime(2199, 12, 31, 23, 59, 59, 999000)]
    rows = [
        (
            i,
            text,
            text,
            moments[i % 2],
            moments[i % 2].date(),
            ("daily", "block")[i % 2],
            cost,
            [text],
        )
        for i, (text, cost) in enumerate(zip(NASTY, COSTS, strict=True))
    ]
    summary = client.insert("t", rows)
    assert summary.written_rows == len(NASTY)
    stored = client.query("SELECT * FROM t ORDER BY id").result_rows
    assert [tuple(row) for row in stored] == rows


@pytest.mark.parametrize("compression", ["lz4", "zstd", "gzip"])
def test_a_large_compressed_insert_arrives_whole_and_as_one_part(
    server: ClickHouseServer, compression: str
) -> None:
    with server.client(database="test", compress=compression) as client:
        create(client, "id UInt64, text String")
        rows = [(i, f"{i} " + "x\n\n;" * 30) for i in range(60_000)]
        client.insert("t", rows, column_names=["id", "text"])
        expected = sum(len(text) for _, text in rows)
        assert client.query(
            "SELECT count(), sum(length(text)), uniq(id) > 59000 FROM t"
        ).first_row == (
            60_000,
            expected,
            1,
        )
        assert client.query("SELECT text FROM t WHERE id = 59999").first_row == (rows[-1][1],)
        assert client.command("SELECT count() FROM system.parts WHERE active AND table = 't'") == 1
        assert server.statements()[-4].bytes_in < expected / 2


def test_raw_queries_and_commands_answer_as_a_server_does(client: Any) -> None:
    create(client, "a UInt8, b String")
    client.raw_insert("t", ["a", "b"], b'1,"x\n\n"\n2,y\n', fmt="CSV")
    assert client.raw_query("SELECT * FROM t ORDER BY a", fmt="JSONEachRow") == (
        b'{"a":1,"b":"x\\n\\n"}\n{"a":2,"b":"y"}\n'
    )
    assert client.raw_query("SELECT a FROM t ORDER BY a", fmt="CSVWithNames") == b'"a"\n1\n2\n'
    assert client.command("SELECT max(a) FROM t") == 2
    assert client.command("SELECT a FROM t WHERE a > 9") == ""
    assert client.query("SELECT a FROM t WHERE a > 9").result_rows == []
    assert client.query("SELECT a, b FROM t LIMIT 0").column_names == ("a", "b")
    assert client.query("DESCRIBE TABLE t").result_rows[0][:2] == ("a", "UInt8")
    assert client.command("INSERT INTO t VALUES (3, ';\n\nz')").written_rows == 1
    assert client.query("SELECT b FROM t WHERE a = 3").first_row == (";\n\nz",)


@pytest.mark.parametrize("text", NASTY)
def test_a_bound_parameter_is_the_value_itself(client: Any, text: str) -> None:
    assert client.query("SELECT {x:String}", parameters={"x": text}).first_row == (text,)
    asked = client.query("SELECT {x:Array(String)}", parameters={"x": [text, "'"]})
    assert asked.first_row == ([text, "'"],)


def test_a_long_list_of_keys_travels_in_a_form(server: ClickHouseServer) -> None:
    with server.client(form_encode_query_params=True) as client:
        keys = [f"{i:032x}" for i in range(3_500)]
        sql = "SELECT length({keys:Array(String)}), {keys:Array(String)}[-1]"
        assert client.query(sql, parameters={"keys": keys}).first_row == (3_500, keys[-1])


def test_a_form_field_over_128_kib_is_refused_as_by_a_real_server(client: Any) -> None:
    keys = [f"{i:032x}" for i in range(50_000)]
    settings = {"http_max_field_value_size": "10000000"}
    with pytest.raises(DatabaseError, match="Field value too long"):
        client.query(
            "SELECT length({keys:Array(String)})", parameters={"keys": keys}, settings=settings
        )


def test_settings_of_a_query_reach_the_engine_and_end_with_it(client: Any) -> None:
    sql = "SELECT value FROM system.settings WHERE name = 'max_threads'"
    assert client.query(sql, settings={"max_threads": 1}).first_row == ("1",)
    assert client.query(sql).first_row != ("1",)
    with pytest.raises(DatabaseError, match="TIMEOUT_EXCEEDED"):
        client.query("SELECT sleepEachRow(1) FROM numbers(3)", settings={"max_execution_time": 1})


def test_a_session_serves_one_request_at_a_time(server: ClickHouseServer) -> None:
    with server.client(session_id="s") as one, server.client(session_id="s") as other:
        slow = threading.Thread(target=one.query, args=("SELECT sleep(1)",))
        slow.start()
        time.sleep(0.4)
        with pytest.raises(DatabaseError, match="SESSION_IS_LOCKED"):
            other.query("SELECT 1")
        slow.join()
        assert other.query("SELECT 1").first_row == (1,)


def test_a_repeated_deduplication_token_inserts_nothing(client: Any) -> None:
    create(client, "a UInt8", "SETTINGS non_replicated_deduplication_window = 100")
    for token in ("one", "one", "two"):
        client.insert(
            "t", [[7]], column_names=["a"], settings={"insert_deduplication_token": token}
        )
    assert client.command("SELECT count() FROM t") == 2


def test_rows_can_be_deleted_in_both_ways(client: Any) -> None:
    create(client, "a UInt8")
    client.insert("t", [[1], [2], [3]], column_names=["a"])
    client.command("DELETE FROM t WHERE has({a:Array(UInt8)}, a)", parameters={"a": [1]})
    client.command("ALTER TABLE t DELETE WHERE a = 2", settings={"mutations_sync": 1})
    assert client.query("SELECT a FROM t").result_rows == [(3,)]


@pytest.mark.parametrize(
    ("sql", "expected", "name"),
    [
        ("SELECT * FROM nowhere", ("404", 60), "UNKNOWN_TABLE"),
        ("SELECT * FROM nowhere.t", ("404", 81), "UNKNOWN_DATABASE"),
        ("SELECT nothing", ("404", 47), "UNKNOWN_IDENTIFIER"),
        ("SELEC 1", ("400", 62), "SYNTAX_ERROR"),
        ("1 + 1", ("400", 62), "SYNTAX_ERROR"),
        ("SELECT 1; SELECT 2", ("400", 62), "Multi-statements are not allowed"),
        ("SELECT 1 SETTINGS no_such = 1", ("404", 115), "UNKNOWN_SETTING"),
        ("SELECT throwIf(1)", ("500", 395), "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
        ("INSERT INTO nowhere FORMAT CSV\n1", ("404", 60), "UNKNOWN_TABLE"),
        ("SELECT '" + "x" * 300_000 + "'", ("400", 62), "Max query size exceeded"),
    ],
)
def test_errors_have_the_code_the_status_and_the_text(
    server: ClickHouseServer, client: Any, sql: str, expected: tuple[str, int], name: str
) -> None:
    status, code = expected
    with pytest.raises(DatabaseError, match=name) as caught:
        client.command(sql)
    assert caught.value.code == code
    got, body = curl(server, as_user(), f'url = "{server.url}"', body=sql.encode())
    assert (got, body.partition(" DB::")[0]) == (status, f"Code: {code}.")
    assert body.endswith("(official build))\n")
    assert body.count("DB::Exception") == 1


@pytest.mark.parametrize(
    ("table", "code"),
    [
        ("CREATE TABLE t (a UInt8, CONSTRAINT small CHECK a < 5) ENGINE = Memory", 469),
        (
            "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a PARTITION BY a "
            "SETTINGS max_parts_in_total = 1",
            252,
        ),
    ],
)
def test_an_insert_that_the_table_refuses_is_an_error(client: Any, table: str, code: int) -> None:
    client.command(table)
    client.insert("t", [[1]], column_names=["a"])
    with pytest.raises(DatabaseError) as caught:
        client.insert("t", [[9]], column_names=["a"])
    assert caught.value.code == code
    assert client.query("SELECT a FROM t").result_rows == [(1,)]


def test_data_that_cannot_be_read_are_an_error_without_a_path_of_this_server(
    server: ClickHouseServer, client: Any
) -> None:
    create(client, "a UInt8")
    with pytest.raises(DatabaseError, match="INCORRECT_DATA") as caught:
        client.raw_insert("t", ["a"], b"1\n2\nx\n", fmt="CSV")
    assert str(server.path) not in str(caught.value)


def test_an_insert_takes_settings_and_parameters_of_its_own(client: Any) -> None:
    create(client, "a UInt8")
    sql = "INSERT INTO {name:Identifier} (a) SETTINGS input_format_allow_errors_num = 1 FORMAT CSV"
    client.command(f"{sql}\n7\nx\n8\n", parameters={"name": "t"})
    assert client.query("SELECT a FROM t ORDER BY a").result_rows == [(7,), (8,)]


@pytest.mark.parametrize("user", ["default", "nobody", "reader"])
def test_a_wrong_password_is_403_and_516(server: ClickHouseServer, user: str) -> None:
    with pytest.raises(DatabaseError, match="Authentication failed") as caught:
        server.client(username=user, password="wrong")
    assert caught.value.code == 516
    url = f'url = "{server.url}/?query=SELECT%201"'
    for login in (
        [as_user(user, "wrong")],
        [f'header = "X-ClickHouse-User: {user}"', 'header = "X-ClickHouse-Key: wrong"'],
    ):
        status, body = curl(server, url, *login)
        assert status == "403"
        assert body.startswith(f"Code: 516. DB::Exception: {user}: Auth")
    assert not server.statements()


def test_a_readonly_user_reads_and_nothing_else(server: ClickHouseServer, client: Any) -> None:
    create(client, "a UInt8")
    with server.client(username="reader", password="pw", database="test") as reader:
        assert reader.query("SELECT count() FROM t").first_row == (0,)
        for sql in ("INSERT INTO t VALUES (1)", "DROP TABLE t", "CREATE DATABASE x"):
            with pytest.raises(DatabaseError, match=r"reader: Cannot execute .*\(READONLY\)"):
                reader.command(sql)
        with pytest.raises(DatabaseError, match="READONLY"):
            reader.insert("t", [[1]], column_names=["a"])
        with pytest.raises(Error, match="readonly"):
            reader.query("SELECT 1", settings={"max_threads": 1})
    url = f'url = "{server.url}/?query=SELECT%201&max_threads=1"'
    assert "Cannot modify 'max_threads' setting" in curl(server, url, as_user("reader", "pw"))[1]
    get = f'url = "{server.url}/?database=test&query=DROP%20TABLE%20t"'
    assert "READONLY" in curl(server, get, as_user())[1]


def test_a_user_is_denied_what_was_not_granted(server: ClickHouseServer, client: Any) -> None:
    create(client, "a UInt8")
    with server.client(username="limited", password="pw", database="test") as limited:
        limited.insert("t", [[1]], column_names=["a"])
        for sql, right in [
            ("CREATE DATABASE x", r"CREATE DATABASE ON x\.\*"),
            ("ALTER TABLE t DELETE WHERE 1", r"ALTER DELETE ON test\.t"),
            ("DELETE FROM t WHERE 1", r"ALTER DELETE ON test\.t"),
        ]:
            with pytest.raises(
                DatabaseError, match=f"limited: Not enough.*grant {right}"
            ) as caught:
                limited.command(sql)
            assert caught.value.code == 497


def test_curl_can_ask_and_insert(server: ClickHouseServer, client: Any) -> None:
    create(client, "a UInt8, b String")
    assert curl(server, f'url = "{server.url}/ping"') == ("200", "Ok.\n")
    assert curl(server, f'url = "{server.url}"') == ("200", "Ok.\n")
    assert curl(server, f'url = "{server.url}/nothing"')[0] == "404"
    insert = f'url = "{server.url}/?database=test&query=INSERT%20INTO%20t%20FORMAT%20TSV"'
    assert curl(server, as_user(), insert, body=b"1\tx\n2\t\\0\n") == ("200", "")
    select = (
        f'url = "{server.url}/?query=SELECT%20*%20FROM%20t%20WHERE%20a%3D%7Bp%3AUInt8%7D&param_p=1'
    )
    for more in ("&database=test", "&user=reader&password=pw&database=test"):
        login = [] if "user" in more else [as_user()]
        assert curl(server, *login, f'{select}{more}"') == ("200", "1\tx\n")
    in_form = [
        f'url = "{server.url}/?database=test"',
        'form-string = "query=SELECT b, {p:UInt8} FROM t"',
    ]
    asked = curl(server, as_user(), *in_form, 'form-string = "param_p=5"', "compressed")
    assert asked == ("200", "x\t5\n\\0\t5\n")
    head = curl(
        server, as_user(), f'{select}&query_id=me&default_format=JSON&database=test"', "include"
    )
    for header in ("X-ClickHouse-Query-Id: me", "X-ClickHouse-Format: JSON", '"read_rows": "2"'):
        assert header in head[1]


def test_tls_is_checked_against_the_given_certificate(tmp_path: Path) -> None:
    with ClickHouseServer(tmp_path / "server", tls=True, timezone="Asia/Tokyo") as server:
        assert server.query("SELECT timezone()") == [("Asia/Tokyo",)]
        assert server.env()["CH_PROTOCOL"] == "https"
        url = f'url = "{server.url}/ping"'
        assert curl(server, url, f'cacert = "{server.env()["CH_CA_CERT"]}"')[1] == "Ok.\n"
        assert curl(server, url) == ("000", "")
        with pytest.raises(OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
            server.client(ca_cert=None)


# --- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["close", "reset", "http500", "http503"])
def test_a_fault_strikes_before_or_after_the_statement(
    server: ClickHouseServer, client: Any, kind: str, when: str
) -> None:
    create(client, "a UInt8")
    server.statements(reset=True)
    server.arm(kind, when=when, match="^CREATE TABLE u")
    with pytest.raises(DatabaseError):
        client.command("CREATE TABLE u (a UInt8) ENGINE = Memory")
    assert server.query("EXISTS TABLE test.u") == [(int(when == "after"),)]
    [statement] = server.statements()
    assert (statement.fault, statement.executed) == (f"{kind} {when}", when == "after")
    client.command("DROP TABLE IF EXISTS u")


@pytest.mark.parametrize(("window", "rows"), [(0, 2), (100, 1)])
def test_a_client_repeats_an_insert_whose_connection_closed(
    server: ClickHouseServer, client: Any, window: int, rows: int
) -> None:
    create(client, "a UInt8", f"SETTINGS non_replicated_deduplication_window = {window}")
    server.arm("close", when="after", match="^INSERT")
    token = {"insert_deduplication_token": "once"}
    client.insert("t", [[1]], column_names=["a"], settings=token)
    assert client.command("SELECT count() FROM t") == rows
    inserts = [entry.fault for entry in server.statements() if entry.query.startswith("INSERT")]
    assert inserts == ["close after", None]


def test_the_nth_statement_fails_as_often_as_told(server: ClickHouseServer, client: Any) -> None:
    server.arm("http500", match="SELECT", nth=2, times=2)
    outcomes = []
    for _ in range(5):
        try:
            outcomes.append(client.command("SELECT 1"))
        except DatabaseError as error:
            outcomes.append(error.code)
    assert outcomes == [1, 241, 241, 1, 1]
    server.arm("reset", times=-1)
    for _ in range(3):
        with pytest.raises(OperationalError):
            client.command("SELECT 1")
    server.disarm()
    assert client.command("SELECT 1") == 1


def test_a_delay_and_the_latency_take_their_time(server: ClickHouseServer, client: Any) -> None:
    server.arm("delay:0.3", match="SELECT 2")
    server.latency(0.1)
    started = time.perf_counter()
    client.command("SELECT 1")
    assert 0.1 <= time.perf_counter() - started < 0.3
    client.command("SELECT 2")
    assert time.perf_counter() - started >= 0.5


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_delayed_statement_runs_until_its_delay_has_ended(
    server: ClickHouseServer, client: Any, when: str
) -> None:
    server.arm("delay:0.5", match="SELECT 3", when=when)
    slow = threading.Thread(target=client.command, args=("SELECT 3",))
    slow.start()
    while not any(statement.fault for statement in server.statements()):
        time.sleep(0.01)
    assert server.progress() == (1, 1)
    slow.join()
    settle(server)
    assert server.progress() == (1, 0)


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_server_dies_and_comes_back_with_its_data(tmp_path: Path, when: str) -> None:
    with ClickHouseServer(tmp_path / "server") as server:
        server.query("CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a")
        port = server.port
        server.arm("exit", when=when, match="^INSERT", times=-1)
        with server.client() as client, pytest.raises(Error):
            client.insert("t", [[1]], column_names=["a"])
        server.restart()
        assert server.port == port
        assert server.query("SELECT count() FROM t") == [(int(when == "after"),)]
        server.kill()
        server.start()
        assert server.query("SELECT count() FROM t") == [(int(when == "after"),)]


def test_the_log_tells_each_statement_and_what_became_of_it(
    server: ClickHouseServer, client: Any
) -> None:
    create(client, "a UInt8")
    client.insert("t", [[1], [2]], column_names=["a"], settings={"async_insert": 0})
    client.query("SELECT {x:String}", parameters={"x": "me"})
    with pytest.raises(DatabaseError):
        client.command("SELECT * FROM nowhere")
    server.query("SELECT 'behind the scenes'")
    made, _, insert, select, failed = server.statements(reset=True)
    assert made.query.startswith("CREATE TABLE t")
    assert made.executed
    assert insert.query == "INSERT INTO `t` (`a`) FORMAT Native"
    assert (insert.rows_written, insert.settings["async_insert"]) == (2, "0")
    assert (insert.user, insert.database, insert.error) == ("default", "test", None)
    assert select.params == {"x": "me"}
    assert (failed.executed, failed.error) == (False, 60)
    assert server.statements() == []


# --- many clients, one server ------------------------------------------------------------------


def test_many_clients_are_served_at_once(server: ClickHouseServer) -> None:
    left: dict[int, Any] = {}

    def work(machine: int) -> None:
        # Of many DELETEs at once in one table, chDB 26.9 now and then loses one.
        table = f"t{machine}"
        with server.client(database="test") as mine:
            mine.command(f"CREATE TABLE {table} (a UInt8) ENGINE = MergeTree ORDER BY a")
            for a in range(3):
                mine.insert(table, [[a]], column_names=["a"])
            mine.command(f"DELETE FROM {table} WHERE a < 2")
            mine.query("SELECT sleep(0.3)")
            left[machine] = mine.query(f"SELECT a FROM {table}").result_rows

    run_all([threading.Thread(target=work, args=(machine,)) for machine in range(16)])
    assert left == {machine: [(2,)] for machine in range(16)}


def run_all(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from clickhouse_server import ClickHouseServer\n"
        "server = ClickHouseServer(pathlib.Path(sys.argv[1])); server.start()\n"
        "print(server._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        env=environment,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and running_command(pid):
        time.sleep(0.05)
    assert not running_command(pid)


def running_command(pid: int) -> str:
    shown = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip().replace("Z", "")


def test_it_runs_from_a_shell_with_its_faults_as_options(tmp_path: Path) -> None:
    fault = json.dumps({"kind": "http503", "match": "SELECT 1"})
    script = Path(__file__).with_name("clickhouse_server.py")
    command = [sys.executable, str(script), f"--path={tmp_path}", f"--fault={fault}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}/?query=SELECT%201"
        replies = [
            subprocess.run(
                ["curl", "-s", "--noproxy", "*", url], capture_output=True, check=True
            ).stdout
            for _ in range(2)
        ]
        process.terminate()
        assert process.wait(timeout=10) == 0
    assert replies == [b"Service Unavailable\n", b"1\n"]


def test_a_code_can_be_armed_and_an_answer_pretended(server: ClickHouseServer, client: Any) -> None:
    server.arm("code:999", match="^SELECT 1")
    with pytest.raises(DatabaseError, match="Code: 999"):
        client.query("SELECT 1")
    server.pretend({"hostName": "upper"})
    assert client.query("SELECT hostName('a')").result_rows == [("A",)]
    with pytest.raises(DatabaseError):
        server.query("SELECT hostName('a')")  # who asks behind the scenes is told the truth
    server.pretend({})
    with pytest.raises(DatabaseError):
        client.query("SELECT hostName('a')")
