"""Serves requests of the kernel: handlers that call the engine, their fast path and reply cache, and the commits."""
