"""The tests of minifo.  A module's tests carry its name; tests of the whole stand in a folder of their kind."""
