"""The dashboard, and pictures of it."""
