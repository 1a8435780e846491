"""The one exception of the shim itself."""


class Unfit(Exception):
    """The attempt could never work as asked. `error_type` is one of the names of SPEC section 4."""

    def __init__(self, error_type: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.error_type = error_type
        self.hint = hint  # what would be right, shown below the message


def sample() -> None:
    """For the loader to rehearse with."""
