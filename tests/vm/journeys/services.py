"""Settings that ashd must not start with, or that somebody should look at."""

import json
import re
from pathlib import Path

from harness.journey import journey

DROP_IN = "/etc/ash/ashd.toml.d/60-journey.toml"
LATER = "/etc/ash/ashd.toml.d/61-journey.toml"
UNIT = "/etc/systemd/system/{}.service.d/journey.conf"
KEY = "/etc/credstore/ash-model-key"
SEALED = "/etc/credstore.encrypted/ash-model-key.sealed"
PIPE = "/run/journey-certificates"
SEAL = f"""\
set -e
install -d -m 0700 /etc/credstore.encrypted
printf stand-in | systemd-creds encrypt --with-key=host --name=ash-model-key.sealed - {SEALED}
"""

# As on a machine that got the disk of another one.
OTHER_HOST = """\
rm /var/lib/systemd/credential.secret
systemd-creds setup
"""


def example():
    """How a key is given anew, as the chapter about it says."""
    text = (Path(__file__).resolve().parents[3] / "docs/troubleshooting.md").read_text()
    (block,) = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return block


def findings(ash):
    """What doctor misses: a part, and what it says of it."""
    told = ash.machine.run("ashctl doctor --json")
    bad = [one for one in json.loads(told.out)["findings"] if one["grade"] == "missing"]
    assert told.code == (1 if bad else 0) and all(one["mend"] for one in bad), told
    return {one["name"]: one["detail"] for one in bad}


def check_given_up(ash, *words):
    """That ashd has ended for good with one sentence that has these words, and that it is in the
    journal and in the status."""
    failed = ash.machine.run("systemctl restart ashd", limit=300)
    assert not failed.ok, failed
    shown = ash.machine.properties("ashd", "ExecMainStatus", "ActiveState", "NRestarts")
    assert shown == ["78", "failed", "0"], shown
    id = ash.machine.do("systemctl show -P InvocationID ashd").strip()
    said = ash.machine.do(f"journalctl -o cat --no-pager _SYSTEMD_INVOCATION_ID={id}")
    told = [line for line in said.splitlines() if all(word in line for word in words)]
    assert len(told) == 1, f"{words}\n{said}"
    status = ash.machine.run("systemctl status ashd -n 0 --no-pager --full").out
    assert all(word in status for word in words), status
    ours = ash.machine.run("ashctl status")
    assert ours.code == 3 and all(word in ours.err for word in words), ours


def check_by_hand(ash, *words):
    """That whoever starts ashd on a terminal is told the same, on standard error alone."""
    told = ash.machine.run("ASH_SERVICES=true ashd", limit=120)
    assert told.code == 78 and not told.out, told
    assert any(all(word in line for word in words) for line in told.err.splitlines()), told


def put_right(ash, *files):
    """Takes these files away, and has ashd again."""
    ash.machine.do(f"rm {' '.join(files)}; systemctl daemon-reload; systemctl reset-failed ashd")
    ash.start()


@journey()
def a_key_that_others_can_read_is_told(ash):
    """By doctor and at the start, wherever it is; where the configuration names it, with the line."""
    ash.machine.do(f"chmod 0644 {KEY}")
    found = findings(ash)
    assert "open to others" in found["Model key"] and KEY in found["Model key"], found
    check_given_up(ash, "credential", KEY, "others can read it")
    ash.machine.do(f"chmod 0600 {KEY}; systemctl reset-failed ashd")
    ash.start()
    assert findings(ash) == {}

    ash.machine.write("/etc/ash/key", "stand-in", mode="0644")
    ash.machine.write(DROP_IN, '[model]\nkey_file = "/etc/ash/key"\n')
    wrong = ash.machine.run("ashctl config check")
    assert wrong.code == 78 and "60-journey.toml:2" in wrong.err, wrong
    assert "others can read it" in wrong.err and "stand-in" not in wrong.err, wrong
    assert "others can read it" in findings(ash)["Configuration"]
    check_given_up(ash, "60-journey.toml:2", "others can read it")
    put_right(ash, DROP_IN, "/etc/ash/key")


@journey()
def a_key_that_cannot_be_decrypted_is_told(ash):
    """Once, with what to do about it. Nothing tries for ever, a turn fails soon and truthfully, and
    with a key that can be read all goes on in the same daemon."""
    machine = ash.machine
    id = ash.create()
    ash.ask(id, "[[say before]]")
    daemon = ash.pid("ashd")
    machine.do(SEAL + OTHER_HOST)
    failed = machine.run("systemctl restart ash-broker", limit=300)
    assert not failed.ok, failed
    turn = ash.send(id, "[[say never]]").end()
    assert "the model broker does not run" in turn.told(), turn.told()
    turn.check_history()
    machine.until(
        "systemctl show -P Result ash-broker.socket | grep -qx trigger-limit-hit",
        "nothing tries any more",
        limit=300,
    )
    shown = machine.properties("ash-broker", "ExecMainStatus", "ActiveState", "NRestarts")
    assert shown == ["243", "failed", "0"], shown
    for where in ("journalctl -u ash-broker -o cat", "systemctl status ash-broker --full"):
        told = machine.run(f"{where} --no-pager").out
        assert "cannot be decrypted here" in told and "ashctl setup --key-file" in told, told
    assert "cannot decrypt it" in findings(ash)["Model key"], findings(ash)
    again = ash.send(id, "[[say never]]").end()
    assert "the model broker does not run" in again.told(), again.told()

    machine.do(f"set -e\nrm {SEALED}\n{example()}", input="stand-in")
    machine.until("ashctl doctor", "the broker has a key")
    assert ash.ask(id, "[[say after]]") == "after"
    assert ash.pid("ashd") == daemon, "it did not heal by itself"
    machine.do(f"rm {SEALED}; systemctl restart ash-broker")
    assert ash.ask(id, "[[say plain]]") == "plain"
    ash.delete(id)


@journey()
def a_broker_that_only_a_person_can_mend_is_told(ash):
    """It says what is wrong and ends, and systemd does not start it again by itself; once it is mended
    all goes on in the same daemon."""
    machine, unit = ash.machine, UNIT.format("ash-broker")
    id, daemon = ash.create(), ash.pid("ashd")
    machine.do(f"mkfifo {PIPE}")
    machine.write(unit, f"[Service]\nEnvironment=SSL_CERT_FILE={PIPE}\n")
    # It is executed, and ends then: whether that is in time to be told here depends.
    machine.do("systemctl daemon-reload; systemctl restart ash-broker || true")
    machine.until(
        "systemctl show -P Result ash-broker.socket | grep -qx trigger-limit-hit",
        "nothing tries any more",
        limit=300,
    )
    shown = machine.properties("ash-broker", "ExecMainStatus", "ActiveState", "NRestarts")
    assert shown == ["78", "failed", "0"], shown
    for where in ("journalctl -u ash-broker -o cat", "systemctl status ash-broker --full"):
        told = machine.run(f"{where} --no-pager").out
        assert f"SSL_CERT_FILE names {PIPE}, which is no regular file" in told, told
    assert "ash-broker.service is failed" in findings(ash)["Daemon"], findings(ash)

    machine.do(f"rm {unit} {PIPE}; systemctl daemon-reload; systemctl restart ash-broker")
    health = f"""{ash.curl("/health")} | grep -q '"modelKey":true'"""
    machine.until(health, "ashd has its broker again")
    assert ash.ask(id, "[[say mended]]") == "mended"
    assert ash.pid("ashd") == daemon, "it did not heal by itself"
    assert findings(ash) == {}
    ash.delete(id)


@journey()
def settings_that_contradict_are_explained(ash):
    """The file whose name comes later wins, the environment of the unit wins over both, and whoever
    asks is told where a value was written."""
    machine = ash.machine
    machine.write(DROP_IN, "[sandbox]\ncpus = 0.5\n")
    machine.write(LATER, "[sandbox]\n\ncpus = 1.5\n")
    assert origin(machine, "sandbox.cpus") == ("1.5", f"{LATER}:3")
    machine.do("systemctl reload ashd")
    id = ash.create()
    machine.do("grep -h . /sys/fs/cgroup/system.slice/ash-sandboxes.service/*/agent/cpu.max | grep 150000")
    ash.delete(id)
    machine.write(UNIT.format("ashd"), "[Service]\nEnvironment=ASH_PORT=4100\n")
    machine.write(DROP_IN, "[http]\nport = 4199\n")
    machine.do("systemctl daemon-reload")
    value, where = origin(machine, "http.port")
    assert value == "4100" and "ASH_PORT" in where, (value, where)
    put_right(ash, DROP_IN, LATER, UNIT.format("ashd"))


def origin(machine, key):
    """The value of a key, and where it was written; the table for people says the same."""
    entries = json.loads(machine.do("ashctl config show --json"))
    (found,) = [entry for entry in entries if entry["key"] == key]
    (line,) = [
        line
        for line in machine.do("ashctl config show").splitlines()
        if line.startswith(f"{key} = ")
    ]
    assert line.endswith(f"# {found['origin']}") and f" = {found['value']} " in line, line
    return found["value"], found["origin"]


@journey()
def a_state_directory_that_a_drop_in_closes_is_told(ash):
    """Which is said, and where to look for it; a disk that is read-only is another thing."""
    machine, unit = ash.machine, UNIT.format("ashd")
    machine.write(unit, "[Service]\nReadOnlyPaths=/var/lib/ash\n")
    machine.do("systemctl daemon-reload")
    check_given_up(ash, "cannot use the state directory", "systemctl cat ashd")
    put_right(ash, unit)


@journey()
def a_holder_that_lacks_a_capability_is_told(ash):
    """By itself, when it is started and not with the first sandbox; ashd names it and gives up, too.
    Starting ashd is all that is to be done when the unit is right again."""
    machine, unit = ash.machine, UNIT.format("ash-sandboxes")
    id = ash.create()
    assert ash.ask(id, "[[say before]]") == "before"
    machine.write(unit, "[Service]\nCapabilityBoundingSet=~CAP_SYS_ADMIN\n")
    machine.do("systemctl daemon-reload")
    failed = machine.run("systemctl restart ash-sandboxes", limit=300)
    assert not failed.ok, failed
    check_given_up(ash, "ash-sandboxes.service has failed", "systemctl status ash-sandboxes")
    shown = machine.properties("ash-sandboxes", "ExecMainStatus", "ActiveState", "NRestarts")
    assert shown == ["78", "failed", "0"], shown
    for where in ("journalctl -u ash-sandboxes -o cat", "systemctl status ash-sandboxes --full"):
        told = machine.run(f"{where} --no-pager").out
        assert "lacks CAP_SYS_ADMIN" in told and "systemctl cat ash-sandboxes" in told, told
    put_right(ash, unit)
    if ash.session(id)["status"] == "paused":
        ash.verb(id, "resume")
    assert "[[say before]]" in ash.ask(id, "[[history]]")
    ash.delete(id)
