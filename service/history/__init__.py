"""What topics and tables record about one batch."""
