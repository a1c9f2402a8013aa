"""Prints the demo."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

WIDTH = 96


class Screen:
    """Prints the demo: at most `WIDTH` columns, and the same text without a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def heading(self, title: str) -> None:
        self.console.print()
        self.console.print(Rule(f"[bold]{title}", align="left", style="dim"), width=self._width)

    def say(self, text: str) -> None:
        """Prints an explanation."""
        self.show(Text(text))

    def sends(self, topic: str, what: str) -> None:
        self.show(Text.assemble(("→ ", "cyan"), what, (f"\n  to {topic}", "dim")))

    def note(self, text: str) -> None:
        self.show(Text(text, "dim"))

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        table = Table(
            box=box.SIMPLE_HEAD, show_edge=False, header_style="dim", border_style="dim", padding=(0, 1, 0, 0)
        )
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text("–" if value is None else str(value), _style(value)) for value in row))
        self.show(Group(Text(title, "bold"), table))

    def show(self, what: RenderableType) -> None:
        self.console.print()
        self.console.print(Padding(what, (0, 0, 0, 2), expand=False), width=self._width)

    @property
    def _width(self) -> int:
        return min(self.console.width, WIDTH)


_STYLES = {
    "ready": "green",
    "assigned": "green",
    "none": "green",
    "open": "yellow",
    "failed": "red",
    "CHANGED": "bold red",
}


def _style(value: object) -> str:
    return _STYLES.get(value, "") if isinstance(value, str) else ""
