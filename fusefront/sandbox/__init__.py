"""Runs a command in a throw-away overlay: namespaces, the mounts in them, and the processes that keep them."""
