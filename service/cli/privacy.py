"""Implements the commands on personal data. They end like those of `pending`."""

from argparse import Namespace
from dataclasses import asdict

import orjson

from service.cli.operations import opened_operations, operator_of
from service.cli.output import CommandError, confirm, print_json, print_rows, warn
from service.operators.privacy import ErasureReport, ErasureRequest
from service.settings import Settings


async def privacy_erase(settings: Settings, options: Namespace) -> int:
    """Show what would be erased, ask, and erase it."""
    request = _request(options)
    async with opened_operations(settings) as operations:
        found = await operations.privacy.erase(operator_of(options), request, dry_run=True)
        if options.dry_run or not options.yes:
            _print(found, options)
        if options.dry_run:
            return 0
        confirm("Erase this, and whatever arrives of it again? It cannot be undone.", yes=options.yes)
        done = await operations.privacy.erase(operator_of(options), request, wait_seconds=options.wait, log=warn)
    _print(done, options)
    if done.blocked:
        first = done.blocked[0]
        raise CommandError(
            f"{len(done.blocked)} batches are not erased yet, the first is {first['batch_id']}: {first['why']};"
            " give the same command again"
        )
    return 0


async def privacy_export(settings: Settings, _: Namespace) -> int:
    """Print the tombstones with their keys, a JSON object a line."""
    async with opened_operations(settings) as operations:
        for row in await operations.privacy.export():
            print(orjson.dumps(row, option=orjson.OPT_UTC_Z).decode())
    return 0


def _request(options: Namespace) -> ErasureRequest:
    if options.user is not None:
        return ErasureRequest("user", name=options.user)
    if options.batch is not None:
        return ErasureRequest("batch", options.batch)
    if options.text is not None:
        return ErasureRequest("text", *options.text)
    if options.upload is not None:
        return ErasureRequest("upload", *options.upload)
    return ErasureRequest("file", name=options.file)


def _print(report: ErasureReport, options: Namespace) -> None:
    if options.json:
        if report.dry_run == options.dry_run:  # one document only, not that of the question
            print_json(asdict(report))
        return
    if report.matches:
        print_rows(report.matches, False)
    would = "would be erased" if report.dry_run else "erased"
    for each in report.batches:
        counts = each.get("rows") or {name: each[name] for name in ("texts", "uploads", "names")}
        what = "all" if each["whole"] else "a part"
        numbers = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count)
        print(f"batch {each['batch_id']}: {what} {would} ({numbers or 'no upload of it is stored'})")
    if report.dry_run:
        if report.rejected_inputs:
            print(f"rejected inputs that would be erased: {report.rejected_inputs}")
        elif not (report.matches or report.batches):
            print("nothing that is stored matches")
        return
    print(f"rejected inputs erased: {report.rejected_inputs}; operator actions: {report.operator_actions}")
    if report.unsearchable_inputs:
        warn(f"{report.unsearchable_inputs} rejected record batches cannot be searched: look at them, and discard them")
    print("It remains elsewhere:")
    for place in report.remaining:
        print(f"- {place}")
