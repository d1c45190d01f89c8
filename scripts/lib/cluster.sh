# shellcheck shell=bash
# A whole cluster in a lab: bare (the lab replicates, arms semi-sync and gives
# db1 the VIP: no product needed), or watched by manager and agents.

# Which host replicates from which: all from db1, or two tiers (catalogue C).
members() {
    local host
    for host in "${HOSTS[@]}"; do
        case "${TIERS:-}:$host" in
        1:db4 | 1:db5) echo "$host:db2" ;;
        1:db6) echo "$host:db3" ;;
        *:db1) echo "$host" ;;
        *) echo "$host:db1" ;;
        esac
    done
}

start_cluster() {
    local level=none host deadline
    [ "$MODE$DURABILITY" != barelossless ] || level=lossless
    in_parallel start_server "${HOSTS[@]}"
    mapfile -t list < <(members)
    "$PYTHON" "$SCRIPTS/lib/seed.py" replicate "$LAB" "$FLAVOR" "$level" "${list[@]}"
    case $MODE in
    bare)
        in_host db1 ip addr add "$VIP/$VIP_MASK" dev eth0
        in_host db1 arping -q -c 1 -A -I eth0 "$VIP" || true
        ;;
    full | agentless)
        write_manager_config
        for host in "${HOSTS[@]}"; do
            [ "$MODE" = full ] || break
            write_agent_config "$host"
            start_agent "$host"
        done
        [ "$MODE" = full ] || sed -i 's/^agent *= .*/agent = false/; /^vip *=/d' "$LAB/mgr/manager.toml"
        start_manager
        adopt
        ;;
    esac
}

mhactl() {
    in_host mgr env MHA_MANAGER=http://127.0.0.1:8420 "$(bin_dir)/mhactl" "$@"
}

adopt() {
    local deadline=$((SECONDS + 30))
    # The manager opens its store before it listens.
    until in_host mgr "$PYTHON" -c 'import urllib.request as u; u.urlopen("http://127.0.0.1:8420/health", timeout=1)' 2>/dev/null; do
        program_alive mgr mha-manager || die "the manager ended: $(tail -n 3 "$LAB/mgr/mha-manager.log")"
        [ $SECONDS -lt $deadline ] || die "the manager does not answer; see $LAB/mgr/mha-manager.log"
        sleep 0.05
    done
    # It may not have looked at every server yet.
    until mhactl adopt lab --primary db1 --yes >"$LAB/mgr/adopt.log" 2>&1; do
        [ $SECONDS -lt $deadline ] || die "adopt failed: $(tail -n 5 "$LAB/mgr/adopt.log")"
        sleep 0.1
    done
    until mhactl status --json 2>/dev/null | "$PYTHON" -c '
import json, sys
sys.exit(json.load(sys.stdin)["verdict"] != "healthy")' 2>/dev/null; do
        [ $SECONDS -lt $deadline ] || die "the cluster is not healthy 30 s after adopt: $(mhactl status 2>&1 | tail -n 5)"
        sleep 0.05
    done
}

# A host as it was before its first process: nothing runs, the network is new.
clear_host() {
    signal_host KILL "$1"
    in_host "$1" bash -s "$(address_of "$1")/$VIP_MASK" <<'END'
nft flush ruleset
ip addr flush dev eth0 scope global
ip addr add "$1" dev eth0
ip link set eth0 up
ip neigh flush all
END
}

# Back to the first second of a cluster: every data directory is a fresh copy
# of the template.
reseed() {
    local host
    in_parallel clear_host "${HOSTS[@]}" mgr client
    for host in "${HOSTS[@]}"; do rm -rf "$LAB/$host"/{agent,mha-agent.pid}; done
    rm -rf "$LAB/mgr/data" "$LAB/mgr/mha-manager.pid"
    prepare_hosts
    start_cluster
}

prepare_hosts() {
    local host
    for host in "${HOSTS[@]}"; do mkdir -p "$LAB/$host"; done
    in_parallel seed_host "${HOSTS[@]}"
    for host in "${HOSTS[@]}"; do write_server_config "$host"; done
    [ -z "$DISK" ] || in_parallel own_disk "${HOSTS[@]}"
}

# A filesystem of a size of its own for what a server writes, in memory.
own_disk() { # host
    in_host "$1" bash -s "$LAB/$1/data" "$DISK" <<'END'
set -e
mv "$1" "$1.seed"
mkdir "$1"
mount -t tmpfs -o "size=$2,mode=700" tmpfs "$1"
cp -a "$1.seed/." "$1"
chown --reference="$1.seed" "$1"
rm -rf "$1.seed"
END
}

show_status() {
    local host link
    printf 'lab %s: %s, %s, %s, %d hosts, holder %s%s\n' "$NAME" "$FLAVOR" "$DURABILITY" "$MODE" "${#HOSTS[@]}" "$HOLDER" \
        "${ROOTLESS:+, rootless}"
    for host in "${HOSTS[@]}"; do
        link=$(in_host "$host" ip -br addr show dev eth0 | tr -s ' ')
        printf '%-6s %s\n' "$host" "$link"
        "$0" --name "$NAME" sql "$host" "SELECT IF(@@read_only, 'read_only', 'WRITABLE')" 2>&1 | sed 's/^/       /' || true
    done
    for host in "${HOSTS[@]}"; do
        [ "$MODE" != full ] || program_alive "$host" mha-agent || echo "$host    agent not running"
    done
    [ "$MODE" = bare ] || program_alive mgr mha-manager || echo "manager not running"
}
