#!/usr/bin/env bash
# Measures and writes bench/RESULTS.md. Arguments go to the measuring program.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

need_root
enter_scope "$@"
"$ROOT/scripts/install-deps.sh" bench
"$ROOT/scripts/build.sh" release
export ASH_LIBEXEC_DIR=$STATE/bin
CLAUDE_CODE_EXECUTABLE=$(cli)
export CLAUDE_CODE_EXECUTABLE
cd "$ROOT"
exec cargo run --quiet --release -p ash-bench -- "$@"
