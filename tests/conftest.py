"""What several test files share: one ClickHouse server, and a database on it for each test."""

from __future__ import annotations

import itertools
import signal
import time
from collections import Counter
from datetime import date
from typing import TYPE_CHECKING

import pytest
from clickhouse_server import ClickHouseServer
from tables import Database

if TYPE_CHECKING:
    from collections.abc import Iterator

_numbers = itertools.count(1)
# A file is run by one worker. The files that take longest come first, so that all workers end at
# about the same time; test_cron.py waits for the next minute, while others work.
LONGEST = (
    *("cron", "stats", "faithful", "legacy", "check", "field_reports", "copy", "cutoff", "shell"),
    *("crash", "agents", "year", "cron_years", "feeds", "query_cli", "privacy", "identity"),
    *("lives", "real_lives", "cluster", "lock", "inputs", "html"),
)

# A process in the background, or under nohup, ignores these signals, and so would the programs
# that it starts: but tests send them.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; of the cases of a test that rotates, leave most to stress."""
    today, cases = date.today().toordinal(), Counter[str]()
    for item in items:
        if rotates := item.get_closest_marker("rotates"):
            test = item.nodeid.partition("[")[0]
            if (cases[test] + today) % rotates.args[0]:
                item.add_marker("stress")
            cases[test] += 1
    order = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_runtest_setup() -> None:
    """Start no test in the last minute of a day in UTC: "today" must last as long as the test."""
    left = 86_400 - time.time() % 86_400
    if left < 60:
        time.sleep(left)


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    with ClickHouseServer(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture
def new_database(clickhouse: ClickHouseServer) -> Iterator[Database]:
    """A database for one test, not yet created; the server's log is empty, no fault is armed."""
    database = Database(clickhouse, f"test_{next(_numbers)}")
    clickhouse.control(reset=True, disarm=True)
    yield database
    clickhouse.control(reset=True, disarm=True, latency=0, pretend={})
    database.drop()


@pytest.fixture(scope="session")
def emptied() -> list[tuple[Database, dict[str, str]]]:
    """What tests have left to others, each with its schema."""
    return []


@pytest.fixture
def database(
    clickhouse: ClickHouseServer, emptied: list[tuple[Database, dict[str, str]]]
) -> Iterator[Database]:
    """As new_database, but its tables and views are there, and empty.

    Creating them is most of the work of a first import, so another test gets them afterwards.
    """
    clickhouse.control(reset=True, disarm=True)
    if not emptied:
        made = Database(clickhouse, f"test_{next(_numbers)}")
        made.create()
        emptied.append((made, made.schema()))
    database, schema = emptied.pop()
    yield database
    _, running = clickhouse.progress()
    clickhouse.control(reset=True, disarm=True, latency=0, pretend={})
    if not running and database.empty(schema):
        emptied.append((database, schema))
    else:
        database.drop()
