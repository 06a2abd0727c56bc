-- Points: what conversation and workspace were at a moment. The content is in the snapshot store,
-- under `root`; the events up to `seq` are in `events`.
CREATE TABLE points (
    key           INTEGER PRIMARY KEY,
    session       INTEGER NOT NULL REFERENCES sessions (key) ON DELETE CASCADE,
    id            BLOB NOT NULL UNIQUE,
    name          TEXT,
    seq           INTEGER NOT NULL,
    turn          BLOB,
    turn_user_seq INTEGER,
    cli_session   TEXT NOT NULL,
    root          BLOB NOT NULL,
    files         INTEGER NOT NULL,
    bytes         INTEGER NOT NULL,
    written       INTEGER NOT NULL,
    left_out      INTEGER NOT NULL,
    -- What was undone at that moment: [[first, last], ...].
    undone        TEXT NOT NULL,
    created_at    INTEGER NOT NULL,
    CHECK ((turn IS NULL) = (turn_user_seq IS NULL))
) STRICT;

CREATE INDEX points_by_session ON points (session, seq);
CREATE UNIQUE INDEX points_by_name ON points (session, name) WHERE name IS NOT NULL;

-- Events that happened behind a point that was restored. They keep their numbers, and can still be read.
CREATE TABLE undone (
    session INTEGER NOT NULL REFERENCES sessions (key) ON DELETE CASCADE,
    first   INTEGER NOT NULL,
    last    INTEGER NOT NULL CHECK (last >= first),
    PRIMARY KEY (session, first)
) WITHOUT ROWID, STRICT;

-- The session that this one was forked from.
ALTER TABLE sessions ADD COLUMN parent BLOB;

-- The point that workspace and home have to be brought back to before they are used again.
ALTER TABLE sessions ADD COLUMN restore BLOB;

-- The sandbox was ended on purpose and the status kept: the next message makes another one.
ALTER TABLE sessions ADD COLUMN cold INTEGER NOT NULL DEFAULT 0;
