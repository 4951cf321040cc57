-- The state of one overlay.  This file is the reference for every table and column.
--
-- Names and paths are BLOBs: Linux names are bytes.  Times are nanoseconds since the epoch, sizes are bytes.
-- `ino` is the inode number users see: a base object keeps its own, a created one gets a number from the window that
-- starts at overlay.window.  Numbers, never overlay paths, address everything, so that renaming a directory of any size
-- changes one row.  "Base terms" means: an absolute path inside the base, `/` for its root.
--
-- created, deleted, renamed and modified are the four lists.  Each is the one source of truth for its fact.
-- The numbered invariants these tables keep are in store/invariants.py.
--
-- SQLite keeps the text of each CREATE statement, with the comments in it, and minifo refuses a database whose text
-- differs (store/database_file.py).  So a change inside a statement, even of a comment, needs a new schema version;
-- comments between statements are free.

-- Every name made in the overlay, hard links included.  It hides a base object of the same name.
CREATE TABLE created (
    parent INTEGER NOT NULL,          -- inode number of the directory
    name   BLOB    NOT NULL,
    ino    INTEGER NOT NULL,          -- what the name stands for: a created object, or a base object with a new link
    PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;

-- Every base name that is hidden (a whiteout), also if another object has this name now.
CREATE TABLE deleted (
    parent INTEGER NOT NULL,          -- a directory with a base side
    name   BLOB    NOT NULL,
    PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;

-- The new name of a base object that was renamed.  Its path in the base is in origin; its old name is in deleted.
CREATE TABLE renamed (
    parent INTEGER NOT NULL,
    name   BLOB    NOT NULL,
    ino    INTEGER NOT NULL,
    PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;

-- Base objects whose attributes or bytes are overridden by their inode row.
CREATE TABLE modified (
    ino        INTEGER PRIMARY KEY,
    content    INTEGER NOT NULL,      -- 0: only attributes (owner, mode, times, xattrs); 1: bytes as well, and of a
                                      --   directory: it stands here whether or not the base still has it
    base_size  INTEGER NOT NULL,      -- size and mtime of the base object when it was first modified, or its bytes were:
    base_mtime INTEGER NOT NULL,      --   a difference today is drift (the base was changed underneath)
    digest     BLOB                   -- of samples of the base file below one that was written in part; NULL: none taken
) STRICT;

-- Attributes of every object with overlay state.  Those of a base object without a row in modified (a renamed file, a
-- directory whose children changed) are the base's own, except link count, mtime and ctime.
CREATE TABLE inode (
    ino    INTEGER PRIMARY KEY,
    mode   INTEGER NOT NULL,          -- st_mode: type and permission bits
    nlink  INTEGER NOT NULL,          -- 0: unlinked, kept while in use (then the number is in orphan)
    uid    INTEGER NOT NULL,
    gid    INTEGER NOT NULL,
    rdev   INTEGER NOT NULL,          -- st_rdev of device nodes, else 0
    size   INTEGER NOT NULL,
    atime  INTEGER NOT NULL,
    mtime  INTEGER NOT NULL,
    ctime  INTEGER NOT NULL,
    object INTEGER,                   -- content object that backs the whole file; 0: its bytes are in small;
                                      --   NULL: the base file backs it, if there is one
    bound  INTEGER,                   -- bytes of the backing that are visible; beyond it the file reads as zeros; NULL: all
    mapped INTEGER NOT NULL,          -- 1: rows of extent override parts of the backing
    xattrs INTEGER NOT NULL,          -- 1: the rows of xattr are all there are; 0: the base object's own still count
    target BLOB,                      -- of a created symlink; NULL: the base's own
    seen_links INTEGER,               -- of a base object: its own link count, size and mtime as this row last followed
    seen_size  INTEGER,               --   them; of a file with bytes of its own, size and mtime of the version that the
    seen_mtime INTEGER                --   rest comes from.  NULL: a created object.
                                      --   2^40 is added to a link count that was another one in an earlier base
) STRICT;

-- Which base object an inode number stands for.  Directories with changes in them, at any depth, are here too, up to the
-- root: a directory that is not here has no overlay state below it, so it is read without a query.
CREATE TABLE origin (
    ino  INTEGER PRIMARY KEY,
    path BLOB    NOT NULL UNIQUE,     -- base terms
    dir_mode INTEGER,                 -- of a directory: its mode and owner when it was marked, for a base that lacks it;
    dir_uid  INTEGER,                 --   NULL where they are not known
    dir_gid  INTEGER
) STRICT;

-- Bytes [start, end) of a file are in content object `object` at offset `at`, or are a hole: zeros, whatever bytes the
-- backing has there.  Bytes that no extent covers are read from the backing (inode.object, else the base file) up to
-- inode.bound.
CREATE TABLE extent (
    ino    INTEGER NOT NULL,
    start  INTEGER NOT NULL,
    "end"  INTEGER NOT NULL,
    object INTEGER NOT NULL,          -- 0: a hole
    at     INTEGER NOT NULL,          -- of a hole: its start
    PRIMARY KEY (ino, start)
) STRICT, WITHOUT ROWID;

-- The bytes of small files, from their start; a file that grows too large for a row moves to a content object.
CREATE TABLE small (
    ino  INTEGER PRIMARY KEY,
    data BLOB NOT NULL                -- may end before the file does: the rest reads as zeros
) STRICT;

-- Extended attributes, ACLs among them (system.posix_acl_access, system.posix_acl_default).
CREATE TABLE xattr (
    ino   INTEGER NOT NULL,
    name  BLOB    NOT NULL,           -- with its namespace: user.comment
    value BLOB    NOT NULL,
    PRIMARY KEY (ino, name)
) STRICT, WITHOUT ROWID;

-- The bytes of base files before they were changed in the overlay, for merges with later bases; with -o keep_origin.
CREATE TABLE ancestor (
    path  BLOB    NOT NULL,           -- base terms
    size  INTEGER NOT NULL,           -- of that version, as is mtime
    mtime INTEGER NOT NULL,
    data  BLOB    NOT NULL,           -- all its bytes
    PRIMARY KEY (path)
) STRICT, WITHOUT ROWID;

-- Inodes that are unlinked, but may still be open.  Each is deleted with all its rows and content objects when the
-- kernel forgets it, or at the next mount.
CREATE TABLE orphan (ino INTEGER PRIMARY KEY) STRICT;

-- Content objects that no row uses any more.  Their files are deleted once the commit that put them here is durable.
CREATE TABLE garbage (object INTEGER PRIMARY KEY) STRICT;

-- Checkpoints: states of the overlay that can be returned to.
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

-- What the tables above held at the checkpoints.  A row is written when a row of the table changes for the first time
-- after a checkpoint: `checkpoint` is its id, and the other columns are what the row was.  `held` is 0 if there was no
-- row with this key.  So a checkpoint's state of a key is the was-row with the least id from its own on, and if there is
-- none, what the table has today.
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

-- The content objects that checkpoints still need, to find out whether one is garbage.
CREATE INDEX was_inode_object ON was_inode (object) WHERE object > 0;
CREATE INDEX was_extent_object ON was_extent (object) WHERE object > 0;

-- The journal of changes (-o journal=N): the last N of them.  No other table refers to it, and nothing depends on it.
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

-- Facts about the overlay as a whole:
--   uuid          identity of this storage
--   window        first inode number for created objects; window_end: the first number after the last one
--   next_ino      next inode number to hand out
--   next_object   next content object id; ids are never used twice
--   object_limit  no content object has this id or a greater one, not even after a crash
--   commit_token  a random number, new with each commit; the redo log holds that of the commit it follows
--   base          path of the base at the last mount
--   base_mark     identifies that base's root, to notice at a mount that the base was replaced
--   keep_list:NAME   what a reset keeps, a pattern in each line of UTF-8 (engine/keep_lists.py)
--   imported      identifies the import, if the storage was imported from mini_fo (migrations/meta/import_rows.py)
CREATE TABLE overlay (
    key   TEXT PRIMARY KEY,
    value ANY
) STRICT, WITHOUT ROWID;

-- Digests of content objects that a checkpoint has frozen, by which minifo-fsck --verify-data finds bytes that have
-- changed by themselves (engine/store/object_digests.py).  Not every such object has one.
CREATE TABLE object_digest (
    object INTEGER PRIMARY KEY,       -- a frozen content object
    size   INTEGER NOT NULL,          -- of its file
    digest BLOB    NOT NULL           -- of its bytes
) STRICT;
