"""`python -m langchain_vers.embedded`: the server process (see `server.py`)."""

from langchain_vers.embedded.server import main

raise SystemExit(main())
