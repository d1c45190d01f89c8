# shellcheck shell=bash
# The space a lab lives in: one holder process, first of a process namespace,
# with a mount and a network namespace of its own (and a user namespace when not
# root). Hosts are network namespaces on a bridge in it. Whatever happens to a
# lab, killing the holder ends every process of it and the kernel removes every
# mount, link and rule with it: nothing of a lab exists outside.

# shellcheck disable=SC2034
SUBNET=10.77.0 VIP=10.77.0.100 VIP_MASK=24

address_of() {
    case $1 in
    mgr) printf '%s.10\n' "$SUBNET" ;;
    client) printf '%s.20\n' "$SUBNET" ;;
    db[1-9]) printf '%s.%d\n' "$SUBNET" "$((10 + ${1#db}))" ;;
    vip) printf '%s\n' "$VIP" ;;
    *) die "no host $1 (hosts: ${HOSTS[*]} mgr client)" ;;
    esac
}

holder_alive() { [ -n "${HOLDER:-}" ] && [ "$(readlink "/proc/$HOLDER/ns/net" 2>/dev/null)" = "${HOLDER_NET:-none}" ]; }
need_holder() { holder_alive || die "lab $NAME is not up (scripts/lab up --name $NAME)"; }

# Enter the holder's namespaces; with a host, that host's network.
inside() {
    local user=()
    [ -z "${ROOTLESS:-}" ] || user=(-U --preserve-credentials)
    nsenter -t "$HOLDER" "${user[@]}" -m -n -p -- "$@"
}
in_host() {
    local host=$1 user=()
    shift
    [ -z "${ROOTLESS:-}" ] || user=(-U --preserve-credentials)
    nsenter -t "$HOLDER" "${user[@]}" -m -p "--net=/proc/$HOLDER/root/run/netns/$host" -- "$@"
}

write_hosts_file() {
    local host
    {
        echo "127.0.0.1 localhost"
        for host in "${HOSTS[@]}" mgr client vip; do echo "$(address_of "$host") $host"; done
    } >"$LAB/hosts"
}

# Runs as the first process of the new namespaces; becomes the process that
# holds them, which ignores SIGCHLD so that the kernel reaps for it.
holder_main() { # lab-directory host…
    local lab=$1 host
    shift
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 tmpfs /run
    mount --bind "$lab/hosts" /etc/hosts
    mkdir -p /run/netns /run/lock
    ip link set lo up
    ip link add br0 type bridge forward_delay 0
    ip link set br0 up
    for host in "$@"; do
        ip netns add "$host"
        ip link add "to-$host" type veth peer name eth0 netns "$host"
        ip link set "to-$host" master br0 up
        ip -n "$host" link set lo up
        ip -n "$host" addr add "$(address_of "$host")/$VIP_MASK" dev eth0
        ip -n "$host" link set eth0 up
    done
    : >"$lab/ready"
    exec env --ignore-signal=CHLD sleep infinity
}

start_holder() {
    local user=() starter deadline=$((SECONDS + 10))
    am_root || user=(--user --map-root-user)
    write_hosts_file
    rm -f "$LAB/ready"
    setsid unshare "${user[@]}" --mount --net --pid --fork --mount-proc \
        bash "$SCRIPTS/lab" __holder "$LAB" "${HOSTS[@]}" mgr client </dev/null >"$LAB/holder.log" 2>&1 &
    starter=$!
    disown "$starter" # so that a plain wait does not wait for the lab to end
    until [ -e "$LAB/ready" ]; do
        kill -0 "$starter" 2>/dev/null || die "cannot make namespaces: $(tail -n 1 "$LAB/holder.log")"
        [ $SECONDS -lt $deadline ] || die "namespaces not ready after 10 s; see $LAB/holder.log"
        sleep 0.02
    done
    # setsid may have forked: the holder is the child of the unshare process.
    HOLDER=$(cat "/proc/$starter/task/$starter/children")
    HOLDER=${HOLDER%% *}
    HOLDER_NET=$(readlink "/proc/$HOLDER/ns/net")
    ROOTLESS=
    am_root || ROOTLESS=1
}

# Every process of a lab dies with its holder; done when its starter is gone too.
stop_holder() {
    holder_alive || return 0
    local starter deadline=$((SECONDS + 20))
    starter=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$HOLDER/status")
    kill -KILL "$HOLDER"
    while [ -e "/proc/$HOLDER" ] || grep -qs unshare "/proc/$starter/comm"; do
        [ $SECONDS -lt $deadline ] || die "holder $HOLDER does not die"
        sleep 0.02
    done
}

# Pids (as the lab counts them) of all processes of a host: those whose network
# namespace is the host's.
pids_of_host() {
    # shellcheck disable=SC2016  # expanded inside
    in_host "$1" bash -c 'own=$(readlink /proc/self/ns/net)
        for p in /proc/[0-9]*; do
            p=${p#/proc/}
            [ "$p" = $$ ] || [ "$(readlink "/proc/$p/ns/net" 2>/dev/null)" != "$own" ] || echo "$p"
        done' | grep -v '^1$' || true
}
