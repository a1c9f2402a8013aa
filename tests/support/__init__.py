"""Real servers for tests: PostgreSQL, the embedded broker, Apache Kafka; databases made from a template."""
