"""Has the settings of who may use /admin/ and the console."""

from ipaddress import ip_network
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings

SHORTEST_TOKEN: Final = 16
_HEADER_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")


def _networks(text: str) -> str:
    for each in names_of(text):
        ip_network(each)  # its message names the address
    return text


def _header(name: str) -> str:
    if not set(name) <= _HEADER_CHARACTERS:
        raise ValueError("should be the name of an HTTP header")
    return name


def names_of(text: str) -> tuple[str, ...]:
    """Split a list of names that commas separate."""
    return tuple(each.strip() for each in text.split(",") if each.strip())


class AccessSettings(BaseSettings):
    """Holds the settings of who may use /admin/ and the console."""

    admin_token: SecretStr | None = Field(
        None,
        description="Token (16 characters or more) with which an operator uses `/admin/` and `/console/`. Without this "
        "one and `ELS_VIEWER_TOKEN`, neither is served.",
    )
    viewer_token: SecretStr | None = Field(None, description="Another such token, which allows reading only.")
    console_user_header: Annotated[str, AfterValidator(_header)] | None = Field(
        None,
        description="Header in which a proxy names the person that it has authenticated, for example "
        "`X-Forwarded-User`. Such a person uses the console without a token.",
    )
    console_proxies: Annotated[str, AfterValidator(_networks)] = Field(
        "",
        description="Addresses or networks of that proxy, separated by commas. The header counts only in requests from "
        "there.",
    )
    console_operators: str = Field(
        "",
        description="Persons that such a proxy names and who may act, separated by commas, or `*` for all. The others "
        "can only read.",
    )

    @field_validator("admin_token", "viewer_token")
    @classmethod
    def _is_long(cls, token: SecretStr | None) -> SecretStr | None:
        if token is None or not (text := token.get_secret_value().strip()):
            return None
        if len(text) < SHORTEST_TOKEN:
            raise ValueError(f"should have at least {SHORTEST_TOKEN} characters")
        return SecretStr(text)

    @model_validator(mode="after")
    def _access_fits_together(self) -> Any:
        """Check settings that depend on each other. The error names the one to add or change."""
        if self.admin_token is not None and self.admin_token == self.viewer_token:
            raise ValueError("ELS_VIEWER_TOKEN: should not be the same as ELS_ADMIN_TOKEN")
        if self.console_user_header and not self.console_proxies:
            raise ValueError("ELS_CONSOLE_PROXIES: is needed with ELS_CONSOLE_USER_HEADER")
        return self
