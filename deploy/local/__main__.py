"""Runs the commands of the local stack for `make up`, `make demo`, `make down` and `make clean`."""

import argparse
import importlib
import os
import sys
from pathlib import Path

import psycopg
from rich.console import Console
from rich.markup import escape

from deploy.local.processes import StackError
from deploy.local.stack import Stack, console_address

CHECKOUT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Runs one command. Returns exit status 0, or 1 with the error on standard error."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description="Starts and stops the local stack.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start what does not run, wait until the service is ready, print its addresses")
    commands.add_parser("down", help="stop the service and its servers; PostgreSQL's data is kept")
    commands.add_parser("status", help="print what runs; exit status 0 if the service does")
    commands.add_parser("demo", help="run the demo; starts the stack if necessary")
    commands.add_parser("clean", help="stop the stack and delete its data")
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
        _print_addresses(stack, stack.up())
    elif command == "down":
        stack.down()
        stack.print_line("Data", "PostgreSQL's is kept (make clean deletes it); the broker's was in memory")
    elif command == "clean":
        stack.clean()
    else:
        running = stack.running()
        for name, runs in running.items():
            stack.print_line(name, "running" if runs else "not running")
        return 0 if running["Service"] else 1
    return 0


def _demo(stack: Stack) -> int:
    """Runs the demo with the settings of the running service; starts the stack first if the service does not run."""
    with stack.exclusively():
        if not stack.service.running():
            stack.up()
        settings = stack.settings()
    played: int = importlib.import_module("deploy.demo.demo").run(settings, stack.console)
    return played


def commands(stack: Stack, here: Path) -> dict[str, str]:
    """Returns the commands that are printed, as somebody in the folder `here` can type them into a shell."""
    environment, python = (os.path.relpath(path, here) for path in (stack.home / "env", sys.executable))
    found = {"Commands": f"(set -a; . {environment}; {python} -m service top --once)"}
    if "ELS_DATABASE_URL" not in stack.given:
        found["Views"] = f"{os.path.relpath(stack.home / 'psql', here)} -c 'table ops.health'"
    return found


def _how_to_log_in(settings: dict[str, str]) -> str:
    token = settings.get("ELS_ADMIN_TOKEN")
    return f"any name, token {token}" if token else "token: ELS_VIEWER_TOKEN"


def _print_addresses(stack: Stack, settings: dict[str, str]) -> None:
    here = Path.cwd()
    port = settings["ELS_HTTP_PORT"]
    lines = [
        ("Health", f"http://127.0.0.1:{port}/readyz  (also /healthz, /metrics)"),
        ("Console", f"{console_address(settings)}  ({_how_to_log_in(settings)})"),
        ("Log", os.path.relpath(stack.service.log, here)),
        *commands(stack, here).items(),
        ("Next", "make demo (a demonstration), make down (stops everything)"),
    ]
    stack.console.print()
    for name, text in lines:
        stack.print_line(name, text)


if __name__ == "__main__":
    sys.exit(main())
