"""The Kafka client and the bytes of its records."""
