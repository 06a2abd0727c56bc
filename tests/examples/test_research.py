"""The tools of examples/research, each as its own process, as the CLI starts them."""

import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "research"


class Example(unittest.TestCase):
    """A copy of the example's tools in a workspace of the test's own."""

    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.workspace = Path(scratch.name)
        shutil.copytree(EXAMPLE / "tools", self.workspace / "tools")

    def run_tool(self, name: str, lines: list[str]) -> str:
        done = subprocess.run(
            [sys.executable, f"tools/{name}"],
            cwd=self.workspace,
            input="".join(line + "\n" for line in lines),
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        self.assertEqual(done.stderr, "")
        return done.stdout


class Notes(Example):
    def talk(self, *messages: dict) -> list[dict]:
        """Sends requests with ids from 0 and returns the replies, which must come in order."""
        lines = [
            json.dumps({"jsonrpc": "2.0", "id": number, **message})
            for number, message in enumerate(messages)
        ]
        replies = [json.loads(line) for line in self.run_tool("notes.py", lines).splitlines()]
        self.assertEqual([reply["id"] for reply in replies], list(range(len(messages))))
        return replies

    @staticmethod
    def tool(name: str, **arguments: object) -> dict:
        return {"method": "tools/call", "params": {"name": name, "arguments": arguments}}

    @staticmethod
    def text(reply: dict) -> str:
        return reply["result"]["content"][0]["text"]

    def test_introduces_itself_and_its_tools(self) -> None:
        hello, tools = self.talk(
            {"method": "initialize", "params": {"protocolVersion": "2025-11-25"}},
            {"method": "tools/list"},
        )
        self.assertEqual(hello["result"]["protocolVersion"], "2025-11-25")
        names = [tool["name"] for tool in tools["result"]["tools"]]
        self.assertEqual(names, ["notes_add", "notes_search"])

    def test_finds_what_was_kept_best_first(self) -> None:
        replies = self.talk(
            self.tool("notes_add", title="Tides", text="The moon pulls.", source="almanac"),
            self.tool("notes_add", title="Moon", text="The moon, the moon!"),
            self.tool("notes_add", title="Sun", text="It shines."),
            self.tool("notes_search", query="MOON"),
            self.tool("notes_search", query="moon shines"),
        )
        self.assertEqual(self.text(replies[0]), "kept as notes/0001-tides.md")
        found = self.text(replies[3])
        self.assertLess(found.index("0002-moon.md"), found.index("0001-tides.md"))
        self.assertIn("Source: almanac", found)
        self.assertNotIn("sun", found)
        self.assertEqual(self.text(replies[4]), "no note matches")

    def test_notes_outlive_the_server(self) -> None:
        self.talk(self.tool("notes_add", title="Kept", text="for tomorrow"))
        (reply,) = self.talk(self.tool("notes_search", query="tomorrow"))
        self.assertIn("[0001-kept.md]", self.text(reply))

    def test_a_title_cannot_leave_the_notes(self) -> None:
        self.talk(self.tool("notes_add", title="../../etc/passwd", text="x"))
        self.assertEqual(
            [path.name for path in (self.workspace / "notes").iterdir()], ["0001-etc-passwd.md"]
        )

    def test_refuses_wrong_requests_with_a_sentence(self) -> None:
        replies = self.talk(
            {"method": "no/such"},
            self.tool("no_such"),
            self.tool("notes_add", title="", text="x"),
            self.tool("notes_search", query=7),
        )
        codes = [reply["error"]["code"] for reply in replies]
        self.assertEqual(codes, [-32601, -32602, -32602, -32602])

    def test_survives_what_is_not_a_request(self) -> None:
        out = self.run_tool(
            "notes.py",
            ["{nonsense", "[]", '{"method":"notifications/initialized"}', '{"id":1,"method":"ping"}'],
        )
        replies = [json.loads(line) for line in out.splitlines()]
        self.assertEqual(replies[0]["error"]["code"], -32700)
        self.assertEqual(replies[1:], [{"jsonrpc": "2.0", "id": 1, "result": {}}])


class Activity(Example):
    def test_appends_a_line_per_event(self) -> None:
        for call in (
            {"hook_event_name": "UserPromptSubmit"},
            {"hook_event_name": "PostToolUse", "tool_name": "Bash"},
        ):
            self.run_tool("activity.py", [json.dumps(call)])
        lines = (self.workspace / "activity.log").read_text(encoding="utf-8").splitlines()
        when = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
        self.assertEqual(len(lines), 2)
        self.assertRegex(lines[0], f"^{when} UserPromptSubmit$")
        self.assertRegex(lines[1], f"^{when} PostToolUse Bash$")


if __name__ == "__main__":
    unittest.main()
