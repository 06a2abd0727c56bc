"""Settings that ashd must not start with, or that somebody should look at."""

import json

from harness.journey import journey

DROP_IN = "/etc/ash/ashd.toml.d/60-journey.toml"
KEY = "/etc/credstore/ash-model-key"


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


def put_right(ash, *files):
    """Takes these files away, and has ashd again."""
    ash.machine.do(f"rm {' '.join(files)}; systemctl daemon-reload; systemctl reset-failed ashd")
    ash.start()


@journey()
def a_key_that_others_can_read_is_told(ash):
    """By doctor, wherever it is; by the check of the configuration, when that names it."""
    ash.machine.do(f"chmod 0644 {KEY}")
    found = findings(ash)
    assert "open to others" in found["Model key"] and KEY in found["Model key"], found
    ash.machine.do(f"chmod 0600 {KEY}")
    assert findings(ash) == {}

    ash.machine.write("/etc/ash/key", "stand-in", mode="0644")
    ash.machine.write(DROP_IN, '[model]\nkey_file = "/etc/ash/key"\n')
    wrong = ash.machine.run("ashctl config check")
    assert wrong.code == 78 and "60-journey.toml:2" in wrong.err, wrong
    assert "others can read it" in wrong.err and "stand-in" not in wrong.err, wrong
    assert "others can read it" in findings(ash)["Configuration"]
    check_given_up(ash, "60-journey.toml:2", "others can read it")
    put_right(ash, DROP_IN, "/etc/ash/key")
