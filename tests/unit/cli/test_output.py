from uuid import UUID

from reasonchip_broker.cli import output


def test_what_was_asked_for_goes_to_stdout_and_the_rest_to_stderr(capsys):
    output.emit("data")
    output.note("by the way")
    assert capsys.readouterr() == ("data\n", "by the way\n")


def test_json_is_one_line(capsys):
    output.emit_json({"cookie": UUID(int=1), "text": "a\nb\x1b"})
    assert capsys.readouterr().out == '{"cookie":"00000000-0000-0000-0000-000000000001","text":"a\\nb\\u001b"}\n'


def test_a_note_is_one_clean_line(capsys):
    output.note("a\nb\x1b[2J")
    assert capsys.readouterr().err == "a\\nb\\x1b[2J\n"


def test_lines_stay_lines(capsys):
    output.note_lines("Traceback:\n  at x\n\x1b[2J")
    assert capsys.readouterr().err == "Traceback:\n  at x\n\\x1b[2J\n"
