"""An upgrade of libraries, and needrestart, which restarts what still uses the old ones."""

from harness.journey import journey

from .crashes import begin_tool, finish_tool

# As an upgrade does it: another file in the same place.
RENEW = """\
set -e
libc=$(realpath /lib/x86_64-linux-gnu/libc.so.6)
cp -p $libc $libc.new
mv $libc.new $libc
"""

# What drives this machine must not go.
SPARED = "$nrconf{override_rc}->{qr(^ash-vm-agent\\.service$)} = 0;\n"


@journey()
def needrestart_ends_no_turn(ash):
    """It restarts ashd and the broker, and leaves the sandboxes to whoever can do without them."""
    machine = ash.machine
    id = ash.create()
    turn = begin_tool(ash, id, "libraries")
    holder, before = ash.pid("ash-sandboxes"), ash.inside("bridge")
    ours = [ash.pid("ashd"), ash.pid("ash-broker")]
    machine.do(RENEW)
    machine.write("/etc/needrestart/conf.d/vm.conf", SPARED)
    listed = machine.do("needrestart -b -r l", limit=600)
    assert "NEEDRESTART-SVC: ash-sandboxes.service" in listed, listed
    done = machine.run("needrestart -r a 2>&1", limit=600)
    assert done.ok, done
    ash.await_up()
    assert not {ash.pid("ashd"), ash.pid("ash-broker")} & set(ours), done
    assert ash.pid("ash-sandboxes") == holder and ash.inside("bridge") == before, done
    finish_tool(ash, turn, "libraries")
    assert ash.ask(id, "[[say after]]") == "after"
    machine.do("rm /etc/needrestart/conf.d/vm.conf")
    ash.delete(id)


@journey()
def the_copy_of_bubblewrap_follows_the_distributions(ash):
    """As an upgrade of bubblewrap does it: dpkg tells our package that a file has changed."""
    ash.machine.do("cp -p /usr/bin/bwrap /var/tmp/bwrap; printf '\\n' >>/usr/bin/bwrap")
    try:
        check_copy(ash)
        id = ash.create()
        assert ash.ask(id, "[[say in a new one]]") == "in a new one"
        ash.delete(id)
    finally:
        ash.machine.do("cp -p /var/tmp/bwrap /usr/bin/bwrap; rm /var/tmp/bwrap")
    check_copy(ash)


def check_copy(ash):
    changed = "dpkg-trigger --by-package=bubblewrap --no-await /usr/bin/bwrap"
    ash.machine.do(f"{changed} && dpkg --triggers-only --pending && cmp /usr/bin/bwrap /usr/lib/ash/bwrap")
