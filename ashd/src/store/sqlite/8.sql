-- Files that were built from a point and are in their place, but not known to be on the disk.
CREATE TABLE unsynced (
    session INTEGER PRIMARY KEY REFERENCES sessions ON DELETE CASCADE,
    -- Where they are to be built from once more when the machine goes down.
    point BLOB NOT NULL,
    -- Which build it was, and in which boot of the machine.
    build BLOB NOT NULL,
    boot TEXT NOT NULL
) STRICT;
