"""Defines the options of the commands that show the state of the service."""

from service.cli.arguments import (
    Commands,
    add,
    group,
    interval,
    row_id,
    with_json,
    with_operator,
)


def add_health(commands: Commands) -> None:
    """Add the commands that show the state of the service, and mark notices as seen."""
    top = with_json(
        add(commands, "cli.top.top", "top", "show the state of the whole service and keep it up to date; q ends it")
    )
    top.add_argument(
        "--interval", type=interval, default=2, metavar="SECONDS", help="time between two updates (default 2)"
    )
    top.add_argument(
        "--once", action="store_true", help="show it once and end; exit status 1 if something needs attention"
    )
    top.add_argument("--svg", metavar="FILE", help="with --once: also write the screen to an SVG file")
    health = group(commands, "health", "mark notices of ops.health as seen")
    acknowledge = add(
        health,
        "cli.health.health_acknowledge",
        "acknowledge",
        "mark as seen: lost inputs, and clocks that hold the purge",
    )
    acknowledge.add_argument("ids", type=row_id, metavar="ID", nargs="*", help="only these lost inputs (default: all)")
    with_operator(acknowledge)
