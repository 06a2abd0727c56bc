#!/usr/bin/env bash
# Installs what packages hold, or removes it again: `install.sh install`, `install.sh uninstall`.
# Without DESTDIR also does on this system what the packages' scripts do.
#
#   DESTDIR  directory that stands for /
#   PREFIX   beneath which things are (/usr/local); what D-Bus and polkit read stays beneath /usr, where they look for it
#   BUILT    directory of programs that are built already; without it they are built for release
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/payload.sh
. "$ROOT/scripts/payload.sh"
# shellcheck source=packaging/common.sh
. "$ROOT/packaging/common.sh"

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
    stage uninstall "${DESTDIR:-/}" --prefix "$PREFIX"
    [ -n "$DESTDIR" ] || { disable_units && reload; }
}

DESTDIR=${DESTDIR:-} PREFIX=${PREFIX:-/usr/local}
lib=$PREFIX/lib/ash
cd "$ROOT"
[ -n "$DESTDIR" ] || need_root
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
payload "$work"
case ${1:-} in
    install) install_all ;;
    uninstall) uninstall_all ;;
    *) die "install or uninstall" ;;
esac
