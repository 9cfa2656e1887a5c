#!/usr/bin/env bash
# Verify that imports arrive at the ClickHouse server, with nothing but curl.
#
# usage: verify_setup.sh [--help]
#
# Reads CH_HOST and its kin from the environment, else from .env beside this script, as the
# importer does. Prints a line per check: server, authentication, database, the seven tables
# and five views with their rows, the last import of each machine (this one's must not be
# older than a day), ccusage, the cron entry, and that .env is for its owner alone.
#
# Exit codes: 0 all is ok, 1 something is not, 2 CH_HOST is not set: the importer then keeps
# its embedded database, which curl cannot ask, but `ccusage_importer.py --check` can.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
failed=0

main() {
    if (($#)); then
        sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p;}' "${BASH_SOURCE[0]}"
        [[ $1 == --help ]] && exit || exit 2
    fi
    host=$(setting CH_HOST) port=$(setting CH_PORT 8123) protocol=http
    [[ ! $port =~ ^(443|8443|9440)$ ]] || protocol=https
    protocol=$(setting CH_PROTOCOL "$protocol") database=$(setting CH_DATABASE default)
    if [[ ! $host ]]; then
        echo "CH_HOST is not set: check the embedded database with $here/ccusage_importer.py --check"
        exit 2
    fi
    if query server '' && query authentication 'SELECT currentUser()' &&
        query database 'SELECT currentDatabase()' "$database"; then
        local name
        for name in usage_{daily,monthly,sessions,blocks,projects_daily} model{_breakdowns,s_used}; do
            query "ccusage_$name" "SELECT count() || ' rows' FROM ccusage_$name FINAL" "$database" || :
        done
        for name in v_{daily_summary,session_summary,model_performance,monthly_trends,active_blocks}; do
            query "ccusage_$name" "SELECT count() || ' rows' FROM ccusage_$name" "$database" || :
        done
        last_imports
    fi
    ccusage
    cron
    private "$here/.env"
    exit "$failed"
}

result() {
    local text=${3//$'\n'/ }
    printf '%-4s  %-28s %s\n' "$1" "$2" "${text:0:1000}"
    [[ $1 == ok ]] || failed=1
}

# A variable: of the environment, else of .env, else the default. Nothing in .env is executed.
setting() {
    local value='' line
    if [[ ${!1+set} ]]; then
        value=${!1}
    elif line=$(grep -E "^ *(export +)?$1 *=" "$here/.env" 2>/dev/null); then
        value=$(tail -n 1 <<<"$line" | sed -e 's/^[^=]*=[[:space:]]*//' \
            -e "/^'/{s/^'\(.*\)'.*/\1/; s/\\\\\([\\\\']\)/\1/g; b" -e '}' \
            -e '/^"/{s/^"\(.*\)".*/\1/; s/\\\([\\"]\)/\1/g; b' -e '}' \
            -e 's/[[:space:]]#.*//; s/[[:space:]]*$//')
    fi
    printf '%s' "${value:-${2-}}"
}

# query NAME SQL [DATABASE]: ok with the server's answer, or FAIL.
query() {
    local answer
    if answer=$(ask "${@:2}" 2>&1); then
        result ok "$1" "$answer"
    else
        result FAIL "$1" "$answer"
        return 1
    fi
}

# The server's answer; without SQL, whether it is there. The configuration reaches curl on
# stdin, so that `ps` does not show the password.
ask() {
    local answer
    answer=$({
        option url "$protocol://$host:$port/"
        [[ ! $(setting CH_CA_CERT) ]] || option cacert "$(setting CH_CA_CERT)"
        [[ ! $(setting CH_VERIFY) =~ ^(false|0|no|off)$ ]] || echo insecure
        [[ ! $1 ]] || option user "$(setting CH_USER default):$(setting CH_PASSWORD)"
        [[ ! $1 ]] || option data-binary "$1"
        [[ ! ${2-} ]] || option header "X-ClickHouse-Database: $2"
    } | curl --disable --config - --silent --show-error --max-time 30 --write-out '\n%{http_code}') || {
        echo "$protocol://$host:$port: ${answer%$'\n'*}"
        return 1
    }
    [[ $1 ]] && echo "${answer%$'\n'*}" || echo "$protocol://$host:$port: ${answer%%$'\n'*}"
    [[ ${answer##*$'\n'} == 200 ]]
}

option() {
    local value=${2//\\/\\\\}
    printf '%s = "%s"\n' "$1" "${value//\"/\\\"}"
}

last_imports() {
    local ages hours name machine verdict seen=''
    machine=$(setting MACHINE_NAME "$(hostname | tr '[:upper:]' '[:lower:]')")
    local sql="SELECT dateDiff('hour', max(finished_at), now()), machine_name FROM"
    ages=$(ask "$sql ccusage_import_history GROUP BY machine_name ORDER BY ALL FORMAT TSVRaw" "$database") || ages=''
    while IFS=$'\t' read -r hours name && [[ $name ]]; do
        verdict=ok
        if [[ $name == "$machine" ]]; then
            seen=1
            ((hours <= 24)) || verdict=FAIL
        fi
        result "$verdict" 'last import' "$name: $hours hours ago"
    done <<<"$ages"
    [[ $seen ]] || result FAIL 'last import' "$machine: none; run $here/ccusage_importer.py"
}

ccusage() {
    local program found candidates=(ccusage bunx npx)
    program=$(setting CCUSAGE_COMMAND | xargs printf '%s\n' | head -n 1) || program='broken quotes'
    [[ ! $program ]] || candidates=("$program")
    for program in "${candidates[@]}"; do
        if found=$(command -v "$program"); then
            result ok ccusage "$found"
            return
        fi
    done
    result FAIL ccusage "not found: ${candidates[*]}"
}

cron() {
    local entry
    if entry=$(LC_ALL=C crontab -l 2>/dev/null | grep -a '^[[:space:]]*[^#[:space:]].* # ccusage-import$'); then
        result ok cron "$entry"
    else
        result FAIL cron "no entry; run $here/setup_cronjob.sh"
    fi
}

private() {
    local mode
    if ! mode=$(ls -ldL "$1" 2>/dev/null); then
        result FAIL .env "$1: none; run $here/setup_cronjob.sh"
    elif [[ ${mode:4:6} == ------ ]]; then
        result ok .env "$1: ${mode%% *}"
    else
        result FAIL .env "$1: ${mode%% *}: others may read it; chmod 600"
    fi
}

main "$@"
