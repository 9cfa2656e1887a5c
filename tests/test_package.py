"""The wheel carries all that it needs, and works from any directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import recorded
import transcripts

ROOT = Path(__file__).parent.parent
UV = os.environ.get("UV") or shutil.which("uv") or "uv"


def run(*argv: str | Path, **options: object) -> str:
    done = subprocess.run(
        [str(word) for word in argv],
        capture_output=True,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(UV, "build", "--quiet", "--wheel", "--out-dir", out, ROOT)
    return next(out.glob("*.whl"))


def test_the_wheel_carries_the_module_its_sql_and_its_page_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if "dist-info" not in name} == {
        "ccusage_importer.py",
        "ccusage_clickhouse_schema.sql",
        "queries.sql",
        "report_template.html",
    }


def test_the_installed_program_imports_from_any_directory(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    run(UV, "venv", "--quiet", environment)
    run(UV, "pip", "install", "--quiet", "--python", environment, f"{wheel}[embedded,report]")
    command = recorded.write_command(tmp_path / "bin", recorded.build_feeds(5, 3))
    env = transcripts.environment(tmp_path, CCUSAGE_COMMAND=str(command))
    program = environment / "bin" / "ccusage-import"
    assert "ccusage-import" in run(program, "--version", cwd="/", env=env)
    run(program, "--quiet", cwd="/", env=env)
    assert "daily-cost-trend" in run(program, "--list-queries", cwd="/", env=env)
    page = tmp_path / "page.html"
    run(program, "--stats", "--format", "html", "--output", page, cwd="/", env=env)
    assert "Plotly" in page.read_text(encoding="utf-8")
