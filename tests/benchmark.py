"""How long an import takes and what it writes, beside two yardsticks. Run by hand:

    uv run python tests/benchmark.py [--sizes S M L] [--runs 3] [--output FILE]
    uv run python tests/benchmark.py --fleet 1000 [--stored 0] [--output FILE]

Sizes: S 100 sessions in 60 days, M 1,500 in a year, L 20,000 in three years, of five models. Their
feeds are recorded, so that ccusage is not what is measured; `real` has the true ccusage 20 on the
transcripts of such a year. Each line is the median of several runs, each in a process of its own:

- first: into an empty database; unchanged: nothing happened; hourly: today's rows grew
- five feeds: what the import asks of ccusage, asked by nobody else, three at once
- naive: deletes and inserts every row each time, in the plain way, from the same checked records.
  Its process pays for what client.insert() imports, which is pandas; warm: once more in it

A fleet is so many machines, each with usage of its own (100 sessions in 60 days), that import what
an hour changed into one server, eight at once, as cron does it; `--stored` has rows of so many more
machines lie in the tables, which takes no time to make. After each hour of three: how long the
imports took, how much CPU of the server's each needed, and how many parts, unfinished mutations and
superseded rows there are.

`connect` has the schema check and the history; `read` what is read of the rows; `sql` all
statements. Phases overlap: ccusage works while the program connects and reads.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import real_ccusage  # noqa: E402
import recorded  # noqa: E402
import transcripts  # noqa: E402
from clickhouse_server import ClickHouseServer  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZES = {"S": (100, 60), "M": (1_500, 365), "L": (20_000, 1_095)}
PHASES = {
    "start": (),
    "fetch": ("fetch_all",),
    "connect": ("connect", "ClickHouseImporter.prepare", "ClickHouseImporter.read_history"),
    "read": ("ClickHouseImporter.read_stored",),
    "difference": ("plan_import",),
    "upsert": ("write_plan",),
    "statistics": ("read_statistics",),
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


def counted(owner: Any, name: str, spent: Result, count: Callable[..., Result]) -> None:
    """Add what `count` says of the arguments of `owner.name`."""
    original = getattr(owner, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        for what, number in count(*args).items():
            spent[what] += number
        return original(*args, **kwargs)

    setattr(owner, name, wrapper)


def measured_run(began: float, output: Path) -> int:
    """Run the program's main with its phases timed, its statements, rows and bytes counted."""
    spent: Result = defaultdict(float)
    import ccusage_importer as program

    spent["start"] = time.time() - began
    for phase, names in PHASES.items():
        for name in names:
            *owners, last = name.split(".")
            timed(getattr(program, owners[0]) if owners else program, last, spent, phase)
    insert = program.ClickHouseImporter
    counted(insert, "_insert", spent, lambda _, __, ___, rows, ____: {"rows": len(rows)})
    client = client_class()
    for name in ("query", "command", "raw_insert"):
        timed(client, name, spent, "sql")
        counted(client, name, spent, lambda *_: {"statements": 1})
    counted(client, "raw_insert", spent, lambda *args: {"kB": len(args[3]) / 1000})
    counted(client, "command", spent, lambda _, sql, *__: {"mutations": sql.startswith("DELETE")})
    code = program.main(os.environ.get("BENCHMARK_OPTIONS", "").split())
    tell(spent, began, output)
    return code


def client_class() -> Any:
    """The class of the client that the program is going to use."""
    if os.environ.get("CH_HOST"):
        from clickhouse_connect.driver.httpclient import HttpClient

        return HttpClient
    from clickhouse_connect.driver._chdbclient import ChdbClient

    return ChdbClient


def tell(spent: Result, began: float, output: Path) -> None:
    spent["total"] = time.time() - began
    spent["MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    output.write_text(json.dumps(spent))


def naive_run(began: float, output: Path, feeds: Path) -> int:
    """The naive upsert in a process of its own, and once more while that is warm."""
    import ccusage_importer as program

    rows: dict[Any, list[list[Any]]] = defaultdict(list)
    now = program.datetime.now(program.UTC)
    for feed in program.FEEDS:
        content = program.decode(feed, (feeds / f"{feed.name}.json").read_bytes())
        parsed = program.parse_feed(feed, content, program.Ids(""), program.UTC)
        for record in parsed[feed.name, "claude"].values():
            table = program.TABLES[feed.name]
            for place, key, row in program.build_rows(table, record, "20.0.24"):
                rows[place].append(["naive", *key, *row.values, row.version, now, now, 0])
    spent: Result = {}
    with contextlib.closing(program.connect(program.Settings.from_env(os.environ))) as client:
        for name in ("sql", "warm"):
            start = time.perf_counter()
            for table, lines in rows.items():
                columns = ["machine_name", "agent", *table.key, *table.columns]
                client.command(f"DELETE FROM {table.name} WHERE machine_name = 'naive'")
                names = [*columns, *program.SYSTEM_COLUMNS]
                client.insert(table.name, lines, column_names=names)
            spent[name] = time.perf_counter() - start
            if name == "sql":
                tell(spent, began, output)
    output.write_text(json.dumps({**json.loads(output.read_text()), **spent}))
    return 0


# --- what is measured -------------------------------------------------------------------


def run_child(env: dict[str, str], scratch: Path, naive: str = "") -> Result:
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


class Lab:
    """A machine in a directory, and what ccusage says to it hour after hour."""

    def __init__(self, directory: Path, size: str, runs: int) -> None:
        self.directory = directory
        self.runs = runs
        self.hours = 0
        self.feeds = recorded.build_feeds(*SIZES[size])
        self.command = recorded.write_command(directory / "bin", self.feeds)
        self.env = transcripts.environment(
            directory, CCUSAGE_COMMAND=str(self.command), MACHINE_NAME="bench"
        )

    def work(self) -> None:
        """An hour passes."""
        self.hours += 1
        recorded.write_command(self.directory / "bin", recorded.grow(self.feeds, self.hours))

    def measure(self, **env: str) -> Iterator[tuple[str, Result]]:
        first = []
        for number in range(self.runs):
            state = self.directory / f"state-{env.get('CH_HOST')}-{number}"
            database = {"CH_EMBEDDED_PATH": str(state / "db"), "CCUSAGE_STATE_DIR": str(state)}
            here = {**self.env, **env, **database, "CH_DATABASE": f"first{number}"}
            first.append(run_child(here, self.directory))
        yield "first", median(first)
        yield "unchanged", median([run_child(here, self.directory) for _ in range(self.runs)])
        hourly = []
        for _ in range(self.runs):
            self.work()
            hourly.append(run_child(here, self.directory))
        yield "hourly", median(hourly)
        feeds = str(self.command.parent)
        yield "naive", median([run_child(here, self.directory, feeds) for _ in range(self.runs)])


# --- the table --------------------------------------------------------------------------


def show(label: str, result: Result) -> None:
    cells = (f"{result[name]:>11.2f}" for name in COLUMNS[:9])
    counts = (f"{result[name]:>11.0f}" for name in COLUMNS[9:])
    print(f"{label:<26}", *cells, *counts, sep="", flush=True)


def show_ratios(where: str, found: dict[str, Result]) -> None:
    naive, unchanged, first = found["naive"], found["unchanged"], found["first"]
    sql = unchanged["read"] + unchanged["upsert"]
    print(
        f"    {where}: the SQL of an unchanged import takes {sql / naive['sql']:.2f} of the naive "
        f"upsert's ({sql / naive['warm']:.2f} of a warm one's), a first import "
        f"{first['total'] / naive['total']:.2f} of a naive one",
        flush=True,
    )


def bench_size(size: str, runs: int, scratch: Path) -> dict[str, Result]:
    lab = Lab(scratch / size, size, runs)
    results: dict[str, Result] = {}
    with ClickHouseServer(lab.directory / "server") as server:
        for where, env in (("embedded", {}), ("server", server.env())):
            for name, result in lab.measure(**env):
                results[f"{size} {where} {name}"] = result
                show(f"{size} {where} {name}", result)
            found = {name: results[f"{size} {where} {name}"] for name in ("first", "unchanged")}
            show_ratios(where, {**found, "naive": results[f"{size} {where} naive"]})
        if size == "M":
            state = str(lab.directory / f"state-{server.env()['CH_HOST']}-{runs - 1}")
            there = {"CCUSAGE_STATE_DIR": state, "CH_DATABASE": f"first{runs - 1}"}
            server.latency(0.1)
            lab.work()
            away = run_child({**lab.env, **server.env(), **there}, lab.directory)
            results["M server hourly, 100 ms away"] = away
            show("M server hourly, 100 ms away", away)
    return results


def bench_ten_years(runs: int, scratch: Path) -> dict[str, Result]:
    """A machine that stores ten years and reports 30 days, beside one that has these alone."""
    results: dict[str, Result] = {}
    for name, first in (("30 days alone", 30), ("ten years stored", 0)):
        lab = Lab(scratch / name.replace(" ", "-"), "S", runs)
        lab.env["CH_EMBEDDED_PATH"] = str(lab.directory / "db")
        for recent in (first, 30):  # the first import stores all; the second is after the purge
            lab.feeds = recorded.build_feeds(15_000, 3650, recent=recent)
            recorded.write_command(lab.directory / "bin", lab.feeds)
            run_child(lab.env, lab.directory)
        results[f"{name}, unchanged"] = median(
            [run_child(lab.env, lab.directory) for _ in range(runs)]
        )
        hourly = []
        for _ in range(runs):
            lab.work()
            hourly.append(run_child(lab.env, lab.directory))
        results[f"{name}, hourly"] = median(hourly)
    for label, result in results.items():
        show(label, result)
    for what in ("unchanged", "hourly"):
        alone, beside = (results[f"{n}, {what}"] for n in ("30 days alone", "ten years stored"))
        ratio, memory = beside["total"] / alone["total"], beside["MB"] / alone["MB"]
        print(f"    {what}: ten years cost {ratio:.2f} of 30 days, and {memory:.2f} of the memory")
    return results


def bench_growth(results: dict[str, Result]) -> None:
    """What an hourly change costs on much history, of what it costs on little."""
    for where in ("embedded", "server"):
        few, many = (results.get(f"{size} {where} hourly") for size in "SL")
        if few and many:
            # The feeds are read, too: three years of them are 28 MB.
            costs = [r["difference"] + r["upsert"] + r["statistics"] for r in (few, many)]
            whole = [r["total"] - r["read"] - r["fetch"] for r in (few, many)]
            print(
                f"    {where}: an hourly change on L costs {whole[1] / whole[0]:.1f} of one on S, "
                f"the reading apart (difference, upsert, statistics: {costs[1] / costs[0]:.1f})"
            )


def bench_real(runs: int, scratch: Path) -> dict[str, Result]:
    """The true ccusage 20 on a year of transcripts: what the program adds to its five feeds."""
    directory = scratch / "real"
    now = datetime.now(timezone.utc)
    env = transcripts.environment(
        directory,
        CCUSAGE_COMMAND=" ".join(real_ccusage.command(real_ccusage.NEWEST)),
        CCUSAGE_ARGS="--offline",
        MACHINE_NAME="bench",
    )
    first_day = now.date() - timedelta(days=364)
    what: Any = {"start": first_day, "days": 365, "sessions_per_day": 3, "until": now}
    files = transcripts.populate(directory / "claude", **what)
    print(f"    real: ccusage {real_ccusage.NEWEST} on {len(files):,} transcripts")
    found: dict[str, list[Result]] = defaultdict(list)
    for number in range(runs):
        env["CCUSAGE_STATE_DIR"] = str(directory / f"state-{number}")
        env["CH_EMBEDDED_PATH"] = str(directory / f"state-{number}" / "db")
        for name in ("first", "unchanged", "hourly"):
            if name == "hourly":
                work(files[-1], number)
            alone = five_feeds(env)
            result = run_child(env, directory)
            found[f"real embedded {name}"].append(result)
            found["real five feeds"].append(defaultdict(float, total=alone))
            found[f"added, {name}"].append({"seconds": result["total"] - alone})
    results = {name: median(those) for name, those in found.items()}
    for name in ("real five feeds", *(n for n in results if " embedded " in n)):
        show(name, results[name])
    added = (f"{results[f'added, {n}']['seconds']:.2f} s" for n in ("first", "unchanged", "hourly"))
    print(f"    the program adds to the five feeds: {', '.join(added)}", flush=True)
    return results


def work(session: Path, number: int) -> None:
    now = datetime.now(timezone.utc)
    transcripts.grow(session, [transcripts.Message(now, input=number, message_id=f"msg-{number}")])


def five_feeds(env: dict[str, str]) -> float:
    """The five reports alone, three at once."""
    argvs = [["daily"], ["monthly"], ["session"], ["blocks"], ["daily", "--instances"]]

    def ask(argv: list[str]) -> None:
        command = [*env["CCUSAGE_COMMAND"].split(), "claude", *argv, "--json", "--offline"]
        subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)

    began = time.perf_counter()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(ask, argvs))
    return time.perf_counter() - began


class Fleet:
    """Machines that import into one server, several at once."""

    def __init__(self, scratch: Path, server: ClickHouseServer, machines: int) -> None:
        self.server = server
        self.machines = range(machines)
        self.homes = [scratch / f"m{number}" for number in self.machines]

    def feeds(self, number: int, hour: int) -> recorded.Feeds:
        return recorded.grow(recorded.build_feeds(100, 60, seed=number), hour)

    def run(self, number: int, hour: int) -> Result:
        home = self.homes[number]
        command = recorded.write_command(home / "bin", self.feeds(number, hour))
        settings = {"CCUSAGE_COMMAND": str(command), "MACHINE_NAME": home.name}
        env = transcripts.environment(home, BENCHMARK_OPTIONS="--quiet", **settings)
        return run_child({**env, **self.server.env()}, home)

    def multiply(self, times: int) -> None:
        """Store the rows of so many other machines, as copies of the first one's."""
        for table in self.tables():
            self.server.query(
                f"INSERT INTO {table} SELECT * REPLACE (concat('copy-', "
                f"toString(arrayJoin(range({times})))) AS machine_name) "
                f"FROM (SELECT * FROM {table} WHERE machine_name = 'm0')"
            )

    def tables(self) -> list[str]:
        sql = "SELECT name FROM system.tables WHERE name LIKE 'ccusage%' AND engine != 'View'"
        return [name for (name,) in self.server.query(sql)]

    def state(self) -> dict[str, float]:
        """What piles up, if anything does."""
        ((parts,),) = self.server.query(
            "SELECT max(parts) FROM (SELECT count() AS parts FROM system.parts "
            "WHERE active AND table LIKE 'ccusage%' GROUP BY table)"
        )
        ((mutations,),) = self.server.query(
            "SELECT count() FROM system.mutations WHERE NOT is_done"
        )
        doubled = " UNION ALL ".join(
            f"SELECT (SELECT count() FROM {table}) - (SELECT count() FROM {table} FINAL) AS rows"
            for table in self.tables()
            if not table.endswith("history")
        )
        ((superseded,),) = self.server.query(f"SELECT sum(rows) FROM ({doubled})")
        return {
            "active parts of one table": parts,
            "unfinished mutations": mutations,
            "superseded rows": superseded,
        }

    def exact(self, hour: int) -> int:
        """How many machines have stored what their ccusage last said."""
        sql = "SELECT machine_name, sum(total_tokens) FROM ccusage_usage_daily FINAL GROUP BY 1"
        found = dict(self.server.query(sql))
        wanted = (self.feeds(n, hour)["daily"]["totals"]["totalTokens"] for n in self.machines)
        return sum(found[f"m{n}"] == tokens for n, tokens in enumerate(wanted))


def bench_fleet(
    scratch: Path, machines: int = 50, stored: int = 0, at_once: int = 8
) -> dict[str, Result]:
    """Three hours of a fleet, after its first imports."""
    results = {}
    with (
        ClickHouseServer(scratch / "fleet" / "server") as server,
        ThreadPoolExecutor(at_once) as pool,
    ):
        fleet = Fleet(scratch / "fleet", server, machines)
        for hour in range(4):
            began, cpu = time.perf_counter(), server.cpu()
            runs = list(pool.map(fleet.run, fleet.machines, [hour] * machines))
            took, cpu = time.perf_counter() - began, server.cpu() - cpu
            if hour == 0:
                fleet.multiply(stored)
            label = f"fleet hour {hour}" if hour else "fleet first"
            totals = sorted(run["total"] for run in runs)
            slow = totals[int(0.95 * (machines - 1))]
            state = fleet.state()
            extra = {"slow": slow, "server's CPU of an import": cpu / machines}
            results[label] = defaultdict(float, median(runs) | extra | state)
            show(label, results[label])
            piled = ", ".join(f"{number:.0f} {what}" for what, number in state.items())
            print(
                f"    {machines} imports in {took:.1f} s, 95 % of them within {slow:.2f} s, each "
                f"with {cpu / machines:.2f} s of the server's CPU; then {piled}",
                flush=True,
            )
        print(f"    {fleet.exact(hour)} of {machines} machines exact", flush=True)
    return results


def bench_start(runs: int) -> dict[str, Result]:
    """Seconds of CPU until the program has said its version or its help."""
    results = {}
    for option in ("--version", "--help"):
        seconds = []
        for _ in range(runs):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            argv = [sys.executable, str(HERE.parent / "ccusage_importer.py"), option]
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        results[option] = {"cpu": statistics.median(seconds)}
        print(f"    {option}: {results[option]['cpu']:.2f} s of CPU", flush=True)
    return results


def bench_all(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    results: dict[str, Any] = bench_start(args.runs)
    for size in args.sizes:
        results |= bench_size(size, args.runs, scratch)
        shutil.rmtree(scratch / size)
    bench_growth(results)
    results |= bench_ten_years(args.runs, scratch)
    results |= bench_real(args.runs, scratch)
    if not args.no_fleet:
        results |= bench_fleet(scratch)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=SIZES)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-fleet", action="store_true")
    parser.add_argument("--fleet", type=int, metavar="MACHINES", help="a fleet, and nothing else")
    parser.add_argument("--stored", type=int, default=0, metavar="MACHINES")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        output, began, feeds = args.child
        if feeds:
            return naive_run(float(began), Path(output), Path(feeds))
        return measured_run(float(began), Path(output))
    print(f"{'seconds, then counts':<26}", *(f"{name:>11}" for name in COLUMNS), sep="")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        if args.fleet:
            results |= bench_fleet(Path(name), args.fleet, args.stored)
        else:
            results |= bench_all(args, Path(name))
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
