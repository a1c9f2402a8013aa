"""`make demo` shows on the running service what happens when content arrives before its registration."""
