"""The checkpointer that the server is to use."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from machines import context

from langchain_vers import VersSaver


@asynccontextmanager
async def create() -> AsyncIterator[VersSaver]:
    """A saver for the server's event loop."""
    async with AsyncSqliteSaver.from_conn_string(os.environ["THREADS_DATABASE"]) as inner:
        yield VersSaver(inner, context)
