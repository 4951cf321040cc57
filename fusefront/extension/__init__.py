"""The session hook: a C extension between pyfuse3 and libfuse, and the module that loads it."""
