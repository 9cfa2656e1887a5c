"""What the other tests stand on: the real ccusage reads our transcripts as it reads real ones."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from real_ccusage import FEEDS, NEWEST, VERSIONS, command, major, report
from transcripts import (
    HAIKU,
    SONNET,
    UNPRICED,
    Message,
    Transcript,
    environment,
    grow,
    plan,
    populate,
    purge,
    write_codex,
    write_gemini,
    write_opencode,
    write_session,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.tools
RECORDED = Path(__file__).parent / "feeds"
NOON = datetime(2025, 10, 1, 12, tzinfo=timezone.utc)
ALPHA = "-home-dev-work-alpha"
OLD, NEW = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"

every_version = pytest.mark.parametrize("version", VERSIONS)
since_19 = pytest.mark.parametrize("version", [v for v in VERSIONS if major(v) >= 19])


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path)


@pytest.fixture
def claude(tmp_path: Path) -> Path:
    return tmp_path / "claude"


# ccusage itself


@every_version
def test_each_version_runs_in_an_empty_environment(version: str) -> None:
    done = subprocess.run(
        [*command(version), "--version"], check=True, env={}, capture_output=True, text=True
    )
    assert done.stdout.split()[-1] == version


def test_the_newest_also_runs_through_its_node_wrapper() -> None:
    argv = [*command(NEWEST, wrapper=True), "--version"]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert done.stdout == f"ccusage {NEWEST}\n"


UNIFIED = {
    "unified-daily": ["all daily"],
    "unified-daily-by-agent": ["all daily", "--by-agent"],
    "unified-monthly-by-agent": ["all monthly", "--by-agent"],
    "unified-session": ["all session"],
    "unified-sections": ["all daily", "--sections", "daily,monthly,session"],
}
ELSEWHERE = ("blocks-active", "daily-unpriced")  # recorded from transcripts that are not here


@pytest.mark.parametrize("version", sorted(path.name for path in RECORDED.glob("[0-9]*")))
def test_the_recorded_feeds_are_what_ccusage_prints_today(version: str, tmp_path: Path) -> None:
    agents = RECORDED / "transcripts"
    full = environment(
        tmp_path,
        CLAUDE_CONFIG_DIR=agents,
        CODEX_HOME=agents / "codex",
        OPENCODE_DATA_DIR=agents / "opencode",
    )
    for path in (RECORDED / version).glob("*.json"):
        if path.stem not in ELSEWHERE:
            feed, *args = UNIFIED.get(path.stem, [path.stem.replace("-", " ")])
            env = environment(tmp_path) if feed.startswith("empty ") else full
            printed = report(version, feed.removeprefix("empty "), env, *args)
            assert printed == json.loads(path.read_text()), path.name


def test_the_recorded_unpriced_day_is_what_ccusage_prints_today(
    env: dict[str, str], claude: Path
) -> None:
    unpriced = Message(NOON, UNPRICED, 100, 200, 300, 400)
    write_session(claude, ALPHA, OLD, [unpriced, Message(NOON, SONNET, 1, 1, 1, 1)])
    recorded = json.loads((RECORDED / NEWEST / "daily-unpriced.json").read_text())
    assert report(NEWEST, "daily", env) == recorded


# Claude Code


@every_version
def test_each_version_counts_every_written_message_once(
    version: str, env: dict[str, str], claude: Path
) -> None:
    work: dict[str, Any] = {"start": date(2025, 9, 1), "days": 14, "sessions_per_day": 2}
    populate(claude, **work)
    expected = counted(plan(**work), version)
    assert {feed: tokens(version, feed, env) for feed in FEEDS} == dict.fromkeys(FEEDS, expected)


def counted(transcripts: Iterable[Transcript], version: str) -> int:
    """Each id once: 15 to 18 take its first line, 19 and newer the one with most output."""
    copies: dict[str, list[Message]] = {}
    for transcript in transcripts:
        for message in transcript.messages:
            copies.setdefault(message.message_id, []).append(message)
    if major(version) < 19:
        return sum(same[0].tokens for same in copies.values())
    return sum(max(message.tokens for message in same) for same in copies.values())


def tokens(version: str, feed: str, env: dict[str, str]) -> int:
    reported = report(version, feed, env)
    if feed == "blocks":
        return sum(block["totalTokens"] for block in reported["blocks"])
    return int(reported["totals"]["totalTokens"])


@every_version
def test_a_streamed_answer_counts_with_its_first_line_until_18_and_its_largest_from_19(
    version: str, env: dict[str, str], claude: Path
) -> None:
    final = Message(NOON, output=200)
    write_session(claude, ALPHA, OLD, [replace(final, output=n) for n in (1, 50, 200)])
    [day] = report(version, "daily", env)["daily"]
    assert day["outputTokens"] == (1 if major(version) < 19 else 200)


@every_version
def test_a_subagent_is_a_session_until_18_and_part_of_its_session_from_19(
    version: str, env: dict[str, str], claude: Path
) -> None:
    write_session(claude, ALPHA, OLD, [Message(NOON)])
    write_session(claude, ALPHA, OLD, [Message(NOON, HAIKU, sidechain=True)], "0123abcd")
    rows = report(version, "session", env)["sessions"]
    seen = {(row["projectPath"], row["sessionId"]) for row in rows}
    if major(version) < 19:
        assert seen == {("Unknown Project", ALPHA), (f"{ALPHA}/{OLD}", "subagents")}
    else:
        assert seen == {(ALPHA, OLD)}


def test_cache_kept_for_an_hour_costs_more_in_20(env: dict[str, str], claude: Path) -> None:
    written = Message(NOON, cache_creation=1_000_000, hour_cache=1_000_000)
    write_session(claude, ALPHA, OLD, [written])
    cost = {v: report(v, "daily", env)["totals"]["totalCost"] for v in ("19.0.3", "20.0.24")}
    assert cost["20.0.24"] > cost["19.0.3"] + 2


@pytest.mark.parametrize("feature", ["progress", "replays"])
def test_some_features_make_the_feeds_of_20_contradict_each_other(
    feature: str, env: dict[str, str], claude: Path
) -> None:
    populate(claude, start=date(2025, 9, 1), days=4, **{feature: True})
    daily, monthly, session, blocks, projects = (tokens("20.0.24", feed, env) for feed in FEEDS)
    assert daily == projects != monthly == session == blocks


@pytest.mark.parametrize("gaps", [True, False])
def test_there_are_pauses_unless_they_are_switched_off(
    gaps: bool, env: dict[str, str], claude: Path
) -> None:
    populate(claude, start=date(2025, 9, 1), days=8, gaps=gaps)
    assert any(block["isGap"] for block in report(NEWEST, "blocks", env)["blocks"]) == gaps


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    written = [
        populate(tmp_path / name, start=date(2025, 9, 1), days=5, seed=seed)
        for name, seed in (("one", 1), ("again", 1), ("other", 2))
    ]
    one, again, other = ([path.read_bytes() for path in paths] for paths in written)
    assert one == again != other


def test_nothing_happens_at_or_after_until() -> None:
    planned = plan(start=date(2025, 9, 28), days=9, until=NOON)
    assert max(m.at for it in planned for m in it.messages) < NOON


def test_every_feature_can_be_switched_off() -> None:
    work: dict[str, Any] = {"start": date(2025, 9, 1), "days": 30}
    plain = plan(**work, resumed=False, streaming=False, subagents=False, hour_cache=False)
    messages = [m for it in plain for m in it.messages]
    assert len({m.message_id for m in messages}) == len(messages)
    assert not any(it.subagent for it in plain)
    assert not any(m.hour_cache for m in messages)


@every_version
def test_a_session_that_grew_today_counts_its_new_messages(
    version: str, env: dict[str, str], claude: Path
) -> None:
    path = write_session(claude, ALPHA, OLD, [Message(NOON)])
    before = tokens(version, "monthly", env)
    later = Message(NOON + timedelta(days=3), output=5)
    grow(path, [later])
    assert tokens(version, "monthly", env) == before + later.tokens
    assert path.stat().st_mtime == later.at.timestamp()


# The purge


@every_version
def test_a_purge_makes_old_days_vanish_and_the_days_around_the_cut_shrink(
    version: str, env: dict[str, str], claude: Path
) -> None:
    days = [NOON + timedelta(days=n) for n in range(4)]
    write_session(claude, ALPHA, OLD, [Message(at) for at in days[:2]])
    write_session(claude, ALPHA, NEW, [Message(at, HAIKU, 1, 1) for at in days[1:]])
    before = days_of(version, env)

    gone = purge(claude, now=days[2] + timedelta(days=30), days=30)

    assert [path.stem for path in gone] == [OLD]
    assert before == {"2025-10-01": 110, "2025-10-02": 112, "2025-10-03": 2, "2025-10-04": 2}
    assert days_of(version, env) == {"2025-10-02": 2, "2025-10-03": 2, "2025-10-04": 2}


def days_of(version: str, env: dict[str, str]) -> dict[str, int]:
    return {row["date"]: row["totalTokens"] for row in report(version, "daily", env)["daily"]}


@since_19
def test_after_a_purge_a_resumed_session_gets_the_messages_that_it_copied(
    version: str, env: dict[str, str], claude: Path
) -> None:
    resume(claude, OLD, NEW)
    assert sessions_of(version, env) == {OLD: 220, NEW: 1}
    purge(claude, now=NOON + timedelta(days=35))
    assert sessions_of(version, env) == {NEW: 111}


@since_19
def test_a_resumed_session_whose_name_sorts_first_takes_the_messages_at_once(
    version: str, env: dict[str, str], claude: Path
) -> None:
    resume(claude, NEW, OLD)
    assert sessions_of(version, env) == {NEW: 110, OLD: 111}
    purge(claude, now=NOON + timedelta(days=35))
    assert sessions_of(version, env) == {OLD: 111}


def resume(claude: Path, earlier: str, later: str) -> None:
    said = [Message(NOON), Message(NOON + timedelta(minutes=1))]
    again = Message(NOON + timedelta(days=20), input=1, output=0)
    write_session(claude, ALPHA, earlier, said)
    write_session(claude, ALPHA, later, [said[0], again])


def sessions_of(version: str, env: dict[str, str]) -> dict[str, int]:
    rows = report(version, "session", env)["sessions"]
    return {row["sessionId"]: row["totalTokens"] for row in rows}


# Other agents


def test_20_counts_codex_opencode_and_gemini(env: dict[str, str], tmp_path: Path) -> None:
    write_all_agents(tmp_path)
    [day] = report("20.0.24", "all daily", env, "--by-agent")["daily"]
    assert {agent["agent"]: agent["totalTokens"] for agent in day["agents"]} == {
        "claude": 15,
        "codex": 2 * 112,
        "gemini": 3 + 9,
        "opencode": 60 + 7,
    }


def test_19_counts_codex_and_opencode(env: dict[str, str], tmp_path: Path) -> None:
    write_all_agents(tmp_path)
    rows = report("19.0.3", "all session", env)["session"]
    seen = {row["agent"]: row["totalTokens"] for row in rows}
    assert seen == {"claude": 15, "codex": 2 * 112, "opencode": 60}


@pytest.mark.parametrize("agent", ["codex", "opencode", "gemini"])
def test_20_has_sessions_of_the_other_agents(
    agent: str, env: dict[str, str], tmp_path: Path
) -> None:
    write_all_agents(tmp_path)
    [session] = report("20.0.24", f"{agent} session", env)["sessions"]
    assert session["sessionId"].endswith({"opencode": "ses_1"}.get(agent, OLD))


def write_all_agents(tmp_path: Path) -> None:
    write_session(tmp_path / "claude", ALPHA, OLD, [Message(NOON, SONNET, 1, 2, 4, 8)])
    times = [NOON, NOON + timedelta(minutes=1)]
    turns = [Message(at, "gpt-5", 16, 32, 0, 64, reasoning=10) for at in times]
    write_codex(tmp_path / "codex", OLD, turns)
    write_opencode(
        tmp_path / "opencode", "ses_1", [Message(NOON, "gpt-5", 4, 8, 16, 32, reasoning=7)]
    )
    chat = [
        Message(NOON, "gemini-2.5-pro", 1, 2),
        Message(NOON, "gemini-2.5-pro", 2, 2, 0, 2, reasoning=3),
    ]
    write_gemini(tmp_path / "gemini", OLD, chat)


def test_nothing_of_the_real_user_is_seen(env: dict[str, str], tmp_path: Path) -> None:
    assert report("20.0.24", "all daily", env)["daily"] == []
    assert all(
        value.startswith(str(tmp_path))
        for name, value in env.items()
        if name not in ("PATH", "LANG", "TZ")
    )
