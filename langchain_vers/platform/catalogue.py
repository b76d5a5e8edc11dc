"""The part of the API that is about names and settings: commits, tags, repositories, environment variables, the key, the version.

Each method is one operation of the API, named like it, and raises the errors of `HttpCore.open`; an id or a name that cannot stand in a URL
is `BadInput`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from langchain_vers.platform import models
from langchain_vers.platform.http import Call, HttpCore, path_segment
from langchain_vers.platform.machines import build, given


class Unchanged(Enum):
    """The type of `UNCHANGED`, for arguments where None means something else."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED
"""Leave this as it is."""


def commit_path(commit_id: str) -> str:
    """The path of a commit."""
    return f"/commits/{path_segment(commit_id, 'commit id')}"


def tag_path(tag_name: str) -> str:
    """The path of a tag of the organisation."""
    return f"/commit_tags/{path_segment(tag_name, 'tag name')}"


def repository_path(repo_name: str) -> str:
    """The path of a repository of one's own organisation."""
    return f"/repositories/{path_segment(repo_name, 'repository name')}"


def public_path(org_name: str, repo_name: str) -> str:
    """The path of a public repository."""
    return f"/public/repositories/{path_segment(org_name, 'organisation name')}/{path_segment(repo_name, 'repository name')}"


def below(path: str, tag_name: str) -> str:
    """The path of a tag below that of a repository."""
    return f"{path}/tags/{path_segment(tag_name, 'tag name')}"


class CatalogueCalls(HttpCore):
    """Operations on what is not a VM."""

    # Commits

    async def list_commits(self, *, limit: int | None = None, offset: int | None = None) -> models.ListCommitsResponse:
        """A page of the account's commits (server's default 50, at most 100)."""
        return await self.request(Call("GET", "/commits", params={"limit": limit, "offset": offset}), models.ListCommitsResponse)

    async def list_public_commits(self, *, limit: int | None = None, offset: int | None = None) -> models.ListCommitsResponse:
        """A page of everybody's public commits."""
        return await self.request(Call("GET", "/commits/public", params={"limit": limit, "offset": offset}), models.ListCommitsResponse)

    async def list_commit_parents(self, commit_id: str) -> list[models.VmCommitEntity]:
        """The commits that a commit descends from."""
        path = f"/vm/commits/{path_segment(commit_id, 'commit id')}/parents"
        return await self.request(Call("GET", path), list[models.VmCommitEntity])

    async def update_commit(
        self, commit_id: str, *, is_public: bool, name: str | None = None, description: str | None = None
    ) -> models.CommitInfo:
        """Set who may read a commit, and its name and description where given."""
        body = build(models.UpdateCommitRequest, is_public=is_public, **given(name=name, description=description))
        return await self.request(Call("PATCH", commit_path(commit_id), body=body), models.CommitInfo)

    async def delete_commit(self, commit_id: str) -> None:
        """Remove a commit for good."""
        await self.command(Call("DELETE", commit_path(commit_id)))

    # Tags

    async def list_tags(self) -> list[models.TagInfo]:
        """All tags of the organisation."""
        return (await self.request(Call("GET", "/commit_tags"), models.ListTagsResponse)).tags

    async def get_tag(self, tag_name: str) -> models.TagInfo:
        """One tag."""
        return await self.request(Call("GET", tag_path(tag_name)), models.TagInfo)

    async def create_tag(self, tag_name: str, commit_id: str, *, description: str | None = None) -> models.CreateTagResponse:
        """Name a commit."""
        body = build(models.CreateTagRequest, tag_name=tag_name, commit_id=commit_id, **given(description=description))
        return await self.request(Call("POST", "/commit_tags", body=body), models.CreateTagResponse)

    async def update_tag(self, tag_name: str, *, commit_id: str | None = None, description: str | Unchanged | None = UNCHANGED) -> None:
        """Move a tag to another commit, or set its description (None clears it)."""
        await self.command(Call("PATCH", tag_path(tag_name), body=build(models.UpdateTagRequest, **_changes(commit_id, description))))

    async def delete_tag(self, tag_name: str) -> None:
        """Remove a tag; the commit stays."""
        await self.command(Call("DELETE", tag_path(tag_name)))

    # Repositories

    async def list_repositories(self) -> list[models.RepositoryInfo]:
        """All repositories of the organisation."""
        return (await self.request(Call("GET", "/repositories"), models.ListRepositoriesResponse)).repositories

    async def get_repository(self, repo_name: str) -> models.RepositoryInfo:
        """One repository."""
        return await self.request(Call("GET", repository_path(repo_name)), models.RepositoryInfo)

    async def create_repository(self, name: str, *, description: str | None = None) -> models.CreateRepositoryResponse:
        """A new repository."""
        body = build(models.CreateRepositoryRequest, name=name, **given(description=description))
        return await self.request(Call("POST", "/repositories", body=body), models.CreateRepositoryResponse)

    async def delete_repository(self, repo_name: str) -> None:
        """Remove a repository with its tags."""
        await self.command(Call("DELETE", repository_path(repo_name)))

    async def set_repository_visibility(self, repo_name: str, *, is_public: bool) -> None:
        """Make a repository public or private."""
        body = build(models.SetRepositoryVisibilityRequest, is_public=is_public)
        await self.command(Call("PATCH", f"{repository_path(repo_name)}/visibility", body=body))

    async def fork_repository(
        self, source_org: str, source_repo: str, source_tag: str, *, repo_name: str | None = None, tag_name: str | None = None
    ) -> models.ForkRepositoryResponse:
        """A VM, commit, repository and tag of one's own from a public repository's tag."""
        fields = {"source_org": source_org, "source_repo": source_repo, "source_tag": source_tag}
        body = build(models.ForkRepositoryRequest, **fields, **given(repo_name=repo_name, tag_name=tag_name))
        call = Call("POST", "/repositories/fork", body=body, timeout=self.deadline)
        return await self.request(call, models.ForkRepositoryResponse)

    async def list_repository_tags(self, repo_name: str) -> list[models.RepoTagInfo]:
        """The tags of a repository."""
        return (await self.request(Call("GET", f"{repository_path(repo_name)}/tags"), models.ListRepoTagsResponse)).tags

    async def get_repository_tag(self, repo_name: str, tag_name: str) -> models.RepoTagInfo:
        """One tag of a repository."""
        return await self.request(Call("GET", below(repository_path(repo_name), tag_name)), models.RepoTagInfo)

    async def create_repository_tag(
        self, repo_name: str, tag_name: str, commit_id: str, *, description: str | None = None
    ) -> models.CreateRepoTagResponse:
        """Name a commit within a repository."""
        body = build(models.CreateRepoTagRequest, tag_name=tag_name, commit_id=commit_id, **given(description=description))
        return await self.request(Call("POST", f"{repository_path(repo_name)}/tags", body=body), models.CreateRepoTagResponse)

    async def update_repository_tag(
        self, repo_name: str, tag_name: str, *, commit_id: str | None = None, description: str | Unchanged | None = UNCHANGED
    ) -> None:
        """Move a repository's tag to another commit, or set its description (None clears it)."""
        body = build(models.UpdateRepoTagRequest, **_changes(commit_id, description))
        await self.command(Call("PATCH", below(repository_path(repo_name), tag_name), body=body))

    async def delete_repository_tag(self, repo_name: str, tag_name: str) -> None:
        """Remove a repository's tag; the commit stays."""
        await self.command(Call("DELETE", below(repository_path(repo_name), tag_name)))

    async def list_public_repositories(self) -> list[models.PublicRepositoryInfo]:
        """All public repositories."""
        return (await self.request(Call("GET", "/public/repositories"), models.ListPublicRepositoriesResponse)).repositories

    async def get_public_repository(self, org_name: str, repo_name: str) -> models.PublicRepositoryInfo:
        """One public repository."""
        return await self.request(Call("GET", public_path(org_name, repo_name)), models.PublicRepositoryInfo)

    async def list_public_repository_tags(self, org_name: str, repo_name: str) -> list[models.RepoTagInfo]:
        """The tags of a public repository."""
        return (await self.request(Call("GET", f"{public_path(org_name, repo_name)}/tags"), models.ListRepoTagsResponse)).tags

    async def get_public_repository_tag(self, org_name: str, repo_name: str, tag_name: str) -> models.RepoTagInfo:
        """One tag of a public repository."""
        return await self.request(Call("GET", below(public_path(org_name, repo_name), tag_name)), models.RepoTagInfo)

    # The account

    async def get_env_vars(self) -> models.EnvVarsResponse:
        """The environment variables that new VMs get."""
        return await self.request(Call("GET", "/env_vars"), models.EnvVarsResponse)

    async def set_env_vars(self, variables: Mapping[str, str], *, replace: bool = False) -> models.EnvVarsResponse:
        """Add or change environment variables of new VMs; with `replace`, drop all others."""
        body = build(models.SetEnvVarsRequest, vars=dict(variables), replace=replace)
        return await self.request(Call("PUT", "/env_vars", body=body), models.EnvVarsResponse)

    async def delete_env_var(self, key: str) -> None:
        """Remove an environment variable from new VMs."""
        await self.command(Call("DELETE", f"/env_vars/{path_segment(key, 'variable name')}"))

    async def validate_key(self) -> models.ValidateKeyResponse:
        """Whether the API key is good; a wrong one can also be `Denied`."""
        return await self.request(Call("POST", "/keys/validate"), models.ValidateKeyResponse)

    async def get_version(self) -> models.OrchestratorVersion:
        """What the server runs."""
        return await self.request(Call("GET", "/system/version"), models.OrchestratorVersion)


def _changes(commit_id: str | None, description: str | Unchanged | None) -> dict[str, Any]:
    changes = given(commit_id=commit_id)
    return changes if isinstance(description, Unchanged) else {**changes, "description": description}
