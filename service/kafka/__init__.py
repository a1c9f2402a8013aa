"""Connects to Kafka: topics, the producer, the consumer group, and the bytes of record batches."""
