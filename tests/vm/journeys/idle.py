"""Sandboxes that nobody uses give their memory back, end, and go on with the next message."""

import json
import time

from harness.ash import URL
from harness.journey import journey
from harness.several import several

DROP_IN = "/etc/ash/ashd.toml.d/60-idle.toml"
GROUPS = "/sys/fs/cgroup/system.slice/ash-sandboxes.service/*/agent"
CLIS = 20

# How many begin, or are woken, at a time: enough for two processors, and few enough that none waits for
# so long that it is refused.
AT_ONCE = 3

# Seconds that all of them may take for a step: far above what it is on a host with something else to do.
LIMIT = 900

# In compressed memory; on a disk only where this kernel has no such thing. One that has it and cannot use
# it is a failure. Says which it is.
SWAP_ON = """\
set -e
if modprobe -n -q zram; then
    modprobe zram
    swap=/dev/zram0
    echo 4G >/sys/block/zram0/disksize
    kind="zram, $(sed 's/.*\\[\\(.*\\)\\].*/\\1/' /sys/block/zram0/comp_algorithm)"
else
    swap=/var/tmp/swap
    fallocate -l 3G $swap
    chmod 0600 $swap
    kind="a file on the disk: this kernel has no zram"
fi
mkswap $swap >/dev/null
swapon $swap
echo "swap: $kind"
"""
SWAP_OFF = """\
swapoff -a
rm -f /var/tmp/swap
if [ -e /sys/block/zram0/reset ]; then echo 1 >/sys/block/zram0/reset; fi
rmmod zram || true
"""


def rest(ash, reclaim="0s", end="0s"):
    """When sandboxes give their memory back, and when they end. They stand still soon in any case: on
    emulated processors a CLI that waits uses more of them than on a real machine, and twenty would leave
    nothing to those that begin or answer."""
    config = f"""\
[pool]
freeze_after = "2s"
reclaim_after = "{reclaim}"
idle_timeout = "{end}"
busy_cpus = 0.5
"""
    ash.machine.write(DROP_IN, config)
    ash.machine.do("systemctl reload ashd")


def await_pool(ash, condition, what):
    """Waits for a condition on the counts of all sandboxes."""
    judge = f'import json, sys; pool = json.load(sys.stdin)["pool"]; sys.exit(not ({condition}))'
    ash.machine.until(f"curl -fsS {URL}/health | python3 -c '{judge}'", what, limit=LIMIT)


def numbers(ash, file):
    """A number of each agent's control group."""
    return [int(number) for number in ash.machine.do(f"cat {GROUPS}/{file}").split()]


def used(machine):
    """Bytes of the machine's memory that nobody else could have, those of compressed memory among
    them."""
    lines = [line.split() for line in machine.do("cat /proc/meminfo").splitlines()]
    told = {words[0]: int(words[1]) << 10 for words in lines}
    return told["MemTotal:"] - told["MemAvailable:"]


class Clock:
    """Says what was done, and how long it took."""

    def __init__(self):
        self.since = time.monotonic()

    def tell(self, words):
        now = time.monotonic()
        print(f"{words} ({now - self.since:.0f} s)", flush=True)
        self.since = now


@journey(memory=6144)
def idle_agents_give_their_memory_back(ash):
    """Into swap, and the machine has more of it then; each answers the next prompt out of its
    conversation, and so do those that have ended."""
    machine, clock = ash.machine, Clock()
    print(machine.do(SWAP_ON).strip(), flush=True)
    rest(ash)
    ids = several(lambda number: begin(ash, number), range(CLIS), AT_ONCE)
    await_pool(ash, f'pool["frozen"] == {CLIS}', "all stand still")
    clock.tell(f"{CLIS} CLIs have answered, and stand still")

    reclaim(ash, ids)
    clock.tell("all have given their memory back")
    # Who has answered does not give it back again while others are woken.
    rest(ash)
    wake(ash, enumerate(ids))
    clock.tell(f"all have answered, {AT_ONCE} at a time")

    rest(ash, end="4s")
    await_pool(ash, 'pool["total"] == 0', "all have ended")
    assert {ash.session(id)["status"] for id in ids} == {"active"}
    clock.tell("all have ended")
    # Who has answered does not end again while others begin.
    rest(ash)
    wake(ash, enumerate(ids))
    clock.tell(f"all have answered in another sandbox, {AT_ONCE} at a time")

    machine.do(f"rm {DROP_IN}; systemctl reload ashd")
    several(ash.delete, ids, AT_ONCE)
    machine.do(SWAP_OFF)


def begin(ash, number):
    """A session that has had a turn."""
    id = ash.create()
    assert ash.ask(id, f"[[say number {number}]]") == f"number {number}"
    return id


def reclaim(ash, ids):
    """Has them give their memory back; tells how much they had, and have."""
    machine = ash.machine
    before, before_of_all = numbers(ash, "memory.current"), used(machine)
    assert len(before) == CLIS, before
    rest(ash, reclaim="4s")
    half = sum(before) // 2
    given = f'pool["reclaimed"] == {CLIS} and pool["reclaimedBytes"] > {half}'
    await_pool(ash, given, "half of the memory is given back")
    machine.until(f"! cat {GROUPS}/memory.swap.max | grep -v '^0$'", "nothing follows it", LIMIT)
    left, left_of_all = sum(numbers(ash, "memory.current")), used(machine)
    print(
        f"{CLIS} idle CLIs: {sum(before) >> 20} MiB, then {left >> 20} MiB;"
        f" the whole machine: {before_of_all >> 20} MiB, then {left_of_all >> 20} MiB",
        flush=True,
    )
    tell_compressed(machine)
    assert left < half, (before, left)
    assert left_of_all < before_of_all, (before_of_all, left_of_all)
    told = json.loads(machine.do("ashctl top --json"))
    assert [row["sandbox"] for row in told if row["id"] in ids] == ["reclaimed"] * CLIS, told
    stopped = machine.do(f"cat {GROUPS}/cgroup.events | grep -c 'frozen 1'").strip()
    assert stopped == str(CLIS), stopped


def tell_compressed(machine):
    """How much is in compressed memory, and takes there, if that is used."""
    told = machine.run("cat /sys/block/zram0/mm_stat")
    if told.ok:
        original, compressed, taken = (int(words) >> 20 for words in told.out.split()[:3])
        print(f"zram: {original} MiB are {compressed} MiB and take {taken} MiB", flush=True)


def wake(ash, each):
    """A few at a time, by asking them what they have said."""

    def check(one):
        number, id = one
        assert f"[[say number {number}]]" in ash.ask(id, "[[history]]")

    several(check, each, AT_ONCE)
