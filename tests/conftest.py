"""Settings of the test run."""

from __future__ import annotations

from hypothesis import settings

# The same examples in each run, so that a red test is red again; no deadline, since
# other tests may have the processor.
settings.register_profile("twinstep", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("twinstep")
