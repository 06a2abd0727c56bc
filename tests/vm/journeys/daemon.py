"""A daemon that hangs, that must not start, or that is without its broker."""

import shlex

from harness.journey import journey

from .crashes import begin_tool, finish_tool
from .services import DROP_IN, check_by_hand, check_given_up, findings, put_right

# What may be wrong with a configuration: where that is, what it is, and what would be right.
WRONG = [
    ("[http]\nport = 4100 4200\n", ["60-journey.toml:2: is not TOML:", "must be quoted"]),
    ("[http]\n\nprot = 1\n", ["60-journey.toml:3: http.prot: is no key", "did you mean http.port?"]),
    ('[http]\nport = "4100"\n', ["60-journey.toml:2: http.port:", "a whole number, without quotes"]),
]


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
    """In one sentence, in the journal, in the status and on a terminal, without a loop of restarts."""
    for text, words in WRONG:
        ash.machine.write(DROP_IN, text)
        check_given_up(ash, *words)
        check_by_hand(ash, *words)
    put_right(ash, DROP_IN)


@journey()
def a_reload_of_what_is_wrong_fails(ash):
    """Whoever reloads is told, the journal says what is wrong, and ashd goes on as it was."""
    machine = ash.machine
    id, daemon = ash.create(), ash.pid("ashd")
    for text, words in WRONG:
        machine.write(DROP_IN, text)
        since = machine.do("date +%s.%N").strip()
        failed = machine.run("systemctl reload ashd")
        assert not failed.ok and "ashd.service" in failed.err, failed
        line = "".join(f" | grep -F {shlex.quote(word)}" for word in words)
        said = f"journalctl -u ashd -o cat --no-pager --since @{since}{line}"
        machine.until(said, "the journal says what is wrong")
        shown = machine.properties("ashd", "ActiveState", "MainPID")
        assert shown == ["active", str(daemon)], shown
    assert ash.ask(id, "[[say on]]") == "on"
    machine.do(f"rm {DROP_IN}; systemctl reload ashd")
    assert ash.pid("ashd") == daemon, "a reload made another process"
    assert ash.ask(id, "[[say still]]") == "still"
    ash.delete(id)


@journey()
def a_broker_that_is_stopped_is_told(ash):
    """By doctor, which looks at more than ashd; what it says to do mends it."""
    machine = ash.machine
    machine.do("systemctl stop ash-broker.socket ash-broker.service", limit=300)
    found = findings(ash)
    assert "ash-broker.service is inactive" in found["Daemon"], found
    told = machine.run("ashctl doctor")
    assert told.code == 1 and "systemctl start ash-broker.service" in told.out, told
    machine.do("systemctl start ash-broker.service")
    machine.until("ashctl doctor", "all is well")
    id = ash.create()
    assert ash.ask(id, "[[say after]]") == "after"
    ash.delete(id)
