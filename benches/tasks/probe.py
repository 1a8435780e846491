"""The one job body that every system under test runs: it appends one record to a file.

A record is two little-endian doubles: the time its producer stamped, and the time the body began.
"""

import os
import struct
import time

RECORD = struct.Struct("<dd")


def record(path, sent):
    """Append when this began."""
    began = time.time()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, RECORD.pack(sent, began))
    finally:
        os.close(descriptor)
    return 1
