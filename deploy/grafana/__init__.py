"""Defines the Grafana dashboard."""
