"""The PostgreSQL driver and the schema."""
