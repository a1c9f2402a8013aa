"""Defines the options of the commands, a module for each group. Imports only what `--help` needs."""
