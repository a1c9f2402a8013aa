"""The format of events and the decisions about them. Imports no other package of the service."""
