#!/opt/python/bin/python
"""The command `els` of the image, which keeps it beside service/. In a checkout, `make setup` installs it."""

from service.__main__ import entry_point

entry_point()
