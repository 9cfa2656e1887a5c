"""How long an import takes and what it writes, beside two yardsticks. Run by hand:

    uv run python tests/benchmark.py [--sizes S M L] [--runs 3] [--output FILE]

Sizes: S 100 sessions in 60 days, M 1,500 in a year, L 20,000 in three years; the feeds are
recorded, so that ccusage is not what is measured. Each line is the median of several runs of
the real program in a process of its own. `unchanged once` follows an import that changed
something, so it reads back what is stored; later ones glance at it. `naive` deletes and inserts
every row each time, in the plain way: its `sql` has what client.insert() costs a process, which
is to import pandas; `naive warm` is the same again in that process. What `naive` does, the
program does in `read` and `upsert`; its own `sql` has the statements of all phases.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import recorded  # noqa: E402
from clickhouse_server import ClickHouseServer  # noqa: E402
from transcripts import environment  # noqa: E402

SIZES = {"S": (100, 60), "M": (1_500, 365), "L": (20_000, 1_095)}
PHASES = {
    "start": (),
    "fetch": ("fetch_all",),
    "connect": ("connect", "ClickHouseImporter.prepare", "ClickHouseImporter.read_past"),
    "read": ("ClickHouseImporter.glance", "ClickHouseImporter.read_stored"),
    "difference": ("make_plan",),
    "upsert": ("write_plan", "ClickHouseImporter.record_run"),
    "statistics": ("ClickHouseImporter.statistics",),
}
COLUMNS = ("total", *PHASES, "sql", "statements", "rows", "mutations", "kB", "MB")
Result = dict[str, float]


# --- in the process that is measured ----------------------------------------------------


def timed(owner: Any, name: str, spent: Result, phase: str) -> None:
    """Add the time that `owner.name` takes to a phase."""
    original = getattr(owner, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            spent[phase] += time.perf_counter() - began

    setattr(owner, name, wrapper)


def counted(client_class: Any, spent: Result) -> None:
    """Count statements, rows and bytes of a client's class, and the time they take."""
    insert, command = client_class.raw_insert, client_class.command

    def raw_insert(self: Any, table: str, columns: Any, block: bytes, **kwargs: Any) -> Any:
        spent["rows"] += block.count(b"\n") + 1
        spent["kB"] += len(block) / 1000
        return insert(self, table, columns, block, **kwargs)

    def counted_command(self: Any, sql: str, *args: Any, **kwargs: Any) -> Any:
        spent["mutations"] += sql.startswith("DELETE")
        return command(self, sql, *args, **kwargs)

    client_class.raw_insert, client_class.command = raw_insert, counted_command
    for name in ("query", "command", "raw_insert"):
        timed(client_class, name, spent, "sql")
        method = getattr(client_class, name)

        def count(*args: Any, method: Callable[..., Any] = method, **kwargs: Any) -> Any:
            spent["statements"] += 1
            return method(*args, **kwargs)

        setattr(client_class, name, count)


def measured_run(began: float, output: Path) -> int:
    """Run the program's main with its phases timed."""
    spent: Result = defaultdict(float)
    import ccusage_importer as program

    spent["start"] = time.time() - began
    for phase, names in PHASES.items():
        for name in names:
            *owners, last = name.split(".")
            owner = getattr(program, owners[0]) if owners else program
            timed(owner, last, spent, phase)
    from clickhouse_connect.driver.client import Client

    subclass = "ChdbClient" if not os.environ.get("CH_HOST") else "HttpClient"
    module = "_chdbclient" if subclass == "ChdbClient" else "httpclient"
    __import__(f"clickhouse_connect.driver.{module}")
    classes = [c for c in subclasses(Client) if c.__name__ == subclass]
    counted(classes[0], spent)
    code = program.main([])
    spent["total"] = time.time() - began
    spent["MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    output.write_text(json.dumps(spent))
    return code


def naive_upsert(client: Any, feeds: recorded.Feeds) -> float:
    """Delete all rows of the machine and insert all that the feeds hold, table by table."""
    import ccusage_importer as program

    rows: dict[Any, list[list[Any]]] = defaultdict(list)
    now = program.datetime.now(program.UTC)
    for feed in program.FEEDS:
        table = program.TABLES[feed.name]
        records = program.parse_feed(feed, feeds[feed.name], program.Ids(""), program.UTC)
        for record in records.values():
            for place, key, row in program.build_rows(table, record, "20.0.24"):
                rows[place].append(["naive", *key, *row.values, row.version, now, now, 0])
    began = time.perf_counter()
    for table, lines in rows.items():
        client.command(f"DELETE FROM {table.name} WHERE machine_name = 'naive'")
        columns = ["machine_name", "agent", *table.key, *table.columns, *program.SYSTEM_COLUMNS]
        client.insert(table.name, lines, column_names=columns)
    return time.perf_counter() - began


def naive_run(feeds: Path, output: Path) -> int:
    """The naive upsert in a process of its own, and once more while that is warm."""
    import ccusage_importer as program

    said = {
        feed.name: json.loads((feeds / f"{feed.name}.json").read_text()) for feed in program.FEEDS
    }
    settings = program.Settings.from_env(os.environ)
    with contextlib.closing(program.connect(settings)) as client:
        spent = {"sql": naive_upsert(client, said), "warm": naive_upsert(client, said)}
    output.write_text(json.dumps(spent))
    return 0


def subclasses(cls: type) -> Iterator[type]:
    for sub in cls.__subclasses__():
        yield sub
        yield from subclasses(sub)


# --- what is measured -------------------------------------------------------------------


def import_once(env: dict[str, str], scratch: Path, naive: str = "") -> Result:
    output = scratch / f"result-{time.monotonic_ns()}.json"
    child = ["--child", str(output), repr(time.time()), naive]
    argv = [sys.executable, str(HERE / "benchmark.py"), *child]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"an import failed ({done.returncode}):\n{done.stderr}")
    return defaultdict(float, json.loads(output.read_text()))


def median(results: list[Result]) -> Result:
    names = {name for result in results for name in result}
    medians = {name: statistics.median(r[name] for r in results) for name in names}
    return defaultdict(float, medians)


def five_feeds(env: dict[str, str]) -> float:
    """The five reports alone, three at once."""
    argvs = [["daily"], ["monthly"], ["session"], ["blocks"], ["daily", "--instances"]]
    began = time.perf_counter()
    with ThreadPoolExecutor(3) as pool:
        command = env["CCUSAGE_COMMAND"]
        list(
            pool.map(
                lambda argv: subprocess.run(
                    [command, "claude", *argv, "--json"],
                    env=env,
                    check=True,
                    stdout=subprocess.DEVNULL,
                ),
                argvs,
            )
        )
    return time.perf_counter() - began


class Lab:
    """One size in a directory: two states of the feeds, an hour of work apart."""

    def __init__(self, directory: Path, size: str) -> None:
        self.directory = directory
        self.feeds = recorded.build_feeds(*SIZES[size])
        self.command = recorded.write_command(directory / "before", self.feeds)
        self.grown = recorded.write_command(directory / "after", recorded.grow(self.feeds))
        self.env = environment(
            directory,
            CCUSAGE_COMMAND=str(self.command),
            CH_EMBEDDED_PATH=str(directory / "db" / "clickhouse"),
            MACHINE_NAME="bench",
        )

    def measure(self, runs: int, **env: str) -> Iterator[tuple[str, Result]]:
        """First import, unchanged imports, hourly changes."""
        env = {**self.env, **env}
        yield "first", median([import_once(env, self.directory)])
        yield "unchanged once", median([import_once(env, self.directory)])
        yield "unchanged", median([import_once(env, self.directory) for _ in range(runs)])
        hourly = []
        for number in range(runs):
            recorded.write_command(
                self.directory / "after", recorded.grow(self.feeds, 1000 * (number + 1))
            )
            hourly.append(import_once({**env, "CCUSAGE_COMMAND": str(self.grown)}, self.directory))
        yield "hourly", median(hourly)
        feeds = str(self.command.parent)
        naive = median([import_once(env, self.directory, feeds) for _ in range(runs + 1)][1:])
        yield "naive", defaultdict(float, sql=naive["sql"])
        yield "naive warm", defaultdict(float, sql=naive["warm"])


# --- the table --------------------------------------------------------------------------


def show(label: str, result: Result) -> None:
    cells = (f"{result[name]:>11.2f}" for name in COLUMNS[:9])
    counts = (f"{result[name]:>11.0f}" for name in COLUMNS[9:])
    print(f"{label:<26}", *cells, *counts, sep="", flush=True)


def bench_size(size: str, runs: int, scratch: Path) -> dict[str, Result]:
    lab = Lab(scratch / size, size)
    results = {}
    feeds = statistics.median(five_feeds(lab.env) for _ in range(runs))
    show(f"{size} five feeds alone", defaultdict(float, total=feeds))
    for name, result in lab.measure(runs):
        results[f"{size} embedded {name}"] = result
        show(f"{size} embedded {name}", result)
    with ClickHouseServer(lab.directory / "server") as server:
        state = {"CCUSAGE_STATE_DIR": str(lab.directory / "http-state")}
        for name, result in lab.measure(runs, **server.env(), **state):
            results[f"{size} http {name}"] = result
            show(f"{size} http {name}", result)
        for where in ("embedded", "http"):
            unchanged = results[f"{size} {where} unchanged"]
            cost = unchanged["read"] + unchanged["upsert"]
            ratios = [cost / results[f"{size} {where} {n}"]["sql"] for n in ("naive", "naive warm")]
            print(
                "    {} unchanged, read + upsert: {:.2f} of naive, {:.2f} warm".format(
                    where, *ratios
                )
            )
        if size == "M":
            server.latency(0.1)
            recorded.write_command(lab.grown.parent, recorded.grow(lab.feeds, 10**6))
            env = {**lab.env, **server.env(), **state, "CCUSAGE_COMMAND": str(lab.grown)}
            results["M http hourly, 100 ms away"] = import_once(env, lab.directory)
            show("M http hourly, 100 ms away", results["M http hourly, 100 ms away"])
    return results


def bench_fleet(scratch: Path, machines: int = 50, at_once: int = 8) -> dict[str, Result]:
    """Machines that each import an hourly change into one server, several at once."""
    feeds = recorded.build_feeds(100, 60)
    command = recorded.write_command(scratch / "fleet" / "bin", feeds)
    with ClickHouseServer(scratch / "fleet" / "server") as server:

        def run(number: int) -> Result:
            home = scratch / "fleet" / f"machine-{number}"
            env = environment(home, CCUSAGE_COMMAND=str(command), MACHINE_NAME=f"m{number}")
            return import_once({**env, **server.env()}, home)

        results = {}
        with ThreadPoolExecutor(at_once) as pool:
            for hour in ("first", "hour 1", "hour 2"):
                began = time.perf_counter()
                result = median(list(pool.map(run, range(machines))))
                parts = server.query("SELECT count() FROM system.parts WHERE active")[0][0]
                label = f"fleet {hour}, parts {parts}"
                results[label] = result
                show(label, result)
                print(f"    {machines} imports in {time.perf_counter() - began:.1f} s")
                recorded.write_command(
                    scratch / "fleet" / "bin", recorded.grow(feeds, 1000 * len(results))
                )
        expected = recorded.grow(feeds, 2000)["daily"]["totals"]["totalTokens"]
        found = server.query(
            "SELECT machine_name, sum(total_tokens) FROM ccusage_usage_daily GROUP BY 1"
        )
        exact = sum(tokens == expected for _, tokens in found)
        print(f"    {exact} of {machines} machines exact")
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=SIZES)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-fleet", action="store_true")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        output, began, feeds = args.child
        if feeds:
            return naive_run(Path(feeds), Path(output))
        return measured_run(float(began), Path(output))
    print(f"{'seconds, then counts':<26}", *(f"{name:>11}" for name in COLUMNS), sep="")
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as name:
        for size in args.sizes:
            results |= bench_size(size, args.runs, Path(name))
        if not args.no_fleet:
            results |= bench_fleet(Path(name))
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
