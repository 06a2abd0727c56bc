"""A daemon that hangs, or that must not start."""

from harness.journey import journey

from .crashes import begin_tool, finish_tool


@journey()
def a_hung_daemon_is_restarted(ash):
    """By the watchdog; the sandboxes are alive, and their turn goes on."""
    id = ash.create()
    turn = begin_tool(ash, id, "hung")
    before = ash.inside("bridge")
    ash.kill("ashd", "STOP")
    ash.await_up()
    assert ash.inside("bridge") == before
    ash.machine.do("journalctl -u ashd -b | grep -i 'watchdog timeout'")
    finish_tool(ash, turn, "hung")
    ash.delete(id)


@journey()
def a_configuration_that_is_wrong_is_told(ash):
    """In one sentence, in the journal and in the status, without a loop of restarts."""
    ash.machine.write("/etc/ash/ashd.toml.d/60-wrong.toml", "[http]\nprot = 1\n")
    failed = ash.machine.run("systemctl restart ashd")
    assert not failed.ok, failed
    shown = ash.machine.do(
        "systemctl show -P ExecMainStatus -P ActiveState -P NRestarts ashd"
    ).split()
    assert "78" in shown and "failed" in shown, shown
    for where in ("systemctl status ashd --no-pager", "journalctl -u ashd -n 20 --no-pager"):
        told = ash.machine.run(where).out
        assert "prot" in told and "60-wrong.toml" in told, told
    ash.machine.do("rm /etc/ash/ashd.toml.d/60-wrong.toml; systemctl reset-failed ashd")
    ash.start()
