# shellcheck shell=bash
# The configuration files of manager and agents in a lab. All keys the lab
# knows of them are in this one file.

write_manager_config() {
    local dir=$LAB/mgr host own='' without=block
    mkdir -p "$dir/data"
    # Two database hosts and the manager's are three votes.
    if [ $((${#HOSTS[@]} % 2)) = 0 ]; then own='host     = "mgr"'; fi
    [ ${#HOSTS[@]} -gt 2 ] || without=degrade
    {
        cat <<END
[manager]
listen   = "127.0.0.1:8420"
data_dir = "$dir/data"
$own

[defaults]
silence        = "${MHA_LAB_SILENCE:-3s}"
durability     = "$DURABILITY"
without_ackers = "$without"
${MHA_LAB_DEFAULTS:-}
admin       = { user = "mha", password = { file = "$LAB/secrets/admin" } }
replication = { user = "mha_repl", password = { file = "$LAB/secrets/replication" } }
heartbeat   = { user = "mha_heartbeat", password = { file = "$LAB/secrets/heartbeat" } }
agent_token = { file = "$LAB/secrets/token" }

[[cluster]]
name = "lab"
mode = "auto"
vip  = { address = "$VIP/$VIP_MASK", interface = "eth0" }
END
        for host in "${HOSTS[@]}"; do
            printf '\n[[cluster.instance]]\nhost  = "%s"\nagent = "http://%s:8421"\n' "$host" "$host"
        done
    } >"$dir/manager.toml"
}

write_agent_config() { # host
    local host=$1 dir=$LAB/$1
    mkdir -p "$dir/agent"
    cat >"$dir/agent.toml" <<END
host     = "$host"
listen   = "$(address_of "$host"):8421"
token    = { file = "$LAB/secrets/token" }
data_dir = "$dir/agent"
run_dir  = "/run/mha-$host"

[server]
port     = 3306
socket   = "$dir/run/server.sock"
pid_file = "$dir/run/server.pid"
data_dir = "$dir/data"
binlog_index = "$dir/data/binlog.index"
binlog_tool  = ["$(binlog_binary)"]
service  = { command = ["$dir/start-server"], log = "$dir/run/error.log" }

[admin]
user = "mha"
password = { file = "$LAB/secrets/admin" }

[heartbeat]
user = "mha_heartbeat"
password = { file = "$LAB/secrets/heartbeat" }

[replication]
user = "mha_repl"
password = { file = "$LAB/secrets/replication" }
END
}
