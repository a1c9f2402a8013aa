"""Creates certificates for tests: an authority and the certificates that it signs, as PEM files."""

from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its chain, its key (PKCS #8, no passphrase), and both in one file."""

    certificate: Path
    key: Path
    both: Path


class Authority:
    """A certificate authority; `file` is its own certificate, for clients and servers that trust it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._authority = trustme.CA()
        self.file = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(self.file)

    def issue(self, *names: str) -> Certificate:
        """Issues a certificate for a server with these names, or for a client with this name."""
        issued = self._authority.issue_cert(*names, common_name=names[0])
        key = load_pem_private_key(issued.private_key_pem.bytes(), None)
        paths = [self._folder / f"{names[0]}.{kind}.pem" for kind in ("certificate", "key", "both")]
        chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        for path, content in zip(paths, (chain, private, private + chain), strict=True):
            path.touch(mode=0o600)
            path.write_bytes(content)
        return Certificate(*paths)
