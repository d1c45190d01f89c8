# shellcheck shell=bash
# The real servers of a lab: one template data directory per flavor, made once
# and kept, and one server per host that starts from a copy of it.

cache_dir() { printf '%s\n' "${MHA_LAB_CACHE:-/var/tmp/mha-lab$(am_root || printf -- '-%s' "$(id -u)")}"; }

# MySQL takes no replication password of more than 32 characters.
secret() { od -An -N15 -tx1 /dev/urandom | tr -d ' \n'; }

server_binary() {
    if [ "$FLAVOR" = mysql ]; then printf '%s/bin/mysqld\n' "$(mysql_prefix)"; else echo /usr/sbin/mariadbd; fi
}
client_binary() {
    if [ "$FLAVOR" = mysql ]; then printf '%s/bin/mysql\n' "$(mysql_prefix)"; else echo /usr/bin/mariadb; fi
}
binlog_binary() {
    if [ "$FLAVOR" = mysql ]; then printf '%s/bin/mysqlbinlog\n' "$(mysql_prefix)"; else echo /usr/bin/mariadb-binlog; fi
}

need_servers() {
    if ! [ -x "$(server_binary)" ] || ! [ -x /usr/sbin/nft ] || ! "$PYTHON" -c 'import pymysql' 2>/dev/null; then
        "$SCRIPTS/install-servers" "$FLAVOR" || exit $?
    fi
}

server_user() { if am_root || [ -n "${ROOTLESS:-}" ]; then echo root; else id -un; fi; }

# Where an unpacked MySQL has what others have in /usr.
prefix_options() {
    [ "$FLAVOR" = mysql ] || return 0
    local usr
    usr=$(mysql_prefix)/root/usr
    cat <<END
basedir = $usr
plugin_dir = $usr/lib/mysql/plugin
lc_messages_dir = $usr/share/mysql
END
}

write_server_config() { # host
    local dir=$LAB/$1
    {
        server_options "$1" "$dir/data" "$dir/run" "$(server_user)"
        prefix_options
    } >"$dir/server.cnf"
    # What a host's service manager would call: returns at once, the server
    # outlives the caller, and a server already running is left alone. The
    # server keeps the lock: mysqld itself, started beside another, waits 100 s
    # for that one's files and then goes on with what it read before, which is
    # how a binary log falls out of its index and rows that were acknowledged
    # are rolled back. A server that is ending lets go of the lock last; one
    # that is starting is there when its pid file is.
    cat >"$dir/start-server" <<END
#!/bin/sh
runs() {
    pid=\$(cat $dir/run/server.pid 2>/dev/null) && [ -n "\$pid" ] \\
        && grep -q '^State:[[:space:]]*[^ZX]' /proc/\$pid/status 2>/dev/null
}
exec 9>$dir/run/start.lock
tries=0
until flock --nonblock 9; do
    runs && exit 0
    tries=\$((tries + 1))
    [ \$tries -lt 600 ] || { echo "somebody has held $dir/run/start.lock for 30 s, and no server runs" >&2; exit 1; }
    sleep 0.05
done
runs && exit 0
setsid $(server_binary) --defaults-file=$dir/server.cnf "\$@" </dev/null >>$dir/run/error.log 2>&1 &
END
    chmod 755 "$dir/start-server"
}

wait_for_socket() { # socket seconds pid
    local deadline=$((SECONDS + $2))
    until "$PYTHON" "$SCRIPTS/lib/seed.py" ping "$1" 2>/dev/null; do
        kill -0 "$3" 2>/dev/null || return 1
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.05
    done
}

# Make the template once. No binary log while it is made, so that every copy
# starts with the same rows and an empty GTID history.
make_template() {
    local cache template work pid name
    cache=$(cache_dir)
    template=$cache/$FLAVOR-4
    [ -d "$template/data" ] && return
    say "making the $FLAVOR template (once, a few seconds)"
    mkdir -p "$cache"
    chmod 700 "$cache"
    work=$(mktemp -d "$cache/making.XXXXXX")
    mkdir -p "$work/run" "$work/secrets"
    for name in admin replication heartbeat app token; do
        (umask 077 && secret >"$work/secrets/$name")
    done
    {
        common_options "$work/data" "$work/run" "$(server_user)"
        prefix_options
    } >"$work/cnf"
    if [ "$FLAVOR" = mysql ]; then
        "$(server_binary)" --defaults-file="$work/cnf" --initialize-insecure >&2 || die "initialising failed: $work/run/error.log"
    else
        mariadb-install-db --defaults-file="$work/cnf" --auth-root-authentication-method=normal --skip-test-db \
            >"$work/run/install.log" 2>&1 || die "initialising failed: $work/run/install.log"
    fi
    "$(server_binary)" --defaults-file="$work/cnf" --skip-networking --skip-log-bin </dev/null >>"$work/run/error.log" 2>&1 &
    pid=$!
    wait_for_socket "$work/run/server.sock" 60 "$pid" || die "the template server does not start: $work/run/error.log"
    accounts_sql "$work/secrets" | "$(client_binary)" --no-defaults -uroot -S "$work/run/server.sock"
    echo SHUTDOWN | "$(client_binary)" --no-defaults -uroot -S "$work/run/server.sock"
    wait "$pid" || die "the template server did not stop cleanly: $work/run/error.log"
    rm -rf "$work/data/auto.cnf" "$work/data"/*.err "$work/run"
    mv -T "$work" "$template" 2>/dev/null || rm -rf "$work" # another lab was quicker
}

seed_host() { # host
    local dir=$LAB/$1 n
    rm -rf "$dir/data" "$dir/run"
    mkdir -p "$dir/run"
    cp -a --reflink=auto "$(cache_dir)/$FLAVOR-4/data" "$dir/data"
    printf -v n '%012d' "${1#db}"
    [ "$FLAVOR" != mysql ] || printf '[auto]\nserver-uuid=00000000-0000-4000-8000-%s\n' "$n" >"$dir/data/auto.cnf"
}

start_server() { in_host "$1" "$LAB/$1/start-server"; }

server_pid() {
    local pid
    pid=$(cat "$LAB/$1/run/server.pid" 2>/dev/null) || die "no server has run on $1"
    printf '%s\n' "$pid"
}
