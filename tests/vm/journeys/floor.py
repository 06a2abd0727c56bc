"""A machine that ash cannot work on: it says why and what to do, and does not try for ever."""

import json

from harness.ash import Ash
from harness.journey import journey

VERSION_1 = (
    "systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
    " systemd.legacy_systemd_cgroup_controller=1"
)
# Started by hand it would do without limits, for development.
BY_HAND = "ASH_SERVICES=true ASH_ALLOW_MISSING_LIMITS=false ashd"


@journey(fresh=True, boot=VERSION_1)
def control_groups_without_version_2_are_told(machine):
    check_refused(machine, "Control groups", "systemd.unified_cgroup_hierarchy=1")


@journey(fresh=True, boot="cgroup_disable=memory")
def a_controller_that_is_missing_is_told(machine):
    told = check_refused(machine, "Control groups", "cgroup_disable=")
    assert "memory is not limited" in told, told


@journey(fresh=True, boot="lsm=lockdown,yama,apparmor,bpf")
def a_kernel_without_landlock_is_told(machine):
    check_refused(machine, "landlock", "lsm= boot parameter")


def check_refused(machine, part, mend):
    """That neither ashd nor ash-sandboxes goes on trying, and that the sentence with the mend is
    wherever somebody may look. Returns the sentence."""
    ash = Ash(machine)
    ash.install()
    machine.write("/etc/credstore/ash-model-key", "stand-in", mode="0600")
    machine.do("ashctl runtime install --file /payload/claude", limit=600)
    check_doctor(machine, part, mend)

    failed = machine.run("systemctl start ashd", limit=300)
    assert not failed.ok, failed
    shown = machine.properties("ashd", "ExecMainStatus", "ActiveState", "NRestarts")
    assert shown == ["78", "failed", "0"], shown
    holder = machine.properties("ash-sandboxes", "ActiveState", "NRestarts")
    assert holder in (["active", "0"], ["failed", "0"]), holder

    by_hand = machine.run(BY_HAND, limit=120)
    assert by_hand.code == 78 and not by_hand.out, by_hand
    sentence = by_hand.err.strip().splitlines()[-1].removeprefix("ashd: ")
    assert mend in sentence, by_hand
    for where in (
        "journalctl -u ashd -b -o cat --no-pager",
        "systemctl status ashd -n 0 --no-pager --full",
    ):
        told = machine.run(where).out
        assert told.count(sentence) == 1, f"{where}: {sentence}\n{told}"
    return sentence


def check_doctor(machine, part, mend):
    told = machine.run("ashctl doctor --json")
    findings = json.loads(told.out)["findings"]
    missing = {one["name"]: one["mend"] for one in findings if one["grade"] == "missing"}
    assert told.code == 1 and list(missing) == [part] and mend in missing[part], told
