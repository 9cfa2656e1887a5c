#!/usr/bin/env bash
# Have cron import every hour.
#
# usage: setup_cronjob.sh [--schedule '*/30 * * * *'] [--force] [-- OPTION …]
#        setup_cronjob.sh --print [--schedule …] [-- OPTION …]
#        setup_cronjob.sh --remove | -h | --help
#
# Installs one line in your crontab, which ends in `# ccusage-import`, and leaves all others as
# they are. First it runs `ccusage_importer.py --check` as cron would. If that fails, nothing is
# installed unless you --force it. Without --schedule the import runs hourly, at a random minute.
# Words after -- are options of each import, such as `--agents claude`. When you run this again,
# schedule and options stay as they are unless you give others. --print shows the line and
# changes nothing. --remove takes the line out.
#
# The line holds no setting and no password. They come from the file .env beside this script.
# Where there is none, it is written from your environment, for you alone to read, with your
# proxies and certificates. A .env that exists is left alone; only a CCUSAGE_COMMAND in it that
# is gone, or that a version manager made for one shell alone, becomes the ccusage found now.
#
# Cron mails you what is wrong and nothing else. What each run did is in ccusage_import.log in
# the state directory, with times; 3 MB of it are kept at most.
#
# Exit codes: 0 done, 1 failed and nothing installed, 2 wrong usage or configuration.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
entry='^[[:space:]]*[^#[:space:]].* # ccusage-import$' # what is commented out is no entry

main() {
    local action=install schedule='' force=''
    options=()
    while (($#)); do
        case $1 in
            --schedule)
                [[ ${2-} ]] || abort 2 '--schedule: expected five fields, or @hourly; got nothing'
                schedule=$2 && shift ;;
            --force) force=force ;;
            --print | --remove) action=${1#--} ;;
            --) options=("$@") && break ;;
            -h | --help)
                sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p;}' "${BASH_SOURCE[0]}"
                exit ;;
            *) abort 2 "$1: unknown; see --help" ;;
        esac
        shift
    done
    [[ $action != remove || ! $schedule$force${options[*]-} ]] ||
        abort 2 '--remove takes no other option'

    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    if [[ $action == remove ]]; then
        read_crontab
        remove
    else
        find_python
        write_helper
        helper usage "$schedule" ${options[@]+"${options[@]}"}
        read_crontab
        helper "$action" "$schedule" "$(present_entry)" "$force" \
            ${options[@]+"${options[@]}"} >"$scratch/said"
        if [[ $action == print ]]; then cat "$scratch/said"; else install_entry; fi
    fi
}

abort() {
    printf 'setup_cronjob.sh: %s\n' "$2" >&2
    exit "$1"
}

# The crontab as it is, and without our line. What cannot be read is never replaced.
read_crontab() {
    command -v crontab >/dev/null ||
        abort 1 'crontab was not found: install cron, or use systemd or launchd (see README.md)'
    LC_ALL=C crontab -l >"$scratch/old" 2>"$scratch/error" ||
        grep -q 'no crontab for' "$scratch/error" ||
        abort 1 "crontab -l failed: $(<"$scratch/error")"
    LC_ALL=C grep -av "$entry" "$scratch/old" >"$scratch/new" || (($? == 1)) # 1: no line is left
}

present_entry() {
    LC_ALL=C grep -a "$entry" "$scratch/old" | tail -n 1 || :
}

remove() {
    if cmp -s "$scratch/old" "$scratch/new"; then
        echo 'Nothing to remove: no line of your crontab ends in # ccusage-import.'
    else
        crontab - <"$scratch/new"
        LC_ALL=C grep -a "$entry" "$scratch/old" | sed 's/^/Removed from your crontab: /'
    fi
}

# The helper said the line, when it first runs, and where the log is.
install_entry() {
    local line first log done=Installed run='First run'
    { IFS= read -r line && IFS= read -r first && IFS= read -r log; } <"$scratch/said"
    printf '%s\n' "$line" >>"$scratch/new"
    if cmp -s "$scratch/old" "$scratch/new"; then
        done='Already installed' run='Next run'
    else
        crontab - <"$scratch/new"
    fi
    printf '%s: %s\n%s: %s\nLog: %s\n' "$done" "$line" "$run" "$first" "$log"
}

# The project's own environment, else a python3 that has the packages, else uv.
find_python() {
    local candidate found packages=(clickhouse_connect dotenv rich) probe='
import sys, importlib.util as modules
sys.version_info >= (3, 10) or sys.exit(1)
sys.path.insert(0, sys.argv[1])
import ccusage_importer
all(map(modules.find_spec, sys.argv[2:])) or sys.exit(1)
print(sys.executable)'
    [[ ${CH_HOST-} ]] || grep -qs '^CH_HOST=.' "$here/.env" || packages+=(chdb)
    for candidate in "$here/.venv/bin/python" python3; do
        found=$("$candidate" -c "$probe" "$here" "${packages[@]}" 2>/dev/null) || continue
        [[ $candidate == python3 ]] || found=$candidate
        python=("$found")
        return
    done
    found=$(command -v uv) ||
        abort 1 "neither uv nor a python3 (3.10) with ${packages[*]}; see https://docs.astral.sh/uv/"
    python=("$found" run --quiet --no-dev --extra embedded --project "$here" python)
}

helper() {
    "${python[@]}" "$scratch/helper.py" "$here" "${#python[@]}" "${python[@]}" "$@"
}

# What needs the importer's own knowledge of its settings and options is done in Python.
write_helper() {
    cat >"$scratch/helper.py" <<'PYTHON'
"""Checks a schedule and options, writes .env, and composes the line of the crontab."""

from __future__ import annotations

import contextlib
import io
import os
import pwd
import random
import re
import shlex
import shutil
import subprocess
import sys
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import NoReturn
from zoneinfo import ZoneInfo

here, count, *words = sys.argv[1:]
python, (action, *arguments) = words[: int(count)], words[int(count) :]
sys.path.insert(0, here)

import dotenv  # noqa: E402
from dotenv.parser import parse_stream  # noqa: E402

import ccusage_importer as importer  # noqa: E402

dotenv_file = Path(here, ".env")


def refuse(text: str, code: int = 2) -> NoReturn:
    print(f"setup_cronjob.sh: {text}", file=sys.stderr)
    raise SystemExit(code)


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


# --- the schedule

UNITS = (  # what a field counts, from, to, and names for the numbers
    ("minute", 0, 59, ""),
    ("hour", 0, 23, ""),
    ("day of the month", 1, 31, ""),
    ("month", 1, 12, "jan feb mar apr may jun jul aug sep oct nov dec"),
    ("day of the week", 0, 7, "sun mon tue wed thu fri sat"),
)
NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


def numbers(text: str, unit: str, low: int, high: int, names: str) -> set[int]:
    """What a field of a schedule stands for, such as 0, 20 and 40 for */20."""

    def number(word: str) -> int:
        known = names.split()
        value = known.index(word) + low if word in known else int(word) if word.isdigit() else -1
        return value if low <= value <= high else refuse(wrong)

    found: set[int] = set()
    wrong = f"--schedule: {unit}: expected {low}-{high}, *, or such as {low}-{high}/2; got {text!r}"
    for part in text.lower().split(","):
        match = re.fullmatch(r"(?:\*|(\w+)-(\w+))(?:/([1-9]\d?))?|(\w+)", part, re.ASCII)
        first, last, step, alone = match.groups() if match else refuse(wrong)
        start, end = number(alone or first or str(low)), number(alone or last or str(high))
        found |= set(range(start, end + 1, int(step or 1))) or refuse(wrong)
    return found


def first_run(schedule: str, now: datetime) -> datetime | None:
    """When cron runs this schedule next; None for @reboot."""
    if schedule == "@reboot":
        return None
    fields = NICKNAMES.get(schedule, schedule).split()
    if len(fields) != len(UNITS):
        expected = f"five fields, or one of @reboot, {', '.join(NICKNAMES)}"
        refuse(f"--schedule: expected {expected}; got {schedule!r}")
    minutes, hours, days, months, weekdays = (
        numbers(field, *unit) for field, unit in zip(fields, UNITS, strict=True)
    )
    times = [time(hour, minute) for hour in sorted(hours) for minute in sorted(minutes)]

    def fits(day: date) -> bool:
        found = (day.day in days, bool({day.isoweekday(), day.isoweekday() % 7} & weekdays))
        either = fields[2][0] != "*" != fields[4][0]  # cron adds them where both are given
        return day.month in months and (any(found) if either else all(found))

    for ahead in range(9 * 366):  # from one February 29 to the next, at most
        day = now.date() + timedelta(days=ahead)
        for moment in (datetime.combine(day, each) for each in times if fits(day)):
            if moment > now:
                return moment
    refuse(f"--schedule: there is no such day; got {schedule!r}")


def next_run(schedule: str) -> str:
    """For people, in the zone of cron, which is the machine's whatever TZ says."""
    zone = importer.system_zone({})
    moment = first_run(schedule, datetime.now(ZoneInfo(zone)).replace(tzinfo=None))
    return f"{moment:%A, %Y-%m-%d %H:%M} ({zone})" if moment else "when this machine next starts"


# --- options of each import


def check_options(options: list[str]) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            asked = importer.parse_arguments(["--quiet", *options])
        except (SystemExit, importer.ImporterError) as error:
            said.write(str(error) if isinstance(error, importer.ImporterError) else "")
        else:
            if asked.mode == importer.IMPORT and not asked.dry_run:
                return
    reason = re.search(r"error: (.*)", said.getvalue())
    why = f" ({reason[1]})" if reason else ""
    refuse(f"not options of an import: {shlex.join(options)}{why}")


def kept_options(entry: str) -> list[str]:
    """The options in the present line of the crontab."""
    command = entry.removesuffix(" # ccusage-import").replace("\\%", "%")
    options = command.partition(" --quiet")[2]
    with contextlib.suppress(ValueError):
        return shlex.split(options)
    refuse(f"the options in your crontab cannot be read: {options}; give others after --")


# --- places that last


FLEETING = re.compile("(.*/[^/]*multishells/[^/]+)(.*)")  # fnm's link, for one shell alone


def settled(folder: str) -> str:
    """A folder by a name that outlives the shell."""
    folder = os.path.abspath(folder)
    link = FLEETING.match(folder)
    return os.path.realpath(link[1]) + link[2] if link else folder


def lasting(folder: str) -> str:
    """A folder by the name that a version manager keeps through updates, where it has one."""
    folder = settled(folder)
    real = os.path.realpath(folder)
    for parent in Path(real).parents:
        for link in (parent / name for name in ("aliases/default", "current", "latest")):
            target = os.path.realpath(link)
            if link.is_symlink() and f"{real}/".startswith(f"{target}/"):
                return f"{link}{real[len(target) :]}"
    return folder


def lasting_program(program: str) -> str:
    folder, name = os.path.split(program)
    return os.path.join(lasting(folder), name)


def search_path(path: str) -> str:
    """A PATH for cron: its own hardly leads to these tools.

    After a version manager's lasting name comes the version of today: it has what was installed
    with it, when the next one has not.
    """
    tools = ("ccusage", "node", "bun", "uv")
    folders = [each for each in path.split(":") if any(shutil.which(t, path=each) for t in tools)]
    found = [place for each in folders for place in (lasting(each), settled(each))]
    return ":".join(dict.fromkeys([*found, "/usr/local/bin", "/usr/bin", "/bin"]))


# --- .env

KEPT = re.compile(
    "CH_.+|CCUSAGE_.+|BUDGET_.+|PROJECT_HASH_KEY|TZ"
    "|(?i:https?_proxy|no_proxy)|NODE_EXTRA_CA_CERTS|SSL_CERT_FILE"
)
FILES = ("CH_CA_CERT", "CH_EMBEDDED_PATH", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE")
AGENTS = """CLAUDE_CONFIG_DIR CODEX_HOME OPENCODE_DATA_DIR AMP_DATA_DIR DROID_SESSIONS_DIR
CODEBUFF_DATA_DIR HERMES_HOME PI_AGENT_DIR GOOSE_PATH_ROOT OPENCLAW_DIR KILO_DATA_DIR
KIMI_DATA_DIR QWEN_DATA_DIR GEMINI_DATA_DIR COPILOT_HOME COPILOT_OTEL_FILE_EXPORTER_PATH
GROK_HOME ZCODE_HOME ANTIGRAVITY_DATA_DIR XDG_CONFIG_HOME XDG_DATA_HOME""".split()


def absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path.strip()))


def wanted(env: dict[str, str]) -> dict[str, str]:
    """What .env must say, so that cron does as one does in this environment."""
    settings = importer.Settings.from_env(env)
    recorded = importer.Identity.load(settings.state_dir)
    found = {name: value for name, value in env.items() if value and KEPT.fullmatch(name)}
    found |= {name: absolute(env[name]) for name in FILES if env.get(name)}
    for name in filter(env.get, AGENTS):
        found[name] = ",".join(map(absolute, env[name].split(",")))
    if not settings.host:
        found["CH_EMBEDDED_PATH"] = str(settings.embedded_path)
    with contextlib.suppress(importer.ConfigError):
        program, *rest = importer.find_command(settings)
        found["CCUSAGE_COMMAND"] = shlex.join([lasting_program(program), *rest])
    found["CCUSAGE_STATE_DIR"] = str(settings.state_dir)
    if settings.machine_name or recorded:
        found["MACHINE_NAME"] = importer.machine_name(settings, recorded)
    return found


def setting(name: str, value: str) -> str:
    """A line of .env, as python-dotenv reads it."""
    quoted = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    for form in (value,) if shlex.quote(value) == value else (quoted, value):
        text = f"{name}={form}\n"
        read = dotenv.dotenv_values(stream=io.StringIO(text + "END='.'\n"), interpolate=False)
        if read == {name: value, "END": "."}:
            return text
    refuse(f"{name}: its value cannot be written to .env")


def write_settings(now: dict[str, str]) -> None:
    """A new .env. Several machines may get copies of it: machine.json knows the name of each."""
    state = Path(now["CCUSAGE_STATE_DIR"])
    told = {name for name in now if name != "MACHINE_NAME" or not importer.Identity.load(state)}
    lines = ["# Written by setup_cronjob.sh. .env.example explains the names.\n"]
    lines += [setting(name, now[name]) for name in sorted(told)]
    handle = os.open(dotenv_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, "w", encoding="utf-8") as file:
        file.writelines(lines)


def compare_settings(now: dict[str, str], then: dict[str, str]) -> None:
    for name in sorted(dict(now.items() ^ then.items())):
        warn(f"{dotenv_file} does not say of {name} what your environment says")


def mend_command(command: str) -> None:
    """Replace a CCUSAGE_COMMAND in .env whose program is gone, or soon will be; nothing else."""
    text = dotenv_file.read_text(encoding="utf-8")
    mended = ""
    for binding in parse_stream(io.StringIO(text)):
        line = binding.original.string
        if binding.key == "CCUSAGE_COMMAND" and binding.value and command:
            program = shlex.split(binding.value)[0]
            if FLEETING.match(program) or not shutil.which(os.path.expanduser(program)):
                before = line[: len(line) - len(line.lstrip())]
                line = before + setting("CCUSAGE_COMMAND", command)
                warn(f"{dotenv_file}: CCUSAGE_COMMAND is now {command}; {program} does not last")
        mended += line
    if mended != text:
        importer.write_whole(dotenv_file, mended)


# --- the line


def word(text: str) -> str:
    """For sh, in a crontab: every cron reads \\% as %, but \\\\ each in its own way."""
    return shlex.quote(text).replace("\\", "\\''").replace("%", "\\%")


def schedule_of(entry: str) -> str:
    fields = entry.split() or [str(random.randrange(60)), *"****"]
    return fields[0] if fields[0][0] == "@" else " ".join(fields[:5])


def check(command: list[str], options: list[str], env: dict[str, str], force: str) -> None:
    """The system check as cron would run it; options of an import alone are left out."""
    argv = ["--check", "--quiet", *options]
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            fit = not importer.parse_arguments(argv).output
        except (SystemExit, importer.ImporterError):
            fit = False
    argv = argv if fit else argv[:2]
    if not subprocess.run([*command, *argv], env=env, stdout=sys.stderr, check=False).returncode:
        return
    if not force:
        refuse("the check failed, so nothing is installed (but with --force)", 1)
    warn("the check failed: cron's imports will fail until you mend what is said above")


def compose(schedule: str, entry: str, force: str, *given: str) -> list[str]:
    """The line for the crontab, and for an installation, when it first runs and its log."""
    schedule = " ".join(schedule.split()) or schedule_of(entry)
    options = list(given[1:]) if given else kept_options(entry)
    check_options(options)
    upcoming = next_run(schedule)
    home = os.path.expanduser("~")
    cron = {"HOME": home, "PATH": search_path(os.environ["PATH"])}
    command = [lasting_program(python[0]), *python[1:], f"{here}/ccusage_importer.py"]
    words = [f"PATH={word(cron['PATH'])}", *map(word, [*command, "--quiet", *options])]
    if home != pwd.getpwuid(os.getuid()).pw_dir:
        words.insert(0, f"HOME={word(home)}")
    line = f"{schedule} {' '.join(words)} # ccusage-import"
    if len(line) > 950 or "\n" in line:  # cron takes 998 bytes of it
        refuse("the paths are too long for a crontab, or have line breaks", 1)
    if action == "print":
        return [line]
    install_settings(command, options, cron, force)
    log = importer.state_directory(importer.load_environment(cron)) / "ccusage_import.log"
    return [line, upcoming, str(log)]


def install_settings(
    command: list[str], options: list[str], cron: dict[str, str], force: str
) -> None:
    """See that cron will do as one does here: write .env, or tell how it differs."""
    now = wanted(importer.load_environment(os.environ))
    if dotenv_file.exists():
        check(command, options, cron, force)
        then = wanted(importer.load_environment(cron))
        compare_settings(now, then)
        mend_command(now.get("CCUSAGE_COMMAND", ""))
    else:
        check(command, options, {**now, **cron}, force)
        write_settings(now)


def main() -> None:
    importer.log.disabled = True  # what it would say, the check says
    try:
        if action == "usage":
            if schedule := arguments[0]:
                first_run(" ".join(schedule.split()), datetime.now())
            check_options(arguments[2:])
        else:
            print(*compose(*arguments), sep="\n")
    except importer.ImporterError as error:
        refuse(str(error), error.exit_code)
    except OSError as error:
        refuse(f"{error.filename}: {error.strerror}", 1)


if __name__ == "__main__":
    main()
PYTHON
}

main "$@"
