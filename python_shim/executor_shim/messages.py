"""Messages on the request socket: their bounds, and how one is read that is not of the usual form.

The usual one is read in place (`runner.attend`): a fork pays for each function that it enters.
"""

import os
import sys
from posix import getpid  # users may patch `os`

from . import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any

LONGEST_MESSAGE = 4096  # a longer request is in a memfd: a large buffer is memory that each run pays for
ANCILLARY = 64  # room for five descriptors and a header
MSG_TRUNC, MSG_CTRUNC, MSG_CMSG_CLOEXEC = 0x20, 0x08, 0x40000000
SOL_SOCKET, SCM_RIGHTS = 1, 1


class UnreadableError(Exception):
    """The request could not be read."""


def unusual(
    ctl: "socket", data: bytes, ancillary: "list[tuple[int, int, bytes]]", flags: int
) -> "tuple[bytes, list[int]] | None":
    """From this message on: the JSON text for this process, and its descriptors; `None`: the socket is closed.

    Those for others are dropped; that of kind `M` has its body in the last descriptor.
    """
    me = getpid()
    while True:
        if not data and not ancillary:
            return None
        descriptors: list[int] = []
        for level, kind, numbers in ancillary:
            if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
                descriptors += memoryview(numbers[: len(numbers) // 4 * 4]).cast("i").tolist()
        if data[:1] != b"R" and _addressee(data) in (me, None):
            break
        for descriptor in descriptors:
            os.close(descriptor)
        data, ancillary, flags, _ = ctl.recvmsg(LONGEST_MESSAGE, ANCILLARY, MSG_CMSG_CLOEXEC)
    what = data[:1]
    if flags & (MSG_TRUNC | MSG_CTRUNC) or len(descriptors) != {b"[": 4, b"M": 5}.get(what):
        raise UnreadableError(f"kind {what!r}, {len(data)} bytes, {len(descriptors)} descriptors, flags {flags}")
    if what == b"M":
        memory = descriptors.pop()
        data = _whole(memory)
        os.close(memory)
    return data, descriptors


def decoded(body: bytes) -> "list[Any]":
    """The request in a JSON text. Raises `ValueError`."""
    text = body.decode()
    try:
        return values.decode(text)  # type: ignore[no-any-return]
    except ValueError:
        sys.set_int_max_str_digits(0)  # an integer of more than 4300 digits is a valid parameter
        return values.decode(text)  # type: ignore[no-any-return]


def _addressee(data: bytes) -> "int | None":
    """The process that a message is for; `None` if it does not say."""
    if data[:1] == b"[":
        number = data[1:].partition(b",")[0]
        return int(number) if number.isdigit() else None
    return int.from_bytes(data[1:5], "little") if len(data) >= 5 else None


def _whole(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    parts, offset = [], 0
    while offset < size:
        part = os.pread(descriptor, size - offset, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
    return b"".join(parts)
