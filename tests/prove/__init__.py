"""The long form of the proofs: `make prove`. What `docs/reliability.md` tells was found by this."""
