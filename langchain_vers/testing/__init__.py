"""Suites of tests that a backend joins: see `backends` and `escapes`."""

import pytest

# Before they are imported, so that a failed assertion tells its values also outside of test modules.
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in ("commands", "escapes", "files", "harness", "listings")))
