"""Errors in one line, for people."""


def one_line(error: BaseException, most: int = 500) -> str:
    """An error in one line of at most so many characters, for people: its kind, and how its message begins."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}"[:most] if lines else type(error).__name__
