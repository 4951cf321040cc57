-- Version 2: the state of base objects when the overlay last saw them, so that a replaced base is recognized.
--
-- The three tables are created again so that their SQL text is the same as in engine/store/schema.sql.  The past state of
-- an object is taken from modified; for an object that is not in modified, its own size and mtime are those of the base.

ALTER TABLE modified RENAME TO modified_1;
CREATE TABLE modified (
    ino        INTEGER PRIMARY KEY,
    content    INTEGER NOT NULL,      -- 0: only attributes (owner, mode, times, xattrs); 1: bytes as well, and of a
                                      --   directory: it stands here whether or not the base still has it
    base_size  INTEGER NOT NULL,      -- size and mtime of the base object when it was first modified, or its bytes were:
    base_mtime INTEGER NOT NULL,      --   a difference today is drift (the base was changed underneath)
    digest     BLOB                   -- of samples of the base file below one that was written in part; NULL: none taken
) STRICT;
ALTER TABLE inode RENAME TO inode_1;
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
ALTER TABLE origin RENAME TO origin_1;
CREATE TABLE origin (
    ino  INTEGER PRIMARY KEY,
    path BLOB    NOT NULL UNIQUE,     -- base terms
    dir_mode INTEGER,                 -- of a directory: its mode and owner when it was marked, for a base that lacks it;
    dir_uid  INTEGER,                 --   NULL where they are not known
    dir_gid  INTEGER
) STRICT;
CREATE TABLE ancestor (
    path  BLOB    NOT NULL,           -- base terms
    size  INTEGER NOT NULL,           -- of that version, as is mtime
    mtime INTEGER NOT NULL,
    data  BLOB    NOT NULL,           -- all its bytes
    PRIMARY KEY (path)
) STRICT, WITHOUT ROWID;
INSERT INTO modified SELECT ino, content, base_size, base_mtime, NULL FROM modified_1;
INSERT INTO origin SELECT ino, path, NULL, NULL, NULL FROM origin_1;
INSERT INTO inode
    SELECT i.*, NULL, coalesce(m.base_size, i.bound, i.size), coalesce(m.base_mtime, i.mtime)
    FROM inode_1 i JOIN origin_1 USING (ino) LEFT JOIN modified_1 m USING (ino);
INSERT INTO inode SELECT *, NULL, NULL, NULL FROM inode_1 WHERE ino NOT IN (SELECT ino FROM origin_1);
DROP TABLE modified_1;
DROP TABLE origin_1;
DROP TABLE inode_1;
