"""What became of a job, told on stdout and stderr: the same for whoever ran it and whoever attached to it."""

import sys
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from reasonchip_broker.cli.exits import Exit, Fault, code_of
from reasonchip_broker.cli.output import emit, emit_json, json_text, note, note_lines
from reasonchip_broker.cli.text import duration, printable_lines
from reasonchip_broker.errors import (
    BrokerWentAway,
    CookieNotFound,
    JobCancelled,
    JobFailed,
    OutcomeGone,
    PastAttempt,
    RequestRefused,
)
from reasonchip_broker.protocol.codes import Code


def tell_result(cookie: UUID, value: Any, *, as_json: bool) -> None:
    """Print a result: a text as it is, bytes as they are, anything else as JSON."""
    if as_json:
        emit_json({"cookie": cookie, "outcome": "OK", "result": value})
    elif isinstance(value, str):
        emit(printable_lines(value) if sys.stdout.isatty() else value)
    elif isinstance(value, bytes) and sys.stdout.isatty():
        note(f"the result is {len(value)} bytes: redirect stdout to a file to have them")
    elif isinstance(value, bytes):
        emit(value, end=False)
    elif sys.stdout.isatty():
        emit(msgspec.json.format(json_text(value).encode()).decode())
    else:
        emit(json_text(value))


def tell_failure(cookie: UUID, error: JobFailed | RequestRefused, *, as_json: bool) -> Exit:
    """Say how a job failed, or why there is none. Returns the exit code for that."""
    if as_json:
        emit_json(_facts(cookie, error))
    elif isinstance(error, JobFailed):
        _tell_failed(cookie, error)
    else:
        note(_refusal(cookie, error))
    return code_of(error)


def code_name(code: int) -> str:
    """A code's name; of one that a newer broker knows, its number."""
    try:
        return Code(code).name
    except ValueError:
        return str(int(code))


def unknown_job(cookie: UUID) -> str:
    """What is said of a cookie that the broker does not know, or not any more."""
    return f"the broker knows no job {cookie}: it was never there, it is somebody else's, or its retention has ended"


def request_refused(error: RequestRefused, sentence: str, *, as_json: bool, **about: Any) -> Exit:
    """Say that a request was refused: as JSON, with what it was `about`, or by a sentence, which is the Fault that is raised."""
    if not as_json:
        raise Fault(sentence, Exit.REFUSED) from error
    emit_json({**about, "refused": code_name(error.code), "message": str(error)})
    return Exit.REFUSED


def _facts(cookie: UUID, error: JobFailed | RequestRefused) -> dict[str, Any]:
    name, message = code_name(error.code), _message(error)
    if isinstance(error, JobFailed):
        return {
            "cookie": cookie,
            "outcome": name,
            "error": message,
            "type": error.error_type,
            "stack": error.stack,
            "may_have_run": error.may_have_run,
            "history": [attempt._asdict() for attempt in error.history],
        }
    facts = {"cookie": cookie, "refused": name, "error": message}
    if isinstance(error, OutcomeGone) and error.outcome is not None:
        facts["ended"] = code_name(error.outcome)
    return facts


def _tell_failed(cookie: UUID, error: JobFailed) -> None:
    verb = "the job was cancelled" if isinstance(error, JobCancelled) else "the job failed"
    kind = f"{error.error_type}: " if error.error_type else ""
    note(f"{verb} ({code_name(error.code)}): {kind}{_message(error)}")
    _tell_history(error.history)
    if error.stack:
        note_lines("\n".join(["stack trace of the worker:", *error.stack]))
    if isinstance(error, BrokerWentAway) and error.may_have_run:
        note(f"it may still run, and its outcome be had: reasonchip-broker attach {cookie}")


def _tell_history(history: Sequence[PastAttempt]) -> None:
    for each in history:
        worker = f" on {each.worker}" if each.worker else ""
        note(f"attempt {each.attempt}{worker}: {each.end} after {duration(each.ran_s)}")


def _refusal(cookie: UUID, error: RequestRefused) -> str:
    if isinstance(error, OutcomeGone) and error.outcome is not None:
        return (
            f"job {cookie} is over ({code_name(error.outcome)}), but its outcome is no longer kept: somebody has it, or its "
            "retention has ended"
        )
    if isinstance(error, OutcomeGone):
        return f"the outcome of job {cookie} is gone: {_message(error)}"
    if isinstance(error, CookieNotFound):
        return unknown_job(cookie)
    hint = f"; try again in {duration(error.retry_after_s)}" if error.retry_after_s else ""
    return f"the broker refused the job ({code_name(error.code)}): {_message(error)}{hint}"


def _message(error: Exception) -> str:
    return str(error.args[0]) if error.args else ""
