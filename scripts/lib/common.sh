# shellcheck shell=bash
# What every script here shares: telling, refusing, finding tools. It starts
# nothing and changes nothing by itself.

say() { printf '%s\n' "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
am_root() { [ "$(id -u)" = 0 ]; }

# Where MySQL is unpacked: MHA_MYSQL_PREFIX, or a place this user may write to.
mysql_prefix() {
    if [ -n "${MHA_MYSQL_PREFIX:-}" ]; then
        printf '%s\n' "$MHA_MYSQL_PREFIX"
    elif am_root || [ -x /opt/mha-lab/mysql/bin/mysqld ]; then
        printf '%s\n' /opt/mha-lab/mysql
    else
        printf '%s\n' "${XDG_CACHE_HOME:-$HOME/.cache}/mha-lab/mysql"
    fi
}

# Where Compose 2 is unpacked; Debian 12 has 1.29.
compose2_prefix() { printf '%s\n' "${MHA_COMPOSE2_PREFIX:-/opt/mha-lab/compose2}"; }

# Debian keeps the servers in sbin, which an ordinary user's PATH leaves out.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
# The distribution's Python, the one that sees python3-pymysql.
# shellcheck disable=SC2034
PYTHON=/usr/bin/python3

# Run a function once per host, side by side; fail when one failed.
in_parallel() { # function host…
    local function=$1 host pid pids=()
    shift
    for host in "$@"; do
        "$function" "$host" &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid"; done
}

# Where manager, agent and mhactl are built.
bin_dir() { printf '%s\n' "${MHA_BIN:-${CARGO_TARGET_DIR:-$SCRIPTS/../target}/release}"; }

# The Debian mirror this system installs from, from its own sources.
debian_mirror() {
    local uri
    uri=$(cat /etc/apt/sources.list.d/*.sources 2>/dev/null \
        | sed -n 's/^URIs:[[:space:]]*\([^[:space:]]*\).*/\1/p' | grep -E '/debian/?$' | head -n 1) || true
    if [ -z "$uri" ]; then
        uri=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null \
            | sed -n 's/^deb[[:space:]]\+\(\[[^]]*\][[:space:]]*\)\?\([^[:space:]]*\).*/\2/p' \
            | grep -E '/debian/?$' | head -n 1) || true
    fi
    [ -n "$uri" ] || die "no Debian mirror in this system's apt sources, and MySQL comes from Debian sid"
    printf '%s\n' "$uri"
}
