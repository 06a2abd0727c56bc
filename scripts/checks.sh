# shellcheck shell=bash
# Checks and their count. Sourced, after lib.sh, never run.

passed=0
failed=0
reasons=()

# Runs one check and counts it; a failure is told and the next check still runs.
check() {
    local name=$1
    shift
    say "$name"
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        say "FAILED: $name"
    fi
}

skip() {
    reasons+=("$1: SKIP: $2")
}

# Prints the count as the last line, and fails if any check did.
summary() {
    local reason
    for reason in "${reasons[@]}"; do
        say "$reason"
    done
    say "$passed passed, $failed failed, ${#reasons[@]} skipped"
    [ "$failed" -eq 0 ]
}

lint() {
    check "cargo fmt" cargo fmt --all --check
    check "cargo clippy" cargo clippy --quiet --workspace --all-targets --locked -- -D warnings
    deny
    shell_scripts
    units
}

# The advisory database needs a network that a build machine may not have; everything else about
# dependencies is checked.
deny() {
    if ! need_tool cargo-deny 0.20.2; then
        skip "cargo deny" "cargo-deny cannot be installed here"
        return
    fi
    check "cargo deny" \
        cargo deny --log-level error check --hide-inclusion-graph licenses bans sources
}

shell_scripts() {
    if have shellcheck; then
        check "shellcheck" shellcheck --external-sources scripts/*.sh .ci/run \
            packaging/common.sh packaging/deb/p* packaging/rpm/p*
    else
        skip "shellcheck" "it is not installed"
    fi
}

# What systemd thinks of our units, and the bars that they must not come above: exposure in tenths,
# as systemd 252 reckons it.
units() {
    if ! have systemd-analyze; then
        skip "units" "systemd-analyze is not here"
        return
    fi
    check "exposure of ashd" exposure ashd 24
    check "exposure of ash-broker" exposure ash-broker 13
    check "exposure of ash-sandboxes" exposure ash-sandboxes 45
}

exposure() {
    local said status=0
    said=$(systemd-analyze security --offline=true --no-pager --threshold="$2" \
        "systemd/$1.service" 2>&1) || status=$?
    grep "Overall exposure level" <<<"$said"
    return "$status"
}

# Packages of the programs that were built for the tests, so that nothing is built twice.
packages() {
    local tool out=$ROOT/target/package
    for tool in "cargo-deb 3.8.0" "cargo-generate-rpm 0.21.1"; do
        # shellcheck disable=SC2086 # a name and a version
        if ! need_tool $tool; then
            skip "packages" "${tool% *} cannot be installed here"
            return
        fi
    done
    check "packages" env BUILT="$1" scripts/package.sh
    if have dpkg-deb && have rpm; then
        check "payloads are equal" python3 -B tests/packaging/payloads.py "$out"
    else
        skip "payloads are equal" "dpkg-deb and rpm are not both here"
    fi
    linter lintian --allow-root --fail-on error,warning "$out"/*.deb
    linter rpmlint --config packaging/rpm/rpmlint.toml --strict "$out"/*.rpm
}

linter() {
    if have "$1"; then
        check "$1" "$@"
    else
        skip "$1" "it is not installed"
    fi
}
