"""The fixture `link`: the same test over the double, TCP and a Unix socket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.transfer.links import Link


@pytest.fixture(params=["loopback", "tcp", "unix"])
def link(request: pytest.FixtureRequest) -> Iterator[Link]:
    made = Link(request.param)
    yield made
    made.close()
