"""A checkout of the program in a directory of its own, whose scripts a test may run."""

from __future__ import annotations

import functools
import importlib.util
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from crontab import Crontab
from tables import PROGRAM, Machine

if TYPE_CHECKING:
    from tables import Database

NAME = 'it\'s 100% $HOME \\ of a "project"'
SCRIPTS = ("setup_cronjob.sh", "verify_setup.sh")
FILES = (PROGRAM.name, "ccusage_clickhouse_schema.sql", "queries.sql", *SCRIPTS)


def setup_helper() -> str:
    """The Python that setup_cronjob.sh runs, whose functions a test may call."""
    text = PROGRAM.with_name("setup_cronjob.sh").read_text(encoding="utf-8")
    return text.partition("<<'PYTHON'\n")[2].partition("\nPYTHON\n")[0] + "\n"


@functools.cache
def compiled() -> bytes:
    """The program as Python keeps it beside its source, which takes a while to make."""
    with tempfile.TemporaryDirectory() as folder:
        made = py_compile.compile(str(PROGRAM), f"{folder}/made", doraise=True)
        return Path(str(made)).read_bytes()


class Project:
    """The program in a directory with a difficult name, and a machine that uses it."""

    def __init__(self, home: Path, database: Database | None = None) -> None:
        self.folder = home / NAME
        self.folder.mkdir(parents=True)
        for name in FILES:
            shutil.copy2(PROGRAM.with_name(name), self.folder)
        kept = Path(importlib.util.cache_from_source(str(self.folder / PROGRAM.name)))
        kept.parent.mkdir()
        kept.write_bytes(compiled())
        self.dotenv = self.folder / ".env"
        self.crontab = Crontab(home / "bin")
        self.machine = Machine(home, database=database)
        self.machine.env["PATH"] = self.crontab.path(
            f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        )
        self.machine.populate(days=2)
        self.machine.repeat()

    def run(
        self, script: str, *args: str, code: int = 0, **env: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(self.folder / script), *args],
            env=self.machine.env | env,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def setup(self, *args: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run("setup_cronjob.sh", *args, code=code, **env)

    def verify(self, code: int = 0, **env: str) -> dict[str, tuple[str, str]]:
        """Name: ok or FAIL, and text."""
        found = {}
        for line in self.run("verify_setup.sh", code=code, **env).stdout.splitlines():
            verdict, rest = line.split(maxsplit=1)
            name, text = rest[:28].strip(), rest[29:]
            found[name] = (verdict, text)
        assert (code == 1) == any(verdict == "FAIL" for verdict, _ in found.values())
        return found
