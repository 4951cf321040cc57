"""Random operations on the engine, compared with a plain directory, and with rules, by hypothesis."""
