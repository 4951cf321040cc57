"""The daemon as a process: its signals, descriptor limits, privileges, log lines, and the report of a crash."""
