"""Three years of ten machines, as their imports would have stored them, made by the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# A use of `model` in `project` on a day, by machine and agent; every number is told by its place.
USES = """
    SELECT
        concat('machine-', leftPad(toString(number % {machines}), 2, '0')) AS machine_name,
        intDiv(number, {machines}) % 6 AS nth,
        if(nth = 5, 'codex', 'claude') AS agent,
        today() - intDiv(number, {machines} * 6) AS date,
        ['claude-sonnet-4-5-20250929', 'claude-opus-4-5-20251101', 'claude-haiku-4-5-20251001',
            'claude-opus-4-1-20250805', 'mystery-model', 'gpt-5-codex'][nth + 1] AS model_name,
        lower(hex(sipHash128(machine_name, nth < 5 ? nth + intDiv(toDayOfYear(date), 40) : 99)))
            AS project_key,
        sipHash64(number) % 90000 AS input,
        sipHash64(number, 1) % 400000 AS output,
        sipHash64(number, 2) % 3000000 AS written,
        sipHash64(number, 3) % 40000000 AS cached,
        input + output + written + cached AS tokens,
        input + 5 * output + 1.25 * written + 0.1 * cached AS priced,
        if(nth = 4, 0, round(4e-6 * priced, 8)) AS spent
    FROM numbers({days} * {machines} * 6)
    WHERE toDayOfWeek(date) < 6 OR sipHash64(date, machine_name) % 3 = 0
"""
COUNTERS = "sum(input), sum(output), sum(written), sum(cached), sum(tokens), sum(spent)"
NAMES = """input_tokens, output_tokens, cache_creation_tokens, cache_read_tokens, total_tokens"""
TABLES = {
    "ccusage_usage_daily": (
        f"date, {NAMES}, total_cost", f"date, {COUNTERS}", "date"
    ),
    "ccusage_model_breakdowns": (
        f"record_type, record_key, model_name, {NAMES}, cost",
        f"'daily', toString(date), model_name, {COUNTERS}",
        "date, model_name",
    ),
    "ccusage_usage_projects_daily": (
        f"date, project_key, project_id, {NAMES}, total_cost",
        f"date, project_key, substring(project_key, 1, 8), {COUNTERS}",
        "date, project_key",
    ),
    "ccusage_usage_sessions": (
        f"""session_key, project_path, session_id, first_activity, last_activity, {NAMES},
            total_cost""",
        f"""lower(hex(sipHash128(project_key, date))) AS session_key,
            substring(project_key, 1, 8), substring(session_key, 1, 8),
            toDateTime64(date, 3, 'UTC') + toIntervalHour(8),
            toDateTime64(date, 3, 'UTC') + toIntervalMinute(500 + sipHash64(date) % 400),
            {COUNTERS}""",
        "date, project_key",
    ),
    "ccusage_usage_blocks": (
        f"block_id, start_time, end_time, actual_end_time, {NAMES}, cost_usd",
        f"""concat(toString(date), toString(nth)) AS block_id,
            toDateTime64(date, 3, 'UTC') + toIntervalHour(7 + 5 * (nth % 3)) AS start_time,
            start_time + toIntervalHour(5), start_time + toIntervalHour(1 + nth % 4),
            {COUNTERS}""",
        "date, nth",
    ),
}  # fmt: skip
RUNS = """
    INSERT INTO ccusage_import_history (machine_name, timezone, ccusage_version, hashed_projects,
        cleanup_period_days, feeds_imported, started_at, finished_at, updated_at)
    SELECT concat('machine-', leftPad(toString(number % {machines}), 2, '0')), 'UTC', '20.0.24', 1,
        30, ['daily'], now64(3) - toIntervalDay(intDiv(number, {machines})) AS at, at, at
    FROM numbers({days} * {machines})
"""


def store(query: Callable[..., Any], days: int = 1_095, machines: int = 10) -> None:
    """Fill the tables, which are there and empty."""
    size = {"days": days, "machines": machines}
    for table, (columns, values, keys) in TABLES.items():
        where = "WHERE agent = 'claude'" if "projects" in table or "blocks" in table else ""
        query(
            f"INSERT INTO {table} (machine_name, agent, {columns}) "
            f"SELECT machine_name, agent, {values} FROM ({USES.format(**size)}) {where} "
            f"GROUP BY machine_name, agent, {keys}"
        )
    query(RUNS.format(**size))
