"""The numbers on the wire. They are frozen: a number that changes here cuts off every peer that was built before."""

from reasonchip_broker.errors import FAILURES_BY_CODE, REFUSALS_BY_CODE
from reasonchip_broker.protocol.codes import (
    NO_COOKIE,
    OUTCOMES,
    REFUSALS,
    CloseReason,
    Code,
    JobState,
    PacketType,
    Waiting,
)

PACKET_TYPES = {
    "HELLO": 1,
    "WELCOME": 2,
    "PING": 3,
    "PONG": 4,
    "GOODBYE": 5,
    "REPLY": 6,
    "REGISTER": 16,
    "RUN": 17,
    "RESULT": 18,
    "CANCEL": 19,
    "ACK": 20,
    "PROGRESS": 21,
    "INPUT": 22,
    "CREDIT": 23,
    "ATTACH": 24,
    "STATUS": 25,
    "PARK": 26,
    "RESUME": 27,
    "EXTEND": 28,
    "DRAIN": 29,
    "QUEUE": 30,
}
OUTCOME_NUMBERS = {
    "OK": 0,
    "PROCESSOR_EXCEPTION": 1,
    "EXCEPTION": 2,
    "CANCELLED": 3,
    "DEADLINE_EXCEEDED": 4,
    "QUEUE_TIMEOUT": 5,
    "WORKER_WENT_AWAY": 6,
    "BROKER_WENT_AWAY": 7,
    "DEAD_LETTERED": 8,
    "TOO_LARGE": 9,
}
REFUSAL_NUMBERS = {
    "BAD_PACKET": 32,
    "UNSUPPORTED_PACKET_TYPE": 33,
    "NO_CAPACITY": 34,
    "COOKIE_NOT_FOUND": 35,
    "COOKIE_COLLISION": 36,
    "OVERLOADED": 37,
    "NOT_ALLOWED": 38,
    "DRAINING": 39,
    "NOT_SERVED": 40,
    "OUTCOME_GONE": 41,
    "WORKER_NOT_FOUND": 42,
}
ANSWER_NUMBERS = {"QUEUED": 64, "DISPATCHED": 65, "CANCELLING": 66, "GAP": 67, "SCHEDULED": 68}
CLOSE_NUMBERS = {
    "NORMAL": 128,
    "PROTOCOL_ERROR": 129,
    "UNSUPPORTED_VERSION": 130,
    "HANDSHAKE_TIMEOUT": 131,
    "HEARTBEAT_TIMEOUT": 132,
    "SLOW_CONSUMER": 133,
    "REPLACED": 134,
    "LIMIT": 135,
    "SHUTTING_DOWN": 136,
    "FRAME_TOO_LARGE": 137,
    "NOT_AUTHENTICATED": 138,
    "INTERNAL_ERROR": 139,
    "PEER_CLOSED": 192,
    "CONNECTION_LOST": 193,
    "TLS_FAILED": 194,
}
STATES = {"admitting", "scheduled", "queued", "running", "parked", "cancelling", "suspended", "backoff", "over"}
REASONS_TO_WAIT = {
    "not_admitted",
    "not_due",
    "not_served",
    "no_free_slot",
    "limit_reached",
    "preferred_worker_busy",
    "workers_draining",
    "worker_disconnected",
    "between_attempts",
    "stale_attempt",
    "slot_lent_out",
}


def test_packet_types_have_the_numbers_that_they_had() -> None:
    assert {kind.name: kind.value for kind in PacketType} == PACKET_TYPES


def test_codes_have_the_numbers_that_they_had() -> None:
    assert {code.name: code.value for code in Code} == OUTCOME_NUMBERS | REFUSAL_NUMBERS | ANSWER_NUMBERS


def test_close_reasons_have_the_numbers_that_they_had() -> None:
    assert {reason.name: reason.value for reason in CloseReason} == CLOSE_NUMBERS


def test_states_and_reasons_to_wait_have_the_words_that_they_had() -> None:
    assert {str(state) for state in JobState} == STATES
    assert {str(reason) for reason in Waiting} == REASONS_TO_WAIT
    assert all(word.name.lower() == word for word in (*JobState, *Waiting))


def test_a_number_means_one_thing_whatever_packet_carries_it() -> None:
    numbers = [*Code, *CloseReason]
    assert len({int(number) for number in numbers}) == len(numbers)
    assert all(0 <= number <= 255 for number in (*numbers, *PacketType))


def test_the_families_are_those_that_the_numbers_say() -> None:
    assert {code.name for code in OUTCOMES} == set(OUTCOME_NUMBERS)
    assert {code.name for code in REFUSALS} == set(REFUSAL_NUMBERS)


def test_each_failure_and_each_refusal_has_an_exception_of_its_own() -> None:
    assert set(FAILURES_BY_CODE) == OUTCOMES - {Code.OK}
    assert set(REFUSALS_BY_CODE) == REFUSALS


def test_no_cookie_is_sixteen_zeros() -> None:
    assert bytes(16) == NO_COOKIE
