#!/opt/python/bin/python
"""Runs the command `els` in the image, beside service/. In a checkout, `make setup` installs the command."""

from service.__main__ import entry_point

entry_point()
