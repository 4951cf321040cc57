"""The upgrade of a storage database to the present format, and the numbered SQL scripts that it runs."""
