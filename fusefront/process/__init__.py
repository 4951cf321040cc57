"""What the daemon is as a process: its signals, descriptors, privileges, log lines, and what it leaves when it dies."""
