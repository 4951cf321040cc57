-- The state of one overlay.  This file is the reference for every table and column.
--
-- Names and paths are BLOBs: Linux names are bytes.  Times are nanoseconds since the epoch, sizes are bytes.
-- `ino` is the inode number users see: a base object keeps its own, a created one gets a number from the window that
-- starts at overlay.window.  Numbers, never overlay paths, address everything, so that renaming a directory of any size
-- changes one row.  "Base terms" means: an absolute path inside the base, `/` for its root.
--
-- created, deleted, renamed and modified are the four lists.  Each is the one source of truth for its fact.
-- The numbered invariants these tables keep are in engine/store/invariants.py.

-- Every name made in the overlay, hard links included.  It wins over a base name at the same place.
CREATE TABLE created (
    parent INTEGER NOT NULL,          -- inode number of the directory
    name   BLOB    NOT NULL,
    ino    INTEGER NOT NULL,          -- what the name stands for: a created object, or a base object with a new link
    PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;

-- Every base name that is hidden (a whiteout), whether or not something else stands at its place now.
CREATE TABLE deleted (
    parent INTEGER NOT NULL,          -- a directory with a base side
    name   BLOB    NOT NULL,
    PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;

-- Where a base object lives now.  Its place in the base is in origin; its old name is in deleted.
CREATE TABLE renamed (
    parent INTEGER NOT NULL,
    name   BLOB    NOT NULL,
    ino    INTEGER NOT NULL,
    PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;

-- Base objects whose attributes or bytes are overridden by their inode row.
CREATE TABLE modified (
    ino        INTEGER PRIMARY KEY,
    content    INTEGER NOT NULL,      -- 0: only attributes (owner, mode, times, xattrs); 1: bytes as well
    base_size  INTEGER NOT NULL,      -- size and mtime of the base object when it was first modified:
    base_mtime INTEGER NOT NULL       --   a difference today is drift (the base was changed underneath)
) STRICT;

-- Attributes of every object with overlay state.  For a base object that is in no list of modifications (a renamed
-- file, a directory whose children changed) they are the base's own, but for link count, mtime and ctime.
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
    target BLOB                       -- of a created symlink; NULL: the base's own
) STRICT;

-- Which base object an inode number stands for.  Directories that hold changes, at any depth, are here too, up to the
-- root: a directory that is not has no overlay state below it, and is read without asking these tables.
CREATE TABLE origin (
    ino  INTEGER PRIMARY KEY,
    path BLOB    NOT NULL UNIQUE      -- base terms
) STRICT;

-- Bytes [start, end) of a file are in content object `object` at offset `at`, or are a hole: zeros, whatever the backing
-- has there.  What no extent covers is read from the backing (inode.object, else the base file) up to inode.bound.
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

-- Unlinked, but perhaps still open.  Removed with everything they own when the kernel forgets them or at the next mount.
CREATE TABLE orphan (ino INTEGER PRIMARY KEY) STRICT;

-- Content objects nobody names any more.  Their files are deleted once the commit that put them here is durable.
CREATE TABLE garbage (object INTEGER PRIMARY KEY) STRICT;

-- Facts about the overlay as a whole:
--   uuid          identity of this storage
--   window        first inode number for created objects; window_end: first one beyond
--   next_ino      next number to hand out
--   next_object   next content object id; ids are never used twice
--   object_limit  content objects at or above this id do not exist, not even after a crash
--   commit_token  a random number, new with each commit: the redo log names the one it follows
--   base          path of the base at the last mount
--   base_mark     what identifies that base's root, to notice another one
CREATE TABLE overlay (
    key   TEXT PRIMARY KEY,
    value ANY
) STRICT, WITHOUT ROWID;
