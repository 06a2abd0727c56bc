-- Tenants that are being deleted: nothing of theirs is added any more.
CREATE TABLE leaving_tenants (
    tenant TEXT PRIMARY KEY
) WITHOUT ROWID, STRICT;

-- Up to which event the history of a session was forgotten.
ALTER TABLE sessions ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0;

-- What is looked for by its age.
CREATE INDEX sessions_ended ON sessions (last_active_at) WHERE status = 'ended' AND slot IS NULL;
CREATE INDEX points_by_age ON points (created_at) WHERE name IS NULL;
