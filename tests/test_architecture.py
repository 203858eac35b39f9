"""What the design says about the shape of the code, checked by reading the code.

Each rule is a test, and each failure names the file, the line and what to do. All but the check of the exports only parse: the whole
file runs in about a second, so that it can run before every commit. import-linter follows chains of imports (its contracts are in
pyproject.toml); here every single import is held to its room's exact row of the table.
"""

import ast
import importlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
PACKAGE = "reasonchip_broker"

# ── The rules, as data ───────────────────────────────────────────────────────────────────────────────────────────────────

# Who may import whom. A row names rooms, or single modules of a room. When gateway, journal, cluster or security are built they get
# a row: ports, protocol, limits, errors, and what they serve; never cli.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "limits": set(),
    "scheduling": {"limits"},
    "protocol": {"limits", "errors"},
    "ports": {"protocol", "errors"},
    "routing": {"protocol", "scheduling", "limits", "errors"},
    "switchboard": {"routing", "ports", "protocol", "scheduling", "limits", "errors"},
    "transports": {"protocol", "limits", "errors"},
    "steps": {"switchboard", "transports.server_transport", "protocol"},
    "broker": {"steps", "switchboard", "transports.server_transport", "ports", "protocol", "scheduling", "limits", "errors"},
    "peer": {"protocol", "limits", "errors"},
    "client": {"peer", "transports", "protocol", "limits", "errors"},
    "worker": {"peer", "transports", "protocol", "limits", "errors"},
}
PRODUCT = {*MAY_IMPORT}
MAY_IMPORT["testing"] = PRODUCT | {""}
MAY_IMPORT["cli"] = PRODUCT | {"", "testing"}
MAY_IMPORT[""] = {"broker"}  # the package itself, which exports Broker
MAY_IMPORT["__main__"] = {"cli"}

# The core takes bytes, packets and the present time, so that a seed replays any of its runs.
PURE_ROOMS = {"protocol", "routing", "switchboard"}
IMPURE_MODULES = {"asyncio", "random", "socket", "time"}

# What a peer sent is answered, never asserted.
ROOMS_WITHOUT_ASSERT = {"protocol", "transports"}

FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 500

# Modules without a test file of their own, and what tests them instead.
TESTED_ELSEWHERE = {
    "__init__": "test_every_export_exists, below",
    "__main__": "one line; the process tests run it",
}

MADE_BY_MAKE = {"__pycache__", "build", "dist", "site"}
REGISTRY_HOST = re.compile(r"pypi\.org|pythonhosted\.org")
MACHINE_PATH = re.compile(r"(?<![\w.$}-])/(?:work|root|home/\w+|Users/\w+)/")
PIN_OR_HASH = re.compile(r"[a-z0-9-]+==[\w.+!]+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")

# ── Reading the code ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Module:
    """One source file, parsed."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The room that the module is in or is; empty for the package's own `__init__`."""
        top = self.path.relative_to(SRC / PACKAGE).parts[0].removesuffix(".py")
        return "" if top == "__init__" else top

    def at(self, node: ast.stmt | ast.expr) -> str:
        """Where the node is, as an editor can follow it."""
        return f"{self.path.relative_to(ROOT)}:{node.lineno}"

    def imports(self) -> Iterator[tuple[str, str]]:
        """Each import, in functions and under TYPE_CHECKING too: where it stands, and the dotted name of the module it loads."""
        package = ".".join(self.path.relative_to(SRC).parent.parts)
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((self.at(node), alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
                for name in (f"{base}.{alias.name}" for alias in node.names):
                    yield self.at(node), name if is_module(name) else base


def is_module(dotted: str) -> bool:
    """Whether the dotted name is a module or package of this project, rather than a name in one."""
    path = SRC / dotted.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def parse(*folders: str) -> list[Module]:
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return [Module(path, text, ast.parse(text)) for path in paths for text in [path.read_text("utf-8")]]


@cache
def product() -> list[Module]:
    return parse("src")


@cache
def all_code() -> list[Module]:
    return product() + parse("tests", "benchmarks", "fuzz", "examples")


@pytest.fixture(scope="module", autouse=True)
def _the_trees_are_let_go() -> Iterator[None]:
    """Millions of nodes, that Python's collector would look through again and again while all other tests run."""
    yield
    product.cache_clear()
    all_code.cache_clear()


def repository_files() -> Iterator[Path]:
    """Every file that is or would be committed, found without git, which a machine that only tests need not have."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in MADE_BY_MAKE and (name == ".ci" or not name.startswith("."))]
        # In a worktree of git's `.git` is a file, which names the place of the repository.
        yield from (Path(folder, name) for name in names if name != ".git" and not name.startswith(".coverage"))


def public(module: Module) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """The classes and functions that the module offers by a name without an underscore."""
    for node in module.tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node


def require_none(violations: Iterable[str], rule: str) -> None:
    """Fail with the rule and every place that breaks it."""
    found = list(violations)
    if found:
        pytest.fail("\n    ".join([rule, *found]), pytrace=False)


# ── Who may import whom ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_room_has_a_row_in_the_import_table() -> None:
    rooms = {module.room for module in product()}
    require_none(sorted(rooms - MAY_IMPORT.keys()), "A new room states what it may import, in MAY_IMPORT:")


def test_rooms_import_only_what_the_table_allows() -> None:
    def allowed(room: str, name: str) -> bool:
        target = name.removeprefix(PACKAGE).removeprefix(".")
        rows = MAY_IMPORT.get(room, set()) | {room}
        return target in rows or any(target.startswith(f"{row}.") for row in rows if row)

    require_none(
        (
            f"{where}: {module.room or PACKAGE} imports {name}"
            for module in product()
            for where, name in module.imports()
            if name.split(".")[0] == PACKAGE and not allowed(module.room, name)
        ),
        "The table in MAY_IMPORT does not allow:",
    )


def test_the_core_imports_no_network_clock_or_chance() -> None:
    require_none(
        (
            f"{where}: imports {name}"
            for module in product()
            if module.room in PURE_ROOMS
            for where, name in module.imports()
            if name.split(".")[0] in IMPURE_MODULES
        ),
        "The core performs no I/O and is told the time; the broker does the rest:",
    )


# ── The shape of files and functions ─────────────────────────────────────────────────────────────────────────────────────


def test_functions_are_short() -> None:
    def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
        """From `def` to the end, the docstring not counted."""
        first = node.body[0]
        docstring = (first.end_lineno or first.lineno) - first.lineno + 1 if ast.get_docstring(node) else 0
        return (node.end_lineno or node.lineno) - node.lineno + 1 - docstring

    require_none(
        (
            f"{module.at(node)}: {node.name} has {lines(node)} lines"
            for module in all_code()
            for node in ast.walk(module.tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines(node) > FUNCTION_LINES_MAX
        ),
        f"A function over {FUNCTION_LINES_MAX} lines does more than one thing; give the parts names:",
    )


def test_files_are_short() -> None:
    require_none(
        (
            f"{module.path.relative_to(ROOT)}: {count} lines"
            for module in all_code()
            if (count := module.text.count("\n")) > FILE_LINES_MAX
        ),
        f"A file over {FILE_LINES_MAX} lines holds more than one idea; give each a file:",
    )


def test_public_names_have_docstrings() -> None:
    def bare(module: Module) -> Iterator[str]:
        if module.text.strip() and not ast.get_docstring(module.tree):
            yield f"{module.path.relative_to(ROOT)}:1: the module itself"
        yield from (f"{module.at(node)}: {node.name}" for node in public(module) if not ast.get_docstring(node))

    require_none(
        (line for module in product() for line in bare(module)), "Say what it does and what it raises, in a docstring:"
    )


def test_nothing_is_asserted_about_what_a_peer_sent() -> None:
    require_none(
        (
            module.at(node)
            for module in product()
            if module.room in ROOMS_WITHOUT_ASSERT
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Assert)
        ),
        "A peer's error gets a code and an answer. Raise one of errors.py instead of asserting:",
    )


def test_only_the_command_line_prints() -> None:
    require_none(
        (
            module.at(node)
            for module in product()
            if module.room != "cli"
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        ),
        "stdout belongs to the command line; log it instead:",
    )


# ── Nothing without its test, its export, its entry, its place ───────────────────────────────────────────────────────────


def test_every_module_has_a_test_file() -> None:
    """routing/roster.py is tested by routing/test_roster.py in tests/unit, or in another kind of tests."""

    def test_file(module: Module) -> Path:
        path = module.path.relative_to(SRC / PACKAGE)
        return path.with_name(f"test_{path.name}")

    def is_tested(module: Module) -> bool:
        return any(
            "def test_" in path.read_text("utf-8") for path in (ROOT / "tests").glob(f"*/{test_file(module).as_posix()}")
        )

    require_none(
        (
            f"{module.path.relative_to(ROOT)}: expected tests/unit/{test_file(module).as_posix()}"
            for module in product()
            if module.path.stem not in TESTED_ELSEWHERE and not is_tested(module)
        ),
        "Each module has a test file of its name under tests/unit, tests/property, tests/conformance or tests/process:",
    )


@pytest.mark.parametrize(
    "package", [".".join(path.relative_to(SRC).parent.parts) for path in sorted((SRC / PACKAGE).rglob("__init__.py"))]
)
def test_every_export_exists(package: str) -> None:
    module = importlib.import_module(package)
    missing = (name for name in getattr(module, "__all__", ()) if not hasattr(module, name))
    require_none(missing, f"{package} promises in __all__ what it does not have:")


def test_the_changelog_has_a_section_for_what_is_being_built() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[:1] in (["Unreleased"], [version]), f"CHANGELOG.md must begin with a section Unreleased or {version}"


def test_every_page_of_the_documentation_is_in_its_navigation() -> None:
    docs = ROOT / "docs"
    navigation = json.dumps(tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"])
    pages = sorted(page.relative_to(docs).as_posix() for page in docs.rglob("*.md"))
    require_none(
        (page for page in pages if f'"{page}"' not in navigation), "A page that nobody finds; add it to nav in zensical.toml:"
    )


# ── Nothing of the machine it was made on ────────────────────────────────────────────────────────────────────────────────


def test_no_file_names_a_registry_or_a_machine() -> None:
    def found(path: Path) -> Iterator[str]:
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
            for match in (REGISTRY_HOST.search(line), MACHINE_PATH.search(line)):
                if match:
                    yield f"{path.relative_to(ROOT)}:{number}: {match[0]}"

    require_none((line for path in repository_files() for line in found(path)), "True on one machine only; take it out:")


def test_requirements_are_pins_and_hashes_only() -> None:
    require_none(
        (
            f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
            for path in sorted((ROOT / "requirements").glob("*.txt"))
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
            if not PIN_OR_HASH.fullmatch(line)
        ),
        "Neither `name==version` nor a hash; make it with `make lock`:",
    )
