"""Event loop, health, logging, metrics and tracing. Independent of settings."""
