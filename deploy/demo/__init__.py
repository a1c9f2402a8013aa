"""`make demo`: the race between content and registrations, played on the running service."""
