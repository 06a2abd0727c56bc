# shellcheck shell=bash
# shellcheck disable=SC2034 # the variables are for those who source this
# What the scripts beside this file share. Sourced, never run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
STATE=$ROOT/.ash
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
# Tests let programs die where it hurts: what they are and what they run is built with these.
DEV_FEATURES=ashd/faults
CLI_VERSION=2.1.197

# The sockets' directory: short, because a socket's path must stay under 108 bytes, and one per
# checkout, so that two checkouts do not meet.
RUN_DIR=/run/ash-dev-$(printf %s "$ROOT" | sha256sum | cut -c1-8)

say() {
    printf 'ash: %s\n' "$*"
}

die() {
    say "$*" >&2
    exit 1
}

# The Claude Code CLI to use: the one pointed at, else the one that install-deps.sh fetches.
cli() {
    printf '%s\n' "${CLAUDE_CODE_EXECUTABLE:-$STATE/runtime/$CLI_VERSION/claude}"
}

have() {
    command -v "$1" >/dev/null 2>&1
}

need_root() {
    [ "$(id -u)" -eq 0 ] || die "must run as root: sandboxes need namespaces and uids of their own"
}

# Limits need a cgroup that is ours, and its controllers handed down to it; on a systemd host a
# delegated scope is both. Runs the script again in one, with these arguments.
enter_scope() {
    [ -d /run/systemd/system ] && [ -z "${ASH_DEV_SCOPE:-}" ] || return 0
    exec systemd-run --quiet --scope --property=Delegate=yes -- env ASH_DEV_SCOPE=1 "$0" "$@"
}

need_rust() {
    have cargo || die "cargo is missing; install Rust with rustup, the toolchain then installs itself"
}

# Installs a program that cargo knows how to build into .ash/tools, unless it is here. It runs for
# seconds: how long it is built counts for more than how fast it is.
need_tool() {
    PATH=$STATE/tools/bin:$PATH
    have "$1" && return 0
    say "installing $1 into .ash/tools"
    CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG=0 \
        cargo install --quiet --locked --root "$STATE/tools" "$1@$2" || return
    hash -r
}
