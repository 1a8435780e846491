"""HTTP for the tools, with the standard library only. Not a tool: the leading underscore says so."""

import http.client
import json
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

MAX_BODY_BYTES = 1 << 20
USER_AGENT = "executor-tools"


class ServiceUnavailableError(ConnectionError):
    """The service cannot be reached or is broken for now (5xx). Transient: the executor tries again."""


class _WithPartialResults(Exception):
    def __init__(self, message: str, partial_results: object = None) -> None:
        super().__init__(message)
        if partial_results is not None:
            self.partial_results = partial_results


class RateLimitError(_WithPartialResults):
    """The service wants fewer requests. `partial_results` is what was done before."""


class RefusedError(_WithPartialResults):
    """The service refuses the request, or answers with what it should not. Trying again does not help."""


@dataclass(frozen=True)
class Answer:
    """What a server said, whatever the status."""

    status: int
    headers: Message
    body: bytes

    def json_object(self, source: str, so_far: object = None) -> dict[str, Any]:
        """Return the body as a JSON object; `source` names it in the `RefusedError` if it is none."""
        try:
            value = json.loads(self.body)
        except ValueError as error:
            raise RefusedError(f"{source} answered {self.status} with malformed JSON: {error}", so_far) from error
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise RefusedError(f"{source} answered {self.status} with a JSON {kind}, not an object", so_far)
        return value

    def message(self) -> str:
        """Return the server's own words: `message` of a JSON body, else its beginning."""
        try:
            return str(json.loads(self.body)["message"])
        except (ValueError, KeyError, TypeError):
            return self.body[:200].decode(errors="replace").strip() or "no reason given"

    def is_rate_limit(self) -> bool:
        """Tell whether this is a 429, or the 403 that GitHub sends instead."""
        if self.status != 403:
            return self.status == 429
        exhausted = self.headers.get("X-RateLimit-Remaining") == "0" or "Retry-After" in self.headers
        return exhausted or "rate limit" in self.message().lower()


class _CarefulRedirects(HTTPRedirectHandler):
    """Follows only what is read, and takes no credentials to another origin."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        if req.get_method() not in ("GET", "HEAD"):
            return None
        following = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
        if following is not None and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            following.remove_header("Authorization")
        return following


def request(
    method: str,
    url: str,
    *,
    headers: dict[str, str] | None = None,
    payload: dict[str, Any] | None = None,
    timeout_seconds: float = 10.0,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> Answer:
    """Send one request and return the answer, whatever its status.

    `timeout_seconds` limits each wait for the server. Raises `ValueError` for a URL that is not HTTP, and
    `ServiceUnavailableError` if no whole answer comes.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ValueError(f"not an http or https URL: {url!r}")
    body = None if payload is None else json.dumps(payload).encode()
    sent = Request(url, data=body, method=method, headers={"User-Agent": USER_AGENT, **(headers or {})})
    if body is not None:
        sent.add_header("Content-Type", "application/json")
    try:
        try:
            response = build_opener(_CarefulRedirects).open(sent, timeout=timeout_seconds)
        except HTTPError as error:
            response = error
        with response:
            return Answer(response.status, response.headers, response.read(max_body_bytes))
    except http.client.InvalidURL as error:
        raise ValueError(f"not an http or https URL: {url!r}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):
            reason = f"no answer within {timeout_seconds:g} s"
        host = urlsplit(url).netloc.rpartition("@")[2]
        raise ServiceUnavailableError(f"{host} cannot be reached: {reason or type(reason).__name__}") from error


def raise_if_unavailable(answer: Answer, source: str) -> None:
    """Raise `ServiceUnavailableError` for a 5xx."""
    if answer.status >= 500:
        raise ServiceUnavailableError(f"{source} answered {answer.status}: {answer.message()}")
