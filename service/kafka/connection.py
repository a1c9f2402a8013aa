"""Makes the options of Kafka clients, and finds out why a connection to the brokers failed."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

REQUEST_MS: Final = 10_000


class CertificateError(Exception):
    """A certificate or key file cannot be used. `option` names the parameter of `client_options`."""

    def __init__(self, option: str, why: str) -> None:
        super().__init__(why)
        self.option = option


def client_options(
    bootstrap_servers: str,
    *,
    security_protocol: str = "PLAINTEXT",
    sasl_mechanism: str | None = None,
    sasl_username: str | None = None,
    sasl_password: str | None = None,
    ssl_cafile: Path | None = None,
    ssl_certfile: Path | None = None,
    ssl_keyfile: Path | None = None,
) -> dict[str, Any]:
    """Return the options that every Kafka client of this process is made with. The files are read here, once.

    Raises CertificateError where a file cannot be used.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": bootstrap_servers,
        "security_protocol": security_protocol,
    }
    if security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(ssl_cafile, ssl_certfile, ssl_keyfile)
    if security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = sasl_mechanism
        options["sasl_plain_username"] = sasl_username
        options["sasl_plain_password"] = sasl_password
    return options


def _ssl_context(cafile: Path | None, certfile: Path | None, keyfile: Path | None) -> ssl.SSLContext:
    """Make a context that always checks the broker's certificate and host name. Raises CertificateError."""
    try:
        context = ssl.create_default_context(cafile=cafile)
    except OSError as error:
        raise CertificateError("ssl_cafile", _plain(error)) from None
    if certfile is not None:
        try:
            # An empty password, so that OpenSSL does not prompt for a passphrase on a pod's terminal.
            context.load_cert_chain(certfile, keyfile, password="")
        except OSError as error:
            raise CertificateError("ssl_certfile", f"with its key, {_plain(error)}") from None
    return context


def _plain(error: OSError) -> str:
    """Describe the error without OpenSSL's own file and line."""
    if isinstance(error, ssl.SSLError):
        return f"it can't be read as PEM without a passphrase ({error.reason or 'no certificate in it'})"
    return f"it can't be read ({error.strerror})"


class admin_client:  # noqa: N801  used as a function
    """A context manager for an admin client, which is closed also where it cannot start."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._client = AIOKafkaAdminClient(**options, request_timeout_ms=REQUEST_MS)

    async def __aenter__(self) -> AIOKafkaAdminClient:
        try:
            await self._client.start()
        except BaseException as error:
            await self._client.close()
            if isinstance(error, KafkaConnectionError):
                raise await _cause(error, self._options) from None
            raise
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()


_CONFIGURATION_ERRORS = (ssl.SSLError, SaslAuthenticationFailed, UnsupportedSaslMechanismError)


async def _cause(failure: KafkaConnectionError, options: Mapping[str, Any]) -> Exception:
    """Find out why no broker could be connected to.

    aiokafka only logs the reasons while it starts, so each broker is tried once more. An error that points to wrong
    settings is preferred to that of a broker that is unavailable.
    """
    rest = {name: value for name, value in options.items() if name != "bootstrap_servers"}
    causes: list[Exception] = []
    for host, port, _ in collect_hosts(options["bootstrap_servers"]):
        try:
            connection = await create_conn(host, port, **rest, request_timeout_ms=REQUEST_MS)
        except (OSError, KafkaError) as error:
            # Where the connection ended after its handshake, the reason is in the cause of the error.
            causes.append(error.__cause__ if isinstance(error.__cause__, OSError) else error)
        else:
            connection.close()
    of_settings = [cause for cause in causes if isinstance(cause, _CONFIGURATION_ERRORS)]
    return next(iter([*of_settings, *causes]), failure)
