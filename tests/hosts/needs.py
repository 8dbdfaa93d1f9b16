"""What tests on hosts need of the computer; without it they are skipped, with why."""

from __future__ import annotations

import pytest

from twinstep.demo.hosts.network import missing

needs_hosts = pytest.mark.skipif(bool(missing()), reason=missing())
