"""--stats --format html: one file, opened by a real browser that has no network."""

from __future__ import annotations

import functools
import json
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import browser
import fleet
import pytest
from tables import Machine, noon
from transcripts import Message, write_session

from ccusage_importer import human, money

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from browser import Browser

EVIL = "<b>o'brien</b> & \"co\" {{plotly}} %{x} </script><script>document.title = 'evil'</script>"
PROJECT = "-home-dev-<img src=x onerror=alert(1)>"
BY = ("models", "projects", "machines", "agents")


def work(machine: Machine) -> None:
    """Some days of usage of two projects, the last of them yesterday."""
    for number, project in enumerate((PROJECT, "-home-dev-tidy", PROJECT)):
        name = f"{number:08d}-0000-4000-8000-000000000000"
        days = {number + 1, 40 * number + 1, 3 * number + 1}
        times = [noon() - timedelta(ago) for ago in sorted(days, reverse=True)]
        messages = [Message(at=at, input=900, output=4000) for at in times]
        write_session(machine.claude, project, name, messages)


ACTIVE = """
    INSERT INTO ccusage_usage_blocks (machine_name, block_id, start_time, end_time, is_active,
        total_tokens, cost_usd, burn_rate, projection)
    SELECT 'machine-00', 'now', now64(3) - toIntervalHour(1), now64(3) + toIntervalHour(4), 1,
        45000, 1.25, 0.75, 4.25
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with a name that wants to be markup, beside two others with a year each."""
    machine = Machine(tmp_path_factory.mktemp("html"), MACHINE_NAME=EVIL)
    work(machine)
    machine.stores("--no-hash-projects")
    with machine.asking() as query:
        fleet.store(query, days=430, machines=2)
        query(ACTIVE)
    return machine


@pytest.fixture(scope="module")
def page(machine: Machine) -> Path:
    path = machine.home / "report.html"
    done = machine.main("--stats", "--format", "html", "--output", str(path))
    assert done == (0, f"{path}\n", "")
    return path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not browser.PROGRAM:
        pytest.skip(browser.MISSING)
    with browser.browsing(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def opened(chromium: Browser, page: Path) -> Iterator[Browser]:
    chromium.open(page)
    yield chromium
    assert chromium.said == []
    assert chromium.asked == [page.as_uri()]


@functools.cache
def stats(machine: Machine, *args: str) -> Any:
    return json.loads(machine.main("--stats", "--format", "json", *args).out)


def shown(opened: Browser, table: str) -> dict[str, dict[str, float | None]]:
    """The rows of a table by their names: {column: exact value}."""
    rows = opened.run(f"""[...document.querySelectorAll("#{table} tr")].map(
        row => [...row.cells].map(cell => cell.dataset.value ?? cell.textContent))""")
    head, *body = rows
    found = {}
    for name, *cells in body:
        values = (float(cell) if cell else None for cell in cells)
        found[name] = dict(zip(head[1:], values, strict=True))
    return found


def tiles(opened: Browser) -> dict[str, tuple[str, str]]:
    """The exact value and the texts of each tile."""
    found: dict[str, tuple[str, str]] = opened.run("""Object.fromEntries(
        [...document.querySelectorAll(".tile")].map(tile => [tile.id.slice(5),
            [tile.querySelector(".figure").dataset.value, tile.innerText]]))""")
    return found


def choose(opened: Browser, kind: str, name: str) -> None:
    """Choose a machine or an agent with the keyboard, '' for all."""
    place = opened.run(f"""[...document.getElementById("{kind}").options].findIndex(
        option => option.textContent === {json.dumps(name or f"All {kind}s")})""")
    opened.run(f"document.getElementById('{kind}').focus()")
    while (at := opened.run(f"document.getElementById('{kind}').selectedIndex")) != place:
        opened.press("ArrowDown" if at < place else "ArrowUp")


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-9, abs=1e-4)  # the page has whole millionths of each day


def assert_same(opened: Browser, wanted: Any) -> None:
    """The tiles and the year are as --format json says."""
    found = tiles(opened)
    today, _, month = wanted["periods"]
    for name, value in (
        ("total", wanted["cost"]),
        ("month", month["cost"]),
        ("today", today["cost"]),
        ("cache", wanted["cache_share"]),
        ("streak", wanted["streak"]),
    ):
        assert float(found[name][0]) == near(value), name
    assert found["block"][0] == "".join(str(block["cost"]) for block in wanted["blocks"])
    assert money(wanted["cost"]) in found["total"][1]
    assert f"{human(wanted['tokens'])} tokens" in found["total"][1]
    assert f"{wanted['active_days']} days with usage" in found["total"][1]
    assert money(month["projected_cost"]) in found["month"][1]
    assert money(month["cost_before"]) in found["month"][1]
    assert f"{wanted['longest_streak']} days at most" in found["streak"][1]
    levels = opened.run("""[...document.querySelectorAll("#calendar tbody tr")].flatMap(
        row => [...row.cells].filter(cell => cell.dataset.level).map(
            cell => [cell.title.slice(0, 10), cell.dataset.level, Number(cell.dataset.value)]))""")
    assert sorted(levels) == [
        [day["date"], "-" if day["level"] is None else str(day["level"]), near(day["cost"])]
        for day in wanted["heatmap"]
    ]


def assert_parts(opened: Browser, wanted: Any, by: str) -> None:
    """The table beside the bars holds the parts of the whole, and the bars are as high."""
    rows = shown(opened, "parts")
    whole = rows.pop("Total")
    parts: dict[str, list[float]] = {}
    for part in wanted[by]:
        sums = parts.setdefault(part["name"], [0.0, 0])
        sums[0] += part["cost"]
        sums[1] += part["tokens"]
    assert (whole["cost"], whole["tokens"]) == (near(wanted["cost"]), wanted["tokens"])
    known = rows.keys() & parts.keys()
    assert len(known) == min(len(parts), 8 if len(parts) > 9 else 9)
    for name in known:
        assert (rows[name]["cost"], rows[name]["tokens"]) == (near(parts[name][0]), parts[name][1])
    assert sum(row["cost"] or 0 for row in rows.values()) == near(wanted["cost"])
    heights = opened.run("""[...document.getElementById("daily").data].map(
        trace => trace.y.reduce((sum, cost) => sum + cost, 0))""")
    assert sorted(heights) == [near(row["cost"] or 0) for row in by_cost(rows)]


def by_cost(rows: dict[str, dict[str, float | None]]) -> list[dict[str, float | None]]:
    return sorted(rows.values(), key=lambda row: row["cost"] or 0)


# --- what is on the page -------------------------------------------------------------------------


def test_the_page_needs_no_network_and_complains_of_nothing(opened: Browser, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    policy = text.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    opened.run("document.body.insertAdjacentHTML('beforeend', '<img src=\"https://x.invalid/\">')")
    opened.untouched = None
    while not opened.said:
        opened.run("new Promise(done => setTimeout(done, 20))")
    assert "Content Security Policy" in opened.said.pop()  # it is in force
    assert opened.asked.pop() == "https://x.invalid/"


def test_the_page_says_what_json_says(opened: Browser, machine: Machine) -> None:
    wanted = stats(machine)
    assert len(wanted["blocks"]) == 1
    assert_same(opened, wanted)
    months = shown(opened, "months")
    assert months["Total"]["cost"] == near(wanted["cost"])
    assert months[f"{noon():%Y-%m}"]["cost"] == near(wanted["periods"][2]["cost"])
    assert sum(row["cost"] or 0 for row in months.values()) == near(2 * wanted["cost"])
    dearest = float(
        opened.run("document.querySelector('#sessions tbody tr').cells[6].dataset.value")
    )
    assert dearest == near(wanted["sessions"]["max_cost"])


def test_the_week_holds_the_cost_of_all_blocks(opened: Browser, machine: Machine) -> None:
    costs = opened.run("""[...document.querySelectorAll("#hours td[data-value]")].map(
        cell => Number(cell.dataset.value))""")
    with machine.asking() as query:
        ((whole,),) = query("SELECT sum(cost_usd) FROM ccusage_usage_blocks FINAL WHERE NOT is_gap")
    assert len(costs) == 7 * 24
    assert sum(costs) == near(whole)


def test_the_switches_show_the_parts_of_the_days(opened: Browser, machine: Machine) -> None:
    for days, parts in (("30", BY), ("90", BY[1:2]), ("365", BY[:1]), ("0", BY)):
        wanted = stats(machine, *(["--days", days] if days != "0" else []))
        opened.click(f"input[name=days][value='{days}']")
        for by in parts:
            opened.click(f"input[name=by][value={by}]")
            assert_parts(opened, wanted, by)
        weekly = opened.run("document.getElementById('daily-title').textContent") != "Daily cost"
        assert weekly == (days == "0")
    opened.click("#more summary")
    deadline = time.monotonic() + 30
    while not opened.run("document.querySelectorAll('#bars tbody tr').length"):
        assert time.monotonic() < deadline  # the table is filled when it is opened
    bars = opened.run("""[...document.querySelectorAll("#bars tbody tr")].map(
        row => Number([...row.cells].at(-1).dataset.value))""")
    assert len(bars) in (62, 63)  # weeks of 430 days
    assert sum(bars) == near(wanted["cost"])


def test_a_machine_and_an_agent_narrow_every_figure(opened: Browser, machine: Machine) -> None:
    opened.click("input[name=days][value='0']")
    for name, agent, by in (
        (EVIL, "", "models"),
        ("machine-01", "", "projects"),
        ("", "codex", "machines"),
        ("machine-00", "claude", "agents"),
    ):
        wanted = stats(machine, *narrowed(name, agent))
        opened.click(f"input[name=by][value={by}]")
        choose(opened, "machine", name)
        choose(opened, "agent", agent)
        assert_same(opened, wanted)
        assert_parts(opened, wanted, by)
        assert shown(opened, "months")["Total"]["cost"] == near(wanted["cost"])
        named = shown(opened, "projects").keys()
        assert named <= {project["name"] for project in wanted["projects"]}
        assert bool(named) == bool(wanted["projects"])


def narrowed(name: str, agent: str) -> list[str]:
    return [*(["--machine", name] if name else []), *(["--agents", agent] if agent else [])]


def test_the_page_of_a_part_holds_that_part(
    chromium: Browser, machine: Machine, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    args = ["--days", "45", *narrowed("machine-00", "claude")]
    machine.main("--stats", "--format", "html", "--output", str(page), *args)
    chromium.open(page)
    wanted = stats(machine, *args)
    assert_same(chromium, wanted)
    chromium.click("input[name=days][value='0']")
    assert_parts(chromium, wanted, "models")
    offered = chromium.run("""[...document.querySelectorAll("input[name=days]")].filter(
        radio => radio.offsetParent).map(radio => radio.value)""")
    assert offered == ["30", "0"]
    about = chromium.run("document.getElementById('about').textContent")
    assert about.startswith("machine-00 · claude · the last 45 days · ")
    assert "machine-01" not in page.read_text(encoding="utf-8")


def test_switches_and_tables_work_with_the_keyboard(opened: Browser) -> None:
    seen = []
    for _ in range(12):
        opened.press("Tab")
        seen.append(opened.run("document.activeElement.name || document.activeElement.id"))
        if seen[-1] == "by":
            opened.press("ArrowRight")
            assert (
                opened.run("document.querySelector('input[name=by]:checked').value") == "projects"
            )
    assert seen[:4] == ["machine", "agent", "by", "days"]
    costs = """[...document.querySelectorAll("#sessions tbody tr")].map(
        row => Number([...row.cells].at(-1).dataset.value))"""
    assert (before := opened.run(costs)) == sorted(before, reverse=True)
    opened.run("document.querySelector('#sessions thead th:last-child button').focus()")
    opened.press("Enter")
    assert (after := opened.run(costs)) == sorted(after) != before
    assert opened.run("document.activeElement.textContent") == "cost"
    opened.run("document.querySelector('#sessions + .more').focus()")
    opened.press("Enter")
    assert len(opened.run(costs)) > len(after)


def test_names_are_text_and_never_markup(opened: Browser, page: Path) -> None:
    assert opened.run("document.title") == "ccusage report"
    options = opened.run("[...document.getElementById('machine').options].map(o => o.textContent)")
    assert options == ["All machines", EVIL, "machine-00", "machine-01"]
    opened.click("input[name=by][value=machines]")
    opened.click("input[name=days][value='30']")
    said = opened.run("""(() => {
        const daily = document.getElementById("daily");
        const curve = daily.data.findIndex(trace => trace.name.includes("brien"));
        const point = daily.data[curve].y.findIndex(Boolean);
        Plotly.Fx.hover(daily, [{curveNumber: curve, pointNumber: point}]);
        return daily.querySelector(".hoverlayer").textContent;
    })()""")
    assert EVIL in said
    choose(opened, "machine", EVIL)
    assert PROJECT in shown(opened, "projects")
    assert opened.run("document.querySelectorAll('img, b, a').length") == 0
    assert page.read_text(encoding="utf-8").count("</script>") == 3


def test_it_fits_a_telephone_and_follows_the_reader(chromium: Browser, page: Path) -> None:
    grounds = []
    for width, scheme in ((390, "dark"), (1280, "light")):
        chromium.open(page, width, scheme=scheme)
        assert chromium.run("document.documentElement.scrollWidth") == width
        grounds.append(chromium.run("getComputedStyle(document.body).backgroundColor"))
    assert len({*grounds}) == 2


def test_it_prints_on_paper(opened: Browser, tmp_path: Path) -> None:
    opened.run("""for (const name of ["beforeprint", "afterprint"]) {
        addEventListener(name, () => window[name] = daily._fullLayout.width);
    }""")
    opened.paper(tmp_path / "page.pdf")
    assert opened.run("[beforeprint, afterprint > 700]") == [680, True]
    assert 3 <= (tmp_path / "page.pdf").read_bytes().count(b"/Type /Page\n") <= 8


# --- writing it ----------------------------------------------------------------------------------


def test_hashes_stay_hashes(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    work(machine)
    machine.stores()
    report = tmp_path / "page.html"
    machine.main("--stats", "--format", "html", "--output", str(report))
    written = report.read_text(encoding="utf-8").partition('id="figures">')[2]
    written = written.partition("</script>")[0]
    assert "onerror" not in written
    assert "home-dev" not in written
    assert "00000000-0000-4000" not in written


def test_it_is_written_here_unless_told_otherwise(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ccusage-report.html"
    assert machine.main("--stats", "--format", "html") == (0, f"{path}\n", "")
    assert path.stat().st_size > 1_000_000
    assert machine.main("--stats", "--format", "html", "--quiet") == (0, "", "")
    nowhere = ("--stats", "--format", "html", "--output", str(tmp_path / "no" / "page.html"))
    assert machine.main(*nowhere).code == 2
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_there_is_told(chromium: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    empty = Machine(tmp_path)
    assert empty.main("--stats", "--format", "html", "--output", str(page)).code == 0
    chromium.open(page)
    assert chromium.run("document.querySelector('main').innerText").endswith(
        "Nothing is imported yet."
    )
    assert chromium.said == []


def test_without_plotly_the_remedy_is_told(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.delitem(sys.modules, "plotly.offline", raising=False)
    monkeypatch.chdir(tmp_path)
    done = machine.main("--stats", "--format", "html")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "pip install 'ccusage-import[report]'" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("args", [[], ["--check"], ["--list-queries"], ["--query", "weekdays"]])
def test_only_statistics_have_a_page(machine: Machine, args: list[str]) -> None:
    assert machine.main(*args, "--format", "html").code == 2


def test_three_years_of_ten_machines_are_small_and_quick(chromium: Browser, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.stores()
    with machine.asking() as query:
        fleet.store(query)
    page = tmp_path / "page.html"
    began = time.process_time()  # other tests run beside this one
    machine.main("--stats", "--format", "html", "--output", str(page))
    assert time.process_time() - began < 3
    assert page.stat().st_size < 8_000_000
    chromium.open(page)
    assert chromium.seconds() < 2
    assert len(shown(chromium, "parts")) > 3
