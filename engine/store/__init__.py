"""The state on disk: the base, and database, content objects and logs of storage; only this folder accesses them."""
