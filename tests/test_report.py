"""Statistics from rows, and how people, dashboards and spreadsheets see them; on a fixed clock."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ccusage_importer as program
from ccusage_importer import (
    ASCII,
    RENDERERS,
    Identity,
    ImportResult,
    LoweredRow,
    Report,
    Scope,
    Section,
    Settings,
    Statistics,
    TableCount,
    Usage,
    answer_section,
    change,
    find_query,
    heatmap,
    human,
    import_sections,
    money,
    plain,
    render_table,
    statistics_sections,
    streaks,
    summarise,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

UTC = timezone.utc
NOW = datetime(2026, 11, 18, 14, 30, tzinfo=UTC)  # a Wednesday; 15:30 in Berlin
SCOPE = Scope(NOW, "Europe/Berlin")
TODAY = date(2026, 11, 18)
BERLIN = ZoneInfo("Europe/Berlin")
OPUS, SONNET, NEW = "claude-opus-4-1-20250805", "claude-sonnet-4-20250514", "claude-zeta-9"
LONG = "a-machine-whose-name-somebody-found-worth-sixty-three-characters"


def figures(**changes: Any) -> Any:
    """What the database answers: a year and a half of two machines and two agents."""
    days = [
        (TODAY - timedelta(ago), 0.5 * (ago % 7), 1_000_000 * (ago % 7), 800_000, 600_000)
        for ago in range(1, 500)
        if (ago % 5 and ago < 150) or 300 < ago < 310
    ]
    days.append((TODAY, 12.25, 2_500_000, 2_000_000, 1_900_000))
    of_month = {n: [row for row in days if row[0] >= date(2026, 1, 1) and row[0].month == n]
                for n in range(1, 12)}  # fmt: skip
    months = [
        (f"2026-{n:02}", sum((row[1] for row in rows), 0.0), sum(row[2] for row in rows),
         sum(row[2] > 0 for row in rows))
        for n, rows in of_month.items()
    ]  # fmt: skip
    at, held = NOW.astimezone(BERLIN) - timedelta(minutes=5), {"their transcripts are gone": 12}
    start, end = (datetime(2026, 11, 18, hour, tzinfo=BERLIN) for hour in (13, 18))
    rows: dict[str, Any] = {
        "days": days,
        "months": months,
        "machines": [
            ("lab", "", 150.0, 280_000_000),
            (LONG, "", 42.25, 80_000_000),
        ],
        "agents": [
            ("claude", "claude", 172.25, 340_000_000),
            ("codex", "codex", 20.0, 20_000_000),
        ],
        "models": [
            (OPUS, "claude", 140.0, 60_000_000),
            (SONNET, "claude", 32.25, 240_000_000),
            (NEW, "claude", 0.0, 40_000_000),
            ("gpt-5-codex", "codex", 0.0, 20_000_000),
        ],
        "unpriced": [(NEW, 40_000_000)],
        "projects": [
            ("b909b9d6", "claude", 100.0, 200_000_000),
            ("b909b9d6", "claude", 72.25, 100_000_000),
        ],
        "sessions": [(1234, 192.25 / 1234, 37.5, "b909b9d6/2384db68", 389, "b909b9d6/9ad0089d")],
        "blocks": [("lab", start, end, 150, 2_500_000, 12.25, 4.9, 24.5)],
        "hours": [(9, 5_000), (14, 7_000)],
        "runs": [
            (
                "lab",
                at,
                "20.0.24",
                True,
                151.23,
                45_100,
                at - timedelta(hours=1),
                1.23,
                45_100,
                held,
            ),
            (LONG, at - timedelta(days=3), "18.0.11", False, 42.25, 0, None, 0.0, 0, {}),
        ],
        "imports": [(TODAY, 30), (TODAY - timedelta(100), 10)],
    }
    return {**rows, **changes}


STATS = summarise(figures(), SCOPE)
WIDE = figures(models=[("x" * 300, "claude", 1e9, 1)])
NOTHING = summarise({}, SCOPE)


def table(stats: Statistics, width: int, *, colour: bool = False) -> str:
    return render_table(Report(stats, statistics_sections(stats)), width, colour=colour)


# --- golden --------------------------------------------------------------------------------------


GOLDEN = Path(__file__).with_name("golden")


def golden(name: str, text: str) -> None:
    """Compare with a file, or with the variable GOLDEN set write it anew, to be looked at."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_statistics_look_as_they_did(width: int) -> None:
    golden(f"stats-{width}", table(STATS, width))


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_the_summary_of_an_import_looks_as_it_did(width: int) -> None:
    golden(f"import-{width}", render_table(summary_of(RESULT), width, colour=False))


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_a_verbose_summary_looks_as_it_did(width: int) -> None:
    report = Report(RESULT, import_sections(RESULT, verbose=True))
    golden(f"verbose-{width}", render_table(report, width, colour=False))


@pytest.mark.parametrize("name", ["days", "sessions", "chart", "none"])
@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_answers_look_as_they_did(name: str, width: int) -> None:
    golden(f"query-{name}-{width}", render_table(ANSWERS[name], width, colour=False))


def test_the_report_in_markdown() -> None:
    report = Report(STATS, statistics_sections(STATS))
    golden("stats-markdown", RENDERERS["markdown"](report))
    assert RENDERERS["markdown"](ANSWERS["days"]).startswith("| date | total tokens |")


@pytest.mark.parametrize("width", [60, 80, 100, 120, 400])
def test_no_line_is_longer_than_the_terminal_is_wide(width: int) -> None:
    for stats in (STATS, NOTHING, summarise(WIDE, SCOPE)):
        assert max(map(len, table(stats, width).split("\n"))) <= min(width, 120)


def test_on_a_terminal_narrower_than_that_nothing_is_lost() -> None:
    for width in (0, 1, 9, 20, 40):
        assert "$1,000,000,000" in table(summarise(WIDE, SCOPE), width)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_numbers_are_never_cut(width: int) -> None:
    shown = table(STATS, width)
    for text in ("$200.75", "379.5M", "$37.50", "$24.50", "b909b9d6/2384db68", "70%", "+$1.23"):
        assert text in " ".join(shown.split()), text


def test_a_terminal_gets_colours_and_NO_COLOR_takes_them_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = table(STATS, 80, colour=True)
    assert "\x1b[32m" in coloured
    assert re.search("\x1b\\[32m[░▒▓█]+", coloured)
    monkeypatch.setenv("NO_COLOR", "1")
    bare = table(STATS, 80, colour=True)
    assert not re.findall(r"\x1b\[[0-9;]*3[0-9]", bare)
    assert "▒" in bare  # without colours the levels must differ in shape


def test_an_ascii_terminal_sees_everything() -> None:
    shown = table(STATS, 80).translate(ASCII)
    assert shown.isascii()
    assert "less .:+*# more" in shown
    assert "=====" in shown


# --- the forms -----------------------------------------------------------------------------------


def test_json_is_the_documented_object() -> None:
    report = Report(STATS, statistics_sections(STATS))
    content = json.loads(RENDERERS["json"](report))
    assert list(content) == list(Statistics._fields)
    assert content["scope"] == {
        "now": "2026-11-18T14:30:00+00:00",
        "zone": "Europe/Berlin",
        "days": None,
        "machine": "",
        "agents": [],
    }
    assert content["sessions"] == {
        "number": 1234,
        "mean_cost": 192.25 / 1234,
        "max_cost": 37.5,
        "costliest": "b909b9d6/2384db68",
        "longest_minutes": 389,
        "longest": "b909b9d6/9ad0089d",
    }
    assert content["blocks"][0]["end"] == "2026-11-18T18:00:00+01:00"
    assert content["blocks"][0]["minutes_left"] == 150
    assert content["heatmap"][-1] == {
        "date": "2026-11-18",
        "cost": 12.25,
        "tokens": 2_500_000,
        "level": 4,
    }


def test_csv_has_each_figure_of_the_json_under_its_path() -> None:
    report = Report(STATS, [])
    rows = dict(csv.reader(io.StringIO(RENDERERS["csv"](report))))
    assert rows["figure"] == "value"
    assert float(rows["cost"]) == STATS.cost
    assert rows["models.1.name"] == OPUS
    assert rows["scope.days"] == ""
    assert int(rows["heatmap.1.tokens"]) == STATS.heatmap[0].tokens


def test_an_empty_database_is_said_to_be_empty() -> None:
    assert table(NOTHING, 80) == "Empty  nothing is imported yet\n\n"
    assert (NOTHING.cost, NOTHING.tokens, NOTHING.models, NOTHING.first_day) == (0.0, 0, [], None)
    json.dumps(plain(NOTHING), allow_nan=False)


def test_a_scope_that_holds_nothing_is_told_apart_from_an_empty_database() -> None:
    stats = summarise(figures(days=[]), SCOPE)
    assert "nothing is stored of that" in table(stats, 80)


def test_names_can_neither_command_the_terminal_nor_break_a_table() -> None:
    evil = "\x1b[2Jevil|\n<b>[red]"
    stats = summarise(figures(models=[(evil, "claude", 1.0, 1)]), SCOPE)
    assert "\x1b" not in table(stats, 80)
    assert "[2Jevil" in table(stats, 80)
    markdown = RENDERERS["markdown"](Report(stats, statistics_sections(stats)))
    assert r"\[2Jevil\|" in markdown
    assert r"\<b\>\[red\]" in markdown


# --- figures -------------------------------------------------------------------------------------


def test_periods_are_compared_with_the_ones_before() -> None:
    costs = {
        date(2026, 11, 18): 8.0,
        date(2026, 11, 17): 2.0,
        date(2026, 11, 12): 100.0,  # Thursday of the week before: not yet reached in this one
        date(2026, 11, 9): 5.0,
        date(2026, 10, 18): 30.0,
        date(2026, 10, 19): 1000.0,
        date(2026, 11, 19): 7777.0,  # tomorrow
    }
    rows = [(day, cost, int(cost * 10), 0, 0) for day, cost in costs.items()]
    today, week, month = summarise(figures(days=rows), SCOPE).periods
    passed = 15.5 / 24  # it is 15:30 in Berlin, and no block tells of yesterday's hours
    assert (today.cost, today.cost_before) == (8.0, 2.0)
    assert today.cost_before_so_far == pytest.approx(2.0 * passed)
    assert (week.start, week.cost, week.cost_before) == (date(2026, 11, 16), 10.0, 105.0)
    assert (week.cost_before_so_far, week.projected_cost) == (5.0, None)
    assert (month.cost, month.cost_before) == (115.0, 1030.0)
    assert month.cost_before_so_far == pytest.approx(30.0 * passed)


def test_the_same_hours_of_the_day_before_are_told_by_its_blocks() -> None:
    yesterday = TODAY - timedelta(1)
    rows = [(TODAY, 3.0, 1, 0, 0), (yesterday, 8.0, 1, 0, 0)]
    today = summarise(figures(days=rows, clock=[(yesterday, 0.5)]), SCOPE).periods[0]
    assert today.cost_before_so_far == 4.0


@pytest.mark.parametrize(
    ("costs", "projected"),
    [
        ({1: 10.0, 2: 20.0, 18: 1.0}, 30.0 + 13 * 30 / 17),  # today is not over yet
        ({1: 10.0, 2: 20.0, 18: 50.0}, 80.0 + 12 * 30 / 17),
        ({15: 30.0, 18: 1.0}, 30.0 + 13 * 10.0),  # nothing was imported before the 15th
        ({18: 5.0}, None),
        ({}, None),
    ],
)
def test_a_month_goes_on_as_its_complete_days_did(
    costs: dict[int, float], projected: float | None
) -> None:
    found = program.forecast({TODAY.replace(day=day): cost for day, cost in costs.items()}, TODAY)[
        1
    ]
    assert found == (projected and pytest.approx(projected))


def test_on_the_first_of_a_month_the_month_before_tells_the_pace() -> None:
    costs = {date(2026, 10, 1): 31.0, date(2026, 11, 1): 4.0}
    assert program.forecast(costs, date(2026, 11, 1))[1] == pytest.approx(4.0 + 29 * 1.0)


def test_a_part_of_a_month_is_not_compared() -> None:
    assert "Months" not in table(summarise(figures(months=[]), SCOPE), 80)
    for number in (1, 2, 3):
        few = [(f"2026-{11 - ago}", 2.0**ago, 1, 1) for ago in reversed(range(number))]
        shown = table(summarise(figures(months=few), SCOPE), 80)
        assert f"{number} month" in shown
        assert re.search(r"^2026-11 .*1$", shown, re.MULTILINE)
    assert re.search(r"^2026-10 .* -50%$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("today", "start", "before"),
    [
        (date(2026, 3, 31), date(2026, 3, 1), 28),
        (date(2026, 1, 5), date(2026, 1, 1), 5),
        (date(2028, 3, 1), date(2028, 3, 1), 1),
    ],
)
def test_a_month_is_compared_with_no_more_days_than_the_one_before_has(
    today: date, start: date, before: int
) -> None:
    days = {start - timedelta(ago): Usage(1.0, 1) for ago in range(-31, 60)}
    scope = Scope(datetime.combine(today, time(23, 59), UTC), "UTC")
    month = list(program.periods(days, {}, scope))[2]
    assert month.cost == (today - start).days + 1
    assert month.cost_before_so_far == pytest.approx(before, abs=0.001)


def test_today_is_that_of_the_machines_zone() -> None:
    late = datetime(2026, 11, 18, 23, 30, tzinfo=UTC)
    assert Scope(late, "UTC").today == date(2026, 11, 18)
    assert Scope(late, "Europe/Berlin").today == date(2026, 11, 19)


@pytest.mark.parametrize(
    ("ago", "expected"),
    [
        ([], (0, 0)),
        ([0], (1, 1)),
        ([1], (1, 1)),
        ([2], (0, 1)),
        ([0, 1, 2, 5, 6, 7, 8], (3, 4)),
        ([1, 2, 3], (3, 3)),
    ],
)
def test_a_streak_goes_on_until_a_whole_day_is_missed(
    ago: list[int], expected: tuple[int, int]
) -> None:
    assert streaks(sorted(TODAY - timedelta(n) for n in ago), TODAY) == expected


def test_a_model_without_a_price_is_named_but_not_an_agent_that_tells_no_prices_of_models() -> None:
    assert STATS.unpriced == {NEW: 40_000_000}  # codex has a price, for its days


def test_rows_held_by_the_last_imports_are_told() -> None:
    assert "12 rows kept: their transcripts are gone" in table(STATS, 80)
    assert [run.held for run in STATS.runs] == [{"their transcripts are gone": 12}, {}]


def test_the_last_import_is_compared_with_the_one_before() -> None:
    newest, first = STATS.runs
    assert (newest.machine, newest.added_cost, newest.added_tokens) == ("lab", 1.23, 45_100)
    assert (first.machine, first.previous_at) == (LONG, None)


def test_projects_with_the_same_eight_digits_stay_two() -> None:
    assert [(part.name, part.cost) for part in STATS.projects] == [
        ("b909b9d6", 100.0),
        ("b909b9d6", 72.25),
    ]


def test_shares_of_what_is_free_are_those_of_tokens() -> None:
    rows = figures(
        days=[(TODAY, 0.0, 100, 0, 0)],
        models=[("large", "x", 0.0, 75), ("small", "x", 0.0, 25)],
    )
    models = summarise(rows, SCOPE).models
    assert [(part.name, part.share) for part in models] == [("large", 0.75), ("small", 0.25)]


def test_days_in_the_future_are_counted_and_pointed_at() -> None:
    rows = figures()
    rows["days"].append((date(2199, 1, 1), 1.0, 5, 0, 0))
    stats = summarise(rows, SCOPE)
    assert stats.last_day == date(2199, 1, 1)
    assert stats.cost == STATS.cost + 1.0
    assert stats.heatmap == STATS.heatmap
    assert stats.streak == STATS.streak
    assert "some days lie in the future, up to 2199-01-01" in table(stats, 80)


# --- the heatmap ---------------------------------------------------------------------------------


def levels(usage: Mapping[int, float], imported: Mapping[int, int]) -> dict[int, int | None]:
    """Levels by days ago."""
    days = {TODAY - timedelta(ago): Usage(cost, 10) for ago, cost in usage.items()}
    runs = {TODAY - timedelta(ago): kept for ago, kept in imported.items()}
    return {(TODAY - day.date).days: day.level for day in heatmap(days, runs, SCOPE)}


def test_the_heatmap_ends_today_and_starts_with_a_monday_52_weeks_ago() -> None:
    assert STATS.heatmap[-1].date == TODAY
    assert STATS.heatmap[0].date == date(2025, 11, 17)
    assert STATS.heatmap[0].date.weekday() == 0


def test_levels_are_quarters_of_the_days_however_skewed_the_costs() -> None:
    found = levels({ago: 10.0**ago for ago in range(1, 9)}, {})
    assert [found[ago] for ago in range(1, 9)] == [1, 1, 2, 2, 3, 3, 4, 4]


def test_days_that_no_import_saw_differ_from_days_without_usage() -> None:
    found = levels({40: 1.0}, {2: 30, 50: 1})
    assert (found[0], found[1]) == (None, None)  # not imported since
    assert {found[ago] for ago in range(2, 32)} == {0}  # Claude Code kept these 30 days
    assert (found[32], found[40], found[41]) == (None, 4, None)
    assert (found[49], found[50], found[51]) == (None, 0, None)


def test_where_retention_is_off_an_import_vouches_for_its_own_day() -> None:
    found = levels({}, {3: 0})
    assert (found[2], found[3], found[4]) == (None, 0, None)


@given(
    st.dictionaries(st.integers(0, 400), st.floats(0, 1e6), max_size=40),
    st.dictionaries(st.integers(0, 400), st.integers(0, 2**32), max_size=5),
)
def test_a_day_with_usage_has_a_level_and_more_cost_never_a_lower_one(
    usage: dict[int, float], imported: dict[int, int]
) -> None:
    found = levels(usage, imported)
    ranked = sorted((cost, ago) for ago, cost in usage.items() if ago in found)
    shown = [found[ago] for _, ago in ranked]
    assert all(level in (1, 2, 3, 4) for level in shown)
    assert shown == sorted(shown, key=lambda level: level or 0)


# --- numbers for people --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0K"),
        (560_000, "560.0K"),
        (999_949, "999.9K"),
        (999_950, "1.0M"),
        (410_700_000, "410.7M"),
        (2_800_000_000, "2.8B"),
        (2**64 - 1, "18,446,744.1T"),
        (-45_100, "-45.1K"),
    ],
)
def test_tokens_are_short(number: int, text: str) -> None:
    assert human(number) == text


@pytest.mark.parametrize(
    ("dollars", "text"),
    [
        (0.0, "$0.00"),
        (0.004, "<$0.01"),
        (0.005, "$0.01"),
        (1234.5, "$1,234.50"),
        (9999.99, "$9,999.99"),
        (12345.67, "$12,346"),
        (-1.5, "-$1.50"),
    ],
)
def test_money_is_short(dollars: float, text: str) -> None:
    assert money(dollars) == text


def test_signs_are_shown_where_they_matter() -> None:
    assert (money(1.23, "+"), human(45_100, "+"), money(-1.0, "+")) == (
        "+$1.23",
        "+45.1K",
        "-$1.00",
    )


@pytest.mark.parametrize(
    ("now", "before", "text"),
    [
        (1.0, 0.0, ""),
        (0.999, 1.0, "+0%"),
        (1.5, 1.0, "+50%"),
        (0.0, 2.0, "-100%"),
        (25.0, 1.0, "×25"),
    ],
)
def test_changes_are_short(now: float, before: float, text: str) -> None:
    assert change(now, before) == text


def test_values_are_exact_in_json() -> None:
    class Odd:
        def __str__(self) -> str:
            return "1.10"

    assert plain([0.1 + 0.2, math.nan, math.inf, 2**64 - 1, date(2199, 1, 2), None, Odd()]) == [
        0.30000000000000004,
        None,
        None,
        18446744073709551615,
        "2199-01-02",
        None,
        "1.10",
    ]
    assert plain(datetime(2026, 1, 2, 3, 4, 5, 6000, UTC)) == "2026-01-02T03:04:05.006000+00:00"
    assert plain({1: (True, {"a": math.nan})}) == {"1": [True, {"a": None}]}


# --- the import's summary ------------------------------------------------------------------------

TABLES = ("models_used", "model_breakdowns", "usage_daily", "usage_monthly", "usage_sessions")
RESULT = ImportResult(
    identity=Identity("lab", "Europe/Berlin", "", "0123456789abcdef"),
    ccusage_version="20.0.24",
    feeds_imported=["daily"],
    feeds_failed={"blocks": "blocks: exit code 1"},
    tables={f"ccusage_{name}": TableCount(1, 2, 0, 34_567) for name in TABLES},
    held={"their transcripts are gone": 12},
    lowered=[LoweredRow("daily", "2026-11-01", 500, 400)],
    total_tokens=280_000_000,
    total_cost=151.23,
    previous={
        "started_at": NOW - timedelta(hours=1),
        "total_tokens": 279_954_900,
        "total_cost": 150.0,
    },
    hashed=True,
    dry_run=False,
    statistics=STATS,
)


def summary_of(result: ImportResult) -> Any:
    return Report(result, import_sections(result))


def summary(result: ImportResult, *, verbose: bool = False) -> str:
    report = Report(result, import_sections(result, verbose=verbose))
    return re.sub(" +", " ", render_table(report, 120, colour=False))


def test_the_summary_says_what_was_held_corrected_and_left_out() -> None:
    shown = summary(RESULT)
    assert "12 rows kept: their transcripts are gone" in shown
    assert "Corrected 1 row smaller, as ccusage now counts" in shown
    assert "Failed blocks: its rows stay as they were" in shown
    assert "New 3 days, 3 sessions changed: +$1.23, +45.1K tokens since 14:30\n" in shown
    assert "Rows" not in shown
    assert "names hashed" in summary(RESULT, verbose=True)
    assert re.search("^daily 1 2 0 34,567$", summary(RESULT, verbose=True), re.MULTILINE)


def test_days_at_former_prices_are_told_with_the_difference() -> None:
    assert "now prices" not in summary(RESULT)
    for dollars, text in ((1.2, "$1.20 higher"), (-0.5, "$0.50 lower")):
        result = RESULT._replace(former_price_days=3, former_price_difference=dollars)
        note = f"ccusage now prices 3 days {text}; they keep their cost"
        assert note in " ".join(summary(result).split())


def test_what_is_new_is_told_in_a_line() -> None:
    nothing = {name: TableCount(0, 0, 0, 9) for name in RESULT.tables}
    assert "New nothing new since 14:30\n" in summary(RESULT._replace(tables=nothing))
    first = RESULT._replace(previous=None)
    assert "New 3 days, 3 sessions changed: +$151.23, +280.0M tokens\n" in summary(first)
    others = {**nothing, "ccusage_usage_blocks": TableCount(0, 1, 0, 9)}
    assert "New 1 other row changed: +$1.23" in summary(RESULT._replace(tables=others))
    assert RESULT.previous
    earlier = {**RESULT.previous, "started_at": NOW - timedelta(days=1)}
    assert "since 2026-11-17 15:30" in summary(RESULT._replace(previous=earlier))
    assert "3 days, 3 sessions would change" in summary(RESULT._replace(dry_run=True))


def test_a_dry_run_says_would() -> None:
    shown = summary(RESULT._replace(dry_run=True, allow_shrink=True, hashed=False))
    assert "Dry run nothing was written" in shown
    assert "would be new would be changed would be removed unchanged" in shown
    assert "Would be lowered by --allow-shrink" in shown
    assert "names stored as they are" in shown


def test_what_allow_shrink_lowered_is_listed() -> None:
    shown = summary(RESULT._replace(allow_shrink=True))
    assert re.search("LoweredRow by --allow-shrink .*\ndaily 2026-11-01 500 400", shown) or (
        "daily 2026-11-01 500 400" in shown
    )


def test_a_summary_without_statistics_still_tells_of_the_import() -> None:
    shown = summary(RESULT._replace(statistics=None, previous=None), verbose=True)
    assert "Machine lab, days in Europe/Berlin, ccusage 20.0.24" in shown
    assert "$151.23, 280.0M tokens of this machine\n" in shown
    assert "Failed blocks: its rows stay as they were" in shown


def test_numbers_stand_on_the_right_in_markdown_also_where_one_is_hardly_any() -> None:
    report = Report({}, [Section(("a", "share", "cost"), [("b_c", "<1%", 0.001)])])
    header, ruler, row, _ = RENDERERS["markdown"](report).split("\n")
    assert (header, ruler) == ("| a | share | cost |", "| --- | ---: | ---: |")
    assert row == r"| b\_c | \<1% | \<$0.01 |"


def test_sections_without_rows_are_left_out() -> None:
    report = Report({}, [Section(rows=[]), Section(rows=[("a", "b")])])
    assert render_table(report, 80, colour=False) == "a  b\n\n"
    assert RENDERERS["markdown"](report) == "- **a:** b\n"


def test_headers_of_numbers_are_folded_where_a_table_is_too_wide() -> None:
    rows = [("a project", "1.00", "12"), ("another one", "22.50", "9")]
    section = Section(("project", "a long header of dollars", "and one of tokens"), rows)
    wide = render_table(Report({}, [section]), 80, colour=False)
    assert "a long header of dollars  and one of tokens\n" in wide
    narrow = render_table(Report({}, [section]), 30, colour=False)
    assert max(map(len, narrow.split("\n"))) <= 30
    assert {"header", "dollars", "tokens", "22.50"} <= set(narrow.split())


def test_times_are_in_the_scopes_zone() -> None:
    assert STATS.blocks[0].start.tzinfo == ZoneInfo("Europe/Berlin")
    assert "13:00 – 18:00, 2 h 30 min left" in table(STATS, 80)


# --- answers to queries --------------------------------------------------------------------------


def answer(name: str, columns: list[str], rows: list[Any], **values: str) -> Any:
    query = find_query(name)
    section = answer_section(query, {**query.parameters, **values}, columns, rows, SCOPE)
    return Report([], [section], columns, rows)


DAYS = [(TODAY - timedelta(ago), 12_345_678 * ago, 1.5 * ago, ago / 3, -4.0) for ago in (2, 1, 0)]
SESSION = ("b909b9d6", "2384db68", "a-rather-long-machine-name", "claude", NOW)
CHART = [
    (TODAY - timedelta(ago), ago * (ago % 7) / 9, series)
    for series in "ab"
    for ago in range(29, -1, -1)
]
ANSWERS = {
    "days": answer(
        "daily-cost-trend",
        ["date", "total_tokens", "total_cost", "week_before_average", "change_percent"],
        DAYS,
        days="3",
        machine="lab",
    ),
    "sessions": answer(
        "most-expensive-sessions",
        [
            "project_path",
            "session_id",
            "machine_name",
            "agent",
            "last_activity",
            "total_tokens",
            "total_cost",
            "cost_percent",
        ],
        [(*SESSION, 1_234_567, 0.02, 40.0), (*SESSION, 2_000, 0.0, None)],
    ),
    "chart": answer("chart-cost-by-agent", ["time", "value", "series"], CHART),
    "none": answer("unusual-days", ["date", "total_cost"], []),
}


@pytest.mark.parametrize(
    ("name", "cells", "texts"),
    [
        ("total_cost", [1234.5, 0.001, 0.0, None], ["$1,234.50", "$0.00", "$0.00", ""]),
        ("cost_change", [-1.5, 2.0], ["-$1.50", "+$2.00"]),
        ("total_cost", [0.0123, 0.0], ["$0.0123", "$0.0000"]),
        ("change_percent", [12.345, -3.0, None], ["+12.3%", "-3.0%", ""]),
        ("cost_percent", [1234.5], ["1,234.5%"]),
        ("total_tokens", [999, 1234567], ["999", "1,234,567"]),
        ("year", [2026], ["2026"]),
        ("is_overdue", [1, 0, None], ["yes", "no", ""]),
        ("hours", [1.0, 23.456], ["1.00", "23.46"]),
        ("started_at", [NOW, None], ["2026-11-18 15:30", ""]),
        ("machines", [["a", "b"]], ["a, b"]),
        ("value", [math.nan], [""]),
    ],
)
def test_a_column_has_one_form(name: str, cells: list[Any], texts: list[str]) -> None:
    assert program.column_texts(name, cells, BERLIN) == texts


def test_the_values_of_a_chart_have_the_unit_that_its_name_tells() -> None:
    assert program.column_texts("chart-cost-by-model", [1.0]) == ["$1.00"]
    assert program.column_texts("chart-cache-hits", [1.0]) == ["1.0%"]
    assert program.column_texts("chart-tokens-by-kind", [1]) == ["1"]


def test_only_what_adds_up_has_a_total() -> None:
    (section,) = ANSWERS["days"].sections
    assert (section.total, section.rows[-1]) == (True, ["total", "37,037,034", "$4.50", "", ""])
    assert section.title[1] == "2026-11-16 – 2026-11-18; days: 3; machine: lab"
    assert (
        answer("model-costs", ["model_name", "total_cost"], [("a", 1.0)]).sections[0].total is False
    )


@pytest.mark.parametrize(
    ("name", "values", "days"),
    [
        ("daily-cost-trend", {"days": "1"}, ["2026-11-18 – 2026-11-18"]),
        ("weekly-trend", {"weeks": "2"}, ["2026-11-09 – 2026-11-18"]),
        ("monthly-trend", {"months": "12"}, ["2025-12-01 – 2026-11-18"]),
        ("project-momentum", {"days": "14"}, ["2026-11-05 – 2026-11-18"]),
        ("dormant-projects", {"days": "30"}, []),
        ("daily-cost-trend", {"days": "99999"}, ["1753-02-04 – 2026-11-18"]),
        ("monthly-trend", {"months": "99999"}, ["0001-01-01 – 2026-11-18"]),
        ("weekly-trend", {"weeks": "0"}, []),
    ],
)
def test_the_days_that_an_answer_is_about_are_named(
    name: str, values: dict[str, str], days: list[str]
) -> None:
    assert program.days_of(find_query(name), values, TODAY) == days


# --- charts --------------------------------------------------------------------------------------


def test_a_chart_shows_every_value_that_is_not_nothing() -> None:
    lines = program.chart("title", {"a": 0, "b": 0.001, "c": 4, "d": 8}, "$8", 8, 11)
    assert lines == ["title", "$8       █", "         █", "       █ █", "     ▁ █ █", "   a     d"]
    lines = program.chart("", {"a": 1, "b": 2, "c": 3, "d": 4}, "$4", 4, 5)
    assert lines[1] == "$4  █"
    assert program.chart("", {"a": 0, "b": 0}, "", 0, 7)[1:5] == ["      "] * 4


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=400), st.integers(3, 120))
def test_a_chart_is_never_wider_than_its_room(values: list[float], width: int) -> None:
    costs = {str(day): value for day, value in enumerate(values)}
    lines = program.chart("", costs, "", max(values), width)
    assert len(lines) == 6
    assert all(len(line) <= width + 1 for line in lines[:5])


# --- budgets -------------------------------------------------------------------------------------


def limits(month: float, day: float | None = None) -> Settings:
    return Settings.from_env({})._replace(budget_month=month, budget_day=day)


def budget_lines(stats: Statistics) -> list[str]:
    return [line for line in table(stats, 120).split("\n") if line.startswith("Budget")]


def test_budgets_are_of_all_machines_and_agents() -> None:
    spending = [(TODAY.replace(day=day), 9.0) for day in range(1, 18)] + [(TODAY, 10.0)]
    rows = figures(spending=spending)
    stats = summarise(rows, Scope(NOW, "Europe/Berlin", machine="x"), limits(200.0, 25.5))
    assert budget_lines(stats) == [
        "Budget        $163 of $200 (82 %), $271 at this pace, reached on Nov 23",
        "Budget today  $10 of $25.50 (39 %)",
    ]
    stats = summarise(rows, SCOPE, limits(20.0, 5.0))
    assert budget_lines(stats) == [
        "Budget        $163 of $20 (815 %), $271 at this pace, exceeded on Nov 03",
        "Budget today  $10 of $5 (200 %), exceeded",
    ]
    assert budget_lines(summarise(rows, SCOPE, limits(300.0))) == [
        "Budget        $163 of $300 (54 %), $271 at this pace"
    ]
    assert budget_lines(summarise(rows, SCOPE)) == []


OF_MONTH, OF_DAY = "the budget of this month is", "the budget of today is"


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ((159.0, 0.0), (159.0, 4.0), [f"{OF_MONTH} 80 % used: $163 of $200 (82 %)"]),
        ((159.0, 4.0), (166.0, 4.0), []),
        ((159.0, 4.0), (197.0, 4.0), [f"{OF_MONTH} exceeded: $201 of $200 (100 %)"]),
        ((96.0, 4.0), (197.0, 4.0), [f"{OF_MONTH} exceeded: $201 of $200 (100 %)"]),
        ((197.0, 4.0), (296.0, 4.0), []),
        ((150.0, 0.0), (156.0, 4.0), []),
        ((130.0, 0.0), (134.5, 26.0), [f"{OF_MONTH} 80 % used: $160 of $200 (80 %)",
                                       f"{OF_DAY} exceeded: $26 of $25 (104 %)"]),
        ((201.0, 0.0), (190.0, 0.0), []),
    ],
)  # fmt: skip
def test_a_budget_rings_once_when_it_is_crossed(
    before: tuple[float, float], after: tuple[float, float], lines: list[str]
) -> None:
    """Of the days of this month before today, and of today."""

    def spent(costs: tuple[float, float]) -> list[program.Budget]:
        days = {TODAY.replace(day=3): costs[0], TODAY: costs[1], date(2026, 10, 31): 999.0}
        return list(program.budgets(days, limits(200.0, 25.0), TODAY))

    assert list(program.budget_alarms(spent(before), spent(after))) == lines


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "width", "short"),
    [
        (["alpha", "beta"], 5, ["alpha", "beta"]),
        (["the-first-of-many", "b"], 9, ["the-…many", "b"]),
        (["a-long-name-one", "a-long-name-two"], 9, ["a-lo…-one", "a-lo…-two"]),
        (["one-which-is-long", "two-which-is-long"], 8, ["one-…ong", "two-…ong"]),
        (["xxxxaxxxxxxxxxx", "xxxxbxxxxxxxxxx"], 8, ["xxxxa…xx", "xxxxb…xx"]),
        (["aaaaaaaaaaaa", "aaaaaaaaaaaaa"], 4, ["aa…a", "aa…a"]),
    ],
)
def test_long_names_are_cut_where_they_do_not_differ(
    names: list[str], width: int, short: list[str]
) -> None:
    assert program.shorten(names, width) == short


def test_names_stand_for_their_hashes_without_what_all_projects_share() -> None:
    names = {
        "b909b9d6": "-home-ann-src-alpha",
        "aaaaaaaa": "-home-ann-src-beta",
        "2384db68": "01234567-89ab-4cde-8fff-0123456789ab",
    }
    report = Report(STATS, statistics_sections(STATS))
    text = render_table(report, 120, colour=False, names=names)
    assert re.search("^alpha .*50%", text, re.MULTILINE)
    assert "(alpha/01234567-89ab-4cde-8fff-0123456789ab)" in text
    assert "alpha/9ad0089d" in text  # of another machine
    assert "claude-opus-4-1-20250805" in text
    chart = answer("chart-cost-by-project", ["time", "value", "series"], [(TODAY, 1.0, "b909b9d6")])
    assert "alpha: $1.00" in render_table(chart, 80, colour=False, names=names)
    one = {"b909b9d6": "-home-ann-src-alpha"}
    report = Report(STATS, statistics_sections(STATS))
    assert "-home-ann-src-alpha" in render_table(report, 80, colour=False, names=one)


def test_names_in_a_chart_or_a_title_cannot_command_the_terminal() -> None:
    chart = answer("chart-cost-by-agent", ["time", "value", "series"], [(TODAY, 1.0, "\x1b[2Jx")])
    assert "\x1b" not in render_table(chart, 80, colour=False)
    assert "�[2Jx: $1.00" in render_table(chart, 80, colour=False)
    named = answer("model-costs", ["model_name"], [("a",)], machine="\x1b[2Jx")
    assert "\x1b" not in render_table(named, 80, colour=False)
