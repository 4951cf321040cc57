-- Version 4: checkpoints.  There are none yet, so the tables begin empty.

CREATE TABLE checkpoint (
    id          INTEGER PRIMARY KEY,  -- in the order in which they were made
    name        TEXT    NOT NULL UNIQUE,
    time        INTEGER NOT NULL,     -- when it was made
    note        TEXT    NOT NULL,     -- what the user said of it
    pinned      INTEGER NOT NULL,     -- 1: no policy deletes it
    cause       TEXT,                 -- the command that made it by itself, before it took something away; NULL: a user
    returns     INTEGER,              -- of one made by undo, while redo may return to it: the one that undo returned to;
                                      --   of that one: 0, so that undo does not return to it again
    next_ino    INTEGER NOT NULL,     -- the counters in overlay at that time: objects with ids below next_object are
    next_object INTEGER NOT NULL      --   frozen; nothing writes into them
) STRICT;

CREATE TABLE was_created (
    parent     INTEGER NOT NULL,
    name       BLOB    NOT NULL,
    checkpoint INTEGER NOT NULL,
    held       INTEGER NOT NULL,
    ino        INTEGER,
    PRIMARY KEY (parent, name, checkpoint)
) STRICT, WITHOUT ROWID;

CREATE TABLE was_deleted (
    parent     INTEGER NOT NULL,
    name       BLOB    NOT NULL,
    checkpoint INTEGER NOT NULL,
    held       INTEGER NOT NULL,
    PRIMARY KEY (parent, name, checkpoint)
) STRICT, WITHOUT ROWID;

CREATE TABLE was_renamed (
    parent     INTEGER NOT NULL,
    name       BLOB    NOT NULL,
    checkpoint INTEGER NOT NULL,
    held       INTEGER NOT NULL,
    ino        INTEGER,
    PRIMARY KEY (parent, name, checkpoint)
) STRICT, WITHOUT ROWID;

CREATE TABLE was_modified (
    ino        INTEGER NOT NULL,
    checkpoint INTEGER NOT NULL,
    held       INTEGER NOT NULL,
    content    INTEGER,
    base_size  INTEGER,
    base_mtime INTEGER,
    digest     BLOB,
    PRIMARY KEY (ino, checkpoint)
) STRICT, WITHOUT ROWID;

CREATE TABLE was_inode (
    ino        INTEGER NOT NULL,
    checkpoint INTEGER NOT NULL,
    held       INTEGER NOT NULL,
    mode       INTEGER,
    nlink      INTEGER,
    uid        INTEGER,
    gid        INTEGER,
    rdev       INTEGER,
    size       INTEGER,
    atime      INTEGER,
    mtime      INTEGER,
    ctime      INTEGER,
    object     INTEGER,
    bound      INTEGER,
    mapped     INTEGER,
    xattrs     INTEGER,
    target     BLOB,
    seen_links INTEGER,
    seen_size  INTEGER,
    seen_mtime INTEGER,
    PRIMARY KEY (ino, checkpoint)
) STRICT, WITHOUT ROWID;

CREATE TABLE was_origin (
    ino        INTEGER NOT NULL,
    checkpoint INTEGER NOT NULL,
    held       INTEGER NOT NULL,
    path       BLOB,
    dir_mode   INTEGER,
    dir_uid    INTEGER,
    dir_gid    INTEGER,
    PRIMARY KEY (ino, checkpoint)
) STRICT, WITHOUT ROWID;

CREATE TABLE was_extent (
    ino        INTEGER NOT NULL,
    start      INTEGER NOT NULL,
    checkpoint INTEGER NOT NULL,
    held       INTEGER NOT NULL,
    "end"      INTEGER,
    object     INTEGER,
    at         INTEGER,
    PRIMARY KEY (ino, start, checkpoint)
) STRICT, WITHOUT ROWID;

CREATE TABLE was_small (
    ino        INTEGER NOT NULL,
    checkpoint INTEGER NOT NULL,
    held       INTEGER NOT NULL,
    data       BLOB,
    PRIMARY KEY (ino, checkpoint)
) STRICT, WITHOUT ROWID;

CREATE TABLE was_xattr (
    ino        INTEGER NOT NULL,
    name       BLOB    NOT NULL,
    checkpoint INTEGER NOT NULL,
    held       INTEGER NOT NULL,
    value      BLOB,
    PRIMARY KEY (ino, name, checkpoint)
) STRICT, WITHOUT ROWID;

CREATE TABLE was_ancestor (
    path       BLOB    NOT NULL,
    checkpoint INTEGER NOT NULL,
    held       INTEGER NOT NULL,
    size       INTEGER,
    mtime      INTEGER,
    data       BLOB,
    PRIMARY KEY (path, checkpoint)
) STRICT, WITHOUT ROWID;

CREATE TABLE was_orphan (
    ino        INTEGER NOT NULL,
    checkpoint INTEGER NOT NULL,
    held       INTEGER NOT NULL,
    PRIMARY KEY (ino, checkpoint)
) STRICT, WITHOUT ROWID;

CREATE INDEX was_inode_object ON was_inode (object) WHERE object > 0;
CREATE INDEX was_extent_object ON was_extent (object) WHERE object > 0;
