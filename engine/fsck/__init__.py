"""What minifo-fsck does to a storage: find problems, repair them, rebuild a damaged database, extract files.

The words: a *problem* is one thing that is wrong; to *repair* changes rows of a database that can be read; to *rebuild*
makes a new database from the remains of a damaged one; to *extract* writes the content of an overlay to plain files.
The public names of the program are older and stay: ``--rescue`` extracts, the JSON keys are ``findings``, ``salvage``
(a rebuild) and ``rescue`` (an extraction).
"""
