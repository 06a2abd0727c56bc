"""A state directory that is full."""

from harness.ash import installed
from harness.journey import journey

DISK = """\
fallocate -l 400M /var/state.img
mkfs.ext4 -q -m 0 /var/state.img
mkdir -m 0700 /var/lib/ash
mount -o loop /var/state.img /var/lib/ash
chmod 0700 /var/lib/ash
"""
FILL = "cat /dev/zero >/var/lib/ash/filler"


@journey(fresh=True)
def a_full_state_directory_heals(machine):
    """New things are refused with a sentence; what runs waits, and ends well once there is room,
    in the same daemon."""
    machine.do(DISK)
    ash = installed(machine)
    id = ash.create()
    ash.ask(id, "[[say before]]")
    pid = ash.pid("ashd")
    turn = ash.send(id, "[[count 20 20ms]][[hold full]][[count 20]]")
    turn.until("text_delta", 10)
    ash.await_held("full")
    machine.run(FILL)
    ash.release("full")
    code, answer = ash.ask_for("POST", "/api/sessions", {"agent": "hello"})
    assert code >= 500 and "disk" in str(answer).lower(), (code, answer)
    machine.do("rm /var/lib/ash/filler")
    turn.end()
    assert not turn.errors(), turn.told()
    turn.check_history()
    assert "[[say before]]" in ash.ask(id, "[[history]]")
    assert ash.pid("ashd") == pid, "it did not heal by itself"
