#!/usr/bin/env bash
# Sessions of several tenants come, are used, and go, while things are killed: for an hour, or as long as
# ASH_SOAK_MINUTES says. ASH_TEST_SEED repeats what failed. tests/journey/README.md says more.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

need_root
enter_scope "$@"
need_rust
cd "$ROOT"
# Not .ash/bin: a daemon of this checkout may be running from there.
export ASH_LIBEXEC_DIR=$TARGET/ash-dev
export ASH_SOAK_MINUTES=${ASH_SOAK_MINUTES:-60}
scripts/install-deps.sh test
scripts/build.sh dev
exec cargo test --quiet --locked -p ash-journey --test journey -- \
    --exact --nocapture soak::nothing_adds_up
