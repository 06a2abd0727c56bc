-- Keys of callers. The key itself is never stored.
CREATE TABLE keys (
    id         BLOB NOT NULL UNIQUE,
    tenant     TEXT NOT NULL,
    hash       BLOB NOT NULL UNIQUE,
    label      TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- An agent and which of its versions is the newest.
CREATE TABLE agents (
    key        INTEGER PRIMARY KEY,
    id         BLOB NOT NULL UNIQUE,
    tenant     TEXT NOT NULL,
    name       TEXT NOT NULL,
    version    INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (tenant, name)
) STRICT;

-- What was deployed, every time.
CREATE TABLE agent_versions (
    agent       INTEGER NOT NULL REFERENCES agents (key) ON DELETE CASCADE,
    version     INTEGER NOT NULL,
    env         TEXT NOT NULL,
    deployed_at INTEGER NOT NULL,
    PRIMARY KEY (agent, version)
) WITHOUT ROWID, STRICT;

-- `key` stands for the session in the tables below: smaller than its id, and new sessions' rows
-- come to lie side by side.
CREATE TABLE sessions (
    key            INTEGER PRIMARY KEY,
    id             BLOB NOT NULL UNIQUE,
    tenant         TEXT NOT NULL,
    agent          TEXT NOT NULL,
    agent_version  INTEGER NOT NULL,
    status         TEXT NOT NULL,
    sandbox        BLOB NOT NULL,
    cli_session    TEXT NOT NULL,
    cli_version    TEXT,
    turn           BLOB,
    turn_user_seq  INTEGER,
    slot           INTEGER,
    last_seq       INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    last_active_at INTEGER NOT NULL,
    CHECK ((turn IS NULL) = (turn_user_seq IS NULL))
) STRICT;

CREATE INDEX sessions_by_tenant ON sessions (tenant, created_at);
CREATE INDEX sessions_by_agent ON sessions (tenant, agent, created_at);
CREATE INDEX sessions_by_status ON sessions (status, tenant, created_at);
CREATE INDEX sessions_unended ON sessions (key) WHERE status <> 'ended' OR slot IS NOT NULL;
-- Two sessions with the same uids could reach each other's files and processes.
CREATE UNIQUE INDEX sessions_by_slot ON sessions (slot) WHERE slot IS NOT NULL;

-- Apart from the session's row, which changes with every commit: settings can be large.
CREATE TABLE session_settings (
    session  INTEGER PRIMARY KEY REFERENCES sessions (key) ON DELETE CASCADE,
    settings TEXT NOT NULL
) STRICT;

CREATE TABLE events (
    session  INTEGER NOT NULL REFERENCES sessions (key) ON DELETE CASCADE,
    seq      INTEGER NOT NULL CHECK (seq > 0),
    kind     TEXT NOT NULL,
    turn     BLOB,
    epoch    INTEGER,
    number   INTEGER,
    replaces INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    body     BLOB NOT NULL,
    PRIMARY KEY (session, seq),
    CHECK ((epoch IS NULL) = (number IS NULL))
) WITHOUT ROWID, STRICT;

-- What a bridge sends again is refused.
CREATE UNIQUE INDEX events_by_origin ON events (session, epoch, number) WHERE epoch IS NOT NULL;

CREATE TABLE usage (
    key                   INTEGER PRIMARY KEY,
    session               INTEGER NOT NULL REFERENCES sessions (key) ON DELETE CASCADE,
    at                    INTEGER NOT NULL,
    model                 TEXT NOT NULL,
    input_tokens          INTEGER NOT NULL,
    output_tokens         INTEGER NOT NULL,
    cache_creation_tokens INTEGER NOT NULL,
    cache_read_tokens     INTEGER NOT NULL,
    cost_usd              REAL NOT NULL,
    calls                 INTEGER NOT NULL
) STRICT;

CREATE INDEX usage_by_session ON usage (session, at);
