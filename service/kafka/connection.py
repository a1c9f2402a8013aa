"""Connections to the brokers: client options, and why none could be had."""

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
    """A file of `client_options` is not what it should be; `option` says which."""

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
    """What every client of ours is made with; the files are read now, and not again.

    Raises CertificateError where one is not what it should be.
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
    """Checks the broker's certificate and its name, whatever else."""
    try:
        context = ssl.create_default_context(cafile=cafile)
    except OSError as error:
        raise CertificateError("ssl_cafile", _plain(error)) from None
    if certfile is not None:
        try:
            # A passphrase is not asked for: nobody sits at a pod's terminal.
            context.load_cert_chain(certfile, keyfile, password="")
        except OSError as error:
            raise CertificateError("ssl_certfile", f"with its key, {_plain(error)}") from None
    return context


def _plain(error: OSError) -> str:
    """OpenSSL's words without its file and line."""
    if isinstance(error, ssl.SSLError):
        return f"it can't be read as PEM without a passphrase ({error.reason or 'no certificate in it'})"
    return f"it can't be read ({error.strerror})"


class admin_client:  # noqa: N801  used as a function
    """An admin client that is closed whatever happens."""

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


_TELLING = (ssl.SSLError, SaslAuthenticationFailed, UnsupportedSaslMechanismError)


async def _cause(said: KafkaConnectionError, options: Mapping[str, Any]) -> Exception:
    """Why no broker could be had: a client that starts keeps that for its log, so each is tried once more.

    What says something about the settings goes before a broker that is merely away.
    """
    rest = {name: value for name, value in options.items() if name != "bootstrap_servers"}
    causes: list[Exception] = []
    for host, port, _ in collect_hosts(options["bootstrap_servers"]):
        try:
            connection = await create_conn(host, port, **rest, request_timeout_ms=REQUEST_MS)
        except (OSError, KafkaError) as error:
            # One that is ended later than its handshake tells why in what it was raised from.
            causes.append(error.__cause__ if isinstance(error.__cause__, OSError) else error)
        else:
            connection.close()
    telling = [cause for cause in causes if isinstance(cause, _TELLING)]
    return next(iter([*telling, *causes]), said)
