"""Serves health, metrics and the JSON API over HTTP."""
