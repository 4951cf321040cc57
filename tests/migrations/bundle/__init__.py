"""Tests of migrations/bundle."""
