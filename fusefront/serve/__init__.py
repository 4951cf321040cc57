"""How requests of the kernel are answered: handlers over the engine, the C extension beside them, and the commits."""
