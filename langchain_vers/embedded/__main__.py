"""`python -m langchain_vers.embedded`: the server process (see `server.py`)."""

from .server import main

raise SystemExit(main())
