"""Kafka records become polls; committed polls become offsets."""
