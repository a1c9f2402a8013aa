"""The local stack starts the service with an embedded PostgreSQL and Kafka broker; no container engine is needed.

    python -m deploy.local up | down | status | demo | clean

All servers listen on loopback, and all files are under `.local/` (run as root, the data of PostgreSQL may be in a
private folder of /var/tmp). The stack never changes the permissions of a folder that existed before, never starts or
stops a server that the environment names, and never signals a program that it did not start.
"""
