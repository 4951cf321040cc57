"""The command line: one file per command, argument parsing, output and exit codes.

Nothing else imports from here.  Commands that need no mount import neither trio nor pyfuse3.
"""
