"""Whatever is killed in mid-turn: the turn ends or fails truthfully, and clients get it all."""

from harness.ash import bash, counted
from harness.journey import journey


def begin_tool(ash, id, round):
    """A turn in the middle of a tool call, which ends when `finish` says so."""
    wait = f"touch begun-{round}; until [ -e go-{round} ]; do sleep 0.1; done; echo went {round}"
    turn = ash.send(id, bash(wait))
    turn.until("tool_use")
    ash.exec(id, f"until [ -e begun-{round} ]; do sleep 0.1; done")
    return turn


def finish_tool(ash, turn, round):
    """The rest of it, from the same sandbox, as one gapless stream."""
    ash.exec(turn.session, f"touch go-{round}")
    turn.end()
    assert turn.text() == f"tool said: went {round}" and not turn.errors(), turn.told()
    assert len(turn.named("tool_result")) == 1, turn.told()
    turn.check_history()


@journey(core=True)
def ashd_is_restarted_in_mid_turn(ash):
    """And is reloaded; sandbox and turn are those of before."""
    id = ash.create()
    turn = begin_tool(ash, id, "restart")
    before = ash.inside("bridge")
    pid = ash.pid("ashd")
    ash.machine.do("systemctl reload ashd")
    assert ash.pid("ashd") == pid, "a reload made another process"
    ash.machine.do("systemctl restart ashd")
    ash.await_up()
    assert ash.pid("ashd") != pid
    assert ash.inside("bridge") == before
    finish_tool(ash, turn, "restart")
    assert ash.ask(id, "[[say after]]") == "after"
    ash.delete(id)


@journey(core=True)
def ashd_is_killed_in_mid_turn(ash):
    id = ash.create()
    turn = begin_tool(ash, id, "kill")
    before = ash.inside("bridge")
    ash.kill("ashd")
    ash.await_up()
    assert ash.inside("bridge") == before
    finish_tool(ash, turn, "kill")
    turn = ash.send(id, "[[count 300 20ms]]")
    turn.until("text_delta", 20)
    ash.kill("ashd")
    turn.end()
    assert turn.text() == counted(300) and not turn.errors(), turn.told()
    # Of a turn that is over by the time the client is back, the message stands for the deltas.
    assert counted(300).startswith(turn.deltas()), turn.told()
    turn.check_history()
    ash.delete(id)


@journey(core=True)
def the_broker_is_killed_in_mid_turn(ash):
    """The CLI asks again; behind the same socket is the new broker."""
    id = ash.create()
    turn = ash.send(id, "[[count 300 20ms]]")
    turn.until("text_delta", 20)
    ash.kill("ash-broker")
    turn.end()
    assert bool(turn.errors()) != (turn.text() == counted(300)), turn.told()
    turn.check_history()
    assert ash.ask(id, "[[say after]]") == "after"
    ash.delete(id)


@journey()
def ashd_is_restarted_while_the_broker_leaves(ash):
    """The answer under way comes through the broker that leaves, to an ashd that never knew it; then
    all go on with the next one, who was there before and who came in between."""
    id = ash.create()
    before = asked(ash)
    turn = ash.send(id, "[[count 20 20ms]][[hold leaving]][[count 40]]")
    turn.until("text_delta", 20)
    broker = leave(ash, "leaving")
    other = ash.create()
    assert ash.pid("ash-broker") == broker, "the broker did not wait for the answer"
    # Twice, so that a CLI that asks again does not wait for ever.
    ash.release("leaving")
    ash.release("leaving")
    turn.end()
    assert turn.text() == f"{counted(20)}\n{counted(40)}" and not turn.errors(), turn.told()
    assert asked(ash) == before + 1, "the CLI has asked again"
    turn.check_history()
    check_next_broker(ash, broker, [id, other])


@journey()
def an_answer_that_the_broker_does_not_wait_for_is_asked_for_again(ash):
    """By the CLI, behind the same socket; that ashd is another one changes nothing."""
    id = ash.create()
    turn = ash.send(id, "[[hold cut]][[count 40]]")
    broker = leave(ash, "cut")
    ash.machine.until(is_new("ash-broker", broker), "the next broker")
    # The question of before, as long as the stand-in does not know that it is gone; and the next.
    ash.release("cut")
    ash.release("cut")
    turn.end()
    assert turn.text() == counted(40) and not turn.errors(), turn.told()
    turn.check_history()
    check_next_broker(ash, broker, [id])


def leave(ash, gate):
    """Has the broker leave while an answer waits at a gate, and has another ashd meanwhile. Returns
    the process of the broker that leaves."""
    ash.await_held(gate)
    daemon, broker = ash.pid("ashd"), ash.pid("ash-broker")
    ash.machine.do("systemctl restart --no-block ash-broker")
    said = f"journalctl -o cat _PID={broker} | grep 'told to end'"
    ash.machine.until(said, "the broker leaves")
    ash.machine.do("systemctl restart ashd")
    ash.await_up()
    assert ash.pid("ashd") != daemon
    return broker


def asked(ash):
    """How often the model was."""
    return int(ash.machine.run("grep -c '/v1/messages?' /var/tmp/model.log").out)


def check_next_broker(ash, broker, ids):
    ash.machine.until(is_new("ash-broker", broker), "the next broker")
    for id in ids:
        assert ash.ask(id, "[[say after]]") == "after"
        ash.delete(id)


def is_new(unit, pid):
    """A condition: another process than this one is the main process of a unit."""
    now = f"$(systemctl show -P MainPID {unit})"
    return f"[ {now} -gt 0 ] && [ {now} != {pid} ]"


@journey(core=True)
def the_launcher_is_killed_in_mid_turn(ash):
    """Sandboxes do not depend on the process that makes them, and there is a new one for the next.
    With the one that keeps it there systemd ends them all: their turns say so, and go on."""
    id = ash.create()
    turn = begin_tool(ash, id, "launcher")
    before, keeper = ash.inside("bridge"), ash.pid("ash-sandboxes")
    serving = ash.machine.do(f"pgrep -P {keeper}").strip()
    ash.machine.do(f"kill -KILL {serving}")
    ash.machine.until(f"pgrep -P {keeper} | grep -vx {serving}", "a new launcher")
    assert ash.inside("bridge") == before, "sandboxes went with the launcher"
    other = ash.create()
    assert ash.ask(other, "[[say new]]") == "new"
    finish_tool(ash, turn, "launcher")

    turn = begin_tool(ash, id, "keeper")
    ash.kill("ash-sandboxes")
    turn.end()
    assert len(turn.errors()) == 1, turn.told()
    turn.check_history()
    for each in (id, other):
        assert ash.ask(each, "[[say again]]") == "again"
        ash.delete(each)


@journey(core=True)
def the_bridge_is_killed_in_mid_turn(ash):
    """The turn says so, and the conversation goes on in a new sandbox."""
    before = set(ash.inside("bridge"))
    id = ash.create()
    ash.ask(id, "[[say before]]")
    turn = ash.send(id, "[[count 100000 20ms]]")
    turn.until("text_delta", 20)
    bridge = set(ash.inside("bridge")) - before
    assert bridge
    ash.machine.do(f"kill -KILL {' '.join(map(str, bridge))}")
    turn.end()
    assert len(turn.errors()) == 1, turn.told()
    turn.check_history()
    assert "[[say before]]" in ash.ask(id, "[[history]]")
    ash.delete(id)
