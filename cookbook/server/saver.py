"""The checkpointer that the server uses: one that keeps the machines with the conversations."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from machines import context

from langchain_vers import VersSaver

CHECKPOINTS = "FROM checkpoints WHERE json_extract(CAST(metadata AS TEXT), '$.run_id') = ?"


class Saver(AsyncSqliteSaver):
    """Can forget a run, which the server asks for with `multitask_strategy="rollback"`; LangGraph's own savers cannot (3.1)."""

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        await self.setup()
        async with self.lock:
            for run in run_ids:
                of_run = f"(thread_id, checkpoint_ns, checkpoint_id) IN (SELECT thread_id, checkpoint_ns, checkpoint_id {CHECKPOINTS})"
                await self.conn.execute(f"DELETE FROM writes WHERE {of_run}", (run,))
                await self.conn.execute(f"DELETE {CHECKPOINTS}", (run,))
            await self.conn.commit()


@asynccontextmanager
async def create() -> AsyncIterator[VersSaver]:
    """A saver for the server's event loop. PostgreSQL: `AsyncPostgresSaver.from_conn_string(...)` in its place, and `await setup()`."""
    async with Saver.from_conn_string(os.environ.get("THREADS_DATABASE", "threads.sqlite")) as inner:
        yield VersSaver(inner, context)
