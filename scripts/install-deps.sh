#!/usr/bin/env bash
# Installs what is missing to build and run: packages through apt or dnf, the Claude Code CLI
# through npm. With the argument `test`, `bench` or `vm`, also what only these need.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# Prints the package that has a program.
package_of() {
    case $manager:$1 in
        *:bwrap) echo bubblewrap ;;
        *:dbus-daemon) echo dbus-daemon ;;
        *:python3) echo python3 ;;
        *:curl) echo curl ;;
        *:find) echo findutils ;;
        *:findmnt | *:flock | *:setsid) echo util-linux ;;
        *:awk) echo gawk ;;
        *:perl) echo perl ;;
        *:wrk) echo wrk ;;
        *:lintian) echo lintian ;;
        *:rpmlint) echo rpmlint ;;
        *:rpm) echo rpm ;;
        *:strip) echo binutils ;;
        *:npm) echo npm ;;
        *:mke2fs) echo e2fsprogs ;;
        *:mkfs.xfs) echo xfsprogs ;;
        *:mmdebstrap) echo mmdebstrap ;;
        *:qemu-system-x86_64) echo qemu-system-x86 ;;
        apt:cc) echo build-essential ;;
        dnf:cc) echo gcc ;;
        apt:libc.a) echo libc6-dev ;;
        dnf:libc.a) echo glibc-static ;;
        apt:shellcheck) echo shellcheck ;;
        dnf:shellcheck) echo ShellCheck ;;
    esac
}

is_missing() {
    case $1 in
        libc.a) have cc && [ "$(cc -print-file-name=libc.a)" = libc.a ] ;;
        *) ! have "$1" ;;
    esac
}

install_packages() {
    case $manager in
        apt)
            DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" ||
                { apt-get -qq update && apt-get -qq install -y --no-install-recommends "$@"; }
            ;;
        dnf) dnf -q install -y "$@" ;;
        none) die "neither apt nor dnf is here; please install: $*" ;;
    esac
}

install_missing() {
    local wanted packages=()
    for wanted in "$@"; do
        ! is_missing "$wanted" || packages+=("$(package_of "$wanted")")
    done
    [ ${#packages[@]} -gt 0 ] || return 0
    need_root
    say "installing ${packages[*]}"
    install_packages "${packages[@]}" >/dev/null
}

# Not every distribution has all of them. What is missing is told when it is skipped.
install_linters() {
    local linter
    for linter in lintian rpmlint rpm; do
        [ "$manager:$linter" = dnf:lintian ] || install_missing "$linter" || :
    done
}

# A program of a package that would start a server on this machine if it was installed: it is unpacked
# instead. A test that misses it says so when it is skipped.
fetch() {
    local package=$1 program=$2 scratch
    if have "${program##*/}" || [ -x "$STATE/tools/$package/$program" ] || [ "$manager" != apt ]; then
        return 0
    fi
    say "fetching $package"
    mkdir -p "$STATE/tools"
    scratch=$(mktemp -d "$STATE/tools/fetch.XXXXXX")
    if (cd "$scratch" && apt-get -qq download "$package" 2>/dev/null); then
        dpkg-deb --extract "$scratch/$package"_*.deb "$STATE/tools/$package"
    else
        say "$package cannot be fetched; tests that need ${program##*/} will be skipped"
    fi
    rm -r "$scratch"
}

cli_package() {
    case $(uname -m) in
        x86_64) echo @anthropic-ai/claude-code-linux-x64 ;;
        aarch64) echo @anthropic-ai/claude-code-linux-arm64 ;;
        *) die "there is no Claude Code CLI for $(uname -m)" ;;
    esac
}

# The wrapper package and its installer are not needed: the platform's package holds the program.
install_cli() {
    local package scratch
    [ -z "${CLAUDE_CODE_EXECUTABLE:-}" ] || return 0
    [ ! -x "$STATE/runtime/$CLI_VERSION/claude" ] || return 0
    have npm || [ "$(id -u)" -eq 0 ] || die "npm is missing; install it, or set CLAUDE_CODE_EXECUTABLE" \
        "to an existing Claude Code CLI ($CLI_VERSION), and run this again"
    install_missing npm || die "npm cannot be installed here; install it, or set CLAUDE_CODE_EXECUTABLE" \
        "to an existing Claude Code CLI ($CLI_VERSION), and run this again"
    package=$(cli_package)
    say "fetching $package $CLI_VERSION"
    mkdir -p "$STATE/runtime/$CLI_VERSION"
    scratch=$(mktemp -d "$STATE/runtime/fetch.XXXXXX")
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$scratch" \
        "$package@$CLI_VERSION"
    install -m 0755 "$scratch/node_modules/$package/claude" "$STATE/runtime/$CLI_VERSION/claude"
    rm -r "$scratch"
}

manager=none
if have apt-get; then manager=apt; elif have dnf; then manager=dnf; fi

install_missing bwrap dbus-daemon cc python3 curl find findmnt flock setsid awk
install_missing libc.a
case ${1:-} in
    test)
        install_missing shellcheck perl strip
        install_linters
        fetch nginx usr/sbin/nginx
        fetch prometheus usr/bin/promtool
        ;;
    bench) install_missing wrk mkfs.xfs ;;
    vm) install_missing qemu-system-x86_64 mmdebstrap mke2fs ;;
esac
install_cli
