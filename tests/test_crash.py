"""Killed at any moment, the next run ends as if nothing had happened.

At no moment in between does a table show a hole or count anything twice: with FINAL each one is
as before the run, or as after it.
"""

from __future__ import annotations

import random
import shutil
import time
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest
from recorded import build_feeds, write_command
from scenes import CHOICES, Scene, Seesaw, an_hour, first_import, part, upgrade
from tables import Expected, Machine, assert_same

import ccusage_importer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scenes import Choose
    from tables import Database


@pytest.mark.rotates(3)
@CHOICES
@pytest.mark.parametrize("what", [first_import, an_hour, upgrade])
def test_killed_at_any_statement_the_next_run_ends_as_if_nothing_had_happened(
    what: Callable[..., Scene], choose: Choose, tmp_path: Path, database: Database
) -> None:
    scene = what(tmp_path, database)
    moments = choose(range(scene.statements_of_a_run()), 13)
    torn = 0
    for moment in moments:
        killed_after(scene, moment, random.uniform(0, 0.005))
        torn += scene.check_between()
        if not scene.untouched():
            scene.recover()
            scene.reset()
    assert torn > len(moments) / 9 or choose is part  # the kills did hit the writing


@CHOICES
def test_killed_at_any_statement_of_an_update_the_next_run_ends_exact(
    choose: Choose, tmp_path: Path, database: Database
) -> None:
    seesaw = Seesaw(tmp_path, database)
    states = []
    for moment in choose(range(seesaw.statements_of_a_run()), 11):
        killed_after(seesaw, moment, 0.002 * (moment % 4))
        states.append(seesaw.look())
        if states[-1] == "torn":
            seesaw.recover()
        elif states[-1] == "done":
            seesaw.turn()
    assert states.count("torn") > len(states) / 8 or choose is part


def killed_after(scene: Scene | Seesaw, statements: int, seconds: float) -> None:
    """Kill a run once it has sent so many statements, and a little later still."""
    scene.server.statements(reset=True)
    process = scene.machine.fork(*scene.args)
    deadline = time.monotonic() + 60
    while process.is_alive():
        begun, _ = scene.server.progress(begun=statements, seconds=0.5)
        if begun >= statements:
            break
        assert time.monotonic() < deadline, scene.server.statements()
    time.sleep(seconds)
    process.kill()
    process.join()
    scene.settle()


@CHOICES
def test_killed_while_the_database_is_embedded(choose: Choose, tmp_path: Path) -> None:
    machine = Machine(tmp_path, "m1")
    machine.populate(days=8)
    fresh = machine.home / "fresh"
    machine.stores()
    shutil.copytree(machine.path, fresh / "clickhouse", symlinks=True)
    shutil.copytree(machine.state, fresh / "state")
    before = machine.tables()
    machine.populate(start=date(2025, 9, 28), days=4, seed=3)
    feeds = machine.freeze()
    began = time.monotonic()
    assert machine.run("--no-hash-projects").code == 0
    duration = time.monotonic() - began
    after = machine.tables()
    assert_same(after, Expected(hidden=False).claude(feeds).tables)
    for tenths in choose(range(5, 10), 2):
        shutil.rmtree(machine.path)
        shutil.rmtree(machine.state)
        shutil.copytree(fresh / "clickhouse", machine.path, symlinks=True)
        shutil.copytree(fresh / "state", machine.state)
        process = machine.start("--no-hash-projects")
        time.sleep(duration * tenths / 10)
        process.kill()
        process.communicate()
        shown = machine.tables(final=True)
        for table, rows in shown.items():
            assert rows in (before[table], after[table]), table
        machine.stores("--no-hash-projects")
        machine.check(after)


def test_killed_after_the_models_alone_have_changed_the_next_run_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path)
    feeds = build_feeds(3, 3)
    machine.env["CCUSAGE_COMMAND"] = str(write_command(tmp_path / "ccusage", feeds))
    machine.stores()
    free = dict.fromkeys(
        ("inputTokens", "outputTokens", "cacheCreationTokens", "cacheReadTokens", "cost"), 0
    )
    for row in feeds["daily"]["daily"]:
        row["modelsUsed"].append("free")
        row["modelBreakdowns"].append({"modelName": "free", **free})
    write_command(tmp_path / "ccusage", feeds)
    upsert = ccusage_importer.ClickHouseImporter.upsert

    def killed_at_days(self: Any, table: Any, *args: Any) -> None:
        if table.name == "ccusage_usage_daily":
            raise KeyboardInterrupt
        upsert(self, table, *args)

    with monkeypatch.context() as patch:
        patch.setattr(ccusage_importer.ClickHouseImporter, "upsert", killed_at_days)
        machine.stores(code=130)
    machine.stores()
    machine.check(Expected().claude(feeds).tables)
