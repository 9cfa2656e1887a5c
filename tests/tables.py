"""What the tables must hold according to ccusage's own JSON, and what they do hold.

`Expected` computes hashes, keys and columns without the program's code, so that a mistake there
is not repeated here. A `Machine` has transcripts, a ccusage and settings of its own, and runs the
program. Tables are `{table: {key: {column: value}}}`; a key is the agent and the table's own key.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import json
import multiprocessing
import os
import re
import shlex
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime, time, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock
from zoneinfo import ZoneInfo

import clickhouse_connect
import msgspec
import real_ccusage
import transcripts

import ccusage_importer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.process import BaseProcess

    from clickhouse_server import ClickHouseServer

    Query = Callable[..., list[tuple[Any, ...]]]
    Rows = dict[tuple[Any, ...], dict[str, Any]]
    Tables = dict[str, Rows]

PROGRAM = Path(ccusage_importer.__file__).resolve()
VERSIONS = real_ccusage.VERSIONS
NEWEST = real_ccusage.NEWEST

COUNTERS = ("input_tokens", "output_tokens", "cache_creation_tokens", "cache_read_tokens")
MEASURES = (*COUNTERS, "total_tokens")
USAGE = (*MEASURES, "total_cost", "models_count")
KEYS = {
    "ccusage_usage_daily": ("date",),
    "ccusage_usage_monthly": ("month",),
    "ccusage_usage_sessions": ("session_key",),
    "ccusage_usage_blocks": ("block_id",),
    "ccusage_usage_projects_daily": ("date", "project_key"),
    "ccusage_model_breakdowns": ("record_type", "record_key", "model_name"),
    "ccusage_models_used": ("record_type", "record_key", "model_name"),
}
COLUMNS = {
    "ccusage_usage_daily": USAGE,
    "ccusage_usage_monthly": USAGE,
    "ccusage_usage_sessions": (
        "project_path",
        "session_id",
        "first_activity",
        "last_activity",
        *USAGE,
    ),
    "ccusage_usage_blocks": (
        "start_time",
        "end_time",
        "actual_end_time",
        "is_active",
        "is_gap",
        "entries",
        *MEASURES,
        "cost_usd",
        "models_count",
        "usage_limit_reset_time",
        "burn_rate",
        "projection",
    ),
    "ccusage_usage_projects_daily": ("project_id", *USAGE),
    "ccusage_model_breakdowns": (*MEASURES, "cost"),
    "ccusage_models_used": (),
}
FEED_TABLES = {
    "daily": "ccusage_usage_daily",
    "monthly": "ccusage_usage_monthly",
    "session": "ccusage_usage_sessions",
    "blocks": "ccusage_usage_blocks",
    "projects": "ccusage_usage_projects_daily",
}
RECORD_TYPES = {
    "daily": "daily",
    "monthly": "monthly",
    "session": "session",
    "blocks": "block",
    "projects": "project_daily",
}
# Variables that lead to what ccusage reads, and the beginnings of those which it does not know.
SOURCES = ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", *reversed(transcripts.DATA_DIRS.values()))
ASIDE = ("CCUSAGE_COMMAND", "CCUSAGE_STATE_DIR", "CH_", "MACHINE_NAME", "PROJECT_HASH_KEY")
ANSWERS: dict[tuple[Any, ...], str] = {}  # of the real ccusage, as JSON
VIEWS = (
    "ccusage_v_daily_summary",
    "ccusage_v_session_summary",
    "ccusage_v_model_performance",
    "ccusage_v_monthly_trends",
    "ccusage_v_active_blocks",
)


# --- what must be there ------------------------------------------------------------------------


def digits(*parts: str, key: str = "") -> str:
    """SHA-256 of the parts with NULs between, or HMAC-SHA-256 where there is a key."""
    text = "\0".join(parts).encode()
    if key:
        return hmac.new(key.encode(), text, hashlib.sha256).hexdigest()
    return hashlib.sha256(text).hexdigest()


@dataclass
class Expected:
    """Builds the tables that an import into an empty database must make of feeds."""

    version: str = NEWEST
    zone: str = "UTC"
    hidden: bool = True
    key: str = ""
    tables: Tables = field(default_factory=lambda: {table: {} for table in KEYS})

    def shown(self, name: str) -> str:
        return digits(name, key=self.key)[:8] if self.hidden else name

    def claude(self, feeds: Mapping[str, Any]) -> Expected:
        """Add Claude's five feeds, as ccusage printed them."""
        for row in rows_of(feeds["daily"], "daily"):
            self.add("daily", "claude", (date.fromisoformat(row["date"]),), row)
        for row in rows_of(feeds["monthly"], "monthly"):
            self.add("monthly", "claude", (row["month"],), row)
        for row in rows_of(feeds["session"], "sessions"):
            self.session("claude", row["projectPath"], row["sessionId"], row, row)
        projects = feeds["projects"]
        for name, rows in projects["projects"].items() if "projects" in projects else ():
            for row in rows:
                key = (date.fromisoformat(row["date"]), digits(name, key=self.key)[:32])
                self.add("projects", "claude", key, row, project_id=self.shown(name))
        for row in rows_of(feeds["blocks"], "blocks"):
            self.block(row)
        return self

    def unified(self, daily: Any, monthly: Any, session: Any) -> Expected:
        """Add the other agents of the unified reports, daily and monthly by agent."""
        for feed, report in (("daily", daily), ("monthly", monthly)):
            for row in report[feed]:
                for part in row["agents"]:
                    if part["agent"] != "claude":
                        period = row["period"]
                        key = date.fromisoformat(period) if feed == "daily" else period
                        self.add(feed, part["agent"], (key,), part)
        for row in session["session"]:
            if row["agent"] != "claude":
                self.session(row["agent"], "", row["period"], row, row.get("metadata", {}))
        return self

    def session(self, agent: str, project: str, name: str, row: Any, times: Any) -> None:
        if agent == "codex":  # the rollout's folders change when it is archived
            name = name.rpartition("/")[2]
        self.add(
            "session",
            agent,
            (digits(project, name, key=self.key)[:32],),
            row,
            project_path=self.shown(project) if project else "",
            session_id=self.shown(name),
            first_activity=self.moment(times.get("firstActivity")),
            last_activity=self.moment(times.get("lastActivity")),
        )

    def add(self, feed: str, agent: str, key: tuple[Any, ...], row: Any, **more: Any) -> None:
        values = counters(row)
        cost = row["costUSD"] if "costUSD" in row else row["totalCost"]
        models = row.get("modelsUsed") or list(row.get("models", ()))
        columns = {
            **more,
            **values,
            "total_tokens": row["totalTokens"],
            "total_cost": round(cost, 8),
            "models_count": len(set(models)),
        }
        self.put(FEED_TABLES[feed], (agent, *key), columns)
        child = (agent, RECORD_TYPES[feed], "_".join(map(str, key)))
        for share in row.get("modelBreakdowns", ()):
            values = counters(share)
            total = share.get("totalTokens", min(sum(values.values()), 2**64 - 1))
            columns = {**values, "total_tokens": total, "cost": round(share["cost"], 8)}
            self.put("ccusage_model_breakdowns", (*child, share["modelName"]), columns)
        for name, share in row.get("models", {}).items():  # codex
            columns = {
                **counters(share),
                "total_tokens": share["totalTokens"],
                "cost": round(cost, 8) if len(row["models"]) == 1 else 0.0,
            }
            self.put("ccusage_model_breakdowns", (*child, name), columns)
        for name in set(models):
            self.put("ccusage_models_used", (*child, name), {})

    def block(self, row: Any) -> None:
        counts = row["tokenCounts"]
        given = (
            counts["inputTokens"],
            counts["outputTokens"],
            counts["cacheCreationInputTokens"],
            counts["cacheReadInputTokens"],
        )
        columns = {
            "start_time": self.moment(row["startTime"]),
            "end_time": self.moment(row["endTime"]),
            "actual_end_time": self.moment(row["actualEndTime"]),
            "is_active": int(row["isActive"]),
            "is_gap": int(row["isGap"]),
            "entries": row["entries"],
            **dict(zip(COUNTERS, given, strict=True)),
            "total_tokens": row["totalTokens"],
            "cost_usd": round(row["costUSD"], 8),
            "models_count": len(set(row["models"])),
            "usage_limit_reset_time": self.moment(row.get("usageLimitResetTime")),
            "burn_rate": row["burnRate"] and row["burnRate"]["costPerHour"],
            "projection": row["projection"] and row["projection"]["totalCost"],
        }
        self.put("ccusage_usage_blocks", ("claude", row["id"]), columns)
        for name in set(row["models"]):
            self.put("ccusage_models_used", ("claude", "block", row["id"], name), {})

    def put(self, table: str, key: tuple[Any, ...], columns: dict[str, Any]) -> None:
        assert key not in self.tables[table], f"ccusage repeats {key}"
        self.tables[table][key] = {**columns, "ccusage_version": self.version}

    def moment(self, text: str | None) -> datetime | None:
        if text is None:
            return None
        if len(text) == 10:  # a day alone
            start = datetime.combine(date.fromisoformat(text), time(), ZoneInfo(self.zone))
            return start.astimezone(timezone.utc).replace(tzinfo=None)
        return datetime.fromisoformat(text.removesuffix("Z"))


def rows_of(report: Any, key: str) -> list[Any]:
    return report[key] if isinstance(report, dict) else report


def counters(row: Any) -> dict[str, int]:
    if "cachedInputTokens" in row:  # codex in ccusage 19
        cached = row["cachedInputTokens"]
        given = (row["inputTokens"] - cached, row["outputTokens"], 0, cached)
    else:
        given = (
            row["inputTokens"],
            row["outputTokens"],
            row["cacheCreationTokens"],
            row["cacheReadTokens"],
        )
    return dict(zip(COUNTERS, given, strict=True))


# --- what is there -----------------------------------------------------------------------------


def read_all(
    query: Query, machine: str, *, final: bool = False, keep: bool = False
) -> dict[str, list[tuple[Any, ...]]]:
    """One machine's rows of the seven tables: key, columns, updated_at, is_deleted.

    Older versions of a row stand before newer ones.
    """
    found = {}
    for table, key in KEYS.items():
        columns = columns_of(table, keep=keep)
        names = ", ".join(f"`{name}`" for name in ("agent", *key, *columns))
        rows = query(
            f"SELECT {names}, updated_at, is_deleted FROM {table} {'FINAL' if final else ''} "
            "WHERE machine_name = {machine:String} ORDER BY updated_at, is_deleted",
            machine=machine,
        )
        size = len(key) + 1
        found[table] = [
            (
                tuple(map(plain, row[:size])),
                dict(zip(columns, map(plain, row[size:-2]), strict=True)),
                *row[-2:],
            )
            for row in rows
        ]
    return found


def columns_of(table: str, *, keep: bool) -> tuple[str, ...]:
    system = ("ccusage_version", *(("created_at", "updated_at") if keep else ()))
    return (*COLUMNS[table], *system)


def finally_shown(rows: list[tuple[Any, ...]]) -> Rows:
    """What FINAL shows of all rows of a table."""
    last = {key: (columns, deleted) for key, columns, _, deleted in rows}
    return {key: columns for key, (columns, deleted) in last.items() if not deleted}


def read(query: Query, machine: str, *, final: bool = False, keep: bool = False) -> Tables:
    """One machine's rows of the seven tables, which must hold each key once, even without FINAL.

    `keep` keeps created_at and updated_at, which a comparison usually leaves out.
    """
    tables: Tables = {}
    for table, rows in read_all(query, machine, final=final, keep=keep).items():
        tables[table] = {}
        for key, columns, _, deleted in rows:
            assert not deleted, f"{table}: a tombstone is left: {key}"
            assert key not in tables[table], f"{table}: twice: {key}"
            tables[table][key] = columns
    return tables


def plain(value: Any) -> Any:
    """A time as ClickHouse returns it for UTC: without its zone."""
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value


def differences(actual: Tables, wanted: Tables, tolerance: float = 0.0) -> list[str]:
    """Where the tables differ from what is wanted.

    Of burn rates and projections only their presence counts: they change from minute to minute.
    """
    found = []
    for table, rows in wanted.items():
        have = actual[table]
        found += [f"{table}: missing {key}: {rows[key]}" for key in rows.keys() - have.keys()]
        found += [f"{table}: too much {key}: {have[key]}" for key in have.keys() - rows.keys()]
        for key in rows.keys() & have.keys():
            found += [
                f"{table} {key}: {name} is {have[key].get(name)!r}, not {value!r}"
                for name, value in rows[key].items()
                if not same(name, have[key].get(name), value, tolerance)
            ]
    return sorted(found)


def same(name: str, actual: Any, wanted: Any, tolerance: float) -> bool:
    if name in ("burn_rate", "projection"):
        return (actual is None) == (wanted is None)
    if tolerance and isinstance(wanted, float):
        return abs(actual - wanted) <= tolerance
    return bool(actual == wanted)


def assert_same(actual: Tables, wanted: Tables, tolerance: float = 0.0) -> None:
    found = differences(actual, wanted, tolerance)
    assert not found, "\n".join(["", *found[:12], f"({len(found)} differences)"])


def total(tables: Tables, feed: str, agent: str | None = None) -> int:
    """The tokens in the table of a feed."""
    rows = tables[FEED_TABLES[feed]].items()
    return sum(row["total_tokens"] for key, row in rows if agent in (None, key[0]))


def check_views(query: Query, machine: str, tables: Tables) -> None:
    """The views say what the tables say."""
    where = "WHERE machine_name = {machine:String}"
    pairs = (
        ("ccusage_v_daily_summary", "daily", "toString(date)"),
        ("ccusage_v_monthly_trends", "monthly", "month"),
        ("ccusage_v_session_summary", "session", "session_key"),
    )
    for view, feed, key in pairs:
        sql = f"SELECT agent, {key}, total_tokens, total_cost FROM {view} {where}"
        wanted = {
            (agent, str(name), row["total_tokens"], row["total_cost"])
            for (agent, name), row in tables[FEED_TABLES[feed]].items()
        }
        assert set(query(sql, machine=machine)) == wanted
    shares: dict[tuple[str, str], int] = {}
    for (agent, kind, _, model), row in tables["ccusage_model_breakdowns"].items():
        if kind == "daily":
            shares[agent, model] = shares.get((agent, model), 0) + row["total_tokens"]
    sql = f"SELECT agent, model_name, total_tokens FROM ccusage_v_model_performance {where}"
    assert {(a, m): n for a, m, n in query(sql, machine=machine)} == shares


@contextlib.contextmanager
def embedded(path: Path) -> Iterator[Query]:
    """Ask an embedded database that no other process has open."""
    client = clickhouse_connect.get_client(interface="chdb", path=str(path))
    try:
        yield lambda sql, **given: [tuple(r) for r in client.query(sql, given).result_rows]
    finally:
        client.close()


class Database(NamedTuple):
    """A database of its own on the test server."""

    server: ClickHouseServer
    name: str

    def query(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        for table in (*KEYS, *VIEWS, "ccusage_import_history"):
            sql = sql.replace(f"FROM {table}", f"FROM {self.name}.{table}")
            sql = sql.replace(f"TABLE {table}", f"TABLE {self.name}.{table}")
            sql = sql.replace(f"INTO {table}", f"INTO {self.name}.{table}")
        return self.server.query(sql, **parameters)

    def create(self) -> None:
        """With the tables and views of the schema's file, which are empty."""
        self.server.query(f"CREATE DATABASE {self.name}")
        file = PROGRAM.with_name("ccusage_clickhouse_schema.sql")
        text = re.sub(r"^ *--.*\n", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for statement in filter(str.strip, text.split(";\n")):
            self.server.query(re.sub(r"(EXISTS|FROM) (ccusage_)", rf"\1 {self.name}.\2", statement))

    def schema(self) -> dict[str, str]:
        """The statements that made its tables and views, by name."""
        return {name: statement for name, statement, _ in self._listed()}

    def empty(self, schema: Mapping[str, str]) -> bool:
        """Remove all rows; False, where its tables and views are others than those."""
        tables = self._listed()
        if {name: statement for name, statement, _ in tables} != schema:
            return False
        for name in [name for name, _, rows in tables if rows]:
            self.server.query(f"TRUNCATE TABLE {self.name}.{name}")
        return True

    def _listed(self) -> list[tuple[Any, ...]]:
        sql = (
            "SELECT name, create_table_query, total_rows FROM system.tables "
            "WHERE database = {db:String}"
        )
        return self.server.query(sql, db=self.name)

    def drop(self) -> None:
        self.server.query(f"DROP DATABASE IF EXISTS {self.name}")

    def env(self, user: str | None = None, password: str | None = None) -> dict[str, str]:
        return self.server.env(user, password, database=self.name)

    def writes(self) -> list[str]:
        """What clients wrote since the last reset of the log."""
        reads = ("SELECT", "/*")
        return [s.query for s in self.server.statements() if not s.query.startswith(reads)]


def footprint(query: Query, database: str) -> dict[str, tuple[int, int]]:
    """Per table a number that inserts and mutations raise, merges do not; and its mutations."""
    blocks = query(
        "SELECT table, toInt64(max(max_block_number)), toInt64(max(data_version)) "
        "FROM system.parts WHERE database = {db:String} AND active GROUP BY table",
        db=database,
    )
    mutations = query(
        "SELECT table, count() FROM system.mutations WHERE database = {db:String} GROUP BY table",
        db=database,
    )
    counts = dict(mutations)
    return {table: (max(block, data), counts.get(table, 0)) for table, block, data in blocks}


# --- a machine ---------------------------------------------------------------------------------


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Machine:
    """A machine with its transcripts below `home`, its ccusage and the program.

    Without a `database` on the test server, its database is embedded.
    """

    def __init__(
        self,
        home: Path,
        name: str = "m1",
        *,
        version: str = NEWEST,
        database: Database | None = None,
        zone: str = "UTC",
        **settings: str,
    ) -> None:
        self.home = home / name
        self.name = name
        self.zone = zone
        self.database = database
        self.path = self.home / "clickhouse"
        self.claude = self.home / "claude"
        self.state = self.home / "state"
        scratch = self.home / "tmp"  # what killed runs leave there goes with the rest
        scratch.mkdir(parents=True)
        unset = ("CCUSAGE_TIMEZONE", "PROJECT_HASH_KEY", "CH_PROTOCOL", "CH_CA_CERT")
        self.env = transcripts.environment(
            self.home,
            TZ=zone,
            TMPDIR=scratch,
            CH_HOST="",  # a developer's .env does not count
            **dict.fromkeys(unset, ""),
            CH_EMBEDDED_PATH=self.path,
            CCUSAGE_STATE_DIR=self.state,
            CCUSAGE_ARGS="--offline",
            MACHINE_NAME=name,
        )
        self.env |= database.env() if database else {}
        self.env |= settings
        self.use(version)

    def use(self, version: str) -> None:
        """Another version of ccusage from now on."""
        self.version = version
        self.command = self.env["CCUSAGE_COMMAND"] = shlex.join(real_ccusage.command(version))

    def repeat(self) -> None:
        """From now on ccusage repeats what it first says of the present files."""
        if question := self.question():
            command = real_ccusage.repeater(self.version, question)
            self.env["CCUSAGE_COMMAND"] = shlex.join(command)

    def stub(self) -> Stub:
        """From now on the program asks a stub, which asks ccusage where it is told nothing else."""
        stub = Stub(self.home / "stub", self.version)
        self.env["CCUSAGE_COMMAND"] = shlex.join(stub.command)
        return stub

    def freeze(self) -> dict[str, Any]:
        """From now on ccusage repeats what it says of Claude now, at once. Returns the feeds."""
        feeds = self.feeds()
        self.stub().say(agents=NO_OTHERS, **feeds)
        return feeds

    def populate(self, **what: Any) -> None:
        transcripts.populate(self.claude, **{"start": date(2025, 9, 20), "days": 12, **what})

    # running the program

    def argv(self, *args: str) -> list[str]:
        return [sys.executable, str(PROGRAM), *args]

    def start(self, *args: str, **more: str) -> subprocess.Popen[str]:
        argv = self.argv(*args)
        pipe = subprocess.PIPE
        env = self.env | more
        return subprocess.Popen(argv, env=env, stdout=pipe, stderr=pipe, text=True, cwd=self.home)

    def run(self, *args: str, **more: str) -> Done:
        """The program in a process of its own."""
        process = self.start(*args, **more)
        out, err = process.communicate(timeout=300)
        return Done(process.returncode, out, err)

    def fork(self, *args: str) -> BaseProcess:
        """As start(), from a process that has imported everything already. Its output is lost."""
        process = FORKS.Process(target=run_forked, args=(self.env, args))
        process.start()
        return process

    def main(self, *args: str, **more: str) -> Done:
        """The program in this process, which is quicker."""
        if self.env.get("CCUSAGE_COMMAND") == self.command and (question := self.question(**more)):
            command = real_ccusage.repeater(self.version, question)
            more = {"CCUSAGE_COMMAND": shlex.join(command), **more}
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.env | more, clear=True),
            mock.patch.object(ccusage_importer.random, "uniform", return_value=0.01),  # impatient
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                code = ccusage_importer.main(args)
            except SystemExit as left:  # of argparse
                code = int(left.code or 0)
        return Done(code, out.getvalue(), err.getvalue())

    def imports(self, *args: str, code: int = 0, **more: str) -> Done:
        """An import in this process, which must end with `code`."""
        done = self.main(*args, **more)
        assert done.code == code, done.err
        return done

    def stores(self, *args: str, code: int = 0, **more: str) -> None:
        """As imports(), but quietly: no statistics are asked for at the end."""
        self.imports("--quiet", *args, code=code, **more)

    # what ccusage says, and what is stored

    def report(self, feed: str, *args: str) -> Any:
        """What ccusage says now; of the same files it is asked the same once."""
        question = self.question()
        asked = (self.version, self.zone, question, feed, *args)
        if not question or asked not in ANSWERS:
            report = real_ccusage.report(
                self.version, feed, self.env, *args, zone=self.zone, question=question
            )
            ANSWERS[asked] = json.dumps(report)
        return json.loads(ANSWERS[asked])  # a copy, which tests may change

    def feeds(self) -> dict[str, Any]:
        """What ccusage says of Claude now."""
        with ThreadPoolExecutor(3) as pool:
            return dict(zip(FEED_TABLES, pool.map(self.report, FEED_TABLES), strict=True))

    def question(self, **more: str) -> real_ccusage.Question | None:
        """What ccusage's answers depend on, where it is of this machine alone."""
        env = self.env | more
        digest = hashlib.sha256()
        for name, value in sorted(env.items()):
            if not name.startswith(ASIDE) and name not in SOURCES:
                digest.update(f"{name}={value.replace(str(self.home), '~')}\0".encode())
        digests = []
        for name in SOURCES:  # Claude's is the last one
            contents = self.contents(env.get(name, ""), active=name == "CLAUDE_CONFIG_DIR")
            if contents is None:
                return None
            digest.update(name.encode() + contents)
            digests.append(digest.hexdigest())
        return real_ccusage.Question(claude=digests[-1], others=digests[-2])

    def contents(self, folder: str, *, active: bool) -> bytes | None:
        """What is in a folder of this machine; none where it is in doubt.

        What is said of an `active` block, of today's messages, changes each minute.
        """
        if not folder.startswith(f"{self.home}/") or "," in folder:
            return None
        contents, now = [str(Path(folder).is_dir()).encode()], datetime.now().timestamp()
        for path in sorted(Path(folder).rglob("*")):
            status = path.lstat()
            kept = stat.S_ISREG(status.st_mode)
            if not kept and not stat.S_ISDIR(status.st_mode):
                return None
            written = f"{path.relative_to(folder)} {status.st_mode}"
            if active and kept and status.st_mtime > now - 86_400:
                written += f" {now // 60}"
            contents.append(written.encode("utf-8", "surrogateescape"))
            contents.append(path.read_bytes() if kept else b"")
        return b"\0".join(contents)

    def expected(self, *, hidden: bool = True) -> Tables:
        """What ccusage says of Claude now."""
        key = self.env["PROJECT_HASH_KEY"]
        return Expected(self.version, self.zone, hidden, key).claude(self.feeds()).tables

    @contextlib.contextmanager
    def asking(self) -> Iterator[Query]:
        if self.database:
            yield self.database.query
        else:
            with embedded(self.path) as query:
                yield query

    def tables(self, **how: bool) -> Tables:
        with self.asking() as query:
            return read(query, self.name, **how)

    def check(
        self, wanted: Tables | None = None, tolerance: float = 0.0, *, views: bool = False
    ) -> None:
        """The tables, without FINAL too (and `views`), are as ccusage's JSON wants them."""
        wanted = self.expected() if wanted is None else wanted
        with self.asking() as query:
            found = read(query, self.name)
            assert_same(found, wanted, tolerance)
            if views:
                check_views(query, self.name, found)

    def history(self, *columns: str) -> list[tuple[Any, ...]]:
        names = ", ".join(columns or ("feeds_imported",))
        sql = f"SELECT {names} FROM ccusage_import_history"
        with self.asking() as query:
            return query(
                f"{sql} WHERE machine_name = {{name:String}} ORDER BY updated_at", name=self.name
            )


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["ccusage_importer", "clickhouse_connect", "rich.console"])


def run_forked(env: Mapping[str, str], args: Sequence[str]) -> None:
    os.environ.clear()
    os.environ.update(env)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    raise SystemExit(ccusage_importer.main(args))


class Stub:
    """A ccusage that prints what it was given, fails where it was told to, else asks the real one.

    Put JSON into `feeds`, or nothing; `fail` makes a feed (or `--version`) end with code 1.
    """

    SCRIPT = """#!/bin/sh
case " $* " in
    *" --version "*) feed=version ;;
    *" --sections "*) feed=agents ;;
    *" --instances "*) feed=projects ;;
    " daily "* | " claude daily "*) feed=daily ;;
    " monthly "* | " claude monthly "*) feed=monthly ;;
    " session "* | " claude session "*) feed=session ;;
    " blocks "* | " claude blocks "*) feed=blocks ;;
    *) feed="$1 $2" ;;  # of another agent
esac
cd {folder}
echo "$feed" >> calls
if [ -e slow ]; then sleep "$(cat slow)"; fi
if [ -e "$feed.fails" ]; then cat "$feed.fails" >&2; exit 1; fi
if [ -e "$feed.once" ]; then mv "$feed.once" "$feed.said"; exec cat "$feed.said"; fi
if [ -e "$feed.json" ]; then exec cat "$feed.json"; fi
exec {real} "$@"
"""

    def __init__(self, folder: Path, version: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        script = folder / "ccusage"
        real = shlex.join(real_ccusage.command(version))
        script.write_text(self.SCRIPT.format(folder=shlex.quote(str(folder)), real=real))
        self.command = ["/bin/sh", str(script)]
        (folder / "version.json").write_text(f"ccusage {version}\n")

    def say(self, version: str | None = None, **feeds: Any) -> None:
        """Print these from now on."""
        for feed, report in feeds.items():
            (self.folder / f"{feed}.json").write_text(json.dumps(report), encoding="utf-8")
        if version:
            (self.folder / "version.json").write_text(f"ccusage {version}\n")

    def say_once(self, **feeds: Any) -> None:
        """Print these when asked next."""
        for feed, report in feeds.items():
            (self.folder / f"{feed}.once").write_text(json.dumps(report), encoding="utf-8")

    def fail(self, *feeds: str, message: str = "out of luck") -> None:
        """Fail for these, and for no other."""
        for path in self.folder.glob("*.fails"):
            path.unlink()
        for feed in feeds:
            (self.folder / f"{feed}.fails").write_text(message)

    def slow(self, seconds: float) -> None:
        (self.folder / "slow").write_text(str(seconds))

    def called(self) -> list[str]:
        """For what it was asked, in order."""
        calls = self.folder / "calls"
        return calls.read_text().split() if calls.exists() else []


NO_OTHERS = {
    "daily": [],
    "monthly": [],
    "session": [],
    "totals": {
        "inputTokens": 0,
        "outputTokens": 0,
        "cacheCreationTokens": 0,
        "cacheReadTokens": 0,
        "totalTokens": 0,
        "totalCost": 0,
    },
}


# --- time --------------------------------------------------------------------------------------

# msgspec asks what a field's type is when it first decodes one: at() must not be on by then.
for thing in list(vars(ccusage_importer).values()):
    if isinstance(thing, type) and issubclass(thing, msgspec.Struct):
        msgspec.json.Decoder(thing)


class _Moments(type):
    """Any datetime is one of a Clock's."""

    def __instancecheck__(cls, thing: object) -> bool:
        return isinstance(thing, datetime)


def noon() -> datetime:
    """Today's noon in UTC. Asked anew each time: a run of the tests may begin before midnight."""
    return datetime.now(timezone.utc).replace(hour=12, minute=0, second=0, microsecond=0)


@contextlib.contextmanager
def at(moment: datetime) -> Iterator[None]:
    """The program's clock stands at this moment (main() only; ccusage keeps its own)."""

    class Clock(datetime, metaclass=_Moments):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return moment.astimezone(tz)

    with mock.patch.object(ccusage_importer, "datetime", Clock):
        yield
