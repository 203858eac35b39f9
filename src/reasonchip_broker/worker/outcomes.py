"""What became of a call, as the RESULT that says so.

These never fail: a value that can't be encoded, a result over the frame limit, an exception whose own text can't be had — each
is an outcome of its job, with a sentence, and of nothing else.
"""

import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from reasonchip_broker.errors import JobFailed, PipelineFailed
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import Code
from reasonchip_broker.protocol.frames import LENGTH_BYTES
from reasonchip_broker.worker.binding import InvalidVariables
from reasonchip_broker.worker.encoding import encoded

ERROR_CHARS_MAX = 16_384
"""What is told of an exception's text: a model's whole answer may be in it, and nobody reads more than this."""

STACK_LINES_MAX = 400
STACK_LINE_CHARS_MAX = 1_000
"""Of a stack trace: the first and the last lines, where it began and where it broke."""

_OWN_FOLDER = str(Path(__file__).parent)


def returned(cookie: bytes, attempt: int, value: Any, encoding: str, frame_bytes_max: int) -> bytes:
    """The RESULT of a handler that returned. `encoding` is that of the job's variables, `frame_bytes_max` the broker's
    limit."""
    try:
        payload, tag = encoded(value, encoding)
        frame = packets.result(cookie, attempt, payload, tag)
    except BaseException as error:
        # Encoding a value runs whatever its class has for that.
        return packets.failed(
            cookie,
            attempt,
            Code.EXCEPTION,
            _clean(f"the handler returned what can't be sent ({type(value).__name__}): {_text(error)}"),
            error_type=type(error).__name__,
        )
    length = len(frame) - LENGTH_BYTES
    if length > frame_bytes_max:
        sentence = f"the result makes a frame of {length} bytes, over the broker's limit of {frame_bytes_max}"
        return packets.failed(cookie, attempt, Code.TOO_LARGE, sentence)
    return frame


def raised(cookie: bytes, attempt: int, error: BaseException, frame_bytes_max: int) -> bytes:
    """The RESULT of a call that ended with an exception."""
    if isinstance(error, InvalidVariables):
        sentence = _clean(_text(error))
        return packets.failed(cookie, attempt, Code.EXCEPTION, sentence, error_type="InvalidVariables", may_have_run=False)
    if isinstance(error, PipelineFailed):
        # Its own words, which `str` would put a type and a remote stack trace around.
        code, sentence = Code.PROCESSOR_EXCEPTION, _clean(_first_argument(error))
        name = _clean(error.error_type) or (_name(error) if type(error) is not PipelineFailed else "")
    else:
        code, sentence, name = Code.EXCEPTION, _clean(_text(error)), _name(error)
    stack = list(error.stack) if isinstance(error, JobFailed) and error.stack and code != Code.EXCEPTION else _stack(error)
    frame = packets.failed(cookie, attempt, code, sentence, error_type=name, stack=stack)
    if len(frame) - LENGTH_BYTES > frame_bytes_max:
        # The limit may be as low as 4 KiB; four bytes a character at most.
        frame = packets.failed(cookie, attempt, code, sentence[: frame_bytes_max // 8], error_type=name[:100])
    return frame


def cancelled(cookie: bytes, attempt: int, sentence: str, *, may_have_run: bool = True) -> bytes:
    """The RESULT of a job that was cancelled."""
    return packets.failed(cookie, attempt, Code.CANCELLED, _clean(sentence), may_have_run=may_have_run)


def refused(cookie: bytes, attempt: int, sentence: str, error_type: str, code: Code = Code.EXCEPTION) -> bytes:
    """The RESULT of a job that this worker could not begin."""
    return packets.failed(cookie, attempt, code, _clean(sentence), error_type=error_type, may_have_run=False)


def died(cookie: bytes, attempt: int, sentence: str) -> bytes:
    """The RESULT of a job that took its process with it."""
    return packets.failed(cookie, attempt, Code.EXCEPTION, sentence, error_type="HandlerProcessDied")


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as broken:
        return f"(its text can't be had: {type(broken).__name__})"


def _first_argument(error: BaseException) -> str:
    try:
        return str(error.args[0]) if error.args else ""
    except BaseException as broken:
        return f"(its text can't be had: {type(broken).__name__})"


def _clean(text: str) -> str:
    """A text that can be encoded, and is short enough to be read."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= ERROR_CHARS_MAX else f"{text[:ERROR_CHARS_MAX]}… ({len(text)} characters)"


def _name(error: BaseException) -> str:
    # As `retry_on` says it. Without the module, which is another one for a worker that is run as a script; the stack trace has it.
    return _clean(type(error).__name__)


def _stack(error: BaseException) -> list[str] | None:
    """The stack trace as Python prints it, without the frames of this library that lead to the handler."""
    try:
        trace: TracebackType | None = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_FOLDER):
            trace = trace.tb_next
        text = "".join(traceback.format_exception(type(error), error, trace))
        lines = [line[:STACK_LINE_CHARS_MAX] for line in _clean_lines(text)]
    except Exception:
        return None
    if len(lines) > STACK_LINES_MAX:
        half = STACK_LINES_MAX // 2
        lines = [*lines[:half], f"  … {len(lines) - 2 * half} lines …", *lines[-half:]]
    return lines


def _clean_lines(text: str) -> list[str]:
    return text.encode("utf-8", "replace").decode("utf-8").splitlines()
