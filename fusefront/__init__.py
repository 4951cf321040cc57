"""The FUSE front end: requests of the kernel in, engine calls, errnos out; the life of a mount.

Owns everything that knows pyfuse3 or trio, and the C extension that hooks the libfuse session.  Keeps no rule of the
file system: those live in minifo.engine.  ``hook`` must be loaded before pyfuse3 is imported, so nothing here imports
pyfuse3 on the way.
"""
