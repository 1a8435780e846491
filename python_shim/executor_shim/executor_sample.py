"""What a slot runs to rehearse a run (`runner.rehearse`). Not for users."""


def run(x: int) -> "dict[str, int]":
    """A callable like any other."""
    return {"x": x}
