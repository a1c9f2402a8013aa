"""Splits a cell in two, or moves it to another server, by means of a standby of its database."""
