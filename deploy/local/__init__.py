"""The local stack: an embedded PostgreSQL and broker, and the service on them, where there is neither.

    python -m deploy.local up | down | status | demo | clean

Everything is on loopback and leaves its traces under `.local/` only. Three promises: no permission of a
folder that was there before is ever changed, no server that the environment names is ever started or
stopped, and no program is ever signalled that is not known to be ours.
"""
