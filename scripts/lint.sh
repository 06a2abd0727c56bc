#!/usr/bin/env bash
# The checks that run nothing of the product: format, lints, licences, shell scripts.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/checks.sh
. "$ROOT/scripts/checks.sh"

cd "$ROOT"
need_rust
lint
summary
