"""What docs/operating.md tells an administrator to type, typed as it stands there."""

import re
from pathlib import Path

from harness.ash import Ash
from harness.journey import journey

DOCUMENT = Path(__file__).resolve().parents[3] / "docs/operating.md"

# What its examples are about, in order: the first words of each.
EXAMPLES = [
    "apt install ./ashd_*.deb",
    "install -d -m 0700 /etc/credstore.encrypted",
    "ashctl backup /var/backups/ash",
    "ashctl restore --check /var/backups/ash",
    "systemctl stop ashd ash-sandboxes",
    "ashctl logs",
    "ashctl agent config hello",
    "rm -rf --one-file-system /var/lib/ash",
]

# Where somebody would answer questions, and where there is no network: said beforehand instead.
SETUP = "printf stand-in | ashctl setup --yes --key-file - --runtime-file /payload/claude"


def examples():
    """The document's examples, by their first words; the journey below runs each of them."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    # What is in a configuration file of another program is nothing to be typed.
    blocks = [block for block in blocks if block[0] != "yaml"]
    found = [text for language, text in blocks if language in ("sh", "console", "")]
    assert len(found) == len(blocks), "an example in a language of its own"
    assert len(found) == len(EXAMPLES), f"{len(found)} examples, known are {len(EXAMPLES)}"
    for text, first in zip(found, EXAMPLES, strict=True):
        assert text.startswith(first), f"{first} is not how this begins: {text}"
    return dict(zip(EXAMPLES, found, strict=True))


@journey(fresh=True)
def the_operating_manual_is_followed(machine):
    """From the package to its removal, with a backup of each kind that is restored."""
    install, key, backup, restoring, offline, logs, warm, remove = examples().values()
    ash = Ash(machine)
    machine.do("mkdir /root/here; cp /payload/packages/ashd.deb /root/here/ashd_1_amd64.deb")
    follow_install(ash, install)
    machine.do(f"cd /root/here; set -e\n{key}", limit=600, input="stand-in")
    ash.await_up()
    ash.check_doctor([])
    id = ash.create()
    assert ash.ask(id, "[[say before]]") == "before"
    ash.exec(id, "echo kept > file")
    machine.do(f"mkdir -p /var/backups; set -e\n{backup}", limit=600)
    ash.exec(id, "echo later > file")
    machine.do(f"set -e\n{restoring}", limit=600)
    ash.await_up()
    check_restored(ash, id)
    machine.do(f"cd /root/here; set -e\n{offline}", limit=600)
    ash.await_up()
    restore(ash)
    check_restored(ash, id)
    machine.do(f"set -e\n{logs}")
    machine.do(f"set -e\n{warm}")
    warm = "curl -s http://127.0.0.1:4100/health | grep -q '\"warm\":2'"
    machine.until(warm, "two warm sandboxes")
    machine.do(ash.apt("remove ashd"), limit=600)
    machine.do(f"set -e\n{remove}", limit=300)
    left = machine.do("ls -d /var/lib/ash /etc/ash /usr/lib/ash /etc/credstore*/ash* || :")
    assert not left.strip(), left
    assert not machine.run("getent passwd ash-broker || getent group ash").ok


def follow_install(ash, block):
    """Line by line: the first doctor finds something missing, and setup is told its answers."""
    apt, doctor, setup, enable = block.splitlines()
    machine = ash.machine
    machine.do(f"cd /root/here; DEBIAN_FRONTEND=noninteractive {apt} 2>&1", limit=600)
    machine.do("test -d /etc/ash/ashd.toml.d")
    machine.do("zgrep -q '^GNU C Library' /usr/share/doc/ashd/THIRD-PARTY.gz")
    assert machine.run(doctor).code == 1, "nothing is missing on a new machine"
    ash.point_at_model()
    assert setup.split("#")[0].strip() == "ashctl setup", setup
    machine.do(SETUP, limit=900)
    machine.do(enable, limit=300)
    assert machine.do("systemctl is-enabled ashd").strip() == "enabled"
    ash.await_up()
    ash.key = machine.do("cat /var/lib/ash/initial-api-key").strip()


def restore(ash):
    """What tar has packed, as the document says in words."""
    machine = ash.machine
    machine.do("systemctl stop ashd ash-sandboxes", limit=300)
    machine.do("rm -rf --one-file-system /var/lib/ash /etc/ash")
    machine.do("tar --numeric-owner --acls --xattrs -xpf /root/here/ash.tar -C /", limit=300)
    machine.do("systemctl start ashd", limit=300)
    ash.await_up()


def check_restored(ash, id):
    """Conversation and files are there, and go on: a launcher of before would see the directory that
    was put there, and nobody could write to it."""
    if ash.session(id)["status"] != "active":
        ash.verb(id, "resume")
    done = ash.exec(id, "cat file && echo on | tee later ~/later && rm later ~/later")
    assert done == "kept\non\n", done
    told = ash.ask(id, "[[history]]")
    assert "[[say before]]" in told, told
