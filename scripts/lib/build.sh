# shellcheck shell=bash
# What building needs: Rust from its own installer, a C compiler for SQLite.

need_rust() {
    command -v cargo >/dev/null && return
    [ -x "$HOME/.cargo/bin/cargo" ] && PATH=$HOME/.cargo/bin:$PATH && return
    echo "Rust is missing. Install it with \"curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh\", then run this again." >&2
    exit 3
}

# package:command for each tool; missing ones are installed, or named when that needs root.
install_tools() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair#*:}" >/dev/null || missing+=("${pair%%:*}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        echo "These packages are missing; install them and run this again:" >&2
        echo "  sudo apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 3
    fi
    echo "installing ${missing[*]}"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null
}
