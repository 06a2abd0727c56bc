#!/usr/bin/env bash
# Every check and every test, in the order of how soon they can fail. The last line is the count.
#
# A test that this machine cannot run prints a line that begins with SKIP and says why, and passes;
# it is counted as skipped here. With ASH_TEST_LONG=1 tests take the time they need.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/checks.sh
. "$ROOT/scripts/checks.sh"

# Runs the Rust tests and adds their numbers to the count.
rust_tests() {
    local log=$scratch/rust.log status=0
    say "$*"
    "$@" 2>&1 | tee "$log" || status=$?
    count <"$log"
    [ "$status" -eq 0 ] || [ "$fails" -gt 0 ] || fails=1
    passed=$((passed + passes))
    failed=$((failed + fails))
}

# Adds up the closing lines of cargo test and of nextest.
count() {
    read -r passes fails < <(awk '
        /^test result:/ { passes += $4; fails += $6 }
        /^ *Summary \[/ {
            for (i = 2; i <= NF; i++) {
                if ($i ~ /^passed/) passes += $(i - 1)
                if ($i ~ /^(failed|timed)/) fails += $(i - 1)
            }
        }
        END { print passes + 0, fails + 0 }')
}

# Moves the tests that said they could not run from the passed to the skipped. What a passing test
# prints is in the log of cargo test and in the report of nextest.
count_skips() {
    local line lines
    if ! lines=$("$@"); then
        say "FAILED: counting the tests that were skipped"
        failed=$((failed + 1))
    fi
    while IFS= read -r line; do
        [ -n "$line" ] || continue
        reasons+=("$line")
        passed=$((passed - 1))
    done <<<"$lines"
}

skips_in_log() {
    awk '/^---- .* stdout ----$/ { test = $2 }
        /^SKIP/ && !told[test]++ { print test ": " $0 }' "$scratch/rust.log"
}

# Where nextest reports is told by .config/nextest.toml, beneath this checkout wherever cargo builds.
report=$ROOT/target/nextest/default/junit.xml

skips_in_report() {
    python3 - "$report" <<'EOF'
import sys
import xml.etree.ElementTree as xml

for test in xml.parse(sys.argv[1]).iter("testcase"):
    lines = (test.findtext("system-out") or "").splitlines()
    for line in [line for line in lines if line.startswith("SKIP")][:1]:
        print(f"{test.get('name')}: {line}")
EOF
}

all_rust_tests() {
    local all=(--workspace --features "$DEV_FEATURES" --locked --no-fail-fast)
    if have cargo-nextest; then
        rust_tests cargo test --quiet "${all[@]}" --doc
        rm -f "$report"
        rust_tests cargo nextest run "${all[@]}" --color never --status-level slow
        count_skips skips_in_report
    else
        rust_tests cargo test "${all[@]}" -- --show-output
        count_skips skips_in_log
    fi
}

# Every target in turn: a minute together, ten when there is time.
fuzz() {
    local seconds=6
    [ "${ASH_TEST_LONG:-}" != 1 ] || seconds=60
    env FUZZ_SECONDS=$seconds cargo test --quiet --workspace --features "$DEV_FEATURES" --locked \
        --test targets -- --test-threads 1
}

# Journeys tell what came of them in a line each, wherever they are run.
vm_journeys() {
    local log=$scratch/vm.log all=() line
    [ "${ASH_TEST_LONG:-}" != 1 ] || all=(--all)
    say "journeys in a virtual machine"
    if ! scripts/vm.sh "${all[@]}" 2>&1 | tee "$log" && ! grep -q '^FAIL ' "$log"; then
        say "FAILED: journeys in a virtual machine"
        failed=$((failed + 1))
    fi
    passed=$((passed + $(grep -c '^PASS ' "$log" || true)))
    failed=$((failed + $(grep -c '^FAIL ' "$log" || true)))
    while IFS= read -r line; do
        reasons+=("${line#SKIP }")
    done < <(grep '^SKIP ' "$log" || true)
}

need_root
enter_scope "$@"
need_rust
cd "$ROOT"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# Not .ash/bin: a daemon of this checkout may be running from there.
export ASH_LIBEXEC_DIR=$TARGET/ash-dev

scripts/install-deps.sh test
PATH=$PATH:$STATE/tools/nginx/usr/sbin:$STATE/tools/prometheus/usr/bin
CLAUDE_CODE_EXECUTABLE=$(cli)
export CLAUDE_CODE_EXECUTABLE
lint
check "examples" python3 -B -m unittest discover --quiet --start-directory tests/examples
have systemd-analyze || skip "reasons in units" "systemd-analyze is not here"
check "packaging" python3 -B -m unittest discover --quiet --start-directory tests/packaging
check "build" scripts/build.sh dev
packages "$ASH_LIBEXEC_DIR"
all_rust_tests
check "fuzz" fuzz
vm_journeys
summary
