"""A reader never sees less than before a run, nor more than after it, nor anything twice."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
import recorded
from tables import COLUMNS, KEYS, NO_OTHERS, Database, Expected, Machine

if TYPE_CHECKING:
    from pathlib import Path

UTC = timezone.utc
VIEWS = {
    "ccusage_v_daily_summary": ("date", "total_tokens", "total_cost"),
    "ccusage_v_session_summary": ("session_key", "total_tokens", "total_cost"),
    "ccusage_v_model_performance": ("model_name", "total_tokens", "total_cost"),
    "ccusage_v_monthly_trends": ("month", "total_tokens", "total_cost"),
    "ccusage_v_active_blocks": ("block_id", "total_tokens", "cost_usd"),
}


def looking_glass() -> str:
    """One query for all views and, with FINAL, tables: rows, rows that are there twice, sums."""
    parts = [
        f"SELECT '{view}' AS name, count() AS n, count() - uniqExact({key}) AS twice, "
        f"sum({tokens}) AS tokens, sum({cost}) AS dollars FROM {view}"
        for view, (key, tokens, cost) in VIEWS.items()
    ]
    for table, key in KEYS.items():
        cost = next((c for c in COLUMNS[table] if c.startswith(("total_cost", "cost"))), "0")
        tokens = "total_tokens" if "total_tokens" in COLUMNS[table] else "0"
        parts.append(
            f"SELECT '{table}', count(), count() - uniqExact({', '.join(key)}), sum({tokens}), "
            f"sum({cost}) FROM {table} FINAL"
        )
    return " UNION ALL ".join(parts)


Sight = dict[str, tuple[int, int, int, float]]


class Watcher(threading.Thread):
    """Looks all the time; what it sees, and when it asked and knew."""

    def __init__(self, database: Database) -> None:
        super().__init__(daemon=True)
        self.client = database.server.client(database=database.name, autogenerate_session_id=False)
        self.stopped = threading.Event()
        self.seen: list[tuple[float, float, Sight]] = []
        self.failure: Exception | None = None

    def look(self) -> Sight:
        rows = self.client.query(looking_glass()).result_rows
        return {name: tuple(numbers) for name, *numbers in rows}  # type: ignore[misc]

    def run(self) -> None:
        try:
            while not self.stopped.is_set():
                asked = time.monotonic()
                sight = self.look()
                self.seen.append((asked, time.monotonic(), sight))
                time.sleep(0.03)
        except Exception as error:
            self.failure = error


def working(feeds: dict[str, Any], now: datetime) -> dict[str, Any]:
    """With an active block as the last one."""
    block = feeds["blocks"]["blocks"][-1]
    start = now.replace(minute=0, second=0, microsecond=0)
    text = [f"{at:%Y-%m-%dT%H:%M:%S}.000Z" for at in (start, start + timedelta(hours=5))]
    block |= {"id": text[0], "startTime": text[0], "endTime": text[1], "isActive": True}
    block |= {"burnRate": {"costPerHour": 1.5}, "projection": {"totalCost": 7.0}}
    return feeds


@pytest.mark.parametrize("runs", [4, pytest.param(300, marks=pytest.mark.stress)])
def test_a_reader_never_sees_less_than_before_a_run_nor_more_than_after_it(
    runs: int, tmp_path: Path, database: Database
) -> None:
    machine = Machine(tmp_path, database=database)
    stub = machine.stub()
    now = datetime.now(UTC)
    yesterday = now.date() - timedelta(days=1)
    feeds = working(recorded.build_feeds(20, 10, until=yesterday), now)
    stub.say(agents=NO_OTHERS, **feeds)
    machine.stores()
    watcher = Watcher(database)
    watcher.start()
    before, looks = watcher_sight(database), 0
    for number in range(runs):
        feeds = recorded.grow(feeds, tokens=1 + number)
        stub.say(**feeds)
        began = time.monotonic()
        machine.stores("--no-hash-projects" if number % 2 else "--hash-projects")
        ended = time.monotonic()
        after = watcher_sight(database)
        assert not watcher.failure
        for asked, known, sight in watcher.seen:
            if asked >= began and known <= ended:
                looks += 1
                for name, (rows, twice, tokens, cost) in sight.items():
                    assert not twice, name
                    assert before[name][0] <= rows <= after[name][0], name
                    assert before[name][2] <= tokens <= after[name][2], name
                    assert before[name][3] - 1e-6 <= cost <= after[name][3] + 1e-6, name
        watcher.seen.clear()
        before = after
    watcher.stopped.set()
    watcher.join()
    watcher.client.close()
    assert looks > runs
    assert before["ccusage_v_active_blocks"][0] == 1
    machine.check(Expected(hidden=runs % 2 == 1).claude(feeds).tables)


def watcher_sight(database: Database) -> Sight:
    rows = database.query(looking_glass())
    return {name: tuple(numbers) for name, *numbers in rows}  # type: ignore[misc]
