"""Counts the stars and forks of repositories on GitHub."""

import os
import re
from urllib.parse import quote

from _http import RateLimitError, RefusedError, raise_if_unavailable, request
from _reporting import emit, partial, progress


def github_stars(repositories: list[str], timeout_seconds: float = 10.0) -> dict[str, object]:
    """Fetch the stars, forks and open issues of `repositories`, each `owner/name`.

    Needs nothing; uses the environment variables GITHUB_TOKEN (more requests an hour, private repositories) and
    GITHUB_API_URL (default https://api.github.com) if PASS_ENV lets them through: `PASS_ENV=GITHUB_*`.

    Returns `items` (`repository`, `stars`, `forks`, `open_issues`), `count`, `total_stars`, and in `missing` the
    repositories that do not exist or are hidden. Raises `RateLimitError` with what was fetched so far as
    `partial_results`, `ServiceUnavailableError` (transient), or `RefusedError`.
    """
    for repository in repositories:
        if not re.fullmatch(r"[\w-]+/[\w.-]+", repository, re.ASCII) or repository.endswith(("/.", "/..")):
            raise ValueError(f"a repository is written owner/name, not {repository!r}")
    items: list[dict[str, object]] = []
    missing: list[str] = []
    total_stars = 0
    for done, repository in enumerate(repositories, 1):
        item = _fetch(repository, timeout_seconds, {"items": items, "count": len(items)})
        if item is None:
            missing.append(repository)
        else:
            items.append(item)
            total_stars += int(str(item["stars"]))
        partial({"items": items, "count": len(items)})
        emit("repositories_fetched", count=len(items))
        progress(done, len(repositories))
    return {"items": items, "count": len(items), "total_stars": total_stars, "missing": missing}


def _fetch(repository: str, timeout_seconds: float, so_far: dict[str, object]) -> dict[str, object] | None:
    headers = {"Accept": "application/vnd.github+json"}
    if token := os.environ.get("GITHUB_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    base = os.environ.get("GITHUB_API_URL") or "https://api.github.com"
    url = f"{base.rstrip('/')}/repos/{quote(repository)}"
    answer = request("GET", url, headers=headers, timeout_seconds=timeout_seconds)
    raise_if_unavailable(answer, "GitHub")
    if answer.is_rate_limit():
        raise RateLimitError(f"rate limited by GitHub at {repository}: {answer.message()}", so_far)
    if answer.status == 404:
        return None
    if answer.status != 200:
        raise RefusedError(f"GitHub answered {answer.status} for {repository}: {answer.message()}", so_far)
    counts = answer.json_object("GitHub", so_far)
    fields = {"stars": "stargazers_count", "forks": "forks_count", "open_issues": "open_issues_count"}
    for field in fields.values():
        if not isinstance(counts.get(field), int):
            raise RefusedError(f"GitHub's answer for {repository} has no number {field}", so_far)
    return {"repository": repository, **{name: counts[field] for name, field in fields.items()}}
