"""Tests of what ``minifo doctor`` looks at."""
