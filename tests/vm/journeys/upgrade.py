"""From one version to the next while it is used, and back."""

from harness.journey import journey

from .crashes import begin_tool, finish_tool
from .services import check_by_hand, check_given_up

NEWER = ["the database has schema", "install the newer ashd again or restore a backup"]


@journey(core=True, spoils=True)
def an_upgrade_in_mid_turn_and_no_downgrade(ash):
    """The next version speaks a newer wire protocol and has a newer database, and goes on with the
    sandboxes of this one. Afterwards this one refuses to start, and harms nothing."""
    id = ash.create()
    turn = begin_tool(ash, id, "upgrade")
    holder, before = ash.pid("ash-sandboxes"), ash.inside("bridge")
    ash.install("next.deb")
    ash.await_up()
    assert ash.machine.do("ashd --version").split() != [], "no version"
    assert ash.pid("ash-sandboxes") == holder, "the upgrade restarted the holder"
    assert ash.inside("bridge") == before
    finish_tool(ash, turn, "upgrade")
    other = ash.create()
    assert ash.ask(other, "[[say next]]") == "next"

    ash.machine.run(ash.apt("install --allow-downgrades /payload/packages/ashd.deb"), limit=600)
    ash.machine.until("systemctl is-failed ashd", "the older version has given up")
    assert ash.machine.properties("ashd", "NRestarts") == ["0"], "it was tried again"
    check_given_up(ash, *NEWER)
    check_by_hand(ash, *NEWER)
    ash.install("next.deb")
    ash.machine.do("systemctl reset-failed ashd")
    ash.start()
    assert ash.ask(id, "[[say after]]") == "after"
