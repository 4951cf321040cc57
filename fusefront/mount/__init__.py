"""What happens to a mount from outside: options, the mount table, remount, sync and unmount, and the helper process."""
