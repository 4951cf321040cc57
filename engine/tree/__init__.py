"""What a file system is: inodes, names, attributes and bytes, as rows of the database over objects of the base."""
