# shellcheck shell=bash
# How a server of a laboratory is configured and who may log in, on one machine (scripts/lab) as in containers
# (docker/db). It only prints; the caller sets FLAVOR. Every server boots closed: read_only on, replication not
# started, semi-sync off.

# Options both the template and the running servers need.
common_options() { # data-dir run-dir user
    cat <<END
[mysqld]
user = $3
datadir = $1
socket = $2/server.sock
pid_file = $2/server.pid
log_error = $2/error.log
secure_file_priv =
# Its own: a starting server removes every temporary table in the directory, another's too.
tmpdir = $2
skip_name_resolve = ON
innodb_buffer_pool_size = 64M
innodb_log_buffer_size = 4M
innodb_flush_log_at_trx_commit = 1
key_buffer_size = 1M
max_connections = 200
table_open_cache = 200
END
    if [ "$FLAVOR" = mysql ]; then
        cat <<'END'
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

server_options() { # host data-dir run-dir user
    local host=$1 data=$2
    common_options "$2" "$3" "$4"
    cat <<END
port = 3306
bind_address = 0.0.0.0
server_id = ${host#db}
report_host = $host
report_port = 3306
log_bin = $data/binlog
relay_log = $data/relay
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
