"""A ClickHouse server for tests: ClickHouse's HTTP interface in front of its engine, chDB.

No ClickHouse server can be installed where these tests run, but its engine can. This file puts
the HTTP interface in front of it as clickhouse-connect and curl know it, with users, TLS, faults
on demand and a log of the statements. SQL, types, settings, access rights, deduplication and
error codes are the engine's own; only HTTP and passwords are made here.

    with ClickHouseServer(tmp_path / "server") as server:
        server.arm("close", when="after", match="^INSERT", nth=2)
        subprocess.run([...], env=server.env())
        assert server.query("SELECT count() FROM t") == [(1,)]

Where it differs from a real server:

- A session is a lock (code 373 when two requests share one), not a place for temporary tables or
  SET. The engine knows one user, so currentUser() is always `default`; the others are its roles.
- With `keeper` it has ClickHouse Keeper inside, as far as chDB goes: it creates replicated tables,
  which stay read-only, and knows of no ON CLUSTER. What else a cluster or ClickHouse Cloud would
  answer can be had by pretend(), which rewrites statements before the engine runs them.
- client_protocol_version is ignored; clickhouse-connect notices, and reads plain Native blocks.
- No external tables, no `compress=1`, no streaming: a result is complete before it is sent.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import importlib
import json
import os
import re
import signal
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import uuid
import zlib
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from http.client import HTTPConnection, HTTPSConnection
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import lz4.frame  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

CONTROL = "/__control__"
OPERATOR = "X-Test-Operator"  # requests of the test itself: not counted, logged, slowed or failed
# Real limits of a default server. A longer form field is refused whatever the query's settings say.
MAX_FIELD_VALUE_SIZE = 128 * 1024
# ClickHouse's exceptionCodeToHTTPStatus; every other code is 500.
STATUS_CODES = {
    401: "194",
    403: "192 193 497 512 516",
    400: "6 8 15 25 26 27 36 37 38 41 44 53 62 72 117 123 167 168 223 321 376 427 441 675 676",
    404: "46 47 50 56 60 63 73 78 81 115 152 336 511",
    408: "159",
    411: "381",
    413: "229",
    415: "779",
    501: "48",
    503: "76 209 439",
}
# URL parameters that HTTP uses up; all others are settings.
RESERVED = re.compile(
    "query|database|user|password|quota_key|query_id|role|default_format|session_(id|timeout|check)"
    "|close_session|wait_end_of_query|client_protocol_version|buffer_size|(de)?compress|stacktrace"
    "|param_.*"
)
CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "Native": "application/octet-stream",
}
INSERT = re.compile(
    rb"\s*(?P<head>(?:--[^\n]*\n\s*|/\*.*?\*/\s*)*INSERT\s+INTO\b"
    rb"(?:(?!\b(?:VALUES|SELECT|WITH|INFILE)\b).)*?)"
    rb"(?P<tail>(?:\s+SETTINGS\s(?:(?!\bFORMAT\b).)*?)?\s+FORMAT\s+\w+)[ \t\f]*(?:\r?\n)?",
    re.IGNORECASE | re.DOTALL,
)
READS = re.compile(
    rb"\s*(?:--[^\n]*\n\s*|/\*.*?\*/\s*)*(?:\(|(?:SELECT|WITH|FROM|SHOW|DESC|DESCRIBE|EXISTS"
    rb"|EXPLAIN|CHECK|VALUES)\b)",
    re.IGNORECASE | re.DOTALL,
)
FORMAT = re.compile(rb"\bFORMAT\s+(\w+)\s*(?:SETTINGS\b.*)?;?\s*$", re.IGNORECASE | re.DOTALL)


class ServerError(Exception):
    """An exception as ClickHouse reports it: `Code: 60. DB::Exception: … (UNKNOWN_TABLE)`."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @classmethod
    def of(cls, code: int, name: str, text: str) -> ServerError:
        end = "" if text.endswith(".") else "."
        return cls(code, f"Code: {code}. DB::Exception: {text}{end} ({name})")

    @classmethod
    def from_engine(cls, error: RuntimeError, user: str) -> ServerError:
        """Undo chDB's wrapping, and name the user whose role the engine played."""
        text = re.sub(r"^.*?(?:Code: \d+\. DB::Exception: )*(?=Code: )", "", str(error), flags=re.S)
        text = re.sub(r": \(in file/uri [^)]*\)", "", text)  # where _insert() put the data
        text = text.split(" (version ")[0].replace("Exception: default: ", f"Exception: {user}: ")
        code = re.match(r"Code: (\d+)", text)
        return cls(int(code[1]) if code else 1001, text)

    @property
    def status(self) -> int:
        code = str(self.code)
        return next((http for http, codes in STATUS_CODES.items() if code in codes.split()), 500)


# --- users -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class User:
    """`name:password[:readonly=1][:grant=A,B][:deny=A,B]`; grants are on *.* unless they say."""

    name: str
    password: str = ""
    readonly: int = 0
    grant: tuple[str, ...] = ("ALL",)
    deny: tuple[str, ...] = ()

    @classmethod
    def parse(cls, spec: str) -> User:
        name, _, rest = spec.partition(":")
        password, *options = rest.split(":")
        values = dict(option.split("=", 1) for option in options)
        lists = {key: tuple(values[key].split(",")) for key in ("grant", "deny") if key in values}
        return cls(name, password, int(values.get("readonly", 0)), **lists)

    def role(self) -> str:
        """The user's rights as a role in the engine's users.xml."""
        queries = [
            f"{verb} {right}" if " ON " in right else f"{verb} {right} ON *.*"
            for verb, rights in (("GRANT", self.grant), ("REVOKE", self.deny))
            for right in rights
        ]
        grants = "".join(f"<query>{escape(query)}</query>" for query in queries)
        return f"<{self.name}><grants>{grants}</grants></{self.name}>"


# No test asks anything often enough to repay the engine for compiling it.
USERS_XML = """<clickhouse><profiles><default><compile_expressions>0</compile_expressions>
<compile_aggregate_expressions>0</compile_aggregate_expressions>
<compile_sort_description>0</compile_sort_description></default></profiles>
<quotas><default/></quotas>
<roles>{roles}</roles><users><default><password/><networks><ip>::/0</ip></networks>
<profile>default</profile><quota>default</quota><grants>{grants}</grants></default></users>
</clickhouse>"""
# chDB's two background threads would make a DELETE over many parts wait for seconds.
# As the program sets its own engine: no test waits for the background's sleep, which is random.
CONFIG_XML = """<clickhouse>
<background_pool_size>16</background_pool_size>
<background_processing_pool_thread_sleep_seconds_if_nothing_to_do>
0.01</background_processing_pool_thread_sleep_seconds_if_nothing_to_do>
<background_processing_pool_task_sleep_seconds_when_no_work_random_part>
0</background_processing_pool_task_sleep_seconds_when_no_work_random_part>
<users_config>{users}</users_config>{more}</clickhouse>"""
KEEPER_XML = """<zookeeper><implementation>testkeeper</implementation></zookeeper>
<default_replica_path>/clickhouse/tables/default/{database}/{table}</default_replica_path>
<macros><shard>1</shard><replica>a</replica></macros>"""
FORGOT_PASSWORD = """

If you use ClickHouse Cloud, the password can be reset at https://clickhouse.cloud/
on the settings page for the corresponding service.

If you have installed ClickHouse and forgot password you can reset it in the configuration file.
The password for default user is typically located at \
/etc/clickhouse-server/users.d/default-password.xml
and deleting this file will reset the password.
See also /etc/clickhouse-server/users.xml on the server where ClickHouse is installed.

"""


# --- engine ------------------------------------------------------------------------------------


@dataclass
class Statement:
    """One request to run SQL, and what became of it: an entry of the log."""

    query: str
    user: str
    database: str
    settings: dict[str, str]
    params: dict[str, str]
    method: str
    bytes_in: int
    rows_written: int = 0
    executed: bool = False
    error: int | None = None
    fault: str | None = None
    running: bool = True  # until its faults have struck, too: a delayed one may still write
    seconds: float = 0.0


@dataclass(frozen=True)
class Answer:
    body: bytes = b""
    format: str | None = None
    summary: Mapping[str, int] = field(default_factory=dict)


class Engine:
    """chDB, one connection per statement: settings, database and role end with the statement."""

    def __init__(self, path: Path, users: Sequence[User], *, keeper: bool = False) -> None:
        self._chdb: Any = importlib.import_module("chdb")  # by the server's own process alone
        config = path / "config"
        config.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._data = str(path / "data")
        everyone = [User("_server"), *users]
        roles = "".join(user.role() for user in everyone)
        grants = "".join(f"<query>GRANT {quote(user.name, '`')}</query>" for user in everyone)
        (config / "users.xml").write_text(USERS_XML.format(roles=roles, grants=grants))
        more = KEEPER_XML if keeper else ""
        config_xml = CONFIG_XML.format(users=config / "users.xml", more=more)
        (config / "config.xml").write_text(config_xml)
        # Held open for as long as the server lives: the last one to close stops the engine.
        self._keeper = self._chdb.connect(f"{self._data}?config-file={config / 'config.xml'}")
        row = self._keeper.query("SELECT version(), timezone()", "TSV").bytes().decode().split()
        self.version, self.timezone = row

    def close(self) -> None:
        self._keeper.close()

    def execute(self, user: User, statement: Statement, sql: bytes, default_format: str) -> Answer:
        connection = self._chdb.connect(self._data)
        try:
            # chDB reads "1 + 1" as a query; a server does not.
            connection.query("SET implicit_select = 0, allow_introspection_functions = 0")
            connection.query(f"USE {quote(statement.database, '`')}")
            connection.query(f"SET ROLE {quote(user.name, '`')}")
            if user.readonly:
                connection.query(f"SET readonly = {user.readonly}")
            elif statement.method == "GET":
                connection.query("SET readonly = 2")
            settings = [f"{quote(k, '`')} = {quote(v)}" for k, v in statement.settings.items()]
            if settings:
                connection.query(f"SET {', '.join(settings)}")
            return self._run(connection, sql, default_format, statement.params)
        except RuntimeError as error:
            raise ServerError.from_engine(error, user.name) from error
        finally:
            connection.close()

    def _run(
        self, connection: Any, sql: bytes, default_format: str, params: Mapping[str, str]
    ) -> Answer:
        if insert := INSERT.match(sql):
            return self._insert(connection, insert, sql[insert.end() :], params)
        if connection._conn.classify_query(sql)["statement_count"] > 1:
            text = "Syntax error (Multi-statements are not allowed)"
            raise ServerError.of(62, "SYNTAX_ERROR", text)
        result = connection.query(sql, default_format, params=dict(params))
        summary = {
            "read_rows": result.storage_rows_read(),
            "read_bytes": result.storage_bytes_read(),
            "written_rows": result.rows_written(),
            "written_bytes": result.bytes_written(),
            "result_rows": result.rows_read(),
            "result_bytes": result.bytes_read(),
        }
        named = FORMAT.search(sql)
        name = named[1].decode() if named else default_format
        return Answer(result.bytes() or b"", name if READS.match(sql) else None, summary)

    def _insert(
        self, connection: Any, insert: re.Match[bytes], data: bytes, params: Mapping[str, str]
    ) -> Answer:
        """Insert data from a file.

        chDB cuts data within a statement at an empty line, and its send_insert() reports success
        where the table refuses the data (a violated constraint, too many parts).
        """
        with tempfile.NamedTemporaryFile(dir=self._path) as file:
            file.write(data)
            file.flush()
            source = f" FROM INFILE {quote(file.name)} COMPRESSION 'none'".encode()
            sql = insert["head"] + source + insert["tail"]
            result = connection.query(sql, params=dict(params))
        written = {"written_rows": result.rows_written(), "written_bytes": result.bytes_written()}
        return Answer(summary=written)


def quote(text: str, mark: str = "'") -> str:
    return mark + text.replace("\\", "\\\\").replace(mark, "\\" + mark) + mark


# --- faults ------------------------------------------------------------------------------------


@dataclass
class Fault:
    """Fails the nth statement that matches, and the next ones while `times` lasts (-1: for ever).

    close, reset: the connection ends without a reply. http500: an error of ClickHouse; code:NUMBER:
    another one. http503: a proxy's. exit: the server dies. delay:SECONDS. `before` prevents the
    statement; `after` only its reply.
    """

    kind: str
    when: str = "before"
    match: str = ""
    nth: int = 1
    times: int = 1
    seen: int = 0

    def __post_init__(self) -> None:
        if self.when not in ("before", "after"):
            raise ValueError(f"when: {self.when!r}")
        if not re.fullmatch(r"close|reset|http500|http503|exit|delay:[\d.]+|code:\d+", self.kind):
            raise ValueError(f"kind: {self.kind!r}")

    def hits(self, query: str) -> bool:
        if not re.search(self.match, query, re.IGNORECASE | re.DOTALL):
            return False
        self.seen += 1
        return self.seen >= self.nth and (self.times < 0 or self.seen < self.nth + self.times)


class Struck(Exception):
    """A fault takes the place of the reply: close, reset or http503."""


# --- HTTP --------------------------------------------------------------------------------------


def zstd() -> Any:
    new = sys.version_info >= (3, 14)
    return importlib.import_module("compression.zstd" if new else "backports.zstd")


def inflate(data: bytes, decompressor: Callable[[], Any]) -> bytes:
    """Decompress all members: clickhouse-connect sends one lz4 frame per block of an insert."""
    output = []
    while data:
        member = decompressor()
        output.append(member.decompress(data))
        data = member.unused_data
    return b"".join(output)


DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "identity": bytes,
    "lz4": lambda data: inflate(data, lz4.frame.LZ4FrameDecompressor),
    "zstd": lambda data: inflate(data, zstd().ZstdDecompressor),
    "gzip": gzip.decompress,
    "deflate": lambda data: inflate(data, zlib.decompressobj),
}
ENCODERS: dict[str, Callable[[bytes], bytes]] = {  # in the order that ClickHouse prefers
    "zstd": lambda data: zstd().compress(data),
    "lz4": lz4.frame.compress,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
}


def form_fields(body: bytes, content_type: str) -> Iterator[tuple[str, str]]:
    """The fields of a multipart form, with the limit that a real server sets."""
    boundary = re.search(r'boundary="?([^";]+)', content_type)
    for part in body.split(b"--" + (boundary[1] if boundary else "").encode())[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        if name is None or b"filename=" in head:
            raise ServerError.of(48, "NOT_IMPLEMENTED", "No external tables in this test server")
        if len(value) - 2 > MAX_FIELD_VALUE_SIZE:
            text = "Code: 1000, e.code() = 0, HTML Form Exception: Field value too long"
            raise ServerError(1000, f"Poco::Exception. {text}")
        yield name[1].decode(), value[:-2].decode()


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # a reply is one write

    def do_GET(self) -> None:
        self._guarded()

    def do_POST(self) -> None:
        self._guarded()

    def log_message(self, *_: object) -> None:
        """Keep quiet: the log of statements says it all."""

    def _guarded(self) -> None:
        try:
            self._route()
        except ServerError as error:
            self._reply_error(error)
        except Struck as fault:
            self._fail(str(fault))

    def _route(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        raw = self._read_body()
        if url.path == CONTROL:
            self._reply(200, json.dumps(self.server.control(json.loads(raw or b"{}"))).encode())
        elif url.path == "/ping" or (self.command == "GET" and self.path == "/"):
            self._reply(200, b"Ok.\n", {"Content-Type": "text/html; charset=UTF-8"})
        elif url.path != "/":
            self._reply(404, f"There is no handle {self.path}\n\nUse / or /ping.\n".encode())
        else:
            self._query(urllib.parse.parse_qsl(url.query, keep_blank_values=True), raw)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            chunks = []
            while chunk := self._read(int(self.rfile.readline() or b"0", 16)):
                chunks.append(chunk)
                self._read(2)
            self._read(2)
            return b"".join(chunks)
        if self.command == "POST" and "Content-Length" not in self.headers:
            self.close_connection = True
            text = "The Transfer-Encoding is not chunked and there is no Content-Length header"
            raise ServerError.of(381, "HTTP_LENGTH_REQUIRED", text)
        return self._read(int(self.headers.get("Content-Length", 0)))

    def _read(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionAbortedError("the client went away in the middle of its request")
        return data

    def _query(self, pairs: list[tuple[str, str]], raw: bytes) -> None:
        user = self._authenticate(dict(pairs))
        body = DECODERS[self.headers.get("Content-Encoding", "").lower()](raw)
        content_type = self.headers.get("Content-Type", "")
        if content_type.startswith("multipart/form-data"):
            pairs, body = [*pairs, *form_fields(body, content_type)], b""
        url = dict(pairs)
        query = "".join(value for name, value in pairs if name == "query").encode()
        sql = query + b"\n" + body if query and body else query or body
        insert = INSERT.match(sql)
        statement = Statement(
            query=(sql[: insert.end()] if insert else sql).decode(errors="replace").strip(),
            user=user.name,
            database=url.get("database") or self.headers.get("X-ClickHouse-Database") or "default",
            settings={k: v for k, v in url.items() if not RESERVED.fullmatch(k)},
            params={k[6:]: v for k, v in url.items() if k[:6] == "param_"},
            method=self.command,
            bytes_in=len(raw),
        )
        wanted = url.get("default_format") or self.headers.get("X-ClickHouse-Format")
        started = time.perf_counter()
        if OPERATOR not in self.headers:
            sql = self.server.pretended(sql)
        with self.server.session(url.get("session_id")), self._observed(statement):
            answer = self.server.engine.execute(user, statement, sql, wanted or "TabSeparated")
            statement.rows_written = answer.summary["written_rows"]
        elapsed = int((time.perf_counter() - started) * 1e9)
        self._reply_result(answer, url, {"elapsed_ns": elapsed})

    def _observed(self, statement: Statement) -> AbstractContextManager[None]:
        return nullcontext() if OPERATOR in self.headers else self.server.observed(statement)

    def _authenticate(self, url: Mapping[str, str]) -> User:
        name, password = url.get("user", "default"), url.get("password", "")
        if "X-ClickHouse-User" in self.headers or "X-ClickHouse-Key" in self.headers:
            name = self.headers.get("X-ClickHouse-User", "default")
            password = self.headers.get("X-ClickHouse-Key", "")
        elif self.headers.get("Authorization", "").startswith("Basic "):
            basic = base64.b64decode(self.headers["Authorization"][6:]).decode()
            name, _, password = basic.partition(":")
        user = self.server.users.get(name)
        if user and user.password == password:
            return user
        text = "Authentication failed: password is incorrect, or there is no user with such name."
        hint = FORGOT_PASSWORD if name == "default" else ""
        raise ServerError.of(516, "AUTHENTICATION_FAILED", f"{name}: {text}{hint}")

    def _reply_result(self, answer: Answer, url: Mapping[str, str], more: dict[str, int]) -> None:
        body, accepted = answer.body, self.headers.get("Accept-Encoding", "")
        timezone = url.get("session_timezone") or self.server.engine.timezone
        summary = {"read_rows": 0, "written_rows": 0, **answer.summary, **more}
        headers = {
            "Content-Type": CONTENT_TYPES.get(answer.format or "", "text/plain; charset=UTF-8"),
            "X-ClickHouse-Summary": json.dumps({k: str(v) for k, v in summary.items()}),
            "X-ClickHouse-Query-Id": url.get("query_id") or str(uuid.uuid4()),
            "X-ClickHouse-Timezone": timezone,
        }
        if answer.format:
            headers["X-ClickHouse-Format"] = answer.format
        encoding = next((name for name in ENCODERS if name in accepted), None)
        if encoding and body and url.get("enable_http_compression") == "1":
            headers["Content-Encoding"], body = encoding, ENCODERS[encoding](body)
        self._reply(200, body, headers)

    def _reply_error(self, error: ServerError) -> None:
        body = f"{error} (version {self.server.engine.version} (official build))\n"
        self._reply(error.status, body.encode(), {"X-ClickHouse-Exception-Code": str(error.code)})

    def _reply(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        defaults = {
            "Content-Type": "text/plain; charset=UTF-8",
            "X-ClickHouse-Server-Display-Name": "test",
            "Content-Length": str(len(body)),
        }
        for name, value in {**defaults, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, kind: str) -> None:
        if kind == "http503":
            self._reply(503, b"Service Unavailable\n")
            return
        if kind == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        os.close(self.connection.detach())


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Listens on 127.0.0.1; a thread per connection."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self, port: int, engine: Engine, users: Sequence[User], tls: ssl.SSLContext | None
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.engine = engine
        self.users = {user.name: user for user in users}
        self._tls = tls
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)  # of a statement that begins
        self._latency = 0.0
        self._faults: list[Fault] = []
        self._statements: list[Statement] = []
        self._pretence: dict[str, str] = {}
        self._sessions: set[str] = set()

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        if self._tls:  # the handshake is the connection's thread's
            connection = self._tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news; anything else is a bug of this file."""
        if not isinstance(sys.exc_info()[1], OSError):  # pragma: no cover
            super().handle_error(request, client_address)

    def control(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out an order of the test; the log in the answer is the one before a reset."""
        with self._lock:
            if wait := order.get("progress"):
                self._news.wait_for(lambda: len(self._statements) >= wait["begun"], wait["seconds"])
                running = sum(statement.running for statement in self._statements)
                cpu = time.process_time()
                return {"begun": len(self._statements), "running": running, "cpu": cpu}
            log = [dict(vars(statement)) for statement in self._statements]
            if order.get("reset"):
                self._statements.clear()
            if order.get("disarm"):
                self._faults.clear()
            self._pretence = order.get("pretend", self._pretence)
            self._faults += [Fault(**fault) for fault in order.get("arm", [])]
            self._latency = order.get("latency", self._latency)
            return {"statements": log, "faults": [asdict(fault) for fault in self._faults]}

    def pretended(self, sql: bytes) -> bytes:
        """The statement as the engine is to run it."""
        for pattern, replacement in self._pretence.items():
            sql = re.sub(pattern.encode(), replacement.encode(), sql)
        return sql

    @contextmanager
    def session(self, session_id: str | None) -> Iterator[None]:
        if session_id is None:
            yield
            return
        with self._lock:
            if session_id in self._sessions:
                text = f"Session {session_id} is locked by a concurrent client"
                raise ServerError.of(373, "SESSION_IS_LOCKED", text)
            self._sessions.add(session_id)
        try:
            yield
        finally:
            with self._lock:
                self._sessions.discard(session_id)

    @contextmanager
    def observed(self, statement: Statement) -> Iterator[None]:
        """Log the statement that runs inside, and let the armed faults strike."""
        with self._lock:
            self._statements.append(statement)
            hits = [fault for fault in self._faults if fault.hits(statement.query)]
            self._news.notify_all()
        try:
            time.sleep(self._latency)
            self._strike(statement, hits, "before")
            with self._timed(statement):
                yield
            self._strike(statement, hits, "after")
        finally:
            statement.running = False

    @contextmanager
    def _timed(self, statement: Statement) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
            statement.executed = True
        except ServerError as error:
            statement.error = error.code
            raise
        finally:
            statement.seconds = round(time.perf_counter() - started, 4)

    def _strike(self, statement: Statement, hits: Sequence[Fault], when: str) -> None:
        for fault in hits:
            if fault.when != when:
                continue
            statement.fault = f"{fault.kind} {when}"
            kind, _, seconds = fault.kind.partition(":")
            if kind == "delay":
                time.sleep(float(seconds))
            elif kind == "exit":
                os._exit(1)
            elif kind == "code":
                raise ServerError.of(int(seconds), "ARMED", "A fault that a test armed")
            elif kind == "http500":
                raise ServerError.of(241, "MEMORY_LIMIT_EXCEEDED", "A fault that a test armed")
            else:
                raise Struck(kind)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM, or until stdin ends where a test holds its other end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, required=True, help="directory of the server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--user", type=User.parse, action="append", help=User.__doc__)
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds added to a request")
    parser.add_argument("--fault", type=json.loads, action="append", default=[], help="as JSON")
    parser.add_argument("--keeper", action="store_true", help="with chDB's own Keeper")
    parser.add_argument("--until-stdin-ends", action="store_true")
    args = parser.parse_args(argv)
    users = args.user or [User("default")]
    tls = None
    if args.tls_cert:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(args.tls_cert, args.tls_key)
    engine = Engine(args.path.resolve(), users, keeper=args.keeper)
    server = Server(args.port, engine, users, tls)
    server.control({"arm": args.fault, "latency": args.latency})
    if args.until_stdin_ends:
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(server.server_address[1], flush=True)
    with suppress(KeyboardInterrupt):
        server.serve_forever(poll_interval=0.05)
    engine.close()
    os._exit(0)  # connections of clients may still be open, and chDB is not asked twice


# --- for tests ---------------------------------------------------------------------------------


class ClickHouseServer:
    """The server as a subprocess, which never outlives this process: its stdin ends with it.

    `path` keeps the data; `users` are specs of User, the first one must be allowed everything.
    Faults and the log of statements are gone after restart(), kill() and an `exit` fault.
    """

    def __init__(
        self,
        path: Path,
        *,
        users: Sequence[str] = ("default:",),
        tls: bool = False,
        latency: float = 0.0,
        timezone: str = "UTC",
        keeper: bool = False,
    ) -> None:
        self.path = path
        self.host = "127.0.0.1"
        self.port = 0
        self.users = [User.parse(spec) for spec in users]
        self.certificate = path / "server.crt" if tls else None
        self._arguments = [f"--user={spec}" for spec in users] + [f"--latency={latency}"]
        self._arguments += ["--keeper"] if keeper else []
        self._environment = {**os.environ, "TZ": timezone}
        self._process: subprocess.Popen[str] | None = None
        self._client: Any = None

    def __enter__(self) -> ClickHouseServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://{self.host}:{self.port}"

    def start(self) -> None:
        """Start on the port of the last time, and wait until the server listens."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self.certificate and not self.certificate.exists():
            self._make_certificate(self.certificate)
        command = [sys.executable, __file__, f"--path={self.path}", f"--port={self.port}"]
        command += ["--until-stdin-ends", *self._arguments]
        if self.certificate:
            command += [f"--tls-cert={self.certificate}", f"--tls-key={self.path / 'server.key'}"]
        log = self.path / "server.log"
        with log.open("a") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=self.path,  # chDB would read a config.xml of the current directory
                env=self._environment,
            )
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self.kill()
            raise RuntimeError(f"the server did not start:\n{log.read_text()}")
        self.port = int(line)

    def _make_certificate(self, path: Path) -> None:
        names = "subjectAltName=IP:127.0.0.1,DNS:localhost"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        command += ["-subj", "/CN=localhost", "-addext", names, "-out", str(path)]
        command += ["-keyout", str(path.with_suffix(".key"))]
        subprocess.run(command, check=True, capture_output=True)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """The same directory and port; also after kill() and after an `exit` fault."""
        self.stop()
        self.start()

    def _end(self, how: signal.Signals) -> None:
        if self._client:
            self._client.close()
            self._client = None
        if self._process:
            self._process.send_signal(how)
            try:
                self._process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
            self._process = None

    def control(self, **order: Any) -> dict[str, Any]:
        """Send an order to Server.control, and return the log and the armed faults."""
        if self.certificate:
            context = ssl.create_default_context(cafile=self.certificate)
            connection: HTTPConnection = HTTPSConnection(self.host, self.port, context=context)
        else:
            connection = HTTPConnection(self.host, self.port)
        with closing(connection):
            connection.request("POST", CONTROL, json.dumps(order))
            state: dict[str, Any] = json.load(connection.getresponse())
        return state

    def arm(
        self, kind: str, *, when: str = "before", match: str = "", nth: int = 1, times: int = 1
    ) -> None:
        """Arm a fault (see Fault); statements count from now on."""
        fault = Fault(kind, when, match, nth, times)
        self.control(arm=[asdict(fault)])

    def disarm(self) -> None:
        self.control(disarm=True)

    def pretend(self, rewrites: Mapping[str, str]) -> None:
        """From now on, what these patterns match in a client's statement is replaced."""
        self.control(pretend=dict(rewrites))

    def latency(self, seconds: float) -> None:
        self.control(latency=seconds)

    def statements(self, *, reset: bool = False) -> list[Statement]:
        """What clients asked since the start or the last reset, in order."""
        return [Statement(**entry) for entry in self.control(reset=reset)["statements"]]

    def progress(self, *, begun: int = 0, seconds: float = 0.0) -> tuple[int, int]:
        """How many statements of the log were begun, and how many of them still run.

        It waits so many seconds for so many to be begun.
        """
        state = self.control(progress={"begun": begun, "seconds": seconds})
        return state["begun"], state["running"]

    def cpu(self) -> float:
        """Seconds of CPU that the server has used since it started."""
        seconds: float = self.control(progress={"begun": 0, "seconds": 0})["cpu"]
        return seconds

    def client(self, **options: Any) -> Any:
        """A clickhouse-connect client for this server, as its first user."""
        connect = importlib.import_module("clickhouse_connect")
        first = self.users[0]
        defaults = {"username": first.name, "password": first.password}
        if self.certificate:
            defaults |= {"interface": "https", "ca_cert": str(self.certificate)}
        return connect.get_client(host=self.host, port=self.port, **{**defaults, **options})

    def query(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Ask the server behind the scenes: no fault strikes, nothing is logged."""
        if self._client is None:
            self._client = self.client(headers={OPERATOR: "1"}, autogenerate_session_id=False)
        rows = self._client.query(sql, parameters=parameters).result_rows
        return [tuple(row) for row in rows]

    def env(
        self, user: str | None = None, password: str | None = None, database: str = "default"
    ) -> dict[str, str]:
        """The settings of the program under test: CH_HOST and so on."""
        known = {each.name: each.password for each in self.users}
        name = user or self.users[0].name
        settings = {
            "CH_HOST": self.host,
            "CH_PORT": str(self.port),
            "CH_USER": name,
            "CH_PASSWORD": known.get(name, "") if password is None else password,
            "CH_DATABASE": database,
        }
        if self.certificate:
            settings |= {"CH_PROTOCOL": "https", "CH_CA_CERT": str(self.certificate)}
        return settings


if __name__ == "__main__":
    raise SystemExit(main())
