"""Writes transcripts as Claude Code, Codex, OpenCode and Gemini CLI do, for ccusage to read.

A `Message` is one answer of a model. `plan` invents a month of work, `populate` writes it, `grow`
goes on with a session, and `purge` deletes what Claude Code would delete. The same arguments
always write the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta, timezone
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

OPUS = "claude-opus-4-1-20250805"
SONNET = "claude-sonnet-4-20250514"
HAIKU = "claude-haiku-4-5-20251001"
UNPRICED = "claude-zeta-9-20301231"  # no ccusage knows its price
SYNTHETIC = "<synthetic>"  # Claude Code's own words, not a model's

MODELS = (SONNET, SONNET, OPUS, HAIKU)
PROJECTS = ("-home-dev-work-alpha", "-home-dev-work-beta", "-home-dev-notes")


@dataclass(frozen=True)
class Message:
    """An answer of a model. Equal messages are the same message: give one an id to tell them apart.

    A copy made with `replace` keeps its ids, whatever else it changes: ccusage counts it once.
    As in Claude Code, `input` excludes what was read from or written to the cache.
    """

    at: datetime
    model: str = SONNET
    input: int = 10
    output: int = 100
    cache_creation: int = 0
    cache_read: int = 0
    message_id: str = ""
    request_id: str = ""
    hour_cache: int = 0  # the part of cache_creation that is kept for an hour, and costs more
    reasoning: int = 0  # other agents only
    cost: float | None = None  # older Claude Code wrote it; OpenCode does
    sidechain: bool = False
    progress: bool = False  # a subagent's answer inside an agent_progress line
    text: str = "ok"

    def __post_init__(self) -> None:
        number = hashlib.sha256(repr(self).encode()).hexdigest()[:24]
        object.__setattr__(self, "message_id", self.message_id or f"msg_{number}")
        object.__setattr__(self, "request_id", self.request_id or f"req_{number}")

    @property
    def tokens(self) -> int:
        return self.input + self.output + self.cache_creation + self.cache_read


class Transcript(NamedTuple):
    """A file of Claude Code: a session, or one of its subagents."""

    project: str
    session_id: str
    messages: Sequence[Message]
    subagent: str = ""

    def path(self, claude_dir: Path) -> Path:
        session = claude_dir / "projects" / self.project / self.session_id
        if self.subagent:
            return session / "subagents" / f"agent-{self.subagent}.jsonl"
        return session.with_name(f"{self.session_id}.jsonl")


# Claude Code


def write_session(
    claude_dir: Path,
    project: str,
    session_id: str,
    messages: Sequence[Message],
    subagent: str = "",
) -> Path:
    path = Transcript(project, session_id, messages, subagent).path(claude_dir)
    first, last = messages[0], messages[-1]
    lines = [question(first, session_id), *(answer(m, session_id) for m in messages)]
    write_lines(path, lines, last.at)
    return path


def grow(session: Path, messages: Sequence[Message]) -> None:
    """Goes on with a session that write_session or populate wrote."""
    with session.open("a", encoding="utf-8") as file:
        file.writelines(to_line(answer(m, session.stem)) for m in messages)
    touch(session, messages[-1].at)


def purge(claude_dir: Path, now: datetime, days: int = 30) -> list[Path]:
    """Deletes what was not written to for so many days, as Claude Code does when it starts."""
    oldest = (now - timedelta(days=days)).timestamp()
    files = sorted((claude_dir / "projects").rglob("*.jsonl"))
    old = [file for file in files if file.stat().st_mtime < oldest]
    for file in old:
        file.unlink()
    return old


def question(before: Message, session_id: str) -> dict[str, Any]:
    at = before.at - timedelta(seconds=5)
    said = {"role": "user", "content": "hi"}
    return {**line_of("user", at, session_id), "parentUuid": None, "message": said}


def answer(message: Message, session_id: str) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "input_tokens": message.input,
        "cache_creation_input_tokens": message.cache_creation,
        "cache_read_input_tokens": message.cache_read,
        "output_tokens": message.output,
        "service_tier": "standard",
    }
    if message.hour_cache:
        usage["cache_creation"] = {
            "ephemeral_5m_input_tokens": message.cache_creation - message.hour_cache,
            "ephemeral_1h_input_tokens": message.hour_cache,
        }
    body = {
        "id": message.message_id,
        "type": "message",
        "role": "assistant",
        "model": message.model,
        "content": [{"type": "text", "text": message.text}],
        "usage": usage,
    }
    line = line_of("assistant", message.at, session_id, message.sidechain)
    line |= {"message": body, "requestId": message.request_id}
    if message.cost is not None:
        line["costUSD"] = message.cost
    return in_progress(line) if message.progress else line


def in_progress(line: dict[str, Any]) -> dict[str, Any]:
    """A subagent's line, as it passes through the session that started the subagent."""
    outside = ("sessionId", "cwd", "version", "userType")
    data = {"type": "agent_progress", "agentId": "a1", "message": line}
    return {
        **{key: line[key] for key in outside},
        "type": "progress",
        "timestamp": line["timestamp"],
        "data": data,
    }


def line_of(kind: str, at: datetime, session_id: str, sidechain: bool = False) -> dict[str, Any]:
    return {
        "isSidechain": sidechain,
        "userType": "external",
        "cwd": "/home/dev/work",
        "sessionId": session_id,
        "version": "2.0.14",
        "gitBranch": "main",
        "type": kind,
        "uuid": uuid(f"{kind} {at} {session_id}"),
        "timestamp": iso(at),
    }


# A realistic month


class Features(NamedTuple):
    """What a realistic set of transcripts contains. Each may be switched off, or on."""

    midnight: bool = True  # sessions that span midnight
    multi_day: bool = True  # sessions that are taken up again on the next days
    resumed: bool = True  # files that begin with a copy of an earlier file's first messages
    sidechains: bool = True  # a subagent's answers among those of the session
    subagents: bool = True  # a subagent's answers in a file of its own
    streaming: bool = True  # one answer written several times, its output growing
    hour_cache: bool = True
    synthetic: bool = True
    unpriced: bool = True
    gaps: bool = True  # pauses longer than five hours; without them work never stops
    busy: bool = True  # days with five times as many sessions
    # With these the feeds of ccusage 20 contradict each other: off unless asked for.
    progress: bool = False  # agent_progress lines
    replays: bool = False  # answers repeated in a sidechain under another request id


def populate(claude_dir: Path, **what: Any) -> list[Path]:
    """Writes what `plan` invents from the same keywords."""
    return [write_session(claude_dir, *transcript) for transcript in plan(**what)]


def plan(
    *,
    start: date,
    days: int,
    projects: Sequence[str] = PROJECTS,
    sessions_per_day: int = 3,
    seed: int = 0,
    models: Sequence[str] = MODELS,
    until: datetime | None = None,
    **features: bool,
) -> list[Transcript]:
    """The transcripts of some days of work, in UTC; `features` are those of Features.

    Nothing happens at or after `until`: by default, the end of the last day.
    """
    inventor = Inventor(Random(seed), projects, models, Features(**features))
    for day in range(days):
        inventor.work_a_day(day, midnight_of(start + timedelta(days=day)), sessions_per_day)
    end = until or midnight_of(start + timedelta(days=days))
    return [kept for it in inventor.transcripts if (kept := cut(it, end)).messages]


class Inventor:
    """Invents transcripts, day by day, all from one source of chance."""

    def __init__(
        self, chance: Random, projects: Sequence[str], models: Sequence[str], features: Features
    ) -> None:
        self.chance = chance
        self.projects = projects
        self.models = models
        self.features = features
        self.transcripts: list[Transcript] = []
        self.resumable: list[Transcript] = []

    def work_a_day(self, number: int, midnight: datetime, sessions: int) -> None:
        busy = self.features.busy and number % 7 == 3
        if self.features.gaps and number % 7 == 6:
            return  # a day off
        for _ in range(sessions * (5 if busy else 1)):
            self.start_session(midnight)
        if not self.features.gaps:
            hours = [self.message(midnight + timedelta(hours=hour)) for hour in range(0, 24, 4)]
            self.add(self.chance.choice(self.projects), hours)

    def start_session(self, midnight: datetime) -> None:
        project = self.chance.choice(self.projects)
        late = self.features.midnight and self.happens(0.1)
        hour = self.chance.uniform(23.6, 23.9) if late else self.chance.uniform(8, 20)
        begin = midnight + timedelta(hours=hour)
        messages = self.talk(begin, late)
        if self.features.multi_day and self.happens(0.15):
            for later in range(1, self.chance.randint(2, 6)):
                messages += self.talk(begin + timedelta(days=later))
        if self.features.resumed and self.happens(0.2):
            messages = self.copied(project, messages[0].at) + messages
        session_id = self.add(project, messages)
        if self.features.subagents and self.happens(0.2):
            self.start_subagent(project, session_id, messages[-1].at)

    def start_subagent(self, project: str, session_id: str, at: datetime) -> None:
        messages = [replace(m, sidechain=True) for m in self.talk(at + timedelta(seconds=2))]
        name = f"{self.chance.getrandbits(32):08x}"
        self.transcripts.append(Transcript(project, session_id, messages, name))

    def add(self, project: str, messages: list[Message]) -> str:
        session_id = uuid(str(self.chance.random()))
        self.transcripts.append(Transcript(project, session_id, messages))
        return session_id

    def copied(self, project: str, before: datetime) -> list[Message]:
        """The first messages of an earlier session, as a resumed one repeats them."""
        earlier = [
            it.messages
            for it in self.transcripts[-200:]  # a bound, so that 20,000 sessions stay quick
            if it.project == project and not it.subagent and it.messages[-1].at < before
        ]
        if not earlier:
            return []
        messages = self.chance.choice(earlier)
        return list(messages[: self.chance.randint(1, len(messages))])

    def talk(self, begin: datetime, slow: bool = False) -> list[Message]:
        """Some answers within an hour or so; slow ones surely last past midnight."""
        messages: list[Message] = []
        at = begin
        for _ in range(self.chance.randint(6, 9) if slow else self.chance.randint(2, 9)):
            messages += self.answers(at)
            at += timedelta(seconds=self.chance.uniform(300 if slow else 20, 900))
        return messages

    def answers(self, at: datetime) -> list[Message]:
        """One answer, as the one or more lines that it leaves."""
        message = self.message(at)
        features = self.features
        if features.streaming and self.happens(0.2):
            return [
                replace(message, output=1),
                delayed(message, output=message.output // 2 + 1),
                delayed(message, 2),
            ]
        if features.synthetic and self.happens(0.03):
            return [Message(at, SYNTHETIC, 0, 0), message]
        if features.progress and self.happens(0.1):
            return [replace(message, progress=True)]
        if features.replays and self.happens(0.1):
            again = f"{message.request_id}-replay"
            replay = delayed(message, 2, request_id=again, sidechain=True)
            return [replace(message, output=1), delayed(message), replay]
        return [message]

    def message(self, at: datetime) -> Message:
        written = self.chance.randint(0, 8_000)
        hours = self.features.hour_cache and self.happens(0.1)
        unpriced = self.features.unpriced and self.happens(0.05)
        return Message(
            at=at.replace(microsecond=self.chance.randrange(1000) * 1000),
            model=UNPRICED if unpriced else self.chance.choice(self.models),
            input=self.chance.randint(1, 900),
            output=self.chance.randint(20, 4_000),
            cache_creation=written,
            cache_read=self.chance.randint(0, 90_000),
            hour_cache=written // 2 if hours else 0,
            sidechain=self.features.sidechains and self.happens(0.05),
        )

    def happens(self, probability: float) -> bool:
        return self.chance.random() < probability


def delayed(message: Message, seconds: int = 1, **changes: Any) -> Message:
    return replace(message, at=message.at + timedelta(seconds=seconds), **changes)


def cut(transcript: Transcript, end: datetime) -> Transcript:
    return transcript._replace(messages=[m for m in transcript.messages if m.at < end])


# Other agents


def write_codex(codex_home: Path, session_id: str, messages: Sequence[Message]) -> Path:
    """A rollout of Codex. Its counts are cumulative, and its input includes what was cached."""
    begin = messages[0].at
    name = f"rollout-{begin:%Y-%m-%dT%H-%M-%S}-{session_id}.jsonl"
    lines = [codex_line("session_meta", begin, {"id": session_id, "timestamp": iso(begin)})]
    for number, message in enumerate(messages, 1):
        info = {
            "total_token_usage": codex_usage(messages[:number]),
            "last_token_usage": codex_usage([message]),
        }
        lines.append(codex_line("turn_context", message.at, {"model": message.model}))
        lines.append(codex_line("event_msg", message.at, {"type": "token_count", "info": info}))
    path = codex_home / "sessions" / f"{begin:%Y/%m/%d}" / name
    write_lines(path, lines, messages[-1].at)
    return path


def codex_usage(messages: Sequence[Message]) -> dict[str, int]:
    read = sum(m.cache_read for m in messages)
    given = sum(m.input for m in messages) + read
    written = sum(m.output for m in messages)
    return {
        "input_tokens": given,
        "cached_input_tokens": read,
        "output_tokens": written,
        "reasoning_output_tokens": sum(m.reasoning for m in messages),  # part of the output
        "total_tokens": given + written,
    }


def codex_line(kind: str, at: datetime, payload: dict[str, Any]) -> dict[str, Any]:
    return {"timestamp": iso(at), "type": kind, "payload": payload}


def write_opencode(data_dir: Path, session_id: str, messages: Sequence[Message]) -> list[Path]:
    """A session of OpenCode: one file for each message."""
    folder = data_dir / "storage" / "message" / session_id
    paths = []
    for message in messages:
        millis = round(message.at.timestamp() * 1000)
        body = {
            "id": message.message_id,
            "sessionID": session_id,
            "role": "assistant",
            "time": {"created": millis, "completed": millis + 5000},
            "modelID": message.model,
            "providerID": "anthropic" if message.model.startswith("claude") else "openai",
            "cost": message.cost or 0,
            "tokens": {
                "input": message.input,
                "output": message.output,
                "reasoning": message.reasoning,
                "cache": {"read": message.cache_read, "write": message.cache_creation},
            },
        }
        paths.append(folder / f"{message.message_id}.json")
        write_lines(paths[-1], [body], message.at)
    return paths


def write_gemini(data_dir: Path, session_id: str, messages: Sequence[Message]) -> Path:
    """A chat of Gemini CLI. Its input includes what was cached."""
    project = hashlib.sha256(b"/home/dev/work").hexdigest()
    chat = {
        "sessionId": session_id,
        "projectHash": project,
        "startTime": iso(messages[0].at),
        "lastUpdated": iso(messages[-1].at),
        "messages": [gemini_message(message) for message in messages],
    }
    name = f"session-{messages[0].at:%Y-%m-%dT%H-%M}-{session_id}.json"
    path = data_dir / project / "chats" / name
    write_lines(path, [chat], messages[-1].at)
    return path


def gemini_message(message: Message) -> dict[str, Any]:
    given = message.input + message.cache_read
    return {
        "id": message.message_id,
        "timestamp": iso(message.at),
        "type": "gemini",
        "content": message.text,
        "model": message.model,
        "tokens": {
            "input": given,
            "output": message.output,
            "cached": message.cache_read,
            "thoughts": message.reasoning,
            "tool": 0,
            "total": given + message.output + message.reasoning,
        },
    }


# The surroundings of ccusage

DATA_DIRS = {
    "claude": "CLAUDE_CONFIG_DIR",
    "codex": "CODEX_HOME",
    "opencode": "OPENCODE_DATA_DIR",
    "gemini": "GEMINI_DATA_DIR",
}


def environment(tmp_path: Path, **overrides: str | Path | None) -> dict[str, str]:
    """An environment in which nothing of the real user is seen; None removes a variable.

    Claude Code's directory exists, as without it every report of ccusage fails.
    """
    inside = {variable: tmp_path / agent for agent, variable in DATA_DIRS.items()}
    for kind in ("CACHE", "CONFIG", "DATA", "STATE"):
        inside[f"XDG_{kind}_HOME"] = tmp_path / "xdg" / kind.lower()
    home = tmp_path / "home"
    home.mkdir(parents=True, exist_ok=True)
    (tmp_path / "claude" / "projects").mkdir(parents=True, exist_ok=True)
    plain = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TZ": "UTC"}
    env = plain | {"HOME": home} | inside | overrides
    return {name: str(value) for name, value in env.items() if value is not None}


# Files


def write_lines(path: Path, lines: Iterable[dict[str, Any]], written: datetime) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(map(to_line, lines)), encoding="utf-8")
    touch(path, written)


def to_line(record: dict[str, Any]) -> str:
    """ccusage 19 and newer overlook JSON that has a space after its colons."""
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n"


def touch(path: Path, at: datetime) -> None:
    os.utime(path, (at.timestamp(), at.timestamp()))


def iso(at: datetime) -> str:
    text = at.astimezone(timezone.utc).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def uuid(seed: str) -> str:
    digits = hashlib.sha256(seed.encode()).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:32]}"


def midnight_of(day: date) -> datetime:
    return datetime.combine(day, time(), timezone.utc)
