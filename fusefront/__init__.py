"""The FUSE front end: turns requests of the kernel into calls of the engine and replies with the results or errnos.

It owns everything that depends on pyfuse3 or trio, the C extension that hooks the libfuse session, and the life of a
mount from its start as a daemon to its end.  It contains no rule of the file system: those are in minifo.engine.
``extension.loader`` must load the extension before pyfuse3 is imported, so this package does not import pyfuse3.
"""
