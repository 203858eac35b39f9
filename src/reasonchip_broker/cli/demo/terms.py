"""Words: how names are taken apart, how findings are added up, and which words are characteristic of a package.

Characteristic is what TF-IDF says (K. Spärck Jones, "A statistical interpretation of term specificity and its application in
retrieval", 1972): frequent here, and in few files elsewhere.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from reasonchip_broker.cli.demo.findings import SUMMED, FileFindings, PackageFindings, TreeFindings

TERMS_OF_A_FILE = 150
TERMS_OF_A_PACKAGE = 1_000
WORD_CHARS_MIN = 3
WORD_CHARS_MAX = 24

# HTTPServer → http, server; snake_case → snake, case; naïve stays whole.
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+")
_WORDS = re.compile(r"[^\W\d_]+")
_TOO_COMMON = frozenset(
    ["self", "cls", "none", "true", "false", "the", "and", "for", "not", "with", "str", "int", "args", "kwargs"]
)


def words_of_names(names: Mapping[str, int]) -> Counter[str]:
    """The words that names are made of, given how often each name occurs."""
    words: Counter[str] = Counter()
    for name, count in names.items():
        for part in _PARTS.findall(name):
            if WORD_CHARS_MIN <= len(part) <= WORD_CHARS_MAX:
                words[part.lower()] += count
    return _without_common(words)


def words_of_text(text: str) -> Counter[str]:
    """The words of a text."""
    found = (word.lower() for word in _WORDS.findall(text))
    return _without_common(Counter(word for word in found if WORD_CHARS_MIN <= len(word) <= WORD_CHARS_MAX))


def commonest(words: Counter[str], most: int = TERMS_OF_A_FILE) -> dict[str, int]:
    """The `most` commonest words; of equally common ones the first in the alphabet, so that the same files give the same findings."""
    return dict(sorted(words.items(), key=lambda item: (-item[1], item[0]))[:most])


def add_files(package: str, files: Iterable[FileFindings]) -> PackageFindings:
    """The sum of files that were measured."""
    total = PackageFindings(package=package)
    terms: Counter[str] = Counter()
    documents: Counter[str] = Counter()
    for file in files:
        total.files += 1
        for name in SUMMED[1:]:
            setattr(total, name, getattr(total, name) + getattr(file, name))
        terms.update(file.terms)
        documents.update(file.terms.keys())
    total.terms = dict(terms)
    total.documents = dict(documents)
    return total


def add_packages(parts: Iterable[PackageFindings]) -> TreeFindings:
    """The sum of packages, and of parts of one package."""
    packages: dict[str, PackageFindings] = {}
    terms: dict[str, Counter[str]] = {}
    documents: Counter[str] = Counter()
    for part in parts:
        whole = packages.setdefault(part.package, PackageFindings(package=part.package))
        for name in SUMMED:
            setattr(whole, name, getattr(whole, name) + getattr(part, name))
        terms.setdefault(part.package, Counter()).update(part.terms)
        documents.update(part.documents)
    for name, whole in packages.items():
        whole.terms = commonest(terms[name], TERMS_OF_A_PACKAGE)
    return TreeFindings(
        files=sum(package.files for package in packages.values()),
        packages=list(packages.values()),
        documents={term: count for term, count in documents.items() if count > 1},
    )


def characteristic(terms: Mapping[str, int], documents: Mapping[str, int], files: int, most: int) -> list[str]:
    """The most characteristic of a package's terms, given in how many of how many files each occurs (1, if it is not named)."""
    total = sum(terms.values())
    weights = {term: count / total * math.log(files / documents.get(term, 1)) for term, count in terms.items()}
    ranked = sorted(weights.items(), key=lambda item: (-item[1], item[0]))
    return [term for term, weight in ranked[:most] if weight > 0]


def _without_common(words: Counter[str]) -> Counter[str]:
    for word in _TOO_COMMON:
        del words[word]
    return words
