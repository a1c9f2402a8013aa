"""Formats errors as one line, for people."""


def one_line(error: BaseException, most: int = 500) -> str:
    """Returns the type of the error and the first line of its message, with at most `most` characters."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}"[:most] if lines else type(error).__name__
