"""Serves the console under /console/: a page for people, to see the state of the service and to act."""
