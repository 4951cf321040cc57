"""mini_fo's storages and META files: read, shown as mini_fo would, imported and exported."""
