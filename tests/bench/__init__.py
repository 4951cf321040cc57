"""The benchmark, and tests of its tables."""
