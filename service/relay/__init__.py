"""Publishes the outbox to Kafka."""
