"""Reads what each page of the console shows: a module for each page or two."""
