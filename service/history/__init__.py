"""Reads what topics and tables record about each batch."""
