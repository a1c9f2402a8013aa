"""Gives the tests of the intake a database that polls are applied to."""

from collections.abc import AsyncIterator

import pytest

from tests.support.pods.applier import ApplyFixture, apply_fixture


@pytest.fixture
async def applier(database_url: str) -> AsyncIterator[ApplyFixture]:
    async with apply_fixture(database_url) as found:
        yield found
