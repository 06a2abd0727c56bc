"""What somebody who may use ash does, and what somebody who may not is told."""

import re

from harness.ash import AGENT, bash
from harness.journey import journey

DENIED = 6

# Of ashd/src/telemetry/message.rs.
CREATED = "670679b4f06e4d739e1e1f4b07b1e679"
FAILED = "2d7c3a6e48514e9794c5ac8ca9836775"


@journey(core=True)
def a_member_of_the_group_chats(ash):
    """Without a password, with the real CLI; deploying is not among the group's rights."""
    said = ash.machine.do(f"ashctl chat {AGENT} '[[say Good morning]]'", user="alice")
    assert "Good morning" in said, said
    id = ash.machine.do(f"ashctl session create {AGENT}", user="alice").strip()
    ash.machine.do(f"ashctl session send {id} '[[say first]]'", user="alice")
    told = ash.machine.do(f"ashctl session send {id} '[[history]]'", user="alice")
    assert "[[say first]]" in told, told
    saves_and_forks(ash, id)
    ash.machine.do("mkdir -p ~/mine; echo Answer. >~/mine/CLAUDE.md", user="alice")
    denied = ash.machine.run("ashctl deploy ~/mine </dev/null", user="alice")
    assert denied.code == DENIED and "org.ashd.Ash1.manage" in denied.err, denied
    ash.machine.do(f"ashctl session end {id}", user="alice")


def saves_and_forks(ash, id):
    """What the daemon's unit forbids must not be what bringing files back needs."""

    def alice(command):
        return ash.machine.do(f"ashctl session {command}", user="alice")

    alice(f"exec {id} 'mkdir kept; mkfifo kept/pipe; touch kept/tool; chmod 2750 kept; chmod 4755 kept/tool'")
    alice(f"checkpoint create {id} 'so far'")
    alice(f"exec {id} 'rm -r kept; echo spoilt >spoilt'")
    alice(f"restore {id} 'so far'")
    found = alice(f"exec {id} 'stat -c %a kept kept/tool; test -p kept/pipe; ls'").split()
    assert found[:2] == ["2750", "4755"] and "spoilt" not in found, found
    fork = alice(f"fork {id}").strip()
    alice(f"resume {fork}")
    told = alice(f"send {fork} '[[history]]'")
    assert "[[say first]]" in told, told


@journey(core=True)
def somebody_else_is_refused(ash):
    """With the name of the right that is missing, and without a word about what there is."""
    id = ash.create()
    for command in [
        "session list",
        f"session info {id}",
        f"session send {id} hello",
        f"session stop {id}",
        f"chat {AGENT} hello",
        f"agent delete {AGENT}",
    ]:
        denied = ash.machine.run(f"ashctl {command} </dev/null", user="mallory")
        assert denied.code == DENIED, f"{command}: {denied}"
        assert re.search(r"needs the right org\.ashd\.Ash1\.\w+", denied.err), (
            f"{command}: {denied}"
        )
        assert denied.err.count("\n") == 1 and not denied.out, f"{command}: {denied}"
    ash.machine.do(
        "! test -r /var/lib/ash && ! test -x /run/ash && ! cat /etc/credstore/ash-model-key",
        user="mallory",
    )
    ash.delete(id)


@journey(core=True)
def the_journal_tells_of_a_session(ash):
    """What operators search: fields, and ids that the catalog explains."""
    id = ash.create()
    ash.ask(id, "[[say noted]]")
    fields = f"ASH_SESSION={id} ASH_AGENT={AGENT} ASH_TENANT=default"
    created = f"MESSAGE_ID={CREATED} {fields}"
    ash.machine.until(f"journalctl -q {created} | grep -q .", "a line about the session")
    explained = ash.machine.do(f"journalctl -q -x {created}")
    assert f"Session {id} of agent {AGENT} was made" in explained, explained
    # Root is not the agent, and the broker says whose socket that was.
    knock = "curl -sS -m 30 --unix-socket"
    ash.machine.run(f"for each in /run/ash/model/*/api.sock; do {knock} $each http://ash/; done")
    refused = f"journalctl -q -u ash-broker -p warning -o cat ASH_SESSION={id}"
    ash.machine.until(f"{refused} | grep -q 'not the agent'", "the broker's line about the session")
    lost = ash.send(id, bash("kill -9 -1")).end()
    assert lost.errors(), lost.told()
    failed = f"MESSAGE_ID={FAILED} {fields}"
    ash.machine.until(f"journalctl -q {failed} -o json | grep -q ASH_TURN", "the turn that failed")
    ash.delete(id)
