# shellcheck shell=bash
# The fault verbs of the catalogue. Packet faults are rules of one table, inet
# lab, in the receiving host's network namespace, before any rule of the agent.

signal_server() { in_host "$2" kill "-$1" "$(server_pid "$2")"; }

signal_host() {
    local pids
    pids=$(pids_of_host "$2")
    # shellcheck disable=SC2086  # a list of pids
    [ -z "$pids" ] || in_host "$2" kill "-$1" $pids 2>/dev/null || true
}

# Append a rule to the input chain of a host.
rule() { # host rule…: of what comes over the wire; a reset by the host's own filter in a peer's name comes over lo
    local host=$1
    shift
    in_host "$host" nft -f - <<END
add table inet lab
add chain inet lab input { type filter hook input priority -300; }
add rule inet lab input iifname != "lo" $*
END
}

heal_host() {
    in_host "$1" nft 'add table inet lab; delete table inet lab' 2>/dev/null || true
    in_host "$1" ip link set eth0 up
    signal_host CONT "$1"
}

# A program's name is mha-manager or mha-agent: its pid is kept at its start.
start_program() { # host program arguments…
    local host=$1 program=$2 bin
    shift 2
    bin=$(bin_dir)/$program
    [ -x "$bin" ] || die "no $bin: build it (cargo build --release) or set MHA_BIN"
    ! program_alive "$host" "$program" || return 0
    # shellcheck disable=SC2016  # expanded inside
    in_host "$host" bash -c 'mkdir -p "/run/mha-$1"; setsid "${@:4}" </dev/null >>"$2/$3.log" 2>&1 & echo $! >"$2/$3.pid"' \
        start "$host" "$LAB/$host" "$program" "$(realpath "$bin")" "$@"
}
program_pid() { cat "$LAB/$1/$2.pid" 2>/dev/null; }
program_alive() {
    local pid
    pid=$(program_pid "$1" "$2") && in_host "$1" grep -qs "$2" "/proc/$pid/comm"
}
signal_program() { # signal host program
    local pid
    pid=$(program_pid "$2" "$3") || die "$3 was never started on $2"
    in_host "$2" kill "-$1" "$pid"
    [ "$1" = KILL ] || return 0
    # Whoever starts it next must not find the one that is going.
    local _
    for _ in $(seq 250); do
        program_alive "$2" "$3" || return 0
        sleep 0.02
    done
    die "$3 of $2 (pid $pid) was killed and is still there"
}
start_agent() { start_program "$1" mha-agent -c "$LAB/$1/agent.toml"; }
start_manager() { start_program mgr mha-manager -c "$LAB/mgr/manager.toml"; }

fault() { # verb arguments…
    local verb=$1
    shift
    case $verb in
    kill9) signal_server KILL "$@" ;;
    term) signal_server TERM "$@" ;;
    stop) signal_server STOP "$@" ;;
    cont) signal_server CONT "$@" ;;
    full) # what is there stays, and next to nothing more
        in_host "$1" bash -s "$LAB/$1/data" <<'END'
mount -o "remount,size=$(($(df -k --output=used "$1" | tail -n 1) + 512))k" "$1"
END
        ;;
    room) in_host "$1" mount -o "remount,size=$DISK" "$LAB/$1/data" ;;
    freeze) signal_host STOP "$@" ;;
    thaw) signal_host CONT "$@" ;;
    down-link) in_host "$1" ip link set eth0 down ;;
    up-link) in_host "$1" ip link set eth0 up ;;
    cut) fault cut1 "$1" "$2" && fault cut1 "$2" "$1" ;;
    cut1) rule "$2" ip saddr "$(address_of "$1")" drop ;;
    rej) # resets themselves pass, or neither side would see the other's
        rule "$2" ip saddr "$(address_of "$1")" tcp flags "&" rst == 0 reject with tcp reset
        rule "$1" ip saddr "$(address_of "$2")" tcp flags "&" rst == 0 reject with tcp reset
        ;;
    port) rule "$2" ip saddr "$(address_of "$1")" tcp dport "$3" drop ;;
    loss) rule "$2" ip saddr "$(address_of "$1")" numgen random mod 100 "<" "$3" drop ;;
    heal) in_parallel heal_host "${HOSTS[@]}" mgr client ;;
    kill-agent) signal_program KILL "$1" mha-agent ;;
    start-agent) start_agent "$1" ;;
    stop-agent) signal_program STOP "$1" mha-agent ;;
    cont-agent) signal_program CONT "$1" mha-agent ;;
    kill-manager) signal_program KILL mgr mha-manager ;;
    start-manager) start_manager ;;
    stop-manager) signal_program STOP mgr mha-manager ;;
    cont-manager) signal_program CONT mgr mha-manager ;;
    *) return 64 ;;
    esac
}
