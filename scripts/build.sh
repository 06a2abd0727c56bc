#!/usr/bin/env bash
# Builds the product and puts it into .ash/bin, where ashd finds its helpers. With the argument
# `dev`, without optimisation, except for the bridge, which is always the real one.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

build_programs() {
    local flags=(--release)
    # A release with these does not compile. Tests have a bridge with them, too, beside the real one.
    [ "$1" != dev ] || flags=(--features "$DEV_FEATURES" -p ash-bridge)
    cargo build --quiet --locked "${flags[@]}" --bins \
        -p ashd -p ashctl -p ash-broker -p ash-launcher -p ash-modelapi -p ash-stub
}

# Fails when a program could be asked to die.
without_faults() {
    ! grep -q ASH_FAULT "$1" || die "${1##*/} has fault points"
}

# Static, because it runs in roots that hold no libraries of its own. The explicit target keeps the
# flag away from build scripts.
build_bridge() {
    RUSTFLAGS="-C target-feature=+crt-static" \
        cargo build --quiet --locked --profile bridge -p ash-bridge --target "$triple"
}

put() {
    install -D -m 0755 "$1" "$bin/${2:-${1##*/}}"
}

profile=${1:-release}
case $profile in
    release) built=$TARGET/release ;;
    dev) built=$TARGET/debug ;;
    *) die "unknown profile $profile; release or dev" ;;
esac
triple=$(uname -m)-unknown-linux-gnu
bin=${ASH_LIBEXEC_DIR:-$STATE/bin}

cd "$ROOT"
need_rust
say "building ($profile)"
build_programs "$profile"
if [ "$profile" = release ]; then
    without_faults "$built/ashd"
    without_faults "$built/ash-launcher"
else
    put "$built/ash-bridge" ash-bridge-faults
fi
build_bridge
without_faults "$TARGET/$triple/bridge/ash-bridge"
for program in ashd ashctl ash-broker ash-launcher ash-modelapi ash-stub-claude; do
    put "$built/$program"
done
put "$TARGET/$triple/bridge/ash-bridge"
# A copy under a path of ours: AppArmor profiles for the distribution's path break the uid drop.
put "$(command -v bwrap)"
