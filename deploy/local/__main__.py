"""The command line of the local stack; `make up`, `make demo` and `make down` call it."""

import argparse
import importlib
import os
import sys
from pathlib import Path

import psycopg
from rich.console import Console
from rich.markup import escape

from deploy.local.processes import StackError
from deploy.local.stack import Stack

CHECKOUT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Do one command. 0 where it did what it says, 1 with a line about what was in the way."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description="The local stack.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start what is missing, wait until the service is ready, say where it is")
    commands.add_parser("down", help="stop all of it; the data stays")
    commands.add_parser("status", help="what runs; exit status 0 where the service does")
    commands.add_parser("demo", help="play the race on the running stack")
    commands.add_parser("clean", help="stop all of it and throw the data away")
    command: str = parser.parse_args().command
    console = Console()
    stack = Stack(CHECKOUT, os.environ, console)
    try:
        if command == "demo":
            return _demo(stack)
        with stack.exclusively():
            return _do(command, stack)
    except (StackError, OSError, psycopg.Error) as error:
        Console(stderr=True).print(f"[bold red]✗[/bold red] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130


def _do(command: str, stack: Stack) -> int:
    if command == "up":
        _say_where(stack, stack.up())
    elif command == "down":
        stack.down()
    elif command == "clean":
        stack.clean()
    else:
        running = stack.running()
        for name, runs in running.items():
            stack.console.print(f"  [bold]{name:<11}[/bold] {'runs' if runs else 'does not run'}")
        return 0 if running["Service"] else 1
    return 0


def _demo(stack: Stack) -> int:
    """The demo's own module plays it, with the settings of the running service."""
    with stack.exclusively():
        if not stack.service.running():
            stack.up()
        settings = stack.settings()
    played: int = importlib.import_module("deploy.demo.demo").run(settings, stack.console)
    return played


def _say_where(stack: Stack, settings: dict[str, str]) -> None:
    here = Path.cwd()
    port = settings["ELS_HTTP_PORT"]
    psql = stack.home / "psql"
    lines = [
        ("Health", f"http://127.0.0.1:{port}/healthz  /readyz  /metrics"),
        ("Log", os.path.relpath(stack.service.log, here)),
        (
            "Settings",
            f"{os.path.relpath(stack.home / 'env', here)}  (set -a; . .local/env; python -m service …)",
        ),
        ("Next", "make demo, make down"),
    ]
    if "ELS_DATABASE_URL" not in stack.given:
        lines.insert(1, ("Operators", f"{os.path.relpath(psql, here)} -c 'table ops.health'"))
    stack.console.print()
    for name, text in lines:
        stack.console.print(f"  [bold]{name:<11}[/bold] {escape(text)}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
