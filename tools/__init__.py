"""The command line: one file per command, argument parsing, output and exit codes.

No other package imports from this one.  Commands that need no mount import neither trio nor pyfuse3.
"""
