"""The routes of the embedded Vers for what is not a machine: commits, tags, repositories and environment variables."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

from starlette.responses import Response

from langchain_vers.embedded.fleet import Fleet, as_uuid
from langchain_vers.embedded.http import Answer, Call, Handler
from langchain_vers.embedded.requests import (
    CreateRepository,
    CreateTag,
    SetEnvironment,
    SetVisibility,
    UpdateCommit,
    UpdateTag,
    query_number,
)
from langchain_vers.embedded.store import Commit, Repository, Setting, Store, Tag, now
from langchain_vers.errors import BadInput, Conflict, Gone


def _tag_key(tag_name: str, repository: str | None) -> str:
    # Neither kind of name may hold a colon, so the two kinds of key never meet.
    return tag_name if repository is None else f"{repository}:{tag_name}"


class Catalog:
    """The routes, over a fleet's store."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._store = fleet.store

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler."""
        return [
            ("GET", "/commits", self.list_commits),
            ("GET", "/commits/public", self.list_public_commits),
            ("PATCH", "/commits/{commit_id}", self.update_commit),
            ("DELETE", "/commits/{commit_id}", self.delete_commit),
            ("GET", "/vm/commits/{commit_id}/parents", self.parents),
            ("GET", "/commit_tags", self.list_tags),
            ("POST", "/commit_tags", self.create_tag),
            ("GET", "/commit_tags/{tag_name}", self.get_tag),
            ("PATCH", "/commit_tags/{tag_name}", self.update_tag),
            ("DELETE", "/commit_tags/{tag_name}", self.delete_tag),
            ("GET", "/repositories", self.list_repositories),
            ("POST", "/repositories", self.create_repository),
            ("GET", "/repositories/{repo_name}", self.get_repository),
            ("DELETE", "/repositories/{repo_name}", self.delete_repository),
            ("PATCH", "/repositories/{repo_name}/visibility", self.set_visibility),
            ("GET", "/repositories/{repo_name}/tags", self.list_tags),
            ("POST", "/repositories/{repo_name}/tags", self.create_tag),
            ("GET", "/repositories/{repo_name}/tags/{tag_name}", self.get_tag),
            ("PATCH", "/repositories/{repo_name}/tags/{tag_name}", self.update_tag),
            ("DELETE", "/repositories/{repo_name}/tags/{tag_name}", self.delete_tag),
            ("GET", "/env_vars", self.get_environment),
            ("PUT", "/env_vars", self.set_environment),
            ("DELETE", "/env_vars/{key}", self.delete_variable),
        ]

    # -- commits

    def _described(self, commit: Commit) -> dict[str, object]:
        return {
            "owner_id": self._store.owner_id,
            "name": commit.name,
            "description": commit.description,
            "created_at": commit.created_at,
            "is_public": commit.is_public,
            "parent_vm_id": commit.parent_vm_id,
            "grandparent_commit_id": commit.grandparent_commit_id,
        }

    def _page(self, call: Call, commits: list[Commit]) -> Response:
        limit = min(query_number(call.query, "limit", 50), 100)
        offset = query_number(call.query, "offset", 0)
        newest_first = commits[::-1]
        page = [{"commit_id": each.commit_id, **self._described(each)} for each in newest_first[offset : offset + limit]]
        return Answer({"commits": page, "total": len(commits), "limit": limit, "offset": offset})

    async def list_commits(self, call: Call) -> Response:
        """A page of commits, the newest first."""
        return self._page(call, list(self._store.commits))

    async def list_public_commits(self, call: Call) -> Response:
        """A page of the commits that are marked public."""
        return self._page(call, [commit for commit in self._store.commits if commit.is_public])

    async def update_commit(self, call: Call) -> Response:
        """Change a commit's name, description or visibility; a name or description that is not there, or null, stays."""
        commit = self._fleet.commit(call.uuid("commit_id", "commit"))
        body = call.body(UpdateCommit)
        commit = replace(
            commit,
            is_public=body.is_public,
            name=commit.name if body.name is None else body.name,
            description=commit.description if body.description is None else body.description,
        )
        self._store.commits.put(commit.commit_id, commit)
        return Answer({"commit_id": commit.commit_id, **self._described(commit)})

    async def delete_commit(self, call: Call) -> Response:
        """Remove a commit that no tag refers to."""
        await self._fleet.delete_commit(call.uuid("commit_id", "commit"))
        return Response(status_code=204)

    async def parents(self, call: Call) -> Response:
        """A commit and those that it descends from, as far as they still exist."""
        commit: Commit | None = self._fleet.commit(call.uuid("commit_id", "commit"))
        line: list[dict[str, object]] = []
        while commit is not None and len(line) < 10_000:
            line.append({"id": commit.commit_id, **self._described(commit)})
            commit = self._store.commits.get(commit.grandparent_commit_id or "")
        return Answer(line)

    # -- tags, of the account or of a repository

    @staticmethod
    def find_tag(store: Store, tag_name: str, repository: str | None = None) -> Tag:
        """A tag; raises `Gone`."""
        tag = store.tags.get(_tag_key(tag_name, repository))
        if tag is None or tag.repository != repository:
            where = "" if repository is None else f" in the repository {repository}"
            raise Gone(f"There is no tag {tag_name}{where}.")
        return tag

    def _repository_of(self, call: Call) -> str | None:
        """The repository that the path names, None on the account's own routes."""
        if "repo_name" not in call.request.path_params:
            return None
        return self._repository(call.text("repo_name")).name

    @staticmethod
    def _described_tag(tag: Tag) -> dict[str, object]:
        described: dict[str, object] = {
            "tag_id": tag.tag_id,
            "tag_name": tag.tag_name,
            "commit_id": tag.commit_id,
            "description": tag.description,
            "created_at": tag.created_at,
            "updated_at": tag.updated_at,
        }
        if tag.repository is not None:
            described["reference"] = f"{tag.repository}:{tag.tag_name}"
        return described

    async def list_tags(self, call: Call) -> Response:
        """All tags."""
        repository = self._repository_of(call)
        tags = [self._described_tag(tag) for tag in self._store.tags if tag.repository == repository]
        return Answer({"tags": tags} if repository is None else {"repository": repository, "tags": tags})

    async def create_tag(self, call: Call) -> Response:
        """Name a commit."""
        repository = self._repository_of(call)
        body = call.body(CreateTag)
        commit = self._fleet.commit(as_uuid(body.commit_id, "commit"))
        key = _tag_key(body.tag_name, repository)
        if key in self._store.tags:
            raise Conflict(f"There is a tag {key} already; move it with PATCH, or choose another name.")
        moment = now()
        tag = Tag(str(uuid4()), body.tag_name, commit.commit_id, moment, moment, body.description, repository)
        self._store.tags.put(key, tag)
        named = {"tag_name": tag.tag_name} if repository is None else {"reference": key}
        return Answer({"tag_id": tag.tag_id, "commit_id": tag.commit_id, **named}, 201)

    async def get_tag(self, call: Call) -> Response:
        """One tag."""
        return Answer(self._described_tag(self.find_tag(self._store, call.text("tag_name"), self._repository_of(call))))

    async def update_tag(self, call: Call) -> Response:
        """Move a tag, or change its description."""
        tag = self.find_tag(self._store, call.text("tag_name"), self._repository_of(call))
        body = call.body(UpdateTag)
        if body.commit_id is not None:
            commit = self._fleet.commit(as_uuid(body.commit_id, "commit"))
            tag = replace(tag, commit_id=commit.commit_id)
        if "description" in body.model_fields_set:
            tag = replace(tag, description=body.description)
        self._store.tags.put(_tag_key(tag.tag_name, tag.repository), replace(tag, updated_at=now()))
        return Response(status_code=204)

    async def delete_tag(self, call: Call) -> Response:
        """Remove a tag; its commit stays."""
        tag = self.find_tag(self._store, call.text("tag_name"), self._repository_of(call))
        self._store.tags.remove(_tag_key(tag.tag_name, tag.repository))
        return Response(status_code=204)

    # -- repositories

    def _repository(self, name: str) -> Repository:
        repository = self._store.repositories.get(name)
        if repository is None:
            raise Gone(f"There is no repository {name}.")
        return repository

    @staticmethod
    def _described_repository(repository: Repository) -> dict[str, object]:
        return {
            "repo_id": repository.repo_id,
            "name": repository.name,
            "description": repository.description,
            "is_public": repository.is_public,
            "created_at": repository.created_at,
        }

    async def list_repositories(self, call: Call) -> Response:
        """All repositories."""
        return Answer({"repositories": [self._described_repository(each) for each in self._store.repositories]})

    async def create_repository(self, call: Call) -> Response:
        """Make an empty repository."""
        body = call.body(CreateRepository)
        if body.name in self._store.repositories:
            raise Conflict(f"There is a repository {body.name} already.")
        repository = Repository(str(uuid4()), body.name, now(), body.description)
        self._store.repositories.put(body.name, repository)
        return Answer({"repo_id": repository.repo_id, "name": repository.name}, 201)

    async def get_repository(self, call: Call) -> Response:
        """One repository."""
        return Answer(self._described_repository(self._repository(call.text("repo_name"))))

    async def delete_repository(self, call: Call) -> Response:
        """Remove a repository and its tags; the commits stay."""
        name = self._repository(call.text("repo_name")).name
        for tag in self._store.tags:
            if tag.repository == name:
                self._store.tags.remove(_tag_key(tag.tag_name, name))
        self._store.repositories.remove(name)
        return Response(status_code=204)

    async def set_visibility(self, call: Call) -> Response:
        """Mark a repository as public or not; on this server nobody else sees it either way."""
        repository = self._repository(call.text("repo_name"))
        body = call.body(SetVisibility)
        self._store.repositories.put(repository.name, replace(repository, is_public=body.is_public))
        return Response(status_code=204)

    # -- environment variables: machines made from now on get them

    def _environment(self) -> Response:
        return Answer({"vars": {key: setting.value for key, setting in self._store.environment.items()}})

    async def get_environment(self, call: Call) -> Response:
        """All variables."""
        return self._environment()

    async def set_environment(self, call: Call) -> Response:
        """Add or replace variables; with `replace`, these and no others."""
        body = call.body(SetEnvironment)
        if len(body.vars) > 1000:
            raise BadInput("There may be at most 1000 variables.")
        if body.replace:
            for key, _ in self._store.environment.items():
                if key not in body.vars:
                    self._store.environment.remove(key)
        for key, value in body.vars.items():
            self._store.environment.put(key, Setting(value))
        return self._environment()

    async def delete_variable(self, call: Call) -> Response:
        """Remove a variable."""
        key = call.text("key")
        if key not in self._store.environment:
            raise Gone(f"There is no variable {key[:80]}.")
        self._store.environment.remove(key)
        return Response(status_code=204)
