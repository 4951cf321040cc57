"""mini_fo's storages and META files: reading them, the view that mini_fo would show, import and export."""
