"""A notebook as an MCP server: JSON-RPC 2.0, one message per line, on standard input and output.

Notes are Markdown files under notes/ in the working directory, so they live and are saved with the
workspace. Needs nothing but the standard library.
"""

import json
import re
import sys
from pathlib import Path

NOTES = Path("notes")

TOOLS = [
    {
        "name": "notes_add",
        "description": "Keep one finding.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "title": {"type": "string", "description": "A few words."},
                "text": {"type": "string", "description": "The finding."},
                "source": {"type": "string", "description": "Where it comes from."},
            },
            "required": ["title", "text"],
        },
    },
    {
        "name": "notes_search",
        "description": "Find notes that contain all the given words, best first.",
        "inputSchema": {
            "type": "object",
            "properties": {"query": {"type": "string"}},
            "required": ["query"],
        },
    },
]


class Wrong(Exception):
    """A request that cannot be answered: a JSON-RPC error code and a sentence."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def text_of(arguments: dict, name: str, default: str | None = None) -> str:
    """The argument `name`, which must be a string; with a default it may be left out."""
    value = arguments.get(name, default)
    if not isinstance(value, str) or (default is None and not value.strip()):
        raise Wrong(-32602, f"{name}: a non-empty string is expected")
    return value


def add(arguments: dict) -> str:
    """Writes a note into a file of its own and says which."""
    title, text = text_of(arguments, "title"), text_of(arguments, "text")
    source = text_of(arguments, "source", "")
    NOTES.mkdir(exist_ok=True)
    number = len(list(NOTES.glob("*.md"))) + 1
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40] or "note"
    path = NOTES / f"{number:04}-{slug}.md"
    lines = [f"# {title}", "", text] + (["", f"Source: {source}"] if source else [])
    with path.open("x", encoding="utf-8") as note:
        note.write("\n".join(lines) + "\n")
    return f"kept as {path}"


def search(arguments: dict) -> str:
    """The notes that contain every word of the query, those that repeat them most often first."""
    words = text_of(arguments, "query").lower().split()
    found = []
    for path in sorted(NOTES.glob("*.md")):
        note = path.read_text(encoding="utf-8")
        counts = [note.lower().count(word) for word in words]
        if all(counts):
            found.append((-sum(counts), path.name, note.strip()))
    if not found:
        return "no note matches"
    return "\n\n".join(f"[{name}]\n{note}" for _, name, note in sorted(found))


def call(params: dict) -> dict:
    """Runs a tool. A tool that fails tells the model so; only a wrong request is an error."""
    tool = {"notes_add": add, "notes_search": search}.get(params.get("name"))
    if tool is None:
        raise Wrong(-32602, f"unknown tool: {params.get('name')}")
    try:
        return {"content": [{"type": "text", "text": tool(params.get("arguments") or {})}]}
    except OSError as failure:
        return {"content": [{"type": "text", "text": str(failure)}], "isError": True}


def initialize(params: dict) -> dict:
    """Introduces the server; it speaks whatever version it is asked for."""
    return {
        "protocolVersion": params.get("protocolVersion", "2025-06-18"),
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "notes", "version": "1.0.0"},
    }


METHODS = {
    "initialize": initialize,
    "ping": lambda _: {},
    "tools/list": lambda _: {"tools": TOOLS},
    "tools/call": call,
}


def answer(line: str) -> dict | None:
    """The reply to one line, or none for a notification."""
    try:
        message = json.loads(line)
    except ValueError:
        return {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "not JSON"}}
    if not isinstance(message, dict) or "id" not in message:
        return None
    reply = {"jsonrpc": "2.0", "id": message["id"]}
    try:
        method = METHODS.get(message.get("method"))
        if method is None:
            raise Wrong(-32601, f"unknown method: {message.get('method')}")
        return {**reply, "result": method(message.get("params") or {})}
    except Wrong as wrong:
        return {**reply, "error": {"code": wrong.code, "message": str(wrong)}}


def main() -> None:
    for line in sys.stdin:
        reply = answer(line)
        if reply is not None:
            print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
