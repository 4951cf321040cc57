"""Acts on a mount from outside of its daemon: options, mount table, remount, sync, unmount, and the helper process."""
