"""Sandboxes that nobody uses give their memory back, end, and go on with the next message."""

import json

from harness.ash import URL
from harness.journey import journey

DROP_IN = "/etc/ash/ashd.toml.d/60-idle.toml"
GROUPS = "/sys/fs/cgroup/system.slice/ash-sandboxes.service/*/agent"
CLIS = 3

# In compressed memory, where this kernel can do that.
SWAP_ON = """\
set -e
if modprobe zram; then
    swap=/dev/zram0
    echo 1G >/sys/block/zram0/disksize
else
    swap=/var/tmp/swap
    fallocate -l 1G $swap
    chmod 0600 $swap
fi
mkswap $swap
swapon $swap
"""
SWAP_OFF = """\
swapoff -a
rm -f /var/tmp/swap
rmmod zram || true
"""


def rest(ash, reclaim, end):
    """When sandboxes give their memory back, and when they end. Processors are emulated: a CLI that
    waits uses more of them than on a real machine."""
    config = f"""\
[pool]
freeze_after = "2s"
reclaim_after = "{reclaim}"
idle_timeout = "{end}"
busy_cpus = 0.5
"""
    ash.machine.write(DROP_IN, config)
    ash.machine.do("systemctl reload ashd")


def pool(condition):
    """A condition on the counts of all sandboxes."""
    judge = f'import json, sys; pool = json.load(sys.stdin)["pool"]; sys.exit(not ({condition}))'
    return f"curl -fsS {URL}/health | python3 -c '{judge}'"


def numbers(ash, file):
    """A number of each agent's control group."""
    return [int(number) for number in ash.machine.do(f"cat {GROUPS}/{file}").split()]


@journey()
def idle_agents_give_their_memory_back(ash):
    """Into swap; each answers the next prompt out of its conversation, also when it has ended."""
    machine = ash.machine
    machine.do(SWAP_ON)
    ids = [ash.create() for _ in range(CLIS)]
    turns = [ash.send(id, f"[[say number {number}]]") for number, id in enumerate(ids)]
    for number, turn in enumerate(turns):
        assert turn.end().text() == f"number {number}", turn.told()
    before = numbers(ash, "memory.current")
    assert len(before) == CLIS, before

    rest(ash, reclaim="4s", end="0s")
    half = sum(before) // 2
    given = f'pool["reclaimed"] == {CLIS} and pool["reclaimedBytes"] > {half}'
    machine.until(pool(given), "half of the memory is given back")
    machine.until(f"! cat {GROUPS}/memory.swap.max | grep -v '^0$'", "nothing follows it")
    left = sum(numbers(ash, "memory.current"))
    print(f"{CLIS} idle CLIs: {sum(before) >> 20} MiB, then {left >> 20} MiB", flush=True)
    assert left < half, (before, left)
    told = json.loads(machine.do("ashctl top --json"))
    assert [row["sandbox"] for row in told if row["id"] in ids] == ["reclaimed"] * CLIS, told
    stopped = machine.do(f"cat {GROUPS}/cgroup.events | grep -c 'frozen 1'").strip()
    assert stopped == str(CLIS), stopped
    check_all(ash, ids)

    rest(ash, reclaim="0s", end="4s")
    machine.until(pool('pool["total"] == 0'), "all have ended")
    assert {ash.session(id)["status"] for id in ids} == {"active"}
    check_all(ash, ids[:1])

    machine.do(f"rm {DROP_IN}; systemctl reload ashd")
    for id in ids:
        ash.delete(id)
    machine.do(SWAP_OFF)


def check_all(ash, ids):
    """At the same time, that each knows what it has said."""
    turns = [ash.send(id, "[[history]]") for id in ids]
    for number, turn in enumerate(turns):
        turn.end()
        assert f"number {number}" in turn.text() and not turn.errors(), turn.told()
