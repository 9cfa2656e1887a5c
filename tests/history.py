"""A machine beside a complete copy of all that was ever used, which says what must be stored."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from tables import Expected, Machine, assert_same, at
from transcripts import Message, write_session

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from tables import Tables


class History:
    """Sessions that are used, moved and deleted, and what ccusage says of all that ever was."""

    def __init__(self, machine: Machine, now: datetime) -> None:
        self.machine = machine
        self.now = now
        self.complete = machine.home / "complete"
        (self.complete / "projects").mkdir(parents=True)
        self.messages: dict[str, list[Message]] = {}
        self.projects: dict[str, str] = {}

    def use(self, session: str, *messages: Message, project: str = "") -> None:
        """A session of this project, or of the one where it is, goes on."""
        self.projects[session] = project or self.projects[session]
        self.messages[session] = [*self.messages.get(session, ()), *messages]
        for folder in (self.machine.claude, self.complete):
            write_session(folder, self.projects[session], session, self.messages[session])

    def path(self, session: str, folder: Path | None = None) -> Path:
        projects = (folder or self.machine.claude) / "projects"
        return projects / self.projects[session] / f"{session}.jsonl"

    def move(self, session: str, project: str) -> None:
        """Into the folder of another project, in the complete copy, too."""
        for folder in (self.machine.claude, self.complete):
            path = self.path(session, folder)
            goal = path.parent.with_name(project)
            goal.mkdir(exist_ok=True)
            path.rename(goal / path.name)
        self.projects[session] = project

    def delete(self, *sessions: str) -> None:
        """From the machine; the complete copy keeps them."""
        for session in sessions:
            self.path(session).unlink()

    def imports(self, *args: str, code: int = 0) -> Any:
        with at(self.now):
            return self.machine.imports("--quiet", *args, code=code)

    def feeds(self) -> dict[str, Any]:
        """What ccusage says of all that ever was."""
        self.machine.env["CLAUDE_CONFIG_DIR"] = str(self.complete)
        try:
            return self.machine.feeds()
        finally:
            self.machine.env["CLAUDE_CONFIG_DIR"] = str(self.machine.claude)

    def truth(self) -> Tables:
        expected = Expected(self.machine.version, self.machine.zone)
        return comparable(expected.claude(self.feeds()).tables)

    def check(self) -> None:
        """All tables hold all that ever was, once."""
        assert_same(comparable(self.machine.tables()), self.truth(), tolerance=1e-6)

    def empty(self) -> None:
        shutil.rmtree(self.machine.claude / "projects")
        (self.machine.claude / "projects").mkdir()


def comparable(tables: Tables) -> Tables:
    """Without gaps between blocks, and what no row can hold: who wrote it, a lost one's entries."""
    left_out = ("ccusage_version", "entries")
    return {
        table: {
            key: {name: value for name, value in row.items() if name not in left_out}
            for key, row in rows.items()
            if not row.get("is_gap")
        }
        for table, rows in tables.items()
    }
