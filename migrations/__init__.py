"""Schema versions and the way into and out of mini_fo's legacy META files.

Only this package creates or upgrades a storage database; the engine opens exactly one version and refuses all others.
"""
