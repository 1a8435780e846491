"""Sends an e-mail to each of a list of recipients through the Resend API."""

import hashlib
import json
import os
from typing import Any

from _http import Answer, RateLimitError, RefusedError, raise_if_unavailable, request
from _reporting import emit, partial, progress, run_identity


def resend_email(
    sender: str,
    recipients: list[str],
    subject: str,
    html: str | None = None,
    text: str | None = None,
    timeout_seconds: float = 10.0,
) -> dict[str, object]:
    """Send one e-mail to each of `recipients`, who do not see each other.

    Needs the environment variable RESEND_API_KEY; uses RESEND_API_URL (default https://api.resend.com). Let both
    through with `PASS_ENV=RESEND_*`. At least one of `html` and `text` must be given.

    Returns `items` (`recipient`, `id`), `count`, `emails_sent`, and in `refused` (`recipient`, `error`) those whom
    the service did not accept. Each request has an idempotency key that is the same in all attempts of a run, so that
    a retry sends nobody a second e-mail. Raises `RateLimitError` and `RefusedError` with `partial_results`
    (`emails_sent`, `items`, `refused`), or `ServiceUnavailableError` (transient).
    """
    key = os.environ.get("RESEND_API_KEY")
    if not key:
        raise RuntimeError("RESEND_API_KEY is not set: set it for the executor and name it in PASS_ENV")
    if not html and not text:
        raise ValueError("give html, text or both: an e-mail needs a body")
    email = {"from": sender, "subject": subject, "html": html, "text": text}
    email = {name: value for name, value in email.items() if value}
    items: list[dict[str, str]] = []
    refused: list[dict[str, str]] = []
    recipients = list(dict.fromkeys(recipients))
    for done, recipient in enumerate(recipients, 1):
        answer = _send({**email, "to": [recipient]}, key, timeout_seconds)
        so_far = {"emails_sent": len(items), "items": items, "refused": refused}
        if answer.is_rate_limit():
            raise RateLimitError(f"rate limited by Resend after {len(items)} e-mails: {answer.message()}", so_far)
        if answer.status in (401, 403):
            raise RefusedError(f"Resend refuses the key or the sender ({answer.status}): {answer.message()}", so_far)
        if 200 <= answer.status < 300:
            items.append({"recipient": recipient, "id": str(answer.json_object("Resend", so_far).get("id", ""))})
        else:
            refused.append({"recipient": recipient, "error": f"{answer.status}: {answer.message()}"})
        partial({"emails_sent": len(items), "items": items, "refused": refused})
        emit("emails_sent", count=len(items))
        progress(done, len(recipients))
    if refused and not items:
        raise RefusedError(f"Resend accepted none of the e-mails, the first with {refused[0]['error']}")
    return {"items": items, "count": len(items), "emails_sent": len(items), "refused": refused}


def _send(email: dict[str, Any], key: str, timeout_seconds: float) -> Answer:
    identity = json.dumps([run_identity(), email], sort_keys=True).encode()
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": hashlib.sha256(identity).hexdigest()}
    base = os.environ.get("RESEND_API_URL") or "https://api.resend.com"
    url = f"{base.rstrip('/')}/emails"
    answer = request("POST", url, headers=headers, payload=email, timeout_seconds=timeout_seconds)
    raise_if_unavailable(answer, "Resend")
    return answer
