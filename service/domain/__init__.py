"""The wire format and the decisions. Imports nothing else of the service."""
