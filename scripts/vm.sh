#!/usr/bin/env bash
# Journeys on a real Debian: makes packages of this checkout, boots a virtual machine, installs them
# there, and uses them. tests/vm/README.md says more.
#
#   vm.sh [--all] [NAME…]  runs the core set, all, or these; a line each says what came of it
#   vm.sh --list           says which there are
#   vm.sh --shell          a machine with ash on it, for commands
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

made=$TARGET/vm
tree=$made/next
packages=$made/packages
bin=$TARGET/ash-dev

# Copies this checkout. Everything keeps its time.
copy_checkout() {
    rm -rf "$1"
    mkdir -p "$1"
    git -C "$ROOT" ls-files -z --cached --others --exclude-standard |
        tar -C "$ROOT" --null --files-from - --ignore-failed-read -cf - | tar -C "$1" -xf -
}

# This checkout, one release later. Only what has changed since the last run is built.
next_tree() {
    local file
    copy_checkout "$tree"
    "$ROOT/tests/vm/next_release.py" "$tree"
    for file in bridge/wire/src/lib.rs ashd/src/store/sqlite/schema.rs; do
        touch -r "$ROOT/$file" "$tree/$file"
    done
    touch -r "$ROOT/tests/vm/next_release.py" "$tree/ashd/src/store/sqlite/next.sql"
}

# The same profile as the tests': what differs from a release is how fast it is.
this_package() {
    ASH_LIBEXEC_DIR=$bin "$ROOT/scripts/build.sh" dev
    BUILT=$bin "$ROOT/scripts/package.sh" deb rpm
    cp "$ROOT"/target/package/*.deb "$packages/ashd.deb"
    cp "$ROOT"/target/package/*.rpm "$packages/ashd.rpm"
}

# What somebody takes along who installs without a package and without cargo.
this_checkout() {
    copy_checkout "$packages/checkout"
    BUILT=$bin "$ROOT/scripts/install.sh" payload
    mkdir "$packages/checkout/target"
    mv "$ROOT/target/payload" "$packages/checkout/target"
}

# What this tree and the next are built from and is not ours need not be built twice. Somebody who
# builds at the same time takes files away: then it is.
share_dependencies() {
    local part
    for part in debug bridge "$(uname -m)-unknown-linux-gnu/bridge"; do
        mkdir -p "$1/$part"
        tar -C "$TARGET/$part" --exclude 'ash*' --exclude 'libash*' -cf - \
            deps build .fingerprint | tar -C "$1/$part" -xf - || return
    done
}

# In a target directory of its own: to cargo both trees are the same packages.
next_package() {
    next_tree
    [ -d "$made/target" ] || share_dependencies "$made/target" 2>/dev/null || rm -rf "$made/target"
    export CARGO_TARGET_DIR=$made/target
    ASH_LIBEXEC_DIR=$made/target/ash-dev "$tree/scripts/build.sh" dev
    SOURCE_DATE_EPOCH=$(git -C "$ROOT" log -1 --format=%ct)
    export SOURCE_DATE_EPOCH
    BUILT=$made/target/ash-dev REVISION=2 "$tree/scripts/package.sh" deb
    cp "$tree"/target/package/*.deb "$packages/next.deb"
}

# Whoever counts finds the reason, and no failure.
skip() {
    printf 'SKIP journeys in a virtual machine: %s\n' "$*"
    exit 0
}

cd "$ROOT"
[ "${1:-}" != --list ] || exec python3 -B tests/vm/run.py --all --list
need_root
[ "$(uname -m)" = x86_64 ] || skip "they are written for x86-64"
"$ROOT/scripts/install-deps.sh" vm || skip "qemu and mmdebstrap cannot be installed here"
need_tool cargo-deb 3.8.0 || skip "cargo-deb cannot be installed here"
need_tool cargo-generate-rpm 0.21.1 || skip "cargo-generate-rpm cannot be installed here"
export PATH
rm -rf "$packages"
mkdir -p "$packages"
this_package
this_checkout
(next_package)
exec python3 -B tests/vm/run.py --packages "$packages" --claude "$(cli)" \
    --program "$bin/ash-modelapi" --program "$bin/ash-stub-claude" --results "$made/results" "$@"
