"""Provides background loops, health, logging, metrics and tracing. Does not read the settings."""
