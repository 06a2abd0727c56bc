"""An existing client of the HTTP API, the PyPI package ash-ai-sdk, goes through what it can do.

Arguments: base URL, key, an agent's folder on the server.
"""

import sys
from uuid import UUID

from ash_sdk import AshClient
from ash_sdk.streaming import DoneEvent, ErrorEvent, MessageEvent, TextDeltaEvent, TurnCompleteEvent

url, key, folder = sys.argv[1:]
client = AshClient(url, token=key)

health = client.health()
assert health["status"] == "ok", health

agent = client.deploy_agent("sdk", folder)
assert (agent.name, agent.version) == ("sdk", 1), agent
assert client.deploy_agent("sdk", folder).version == 2
assert [each.name for each in client.list_agents()] == ["sdk"]
assert client.get_agent("sdk").id == agent.id

session = client.create_session("sdk", extra_env={"COLOUR": "green"})
assert isinstance(session.id, UUID) and session.status == "active", session
assert [each.id for each in client.list_sessions(agent="sdk", status="active")] == [session.id]
assert client.list_sessions(status="ended") == []
assert client.get_session(session.id).agent_name == "sdk"


def ask(prompt: str, partial: bool = True) -> list:
    events = list(client.send_message_stream(session.id, prompt, include_partial_messages=partial))
    assert isinstance(events[-1], DoneEvent), events
    assert not any(isinstance(event, ErrorEvent) for event in events), events
    return events


def result(events: list) -> str:
    [complete] = [event for event in events if isinstance(event, TurnCompleteEvent)]
    return complete.result


events = ask("[[count 10]][[unicode]]")
deltas = "".join(event.delta for event in events if isinstance(event, TextDeltaEvent))
assert deltas.startswith("1 2 3 4 5 6 7 8 9 10 "), deltas
assert "\u2028" in deltas and result(events) == deltas.strip(), (deltas, result(events))
plain = ask("[[say plain]]", partial=False)
assert not any(isinstance(event, TextDeltaEvent) for event in plain), plain
assert any(isinstance(event, MessageEvent) for event in plain) and result(plain) == "plain"

assert client.pause_session(session.id).status == "paused"
assert client.resume_session(session.id).status == "active"
assert client.stop_session(session.id).status == "stopped"
assert client.resume_session(session.id).status == "active"
assert "[[say plain]]" in result(ask("[[history]]"))
assert client.end_session(session.id).status == "ended"
assert client.end_session(session.id).status == "ended"
client.delete_agent("sdk")
assert client.list_agents() == []
print("all of it works")
