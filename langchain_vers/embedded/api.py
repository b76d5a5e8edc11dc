"""The HTTP API of the embedded Vers: the application around all routes, and the few that are about the server itself.

The other routes: machines in `machines`, work inside them in `work`, commits, tags, repositories and variables in `catalog`. Manners that
all routes share are in `http`.
"""

from __future__ import annotations

from importlib.metadata import version

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from langchain_vers.embedded.catalog import Catalog
from langchain_vers.embedded.fleet import Fleet
from langchain_vers.embedded.http import Answer, Call, Guard, Handler, Replays, endpoint, failure
from langchain_vers.embedded.machines import Machines
from langchain_vers.embedded.work import Work

UNSUPPORTED: tuple[tuple[str, str], ...] = (
    ("POST", "/deploy"),
    ("GET", "/domains"),
    ("POST", "/domains"),
    ("GET", "/domains/{domain_id}"),
    ("DELETE", "/domains/{domain_id}"),
    ("GET", "/images"),
    ("POST", "/images/create"),
    ("DELETE", "/images/images/{base_image_id}"),
    ("POST", "/images/upload"),
    ("GET", "/images/{image_name}/status"),
    ("GET", "/public/repositories"),
    ("GET", "/public/repositories/{org_name}/{repo_name}"),
    ("GET", "/public/repositories/{org_name}/{repo_name}/tags"),
    ("GET", "/public/repositories/{org_name}/{repo_name}/tags/{tag_name}"),
    ("POST", "/repositories/fork"),
    ("PATCH", "/vm/{vm_id}/disk"),
)
"""What the platform's schema has and this server has not."""


async def _version(call: Call) -> Response:
    return Answer({"executable_name": "orchestrator", "workspace_version": version("langchain-vers"), "git_hash": "embedded"})


async def _valid(call: Call) -> Response:
    return Answer({"valid": True, "message": "The API key is valid."})


async def _unsupported(call: Call) -> Response:
    return failure(501, f"The embedded Vers cannot do {call.request.method} {call.request.url.path}; the Vers platform can.")


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        return failure(405, f"{request.url.path} does not know the method {request.method}.")
    return failure(status, f"There is nothing at {request.url.path}.")


def build_app(fleet: Fleet, *, api_key: str, ssh_port: int) -> ASGIApp:
    """The whole API as an ASGI application."""
    replays = Replays()
    work = Work(fleet)
    plain: list[tuple[str, str, Handler]] = [
        ("GET", "/system/version", _version),
        ("POST", "/keys/validate", _valid),
        *[(method, path, _unsupported) for method, path in UNSUPPORTED],
        *Machines(fleet, ssh_port).routes(),
        *work.routes(),
        *Catalog(fleet).routes(),
    ]
    routes = [Route(f"/api/v1{path}", endpoint(handler, replays), methods=[method]) for method, path, handler in plain]
    routes += [
        Route(f"/api/v1{path}", endpoint(handler, replays, replayable=False), methods=[method])
        for method, path, handler in work.stream_routes()
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})
    # A redirect would send the client's key a second time, to a path that it did not mean.
    app.router.redirect_slashes = False
    return Guard(app, api_key)
