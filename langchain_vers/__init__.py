"""A computer for LangChain agents and LangGraph workflows that they can leave, come back to, fork and rewind."""
