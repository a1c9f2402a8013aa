"""A poll becomes one committed transaction."""
