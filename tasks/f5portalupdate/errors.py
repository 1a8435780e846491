"""What can go wrong, each with a sentence for the reader of the failed job.

Those that derive from `ConnectionError` or `TimeoutError` pass by themselves: `retry_on: transient` retries them.
"""


class UnknownCustomerError(FileNotFoundError):
    """The source holds no export for this customer."""


class SourceError(ValueError):
    """`F5_SOURCE` is no directory and no usable URL, or its server refuses us for good."""


class MalformedExportError(ValueError):
    """The export as a whole cannot be used: its encoding, its header, or not one valid row."""


class SourceUnavailableError(ConnectionError):
    """The server of the exports does not answer, answers with an error of its own, or breaks off."""


class PortalBusyError(TimeoutError):
    """Another writer held the portal's database for too long."""
