-- Files that were given to conversations. Their content is beside the database, by their ids.
CREATE TABLE attachments (
    key        INTEGER PRIMARY KEY,
    session    INTEGER NOT NULL REFERENCES sessions (key) ON DELETE CASCADE,
    id         BLOB NOT NULL UNIQUE,
    message    BLOB,
    name       TEXT NOT NULL,
    media      TEXT NOT NULL,
    size       INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX attachments_by_session ON attachments (session, key);
