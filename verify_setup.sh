#!/usr/bin/env bash
# Verify that imports arrive at the ClickHouse server, with nothing but curl.
#
# usage: verify_setup.sh [-h | --help]
#
# Reads CH_HOST and its kin from the environment, else from .env beside this script, as the
# importer does. Prints a line per check: server, authentication, database, the seven tables
# and five views with their rows, the last import of each machine (this one's must not be
# older than a day), ccusage, the cron entry, and that .env is for its owner alone. "warn" is
# not wrong: without a cron entry you import by hand, or by another timer.
#
# Exit codes: 0 nothing is wrong, 1 something is, 2 wrong usage, or CH_HOST is not set: the
# importer then keeps its embedded database, which curl cannot ask, but
# `ccusage_importer.py --check` can.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
failed=0

main() {
    if (($#)); then
        sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p;}' "${BASH_SOURCE[0]}"
        [[ $1 =~ ^(-h|--help)$ ]] && exit || exit 2
    fi
    local host port protocol=http name
    host=$(setting CH_HOST) port=$(setting CH_PORT 8123)
    if [[ ! $host ]]; then
        echo 'CH_HOST is not set: check the embedded database with:' \
            "uv run $here/ccusage_importer.py --check"
        exit 2
    fi
    [[ ! $port =~ ^(443|8443|9440)$ ]] || protocol=https
    protocol=$(setting CH_PROTOCOL "$protocol")
    verify=$(setting CH_VERIFY true | tr '[:upper:]' '[:lower:]')
    if [[ ! $verify =~ ^(true|1|yes|on|false|0|no|off)$ ]]; then
        result CH_VERIFY '' "expected true or false, got '$verify'"
    fi
    [[ $host != *:* || $host == \[* ]] || host="[$host]" # as a URL has it
    url="$protocol://$host:$port" database=$(setting CH_DATABASE default)
    if query server '' && query authentication 'SELECT currentUser()' &&
        query database 'SELECT currentDatabase()' "$database"; then
        for name in usage_{daily,monthly,sessions,blocks,projects_daily}' FINAL' \
            model{_breakdowns,s_used}' FINAL' \
            v_{daily_summary,session_summary,model_performance,monthly_trends,active_blocks}; do
            query "ccusage_${name% *}" "SELECT count() || ' rows' FROM ccusage_$name" "$database" || :
        done
        last_imports
    fi
    this_machine
    exit "$failed"
}

# result NAME GOOD BAD: a line that says ok and what is good, or when that is empty, FAIL and why.
result() {
    if [[ $2 ]]; then line ok "$1" "$2"; else failed=1 && line FAIL "$1" "$3"; fi
}

line() {
    local text=$3
    text=${text//$'\n'/ }
    printf '%-4s  %-28s %s\n' "$1" "$2" "${text:0:1000}"
}

# A variable: of the environment, else of .env, else the default. Nothing in .env is executed.
setting() {
    local value
    value=${!1-$(dotenv "$1")} || :
    [[ $value == *[![:space:]]* ]] || value=${2-}
    printf '%s' "$value"
}

dotenv() {
    grep -E "^ *(export +)?$1 *=" "$here/.env" 2>/dev/null | tail -n 1 |
        sed -e 's/^[^=]*=[[:space:]]*//' \
            -e "/^'/{s/^'\(.*\)'.*/\1/; s/\\\\\([\\\\']\)/\1/g; b" -e '}' \
            -e '/^"/{s/^"\(.*\)".*/\1/; s/\\\([\\"]\)/\1/g; b' -e '}' \
            -e 's/[[:space:]]#.*//; s/[[:space:]]*$//'
}

# query NAME SQL [DATABASE]: the result is the server's answer.
query() {
    local answer good=''
    answer=$(ask "${@:2}" 2>&1) && good=$answer
    result "$1" "$good" "$answer"
    [[ $good ]]
}

# The server's answer; without SQL, whether it is there. The configuration reaches curl on
# stdin, so that `ps` does not show the password. Proxies and certificates are the importer's.
ask() {
    local answer proxy=HTTP_PROXY trusted
    [[ $protocol == http ]] || proxy=HTTPS_PROXY
    trusted=$(setting CH_CA_CERT "$(setting SSL_CERT_FILE "$(setting NODE_EXTRA_CA_CERTS)")")
    answer=$({
        option url "$url/"
        option proxy "$(setting "${protocol}_proxy" "$(setting "$proxy")")"
        option noproxy "$(setting no_proxy "$(setting NO_PROXY)")"
        [[ ! $trusted ]] || option cacert "$trusted"
        [[ ! $verify =~ ^(false|0|no|off)$ ]] || echo insecure
        [[ ! $1 ]] || option user "$(setting CH_USER default):$(setting CH_PASSWORD)"
        [[ ! $1 ]] || option data-binary "$1"
        [[ ! ${2-} ]] || option header "X-ClickHouse-Database: $2"
    } | curl --disable --config - --silent --show-error --max-time 30 --write-out '\n%{http_code}') ||
        answer+=', but curl failed'
    [[ $1 ]] && echo "${answer%$'\n'*}" || echo "$url: ${answer%%$'\n'*}"
    [[ ${answer##*$'\n'} == 200 ]]
}

option() {
    local value=${2//\\/\\\\}
    printf '%s = "%s"\n' "$1" "${value//\"/\\\"}"
}

# The name that the first import has recorded, in machine.json.
recorded_name() {
    local state
    state=$(setting XDG_STATE_HOME "$HOME/.local/state")/ccusage-import
    state=$(setting CCUSAGE_STATE_DIR "$state")
    state=${state/#\~\//$HOME/}
    printf '%b' "$(sed -nE -e '/"machine_name"/{' \
        -e 's/.*"machine_name": *"(([^"\\]|\\.)*)".*/\1/; s/\\(["/])/\1/g; p' \
        -e '}' "$state/machine.json" 2>/dev/null)"
}

last_imports() {
    local hours name machine recorded good seen=''
    recorded=$(recorded_name)
    machine=$(setting MACHINE_NAME "${recorded:-$(hostname | tr '[:upper:]' '[:lower:]')}")
    if [[ $recorded && $machine != "$recorded" ]]; then
        result 'machine name' '' "MACHINE_NAME is $machine, but machine.json says $recorded: unset it"
    fi
    local sql="SELECT dateDiff('hour', max(finished_at), now()), machine_name"
    while IFS=$'\t' read -r hours name && [[ $name ]]; do
        good="$name: $hours hours ago"
        if [[ $name == "$machine" ]]; then
            seen=$good
            ((hours <= 24)) || good=''
        fi
        result 'last import' "$good" "$seen"
    done < <(ask "$sql FROM ccusage_import_history GROUP BY 2 ORDER BY ALL FORMAT TSVRaw" "$database")
    [[ $seen ]] || result 'last import' '' "$machine: none; uv run $here/ccusage_importer.py"
}

this_machine() {
    local command candidates=(ccusage bunx npx)
    command=$(setting CCUSAGE_COMMAND | xargs printf '%s\n' | head -n 1) || command='broken quotes'
    [[ ! $command ]] || candidates=("$command")
    result ccusage "$(type -P "${candidates[@]}" | head -n 1)" "not found: ${candidates[*]}"

    local entry='^[[:space:]]*[^#[:space:]].* # ccusage-import$'
    entry=$(LC_ALL=C crontab -l 2>/dev/null | grep -a "$entry") || entry=''
    if [[ $entry && $entry != *$'\n'* ]]; then
        line ok cron "$entry"
    else
        line warn cron "${entry:-no entry}; run $here/setup_cronjob.sh"
    fi

    local file=$here/.env mode good='' bad="$here/.env: none; run $here/setup_cronjob.sh"
    if mode=$(ls -ldL "$file" 2>/dev/null); then
        bad="$file: ${mode%% *}: others may read it; chmod 600"
        [[ ${mode:4:6} != ------ ]] || good="$file: ${mode%% *}"
    fi
    result .env "$good" "$bad"
}

main "$@"
