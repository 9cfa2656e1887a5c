"""The file reads from top to bottom, in small steps; what is said about it elsewhere is so."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from statistics import median
from typing import TYPE_CHECKING

import pytest
from tables import PROGRAM
from test_config import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = PROGRAM.parent
SOURCE = PROGRAM.read_text(encoding="utf-8")
TREE = ast.parse(SOURCE)
SECTIONS = [
    "errors, settings, identity", "ccusage", "records", "rules", "tables", "store", "import",
    "copy", "statistics", "output", "queries", "check", "command line",
]  # fmt: skip
FUNCTIONS = [node for node in ast.walk(TREE) if isinstance(node, ast.FunctionDef)]
CLASSES = [node for node in ast.walk(TREE) if isinstance(node, ast.ClassDef)]


def banners() -> dict[str, int]:
    """The line on which each section begins."""
    found = re.finditer(r"^# --- ([^-]+) -+$", SOURCE, re.MULTILINE)
    return {match[1]: SOURCE.count("\n", 0, match.start()) + 1 for match in found}


def above(section: str) -> Iterator[ast.AST]:
    """What stands above a section, in functions too."""
    end = banners()[section]
    return (node for node in ast.walk(TREE) if getattr(node, "lineno", end) < end)


def length(function: ast.FunctionDef) -> int:
    return (function.end_lineno or 0) - function.lineno + 1


def test_sections_stand_in_the_order_in_which_data_flows() -> None:
    assert list(banners()) == SECTIONS


def test_the_table_of_contents_names_the_sections() -> None:
    said = ast.get_docstring(TREE) or ""
    contents = re.findall(r"^    ([a-z, ]+?)  +\S", said, re.MULTILINE)
    assert contents[: len(SECTIONS)] == SECTIONS


def test_the_glossary_explains_words_that_are_in_the_file_in_at_most_30_lines() -> None:
    text = (ast.get_docstring(TREE) or "").partition("own:\n\n")[2].partition("\n\n")[0]
    words = [word for line in text.splitlines() for word in line[4:18].strip().split(", ")]
    assert 10 < len(text.splitlines()) <= 30
    used = SOURCE.partition('"""\n')[2]
    assert [word for word in words if not re.search(rf"\b_?{word}", used)] == []


def test_nothing_above_the_store_touches_clickhouse() -> None:
    lines = [
        node.lineno
        for node in above("store")
        if (isinstance(node, ast.ImportFrom) and "clickhouse" in (node.module or ""))
        or (isinstance(node, ast.Import) and any("clickhouse" in a.name for a in node.names))
    ]
    allowed = SOURCE[: SOURCE.index("    from clickhouse_connect")].count("\n") + 1
    assert lines == [allowed]  # for types only


def test_nothing_above_the_command_line_reads_the_environment_prints_or_exits() -> None:
    texts = [
        ast.unparse(node.func if isinstance(node, ast.Call) else node)
        for node in above("command line")
        if isinstance(node, (ast.Call, ast.Attribute))
    ]
    unwanted = {"os.environ", "os.getenv", "sys.argv", "sys.exit", "sys.stdout", "sys.stderr"}
    assert not unwanted & set(texts)
    assert not {"print", "input", "exit"} & set(texts)


def test_no_handler_swallows_everything() -> None:
    caught = [
        ast.unparse(node.type) if node.type else "everything"
        for node in ast.walk(TREE)
        if isinstance(node, ast.ExceptHandler)
    ]
    assert not {"Exception", "BaseException", "everything"} & set(caught)


def test_functions_are_short() -> None:
    assert median(map(length, FUNCTIONS)) <= 10
    assert {f.name: length(f) for f in FUNCTIONS if length(f) > 50} == {}


def test_everything_has_types_and_each_public_class_says_what_it_is() -> None:
    untyped = [
        function.name
        for function in FUNCTIONS
        for argument in (*function.args.args, *function.args.kwonlyargs)
        if argument.annotation is None and argument.arg not in ("self", "cls")
    ]
    assert untyped == []
    assert [function.name for function in FUNCTIONS if function.returns is None] == []
    public = [node for node in CLASSES if not node.name.startswith("_")]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_no_value_is_pasted_into_sql() -> None:
    """Names of tables and columns may be; a database's name in quotes."""
    pasted = [
        ast.unparse(part.value)
        for node in ast.walk(TREE)
        if isinstance(node, ast.JoinedStr)
        and re.match(
            r"[fF]?['\"(]*(SELECT|INSERT|DELETE|CREATE|DROP|ALTER)\b", ast.unparse(node)[1:]
        )
        for part in node.values
        if isinstance(part, ast.FormattedValue)
    ]
    assert pasted
    values = re.compile(
        r"\b(settings|args|env|values?|rows?|keys?|password|machine\w*|parameters)\b"
    )
    assert [text for text in pasted if values.search(text) and "_quoted(" not in text] == []


# --- what is said elsewhere ----------------------------------------------------------------


def test_the_readme_has_the_help_text() -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--help"],
        check=True, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert any(" ".join(done.stdout.split()) in " ".join(block.split()) for block in blocks)


def test_the_readme_counts_the_queries() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    text = (ROOT / "queries.sql").read_text(encoding="utf-8")
    queries = re.findall("^-- name: (?!statistics-|report-|integrity-)", text, re.MULTILINE)
    assert f" # {len(queries)} questions by name" in readme


@pytest.mark.parametrize("variable", VARIABLES)
def test_each_variable_is_explained(variable: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"^\|.*`{variable}`.*\|", readme, re.MULTILINE)
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert re.search(rf"^#{variable}=", example, re.MULTILINE)


def test_no_other_variable_is_read() -> None:
    section = SOURCE.splitlines()[banners()[SECTIONS[0]] : banners()["ccusage"]]
    named = set(re.findall(r'"((?:CH|CCUSAGE|MACHINE|PROJECT)_[A-Z_]+)"', "\n".join(section)))
    assert named == set(VARIABLES)


def test_each_exit_code_is_explained() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for code in ("0 all feeds imported", "1 failed", "2 wrong usage", "3 some feeds", "4 another"):
        assert code in " ".join(readme.split())
        assert code in " ".join((ast.get_docstring(TREE) or "").split())
