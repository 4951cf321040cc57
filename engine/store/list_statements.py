"""Row changes of the lists, and questions about names, that several modules share (store/schema.sql)."""

from __future__ import annotations

from .statements import statement

NAMES = ("created", "renamed")  # the lists of names that lead somewhere

#: Add a name to one of them: its directory, the name, the inode number.
ADD = {table: statement(f"INSERT INTO {table} VALUES (?, ?, ?)") for table in NAMES}
#: Hide a base name: its directory and the name.
HIDE = statement("INSERT INTO deleted VALUES (?, ?)")
#: Take a name off a list: its directory and the name.
DROP = {table: statement(f"DELETE FROM {table} WHERE parent = ? AND name = ?") for table in (*NAMES, "deleted")}
#: Take all names in a directory off a list.
DROP_IN = {table: statement(f"DELETE FROM {table} WHERE parent = ?") for table in (*NAMES, "deleted")}

#: What else the tables hold of an inode number.
DROP_ORIGIN = statement("DELETE FROM origin WHERE ino = ?")
DROP_MODIFIED = statement("DELETE FROM modified WHERE ino = ?")
DROP_XATTRS = statement("DELETE FROM xattr WHERE ino = ?")

#: Whether a base name is hidden: its directory and the name.
IS_HIDDEN = "SELECT 1 FROM deleted WHERE parent = ? AND name = ?"
#: Whether an inode number has a name in the overlay.
IS_NAMED = "SELECT 1 FROM created WHERE ino = ?1 UNION ALL SELECT 1 FROM renamed WHERE ino = ?1"
