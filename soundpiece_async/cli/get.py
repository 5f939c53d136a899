"""``soundpiece get``: resumes an operation by its handle."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from soundpiece_async import Handle, SavedFile, Status
from soundpiece_async._core.json_types import JsonObject
from soundpiece_async._core.operations import AnyOperation
from soundpiece_async._core.redaction import redact_text
from soundpiece_async._core.requests import ROUTES, Output
from soundpiece_async.cli.arguments import DESTINATION, POSITIVE, ensure_writable
from soundpiece_async.cli.console import DONE, FAILED, UsageError, did_you_mean, format_size, print_result, print_status
from soundpiece_async.cli.results import files_to_json, format_saved
from soundpiece_async.cli.run import make_session


async def get(
    handle: str,
    /,
    *,
    timeout: Annotated[float | None, POSITIVE] = None,
    no_wait: bool = False,
    save_to: Annotated[str | Path | None, DESTINATION] = None,
    name: str | None = None,
    overwrite: Annotated[bool, Parameter(show_default=False)] = False,
    as_json: Annotated[bool, Parameter(name="--json", show_default=False)] = False,
) -> int:
    """Wait for an operation that was submitted earlier, print its status, and optionally save its files.

    Every command prints the handles of its operations, and every error about an operation contains its handle. Nothing
    is submitted or charged.

    Exit codes: 0 ready, or still processing with --no-wait; 1 failed, timed out, or not found; 2 usage error; 3 the key
    was rejected.

    Args:
        handle: ROUTE/ID, such as create.new_fx/op_01kd0000000000000000000004.
        timeout: seconds to wait (default: no limit).
        no_wait: ask once and do not wait.
        save_to: folder for the files, or a URL in an object store; without it no files are saved.
        name: name of the files, instead of the operation id.
        overwrite: replace existing files of that name.
        as_json: print one line of JSON instead.
    """
    target = parse_handle(handle)
    if target.route not in ROUTES:
        print_status(f"unknown route {target.route}{did_you_mean(target.route, ROUTES)}; asking the service anyway")
    if save_to is not None:
        await ensure_writable(save_to)
    async with make_session(None) as session:
        operation: AnyOperation = await (session.refresh(target) if no_wait else session.wait(target, timeout=timeout))
        files: Sequence[SavedFile] = ()
        if save_to is not None:
            files = await session.download(operation, save_to, name=name, overwrite=overwrite)
            print_status(f"{operation.handle} saved {format_size(sum(file.bytes for file in files))}")
    if as_json:
        print_result(json.dumps(operation_to_json(operation, files)), kept=format_saved(files))
    else:
        print_result(
            "\n".join(file.location for file in files) or "\n".join(format_operation(operation)),
            kept=format_saved(files),
        )
    return FAILED if operation.status is Status.FAILED else DONE


def parse_handle(text: str) -> Handle:
    """Parse a handle.

    Raises:
        UsageError: it is invalid.
    """
    try:
        return Handle.parse(text)
    except ValueError as error:
        raise UsageError(f"{error}, as create.new_fx/op_01kd0000000000000000000004") from error


def operation_to_json(operation: AnyOperation, files: Sequence[SavedFile]) -> JsonObject:
    """Return an operation as a JSON object, without signed URLs."""
    error = operation.error
    return {
        "route": operation.route,
        "id": operation.id,
        "status": operation.status,
        "created_at": operation.created_at and operation.created_at.isoformat(),
        "idempotency_key": operation.idempotency_key,
        "outputs": [{"kind": output.kind, "duration": output.duration} for output in operation.outputs],
        "error": error and {"code": error.code, "message": redact_text(error.message)},
        "files": files_to_json(files),
    }


def format_operation(operation: AnyOperation) -> list[str]:
    """Return an operation as text: one line for its status, and one for each output."""
    why = f": {redact_text(operation.error.message)}" if operation.error else ""
    return [f"{operation.handle} {operation.status}{why}", *(_format_output(output) for output in operation.outputs)]


def _format_output(output: Output) -> str:
    facts = (output.kind, f"{output.duration:.1f} s" if output.duration is not None else None)
    return f"output {output.index}: {', '.join(fact for fact in facts if fact) or 'unknown duration'}"
