"""Years of cron in minutes: what a machine lives through in a year and a half.

The program's clock is set to the time of each import. Transcripts are deleted after 30 days; a
complete copy is kept beside, and at the end ccusage tells of that copy what must be stored.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING
from unittest import mock

import transcripts
from clickhouse_server import ClickHouseServer
from history import History
from tables import FEED_TABLES, Database, Done, Machine, at, total
from transcripts import Message

import ccusage_importer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UTC = timezone.utc
SIX_HOURS = timedelta(hours=6)
RETENTION = 30
OLD, NEW = "default:before", "default:after"
# What the log says of each trouble, and in how many runs it is an error.
TROUBLES = {
    "code: 243": 2,
    "No space left on device": 1,
    "Connection refused": 4,
    "Authentication failed": 3,
}


class Cron:
    """A machine on which cron imports every six hours, and the server that it imports into.

    Work goes on whether imports fail or not. `done` has every run: its code and what it printed.
    """

    def __init__(self, home: Path) -> None:
        self.server = ClickHouseServer(home / "server", users=[OLD])
        self.server.start()
        database = Database(self.server, "years")
        self.machine = Machine(home, version="20.0.20", database=database, zone="Europe/Berlin")
        self.history = History(self.machine, datetime.now(UTC))
        self.done: list[Done] = []

    def goes_on(self, day: str, imports: int, *codes: int) -> None:
        """Six hours of work before each import. The codes allowed are 0, or these."""
        for number in range(imports):
            self.history.now = datetime.fromisoformat(f"{day}T06:00+00:00") + number * SIX_HOURS
            self.work(self.history.now)
            transcripts.purge(self.machine.claude, self.history.now, RETENTION)
            with at(self.history.now):
                done = self.machine.main("--quiet")
            assert done.code in (codes or (0,)), done
            self.done.append(done)

    def work(self, now: datetime) -> None:
        """A session in the morning and one for the rest of the day, which may pass midnight.

        The clocks of Berlin are changed between the first two messages of a morning.
        """
        begin = now - SIX_HOURS
        session = f"{begin:%Y-%m-%d}-{'morning' if begin.hour == 0 else 'day'}"
        moments = [begin + timedelta(hours=hours) for hours in (0.5, 1.5, 5.5)]
        messages = [Message(moment, input=moment.day, output=moment.hour) for moment in moments]
        self.history.use(session, *messages, project=f"-p{begin.day % 2}")

    def reboot(self) -> None:
        """Nothing is left but files, and of these not the temporary ones."""
        for thing in vars(ccusage_importer).values():
            if hasattr(thing, "cache_clear"):
                thing.cache_clear()
        for folder in (self.machine.home / "tmp", self.machine.home / "xdg" / "cache"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """The server can write some tables and no more."""
        self.server.arm("code:243", match="^INSERT INTO ccusage_usage_sessions", times=-1)
        yield
        self.server.disarm()

    @contextmanager
    def full_disk_at_home(self) -> Iterator[None]:
        """What the machine is to remember of a run cannot be written."""
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "machine.json")
        with mock.patch.object(ccusage_importer.Identity, "save", side_effect=full):
            yield

    @contextmanager
    def server_down(self) -> Iterator[None]:
        self.server.stop()
        yield
        self.server.start()

    @contextmanager
    def password_changed(self) -> Iterator[None]:
        """The server has another one, which the machine learns at last."""
        self.server.stop()
        other = ClickHouseServer(self.server.path, users=[NEW])
        other.port = self.server.port
        self.server = other
        other.start()
        self.machine.database = Database(other, "years")
        yield
        self.machine.env |= self.machine.database.env()

    def log(self) -> str:
        return (self.machine.state / "ccusage_import.log").read_text(encoding="utf-8")

    def stop(self) -> None:
        self.server.stop()


def live(cron: Cron) -> None:
    """40 imports from a spring to the autumn of the next year."""
    cron.goes_on("2024-03-30", 10)  # clocks go forward on the 31st
    cron.reboot()
    with cron.full_disk():
        cron.goes_on("2024-05-05", 2, 1, 3)
    cron.goes_on("2024-05-06", 2)
    with cron.full_disk_at_home():
        cron.goes_on("2024-05-07", 1, 1)
    cron.machine.use("20.0.24")
    cron.goes_on("2024-12-30", 3)
    with cron.server_down():
        cron.goes_on("2025-02-28", 4, 1)
        cron.reboot()
    cron.goes_on("2025-03-01", 1)
    with cron.password_changed():
        cron.goes_on("2025-05-10", 3, 1)
    cron.goes_on("2025-05-11", 2)
    cron.machine.env["TZ"] = "Asia/Tokyo"
    cron.reboot()
    cron.goes_on("2025-10-22", 4)
    cron.goes_on("2025-10-25", 8)  # clocks go back on the 26th, at home


def test_after_years_of_cron_and_its_troubles_all_is_stored_and_each_trouble_was_told(
    tmp_path: Path,
) -> None:
    cron = Cron(tmp_path)
    try:
        live(cron)
        assert len(cron.done) == 40
        assert_all_is_stored(cron)
    finally:
        cron.stop()
    assert_each_trouble_is_in_the_log(cron.log())
    assert_mails_are_few(cron.done)


def assert_all_is_stored(cron: Cron) -> None:
    """Once, by the days of Berlin, though most transcripts are gone."""
    cron.history.check()
    ever = cron.history.truth()
    assert 0 < total(cron.machine.expected(), "daily") < total(ever, "daily") / 2
    for feed in FEED_TABLES:
        assert total(cron.machine.tables(), feed) == total(ever, "daily")
    assert {zone for (zone,) in cron.machine.history("timezone")} == {"Europe/Berlin"}


def assert_each_trouble_is_in_the_log(log: str) -> None:
    errors = [line for line in log.splitlines() if re.search(r" ERROR ", line)]
    assert len(errors) == sum(TROUBLES.values()), "\n".join(errors)
    for trouble, runs in TROUBLES.items():
        assert sum(trouble in line for line in errors) == runs, "\n".join(errors)
    used = re.findall(r" INFO ccusage (20\.0\.\d+): ", log)
    assert used == sorted(used)
    assert {*used} == {"20.0.20", "20.0.24"}


def assert_mails_are_few(done: list[Done]) -> None:
    """Cron sends a mail of what is printed: the cause and the remedy of a failure, or nothing."""
    assert all(run.out == "" for run in done)
    odd = [run for run in done if len(run.err.splitlines()) not in ((1, 2) if run.code else (0,))]
    assert not odd, "\n".join(map(str, odd))
    mails = [run.err for run in done if run.err]
    assert len(mails) == sum(TROUBLES.values())
    assert len({*mails}) <= len(TROUBLES), {*mails}
