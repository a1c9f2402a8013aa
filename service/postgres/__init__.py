"""Connects to PostgreSQL, runs statements and defines the schema."""
