# shellcheck shell=bash
# Machines with a real systemd as their first process: systemd-nspawn over a Debian root that is bootstrapped once, each
# machine on an overlay of its own, on a bridge in a network namespace nobody else has. One holder process owns all of it:
# killing it ends every machine, mount and link. The caller sets CACHE, RUN, FLAVOR and MACHINES.

NET=10.78.0
ROOT_PACKAGES=systemd,systemd-sysv,dbus,nftables,iproute2,procps,ca-certificates
# Two hierarchies of control groups where the machine has the old ones: systemd's own and the unified one.
cgroup_roots() {
    local at
    for at in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
        [ ! -e "$at/cgroup.procs" ] || printf '%s\n' "$at"
    done
}

address_of() {
    case $1 in
    mgr) printf '%s.10\n' "$NET" ;;
    vip) printf '%s.100\n' "$NET" ;;
    db[1-9]) printf '%s.%d\n' "$NET" "$((10 + ${1#db}))" ;;
    *) die "no machine $1" ;;
    esac
}

root_of_flavor() { printf '%s/%s-2\n' "$CACHE" "$FLAVOR"; }

# Bootstrapped once, in an overlay that takes no sync seriously: dpkg's thousands of them are most of the time otherwise.
make_root() {
    local root suite=bookworm server=mariadb-server work
    root=$(root_of_flavor)
    [ ! -d "$root" ] || return 0
    [ "$FLAVOR" = mariadb ] || suite=sid server=mysql-server
    say "bootstrapping Debian $suite with systemd and $server into $root (once, a minute or two)"
    work=$(mktemp -d "$CACHE/making.XXXXXX")
    mkdir "$work"/{none,root,overlay,merged}
    make_root_in "$work" "$suite" "$server" || {
        umount "$work/merged" 2>/dev/null
        tail -n 5 "$work/log" >&2
        die "bootstrapping failed; its log is $work/log"
    }
    umount "$work/merged"
    mv -T "$work/root" "$root"
    rm -rf "$work"
}

make_root_in() { # work suite server
    local work=$1 new=$1/merged
    mount -t overlay overlay -o "lowerdir=$work/none,upperdir=$work/root,workdir=$work/overlay,volatile" "$new" || return
    debootstrap --variant=minbase --include="$ROOT_PACKAGES,$3" "$2" "$new" "$(debian_mirror)" >"$work/log" 2>&1 || return
    # The user of mha-manager.service. The network comes up as on a Debian that uses systemd's own.
    chroot "$new" useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin mha || return
    systemctl --root "$new" --quiet enable systemd-networkd.service systemd-networkd-wait-online.service || return
    systemctl --root "$new" --quiet mask console-getty.service systemd-timesyncd.service || return
    : >"$new/etc/machine-id"
    # The server's own package stays, to be installed anew: what an upgrade does to its unit.
    mkdir "$new/var/cache/server"
    mv "$new"/var/cache/apt/archives/"${3%%-*}"-server*.deb "$new/var/cache/server/" || return
    rm -rf "${new:?}"/var/{cache/apt/*,lib/apt/lists/*} "$new"/usr/share/{doc,man,locale} "$new/etc/hostname"
    mkdir -p "$new/var/log/journal"
}

# === the holder ===

holder_alive() { [ -n "${HOLDER:-}" ] && [ -e "/proc/$HOLDER/ns/net" ] && [ "$(readlink "/proc/$HOLDER/ns/net")" = "$HOLDER_NET" ]; }
inside() { nsenter -t "$HOLDER" -m -n -p -- "$@"; }
# Where clients are: on the bridge, with no machine between.
on_bridge() { nsenter -t "$HOLDER" -n -- "$@"; }

holder_main() { # run-directory root machine…
    local run=$1 root=$2 name
    shift 2
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 tmpfs /run
    ip link set lo up
    ip link add br0 type bridge forward_delay 0
    ip addr add "$NET.1/24" dev br0
    ip link set br0 up
    for name in "$@"; do
        mkdir -p "$run/$name"/{upper,work,root}
        mount -t overlay overlay -o "lowerdir=$root,upperdir=$run/$name/upper,workdir=$run/$name/work" "$run/$name/root"
    done
    : >"$run/ready"
    exec env --ignore-signal=CHLD sleep infinity
}

start_holder() {
    local starter deadline=$((SECONDS + 20))
    setsid unshare --mount --net --pid --fork --mount-proc bash "$0" __holder "$RUN" "$(root_of_flavor)" "${MACHINES[@]}" \
        </dev/null >"$RUN/holder.log" 2>&1 &
    starter=$!
    disown "$starter"
    until [ -e "$RUN/ready" ]; do
        kill -0 "$starter" 2>/dev/null || die "cannot make namespaces: $(tail -n 1 "$RUN/holder.log")"
        [ $SECONDS -lt $deadline ] || die "namespaces not ready after 20 s; see $RUN/holder.log"
        sleep 0.05
    done
    HOLDER=$(cat "/proc/$starter/task/$starter/children")
    HOLDER=${HOLDER%% *}
    HOLDER_NET=$(readlink "/proc/$HOLDER/ns/net")
    printf 'HOLDER=%s\nHOLDER_NET=%s\n' "$HOLDER" "$HOLDER_NET" >"$RUN/env"
}

stop_holder() {
    holder_alive || return 0
    local deadline=$((SECONDS + 20)) at
    kill -KILL "$HOLDER"
    while [ -e "/proc/$HOLDER" ]; do
        [ $SECONDS -lt $deadline ] || die "the holder $HOLDER does not die"
        sleep 0.05
    done
    for at in $(cgroup_roots); do
        find "$at/mha-systemd-${RUN##*.}" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
}

# === machines ===

# Each in control groups of its own, as each takes them for its own root. A machine that reboots ends its nspawn with 133.
boot() { # machine
    local name=$1 at groups=()
    for at in $(cgroup_roots); do
        groups+=("$at/mha-systemd-${RUN##*.}/$name")
        mkdir -p "${groups[-1]}"
    done
    # shellcheck disable=SC2016  # expanded inside
    inside setsid bash -c 'run=$1 name=$2; shift 2
        while :; do
            (
                for group; do echo $BASHPID >"$group/cgroup.procs"; done
                echo $BASHPID >"$run/$name/nspawn.pid"
                # Of the two kinds of control groups the one that newer systemds insist on.
                export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
                exec systemd-nspawn --quiet --boot --register=no --keep-unit --directory="$run/$name/root" --machine="$name" \
                    --network-bridge=br0 --kill-signal=SIGRTMIN+3
            )
            [ $? = 133 ] || break
        done' machine "$RUN" "$name" "${groups[@]}" </dev/null >>"$RUN/$name/console" 2>&1 &
    disown $!
}

# The machine's first process, by the holder's count; nothing while it is off.
first_process() { # machine
    # shellcheck disable=SC2016  # expanded inside
    inside bash -c 'pid=$(cat "$1/nspawn.pid") && read -ra of <<<"$(cat "/proc/$pid/task/$pid/children")" && [ -n "${of[0]:-}" ] && echo "${of[0]}"' \
        machine "$RUN/$1" 2>/dev/null
}

is_off() { ! first_process "$1" >/dev/null; }

on() { # machine command…
    local name=$1 first
    shift
    first=$(first_process "$name") || return 1
    inside nsenter -t "$first" -m -u -i -n -p -r -w -- env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"
}

# The same in a machine that may be shutting down. systemd stops every process there (SIGSTOP) before it ends them; nsenter stops with its
# child and is never continued, so the machine cannot end. timeout continues what it ends.
on_if_up() { # machine command…
    local name=$1 first
    shift
    first=$(first_process "$name") || return 1
    inside timeout 3 nsenter -t "$first" -m -u -i -n -p -r -w -- env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"
}

booted() { # machine
    case $(on "$1" systemctl is-system-running 2>/dev/null) in running | degraded) ;; *) return 1 ;; esac
}

# A file of a machine, written before or while it runs.
put() { # machine path mode   (content on stdin)
    local at=$RUN/$1/root$2
    # shellcheck disable=SC2016  # expanded inside
    inside bash -c 'mkdir -p "${1%/*}" && cat >"$1" && chmod "$2" "$1"' put "$at" "$3"
}
