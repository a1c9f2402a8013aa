"""Servers and pods that tests and benchmarks start: PostgreSQL, brokers, and the service itself."""
