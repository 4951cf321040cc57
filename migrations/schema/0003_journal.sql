-- Version 3: the journal of changes.  It begins empty: what was changed before is not known.

CREATE TABLE journal (
    id      INTEGER PRIMARY KEY,      -- in the order of the changes; the oldest entries go first
    time    INTEGER NOT NULL,
    op      TEXT    NOT NULL,         -- create, write, rename, ... (engine/model.py)
    path    BLOB    NOT NULL,         -- in the overlay, after the change; without a slash at its start: the end of a
                                      --   path that was too long
    other   BLOB,                     -- of a rename: the path before; of a link: a path that the object had already
    uid     INTEGER,                  -- of the process that asked, as is pid; NULL: not known
    pid     INTEGER,
    command BLOB                      -- its name, as in /proc/PID/comm
) STRICT;
