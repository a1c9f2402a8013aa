"""Compares inputs, tables and outputs with each other."""
