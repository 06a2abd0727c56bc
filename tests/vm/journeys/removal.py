"""What is left when it is removed."""

from harness.ash import Ash, installed
from harness.journey import journey

from .crashes import begin_tool, finish_tool
from .people import a_member_of_the_group_chats

# What changes by itself, or is apt's and dpkg's.
NOT_OURS = "^/(proc|sys|dev|run|tmp|payload|var/(log|cache|tmp|lib/(apt|dpkg|systemd)))/|^/etc/.*-$"
FILES = f"find / -xdev ! -type s 2>/dev/null | grep -vE '{NOT_OURS}' | sort"
ACCOUNTS = "cut -d: -f1 /etc/passwd /etc/group"

# What the journey itself, as an administrator, has put there.
CLEAN = """\
systemctl disable --now modelapi
rm -rf /etc/systemd/system/modelapi.service /etc/credstore/ash-model-key /root/hello
userdel -r alice
userdel -r mallory
systemctl daemon-reload
"""


@journey(fresh=True)
def a_purge_leaves_nothing(machine):
    """Removing keeps the state; purging takes it, and everything else."""
    files, accounts = lines(machine, FILES), lines(machine, ACCOUNTS)
    running = lines(machine, "python3 /payload/look.py")
    ash = installed(machine)
    ash.ask(ash.create(), "[[say hello]]")
    machine.do(ash.apt("remove ashd"), limit=600)
    assert not ash.inside("bridge") and not ash.inside("claude")
    machine.do("test -e /var/lib/ash/ash.db -a ! -e /usr/sbin/ashd")
    again = machine.do(ash.apt("install /payload/packages/ashd.deb"), limit=600)
    assert "ashd is installed, not started" in again, again
    for unit in ("ashd.service", "ashd.socket", "ash-sandboxes.service", "ash-broker.socket"):
        assert not machine.do(f"systemctl is-enabled {unit} || :").startswith("enabled"), unit
    machine.do(ash.apt("remove ashd"), limit=600)
    machine.do(ash.apt("purge ashd"), limit=600)
    machine.run(CLEAN)
    check_nothing_left(machine, files, accounts, running)


def check_nothing_left(machine, files, accounts, running):
    """That there is nothing which was not before."""
    for before, command in [
        (files, FILES),
        (accounts, ACCOUNTS),
        (running, "python3 /payload/look.py"),
    ]:
        left = lines(machine, command) - before
        assert not left, f"left: {sorted(left)}"
    units = machine.do("systemctl list-units --all --no-legend --plain 'ash*' | cut -d' ' -f1")
    assert units.split() == ["ash-vm-agent.service"], units


def lines(machine, command):
    return set(machine.do(command, limit=300).splitlines())


# What `make uninstall` leaves, as docs/operating.md says: data, accounts, what was configured; and
# directories that others may use as well.
KEPT = """\
rm -r /var/lib/ash /etc/ash /usr/local/lib/ash
find /usr/local -mindepth 1 -type d -empty -delete
userdel ash-broker
groupdel ash
"""


@journey(fresh=True)
def it_is_installed_below_a_prefix(machine):
    """From a checkout, on a machine without cargo; and is taken back."""
    # The system's own; whoever asks it starts it.
    machine.do("systemctl start polkit.service")
    files, accounts = lines(machine, FILES), lines(machine, ACCOUNTS)
    running = lines(machine, "python3 /payload/look.py")
    machine.do("cp -r /payload/packages/checkout /root/ash")
    machine.do("! command -v cargo && ! command -v strip")
    make = "cd /root/ash && make PAYLOAD=target/payload"
    said = machine.do(f"{make} install 2>&1", limit=300)
    assert "ashd is installed, not started" in said, said
    ash = Ash(machine)
    ash.set_up()
    programs = machine.do("command -v ashd ashctl").split()
    assert programs == ["/usr/local/sbin/ashd", "/usr/local/bin/ashctl"], programs
    a_member_of_the_group_chats(ash)
    id = ash.create()
    turn = begin_tool(ash, id, "again")
    before = ash.inside("bridge")
    said = machine.do(f"{make} install 2>&1", limit=300)
    assert "not started" not in said, said
    ash.await_up()
    assert ash.inside("bridge") == before, "installing once more ended a sandbox"
    finish_tool(ash, turn, "again")
    machine.do(f"{make} uninstall 2>&1", limit=300)
    assert not ash.inside("bridge") and not ash.inside("claude")
    machine.do("! command -v ashd && ! command -v ashctl && test -e /var/lib/ash/ash.db")
    machine.run(CLEAN)
    machine.do(f"set -e\n{KEPT}rm -r /root/ash")
    check_nothing_left(machine, files, accounts, running)
