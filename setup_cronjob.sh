#!/usr/bin/env bash
# Have cron import every hour.
#
# usage: setup_cronjob.sh [--schedule '*/30 * * * *'] [--force] [-- OPTION …]
#        setup_cronjob.sh --print | --remove | --help
#
# Installs one line in your crontab, tagged `# ccusage-import`, and leaves all others as they
# are; but nothing when `ccusage_importer.py --check` fails, unless you --force it. The minute
# is random, and a later run keeps it, or takes --schedule. What follows -- are options of each
# import, such as --no-hash-projects; a later run keeps them too, or takes others. --print shows
# the line and changes nothing, --remove takes it out. No setting or password is in it: they come
# from .env beside this script. Where there is none, it is written from your environment, for you
# alone to read.
#
# Cron mails you what is wrong and nothing else. What each run did is in ccusage_import.log in
# the state directory, with times; 3 MB of it are kept at most.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
entry='^[[:space:]]*[^#[:space:]].* # ccusage-import$' # what is commented out is no entry

main() {
    local action=install schedule='' force='' keep=1 line field='[0-9A-Za-z*/,-]+'
    options=(--)
    while (($#)); do
        case $1 in
            --schedule)
                [[ ${2-} =~ ^(@[a-z]+|($field +){4}$field)$ ]] ||
                    abort 2 "--schedule: expected five fields, got '${2-}'"
                schedule=$2 && shift ;;
            --force) force=1 ;;
            --print | --remove) action=${1#--} ;;
            --) options=("$@") keep='' && break ;;
            --help) sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p;}' "${BASH_SOURCE[0]}" && exit ;;
            *) abort 2 "$1: unknown; see --help" ;;
        esac
        shift
    done

    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    # What cannot be read is never replaced.
    LC_ALL=C crontab -l >"$scratch/old" 2>"$scratch/error" ||
        grep -q 'no crontab for' "$scratch/error" || abort 1 "crontab -l failed: $(<"$scratch/error")"
    LC_ALL=C grep -av "$entry" "$scratch/old" >"$scratch/new" || (($? == 1)) # 1: no line is left
    if [[ $action != remove ]]; then
        find_python
        [[ $action == print ]] || check || [[ $force ]] ||
            abort 1 'the check failed, so nothing is installed (but with --force)'
        line="${schedule:-$(present_schedule)} $(settings "$action")${keep:+$(present_options)} # ccusage-import"
        [[ ${#line} -lt 950 && $line != *$'\n'* ]] || abort 1 'the paths are too long for a crontab'
        printf '%s\n' "$line" | tee -a "$scratch/new"
    fi
    [[ $action == print ]] || cmp -s "$scratch/old" "$scratch/new" || crontab - <"$scratch/new"
}

abort() {
    printf 'setup_cronjob.sh: %s\n' "$2" >&2
    exit "$1"
}

# The project's own environment, else a python3 that has the packages, else uv.
find_python() {
    local found packages=(clickhouse_connect dotenv rich) probe='
import sys, importlib.util as modules
sys.version_info >= (3, 10) and all(map(modules.find_spec, sys.argv[1:])) or sys.exit(1)
print(sys.executable)'
    [[ ${CH_HOST-} ]] || grep -qs '^CH_HOST=.' "$here/.env" || packages+=(chdb)
    if [[ -x $here/.venv/bin/python ]]; then
        python=("$here/.venv/bin/python")
    elif found=$(python3 -c "$probe" "${packages[@]}" 2>/dev/null); then
        python=("$found")
    elif found=$(command -v uv); then
        python=("$found" run --quiet --no-dev --extra embedded --project "$here" python)
    else
        abort 1 "neither uv nor a python3 (3.10) with ${packages[*]}; see https://docs.astral.sh/uv/"
    fi
}

# What cron is going to run: .env alone says how, where there is one.
check() {
    local bare=(env)
    [[ ! -e $here/.env ]] || bare=(env -i "HOME=$HOME" "PATH=$PATH")
    "${bare[@]}" "${python[@]}" "$here/ccusage_importer.py" --check --quiet "${options[@]:1}" >&2
}

present_entry() {
    LC_ALL=C grep -a "$entry" "$scratch/old" | tail -n 1
}

present_schedule() {
    local words
    words=$(present_entry) || words="$((RANDOM % 60)) * * * *"
    read -r -a words <<<"$words"
    [[ ${words[0]} == @* ]] && echo "${words[0]}" || echo "${words[*]:0:5}"
}

present_options() {
    local line
    line=$(present_entry) || return 0
    line=${line% # ccusage-import}
    [[ $line != *' --quiet'* ]] || echo "${line##* --quiet}"
}

# Print the command as a crontab has it, and to install it, write .env or tell how it differs.
settings() {
    "${python[@]}" - "$1" "$here" "${python[@]}" "${options[@]}" <<'PYTHON'
import contextlib, io, os, pwd, re, shlex, shutil, sys
action, here, *python = sys.argv[1:]
cut = python.index("--")
python, options = python[:cut], python[cut + 1 :]
sys.path.insert(0, here)
import ccusage_importer as importer, dotenv

try:
    with contextlib.redirect_stdout(io.StringIO()):
        asked = importer.parse_arguments(options)
    fit = importer.imports(asked) and not asked.dry_run
except SystemExit:
    fit = False
if not fit:
    sys.exit(f"setup_cronjob.sh: not options of an import: {' '.join(options)}")

AGENTS = """CLAUDE_CONFIG_DIR CODEX_HOME OPENCODE_DATA_DIR AMP_DATA_DIR DROID_SESSIONS_DIR
CODEBUFF_DATA_DIR HERMES_HOME PI_AGENT_DIR GOOSE_PATH_ROOT OPENCLAW_DIR KILO_DATA_DIR
KIMI_DATA_DIR QWEN_DATA_DIR GEMINI_DATA_DIR COPILOT_HOME COPILOT_OTEL_FILE_EXPORTER_PATH
GROK_HOME ZCODE_HOME ANTIGRAVITY_DATA_DIR XDG_CONFIG_HOME XDG_DATA_HOME""".split()

def wanted(env):  # what .env must say, so that cron does as `env` does
    settings = importer.Settings.from_env(env)
    recorded = importer.Identity.load(settings.state_dir)
    ours = re.compile("CH_|CCUSAGE_|(PROJECT_HASH_KEY|TZ)$").match
    found = {name: value for name, value in env.items() if value and ours(name)}
    for name in filter(env.get, AGENTS):
        parts = (os.path.expanduser(part.strip()) for part in env[name].split(","))
        found[name] = ",".join(map(os.path.abspath, parts))
    if "CH_CA_CERT" in found:
        found["CH_CA_CERT"] = os.path.abspath(found["CH_CA_CERT"])
    if not settings.host:
        found["CH_EMBEDDED_PATH"] = str(settings.embedded_path)
    with contextlib.suppress(importer.ConfigError):
        program, *rest = importer.find_command(settings)
        found["CCUSAGE_COMMAND"] = shlex.join([os.path.abspath(program), *rest])
    found["CCUSAGE_STATE_DIR"] = str(settings.state_dir)
    return {**found, "MACHINE_NAME": importer.machine_name(settings, recorded)}

def line(name, value):  # as python-dotenv reads it
    quoted = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    for form in (value,) if shlex.quote(value) == value else (quoted, value):
        text = f"{name}={form}\n"
        read = dotenv.dotenv_values(stream=io.StringIO(text + "END='.'\n"), interpolate=False)
        if read == {name: value, "END": "."}:
            return text
    sys.exit(f"{name}: its value cannot be written to .env")

def word(text):  # for sh, in a crontab: every cron reads \% as %, but \\ each in its own way
    return shlex.quote(text).replace("\\", "\\''").replace("%", "\\%")

env, file = importer.load_environment(os.environ), f"{here}/.env"
now = wanted(env)
if action == "install" and os.path.exists(file):
    then = wanted(importer.load_environment({name: env[name] for name in ("HOME", "PATH")}))
    for name in sorted(dict(now.items() ^ then.items())):
        print(f"warning: {file} does not say of {name} what your environment says", file=sys.stderr)
elif action == "install":
    lines = ["# Written by setup_cronjob.sh. .env.example explains the names.\n"]
    lines += [line(*item) for item in sorted(now.items())]
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as new:
        new.writelines(lines)

tools = ("ccusage", "node", "bun", "uv")  # which cron's own PATH hardly leads to
paths = [p for p in env["PATH"].split(":") if any(shutil.which(tool, path=p) for tool in tools)]
paths = dict.fromkeys([*map(os.path.abspath, paths), "/usr/local/bin", "/usr/bin", "/bin"])
words = [f"PATH={word(':'.join(paths))}", *map(word, python), word(f"{here}/ccusage_importer.py"), "--quiet", *map(word, options)]
if env["HOME"] != pwd.getpwuid(os.getuid()).pw_dir:
    words.insert(0, f"HOME={word(env['HOME'])}")
print(*words)
PYTHON
}

main "$@"
