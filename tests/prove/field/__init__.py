"""The field: real servers, real clients and real faults, with a judge that knows nothing of the service."""
