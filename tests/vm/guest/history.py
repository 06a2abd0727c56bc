"""Prints number and kind of every durable event of a session, from the database."""

import sqlite3
import sys
import uuid

with sqlite3.connect("file:/var/lib/ash/ash.db?mode=ro", uri=True) as database:
    rows = database.execute(
        "SELECT seq, kind FROM events WHERE session = (SELECT key FROM sessions WHERE id = ?)"
        " ORDER BY seq",
        (uuid.UUID(sys.argv[1]).bytes,),
    )
    for row in rows:
        print(*row)
