# shellcheck shell=bash
# What is packaged and installed: the programs, and what is made from their definitions. Sourced,
# after lib.sh, never run.

# Takes it from where PAYLOAD says, or makes it beneath $1: programs, unless BUILT says where they
# are, and pages.
payload() {
    if [ -n "${PAYLOAD:-}" ]; then
        bin=$PAYLOAD/bin made=$PAYLOAD/made
        [ -x "$bin/ashd" ] || die "there is no bin/ashd in PAYLOAD=$PAYLOAD; \`make payload\` makes it"
        return 0
    fi
    bin=${BUILT:-}
    if [ -z "$bin" ]; then
        bin=$1/bin
        ASH_LIBEXEC_DIR=$bin "$ROOT/scripts/build.sh" release
    fi
    pages "$1"
}

# Makes only the pages, or takes them from where PAYLOAD says. Built as the programs are, so that
# most of it is there.
pages() {
    local profile=(--release)
    made=${PAYLOAD:-$1}/made
    [ -z "${PAYLOAD:-}" ] || return 0
    [ -z "${BUILT:-}" ] || profile=(--features "$DEV_FEATURES")
    say "making manual pages and completions"
    # Whoever compiles C goes by this variable, and what was built without it would be built anew.
    env ${BUILT:+--unset=SOURCE_DATE_EPOCH} cargo run --quiet --locked "${profile[@]}" \
        -p ash-pages -- "$made"
}

# Runs scripts/stage.py with the payload.
stage() {
    python3 -B "$ROOT/scripts/stage.py" "$@" ${bin:+--bin "$bin"} --made "$made"
}
