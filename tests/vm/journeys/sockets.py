"""A socket that systemd holds."""

from harness.ash import URL
from harness.journey import journey

from .crashes import begin_tool, finish_tool

PORT = "/etc/ash/ashd.toml.d/60-port.toml"
GATE = "/etc/systemd/system/ashd.service.d/gate.conf"

# A start that goes on when it is let, so that there is a time without a daemon.
GATED = """\
[Service]
ExecStartPre=/bin/sh -c 'until [ -e /run/go ]; do sleep 0.1; done'
"""


@journey()
def a_client_waits_while_ashd_is_restarted(ash):
    """When systemd has the listener, nobody is turned away: there is an ashd when somebody knocks,
    and whoever knocks between two of them is answered by the next."""
    machine = ash.machine
    machine.write(PORT, "[http]\nport = 4199\n")
    machine.do("systemctl stop ashd; systemctl enable --now ashd.socket")
    assert machine.run("systemctl is-active ashd").out.strip() == "inactive"
    assert ash.call("GET", "/health")["status"] == "ok"
    ash.await_up()
    assert not machine.run("curl -sS http://127.0.0.1:4199/health").ok, "it listens elsewhere"

    id = ash.create()
    turn = begin_tool(ash, id, "socket")
    machine.write(GATE, GATED)
    machine.do("systemctl daemon-reload")
    restart = machine.begin("systemctl restart ashd")
    machine.until("systemctl show -P SubState ashd | grep -qx start-pre", "no ashd is there")
    knock = machine.begin(f"touch /run/knocked; curl -fsS -m 240 {URL}/health; date +%s.%N")
    machine.until("ss -Htn state established dport = :4100 | grep -q .", "a client waits")
    assert not knock.done(), "somebody answered while there was no ashd"
    machine.do("touch /run/go")
    answered = knock.result()
    assert answered.ok and '"status":"ok"' in answered.out, answered
    assert restart.result().ok, restart.result()
    finish_tool(ash, turn, "socket")

    machine.do(f"rm {GATE} {PORT} /run/go /run/knocked; systemctl daemon-reload")
    machine.do("systemctl disable ashd.socket; systemctl stop ashd.socket ashd")
    assert not machine.run(f"curl -sS {URL}/health").ok, "somebody still listens"
    ash.start()
    ash.verb(id, "resume")
    assert ash.ask(id, "[[say after]]") == "after"
    ash.delete(id)
