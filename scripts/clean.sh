#!/usr/bin/env bash
# Removes everything that building, testing and running left in this checkout, the sessions and
# their files included.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

if [ -d "$STATE" ]; then
    exec 9<"$STATE"
    flock --nonblock 9 || die "ash is running here; end it with Ctrl-C first"
fi
rm -rf --one-file-system "$ROOT/target" "$STATE" "$RUN_DIR"
find "$ROOT" -name __pycache__ -prune -exec rm -r {} +
