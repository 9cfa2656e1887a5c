"""The real ccusage, in the versions that people run, installed on demand with plain npm.

Each version lives in a cache directory of its own, shared by all test runs of this user. Nothing
of this is needed to use the importer.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VERSIONS = ("15.9.7", "16.2.5", "17.2.1", "18.0.11", "19.0.3", "20.0.24")
NEWEST = VERSIONS[-1]

# feed -> arguments. Any other feed is passed as it is: report(v, "codex daily", env).
FEEDS = {
    "daily": ["daily"],
    "monthly": ["monthly"],
    "session": ["session"],
    "blocks": ["blocks"],
    "projects": ["daily", "--instances"],
}

# As they were when the tests started: a test may replace HOME, where npm's settings are.
ENVIRONMENT = dict(os.environ)
CACHE = Path(ENVIRONMENT.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ccusage-import-tests"

# What was answered during this run of the tests, for all its processes; the first one clears up.
if "ANSWERS_OF_CCUSAGE" not in os.environ:
    os.environ["ANSWERS_OF_CCUSAGE"] = tempfile.mkdtemp(prefix="answers-of-ccusage-")
    atexit.register(shutil.rmtree, os.environ["ANSWERS_OF_CCUSAGE"], ignore_errors=True)
ANSWERS = Path(os.environ["ANSWERS_OF_CCUSAGE"])


class Unavailable(Exception):
    """A ccusage that these tests need cannot be installed or does not answer."""


def command(version: str, *, wrapper: bool = False) -> list[str]:
    """The argv that runs this ccusage, with absolute paths: it needs no PATH.

    From 20 on that is the native binary; `wrapper` asks for the Node script that starts it.
    """
    prefix = installed(version)
    if major(version) >= 20 and not wrapper:
        return [str(native_binary(prefix))]
    # The Node 22 that 19 needs; it starts the older ones in half the time.
    node = installed("19.0.3") / "node_modules/node/bin/node"
    return [str(node), str((prefix / "node_modules/.bin/ccusage").resolve())]


def report(
    version: str,
    feed: str,
    env: Mapping[str, str],
    *args: str,
    zone: str = "UTC",
    question: Question | None = None,
) -> Any:
    """What this ccusage itself reports, for tests to compare with.

    The feeds of FEEDS are those of Claude alone, in every version. "all daily" is the report of
    all agents, and "codex daily" that of another one (19 and newer).
    """
    shared = question and feed in FEEDS and not args
    argv = repeater(version, question) if question and shared else command(version)
    argv = [*argv, *feed_arguments(version, feed), *args, "-z", zone, "--offline"]
    if major(version) >= 16:
        argv += ["--config", str(installed(version) / "empty-config.json")]
    done = subprocess.run(
        argv, check=False, env=dict(env), capture_output=True, text=True, timeout=300
    )
    try:
        return json.loads(done.stdout)
    except ValueError:
        said = (done.stdout + done.stderr)[-500:]
        raise Unavailable(f"{argv} gave no JSON (code {done.returncode}): {said}") from None


def feed_arguments(version: str, feed: str) -> list[str]:
    if feed in FEEDS:
        claude = ["claude"] if major(version) >= 19 else []
        return [*claude, *FEEDS[feed], "--json", "--order", "asc", "--mode", "auto"]
    return [*feed.removeprefix("all ").split(), "--json"]


def major(version: str) -> int:
    return int(version.partition(".")[0])


# A ccusage that is asked once


class Question(NamedTuple):
    """Digests of all that answers depend on: those about Claude, and those about the others."""

    claude: str
    others: str


# Answers are known by their words, but for the paths, which are others in each run.
REPEATER = """#!/bin/sh
answer={claude}/
case $1 in --version | --help) answer={always}/ ;; claude) ;; *) answer={others}/ ;; esac
for word do
    case $word in
        /*) ;;
        */*/*) exec {real} "$@" ;;
        */*) answer="$answer ${{word%/*}}+${{word#*/}}" ;;
        *) answer="$answer $word" ;;
    esac
done
if [ -e "$answer" ]; then exec cat "$answer"; fi
{real} "$@" > "$answer $$" 2> "$answer $$ error"
code=$?
cat "$answer $$"
cat "$answer $$ error" >&2
if [ $code = 0 ] && [ ! -s "$answer $$ error" ]; then mv "$answer $$" "$answer"; fi
exit $code
"""


def repeater(version: str, question: Question) -> list[str]:
    """As command(), but what was answered once to the same question is repeated."""
    folder = ANSWERS / version
    script = folder / f"{question.claude}-{question.others}"
    if not script.exists():
        claude, others = (folder / name for name in question)
        for path in (claude, others):
            path.mkdir(parents=True, exist_ok=True)
        text = REPEATER.format(
            always=folder,
            claude=claude,
            others=others if major(version) >= 19 else claude,
            real=shlex.join(command(version)),
        )
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as new:
            new.write(text)
        os.replace(new.name, script)
    return ["/bin/sh", str(script)]


# Installing


@functools.cache
def installed(version: str) -> Path:
    """The npm prefix that holds this version, installed now if it is not there yet."""
    prefix = CACHE / version
    with locked(CACHE / f"{version}.lock"):
        if not prefix.exists():
            install(version, prefix)
    return prefix


def install(version: str, prefix: Path) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f"{version}-", dir=CACHE))
    try:
        npm_install(scratch, packages(version))
        if major(version) >= 20:
            native_binary(scratch).chmod(0o755)  # npm leaves it without the x bit
        (scratch / "empty-config.json").write_text("{}")
        scratch.rename(prefix)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def packages(version: str) -> list[str]:
    wanted = [f"ccusage@{version}"]
    if major(version) == 19:
        wanted.append("node@22")  # with an older Node, 19 prints nothing and leaves with code 0
    if major(version) >= 20:
        wanted.append(f"{native_package()}@{version}")  # optional in ccusage, so npm may skip it
    return wanted


def npm_install(prefix: Path, wanted: list[str]) -> None:
    argv = [find("npm"), "install", "--no-audit", "--no-fund", "--prefix", str(prefix), *wanted]
    done = subprocess.run(
        argv, check=False, env=ENVIRONMENT, cwd=prefix, capture_output=True, text=True
    )
    if done.returncode:
        raise Unavailable(f"{' '.join(argv)} failed:\n{done.stderr}")


def native_package() -> str:
    arm = platform.machine().lower() in ("arm64", "aarch64")
    return f"@ccusage/ccusage-{sys.platform}-{'arm64' if arm else 'x64'}"


def native_binary(prefix: Path) -> Path:
    return prefix / "node_modules" / native_package() / "bin/ccusage"


def find(program: str) -> str:
    found = shutil.which(program, path=ENVIRONMENT.get("PATH"))
    if found is None:
        raise Unavailable(f"{program} is not on PATH: tests run the real ccusage, install Node.js")
    return found


@contextmanager
def locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the kernel frees it when the file is closed
        yield
