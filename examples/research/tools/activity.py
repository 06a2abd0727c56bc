"""A hook: appends one line per prompt and per finished tool call to activity.log.

The hook's input is a JSON object on standard input. The log lies in the folder above this one.
"""

import json
import sys
from datetime import datetime, timezone
from pathlib import Path

LOG = Path(__file__).resolve().parent.parent / "activity.log"


def main() -> None:
    call = json.load(sys.stdin)
    words = [call.get("hook_event_name", "?"), call.get("tool_name", "")]
    when = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    with LOG.open("a", encoding="utf-8") as log:
        log.write(" ".join([when, *filter(None, words)]) + "\n")


if __name__ == "__main__":
    main()
