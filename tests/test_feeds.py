"""Asking ccusage: finding it, its arguments, its surroundings, its failures and its lies."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import real_ccusage
from tables import Machine
from transcripts import OPUS, SONNET, Message, environment, write_session

import ccusage_importer
from ccusage_importer import (
    FEEDS,
    UNIFIED,
    Ccusage,
    ConfigError,
    FeedError,
    Settings,
    failure_lines,
    fetch_all,
    fetch_feed,
    find_ccusage,
    find_command,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDED = Path(__file__).parent / "feeds"
NAMES = [feed.name for feed in FEEDS]
NEWEST = real_ccusage.NEWEST
PATH = os.environ["PATH"]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ccusage_importer.random, "uniform", lambda *_: 0.02)


def settings(home: Path, **env: str | Path) -> Settings:
    plain = {"PATH": PATH, "HOME": home}
    return Settings.from_env({name: str(value) for name, value in (plain | env).items()})


def write_stub(folder: Path, body: str, name: str = "ccusage", version: str = "18.0.11") -> Path:
    """A command that names its version, and notes each other call before it does as it is told."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / name
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *--version) echo {version}; exit;; esac\n'
        f'cd {shlex.quote(str(folder))}; echo "$*" >> calls\n{body}\n'
    )
    script.chmod(0o755)
    return script


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def failure(script: Path, **env: str) -> str:
    """What is said when this command is asked for the days."""
    wanted = settings(script.parent, CCUSAGE_COMMAND=shlex.quote(str(script)), **env)
    with pytest.raises(FeedError) as failed:
        fetch_feed(FEEDS[0], find_ccusage(wanted), "UTC", wanted, script.parent)
    return str(failed.value)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(ready: Callable[[], Any], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


# --- arguments -----------------------------------------------------------------------------


OF_19 = ("claude", "codex", "opencode", "amp", "pi")


def arguments(version: tuple[int, int, int], *agents: str) -> list[str]:
    ccusage = Ccusage(("ccusage",), version, {}, OF_19 if version >= (19, 0, 0) else ("claude",))
    return [
        shlex.join(ccusage.command(feed, "Asia/Tokyo", ("--offline",), Path("/tmp/h")))
        for feed in ccusage.feeds(frozenset(agents))
    ]


TAIL = "--json --order asc --mode auto -z Asia/Tokyo --offline"
FENCE = "--config /tmp/h/ccusage.json"


def test_15_knows_neither_a_configuration_nor_agents() -> None:
    reports = ("daily", "monthly", "session", "blocks", "daily --instances")
    assert arguments((15, 9, 7)) == [f"ccusage {report} {TAIL}" for report in reports]


def test_16_to_18_are_fenced_against_a_configuration() -> None:
    assert arguments((16, 0, 0))[4] == f"ccusage daily --instances {TAIL} {FENCE}"
    assert len(arguments((18, 0, 11))) == 5


@pytest.mark.parametrize("version", [(19, 0, 3), (20, 0, 11), (20, 0, 16)])
def test_before_20_0_17_each_agent_is_asked_for_on_its_own(version: tuple[int, int, int]) -> None:
    asked = arguments(version)
    assert asked[0] == f"ccusage claude daily {TAIL} {FENCE}"
    assert asked[4] == f"ccusage claude daily --instances {TAIL} {FENCE}"
    assert [line.split()[1:3] for line in asked[5:]] == [
        [agent, feed] for agent in OF_19[1:] for feed in ("daily", "monthly", "session")
    ]


@pytest.mark.parametrize("version", [(20, 0, 17), (20, 0, 24), (21, 0, 0)])
def test_newer_ones_are_asked_for_claude_and_once_for_all_others(
    version: tuple[int, int, int],
) -> None:
    asked = arguments(version)
    assert [line.split()[1] for line in asked] == ["claude"] * 5 + ["daily"]
    assert "--sections daily,monthly,session --by-agent" in asked[5]


@pytest.mark.parametrize(
    ("version", "agents", "count"),
    [
        ((18, 0, 11), {"claude"}, 5),
        ((18, 0, 11), {"codex"}, 0),
        ((19, 0, 3), {"codex"}, 3),
        ((19, 0, 3), {"claude", "opencode"}, 8),
        ((20, 0, 24), {"claude"}, 5),
        ((20, 0, 24), {"gemini"}, 1),
        ((20, 0, 16), {"pi"}, 3),
        ((99, 0, 0), set(), 6),
    ],
)
def test_only_the_wanted_agents_are_asked_for(
    version: tuple[int, int, int], agents: set[str], count: int
) -> None:
    assert len(arguments(version, *agents)) == count


# As the real ones print it, shortened.
HELPS = {
    "19.0.3": "  daily            Show all detected coding (agent) CLI usage grouped by date  \n"
    "  claude daily     Show usage report grouped by date  \n"
    "  claude monthly   Show usage report grouped by month  \n"
    "  codex daily      Show Codex token usage grouped by day  \n"
    "  codex session    Show Codex token usage grouped by session  \n"
    "  ccusage daily --help\n  ccusage codex daily --help\n",
    "20.0.24": "  daily            Show all detected coding (agent) CLI usage grouped by date\n"
    "  blocks           Show usage report grouped by session billing blocks\n"
    "  claude           Show Claude Code usage commands\n"
    "  codex            Show Codex token usage commands\n"
    "For more info, run any command with the `--help` flag:\n  ccusage codex --help\n",
}


def with_help(folder: Path, version: str, **env: str) -> Settings:
    wanted = settings(folder, CCUSAGE_COMMAND=write_stub(folder, "cat help", version=version))
    (folder / "help").write_text(HELPS.get(version, ""))
    return wanted._replace(**env)


@pytest.mark.parametrize("version", HELPS)
def test_a_ccusage_is_asked_for_the_agents_that_it_knows(tmp_path: Path, version: str) -> None:
    wanted = with_help(tmp_path, version, agents=frozenset({"codex"}))
    assert find_ccusage(wanted).agents == ("claude", "codex")
    assert calls(tmp_path) == ["--help"]


def test_a_new_ccusage_is_not_asked_for_its_agents_when_all_are_wanted(tmp_path: Path) -> None:
    find_ccusage(with_help(tmp_path, "20.0.24"))
    find_ccusage(with_help(tmp_path, "18.0.11"))
    find_ccusage(with_help(tmp_path, "19.0.3", agents=frozenset({"claude"})))
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize(
    ("version", "known"), [("18.0.11", "claude"), *((v, "claude, codex") for v in HELPS)]
)
def test_an_agent_that_this_ccusage_cannot_know_is_refused(
    tmp_path: Path, version: str, known: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        find_ccusage(with_help(tmp_path, version, agents=frozenset({"claude", "kilo"})))
    assert str(refused.value) == (
        f"--agents: ccusage {version} does not know kilo; it knows {known}. "
        "Correct the name, or update ccusage"
    )
    assert refused.value.exit_code == 2


def test_a_ccusage_whose_help_names_no_agents_refuses_none(tmp_path: Path) -> None:
    wanted = with_help(tmp_path, "21.0.0", agents=frozenset({"kilo"}))
    assert find_ccusage(wanted).agents == ()


@pytest.mark.parametrize("version", ["19.0.3", NEWEST])
def test_the_real_help_names_the_agents(tmp_path: Path, version: str) -> None:
    command = shlex.join(real_ccusage.command(version))
    wanted = Settings.from_env({**environment(tmp_path), "CCUSAGE_COMMAND": command})
    agents = find_ccusage(wanted._replace(agents=frozenset({"codex"}))).agents
    assert {*OF_19} == {*agents} if version == "19.0.3" else {*OF_19, "gemini"} < {*agents}
    assert {"daily", "blocks", "session", "statusline", "ccusage"}.isdisjoint(agents)


# --- finding ccusage -----------------------------------------------------------------------


def on_path(folder: Path, *names: str) -> Path:
    for name in names:
        write_stub(folder, "", name)
    return folder


@pytest.mark.parametrize(
    ("present", "found"),
    [
        (("ccusage", "bunx", "npx"), ["ccusage"]),
        (("bunx", "npx"), ["bunx", "ccusage@latest"]),
        (("npx",), ["npx", "-y", "ccusage@latest"]),
    ],
)
def test_ccusage_is_looked_for_on_the_path_then_bunx_then_npx(
    tmp_path: Path, present: tuple[str, ...], found: list[str]
) -> None:
    path = on_path(tmp_path, *present)
    assert find_command(settings(tmp_path, PATH=path)) == (str(path / found[0]), *found[1:])


def test_without_any_of_them_it_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"install Node\.js or Bun, or set CCUSAGE_COMMAND"):
        find_command(settings(tmp_path, PATH=tmp_path))


def test_ccusage_command_is_split_as_a_shell_does(tmp_path: Path) -> None:
    program = write_stub(tmp_path / "my tools", "")
    command = f"'{program}' --flag \"two words\" 'it'\\''s'"
    found = find_command(settings(tmp_path, CCUSAGE_COMMAND=command))
    assert found == (str(program), "--flag", "two words", "it's")


def test_a_tilde_in_ccusage_command_is_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    program = write_stub(tmp_path / "bin", "")
    found = find_command(settings(tmp_path, CCUSAGE_COMMAND="~/bin/ccusage ~/other.js"))
    assert found == (str(program), str(tmp_path / "other.js"))


@pytest.mark.parametrize("command", ["/no/such/ccusage", "no-such-ccusage x", "''", "/tmp"])
def test_a_command_that_does_not_exist_is_a_wrong_configuration(
    tmp_path: Path, command: str
) -> None:
    with pytest.raises(ConfigError, match=r"^CCUSAGE_COMMAND: no such program") as failed:
        find_command(settings(tmp_path, CCUSAGE_COMMAND=command))
    assert failed.value.exit_code == 2


@pytest.mark.parametrize(
    ("said", "version"),
    [("18.0.11", (18, 0, 11)), ("ccusage 20.0.24", (20, 0, 24)), ("v21.10.0-beta.1", (21, 10, 0))],
)
def test_the_version_is_read_from_what_ccusage_prints(
    tmp_path: Path, said: str, version: tuple[int, int, int]
) -> None:
    script = write_stub(tmp_path, "", version=shlex.quote(said))
    assert find_ccusage(settings(tmp_path, CCUSAGE_COMMAND=script)).version == version


@pytest.mark.parametrize("version", real_ccusage.VERSIONS)
def test_each_real_version_names_itself(tmp_path: Path, version: str) -> None:
    env = {**environment(tmp_path), "CCUSAGE_COMMAND": shlex.join(real_ccusage.command(version))}
    assert find_ccusage(Settings.from_env(env)).version_text == version


def test_an_answer_without_a_version_is_an_error(tmp_path: Path) -> None:
    script = write_stub(tmp_path, "", version="hello")
    assert failure(script) == (
        "ccusage --version: no version in the answer: hello\n"
        f"  ran: {script} --version\n  remedy: run the command by hand to see more"
    )


def test_a_version_in_an_error_is_not_believed(tmp_path: Path) -> None:
    script = tmp_path / "ccusage"
    script.write_text("#!/bin/sh\necho 'needs 22.0.0 or newer'\nexit 1\n")
    script.chmod(0o755)
    assert "no version in the answer: needs 22.0.0 or newer" in failure(script)


# --- npx -----------------------------------------------------------------------------------

NPX = """
case "$*" in
    *--package=ccusage@*) echo "npm warn something" >&2; echo {program} ;;
    *) exit 1 ;;
esac"""


def npx_stub(folder: Path, program: Path) -> Path:
    return write_stub(folder, NPX.format(program=shlex.quote(str(program))), "npx")


@pytest.mark.parametrize(
    ("command", "asked", "given"),
    [
        ("npx -y ccusage@latest", "--yes -y --package=ccusage@latest", ""),
        ("npx ccusage@18", "--yes --package=ccusage@18", ""),
        ("npx --prefer-offline ccusage@18 --x y", "--yes --prefer-offline --package=", " --x y"),
    ],
)
def test_npx_is_asked_once_and_its_program_run_for_each_report(
    tmp_path: Path, command: str, asked: str, given: str
) -> None:
    program = write_stub(tmp_path / "cache", f"cat {RECORDED}/18.0.11/empty-monthly.json")
    npx_stub(tmp_path / "bin", program)
    path = f"{tmp_path}/bin:{PATH}"
    fetch_all(settings(tmp_path, PATH=path, CCUSAGE_COMMAND=command, CCUSAGE_TIMEOUT="20"), "UTC")
    (only,) = calls(tmp_path / "bin")
    assert only.startswith(asked)
    assert only.endswith("-- sh -c command -v ccusage")
    first = set(calls(tmp_path / "cache"))
    assert {line.partition(" --json")[0] for line in first} >= {
        (given + " daily").strip(),
        (given + " blocks").strip(),
    }


@pytest.mark.parametrize("command", ["npx -p ccusage@18 ccusage", "npx --package=x ccusage", "npx"])
def test_other_uses_of_npx_are_run_as_they_are(tmp_path: Path, command: str) -> None:
    npx = write_stub(tmp_path / "bin", "")
    npx.rename(npx.with_name("npx"))
    found = find_ccusage(settings(tmp_path, PATH=f"{tmp_path}/bin:{PATH}", CCUSAGE_COMMAND=command))
    assert found.argv == (str(tmp_path / "bin/npx"), *command.split()[1:])


def test_the_real_npx_is_resolved_to_a_program(tmp_path: Path) -> None:
    env = {"CCUSAGE_COMMAND": "npx -y ccusage@18.0.11", "HOME": real_ccusage.ENVIRONMENT["HOME"]}
    found = find_ccusage(settings(tmp_path, **env))
    assert found.version == (18, 0, 11)
    assert len(found.argv) == 1
    assert Path(found.argv[0]).is_absolute()
    assert "npx" not in Path(found.argv[0]).name


def test_an_unreachable_registry_is_explained(tmp_path: Path) -> None:
    unreachable = settings(
        tmp_path,
        CCUSAGE_COMMAND="npx -y ccusage@18.0.10",
        npm_config_registry="http://127.0.0.1:9",
        npm_config_fetch_retries="0",
        npm_config_cache=tmp_path / "cache",
    )
    with pytest.raises(FeedError) as failed:
        find_ccusage(unreachable)
    message = str(failed.value)
    assert message.startswith("npx: could not install ccusage@18.0.10: npm error code ECONNREFUSED")
    assert "\n  ran: " in message
    assert message.endswith("check the network, or install ccusage: npm install -g ccusage")


# --- answers that are none -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message", "remedy"),
    [
        ("echo 'No usage data found.'", "no JSON: No usage data found.", "by hand"),
        ("true", "no JSON\n", "by hand"),
        (
            "echo 'ccusage requires Bun or Node.js >=22.0.0. Current Node.js: v20.20.2' >&2",
            "no JSON: ccusage requires Bun or Node.js >=22.0.0. Current Node.js: v20.20.2",
            "install the Node.js version that it asks for",
        ),
        (
            "echo '[ccusage] loading 3 files'; cat daily.json",
            "broken JSON (JSON is malformed: invalid character (byte 1)): [ccusage] loading 3 ",
            "by hand",
        ),
        ("echo 'a log line'; cat daily.json", "no JSON: a log line\n", "by hand"),
        ("head -c 300 daily.json", "broken JSON (Input data was truncated)", "by hand"),
        ("cat monthly.json", "no key 'daily' in the answer\n", "by hand"),
        ("echo '\"daily\"'", "expected an object, got a text: ", "by hand"),
        ("echo null", "expected an object, got null: null", "by hand"),
        ("echo '[1]'", "expected an object, got a list: [1]", "by hand"),
        (
            "printf 'node:x\\nError: boom\\n    at x.js:1:2\\n\\nNode.js v20.20.2\\n' >&2; exit 1",
            "exit code 1: node:x Error: boom at x.js:1:2 Node.js v20.20.2\n",
            "by hand",
        ),
        (
            "echo 'Error: No valid Claude data directories found' >&2; exit 1",
            "exit code 1: No valid Claude data directories found\n",
            "set CLAUDE_CONFIG_DIR",
        ),
        ("printf '\\377\\376'", "no JSON: ??", "by hand"),
        (
            "echo could not parse -home-dev-plan/01.jsonl of -home-dev-plan, /srv/plan/02.jsonl",
            "no JSON: could not parse … of … …\n",
            "by hand",
        ),
        ("cat daily.json; exit 1", "exit code 1\n", "by hand"),
        ("kill -9 $$", "exit code -9\n", "by hand"),
    ],
)
def test_an_answer_that_is_none_names_the_report_what_was_run_and_a_remedy(
    tmp_path: Path, body: str, message: str, remedy: str
) -> None:
    for name in ("daily", "monthly"):
        shutil.copy(RECORDED / f"18.0.11/{name}.json", tmp_path)
    script = write_stub(tmp_path, body)
    said, ran, advice = failure(script).split("\n")
    assert f"{said}\n".startswith(f"daily: {message}")
    assert ran.startswith(f"  ran: {script} daily --json --order asc --mode auto -z UTC --config ")
    assert remedy in advice
    assert advice.startswith("  remedy: ")


def test_a_command_that_cannot_run_is_explained(tmp_path: Path) -> None:
    script = tmp_path / "ccusage"
    script.write_bytes(b"\x7fELF nonsense")
    script.chmod(0o755)
    assert failure(script) == (
        "ccusage --version: cannot be run: Exec format error\n"
        f"  ran: {script} --version\n  remedy: check CCUSAGE_COMMAND"
    )


def test_19_on_an_older_node_is_explained(tmp_path: Path) -> None:
    node = real_ccusage.find("node")
    said = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout
    if int(said[1:].partition(".")[0]) >= 22:
        pytest.skip(f"Node {said.strip()} is new enough")
    command = shlex.join([node, *real_ccusage.command("19.0.3")[1:]])
    with pytest.raises(FeedError) as failed:
        find_ccusage(settings(tmp_path, CCUSAGE_COMMAND=command))
    assert "ccusage requires Bun or Node.js >=22" in str(failed.value)
    assert "remedy: install the Node.js version that it asks for" in str(failed.value)


def copied_wrapper(folder: Path) -> list[str]:
    """The Node script of ccusage 20, without the native package that it starts."""
    node, wrapper = real_ccusage.command(NEWEST, wrapper=True)
    package = next(path for path in Path(wrapper).parents if path.name == "ccusage")
    shutil.copytree(package, folder / "node_modules/ccusage")
    return [node, str(folder / "node_modules/ccusage" / Path(wrapper).relative_to(package))]


def test_20_without_its_native_package_is_explained(tmp_path: Path) -> None:
    command = shlex.join(copied_wrapper(tmp_path))
    with pytest.raises(FeedError) as failed:
        find_ccusage(settings(tmp_path, CCUSAGE_COMMAND=command))
    assert "ccusage native binary is not available" in str(failed.value)
    remedy = "remedy: npm install -g --include=optional ccusage"
    assert str(failed.value).endswith(remedy)


def test_another_agents_report_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "help").write_text(HELPS["19.0.3"])
    body = 'case "$*" in --help) cat help ;; *) exit 1 ;; esac'
    script = write_stub(tmp_path, body, version="19.0.3")
    fetched = fetch_all(settings(tmp_path, CCUSAGE_COMMAND=script, CCUSAGE_JOBS="11"), "UTC")
    names = {str(error).partition(": exit code 1")[0] for error in fetched.answers.values()}
    others = {f"codex {name}" for name in NAMES[:3]}
    assert names == {*NAMES, *others}


# --- once more -----------------------------------------------------------------------------


def test_a_report_that_fails_once_is_asked_for_again_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ccusage_importer.random, "uniform", lambda *_: 0.3)
    body = f"[ $(wc -l < calls) = 2 ] || exit 1; cat {RECORDED}/18.0.11/daily.json"
    wanted = settings(tmp_path, CCUSAGE_COMMAND=write_stub(tmp_path, body))
    ccusage = find_ccusage(wanted)
    began = time.monotonic()
    content = fetch_feed(FEEDS[0], ccusage, "UTC", wanted, tmp_path)
    assert time.monotonic() - began >= 0.3
    assert len(content.daily) == 3
    assert len(calls(tmp_path)) == 2


def test_a_report_that_fails_three_times_has_failed(tmp_path: Path) -> None:
    failure(write_stub(tmp_path, "exit 1"))
    assert len(calls(tmp_path)) == 3


@pytest.mark.parametrize(
    "body",
    [
        "echo \"Unknown daily option '--bogus'\nRun 'ccusage --help' for usage.\" >&2; exit 2",
        "echo \"Optional argument '--mode' should be chosen from 'enum'\"",
        "echo 'Error: No valid Claude data directories found in CLAUDE_CONFIG_DIR' >&2; exit 1",
        "echo 'ccusage requires Bun or Node.js >=22.0.0. Current Node.js: v20.20.2' >&2",
        'echo \'{"daily": [], "totals": 7}\'',
    ],
)
def test_a_feed_that_would_fail_again_is_not_asked_for_again(tmp_path: Path, body: str) -> None:
    failure(write_stub(tmp_path, body))
    assert len(calls(tmp_path)) == 1


@pytest.mark.parametrize("version", ["18.0.11", "19.0.3", NEWEST])
def test_without_claude_data_it_says_where_ccusage_looked(tmp_path: Path, version: str) -> None:
    command = shlex.join(real_ccusage.command(version))
    env = environment(tmp_path, CLAUDE_CONFIG_DIR="/nowhere,/none", CCUSAGE_COMMAND=command)
    wanted = Settings.from_env(env, agents=frozenset({"claude"}))
    failed = {f.label: str(error) for f, error in fetch_all(wanted, "UTC").answers.items()}
    (line,) = failure_lines(failed)
    first, ran, remedy = line.split("\n")
    feeds = ", ".join(NAMES)
    assert first == f"{feeds}: exit code 1: No valid Claude data directories found"
    assert ran.startswith("  ran: ")
    assert remedy.startswith(
        "  remedy: ccusage looked in /nowhere/projects and /none/projects: start Claude Code"
    )


def test_an_argument_that_ccusage_does_not_know_is_told_once(tmp_path: Path) -> None:
    command = shlex.join(real_ccusage.command(NEWEST))
    env = environment(tmp_path, CCUSAGE_COMMAND=command, CCUSAGE_ARGS="--bogus")
    fetched = fetch_all(Settings.from_env(env), "UTC")
    (line,) = failure_lines({feed.label: str(e) for feed, e in fetched.answers.items()})
    assert line.startswith(f"{', '.join(NAMES)}, other agents: exit code 2: Unknown ")
    assert line.endswith("\n  remedy: check CCUSAGE_ARGS")
    assert line.count("\n") == 2


def test_failures_of_one_cause_share_a_message_and_others_do_not() -> None:
    assert failure_lines(
        {
            "daily": "daily: daily[3].modelBreakdowns[0].cost: missing",
            "monthly": "monthly: monthly[0].modelBreakdowns[2].cost: missing",
            "session": "session: exit code 1: boom\n  ran: a session\n  remedy: b",
            "blocks": "blocks: blocks[0].id: missing",
            "codex daily": "codex daily: exit code 1: boom\n  ran: a daily\n  remedy: b",
        }
    ) == [
        "daily, monthly: daily[3].modelBreakdowns[0].cost: missing",
        "session, codex daily: exit code 1: boom\n  ran: a session\n  remedy: b",
        "blocks: blocks[0].id: missing",
    ]


def test_a_report_without_an_answer_is_asked_for_once_more(tmp_path: Path) -> None:
    script = write_stub(tmp_path, "exec sleep 60")
    assert "no answer within 0.2 s" in failure(script, CCUSAGE_TIMEOUT="0.2")
    assert len(calls(tmp_path)) == 2


# --- an end to everything ------------------------------------------------------------------

FORKS = "sleep 300 & echo $$ $! >> pids; wait"


def pids(folder: Path) -> list[int]:
    path = folder / "pids"
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def assert_gone(folder: Path) -> None:
    """The kernel takes its time for those that were killed, but not long."""
    wait_for(lambda: not any(map(alive, pids(folder))), 2)


def test_a_timeout_ends_the_grandchildren_too(tmp_path: Path) -> None:
    message = failure(write_stub(tmp_path, FORKS), CCUSAGE_TIMEOUT="0.3")
    assert message.startswith("daily: no answer within 0.3 s\n  ran: ")
    assert message.endswith("add --offline to CCUSAGE_ARGS, or raise CCUSAGE_TIMEOUT")
    assert len(pids(tmp_path)) == 4
    assert_gone(tmp_path)


def test_a_child_that_leaves_its_own_child_behind_is_cleaned_up(tmp_path: Path) -> None:
    body = "sleep 300 > /dev/null 2>&1 & echo $! >> pids; echo '[]'"
    script = write_stub(tmp_path, body)
    assert run([str(script), "daily"], {"PATH": PATH}, 5).stdout == "[]\n"
    assert_gone(tmp_path)


def test_a_timeout_ends_what_the_node_wrapper_of_20_started(tmp_path: Path) -> None:
    node, wrapper = copied_wrapper(tmp_path)
    native = tmp_path / "node_modules" / real_ccusage.native_package()
    write_stub(native / "bin", FORKS)
    package = real_ccusage.native_binary(real_ccusage.installed(NEWEST)).parents[1]
    shutil.copy(package / "package.json", native)
    with pytest.raises(FeedError, match="no answer within 1 s"):
        run([node, wrapper, "claude", "daily"], {"PATH": PATH}, 1)
    assert len(pids(native / "bin")) == 2
    assert_gone(native / "bin")


@pytest.mark.parametrize(
    ("how", "first"),
    [
        *((signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, True)),
        pytest.param(signal.SIGINT, False, marks=pytest.mark.stress),
        pytest.param(signal.SIGTERM, True, marks=pytest.mark.stress),
        pytest.param(signal.SIGHUP, False, marks=pytest.mark.stress),
    ],
)
def test_an_interrupt_ends_at_once_with_130_and_leaves_no_child(
    tmp_path: Path, how: signal.Signals, first: bool
) -> None:
    machine = Machine(tmp_path)
    body = f'case "$1" in session) echo "[]"; exit;; esac; {FORKS}'  # then three at once
    machine.env["CCUSAGE_COMMAND"] = str(write_stub(tmp_path / "stub", body))
    if not first:
        (machine.state).mkdir(parents=True)
        identity = {"machine_name": "m1", "timezone": "UTC", "key_fingerprint": ""}
        (machine.state / "machine.json").write_text(
            json.dumps(identity | {"installation_id": "i1"})
        )
    process = machine.start()
    wait_for(lambda: len(pids(tmp_path / "stub")) == 6)
    process.send_signal(how)
    began = time.monotonic()
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - began < 2
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert len(pids(tmp_path / "stub")) == 6
    assert_gone(tmp_path / "stub")


def test_an_interrupt_while_ccusage_is_asked_its_version_ends_at_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    script = tmp_path / "ccusage"
    script.write_text(f"#!/bin/sh\ncd {shlex.quote(str(tmp_path))}\n{FORKS}\n")
    script.chmod(0o755)
    machine.env["CCUSAGE_COMMAND"] = str(script)
    process = machine.start()
    wait_for(lambda: len(pids(tmp_path)) == 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=2)
    assert process.returncode == 130, err
    assert_gone(tmp_path)


def test_an_interrupt_while_waiting_for_the_lock_ends_at_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with ccusage_importer.locked(machine.state / ".ccusage_import.lock", 0):
        process = machine.start()
        log = machine.state / "ccusage_import.log"
        wait_for(lambda: log.exists() and "waiting for" in log.read_text())
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=2)
    assert process.returncode == 130, err


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_more_reports_than_wanted_are_asked_for_at_once(tmp_path: Path, jobs: int) -> None:
    body = f"echo + >> log; sleep 0.1; echo - >> log; cat {RECORDED}/18.0.11/empty-monthly.json"
    script = write_stub(tmp_path, f"echo '[]' | {{ {body}; }}")
    fetch_all(settings(tmp_path, CCUSAGE_COMMAND=script, CCUSAGE_JOBS=str(jobs)), "UTC")
    running, most = 0, 0
    for sign in (tmp_path / "log").read_text().split():
        running += 1 if sign == "+" else -1
        most = max(most, running)
    assert most == jobs


# Each child reads its first answers in two threads at once, between which Python often changes.
TWO_AT_ONCE = """
import os, subprocess, sys, threading
from ccusage_importer import FEEDS, read_answer

def read(feed):
    answer = subprocess.CompletedProcess([], 0, '{"%s": []}' % feed.keys[0], "")
    start.wait()
    read_answer(feed, answer)

sys.setswitchinterval(1e-6)
for _ in range(100):
    start = threading.Barrier(2)
    if not os.fork():
        threads = [threading.Thread(target=read, args=[feed]) for feed in FEEDS[1:3]]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        os._exit(0)
    if os.wait()[1]:
        sys.exit("a child has crashed")
"""


def test_answers_that_arrive_first_and_at_once_are_read() -> None:
    folder = Path(ccusage_importer.__file__).parent
    done = subprocess.run([sys.executable, "-c", TWO_AT_ONCE], cwd=folder, check=False)
    assert done.returncode == 0


def test_what_tells_of_sessions_is_asked_for_before_all_else(tmp_path: Path) -> None:
    """What is lost after the sessions were told is still in what the other feeds report."""
    new, old = tmp_path / "20.0.24", tmp_path / "19.0.3"
    for folder in (new, old):
        script = write_stub(
            folder, "[ $1 = --help ] && cat help || echo '[]'; sleep 0.1", version=folder.name
        )
        (folder / "help").write_text(HELPS[folder.name])
        fetch_all(settings(tmp_path, CCUSAGE_COMMAND=script, CCUSAGE_JOBS="9"), "UTC")
    asked = [line.split()[:2] for line in (*calls(new), *calls(old))]
    assert sorted(asked[:2]) == [["claude", "session"], ["daily", "--sections"]]
    assert sorted(asked[7:9]) == [["claude", "session"], ["codex", "session"]]
    assert len(asked) == 6 + 1 + 8


# --- ccusage's surroundings do not leak in -------------------------------------------------

USERS = {
    "since": "20251001",
    "until": "20251001",
    "mode": "display",
    "timezone": "Asia/Tokyo",
    "order": "desc",
    "defaults": {"mode": "display", "timezone": "Asia/Tokyo", "since": "20251001", "order": "desc"},
    "commands": {"daily": {"instances": True, "since": "20251001"}, "blocks": {"active": True}},
    "claude": {"since": "20251001", "defaults": {"mode": "display"}},
}
NOISE = {
    "DEBUG": "1",
    "LOG_LEVEL": "5",
    "CCUSAGE_MODEL_ALIASES": f"{OPUS}=renamed",
    "CCUSAGE_OFFLINE": "1",
    "FORCE_COLOR": "1",
    "CI": "1",
}


def reports(env: dict[str, str], version: str) -> dict[str, Any]:
    command = shlex.join(real_ccusage.command(version))
    env = {**env, "CCUSAGE_COMMAND": command, "CCUSAGE_ARGS": "--offline"}
    agents = frozenset({"claude", "codex"} if real_ccusage.major(version) >= 19 else {"claude"})
    wanted = Settings.from_env(env, agents=agents)
    contents = fetch_all(wanted, "UTC").answers
    assert not [error for error in contents.values() if isinstance(error, FeedError)]
    return {feed.label: content for feed, content in contents.items()}


@pytest.mark.rotates(2)
@pytest.mark.parametrize("version", real_ccusage.VERSIONS)
def test_a_users_configuration_and_environment_change_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.chdir(tmp_path)
    env = environment(tmp_path, CLAUDE_CONFIG_DIR="")
    claude = tmp_path / "home/.claude"
    days = [
        datetime(2025, 9, 30, 22, tzinfo=timezone.utc),
        datetime(2025, 10, 1, 12, tzinfo=timezone.utc),
    ]
    messages = [Message(at, model, cost=None) for at in days for model in (OPUS, SONNET)]
    write_session(claude, "-home-a", "00000000-0000-4000-8000-00000000000a", messages)
    clean = reports(env, version)
    assert len(clean["daily"].daily) == 2
    assert all(day.total_cost > 0 for day in clean["daily"].daily)
    for place in (tmp_path / ".ccusage", claude, Path(env["XDG_CONFIG_HOME"]) / "claude"):
        place.mkdir(parents=True, exist_ok=True)
        (place / "ccusage.json").write_text(json.dumps(USERS))
    assert reports(env | NOISE, version) == clean


def test_the_others_are_asked_with_claude_hidden(tmp_path: Path) -> None:
    none = '{"daily": [], "monthly": [], "session": [], "totals": null}'
    body = f'echo "$CLAUDE_CONFIG_DIR" > "dir-$2"; echo {shlex.quote(none)}'
    script = write_stub(tmp_path, body, version="20.0.24")
    wanted = settings(tmp_path, CCUSAGE_COMMAND=script, CLAUDE_CONFIG_DIR="/c")
    ccusage = find_ccusage(wanted)
    fetch_feed(UNIFIED, ccusage, "UTC", wanted, tmp_path)
    fetch_feed(FEEDS[0]._replace(argv=("claude", "daily")), ccusage, "UTC", wanted, tmp_path)
    assert (tmp_path / "dir---sections").read_text() == f"{tmp_path}\n"
    assert (tmp_path / "dir-daily").read_text() == "/c\n"
