"""The conformance suite for backends, to be run over every one of them, also those of other packages.

A backend joins with a subclass that overrides one fixture:

    class TestMyBackend(BackendConformance):
        @pytest.fixture
        async def backend(self):
            backend = MyBackend()
            yield backend
            await on_io(backend.close())

Every test's docstring says what a backend owes. The tests need a POSIX machine with a shell and coreutils behind the backend, and on this
side the package's extra `test` and `asyncio_mode = "auto"` of pytest-asyncio. Each runs twice: called from sync code (`run`) and from async
code (`on_io`). A test that a backend cannot pass is overridden with `pytest.mark.xfail(strict=True, reason=...)`, so that a stale excuse
fails.
"""

from __future__ import annotations

from langchain_vers.testing.commands import CommandConformance
from langchain_vers.testing.files import FileConformance
from langchain_vers.testing.listings import ListingConformance


class BackendConformance(CommandConformance, FileConformance, ListingConformance):
    """All that `langchain_vers.backends.base.Backend` promises."""
