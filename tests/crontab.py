"""A crontab(1) that keeps its file in a directory of the test, and cron's way to run a line."""

from __future__ import annotations

import shlex
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TAG = "# ccusage-import"
# Debian's cron gives a job this, and nothing else.
ENVIRONMENT = {"LOGNAME": "root", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin", "PWD": "/"}

STUB = """#!/bin/sh
cd {folder}
case "$*" in
    -l)
        if [ -e broken ]; then echo 'crontab: cannot chdir(/var/spool/cron)' >&2; exit 1; fi
        if [ -e crontab ]; then exec cat crontab; fi
        echo 'no crontab for me' >&2
        exit 1
        ;;
    -) echo write >> writes; exec cat > crontab ;;
    *) echo "usage: not $*" >&2; exit 1 ;;
esac
"""


class Crontab:
    """Put `folder` in front of PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.file = folder / "crontab.d" / "crontab"
        self.file.parent.mkdir()
        stub = folder / "crontab"
        stub.write_text(STUB.format(folder=shlex.quote(str(self.file.parent))))
        stub.chmod(0o755)

    def path(self, path: str) -> str:
        return f"{self.folder}:{path}"

    def break_(self) -> None:
        """Fail from now on, as for a user whose crontab cannot be read."""
        (self.file.parent / "broken").touch()

    @property
    def text(self) -> bytes | None:
        return self.file.read_bytes() if self.file.exists() else None

    @property
    def writes(self) -> int:
        log = self.file.parent / "writes"
        return len(log.read_text().split()) if log.exists() else 0

    @property
    def entries(self) -> list[str]:
        text = (self.text or b"").decode()
        return [line for line in text.splitlines() if line.endswith(TAG)]


def run_as_cron(line: str, home: Path) -> subprocess.CompletedProcess[str]:
    """What cron makes of a line: `\\%` is a percent sign, a bare one would end the command."""
    command = line.split(maxsplit=5)[5]
    assert "%" not in command.replace("\\%", "")
    assert "\\\\" not in command, "some crons keep this, others make one backslash of it"
    return subprocess.run(
        ["/bin/sh", "-c", command.replace("\\%", "%")],
        env={**ENVIRONMENT, "HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
