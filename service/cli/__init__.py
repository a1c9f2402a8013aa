"""The commands that a user can type."""
