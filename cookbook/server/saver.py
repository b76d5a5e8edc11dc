"""The checkpointer that the server uses: one that keeps the machines with the conversations."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from machines import context

from langchain_vers import VersSaver


@asynccontextmanager
async def create() -> AsyncIterator[VersSaver]:
    """A saver for the server's event loop. PostgreSQL: `AsyncPostgresSaver.from_conn_string(...)` in its place, and `await setup()`."""
    async with AsyncSqliteSaver.from_conn_string(os.environ.get("THREADS_DATABASE", "threads.sqlite")) as inner:
        yield VersSaver(inner, context)
