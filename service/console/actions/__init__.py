"""Declares what a person can do in the console: each action once, in a module for each noun of the operators."""
