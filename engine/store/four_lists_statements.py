"""SQL that several modules share: changes of the four lists, and queries for names (store/schema.sql)."""

from __future__ import annotations

from .statements import statement

NAMES = ("created", "renamed")  # the lists whose names have an inode number

#: Add a name to a list of NAMES: its directory, the name, the inode number.
ADD = {table: statement(f"INSERT INTO {table} VALUES (?, ?, ?)") for table in NAMES}
#: Hide a base name: its directory and the name.
HIDE = statement("INSERT INTO deleted VALUES (?, ?)")
#: Delete a name from a list: its directory and the name.
DROP = {table: statement(f"DELETE FROM {table} WHERE parent = ? AND name = ?") for table in (*NAMES, "deleted")}
#: Delete all names in a directory from a list: the directory.
DROP_IN = {table: statement(f"DELETE FROM {table} WHERE parent = ?") for table in (*NAMES, "deleted")}

#: Delete the rows of an inode number from the other tables: the number.
DROP_ORIGIN = statement("DELETE FROM origin WHERE ino = ?")
DROP_MODIFIED = statement("DELETE FROM modified WHERE ino = ?")
DROP_XATTRS = statement("DELETE FROM xattr WHERE ino = ?")

#: Find out whether a base name is hidden: its directory and the name.
IS_HIDDEN = "SELECT 1 FROM deleted WHERE parent = ? AND name = ?"
#: Find out whether an inode number has a name in ``created`` or ``renamed``: the number.
IS_NAMED = "SELECT 1 FROM created WHERE ino = ?1 UNION ALL SELECT 1 FROM renamed WHERE ino = ?1"
#: Find out whether a directory has a name in ``created`` or ``renamed`` in it: the directory.
HAS_NAMES_IN = "SELECT 1 FROM created WHERE parent = ?1 UNION ALL SELECT 1 FROM renamed WHERE parent = ?1 LIMIT 1"
#: Every name in ``created`` and ``renamed``: the inode number, its directory, the name.
ALL_NAMES = "SELECT ino, parent, name FROM created UNION ALL SELECT ino, parent, name FROM renamed"
