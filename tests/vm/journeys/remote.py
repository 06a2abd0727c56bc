"""`ashctl -H` through a real ssh, and polkit's question on the terminal at its other end."""

import json

from harness.ash import AGENT
from harness.journey import journey

from .people import DENIED

# Of carol, who administers: root has no password here, as on most machines.
PASSWORD = "correct horse"
ASKED = "AUTHENTICATING"

# alice and mallory come with a key, from the machine to itself.
DOOR = f"""\
set -e
systemctl start ssh
groupadd -f sudo
useradd -m -G sudo carol
echo 'carol:{PASSWORD}' | chpasswd
for name in alice mallory; do
    install -d -m 0700 -o $name -g $name /home/$name/.ssh
    ssh-keygen -q -t ed25519 -N '' -f /home/$name/.ssh/id_ed25519
    cp /home/$name/.ssh/id_ed25519.pub /home/$name/.ssh/authorized_keys
    ssh-keyscan -t ed25519 127.0.0.1 2>/dev/null >/home/$name/.ssh/known_hosts
    chown -R $name:$name /home/$name/.ssh
done
"""
SHUT = """\
systemctl stop ssh
rm -rf /home/alice/.ssh /home/mallory/.ssh
userdel -r carol 2>&1
"""


@journey()
def ash_is_used_from_another_machine(ash):
    """With a key: commands, their words and their exit codes are those of over there."""
    ash.machine.do(DOOR)
    try:
        through_ssh(ash)
        at_a_terminal(ash)
    finally:
        ash.machine.run(SHUT)


def through_ssh(ash):
    def remote(command, user="alice"):
        return ash.machine.run(f"ashctl -H {user}@127.0.0.1 {command}", user=user)

    made = remote(f"session create {AGENT}")
    assert made.ok, made
    id = made.out.strip()
    said = remote(f"session send {id} '[[say it'\\''s here]]'")
    assert said.ok and "it's here" in said.out, said
    lost = remote("session info 00000000-0000-4000-8000-000000000000")
    assert lost.code == 4 and lost.err.count("\n") == 1, lost
    denied = remote("session list </dev/null", user="mallory")
    assert denied.code == DENIED and "org.ashd.Ash1.view" in denied.err, denied
    assert remote(f"session end {id}").ok
    nobody = ash.machine.run("ashctl -H nobody@127.0.0.1 status </dev/null", user="alice")
    assert nobody.code == 255 and "Permission denied" in nobody.err, nobody


def at_a_terminal(ash):
    """Who lacks a right and sits at a terminal is asked for an administrator's password there."""
    command = "ashctl -H mallory@127.0.0.1 key create far"
    right = typed(ash, command, [["Password: ", PASSWORD]])
    assert right.ok and ASKED in right.out and "ash_" in right.out, right
    wrong = typed(ash, command, [["Password: ", "battery staple"]])
    assert wrong.code == DENIED and "org.ashd.Ash1.manage" in wrong.out, wrong
    assert PASSWORD not in right.out, "the password is shown"
    keys = json.loads(ash.machine.do("ashctl key list --json"))
    (far,) = [key for key in keys if key["name"] == "far"]
    ash.machine.do(f"ashctl key revoke {far['id']}")


def typed(ash, command, dialogue):
    script = f"python3 /payload/typist.py '{command}'"
    return ash.machine.run(script, user="mallory", input=json.dumps(dialogue))
