# shellcheck shell=bash
# What is packaged and installed: the programs, and what is made from their definitions. Sourced,
# after lib.sh, never run.

# Builds it, unless BUILT says where the programs are, and makes pages in a directory beneath $1.
payload() {
    local profile=()
    made=$1/made
    bin=${BUILT:-}
    if [ -z "$bin" ]; then
        bin=$1/bin profile=(--release)
        ASH_LIBEXEC_DIR=$bin "$ROOT/scripts/build.sh" release
    fi
    say "making manual pages and completions"
    cargo run --quiet --locked "${profile[@]}" -p ash-pages -- "$made"
}

# Runs scripts/stage.py with the payload.
stage() {
    python3 "$ROOT/scripts/stage.py" "$@" --bin "$bin" --made "$made"
}
