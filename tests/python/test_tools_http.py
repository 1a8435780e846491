"""The tools that speak HTTP, against a real server on this machine."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from _http import RateLimitError, RefusedError, ServiceUnavailableError

from tools.github_stars import github_stars
from tools.http_check import http_check
from tools.resend_email import resend_email


class Server(ThreadingHTTPServer):
    """Gives the prepared answers in turn, the last one again and again; `None` keeps the client waiting."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.answers: list[tuple[int, object, dict[str, str]] | None] = []
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.over = threading.Event()

    def answer(self, status: int, body: object = None, **headers: str) -> None:
        self.answers.append((status, body, {name.replace("_", "-"): value for name, value in headers.items()}))


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, self.path, dict(self.headers), body))
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is None:
            self.server.over.wait(20)
            return
        status, content, headers = answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


def serving() -> Iterator[Server]:
    with Server() as started:
        thread = threading.Thread(target=started.serve_forever, args=(0.02,))
        thread.start()
        yield started
        started.over.set()
        started.shutdown()
        thread.join(20)


other = pytest.fixture(serving, name="other")


@pytest.fixture(name="server")
def _server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for started in serving():
        monkeypatch.setenv("GITHUB_API_URL", started.url)
        monkeypatch.setenv("RESEND_API_URL", started.url + "/")
        monkeypatch.setenv("RESEND_API_KEY", "re_key")
        monkeypatch.delenv("GITHUB_TOKEN", raising=False)
        yield started


@pytest.fixture
def refusing() -> Iterator[str]:
    with socket.socket() as bound:  # bound, but not listening
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def stars(count: int) -> dict[str, int]:
    return {"stargazers_count": count, "forks_count": 2, "open_issues_count": 1}


def item(repository: str, count: int) -> dict[str, object]:
    return {"repository": repository, "stars": count, "forks": 2, "open_issues": 1}


def test_stars_are_counted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    server.answer(200, stars(5))
    server.answer(404, {"message": "Not Found"})
    server.answer(200, stars(7))
    assert github_stars(["a/b", "no/such", "c/d.e"]) == {
        "items": [item("a/b", 5), item("c/d.e", 7)],
        "count": 2,
        "total_stars": 12,
        "missing": ["no/such"],
    }
    assert [path for _, path, _, _ in server.requests] == ["/repos/a/b", "/repos/no/such", "/repos/c/d.e"]
    assert server.requests[0][2]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (429, {}, {"message": "slow down"}),
        (403, {"X_RateLimit_Remaining": "0"}, b""),
        (403, {}, {"message": "API rate limit exceeded"}),
    ],
)
def test_a_rate_limit_midway_keeps_the_stars(server: Server, status: int, headers: dict, body: object) -> None:
    server.answer(200, stars(5))
    server.answer(status, body, **headers)
    with pytest.raises(RateLimitError, match="rate limited by GitHub at c/d") as caught:
        github_stars(["a/b", "c/d", "e/f"])
    assert caught.value.partial_results == {"items": [item("a/b", 5)], "count": 1}
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (500, b"oops", ServiceUnavailableError, "GitHub answered 500: oops"),
        (403, {"message": "blocked"}, RefusedError, "403 for a/b: blocked"),
        (200, b'{"stargazers_count": ', RefusedError, "malformed JSON"),
        (200, [], RefusedError, "a JSON list, not an object"),
        (200, {}, RefusedError, "no number stargazers_count"),
    ],
)
def test_what_github_may_answer(server: Server, status: int, body: object, error: type, words: str) -> None:
    server.answer(status, body)
    with pytest.raises(error, match=words):
        github_stars(["a/b"])


def test_unreachable_is_transient(server: Server, refusing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers.append(None)
    with pytest.raises(ConnectionError, match=r"no answer within 0\.1 s"):
        github_stars(["a/b"], timeout_seconds=0.1)
    monkeypatch.setenv("GITHUB_API_URL", refusing)
    with pytest.raises(ConnectionError, match="refused"):
        github_stars(["a/b"])
    with pytest.raises(ValueError, match="owner/name"):
        github_stars(["../user"])


def test_a_token_stays_with_its_origin(server: Server, other: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    server.answer(301, b"", Location=f"{other.url}/moved")
    other.answer(200, stars(1))
    assert github_stars(["a/b"])["total_stars"] == 1
    assert "Authorization" in server.requests[0][2]
    assert "Authorization" not in other.requests[0][2]


def test_each_recipient_gets_one_email(server: Server) -> None:
    server.answer(200, {"id": "1"})
    server.answer(422, {"message": "invalid to"})
    server.answer(200, {"id": "3"})
    done = resend_email("me@x.y", ["a@x.y", "bad", "c@x.y", "a@x.y"], "Hi", text="Hello")
    assert done["items"] == [{"recipient": "a@x.y", "id": "1"}, {"recipient": "c@x.y", "id": "3"}]
    assert (done["count"], done["emails_sent"]) == (2, 2)
    assert done["refused"] == [{"recipient": "bad", "error": "422: invalid to"}]
    assert {(method, path) for method, path, _, _ in server.requests} == {("POST", "/emails")}
    assert json.loads(server.requests[0][3]) == {"from": "me@x.y", "to": ["a@x.y"], "subject": "Hi", "text": "Hello"}
    assert server.requests[0][2]["Authorization"] == "Bearer re_key"


def test_a_retry_repeats_the_idempotency_keys(server: Server) -> None:
    server.answer(200, {"id": "1"})
    server.answer(500)
    server.answer(200, {"id": "2"})
    with pytest.raises(ConnectionError, match="Resend answered 500"):
        resend_email("me@x.y", ["a@x.y", "b@x.y"], "Hi", html="<p>")
    resend_email("me@x.y", ["a@x.y", "b@x.y"], "Hi", html="<p>")
    keys = [headers["Idempotency-Key"] for _, _, headers, _ in server.requests]
    assert keys[:2] == keys[2:]
    assert len(set(keys)) == 2


def test_a_rate_limit_midway_tells_what_was_sent(server: Server) -> None:
    server.answer(200, {"id": "1"})
    server.answer(429, {"message": "Too many requests"})
    with pytest.raises(RateLimitError, match="after 1 e-mails: Too many requests") as caught:
        resend_email("me@x.y", ["a@x.y", "b@x.y"], "Hi", text="Hello")
    sent = [{"recipient": "a@x.y", "id": "1"}]
    assert caught.value.partial_results == {"emails_sent": 1, "items": sent, "refused": []}


def test_email_needs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer(401, {"message": "bad key"})
    with pytest.raises(RefusedError, match=r"\(401\): bad key"):
        resend_email("me@x.y", ["a@x.y"], "Hi", text="Hello")
    with pytest.raises(ValueError, match="html, text or both"):
        resend_email("me@x.y", ["a@x.y"], "Hi")
    monkeypatch.delenv("RESEND_API_KEY")
    with pytest.raises(RuntimeError, match="RESEND_API_KEY is not set"):
        resend_email("me@x.y", ["a@x.y"], "Hi", text="Hello")


def test_check_takes_every_url(server: Server, other: Server, refusing: str) -> None:
    server.answer(200, b"fine")
    other.answers.append(None)
    urls = [server.url, refusing, other.url, "file:///etc/passwd", "http://[", "http://127.0.0.1:x/"]
    done = http_check(urls, timeout_seconds=0.2)
    assert [entry["url"] for entry in done["items"]] == urls
    assert [entry["up"] for entry in done["items"]] == [True] + [False] * 5
    assert (done["count"], done["up"], done["down"]) == (6, 1, 5)
    assert done["items"][0]["status"] == 200
    assert "no answer within 0.2 s" in done["items"][2]["error"]
    assert done["items"][2]["latency_seconds"] >= 0.2
    assert "not an http or https URL" in done["items"][3]["error"]


def test_check_of_a_broken_service(server: Server) -> None:
    server.answer(503)
    assert http_check([server.url])["items"][0] | {"latency_seconds": 0} == {
        "url": server.url, "up": False, "status": 503, "latency_seconds": 0, "error": None,
    }  # fmt: skip
    assert http_check([]) == {"items": [], "count": 0, "up": 0, "down": 0}
