"""Defines the options of the commands that show the state of the service."""

from service.cli.arguments import (
    Commands,
    add,
    interval,
    notice,
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
        "--once", action="store_true", help="show it once and end; exit status 1 if something needs an action"
    )
    top.add_argument("--svg", metavar="FILE", help="with --once: also write the screen to an SVG file")
    health = with_json(
        add(
            commands,
            "cli.health.health_show",
            "health",
            "show what needs an action, and notices to be seen; exit status 1 if something needs an action",
        )
    )
    acknowledge = add(
        health.add_subparsers(metavar="COMMAND"),
        "cli.health.health_acknowledge",
        "acknowledge",
        "mark notices as seen; only what happens later shows again",
    )
    acknowledge.add_argument(
        "what",
        type=notice,
        metavar="KIND|ID",
        nargs="*",
        help="only notices of this kind, as `health` shows it, or this loss in ops.lost_inputs (default: all). The "
        "kind clocks also lets a purge go on that is held",
    )
    acknowledge.add_argument("--dry-run", action="store_true", help="only show what would be marked; change nothing")
    with_operator(acknowledge)
