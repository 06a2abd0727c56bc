"""What an administrator does with `ashctl` alone, from the package to the daily round."""

import json

from harness.ash import AGENT, Ash
from harness.journey import journey


@journey(fresh=True)
def an_administrator_sets_it_up(machine):
    """Doctor says what is missing, setup puts it there, and the rest is looking after it."""
    ash = Ash(machine)
    ash.install()
    check_off(machine)
    assert missing(machine, 1) == {"CLI runtime", "Model key"}
    ash.point_at_model()
    said = machine.do(
        "printf stand-in | ashctl setup --yes --key-file - --runtime-file /payload/claude",
        limit=900,
    )
    assert "Agent: hello is deployed" in said and "What are you for" in said, said
    machine.do("test -s /etc/credstore.encrypted/ash-model-key.sealed")
    assert missing(machine, 0) == set()

    again = machine.do("ashctl setup --yes </dev/null", limit=600)
    assert "is there already" in again and "Service: ashd runs" in again, again
    look_around(machine)
    machine.do("ashctl restart; ashctl status")
    machine.do("ashctl stop")
    stopped = machine.run("ashctl status")
    assert stopped.code == 3 and "inactive" in stopped.err, stopped
    machine.do("ashctl start; ashctl status")


def check_off(machine):
    """That nothing is enabled, and that an image which presets everything does not change that."""
    units = "ashd.service ashd.socket ash-broker.socket ash-sandboxes.service"
    machine.do(f"systemctl preset {units}")
    states = machine.run(f"systemctl is-enabled {units}").out.split()
    assert states == ["disabled"] * 4, states


def look_around(machine):
    """The commands that change nothing."""
    id = machine.do(f"ashctl session create {AGENT}", limit=300).strip()
    machine.do(f"ashctl session send {id} '[[say noted]]'", limit=300)
    loads = {load["id"]: load for load in json.loads(machine.do("ashctl top --json"))}
    assert loads[id]["memory"] > 0 and loads[id]["cpuUs"] > 0, loads
    machine.until(f"ashctl logs {id} | grep -q .", "a line about the session")
    assert "listening on" in machine.do("ashctl logs")
    shown = machine.do("ashctl config show")
    assert "50-vm.toml:" in shown and "stand-in" not in shown, shown
    machine.write("/root/wrong.toml", "[http]\nprot = 1\n")
    wrong = machine.run("ashctl config check /root/wrong.toml")
    assert wrong.code == 78 and "wrong.toml:2" in wrong.err, wrong
    listed = json.loads(machine.do("ashctl runtime list --json"))
    assert [one["inUse"] for one in listed] == [True], listed
    refused = machine.run(f"ashctl runtime remove {listed[0]['version']}")
    assert refused.code == 5 and "in use" in refused.err, refused
    machine.do(f"ashctl runtime use {listed[0]['version']}")
    machine.do(f"ashctl session end {id}", limit=300)


def missing(machine, code):
    """The parts that doctor misses."""
    told = machine.run("ashctl doctor --json")
    assert told.code == code, told
    findings = json.loads(told.out)["findings"]
    bad = [each for each in findings if each["grade"] != "ok"]
    assert all(each["mend"] for each in bad), bad
    return {each["name"] for each in bad if each["grade"] == "missing"}
