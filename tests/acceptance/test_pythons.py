"""The service on each supported Python besides the one that runs the tests, with the same locked packages."""

import tempfile
from pathlib import Path

import pytest

from tests.support.checks.inner_run import run_tests
from tests.support.servers import pythons

UNIT = [
    "tests/unit",
    # What these read is the same for every Python.
    "--ignore=tests/unit/deploy/test_compose.py",
    "--ignore=tests/unit/docs/test_dependencies.py",
    "--ignore=tests/unit/docs/test_docs.py",
    "--ignore=tests/unit/deploy/test_kubernetes.py",
    "--ignore=tests/unit/deploy/test_local_postgres.py",
    "--ignore=tests/unit/deploy/test_observability.py",
    # Ten seconds for one property of the wire format.
    "--deselect=tests/unit/domain/test_outgoing.py::test_a_batch_of_failures_only_is_announced_however_long_their_texts_are",
]
INTEGRATION = [
    "tests/integration/cli/test_commands.py::test_every_command_prints_help_without_settings",
    "tests/integration/postgres/test_pool.py",
    "tests/integration/http/test_server.py",
    "tests/acceptance/test_recorded_morning.py::test_the_morning_at_full_speed_has_the_expected_result[tansu-2]",
]


@pytest.mark.only_in_test_all("on other versions of Python")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", pythons.others())
def test_the_service_on_another_supported_python(version: str) -> None:
    if missing := pythons.missing(version):
        pytest.skip(missing)
    with tempfile.TemporaryDirectory(prefix="els-test-") as folder:
        python = pythons.environment(version, Path(folder))
        run_tests(*UNIT, *INTEGRATION, python=python)
