"""Crowds: by hand, with `pytest -m stress`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tables import Database, Machine, assert_same
from test_year import Life, without_gaps

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.stress


@pytest.mark.parametrize("where", ["embedded", "server"])
def test_ten_imports_at_once_make_one_and_nine_that_find_nothing(
    where: str, tmp_path: Path, database: Database
) -> None:
    machine = Machine(tmp_path, database=database if where == "server" else None)
    machine.populate(days=10)
    for _ in range(2):
        running = [machine.start() for _ in range(10)]
        for process in running:
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
        machine.check()
    assert sum(rows > 0 for (rows,) in machine.history("rows_inserted")) == 1


def test_sixteen_machines_at_once_are_each_exact(tmp_path: Path, database: Database) -> None:
    machines = [Machine(tmp_path, f"m{n}", database=database) for n in range(16)]
    for seed, machine in enumerate(machines):
        machine.populate(days=8, seed=seed, resumed=False)
    for round_ in range(3):
        running = [machine.start() for machine in machines]
        for process in running:
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
        for seed, machine in enumerate(machines):
            machine.check()
            machine.populate(days=9 + round_, seed=seed, resumed=False)


@pytest.mark.parametrize("retention", [7, 30])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_year_day_after_day(
    retention: int, resumed: bool, tmp_path: Path, database: Database
) -> None:
    machine = Machine(tmp_path, database=database)
    life = Life(machine, retention, resumed=resumed, days=120)
    for _ in life.live(every=1):
        pass
    assert_same(without_gaps(machine.tables()), without_gaps(life.ever()), tolerance=1e-6)
