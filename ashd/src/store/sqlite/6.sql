-- The generation in which this machine has a session in the object store.
CREATE TABLE copies (
    session    INTEGER PRIMARY KEY REFERENCES sessions (key) ON DELETE CASCADE,
    generation INTEGER NOT NULL
) STRICT;

-- Whether the object store has a point, or need not have it.
ALTER TABLE points ADD COLUMN copied INTEGER NOT NULL DEFAULT 0;

CREATE INDEX points_to_copy ON points (session) WHERE copied = 0;

-- Sessions that were purged, and that the object store may still have.
CREATE TABLE purged_copies (
    id         BLOB PRIMARY KEY,
    tenant     TEXT NOT NULL,
    generation INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
