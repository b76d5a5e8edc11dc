"""The checkpointer that the server uses: one that keeps the machines with the conversations."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from machines import context

from langchain_vers import VersSaver

OF_A_RUN = "SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoints WHERE json_extract(CAST(metadata AS TEXT), '$.run_id') = ?"


class Saver(AsyncSqliteSaver):
    """Can forget a run, which the server asks for with `multitask_strategy="rollback"`; LangGraph's own savers cannot."""

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        await self.setup()
        async with self.lock:
            for run in run_ids:
                for table in ("writes", "checkpoints"):
                    await self.conn.execute(f"DELETE FROM {table} WHERE (thread_id, checkpoint_ns, checkpoint_id) IN ({OF_A_RUN})", (run,))
            await self.conn.commit()


@asynccontextmanager
async def create() -> AsyncIterator[VersSaver]:
    """A saver for the server's event loop. PostgreSQL: `AsyncPostgresSaver.from_conn_string(...)` in its place, and `await setup()`."""
    async with Saver.from_conn_string(os.environ.get("THREADS_DATABASE", "threads.sqlite")) as inner:
        yield VersSaver(inner, context)
