"""The environment becomes settings, or one line that says which of them is wrong."""

from pathlib import Path

import pytest

from service.settings import Settings, SettingsError, load_settings

SECRET = "hunter2-in-the-clear"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing but what must be set, and no `.env` of whoever runs this."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ELS_{name.upper()}", raising=False)
    monkeypatch.setenv("ELS_DATABASE_URL", f"postgresql://els_app:{SECRET}@db:5432/els?sslmode=require")
    monkeypatch.setenv("ELS_KAFKA_BOOTSTRAP_SERVERS", "kafka:9092")


def complaint() -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings()
    return str(caught.value)


def test_the_defaults_are_those_that_are_fixed_for_the_outside() -> None:
    settings = load_settings()
    assert settings.consumer_group == "essay-lifecycle-service"
    assert settings.http_port == 8080
    assert settings.pending_ttl_seconds == 86400
    assert settings.expired_retention_seconds == 2592000
    assert settings.batch_timeout_seconds == 86400
    assert settings.purge_interval_seconds == 60
    assert settings.batch_retention_seconds is None
    assert settings.closed_retention_seconds is None
    assert settings.session_timeout_seconds == 6
    assert settings.max_message_bytes == 1048576
    assert settings.max_registration_bytes == 16777216
    assert settings.consecutive_rejections_limit == 1000
    assert settings.kafka_enable_idempotence is True
    assert settings.admin_token is None


def test_a_migration_uses_the_url_of_the_service_where_it_has_none_of_its_own(
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


def test_a_dot_env_file_that_is_no_text_is_a_settings_error(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"ELS_HTTP_PORT=\xff\xfe")
    assert complaint().startswith(".env: ")


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELS_ADMIN_TOKEN", "")
    monkeypatch.setenv("ELS_HTTP_PORT", "")
    settings = load_settings()
    assert (settings.admin_token, settings.http_port) == (None, 8080)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ELS_DATABASE_URL")
    monkeypatch.delenv("ELS_KAFKA_BOOTSTRAP_SERVERS")
    assert complaint() == "ELS_DATABASE_URL: is not set; ELS_KAFKA_BOOTSTRAP_SERVERS: is not set"


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
def test_what_is_malformed_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    assert complaint().startswith(f"{variable}: ")
    assert "\n" not in complaint()


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://user:{SECRET}@db/els",
        f"postgresql://user:{SECRET}%zz@db/els",
        f"postgresql://user:{SECRET}@[::1/els",
        f"postgresql://user@db/els?{SECRET}=1",
        f"{SECRET}",
    ],
)
def test_a_complaint_about_a_url_does_not_quote_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ELS_DATABASE_URL", url)
    assert SECRET not in complaint()


def test_no_secret_is_shown_by_what_is_printed_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELS_ADMIN_TOKEN", SECRET)
    monkeypatch.setenv("ELS_KAFKA_SASL_PASSWORD", SECRET)
    monkeypatch.setenv("ELS_MIGRATION_DATABASE_URL", f"postgresql://owner:{SECRET}@db/els")
    settings = load_settings()
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(load_settings(), "http_port", 1)  # noqa: B010  a plain assignment would not pass mypy


@pytest.mark.parametrize("missing", ["MECHANISM", "USERNAME", "PASSWORD"])
def test_sasl_needs_all_that_it_logs_in_with(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    sasl = {"MECHANISM": "scram-sha-512", "USERNAME": "els", "PASSWORD": SECRET}
    monkeypatch.setenv("ELS_KAFKA_SECURITY_PROTOCOL", "sasl_ssl")
    for name, value in sasl.items():
        monkeypatch.setenv(f"ELS_KAFKA_SASL_{name}", value)
    assert load_settings().kafka_sasl_mechanism == "SCRAM-SHA-512"
    monkeypatch.delenv(f"ELS_KAFKA_SASL_{missing}")
    assert complaint() == f"ELS_KAFKA_SASL_{missing}: is needed with ELS_KAFKA_SECURITY_PROTOCOL=SASL_SSL"


@pytest.mark.parametrize(("given", "missing"), [("CERT", "KEY"), ("KEY", "CERT")])
def test_a_certificate_and_its_key_come_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, missing: str
) -> None:
    file = tmp_path / "some.pem"
    file.write_text("")
    monkeypatch.setenv(f"ELS_KAFKA_SSL_{given}FILE", str(file))
    assert complaint() == f"ELS_KAFKA_SSL_{missing}FILE: is needed with ELS_KAFKA_SSL_{given}FILE"


def test_a_rebalance_may_not_time_out_before_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELS_SESSION_TIMEOUT_SECONDS", "31")
    assert complaint().startswith("ELS_REBALANCE_TIMEOUT_SECONDS: ")


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
