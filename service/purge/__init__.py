"""Handles what has passed its time limit."""
