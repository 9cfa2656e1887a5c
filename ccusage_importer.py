"""Keep what Claude Code and its kin cost you, for ever, in ClickHouse.

An import asks the real `ccusage` for its five feeds, checks them, hashes the names in them, decides
what the tables hold afterwards, and writes what differs, for this machine only. Without CH_HOST,
the ClickHouse engine runs inside this process (chDB). The sections stand in the order in which the
data flow; the import is complete before what only shows or checks:

    errors, settings, identity   what fails on purpose; environment and `.env`; machine.json
    ccusage                      find it, run it, fetch its feeds
    records                      what the feeds' JSON must be, and the checked values out of it
    rules                        what the rows become, from what is stored and what is reported
    tables                       records as rows, rows as records, and what differs
    store                        all SQL of an import: schema, reading, writing
    import                       the story: lock, fetch, read, decide, write, record the run
    copy                         another database of this program, merged into this one
    statistics                   what is stored, as figures
    output                       figures as text, JSON, CSV, Markdown and HTML
    queries                      the questions of queries.sql
    check                        whether the next import will succeed
    command line                 arguments, log, exit codes

Words that are neither ccusage's nor ClickHouse's own:

    feed          what ccusage says when it is asked: daily, monthly, session, blocks or projects
    report        what this program prints
    record        one row of a feed, checked; its `key` finds the row of a table
    share         one model's part of a record
    stored        what the tables hold before a run
    reported      what the valid feeds of this run say
    decision      what a table holds after a run, and why that is not what is reported
    kept, held    said of a stored row that stays although less is reported
    lowered       said of a row that gets smaller, for a reason that people are told
    correction    a row gets smaller, because another version of ccusage counts better
    evidence      what the sessions tell of the transcripts: which are there, moved, or gone
    lost          a stored session whose transcripts are gone
    missing       a stored session that is not reported: it is lost, or counts nowhere any more
    moved         a session that is reported under another path than the stored one
    shifted       a session that moved, or that shares messages with others and changed
    conversation  sessions that share messages, as when one resumes another
    following     said of a conversation that becomes what is reported; `unclear`: it stays
    span          the time, and perhaps the project, that a row stands for
    touches       something of the session may be in that span; `within`: all of it is
    parts         what a row is summed from: a month's days, a day's projects, their sessions
    stretch       blocks that overlap, of which one cut, stored or reported, stays whole
    apart         said of a row that is decided together with others, after those that stand alone
    lumped        counted in one row by ccusage 15 to 18: all sessions of a project
    identity      the name, zone and key of this machine, as its first import recorded them
    fingerprint   a digest that tells whether the hash key is the recorded one
    installation  a state directory; two under one name are two machines that overwrite each other
    twin          a session that is stored under another machine's name, too
    child         a row of a model, which belongs to a row of another table, its parent
    clean         said of a stored row of which a killed run left no other version

Exit codes: 0 all feeds imported, 1 failed, 2 wrong usage or configuration, 3 some feeds
imported and some failed, 4 another import holds the lock, 5 a budget is exceeded (--stats
--quiet alone), 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import fcntl
import gc
import glob
import hashlib
import hmac
import io
import json
import logging
import math
import os
import random
import re
import shlex
import signal
import sys
import threading
import time
from base64 import b64encode
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta, timezone, tzinfo
from functools import partial
from itertools import chain, groupby, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, NoReturn, TextIO
from urllib.parse import unquote
from zoneinfo import ZoneInfo

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

if TYPE_CHECKING:
    import subprocess
    from concurrent.futures import Future, ThreadPoolExecutor

    from clickhouse_connect.driver.client import Client
    from rich.table import Table as Grid

    Answer = subprocess.CompletedProcess[str]

__version__ = "1.0.0"

HERE = Path(__file__).resolve().parent
UTC = timezone.utc
EPOCH = datetime.fromtimestamp(0, UTC)

log = logging.getLogger("ccusage_import")

# --- errors, settings, identity -------------------------------------------------------


class ImporterError(Exception):
    """An expected failure: says what, where, and what to do. Bugs keep their traceback."""

    exit_code = 1


class ConfigError(ImporterError):
    """The settings or the command line are wrong."""

    exit_code = 2


class FeedError(ImporterError):
    """A feed of ccusage could not be had, or is not what ccusage promises."""

    def __init__(self, text: str, *, lasting: bool = False) -> None:
        super().__init__(text)
        self.lasting = lasting  # whether ccusage would answer the same once more


class StoreError(ImporterError):
    """ClickHouse refused, which it has a `code` for, or could not be reached."""

    code = 0


class LockError(ImporterError):
    """Another import holds the lock."""

    exit_code = 4


INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_interrupted, _waiting = threading.Event(), threading.Event()


def interrupt(*_: object) -> None:
    """Handle a signal: remember it, because Python loses some that come while it imports."""
    _interrupted.set()
    if not _waiting.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let an interrupt take effect at the end: in between, other code would swallow it."""
    _waiting.set()
    try:
        yield
    finally:
        _waiting.clear()
        if _interrupted.is_set():
            raise KeyboardInterrupt


class Settings(NamedTuple):
    """What environment, `.env` and command line say. Times in seconds."""

    environment: Mapping[str, str]
    protocol: str
    embedded_path: Path
    state_dir: Path
    host: str | None = None
    port: int = 8123
    user: str = "default"
    password: str = ""
    database: str = "default"
    cluster: str = ""  # whose servers all hold the tables
    ca_cert: str | None = None
    verify: bool = True
    machine_name: str | None = None
    ccusage_command: tuple[str, ...] = ()
    ccusage_args: tuple[str, ...] = ()
    timezone: str | None = None
    jobs: int = 3
    timeout: float = 120
    patience: float = 1.5  # a feed that failed after so many timeouts is not asked for again
    hash_key: str = ""
    budget_month: float | None = None  # dollars
    budget_day: float | None = None
    agents: frozenset[str] = frozenset()  # empty: all
    hash_projects: bool | None = None  # None: as this machine did before
    claims_name: bool = False  # MACHINE_NAME is given for this very run, and not by .env
    reprice: bool = False
    allow_shrink: bool = False
    dry_run: bool = False
    lock_timeout: float = 300

    @classmethod
    def from_env(cls, env: Mapping[str, str], **options: Any) -> Settings:
        """Read the variables of `env`, an empty one as unset; `options` of the command line."""
        read = {setting: _read(env, name) for name, (setting, *_) in VARIABLES.items()}
        given = {setting: value for setting, value in read.items() if value is not None}
        values = {
            "environment": env,
            "protocol": "https" if given.get("port") in (443, 8443, 9440) else "http",
            "embedded_path": _xdg(env, "XDG_DATA_HOME", ".local/share") / "clickhouse",
            "state_dir": state_directory(env),
        }
        if "host" not in given:
            given.pop("cluster", None)
        return cls(**values | given | options)

    @property
    def where(self) -> str:
        """The database, as people name it."""
        if self.host is None:
            return f"the embedded database {self.embedded_path}"
        return f"ClickHouse at {self.protocol}://{self.host}:{self.port}"

    def __repr__(self) -> str:  # which nothing secret is in
        return f"Settings({self.where}, user {self.user})"


def _read(env: Mapping[str, str], name: str) -> Any:
    """The value of a variable of ours, or None when it is unset or empty."""
    text, (_, read, expected) = env.get(name, ""), VARIABLES[name]
    if not text.strip():
        return None
    if not _is_utf8(text) or re.search(r"[\x00-\x1f\x7f\x85\u2028\u2029]", text):
        raise ConfigError(f"{name}: expected one line of UTF-8 without control characters")
    try:
        return read(text)
    except (ValueError, KeyError):
        shown = re.sub(".*@", "…@", text)  # a password may be in a URL
        raise ConfigError(f"{name}: expected {expected}, got {shown!r}") from None


def state_directory(env: Mapping[str, str]) -> Path:
    """The directory of machine.json, the lock and the log."""
    return _read(env, "CCUSAGE_STATE_DIR") or _xdg(env, "XDG_STATE_HOME", ".local/state")


def _xdg(env: Mapping[str, str], name: str, default: str) -> Path:
    return _path(env.get(name) or f"~/{default}") / "ccusage-import"


def _path(text: str | Path) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"{text}: {error}") from None


def _is_utf8(text: str) -> bool:
    """Whether a text of the system's has no bytes that are not UTF-8."""
    return not re.search("[\ud800-\udfff]", text)


# A function that reads a variable raises ValueError or KeyError for a value that is not expected.


def _matching(pattern: str, text: str) -> str:
    if not re.fullmatch(pattern, text, re.ASCII):
        raise ValueError
    return text


def _folder(text: str) -> Path:
    path = _path(text.strip())
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError
    return path


def _positive(kind: type[float], limit: float, text: str) -> float:
    if not re.fullmatch(r"\s*[0-9.]+\s*", text) or not 0 < (value := kind(text)) < limit:
        raise ValueError
    return value


def _words(text: str, without: tuple[str, ...] = ()) -> tuple[str, ...]:
    words = tuple(shlex.split(text))
    if any(word.startswith(without) for word in words):
        raise ValueError
    return words


def zone_name(
    source: str, name: str, remedy: str = "set CCUSAGE_TIMEZONE to one, such as Europe/Berlin"
) -> str:
    """The IANA name of the time zone that `source` names; UTC where it is empty."""
    try:
        return ZoneInfo(name or "UTC").key
    except (ValueError, OSError, KeyError):
        raise ConfigError(f"{source}: {name!r} is no IANA time zone; {remedy}") from None


TRUTH = dict.fromkeys(("true", "1", "yes", "on"), True)
TRUTH |= dict.fromkeys(("false", "0", "no", "off"), False)
HOST = r"[\w.-]+|\[?[\da-fA-F]*:[\da-fA-F:.]*:[\da-fA-F.]*\]?"
NUMBER = "number above 0 and below 65536"
NAME = "a name of letters, digits, '_', '.' and '-'"  # it becomes a part of statements and paths
ARGUMENTS = "arguments as in a shell, but the time zone, which is CCUSAGE_TIMEZONE's"
# The variables that are ours: the setting that each gives, what reads it, and what it expects.
VARIABLES: Mapping[str, tuple[str, Callable[[str], Any], str]] = {
    "CH_HOST": ("host", partial(_matching, HOST), "a host name (its port is CH_PORT)"),
    "CH_PORT": ("port", partial(_positive, int, 65536), f"a whole {NUMBER}"),
    "CH_PROTOCOL": ("protocol", lambda text: _matching("https?", text.lower()), "http or https"),
    "CH_USER": ("user", str, "a text"),
    "CH_PASSWORD": ("password", str, "a text"),
    "CH_DATABASE": ("database", str, "a text"),
    "CH_CLUSTER": ("cluster", partial(_matching, r"[\w.-]+"), NAME),
    "CH_CA_CERT": ("ca_cert", os.path.expanduser, "a file"),
    "CH_VERIFY": ("verify", lambda text: TRUTH[text.lower()], f"one of {', '.join(TRUTH)}"),
    "CH_EMBEDDED_PATH": ("embedded_path", _folder, "a directory"),
    "MACHINE_NAME": ("machine_name", str, "a text"),
    "CCUSAGE_COMMAND": ("ccusage_command", _words, "a command as in a shell"),
    "CCUSAGE_ARGS": ("ccusage_args", partial(_words, without=("-z", "--timezone")), ARGUMENTS),
    "CCUSAGE_TIMEZONE": ("timezone", partial(zone_name, "CCUSAGE_TIMEZONE"), "a time zone"),
    "CCUSAGE_JOBS": ("jobs", partial(_positive, int, 65536), f"a whole {NUMBER}"),
    "CCUSAGE_TIMEOUT": ("timeout", partial(_positive, float, 65536), f"a {NUMBER}"),
    "CCUSAGE_STATE_DIR": ("state_dir", _folder, "a directory"),
    "PROJECT_HASH_KEY": ("hash_key", str, "a text"),
    "BUDGET_MONTH": ("budget_month", partial(_positive, float, 1e9), "dollars, such as 200"),
    "BUDGET_DAY": ("budget_day", partial(_positive, float, 1e9), "dollars, such as 200"),
}
# The endings of variables that name a place: ours, and those of ccusage, of its agents, and of TLS.
# Those of others may name several with commas between, and ~ is not expanded in them.
PLACES = re.compile(r"\w+_(DIR|HOME|PATH|ROOT|FILE|CERTS?)|TMPDIR")


def dotenv_path(env: Mapping[str, str]) -> Path:
    """`.env` beside the script; for an installed wheel in the user's configuration."""
    if HERE.name in ("site-packages", "dist-packages"):
        return _xdg(env, "XDG_CONFIG_HOME", ".config") / ".env"
    return HERE / ".env"


def load_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment over what `.env` sets; `$` in a value is only a dollar."""
    from dotenv.parser import parse_stream

    path = dotenv_path(environ)
    try:
        text = path.read_text(encoding="utf-8-sig") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    values = {}
    for name, value, original, failed in parse_stream(io.StringIO(text)):
        line = f"{path}, line {original.line + original.string[:-1].count(chr(10))}"
        if failed:  # its text may hold a secret
            raise ConfigError(f"{line}: expected NAME=VALUE, or # for a comment")
        if name and value is not None:
            if _is_relative(name, value):
                raise ConfigError(
                    f"{line}: {name}: expected a path that begins with /, got {value!r}, which "
                    "would be another place in each working directory"
                )
            values[name] = value
    return {**values, **environ}


def _is_relative(name: str, value: str) -> bool:
    """Whether a variable names a place that depends on the working directory."""
    relative = r"\s*[^\s/~]" if name in VARIABLES else r"\s*[^\s/]"
    if name == "CCUSAGE_COMMAND":  # a bare name is looked up in the PATH
        relative = r"""\s*['"]?[^'"\s/~]+/"""
    elif not PLACES.fullmatch(name):
        return False
    elif name not in VARIABLES and name.endswith(("_DIR", "_HOME", "_PATH", "_ROOT")):
        relative = r"(.*,)?\s*[^\s/,]"  # ccusage and its agents take several directories
    return bool(re.match(relative, value))


def system_zone(env: Mapping[str, str]) -> str:
    """The IANA name of the machine's zone, from TZ or /etc."""
    zone = env.get("TZ", "/etc/localtime").lstrip(":")
    path = "/etc/localtime" if zone == "localtime" else zone
    if not path.startswith("/"):
        return zone_name("TZ", zone)
    # macOS links to zoneinfo.default, until it has loaded newer zones.
    if match := re.search("/zoneinfo[^/]*/(?:posix/)?(.+)", os.path.realpath(path)):
        return zone_name(path, match[1])
    with contextlib.suppress(OSError):
        return zone_name("/etc/timezone", Path("/etc/timezone").read_text().strip())
    return "UTC"


class Identity(NamedTuple):
    """Who this machine is in the database, as its first import recorded it in machine.json.

    `hashed` tells whether names are stored as hashes; version 1.0 did not record it (None).
    `newest_run` is the `updated_at` of this machine's last run, in the import history whose table
    has the UUID `history_uuid`, which is the same on all replicas.
    """

    machine_name: str
    timezone: str
    key_fingerprint: str
    installation_id: str
    hashed: bool | None = None
    history_uuid: str | None = None
    newest_run: str | None = None

    @classmethod
    def load(cls, state_dir: Path) -> Identity | None:
        """What is recorded, or None before the first import. Raises ConfigError if unreadable."""
        path = state_dir / "machine.json"
        try:
            content = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
            identity = msgspec.convert([content.get(name) for name in cls._fields], cls)
            ZoneInfo(identity.timezone)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, msgspec.MsgspecError) as error:
            raise ConfigError(
                f"{path}: cannot be read ({error!r}); remove it, and the next import "
                "takes name and time zone from the import history"
            ) from error
        return identity

    def save(self, state_dir: Path) -> None:
        write_whole(state_dir / "machine.json", json.dumps(self._asdict(), indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one step, so that nobody reads half of it. A pipe is just written to."""
    # Opened by one of these names, a file that the shell writes this output to would be emptied.
    opened = {"/dev/stdout": 1, "/dev/stderr": 2}.get(str(path))
    if opened or (path.exists() and not path.is_file()):
        with open(opened or path, "w", encoding="utf-8", closefd=not opened) as stream:
            stream.write(text)
        return
    path = path.resolve()
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)  # a killed run left it
        part.touch(mode=0o600, exist_ok=False)
        part.write_text(text, encoding="utf-8")
        if path.exists():
            part.chmod(path.stat().st_mode)
        part.replace(path)
    except OSError as error:  # which names the other file, or none where the disk is full
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def key_fingerprint(hash_key: str) -> str:
    """Tells two PROJECT_HASH_KEYs apart without giving either away."""
    digest = hmac.new(hash_key.encode(), b"ccusage-import", "sha256").hexdigest()
    return digest[:16] if hash_key else ""


def machine_name(settings: Settings, recorded: Identity | None) -> str:
    import socket

    name = settings.machine_name or (recorded and recorded.machine_name)
    return name or socket.gethostname().lower() or "localhost"


def identify(settings: Settings, recorded: Identity | None, former: Identity | None) -> Identity:
    """This machine's identity: machine.json, else the import history (`former`), else a new one.

    Another name than recorded would count all twice, another zone would move every day, and
    another key would make every project another one.
    """
    first = recorded or former
    zone = settings.timezone or (first and first.timezone) or system_zone(settings.environment)
    zone = zone_name("import history", zone, "update the tzdata of this machine")
    fingerprint = key_fingerprint(settings.hash_key)
    name = machine_name(settings, recorded)
    if recorded and name != recorded.machine_name:
        raise ConfigError(
            f"MACHINE_NAME={name}: this machine imports as {recorded.machine_name}, as "
            f"{settings.state_dir / 'machine.json'} says; unset it, or set CCUSAGE_STATE_DIR to a "
            "directory of its own for another machine"
        )
    for identity in filter(None, (recorded, former)):
        if identity.timezone != zone:
            raise ConfigError(
                f"CCUSAGE_TIMEZONE={zone}: the days of this machine are stored in "
                f"{identity.timezone}; unset it, or import as another MACHINE_NAME with a state "
                "directory (CCUSAGE_STATE_DIR) of its own"
            )
        if identity.key_fingerprint != fingerprint:
            raise ConfigError(
                "PROJECT_HASH_KEY: not the key that this machine's projects are stored under; "
                "set the former one (it is the same on all machines)"
            )
    if recorded:
        hashed = settings.hash_projects
        return recorded if hashed is None else recorded._replace(hashed=hashed)
    installation = os.urandom(8).hex()
    if former and (settings.claims_name or not settings.host):
        # Who names a machine, or has its database, takes up the identity that it had.
        installation = former.installation_id
    return Identity(name, zone, fingerprint, installation, settings.hash_projects)


# --- ccusage --------------------------------------------------------------------------


class Feed(NamedTuple):
    """A feed of ccusage: its name here, its arguments, and the keys that its rows are under."""

    name: str
    argv: tuple[str, ...]
    keys: tuple[str, ...]
    agent: str = "claude"

    @property
    def label(self) -> str:
        return feed_label(self.name, self.agent)


def feed_label(name: str, agent: str) -> str:
    """The name of a feed, as people see it."""
    return name if agent == "claude" else f"{agent} {name}"


FEEDS = (
    Feed("daily", ("daily",), ("daily",)),
    Feed("monthly", ("monthly",), ("monthly",)),
    Feed("session", ("session",), ("sessions",)),
    Feed("blocks", ("blocks",), ("blocks",)),
    Feed("projects", ("daily", "--instances"), ("projects",)),
)
# ccusage 20.0.17 and newer tell of all agents in one scan. It runs with Claude's directory hidden:
# Claude's own feeds say more, and an invalid directory of Claude's would make this one fail.
UNIFIED = Feed(
    "agents",
    ("daily", "--sections", "daily,monthly,session", "--by-agent"),
    ("daily", "monthly", "sessions"),
    "other",
)


class Ccusage(NamedTuple):
    """A ccusage that runs: its command line, version, environment, and the agents that it knows.

    `agents` is empty where they do not matter, and where ccusage does not tell them.
    """

    argv: tuple[str, ...]
    version: tuple[int, int, int]
    env: Mapping[str, str]
    agents: tuple[str, ...] = ()

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version))

    def feeds(self, agents: frozenset[str]) -> list[Feed]:
        """The feeds that it has of these agents (empty: of all)."""
        feeds: list[Feed] = []
        if not agents or "claude" in agents:
            prefix = ("claude",) if self.version >= (19, 0, 0) else ()
            feeds += [feed._replace(argv=(*prefix, *feed.argv)) for feed in FEEDS]
        if self.version >= (20, 0, 17):
            return feeds if agents == {"claude"} else [*feeds, UNIFIED]
        return feeds + [
            feed._replace(argv=(agent, *feed.argv), agent=agent)
            for agent in self.agents
            if agent != "claude" and (not agents or agent in agents)
            for feed in FEEDS[:3]
        ]

    def command(self, feed: Feed, zone: str, args: Sequence[str], home: Path) -> list[str]:
        """The command line for a feed, which the user's ccusage.json does not change."""
        tail = ["--json", "--order", "asc", "--mode", "auto", "-z", zone, *args]
        fence = ["--config", str(home / "ccusage.json")] if self.version >= (16, 0, 0) else []
        return [*self.argv, *feed.argv, *tail, *fence]

    def with_agents(self, settings: Settings) -> Ccusage:
        """This ccusage with the agents that it has commands for, or ConfigError for others."""
        wanted, agents = settings.agents, ("claude",)
        if self.version >= (19, 0, 0):
            if wanted <= {"claude"} and (wanted or self.version >= (20, 0, 17)):
                return self
            answer = run([*self.argv, "--help"], self.env, settings.timeout, "ccusage --help")
            pattern = r"^  (\w+)(?: daily +Show .*| +Show .* usage commands\s*)$"
            agents = tuple(re.findall(pattern, answer.stdout, re.MULTILINE))
        if agents and (unknown := wanted.difference(agents)):
            raise ConfigError(
                f"--agents: ccusage {self.version_text} does not know "
                f"{', '.join(sorted(unknown))}; it knows {', '.join(sorted(agents))}. "
                "Correct the name, or update ccusage"
            )
        return self._replace(agents=agents)


def child_environment(env: Mapping[str, str]) -> dict[str, str]:
    """ccusage's environment: without our secrets, and without what would change its feeds."""
    hidden = {"CH_PASSWORD", "PROJECT_HASH_KEY", "COPY_FROM_PASSWORD"}
    hidden |= {"DEBUG", "LOG_LEVEL", "CCUSAGE_MODEL_ALIASES"}
    if not env.get("CLAUDE_CONFIG_DIR", "").strip():
        hidden.add("CLAUDE_CONFIG_DIR")  # ccusage 20 takes an empty one for a missing directory
    shown = {name: value for name, value in env.items() if name not in hidden}
    return {"HOME": str(Path.home()), **shown}


def find_command(settings: Settings) -> tuple[str, ...]:
    """How to run ccusage (CCUSAGE_COMMAND, PATH, bunx, npx), the first word made absolute."""
    import shutil

    wanted = settings.ccusage_command
    commands = [("ccusage",), ("bunx", "ccusage@latest"), ("npx", "-y", "ccusage@latest")]
    if wanted:
        # An update may have moved it. Nothing is downloaded in place of what was asked for.
        commands = [wanted, (Path(wanted[0]).name, *wanted[1:]), ("ccusage",)]
    for command in commands:
        name, *arguments = map(os.path.expanduser, command)
        if program := shutil.which(name, path=settings.environment.get("PATH")):
            if wanted and command != wanted:
                log.warning(
                    "CCUSAGE_COMMAND: %r is gone, so %s, which is on PATH, is run instead; "
                    "set CCUSAGE_COMMAND to it, or run setup_cronjob.sh again",
                    *(wanted[0], program),
                )
            return (program, *arguments)
    if wanted:
        raise ConfigError(f"CCUSAGE_COMMAND: no such program: {wanted[0]!r}")
    raise ConfigError(
        "ccusage was not found, nor bunx or npx to run it: install Node.js or Bun, or set "
        "CCUSAGE_COMMAND"
    )


def find_ccusage(settings: Settings) -> Ccusage:
    """Resolve the command once, and ask for its version once."""
    env = child_environment(settings.environment)
    argv = find_command(settings)
    if Path(argv[0]).name == "npx":
        argv = resolve_npx(argv, env, settings.timeout)
    answer = run([*argv, "--version"], env, settings.timeout, "ccusage --version")
    if answer.returncode or not (match := re.search(r"(\d+)\.(\d+)\.(\d+)", answer.stdout)):
        raise complaint("ccusage --version", "no version in the answer", answer)
    version = int(match[1]), int(match[2]), int(match[3])
    return Ccusage(argv, version, env).with_agents(settings)


def resolve_npx(argv: tuple[str, ...], env: Mapping[str, str], timeout: float) -> tuple[str, ...]:
    """Let npx install the package once and name its program, so that no call asks npm again."""
    options = tuple(takewhile(lambda word: word.startswith("-"), argv[1:]))
    package, *arguments = argv[1 + len(options) :] or ("",)
    if not package or any(word.startswith(("-p", "--package", "-c", "--call")) for word in options):
        return argv  # the package is not the next word
    name = re.sub(r"(?<=.)@.*", "", package).rpartition("/")[2]
    script = f"command -v {shlex.quote(name)}"
    ask = [argv[0], "--yes", *options, f"--package={package}", "--", "sh", "-c", script]
    answer = run(ask, env, timeout, "npx")
    programs = [line for line in answer.stdout.split("\n") if line.startswith("/")]
    if answer.returncode or not programs:
        raise complaint("npx", f"could not install {package}", answer)
    return (programs[-1], *arguments)


_stopping = threading.Event()


def run(argv: Sequence[str], env: Mapping[str, str], timeout: float, name: str = "") -> Answer:
    """Run a command to its end. Its whole process group ends with it, or at the timeout."""
    import subprocess

    answer = subprocess.CompletedProcess(argv, -1, "", "")
    if _stopping.is_set():
        raise FeedError(f"{name}: not run: the program is ending")
    try:
        child = subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="surrogateescape",
            start_new_session=True,
        )
    except OSError as error:
        raise complaint(name, f"cannot be run: {error.strerror}", answer) from error
    deadline = time.monotonic() + timeout
    with child:
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    answer.stdout, answer.stderr = child.communicate(timeout=0.1)
                    answer.returncode = child.returncode
                    return answer
                if _stopping.is_set() or time.monotonic() > deadline:
                    raise complaint(name, f"no answer within {timeout:g} s", answer)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)


@contextlib.contextmanager
def in_background() -> Iterator[ThreadPoolExecutor]:
    """A thread for calls. What it still runs when the block ends, also by an error, is killed."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as background:
        try:
            yield background
        finally:
            _stopping.set()
            background.shutdown()
            _stopping.clear()


def await_result(call: Future[Any]) -> Any:
    """What a call in the background returns. An interrupt that Python has lost ends the wait."""
    from concurrent.futures import wait

    while not wait([call], timeout=0.2).done:
        if _interrupted.is_set():
            raise KeyboardInterrupt
    return call.result()


def fetch_feed(feed: Feed, ccusage: Ccusage, zone: str, settings: Settings, home: Path) -> Any:
    """What a feed holds, asked for up to three times. `home` keeps the user's ccusage.json away."""
    began = time.monotonic()
    argv = ccusage.command(feed, zone, settings.ccusage_args, home)
    env = {**ccusage.env, "CLAUDE_CONFIG_DIR": str(home)} if feed is UNIFIED else ccusage.env
    pause = 1.0
    while True:
        try:
            return read_answer(feed, run(argv, env, settings.timeout, feed.label), env)
        except FeedError as error:
            slow = time.monotonic() - began >= settings.patience * settings.timeout
            jitter = random.uniform(0.5, 1)  # noqa: S311 (no secret)
            if error.lasting or pause > 2 or slow or _stopping.wait(pause * jitter):
                raise
            log.info("%s: trying again: %s", feed.label, str(error).partition("\n")[0])
            pause *= 2


# What to do about an answer of ccusage: the first of these regular expressions that is found in it
# counts. After one of the LASTING, ccusage would answer the same once more.
LASTING = {
    "No valid Claude data": "ccusage looked in {directories}: start Claude Code once, set "
    "CLAUDE_CONFIG_DIR to the directory that Claude Code writes to, or name other agents with "
    "--agents",
    "ccusage --help' for usage|should be chosen from": "check CCUSAGE_ARGS",
    r"Node\.js >=": "install the Node.js version that it asks for, or use Bun",
}
REMEDIES = {
    "no answer": "check the network, add --offline to CCUSAGE_ARGS, or raise CCUSAGE_TIMEOUT",
    "cannot be run": "check CCUSAGE_COMMAND",
    "native binary is not available": "npm install -g --include=optional ccusage",
    **LASTING,
    "registry|ENOTFOUND|EAI_AGAIN|ETIMEDOUT|ECONN": "check the network, or install ccusage: "
    "npm install -g ccusage",
    "EACCES": "make Claude Code's files readable",
    "": "run the command by hand to see more",
}


def complaint(
    name: str, problem: str, answer: Answer, env: Mapping[str, str] | None = None
) -> FeedError:
    """An error that says what went wrong with a command, what it was, and what to do about it."""
    words = answer.stderr.strip() or answer.stdout.partition("{")[0]
    sign = next(sign for sign in REMEDIES if re.search(sign, f"{problem} {words}"))
    if match := re.search("No valid Claude data directories found", words):
        words = match[0]
    # What follows an opening brace, or one of these directories, holds names, which are private.
    words = words[:5000].rpartition(" ")[0] if len(words) > 5000 else words
    words = re.sub(r"^npm (warn|notice).*", "", words, flags=re.MULTILINE)
    words = re.sub(r"(projects|sessions|storage|chats|threads)[/\\](?s:.*)", r"\1/…", words)
    words = re.sub(r"\S*\.jsonl\S*|(?<!\S)-[^\W_]+-\S*", "…", words)  # as Claude names projects
    quote = ": " + " ".join(words.split())[:300] if words.strip() else ""
    directories = " and ".join(map(str, transcript_directories(env or {})))
    remedy = REMEDIES[sign].format(directories=directories)
    text = f"{name}: {problem}{quote}\n  ran: {shlex.join(answer.args)}\n  remedy: {remedy}"
    return FeedError(text.encode(errors="replace").decode(), lasting=sign in LASTING)


class Fetched(NamedTuple):
    """What ccusage answered: what each feed holds, or the FeedError that it ended with."""

    ccusage: Ccusage
    answers: dict[Feed, Any]


def fetch_all(settings: Settings, zone: str) -> Fetched:
    """Find ccusage and fetch its feeds, CCUSAGE_JOBS at once; the sessions before all others.

    What is lost is told by the sessions, and added to what the other feeds report: so it must not
    be lost after these were asked. The feed of several agents is one scan, with its own sessions.
    """
    ccusage = find_ccusage(settings)
    log.info("ccusage %s: %s", ccusage.version_text, shlex.join(ccusage.argv))
    feeds = ccusage.feeds(settings.agents)
    first = [feed for feed in feeds if "sessions" in feed.keys]
    others = [feed for feed in feeds if feed not in first]
    answers: dict[Feed, Any] = dict.fromkeys(feeds)
    began, done = time.monotonic(), 0
    fetch = partial(fetch_feeds, ccusage=ccusage, zone=zone, settings=settings)
    for feed, answer in chain(fetch(first), fetch(others)):
        answers[feed], seconds = answer, time.monotonic() - began
        done += feed.agent == "claude"
        if feed.agent != "claude":
            log.debug("%s %.2f s", feed.label, seconds)
        elif not isinstance(answer, FeedError):
            log.info("%d/%d %-8s %.2f s", done, len(FEEDS), feed.label, seconds)
    return Fetched(ccusage, answers)


def fetch_feeds(
    feeds: Iterable[Feed], ccusage: Ccusage, zone: str, settings: Settings
) -> Iterator[tuple[Feed, Any]]:
    """Each feed with what it says, or the FeedError that it ended with, as they arrive."""
    from concurrent.futures import ThreadPoolExecutor, as_completed

    with (
        temporary_directory(settings.environment) as home,
        ThreadPoolExecutor(settings.jobs) as pool,
    ):
        (home / "ccusage.json").write_text("{}")
        (home / "projects").mkdir()
        calls = {pool.submit(fetch_feed, f, ccusage, zone, settings, home): f for f in feeds}
        for call in as_completed(calls):
            try:
                yield calls[call], call.result()
            except FeedError as error:
                yield calls[call], error


@contextlib.contextmanager
def temporary_directory(env: Mapping[str, str]) -> Iterator[Path]:
    """A directory in TMPDIR for the time of a call; those that killed runs left are removed.

    The name of each tells the host and the process that it belongs to.
    """
    import shutil
    import socket
    import tempfile

    place = _path(env.get("TMPDIR") or "/tmp")  # noqa: S108 (mkdtemp makes it ours)
    prefix = f"ccusage-importer-{socket.gethostname()}-"  # not that of 1.0, which looks for locks
    for path in place.glob(f"{glob.escape(prefix)}*"):
        try:
            os.kill(int(path.name.removeprefix(prefix).partition("-")[0]), 0)
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except (ValueError, OverflowError, PermissionError):
            pass  # it is no process of ours
    try:
        scratch = tempfile.TemporaryDirectory(
            prefix=f"{prefix}{os.getpid()}-", dir=place, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise ConfigError(
            f"the temporary directory {place} cannot be written: {error.strerror}; "
            "set TMPDIR to a directory of yours"
        ) from error
    with scratch as name:
        yield Path(name)


def transcript_directories(env: Mapping[str, str]) -> list[Path]:
    """Where ccusage looks for Claude Code's transcripts; ccusage 20 takes these names, too."""
    if listed := env.get("CLAUDE_CONFIG_DIR", "").strip():
        homes = [_path(name.strip()) for name in listed.split(",") if name.strip()]
    else:
        config = _path(env.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        homes = [config / "claude", Path(env.get("HOME") or Path.home()) / ".claude"]
    return [home if home.name == "projects" else home / "projects" for home in homes]


def transcripts(env: Mapping[str, str]) -> Iterator[str]:
    """The names of Claude's sessions that have a regular, readable transcript.

    A transcript is PROJECT/NAME.jsonl, or any file below PROJECT/NAME. Links are not followed, as
    ccusage 19 and newer do not.
    """
    for home in transcript_directories(env):
        for folder, _, files in os.walk(home):
            inside = Path(folder).relative_to(home).parts
            for name in files:
                path = os.path.join(folder, name)
                regular = name.endswith(".jsonl") and not os.path.islink(path)
                if regular and os.access(path, os.R_OK):
                    yield inside[1] if len(inside) > 1 else name.removesuffix(".jsonl")


def cleanup_periods(env: Mapping[str, str]) -> dict[Path, int]:
    """By settings.json, the days that Claude Code keeps transcripts: 0 when it cannot be told."""
    periods = {}
    for home in transcript_directories(env):
        path, days = home.parent / "settings.json", 30
        try:
            content = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
            days = content.get("cleanupPeriodDays", days)
        except FileNotFoundError:
            if not home.exists():
                continue
        except (OSError, msgspec.MsgspecError):
            days = 0
        periods[path] = days if type(days) is int and 0 <= days < 2**32 else 0
    return periods


# --- records --------------------------------------------------------------------------


UINT64_MAX = 2**64 - 1  # a column holds no more


class Tokens(NamedTuple):
    """What ccusage counts. The total may hold more than the four, such as reasoning."""

    input: int = 0
    output: int = 0
    cache_creation: int = 0
    cache_read: int = 0
    total: int = 0


class Share(NamedTuple):
    """One model's part of a record. `version`: the ccusage that reported it, if it is stored."""

    tokens: Tokens
    cost: float
    version: str = ""


class Record(NamedTuple):
    """One row of a feed: checked, its private names hashed, money rounded to 1e-8 dollars.

    `key` and `details` are its table's key and other columns, `version` the ccusage that wrote it,
    once it is stored. `former` are other keys that a session may be stored under: those of the rows
    in which ccusage 15 to 18 counted one of Claude's, or that name the folders of one of Codex's.
    """

    agent: str
    key: tuple[Any, ...]
    tokens: Tokens
    cost: float
    models: frozenset[str]
    shares: Mapping[str, Share]
    details: Mapping[str, Any]
    version: str = ""
    former: tuple[str, ...] = ()

    @property
    def id(self) -> tuple[Any, ...]:
        return (self.agent, *self.key)

    def plus(self, other: Record) -> Record:
        """Its sum with another row of its key, which agents but Claude may have."""
        details = dict(other.details)
        for name, widest in (("first_activity", min), ("last_activity", max)):
            if times := [r.details[name] for r in (self, other) if r.details.get(name)]:
                details[name] = widest(times)
        former = tuple(sorted({*self.former, *other.former}))
        return add(other, self)._replace(details=details, former=former)


Records = dict[tuple[Any, ...], Record]
Reported = dict[tuple[str, str], Records]  # by feed and agent


def dollars(cost: float) -> float:
    """Money to a hundred-millionth of a dollar; the sum turns -0.0 into 0.0."""
    return round(cost, 8) + 0.0


class Ids(NamedTuple):
    """Replaces private names: `key` identifies them in the tables, `shown` is what people see."""

    hash_key: str
    hidden: bool = True

    def __repr__(self) -> str:
        return f"Ids(hidden={self.hidden})"

    def key(self, *parts: str) -> str:
        text, key = "\0".join(parts).encode(), self.hash_key.encode()
        digest = hmac.new(key, text, "sha256") if key else hashlib.sha256(text)
        return digest.hexdigest()[:32]

    def shown(self, name: str) -> str:
        return self.key(name)[:8] if self.hidden else name


# The feeds' JSON. Fields that are not declared here are ignored, so that ccusage may add some.

Text = Annotated[str, Meta(min_length=1)]
Money = Annotated[float, Meta(gt=-1e300, lt=1e300)]
Time = Annotated[datetime, Meta(tz=True)]


class Checked(Struct, rename="camel"):
    """A part of a feed, whose counts and times fit into the tables' columns."""

    def __post_init__(self) -> None:
        values = msgspec.structs.astuple(self)
        for name, value in zip(self.__struct_encode_fields__, values, strict=True):
            expected = ""
            if type(value) is int and not 0 <= value <= UINT64_MAX:
                expected = f"a whole number from 0 to {UINT64_MAX}"
            elif isinstance(value, date) and not 1900 < value.year < 2299:
                expected = "a year from 1901 to 2298"  # as Date32 and DateTime64 hold in every zone
            if expected:
                raise ValueError(f"{name}: expected {expected}, got {str(value)[:40]}")


class Totals(Checked):
    """What was used: the totals of a feed, which its rows, but for blocks, and models have, too."""

    input_tokens: int
    output_tokens: int
    cache_creation_tokens: int
    cache_read_tokens: int
    total_tokens: int
    total_cost: Money

    @property
    def tokens(self) -> Tokens:
        return Tokens._make(msgspec.structs.astuple(self)[:5])


class ModelRow(Totals, kw_only=True):
    """One model's part of a row. Only Codex tells its total."""

    model_name: Text
    total_tokens: int = 0
    total_cost: Money = field(name="cost")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.total_tokens = self.total_tokens or min(sum(self.tokens), UINT64_MAX)


class FeedRow(Totals, kw_only=True):
    """A row of any feed but the blocks."""

    agent: Text = ""  # only the feed of several agents names it
    models_used: list[Text]
    model_breakdowns: list[ModelRow]

    def __post_init__(self) -> None:
        super().__post_init__()
        models = [part.model_name for part in self.model_breakdowns]
        if len(set(models)) < len(models):
            repeated = max(models, key=models.count)
            raise ValueError(f"modelBreakdowns: {repeated!r} is repeated")


class DayRow(FeedRow, kw_only=True):
    """A day, in the feed of projects of one project."""

    day: date = field(name="date")


class MonthRow(FeedRow, kw_only=True):
    """A month."""

    month: Annotated[str, Meta(pattern=r"^(?!1900|2299)(19|2[0-2])[0-9]{2}-(0[1-9]|1[0-2])\Z")]


class SessionRow(FeedRow, kw_only=True):
    """A session. Another agent's has no project, and perhaps no times."""

    session_id: Text
    project_path: str
    first_activity: Time | None = None
    last_activity: Any  # a time; up to ccusage 19 a day of the reporting zone

    def __post_init__(self) -> None:
        kind = date if len(str(self.last_activity)) == len("2026-11-22") else Time | None
        try:
            self.last_activity = msgspec.convert(self.last_activity, kind)
        except msgspec.ValidationError as error:
            raise ValueError(f"lastActivity: {error}") from None
        super().__post_init__()

    def identity(self, ids: Ids, zone: tzinfo) -> dict[str, Any]:
        """The key, the details and the former keys of its record."""
        project, session, end = self.project_path, self.session_id, self.last_activity
        former: list[tuple[str, str]] = []
        if self.agent == "claude":
            former = [(f"{project}/{session}", "subagents"), ("Unknown Project", project)]
        if self.agent == "codex":
            # The name of the rollout. Its folders change when it is archived; they are of its date.
            *folders, session = session.split("/")
            started = re.match(r"rollout-(\d{4})-(\d\d)-(\d\d)T", session)
            places = {"/".join(folders), "/".join(started.groups()) if started else ""} - {""}
            former = [("", f"{place}/{session}") for place in sorted(places)]
        if type(end) is date:
            end = datetime.combine(end, datetime.min.time(), zone).astimezone(UTC)
        details = {
            "project_path": ids.shown(project) if project else "",
            "session_id": ids.shown(session),
            "first_activity": self.first_activity,
            "last_activity": end,
        }
        keys = tuple(ids.key(*names) for names in former)
        return {"key": (ids.key(project, session),), "details": details, "former": keys}


class BlockTokens(Checked):
    """The tokens of a block, under names of their own."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int


class BurnRate(Checked):
    """What an active block costs in an hour."""

    cost_per_hour: Money


class Projection(Checked):
    """What an active block will have cost at its end."""

    total_cost: Money


class BlockRow(Checked, kw_only=True):
    """Five hours of Claude Code's billing, or a gap between two blocks."""

    agent: str = "claude"
    id: Text
    start_time: Time
    end_time: Time
    actual_end_time: Time | None
    is_active: bool
    is_gap: bool
    entries: int
    token_counts: BlockTokens
    total_tokens: int
    total_cost: Money = field(name="costUSD")
    models_used: list[Text] = field(name="models")
    model_breakdowns: ClassVar[list[ModelRow]] = []
    usage_limit_reset_time: Time | None = None
    burn_rate: BurnRate | None = None
    projection: Projection | None = None

    @property
    def tokens(self) -> Tokens:
        return Tokens._make([*msgspec.structs.astuple(self.token_counts), self.total_tokens])

    @property
    def details(self) -> dict[str, Any]:
        names = ("start_time", "end_time", "actual_end_time", "is_active", "is_gap", "entries")
        return {
            **{name: getattr(self, name) for name in (*names, "usage_limit_reset_time")},
            "burn_rate": dollars(self.burn_rate.cost_per_hour) if self.burn_rate else None,
            "projection": dollars(self.projection.total_cost) if self.projection else None,
        }


class Content(Struct):
    """What ccusage prints for a feed: rows under the feed's keys, and but for blocks, totals."""

    daily: list[DayRow] | UnsetType = UNSET
    monthly: list[MonthRow] | UnsetType = UNSET
    sessions: list[SessionRow] | UnsetType = UNSET
    blocks: list[BlockRow] | UnsetType = UNSET
    projects: dict[Text, list[DayRow]] | UnsetType = UNSET
    totals: Totals | None = None


# It is made before there are threads: two that learn a type of msgspec's at once crash Python.
CONTENT = msgspec.json.Decoder(Content)


def decode(feed: Feed, text: bytes) -> Content:
    """What the JSON of a feed holds; raises msgspec's errors."""
    if feed.agent == "claude":
        with contextlib.suppress(msgspec.ValidationError):
            return CONTENT.decode(text)
    # Also Claude's feeds may write 10.0 for 10.
    payload = msgspec.json.Decoder(
        float_hook=lambda text: int(n) if (n := float(text)).is_integer() else n
    ).decode(text)
    if payload == []:  # ccusage 15 to 19 have no data
        return Content(daily=[], monthly=[], sessions=[], blocks=[], projects={})
    return msgspec.convert(payload if feed.agent == "claude" else as_claude(payload), Content)


def as_claude(value: Any) -> Any:
    """What a feed says of other agents, in the words of Claude's feeds.

    The feed of several agents has periods: sessions, or days and months with a part of each agent.
    Codex names its cost and models otherwise, and in ccusage 19 counts the cached tokens within the
    input. Before ccusage 20.0.17 no other agent has a breakdown by model.
    """
    if isinstance(value, list):
        items = [as_claude(item) for item in value]
        return [part for item in items for part in (item if type(item) is tuple else [item])]
    if not isinstance(value, dict):
        return value
    row = {{"session": "sessions"}.get(name, name): as_claude(item) for name, item in value.items()}
    if "period" in row:
        period, parts, times = row["period"], row.get("agents"), row.get("metadata")
        if isinstance(parts, list):
            names = {"date": period, "month": period}
            return tuple({**part, **names} if isinstance(part, dict) else part for part in parts)
        times = times if isinstance(times, dict) else {}
        row |= {name: times[name] for name in ("firstActivity", "lastActivity") if name in times}
        row["sessionId"] = period
    if "inputTokens" not in row:
        return row
    if "costUSD" in row:
        row["totalCost"] = row["costUSD"]
    cached, read = row.get("cachedInputTokens"), row["inputTokens"]
    if type(cached) is type(read) is int and "cacheReadTokens" not in row:
        row |= {"cacheReadTokens": cached, "cacheCreationTokens": 0}
        row["inputTokens"] = max(read - cached, min(read, 0))
    if isinstance(models := row.get("models"), dict):
        cost = row.get("costUSD", 0) if len(models) == 1 else 0
        row["modelsUsed"] = list(models)
        row["modelBreakdowns"] = [
            {"cost": cost, "modelName": name, **part} if isinstance(part, dict) else part
            for name, part in models.items()
        ]
    return {"modelBreakdowns": [], "lastActivity": None, **row, "projectPath": ""}


def read_answer(feed: Feed, answer: Answer, env: Mapping[str, str] | None = None) -> Content:
    """What an answer holds, checked: ccusage may fail with code 0."""
    if answer.returncode:
        raise complaint(feed.label, f"exit code {answer.returncode}", answer, env)
    try:
        content = decode(feed, answer.stdout.encode("utf-8", "surrogateescape"))
    except msgspec.ValidationError as error:
        raise refusal(feed, answer, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        json_like = answer.stdout.lstrip()[:1] in ("{", "[")
        problem = f"broken JSON ({reason})" if json_like else "no JSON"
        raise complaint(feed.label, problem, answer, env) from None
    if feed.name == "projects" and content.daily == []:  # ccusage 20 has none
        content.projects = {}
    for key in feed.keys:
        if getattr(content, key) is UNSET:
            raise complaint(feed.label, f"no key {key!r} in the answer", answer, env)
    return content


# What msgspec says of a value that it refuses, as regular expressions, and what we say.
REASONS = {
    r"Object missing required field `(\w+)`": r"\1: missing",
    r"Invalid RFC3339 encoded (\w+)": r"expected `\1`",
    "Expected": "expected",
    "`str` matching .*": "a month from 1901-01 to 2298-12",
    r" \| ": "` or `",
    "`int`": "a whole number",
    "`float`": "a number",
    "`str`": "a text",
    "`bool`": "true or false",
    "`array`": "a list",
    "`object`": "an object",
    "`date`": "a date such as 2026-11-22",
    "`datetime`": "a time such as 2026-11-22T19:00:00.000Z",
    "`": "",
}


def refusal(feed: Feed, answer: Answer, error: str) -> FeedError:
    """What msgspec refuses, with its place in the feed. No value is told, as it may be private."""
    reason, _, path = error.partition(" - at `")
    for pattern, words in REASONS.items():
        reason = re.sub(pattern, words, reason)
    place = path.rpartition("$")[2].strip("`.").replace("...", "…")
    if not place:
        return complaint(feed.label, reason, answer)
    place = re.sub("^totals", f"{feed.name}.totals", place)
    joint = "." if re.match(r"\w+: ", reason) else ": "
    return FeedError(f"{feed.label}: {place}{joint}{reason}", lasting=True)


def parse_feed(feed: Feed, content: Content, ids: Ids, zone: tzinfo) -> Reported:
    """The records of a feed by feed and agent: that of several agents is three feeds of each.

    Raises FeedError where a row is repeated, or where totals are not the sums of the rows.
    """
    parsed: Reported = {} if feed is UNIFIED else {(feed.name, feed.agent): {}}
    rows = list(rows_of(feed, content))
    if feed.name != "blocks":  # the totals of several agents are those of the days
        summed = "daily" if feed is UNIFIED else feed.name
        check_totals(feed, content.totals, [row for name, _, row in rows if name == summed])
    for number, (name, project, row) in enumerate(rows):
        record = build_record(name, project, row, ids, zone)
        records = parsed.setdefault((name, row.agent), {})
        if record.id in records and row.agent == "claude":
            place = f"{feed.keys[0]}[{'…' if project else number}]"
            key = " ".join(map(str, record.key))
            raise FeedError(f"{feed.label}: {place}: {key} is repeated")
        earlier = records.get(record.id)
        records[record.id] = earlier.plus(record) if earlier else record
    return parsed


def rows_of(feed: Feed, content: Content) -> Iterator[tuple[str, str, Any]]:
    """The rows of a feed, each with the feed whose table is its own, and with its project."""
    for key in feed.keys:
        rows = getattr(content, key)
        for project, listed in rows.items() if key == "projects" else [("", rows)]:
            for row in listed:
                row.agent = row.agent if feed is UNIFIED else feed.agent
                if not row.agent:
                    raise FeedError(f"{feed.label}: {key}: a row names no agent")
                yield key.replace("sessions", "session"), project, row


def build_record(name: str, project: str, row: Any, ids: Ids, zone: tzinfo) -> Record:
    """The record of a row of the feed of this name, whose private names end here."""
    cost, models = dollars(row.total_cost), frozenset(row.models_used)
    shares = {
        part.model_name: Share(part.tokens, dollars(part.total_cost))
        for part in row.model_breakdowns
    }
    record = Record(row.agent, (), row.tokens, cost, models, shares, {})
    if name == "session":
        return record._replace(**row.identity(ids, zone))
    if name == "blocks":
        return record._replace(key=(row.id,), details=row.details)
    if project:
        details = {"project_id": ids.shown(project)}
        return record._replace(key=(row.day, ids.key(project)), details=details)
    return record._replace(key=(row.day if name == "daily" else row.month,))


def check_totals(feed: Feed, totals: Totals | None, rows: Sequence[Any]) -> None:
    """A feed must add up to its own totals: tokens exactly, cost within float noise."""
    if totals is None:
        if rows:  # without rows, ccusage 19 has null as the totals of another agent
            raise FeedError(f"{feed.label}: {feed.name}.totals: missing")
        return
    used = zip(*([*row.tokens, row.total_cost] for row in (totals, *rows)), strict=True)
    for name, (total, *parts) in zip(Totals.__struct_encode_fields__, used, strict=True):
        if name == "totalCost":
            declared, summed = dollars(total), dollars(math.fsum(parts))
            noise = 1e-6 + 1e-8 * len(rows) + 1e-9 * abs(declared)
        else:  # above 2^53 ccusage up to 19 rounds; at 2^64 ccusage 20 saturates
            declared, summed = total, min(sum(parts), UINT64_MAX)
            noise = total * 1e-9 if total > 2**53 else 0
        if abs(summed - declared) > noise:
            place = f"{feed.label}: {feed.name}.totals.{name}"
            raise FeedError(f"{place}: {declared}, but the rows add up to {summed}")


def parse_all(
    fetched: Fetched, ids: Ids, zone: tzinfo, agents: frozenset[str]
) -> tuple[Reported, dict[str, str]]:
    """The records by feed and agent, and what went wrong with each feed that has none."""
    reported: Reported = {}
    failed: dict[str, str] = {}
    feeds = list(fetched.answers)
    for feed in feeds:
        payload = fetched.answers.pop(feed)  # large: not kept while records are built
        try:
            if isinstance(payload, FeedError):
                raise payload
            parsed = parse_feed(feed, payload, ids, zone)
        except FeedError as error:
            failed[feed.label] = str(error)
            continue
        if feed is UNIFIED:
            wanted = (agents or {agent for _, agent in parsed}) - {"claude"}
            parsed = {place: records for place, records in parsed.items() if place[1] in wanted}
        reported |= parsed
    answered = {f.agent for f in feeds if "daily" in f.keys and f.label not in failed}
    for agent in sorted(agents or {"claude"}):
        feed_agent = UNIFIED.agent if UNIFIED in feeds and agent != "claude" else agent
        if feed_agent in answered and not reported.get(("daily", agent)):
            places = " and ".join(map(str, transcript_directories(fetched.ccusage.env)))
            looked = f"; it looked in {places}" if agent == "claude" else ""
            log.info("ccusage reports no usage of %s%s", agent, looked)
    return reported, failed


# --- rules ----------------------------------------------------------------------------
#
# Transcripts come and go, so what ccusage reports is not all that was used. These functions decide
# what the tables hold after a run, from what they hold now (stored), from what this run's feeds
# say (reported), and from what the sessions tell of the transcripts (evidence). Their aims, in
# this order: no day, month or block is ever above the truth; nothing that was stored is lost; all
# is exact. Where evidence is missing, a row becomes the larger of stored and reported.

LONG_AGO, FAR_OFF = (moment.replace(tzinfo=UTC) for moment in (datetime.min, datetime.max))
DISPLAY = ("project_path", "session_id", "project_id")  # what people see of names


class Cause:
    """Why a row is not as it is reported, or gets smaller, in the words that people read."""

    GONE = "their transcripts are gone"
    ELSEWHERE = "their messages are counted in another session"
    REPRICED = "ccusage's prices have changed since"
    CORRECTED = "this version of ccusage counts less"
    MOVED = "its messages now count in another row"
    ALLOWED = "--allow-shrink"


class Policy(NamedTuple):
    """What a run may believe.

    `version` is that of the ccusage that reports, `previous` that of the last run in which no feed
    failed. Transcripts of `window_start` and later should still exist (None: it cannot be told).
    `upgraded`: the sessions of this machine were imported by ccusage 19 or newer. `on_disk` holds
    the names of the transcripts that lie on the disk, as the first digits of their hashes. Without
    `evidence`, sessions do not tell what became of their transcripts.
    """

    version: tuple[int, int, int]
    window_start: datetime | None = None
    zone: tzinfo = UTC
    allow_shrink: bool = False
    reprice: bool = False
    upgraded: bool = True
    previous: str = ""
    on_disk: frozenset[str] = frozenset()
    evidence: bool = True

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version))

    def recounts(self, old: Record) -> bool:
        """Whether this ccusage wrote neither a row nor the last run, so that it may correct it."""
        return self.version_text not in (old.version, self.previous)


def decide_all(
    stored: Mapping[str, Records], reported: Reported, ids: Ids, policy: Policy
) -> dict[str, Decision]:
    """A decision for each table. `reported` is by feed and agent; what failed is not in it."""
    feeds = {feed: merged(reported, feed) for feed in TABLES}
    stored = {feed: dict(records) for feed, records in stored.items()}
    for records in stored.values():
        hide_names(records, ids)
    if not policy.upgraded and policy.version >= (19,):
        stored["session"] = split_lumped_sessions(stored["session"], feeds["session"])
    agents = {agent for feed, agent in reported if feed == "session" and policy.evidence}
    if ("projects", "claude") not in reported:
        agents.discard("claude")
    evidence = gather_evidence(stored["session"], feeds["session"], agents, ids, policy)
    sessions = decide_sessions(stored["session"], feeds["session"], evidence)
    repriced = [sessions.after[key] for key in sessions.prices]
    evidence = evidence._replace(repriced=SessionIndex(repriced, ids, policy.zone))
    projects = decide_projects(stored["projects"], feeds["projects"], evidence)
    days = decide_days(stored["daily"], feeds["daily"], projects, evidence)
    settle_projects(projects, days, evidence)
    months = decide_months(stored["monthly"], feeds["monthly"], days)
    blocks = decide_blocks(stored["blocks"], feeds["blocks"], evidence)
    decisions = (days, months, sessions, blocks, projects)
    return dict(zip(TABLES, decisions, strict=True))


def merged(reported: Reported, feed: str) -> Records:
    """What a feed says of all agents."""
    return {
        key: r for (name, _), rows in reported.items() if name == feed for key, r in rows.items()
    }


def hide_names(records: Records, ids: Ids) -> None:
    """Hide the names that stored records still show, if they are to be hidden."""
    for record in [*records.values()] if ids.hidden else ():
        names = displayed(record)
        if names and ids.key(*names.values()) == record.key[-1]:  # these are no hashes
            shown = {name: value and ids.shown(value) for name, value in names.items()}
            records[record.id] = record._replace(details={**record.details, **shown})


def displayed(record: Record) -> dict[str, Any]:
    """The names in a record, as people see them."""
    return {name: record.details[name] for name in DISPLAY if name in record.details}


def split_lumped_sessions(stored: Records, reported: Records) -> Records:
    """The stored sessions, without what ccusage 19 tells apart of those that 15 to 18 lumped.

    Models' shares of a newer version were already reduced, by a run that was then killed.
    """
    lumps: Records = {}
    for session in reported.values():
        alone, former = session, session.former if session.agent == "claude" else ()
        if before := stored.get(session.id):
            alone, former = add(session, less=[before]), former[:1]  # never in the project's row
        for key in ((session.agent, name) for name in former):
            old = lumps.get(key) or stored.get(key)
            if old is None:
                continue
            done = {name: share for name, share in old.shares.items() if major(share.version) >= 19}
            rest = add(old, less=[alone])
            shares = {**rest.shares, **done}
            models = old.models - (old.shares.keys() - shares.keys())
            lumps[key] = rest._replace(shares=shares, models=models, version=old.version)
            alone = add(alone, less=[old])
    kept = {key: rest._replace(version="") for key, rest in lumps.items() if any(rest.tokens)}
    return {key: old for key, old in stored.items() if key not in lumps} | kept


def major(version: str) -> int:
    return int(version.partition(".")[0] or 0)


# What a decision says


class Decision:
    """What a table holds `after` a run, and why: the `causes` of what gets smaller, or is kept."""

    def __init__(self, stored: Records, reported: Records, policy: Policy) -> None:
        self.stored, self.reported, self.policy = stored, reported, policy
        self.after = dict(stored)
        self.causes: dict[Key, str] = {}
        self.apart: set[Key] = set()  # the rows that are not decided one by one

    def accept(self, whole: Record, cause: str = "") -> None:
        """Take what a row becomes: what is reported, with all that is lost of it.

        No row gets smaller without a `cause`: then the stored one stays, and so it does, with all
        its details, where it holds just that. What is not reported and empty goes. A row that
        says what is stored is the very object that is stored.
        """
        key = whole.id
        stored, reported = self.stored.get(key), self.reported.get(key)
        if stored and whole is reported and says_the_same(stored, reported):
            self.after[key], self.causes[key] = stored, cause
            return
        old, new = stored or emptied(whole), reported or emptied(whole)
        if self.policy.allow_shrink and reported:
            whole, cause = new, Cause.ALLOWED
        record = whole if self.policy.reprice else keep_prices(old, whole)
        same = record.tokens == old.tokens != new.tokens and not self.policy.reprice
        if same or (tokens_of(record) < tokens_of(old) and not cause):
            record = renamed(old, new)
        self.set(record)
        more = tokens_of(record) > tokens_of(new)
        self.causes[key] = cause or (Cause.GONE if more else "")
        if reported is None and not more:
            del self.after[key]

    def set(self, record: Record) -> None:
        """Let a row become this record; where it says what is stored, the stored object stays."""
        old = self.stored.get(record.id)
        self.after[record.id] = old if old and says_the_same(old, record) else record

    @property
    def kept(self) -> dict[Key, str]:
        """The reason for each row that holds more than is reported."""
        reasons = (Cause.GONE, Cause.ELSEWHERE)
        return {key: cause for key, cause in self.causes.items() if cause in reasons}

    @property
    def lowered(self) -> dict[Key, str]:
        """The reason for each row that gets smaller, or goes."""
        return {
            key: cause
            for key, cause in self.causes.items()
            if tokens_of(self.after.get(key)) < tokens_of(self.stored.get(key))
        }

    @property
    def prices(self) -> dict[Key, float]:
        """The dollars that ccusage now asks more, for each row that keeps its cost."""
        rows = ((self.after.get(key), new) for key, new in self.reported.items())
        return {
            new.id: new.cost - row.cost
            for row, new in rows
            if row and row.tokens == new.tokens and abs(row.cost - new.cost) > 1e-6
        }


def says_the_same(one: Record, other: Record) -> bool:
    """Whether two records of one row differ in nothing but the versions that reported them."""
    return (
        (one.tokens, one.cost, one.models) == (other.tokens, other.cost, other.models)
        and one.details == other.details
        and one.shares.keys() == other.shares.keys()
        and all(share[:2] == other.shares[name][:2] for name, share in one.shares.items())
    )


def renamed(old: Record, new: Record) -> Record:
    """A stored row under the names that are shown now."""
    names = displayed(new)
    return old if displayed(old) == names else old._replace(details={**old.details, **names})


# What the sessions tell


class Span(NamedTuple):
    """What a row or a session stands for: an agent's time, of one project or of all ("")."""

    agent: str
    start: datetime
    end: datetime
    project: str = ""

    def touches(self, row: Span) -> bool:
        """Whether something of a session may be in a row."""
        meets = self.start < row.end and self.end >= row.start
        return meets and (not row.project or self.project in ("", row.project))

    def within(self, row: Span) -> bool:
        """Whether all of a session that touches a row is in that row."""
        return self.start >= row.start and self.end < row.end


class SessionIndex:
    """Sessions by agent and day, to find those that touch a row without asking each of them."""

    def __init__(self, records: Iterable[Record], ids: Ids, zone: tzinfo) -> None:
        self.days: dict[tuple[str, int | None], list[tuple[Span, Record]]] = defaultdict(list)
        for record in records:
            session = session_span(record, ids, zone), record
            for day in days_between(session[0].start, session[0].end) or (None,):
                self.days[record.agent, day].append(session)

    def touching(self, row: Span, *, wholly: bool = False) -> list[Record]:
        """The sessions of which something may be in a row, or of which all is."""
        if not self.days:
            return []
        days = (None, *(days_between(row.start, row.end) or {day for _, day in self.days}))
        near = {id(one): one for day in days for one in self.days.get((row.agent, day), ())}
        touching = [(span, record) for span, record in near.values() if span.touches(row)]
        return [record for span, record in touching if not wholly or span.within(row)]


def days_between(start: datetime, end: datetime) -> Sequence[int]:
    """The numbers of the days in UTC; none where they are too many to name."""
    first, last = (moment.astimezone(UTC).toordinal() for moment in (start, end))
    return range(first, last + 1) if last - first < 1000 else ()


def session_span(record: Record, ids: Ids, zone: tzinfo) -> Span:
    """The time and the project of a session.

    ccusage does not always tell when it began: then it may have been at any time. Where ccusage
    tells the day of the last activity alone, that day's end is the end.
    """
    project, name = hashed_names(record, ids)
    # ccusage 15 to 18 give these names to the path of a whole project and to all sub-agents.
    unknown, subagents = (ids.key(word)[:8] for word in ("Unknown Project", "subagents"))
    if project == unknown:
        project = name
    elif name == subagents:
        project = ""  # which may be any
    start, end = record.details["first_activity"], record.details["last_activity"]
    if end and end.astimezone(zone).time() == datetime.min.time():
        day = end.astimezone(zone).date() + timedelta(1)
        end = datetime.combine(day, datetime.min.time(), zone) - timedelta(milliseconds=1)
    return Span(record.agent, start or LONG_AGO, end or FAR_OFF, project)


def hashed_names(record: Record, ids: Ids) -> tuple[str, str]:
    """The project and the name of a session, as the first digits of their hashes."""
    project, name = record.details["project_path"], record.details["session_id"]
    if not ids.hidden and ids.key(project, name) == record.key[0]:  # they are no hashes
        return ids.key(project)[:8], ids.key(name)[:8]
    return project, name


def span_of(feed: str, record: Record, zone: tzinfo) -> Span:
    """The time, and perhaps the project, that a row stands for."""
    if feed == "session":
        start, end = record.details["first_activity"], record.details["last_activity"]
        return Span(record.agent, start or LONG_AGO, end or FAR_OFF)
    if feed == "blocks":
        return Span(record.agent, record.details["start_time"], record.details["end_time"])
    days = record.key[0], record.key[0] + timedelta(1)
    start, end = (datetime.combine(day, datetime.min.time(), zone) for day in days)
    return Span(record.agent, start, end, record.key[1][:8] if feed == "projects" else "")


class Evidence(NamedTuple):
    """What the sessions of a run tell of the transcripts, for the `agents` of which it is known.

    Of the stored sessions, the `missing` are not reported; the transcripts of the `lost` are gone,
    those of the others count nowhere. The `shifted` moved, or share messages and changed.
    Conversations (sessions that share messages) are `following` when they become what is reported.
    They are `waiting` when less is reported of them than is stored; their stored sessions are the
    `unclear`. The `repriced` keep a former cost beside what is `reported` of them.
    """

    policy: Policy
    agents: Container[str]
    reported: Records
    following: set[Key]
    waiting: set[Key]
    lost: SessionIndex
    missing: SessionIndex
    shifted: SessionIndex
    unclear: SessionIndex
    repriced: SessionIndex

    def corrects(self, old: Record | None, span: Span) -> str:
        """The cause, where less is reported since this ccusage counts better: nothing is lost."""
        if old is None or old.agent not in self.agents or not self.policy.recounts(old):
            return ""
        if old.agent == "claude" and span.start < (self.policy.window_start or FAR_OFF):
            return ""
        return "" if self.lost.touching(span) or self.unclear.touching(span) else Cause.CORRECTED

    def restore(self, new: Record, span: Span) -> Record:
        """What is reported of a row, and the sessions in it that are lost, or cost otherwise."""
        sessions = self.lost.touching(span, wholly=True) + self.repriced.touching(span, wholly=True)
        return with_parts(new, [(row, self.reported.get(row.id)) for row in sessions])


def gather_evidence(
    stored: Records, reported: Records, agents: Container[str], ids: Ids, policy: Policy
) -> Evidence:
    """What the stored and the reported sessions tell. Those that moved get their new path."""
    lumped = policy.version < (19,)  # each session stands for its whole project
    moved = [] if lumped else follow_moves(stored, reported, agents, ids)
    olds, news = (
        {key: record for key, record in records.items() if key[0] in agents}
        for records in (stored, reported)
    )
    missing = olds.keys() - news.keys()
    if lumped:  # a row that holds less lost a session
        missing = {key for key, old in olds.items() if tokens_of(news.get(key)) < tokens_of(old)}
    lost = {key for key in missing if hashed_names(olds[key], ids)[1] not in policy.on_disk}
    following: set[Key] = set()
    waiting: set[Key] = set()
    for group in conversations(olds, news):
        before, after = (
            total_of(records[key] for key in group & records.keys()) for records in (olds, news)
        )
        recounted = all(policy.recounts(olds[key]) for key in group & olds.keys())
        if after >= before:
            following |= group
        elif group & lost or not recounted:
            waiting |= group
    changed = [
        olds[key]
        for key in following & olds.keys()
        if key not in news or not says_the_same(olds[key], news[key])
    ]
    index = partial(SessionIndex, ids=ids, zone=policy.zone)
    return Evidence(
        policy,
        agents,
        reported,
        following,
        waiting,
        lost=index(olds[key] for key in lost - following - waiting),
        missing=index(olds[key] for key in missing - following - waiting),
        shifted=index([*moved, *changed]),
        unclear=index(olds[key] for key in waiting & olds.keys()),
        repriced=index(()),
    )


def follow_moves(
    stored: Records, reported: Records, agents: Container[str], ids: Ids
) -> list[Record]:
    """The sessions that are here, but not where they are stored: before and after they moved.

    They are stored where they are now; but without evidence they are reported where they are
    stored, so that the next run still sees that they moved.
    """
    gone = [key for key in stored if key not in reported]
    homes: dict[Key, Record] = {}
    for (agent, _), new in reported.items() if gone else ():
        homes[agent, hashed_names(new, ids)[1]] = new
        if agent != "claude":
            homes.update(((agent, key), new) for key in new.former)  # of version 1.0
    moved: list[Record] = []
    for key in gone:
        old = stored[key]
        home = homes.get((key[0], hashed_names(old, ids)[1])) or homes.get(key)
        if home and key[0] in agents:
            moved += [stored.pop(key), home]
            here = renamed(old, home)._replace(key=home.key)
            if other := stored.get(here.id):  # both are stored: one was a copy of the other
                here = add(here, other)._replace(version=other.version)
            stored[here.id] = here
        elif home and home.id in reported and home.id not in stored:
            reported[key] = renamed(reported.pop(home.id), old)._replace(key=old.key)
    return moved


def conversations(olds: Records, news: Records) -> Iterable[set[Key]]:
    """Sessions of Claude that share messages: those that begin or end at the same instant.

    Of the copies in resumed and forked sessions, ccusage counts the first.
    """
    groups: dict[Key, set[Key]] = {}
    seen: dict[datetime, Key] = {}
    for key, record in (*olds.items(), *news.items()):
        exact = record.details["first_activity"] if key[0] == "claude" else None
        for instant in (exact, record.details["last_activity"]) if exact else ():
            if (other := seen.setdefault(instant, key)) != key:
                both = groups.get(key, {key}) | groups.get(other, {other})
                groups.update(dict.fromkeys(both, both))
    return {id(group): group for group in groups.values()}.values()


# What a row becomes


def tokens_of(record: Record | None) -> int:
    return record.tokens.total if record else 0


def total_of(records: Iterable[Record]) -> int:
    return sum(map(tokens_of, records))


def emptied(record: Record) -> Record:
    """The same row without any usage."""
    return record._replace(tokens=Tokens(), cost=0.0, shares={}, models=frozenset(), version="")


def add(record: Record, *others: Record, less: Iterable[Record] = ()) -> Record:
    """`record` and `others` summed, `less` taken away, per counter, cost and model; never < 0."""
    parts = [(1, record), *((1, other) for other in others), *((-1, other) for other in less)]
    shares: dict[str, list[tuple[int, Share]]] = defaultdict(list)
    for sign, part in parts:
        for name, share in part.shares.items():
            shares[name].append((sign, share))
    summed = {name: _sum_shares(several) for name, several in shares.items()}
    whole = _sum_shares([(sign, Share(part.tokens, part.cost)) for sign, part in parts])
    taken = {name for sign, part in parts if sign < 0 for name in part.shares}
    gone = {name for name in taken if not any(summed[name].tokens) and not summed[name].cost}
    return record._replace(
        tokens=whole.tokens,
        cost=whole.cost,
        models=record.models.union(*(other.models for other in others)) - gone,
        shares={name: share for name, share in summed.items() if name not in gone},
        version="",
    )


def _sum_shares(parts: Sequence[tuple[int, Share]]) -> Share:
    sums = [sum(sign * share.tokens[i] for sign, share in parts) for i in range(5)]
    apart = sums[4] - sum(sums[:4])  # such as reasoning, in the total alone
    counters = [min(max(number, 0), UINT64_MAX) for number in sums[:4]]
    cost = round(math.fsum(sign * share.cost for sign, share in parts), 8) + 0.0
    if any(sign < 0 for sign, _ in parts):
        cost = max(cost, 0.0)
    total = min(max(sum(counters) + apart, 0), UINT64_MAX)
    return Share(Tokens._make([*counters, total]), cost)


RowPart = tuple[Record, "Record | None"]  # a part of a row as decided, and as reported


def with_parts(new: Record, parts: Sequence[RowPart], most: int = UINT64_MAX) -> Record:
    """What is reported of a row, and what its parts hold beyond what is reported of each.

    So what is lost is kept, and what is used afterwards comes on top. Where that is more than the
    row may hold (`most`), it is not known what is lost.
    """
    if not parts:
        return new
    whole = add(new, *(part for part, _ in parts), less=[now for _, now in parts if now])
    return whole if tokens_of(whole) <= most else new


def keep_prices(old: Record, new: Record) -> Record:
    """A model's share whose tokens are unchanged keeps its cost, and a price that is gone stays.

    So does a row as a whole, where its models do not add up to its cost (blocks have none).
    """
    if new.shares and abs(math.fsum(s.cost for s in new.shares.values()) - new.cost) < 1e-6:
        shares = {n: _former_price(old.shares.get(n), share) for n, share in new.shares.items()}
        return with_prices(new, shares)
    whole = _former_price(Share(old.tokens, old.cost), Share(new.tokens, new.cost))
    return new._replace(cost=whole.cost)


def with_prices(record: Record, shares: Mapping[str, Share]) -> Record:
    """A row with other costs of its models, and with a cost of its own that follows from them."""
    changes = [share.cost - record.shares[name].cost for name, share in shares.items()]
    return record._replace(shares=shares, cost=round(math.fsum([record.cost, *changes]), 8))


def _former_price(old: Share | None, new: Share) -> Share:
    if old is None or not old.cost:
        return new
    if old.tokens == new.tokens:
        return old
    return new if new.cost else new._replace(cost=old.cost)


# Table by table


def decide_each(
    feed: str, decision: Decision, evidence: Evidence, whole: Callable[[Record, Span], Record]
) -> None:
    """Decide each row by what it becomes as a `whole`, but for those that are decided apart.

    A row that is not reported goes, where what was in it counts nowhere any more.
    """
    for key, row in {**decision.reported, **decision.stored}.items():
        if key in decision.apart:
            continue
        new, span = decision.reported.get(key), span_of(feed, row, evidence.policy.zone)
        cause = evidence.corrects(decision.stored.get(key), span)
        if new:
            decision.accept(whole(new, span), cause)
        elif cause and evidence.missing.touching(span):
            decision.accept(emptied(row), cause)


def decide_sessions(stored: Records, reported: Records, evidence: Evidence) -> Decision:
    """Sessions: what is reported, and those that are gone as they were."""
    decision = Decision(stored, reported, evidence.policy)
    decision.apart = evidence.following | evidence.waiting
    for key in evidence.following:
        decision.accept(reported.get(key) or emptied(stored[key]), Cause.MOVED)
    for key in evidence.waiting & stored.keys() & reported.keys():
        decision.accept(stored[key], Cause.ELSEWHERE)

    def without_copies(new: Record, _: Span) -> Record:
        """What is reported, unless an unused session only grew by copies from a lost one."""
        old = stored.get(new.id, new)
        # A ccusage that does not tell the beginning tells the day of the end alone.
        exact = new.agent == "claude" and new.details["first_activity"]
        unused = exact and old.details["last_activity"] == new.details["last_activity"]
        grows = unused and tokens_of(new) > tokens_of(old)
        span = span_of("session", new, evidence.policy.zone)
        return old if grows and evidence.lost.touching(span) else new

    decide_each("session", decision, evidence, without_copies)
    return decision


def decide_projects(stored: Records, reported: Records, evidence: Evidence) -> Decision:
    """Days of projects: what is reported, and the lost sessions of the project.

    The rows in which there were sessions that moved, or gave messages away, stay apart.
    """
    decision, zone = Decision(stored, reported, evidence.policy), evidence.policy.zone
    spans = {key: span_of("projects", row, zone) for key, row in {**reported, **stored}.items()}
    decision.apart = {key for key, span in spans.items() if evidence.shifted.touching(span)}
    decide_each("projects", decision, evidence, evidence.restore)
    return decision


def decide_days(
    stored: Records, reported: Records, projects: Decision, evidence: Evidence
) -> Decision:
    """Days: what is reported, and what is lost of the day's projects, or costs otherwise in them.

    That is no more than the lost sessions that touch the day hold, and no less than those within.
    """
    parts, zone = beyond_report(projects, lambda key: key[:2]), evidence.policy.zone

    def with_losses(new: Record, span: Span) -> Record:
        mine = [
            (row, now)
            for row, now in parts[new.id]
            if (now and now.tokens == row.tokens)
            or evidence.lost.touching(span_of("projects", row, zone))
        ]
        most = tokens_of(new) + total_of(evidence.lost.touching(span))
        whole = with_parts(new, mine, most)
        return max(whole, evidence.restore(new, span), key=tokens_of)

    decision = Decision(stored, reported, evidence.policy)
    decide_each("daily", decision, evidence, with_losses)
    return decision


def beyond_report(decision: Decision, whole_of: Callable[[Key], Key]) -> dict[Key, list[RowPart]]:
    """By their whole, the rows that hold or cost something else than is reported of them."""
    parts: dict[Key, list[RowPart]] = defaultdict(list)
    for key, row in decision.after.items():
        new = decision.reported.get(key)
        same = new and (row.tokens, row.cost) == (new.tokens, new.cost)
        if not same and key not in decision.apart:
            parts[whole_of(key)].append((row, new))
    return parts


def settle_projects(projects: Decision, days: Decision, evidence: Evidence) -> None:
    """Decide the rows of projects between which messages moved, from what their days hold.

    Where all rows of a day together exceed it, sessions moved that no run had seen before, so that
    all are decided in this way.
    """
    keys_of_days: dict[Key, list[Key]] = defaultdict(list)
    for key in {**projects.stored, **projects.reported}:
        keys_of_days[key[:2]].append(key)
    for day, keys in keys_of_days.items():
        for apart in ([key for key in keys if key in projects.apart], keys):
            settle_day(projects, apart, keys, days.after.get(day), evidence)
            before, after = (
                total_of(rows[key] for key in keys if key in rows)
                for rows in (projects.stored, projects.after)
            )
            if not before or after <= max(before, tokens_of(days.after.get(day))):
                break


def settle_day(
    projects: Decision,
    apart: Sequence[Key],
    keys: Sequence[Key],
    whole: Record | None,
    evidence: Evidence,
) -> None:
    """Let the rows that are `apart` become what is reported of them, and the lost sessions within.

    What the day holds beside all its rows goes to one of these: to one with lost sessions, if any,
    and of several to the one that falls most below what is stored of it.
    """
    stored, after = projects.stored, projects.after
    lost: set[Key] = set()
    for key in apart:
        new = projects.reported.get(key) or emptied(stored[key])
        span = span_of("projects", new, evidence.policy.zone)
        projects.accept(evidence.restore(new, span), Cause.MOVED)
        lost |= {key} if evidence.lost.touching(span) else set()

    def fall(key: Key) -> tuple[bool, int]:
        return key in lost, tokens_of(stored.get(key)) - tokens_of(after.get(key))

    if not apart or whole is None:
        return
    rows = [after[key] for key in keys if key in after]
    rest = add(whole, less=rows)
    if 0 < tokens_of(rest) <= tokens_of(whole) - total_of(rows):
        key = max(apart, key=fall)
        rest = rest._replace(cost=math.fsum(share.cost for share in rest.shares.values()))
        projects.set(add(after.get(key) or emptied(stored[key]), rest))
        projects.causes[key] = Cause.MOVED
    paid = add(whole, less=[after[key] for key in keys if key in after and key not in apart])
    share_costs(projects, [after[key] for key in apart if key in after], paid)


def share_costs(projects: Decision, rows: Sequence[Record], paid: Record) -> None:
    """Spread what was paid for each model over these rows, if they hold just the tokens of it."""
    asked = add(*rows) if rows else emptied(paid)
    rates = {
        name: paid.shares[name].cost / share.cost
        for name, share in asked.shares.items()
        if share.cost and name in paid.shares and share.tokens == paid.shares[name].tokens
    }
    for row in rows:
        shares = {
            name: share._replace(cost=round(share.cost * rates.get(name, 1), 8))
            for name, share in row.shares.items()
        }
        projects.set(with_prices(row, shares))


def decide_months(stored: Records, reported: Records, days: Decision) -> Decision:
    """Months: what is reported, and what their days hold beyond what is reported of these.

    A month may get smaller by what its days do.
    """
    decision = Decision(stored, reported, days.policy)
    parts = beyond_report(days, lambda key: (key[0], f"{key[1]:%Y-%m}"))
    most: Counter[Key] = Counter()  # what is in the days of a month
    fallen: Counter[Key] = Counter()
    for key in {**days.stored, **days.after}:
        month, after = (key[0], f"{key[1]:%Y-%m}"), tokens_of(days.after.get(key))
        most[month] += after
        fallen[month] += tokens_of(days.stored.get(key)) - after
    for key, new in reported.items():
        whole, old = with_parts(new, parts[key], most[key]), stored.get(key)
        falls = 0 < tokens_of(old) - tokens_of(whole) <= fallen[key]
        decision.accept(whole, Cause.CORRECTED if falls else "")
    for key in stored.keys() - reported.keys():
        if fallen[key] and not most[key]:
            decision.accept(emptied(stored[key]), Cause.CORRECTED)
    return decision


def decide_blocks(stored: Records, reported: Records, evidence: Evidence) -> Decision:
    """Blocks: what is reported, and the lost sessions within each; of two cuts, the larger one.

    When a purge takes the first messages of a chain of blocks, ccusage cuts the rest anew.
    """
    before, now = (
        [block for block in blocks.values() if not block.details["is_gap"]]
        for blocks in (stored, reported)
    )
    placed = [new if new.id in stored else continued(new, now, before, evidence) for new in now]
    decision = Decision(stored, {new.id: new for new in placed}, evidence.policy)
    wholes = (evidence.restore(new, span_of("blocks", new, evidence.policy.zone)) for new in placed)
    news = [whole._replace(shares={}) if whole.shares else whole for whole in wholes]
    for stretch in _stretches([*before, *news]):
        decide_stretch(decision, stretch, evidence)
    replace_gaps(decision, reported, now)
    return decision


def continued(
    new: Record, now: Sequence[Record], before: Sequence[Record], evidence: Evidence
) -> Record:
    """A reported block; in place of a stored one that lost sessions, if it goes on in it alone."""
    start, end = new.details["start_time"], new.details["actual_end_time"]
    for old in before:
        span = span_of("blocks", old, evidence.policy.zone)
        inside = end and span.start <= start and end < span.end
        alone = inside and [block for block in now if _overlap(block, old)] == [new]
        if alone and evidence.lost.touching(span):
            hours = {name: old.details[name] for name in ("start_time", "end_time")}
            entries = max(old.details["entries"], new.details["entries"])
            return new._replace(key=old.key, details={**new.details, **hours, "entries": entries})
    return new


def decide_stretch(decision: Decision, stretch: Sequence[Record], evidence: Evidence) -> None:
    """Of blocks that overlap, take the reported ones with what is lost of them, or keep all."""
    olds = [block for block in stretch if decision.stored.get(block.id) is block]
    news = [block for block in stretch if decision.stored.get(block.id) is not block]
    causes = [evidence.corrects(old, span_of("blocks", old, evidence.policy.zone)) for old in olds]
    grows, allowed = total_of(news) > total_of(olds), decision.policy.allow_shrink
    if [old.id for old in olds] == [new.id for new in news]:
        for new, cause in zip(news, causes, strict=True):
            decision.accept(new, cause)
    elif news and (grows or allowed or all(causes)):
        cause = Cause.ALLOWED if allowed else Cause.CORRECTED
        for block in (*map(emptied, olds), *news):
            decision.accept(block, cause)
        for old in olds if grows else ():  # which people need not be told
            del decision.causes[old.id]
    elif news:
        decision.causes.update((old.id, Cause.GONE) for old in olds)


def replace_gaps(decision: Decision, reported: Records, blocks: Sequence[Record]) -> None:
    """The gaps of the latest feed replace the stored ones within its range."""
    rows = decision.after.values()
    kept = [row for row in rows if not row.details["is_gap"] and row.id not in reported]
    first = min((block.details["start_time"] for block in blocks), default=FAR_OFF)
    last = max((block.details["end_time"] for block in blocks), default=LONG_AGO)
    for gap in decision.stored.values():
        if gap.details["is_gap"] and first <= gap.details["start_time"] <= last:
            del decision.after[gap.id]
    for gap in reported.values():
        if gap.details["is_gap"] and not any(_overlap(gap, block) for block in kept):
            decision.set(gap)


def _overlap(one: Record, other: Record) -> bool:
    return bool(
        one.details["start_time"] < other.details["end_time"]
        and other.details["start_time"] < one.details["end_time"]
    )


def _stretches(blocks: Iterable[Record]) -> list[list[Record]]:
    """Blocks in groups that overlap, in the order of time."""
    stretches: list[list[Record]] = []
    end = LONG_AGO
    for block in sorted(blocks, key=lambda block: block.details["start_time"]):
        if block.details["start_time"] >= end:
            stretches.append([])
        stretches[-1].append(block)
        end = block.details["end_time"]
    return stretches


# --- tables ---------------------------------------------------------------------------

COUNTER_COLUMNS = tuple(f"{name}_tokens" for name in Tokens._fields)
SYSTEM_COLUMNS = ("ccusage_version", "created_at", "updated_at", "is_deleted")
VOLATILE_COLUMNS = {"burn_rate", "projection"}  # differ at every call
HISTORY = "ccusage_import_history"


class Table(NamedTuple):
    """A table: its key (besides machine_name and agent), its other columns, and which rows to read.

    `recent` is the SQL condition of the rows that reach into the time from the day `first`, its
    month and its instant `since` on, or of which the time is not known.
    """

    name: str
    record_type: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    recent: str

    @property
    def details(self) -> tuple[str, ...]:
        return self.columns[: self.columns.index("input_tokens")]

    def parent(self, key: Key) -> Key:
        """The agent, record_type and record_key with which the keys of children begin.

        `key` is the key of their parent, or in a table of children that of a child.
        """
        if not self.record_type:
            return key[:3]
        return key[0], self.record_type, "_".join(map(str, key[1:]))


def _table(name: str, record_type: str, key: str, recent: str, *details: str) -> Table:
    cost = "cost_usd" if name == "blocks" else "total_cost"
    columns = (*details, *COUNTER_COLUMNS, cost, "models_count")
    return Table(f"ccusage_usage_{name}", record_type, tuple(key.split()), columns, recent)


# By the feed that fills it.
TABLES = {
    "daily": _table("daily", "daily", "date", "date >= {first:Date32}"),
    "monthly": _table("monthly", "monthly", "month", "month >= {month:String}"),
    "session": _table(
        *("sessions", "session", "session_key"),
        "last_activity IS NULL OR last_activity >= {since:DateTime64(3, 'UTC')}",
        *("project_path", "session_id", "first_activity", "last_activity"),
    ),
    "blocks": _table(
        *("blocks", "block", "block_id", "end_time >= {since:DateTime64(3, 'UTC')}"),
        *("start_time", "end_time", "actual_end_time", "is_active", "is_gap", "entries"),
        *("usage_limit_reset_time", "burn_rate", "projection"),
    ),
    "projects": _table(
        *("projects_daily", "project_daily", "date project_key", "date >= {first:Date32}"),
        "project_id",
    ),
}
_CHILD_KEY = ("record_type", "record_key", "model_name")
_RECENT_CHILD = " OR ".join(
    [
        "record_type NOT IN ('session', 'block') AND record_key >= {month:String}",
        *(
            f"record_type = '{table.record_type}' AND record_key IN (SELECT {table.key[0]} "  # noqa: S608
            f"FROM {table.name} WHERE machine_name = {{machine:String}} AND ({table.recent}))"
            for table in (TABLES["session"], TABLES["blocks"])
        ),
    ]
)
BREAKDOWNS = Table(
    "ccusage_model_breakdowns", "", _CHILD_KEY, (*COUNTER_COLUMNS, "cost"), _RECENT_CHILD
)
MODELS_USED = Table("ccusage_models_used", "", _CHILD_KEY, (), _RECENT_CHILD)
# Children go first: where a run is killed between two tables, the parents still show the old
# state, and the next run does again all that follows from it.
ALL_TABLES = (MODELS_USED, BREAKDOWNS, *TABLES.values())
Key = tuple[Any, ...]  # agent, then the key of the table


class Row(NamedTuple):
    """The columns of a table under a key, and the ccusage that said so.

    A row that is stored has a `created_at`. It is not `live` where its newest version is a
    tombstone, and not `clean` where a killed run left an older version beside it.
    """

    values: tuple[Any, ...]
    version: str
    created_at: datetime | None = None
    live: bool = True
    clean: bool = True


TableRows = dict[Table, dict[Key, Row]]  # of each table, the rows that are stored, or to write


def build_rows(table: Table, record: Record, version: str) -> Iterator[tuple[Table, Key, Row]]:
    """The row of a record in its table, and its models' rows in the two child tables."""
    version = record.version or version
    details = (record.details[name] for name in table.details)
    values = (*details, *record.tokens, record.cost, len(record.models))
    yield table, record.id, Row(values, version)
    parent = table.parent(record.id)
    for name, share in record.shares.items():
        values = (*share.tokens, share.cost)
        yield BREAKDOWNS, (*parent, name), Row(values, share.version or version)
    for name in record.models:
        yield MODELS_USED, (*parent, name), Row((), version)


def stored_records(stored: TableRows) -> dict[str, Records]:
    """What is stored, as the records that it came from, by feed."""
    shares: dict[Key, dict[str, Share]] = defaultdict(dict)
    for key, row in stored[BREAKDOWNS].items():
        if row.live:
            shares[key[:3]][key[3]] = Share(Tokens(*row.values[:5]), row.values[5], row.version)
    models: dict[Key, set[str]] = defaultdict(set)
    for key, row in stored[MODELS_USED].items():
        if row.live:
            models[key[:3]].add(key[3])
    records: dict[str, Records] = {feed: {} for feed in TABLES}
    for feed, table in TABLES.items():
        for key, row in stored[table].items():
            if row.live:
                *details, in_, out, creation, read, total, cost, _count = row.values
                parent = table.parent(key)
                records[feed][key] = Record(
                    agent=key[0],
                    key=key[1:],
                    tokens=Tokens(in_, out, creation, read, total),
                    cost=cost,
                    models=frozenset(models[parent]),
                    shares=shares[parent],
                    details=dict(zip(table.details, details, strict=True)),
                    version=row.version,
                )
    return records


def find_changes(
    before: Mapping[str, Records], after: Mapping[str, Records], stored: TableRows, version: str
) -> TableRows:
    """The rows to write so that the tables hold the records of `after`, and nothing is half done.

    `before` are the records of what is stored. Most stay as they are: they need no comparison,
    unless a killed run has changed the models of a row, but not yet their number in the row.
    """
    changes: TableRows = {table: {} for table in ALL_TABLES}
    unfinished = {
        table.parent(key)
        for table, rows in stored.items()
        for key, row in rows.items()
        if not row.clean
    }
    unchanged = set()
    for feed, records in after.items():
        for key, record in records.items():
            parent = TABLES[feed].parent(key)
            stays = record is before[feed].get(key) and parent not in unfinished
            if stays and stored[TABLES[feed]][key].values[-1] == len(record.models):
                unchanged.add(parent)
                continue
            for table, row_key, row in build_rows(TABLES[feed], record, version):
                changes[table][row_key] = row
    for table, rows in changes.items():
        for key, old in stored[table].items():
            if table.parent(key) in unchanged:
                continue
            if key not in rows:
                rows[key] = old._replace(live=False)
            elif old.clean and not differs(table, old, rows[key]):
                del rows[key]
    return changes


def differs(table: Table, old: Row, new: Row) -> bool:
    return old.values != new.values and any(
        before != after and name not in VOLATILE_COLUMNS
        for name, before, after in zip(table.columns, old.values, new.values, strict=True)
    )


# --- store ----------------------------------------------------------------------------

# Codes of ClickHouse.
UNKNOWN_TABLE, UNKNOWN_DATABASE, READONLY, NOT_GRANTED = 60, 81, 164, 497
# What to do about an error: the first of these regular expressions that is found in it counts.
STORE_REMEDIES = {
    r"Code: (16|47)\.": "run an import once: it adds the columns that are missing",
    r"Code: 60\..*ccusage_": "run an import once: it creates the tables and views",
    r"Code: 60\.": "check the name of the table",
    r"Code: 81\.": "create the database, or set CH_DATABASE",
    r"Code: 701\.": "set CH_CLUSTER to a cluster that the server knows: see system.clusters",
    r"Code: (19[2-5]|516)\.": "check CH_USER and CH_PASSWORD",
    r"Code: 164\.|is readonly": "the user may only read: give CH_USER the right to write",
    r"Code: 497\.": "grant CH_USER the rights that the message names",
    r"Code: 243\.": "free some disk space",
    r"Code: 202\.": "the server is busy: import at another minute",
    r"Code: (173|241)\.": "the server is short of memory: free some, or raise its limit; the next "
    "import tries again",
    r"Code: 252\.": "the table has more parts than merges keep up with: look at system.merges and "
    "the disk, or raise parts_to_throw_insert; the next import tries again",
    r"Code: (225|279|999)\.": "look at ClickHouse Keeper, which the server cannot reach or is "
    "waiting for; the next import tries again",
    r"Code: 242\.": "the replica is read-only: look at ClickHouse Keeper, and SYSTEM RESTORE "
    "REPLICA where its data there are lost",
    r"Code: (285|286|289)\.": "too few replicas answer for insert_quorum: look at system.replicas, "
    "and start those that are down; the next import tries again",
    r"Code: 319\.": "the server does not know whether the rows were inserted: import again, which "
    "inserts none twice",
    r"Code: 341\.": "the rows are written, former versions of them are not deleted yet: look at "
    "system.mutations; the next import finishes it",
    "^the embedded database": "check the disk and its permissions, then run it again",
    r"Code: \d": "look up the code in ClickHouse's documentation, and the server's log",
    "CERTIFICATE_VERIFY_FAILED": "set CH_CA_CERT to the CA's certificate, or CH_VERIFY=false",
    "NO_CERTIFICATE|No such file": "set CH_CA_CERT to a file with the CA's certificate (PEM), as "
    "SSL_CERT_FILE and NODE_EXTRA_CA_CERTS are to be",
    "SSL|Connection aborted": "check CH_PROTOCOL (http or https) and CH_PORT, then run it again",
    "": "check CH_HOST and CH_PORT, and HTTP_PROXY, HTTPS_PROXY and NO_PROXY where they are set, "
    "then run it again",
}
# How long a statement waits for other servers, and for Keeper: less than we wait for its answer.
# A server that is down does what it missed once it is back.
REPLICA_SETTINGS = {
    "distributed_ddl_task_timeout": 20,
    "distributed_ddl_output_mode": "null_status_on_timeout",
    "insert_keeper_max_retries": 5,
}


@contextlib.contextmanager
def store_errors(settings: Settings) -> Iterator[None]:
    """Turn what ClickHouse or the network says into a StoreError with a remedy."""
    from clickhouse_connect.driver.exceptions import ClickHouseError

    try:
        yield
    except (ClickHouseError, OSError) as error:
        cause: object = error
        while isinstance(cause, BaseException) and cause.__cause__:
            cause = getattr(cause.__cause__, "reason", cause.__cause__)
        text = " ".join(str(cause).split()).partition(", Stack trace")[0][:500]
        problem = f"{settings.where}: {text}"
        remedy = next(text for sign, text in STORE_REMEDIES.items() if re.search(sign, problem))
        failure = StoreError(f"{problem}\n  remedy: {remedy}")
        # Of a setting that a read-only user may not give, the client knows no code.
        failure.code = getattr(error, "code", None) or (READONLY if "is readonly" in text else 0)
        raise failure from error


def connect(settings: Settings, *, create: bool = True) -> Client:
    """A client of the server, or of the embedded engine; creates the database.

    Where the database is not there and is not to be created, it is one of the database `system`.
    """
    with interrupts_wait():  # to load this takes a while
        import clickhouse_connect  # noqa: F401

    def open_database(name: str) -> Client:
        with store_errors(settings):
            return (_server if settings.host else _embedded)(settings, name)

    try:
        return open_database(settings.database)
    except StoreError as error:
        if error.code != UNKNOWN_DATABASE:
            raise
    if not create:
        return open_database("system")
    statement = f"CREATE DATABASE IF NOT EXISTS {_quoted(settings.database)}"
    with contextlib.closing(open_database("default")) as client:
        steps = {"create the database": for_replicas(statement, settings.cluster)}
        change_schema(client, settings, steps)
    return open_database(settings.database)


def change_schema(client: Client, settings: Settings, steps: Mapping[str, str]) -> None:
    """Say each step and run its statement.

    Raises StoreError; where the user has no right to a statement, its remedy lists them all.
    """
    for step, statement in steps.items():
        if not settings.dry_run:  # else it is in an engine that nobody keeps
            log.info("%s: %s", settings.database, step)
        try:
            with store_errors(settings):
                client.command(statement)
        except StoreError as error:
            if error.code not in (NOT_GRANTED, READONLY):
                raise
            statements = (f"USE {_quoted(client.database or 'default')}", *steps.values())
            raise StoreError(
                str(error).partition("\n")[0]
                + "\n  remedy: have these statements run by somebody who may, or grant CH_USER the "
                "rights to create the database, and to create, alter and drop tables and views "
                "in it, with CH_CLUSTER CLUSTER ON *.*, too:"
                + "".join(f"\n    {' '.join(each.split())};" for each in statements)
            ) from error


@contextlib.contextmanager
def open_client(settings: Settings, *, writing: bool) -> Iterator[Client]:
    """A client; if nothing may be written and nothing is there, one of an empty engine."""
    with contextlib.ExitStack() as stack:
        if settings.host is None and not writing and not settings.embedded_path.exists():
            scratch = stack.enter_context(temporary_directory(settings.environment))
            settings = settings._replace(embedded_path=scratch / "clickhouse", dry_run=True)
            writing = True
        client = connect(settings, create=writing)
        stack.enter_context(contextlib.closing(client))
        stack.callback(client.close_connections)  # whose pool is ours
        yield client


def _quoted(name: str) -> str:
    name = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{name}`"


def _server(settings: Settings, database: str) -> Client:
    import clickhouse_connect
    from clickhouse_connect.driver import httputil

    client = clickhouse_connect.get_client(
        host=settings.host,
        port=settings.port,
        interface=settings.protocol,
        username=settings.user,
        password=settings.password,
        database=database,
        pool_mgr=httputil.get_pool_manager(**_trust(settings), **_proxy(settings)),
        connect_timeout=10,
        send_receive_timeout=60,
        autogenerate_session_id=False,  # a session would lock out the retry of a lost request
        form_encode_query_params=True,
        client_name=f"ccusage-import/{__version__}",
        tz_mode="aware",
    )
    offered, wanted = client.server_settings, dict(REPLICA_SETTINGS)
    if "cloud_mode" in offered and offered["cloud_mode"].value == "1":
        wanted["select_sequential_consistency"] = 1
    for name, value in wanted.items():
        if name in offered and not offered[name].readonly:
            client.set_client_setting(name, value)
    return client


def _proxy(settings: Settings) -> dict[str, Any]:
    """The proxy that HTTP_PROXY or HTTPS_PROXY names, unless NO_PROXY excepts the server.

    The client itself knows neither what `.env` sets nor who one is at a proxy.
    """
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

    from urllib3.util import make_headers, parse_url

    env = {name.lower(): value.strip() for name, value in sorted(settings.environment.items())}
    address = env.get(f"{settings.protocol}_proxy", "")
    place = f"{settings.host}:{settings.port}"
    if not address or proxy_bypass_environment(place, {"no": env.get("no_proxy", "")}):
        return {}
    with contextlib.suppress(ValueError):
        url = parse_url(address if "://" in address else f"http://{address}")
        if url.scheme in ("http", "https") and url.host:
            headers = make_headers(proxy_basic_auth=unquote(url.auth)) if url.auth else {}
            return {"http_proxy": url._replace(auth=None).url, "proxy_headers": headers}
    raise ConfigError(  # what is wrong may be a password
        f"{settings.protocol.upper()}_PROXY: expected the URL of an HTTP proxy, such as "
        "http://proxy.example.com:3128; if the server needs none, name it in NO_PROXY"
    )


def _trust(settings: Settings) -> dict[str, Any]:
    """The certificates that a connection pool trusts: CH_CA_CERT, or what all programs trust."""
    import ssl

    if settings.protocol == "http" or settings.ca_cert or not settings.verify:
        return {"verify": settings.verify, "ca_cert": settings.ca_cert}
    context = ssl.create_default_context()
    for name in ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"):
        if file := settings.environment.get(name):
            context.load_verify_locations(file)
    return {"ssl_context": context}


def _embedded(settings: Settings, database: str) -> Client:
    path, env = settings.embedded_path, settings.environment
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with interrupts_wait(), temporary_directory(env) as scratch, contextlib.ExitStack() as after:
        # When it is loaded it makes a directory, which it leaves behind when it is killed.
        os.putenv("TMPDIR", str(scratch))
        after.callback(os.putenv, "TMPDIR", env.get("TMPDIR") or "/tmp")  # noqa: S108
        # chDB loads pyarrow if it is there, for answers that nobody asks for, in a fifth of a
        # second.
        if "pyarrow" not in sys.modules:
            sys.modules["pyarrow"] = None  # type: ignore[assignment]
            after.callback(sys.modules.pop, "pyarrow")
        try:
            import clickhouse_connect

            return clickhouse_connect.get_client(
                interface="chdb",
                path=str(path),
                database=database,
                # A DELETE waits for background threads. By default there are two, too few for
                # many parts, and each that finds nothing to do sleeps for up to a second.
                # Compiling a statement takes longer than reading a few thousand rows without.
                chdb_options={
                    "background_pool_size": 16,
                    "background_processing_pool_thread_sleep_seconds_if_nothing_to_do": 0.01,
                    "background_processing_pool_task_sleep_seconds_when_no_work_random_part": 0,
                    "compile_aggregate_expressions": 0,
                },
                tz_mode="aware",
            )
        except ImportError as error:
            cause = error.__context__ or error  # some chDBs call each a missing engine
            raise ConfigError(
                f"the embedded database cannot be loaded: {cause}; it needs the extra 'embedded': "
                "pip install 'ccusage-import[embedded]'; or set CH_HOST to a server"
            ) from error


class Engine(NamedTuple):
    """The engine of a table or database, the UUID that its replicas share, and its columns."""

    name: str = ""
    uuid: str = ""
    columns: Sequence[str] = ()

    @property
    def shared(self) -> bool:
        """Whether several servers hold it."""
        return self.name.startswith(("Replicated", "Shared"))


class SchemaItem(NamedTuple):
    """A table or a view of the schema file; of a table's columns, what follows their names."""

    name: str
    statement: str
    columns: Mapping[str, str]
    kind: str


def read_schema() -> list[SchemaItem]:
    """The tables and views of the schema file, in its order."""
    file = Path(__file__).with_name("ccusage_clickhouse_schema.sql")
    text = re.sub(r"^ *--.*\n", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    column = {
        "TABLE": r"^    `?(\w+)`? ([A-Z].*?),?$",
        "VIEW": r"^    (?:.+ AS )?`?(\w+)`?(),?$",
    }
    items = []
    for statement in map(str.strip, text.split(";\n")):
        if match := re.match(r"CREATE (TABLE|VIEW) IF NOT EXISTS (\w+)", statement):
            listed = statement.partition("\nFROM ")[0]
            columns = dict(re.findall(column[match[1]], listed, re.MULTILINE))
            items.append(SchemaItem(match[2], statement, columns, match[1].lower()))
    return items


def schema_changes(engines: Mapping[str, Engine], cluster: str = "") -> dict[str, str]:
    """What brings the tables and views that are there to the schema of this version.

    Each step in words, with a statement that may be run twice. Columns that are not in the schema
    stay: a newer version on another machine may have added them.
    """
    changes = {}
    for name, statement, columns, kind in read_schema():
        lacks = [column for column in columns if column not in engines.get(name, Engine()).columns]
        listed = ", ".join(lacks)
        if name not in engines:
            changes[f"create the {kind} {name}"] = statement
        elif lacks and kind == "view":
            replace = statement.replace("CREATE VIEW IF NOT EXISTS", "CREATE OR REPLACE VIEW", 1)
            changes[f"replace the view {name}, which lacks {listed}"] = replace
        elif lacks:
            added = ", ".join(f"ADD COLUMN IF NOT EXISTS `{c}` {columns[c]}" for c in lacks)
            changes[f"add to the table {name}: {listed}"] = f"ALTER TABLE {name} {added}"
    database = engines.get("", Engine())
    if database.shared:  # it sends the statements to its servers by itself
        cluster = ""
    if cluster or database.name == "Replicated":
        return {step: for_replicas(sql, cluster) for step, sql in changes.items()}
    return changes


def for_replicas(statement: str, cluster: str) -> str:
    """A statement of the schema for a cluster or, without one, for a Replicated database.

    Each server holds all rows, whatever its shard: all share a table's one place in Keeper.
    """
    place = ""
    if cluster:
        named = rf"\g<0> ON CLUSTER `{cluster}`"
        statement = re.sub(r"^[A-Z ]+(`.+`|\w+)", named, statement)
        place = f"'/clickhouse/tables/{cluster}/{{database}}/{{table}}', '{{shard}}-{{replica}}'"

    def engine(match: re.Match[str]) -> str:
        arguments = ", ".join(filter(None, (place, match[2])))
        return f"ENGINE = Replicated{match[1]}({arguments})"

    return re.sub(r"^ENGINE = (\w+)(?:\((.+)\))?", engine, statement, flags=re.MULTILINE)


def legacy_tables(engines: Mapping[str, Engine]) -> list[str]:
    """The tables of ours that an older importer made, or that await their adoption.

    What cannot be ours: another layout, or the plain engine that the importers before this program
    used (somebody may have added columns to it); and what an adoption that was cut off has left.
    """
    ours = {
        table.name: "agent" in engine.columns
        and not re.fullmatch("(Replicated|Shared)?MergeTree", engine.name)
        for table in ALL_TABLES
        if (engine := engines.get(table.name))
    }
    if engine := engines.get(HISTORY):
        new = "installation_id" in engine.columns
        ours[HISTORY] = new and "import_timestamp" not in engine.columns
    staged = [name for name in engines if name.startswith("ccusage_adopting_")]
    return sorted([*staged, *(name for name in ours if not ours[name])])


class MachineHistory(NamedTuple):
    """What the import history says of this machine's name."""

    identity: Identity | None = None  # that of the last run
    newest: datetime = EPOCH  # the newest `updated_at` of a run that ended
    cleanup_period_days: int = 0  # the fewest that transcripts were ever kept; 0: not known
    upgraded: bool = False  # sessions were imported by ccusage 19 or newer
    installations: Mapping[str, datetime] = {}  # when each last imported
    complete_version: str = ""  # the ccusage of the last run in which no feed failed
    previous: Mapping[str, Any] | None = None  # of the row of the last run


BEGINNING = date(1900, 1, 2)  # of what the tables hold


class ClickHouseImporter:
    """One machine's rows in ClickHouse: reads what is stored, writes what changed."""

    def __init__(self, client: Client, settings: Settings, machine_name: str) -> None:
        self.client = client
        self.settings = settings
        self.machine_name = machine_name
        self.engines: Mapping[str, Engine] = {}  # of the tables and views that are there
        self.has_written = False
        self.token_suffix = ""  # of a copy, which may insert again what somebody has deleted

    @property
    def tables(self) -> list[Table]:
        """Those of our tables that are there."""
        return [table for table in ALL_TABLES if table.name in self.engines]

    def query(self, sql: str, **parameters: Any) -> Sequence[tuple[Any, ...]]:
        """Rows of a statement with bound parameters."""
        with store_errors(self.settings):
            rows: Sequence[Any] = self.client.query(sql, parameters=parameters).result_rows
            return rows

    def query_own(self, table: str, sql: str, **parameters: Any) -> Sequence[tuple[Any, ...]]:
        """Rows of a statement about this machine; none, where the table is not there."""
        there = table in self.engines
        return self.query(sql, machine=self.machine_name, **parameters) if there else []

    def command(self, sql: str, **parameters: Any) -> None:
        """Run a statement without rows, with bound parameters."""
        with store_errors(self.settings):
            self.client.command(sql, parameters=parameters)

    def look(self) -> None:
        """See which tables and views are there; under the empty name, the database."""
        sql = """
            SELECT name, engine, toString(uuid), column_names FROM system.tables
            LEFT JOIN (
                SELECT table, groupArray(name) AS column_names FROM system.columns
                WHERE database = currentDatabase() AND startsWith(table, 'ccusage_')
                GROUP BY table
            ) AS listed ON listed.table = name
            WHERE database = currentDatabase() AND startsWith(name, 'ccusage_')
            UNION ALL
            SELECT '', engine, toString(uuid), [] FROM system.databases
            WHERE name = currentDatabase()
        """
        self.engines = {"": Engine()} | {name: Engine(*rest) for name, *rest in self.query(sql)}

    def prepare(self, *, create: bool) -> None:
        """See what is there, and bring the schema to this version, saying each step.

        Raises StoreError at tables of an older importer: they would be read wrong.
        """
        self.look()
        if tables := legacy_tables(self.engines):
            raise StoreError(
                f"{self.settings.where}: these tables are an older importer's, and are to be "
                f"adopted first: {', '.join(tables)}\n  remedy: run adopt_legacy.py --dry-run, "
                "which shows what would become of them"
            )
        changes = schema_changes(self.engines, self.settings.cluster) if create else {}
        change_schema(self.client, self.settings, changes)
        if changes:
            self.look()

    def read_history(self) -> MachineHistory:
        """The import history of this machine's name, by installation, the newest first."""
        last = ("timezone", "key_fingerprint", "started_at", "total_tokens", "total_cost")
        sql = f"""
            SELECT
                installation_id, max(updated_at) AS newest, min(cleanup_period_days),
                countIf(
                    has(feeds_imported, 'session')
                    AND toUInt16OrZero(splitByChar('.', ccusage_version)[1]) >= 19
                ),
                argMaxIf(ccusage_version, updated_at, empty(feeds_failed)),
                {", ".join(f"argMax({name}, updated_at)" for name in last)}
            FROM ccusage_import_history WHERE machine_name = {{machine:String}}
            GROUP BY installation_id ORDER BY newest DESC
        """  # noqa: S608 (our names)
        period = min(cleanup_periods(self.settings.environment).values(), default=30)
        rows = self.query_own(HISTORY, sql)
        if not rows:
            return MachineHistory(cleanup_period_days=period)
        ids, newest, periods, upgrades, *_ = zip(*rows, strict=True)
        _, _, _, _, version, zone, key, *run = rows[0]
        return MachineHistory(
            identity=Identity(self.machine_name, zone, key, ids[0]),
            newest=newest[0],
            cleanup_period_days=min(period, *periods),
            upgraded=any(upgrades),
            installations=dict(zip(ids, newest, strict=True)),
            complete_version=version,
            previous=dict(zip(last[2:], run, strict=True)),
        )

    def days_before(self, first: date) -> tuple[int, int, float]:
        """The days before the first one that is read: how many, their tokens and dollars."""
        sql = (
            "SELECT count(), sum(total_tokens), sum(total_cost) FROM ccusage_usage_daily FINAL "
            "WHERE machine_name = {machine:String} AND date < {first:Date32}"
        )
        rows = self.query_own("ccusage_usage_daily", sql, first=first)
        return (rows[0][0], rows[0][1], rows[0][2]) if rows else (0, 0, 0.0)

    def shows_names(self) -> bool:
        """Whether a stored row of this machine shows a project's name, and not its hash."""
        sql = (
            "SELECT 1 FROM ccusage_usage_projects_daily FINAL WHERE machine_name = "
            "{machine:String} AND NOT match(project_id, '^[0-9a-f]{8}$') LIMIT 1"
        )
        return bool(self.query_own("ccusage_usage_projects_daily", sql))

    def twins(self, session_keys: Sequence[str]) -> dict[str, int]:
        """Other machines under whose names these sessions are stored, with their numbers."""
        sql = (
            "SELECT machine_name, count() FROM ccusage_usage_sessions FINAL "
            "WHERE machine_name != {machine:String} AND session_key IN {keys:Array(String)} "
            "GROUP BY machine_name ORDER BY count() DESC"
        )
        machines: Counter[str] = Counter()
        for batch in _batches([(key,) for key in session_keys]):
            keys = [key for (key,) in batch]
            for name, number in self.query_own("ccusage_usage_sessions", sql, keys=keys):
                machines[name] += number
        return dict(machines.most_common())

    def read_stored(
        self, first: date, zone: tzinfo, last_run: datetime = EPOCH
    ) -> tuple[TableRows, datetime]:
        """Rows of this machine, and the newest `updated_at` among them.

        They are those that reach into `first` or a later day, that have no time, or that are newer
        than `last_run`, which a killed run left. Without FINAL, so that half-done work is seen.
        """
        stored: TableRows = {table: {} for table in ALL_TABLES}
        newest = EPOCH
        imports: dict[Any, Any] = {}  # the times at which rows were made: many rows, few times
        since = _as_text(datetime.combine(first, datetime.min.time(), zone))
        times = {"first": first, "month": f"{first:%Y-%m}", "since": since}
        for table, rows in stored.items():
            recent = f"{table.recent} OR updated_at > {{run:DateTime64(3, 'UTC')}}"
            condition = recent if first > BEGINNING else "1"
            columns = ("agent", *table.key, *table.columns, *SYSTEM_COLUMNS)
            sql = (
                f"SELECT `{'`, `'.join(columns)}` FROM {table.name} "  # noqa: S608 (our names)
                f"WHERE machine_name = {{machine:String}} AND ({condition}) "
                "ORDER BY updated_at"
            )
            width = 1 + len(table.key)
            for line in self.query_own(table.name, sql, **times, run=_as_text(last_run)):
                key, (version, created_at, newest_here, is_deleted) = line[:width], line[-4:]
                created_at = imports.setdefault(created_at, created_at)
                older = rows.get(key)
                rows[key] = Row(
                    line[width:-4],
                    version,
                    min(older.created_at, created_at) if older else created_at,
                    live=not is_deleted,
                    clean=not (older or is_deleted),
                )
                newest = max(newest, newest_here)
        return stored, newest

    def upsert(
        self, table: Table, rows: Mapping[Key, Row], before: Mapping[Key, Row], at: datetime
    ) -> None:
        """Write the changed rows and, for those that go, tombstones in one INSERT; then DELETE.

        At no moment is a row missing or counted twice, and where this is cut off, the next run
        finds the rest. `before` are the rows that are stored; what there was stays as old as it is.
        """
        columns = ["machine_name", "agent", *table.key, *table.columns, *SYSTEM_COLUMNS]
        now, lines = _as_text(at), []
        for key, row in rows.items():
            times = [one.created_at for one in (row, before.get(key)) if one and one.created_at]
            created_at = _as_text(min(times)) if times else now
            system = (row.version, created_at, now, int(not row.live))
            lines.append((self.machine_name, *key, *row.values, *system))
        self._insert(table.name, columns, lines, at)
        self.has_written = True
        self._delete(table, [key for key in rows if key in before], at)

    def _insert(
        self, table: str, columns: Sequence[str], lines: Sequence[Sequence[Any]], at: datetime
    ) -> None:
        """One block, which a server that has seen its token does not insert again."""
        token = f"{at.isoformat()}/{self.machine_name}/{table}{self.token_suffix}"
        by_column = list(zip(*lines, strict=True))
        with store_errors(self.settings):
            self.client.raw_insert(
                table,
                columns,
                json.dumps(by_column, default=_as_text, ensure_ascii=False).encode(),
                settings={
                    "async_insert": 0,
                    "precise_float_parsing": 1,
                    "insert_deduplication_token": token,
                },
                fmt="JSONCompactColumns",
            )

    def _delete(self, table: Table, keys: Sequence[Key], at: datetime) -> None:
        """Remove of these keys what is older than `at`, and the tombstones."""
        columns = ("agent", *table.key)
        arrays = (
            f"{{{name}:Array({'Date32' if name == 'date' else 'String'})}}" for name in columns
        )
        sql = (
            f"DELETE FROM {table.name} WHERE machine_name = {{machine:String}} "  # noqa: S608
            f"AND ({', '.join(columns)}) IN arrayZip({', '.join(arrays)}) "
            "AND (updated_at < {at:DateTime64(3, 'UTC')} OR is_deleted) "
            "SETTINGS lightweight_deletes_sync = 1"  # not to wait for a replica that is down
        )
        for batch in _batches(keys):
            parts = dict(zip(columns, map(list, zip(*batch, strict=True)), strict=True))
            self.command(sql, **parts, machine=self.machine_name, at=_as_text(at))

    def record_runs(self, rows: Sequence[Mapping[str, Any]], at: datetime) -> None:
        """Rows of the history, in one step: the last write of a run, which now counts."""
        self._insert(HISTORY, list(rows[0]), [list(row.values()) for row in rows], at)


def _as_text(value: date | datetime) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(" ", "milliseconds")[:23]
    return value.isoformat()


def _batches(keys: Sequence[Key]) -> Iterator[list[Key]]:
    """Keys that even escaped fit into a request's line, which servers and proxies limit."""
    batch: list[Key] = []
    size = 0
    for key in keys:
        length = sum(2 * len(str(part).encode()) + 4 for part in key)
        if batch and size + length > 60_000:
            yield batch
            batch, size = [], 0
        batch.append(key)
        size += length
    if batch:
        yield batch


# --- import ---------------------------------------------------------------------------


@contextlib.contextmanager
def locked(path: Path, deadline: float, variable: str = "CCUSAGE_STATE_DIR") -> Iterator[None]:
    """Hold a lock file, which names the PID; the kernel frees it however the holder ends."""
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = stack.enter_context(path.open("a+"))
            wait_for_lock(file, deadline)
        except OSError as error:  # some network disks have no locks
            raise ConfigError(
                f"{path}: cannot be locked: {error.strerror}\n"
                f"  remedy: set {variable} to a directory of yours on a local disk"
            ) from error
        with contextlib.suppress(OSError):  # on a full disk, the PID stays unknown
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        log.debug("lock: %s", path)
        yield


def wait_for_lock(file: TextIO, deadline: float) -> None:
    waiting = False
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        file.seek(0)
        holder = f"another import (PID {file.read().strip() or 'unknown'})"
        if time.monotonic() >= deadline:
            raise LockError(f"{holder} holds {file.name}; try again when it has ended")
        if not waiting:
            log.info("waiting for %s, which holds %s", holder, file.name)
        waiting = True
        time.sleep(0.1)


def embedded_lock(settings: Settings, deadline: float) -> contextlib.AbstractContextManager[None]:
    """The lock beside the embedded database's directory."""
    path = settings.embedded_path
    return locked(path.with_name(path.name + ".lock"), deadline, "CH_EMBEDDED_PATH")


@contextlib.contextmanager
def import_lock(settings: Settings) -> Iterator[None]:
    """One import at a time per user; one process at a time in the embedded database."""
    deadline = time.monotonic() + settings.lock_timeout
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(settings.state_dir / ".ccusage_import.lock", deadline))
        if settings.host is None:
            stack.enter_context(embedded_lock(settings, deadline))
        yield


@contextlib.contextmanager
def open_for_reading(settings: Settings, machine: str) -> Iterator[ClickHouseImporter]:
    """An importer that only reads; it waits until nobody else has the embedded database."""
    with contextlib.ExitStack() as stack:
        if settings.host is None and settings.embedded_path.exists():
            deadline = time.monotonic() + settings.lock_timeout
            stack.enter_context(embedded_lock(settings, deadline))
        client = stack.enter_context(open_client(settings, writing=False))
        importer = ClickHouseImporter(client, settings, machine)
        importer.prepare(create=False)
        yield importer


class Feeds(NamedTuple):
    """What this run's feeds say, and how to hear once more which sessions there are."""

    version: tuple[int, int, int]
    reported: Reported
    failed: dict[str, str]
    ask_again: Callable[[], Mapping[tuple[str, str], Records]]


class Plan(NamedTuple):
    """What a run knows, and what follows from it: the changes that it writes as of `at`.

    Rows before the day `first` are not read. `hiding`: from this run on, names are hidden.
    """

    importer: ClickHouseImporter
    identity: Identity
    history: MachineHistory
    feeds: Feeds
    ids: Ids
    hiding: bool
    at: datetime
    first: date
    version: str
    stored: TableRows
    before: Mapping[str, Records]  # the same, as records
    decisions: Mapping[str, Decision]
    changes: TableRows


def import_usage(settings: Settings, *, summary: bool = True, brief: bool = False) -> ImportResult:
    """One import: lock, fetch, read what is stored, decide, write, record.

    With a `summary`, the result has statistics; with a `brief` one, those that people are shown.
    """
    started = datetime.now(UTC)
    log.debug("start: ccusage-import %s into %s", __version__, settings.where)
    with (
        import_lock(settings),
        in_background() as background,
    ):
        recorded = Identity.load(settings.state_dir)
        # With its zone known, ccusage starts while ClickHouse does.
        zone = recorded and identify(settings, recorded, None).timezone
        fetching = zone and background.submit(fetch_all, settings, zone)
        with open_client(settings, writing=not settings.dry_run) as client:
            importer = ClickHouseImporter(client, settings, machine_name(settings, recorded))
            importer.prepare(create=not settings.dry_run)
            history = importer.read_history()
            missing = missing_run(importer, recorded, history)
            identity = recognise(importer, recorded, history)
            fetching = fetching or background.submit(fetch_all, settings, identity.timezone)
            feeds = read_feeds(settings, identity, await_result(fetching), background)
            if recorded is None:
                refuse_twins(importer, identity, history, feeds.reported)
            hiding = bool(identity.hashed and not (recorded and recorded.hashed))
            plan = plan_import(importer, identity, history, feeds, hiding=hiding)
            result = result_of(plan)
            missing += history_elsewhere(settings, identity.machine_name, recorded, history)
            for warning in (*missing, *import_warnings(plan)):
                log.warning("WARNING: %s", warning)
            if not settings.dry_run:
                if identity != recorded:
                    identity.save(settings.state_dir)
                write_plan(plan, result, started)
            statistics = stored_now(importer, identity, brief=brief) if summary else None
            rows = 0 if settings.dry_run else sum(map(len, plan.changes.values()))
            seconds = (datetime.now(UTC) - started).total_seconds()
            log.debug("finish: %s, %d rows written, %.1f s", identity.machine_name, rows, seconds)
            return result._replace(statistics=statistics)


def recognise(
    importer: ClickHouseImporter, recorded: Identity | None, history: MachineHistory
) -> Identity:
    """This machine's identity, which the import history may know, and how it stores names."""
    former = history.identity
    identity = identify(importer.settings, recorded, former)
    if recorded is None and former and former.installation_id == identity.installation_id:
        log.info(
            "%s: takes up the identity that imported last on %s: days in %s, installation %s",
            *(identity.machine_name, f"{history.newest:%Y-%m-%d}", identity.timezone),
            identity.installation_id,
        )
    if identity.hashed is None:
        return identity._replace(hashed=not importer.shows_names())
    return identity


def missing_run(
    importer: ClickHouseImporter, recorded: Identity | None, history: MachineHistory
) -> list[str]:
    """A warning where the import history lacks this machine's newest run, as a restored backup.

    A replica that lags behind is refused: what that run wrote, and is not reported any more, would
    be overwritten by less.
    """
    settings, table = importer.settings, importer.engines.get(HISTORY, Engine())
    newest = recorded and recorded.history_uuid == table.uuid and recorded.newest_run
    if not newest or newest <= _as_text(history.newest):
        return []
    if table.shared:
        raise StoreError(
            f"{settings.where}: this replica has not yet seen the import of {newest} UTC; "
            "nothing was changed\n"
            "  remedy: try again, as cron does; if rows were removed on purpose, remove newest_run "
            f"from {settings.state_dir / 'machine.json'}"
        )
    return [
        f"the import of {newest} UTC is not in the import history any more: if a backup was "
        "restored, what was imported since then and is not reported any more is lost"
    ]


def read_feeds(
    settings: Settings, identity: Identity, fetched: Fetched, background: ThreadPoolExecutor
) -> Feeds:
    """The records of the feeds, checked."""
    ids, zone = Ids(settings.hash_key, hidden=bool(identity.hashed)), ZoneInfo(identity.timezone)
    ccusage = fetched.ccusage

    def ask_again() -> dict[tuple[str, str], Records]:
        sessions = [feed for feed in ccusage.feeds(settings.agents) if feed.name == "session"]
        fetch = partial(fetch_feeds, sessions, ccusage, identity.timezone, settings)
        again = await_result(background.submit(lambda: dict(fetch())))
        reported, _ = parse_all(Fetched(ccusage, again), ids, zone, settings.agents)
        return {("session", f.agent): reported.get(("session", f.agent), {}) for f in sessions}

    reported, failed = parse_all(fetched, ids, zone, settings.agents)
    return Feeds(ccusage.version, reported, failed, ask_again)


def refuse_twins(
    importer: ClickHouseImporter, identity: Identity, history: MachineHistory, reported: Reported
) -> None:
    """Refuse the first import of an installation that would count what another one has counted.

    Raises ConfigError, unless MACHINE_NAME is given for this very run: then it is that machine.
    """
    settings, name = importer.settings, identity.machine_name
    if settings.claims_name:
        return
    keys = [key[1] for key in merged(reported, "session")]
    machine, number = next(iter(importer.twins(keys).items()), ("", 0))
    if settings.host and history.newest >= datetime.now(UTC) - timedelta(days=30):
        machine = name
        problem = (
            f"another installation imported under this name on {history.newest:%Y-%m-%d %H:%M}, "
            "and two machines must not share one"
        )
    elif number > len(keys) / 2:
        problem = (
            f"{number:,} of its {len(keys):,} sessions are stored under the name {machine} "
            "already, and would count twice"
        )
    else:
        return
    raise ConfigError(
        f"{name}: {problem}; if this is that machine, run MACHINE_NAME={machine} "
        "ccusage_importer.py once; if it is another one, give it a name of its own in the "
        "same way: MACHINE_NAME=… ccusage_importer.py"
    )


def plan_import(
    importer: ClickHouseImporter,
    identity: Identity,
    history: MachineHistory,
    feeds: Feeds,
    *,
    hiding: bool,
) -> Plan:
    """Decide what of the feeds to write. Raises FeedError where there is nothing to decide on."""
    settings, zone = importer.settings, ZoneInfo(identity.timezone)
    ids = Ids(settings.hash_key, hidden=bool(identity.hashed))
    first = BEGINNING if hiding else first_to_read(feeds.reported)
    stored, newest = importer.read_stored(first, zone, history.newest)
    if newest > history.newest:  # by a killed run: what it has replaced may be of any time
        first = BEGINNING
        stored, newest = importer.read_stored(first, zone)
    before = stored_records(stored)
    at = max(datetime.now(UTC), max(newest, history.newest) + timedelta(milliseconds=1))
    period, sessions = history.cleanup_period_days, before["session"]
    policy = Policy(
        version=feeds.version,
        window_start=at - timedelta(days=min(period, 36_500) - 1) if period else None,
        zone=zone,
        allow_shrink=settings.allow_shrink,
        reprice=settings.reprice,
        upgraded=history.upgraded
        or any(major(old.version) >= 19 for old in sessions.values() if old.agent == "claude"),
        previous=history.complete_version,
        on_disk=names_on_disk(sessions, feeds.reported, settings, ids),
    )
    accept_feeds(feeds, policy)
    decisions = decide_in_time(before, feeds, ids, policy)
    after = {feed: decision.after for feed, decision in decisions.items()}
    return Plan(
        importer=importer,
        identity=identity,
        history=history,
        feeds=feeds,
        ids=ids,
        hiding=hiding,
        at=at,
        first=first,
        version=policy.version_text,
        stored=stored,
        before=before,
        decisions=decisions,
        changes=find_changes(before, after, stored, policy.version_text),
    )


def first_to_read(reported: Reported) -> date:
    """The first day of the month before the first reported one: earlier rows stay as they are.

    Where no feed tells of days, it is the first day of all.
    """
    days = [key[1] for place in ("daily", "projects") for key in merged(reported, place)]
    days += [date.fromisoformat(f"{key[1]}-01") for key in merged(reported, "monthly")]
    first = min(days, default=BEGINNING).replace(day=1)
    return max((first - timedelta(1)).replace(day=1), BEGINNING)


def names_on_disk(
    sessions: Records, reported: Reported, settings: Settings, ids: Ids
) -> frozenset[str]:
    """The names of Claude's transcripts, hashed, if there is a stored session to look for."""
    missing = {key for key in sessions if key[0] == "claude"}
    missing -= reported.get(("session", "claude"), {}).keys()
    names = transcripts(settings.environment) if missing else ()
    return frozenset(ids.key(name)[:8] for name in names)


def accept_feeds(feeds: Feeds, policy: Policy) -> None:
    """Refuse sessions that are counted otherwise than the stored ones; say what failed.

    Raises FeedError when no feed is left.
    """
    if policy.upgraded and policy.version < (19, 0, 0) and ("session", "claude") in feeds.reported:
        del feeds.reported["session", "claude"]
        feeds.failed["session"] = (
            "session: the sessions of this machine were imported by ccusage 19 or newer, "
            f"and {policy.version_text} counts them otherwise; update ccusage"
        )
    for line in failure_lines(feeds.failed):
        log.error("%s", line)
    if feeds.failed and not feeds.reported:
        raise FeedError("no feed could be imported; nothing was changed")


def decide_in_time(
    records: Mapping[str, Records], feeds: Feeds, ids: Ids, policy: Policy
) -> dict[str, Decision]:
    """The decisions; without evidence, where it decides and other sessions are there by now.

    The feeds are separate scans, and transcripts may go or move between two of them.
    """
    decisions = decide_all(records, feeds.reported, ids, policy)
    missing = records["session"].keys() - merged(feeds.reported, "session").keys()
    writes = any(decision.after != records[feed] for feed, decision in decisions.items())
    if not writes or (not missing and policy.version_text == policy.previous):
        return decisions
    plain = decide_all(records, feeds.reported, ids, policy._replace(evidence=False))
    if all(decision.after == plain[feed].after for feed, decision in decisions.items()):
        return decisions
    again = feeds.ask_again()
    before = {place: rows.keys() for place, rows in feeds.reported.items() if place in again}
    same = all(again[place].keys() == keys for place, keys in before.items())
    return decisions if same else plain


def write_plan(plan: Plan, result: ImportResult, started: datetime) -> None:
    """Upsert the changed tables, children first, and record the run, in machine.json too."""
    importer, identity, changes = plan.importer, plan.identity, plan.changes
    recorded = {
        "machine_name": identity.machine_name,
        "installation_id": identity.installation_id,
        "timezone": identity.timezone,
        "key_fingerprint": identity.key_fingerprint,
        "ccusage_version": plan.version,
        "importer_version": __version__,
        "cleanup_period_days": plan.history.cleanup_period_days,
        "hashed_projects": int(result.hashed),
        "feeds_imported": result.feeds_imported,
        "feeds_failed": sorted(result.feeds_failed),
        "rows_inserted": sum(map(len, changes.values())),
        "rows_deleted": sum(
            len(rows.keys() & plan.stored[t].keys()) for t, rows in changes.items()
        ),
        "rows_held": sum(result.held.values()),
        "rows_corrected": len(result.lowered),
        "held_reasons": dict(result.held),
        "total_tokens": result.total_tokens,
        "total_cost": result.total_cost,
        "started_at": started,
        "updated_at": plan.at,
    }
    try:
        for table, rows in changes.items():
            if rows:
                importer.upsert(table, rows, plan.stored[table], plan.at)
                log.debug("%s: %d rows written", table.name, len(rows))
        importer.record_runs([{**recorded, "finished_at": datetime.now(UTC)}], plan.at)
    except StoreError as error:
        error.exit_code = 3 if importer.has_written else 1
        raise
    for reason, number in result.held.items():
        log.debug("%s not as reported: %s", counted(number, "row"), reason)
    uuid = importer.engines[HISTORY].uuid
    identity = identity._replace(history_uuid=uuid, newest_run=_as_text(plan.at))
    identity.save(importer.settings.state_dir)


def stored_now(
    importer: ClickHouseImporter, identity: Identity, *, brief: bool
) -> Statistics | None:
    """Statistics after an import, which has succeeded even if these cannot be had."""
    try:
        return read_statistics(importer, Scope(datetime.now(UTC), identity.timezone), brief=brief)
    except StoreError as error:
        log.warning("all is imported, but no statistics: %s", error)
        return None


# --- copy -----------------------------------------------------------------------------
#
# Another database of this program is merged into the one in force, one machine after the other, by
# the rules of an import that never shrinks: a row that is missing here is added, and of two rows
# the one that holds more stays, as one unit with its models.

ADDRESS = "http[s]://[user@]host[:port]/database"
ITSELF = "--copy-from: {} is the database in force itself"
WRITING = 5.0  # seconds that an import needs at most to write its tables


class Holding(NamedTuple):
    """What a database holds of a machine: its rows, its runs, and the newest `updated_at`."""

    stored: TableRows
    runs: Sequence[Mapping[str, Any]]
    newest: datetime


class CopiedMonth(NamedTuple):
    """A month of a machine: its rows, and the dollars of its days, in each of the databases."""

    machine: str
    month: str
    rows_here: int
    cost_here: float
    rows_there: int
    cost_there: float
    rows_after: int
    cost_after: float


class CopyResult(NamedTuple):
    """What a copy wrote, or with `dry_run` would write."""

    source: str
    rows: int
    runs: int
    months: Sequence[CopiedMonth]
    dry_run: bool = False


def source_settings(settings: Settings, text: str) -> Settings:
    """The settings of the database to copy from, which its directory or its address names."""
    if re.match("https?://", text, re.I):
        host = r"\[[\da-f:.]+\]|[\w.-]+"
        address = rf"(https?)://(?:([^:@/]*)@)?({host})(?::(\d{{1,5}}))?/([^/?#]+)/?"
        match = re.fullmatch(address, text, re.I)
        if match and 0 < int(match[4] or 1) < 65536:
            return settings._replace(
                host=match[3],
                port=int(match[4] or {"http": 8123, "https": 8443}[match[1].lower()]),
                protocol=match[1].lower(),
                user=unquote(match[2] or "default"),
                password=settings.environment.get("COPY_FROM_PASSWORD", ""),
                database=unquote(match[5]),
            )
    elif os.path.isdir(_path(text) / "metadata"):
        source = embedded_database(settings, _path(text))
        both = (os.path.realpath(each.embedded_path) for each in (settings, source))
        if settings.host is None and len(set(both)) == 1:
            raise ConfigError(ITSELF.format(source.where))
        return source
    raise ConfigError(  # without the text: a password may be in it
        "--copy-from: expected the directory of an embedded database, or "
        f"{ADDRESS} with the password in COPY_FROM_PASSWORD"
    )


def machines_to_copy(source: Settings, machine: str) -> list[str]:
    """All machines that are stored in the source, or the one that is asked for."""
    with open_for_reading(source, "") as importer:
        if not importer.tables or importer.client.database != source.database:
            tables = f"has no tables of ours in database {source.database!r}"
            raise ConfigError(f"--copy-from: {source.where} {tables}")
        merged = "merge(currentDatabase(), '^ccusage_(usage|models?|import)_')"
        sql = f"SELECT DISTINCT machine_name FROM {merged} ORDER BY 1"  # noqa: S608 (our names)
        machines = [name for (name,) in importer.query(sql)]
    if machine and machine not in machines:
        raise ConfigError(f"--machine: {machine!r} never imported; {', '.join(machines)} did")
    return [machine] if machine else machines


def read_holding(importer: ClickHouseImporter) -> Holding:
    """What is stored of a machine, at a moment at which no import of it is writing."""
    columns = importer.engines.get(HISTORY, Engine()).columns
    sql = (
        f"SELECT {', '.join(columns)} FROM {HISTORY} "  # noqa: S608 (our names)
        "WHERE machine_name = {machine:String} ORDER BY updated_at"
    )
    deadline = time.monotonic() + WRITING
    while True:
        run = importer.read_history().newest
        stored, row = importer.read_stored(BEGINNING, UTC)
        lines = importer.query_own(HISTORY, sql)
        # What a copy has written is a little newer than the history that came with it.
        recent = datetime.now(UTC) - row < timedelta(minutes=10)
        writing = importer.settings.host and recent and row - run > timedelta(milliseconds=100)
        changed = run != importer.read_history().newest
        if time.monotonic() > deadline or not (writing or changed):
            runs = [dict(zip(columns, line, strict=True)) for line in lines]
            return Holding(stored, runs, max(run, row))
        time.sleep(0.1)


def holds(*records: Record) -> tuple[int, bool, int]:
    """What to compare of rows, to keep those that hold more."""
    parts = sum(len(record.shares) + len(record.models) for record in records)
    return total_of(records), any(record.cost for record in records), parts


def merge_rows(here: Records, there: Records) -> Records:
    """The rows of both; of two the one that holds more, under the names that are shown here."""
    after = {**there, **here}
    for key in here.keys() & there.keys():
        if holds(there[key]) > holds(here[key]):
            details = {**there[key].details, **displayed(here[key])}
            after[key] = there[key]._replace(details=details)
    return after


def merge_blocks(here: Records, there: Records) -> Records:
    """Of blocks that overlap, the cut that holds more; the gaps that lie between the blocks."""
    after: Records = {}
    blocks = [row for rows in (here, there) for row in rows.values() if not row.details["is_gap"]]
    for stretch in _stretches(blocks):
        mine, theirs = (
            [block for block in stretch if rows.get(block.id) is block] for rows in (here, there)
        )
        larger = theirs if holds(*theirs) > holds(*mine) else mine
        after |= {block.id: block for block in larger}
    for rows in (here, there):
        # A gap reaches into the first hour of the block that follows it in the same cut.
        others = [row for row in after.values() if row.id not in rows]
        for gap in rows.values():
            if gap.details["is_gap"] and not any(_overlap(gap, other) for other in others):
                after.setdefault(gap.id, gap)
    return after


def merge_into(target: ClickHouseImporter, there: Holding) -> tuple[int, int, list[CopiedMonth]]:
    """Merge what another database holds of a machine into this one: rows, runs and months."""
    refuse_other_keys(target, there)
    settings, here = target.settings, read_holding(target)
    before, other = stored_records(here.stored), stored_records(there.stored)
    after = {feed: merge_rows(before[feed], other[feed]) for feed in TABLES}
    after["blocks"] = merge_blocks(before["blocks"], other["blocks"])
    hidden, recorded = settings.hash_projects, Identity.load(settings.state_dir)
    if hidden is None:  # as this machine hides names, or that one does
        hidden = any(run["hashed_projects"] for run in here.runs[-1:])
        hidden = hidden or bool(recorded and recorded.hashed)
    for records in after.values():
        hide_names(records, Ids(settings.hash_key, hidden))
    changes = find_changes(before, after, here.stored, "")
    copied = {(run["installation_id"], run["updated_at"]) for run in here.runs}
    runs = [run for run in there.runs if (run["installation_id"], run["updated_at"]) not in copied]
    if not settings.dry_run:
        # It is older than whatever an import of that machine writes meanwhile.
        at = max(here.newest, there.newest) + timedelta(milliseconds=1)
        for table, rows in changes.items():
            origin = there.stored[table]
            for key in rows.keys() & origin.keys():
                rows[key] = rows[key]._replace(created_at=origin[key].created_at)
            if rows:
                target.upsert(table, rows, here.stored[table], at)
        if runs:
            columns = target.engines[HISTORY].columns  # a newer version may have others
            lines = [{name: run[name] for name in columns if name in run} for run in runs]
            target.record_runs(lines, at)
    number = sum(map(len, changes.values()))
    name = target.machine_name
    log.info("%s: %s and %s", name, counted(number, "row"), counted(len(runs), "run"))
    return number, len(runs), copied_months(name, before, other, after)


def refuse_other_keys(target: ClickHouseImporter, there: Holding) -> None:
    """Refuse names that are hashed with another key: they would become other projects."""
    rows = target.query_own(HISTORY, f"SELECT DISTINCT key_fingerprint FROM {HISTORY}")  # noqa: S608
    keys = {key for (key,) in rows} or {key_fingerprint(target.settings.hash_key)}
    if any(run["key_fingerprint"] not in keys for run in there.runs):
        raise ConfigError(
            f"PROJECT_HASH_KEY: the projects of {target.machine_name} are stored under another key "
            "than those of the database in force, and would be other projects; a copy needs the "
            "same key"
        )


def copied_months(machine: str, *states: Mapping[str, Records]) -> list[CopiedMonth]:
    """The months of what is stored here, there, and afterwards."""
    times = {"session": "last_activity", "blocks": "start_time"}
    sums: dict[str, list[float]] = defaultdict(lambda: [0, 0.0] * len(states))
    for index, state in enumerate(states):
        for feed, records in state.items():
            for record in records.values():
                when = record.details[times[feed]] if feed in times else record.key[0]
                figures = sums[str(when or "unknown")[:7]]
                figures[2 * index] += 1
                figures[2 * index + 1] += record.cost if feed == "daily" else 0
    return [CopiedMonth(machine, month, *sums[month]) for month in sorted(sums)]  # type: ignore[arg-type]


def copy_database(settings: Settings, place: str, machine: str = "") -> CopyResult:
    """Merge the database at `place` into the one in force: all machines, or one.

    A process can't have two embedded databases open at once, so the two are opened in turns.
    """
    source = source_settings(settings, place)
    targets: list[ClickHouseImporter] = []
    copies = []
    try:
        with import_lock(settings):
            for name in machines_to_copy(source, machine):
                with open_for_reading(source, name) as origin:
                    there = read_holding(origin)
                with open_client(settings, writing=not settings.dry_run) as client:
                    target = ClickHouseImporter(client, settings, name)
                    target.prepare(create=not settings.dry_run)
                    uuids = {each.engines.get(HISTORY, Engine()).uuid for each in (origin, target)}
                    if source.host and len(uuids) == 1 and uuids.pop().strip("0-"):
                        raise ConfigError(ITSELF.format(source.where))
                    target.token_suffix = f"/copy {os.urandom(4).hex()}"
                    targets.append(target)
                    copies.append(merge_into(target, there))
    except ImporterError as error:
        if str(error).startswith(source.where):  # its settings are not in variables
            text = str(error).replace("CH_PASSWORD", "COPY_FROM_PASSWORD")
            text = re.sub(r"\bCH_(\w+)", lambda match: f"its {match[1].lower()}", text)
            error.args = (f"--copy-from: {text}",)
        if any(target.has_written for target in targets):
            error.exit_code = 3
        raise
    return CopyResult(
        source=source.where,
        rows=sum(rows for rows, _, _ in copies),
        runs=sum(runs for _, runs, _ in copies),
        months=[month for _, _, months in copies for month in months],
        dry_run=settings.dry_run,
    )


# --- statistics -----------------------------------------------------------------------


class Scope(NamedTuple):
    """What statistics are about; without days, machine or agents: all that is stored."""

    now: datetime
    zone: str
    days: int | None = None
    machine: str = ""
    agents: tuple[str, ...] = ()

    @property
    def today(self) -> date:
        return self.now.astimezone(ZoneInfo(self.zone)).date()

    @property
    def since(self) -> date:
        first = date(1900, 1, 1)  # of Date32
        return max(self.today - timedelta(self.days - 1), first) if self.days else first

    @property
    def monday(self) -> date:
        return self.today - timedelta(self.today.weekday())

    @property
    def year(self) -> date:
        """The Monday with which a year's heatmap starts."""
        return self.monday - timedelta(52 * 7)


Rows = Sequence[Any]  # each of which is a sequence
BRIEF = ("days", "machines", "unpriced", "blocks", "clock", "spending")  # figures of an import


def month_before(day: date) -> date:
    """The first day of the month before."""
    return (day.replace(day=1) - timedelta(1)).replace(day=1)


def read_figures(
    importer: ClickHouseImporter, scope: Scope, kind: str, *, brief: bool = False
) -> dict[str, Rows]:
    """The rows of each query of a kind, by the rest of its name, as arrays of one statement.

    When it is `brief`, they are what an import says: of models, this month and the last one.
    """
    queries = {
        name.removeprefix(kind): query
        for name, query in read_queries().items()
        if name.startswith(kind) and (not brief or name.removeprefix(kind) in BRIEF)
    }
    if not importer.tables:
        return dict.fromkeys(queries, ())
    values: dict[str, Any] = {
        "machine": scope.machine,
        "agents": ",".join(scope.agents),
        "since": month_before(scope.today) if brief else scope.since,
        "recent": month_before(scope.today),
        "year": scope.year,
        "timezone": scope.zone,
        "now": int(scope.now.timestamp()),
    }
    for query in queries.values():
        values = {**query.parameters, **values}
    arrays = [f"(SELECT groupArray(tuple(*)) FROM ({q.sql}))" for q in queries.values()]  # noqa: S608
    (row,) = importer.query(f"SELECT {', '.join(arrays)}", **values)
    return dict(zip(queries, row, strict=True))


def read_statistics(
    importer: ClickHouseImporter, scope: Scope, *, brief: bool = False
) -> Statistics:
    """What is stored, as figures."""
    figures = read_figures(importer, scope, STATISTICS, brief=brief)
    return summarise(figures, scope, importer.settings)


class Usage(NamedTuple):
    """US dollars and tokens."""

    cost: float
    tokens: int

    @classmethod
    def of(cls, parts: Iterable[Usage | Part | Month]) -> Usage:
        """What the parts hold together."""
        parts = list(parts)
        return cls(math.fsum(part.cost for part in parts), sum(part.tokens for part in parts))


class Part(NamedTuple):
    """A model, project, agent or machine; its share of the cost, of the tokens if all is free."""

    name: str
    agent: str
    cost: float
    tokens: int
    share: float


class Period(NamedTuple):
    """A period so far, against the whole one before, and against that one until the same hour."""

    name: str
    start: date
    cost: float
    tokens: int
    cost_before: float
    tokens_before: int
    cost_before_so_far: float
    projected_cost: float | None


class Budget(NamedTuple):
    """A budget, and what all machines and agents have spent of it.

    `reached` is the first day on which it is, or at this pace will be, exceeded.
    """

    name: str
    limit: float
    cost: float
    projected_cost: float | None
    reached: date | None


class Month(NamedTuple):
    """A month, from its days in the scope."""

    month: str
    cost: float
    tokens: int
    active_days: int


class Sessions(NamedTuple):
    """How many there are, what they cost, and the names of two of them."""

    number: int = 0
    mean_cost: float | None = None
    max_cost: float = 0.0
    costliest: str = ""
    longest_minutes: int = 0
    longest: str = ""


class ActiveBlock(NamedTuple):
    """A block that still runs, with the rates of its last import."""

    machine: str
    start: datetime
    end: datetime
    minutes_left: int
    tokens: int
    cost: float
    cost_per_hour: float | None
    projected_cost: float | None


class HeatDay(NamedTuple):
    """A day: level 0 without usage, 1 to 4 by quarter of the days' costs, null if not known."""

    date: date
    cost: float
    tokens: int
    level: int | None


class LastRun(NamedTuple):
    """A machine's last import, what it added to the one before, and rows held, by reason."""

    machine: str
    at: datetime
    ccusage_version: str
    hashed_projects: bool
    cost: float
    tokens: int
    previous_at: datetime | None
    added_cost: float
    added_tokens: int
    held: dict[str, int]


class Statistics(NamedTuple):
    """What is stored: the object of `--stats --format json`.

    Costs are US dollars, days those of `scope.zone`, shares go from 0 to 1, null is unknown.
    """

    scope: Scope
    first_day: date | None  # of those in the scope
    last_day: date | None
    active_days: int  # with tokens
    cost: float
    tokens: int
    cache_share: float | None  # of the input, what was read from the cache
    periods: list[Period]  # today, this week from Monday, this month, whatever --days says
    months: list[Month]  # the last twelve
    budgets: list[Budget]  # those that are set, whatever the scope is
    models: list[Part]  # here and below, the most expensive first
    projects: list[Part]
    agents: list[Part]
    machines: list[Part]
    unpriced: dict[str, int]  # by model, tokens without a price: the costs are a lower bound
    sessions: Sessions
    blocks: list[ActiveBlock]
    streak: int  # days in a row up to today or yesterday
    longest_streak: int
    costliest_day: date | None
    busiest_weekday: str | None  # by tokens
    busiest_hour: int | None  # in which blocks start
    heatmap: list[HeatDay]  # each day of the last 53 weeks
    runs: list[LastRun]  # of each machine, the newest first


def summarise(
    figures: Mapping[str, Rows], scope: Scope, settings: Settings | None = None
) -> Statistics:
    """Statistics of the rows of all figures; a figure that is not there has none."""
    rows: dict[str, Rows] = defaultdict(list, figures)
    days = {day: Usage(cost, tokens) for day, cost, tokens, *_ in rows["days"]}
    inside = {day: usage for day, usage in days.items() if day >= scope.since}
    total = Usage.of(inside.values())
    prompt, cached = (sum(row[at] for row in rows["days"] if row[0] in inside) for at in (3, 4))
    used = sorted(day for day, usage in inside.items() if usage.tokens and day <= scope.today)
    streak, longest = streaks(used, scope.today)
    weekdays: Counter[str] = Counter()
    for day, usage in inside.items():
        weekdays[f"{day:%A}"] += usage.tokens

    def parts(name: str) -> list[Part]:
        whole, at = (total.cost, 2) if total.cost else (total.tokens or 1, 3)
        return [Part._make([*row, row[at] / whole]) for row in rows[name]]

    return Statistics(
        scope=scope,
        first_day=min(inside, default=None),
        last_day=max(inside, default=None),
        active_days=sum(usage.tokens > 0 for usage in inside.values()),
        cost=total.cost,
        tokens=total.tokens,
        cache_share=cached / prompt if prompt else None,
        periods=list(periods(days, dict(rows["clock"]), scope)),
        months=[Month(*row) for row in rows["months"]],
        budgets=list(budgets(dict(rows["spending"]), settings, scope.today)),
        models=parts("models"),
        projects=parts("projects"),
        agents=parts("agents"),
        machines=parts("machines"),
        unpriced=dict(rows["unpriced"]),
        sessions=Sessions(*next(iter(rows["sessions"]), ())),
        blocks=[ActiveBlock(*row) for row in rows["blocks"]],
        streak=streak,
        longest_streak=longest,
        costliest_day=max(inside, key=inside.__getitem__, default=None),
        busiest_weekday=max(weekdays, key=weekdays.__getitem__, default=None),
        busiest_hour=max(rows["hours"], key=lambda row: row[1], default=(None,))[0],
        heatmap=heatmap(days, dict(rows["imports"]), scope),
        runs=[LastRun(*row) for row in rows["runs"]],
    )


def streaks(days: Sequence[date], today: date) -> tuple[int, int]:
    """Days in a row: those up to today or yesterday, and the most there ever were."""
    # In a row, the day's number grows as its place does.
    lengths = Counter(day.toordinal() - place for place, day in enumerate(days))
    lasts = days and today - days[-1] <= timedelta(1)
    return list(lengths.values())[-1] if lasts else 0, max(lengths.values(), default=0)


def periods(
    days: Mapping[date, Usage], parts: Mapping[date, float], scope: Scope
) -> Iterator[Period]:
    """Today, this week and this month; `parts` of days were spent until this time of the day."""
    now, today = scope.now.astimezone(ZoneInfo(scope.zone)), scope.today
    costs = {day: usage.cost for day, usage in days.items()}

    def between(start: date, end: date) -> Usage:
        return Usage.of(usage for day, usage in days.items() if start <= day < end)

    for name, start, before in (
        ("today", today, today - timedelta(1)),
        ("this week", scope.monday, scope.monday - timedelta(7)),
        ("this month", today.replace(day=1), month_before(today)),
    ):
        same = before + (today - start)  # the day that is compared with today
        so_far = between(before, min(same, start)).cost
        if same < start:
            so_far += costs.get(same, 0) * parts.get(same, (60 * now.hour + now.minute) / 1440)
        projected = forecast(costs, today)[1] if name == "this month" else None
        usage, whole = between(start, today + timedelta(1)), between(before, start)
        yield Period(name, start, *usage, *whole, so_far, projected)


def forecast(costs: Mapping[date, float], today: date) -> tuple[dict[date, float], float | None]:
    """What this month costs by the end of each of its days, and in all.

    It goes on as its complete days did on average, else as last month did. Without either nobody
    can tell.
    """

    def average(start: date, end: date) -> float:
        spent = math.fsum(cost for day, cost in costs.items() if start <= day < end)
        return spent / (end - start).days

    first = today.replace(day=1)
    start = max(first, min(costs, default=today))
    pace = average(start, today) if start < today else average(month_before(today), first)
    sums, total = {}, 0.0
    for day in (first + timedelta(age) for age in range(31)):
        if day.month == today.month:
            cost = costs.get(day, 0.0) if day <= today else 0.0
            sums[day] = total = total + max(cost, pace if day >= today else 0.0)
    return sums, total if pace or start < today else None


def budgets(
    costs: Mapping[date, float], settings: Settings | None, today: date
) -> Iterator[Budget]:
    """The budgets that are set; `costs` are those of all machines and agents."""
    if settings and (limit := settings.budget_month):
        spent = math.fsum(cost for day, cost in costs.items() if f"{day:%Y%m}" == f"{today:%Y%m}")
        sums, projected = forecast(costs, today)
        reached = (day for day, cost in sums.items() if cost > limit)
        yield Budget("this month", limit, spent, projected, next(reached, None))
    if settings and (limit := settings.budget_day):
        spent = costs.get(today, 0.0)
        yield Budget("today", limit, spent, None, today if spent > limit else None)


def heatmap(
    days: Mapping[date, Usage], imported: Mapping[date, int], scope: Scope
) -> list[HeatDay]:
    """The last year by day. An import saw all days that Claude Code then still kept."""
    first, cells = max(scope.year, scope.since), []
    usages = sorted(u for day, u in days.items() if u.tokens and first <= day <= scope.today)
    seen_from = scope.today + timedelta(1)
    for age in range((scope.today - first).days + 1):
        day = scope.today - timedelta(age)
        if day in imported:
            seen_from = min(seen_from, day - timedelta(min(max(imported[day] - 1, 0), 400)))
        usage = days.get(day, Usage(0.0, 0))
        level = 0 if day in days or day >= seen_from else None
        if usage.tokens:
            level = math.ceil(4 * bisect_right(usages, usage) / len(usages))
        cells.append(HeatDay(day, *usage, level))
    return cells[::-1]


# --- output ---------------------------------------------------------------------------

TIME = "%Y-%m-%d %H:%M"


class Section(NamedTuple):
    """A table with a header, labelled texts without one, or a drawing, which is made for a width.

    A terminal has the title above, a bar for each share, and the drawing instead of the rows. With
    `total`, the last row is a total. Cells are texts, counts, dollars (float) or nothing (None).
    """

    header: Sequence[str] = ()
    rows: Rows = ()
    shares: Sequence[float] = ()
    drawing: Callable[[int], Sequence[str]] | None = None
    title: Sequence[str] = ()
    total: bool = False


def human(number: float, sign: str = "") -> str:
    """999, 560.0K, 410.7M, 2.8B."""
    if abs(number) < 1000:
        return f"{number:{sign},.0f}"
    for unit in "KMB":
        number /= 1000
        if abs(number) < 999.95:
            return f"{number:{sign}.1f}{unit}"
    return f"{number / 1000:{sign},.1f}T"


def money(dollars: float, sign: str = "") -> str:
    if 0 < dollars < 0.005:
        return f"{sign}<$0.01"
    text = f"{dollars:{sign},.{2 if abs(dollars) < 9999.995 else 0}f}"
    return f"{text[0]}${text[1:]}" if text[0] in "+-" else f"${text}"


def change(now: float, before: float) -> str:
    if not before:
        return ""
    text = f"{now / before - 1:+.0%}" if now < 10 * before else f"×{now / before:,.0f}"
    return "+0%" if text == "-0%" else text


def amount(cost: float, tokens: int, sign: str = "") -> str:
    return f"{money(cost, sign)}, {human(tokens, sign)} tokens"


def duration(minutes: int) -> str:
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def budget_text(cost: float, limit: float) -> str:
    texts = (f"${n:,.0f}" if n >= 100 or n == int(n) else money(n) for n in (cost, limit))
    return f"{' of '.join(texts)} ({cost / limit:.0%})".replace("%", " %")


def standing(stats: Statistics) -> Iterator[tuple[str, str]]:
    """How far the budgets are spent, and which blocks are running."""
    for name, limit, cost, projected, reached in stats.budgets:
        text = budget_text(cost, limit)
        if projected is not None:
            text += f", ${projected:,.0f} at this pace"
        if reached:
            text += f", {'exceeded' if cost > limit else 'reached'}"
            text += f" on {reached:%b %d}" if name == "this month" else ""
        yield "Budget" if name == "this month" else "Budget today", text
    for block in stats.blocks:
        where = f"{block.machine}, " if len(stats.machines) > 1 else ""
        times = f"{block.start:%H:%M} – {block.end:%H:%M}, {duration(block.minutes_left)} left"
        text = f"{where}{times}: {amount(block.cost, block.tokens)}"
        if block.cost_per_hour is not None and block.projected_cost is not None:
            text += f", {money(block.cost_per_hour)} an hour, {money(block.projected_cost)} by then"
        yield "Active block", text


def habits(stats: Statistics) -> Iterator[tuple[str, str]]:
    number, mean, most, costliest, minutes, longest = stats.sessions
    if mean is not None:
        text = f"{number:,}, {money(mean)} on average, {money(most)} at most ({costliest})"
        yield "Sessions", f"{text}; longest {duration(minutes)} ({longest})" if longest else text
    if stats.longest_streak:
        text = f"{counted(stats.streak, 'day')} in a row, {stats.longest_streak:,} at most"
        yield "Streak", f"{text}; most expensive {stats.costliest_day}"
    if stats.busiest_hour is not None:
        yield "Busiest", f"{stats.busiest_weekday}s; blocks from {stats.busiest_hour:02}:00"
    for run in stats.runs[:1]:
        added = amount(run.added_cost, run.added_tokens, "+")
        since = f": {added} since {run.previous_at:{TIME}}" if run.previous_at else ""
        yield "Last import", f"{run.at:{TIME}} on {run.machine}{since}"


def notes(stats: Statistics, held: Mapping[str, int] | None = None) -> Iterator[tuple[str, str]]:
    """What to know of the figures; without `held`, the rows that the last runs kept are told."""
    if stats.unpriced:
        names = [f"{model} ({human(tokens)} tokens)" for model, tokens in stats.unpriced.items()]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        yield "Note", f"costs are a lower bound: no price for {', '.join(names[:5])}{more}"
    if held is None:
        held = sum((Counter(run.held) for run in stats.runs), Counter[str]())
    for reason, number in held.items():
        yield "Note", f"{counted(number, 'row')} kept: {reason}"
    if stats.last_day and stats.last_day > stats.scope.today:
        yield "Note", f"some days lie in the future, up to {stats.last_day}"


def month_section(months: Sequence[Month]) -> Section:
    """The last months and their total; this one is not over, so it is not compared."""
    rows, before = [], 0.0
    for month in months:
        text = "" if month is months[-1] else change(month.cost, before)
        rows.append((month.month, month.cost, human(month.tokens), month.active_days, text))
        before = month.cost
    cost, tokens = Usage.of(months)
    days = sum(month.active_days for month in months)
    rows.append((counted(len(months), "month"), cost, human(tokens), days, ""))
    most = max(month.cost for month in months) or 1
    shares = [month.cost / most for month in months]
    return Section(("Months", "cost", "tokens", "days", "change"), rows, shares, total=True)


def part_section(title: str, parts: Sequence[Part]) -> Section:
    """The largest parts, and the others as one; an agent tells two of the same name apart."""
    largest, others = list(parts[:10]), parts[10:]
    if others:
        share = math.fsum(part.share for part in others)
        largest.append(Part(f"{len(others)} more", "", *Usage.of(others), share))
    owners = Counter(name for name, _ in {(part.name, part.agent) for part in parts})
    rows = []
    for name, agent, cost, tokens, share in largest:
        percent = "<1%" if 0 < share < 0.005 else f"{share:.0%}"
        owned = f"{name} ({agent})" if owners[name] > 1 else name
        rows.append((owned, percent, cost, human(tokens)))
    return Section((title, "share", "cost", "tokens"), rows, [part.share for part in largest])


HEIGHTS = " ▁▂▃▄▅▆▇█"


def chart(title: str, costs: Mapping[str, float], label: str, top: float, width: int) -> list[str]:
    """Columns for days, on the left the label of the `top`, below the first and the last day.

    Where there are too many, a column shows the highest of a few.
    """
    days, values = list(costs), list(costs.values())
    margin, height = " " * (len(label) + 1), 4
    width -= len(margin)
    each, few = max(width // len(values), 1), -(-len(values) // max(width, 1))
    highest = [max(values[at : at + few]) for at in range(0, len(values), few)]
    eighths = [math.ceil(8 * height * max(value, 0) / top) if top else 0 for value in highest]
    first, *lines = (
        (" " * (each > 1)).join(
            HEIGHTS[min(max(level - 8 * line, 0), 8)] * max(each - 1, 1) for level in eighths
        )
        for line in reversed(range(height))
    )
    last = f"{margin}{days[0]}{days[-1]:>{max(len(first) - len(days[0]), len(days[-1]) + 1)}}"
    return [title, f"{label} {first}", *(margin + line for line in lines), last]


SHADES = "·░▒▓█"


def year_chart(year: Sequence[HeatDay], width: int) -> list[str]:
    """The heatmap: a column for each week, and above a month's first week its name."""
    first = year[0].date - timedelta(year[0].date.weekday())
    cells = [" "] * year[0].date.weekday()
    cells += [" " if day.level is None else SHADES[day.level] for day in year]
    cells += [" "] * (-len(cells) % 7)
    weeks, months = len(cells) // 7, ""
    wide = 2 if width >= 4 + 2 * weeks else 1
    for week in range(weeks):
        monday = first + timedelta(7 * week)
        if monday.day <= 7 and len(months) <= week * wide:
            months = months.ljust(week * wide) + f"{monday:%b} "
    lines = [
        f"{label:<4}{''.join(cell * wide for cell in cells[day::7])}"
        for day, label in enumerate(("Mon", "", "Wed", "", "Fri", "", "Sun"))
    ]
    legend = f"    less {SHADES} more, blank: nothing known"
    return [f"    {months[: weeks * wide]}", *lines, legend]


def statistics_sections(stats: Statistics) -> Iterator[Section]:
    """What is stored, for people."""
    if stats.first_day is None:
        nothing = "nothing is stored of that" if stats.runs else "nothing is imported yet"
        yield Section(rows=[("Empty", nothing)])
        return
    cached = "" if stats.cache_share is None else f", {stats.cache_share:.0%} of the input cached"
    total = f"{amount(stats.cost, stats.tokens)}{cached}"
    days = f"{stats.first_day} – {stats.last_day}, {stats.active_days:,} with usage"
    yield Section(rows=[("Total", total), ("Days", days), *standing(stats)])
    periods = [
        (
            period.name.capitalize(),
            period.cost,
            human(period.tokens),
            period.cost_before_so_far,
            change(period.cost, period.cost_before_so_far),
            period.projected_cost,
        )
        for period in stats.periods
    ]
    yield Section(("", "cost", "tokens", "before", "pace", "forecast"), periods)
    if stats.months:
        yield month_section(stats.months)
    last = stats.heatmap[-30:]
    title, most = f"Cost of the last {counted(len(last), 'day')}", max(day.cost for day in last)
    costs = {f"{day.date:%b %d}": day.cost for day in last}
    yield Section(drawing=partial(chart, title, costs, money(most), most))
    several = {"Machines": stats.machines, "Agents": stats.agents}
    several = {name: parts for name, parts in several.items() if len(parts) > 1}
    for name, parts in {"Models": stats.models, "Projects": stats.projects, **several}.items():
        if parts:
            yield part_section(name, parts)
    yield Section(drawing=partial(year_chart, stats.heatmap))
    yield Section(rows=list(habits(stats)))
    yield Section(rows=list(notes(stats)))


# What an import says


class TableCount(NamedTuple):
    """How many rows of a table a run adds, changes, removes and leaves alone."""

    new: int
    changed: int
    removed: int
    unchanged: int

    @classmethod
    def of(cls, rows: Mapping[Key, Row], stored: Mapping[Key, Row]) -> TableCount:
        """The changed rows of a table, and all that were read of it."""
        live = {key for key, old in stored.items() if old.live}
        counts = Counter((key in live, row.live) for key, row in rows.items())
        changed, removed = counts[True, True], counts[True, False]
        return cls(counts[False, True], changed, removed, len(live) - changed - removed)


class LoweredRow(NamedTuple):
    """A row that got smaller, named as people see it."""

    feed: str
    row: str
    tokens_before: int
    tokens: int


class PriceChange(NamedTuple):
    """What a model's tokens of a month cost as they are stored, and as ccusage now prices them."""

    month: str
    model: str
    cost_before: float
    cost: float


class ImportResult(NamedTuple):
    """What an import did, or with `dry_run` would do: the object of `--format json`.

    The totals are those of this machine after the run, `previous` those of the run before;
    `statistics` are of all that is stored. `former_price_days` keep their former price, for which
    ccusage now asks `former_price_difference` dollars more; `repriced` are changes by --reprice,
    which cannot change the `days_not_reported`.
    """

    identity: Identity
    ccusage_version: str
    feeds_imported: Sequence[str]
    feeds_failed: Mapping[str, str]
    tables: Mapping[str, TableCount]
    held: Mapping[str, int]
    lowered: Sequence[LoweredRow]
    total_tokens: int
    total_cost: float
    previous: Mapping[str, Any] | None
    hashed: bool
    dry_run: bool = False
    allow_shrink: bool = False
    statistics: Statistics | None = None
    former_price_days: int = 0
    former_price_difference: float = 0.0
    repriced: Sequence[PriceChange] = ()
    days_not_reported: int = 0


def result_of(plan: Plan) -> ImportResult:
    """What people are told of a plan."""
    settings, decisions, reported = plan.importer.settings, plan.decisions, plan.feeds.reported
    days, prices = decisions["daily"].after, decisions["daily"].prices.values()
    number, tokens, cost = plan.importer.days_before(plan.first)
    held = Counter(reason for d in decisions.values() for reason in d.kept.values())
    if repriced := sum(len(decision.prices) for decision in decisions.values()):
        held[Cause.REPRICED] = repriced
    return ImportResult(
        identity=plan.identity,
        ccusage_version=plan.version,
        feeds_imported=sorted(feed_label(*place) for place in reported),
        feeds_failed=plan.feeds.failed,
        tables={t.name: TableCount.of(rows, plan.stored[t]) for t, rows in plan.changes.items()},
        held=held,
        lowered=list(lowered_rows(decisions)),
        total_tokens=min(total_of(days.values()) + tokens, UINT64_MAX),
        total_cost=round(math.fsum([cost, *(row.cost for row in days.values())]), 8),
        previous=plan.history.previous,
        hashed=bool(plan.identity.hashed),
        dry_run=settings.dry_run,
        allow_shrink=settings.allow_shrink,
        former_price_days=len(prices),
        former_price_difference=round(math.fsum(prices), 8),
        repriced=list(price_changes(plan.before["daily"], days)),
        days_not_reported=number + len(days.keys() - merged(reported, "daily").keys()),
    )


def lowered_rows(decisions: Mapping[str, Decision]) -> Iterator[LoweredRow]:
    """The rows that get smaller, with their names, and their keys where these are no hashes."""
    for feed, decision in decisions.items():
        for key, cause in decision.lowered.items():
            old, new = decision.stored[key], decision.after.get(key)
            agent = "" if old.agent == "claude" else old.agent
            day = "" if feed == "session" else str(old.key[0])
            row = " ".join(filter(None, (agent, day, *displayed(old).values())))
            if cause != Cause.MOVED:
                yield LoweredRow(feed, row, tokens_of(old), tokens_of(new))


def price_changes(before: Records, after: Records) -> Iterator[PriceChange]:
    """What the days of each month and model cost before and after, where their price changes."""
    costs = defaultdict[tuple[str, str], list[tuple[float, float]]](list)
    for key in before.keys() & after.keys():
        old, new = before[key], after[key]
        if (old.tokens, old.cost) == (new.tokens, new.cost):
            continue
        for model, share in new.shares.items():
            former = old.shares.get(model)
            if former and former.tokens == share.tokens:
                costs[f"{key[1]:%Y-%m}", model].append((former.cost, share.cost))
    for place, pairs in sorted(costs.items()):
        cost_before, cost = map(math.fsum, zip(*pairs, strict=True))
        if cost_before != cost:
            yield PriceChange(*place, cost_before, cost)


def import_warnings(plan: Plan) -> Iterator[str]:
    """What people are to know before a plan is written."""
    yield from other_installations(plan.history, plan.identity)
    yield from correction_notes(plan)
    sessions = TABLES["session"]
    new = [key[1] for key in plan.changes[sessions] if key not in plan.stored[sessions]]
    for machine, number in plan.importer.twins(new).items():
        yield (
            f"{number:,} of {len(new):,} new sessions are also stored under the name {machine}: "
            "where two machines import the same transcripts, these count twice "
            "(--query twin-machines lists them)"
        )
    yield from budget_alarms(*budgets_around(plan))
    if plan.hiding:
        yield from hidden_names_notes(plan)


def history_elsewhere(
    settings: Settings, machine: str, recorded: Identity | None, history: MachineHistory
) -> Iterator[str]:
    """A warning where a machine has no history here: where it has one, and how to bring it."""
    bring = "to bring it here, run ccusage_importer.py --copy-from"
    place, number, cost = settings.embedded_path, 0, 0.0
    if not history.identity and settings.host and os.path.isdir(place / "metadata"):
        embedded = embedded_database(settings._replace(lock_timeout=0), place)
        with (
            contextlib.suppress(ImporterError),  # an import does not fail because of it
            open_for_reading(embedded, machine) as importer,
        ):
            number, _, cost = importer.days_before(date(2299, 1, 1))
    if number:
        days = f"{counted(number, 'day')} of {machine}, {money(cost)}"
        yield f"{embedded.where} holds {days}; {bring} {shlex.quote(str(place))}"
    elif not history.identity and recorded:
        what = f"{machine} has imported before, but {settings.where} holds no import of it"
        yield f"{what}; {bring} with the former database"


def embedded_database(settings: Settings, path: Path) -> Settings:
    """The settings of an embedded database, in which CH_DATABASE is ours, or the only one is."""
    files = path.glob(f"metadata/*/{TABLES['daily'].name}.sql")
    databases = [unquote(file.parent.name) for file in files]
    database = settings.database
    if len(databases) == 1:
        (database,) = databases
    return settings._replace(host=None, embedded_path=path, database=database)


def other_installations(history: MachineHistory, identity: Identity) -> list[str]:
    """Warnings: two machines under one name would overwrite each other's rows."""
    recent = min(history.newest, datetime.now(UTC) - timedelta(days=30))
    return [
        f"another installation ({installation}) imported as {identity.machine_name} on "
        f"{seen:{TIME}}. Two machines must not share a name: set MACHINE_NAME on one"
        for installation, seen in history.installations.items()
        if installation != identity.installation_id and seen >= recent
    ]


def correction_notes(plan: Plan) -> Iterator[str]:
    """What another version of ccusage counts less, of days, or else of any table."""
    rows = {
        feed: [
            (decision.stored[key], decision.after.get(key))
            for key, cause in decision.lowered.items()
            if cause == Cause.CORRECTED
        ]
        for feed, decision in plan.decisions.items()
    }
    corrected = rows["daily"] or next(filter(None, rows.values()), [])
    if not corrected:
        return
    before, after = [old for old, _ in corrected], [new for _, new in corrected if new]
    versions = ", ".join(sorted({old.version for old in before if old.version}))
    tokens = total_of(before) - total_of(after)
    cost = math.fsum(row.cost for row in before) - math.fsum(row.cost for row in after)
    yield (
        f"corrected: ccusage {plan.version} counts {tokens:,} tokens (${cost:,.2f}) less than "
        f"{versions} did, in {sum(map(len, rows.values())):,} rows"
    )


def hidden_names_notes(plan: Plan) -> Iterator[str]:
    """How many names are about to be hidden that no transcript can show again."""
    names: set[str] = set()
    there: set[str] = set()
    for feed in ("session", "projects"):
        for row in merged(plan.feeds.reported, feed).values():
            there.update(displayed(row).values())
        for row in plan.before[feed].values():
            shown = displayed(row).values()
            if plan.ids.key(*shown) == row.key[-1]:  # these are names, not hashes
                names.update(shown)
    if number := sum(bool(name) and plan.ids.shown(name) not in there for name in names):
        yield (
            f"{number:,} names of projects and sessions are hidden for good: their transcripts "
            "are gone, so --no-hash-projects cannot show them again"
        )


def budgets_around(plan: Plan) -> list[list[Budget]]:
    """The budgets of all machines, as they are before and after a run."""
    importer, settings = plan.importer, plan.importer.settings
    today = Scope(datetime.now(UTC), plan.identity.timezone).today
    if not (settings.budget_month or settings.budget_day):
        return [[], []]
    sql, first = read_queries()[f"{STATISTICS}spending"].sql, today.replace(day=1)
    rows: Rows = importer.query(sql, recent=first) if importer.tables else ()
    before: dict[date, float] = dict(rows)
    after = defaultdict(float, before)
    for key, day in plan.before["daily"].items():
        after[key[1]] -= day.cost
    for key, day in plan.decisions["daily"].after.items():
        after[key[1]] += day.cost
    return [list(budgets(costs, settings, today)) for costs in (before, after)]


def budget_alarms(before: Iterable[Budget], after: Iterable[Budget]) -> Iterator[str]:
    """A line for each budget of which more than 80 % or 100 % is spent now, and was not before."""
    for old, new in zip(before, after, strict=True):
        for share, state in ((1.0, "exceeded"), (0.8, "80 % used")):
            if old.cost <= share * new.limit < new.cost:
                text = budget_text(new.cost, new.limit)
                yield f"the budget of {new.name} is {state}: {text}"
                break


def news(result: ImportResult, today: date) -> str:
    """What is new since the last import, in a line."""
    nouns = {"ccusage_usage_daily": "day", "ccusage_usage_sessions": "session"}
    changed: Counter[str] = Counter()
    for table, count in result.tables.items():
        changed[nouns.get(table, "other row")] += count.new + count.changed + count.removed
    texts = [counted(changed[noun], noun) for noun in nouns.values() if changed[noun]]
    if not texts and (others := changed["other row"]):
        texts = [counted(others, "other row")]
    cost, tokens, since = result.total_cost, result.total_tokens, ""
    if before := result.previous:
        cost, tokens = round(cost - before["total_cost"], 8), tokens - before["total_tokens"]
        started = before["started_at"].astimezone(ZoneInfo(result.identity.timezone))
        since = f" since {started:{'%H:%M' if started.date() == today else TIME}}"
    if not texts:
        return f"nothing new{since}"
    verb = "would change" if result.dry_run else "changed"
    return f"{', '.join(texts)} {verb}: {amount(cost, tokens, '+')}{since}"


def import_facts(result: ImportResult) -> Iterator[tuple[str, str]]:
    if result.dry_run:
        yield "Dry run", "nothing was written"
    zone, stats = ZoneInfo(result.identity.timezone), result.statistics
    now = stats.scope.now if stats else datetime.now(UTC)
    yield "New", news(result, now.astimezone(zone).date())
    for period in stats.periods if stats and stats.first_day else ():
        if period.name != "this week":
            text = amount(period.cost, period.tokens)
            if pace := change(period.cost, period.cost_before_so_far):
                before = "yesterday" if period.name == "today" else "last month"
                text += f", {pace} on {money(period.cost_before_so_far)} by this time {before}"
            if period.projected_cost:
                text += f", {money(period.projected_cost)} expected"
            yield period.name.capitalize(), text
    yield from standing(stats) if stats else ()
    if result.lowered and not result.allow_shrink:
        smaller = f"{'would be ' if result.dry_run else ''}smaller"
        yield "Corrected", f"{counted(len(result.lowered), 'row')} {smaller}, as ccusage now counts"
    for feed in result.feeds_failed:
        yield "Failed", f"{feed}: its rows stay as they were"
    if result.former_price_days:
        days, dollars = counted(result.former_price_days, "day"), result.former_price_difference
        difference = f"{money(abs(dollars))} {'lower' if dollars < 0 else 'higher'}"
        keeps = "they keep their cost (--reprice takes the new prices)"
        yield "Note", f"ccusage now prices {days} {difference}; {keeps}"
    if result.repriced and result.days_not_reported:
        days = counted(result.days_not_reported, "day")
        yield "Note", f"{days} cannot be repriced: no feed reports them any more"
    yield from notes(stats, result.held) if stats else ()


def import_sections(result: ImportResult, *, verbose: bool = False) -> Iterator[Section]:
    """What is new and where one stands; verbose with the rows of each table."""
    would = "would be " if result.dry_run else ""
    if verbose or result.dry_run:
        header = ("Rows", f"{would}new", f"{would}changed", f"{would}removed", "unchanged")
        tables = {re.sub("^ccusage_(usage_)?", "", n): c for n, c in result.tables.items()}
        yield Section(header, [(n.replace("_", " "), *counts) for n, counts in tables.items()])
        names = "names hashed" if result.hashed else "names stored as they are"
        where = f"{result.identity.machine_name}, days in {result.identity.timezone}"
        machine = f"{where}, ccusage {result.ccusage_version}, {names}"
        total = f"{amount(result.total_cost, result.total_tokens)} of this machine"
        yield Section(rows=[("Machine", machine), ("Stored", total)])
    yield Section(rows=list(import_facts(result)))
    if result.repriced:
        title = f"{would}repriced".capitalize()
        rows = [(f"{month} {model}", *costs) for month, model, *costs in result.repriced]
        yield Section((title, "from", "to"), rows)
    if result.allow_shrink and result.lowered:
        title = f"{would}lowered by --allow-shrink".capitalize()
        rows = [(f"{feed} {row}", *tokens) for feed, row, *tokens in result.lowered]
        yield Section((title, "from tokens", "to tokens"), rows)


def failure_lines(failed: Mapping[str, str]) -> list[str]:
    """The messages of failed feeds, by label; feeds that failed of one cause share a message."""
    causes: dict[str, list[str]] = defaultdict(list)
    for label, message in failed.items():
        # What differs though the cause is one: the place of a field, and the names of the feed.
        cause = message.removeprefix(f"{label}: ").partition("\n  ran: ")[0]
        cause = re.sub(r"^[^\s:]+\.(?=\w+: )|\b(daily|monthly|session|blocks)\b *", "", cause)
        causes[cause].append(label)
    return [
        ", ".join(labels) + failed[labels[0]].removeprefix(labels[0]) for labels in causes.values()
    ]


class Report(NamedTuple):
    """An answer: its value for JSON, sections for people, and columns and rows for CSV.

    Without columns, CSV has a line for each figure of the value.
    """

    value: Any
    sections: Iterable[Section]
    columns: Sequence[str] = ()
    rows: Iterable[Sequence[Any]] = ()


def table_report(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], sections: Sequence[Section]
) -> Report:
    """Rows, each of which is an object in JSON."""
    return Report([dict(zip(columns, row, strict=True)) for row in rows], sections, columns, rows)


def copy_report(result: CopyResult) -> Report:
    """The machines and months of a copy: rows and dollars here, there, and afterwards."""
    header = ("Machine, month", "rows here", "cost", "rows there", "cost", "rows after", "cost")
    rows = [(f"{machine} {month}", *figures) for machine, month, *figures in result.months]
    would = "would come" if result.dry_run else "came"
    text = f"{counted(result.rows, 'row')} and {counted(result.runs, 'run')} {would}"
    facts = [(("Dry run" if result.dry_run else "Copied"), f"{text} from {result.source}")]
    sections = [Section(header, rows)] * bool(rows) + [Section(rows=facts)]
    return Report(result, sections, CopiedMonth._fields, result.months)


def plain(value: Any) -> Any:
    """A value as JSON can hold it: exact, times in ISO, null for NaN and infinity."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each figure under its path, such as models.1.cost."""
    if not isinstance(value, (dict, list)):
        yield path, value
        return
    for name, item in value.items() if isinstance(value, dict) else enumerate(value, 1):
        yield from flatten(item, f"{path}.{name}" if path else str(name))


def render_csv(report: Report) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(report.columns or ("figure", "value"))
    for row in report.rows if report.columns else flatten(plain(report.value)):
        cells = map(plain, row)
        writer.writerow(json.dumps(c) if isinstance(c, (dict, list, bool)) else c for c in cells)
    return file.getvalue()


def render_markdown(report: Report) -> str:
    lines: list[str] = []
    for section in report.sections:
        texts = [[cell_text(cell) for cell in row] for row in section.rows]
        rows = [[re.sub(r"([\\|<>*_`\[\]])", r"\\\1", text) for text in row] for row in texts]
        if section.header:
            columns = list(zip(*texts, strict=True)) or [("name",)] * len(section.header)
            ruler = ["---:" if is_number(cells) else "---" for cells in columns]
            lines += [f"| {' | '.join(row)} |" for row in (section.header, ruler, *rows)]
        else:
            lines += [f"- **{label}:** {text}" for label, text in rows]
            lines += ["```", *section.drawing(80), "```"] if section.drawing else []
        lines += [""] if section.rows or section.header or section.drawing else []
    return "\n".join(lines)


def is_number(cells: Iterable[str]) -> bool:
    return all(re.fullmatch(r"([-+<×$]*[\d.,]+(e[-+]\d+)?[KMBT%]?)?", cell) for cell in cells)


def cell_text(cell: Any) -> str:
    """A cell as people see it. Names may hold anything, and a terminal must not obey it."""
    if cell is None:
        return ""
    if not isinstance(cell, str):
        return money(cell) if isinstance(cell, float) else f"{cell:,}"
    return "".join(char if char.isprintable() else "�" for char in cell)


STATUS = {"ok": "green", "warning": "yellow", "FAILED": "bold red"}
WIDE = 120  # columns, of anything that people read
# What a terminal without Unicode shows instead.
ASCII = str.maketrans("·░▒▓█■━…–×→�▁▂▃▄▅▆▇", ".:+*##=~-x>?.::++**")
HASH = re.compile(r"(?<![\w-])[0-9a-f]{8}(?![\w-])")


def render_table(
    report: Report, width: int, *, colour: bool, names: Mapping[str, str] | None = None
) -> str:
    """Sections below each other, at most 120 columns wide, with names instead of their hashes."""
    from rich.console import Console
    from rich.text import Text

    width, file = max(min(width, WIDE), 1), io.StringIO()
    console = Console(file=file, width=10_000, force_terminal=colour, highlight=False)
    sections = list(report.sections)
    names = short_names(names or {}, sections)
    sections = [shown(section, width, names) for section in sections]
    for section in sections:
        for number, line in enumerate(section.title):
            console.print(Text(line, "" if number else "bold"), width=width)
        if section.title:
            console.print()
        for grid in grids(with_bars(section, sections, width), width):
            console.print(grid, "")
    return re.sub(r"(?<! ) +$", "", file.getvalue(), flags=re.MULTILINE)


def shown(section: Section, width: int, names: Mapping[str, str]) -> Section:
    """A section as a terminal has it: all cells as texts, a drawing as rows of one column."""
    rows = [[line] for line in section.drawing(width)] if section.drawing else section.rows

    def text(cell: Any) -> str:
        return HASH.sub(lambda digits: names.get(digits[0], digits[0]), cell_text(cell))

    return section._replace(
        header=() if section.drawing else section.header,
        rows=[[text(cell) for cell in row] for row in rows],
        title=[text(line) for line in section.title],
    )


def short_names(names: Mapping[str, str], sections: Iterable[Section]) -> dict[str, str]:
    """The names that sections show as hashes, short and without what all projects share."""
    projects = {name for name in names.values() if name[0] == "-" and "/" not in name}
    shared = os.path.commonprefix([*projects]) if len(projects) > 1 else ""  # noqa: RUF071 (no paths)
    prefix = shared[: shared.rfind("-") + 1]
    cells = (str(cell) for section in sections for row in section.rows for cell in row)
    hashes = sorted({digits for cell in cells for digits in HASH.findall(cell)} & names.keys())
    short = shorten([names[digits].removeprefix(prefix) or names[digits] for digits in hashes], 40)
    return dict(zip(hashes, short, strict=True))


def shorten(names: Sequence[str], width: int) -> list[str]:
    """Names at most so wide, cut in the middle, and where possible so that they still differ."""
    from rich.cells import cell_len, set_cell_size

    def cut(name: str, head: int) -> str:
        if cell_len(name) <= width:
            return name
        tail = set_cell_size(name[::-1], width - 1 - head)[::-1]
        return f"{set_cell_size(name, head)}…{tail}"

    heads = sorted(range(width), key=lambda head: abs(head - width // 2))
    cuts = [[cut(name, head) for name in names] for head in heads]
    return max(cuts, key=lambda some: len(set(some)))


def with_bars(section: Section, sections: Iterable[Section], width: int) -> Section:
    """A section with its shares as bars, in columns as wide as those of the sections like it."""
    from rich.cells import cell_len, set_cell_size

    if not section.shares:
        return section
    alike = [other for other in sections if other.header[1:] == section.header[1:]]
    rows = [row for other in alike for row in (other.header, *other.rows)]
    longest, *numbers = (max(map(cell_len, column)) for column in zip(*rows, strict=True))
    room = width - sum(2 + wide for wide in numbers) - 2
    wide = max(min(longest, room - max((width - 20) // 4, 10)), 12)
    bar = max(min(room - wide, 40), 0)
    title, *header = section.header
    padded = [f"{name:>{number}}" for name, number in zip(header, numbers, strict=True)]
    names = shorten([row[0] for row in section.rows], wide)
    bars = ["━" * round(min(share, 1) * bar) for share in section.shares] + [""] * section.total
    cells = zip(names, bars, section.rows, strict=True)
    return section._replace(
        header=(set_cell_size(title, wide), " " * bar, *padded),
        rows=[(name, line, *row[1:]) for name, line, row in cells],
    )


def grids(section: Section, width: int) -> Iterator[Grid]:
    """A section as rich prints it; of a table that is too wide, each row as labelled texts."""
    from rich.table import Table as Grid
    from rich.text import Text

    header = section.header or [""] * len(next(iter(section.rows), ()))
    columns = list(zip(header, *section.rows, strict=True))
    widths = column_widths(columns, width)
    if section.header and sum(widths) + 2 * len(widths) - 2 > width:
        for row in section.rows:
            pairs = [(name, cell) for name, cell in zip(header, row, strict=True) if cell]
            yield from grids(Section(rows=pairs), width)
        return
    grid = Grid.grid(padding=(0, 2, 0, 0))
    grid.show_header, grid.header_style = bool(section.header), "bold"
    for (name, *cells), wide in zip(columns, widths, strict=True):
        justify: Any = "right" if grid.columns and is_number(cells) else "left"
        grid.add_column(name, justify=justify, width=wide, overflow="fold")
    for row in section.rows:
        texts = [Text(cell, STATUS.get(cell, "")) for cell in row]
        for text in texts:
            text.highlight_regex(f"[━{SHADES[1:]}{HEIGHTS[1:]}]+", "green")
        if len(row) > 1 and not section.header:
            texts[0].style = "bold"
        grid.add_row(*texts, style="bold" if section.total and row is section.rows[-1] else "")
    if columns:
        yield grid


def column_widths(columns: Sequence[Sequence[str]], width: int) -> list[int]:
    """How wide each column is; where it must be, headers are folded, and then the longest text."""
    from rich.cells import cell_len

    widths, room = [max(map(cell_len, column)) for column in columns], width - 2 * len(columns) + 2
    # A header alone in its line is a title, which stays whole.
    if sum(widths) > room and any(name for name, *_ in columns[1:]):
        widths = [max(map(cell_len, (*name.split(), *cells, ""))) for name, *cells in columns]
    if excess := max(sum(widths) - room, 0):
        texts = [at for at, column in enumerate(columns) if not at or not is_number(column[1:])]
        longest = max(texts, key=widths.__getitem__)
        widths[longest] = max(widths[longest] - excess, min(widths[longest], 20))
    return widths


# The HTML report: one file that holds its figures, plotly's script and ours.
TEMPLATE = HERE / "report_template.html"
PAGE = Path("ccusage-report.html")


def page_figures(stats: Statistics, details: Mapping[str, Rows]) -> dict[str, Any]:
    """All that the page shows: figures of what can be chosen in it, and rows that it adds up."""
    scope, wanted = stats.scope, ("days", "models", "projects", "hours", "sessions")
    days, imports = defaultdict[Any, list[Any]](list), defaultdict[Any, list[Any]](list)
    for machine, agent, *day in details["choices"]:
        days[machine, agent].append(day)
    for machine, *day in details["imports"]:
        imports[machine].append(day)
    machines, agents = (sorted({names[at] for names in days}) for at in (0, 1))

    def choice(machine: str, agent: str) -> dict[str, Any]:
        chosen = summarise({"days": days[machine, agent], "imports": imports[machine]}, scope)
        return {**chosen._asdict(), "heatmap": [day.level for day in chosen.heatmap]}

    figures = {
        **stats._asdict(),
        "today": scope.today,
        "written": f"{scope.now.astimezone(ZoneInfo(scope.zone)):{TIME}}",
        "notes": [text for _, text in notes(stats)],
        "machines": machines,  # here and below, the first stands for all
        "agents": agents,
        "choices": [[choice(machine, agent) for agent in agents] for machine in machines],
    }
    return {**plain(figures), **{name: details[name] for name in wanted}}


def plotly_script() -> str:
    """The script that the package plotly brings with it."""
    try:
        from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise ConfigError(
            "--format html needs the extra 'report': pip install 'ccusage-import[report]'"
        ) from error
    return str(get_plotlyjs())


def render_page(report: Report) -> str:
    """One file that needs nothing else: a browser may run its two scripts, and load nothing."""
    template, script = TEMPLATE.read_text(encoding="utf-8"), plotly_script()
    ours = template.rpartition("<script>")[2].partition("</script>")[0]
    digests = (hashlib.sha256(text.encode()).digest() for text in (script, ours))
    filled = {
        "plotly": script,
        "scripts": " ".join(f"'sha256-{b64encode(digest).decode()}'" for digest in digests),
        "figures": json.dumps(report.value, separators=(",", ":")).replace("<", "\\u003c"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: filled[match[1]], template)


RENDERERS: dict[str, Callable[[Report], str]] = {
    "json": lambda report: json.dumps(plain(report.value), indent=2) + "\n",
    "csv": render_csv,
    "markdown": render_markdown,
    "html": render_page,
}

# --- queries --------------------------------------------------------------------------

QUERIES = HERE / "queries.sql"
# How the names of those queries begin that --stats, --check and the HTML report are made of.
STATISTICS, INTEGRITY, REPORT = PARTS = ("statistics-", "integrity-", "report-")
DEFAULT = re.compile(r"SET param_(\w+) = (?:'([^']*)'|([\d.]+));\n")
QUERY = re.compile(
    r"^-- name: ([a-z0-9-]+)\n"
    r"-- (.+)\n"
    r"((?:--.*\n)*)"
    rf"((?:{DEFAULT.pattern})*)"
    r"((?:SELECT|WITH)\b(?:(?!;\n)[\s\S])*);\n",
    re.MULTILINE,
)


class Query(NamedTuple):
    """A query of queries.sql, with the defaults of its parameters and the remarks on them."""

    name: str
    question: str
    parameters: Mapping[str, str | None]
    sql: str
    heading: str = ""
    remarks: str = ""


def read_queries(text: str = "") -> dict[str, Query]:
    """The queries of queries.sql, or of a text that is written like it, by name."""
    text = text or QUERIES.read_text(encoding="utf-8")
    _, *parts = re.split(r"^-- (.+?) --+\n", text, flags=re.MULTILINE)
    queries: dict[str, Query] = {}
    for heading, part in zip(parts[::2], parts[1::2], strict=True):
        for name, question, remarks, settings, *_, sql in QUERY.findall(part):
            queries[name] = Query(name, question, defaults_of(settings), sql, heading, remarks)
    return queries


def defaults_of(text: str) -> dict[str, str | None]:
    return {key: quoted or bare for key, quoted, bare in DEFAULT.findall(text)}


def questions() -> list[Query]:
    """The queries that people ask, and no others are made of."""
    return [query for name, query in read_queries().items() if not name.startswith(PARTS)]


def find_query(name: str) -> Query:
    from difflib import get_close_matches

    queries = read_queries()
    if name not in queries:
        near = get_close_matches(name, [query.name for query in questions()], 5, 0.5)
        hint = f"the nearest are {', '.join(near)}; " if near else ""
        raise ConfigError(f"--query: no query is named {name!r}; {hint}--list-queries lists all")
    return queries[name]


def written_query(stdin: TextIO | None) -> Query:
    """SQL from stdin, which may be closed; defaults of its parameters as in queries.sql."""
    try:
        text = stdin.read().removeprefix("\ufeff") if stdin else ""
        text.encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise ConfigError(f"--query -: stdin is not in UTF-8, at byte {error.start}") from error
    except OSError as error:
        raise ConfigError(f"--query -: stdin cannot be read: {error.strerror}") from error
    sql = DEFAULT.sub("", text)
    if not re.sub(r"--.*|[;\s]", "", sql):
        raise ConfigError("--query -: no SQL came from stdin")
    parameters = dict.fromkeys(re.findall(r"\{(\w+):", sql))
    return Query("-", "", {**parameters, **defaults_of(text)}, sql)


# What a parameter of a type must look like, and what is said where it does not. The engine would
# take 2^32 for 0, and fill a table with 2^31 days.
TYPES = {
    "UInt32": ("[0-9]{1,5}", "a whole number below 100000"),
    "UInt64": ("[0-9]{1,15}", "a whole number"),
    "Float64": (r"-?[0-9]{1,12}(\.[0-9]+)?", "a number"),
    "Date32": (
        r"(19|2[0-2])\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])",
        "a day such as 2026-01-31",
    ),
}


def bind(query: Query, given: Mapping[str, str]) -> dict[str, str]:
    """The values of a query's parameters."""
    values = {**query.parameters, **given}
    unknown = sorted(values.keys() - query.parameters.keys())
    missing = sorted(name for name, value in values.items() if value is None)
    if unknown or missing:
        problem = "no value for" if missing else "it has no parameter"
        names, parameters = ", ".join(missing or unknown), ", ".join(query.parameters) or "none"
        raise ConfigError(f"--query {query.name}: {problem} {names}; its parameters: {parameters}")
    types = dict(re.findall(r"\{(\w+):(\w+)", query.sql))
    for name, value in given.items():
        pattern, expected = TYPES.get(types.get(name, ""), (r"[\s\S]*", ""))
        if not re.fullmatch(pattern, value):
            raise ConfigError(f"--query {query.name}: {name}: expected {expected}, got {value!r}")
    if "timezone" in given and query.name != "-":
        zone_name("--param timezone", given["timezone"], "give one such as Europe/Berlin")
    return {name: value for name, value in values.items() if value is not None}


# ClickHouse's codes that tell of the server or its tables; all others tell of the SQL.
NO_DATA_TO_INSERT = 108
TROUBLE = {0, 49, 60, 81, 159, 193, 194, 202, 209, 210, 241, 243, 516, 1001, 1002}


def answer_query(
    importer: ClickHouseImporter, query: Query, values: dict[str, str], scope: Scope
) -> Report:
    """Ask a query; the engine itself refuses what would write."""
    try:
        with store_errors(importer.settings):
            columns, rows = read_only(importer, query, values)
    except StoreError as error:
        if error.code in TROUBLE and (error.code != UNKNOWN_TABLE or not importer.tables):
            raise
        problem = str(error.__cause__).rpartition("DB::Exception: ")[2].partition(" (version ")[0]
        problem = problem.partition(": In scope SELECT formatQuery")[0]
        if error.code in (READONLY, NO_DATA_TO_INSERT):  # the data are cut off
            problem = "--query only reads"
        raise ConfigError(f"--query {query.name}: {' '.join(problem.split())}") from error
    return table_report(columns, rows, [answer_section(query, values, columns, rows, scope)])


def read_only(
    importer: ClickHouseImporter, query: Query, values: dict[str, str]
) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    """Columns and rows of a query that ClickHouse lets only read."""
    client, sql, limits = importer.client, query.sql, {}
    if query.name == "-":
        # The server refuses several statements. The embedded engine would run them, and write.
        formatted = client.query("SELECT formatQuerySingleLine({sql:String})", {"sql": sql})
        sql = str(formatted.result_rows[0][0])
        if " INTO OUTFILE " in re.sub(r"'(\\.|[^'\\])*'", "", sql):
            raise ConfigError("--query only reads: for a file, use --output")
    if importer.settings.host is None:
        client.command("SET readonly = 1")
    elif client.server_settings["readonly"].value == "0":
        limits["readonly"] = 1
    result = client.query(sql, values, settings=limits)
    if result.column_names:
        return result.column_names, result.result_rows
    # Without rows, their format does not even name the columns.
    names = client.raw_query(sql, values, settings=limits, fmt="CSVWithNames")
    return next(csv.reader(io.StringIO(names.decode())), []), []


def answer_section(
    query: Query, values: Mapping[str, str], names: Sequence[str], rows: Rows, scope: Scope
) -> Section:
    """The answer for people: what was asked, and each column in one form."""
    about = days_of(query, values, scope.today)
    about += [f"{name}: {value or 'all'}" for name, value in values.items()]
    if any(isinstance(cell, datetime) for row in rows for cell in row):
        about.append(f"times in {scope.zone}")
    title = [text for text in (query.question, "; ".join(about)) if text]
    header = [name.replace("_", " ") for name in names]
    if not rows:
        return Section(header, drawing=lambda _: ["no rows"], title=title)
    columns = list(zip(*rows, strict=True))
    # The name of a chart tells what its values are.
    kinds = [query.name if name == "value" else name for name in names]
    texts = map(partial(column_texts, zone=ZoneInfo(scope.zone)), kinds, columns)
    lines = list(zip(*texts, strict=True))
    total = total_texts(names, columns) if len(rows) > 1 else []
    chart = query.name.startswith("chart-")
    drawing = partial(series_charts, query.name, columns) if chart else None
    return Section(header, lines + [total] * bool(total), (), drawing, title, bool(total))


def days_of(query: Query, values: Mapping[str, str], today: date) -> list[str]:
    """The days that an answer is about, where a parameter says how many."""
    remark = re.search(r"^-- (days|weeks|months): (how many \w+ back|length)", query.remarks, re.M)
    number = int(values[remark[1]]) if remark else 0
    if not remark or not number:
        return []
    month = max(12 * today.year + today.month - number, 12)
    first = {
        "days": today - timedelta(number - 1),
        "weeks": today - timedelta(today.weekday() + min(7 * (number - 1), 700_000)),
        "months": date(month // 12, month % 12 + 1, 1),
    }
    return [f"{first[remark[1]]} – {today}"]


# The names of columns tell what is in them.
DOLLARS = re.compile(
    "cost|spent|affordable|forecast|before_average|average_before|burn_rate|projection|over_limit"
    "|^(left|saved|price|this_month|last_month)$"
)
ADDS_UP = re.compile(
    "(total|read|written|recent)_(tokens|cost)|cost_usd|api_cost|cost_without_cache|saved|sessions"
    "|(cost|sessions)_percent|percent_of_all_tokens|tokens_without_price|input_tokens_lost"
    "|day_rows|row_count|rows_.*|held|failures"
)


def column_texts(name: str, cells: Sequence[Any], zone: tzinfo = UTC) -> list[str]:
    """The cells of a column, all in one form, as its name tells; times in a zone."""
    percent = "percent" in name or name == "chart-cache-hits"
    largest = max((abs(cell) for cell in cells if isinstance(cell, float)), default=0)
    digits = 1 if percent else 4 if 0 < largest < 0.1 else 2
    sign = "+" if "change" in name else ""

    def text(cell: Any) -> str:
        if plain(cell) is None:
            return ""
        if isinstance(cell, (list, tuple)):
            return ", ".join(map(text, cell))
        if isinstance(cell, datetime):
            return f"{cell.astimezone(zone):{TIME}}"
        if name.startswith("is_"):
            return "yes" if cell else "no"
        if type(cell) not in (int, float) or "year" in name:
            return str(cell)
        number = f"{abs(cell):,.{digits if isinstance(cell, float) else 0}f}"
        number = f"{number}%" if percent else f"{'$' * bool(DOLLARS.search(name))}{number}"
        return f"{'-' if cell < 0 else sign}{number}"

    return [text(cell) for cell in cells]


def total_texts(names: Sequence[str], columns: Rows) -> list[str]:
    """The last line of a table: the sums of the columns that add up."""
    sums = [""] * len(names)
    for place, (name, column) in enumerate(zip(names, columns, strict=True)):
        if ADDS_UP.fullmatch(name):
            (sums[place],) = column_texts(name, [sum(cell or 0 for cell in column)])
    return ["total", *sums[1:]] if any(sums) and not sums[0] else []


def series_charts(name: str, columns: Rows, width: int) -> list[str]:
    """The columns time, value and series as charts on one scale, one below the other."""
    values = {(series, time): value for time, value, series in zip(*columns, strict=True)}
    times, highest, lines = sorted(set(columns[0])), max(columns[1]), []
    adds = "cost-by" in name or "tokens" in name
    (top,) = column_texts(name, [highest])
    for series in dict.fromkeys(columns[2]):
        points = {str(time): values.get((series, time), 0) for time in times}
        (total,) = column_texts(name, [sum(points.values()) if adds else points[str(times[-1])]])
        title = f"{series or '(none)'}: {total} {'in all' if adds else f'on {times[-1]}'}"
        lines += chart(title, points, top, highest, width)
    return lines


def list_queries() -> Report:
    """The queries of queries.sql under its headings."""
    lines: list[tuple[str, str]] = []
    for heading, queries in groupby(questions(), key=lambda query: query.heading):
        lines += [("", ""), (f"{heading.split(': ')[0]}:", "")]
        for query in queries:
            values = ", ".join(
                f"{key}={value or repr('')}" for key, value in query.parameters.items()
            )
            lines.append((query.name, f"{query.question} [{values}]" if values else query.question))
    rows = [(*query[:3], query.heading) for query in questions()]
    sections = [Section(("Name", "Question"), lines)]
    return table_report(("name", "question", "parameters", "heading"), rows, sections)


# --- check ----------------------------------------------------------------------------

OK, WARNING, FAILED = "ok", "warning", "FAILED"
CRON_TAG = "# ccusage-import"
# What an import may have to do to the schema, as its statements begin, and a statement for which
# the server wants the same rights and which fails all the same, so that it changes nothing.
IN_VAIN = {
    "CREATE TABLE": "CREATE TABLE ccusage_check (x UInt8) ENGINE = OfNoSuchName",
    "CREATE VIEW": "CREATE VIEW ccusage_check AS SELECT * FROM ccusage_of_no_such_name",
    "CREATE OR": "CREATE OR REPLACE VIEW ccusage_check AS SELECT * FROM ccusage_of_no_such_name",
    "ALTER TABLE": "ALTER TABLE ccusage_usage_daily ADD COLUMN agent OfNoSuchType",
}


class Check(NamedTuple):
    """A finding of the system check. It is a warning where there is something to do."""

    section: str
    name: str
    status: str
    detail: str
    remedy: str = ""


class Checkup:
    """Meets what the next import will meet, as the import does, and leaves no trace."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.checks: list[Check] = []
        self.section = "Environment"
        self.recorded: Identity | None = None
        self.history = MachineHistory()
        self.shows_names = False
        self.zone = "UTC"
        self.stored: dict[str, date] | None = None  # the newest day of each agent
        self.reported: dict[str, date] = {}

    def run(self) -> list[Check]:
        with self.failing("identity"):
            self.recorded = Identity.load(self.settings.state_dir)
        self.check_clickhouse()
        self.check_environment()
        self.check_ccusage()
        self.check_schedule()
        return self.checks

    def note(self, name: str, detail: str, remedy: str = "", *, when: object = True) -> None:
        """Add a finding, which is a warning when it needs the remedy."""
        remedy = remedy if when else ""
        status = WARNING if remedy else OK
        self.checks.append(Check(self.section, name, status, detail, remedy))

    def fail(self, name: str, text: str, remedy: str = "") -> None:
        """Add what the next import would fail with; the text may hold the remedy."""
        end = "\n  remedy: " if "\n  remedy: " in text else "; "
        detail, _, written = text.partition(end)
        detail = " ".join(detail.split())
        self.checks.append(Check(self.section, name, FAILED, detail, written or remedy))

    @contextlib.contextmanager
    def failing(self, name: str, remedy: str = "") -> Iterator[None]:
        """An error here is what the next import would fail with."""
        try:
            yield
        except ImporterError as error:
            self.fail(name, str(error), remedy)

    def check_clickhouse(self) -> None:
        self.section, settings = "ClickHouse", self.settings
        # An OSError may come from a directory that is not ours to look into.
        with self.failing("connection"), store_errors(settings):
            if settings.host is None:
                self.check_directory("path", settings.embedded_path, "CH_EMBEDDED_PATH")
            with open_for_reading(settings, machine_name(settings, self.recorded)) as importer:
                self.check_server(importer)
                self.check_writing(importer)
                self.check_stored(importer)

    def check_directory(self, name: str, path: Path, variable: str) -> None:
        import shutil
        import tempfile

        nearest = next(place for place in (path, *path.parents) if place.exists())
        try:
            with tempfile.TemporaryFile(dir=nearest):
                free = shutil.disk_usage(nearest).free
        except OSError as error:
            self.fail(name, f"{path}: {error.strerror}", f"set {variable} to a directory of yours")
            return
        absent = "" if path.exists() else ": not there yet"
        detail = f"{path}{absent}, {free / 1e9:,.1f} GB of the disk are free"
        self.note(name, detail, "free some disk space", when=free < 1e9)

    def check_server(self, importer: ClickHouseImporter) -> None:
        """Whether the server answers soon, and its tables are those of this version."""
        began = time.monotonic()
        ((version,),) = importer.query("SELECT version()")
        ms = 1000 * (time.monotonic() - began)
        detail = f"ClickHouse {version}: {self.settings.where} answers in {ms:.0f} ms"
        self.note("connection", detail, "look at the network and the server's load", when=ms > 500)
        if self.settings.host:
            with self.failing("replicas"):
                self.check_replicas(importer)
        changes = schema_changes(importer.engines, self.settings.cluster)
        detail = "; ".join(changes) or "all tables, views and columns are there"
        if not importer.tables:
            detail = f"nothing is there yet in the database {self.settings.database}"
        self.note("schema", detail, "an import does this", when=changes)

    def check_replicas(self, importer: ClickHouseImporter) -> None:
        """Whether the servers that answer hold the same tables."""
        shared = [importer.engines[table.name].shared for table in importer.tables]
        spread = bool(self.settings.cluster or importer.engines[""].shared)
        cloud = importer.client.get_client_setting("select_sequential_consistency")
        if shared and all(shared):
            self.check_shared_tables(importer)
            return
        if not shared and (spread or cloud):
            return  # an import will create them on all servers
        hosts: set[str] = set()
        for _ in range(4):
            importer.client.close_connections()  # as a balancer may choose a server for each
            hosts.update(importer.query("SELECT hostName()")[0])
        remedy = "name one in CH_HOST, or use CH_CLUSTER"
        if spread:
            remedy = "DETACH them, ATTACH TABLE … AS REPLICATED, and SYSTEM RESTORE REPLICA"
        if len(hosts) > 1:
            raise StoreError(
                f"each statement reaches another server: {', '.join(sorted(hosts))}, which share "
                f"no tables\n  remedy: {remedy}"
            )
        if spread:
            self.note("replicas", "the tables are on this server alone", remedy)

    def check_shared_tables(self, importer: ClickHouseImporter) -> None:
        """Whether the replicas can be written to, and how many there are."""
        sql = (
            "SELECT groupArrayIf(table, is_readonly OR is_session_expired), max(total_replicas), "
            "min(active_replicas), max(absolute_delay) FROM system.replicas "
            "WHERE database = currentDatabase() AND startsWith(table, 'ccusage_')"
        )
        try:
            ((unwritable, replicas, active, delay),) = importer.query(sql)
        except StoreError as error:
            grant = f"GRANT SELECT ON system.replicas TO {self.settings.user}"
            self.note("replicas", str(error).partition("\n")[0], grant)
            return
        if unwritable:
            remedy = STORE_REMEDIES[r"Code: 242\."]
            raise StoreError(f"read-only: {', '.join(sorted(unwritable))}\n  remedy: {remedy}")
        detail = f"{replicas} known, {active} active, this one {delay} s behind"
        remedy = "start the servers that are down, and look at system.replication_queue"
        self.note("replicas", detail, remedy, when=active < replicas or delay > 300)

    def check_writing(self, importer: ClickHouseImporter) -> None:
        """Whether the user may do what an import does: the server looks at the rights first."""
        needed = " ".join(schema_changes(importer.engines, self.settings.cluster).values())
        steps = [in_vain for begin, in_vain in IN_VAIN.items() if begin in needed]
        for table in ALL_TABLES:
            steps.append(f"INSERT INTO {table.name} SELECT * FROM {table.name} WHERE 0")  # noqa: S608
            steps.append(f"DELETE FROM {table.name} WHERE of_no_such_name")  # noqa: S608 (ours)
        if importer.client.database != self.settings.database:
            steps = [f"CREATE DATABASE {_quoted(self.settings.database)} ENGINE = OfNoSuchName"]
        refusals = set()
        for statement in steps:
            try:
                importer.command(statement)
            except StoreError as error:
                if error.code == 0:  # the server is gone
                    raise
                if error.code in (READONLY, NOT_GRANTED):
                    refusals.add(str(error))
        for refusal in sorted(refusals):
            self.fail("writing", refusal)
        if not refusals:
            self.note("writing", "has the rights that an import needs")

    def check_stored(self, importer: ClickHouseImporter) -> None:
        """What the database knows of this machine, and what it says of itself."""
        sql = (
            "SELECT agent, max(date) FROM ccusage_usage_daily FINAL "
            "WHERE machine_name = {machine:String} GROUP BY agent"
        )
        self.stored = dict(importer.query_own("ccusage_usage_daily", sql))
        self.shows_names = importer.shows_names()
        self.history = importer.read_history()
        settings, recorded, former = self.settings, self.recorded, self.history.identity
        if identity := recorded or former:
            self.zone = identity.timezone
        if former and not (settings.state_dir / "machine.json").exists():
            with self.failing("name in use"):
                refuse_twins(importer, former, self.history, {})
        with self.failing("newest import"):
            for warning in missing_run(importer, recorded, self.history):
                self.note("newest import", warning, "import again what ccusage still reports")
        for text in history_elsewhere(settings, importer.machine_name, recorded, self.history):
            self.note("former history", *text.split("; to bring it here, "))
        if {item.name for item in read_schema()} <= importer.engines.keys():
            with self.failing("integrity"):
                self.check_integrity(importer)
        self.check_imports(importer)
        if settings.budget_month or settings.budget_day:
            scope = Scope(datetime.now(UTC), self.zone)
            for name, limit, cost, *_ in read_statistics(importer, scope, brief=True).budgets:
                text = f"{name}: {budget_text(cost, limit)}"
                self.note("budget", text, "spend less, or raise it", when=cost > limit)

    def check_integrity(self, importer: ClickHouseImporter) -> None:
        """What the queries integrity-… find: the first rows of each, and how many there are."""
        queries, faults = read_queries(), 0
        for query in queries.values():
            if not query.name.startswith(INTEGRITY):
                continue
            findings = sorted(importer.query(query.sql), key=lambda row: row[-1] == "")
            for machine, table, key, problem, remedy in findings[:5]:
                self.note("integrity", f"{machine}: {table}: {key}: {problem}", remedy)
                faults += bool(remedy)
            if more := len(findings[5:]):
                detail = f"{counted(more, 'finding')} of this kind more"
                self.note(
                    "integrity", detail, f"ccusage_importer.py --query {query.name} lists all"
                )
        if not faults:
            self.note("integrity", "the tables are in order")
        for names, agent, number, *_ in importer.query(queries["twin-machines"].sql):
            if importer.machine_name in names.split(", "):
                common = f"{names}: {counted(number, 'session')} of {agent} in common count twice"
                self.note("twin machines", common, "remove the rows of one, as README says")

    def check_imports(self, importer: ClickHouseImporter) -> None:
        """When the last imports were, and how they ended."""
        sql = (
            f"SELECT finished_at, feeds_failed FROM {HISTORY} "  # noqa: S608 (our name)
            "WHERE machine_name = {machine:String} ORDER BY updated_at DESC LIMIT 3"
        )
        runs = importer.query_own(HISTORY, sql)
        if not runs:
            self.note("last import", "none yet", "run ccusage_importer.py")
            return
        hours = (datetime.now(UTC) - runs[0][0]) / timedelta(hours=1)
        ago = f"{hours:.1f} hours ago" if hours < 48 else f"{hours / 24:.0f} days ago"
        ends = [
            f"{at:%Y-%m-%d %H:%M} code " + (f"3 (without {', '.join(feeds)})" if feeds else "0")
            for at, feeds in runs
        ]
        remedy = f"see {self.settings.state_dir / 'ccusage_import.log'}"
        old_or_failed = hours > 24 or runs[0][1]
        self.note("last import", f"{ago}; UTC {'; '.join(ends)}", remedy, when=old_or_failed)

    def check_environment(self) -> None:
        """Who this machine is, and whether its files can be written."""
        self.section = "Environment"
        settings, former = self.settings, self.history.identity
        dotenv = dotenv_path(settings.environment)
        if os.path.exists(dotenv) and dotenv.stat().st_mode & 0o077:
            remedy = f"chmod 600 {shlex.quote(str(dotenv))}"
            self.note(".env", f"{dotenv}: others may read it", remedy)
        self.check_directory("state", settings.state_dir, "CCUSAGE_STATE_DIR")
        with self.failing("identity"):
            identity = identify(settings, self.recorded, former)
            self.zone = identity.timezone
            others = " ".join(other_installations(self.history, identity))
            self.note("machine name", identity.machine_name, others)
            is_known = self.recorded or former
            source = "as recorded" if is_known else "which the first import will record"
            self.note("time zone", f"{identity.timezone}, {source}")
            shown = self.shows_names if identity.hashed is None else not identity.hashed
            key = "with" if settings.hash_key else "without"
            hashed = f"names are hashed, {key} PROJECT_HASH_KEY"
            self.note("privacy", "names are stored as they are" if shown else hashed)

    def check_ccusage(self) -> None:
        """Every feed, as the import has it; each is asked for once."""
        self.section = "ccusage"
        settings = self.settings._replace(patience=0)
        remedy = "install ccusage, and set CCUSAGE_COMMAND to it"
        with self.failing("version", remedy), in_background() as background:
            fetched = await_result(background.submit(fetch_all, settings, self.zone))
            ccusage = fetched.ccusage
            self.note("version", f"{ccusage.version_text}: {shlex.join(ccusage.argv)}")
            ids, zone = Ids(settings.hash_key), ZoneInfo(self.zone)
            reported, failed = parse_all(fetched, ids, zone, settings.agents)
            remedy = "update ccusage, or set CCUSAGE_COMMAND to another version"
            for label, reason in failed.items():
                self.fail(label, reason, remedy)
            for (feed, agent), records in reported.items():
                if feed == "daily" and records:
                    self.reported[agent] = max(day for _, day in records)
                if feed == "daily" or agent == "claude":  # the others say the same of an agent
                    tokens = total_of(records.values())
                    cost = math.fsum(record.cost for record in records.values())
                    detail = f"{counted(len(records), 'record')}, {tokens:,} tokens, ${cost:,.2f}"
                    self.note(feed_label(feed, agent), detail)
            self.check_transcripts(follows_links=ccusage.version < (19, 0, 0))

    def check_transcripts(self, *, follows_links: bool) -> None:
        """Which transcripts ccusage skips silently: links, and files that it may not read."""
        skipped: Counter[str] = Counter()
        for top in transcript_directories(self.settings.environment):
            for place, folders, files in os.walk(top):
                for name in (*folders, *(name for name in files if name.endswith(".jsonl"))):
                    path = os.path.join(place, name)
                    linked = os.path.islink(path) and not follows_links
                    kind = "project folder" if os.path.isdir(path) else "transcript"
                    skipped[kind] += linked or not os.access(path, os.R_OK)
        if any(skipped.values()):
            what = " and ".join(counted(number, kind) for kind, number in skipped.items())
            detail = f"ccusage does not read {what}: they are links, or it may not read them"
            remedy = "put the files where the links are, and make them readable to you"
            self.note("left out", detail, remedy)

    def check_schedule(self) -> None:
        """What cron runs, how far the database lags behind ccusage, what Claude Code deletes."""
        self.section = "Schedule and data"
        crontab, gone = "", []
        with contextlib.suppress(FeedError):
            crontab = run(
                ["crontab", "-l"], child_environment(self.settings.environment), 30
            ).stdout
        ours = rf"^[ \t]*(@\w+|[^#\s]\S*(?:[ \t]+\S+){{4}})[ \t]+(.*){CRON_TAG}[ \t\r]*$"
        entries = re.findall(ours, crontab, re.MULTILINE)
        for _, command in entries:
            with contextlib.suppress(ValueError):  # of a quote that is left open
                words = shlex.split(command.replace("\\%", "%"))
                words = [word for word in words if not re.match(r"\w+=", word)]
                paths = [word for word in words if word is words[0] or word.endswith(".py")]
                gone += [path for path in paths if path[:1] == "/" and not os.path.exists(path)]
        detail = "; ".join(" ".join(times.split()) for times, _ in entries) or "no entry"
        detail += f", but {gone[0]} does not exist any more" if gone else ""
        self.note("cron", detail, "run setup_cronjob.sh", when=gone or len(entries) != 1)
        for agent, day in sorted(self.reported.items()):
            if self.stored is None:  # the database cannot be read
                break
            stored = self.stored.get(agent)
            late = counted((day - stored).days, "day") if stored and stored < day else ""
            stale = f"stale by {late}, " if late else ""
            detail = f"{stale}{agent}: stored {stored or 'none'}, reported {day}"
            self.note("newest day", detail, "run ccusage_importer.py", when=late or not stored)
        for path, days in cleanup_periods(self.settings.environment).items():
            if 0 < days < 3650:
                after = f"Claude Code deletes transcripts after {counted(days, 'day')}"
                line = f'"cleanupPeriodDays": 3650 in {path} keeps them for ten years'
                self.note("deletion", f"{after}; {line}")


def check_report(checks: Sequence[Check]) -> Report:
    """The findings, section by section, each with its remedy below it."""
    rows: dict[str, list[Sequence[str]]] = defaultdict(list)
    for check in checks:
        rows[check.section].append((check.name, check.status, check.detail))
        if check.remedy:
            rows[check.section].append(("", "", f"→ {check.remedy}"))
    sections = [Section(header=(name, "", ""), rows=lines) for name, lines in rows.items()]
    return table_report(Check._fields, checks, sections)


# --- command line ---------------------------------------------------------------------


def local_names(settings: Settings) -> dict[str, str]:
    """Names of this machine's folders and files, by what is shown of them where they are hashed."""
    env, ids, names = settings.environment, Ids(settings.hash_key), dict[str, str]()
    home = Path(env.get("HOME") or Path.home())
    codex = _path(env.get("CODEX_HOME") or home / ".codex")
    opencode = _path(env.get("OPENCODE_DATA_DIR") or home / ".local/share/opencode")
    others = (codex / "sessions", codex / "archived_sessions", opencode / "storage")
    for root in (*transcript_directories(env), *others):
        for folder, folders, files in os.walk(root):
            inside = Path(folder).relative_to(root)
            every = [*folders, *files, *(Path(file).stem for file in files)]
            paths = [str(inside / name) for name in every]
            names |= {ids.shown(name): name for name in (*every, *paths) if name.isprintable()}
    return names


@contextlib.contextmanager
def reading(settings: Settings, machine: str) -> Iterator[tuple[ClickHouseImporter, Scope]]:
    """An importer that only reads, and the present moment in the time zone of a machine."""
    with open_for_reading(settings, machine) as importer:
        if importer.client.database != settings.database:
            raise StoreError(
                f"{settings.where}: there is no database {settings.database!r}\n"
                "  remedy: check CH_DATABASE; if the name is right, an import creates it"
            )
        sql = (
            "SELECT machine_name, argMax(timezone, updated_at) FROM ccusage_import_history "
            "GROUP BY machine_name ORDER BY max(updated_at) DESC"
        )
        zones = {row[0]: row[1] for row in importer.query_own(HISTORY, sql)}
        recorded = Identity.load(settings.state_dir)
        if machine and zones and machine not in zones:
            raise ConfigError(f"--machine: {machine!r} never imported; {', '.join(zones)} did")
        zone = zones.get(machine) or (recorded and recorded.timezone)
        zone = zone or next(iter(zones.values()), None) or system_zone(settings.environment)
        zone = zone_name("import history", zone, "update the tzdata of this machine")
        yield importer, Scope(datetime.now(UTC), zone, machine=machine)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        text = " ".join(message.encode(errors="replace").decode().split())
        self.exit(2, f"{self.prog}: error: {text}; see --help\n")


def build_parser() -> Parser:
    parser = Parser(
        prog="ccusage-import",
        description="Import what ccusage reports into ClickHouse, then print statistics.",
    )
    mode, names, loudness = (parser.add_mutually_exclusive_group() for _ in range(3))

    def add(option: str, purpose: str, group: Any = parser, **how: Any) -> None:
        """Add an option, which is a switch unless `how` tells what value it takes."""
        group.add_argument(option, help=purpose, **(how or {"action": "store_true"}))

    add("--check", "system check; imports nothing", mode)
    add("--stats", "statistics of what is stored; imports nothing", mode)
    purpose, name = "run a query of queries.sql, - for stdin's", "a name, or - for SQL from stdin"
    add("--query", purpose, mode, metavar="NAME", type=like(r".*\S.*", name))
    add("--list-queries", "list the queries of queries.sql", mode)
    purpose = f"merge another database of this program into this one: a directory, or {ADDRESS}"
    add("--copy-from", purpose, mode, metavar="SOURCE", type=like())
    purpose, kind = "a parameter of the query, such as days=7", like(r"[^\W\d]\w*=.*", "NAME=VALUE")
    add("--param", purpose, metavar="NAME=VALUE", type=kind, action="append", default=[])
    kind = like("[1-9][0-9]{0,4}", "a number of days", int)
    add("--days", "statistics of the last N days", metavar="N", type=kind)
    purpose = "statistics, a query or a copy of one machine"
    add("--machine", purpose, metavar="NAME", type=like(), default="")
    purpose = "store project names and session ids as hashes (as this machine did before; at first)"
    add("--hash-projects", purpose, names, action="store_true")
    purpose = "store project names and session ids as they are"
    add("--no-hash-projects", purpose, names, action="store_false", dest="hash_projects")
    add("--names", "show this machine's names on a terminal")
    add("--dry-run", "say what would change; write nothing")
    add("--reprice", "take ccusage's present prices for what it reports")
    add("--allow-shrink", "accept rows smaller than the stored ones")
    purpose = "which agents' usage to import (all that this ccusage reports)"
    kind = like(r".*[^\s,].*", "all, or agents such as claude,codex", agent_names)
    add("--agents", purpose, metavar="all|claude,codex,…", type=kind, default=frozenset())
    kind = like(r"\d{1,6}(\.\d*)?", "seconds", float)
    purpose = "how long to wait for another import (300)"
    add("--lock-timeout", purpose, metavar="SECONDS", type=kind, default=300.0)
    parser.add_argument("--format", choices=("table", "json", "csv", "markdown", "html"))
    add("--output", "write the result there, as its ending says", metavar="FILE", type=Path)
    add("--quiet", "print only what is wrong", loudness)
    add("--verbose", "print every step", loudness)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.set_defaults(hash_projects=None)
    return parser


def like(
    pattern: str = ".*", expected: str = "text", kind: Callable[[str], Any] = str
) -> Callable[[str], Any]:
    """What reads the value of an option: text in UTF-8 of a pattern."""

    def read(text: str) -> Any:
        if not _is_utf8(text) or not re.fullmatch(pattern, text, re.DOTALL):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return kind(text)

    return read


def agent_names(text: str) -> frozenset[str]:
    """The agents that are listed; none stands for all."""
    names = frozenset(name.strip() for name in text.lower().split(",") if name.strip())
    return frozenset() if "all" in names else names


def check_output(path: Path) -> None:
    """Refuse a file of --output that could not be written, before any work is done."""
    if path.is_dir():
        raise ConfigError(f"--output {path}: it is a directory")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--output {path}: its directory does not exist")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, and what they ask for as `mode`."""
    parser = build_parser()
    args = parser.parse_args(argv)
    given = [
        f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
        for name, value in vars(args).items()
        if value != parser.get_default(name)
    ]
    args.mode = next((option for option in given if option in MODES), IMPORT)
    _, fitting = MODES[args.mode]
    for option in given:
        if option != args.mode and option not in (*fitting.split(), *ALWAYS.split()):
            others = [name for name, (_, options) in MODES.items() if option in options.split()]
            parser.error(f"argument {option}: not with {args.mode}, only with {', '.join(others)}")
    if args.format is None:
        endings = {".json": "json", ".csv": "csv", ".md": "markdown", ".html": "html"}
        args.format = endings.get(args.output.suffix.lower() if args.output else "", "table")
    if args.format == "html":
        if not args.stats:
            parser.error("argument --format: html only with --stats")
        args.output = args.output or PAGE
    if args.names and (args.format != "table" or args.output or not sys.stdout.isatty()):
        parser.error("argument --names: only on a terminal, where it shows no other format")
    return args


class TerminalHandler(logging.Handler):
    """Lines on a terminal, in colour, above the spinner while there is one."""

    def __init__(self) -> None:
        from rich.console import Console

        super().__init__()
        self.console = Console(stderr=True, highlight=False, markup=False, emoji=False)

    def emit(self, record: logging.LogRecord) -> None:
        style = {"WARNING": "yellow", "ERROR": "bold red"}.get(record.levelname, "dim")
        self.console.print(record.getMessage(), style=style, soft_wrap=True)


def configure_logging(args: argparse.Namespace) -> None:
    """Lines for people on stderr."""
    logging.getLogger().addHandler(logging.NullHandler())  # the libraries' own lines
    log.setLevel(logging.DEBUG)
    log.propagate = False
    for handler in log.handlers[:]:
        handler.close()
        log.removeHandler(handler)
    terminal = TerminalHandler() if sys.stderr.isatty() else logging.StreamHandler(sys.stderr)
    loudness = (args.quiet and logging.WARNING) or (args.verbose and logging.DEBUG) or logging.INFO
    terminal.setLevel(loudness)
    log.addHandler(terminal)


def log_to_file(state_dir: Path) -> None:
    """Tell all of an import in ccusage_import.log, too; an import does not fail because of it."""
    from logging.handlers import RotatingFileHandler

    logging.raiseExceptions = False  # a traceback for each line, where the disk is full
    path = state_dir / "ccusage_import.log"
    with contextlib.suppress(OSError):  # as where no lock can be, which is told
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = RotatingFileHandler(path, maxBytes=1_000_000, backupCount=2, encoding="utf-8")
        line = "%(asctime)s %(process)d %(levelname)s %(message)s"
        file.setFormatter(logging.Formatter(line))
        log.addHandler(file)


@contextlib.contextmanager
def at_work(status: str) -> Iterator[None]:
    """Show a spinner on a terminal, unless --quiet, and do without garbage collection."""
    terminal = log.handlers[0]
    gc.disable()  # no row is garbage before the end, and the search for some takes a fifth more
    try:
        with contextlib.ExitStack() as stack:
            if isinstance(terminal, TerminalHandler) and terminal.level < logging.WARNING:
                stack.enter_context(terminal.console.status(status, spinner="line"))
            yield
    finally:
        gc.freeze()  # what is there now need not be searched when the process ends
        gc.enable()


def show_statistics(settings: Settings, args: argparse.Namespace) -> int:
    """Print them, or with --quiet tell by the exit code whether a budget is exceeded."""
    page = args.format == "html"
    if page:
        plotly_script()  # where it is not installed, this is told before anything is read
    with reading(settings, args.machine) as (importer, now):
        scope = now._replace(days=args.days, agents=tuple(sorted(settings.agents)))
        stats = read_statistics(importer, scope)
        details = read_figures(importer, scope, REPORT) if page else {}
    if page:
        publish(Report(page_figures(stats, details), ()), args)
    elif not args.quiet or args.output:
        publish(Report(stats, statistics_sections(stats)), args, settings)
    return 5 if args.quiet and any(b.cost > b.limit for b in stats.budgets) else 0


def run_import(settings: Settings, args: argparse.Namespace) -> int:
    with at_work("importing"):
        brief = args.format not in ("json", "csv")
        result = import_usage(settings, summary=not args.quiet, brief=brief)
    if not args.quiet or args.output:
        sections = import_sections(result, verbose=args.verbose)
        publish(Report(result, sections), args, settings)
    return 3 if result.feeds_failed else 0


def run_copy(settings: Settings, args: argparse.Namespace) -> int:
    with at_work("copying"):
        result = copy_database(settings, args.copy_from, args.machine)
    if not args.quiet or args.output:
        publish(copy_report(result), args)
    return 0


def run_check(settings: Settings, args: argparse.Namespace) -> int:
    checks = Checkup(settings).run()
    failed = [check for check in checks if check.status == FAILED]
    if failed or not args.quiet:
        publish(check_report(failed if args.quiet else checks), args)
    return int(bool(failed))


def run_query(settings: Settings, args: argparse.Namespace) -> int:
    """Answer a query, in the time zone of the machine that it is about."""
    query = written_query(sys.stdin) if args.query == "-" else find_query(args.query)
    given = dict(parameter.split("=", 1) for parameter in args.param)
    if args.machine:
        given.setdefault("machine", args.machine)
    if settings.budget_month and "budget" in query.parameters:
        given.setdefault("budget", f"{settings.budget_month:.2f}")
    values = bind(query, given)
    machine = "" if query.name == "-" else values.get("machine", "")
    with reading(settings, machine) as (importer, scope):
        if "timezone" in query.parameters and query.name != "-":
            values = {**values, "timezone": given.get("timezone", scope.zone)}
        report = answer_query(importer, query, values, scope)
    publish(report, args, settings)
    return 0


def list_all(_: Settings, args: argparse.Namespace) -> int:
    publish(list_queries(), args)
    return 0


# Each thing that can be asked for, with the function that does it and the options that it takes.
# Other options would do nothing, and are refused. The check takes those of an import.
IMPORT = "an import"
_RULES = "--hash-projects --no-hash-projects --agents --lock-timeout --reprice --allow-shrink"
ALWAYS = "--format --output --quiet --verbose"
MODES: dict[str, tuple[Callable[[Settings, argparse.Namespace], int], str]] = {
    IMPORT: (run_import, f"{_RULES} --names --dry-run"),
    "--check": (run_check, _RULES),
    "--stats": (show_statistics, "--agents --lock-timeout --names --machine --days"),
    "--query": (run_query, "--lock-timeout --names --machine --param"),
    "--list-queries": (list_all, ""),
    "--copy-from": (
        run_copy,
        "--hash-projects --no-hash-projects --lock-timeout --machine --dry-run",
    ),
}


def publish(report: Report, args: argparse.Namespace, settings: Settings | None = None) -> None:
    """Print an answer, or write it to --output; with --names and the names of this machine."""
    import shutil

    out = sys.stdout
    usual = WIDE if report.columns else 80  # where no terminal says
    width = shutil.get_terminal_size((usual, 24)).columns
    width, colour = (usual, False) if args.output else (width, out.isatty())
    if args.format == "table":
        names = local_names(settings) if settings and args.names else {}
        text = render_table(report, width, colour=colour, names=names)
    else:
        text = RENDERERS[args.format](report)
    if args.output:
        try:
            write_whole(args.output, text)
        except OSError as error:
            raise ConfigError(f"--output {args.output}: {error.strerror}") from error
        if args.format != "html" or args.quiet or args.output.parent == Path("/dev"):
            return
        text = cell_text(str(args.output.absolute())) + "\n"
    encoding = out.encoding or "utf-8"
    if not encoding.lower().startswith("utf") or os.environ.get("LC_ALL") in ("C", "POSIX"):
        text = text if args.format in ("json", "csv") else text.translate(ASCII)
        text = text.encode(encoding, "replace").decode(encoding)
    failure = _print(out, text)
    if failure and not isinstance(failure, BrokenPipeError):  # as of `head`
        raise ImporterError(f"the result cannot be printed: {failure.strerror}")


def _print(stream: TextIO, text: str = "") -> OSError | None:
    """Write, or say why not and give up the stream: Python would try again at exit."""
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


def tell_unknown_variables(env: Mapping[str, str]) -> None:
    """Warn of variables that look like ours, and of any in `.env`: they would do nothing."""
    from difflib import get_close_matches

    ours = re.compile("(CH|CCUSAGE)_(?!MODEL_ALIASES$)").match  # that one is ccusage's own
    for name in sorted({*filter(ours, env), *(env.keys() - os.environ.keys())} - VARIABLES.keys()):
        near = get_close_matches(name, VARIABLES, 1, 0.6 if ours(name) else 0.85)
        if env[name].strip() and (ours(name) or near):
            hint = f"did you mean {near[0]}?" if near else ".env.example lists them"
            place = "the environment" if name in os.environ else dotenv_path(os.environ)
            log.warning("WARNING: %s: %s is no setting of this program; %s", place, name, hint)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; the exit code is as the module says."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    _interrupted.clear()
    for number in INTERRUPTS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, interrupt)  # but nohup ignores some
    try:
        args = parse_arguments(argv)
        configure_logging(args)
        env = load_environment(os.environ)
        if args.mode in (IMPORT, "--copy-from"):
            log_to_file(state_directory(env))
        tell_unknown_variables(env)
        if args.output:
            check_output(args.output)
        claims_name = bool(os.environ.get("MACHINE_NAME", "").strip())
        given = {name: value for name, value in vars(args).items() if name in Settings._fields}
        settings = Settings.from_env(env, claims_name=claims_name, **given)
        run_mode, _ = MODES[args.mode]
        return run_mode(settings, args)
    except ImporterError as error:
        log.error("%s", error)
        return error.exit_code
    except OSError as error:  # a file or a disk that is not as it should be, no bug
        log.error("%s: check the disk and its permissions", error)
        return 1
    except KeyboardInterrupt:
        log.error("interrupted")
        return 130
    finally:
        _print(sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
