"""Upgrades of the storage format, import and export of mini_fo's storages, merge into the base, and rebase.

This package alone upgrades a storage database; the engine opens exactly one version of the format and refuses all
others.
"""
