"""Other ways to come to an installation."""

from harness.ash import Ash, installed
from harness.journey import journey

from . import boots, crashes, limits, people

# Documentation, licences and completions have places that the formats prescribe.
PRESCRIBED = "/usr/share/(doc|licenses|lintian|zsh)/"
COMPARE = f"""\
set -e
mkdir -p /var/tmp/deb /var/tmp/rpm
dpkg-deb -x /payload/packages/ashd.deb /var/tmp/deb
rpm2archive -n </payload/packages/ashd.rpm | tar -x -C /var/tmp/rpm
for kind in deb rpm; do
    cd /var/tmp/$kind
    find . -type f -printf '%m ' -exec sha256sum {{}} \\; | grep -vE '{PRESCRIBED}' |
        sort >../$kind.list
done
diff /var/tmp/deb.list /var/tmp/rpm.list
wc -l </var/tmp/deb.list
"""


@journey(fresh=True, suite="bookworm")
def debian_12_works_as_well(machine):
    """Older kernel, systemd and bubblewrap: who may what, limits, the journal, a reboot."""
    ash = installed(machine)
    people.a_member_of_the_group_chats(ash)
    people.somebody_else_is_refused(ash)
    people.the_journal_tells_of_a_session(ash)
    limits.a_memory_hog_is_killed_whole(ash)
    boots.the_machine_is_rebooted(ash)


@journey(fresh=True, suite="bookworm")
def debian_12_brings_turns_to_their_end(machine):
    """Whatever of ours is restarted or killed there."""
    ash = installed(machine)
    crashes.ashd_is_restarted_in_mid_turn(ash)
    crashes.ashd_is_killed_in_mid_turn(ash)
    crashes.the_broker_is_killed_in_mid_turn(ash)
    crashes.the_bridge_is_killed_in_mid_turn(ash)


@journey(fresh=True)
def the_rpm_is_the_same(machine):
    """Its payload is the deb's, and what it installs works, set up by `ashctl setup`."""
    files = machine.do(COMPARE)
    assert int(files) > 10, files
    # The names that it depends on are those of another distribution.
    machine.do("rpm --install --nodeps /payload/packages/ashd.rpm 2>&1", limit=600)
    ash = Ash(machine)
    ash.point_at_model()
    machine.write("/root/key", "stand-in", mode="0600")
    machine.do("ashctl setup --yes --key-file /root/key --runtime-file /payload/claude", limit=600)
    ash.await_up()
    ash.deploy()
    assert ash.ask(ash.create(), "[[say from an rpm]]") == "from an rpm"
    machine.do("rpm --erase ashd 2>&1", limit=300)
    assert not ash.inside("bridge")
    machine.do("! command -v ashctl && ! systemctl cat ashd")
