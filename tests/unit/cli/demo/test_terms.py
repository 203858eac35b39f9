from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from reasonchip_broker.cli.demo.findings import FileFindings
from reasonchip_broker.cli.demo.terms import (
    TERMS_OF_A_PACKAGE,
    add_files,
    add_packages,
    characteristic,
    commonest,
    words_of_names,
    words_of_text,
)

WORDS = st.sampled_from(["socket", "parse", "loop", "token", "tree"])
FILES = st.lists(
    st.builds(
        FileFindings,
        path=st.binary(min_size=1, max_size=4),
        lines=st.integers(0, 99),
        code=st.integers(0, 99),
        terms=st.dictionaries(WORDS, st.integers(1, 9)),
    ),
    max_size=12,
)


def test_names_are_taken_apart_at_case_and_underscores():
    words = words_of_names({"HTTPServer": 1, "snake_case_name": 2, "XMLHttpRequest": 1, "naïveCafé": 3, "x1": 9, "__init__": 1})
    assert words == {
        "http": 2,
        "server": 1,
        "snake": 2,
        "case": 2,
        "name": 2,
        "xml": 1,
        "request": 1,
        "naïve": 3,
        "café": 3,
        "init": 1,
    }


def test_words_of_text_are_neither_too_short_nor_too_long_nor_too_common():
    assert words_of_text("The self of a b " + "x" * 30 + " parser, parser!") == {"parser": 2}


def test_of_equally_common_terms_the_alphabet_decides():
    assert commonest(Counter({"b": 1, "a": 1, "c": 2}), 2) == {"c": 2, "a": 1}


@given(FILES, st.integers(0, 12))
def test_merging_in_parts_gives_what_merging_at_once_gives(files, cut):
    at_once = add_packages([add_files("p", files)])
    in_parts = add_packages([add_files("p", files[:cut]), add_files("p", files[cut:])])
    assert in_parts == at_once
    assert at_once.files == len(files)
    assert at_once.packages[0].lines == sum(file.lines for file in files)


def test_packages_are_kept_apart_and_documents_counted_over_all():
    one = add_files("one", [FileFindings(path=b"a", terms={"socket": 5}), FileFindings(path=b"b", terms={"socket": 1})])
    two = add_files("two", [FileFindings(path=b"c", terms={"socket": 1, "tree": 1})])
    tree = add_packages([one, two])
    assert [package.package for package in tree.packages] == ["one", "two"]
    assert tree.packages[0].terms == {"socket": 6}
    assert tree.documents == {"socket": 3}


def test_a_package_keeps_its_commonest_terms_only():
    many = {f"term{number:05d}": 1 for number in range(TERMS_OF_A_PACKAGE + 10)}
    tree = add_packages([add_files("p", [FileFindings(path=b"a", terms=many | {"often": 2})])])
    assert len(tree.packages[0].terms) == TERMS_OF_A_PACKAGE
    assert "often" in tree.packages[0].terms


def test_characteristic_is_what_is_frequent_here_and_rare_elsewhere():
    terms = {"value": 50, "socket": 20, "onlyhere": 5}
    documents = {"value": 100, "socket": 4}
    assert characteristic(terms, documents, 100, 3) == ["socket", "onlyhere"]
    assert characteristic(terms, documents, 100, 1) == ["socket"]
    assert characteristic({}, {}, 0, 3) == []
