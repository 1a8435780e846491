"""Nothing to do."""


def run():
    """Nothing."""
