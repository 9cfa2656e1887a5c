#!/usr/bin/env bash
# Have cron import every hour.
#
# usage: setup_cronjob.sh [--schedule '*/30 * * * *'] [--force]
#        setup_cronjob.sh --print | --remove | --help
#
# Installs one line in your crontab, tagged `# ccusage-import`, and leaves all others as they
# are; but nothing when `ccusage_importer.py --check` fails, unless you --force it. The minute
# is random, so that many machines do not meet; a later run keeps it, or takes --schedule.
# --print shows the line and changes nothing, --remove takes it out of the crontab.
#
# No setting and no password is in the line: they come from .env beside this script. Where
# there is none, it is written from your environment, for you alone to read. The line sets
# PATH, as cron's own leads neither to node nor to bun.
#
# The runs are --quiet, so cron mails you what fails and nothing else. What each run did is in
# ccusage_import.log in the state directory, with times; 3 MB of it are kept at most.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
tag='# ccusage-import'
entry="^[[:space:]]*[^#[:space:]].* $tag\$" # what is commented out is no entry

main() {
    local action=install schedule='' force='' line
    while (($#)); do
        case $1 in
            --schedule) [[ ${2-} ]] || abort 2 '--schedule: expected five fields' && schedule=$2 && shift ;;
            --force) force=1 ;;
            --print | --remove) action=${1#--} ;;
            --help) sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p;}' "${BASH_SOURCE[0]}" && exit ;;
            *) abort 2 "$1: unknown; see --help" ;;
        esac
        shift
    done
    local fields='^(@[a-z]+|([0-9A-Za-z*/,-]+ +){4}[0-9A-Za-z*/,-]+)$'
    [[ ! $schedule || $schedule =~ $fields ]] || abort 2 "--schedule: expected five fields, got '$schedule'"

    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    read_crontab
    if [[ $action == install ]]; then
        find_python
        check || [[ $force ]] || abort 1 'the check failed, so nothing is installed (but with --force)'
    fi
    if [[ $action != remove ]]; then
        ((${#python[@]})) || find_python
        line="${schedule:-$(present_schedule)} $(settings "$action") $tag"
        [[ ! -s $scratch/new || -z $(tail -c 1 "$scratch/new") ]] || echo >>"$scratch/new"
        printf '%s\n' "$line" | tee -a "$scratch/new"
    fi
    [[ $action == print ]] || cmp -s "$scratch/old" "$scratch/new" || crontab - <"$scratch/new"
}

abort() {
    printf 'setup_cronjob.sh: %s\n' "$2" >&2
    exit "$1"
}

# The crontab, and the crontab without our entry. What cannot be read is never replaced.
read_crontab() {
    if ! LC_ALL=C crontab -l >"$scratch/old" 2>"$scratch/error"; then
        grep -q 'no crontab for' "$scratch/error" || abort 1 "crontab -l failed: $(<"$scratch/error")"
        : >"$scratch/old"
    fi
    LC_ALL=C sed "/$entry/d" "$scratch/old" >"$scratch/new"
}

present_schedule() {
    local words
    words=$(LC_ALL=C grep -a "$entry" "$scratch/old" | tail -n 1) || words="$((RANDOM % 60)) * * * *"
    read -r -a words <<<"$words"
    [[ ${words[0]} == @* ]] && echo "${words[0]}" || echo "${words[*]:0:5}"
}

# The project's own environment, else a python3 that has the packages, else uv.
find_python() {
    local found packages='clickhouse_connect dotenv rich'
    [[ ${CH_HOST-} ]] || grep -qs '^CH_HOST=.' "$here/.env" || packages+=' chdb'
    if [[ -x $here/.venv/bin/python ]]; then
        python=("$here/.venv/bin/python")
    elif found=$(python3 -c '
import sys
from importlib.util import find_spec
good = sys.version_info >= (3, 10) and all(map(find_spec, sys.argv[1].split()))
print(sys.executable) if good else sys.exit(1)' "$packages" 2>/dev/null); then
        python=("$found")
    elif found=$(command -v uv); then
        python=("$found" run --quiet --no-dev --extra embedded --project "$here" python)
    else
        abort 1 "neither uv nor a python3 (3.10) with $packages; see https://docs.astral.sh/uv/"
    fi
}

# What cron is going to run: .env alone says how, where there is one.
check() {
    local bare=(env)
    [[ ! -e $here/.env ]] || bare=(env -i "HOME=$HOME" "PATH=$PATH")
    "${bare[@]}" "${python[@]}" "$here/ccusage_importer.py" --check --quiet >&2
}

# Print the command as a crontab has it, and to install it, write .env or tell how it differs.
settings() {
    "${python[@]}" - "$1" "$here" "${python[@]}" <<'PYTHON'
import contextlib, io, os, pwd, re, shlex, shutil, sys

action, here, *python = sys.argv[1:]
sys.path.insert(0, here)
from dotenv import dotenv_values
from ccusage_importer import ConfigError, Identity, Settings
from ccusage_importer import find_command, host_name, load_environment

AGENTS = """CLAUDE_CONFIG_DIR CODEX_HOME OPENCODE_DATA_DIR AMP_DATA_DIR DROID_SESSIONS_DIR
CODEBUFF_DATA_DIR HERMES_HOME PI_AGENT_DIR GOOSE_PATH_ROOT OPENCLAW_DIR KILO_DATA_DIR
KIMI_DATA_DIR QWEN_DATA_DIR GEMINI_DATA_DIR COPILOT_HOME COPILOT_OTEL_FILE_EXPORTER_PATH
GROK_HOME ZCODE_HOME ANTIGRAVITY_DATA_DIR XDG_CONFIG_HOME XDG_DATA_HOME""".split()

def wanted(env):  # what .env must say, so that cron does as `env` does
    settings, found = Settings.from_env(env), {}
    recorded = Identity.load(settings.state_dir)
    for name, value in env.items():
        if value and name in AGENTS:
            parts = (os.path.expanduser(part.strip()) for part in value.split(","))
            found[name] = ",".join(map(os.path.abspath, parts))
        elif value and re.match("CH_|CCUSAGE_|(PROJECT_HASH_KEY|TZ)$", name):
            found[name] = os.path.abspath(value) if name == "CH_CA_CERT" else value
    found["MACHINE_NAME"] = settings.machine_name or (recorded or [host_name()])[0]
    found["CCUSAGE_STATE_DIR"] = str(settings.state_dir)
    if not settings.host:
        found["CH_EMBEDDED_PATH"] = str(settings.embedded_path)
    with contextlib.suppress(ConfigError):
        program, *rest = find_command(settings)
        found["CCUSAGE_COMMAND"] = shlex.join([os.path.abspath(program), *rest])
    return found

def line(name, value):  # as python-dotenv reads it
    quoted = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    for form in (value,) if re.fullmatch(r"[\w@%+=:,./-]+", value, re.A) else (quoted, value):
        text = f"{name}={form}\n"
        read = dotenv_values(stream=io.StringIO(text + "END='.'\n"), interpolate=False)
        if read == {name: value, "END": "."}:
            return text
    sys.exit(f"{name}: its value cannot be written to .env")

def word(text):  # for sh, in a crontab: every cron reads \% as %, but \\ each in its own way
    if re.fullmatch(r"[\w@+=:,./-]+", text, re.A):
        return text
    return "'" + text.translate({39: "'\"'\"'", 92: "\\''", 37: "\\%"}) + "'"

env, file = load_environment(os.environ), os.path.join(here, ".env")
now = wanted(env)
if action == "install" and os.path.exists(file):
    bare = {"HOME": env["HOME"], "PATH": env["PATH"]}
    then = wanted({**dotenv_values(file, interpolate=False), **bare})
    for name in sorted(now.keys() | then.keys()):
        if now.get(name) != then.get(name):
            print(f"warning: {file} does not say of {name} what your environment says", file=sys.stderr)
elif action == "install":
    text = "# Written by setup_cronjob.sh. .env.example explains the names.\n"
    text += "".join(line(*item) for item in sorted(now.items()))
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as new:
        new.write(text)

names = ("ccusage", "node", "bun", "uv")
paths = [p for p in env["PATH"].split(":") if any(shutil.which(n, path=p) for n in names)]
paths = dict.fromkeys([*map(os.path.abspath, paths), "/usr/local/bin", "/usr/bin", "/bin"])
words = [f"PATH={word(':'.join(paths))}", *map(word, python), word(f"{here}/ccusage_importer.py"), "--quiet"]
if env["HOME"] != pwd.getpwuid(os.getuid()).pw_dir:
    words.insert(0, f"HOME={word(env['HOME'])}")
command = " ".join(words)
if "\n" in command or len(command) > 900:
    sys.exit("setup_cronjob.sh: the paths are too long for a crontab")
print(command)
PYTHON
}

python=()
main "$@"
