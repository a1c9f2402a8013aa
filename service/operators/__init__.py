"""Implements the operator actions, once for the command line and the JSON API."""
