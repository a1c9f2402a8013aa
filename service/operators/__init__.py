"""Operator actions, implemented once for the command line and the JSON API."""
