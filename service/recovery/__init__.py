"""Bring a database that is behind its topics up to date."""
