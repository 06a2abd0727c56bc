"""What is left when it is removed."""

from harness.journey import installed, journey

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
