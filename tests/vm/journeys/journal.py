"""What agents make of the journal, which all share."""

import json

from harness.ash import UNITS
from harness.journey import journey

from .people import CREATED

# Of ashd/src/telemetry/message.rs.
CHANGED = "ecd087da537d483d8415f0d0d697b69a"
SAID = "7605f59ba5fd482f88fbfca3d3a36dc6"
LEFT_OUT = "f0df2d51415d4a48b06792830975af63"

# Of systemd: journald has thrown lines of a unit away.
SUPPRESSED = "a596d6fe7bfa4994828e72309e95d61e"

# Of ashd/src/telemetry/pace.rs: so many lines of a session's CLI in so many seconds.
SHARE, SPAN = 200, 30

# The flood is less than a bridge keeps for an ashd that is slow: what is more than that goes
# uncounted.
FLOOD, FEW = 10_000, 100

# What a folder's helper for keys says before it fails, the CLI repeats on its standard error.
HELPER = "until [ -e /workspace/go ]; do sleep 0.1; done; seq {} >&2; false"


@journey()
def one_agent_that_floods_the_journal_pushes_nobody_out(ash):
    """What is too much of one session is left out, counted and said; lines of its neighbour and of
    ashd that come meanwhile are all there, and ashd answers."""
    daemon = ash.pid("ashd")
    loud, quiet = talker(ash, "loud", FLOOD), talker(ash, "quiet", FEW)
    flood = ash.send(loud, "[[hold flooded]][[say over]]")
    turn = ash.send(quiet, "[[say heard]]")
    ash.exec(loud, "touch go")
    await_said(ash, loud, 5 * SHARE)
    ash.exec(quiet, "touch go")
    turn.end()
    assert turn.text() == "heard" and not turn.errors(), turn.told()
    await_said(ash, quiet, FEW)
    for verb in ("pause", "resume"):
        ash.verb(quiet, verb)
    ash.await_up()

    await_said(ash, loud, FLOOD)
    heard = said(ash, loud)[-1]["index"] + 1
    ash.release("flooded")
    flood.end()
    assert flood.text() == "over" and not flood.errors(), flood.told()
    check_share(ash, loud, heard)
    check_complete(ash, quiet)
    check_unit_limits(ash)
    assert ash.pid("ashd") == daemon, "ashd was started anew"
    for agent in ("loud", "quiet"):
        ash.call("DELETE", f"/api/agents/{agent}")
    ash.machine.do("rm -r /root/loud /root/quiet")


def talker(ash, agent, lines):
    """A session of an agent of its own, whose CLI says so many lines once there is a file `go`."""
    folder, settings = f"/root/{agent}", {"apiKeyHelper": HELPER.format(lines)}
    ash.machine.write(f"{folder}/CLAUDE.md", "Answer briefly.\n")
    ash.machine.write(f"{folder}/.claude/settings.json", json.dumps(settings))
    ash.machine.do(f"ashctl deploy {folder}")
    return ash.create(agent)


def await_said(ash, id, lines):
    """Waits until ashd has heard so many lines of a session."""
    behind = ash.curl(f"/api/sessions/{id}/logs?after={lines - 2}")
    ash.machine.until(f"{behind} | grep index", f"{lines} lines of a session")


def said(ash, id):
    """The newest lines of a session's log, whatever of them is in the journal."""
    return ash.call("GET", f"/api/sessions/{id}/logs")["logs"]


def noted(ash, command):
    """What the journal has, by a command that prints it as JSON."""
    lines = ash.machine.do(f"journalctl --sync; {command}").splitlines()
    return [json.loads(line) for line in lines]


def of_kind(lines, kind):
    return [line for line in lines if line.get("MESSAGE_ID") == kind]


def check_share(ash, id, heard):
    """That a session has no more of the journal than it may, and that the rest is counted there:
    every line that was heard before its turn ended."""
    lines = noted(ash, f"journalctl -q -o json ASH_SESSION={id}")
    kept = of_kind(lines, SAID)
    left_out = [int(line["LINES"]) for line in of_kind(lines, LEFT_OUT)]
    times = [int(line["__REALTIME_TIMESTAMP"]) for line in kept if line["STREAM"] == "stderr"]
    # Each begins with a line. One more, because the journal's times are not quite ashd's.
    spans = (times[-1] - times[0]) // (SPAN * 1_000_000) + 2
    assert len(times) <= SHARE * spans, f"{len(times)} lines in {spans} spans"
    assert 0 < len(left_out) <= spans, left_out
    accounted, by_now = len(kept) + sum(left_out), said(ash, id)[-1]["index"] + 1
    assert heard <= accounted <= by_now, f"{accounted} of {heard} to {by_now}: {left_out}"


def check_complete(ash, id):
    """That the journal has all lines of a session, and those of ashd about it, however one asks."""
    texts = [line["text"] for line in said(ash, id)]
    for command in (f"ashctl logs {id} --json", f"journalctl -q -o json ASH_SESSION={id}"):
        lines = noted(ash, command)
        found = [line["MESSAGE"] for line in of_kind(lines, SAID)]
        assert found[: len(texts)] == texts, f"{command}: {len(found)} of {len(texts)}"
        assert not of_kind(lines, LEFT_OUT), command
        own = len(of_kind(lines, CREATED)), len(of_kind(lines, CHANGED))
        assert own == (1, 2), f"{command}: {own}"


def check_unit_limits(ash):
    """That journald has none for our units: one that fills it would silence all others."""
    for unit in UNITS:
        limit = ash.machine.properties(unit, "LogRateLimitIntervalUSec")
        assert limit == ["0"], f"{unit}: {limit}"
    told = ash.machine.run(f"journalctl -q -o cat MESSAGE_ID={SUPPRESSED}").out
    assert not any(unit in told for unit in UNITS), told
