# shellcheck shell=bash
# What scripts/systemd-test does and asserts, once its machines are there.

ctl() { on mgr mhactl "$@"; }
sql() { on "$1" "$FLAVOR" -N -B -e "$2"; }
json() { "$PYTHON" -c "import json, sys; it = json.load(sys.stdin); print($1)"; }
now_us() { "$PYTHON" -c 'import time; print(time.monotonic_ns() // 1000)'; }
step() { printf '\n== %s (%ss) ==\n' "$*" "$SECONDS"; }
proven() { printf '    %s\n' "$*"; }

tell() {
    local name
    say "--- status, history and journals of the failed run (all of it: $RUN)"
    ctl status >&2 || true
    ctl history --limit 8 >&2 || true
    for name in "${MACHINES[@]}"; do
        inside journalctl --no-pager -o short-precise --directory="$RUN/$name/root/var/log/journal" >"$RUN/$name/journal" 2>&1 || true
        say "--- $name"
        [ -s "$RUN/$name/journal" ] || tail -n 15 "$RUN/$name/console" >&2 || true
        grep -E 'mha-|mariadb|mysql|systemd\[1\]' "$RUN/$name/journal" | tail -n 25 >&2 || true
    done
}
fail() {
    tell
    die "$*"
}
finish() {
    local code=$?
    [ -z "${WRITER:-}" ] || kill "$WRITER" 2>/dev/null || true
    if [ -n "$KEEP" ] && [ -e "$RUN/env" ]; then
        say "kept; scripts/systemd-test --on mgr mhactl status; scripts/systemd-test --down"
    else
        stop_holder
        [ $code != 0 ] || rm -rf "$RUN"
    fi
    exit $code
}

# Until a command succeeds; says how long it took.
within() { # seconds what command…
    local limit=$1 what=$2 from=$EPOCHREALTIME deadline=$((SECONDS + $1))
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || fail "not within $limit s: $what"
        sleep 0.1
    done
    awk -v a="$from" -v b="$EPOCHREALTIME" -v what="$what" 'BEGIN { printf "    %s: %.1f s\n", what, b - a }'
}
must() { # what command…
    local what=$1
    shift
    "$@" >/dev/null 2>&1 || fail "not so: $what"
    proven "$what"
}

# === furnishing ===

furnish_machines() {
    local name secret
    mkdir -p "$RUN/secrets"
    for secret in admin replication heartbeat app token; do (umask 077 && secret >"$RUN/secrets/$secret"); done
    for name in "${MACHINES[@]}"; do
        {
            echo "127.0.0.1 localhost"
            for host in "${MACHINES[@]}"; do echo "$(address_of "$host") $host"; done
        } | put "$name" /etc/hosts 644
        echo "$name" | put "$name" /etc/hostname 644
        printf '[Match]\nName=host0\n[Network]\nAddress=%s/24\nLinkLocalAddressing=no\n' "$(address_of "$name")" \
            | put "$name" /etc/systemd/network/10-host0.network 644
        give_secrets "$name"
    done
    for name in db1 db2 db3; do furnish_database "$name"; done
    furnish_manager
}

give_secrets() { # machine
    local name=$1 pair
    for pair in admin:admin repl:replication heartbeat:heartbeat agent.token:token; do
        put "$name" "/etc/mha/${pair%%:*}" 640 <"$RUN/secrets/${pair#*:}"
    done
    # As conf/mha-manager.service says.
    inside chroot "$RUN/$name/root" sh -c 'chown -R root:mha /etc/mha && chmod 750 /etc/mha'
}

give_program() { put "$2" "/usr/bin/$1" 755 <"$(program "$1")"; }
give_unit() { put "$2" "/etc/systemd/system/$1" 644 <"$SCRIPTS/../conf/$1"; }

furnish_database() { # machine
    local name=$1
    # The places of the distribution's own unit.
    server_options "$name" /var/lib/mysql /run/mysqld mysql | sed 's/server\.sock/mysqld.sock/; s/server\.pid/mysqld.pid/; /^log_error/d' \
        | put "$name" "/etc/mysql/${UNIT%.service}.conf.d/zz-mha.cnf" 644
    sed "s/^host = .*/host = \"$name\"/; s/mariadb\.service/$UNIT/; s/^#binlog_tool = .*/binlog_tool = [\"$TOOL\"]/" "$SCRIPTS/../conf/agent.toml" \
        | put "$name" /etc/mha/agent.toml 640
    # Each its own server: the package's initialisation made one for all.
    inside rm -f "$RUN/$name/root/var/lib/mysql/auto.cnf"
    give_program mha-agent "$name"
    give_unit mha-agent.service "$name"
    give_unit mha-agent-close.service "$name"
    put "$name" "/etc/systemd/system/$UNIT.d/before-stop.conf" 644 <"$SCRIPTS/../conf/before-stop.conf"
    # As conf/agent.toml says. One is left as Debian has it, so that its agent tells (socket_unit_is_told).
    [ "$FLAVOR" = mysql ] || [ "$name" = db3 ] || inside systemctl --root "$RUN/$name/root" --quiet mask "${UNIT%.service}.socket"
}

furnish_manager() {
    {
        cat <<END
[manager]
listen = "127.0.0.1:8420"

[defaults]
admin       = { user = "mha", password = { file = "/etc/mha/admin" } }
replication = { user = "mha_repl", password = { file = "/etc/mha/repl" } }
heartbeat   = { user = "mha_heartbeat", password = { file = "/etc/mha/heartbeat" } }
agent_token = { file = "/etc/mha/agent.token" }
budget      = { failovers = 20, window = "30m" }

[[cluster]]
name = "lab"
mode = "auto"
vip  = { address = "$(address_of vip)/24", interface = "host0" }
END
        for host in db1 db2 db3; do printf '\n[[cluster.instance]]\nhost = "%s"\n' "$host"; done
    } | put mgr /etc/mha/manager.toml 640
    inside chroot "$RUN/mgr/root" chown root:mha /etc/mha/manager.toml
    give_program mha-manager mgr
    give_program mhactl mgr
    give_unit mha-manager.service mgr
    inside systemctl --root "$RUN/mgr/root" --quiet mask "$UNIT"
}

first_systemd() {
    local name
    for name in "${MACHINES[@]}"; do
        [ "$(on "$name" cat /proc/1/comm)" = systemd ] || fail "the first process of $name is no systemd"
        on "$name" systemctl is-system-running --quiet || fail "$name: $(on "$name" systemctl --failed --no-legend)"
    done
    proven "the first process of each is $(on db1 systemctl --version | head -n 1); every unit runs"
}

# The servers as an operator has them before: db1 leads, the others follow it.
replicate_first() {
    local name
    for name in db1 db2 db3; do
        within 60 "$UNIT runs on $name" on "$name" systemctl is-active --quiet "$UNIT"
        # What the package's own initialisation wrote has no GTID.
        [ "$FLAVOR" = mariadb ] || sql "$name" "SET GLOBAL super_read_only = OFF; RESET BINARY LOGS AND GTIDS"
        { echo "SET sql_log_bin = 0;" && accounts_sql "$RUN/secrets"; } | on "$name" "$FLAVOR"
    done
    local password
    password=$(cat "$RUN/secrets/replication")
    if [ "$FLAVOR" = mysql ]; then
        for name in db2 db3; do
            sql "$name" "SET GLOBAL super_read_only = ON; CHANGE REPLICATION SOURCE TO SOURCE_HOST='db1', SOURCE_USER='mha_repl',
                SOURCE_PASSWORD='$password', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1, SOURCE_CONNECT_RETRY=1,
                SOURCE_RETRY_COUNT=86400, SOURCE_HEARTBEAT_PERIOD=0.5; SET GLOBAL rpl_semi_sync_replica_enabled = ON; START REPLICA"
        done
        sql db1 "SET GLOBAL rpl_semi_sync_source_timeout = 4294967295; SET GLOBAL rpl_semi_sync_source_enabled = ON; SET GLOBAL read_only = OFF"
        return
    fi
    for name in db2 db3; do
        sql "$name" "CHANGE MASTER TO MASTER_HOST='db1', MASTER_USER='mha_repl', MASTER_PASSWORD='$password',
            MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD=0.5;
            SET GLOBAL rpl_semi_sync_slave_enabled = ON; START SLAVE"
    done
    sql db1 "SET GLOBAL rpl_semi_sync_master_timeout = 4294967295; SET GLOBAL rpl_semi_sync_master_enabled = ON; SET GLOBAL read_only = OFF"
}

enable_units() {
    local name
    for name in db1 db2 db3; do
        on "$name" systemctl enable --now --quiet mha-agent-close.service mha-agent.service \
            || fail "systemctl enable --now on $name"
    done
    on mgr systemctl enable --now --quiet mha-manager.service || fail "systemctl enable --now mha-manager"
    for name in db1 db2 db3; do must "mha-agent is active on $name" on "$name" systemctl is-active mha-agent.service; done
    must "mha-manager is active on mgr" on mgr systemctl is-active mha-manager.service
}

# Its agent tells of the socket unit, and what it says mends it.
socket_unit_is_told() { # machine
    local socket=${UNIT%.service}.socket
    on "$1" systemctl is-active --quiet "$socket" || return 0
    within 10 "the agent of $1 tells of $socket" eval "on $1 journalctl --no-pager --unit mha-agent.service | grep -q 'systemctl mask --now $socket'"
    on "$1" systemctl mask --now --quiet "$socket"
    on "$1" systemctl restart "$UNIT"
    within 30 "$1 is well without it" healthy
}

# === asking the manager ===

healthy() { ctl status; }
# A replica that has just returned is healthy before it counts again: until it was level with the primary, a failover is refused, rightly.
loses_nothing() { status_json | json 'it["prospect"]' | grep -q "if [^ ']* died now: [^ ]* would lead, nothing acknowledged lost\($\|;\)"; }
# Status is not healthy right after a failover, and tells all the same.
status_json() { ctl status --json || true; }
leader() { status_json | json 'it["primary"]'; }
leads_other_than() { [ "$(leader)" != "$1" ] && [ "$(leader)" != None ]; }
replica_but() { for name in db1 db2 db3; do [ "$name" = "$1" ] || [ "$name" = "$(leader)" ] || { echo "$name" && return; }; done; }
verdict() { status_json | json 'it["decision"]["diagnosis"]["verdict"]'; }
operations() { ctl history --limit 100 --json | json 'len(it["recoveries"])'; }

adopt() {
    within 20 "the manager sees db1 lead" leads_other_than None
    ctl adopt lab --primary db1 --yes || fail "adoption"
    within 60 "the cluster is healthy" healthy
    ctl status
}

another_leads() { # than
    within 30 "another leads than $1" leads_other_than "$1"
    within 20 "the client writes on $(leader)" acked_by "$(leader)"
}

# === the client ===

start_writer() {
    LOG=$RUN/writer.log
    # The process itself, so that it is what is ended.
    nsenter -t "$HOLDER" -n -- "$(program writer)" --host "$(address_of vip)" --password-file "$RUN/secrets/app" --log "$LOG" --rate 200 &
    WRITER=$!
    within 20 "the first write through the VIP" acked_by db1
}
acked_by() { tail -n 1 "$LOG" | grep -q "\"kind\":\"ack\".*\"server\":${1#db},"; }
# The longest time without an acknowledgement since then, in ms.
gap_since() { # us
    "$PYTHON" - "$LOG" "$1" <<'END'
import json, sys
at = [r["at_us"] for r in map(json.loads, open(sys.argv[1])) if r["kind"] == "ack"]
print(round(max(b - a for a, b in zip(at, at[1:]) if b >= int(sys.argv[2])) / 1000, 1))
END
}

PHASES=() FROM=() OLD=()
begin() { # name old-primary
    PHASES+=("$1") OLD+=("${2#db}") FROM+=("$(now_us)")
}

# Findings of each phase: its own part of the log, compared with the final rows.
judge() {
    local n part until bad=0
    kill "$WRITER"
    wait "$WRITER" 2>/dev/null || true
    WRITER=
    sql "$(leader)" 'SELECT client, n, server FROM app.writes' >"$RUN/rows"
    printf '\n%-16s %9s %9s %7s %5s %7s %6s\n' phase "outage ms" "limit ms" acked lost doubled split
    for n in "${!PHASES[@]}"; do
        part=$RUN/log.$n until=${FROM[n + 1]:-99999999999999999}
        awk -F '"at_us":' -v from="$([ "$n" = 0 ] || echo "${FROM[n - 1]}")" -v to="$until" \
            '{ split($2, at, ","); if (at[1] + 0 > from + 0 && at[1] + 0 < to + 0) print }' "$LOG" >"$part"
        "$(program checker)" --log "$part" --rows "$RUN/rows" --fault-us "${FROM[n]}" --old "${OLD[n]}" >"$RUN/found.$n" || true
        "$PYTHON" - "$RUN/found.$n" "${PHASES[n]}" "${LIMIT_MS[${PHASES[n]}]}" <<'END' || bad=1
import json, sys
found, phase, limit = json.load(open(sys.argv[1])), sys.argv[2], float(sys.argv[3])
outage = found["outage_ms"]
print(f"{phase:<16} {'none' if outage is None else round(outage, 1):>9} {limit:>9.0f} "
      f"{found['acked']:>7} {found['lost']:>5} {found['duplicated']:>7} {found['split']:>6}")
sys.exit(not (outage is not None and outage <= limit and not (found["lost"] or found["duplicated"] or found["split"])))
END
    done
    [ $bad = 0 ] || fail "see the table: an outage above its limit, or rows lost, doubled or split"
}
# What a machine with other work may take.
declare -A LIMIT_MS=([crash]=500 [power]=7000 [stop]=600 [restart]=600 [shutdown]=600 [agent-stop]=600 [mhactl]=600 [upgrade]=600
    [planned]=8000 [overrun]=9000 [in-vain]=20000)

# === (b) ===

has_rebooted() { [ "$(on_if_up "$1" cat /proc/sys/kernel/random/boot_id)" != "${BOOT[$1]}" ]; }
declare -A BOOT
note_boot() { BOOT[$1]=$(on "$1" cat /proc/sys/kernel/random/boot_id); }
shows() { on "$1" systemctl show --property="$3" --value "$2"; }
# What a client on the network meets: refused, late, or the fifth byte of a greeting, which is the protocol's version.
meets() { # machine
    # shellcheck disable=SC2016  # expanded inside
    on_bridge timeout 2 bash -c 'exec 3<>"/dev/tcp/$1/3306" || exit 1; [ "$(head -c 5 <&3 | tail -c 1 | od -An -tu1)" -eq 10 ]' \
        greeting "$(address_of "$1")" 2>"$RUN/met" && echo greeted && return
    grep -q refused "$RUN/met" && echo refused && return
    echo late
}
greeted() { [ "$(meets "$1")" = greeted ]; }

boot_is_closed() { # replica
    local name=$1 closed started
    must "a client reaches $name before" greeted "$name"
    # Its agent is kept from starting, so that the closed time is as long as one likes.
    on "$name" systemctl disable --quiet mha-agent.service
    note_boot "$name"
    on_if_up "$name" systemctl reboot || true
    within 60 "$name is down" has_rebooted "$name"
    within 60 "$UNIT runs on $name" on "$name" systemctl is-active --quiet "$UNIT"
    within 20 "the server answers its own socket" sql "$name" "SELECT 1"
    must "the agent does not run" test "$(on "$name" systemctl is-active mha-agent.service)" = inactive
    closed=$(shows "$name" mha-agent-close.service ExecMainExitTimestampMonotonic)
    started=$(shows "$name" "$UNIT" ExecMainStartTimestampMonotonic)
    { [ "$closed" -gt 0 ] && [ "$closed" -lt "$started" ]; } || fail "closed at $closed, the server started at $started (us since boot)"
    proven "closed $(((started - closed) / 1000)) ms before the server's process was started"
    for _ in 1 2 3 4 5; do
        [ "$(meets "$name")" = refused ] || fail "a client of $name, where no agent has spoken: $(meets "$name")"
        sleep 0.2
    done
    proven "a client is refused while the server runs and no agent has spoken"
    on "$name" systemctl enable --now --quiet mha-agent.service
    within 30 "a client is greeted, by the agent's word" greeted "$name"
    within 60 "the cluster is healthy" healthy
}

# === (c) ===

# MariaDB without init_rpl_role would keep what was never acknowledged in its recovery; and nobody else passes that.
started_by_its_agent() { # machine
    must "$UNIT is active on $1" on "$1" systemctl is-active "$UNIT"
    local said
    { ctl history --limit 5 || true; } | grep -q "start $1 again, fenced" || fail "the history has no start of $1"
    [ "$FLAVOR" = mariadb ] || return 0
    # shellcheck disable=SC2016  # expanded inside
    said=$(on "$1" bash -c 'tr "\0" " " </proc/"$(cat /run/mysqld/mysqld.pid)"/cmdline')
    case $said in *--init-rpl-role=SLAVE*) ;; *) fail "$1 was not started by its agent, but: $said" ;; esac
    proven "its agent started it: $said"
    must "nothing of systemd's environment is left" test -z "$(on "$1" systemctl show-environment | grep MYSQLD_OPTS)"
}

# Nobody starts a replica's server that its operator stopped.
stays_stopped() { # replica
    local name=$1
    on "$name" systemctl stop "$UNIT" || fail "systemctl stop $UNIT on $name"
    sleep 4
    [ "$(on "$name" systemctl is-active "$UNIT")" = inactive ] || fail "$name: somebody started what was stopped: $(ctl history --limit 1)"
    proven "a replica's server that was stopped stays stopped"
    on "$name" systemctl start "$UNIT" || fail "systemctl start $UNIT on $name"
    within 60 "started by its operator it is a replica, the cluster is healthy" healthy
}

# === (d) ===

restarts_unseen() { # primary
    local name=$1 from before gap pid
    from=$(now_us) before=$(operations) pid=$(shows "$name" mha-agent.service MainPID)
    on "$name" systemctl restart mha-agent.service || fail "systemctl restart mha-agent on $name"
    sleep 4 # longer than the lease
    [ "$(shows "$name" mha-agent.service MainPID)" != "$pid" ] || fail "the agent of $name is the same process"
    { [ "$(leader)" = "$name" ] && [ "$(operations)" = "$before" ]; } || fail "something was done: $(ctl history --limit 3)"
    within 10 "the cluster is healthy" healthy
    gap=$(gap_since "$from")
    awk -v gap="$gap" 'BEGIN { exit !(gap < 300) }' || fail "clients waited $gap ms"
    proven "no operation, the longest time without an acknowledgement was $gap ms"
}

# === (e) ===

# No word to anything in it, as when a plug is drawn.
cut_power() { # machine
    inside kill -KILL "$(first_process "$1")"
    within 20 "$1 is off" is_off "$1"
}

# === handoff ===

# A switchover that a service manager asked for, not a failover, is the last but rejoins.
handed_over() { # from reason
    ctl history --limit 5 | grep -q "switchover $1 -> .*, asked for by $2" || fail "$1 was not handed over: $(ctl history --limit 5)"
    proven "handed over: $(ctl history --limit 5 | grep -o "switchover $1 -> db[0-9]" | head -n 1)"
}

stop_hands_over() { # phase systemctl-arguments… ; the primary's server is stopped or restarted
    local phase=$1 old from
    shift
    old=$(leader)
    begin "$phase" "$old"
    from=$EPOCHREALTIME
    on "$old" systemctl "$@" "$UNIT" || fail "systemctl $* $UNIT on $old"
    awk -v a="$from" -v b="$EPOCHREALTIME" -v what="systemctl $* $UNIT" 'BEGIN { printf "    %s: %.1f s\n", what, b - a }'
    another_leads "$old"
    handed_over "$old" "the service manager of $old"
}

says_agent() { # machine key value
    on "$1" sed -i "s/^#\\?$2 = .*/$2 = \"$3\"/" /etc/mha/agent.toml
}

agent_stop_hands_over() {
    local old
    old=$(leader)
    begin agent-stop "$old"
    on "$old" systemctl stop mha-agent.service || fail "systemctl stop mha-agent on $old"
    another_leads "$old"
    handed_over "$old" "the service manager of $old"
    on "$old" systemctl start mha-agent.service
    within 30 "its agent is back, the cluster is healthy" healthy
}

# Nobody takes over; clients wait as long as the restart takes.
planned_restart() {
    local old from before gap
    old=$(leader)
    says_agent "$old" on_stop planned-restart
    on "$old" systemctl restart mha-agent.service
    within 30 "the cluster is healthy" healthy
    from=$(now_us) before=$(operations)
    on "$old" systemctl restart "$UNIT" || fail "systemctl restart $UNIT on $old"
    within 20 "the client writes again" written_since "$(now_us)"
    [ "$(leader)" = "$old" ] || fail "$old does not lead after its planned restart"
    within 30 "the cluster is healthy" healthy
    ! ctl history --limit "$(($(operations) - before + 1))" | grep -q 'failover of' || fail "a failover: $(ctl history --limit 3)"
    gap=$(gap_since "$from")
    proven "$old leads again, nobody took over; the longest time without an acknowledgement was $gap ms"
}
written_since() { tail -n 1 "$LOG" | grep -q '"kind":"ack"' && [ "$(tail -n 1 "$LOG" | json 'it["at_us"]')" -gt "$1" ]; }

# A planned restart that takes longer than it was given.
overruns() {
    local old
    old=$(leader)
    says_agent "$old" restart_window 3s
    on "$old" systemctl restart mha-agent.service
    within 30 "the cluster is healthy" healthy
    begin overrun "$old"
    # Not waited for: MySQL may take longer to stop than the window is.
    on "$old" systemctl stop --no-block "$UNIT" || fail "systemctl stop $UNIT on $old"
    sleep 1
    [ "$(leader)" = "$old" ] || fail "another led before the window was over"
    { ctl status || true; } | sed -n 2p
    another_leads "$old"
    says_agent "$old" on_stop handoff
    on "$old" systemctl restart mha-agent.service
    on "$old" systemctl start "$UNIT"
    within 60 "started again it is a replica, the cluster is healthy" healthy
}

# There is nobody to hand over: the stop waits no longer than it may, and no client is connected when the server ends.
hands_over_in_vain() {
    local old from took most=9
    # MySQL gives the sessions of a server with replicas 10 s to end, also where none is left.
    [ "$FLAVOR" = mariadb ] || most=18
    old=$(leader)
    says_agent "$old" handoff_within 3s
    on "$old" systemctl restart mha-agent.service
    within 30 "the cluster is healthy" healthy
    on mgr systemctl stop mha-manager.service
    begin in-vain "$old"
    from=$EPOCHREALTIME
    on "$old" systemctl stop "$UNIT" || fail "systemctl stop $UNIT on $old"
    took=$(awk -v a="$from" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
    awk -v took="$took" -v most="$most" 'BEGIN { exit !(took >= 3 && took < most) }' || fail "the stop took $took s"
    on "$old" journalctl --no-pager --unit mha-agent.service | grep -q 'nobody took over from .* it is closed' || fail "the agent of $old did not close it"
    proven "the stop took $took s; its agent closed it first"
    on mgr systemctl start mha-manager.service
    another_leads "$old"
    on "$old" systemctl start "$UNIT"
    within 60 "started again it is a replica, the cluster is healthy" healthy
}

mhactl_hands_over() {
    local old
    old=$(leader)
    ctl handoff "$(replica_but "$old")" | grep 'nothing is to be handed over' || fail "mhactl handoff of a replica"
    ctl handoff "$old" --dry-run >/dev/null || fail "mhactl handoff --dry-run"
    begin mhactl "$old"
    ctl handoff "$old" --deadline 20s --yes >/dev/null || fail "mhactl handoff $old"
    another_leads "$old"
    handed_over "$old" somebody
    within 30 "the cluster is healthy" healthy
}

# The package's scripts stop the unit and start it, as with every upgrade.
upgrade_hands_over() {
    local old package
    old=$(leader)
    package=$(on "$old" bash -c "dpkg -S {/usr,}/lib/systemd/system/$UNIT 2>/dev/null | head -n 1 | cut -d : -f 1")
    begin upgrade "$old"
    on "$old" bash -c "DEBIAN_FRONTEND=noninteractive dpkg --install /var/cache/server/${package}_*.deb" >"$RUN/dpkg.log" 2>&1 \
        || fail "dpkg on $old: $(tail -n 3 "$RUN/dpkg.log")"
    another_leads "$old"
    handed_over "$old" "the service manager of $old"
    [ "$FLAVOR" = mariadb ] || package_wrote "$old"
    within 60 "$package installed, it is a replica, the cluster is healthy" healthy
}

# Debian's MySQL changes an account of its own at each upgrade, with the binary log on: that server has what no other has. It is kept
# aside and told; what an operator does about a statement that means nothing to the others is to give them its number.
package_wrote() { # machine
    local name=$1 here set
    within 60 "$name is parked for what its package wrote" eval "{ ctl status || true; } | grep -q '$name is parked: .*ALTER USER'"
    # Its client writes a line's end as two characters.
    here=$(sql "$name" 'SELECT @@gtid_executed')
    set=$(sql "$(leader)" "SELECT GTID_SUBTRACT('${here//\\n/}', @@gtid_executed)")
    case $set in '' | *,* | *:*-*) fail "one transaction of $name was expected, and it has \"$set\"" ;; esac
    sql "$(leader)" "SET GTID_NEXT = '$set'; BEGIN; COMMIT; SET GTID_NEXT = AUTOMATIC"
    within 30 "$name is given back" ctl unpark "$name"
}
