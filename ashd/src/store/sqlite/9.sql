-- Something of a session's files may be in no point, and no turn will save it: 1, what commands may have
-- done; 2, what was acknowledged and is on the disk, or could not be saved.
ALTER TABLE sessions ADD COLUMN changed INTEGER NOT NULL DEFAULT 0;

-- In which boot of the machine a session last had a sandbox: when the machine goes down, files that it
-- has written may be lost.
CREATE TABLE written (
    session INTEGER PRIMARY KEY REFERENCES sessions ON DELETE CASCADE,
    boot TEXT NOT NULL,
    -- The sandbox that all of the files were built for, while none of them may be on the disk.
    build BLOB
) STRICT;
INSERT INTO written (session, boot, build) SELECT session, boot, build FROM unsynced;
DROP TABLE unsynced;
ALTER TABLE written RENAME TO unsynced;
