"""Tests that the environment is read into settings, or that one line names the wrong setting."""

from pathlib import Path

import pytest

from service.domain.cells import ALL_BATCHES, Slice
from service.settings import Settings, SettingsError, load_settings
from service.wiring import trusted_proxy_of

SECRET = "hunter2-in-the-clear"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set only the required settings, and leave the directory that may hold a `.env`."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ELS_{name.upper()}", raising=False)
    for former in ("ELS_REFUSALS_IN_A_ROW_LIMIT", "ELS_DATABASE_TRANSACTION_POOLER"):
        monkeypatch.delenv(former, raising=False)
    monkeypatch.setenv("ELS_DATABASE_URL", f"postgresql://els_app:{SECRET}@db:5432/els?sslmode=require")
    monkeypatch.setenv("ELS_KAFKA_BOOTSTRAP_SERVERS", "kafka:9092")


def error_message() -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings()
    return str(caught.value)


def test_the_defaults_do_not_change() -> None:
    settings = load_settings()
    assert settings.consumer_group == "essay-lifecycle-service"
    assert settings.http_port == 8080
    assert settings.pending_ttl_seconds == 86400
    assert settings.expired_retention_seconds == 2592000
    assert settings.batch_timeout_seconds == 86400
    assert settings.purge_interval_seconds == 60
    assert settings.batch_retention_seconds == 34560000
    assert settings.closed_retention_seconds == 7776000
    assert settings.actions_retention_seconds == 34560000
    assert settings.session_timeout_seconds == 6
    assert settings.max_message_bytes == 1048576
    assert settings.max_registration_bytes == 16777216
    assert settings.consecutive_rejections_limit == 1000
    assert settings.kafka_enable_idempotence is True
    assert settings.admin_token is None


def test_a_migration_uses_the_url_of_the_service_if_it_has_no_own_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load_settings()
    assert settings.migration_url == settings.database_url.get_secret_value()
    monkeypatch.setenv("ELS_MIGRATION_DATABASE_URL", "postgresql://owner@db/els")
    assert load_settings().migration_url == "postgresql://owner@db/els"


def test_a_dot_env_file_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ELS_HTTP_PORT=9000\nELS_LOG_FORMAT=console\nUNRELATED=1\n")
    monkeypatch.setenv("ELS_HTTP_PORT", "9001")
    settings = load_settings()
    assert (settings.http_port, settings.log_format) == (9001, "console")


def test_a_dot_env_file_that_is_not_text_is_a_settings_error(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"ELS_HTTP_PORT=\xff\xfe")
    assert error_message().startswith(".env: ")


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELS_ADMIN_TOKEN", "")
    monkeypatch.setenv("ELS_HTTP_PORT", "")
    settings = load_settings()
    assert (settings.admin_token, settings.http_port) == (None, 8080)


def test_a_missing_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ELS_DATABASE_URL")
    monkeypatch.delenv("ELS_KAFKA_BOOTSTRAP_SERVERS")
    assert error_message() == "ELS_DATABASE_URL: is not set; ELS_KAFKA_BOOTSTRAP_SERVERS: is not set"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ELS_HTTP_PORT", "65536"),
        ("ELS_HTTP_PORT", "http"),
        ("ELS_HTTP_PORT", "80.5"),
        ("ELS_PENDING_TTL_SECONDS", "0"),
        ("ELS_PENDING_TTL_SECONDS", "-1"),
        ("ELS_PENDING_TTL_SECONDS", "99999999999999999999"),
        ("ELS_MAX_POLL_RECORDS", "0"),
        ("ELS_CELLS", "0"),
        ("ELS_CELLS", "3"),
        ("ELS_CELLS", "two"),
        ("ELS_CELLS", "2048"),
        ("ELS_CELL", "1"),
        ("ELS_CELL", "-1"),
        ("ELS_MAX_MESSAGE_BYTES", "1e6"),
        ("ELS_LOG_LEVEL", "LOUD"),
        ("ELS_LOG_FORMAT", "xml"),
        ("ELS_KAFKA_ENABLE_IDEMPOTENCE", "perhaps"),
        ("ELS_KAFKA_SECURITY_PROTOCOL", "TLS"),
        ("ELS_KAFKA_BOOTSTRAP_SERVERS", "kafka"),
        ("ELS_KAFKA_BOOTSTRAP_SERVERS", "kafka:0"),
        ("ELS_KAFKA_BOOTSTRAP_SERVERS", "kafka:9092,,other:9092"),
        ("ELS_KAFKA_SSL_CAFILE", "/nowhere/ca.pem"),
        ("ELS_DATABASE_URL", "mysql://db/els"),
        ("ELS_DATABASE_URL", "postgresql://db:many/els"),
        ("ELS_MIGRATION_DATABASE_URL", "postgresql://db/els?no_such_parameter=1"),
    ],
)
def test_a_malformed_setting_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    assert error_message().startswith(f"{variable}: ")
    assert "\n" not in error_message()


def test_a_cell_is_one_of_a_power_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().slice == Slice(1, 0) == ALL_BATCHES
    monkeypatch.setenv("ELS_CELLS", "4")
    assert error_message() == "ELS_CELL: is needed with ELS_CELLS=4"
    monkeypatch.setenv("ELS_CELL", "4")
    assert error_message() == "ELS_CELL: should be from 0 to 3 with ELS_CELLS=4, and not 4"
    monkeypatch.setenv("ELS_CELL", "3")
    assert load_settings().slice == Slice(4, 3)
    monkeypatch.setenv("ELS_CELLS", "6")
    assert error_message() == "ELS_CELLS: should be a power of two (1, 2, 4, 8 …), and not 6"


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://user:{SECRET}@db/els",
        f"postgresql://user:{SECRET}%zz@db/els",
        f"postgresql://user:{SECRET}@[::1/els",
        f"postgresql://user@db/els?{SECRET}=1",
        f"postgresql://user:p@{SECRET}@db/els",
        f"postgresql://user@db/{SECRET}@db/els",
        f"{SECRET}",
    ],
)
def test_an_error_about_a_url_does_not_quote_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ELS_DATABASE_URL", url)
    assert SECRET not in error_message()


def test_an_error_about_the_brokers_does_not_quote_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELS_KAFKA_BOOTSTRAP_SERVERS", f"one:9092,user:{SECRET}@two:9092")
    assert error_message() == "ELS_KAFKA_BOOTSTRAP_SERVERS: its entry 2 is not host:port"


@pytest.mark.parametrize(
    ("variable", "value", "pooler"),
    [
        ("ELS_DATABASE_POOLER", "session", "session"),
        ("ELS_DATABASE_POOLER", "Transaction", "transaction"),
        ("ELS_DATABASE_TRANSACTION_POOLER", "true", "transaction"),
        ("ELS_DATABASE_TRANSACTION_POOLER", "False", "none"),
        ("ELS_DATABASE_TRANSACTION_POOLER", "", "none"),
    ],
)
def test_the_pooler_is_named_or_was_a_boolean(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, pooler: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert load_settings().database_pooler == pooler


def test_a_wrong_pooler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELS_DATABASE_POOLER", "statement")
    assert error_message().startswith("ELS_DATABASE_POOLER (or its former name ELS_DATABASE_TRANSACTION_POOLER): ")


def test_tokens_are_long_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELS_VIEWER_TOKEN", "x" * 15)
    assert error_message() == "ELS_VIEWER_TOKEN: should have at least 16 characters"
    monkeypatch.setenv("ELS_VIEWER_TOKEN", "x" * 16 + "\n")
    monkeypatch.setenv("ELS_ADMIN_TOKEN", "x" * 16)
    assert error_message() == "ELS_VIEWER_TOKEN: should not be the same as ELS_ADMIN_TOKEN"
    monkeypatch.setenv("ELS_ADMIN_TOKEN", " \n")
    assert load_settings().admin_token is None


def test_printed_settings_show_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELS_ADMIN_TOKEN", SECRET)
    monkeypatch.setenv("ELS_KAFKA_SASL_PASSWORD", SECRET)
    monkeypatch.setenv("ELS_MIGRATION_DATABASE_URL", f"postgresql://owner:{SECRET}@db/els")
    settings = load_settings()
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


def test_the_former_name_of_the_rejections_limit_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELS_REFUSALS_IN_A_ROW_LIMIT", "7")
    assert load_settings().consecutive_rejections_limit == 7
    monkeypatch.setenv("ELS_CONSECUTIVE_REJECTIONS_LIMIT", "5")
    assert load_settings().consecutive_rejections_limit == 5


@pytest.mark.parametrize("name", ["ELS_CONSECUTIVE_REJECTIONS_LIMIT", "ELS_REFUSALS_IN_A_ROW_LIMIT"])
def test_an_error_of_the_rejections_limit_names_the_variable_that_is_set(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "many")
    message = error_message()
    assert name in message
    assert message.endswith("and not 'many'")


@pytest.mark.parametrize(
    ("dot_env", "variable"),
    [
        ("ELS_CONSECUTIVE_REJECTIONS_LIMIT", "ELS_REFUSALS_IN_A_ROW_LIMIT"),
        ("ELS_REFUSALS_IN_A_ROW_LIMIT", "ELS_CONSECUTIVE_REJECTIONS_LIMIT"),
    ],
)
def test_the_environment_wins_over_a_dot_env_file_with_the_other_name_of_the_rejections_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dot_env: str, variable: str
) -> None:
    (tmp_path / ".env").write_text(f"{dot_env}=7\n")
    assert load_settings().consecutive_rejections_limit == 7
    monkeypatch.setenv(variable, "5")
    assert load_settings().consecutive_rejections_limit == 5


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(load_settings(), "http_port", 1)  # noqa: B010  a plain assignment would not pass mypy


@pytest.mark.parametrize("missing", ["MECHANISM", "USERNAME", "PASSWORD"])
def test_sasl_needs_mechanism_user_name_and_password(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    sasl = {"MECHANISM": "scram-sha-512", "USERNAME": "els", "PASSWORD": SECRET}
    monkeypatch.setenv("ELS_KAFKA_SECURITY_PROTOCOL", "sasl_ssl")
    for name, value in sasl.items():
        monkeypatch.setenv(f"ELS_KAFKA_SASL_{name}", value)
    assert load_settings().kafka_sasl_mechanism == "SCRAM-SHA-512"
    monkeypatch.delenv(f"ELS_KAFKA_SASL_{missing}")
    assert error_message() == f"ELS_KAFKA_SASL_{missing}: is needed with ELS_KAFKA_SECURITY_PROTOCOL=SASL_SSL"


@pytest.mark.parametrize(("given", "missing"), [("CERT", "KEY"), ("KEY", "CERT")])
def test_a_certificate_and_its_key_need_each_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, missing: str
) -> None:
    file = tmp_path / "some.pem"
    file.write_text("")
    monkeypatch.setenv(f"ELS_KAFKA_SSL_{given}FILE", str(file))
    assert error_message() == f"ELS_KAFKA_SSL_{missing}FILE: is needed with ELS_KAFKA_SSL_{given}FILE"


def test_a_rebalance_may_not_time_out_before_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELS_SESSION_TIMEOUT_SECONDS", "31")
    assert error_message().startswith("ELS_REBALANCE_TIMEOUT_SECONDS: ")


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_a_header_that_names_persons_counts_only_from_proxies_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELS_CONSOLE_USER_HEADER", "X-Forwarded-User")
    assert error_message() == "ELS_CONSOLE_PROXIES: is needed with ELS_CONSOLE_USER_HEADER"
    monkeypatch.setenv("ELS_CONSOLE_PROXIES", "10.0.0.0/8, somewhere")
    assert error_message().startswith("ELS_CONSOLE_PROXIES: 'somewhere' does not appear to be")
    monkeypatch.setenv("ELS_CONSOLE_PROXIES", "10.0.0.0/8, ::1")
    monkeypatch.setenv("ELS_CONSOLE_OPERATORS", "åsa, bo@example.com,")
    settings = load_settings()
    proxy = trusted_proxy_of(settings)
    assert proxy is not None
    assert ([str(each) for each in proxy.networks], proxy.operators) == (
        ["10.0.0.0/8", "::1/128"], ("åsa", "bo@example.com"),
    )  # fmt: skip
    monkeypatch.setenv("ELS_CONSOLE_USER_HEADER", "X Forwarded: User")
    assert error_message() == "ELS_CONSOLE_USER_HEADER: should be the name of an HTTP header"
