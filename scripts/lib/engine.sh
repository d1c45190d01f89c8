# shellcheck shell=bash
# A Docker engine of one's own, and the images it cannot pull: nothing of another engine on this machine is seen or
# touched. The caller sets ENGINE, a directory that is kept between runs (layers), and stops what it started.

RUN_ENGINE=/run/mha-compose
export DOCKER_HOST=unix://$RUN_ENGINE/docker.sock
# Debian's client has BuildKit built in; a newer one elsewhere in PATH may want a plugin for it.
export DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=1 PATH=/usr/bin:$PATH

engine_pid() { cat "$RUN_ENGINE/docker.pid" 2>/dev/null; }
engine_alive() { [ "$(cat "/proc/$(engine_pid)/comm" 2>/dev/null)" = dockerd ]; }

# Without its packet rules: with them it sets the FORWARD policy to DROP and has bridged packets filtered, which cuts
# every other bridge of the machine, a lab's too.
start_engine() {
    ! engine_alive || die "an engine of scripts/compose-test runs already (pid $(engine_pid))"
    mkdir -p "$RUN_ENGINE" "$ENGINE/data"
    dockerd --iptables=false --ip6tables=false --ip-forward=false --bridge=none --cgroup-parent mha-compose --data-root "$ENGINE/data" \
        --exec-root "$RUN_ENGINE/exec" --pidfile "$RUN_ENGINE/docker.pid" --host "$DOCKER_HOST" \
        >"$ENGINE/dockerd.log" 2>&1 &
    local deadline=$((SECONDS + 60))
    until docker version >/dev/null 2>&1; do
        kill -0 $! 2>/dev/null || die "dockerd ended: $(tail -n 3 "$ENGINE/dockerd.log")"
        [ $SECONDS -lt $deadline ] || die "dockerd does not answer; see $ENGINE/dockerd.log"
        sleep 0.1
    done
}

# SIGTERM ends it, its containers and its containerd. What it kept in /run and of control groups goes too; images stay.
stop_engine() {
    engine_alive || return 0
    local pid deadline=$((SECONDS + 60))
    pid=$(engine_pid)
    kill "$pid"
    while [ -e "/proc/$pid" ]; do
        [ $SECONDS -lt $deadline ] || die "dockerd (pid $pid) does not end"
        sleep 0.1
    done
    rm -rf "$RUN_ENGINE"
    find /sys/fs/cgroup -depth -type d -path '*/mha-compose*' -exec rmdir {} + 2>/dev/null || true
}

image_exists() { [ -n "$(docker image ls --quiet "$1")" ]; }

# A Debian with packages, as an image. Made once.
debian_image() { # image suite package…
    local image=$1 suite=$2 dir
    shift 2
    ! image_exists "$image" || return 0
    say "making the image $image from Debian $suite (once)"
    dir=$(mktemp -d "$ENGINE/root.XXXXXX")
    debootstrap --variant=minbase "$suite" "$dir" "$(debian_mirror)" >"$ENGINE/debootstrap.log" 2>&1 \
        || die "debootstrap $suite failed: $(tail -n 3 "$ENGINE/debootstrap.log")"
    # No waiting for a disk that is thrown away; no service starts in there; a mirror may be an old snapshot.
    printf 'force-unsafe-io\n' >"$dir/etc/dpkg/dpkg.cfg.d/lab"
    printf 'Acquire::Check-Valid-Until "false";\n' >"$dir/etc/apt/apt.conf.d/lab"
    printf '#!/bin/sh\nexit 101\n' >"$dir/usr/sbin/policy-rc.d"
    chmod 755 "$dir/usr/sbin/policy-rc.d"
    [ $# = 0 ] || chroot "$dir" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" \
        </dev/null >>"$ENGINE/debootstrap.log" 2>&1 || die "installing $* failed: $(tail -n 3 "$ENGINE/debootstrap.log")"
    rm -rf "${dir:?}"/var/{cache/apt,lib/apt/lists}/* "$dir"/usr/share/{doc,man,locale}
    tar -C "$dir" -c . | docker import - "$image" >/dev/null
    rm -rf "$dir"
}

local_images() { # flavor
    debian_image mha-local/debian bookworm
    case $1 in
    mariadb) debian_image mha-local/mariadb bookworm mariadb-server ;;
    # MySQL is in Debian sid only.
    mysql) debian_image mha-local/mysql sid mysql-server-core mysql-client-core ;;
    esac
    # The programs as they are built on this machine.
    local out name path
    out=$(mktemp -d)
    mkdir "$out/out"
    for name in mha-manager mha-agent mhactl writer checker; do
        path=$(program "$name")
        cp "$path" "$out/out/"
    done
    tar -C "$out" -c . | docker import - mha-local/programs >/dev/null
    rm -rf "$out"
}

need_programs() {
    [ -z "${MHA_BIN:-}" ] || return 0
    need_rust
    install_tools gcc:gcc libc6-dev:cc
    (cd "$SCRIPTS/.." && cargo build --release --bins --examples)
}

program() { # name
    local dir path
    dir=$(bin_dir)
    for path in "$dir/$1" "$dir/examples/$1"; do
        [ ! -x "$path" ] || { printf '%s\n' "$path" && return; }
    done
    die "no $1 in $dir, which is MHA_BIN"
}
