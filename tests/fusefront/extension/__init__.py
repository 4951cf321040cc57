"""Tests of the C extension, below file systems made for them."""
