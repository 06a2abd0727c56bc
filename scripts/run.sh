#!/usr/bin/env bash
# Installs what is missing, builds, runs ashd in the foreground, shows one conversation, and serves
# until Ctrl-C. All state is under .ash, so the next run finds yesterday's sessions.
#
#   ASH_PORT            port on 127.0.0.1 (4100)
#   ANTHROPIC_API_KEY   talk to the real model API; without it, to the stand-in
#   ASH_LOG             how much ashd tells (warn)
#   ONCE=1              exit after the first answer
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

bin=$STATE/bin
port=${ASH_PORT:-4100}
url=http://127.0.0.1:$port
bus=unix:path=$RUN_DIR/bus
pids=()

# One run per checkout: the lock is on the state directory and falls with this process, because
# nothing that is started here inherits it.
claim() {
    mkdir -p "$STATE"
    exec 9<"$STATE"
    flock --nonblock 9 || die "another run of this checkout is going on; end it with Ctrl-C first"
    ! (exec 8<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null ||
        die "port $port is taken; choose another with ASH_PORT"
    rm -rf "$RUN_DIR"
    mkdir -m 0700 "$RUN_DIR"
}

prepare_cgroup() {
    local v2
    v2=$(findmnt --noheadings --output TARGET --types cgroup2 | head -n 1)
    [ -n "$v2" ] || die "no cgroup v2 hierarchy is mounted here"
    if [ -n "${ASH_DEV_SCOPE:-}" ]; then
        # Groups that hand out controllers hold no processes: leave the scope itself empty.
        cgroup=$v2$(sed -n 's/^0:://p' /proc/self/cgroup)
        mkdir "$cgroup/shell"
        echo $$ >"$cgroup/shell/cgroup.procs"
    else
        cgroup=$v2/${RUN_DIR##*/}
        mkdir -p "$cgroup"
    fi
    export ASH_CGROUP_ROOT=$cgroup
    check_controllers
}

check_controllers() {
    local name missing=()
    for name in cpu memory pids; do
        grep -qw "$name" "$cgroup/cgroup.controllers" || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "cgroup v2 has no controllers ${missing[*]} here: sandboxes run without these limits"
    export ASH_ALLOW_MISSING_LIMITS=1
}

# Waits until a command succeeds; gives up when the process that it waits for has ended.
await() {
    local what=$1 pid=$2 tries=1200
    shift 2
    until "$@" >/dev/null 2>&1; do
        kill -0 "$pid" 2>/dev/null || die "$what ended before it was ready"
        ((tries-- > 0)) || die "$what is not ready after a minute"
        sleep 0.05
    done
}

# Starts a program in the background, without the lock, and out of reach of the terminal's Ctrl-C:
# that is for this script, which ends things in order. Its pid is the last of `pids`.
start() {
    setsid "$@" 9<&- &
    pids+=($!)
}

start_model_api() {
    local log=$RUN_DIR/modelapi
    [ -z "${ANTHROPIC_API_KEY:-}" ] || return 0
    say "ANTHROPIC_API_KEY is not set: the stand-in for the model API answers, by repeating you"
    start "$bin/ash-modelapi" >"$log"
    await "the stand-in for the model API" "${pids[-1]}" grep -q http:// "$log"
    ANTHROPIC_BASE_URL=$(grep -om1 'http://[^ /]*' "$log")
    export ANTHROPIC_BASE_URL ANTHROPIC_API_KEY=stand-in
}

start_bus() {
    cat >"$RUN_DIR/bus.conf" <<EOF
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>$bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="root"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
EOF
    # Its own log: without the right to raise limits it complains, and works.
    start dbus-daemon --nofork --nopidfile --nosyslog --config-file="$RUN_DIR/bus.conf" \
        2>"$STATE/bus.log"
    await "the bus (see .ash/bus.log)" "${pids[-1]}" test -S "$RUN_DIR/bus"
}

start_ashd() {
    export ASH_BUS_ADDRESS=$bus ASH_RUN_DIR=$RUN_DIR ASH_DATA_DIR=$STATE/data ASH_LIBEXEC_DIR=$bin
    export ASH_HOST=127.0.0.1 ASH_PORT=$port ASH_AGENT_ROOTS=$ROOT/examples
    CLAUDE_CODE_EXECUTABLE=$(cli)
    export CLAUDE_CODE_EXECUTABLE ASH_LOG=${ASH_LOG:-warn}
    start "$bin/ashd"
    ashd=${pids[-1]}
    await ashd "$ashd" curl -fs "$url/health"
    await ashd "$ashd" "$bin/ashctl" status
}

# Deploys the smallest example and has one turn with it.
show() {
    local question="Hello! What are you for?"
    "$bin/ashctl" deploy "$ROOT/examples/hello"
    session=$("$bin/ashctl" session create hello)
    say "you: $question"
    "$bin/ashctl" session send "$session" "$question"
}

tell() {
    local key
    key=$(cat "$STATE/data/initial-api-key")
    cat <<EOF

URL      $url
API key  $key

Try next:
  ASH_BUS_ADDRESS=$bus .ash/bin/ashctl chat hello --session $session
  ASH_BUS_ADDRESS=$bus .ash/bin/ashctl session list
  curl -N $url/api/sessions/$session/messages -H 'Authorization: Bearer $key' \\
    -H 'Content-Type: application/json' -d '{"content": "And what can you do?"}'

Ctrl-C ends it; the sessions stay.
EOF
}

# Ends the processes started here, the last one first: ashd pauses its sessions before its bus goes.
stop() {
    local status=$? i
    trap '' INT TERM
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
        end "${pids[i]}"
    done
    [ -z "${cgroup:-}" ] || end_cgroups
    rm -rf "$RUN_DIR"
    exit "$status"
}

end() {
    kill -TERM "$1" 2>/dev/null || return 0
    timeout 15 tail --pid="$1" -f /dev/null || kill -KILL "$1" 2>/dev/null || true
}

# Removes our groups; a sandbox that a crashed ashd left behind ends with its group.
end_cgroups() {
    local group
    for group in "$cgroup"/*/; do
        if [ ! -d "$group" ] || [ "$group" = "$cgroup/shell/" ]; then continue; fi
        echo 1 >"${group}cgroup.kill"
        await "the end of a sandbox" $$ grep -q 'populated 0' "${group}cgroup.events"
        find "$group" -depth -type d -exec rmdir {} +
    done
    [ -n "${ASH_DEV_SCOPE:-}" ] || rmdir "$cgroup"
}

need_root
enter_scope "$@"
"$ROOT/scripts/install-deps.sh"
"$ROOT/scripts/build.sh" release
claim
trap stop EXIT
trap 'exit 0' INT TERM
prepare_cgroup
start_model_api
start_bus
start_ashd
show
[ -n "${ONCE:-}" ] || { tell && wait "$ashd"; }
