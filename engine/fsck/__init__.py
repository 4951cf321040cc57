"""What minifo-fsck does to a storage: find problems, repair them, rebuild a lost database, extract files."""
