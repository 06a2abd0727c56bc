#!/usr/bin/env bash
# Installs what packages hold, or removes it again: `install.sh install`, `install.sh uninstall`.
# Without DESTDIR also does on this system what the packages' scripts do. `install.sh payload` makes
# what is installed, for a machine that has no cargo.
#
#   DESTDIR  directory that stands for /
#   PREFIX   beneath which things are (/usr/local); what D-Bus and polkit read stays beneath /usr, where
#            they look for it, and what systemd reads beneath /usr/local, unless PREFIX is /usr
#   BUILT    directory of programs that are built already; without it they are built for release
#   PAYLOAD  directory of what `install.sh payload` made, on whatever machine: nothing is built then
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/payload.sh
. "$ROOT/scripts/payload.sh"
# shellcheck source=packaging/common.sh
. "$ROOT/packaging/common.sh"

# The services see no homes, and a /tmp of their own.
check_prefix() {
    case $PREFIX/ in
        /home/* | /root/* | /run/* | /tmp/* | /var/tmp/*)
            die "the services of ash would not see PREFIX=$PREFIX; /usr/local or /opt/ash will do"
            ;;
        *[!A-Za-z0-9/._+-]* | [!/]*)
            die "PREFIX=$PREFIX is no absolute path of letters, digits and any of ._+-"
            ;;
    esac
}

# Into target/payload, which goes with this checkout to the other machine.
keep_payload() {
    local out=$ROOT/target/payload program
    rm -rf "$out"
    mkdir -p "$out/bin"
    payload "$work"
    stage third-party >"$made/third-party"
    cp -r "$made" "$out/made"
    while read -r program; do
        strip -o "$out/bin/$program" "$bin/$program"
    done < <(sed -n 's/^bin:\([^ ]*\) .*/\1/p' packaging/files)
    say "made target/payload; with this checkout, PAYLOAD=target/payload make install needs no cargo"
}

install_all() {
    local next=restart_running
    if is_new; then next=say_next; fi
    stage install "${DESTDIR:-/}" --prefix "$PREFIX"
    [ -z "$DESTDIR" ] || return 0
    copy_bwrap
    configure
    $next
}

uninstall_all() {
    [ -n "$DESTDIR" ] || { stop_all && rm -f "$lib/bwrap"; }
    [ -n "$DESTDIR" ] || remove_empty /etc/ash/ashd.toml.d
    stage uninstall "${DESTDIR:-/}" --prefix "$PREFIX"
    [ -z "$DESTDIR" ] || return 0
    rm -rf --one-file-system /run/ash
    disable_units
    reload
}

DESTDIR=${DESTDIR:-} PREFIX=${PREFIX:-/usr/local}
lib=$PREFIX/lib/ash
cd "$ROOT"
check_prefix
[ -n "$DESTDIR" ] || [ "${1:-}" = payload ] || need_root
bin='' made=''
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case ${1:-} in
    payload) PAYLOAD='' keep_payload ;;
    install) payload "$work" && install_all ;;
    # Of what was made only the configuration file matters: whether it was changed.
    uninstall) pages "$work" && uninstall_all ;;
    *) die "install, uninstall or payload" ;;
esac
