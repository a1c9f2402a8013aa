"""Knows who uses the console: by a cookie that a login has set, or by the header of a trusted proxy.

The cookie states who, in which role and until when, and is signed with a key that is derived from the tokens. So every
pod with the same tokens accepts it, nothing is stored, and a new token ends all sessions.
"""

import base64
import binascii
import hmac
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Final

import orjson

from service.operators import parameters
from service.runtime.tokens import TokenRole, Tokens

SESSION_SECONDS: Final = 8 * 3600
"""A session ends after a working day."""

COOKIE: Final = "els_console"


@dataclass(frozen=True, slots=True)
class Person:
    """Who uses the console: `who` of the log of operator actions."""

    who: str
    role: TokenRole
    by_proxy: bool = False
    """Whether a proxy has authenticated the person: then there is no session that could be ended here."""

    @property
    def may_act(self) -> bool:
        """Returns whether the person may change something."""
        return self.role == "operator"


class Sessions:
    """Writes and reads the cookie of a session."""

    def __init__(self, tokens: Tokens, now: Callable[[], float] = time.time) -> None:
        self._key = tokens.key("console session")
        self._now = now

    def cookie(self, person: Person) -> str:
        """Returns the cookie of a session that begins now."""
        stated = orjson.dumps([person.who, person.role, int(self._now()) + SESSION_SECONDS])
        return f"{_text(stated)}.{_text(self._signature(stated))}"

    def person(self, cookie: str) -> Person | None:
        """Returns whose session it is. None where the cookie is not ours, or its session has ended."""
        stated, _, signature = cookie.partition(".")
        try:
            content, given = _bytes(stated), _bytes(signature)
        except (binascii.Error, ValueError):
            return None
        if not hmac.compare_digest(given, self._signature(content)):
            return None
        who, role, ends = orjson.loads(content)
        return Person(who, role) if self._now() < ends else None

    def _signature(self, stated: bytes) -> bytes:
        return hmac.digest(self._key, stated, "sha256")


@dataclass(frozen=True, slots=True)
class TrustedProxy:
    """A proxy that authenticates persons, and names them in a header."""

    header: str
    networks: Sequence[IPv4Network | IPv6Network]
    operators: Sequence[str]
    """Who may act; `*` stands for everybody."""

    @classmethod
    def of(cls, header: str, networks: Sequence[str], operators: Sequence[str]) -> "TrustedProxy":
        """Build it from the text of the settings."""
        return cls(header, [ip_network(each) for each in networks], operators)

    def person(self, address: str | None, headers: Any) -> Person | None:
        """Returns whom the headers of a request from an address name. None where they are not to be trusted."""
        given = headers.getall(self.header, [])
        if len(given) != 1 or not self._is_trusted(address):
            return None
        who = given[0].strip()
        try:
            parameters.short_text(who)
        except ValueError:
            return None
        may_act = "*" in self.operators or who in self.operators
        return Person(who, "operator" if may_act else "viewer", by_proxy=True)

    def _is_trusted(self, address: str | None) -> bool:
        try:
            from_ = ip_address((address or "").partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(from_, "ipv4_mapped", None) or from_
        return any(mapped in network for network in self.networks)


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
