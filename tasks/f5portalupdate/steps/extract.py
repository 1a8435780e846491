"""Reads a customer's export, from a directory or over HTTP. Knows nothing of what is in it."""

from pathlib import Path

from ..errors import MalformedExportError, SourceError, SourceUnavailableError, UnknownCustomerError

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
HTTP_TIMEOUT_SECONDS = 30
MAX_EXPORT_BYTES = 256 * 1024 * 1024
HTTP_TOO_MANY_REQUESTS = 429


def extract(source: str, customer_id: int) -> str:
    """Return the text of `customer_{id}.csv` under `source`, a directory or an http(s) URL."""
    name = f"customer_{customer_id}.csv"
    if source.lower().startswith(("http://", "https://")):
        content = _fetch(source, name, customer_id)
    else:
        content = _read(Path(source), name, customer_id)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedExportError(f"{name} is not UTF-8: {error.reason} at byte {error.start}") from error


def _read(directory: Path, name: str, customer_id: int) -> bytes:
    if not directory.is_dir():
        raise SourceError(f"F5_SOURCE is neither a directory nor an http(s) URL: {directory}")
    try:
        return (directory / name).read_bytes()
    except FileNotFoundError:
        raise UnknownCustomerError(f"no export of customer {customer_id}: no {name} in {directory}") from None


def _fetch(source: str, name: str, customer_id: int) -> bytes:
    # Loaded here: the HTTP client costs more time than a whole run that reads from a directory.
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.parse import urlsplit
    from urllib.request import urlopen

    parts = urlsplit(source)
    if parts.username is not None or parts.password is not None:
        raise SourceError("F5_SOURCE must not hold a user or a password")
    # A query (a token, perhaps) goes with the request but into no message.
    url = parts._replace(path=f"{parts.path.rstrip('/')}/{name}", fragment="").geturl()
    shown = parts._replace(path=f"{parts.path.rstrip('/')}/{name}", query="", fragment="").geturl()
    try:
        with urlopen(url, timeout=HTTP_TIMEOUT_SECONDS) as response:
            content: bytes = response.read(MAX_EXPORT_BYTES + 1)
            announced = response.headers.get("Content-Length")
    except HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise UnknownCustomerError(f"no export of customer {customer_id}: {shown} answered {error.code}") from None
        if error.code >= 500 or error.code == HTTP_TOO_MANY_REQUESTS:
            raise SourceUnavailableError(f"{shown} answered {error.code} {error.reason}") from error
        raise SourceError(f"{shown} answered {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        # URLError, a timeout, a reset, a broken status line: all may pass by themselves.
        raise SourceUnavailableError(f"{shown} could not be read: {error or type(error).__name__}") from error
    if len(content) > MAX_EXPORT_BYTES:
        raise MalformedExportError(f"{shown} is larger than {MAX_EXPORT_BYTES} bytes")
    # A bounded read does not notice a connection that broke off; half an export would remove devices.
    if announced is not None and announced.isdigit() and len(content) < int(announced):
        raise SourceUnavailableError(f"{shown} broke off after {len(content)} of {announced} bytes")
    return content
