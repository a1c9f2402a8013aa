"""Starts the servers and pods of tests and benchmarks: PostgreSQL, brokers and the service."""
