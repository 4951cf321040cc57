"""What is on disk: the base, and database, content objects and logs in storage; read and written here only."""
