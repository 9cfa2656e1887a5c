"""Random lives of transcripts with the real ccusage.

The same lives as in the model (see lives.py), written as files. The truth is a complete copy of
all that was ever used, counted by ccusage.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from history import comparable
from lives import MIXED, PLAIN, Event, Truth, World, make_life, scan, zone_of
from tables import FEED_TABLES, NO_OTHERS, Expected, Machine, at, total
from transcripts import OPUS, SONNET, Message, write_session

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import lives
    from tables import Database, Tables

MODELS = {"opus": OPUS, "sonnet": SONNET}
KINDS = {kind: often for kind, often in PLAIN.items() if kind != "price"}


class RealLife:
    """A life of the model on a real machine.

    What is hidden lies in another configuration directory for a while.
    """

    def __init__(self, home: Path, seed: int, database: Database) -> None:
        self.zone = zone_of(seed)
        self.world, self.truth = World(self.zone), Truth()
        self.machine = Machine(home, database=database, zone=str(self.zone))
        self.complete = self.machine.home / "complete"
        self.hidden = self.machine.home / "elsewhere"
        self.happened: set[str] = set()
        self.before: Tables | None = None

    def live(self, events: Iterable[Event]) -> None:
        for event in events:
            if event.kind == "import":
                self.imports(event)
            elif self.world.apply(event):
                self.happened.add(event.kind)

    def imports(self, event: Event) -> None:
        failed = event.values[2] if event.values else ""
        self.write_files()
        self.truth.see(self.world, scan(self.world))
        self.machine.use(self.world.version)
        feeds = self.machine.feeds()
        stub = self.machine.stub()
        stub.say(agents=NO_OTHERS, **feeds)
        stub.fail(*filter(None, [failed]))
        self.happened |= {"fail"} if failed else set()
        with at(event.at):
            self.machine.stores(code=3 if failed else 0)
        tables = self.machine.tables(keep=True)
        with at(event.at):
            self.machine.stores(code=3 if failed else 0)
        assert self.machine.tables(keep=True) == tables, "the same feeds again changed something"
        self.judge(comparable(tables), bool(failed))
        self.before = tables

    def write_files(self) -> None:
        for folder in (self.machine.claude, self.hidden):
            shutil.rmtree(folder / "projects", ignore_errors=True)
            (folder / "projects").mkdir(parents=True)
        for file in self.world.files:
            folder = self.hidden if file.hidden else self.machine.claude
            write_session(folder, file.project, file.session, [*map(real, file.messages)])

    def ever(self) -> Tables:
        """What ccusage says of a complete copy of all that any import could see."""
        shutil.rmtree(self.complete, ignore_errors=True)
        (self.complete / "projects").mkdir(parents=True)
        sessions: dict[tuple[str, str], list[Message]] = {}
        for use in self.truth.uses():
            sessions.setdefault((use.project, use.session), []).append(real(use.message))
        for place, messages in sessions.items():
            write_session(self.complete, *place, messages)
        self.machine.env["CLAUDE_CONFIG_DIR"] = str(self.complete)
        feeds = self.machine.feeds()
        self.machine.env["CLAUDE_CONFIG_DIR"] = str(self.machine.claude)
        return comparable(Expected(self.machine.version, str(self.zone)).claude(feeds).tables)

    def judge(self, tables: Tables, failed: bool) -> None:
        truth = self.ever()
        plain = not self.happened & MIXED.keys()
        for feed in FEED_TABLES:
            name = FEED_TABLES[feed]
            if plain or feed in ("daily", "monthly", "blocks"):
                assert total(tables, feed) <= total(truth, feed), feed
            if self.before and plain:
                assert total(tables, feed) >= total(self.before, feed), feed
            if feed in ("daily", "monthly"):
                for key, row in tables[name].items():
                    assert row["total_tokens"] <= truth[name][key]["total_tokens"], key
        if plain and "fail" not in self.happened:
            self.judge_exactly(tables, truth)

    def judge_exactly(self, tables: Tables, truth: Tables) -> None:
        for feed in ("daily", "monthly", "session", "projects"):
            name = FEED_TABLES[feed]
            for key in tables[name].keys() | truth[name].keys():
                if self.truth.is_exact(feed, key):
                    assert used(tables[name].get(key)) == used(truth[name].get(key)), (feed, key)
        if self.truth.blocks_are_exact():
            assert total(tables, "blocks") == total(truth, "blocks")


def real(message: lives.Message) -> Message:
    part = message.tokens // 1000
    name = str(message.number)
    return Message(
        message.at, MODELS[message.model], input=400 * part, output=600 * part, text=name
    )


def used(row: dict[str, Any] | None) -> Any:
    return row and (row["total_tokens"], row["total_cost"].__round__(6), row["models_count"])


@pytest.mark.rotates(2)
@pytest.mark.parametrize(
    "seed", [*range(2), *(pytest.param(n, marks=pytest.mark.stress) for n in range(2, 100))]
)
@pytest.mark.parametrize("kinds", [KINDS, {**KINDS, **MIXED}], ids=["plain", "mixed"])
def test_whatever_happens_to_transcripts_the_tables_keep_their_promises(
    kinds: dict[str, float], seed: int, tmp_path: Path, database: Database
) -> None:
    kinds = {kind: often for kind, often in kinds.items() if kind != "twice"}
    events = make_life(seed, kinds, 8)
    last = [event for event in events if event.kind == "import"][-3:]
    RealLife(tmp_path, seed, database).live(e for e in events if e.kind != "import" or e in last)
