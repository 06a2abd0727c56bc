"""What a sandbox may use of the machine is enforced by the kernel, and is nobody else's concern."""

from harness.ash import PIDS, bash
from harness.journey import journey

GROUPS = "/sys/fs/cgroup/system.slice/ash-sandboxes.service/*/agent"
MEMORY = "perl -e '$x = q(x) x 2_000_000_000; print length $x'"
BOMB = "perl -e 'fork while 1'"
SPIN = "perl -e 'fork for 1..4; 1 while 1'"


class Neighbour:
    """Another session, which must notice nothing."""

    def __init__(self, ash):
        self.ash = ash
        before = ash.inside("bridge")
        self.id = ash.create()
        self.own = set(ash.inside("bridge")) - set(before)

    def check(self):
        gone = self.own - set(self.ash.inside("bridge"))
        assert self.own and not gone, f"the neighbour lost {gone}"
        assert self.ash.ask(self.id, "[[say unmoved]]") == "unmoved"
        self.ash.delete(self.id)


@journey(core=True)
def a_memory_hog_is_killed_whole(ash):
    """The turn says why, its bridge has delivered everything, and the next turn works."""
    id, other = ash.create(), Neighbour(ash)
    ash.ask(id, "[[say before]]")
    turn = ash.send(id, bash(MEMORY)).end()
    assert turn.errors() == ["The sandbox ran out of memory and was ended"], turn.told()
    assert turn.named("tool_use"), turn.told()
    turn.check_history()
    ash.machine.do("journalctl -k | grep 'oom-kill:.*task=perl'")
    ash.machine.do("journalctl -k | grep 'memory.oom.group set'")
    told = ash.machine.do(f"ashctl session info {id}")
    assert "ran out of memory" in told, told
    assert ash.session(id)["status"] == "active"
    assert "[[say before]]" in ash.ask(id, "[[history]]")
    other.check()
    ash.delete(id)


@journey()
def a_fork_bomb_is_held(ash):
    """At pids.max; the session can be stopped, and goes on."""
    id, other = ash.create(), Neighbour(ash)
    turn = ash.send(id, bash(BOMB))
    held = f"cat {GROUPS}/pids.events | grep 'max [1-9]'"
    ash.machine.until(held, "the limit of processes is reached")
    assert len(ash.inside("perl")) <= PIDS
    ash.verb(id, "stop")
    assert not ash.inside("perl"), "the bomb goes on"
    turn.end()
    assert turn.errors() == ["The session was stopped while it answered"], turn.told()
    other.check()
    ash.verb(id, "resume")
    assert ash.ask(id, "[[say after]]") == "after"
    ash.delete(id)


@journey()
def a_cpu_hog_is_slowed(ash):
    """At cpu.max; a neighbour and the daemon answer all the same."""
    other = Neighbour(ash)
    ash.machine.write("/etc/ash/ashd.toml.d/60-cpus.toml", "[sandbox]\ncpus = 0.5\n")
    ash.machine.do("systemctl reload ashd")
    id = ash.create()
    turn = ash.send(id, bash(SPIN))
    slowed = f"cat {GROUPS}/cpu.stat | grep 'nr_throttled [1-9][0-9]'"
    ash.machine.until(slowed, "the hog is throttled")
    other.check()
    assert ash.call("POST", f"/api/sessions/{id}/interrupt")["interrupted"]
    turn.end()
    ash.machine.until("! pgrep -x perl", "the end of the hog")
    ash.machine.do("rm /etc/ash/ashd.toml.d/60-cpus.toml; systemctl reload ashd")
    assert ash.ask(id, "[[say after]]") == "after"
    ash.delete(id)
