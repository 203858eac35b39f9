import os
from pathlib import Path

import pytest

from reasonchip_broker.cli.demo import measure as module
from reasonchip_broker.cli.demo.measure import measure

SOURCE = '''"""A module.

Of two paragraphs."""

import os  # a comment beside code


# a comment of its own
class HTTPServer:
    """One line."""

    def handle_request(self, request_body):
        text = """not
        a docstring"""
        return os.sep + request_body + text
'''


def measured(tmp_path, name, data):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return measure(bytes(tmp_path), os.fsencode(name))


def test_lines_of_code_comments_and_nothing_are_told_apart(tmp_path):
    found = measured(tmp_path, "server.py", SOURCE)
    assert (found.lines, found.code, found.comment, found.blank) == (15, 6, 5, 4)
    assert (found.functions, found.classes) == (1, 1)
    assert found.size == len(SOURCE)
    assert found.skipped == found.note == ""


def test_names_are_taken_apart_into_terms_without_the_words_of_the_language(tmp_path):
    terms = measured(tmp_path, "server.py", SOURCE).terms
    assert terms["request"] == 3
    assert terms["body"] == 2
    assert terms["http"] == terms["server"] == 1
    assert not {"class", "def", "return", "self", "import"} & terms.keys()


def test_the_same_file_gives_the_same_findings(tmp_path):
    assert measured(tmp_path, "a.py", SOURCE) == measured(tmp_path, "a.py", SOURCE)


def test_a_file_without_a_line_end_at_its_end_has_as_many_lines(tmp_path):
    assert measured(tmp_path, "a.py", "x = 1\ny = 2").lines == 2
    assert measured(tmp_path, "a.py", "x = 1\ny = 2\n").lines == 2


def test_text_that_is_no_python_is_counted_by_words(tmp_path):
    found = measured(tmp_path, "notes.txt", "The naïve café\n\ncafé again\n")
    assert (found.lines, found.code, found.blank, found.tokens) == (3, 2, 1, 4)
    assert found.terms == {"café": 2, "again": 1, "naïve": 1}


def test_python_that_does_not_tokenise_is_counted_by_words(tmp_path):
    for text in ('x = """never closed', "def f(:\n  (", "if x:\n\ty\n        z\n    q\n"):
        found = measured(tmp_path, "broken.py", text)
        assert found.skipped == ""
        assert found.lines > 0
        assert not found.functions


def test_a_declared_encoding_is_honoured_and_a_wrong_one_told(tmp_path):
    assert measured(tmp_path, "a.py", "# coding: latin-1\nnaïve = 1\n".encode("latin-1")).terms == {"naïve": 1}
    assert "does not tokenise" in measured(tmp_path, "b.py", "# coding: klingon\nx = 1\n").note


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x7fELF\x00\x02", "binary"),
        (b"caf\xe9 = 1\n", "not text in its encoding"),
        (b"# coding: utf-8\n\xff\xfe", "not text in its encoding"),
    ],
)
def test_what_is_no_text_is_skipped_with_the_reason(tmp_path, data, reason):
    found = measured(tmp_path, "odd.py", data)
    assert found.skipped == reason
    assert found.lines == 0
    assert found.size == len(data)


def test_an_empty_file_is_measured_as_that(tmp_path):
    found = measured(tmp_path, "empty.py", b"")
    assert (found.skipped, found.note, found.lines) == ("", "empty", 0)


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FILE_BYTES_MAX", 1024 * 1024)
    path = tmp_path / "huge.py"
    path.touch()
    os.truncate(path, 1024 * 1024 + 1)
    assert measure(bytes(tmp_path), b"huge.py").skipped == "larger than 1 MiB"


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.py")
    os.symlink(tmp_path / "gone", tmp_path / "dangling.py")
    (tmp_path / "folder.py").mkdir()
    assert measure(bytes(tmp_path), b"pipe.py").skipped == "not a regular file"
    assert measure(bytes(tmp_path), b"folder.py").skipped == "not a regular file"
    assert measure(bytes(tmp_path), b"dangling.py").skipped == "no such file or directory"


def test_a_name_that_is_no_text_is_a_name_all_the_same(tmp_path):
    name = b"caf\xe9.py"
    with open(os.path.join(bytes(tmp_path), name), "w") as file:
        file.write("x = 1\n")
    assert measure(bytes(tmp_path), name).lines == 1


def test_files_that_claim_to_be_empty_are_not_read_since_some_never_end(tmp_path, monkeypatch):
    (tmp_path / "endless").touch()
    monkeypatch.setattr(Path, "open", None)
    assert measure(bytes(tmp_path), b"endless").note == "empty"
