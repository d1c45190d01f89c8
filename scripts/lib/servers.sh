# shellcheck shell=bash
# The real servers of a lab: one template data directory per flavor, made once
# and kept, and one server per host that starts from a copy of it. Every server
# boots closed: read_only on, replication not started, semi-sync off.

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

# Options both the template and the running servers need.
common_options() { # data-dir run-dir
    cat <<END
[mysqld]
user = $(if am_root || [ -n "${ROOTLESS:-}" ]; then echo root; else id -un; fi)
datadir = $1
socket = $2/server.sock
pid_file = $2/server.pid
log_error = $2/error.log
secure_file_priv =
skip_name_resolve = ON
innodb_buffer_pool_size = 64M
innodb_log_buffer_size = 4M
innodb_flush_log_at_trx_commit = 1
key_buffer_size = 1M
max_connections = 200
table_open_cache = 200
END
    if [ "$FLAVOR" = mysql ]; then
        local usr
        usr=$(mysql_prefix)/root/usr
        cat <<END
basedir = $usr
plugin_dir = $usr/lib/mysql/plugin
lc_messages_dir = $usr/share/mysql
innodb_redo_log_capacity = 32M
mysqlx = OFF
performance_schema_max_table_instances = 200
performance_schema_max_table_handles = 200
performance_schema_digests_size = 200
performance_schema_events_statements_history_long_size = 10
performance_schema_events_transactions_history_long_size = 10
performance_schema_events_waits_history_long_size = 10
performance_schema_max_digest_length = 256
table_definition_cache = 400
END
    else
        echo "innodb_log_file_size = 16M"
        echo "performance_schema = OFF"
    fi
}

write_server_config() { # host
    local host=$1 id=${1#db} dir=$LAB/$1
    {
        common_options "$dir/data" "$dir/run"
        cat <<END
port = 3306
bind_address = 0.0.0.0
server_id = $id
report_host = $host
report_port = 3306
log_bin = $dir/data/binlog
relay_log = $dir/data/relay
binlog_format = ROW
sync_binlog = 1
read_only = ON
END
        if [ "$FLAVOR" = mysql ]; then
            cat <<'END'
super_read_only = ON
gtid_mode = ON
enforce_gtid_consistency = ON
log_replica_updates = ON
skip_replica_start = ON
replica_net_timeout = 4
replica_parallel_workers = 4
plugin_load_add = semisync_source.so
plugin_load_add = semisync_replica.so
END
        else
            cat <<'END'
gtid_strict_mode = ON
gtid_domain_id = 0
log_slave_updates = ON
skip_slave_start = ON
slave_net_timeout = 4
slave_parallel_threads = 4
rpl_semi_sync_master_enabled = OFF
rpl_semi_sync_slave_enabled = OFF
END
        fi
    } >"$dir/server.cnf"
    # What a host's service manager would call: returns at once, the server
    # outlives the caller, and a server already running is left alone.
    cat >"$dir/start-server" <<END
#!/bin/sh
pid=\$(cat $dir/run/server.pid 2>/dev/null) && [ -n "\$pid" ] && grep -q '^State:[[:space:]]*[^ZX]' /proc/\$pid/status 2>/dev/null && exit 0
setsid $(server_binary) --defaults-file=$dir/server.cnf </dev/null >>$dir/run/error.log 2>&1 &
END
    chmod 755 "$dir/start-server"
}

accounts_sql() {
    local with="IDENTIFIED BY"
    [ "$FLAVOR" != mysql ] || with="IDENTIFIED WITH caching_sha2_password BY"
    cat <<END
CREATE DATABASE mha;
CREATE DATABASE app;
CREATE TABLE mha.heartbeat (id INT PRIMARY KEY, writer VARCHAR(255) NOT NULL, generation BIGINT UNSIGNED NOT NULL, at DATETIME(6) NOT NULL);
CREATE TABLE app.writes (client INT, n BIGINT, at DATETIME(6), server INT, PRIMARY KEY (client, n));
CREATE USER mha@'%' $with '$(cat "$1/admin")';
CREATE USER mha_repl@'%' $with '$(cat "$1/replication")';
CREATE USER mha_heartbeat@'%' $with '$(cat "$1/heartbeat")';
CREATE USER app@'%' $with '$(cat "$1/app")';
GRANT ALL ON *.* TO mha@'%' WITH GRANT OPTION;
GRANT REPLICATION SLAVE ON *.* TO mha_repl@'%';
GRANT INSERT, UPDATE, SELECT ON mha.heartbeat TO mha_heartbeat@'%';
GRANT ALL ON app.* TO app@'%';
END
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
    common_options "$work/data" "$work/run" >"$work/cnf"
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
