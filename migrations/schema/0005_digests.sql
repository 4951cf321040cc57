-- Version 5: digests of frozen content objects.  None are known yet, so the table begins empty.

CREATE TABLE object_digest (
    object INTEGER PRIMARY KEY,       -- a frozen content object
    size   INTEGER NOT NULL,          -- of its file
    digest BLOB    NOT NULL           -- of its bytes
) STRICT;
