import os

import click
import pytest

from reasonchip_broker.cli.demo import survey as module
from reasonchip_broker.cli.demo.survey import evenly, standard_library, survey


def tree(root, *names, text="x = 1\n"):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_python_files_are_chosen_where_there_are_any(tmp_path):
    chosen = survey(tree(tmp_path, "a.py", "b/c.pyi", "b/README.md", "b/data.bin"))
    assert chosen.files == [b"a.py", b"b/c.pyi"]
    assert (chosen.kind, chosen.found, chosen.size, chosen.cut_short) == ("Python files", 2, 12, False)


def test_without_python_files_all_are_chosen(tmp_path):
    chosen = survey(tree(tmp_path, "b.txt", "a/c.md"))
    assert (chosen.files, chosen.kind) == ([b"a/c.md", b"b.txt"], "files")


def test_what_is_hidden_made_or_installed_is_left_out(tmp_path):
    names = ["a.py", ".git/b.py", "__pycache__/c.py", "lib/site-packages/d.py", "node_modules/e.py", ".hidden.py"]
    assert survey(tree(tmp_path, *names)).files == [b"a.py"]


def test_a_hidden_folder_that_is_asked_for_is_looked_into(tmp_path):
    assert survey(tree(tmp_path / "site-packages", "a.py")).files == [b"a.py"]


def test_a_single_file_is_a_tree_of_one(tmp_path):
    chosen = survey(tree(tmp_path, "a.py", "b.py") / "a.py")
    assert (chosen.root, chosen.files) == (tmp_path, [b"a.py"])


@pytest.mark.parametrize("name", ["none", "empty"])
def test_where_there_is_nothing_to_do_it_says_so(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(click.UsageError, match="name a folder with files in it"):
        survey(tmp_path / name)


def test_folders_that_can_not_be_read_are_counted(tmp_path, monkeypatch):
    tree(tmp_path, "a.py", "closed/b.py")
    scandir = os.scandir

    def guarded(path):
        if os.fsencode(path).endswith(b"closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    chosen = survey(tmp_path)
    assert (chosen.files, chosen.unreadable) == ([b"a.py"], 1)


def test_of_a_tree_that_is_too_large_a_fair_part_is_chosen(tmp_path):
    tree(tmp_path, *(f"{folder}/{number}.py" for folder in "abcd" for number in range(10)))
    by_number = survey(tmp_path, files_max=8)
    assert (len(by_number.files), by_number.found) == (8, 40)
    assert {path[:1] for path in by_number.files} == {b"a", b"b", b"c", b"d"}
    by_size = survey(tmp_path, bytes_max=12 * 6)
    assert (len(by_size.files), by_size.size) == (12, 72)


def test_looking_for_files_ends(tmp_path, monkeypatch):
    tree(tmp_path, *(f"{folder}/a.py" for folder in "abcdef"))
    monkeypatch.setattr(module, "LOOKED_AT_MAX", 2)
    chosen = survey(tmp_path)
    assert chosen.cut_short
    assert 2 < chosen.found < 6


def test_a_link_to_a_folder_is_not_followed_round_and_round(tmp_path):
    tree(tmp_path, "a/b.py")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert survey(tmp_path).files == [b"a/b.py"]


def test_names_that_are_no_text_are_taken(tmp_path):
    tree(tmp_path, "a.py")
    os.rename(tmp_path / "a.py", os.path.join(bytes(tmp_path), b"caf\xe9.py"))
    chosen = survey(tmp_path)
    assert chosen.files == [b"caf\xe9.py"]


def test_a_package_is_the_first_folder_in_which_paths_differ(tmp_path):
    chosen = survey(tree(tmp_path, "src/project/a/x.py", "src/project/b/c/y.py", "src/project/z.py"))
    assert [chosen.package_of(path) for path in chosen.files] == ["a", "b", "(top level)"]
    flat = survey(tree(tmp_path / "flat", "x.py"))
    assert flat.package_of(b"x.py") == "(top level)"


def test_the_standard_library_has_files_to_measure():
    assert len(survey(standard_library(), files_max=50).files) == 50


def test_evenly_is_all_of_few_and_a_spread_of_many():
    assert evenly([1, 2, 3], 5) == [1, 2, 3]
    assert evenly(list(range(100)), 4) == [0, 25, 50, 75]
    assert len(evenly(list(range(7)), 6)) == 6
