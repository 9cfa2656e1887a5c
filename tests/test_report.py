"""Statistics from rows, and how people, dashboards and spreadsheets see them; on a fixed clock."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from datetime import date, datetime, timedelta, timezone
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
    Lowered,
    Scope,
    Section,
    Statistics,
    TableCount,
    Usage,
    change,
    figures_report,
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
    at, held = NOW - timedelta(minutes=5), {"their transcripts are gone": 12}
    start, end = (NOW.replace(hour=hour, minute=0) for hour in (12, 17))
    rows: dict[str, Any] = {
        "days": days,
        "machines": [
            ("lab", "claude", 130.0, 260_000_000),
            ("lab", "codex", 20.0, 20_000_000),
            (LONG, "claude", 42.25, 80_000_000),
        ],
        "models": [
            (OPUS, "claude", 140.0, 60_000_000, 0),
            (SONNET, "claude", 32.25, 240_000_000, 0),
            (NEW, "claude", 0.0, 40_000_000, 40_000_000),
            ("gpt-5-codex", "codex", 0.0, 20_000_000, 20_000_000),
        ],
        "projects": [
            ("b909b9d6", "claude", 100.0, 200_000_000),
            ("b909b9d6", "claude", 72.25, 100_000_000),
        ],
        "sessions": [(1234, 192.25 / 1234, 37.5, "b909b9d6/2384db68", 389, "b909b9d6/9ad0089d")],
        "blocks": [("lab", start, end, 2_500_000, 12.25, 4.9, 24.5)],
        "hours": [(9, 5_000), (14, 7_000)],
        "runs": [
            (LONG, NOW - timedelta(days=3), "18.0.11", 0, 42.25, 0, {}),
            ("lab", at, "20.0.24", 1, 151.23, 45_100, held),
            ("lab", at - timedelta(hours=1), "20.0.23", 1, 150.0, 0, {}),
        ],
        "imports": [(TODAY, 30), (TODAY - timedelta(100), 10)],
    }
    return {**rows, **changes}


STATS = summarise(figures(), SCOPE)
WIDE = figures(models=[("x" * 300, "claude", 1e9, 1, 0)])
NOTHING = summarise({}, SCOPE)


def table(stats: Statistics, width: int, *, colour: bool = False) -> str:
    return render_table(figures_report(stats, statistics_sections(stats)), width, colour=colour)


# --- golden --------------------------------------------------------------------------------------


def test_the_dashboard_at_80_columns() -> None:
    assert table(STATS, 80) == GOLDEN_80


def test_the_dashboard_at_60_columns() -> None:
    assert table(STATS, 60) == GOLDEN_60


def test_the_dashboard_at_200_columns() -> None:
    assert table(STATS, 200) == GOLDEN_200


def test_the_import_summary_at_80_columns() -> None:
    shown = render_table(figures_report(RESULT, import_sections(RESULT)), 80, colour=False)
    assert shown == GOLDEN_IMPORT


def test_the_report_in_markdown() -> None:
    report = figures_report(STATS, statistics_sections(STATS))
    assert RENDERERS["markdown"](report) == GOLDEN_MARKDOWN


@pytest.mark.parametrize("width", [60, 80, 139, 140, 200, 400])
def test_no_line_is_longer_than_the_terminal_is_wide(width: int) -> None:
    for stats in (STATS, NOTHING, summarise(WIDE, SCOPE)):
        assert max(map(len, table(stats, width).split("\n"))) <= width


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
    assert "■" in coloured
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
    report = figures_report(STATS, statistics_sections(STATS))
    content = json.loads(RENDERERS["json"](report))
    assert list(content) == list(Statistics._fields)
    for name in content:
        assert re.search(rf"\b{name}\b", Statistics.__doc__ or ""), f"{name} is not documented"
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
    report = figures_report(STATS, [])
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
    stats = summarise(figures(models=[(evil, "claude", 1.0, 1, 0)]), SCOPE)
    assert "\x1b" not in table(stats, 80)
    assert "[2Jevil" in table(stats, 80)
    markdown = RENDERERS["markdown"](figures_report(stats, statistics_sections(stats)))
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
    assert (today.cost, today.cost_before, today.cost_before_so_far) == (8.0, 2.0, 2.0)
    assert (week.start, week.cost, week.cost_before) == (date(2026, 11, 16), 10.0, 105.0)
    assert (week.cost_before_so_far, week.projected_cost) == (5.0, None)
    assert (month.cost, month.cost_before, month.cost_before_so_far) == (115.0, 1030.0, 30.0)
    assert month.projected_cost == pytest.approx(115.0 / 18 * 30)


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
    month = list(program.periods(days, today))[2]
    assert month.cost == (today - start).days + 1
    assert month.cost_before_so_far == before


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


def test_what_is_free_is_ranked_by_tokens() -> None:
    rows = figures(
        days=[(TODAY, 0.0, 100, 0, 0)],
        models=[("small", "x", 0.0, 25, 25), ("large", "x", 0.0, 75, 75)],
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
    lowered=[Lowered("daily", "2026-11-01", 500, 400)],
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


def summary(result: ImportResult) -> str:
    shown = render_table(figures_report(result, import_sections(result)), 200, colour=False)
    return re.sub(" +", " ", shown)


def test_the_summary_says_what_was_held_corrected_and_left_out() -> None:
    shown = summary(RESULT)
    assert "12 rows kept: their transcripts are gone" in shown
    assert "Corrected 1 row smaller, as ccusage now counts" in shown
    assert "Failed blocks: its rows stay as they were" in shown
    assert "+$1.23, +45.1K tokens since 2026-11-18 14:30" in shown
    assert "names hashed" in shown


def test_a_dry_run_says_would() -> None:
    shown = summary(RESULT._replace(dry_run=True, allow_shrink=True, hashed=False))
    assert "Dry run nothing was written" in shown
    assert "would be new would be changed would be removed unchanged" in shown
    assert "Would be lowered by --allow-shrink" in shown
    assert "names stored as they are" in shown


def test_what_allow_shrink_lowered_is_listed() -> None:
    shown = summary(RESULT._replace(allow_shrink=True))
    assert re.search("Lowered by --allow-shrink .*\ndaily 2026-11-01 500 400", shown) or (
        "daily 2026-11-01 500 400" in shown
    )


def test_a_summary_without_statistics_still_tells_of_the_import() -> None:
    shown = summary(RESULT._replace(statistics=None, previous=None))
    assert "Machine lab, days in Europe/Berlin, ccusage 20.0.24" in shown
    assert "$151.23, 280.0M tokens of this machine\n" in shown


def test_sections_without_rows_are_left_out() -> None:
    report = figures_report({}, [Section(rows=[]), Section(rows=[("a", "b")])])
    assert render_table(report, 80, colour=False) == "a  b\n\n"
    assert RENDERERS["markdown"](report) == "- **a:** b\n"


def test_headers_of_numbers_are_folded_where_a_table_is_too_wide() -> None:
    rows = [("a project", "1.00", "12"), ("another one", "22.50", "9")]
    section = Section(("project", "a long header of dollars", "and one of tokens"), rows)
    wide = render_table(figures_report({}, [section]), 80, colour=False)
    assert "a long header of dollars  and one of tokens\n" in wide
    narrow = render_table(figures_report({}, [section]), 30, colour=False)
    assert max(map(len, narrow.split("\n"))) <= 30
    assert {"header", "dollars", "tokens", "22.50"} <= set(narrow.split())


def test_times_are_in_the_scopes_zone() -> None:
    assert STATS.blocks[0].start.tzinfo == ZoneInfo("Europe/Berlin")
    assert "13:00 – 18:00, 2 h 30 min left" in table(STATS, 80)


# --- golden texts ---------------------------------------------------------------------------------
# ruff: noqa: E501, W291

GOLDEN_80 = """\
Total         $200.75, 379.5M tokens, 75% of the input cached
Days          2026-01-13 – 2026-11-18, 111 with usage
Sessions      1,234, $0.16 on average, $37.50 at most (b909b9d6/2384db68);
              longest 6 h 29 min (b909b9d6/9ad0089d)
Active block  lab, 13:00 – 18:00, 2 h 30 min left: $12.25, 2.5M tokens, $4.90 an
              hour, $24.50 by then

              cost  tokens  before   pace  forecast
Today       $12.25    2.5M   $0.50    ×24
This week   $13.75    5.5M   $8.00  +817%
This month  $31.75   41.5M  $39.50   +22%    $52.92

Models                                            agent   share     cost  tokens
claude-opus-4-1-20250805    ━━━━━━━━━━━━━━        claude    70%  $140.00   60.0M
claude-sonnet-4-20250514    ━━━                   claude    16%   $32.25  240.0M
claude-zeta-9                                     claude     0%    $0.00   40.0M
gpt-5-codex                                       codex      0%    $0.00   20.0M

Projects                                                  share     cost  tokens
b909b9d6                    ━━━━━━━━━━━━━━                  50%  $100.00  200.0M
b909b9d6                    ━━━━━━━━━━                      36%   $72.25  100.0M

Agents                                                    share     cost  tokens
claude                      ━━━━━━━━━━━━━━━━━━━━━━━━        86%  $172.25  340.0M
codex                       ━━━                             10%   $20.00   20.0M

Machines                                                  share     cost  tokens
lab                                       ━━━━━━━━━━        75%  $150.00  280.0M
a-machine-whose-name-somebody-found-wor…  ━━━               21%   $42.25   80.0M

      Dec  Jan Feb Mar  Apr May Jun  Jul Aug  Sep Oct Nov
Mon          ▒                     ▒▒ ▒▒▒▒·▒▒▒▒ ▒▒▒▒ ▒▒▒▒
            ░░                     ░░░░ ░░░░ ░░░░ ░░░░·░░
Wed         ··                     · ········· ···· ····█
            █                      ███ ████ ████ ████·██
Fri         █                       ████ ████ ████ ████·
            ▓                      ▓▓ ▓▓▓▓ ▓▓▓▓ ▓▓▓▓·▓▓▓
Sun         ▓                      ▓▓▓▓ ▓▓▓▓ ▓▓▓▓ ▓▓▓▓·▓
    less ·░▒▓█ more, blank: not imported

Streak       5 days in a row, 6 at most; most expensive 2026-11-18
Busiest      Thursdays; blocks from 14:00
Last import  2026-11-18 15:25 on lab: +$1.23, +45.1K tokens since 2026-11-18
             14:25

Note  costs are a lower bound: no price for claude-zeta-9 (40.0M tokens)
Note  12 rows kept: their transcripts are gone

"""

GOLDEN_60 = """\
Total         $200.75, 379.5M tokens, 75% of the input
              cached
Days          2026-01-13 – 2026-11-18, 111 with usage
Sessions      1,234, $0.16 on average, $37.50 at most
              (b909b9d6/2384db68); longest 6 h 29 min
              (b909b9d6/9ad0089d)
Active block  lab, 13:00 – 18:00, 2 h 30 min left: $12.25,
              2.5M tokens, $4.90 an hour, $24.50 by then

              cost  tokens  before   pace  forecast
Today       $12.25    2.5M   $0.50    ×24
This week   $13.75    5.5M   $8.00  +817%
This month  $31.75   41.5M  $39.50   +22%    $52.92

Models                    agent   share     cost  tokens
claude-opus-4-1-20250805  claude    70%  $140.00   60.0M
claude-sonnet-4-20250514  claude    16%   $32.25  240.0M
claude-zeta-9             claude     0%    $0.00   40.0M
gpt-5-codex               codex      0%    $0.00   20.0M

Projects                              share     cost  tokens
b909b9d6              ━━━━━━━           50%  $100.00  200.0M
b909b9d6              ━━━━━             36%   $72.25  100.0M

Agents                                share     cost  tokens
claude                ━━━━━━━━━━━━      86%  $172.25  340.0M
codex                 ━                 10%   $20.00   20.0M

Machines                              share     cost  tokens
lab                       ━━━━━━━       75%  $150.00  280.0M
a-machine-whose-name-so…  ━━            21%   $42.25   80.0M

      Dec  Jan Feb Mar  Apr May Jun  Jul Aug  Sep Oct Nov
Mon          ▒                     ▒▒ ▒▒▒▒·▒▒▒▒ ▒▒▒▒ ▒▒▒▒
            ░░                     ░░░░ ░░░░ ░░░░ ░░░░·░░
Wed         ··                     · ········· ···· ····█
            █                      ███ ████ ████ ████·██
Fri         █                       ████ ████ ████ ████·
            ▓                      ▓▓ ▓▓▓▓ ▓▓▓▓ ▓▓▓▓·▓▓▓
Sun         ▓                      ▓▓▓▓ ▓▓▓▓ ▓▓▓▓ ▓▓▓▓·▓
    less ·░▒▓█ more, blank: not imported

Streak       5 days in a row, 6 at most; most expensive
             2026-11-18
Busiest      Thursdays; blocks from 14:00
Last import  2026-11-18 15:25 on lab: +$1.23, +45.1K tokens
             since 2026-11-18 14:25

Note  costs are a lower bound: no price for claude-zeta-9
      (40.0M tokens)
Note  12 rows kept: their transcripts are gone

"""

GOLDEN_200 = """\
Total         $200.75, 379.5M tokens, 75% of the input cached                                         Models                                                              agent   share     cost  tokens
Days          2026-01-13 – 2026-11-18, 111 with usage                                                 claude-opus-4-1-20250805          ━━━━━━━━━━━━━━━━━━━━━━            claude    70%  $140.00   60.0M
Sessions      1,234, $0.16 on average, $37.50 at most (b909b9d6/2384db68); longest 6 h 29 min         claude-sonnet-4-20250514          ━━━━━                             claude    16%   $32.25  240.0M
              (b909b9d6/9ad0089d)                                                                     claude-zeta-9                                                       claude     0%    $0.00   40.0M
Active block  lab, 13:00 – 18:00, 2 h 30 min left: $12.25, 2.5M tokens, $4.90 an hour, $24.50 by      gpt-5-codex                                                         codex      0%    $0.00   20.0M
              then
                                                                                                      Projects                                                                    share     cost  tokens
              cost  tokens  before   pace  forecast                                                   b909b9d6                          ━━━━━━━━━━━━━━━━━━━━                        50%  $100.00  200.0M
Today       $12.25    2.5M   $0.50    ×24                                                             b909b9d6                          ━━━━━━━━━━━━━━                              36%   $72.25  100.0M
This week   $13.75    5.5M   $8.00  +817%
This month  $31.75   41.5M  $39.50   +22%    $52.92                                                   Agents                                                                      share     cost  tokens
                                                                                                      claude                            ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━          86%  $172.25  340.0M
Streak       5 days in a row, 6 at most; most expensive 2026-11-18                                    codex                             ━━━━                                        10%   $20.00   20.0M
Busiest      Thursdays; blocks from 14:00
Last import  2026-11-18 15:25 on lab: +$1.23, +45.1K tokens since 2026-11-18 14:25                    Machines                                                                    share     cost  tokens
                                                                                                      lab                                       ━━━━━━━━━━━━━━━━━━━━━━━━            75%  $150.00  280.0M
Note  costs are a lower bound: no price for claude-zeta-9 (40.0M tokens)                              a-machine-whose-name-somebody-found-wor…  ━━━━━━━                             21%   $42.25   80.0M
Note  12 rows kept: their transcripts are gone

      Dec  Jan Feb Mar  Apr May Jun  Jul Aug  Sep Oct Nov
Mon          ▒                     ▒▒ ▒▒▒▒·▒▒▒▒ ▒▒▒▒ ▒▒▒▒
            ░░                     ░░░░ ░░░░ ░░░░ ░░░░·░░
Wed         ··                     · ········· ···· ····█
            █                      ███ ████ ████ ████·██
Fri         █                       ████ ████ ████ ████·
            ▓                      ▓▓ ▓▓▓▓ ▓▓▓▓ ▓▓▓▓·▓▓▓
Sun         ▓                      ▓▓▓▓ ▓▓▓▓ ▓▓▓▓ ▓▓▓▓·▓
    less ·░▒▓█ more, blank: not imported

"""

GOLDEN_IMPORT = """\
Rows              new  changed  removed  unchanged
models used         1        2        0     34,567
model breakdowns    1        2        0     34,567
daily               1        2        0     34,567
monthly             1        2        0     34,567
sessions            1        2        0     34,567

Machine    lab, days in Europe/Berlin, ccusage 20.0.24, names hashed
Stored     $151.23, 280.0M tokens of this machine: +$1.23, +45.1K tokens since
           2026-11-18 14:30
Corrected  1 row smaller, as ccusage now counts
Failed     blocks: its rows stay as they were

Total         $200.75, 379.5M tokens, 75% of the input cached
Days          2026-01-13 – 2026-11-18, 111 with usage
Sessions      1,234, $0.16 on average, $37.50 at most (b909b9d6/2384db68);
              longest 6 h 29 min (b909b9d6/9ad0089d)
Active block  lab, 13:00 – 18:00, 2 h 30 min left: $12.25, 2.5M tokens, $4.90 an
              hour, $24.50 by then

Models                                            agent   share     cost  tokens
claude-opus-4-1-20250805    ━━━━━━━━━━━━━━        claude    70%  $140.00   60.0M
claude-sonnet-4-20250514    ━━━                   claude    16%   $32.25  240.0M
claude-zeta-9                                     claude     0%    $0.00   40.0M
gpt-5-codex                                       codex      0%    $0.00   20.0M

Agents                                                    share     cost  tokens
claude                      ━━━━━━━━━━━━━━━━━━━━━━━━        86%  $172.25  340.0M
codex                       ━━━                             10%   $20.00   20.0M

Machines                                                  share     cost  tokens
lab                                       ━━━━━━━━━━        75%  $150.00  280.0M
a-machine-whose-name-somebody-found-wor…  ━━━               21%   $42.25   80.0M

Note  costs are a lower bound: no price for claude-zeta-9 (40.0M tokens)
Note  12 rows kept: their transcripts are gone

"""

GOLDEN_MARKDOWN = """\
- **Total:** $200.75, 379.5M tokens, 75% of the input cached
- **Days:** 2026-01-13 – 2026-11-18, 111 with usage
- **Sessions:** 1,234, $0.16 on average, $37.50 at most (b909b9d6/2384db68); longest 6 h 29 min (b909b9d6/9ad0089d)
- **Active block:** lab, 13:00 – 18:00, 2 h 30 min left: $12.25, 2.5M tokens, $4.90 an hour, $24.50 by then

|  | cost | tokens | before | pace | forecast |
| --- | ---: | ---: | ---: | ---: | ---: |
| Today | $12.25 | 2.5M | $0.50 | ×24 |  |
| This week | $13.75 | 5.5M | $8.00 | +817% |  |
| This month | $31.75 | 41.5M | $39.50 | +22% | $52.92 |

| Models | agent | share | cost | tokens |
| --- | --- | ---: | ---: | ---: |
| claude-opus-4-1-20250805 | claude | 70% | $140.00 | 60.0M |
| claude-sonnet-4-20250514 | claude | 16% | $32.25 | 240.0M |
| claude-zeta-9 | claude | 0% | $0.00 | 40.0M |
| gpt-5-codex | codex | 0% | $0.00 | 20.0M |

| Projects | share | cost | tokens |
| --- | ---: | ---: | ---: |
| b909b9d6 | 50% | $100.00 | 200.0M |
| b909b9d6 | 36% | $72.25 | 100.0M |

| Agents | share | cost | tokens |
| --- | ---: | ---: | ---: |
| claude | 86% | $172.25 | 340.0M |
| codex | 10% | $20.00 | 20.0M |

| Machines | share | cost | tokens |
| --- | ---: | ---: | ---: |
| lab | 75% | $150.00 | 280.0M |
| a-machine-whose-name-somebody-found-worth-sixty-three-characters | 21% | $42.25 | 80.0M |

```
      Dec  Jan Feb Mar  Apr May Jun  Jul Aug  Sep Oct Nov
Mon          ▒                     ▒▒ ▒▒▒▒·▒▒▒▒ ▒▒▒▒ ▒▒▒▒
            ░░                     ░░░░ ░░░░ ░░░░ ░░░░·░░
Wed         ··                     · ········· ···· ····█
            █                      ███ ████ ████ ████·██ 
Fri         █                       ████ ████ ████ ████· 
            ▓                      ▓▓ ▓▓▓▓ ▓▓▓▓ ▓▓▓▓·▓▓▓ 
Sun         ▓                      ▓▓▓▓ ▓▓▓▓ ▓▓▓▓ ▓▓▓▓·▓ 
    less ·░▒▓█ more, blank: not imported
```

- **Streak:** 5 days in a row, 6 at most; most expensive 2026-11-18
- **Busiest:** Thursdays; blocks from 14:00
- **Last import:** 2026-11-18 15:25 on lab: +$1.23, +45.1K tokens since 2026-11-18 14:25

- **Note:** costs are a lower bound: no price for claude-zeta-9 (40.0M tokens)
- **Note:** 12 rows kept: their transcripts are gone
"""
