"""Storage formats: numbered SQL scripts, and the upgrade that runs them."""
