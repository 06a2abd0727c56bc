#!/usr/bin/env bash
# Makes packages from packaging/files: `package.sh deb`, `package.sh rpm`, or both. They are in
# target/package afterwards, beside `deb` and `rpm`, the trees that they hold.
#
#   BUILT       directory of programs that are built already, to try their packages; without it they
#               are built for release
#   REVISION    of the package, behind the version (1; 0dev with BUILT)
#   MAINTAINER  who answers for the packages, "NAME <ADDRESS>"; without it, nobody who can be reached
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/payload.sh
. "$ROOT/scripts/payload.sh"

out=$ROOT/target/package

# What a package says of itself, and its scripts with what they share put into them.
describe() {
    local format=$1 script
    mkdir -p "$work/$format"
    sed 1,/^$/d "$ROOT/packaging/common.sh" >"$work/common.sh"
    for script in "$ROOT/packaging/$format"/*; do
        sed -e "/^\. packaging\/common\.sh$/{
            r $work/common.sh
            d
        }" "$script" >"$work/$format/${script##*/}"
    done
    stage manifest "$out/$format" "${flags[@]}" >"$work/Cargo.toml"
}

make_deb() {
    local flags=(--deb)
    need_tool cargo-deb 3.8.0
    stage changelog >"$made/changelog.Debian"
    stage install "$out/deb" "${flags[@]}"
    describe deb
    # What is only to be tried is made soon rather than small.
    cargo deb --quiet --no-build --no-strip ${BUILT:+--fast --compress-type gz --compress-system} \
        --deb-revision "$revision" --manifest-path "$work/Cargo.toml" --output "$out" >/dev/null
}

make_rpm() {
    local flags=()
    need_tool cargo-generate-rpm 0.21.1
    stage install "$out/rpm"
    describe rpm
    (cd "$work" && cargo generate-rpm --set-metadata "release = \"$revision\"" --output "$out" \
        --source-date "$SOURCE_DATE_EPOCH" ${BUILT:+--payload-compress none})
}

# The newest of what is packaged is what is committed, so packages of one commit are equal.
# What was built elsewhere is to be tried, and may have fault points: any real package is newer.
revision=${REVISION:-${BUILT:+0dev}}
revision=${revision:-1}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$ROOT" log -1 --format=%ct 2>/dev/null ||
    stat --format=%Y "$ROOT/CHANGELOG.md")}
export SOURCE_DATE_EPOCH REVISION=$revision

cd "$ROOT"
formats=("$@")
[ $# -gt 0 ] || formats=(deb rpm)
work=$out/work
rm -rf "$work"
for format in "${formats[@]}"; do
    rm -rf "${out:?}/$format" "$out"/*."$format"
done
mkdir -p "$work"
payload "$work"
for format in "${formats[@]}"; do
    "make_$format"
done
rm -r "$work"
for format in "${formats[@]}"; do
    say "made $(echo "target/package/"*."$format")"
done
