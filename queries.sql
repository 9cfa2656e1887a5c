-- Questions about what ccusage-import has stored. Tested with ClickHouse 26.9.
--
-- By name:  ccusage_importer.py --query daily-cost-trend --param days=7
-- By hand:  clickhouse client --database usage --multiquery < queries.sql
-- Each SET line is the default of a parameter. A machine of '' means all machines.
--
-- What the numbers mean:
-- * Costs are US dollars as ccusage reckons them from API prices. A model that it knows
--   no price of costs 0, so that totals are a lower bound: see models-without-price.
-- * Numbers are totals over machines and agents, except where they are listed by them.
-- * A date is a day in the time zone recorded for its machine, today() is the server's.
--   Where there is a parameter timezone, today is that zone's; --query fills it with
--   the zone recorded for the machine.
-- * Percentages go from 0 to 100. A percentage of nothing is NULL.
-- * Blocks exist for Claude only, gaps between blocks are never counted.

-- Days ------------------------------------------------------------------------------

-- name: all-time-totals
-- What is stored in all: since when, how much, and what does an average day cost?
SELECT
    minOrNull(date) AS first_day,
    maxOrNull(date) AS last_day,
    uniqExactIf(date, daily.total_tokens > 0) AS active_days,
    uniqExact(machine_name) AS machines,
    uniqExact(agent) AS agents,
    sum(daily.total_tokens) AS total_tokens,
    sum(daily.total_cost) AS total_cost,
    sum(daily.total_cost) / nullIf(active_days, 0) AS cost_per_active_day
FROM ccusage_v_daily_summary AS daily;

-- name: daily-cost-trend
-- What did each of the last days cost, and how does it compare with the week before it?
-- days: how many days back
-- machine: one machine, or '' for all
SET param_days = 30;
SET param_machine = '';
WITH
    costs AS (
        SELECT
            date,
            sum(daily.total_tokens) AS total_tokens,
            sum(daily.total_cost) AS total_cost
        FROM ccusage_v_daily_summary AS daily
        WHERE date > toDate32(today()) - {days:UInt32} - 7
            AND date <= toDate32(today()) + 1
            AND has(['', machine_name], {machine:String})
        GROUP BY date
        ORDER BY date ASC WITH FILL
            FROM toDate32(today()) - {days:UInt32} - 6
            TO toDate32(today()) + 1
    ),
    averages AS (
        SELECT
            date,
            total_tokens,
            total_cost,
            sum(total_cost) OVER week_before / 7 AS week_before_average
        FROM costs
        WINDOW week_before AS (
            ORDER BY date ASC
            ROWS BETWEEN 7 PRECEDING AND 1 PRECEDING
        )
    )
SELECT
    date,
    total_tokens,
    total_cost,
    week_before_average,
    100 * (total_cost / nullIf(week_before_average, 0) - 1) AS change_percent
FROM averages
WHERE date > toDate32(today()) - {days:UInt32}
ORDER BY date ASC;

-- name: today-so-far
-- What has today cost, against yesterday and the average active day?
-- days: how many days before today make the average
-- machine: one machine, or '' for all
-- timezone: of today
SET param_days = 30;
SET param_machine = '';
SET param_timezone = 'UTC';
WITH
    toDate(now(), {timezone:String}) AS this_day,
    summary AS (
        SELECT
            sumIf(daily.total_tokens, date = this_day) AS today_tokens,
            sumIf(daily.total_cost, date = this_day) AS today_cost,
            sumIf(daily.total_cost, date = this_day - 1) AS yesterday_cost,
            sumIf(daily.total_cost, date < this_day)
                / nullIf(uniqExactIf(date, date < this_day AND total_tokens > 0), 0)
                AS average_cost
        FROM ccusage_v_daily_summary AS daily
        WHERE date >= toDate32(this_day) - {days:UInt32}
            AND has(['', machine_name], {machine:String})
    )
SELECT
    today_tokens,
    today_cost,
    yesterday_cost,
    average_cost,
    100 * today_cost / nullIf(average_cost, 0) AS percent_of_average
FROM summary;

-- name: most-expensive-days
-- Which days cost most, and which model cost most on them?
-- limit: how many days
SET param_limit = 10;
WITH
    costs AS (
        SELECT
            date,
            sum(daily.total_tokens) AS total_tokens,
            sum(daily.total_cost) AS total_cost
        FROM ccusage_v_daily_summary AS daily
        GROUP BY date
    ),
    model_costs AS (
        SELECT
            record_key,
            model_name,
            sum(breakdowns.cost) AS model_cost
        FROM ccusage_model_breakdowns AS breakdowns FINAL
        WHERE record_type = 'daily'
        GROUP BY record_key, model_name
    ),
    leaders AS (
        SELECT
            record_key,
            argMax(model_name, (model_costs.model_cost, model_name)) AS top_model,
            max(model_costs.model_cost) AS top_model_cost
        FROM model_costs
        GROUP BY record_key
    )
SELECT
    date,
    total_tokens,
    total_cost,
    top_model,
    top_model_cost
FROM costs
LEFT JOIN leaders ON leaders.record_key = toString(costs.date)
ORDER BY total_cost DESC, date DESC
LIMIT {limit:UInt32};

-- name: usage-streaks
-- What were my longest runs of days with usage, and is one of them still going?
-- limit: how many runs
SET param_limit = 10;
WITH
    active_days AS (
        SELECT
            date,
            sum(daily.total_cost) AS total_cost
        FROM ccusage_v_daily_summary AS daily
        WHERE total_tokens > 0
        GROUP BY date
    ),
    numbered_days AS (
        SELECT
            date,
            total_cost,
            toInt64(toInt32(date)) - row_number() OVER (ORDER BY date ASC) AS streak
        FROM active_days
    )
SELECT
    min(date) AS first_day,
    max(date) AS last_day,
    count() AS days,
    sum(numbered_days.total_cost) AS total_cost,
    max(date) BETWEEN today() - 1 AND today() + 1 AS is_current
FROM numbered_days
GROUP BY streak
ORDER BY days DESC, last_day DESC
LIMIT {limit:UInt32};

-- Models ----------------------------------------------------------------------------

-- name: model-costs
-- Which models did the money go to?
-- days: how many days back
-- machine: one machine, or '' for all
SET param_days = 30;
SET param_machine = '';
WITH models AS (
    SELECT
        model_name,
        uniqExact(record_key) AS days_used,
        sum(breakdowns.total_tokens) AS total_tokens,
        sum(breakdowns.cost) AS total_cost
    FROM ccusage_model_breakdowns AS breakdowns FINAL
    WHERE record_type = 'daily'
        AND record_key > toString(toDate32(today()) - {days:UInt32})
        AND has(['', machine_name], {machine:String})
    GROUP BY model_name
)
SELECT
    model_name,
    days_used,
    total_tokens,
    total_cost,
    100 * total_cost / nullIf(sum(total_cost) OVER (), 0) AS cost_percent
FROM models
ORDER BY total_cost DESC, model_name ASC;

-- name: model-effective-prices
-- What does a million tokens of each model cost in effect, with my mix of token kinds?
SELECT
    model_name,
    sum(models.total_tokens) AS total_tokens,
    100 * sum(models.output_tokens) / nullIf(sum(models.total_tokens), 0)
        AS output_percent,
    100 * sum(models.cache_read_tokens) / nullIf(sum(models.total_tokens), 0)
        AS cache_read_percent,
    1e6 * sum(models.total_cost) / nullIf(sum(models.total_tokens), 0)
        AS cost_per_million_tokens,
    1e6 * sum(models.total_cost) / nullIf(sum(models.output_tokens), 0)
        AS cost_per_million_output_tokens
FROM ccusage_v_model_performance AS models
GROUP BY model_name
HAVING sum(models.total_cost) > 0
ORDER BY cost_per_million_tokens DESC, model_name ASC;

-- name: model-months
-- How does my spending move from model to model, month by month?
-- months: how many months back, this one included
SET param_months = 12;
WITH
    costs AS (
        SELECT
            model_name,
            toDate32(concat(record_key, '-01')) AS month_start,
            sum(breakdowns.cost) AS total_cost
        FROM ccusage_model_breakdowns AS breakdowns FINAL
        WHERE record_type = 'monthly'
            AND record_key <= formatDateTime(today() + 1, '%Y-%m')
        GROUP BY model_name, month_start
        ORDER BY
            model_name ASC,
            month_start ASC WITH FILL STEP INTERVAL 1 MONTH
    ),
    changes AS (
        SELECT
            model_name,
            month_start,
            total_cost,
            lagInFrame(total_cost) OVER (
                PARTITION BY model_name ORDER BY month_start ASC
                ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
            ) AS previous_cost
        FROM costs
    )
SELECT
    formatDateTime(month_start, '%Y-%m') AS month,
    model_name,
    total_cost,
    previous_cost,
    total_cost - previous_cost AS cost_change
FROM changes
WHERE month_start > toDate32(toStartOfMonth(today())) - toIntervalMonth({months:UInt32})
ORDER BY month_start ASC, total_cost DESC, model_name ASC;

-- name: model-lifetimes
-- When did I first and last use each model, and which ones have I left behind?
SELECT
    model_name,
    min(toDate32(record_key)) AS first_day,
    max(toDate32(record_key)) AS last_day,
    dateDiff('day', max(toDate32(record_key)), today()) AS days_since,
    uniqExact(record_key) AS days_used,
    sum(breakdowns.total_tokens) AS total_tokens
FROM ccusage_model_breakdowns AS breakdowns FINAL
WHERE record_type = 'daily'
GROUP BY model_name
ORDER BY last_day DESC, first_day DESC, model_name ASC;

-- name: models-without-price
-- Which models does ccusage have no price for, so that the real cost is higher?
WITH models AS (
    SELECT
        model_name,
        uniqExactIf(record_key, cost = 0) AS days_without_price,
        sumIf(breakdowns.total_tokens, cost = 0) AS tokens_without_price,
        sum(breakdowns.total_tokens) AS total_tokens
    FROM ccusage_model_breakdowns AS breakdowns FINAL
    WHERE record_type = 'daily' AND breakdowns.total_tokens > 0
    GROUP BY model_name
)
SELECT
    model_name,
    days_without_price,
    tokens_without_price,
    100 * tokens_without_price / sum(total_tokens) OVER () AS percent_of_all_tokens
FROM models
QUALIFY tokens_without_price > 0
ORDER BY tokens_without_price DESC, model_name ASC;

-- name: model-combinations
-- Which models do I use together in a session, and what does such a session cost?
WITH combinations AS (
    SELECT
        machine_name,
        agent,
        record_key,
        arrayStringConcat(arraySort(groupArray(model_name)), ' + ') AS models
    FROM ccusage_models_used FINAL
    WHERE record_type = 'session'
    GROUP BY machine_name, agent, record_key
)
SELECT
    models,
    count() AS sessions,
    sum(sessions.total_cost) AS total_cost,
    avg(sessions.total_cost) AS cost_per_session
FROM combinations
INNER JOIN ccusage_v_session_summary AS sessions
    ON sessions.machine_name = combinations.machine_name
    AND sessions.agent = combinations.agent
    AND sessions.session_key = combinations.record_key
GROUP BY models
ORDER BY sessions DESC, models ASC;

-- Projects and sessions -------------------------------------------------------------

-- name: project-costs
-- Which projects did the money go to, and how few of them make up most of it?
-- days: how many days back
-- machine: one machine, or '' for all
SET param_days = 30;
SET param_machine = '';
WITH
    costs AS (
        SELECT
            project_key,
            max(project_id) AS project,
            uniqExact(machine_name) AS machines,
            uniqExact(date) AS days_used,
            sum(projects.total_tokens) AS total_tokens,
            sum(projects.total_cost) AS total_cost
        FROM ccusage_usage_projects_daily AS projects FINAL
        WHERE date > toDate32(today()) - {days:UInt32}
            AND has(['', machine_name], {machine:String})
        GROUP BY project_key
    ),
    ranking AS (
        SELECT
            *,
            sum(total_cost) OVER () AS all_cost,
            sum(total_cost) OVER (
                ORDER BY total_cost DESC, project_key ASC
                ROWS UNBOUNDED PRECEDING
            ) AS cost_so_far
        FROM costs
    )
SELECT
    project,
    machines,
    days_used,
    total_tokens,
    total_cost,
    100 * total_cost / nullIf(all_cost, 0) AS cost_percent,
    100 * cost_so_far / nullIf(all_cost, 0) AS cumulative_percent
FROM ranking
ORDER BY total_cost DESC, project_key ASC;

-- name: project-momentum
-- Which projects are taking off, and which are winding down?
-- days: length of the period, compared with the period of that length before it
SET param_days = 14;
WITH costs AS (
    SELECT
        project_key,
        max(project_id) AS project,
        sumIf(projects.total_cost, date > toDate32(today()) - {days:UInt32})
            AS recent_cost,
        sumIf(projects.total_cost, date <= toDate32(today()) - {days:UInt32})
            AS previous_cost
    FROM ccusage_usage_projects_daily AS projects FINAL
    WHERE date > toDate32(today()) - 2 * {days:UInt32}
    GROUP BY project_key
)
SELECT
    project,
    recent_cost,
    previous_cost,
    recent_cost - previous_cost AS cost_change,
    100 * (recent_cost / nullIf(previous_cost, 0) - 1) AS change_percent
FROM costs
ORDER BY cost_change DESC, project_key ASC;

-- name: project-months
-- What did each project cost in each month, for an invoice or a cost centre?
-- months: how many months back, this one included
SET param_months = 3;
SELECT
    formatDateTime(date, '%Y-%m') AS month,
    max(project_id) AS project,
    uniqExact(date) AS days_used,
    sum(projects.total_tokens) AS total_tokens,
    sum(projects.total_cost) AS total_cost
FROM ccusage_usage_projects_daily AS projects FINAL
WHERE date >= toDate32(toStartOfMonth(today())) - toIntervalMonth({months:UInt32} - 1)
GROUP BY month, project_key
ORDER BY month ASC, total_cost DESC, project_key ASC;

-- name: project-models
-- Which models does each project use, and how is its cost divided among them?
-- days: how many days back
SET param_days = 30;
WITH
    names AS (
        SELECT
            project_key,
            max(project_id) AS project
        FROM ccusage_usage_projects_daily FINAL
        GROUP BY project_key
    ),
    costs AS (
        SELECT
            substring(record_key, 12) AS project_key,
            model_name,
            sum(breakdowns.total_tokens) AS total_tokens,
            sum(breakdowns.cost) AS total_cost
        FROM ccusage_model_breakdowns AS breakdowns FINAL
        WHERE record_type = 'project_daily'
            AND toDate32OrNull(substring(record_key, 1, 10))
                > toDate32(today()) - {days:UInt32}
        GROUP BY project_key, model_name
    )
SELECT
    project,
    model_name,
    total_tokens,
    total_cost,
    100 * total_cost / nullIf(sum(total_cost) OVER (PARTITION BY costs.project_key), 0)
        AS percent_of_project
FROM costs
INNER JOIN names ON names.project_key = costs.project_key
ORDER BY project ASC, costs.project_key ASC, total_cost DESC, model_name ASC;

-- name: dormant-projects
-- Which projects have not been worked on for a while, and what had they cost?
-- days: without usage for at least so many days
SET param_days = 30;
SELECT
    max(project_id) AS project,
    max(date) AS last_day,
    dateDiff('day', max(date), today()) AS days_since,
    sum(projects.total_cost) AS total_cost
FROM ccusage_usage_projects_daily AS projects FINAL
GROUP BY project_key
HAVING last_day <= toDate32(today()) - {days:UInt32}
ORDER BY last_day DESC, total_cost DESC, project_key ASC;

-- name: most-expensive-sessions
-- Which sessions cost most?
-- limit: how many sessions
-- machine: one machine, or '' for all
SET param_limit = 20;
SET param_machine = '';
SELECT
    project_path,
    session_id,
    machine_name,
    agent,
    last_activity,
    total_tokens,
    total_cost,
    100 * total_cost / nullIf(sum(total_cost) OVER (), 0) AS cost_percent
FROM ccusage_v_session_summary
WHERE has(['', machine_name], {machine:String})
ORDER BY total_cost DESC, machine_name ASC, agent ASC, session_key ASC
LIMIT {limit:UInt32};

-- name: longest-sessions
-- Which sessions went on longest, and what did an hour of them cost?
-- limit: how many sessions
-- machine: one machine, or '' for all
SET param_limit = 20;
SET param_machine = '';
SELECT
    project_path,
    session_id,
    machine_name,
    agent,
    first_activity,
    last_activity,
    duration_minutes,
    total_cost,
    60 * total_cost / nullIf(duration_minutes, 0) AS cost_per_hour
FROM ccusage_v_session_summary
WHERE duration_minutes IS NOT NULL
    AND has(['', machine_name], {machine:String})
ORDER BY duration_minutes DESC, machine_name ASC, agent ASC, session_key ASC
LIMIT {limit:UInt32};

-- name: session-statistics
-- What does a typical session of each agent cost, and what an extreme one?
SELECT
    agent,
    count() AS sessions,
    sum(sessions.total_cost) AS total_cost,
    avg(sessions.total_cost) AS average_cost,
    quantileExactInclusive(0.5)(sessions.total_cost) AS median_cost,
    quantileExactInclusive(0.9)(sessions.total_cost) AS cost_of_top_tenth,
    max(sessions.total_cost) AS maximum_cost,
    avg(duration_minutes) AS average_minutes
FROM ccusage_v_session_summary AS sessions
GROUP BY agent
ORDER BY sessions DESC, agent ASC;

-- name: session-cost-distribution
-- Is my money in many cheap sessions or in a few expensive ones?
WITH steps AS (
    SELECT
        roundDown(summary.total_cost, [0., 0.1, 1., 10., 100., 1000.]) AS cost_from,
        count() AS sessions,
        sum(summary.total_cost) AS total_cost
    FROM ccusage_v_session_summary AS summary
    GROUP BY cost_from
)
SELECT
    cost_from,
    sessions,
    total_cost,
    100 * sessions / sum(sessions) OVER () AS sessions_percent,
    100 * total_cost / nullIf(sum(total_cost) OVER (), 0) AS cost_percent
FROM steps
ORDER BY cost_from ASC;

-- Time patterns ---------------------------------------------------------------------

-- name: hours-of-day
-- At which hours of the day do I spend?
-- A block's cost is spread evenly over the hours from its start to its last entry.
-- days: how many days back
-- timezone: of the hours
-- machine: one machine, or '' for all
SET param_days = 90;
SET param_timezone = 'UTC';
SET param_machine = '';
WITH spread AS (
    SELECT
        start_time,
        cost_usd,
        dateDiff('hour', start_time, ifNull(actual_end_time, start_time)) + 1 AS hours
    FROM ccusage_usage_blocks FINAL
    WHERE NOT is_gap
        AND start_time > now64(3, 'UTC') - toIntervalDay({days:UInt32})
        AND has(['', machine_name], {machine:String})
)
SELECT
    toHour(start_time + toIntervalHour(passed), {timezone:String}) AS hour,
    count() AS blocks,
    sum(cost_usd / hours) AS total_cost
FROM spread
ARRAY JOIN range(toUInt64(greatest(hours, 1))) AS passed
GROUP BY hour
ORDER BY hour ASC WITH FILL FROM 0 TO 24;

-- name: weekday-hours
-- When in the week do I spend, by weekday and hour?
-- A block's cost is spread evenly over the hours from its start to its last entry.
-- days: how many days back
-- timezone: of the hours and weekdays
SET param_days = 90;
SET param_timezone = 'UTC';
WITH spread AS (
    SELECT
        start_time,
        cost_usd,
        dateDiff('hour', start_time, ifNull(actual_end_time, start_time)) + 1 AS hours
    FROM ccusage_usage_blocks FINAL
    WHERE NOT is_gap
        AND start_time > now64(3, 'UTC') - toIntervalDay({days:UInt32})
)
SELECT
    toDayOfWeek(start_time + toIntervalHour(passed), 0, {timezone:String}) AS weekday,
    toHour(start_time + toIntervalHour(passed), {timezone:String}) AS hour,
    sum(cost_usd / hours) AS total_cost
FROM spread
ARRAY JOIN range(toUInt64(greatest(hours, 1))) AS passed
GROUP BY weekday, hour
ORDER BY weekday ASC, hour ASC;

-- name: weekdays
-- On which weekdays do I spend, and what does a Monday cost on average?
-- days: how many days back
SET param_days = 90;
WITH costs AS (
    SELECT
        toDayOfWeek(date) AS weekday,
        uniqExactIf(date, total_tokens > 0) AS active_days,
        sum(daily.total_cost) AS total_cost
    FROM ccusage_v_daily_summary AS daily
    WHERE date > toDate32(today()) - {days:UInt32}
    GROUP BY weekday
)
SELECT
    weekday,
    ['Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'][weekday] AS name,
    active_days,
    total_cost,
    total_cost / nullIf(active_days, 0) AS cost_per_active_day,
    100 * total_cost / nullIf(sum(total_cost) OVER (), 0) AS cost_percent
FROM costs
ORDER BY weekday ASC;

-- name: weekly-trend
-- What did each week cost, Monday to Sunday, against the week before?
-- weeks: how many weeks back, this one included
SET param_weeks = 12;
WITH
    costs AS (
        SELECT
            toMonday(date) AS week,
            uniqExactIf(date, daily.total_tokens > 0) AS active_days,
            sum(daily.total_tokens) AS total_tokens,
            sum(daily.total_cost) AS total_cost
        FROM ccusage_v_daily_summary AS daily
        WHERE date >= toDate32(toMonday(today())) - 7 * {weeks:UInt32}
            AND date <= toDate32(today()) + 1
        GROUP BY week
        ORDER BY week ASC WITH FILL TO toMonday(today()) + 1 STEP 7
    ),
    changes AS (
        SELECT
            *,
            lagInFrame(total_cost) OVER (
                ORDER BY week ASC
                ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
            ) AS previous_cost
        FROM costs
    )
SELECT
    week,
    active_days,
    total_tokens,
    total_cost,
    previous_cost,
    100 * (total_cost / nullIf(previous_cost, 0) - 1) AS change_percent
FROM changes
WHERE week > toDate32(toMonday(today())) - 7 * {weeks:UInt32}
ORDER BY week ASC;

-- name: monthly-trend
-- What did each month cost, against the month before?
-- months: how many months back, this one included
SET param_months = 12;
WITH
    costs AS (
        SELECT
            toDate32(concat(month, '-01')) AS month_start,
            sum(months.total_tokens) AS total_tokens,
            sum(months.total_cost) AS total_cost
        FROM ccusage_v_monthly_trends AS months
        WHERE month <= formatDateTime(today() + 1, '%Y-%m')
        GROUP BY month_start
        ORDER BY month_start ASC WITH FILL
            TO toDate32(today()) + 1
            STEP INTERVAL 1 MONTH
    ),
    changes AS (
        SELECT
            *,
            lagInFrame(total_cost) OVER (
                ORDER BY month_start ASC
                ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
            ) AS previous_cost
        FROM costs
    )
SELECT
    formatDateTime(month_start, '%Y-%m') AS month,
    total_tokens,
    total_cost,
    previous_cost,
    100 * (total_cost / nullIf(previous_cost, 0) - 1) AS change_percent
FROM changes
WHERE month_start > toDate32(toStartOfMonth(today())) - toIntervalMonth({months:UInt32})
ORDER BY month_start ASC;

-- Cache -----------------------------------------------------------------------------

-- name: cache-by-model
-- How well does caching work for each model?
-- days: how many days back
SET param_days = 30;
SELECT
    model_name,
    sum(breakdowns.cache_creation_tokens) AS written_tokens,
    sum(breakdowns.cache_read_tokens) AS read_tokens,
    sum(breakdowns.cache_read_tokens) / nullIf(sum(breakdowns.cache_creation_tokens), 0)
        AS reads_per_write,
    100 * sum(breakdowns.cache_read_tokens) / nullIf(
        sum(breakdowns.input_tokens)
        + sum(breakdowns.cache_creation_tokens)
        + sum(breakdowns.cache_read_tokens), 0
    ) AS cache_hit_percent
FROM ccusage_model_breakdowns AS breakdowns FINAL
WHERE record_type = 'daily'
    AND record_key > toString(toDate32(today()) - {days:UInt32})
GROUP BY model_name
ORDER BY cache_hit_percent DESC, model_name ASC;

-- name: cache-by-project
-- In which projects does caching work worst?
-- days: how many days back
SET param_days = 30;
SELECT
    max(project_id) AS project,
    sum(projects.total_cost) AS total_cost,
    sum(projects.cache_creation_tokens) AS written_tokens,
    sum(projects.cache_read_tokens) AS read_tokens,
    sum(projects.cache_read_tokens) / nullIf(sum(projects.cache_creation_tokens), 0)
        AS reads_per_write,
    100 * sum(projects.cache_read_tokens) / nullIf(
        sum(projects.input_tokens)
        + sum(projects.cache_creation_tokens)
        + sum(projects.cache_read_tokens), 0
    ) AS cache_hit_percent
FROM ccusage_usage_projects_daily AS projects FINAL
WHERE date > toDate32(today()) - {days:UInt32}
GROUP BY project_key
ORDER BY cache_hit_percent ASC, project_key ASC;

-- name: cache-savings
-- What would each Claude model have cost without caching, and what has caching saved?
-- An estimate: the price of an input token is derived from each month's own cost, and
-- assumes Anthropic's ratios to it. Models without a price count as 0.
-- output: price of an output token, in input tokens
-- write: price of a token written to the cache for 5 minutes (2 for an hour)
-- read: price of a token read from the cache
SET param_output = 5;
SET param_write = 1.25;
SET param_read = 0.1;
WITH
    months AS (
        SELECT
            record_key,
            model_name,
            sum(breakdowns.cost) AS cost,
            sum(breakdowns.input_tokens) AS input_tokens,
            sum(breakdowns.output_tokens) AS output_tokens,
            sum(breakdowns.cache_creation_tokens) AS written_tokens,
            sum(breakdowns.cache_read_tokens) AS read_tokens
        FROM ccusage_model_breakdowns AS breakdowns FINAL
        WHERE record_type = 'monthly' AND model_name ILIKE '%claude%'
        GROUP BY record_key, model_name
    ),
    prices AS (
        SELECT
            *,
            cost / nullIf(
                input_tokens
                + {output:Float64} * output_tokens
                + {write:Float64} * written_tokens
                + {read:Float64} * read_tokens, 0
            ) AS input_price,
            (1 - {read:Float64}) * read_tokens
                - ({write:Float64} - 1) * written_tokens AS input_tokens_saved
        FROM months
    ),
    savings AS (
        SELECT
            model_name,
            sum(prices.cost) AS total_cost,
            sum(input_price * input_tokens_saved) AS saved
        FROM prices
        GROUP BY model_name
    )
SELECT
    model_name,
    total_cost,
    total_cost + saved AS cost_without_cache,
    saved,
    100 * saved / nullIf(total_cost + saved, 0) AS saved_percent
FROM savings
ORDER BY saved DESC, model_name ASC;

-- name: cache-not-paid-back
-- Which sessions wrote more to the cache than reading it back made up for?
-- Assumes Anthropic's ratios: a write costs 0.25, a read saves 0.9 of an input token.
-- tokens: only sessions that wrote at least so many tokens
-- limit: how many sessions
SET param_tokens = 100000;
SET param_limit = 20;
SELECT
    project_path,
    session_id,
    machine_name,
    agent,
    cache_creation_tokens AS written_tokens,
    cache_read_tokens AS read_tokens,
    0.25 * cache_creation_tokens - 0.9 * cache_read_tokens AS input_tokens_lost,
    total_cost
FROM ccusage_v_session_summary
WHERE 0.25 * cache_creation_tokens > 0.9 * cache_read_tokens
    AND cache_creation_tokens >= {tokens:UInt64}
ORDER BY input_tokens_lost DESC, machine_name ASC, agent ASC, session_key ASC
LIMIT {limit:UInt32};

-- Blocks ----------------------------------------------------------------------------

-- name: active-blocks
-- How fast is the running block burning, where will it end, and how much time is left?
SELECT
    machine_name,
    start_time,
    end_time,
    minutes_left,
    entries,
    total_tokens,
    cost_usd,
    burn_rate AS cost_per_hour,
    `projection` AS projected_cost
FROM ccusage_v_active_blocks
ORDER BY end_time ASC, machine_name ASC, agent ASC, block_id ASC;

-- name: recent-blocks
-- What did the latest 5-hour blocks cost, in all and per hour of work?
-- limit: how many blocks
-- machine: one machine, or '' for all
SET param_limit = 20;
SET param_machine = '';
SELECT
    start_time,
    actual_end_time AS last_entry_time,
    machine_name,
    dateDiff('minute', start_time, actual_end_time) AS minutes,
    entries,
    total_tokens,
    cost_usd,
    60 * cost_usd / nullIf(dateDiff('minute', start_time, actual_end_time), 0)
        AS cost_per_hour
FROM ccusage_usage_blocks FINAL
WHERE NOT is_gap
    AND has(['', machine_name], {machine:String})
ORDER BY start_time DESC, machine_name ASC, agent ASC, block_id ASC
LIMIT {limit:UInt32};

-- name: block-statistics
-- What does a typical block hold on each machine, and what did the largest?
-- days: how many days back
SET param_days = 90;
SELECT
    machine_name,
    count() AS blocks,
    avg(entries) AS average_entries,
    avg(blocks.cost_usd) AS average_cost,
    quantileExactInclusive(0.5)(blocks.cost_usd) AS median_cost,
    quantileExactInclusive(0.9)(blocks.cost_usd) AS cost_of_top_tenth,
    max(blocks.cost_usd) AS maximum_cost,
    max(blocks.total_tokens) AS maximum_tokens
FROM ccusage_usage_blocks AS blocks FINAL
WHERE NOT is_gap
    AND start_time > now64(3, 'UTC') - toIntervalDay({days:UInt32})
GROUP BY machine_name
ORDER BY blocks DESC, machine_name ASC;

-- name: burn-rate-by-week
-- Is an hour of work getting more expensive from week to week?
-- weeks: how many weeks back, this one included
SET param_weeks = 12;
WITH work AS (
    SELECT
        toMonday(start_time) AS week,
        count() AS blocks,
        sum(dateDiff('minute', start_time, ifNull(actual_end_time, start_time)))
            / 60 AS hours,
        sum(blocks.total_tokens) AS total_tokens,
        sum(blocks.cost_usd) AS total_cost
    FROM ccusage_usage_blocks AS blocks FINAL
    WHERE NOT is_gap
        AND toDate32(start_time)
            >= toDate32(toMonday(today())) - 7 * (toInt64({weeks:UInt32}) - 1)
        AND start_time <= now()
    GROUP BY week
)
SELECT
    week,
    blocks,
    hours,
    total_cost,
    total_cost / nullIf(hours, 0) AS cost_per_hour,
    total_tokens / nullIf(hours * 60, 0) AS tokens_per_minute
FROM work
ORDER BY week ASC;

-- name: usage-limits-reached
-- When did I run into a usage limit, after how much, and when was it lifted?
SELECT
    start_time,
    actual_end_time AS last_entry_time,
    usage_limit_reset_time AS reset_time,
    machine_name,
    entries,
    total_tokens,
    cost_usd
FROM ccusage_usage_blocks FINAL
WHERE NOT is_gap AND usage_limit_reset_time IS NOT NULL
ORDER BY start_time DESC, machine_name ASC, agent ASC, block_id ASC;

-- Machines --------------------------------------------------------------------------

-- name: machine-costs
-- Which machines did the money go to?
-- days: how many days back
SET param_days = 30;
WITH machines AS (
    SELECT
        machine_name,
        uniqExact(agent) AS agents,
        uniqExactIf(date, daily.total_tokens > 0) AS active_days,
        sum(daily.total_tokens) AS total_tokens,
        sum(daily.total_cost) AS total_cost
    FROM ccusage_v_daily_summary AS daily
    WHERE date > toDate32(today()) - {days:UInt32}
    GROUP BY machine_name
)
SELECT
    machine_name,
    agents,
    active_days,
    total_tokens,
    total_cost,
    100 * total_cost / nullIf(sum(total_cost) OVER (), 0) AS cost_percent
FROM machines
ORDER BY total_cost DESC, machine_name ASC;

-- name: machine-comparison
-- How do the machines differ in price, output and caching, and in change over time?
-- days: length of the period, compared with the period of that length before it
SET param_days = 30;
WITH
    days AS (
        SELECT
            *,
            date > toDate32(today()) - {days:UInt32} AS is_recent
        FROM ccusage_v_daily_summary
        WHERE date > toDate32(today()) - 2 * {days:UInt32}
    ),
    machines AS (
        SELECT
            machine_name,
            sumIf(days.total_cost, NOT is_recent) AS previous_cost,
            sumIf(days.total_cost, is_recent) AS total_cost,
            sumIf(days.total_tokens, is_recent) AS total_tokens,
            sumIf(days.output_tokens, is_recent) AS output_tokens,
            sumIf(days.cache_read_tokens, is_recent) AS read_tokens,
            read_tokens
                + sumIf(days.input_tokens, is_recent)
                + sumIf(days.cache_creation_tokens, is_recent) AS prompt_tokens
        FROM days
        GROUP BY machine_name
    )
SELECT
    machine_name,
    total_cost,
    100 * (total_cost / nullIf(previous_cost, 0) - 1) AS change_percent,
    1e6 * total_cost / nullIf(total_tokens, 0) AS cost_per_million_tokens,
    100 * output_tokens / nullIf(total_tokens, 0) AS output_percent,
    100 * read_tokens / nullIf(prompt_tokens, 0) AS cache_hit_percent
FROM machines
ORDER BY total_cost DESC, machine_name ASC;

-- name: projects-on-several-machines
-- Which projects do I work on from more than one machine?
SELECT
    max(project_id) AS project,
    arraySort(groupUniqArray(machine_name)) AS machines,
    sum(projects.total_cost) AS total_cost,
    argMax(machine_name, (date, machine_name)) AS last_machine,
    max(date) AS last_day
FROM ccusage_usage_projects_daily AS projects FINAL
GROUP BY project_key
HAVING uniqExact(machine_name) > 1
ORDER BY total_cost DESC, project_key ASC;

-- name: machine-freshness
-- When did each machine last import, and is one of them overdue?
-- hours: overdue after so many hours without an import
SET param_hours = 26;
WITH
    imports AS (
        SELECT
            machine_name,
            max(history.finished_at) AS last_import,
            argMax(ccusage_version, history.finished_at) AS last_ccusage
        FROM ccusage_import_history AS history
        GROUP BY machine_name
    ),
    days AS (
        SELECT
            machine_name,
            maxOrNull(date) AS last_day
        FROM ccusage_v_daily_summary
        WHERE total_tokens > 0
        GROUP BY machine_name
    )
SELECT
    machine_name,
    last_import,
    age('hour', last_import, now64(3, 'UTC')) AS hours_since,
    hours_since >= {hours:UInt32} AS is_overdue,
    last_ccusage,
    last_day
FROM imports
LEFT JOIN days ON days.machine_name = imports.machine_name
ORDER BY last_import ASC, machine_name ASC;

-- name: machine-utilisation
-- On how many of the last days was each machine used, and for how many hours?
-- Hours are those of Claude's blocks, from a block's start to its last entry.
-- days: how many days back
SET param_days = 30;
WITH
    days AS (
        SELECT
            machine_name,
            uniqExact(date) AS active_days
        FROM ccusage_v_daily_summary
        WHERE total_tokens > 0
            AND date > toDate32(today()) - {days:UInt32}
        GROUP BY machine_name
    ),
    work AS (
        SELECT
            machine_name,
            sum(dateDiff('minute', start_time, ifNull(actual_end_time, start_time)))
                / 60 AS block_hours
        FROM ccusage_usage_blocks FINAL
        WHERE NOT is_gap
            AND toDate32(start_time) > toDate32(today()) - {days:UInt32}
        GROUP BY machine_name
    )
SELECT
    machine_name,
    active_days,
    100 * active_days / nullIf({days:UInt32}, 0) AS active_percent,
    block_hours,
    block_hours / nullIf(active_days, 0) AS hours_per_active_day
FROM days
LEFT JOIN work ON work.machine_name = days.machine_name
ORDER BY active_days DESC, machine_name ASC;

-- Agents ----------------------------------------------------------------------------

-- name: agent-costs
-- How is the money divided among Claude Code, Codex and the others?
-- days: how many days back
-- machine: one machine, or '' for all
SET param_days = 30;
SET param_machine = '';
WITH agents AS (
    SELECT
        agent,
        uniqExact(machine_name) AS machines,
        uniqExactIf(date, daily.total_tokens > 0) AS active_days,
        sum(daily.total_tokens) AS total_tokens,
        sum(daily.total_cost) AS total_cost
    FROM ccusage_v_daily_summary AS daily
    WHERE date > toDate32(today()) - {days:UInt32}
        AND has(['', machine_name], {machine:String})
    GROUP BY agent
)
SELECT
    agent,
    machines,
    active_days,
    total_tokens,
    total_cost,
    100 * total_cost / nullIf(sum(total_cost) OVER (), 0) AS cost_percent,
    1e6 * total_cost / nullIf(total_tokens, 0) AS cost_per_million_tokens
FROM agents
ORDER BY total_cost DESC, agent ASC;

-- name: agent-months
-- Am I moving from one agent to another, month by month?
-- months: how many months back, this one included
SET param_months = 12;
WITH agents AS (
    SELECT
        month,
        agent,
        sum(months.total_tokens) AS total_tokens,
        sum(months.total_cost) AS total_cost
    FROM ccusage_v_monthly_trends AS months
    WHERE month > formatDateTime(
        toDate32(toStartOfMonth(today())) - toIntervalMonth({months:UInt32}), '%Y-%m'
    )
    GROUP BY month, agent
)
SELECT
    month,
    agent,
    total_tokens,
    total_cost,
    100 * total_tokens / nullIf(sum(total_tokens) OVER (PARTITION BY month), 0)
        AS percent_of_tokens,
    100 * total_cost / nullIf(sum(total_cost) OVER (PARTITION BY month), 0)
        AS percent_of_cost
FROM agents
ORDER BY month ASC, total_cost DESC, agent ASC;

-- Spending --------------------------------------------------------------------------

-- name: month-forecast
-- What will this month have cost by its end?
-- By the average of its days so far (today as a whole day), and by the last seven days.
-- timezone: of today
SET param_timezone = 'UTC';
WITH
    toDate(now(), {timezone:String}) AS this_day,
    month AS (
        SELECT
            sumIf(daily.total_cost, date >= toStartOfMonth(this_day)) AS spent,
            sumIf(daily.total_cost, date >= this_day - 7 AND date < this_day) / 7
                AS recent_cost_per_day,
            toDayOfMonth(this_day) AS days_passed,
            toDayOfMonth(toLastDayOfMonth(this_day)) AS days_in_month
        FROM ccusage_v_daily_summary AS daily
        WHERE date BETWEEN toStartOfMonth(this_day) - 7 AND toLastDayOfMonth(this_day)
    )
SELECT
    spent,
    days_passed,
    days_in_month,
    spent / days_passed AS cost_per_day,
    recent_cost_per_day,
    spent / days_passed * days_in_month AS forecast,
    spent + recent_cost_per_day * (days_in_month - days_passed) AS recent_forecast
FROM month;

-- name: month-to-date
-- How does this month's running total compare with last month's, day by day?
-- timezone: of today
SET param_timezone = 'UTC';
WITH
    toDate(now(), {timezone:String}) AS this_day,
    costs AS (
        SELECT
            toDayOfMonth(date) AS day,
            sumIf(daily.total_cost, date >= toStartOfMonth(this_day)) AS this_month,
            sumIf(daily.total_cost, date < toStartOfMonth(this_day)) AS last_month
        FROM ccusage_v_daily_summary AS daily
        WHERE date >= toStartOfMonth(this_day) - INTERVAL 1 MONTH
            AND date <= toLastDayOfMonth(this_day)
        GROUP BY day
        ORDER BY day ASC WITH FILL FROM 1 TO 32
    )
SELECT
    day,
    if(day <= toDayOfMonth(this_day), sum(costs.this_month) OVER until_day, NULL)
        AS this_month,
    sum(costs.last_month) OVER until_day AS last_month
FROM costs
WINDOW until_day AS (ORDER BY day ASC ROWS UNBOUNDED PRECEDING)
ORDER BY day ASC;

-- name: spending-change
-- Did I spend more in the last days than in as many days before?
-- days: length of the period, compared with the period of that length before it
-- machine: one machine, or '' for all
SET param_days = 30;
SET param_machine = '';
WITH
    days AS (
        SELECT
            *,
            date > toDate32(today()) - {days:UInt32} AS is_recent
        FROM ccusage_v_daily_summary
        WHERE date > toDate32(today()) - 2 * {days:UInt32}
            AND has(['', machine_name], {machine:String})
    ),
    periods AS (
        SELECT
            uniqExactIf(date, is_recent AND days.total_tokens > 0) AS active_days,
            uniqExactIf(date, NOT is_recent AND days.total_tokens > 0)
                AS previous_active_days,
            sumIf(days.total_tokens, is_recent) AS total_tokens,
            sumIf(days.total_tokens, NOT is_recent) AS previous_tokens,
            sumIf(days.total_cost, is_recent) AS total_cost,
            sumIf(days.total_cost, NOT is_recent) AS previous_cost
        FROM days
    )
SELECT
    active_days,
    previous_active_days,
    total_tokens,
    previous_tokens,
    100 * (total_tokens / nullIf(previous_tokens, 0) - 1) AS tokens_change_percent,
    total_cost,
    previous_cost,
    100 * (total_cost / nullIf(previous_cost, 0) - 1) AS cost_change_percent
FROM periods;

-- name: budget-left
-- How much of this month's budget is left, and what may each remaining day cost?
-- budget: dollars for the month
-- timezone: of today
SET param_budget = 200;
SET param_timezone = 'UTC';
WITH
    toDate(now(), {timezone:String}) AS this_day,
    month AS (
        SELECT
            sum(daily.total_cost) AS spent,
            {budget:Float64} - spent AS left,
            toDayOfMonth(toLastDayOfMonth(this_day)) - toDayOfMonth(this_day) + 1
                AS days_left
        FROM ccusage_v_daily_summary AS daily
        WHERE date >= toStartOfMonth(this_day) AND date <= toLastDayOfMonth(this_day)
    )
SELECT
    spent,
    left,
    100 * spent / nullIf({budget:Float64}, 0) AS used_percent,
    days_left,
    greatest(left, 0) / days_left AS affordable_per_day,
    spent / toDayOfMonth(this_day) AS spent_per_day,
    spent_per_day * toDayOfMonth(toLastDayOfMonth(this_day)) <= {budget:Float64}
        AS is_on_track
FROM month;

-- name: days-over-limit
-- On which days did I spend more than I wanted to?
-- limit: dollars a day
-- days: how many days back
SET param_limit = 20;
SET param_days = 30;
WITH costs AS (
    SELECT
        date,
        machine_name,
        sum(daily.total_cost) AS machine_cost
    FROM ccusage_v_daily_summary AS daily
    WHERE date > toDate32(today()) - {days:UInt32}
    GROUP BY date, machine_name
)
SELECT
    date,
    sum(machine_cost) AS total_cost,
    total_cost - {limit:Float64} AS over_limit,
    argMax(machine_name, (machine_cost, machine_name)) AS top_machine
FROM costs
GROUP BY date
HAVING total_cost > {limit:Float64}
ORDER BY date ASC;

-- name: subscription-value
-- What would each month have cost at API prices, against my subscription?
-- price: dollars a month for the subscription
-- agent: whose usage it covers, or '' for all
SET param_price = 200;
SET param_agent = 'claude';
SELECT
    month,
    sum(months.total_cost) AS api_cost,
    {price:Float64} AS price,
    sum(months.total_cost) - {price:Float64} AS saved,
    sum(months.total_cost) / nullIf({price:Float64}, 0) AS times_price
FROM ccusage_v_monthly_trends AS months
WHERE has(['', agent], {agent:String})
GROUP BY month
ORDER BY month ASC;

-- Anomalies -------------------------------------------------------------------------

-- name: unusual-days
-- Which days cost far more than the 30 days before them would let one expect?
-- deviations: by how many standard deviations above the average of the active days
-- least: only days that follow at least so many active days
SET param_deviations = 3;
SET param_least = 7;
WITH
    costs AS (
        SELECT
            date,
            sum(daily.total_cost) AS total_cost
        FROM ccusage_v_daily_summary AS daily
        WHERE total_tokens > 0
        GROUP BY date
    ),
    expectations AS (
        SELECT
            date,
            total_cost,
            count() OVER month_before AS active_days_before,
            avg(total_cost) OVER month_before AS average_before,
            stddevPop(total_cost) OVER month_before AS deviation_before
        FROM costs
        WINDOW month_before AS (
            ORDER BY date ASC
            RANGE BETWEEN 30 PRECEDING AND 1 PRECEDING
        )
    )
SELECT
    date,
    total_cost,
    average_before,
    (total_cost - average_before) / nullIf(deviation_before, 0) AS deviations
FROM expectations
WHERE active_days_before >= {least:UInt32}
    AND total_cost > average_before + {deviations:Float64} * deviation_before
ORDER BY date ASC;

-- name: unusual-sessions
-- Which sessions cost many times what a session of their project usually does?
-- factor: at least so many times the project's median
-- cost: only sessions of at least so many dollars
SET param_factor = 5;
SET param_cost = 1;
WITH medians AS (
    SELECT
        agent,
        project_path,
        quantileExactInclusive(0.5)(total_cost) AS median_cost
    FROM ccusage_v_session_summary
    GROUP BY agent, project_path
)
SELECT
    project_path,
    session_id,
    machine_name,
    agent,
    last_activity,
    total_cost,
    median_cost,
    total_cost / nullIf(median_cost, 0) AS times_median
FROM ccusage_v_session_summary
INNER JOIN medians USING (agent, project_path)
WHERE total_cost >= {cost:Float64}
    AND total_cost >= {factor:Float64} * median_cost
ORDER BY total_cost DESC, machine_name ASC, agent ASC, session_key ASC;

-- name: project-spikes
-- On which days did a project cost many times its usual day?
-- factor: at least so many times the project's median day
-- cost: only days of at least so many dollars
SET param_factor = 5;
SET param_cost = 1;
WITH
    project_days AS (
        SELECT
            project_key,
            date,
            max(project_id) AS project,
            sum(projects.total_cost) AS total_cost
        FROM ccusage_usage_projects_daily AS projects FINAL
        GROUP BY project_key, date
    ),
    medians AS (
        SELECT
            project_key,
            quantileExactInclusive(0.5)(total_cost) AS median_cost
        FROM project_days
        GROUP BY project_key
    )
SELECT
    date,
    project,
    total_cost,
    median_cost,
    total_cost / nullIf(median_cost, 0) AS times_median
FROM project_days
INNER JOIN medians ON medians.project_key = project_days.project_key
WHERE total_cost >= {cost:Float64}
    AND total_cost >= {factor:Float64} * median_cost
ORDER BY date DESC, total_cost DESC, project_days.project_key ASC;

-- name: months-against-days
-- Which months hold more or less than the sum of their days?
-- Expected where a purge or a failed report came between. Also, ccusage 20 counts some
-- messages of subagents in days alone.
-- percent: differences of tokens up to so many percent are not worth a row
SET param_percent = 1;
WITH days AS (
    SELECT
        machine_name,
        agent,
        formatDateTime(date, '%Y-%m') AS month,
        sum(daily.total_tokens) AS day_tokens,
        sum(daily.total_cost) AS day_cost
    FROM ccusage_v_daily_summary AS daily
    GROUP BY machine_name, agent, month
)
SELECT
    month,
    machine_name,
    agent,
    total_tokens AS month_tokens,
    day_tokens,
    total_cost AS month_cost,
    day_cost
FROM ccusage_v_monthly_trends
FULL JOIN days USING (machine_name, agent, month)
WHERE abs(toFloat64(total_tokens) - day_tokens) > total_tokens * {percent:Float64} / 100
ORDER BY month ASC, machine_name ASC, agent ASC;

-- Monitoring ------------------------------------------------------------------------

-- name: record-counts
-- How many rows does each table hold, of how many machines, and how new are they?
WITH counts AS (
    SELECT
        toString(_table) AS table_name,
        count() AS row_count,
        uniqExact(machine_name) AS machines,
        maxOrNull(updated_at) AS last_update
    FROM merge(currentDatabase(), '^ccusage_(usage|models?)_') FINAL
    GROUP BY table_name
)
SELECT
    tables.name AS table_name,
    row_count,
    machines,
    last_update
FROM system.tables AS tables
LEFT JOIN counts ON counts.table_name = tables.name
WHERE tables.database = currentDatabase()
    AND match(tables.name, '^ccusage_(usage|models?)_')
ORDER BY table_name ASC;

-- name: recent-imports
-- What did the latest imports do?
-- limit: how many imports
-- machine: one machine, or '' for all
SET param_limit = 20;
SET param_machine = '';
SELECT
    started_at,
    machine_name,
    dateDiff('millisecond', started_at, finished_at) / 1000 AS seconds,
    ccusage_version,
    length(feeds_imported) AS imported,
    arrayStringConcat(feeds_failed, ', ') AS failed,
    rows_inserted,
    rows_deleted,
    rows_held,
    rows_corrected
FROM ccusage_import_history
WHERE has(['', machine_name], {machine:String})
ORDER BY updated_at DESC, machine_name ASC
LIMIT {limit:UInt32};

-- name: failed-feeds
-- Which reports of ccusage have failed, how often, and do they still?
-- days: how many days back
SET param_days = 7;
WITH runs AS (
    SELECT
        machine_name,
        updated_at,
        arrayConcat(feeds_failed, feeds_imported) AS feeds,
        feeds_failed
    FROM ccusage_import_history
    WHERE updated_at > now64(3, 'UTC') - toIntervalDay({days:UInt32})
)
SELECT
    machine_name,
    feed,
    countIf(has(feeds_failed, feed)) AS failures,
    count() AS runs,
    maxIf(updated_at, has(feeds_failed, feed)) AS last_failure,
    argMax(has(feeds_failed, feed), updated_at) AS is_failing
FROM runs
ARRAY JOIN feeds AS feed
GROUP BY machine_name, feed
HAVING failures > 0
ORDER BY is_failing DESC, last_failure DESC, machine_name ASC, feed ASC;

-- name: held-rows
-- Which rows did each machine's last import keep although ccusage now reports less?
WITH last_runs AS (
    SELECT
        machine_name,
        argMax(history.held_reasons, history.updated_at) AS held_reasons,
        max(history.updated_at) AS imported_at
    FROM ccusage_import_history AS history
    GROUP BY machine_name
)
SELECT
    machine_name,
    imported_at,
    reason,
    held
FROM last_runs
ARRAY JOIN
    mapKeys(held_reasons) AS reason,
    mapValues(held_reasons) AS held
ORDER BY held DESC, machine_name ASC, reason ASC;

-- name: twin-machines
-- Which machines have sessions in common, so that the same transcripts count twice?
WITH twins AS (
    SELECT
        session_key,
        agent,
        arraySort(groupArray(machine_name)) AS machines,
        sum(sessions.total_tokens) - max(sessions.total_tokens) AS tokens,
        sum(sessions.total_cost) - max(sessions.total_cost) AS cost
    FROM ccusage_usage_sessions AS sessions FINAL
    GROUP BY session_key, agent
    HAVING count() > 1
)
SELECT
    arrayStringConcat(machines, ', ') AS machine_names,
    agent,
    count() AS sessions,
    sum(tokens) AS counted_twice_tokens,
    sum(cost) AS counted_twice_cost
FROM twins
GROUP BY machine_names, agent
ORDER BY counted_twice_cost DESC, machine_names ASC, agent ASC;

-- name: ccusage-versions
-- Which versions of ccusage have produced the stored days, on which machines?
SELECT
    machine_name,
    ccusage_version,
    count() AS day_rows,
    min(date) AS first_day,
    max(date) AS last_day,
    max(updated_at) AS last_update
FROM ccusage_usage_daily FINAL
GROUP BY machine_name, ccusage_version
ORDER BY machine_name ASC, last_update DESC, ccusage_version ASC;

-- Statistics: what --stats is made of, in columns for the program ---------------------

-- name: statistics-days
-- What did each day hold, and how much of its prompts came from the cache?
-- machine: one machine, or '' for all
-- agents: agents with commas between, or '' for all
SET param_machine = '';
SET param_agents = '';
SELECT
    date,
    sum(daily.total_cost) AS total_cost,
    sum(daily.total_tokens) AS total_tokens,
    sum(input_tokens + cache_creation_tokens + cache_read_tokens) AS prompt_tokens,
    sum(daily.cache_read_tokens) AS read_tokens
FROM ccusage_usage_daily AS daily FINAL
WHERE has(['', machine_name], {machine:String})
    AND ({agents:String} = '' OR has(splitByChar(',', {agents:String}), agent))
GROUP BY date
ORDER BY date ASC;

-- name: statistics-months
-- What did each of the last twelve months hold, from the first with usage on?
-- since: the first day
-- now: seconds since 1970, or 0 for the present time
-- timezone: of the present month
-- machine: one machine, or '' for all
-- agents: agents with commas between, or '' for all
SET param_since = '1900-01-01';
SET param_now = 0;
SET param_timezone = 'UTC';
SET param_machine = '';
SET param_agents = '';
WITH
    if({now:UInt64} = 0, now(), toDateTime({now:UInt64}, 'UTC')) AS present,
    toStartOfMonth(toDate(present, {timezone:String})) AS this_month,
    days AS (
        SELECT
            date,
            sum(daily.total_cost) AS cost,
            sum(daily.total_tokens) AS tokens
        FROM ccusage_usage_daily AS daily FINAL
        WHERE date >= greatest({since:Date32}, toDate32(addMonths(this_month, -11)))
            AND date < toDate32(addMonths(this_month, 1))
            AND has(['', machine_name], {machine:String})
            AND ({agents:String} = '' OR has(splitByChar(',', {agents:String}), agent))
        GROUP BY date
        HAVING tokens > 0
    ),
    months AS (
        SELECT
            toStartOfMonth(toDate(date)) AS first_day,
            sum(cost) AS total_cost,
            sum(tokens) AS total_tokens,
            count() AS active_days
        FROM days
        GROUP BY first_day
        ORDER BY first_day ASC WITH FILL
            TO addMonths(this_month, 1)
            STEP INTERVAL 1 MONTH
    )
SELECT
    formatDateTime(first_day, '%Y-%m') AS month,
    total_cost,
    total_tokens,
    active_days
FROM months
ORDER BY month ASC;

-- name: statistics-machines
-- What did each machine use?
-- since: the first day
-- machine: one machine, or '' for all
-- agents: agents with commas between, or '' for all
SET param_since = '1900-01-01';
SET param_machine = '';
SET param_agents = '';
SELECT
    machine_name AS name,
    '' AS no_agent,
    sum(daily.total_cost) AS total_cost,
    sum(daily.total_tokens) AS total_tokens
FROM ccusage_usage_daily AS daily FINAL
WHERE date >= {since:Date32}
    AND has(['', machine_name], {machine:String})
    AND ({agents:String} = '' OR has(splitByChar(',', {agents:String}), agent))
GROUP BY name
ORDER BY total_cost DESC, total_tokens DESC, name ASC;

-- name: statistics-agents
-- What did each agent use?
-- since: the first day
-- machine: one machine, or '' for all
-- agents: agents with commas between, or '' for all
SET param_since = '1900-01-01';
SET param_machine = '';
SET param_agents = '';
SELECT
    agent AS name,
    agent,
    sum(daily.total_cost) AS total_cost,
    sum(daily.total_tokens) AS total_tokens
FROM ccusage_usage_daily AS daily FINAL
WHERE date >= {since:Date32}
    AND has(['', machine_name], {machine:String})
    AND ({agents:String} = '' OR has(splitByChar(',', {agents:String}), agent))
GROUP BY agent
ORDER BY total_cost DESC, total_tokens DESC, name ASC;

-- name: statistics-models
-- What was used of each model?
-- since: the first day
-- machine: one machine, or '' for all
-- agents: agents with commas between, or '' for all
SET param_since = '1900-01-01';
SET param_machine = '';
SET param_agents = '';
SELECT
    model_name AS name,
    agent,
    sum(breakdowns.cost) AS total_cost,
    sum(breakdowns.total_tokens) AS total_tokens
FROM ccusage_model_breakdowns AS breakdowns FINAL
WHERE record_type = 'daily'
    AND record_key >= toString({since:Date32})
    AND has(['', machine_name], {machine:String})
    AND ({agents:String} = '' OR has(splitByChar(',', {agents:String}), agent))
GROUP BY name, agent
ORDER BY total_cost DESC, total_tokens DESC, name ASC;

-- name: statistics-projects
-- What was used in each project, under the last of its names?
-- since: the first day
-- machine: one machine, or '' for all
-- agents: agents with commas between, or '' for all
SET param_since = '1900-01-01';
SET param_machine = '';
SET param_agents = '';
SELECT
    argMax(project_id, updated_at) AS name,
    agent,
    sum(projects.total_cost) AS total_cost,
    sum(projects.total_tokens) AS total_tokens
FROM ccusage_usage_projects_daily AS projects FINAL
WHERE date >= {since:Date32}
    AND has(['', machine_name], {machine:String})
    AND ({agents:String} = '' OR has(splitByChar(',', {agents:String}), agent))
GROUP BY project_key, agent
ORDER BY total_cost DESC, total_tokens DESC, name ASC;

-- name: statistics-unpriced
-- How many tokens of which model have no price?
-- Some agents tell the cost of a day, but not of its models.
-- since: the first day
-- machine: one machine, or '' for all
-- agents: agents with commas between, or '' for all
SET param_since = '1900-01-01';
SET param_machine = '';
SET param_agents = '';
WITH
    paid AS (
        SELECT agent
        FROM ccusage_usage_daily AS daily FINAL
        WHERE date >= {since:Date32}
            AND has(['', machine_name], {machine:String})
        GROUP BY agent
        HAVING sum(daily.total_cost) > 0
    ),
    models AS (
        SELECT
            agent,
            model_name,
            sumIf(breakdowns.total_tokens, breakdowns.cost = 0) AS unpriced_tokens,
            sum(sum(breakdowns.cost)) OVER (PARTITION BY agent) AS agent_cost
        FROM ccusage_model_breakdowns AS breakdowns FINAL
        WHERE record_type = 'daily'
            AND record_key >= toString({since:Date32})
            AND has(['', machine_name], {machine:String})
            AND ({agents:String} = '' OR has(splitByChar(',', {agents:String}), agent))
        GROUP BY agent, model_name
    )
SELECT
    model_name,
    sum(unpriced_tokens) AS tokens
FROM models
WHERE agent_cost > 0 OR agent NOT IN (paid)
GROUP BY model_name
HAVING tokens > 0
ORDER BY tokens DESC, model_name ASC;

-- name: statistics-sessions
-- How many sessions are there, and which cost most and lasted longest?
-- since: the first day
-- timezone: of the days
-- machine: one machine, or '' for all
-- agents: agents with commas between, or '' for all
SET param_since = '1900-01-01';
SET param_timezone = 'UTC';
SET param_machine = '';
SET param_agents = '';
WITH sessions AS (
    SELECT
        concat(project_path, if(project_path = '', '', '/'), session_id) AS name,
        total_cost,
        ifNull(dateDiff('minute', first_activity, last_activity), 0) AS minutes
    FROM ccusage_usage_sessions FINAL
    WHERE ifNull(toDate32(last_activity, {timezone:String}), toDate32('1900-01-01'))
            >= {since:Date32}
        AND has(['', machine_name], {machine:String})
        AND ({agents:String} = '' OR has(splitByChar(',', {agents:String}), agent))
)
SELECT
    count() AS number,
    avg(sessions.total_cost) AS average_cost,
    max(sessions.total_cost) AS maximum_cost,
    argMax(name, sessions.total_cost) AS costliest,
    max(minutes) AS longest_minutes,
    if(longest_minutes > 0, argMax(name, minutes), '') AS longest
FROM sessions
HAVING number > 0
ORDER BY number ASC;

-- name: statistics-blocks
-- Which blocks are running, at the rates of their last import?
-- now: seconds since 1970, or 0 for the present time
-- timezone: of the times
-- machine: one machine, or '' for all
-- agents: agents with commas between, or '' for all
SET param_now = 0;
SET param_timezone = 'UTC';
SET param_machine = '';
SET param_agents = '';
WITH if({now:UInt64} = 0, now(), toDateTime({now:UInt64}, 'UTC')) AS present
SELECT
    machine_name,
    toTimeZone(start_time, {timezone:String}) AS start,
    toTimeZone(end_time, {timezone:String}) AS end,
    intDiv(dateDiff('second', present, end_time), 60) AS minutes_left,
    total_tokens,
    cost_usd,
    burn_rate,
    `projection`
FROM ccusage_usage_blocks FINAL
WHERE is_active
    AND NOT is_gap
    AND start_time <= present
    AND end_time > present
    AND has(['', machine_name], {machine:String})
    AND ({agents:String} = '' OR has(splitByChar(',', {agents:String}), agent))
ORDER BY start_time ASC, machine_name ASC, block_id ASC;

-- name: statistics-hours
-- How many tokens are in the blocks that began in each hour of the day?
-- since: the first day
-- timezone: of the hours
-- machine: one machine, or '' for all
-- agents: agents with commas between, or '' for all
SET param_since = '1900-01-01';
SET param_timezone = 'UTC';
SET param_machine = '';
SET param_agents = '';
SELECT
    toHour(start_time, {timezone:String}) AS hour,
    sum(blocks.total_tokens) AS total_tokens
FROM ccusage_usage_blocks AS blocks FINAL
WHERE NOT is_gap
    AND toDate32(start_time, {timezone:String}) >= {since:Date32}
    AND has(['', machine_name], {machine:String})
    AND ({agents:String} = '' OR has(splitByChar(',', {agents:String}), agent))
GROUP BY hour
ORDER BY hour ASC;

-- name: statistics-clock
-- Which part of each recent day's cost was spent until the present time of the day?
-- A block's cost is spread evenly over the hours from its start to its last entry.
-- recent: the first day
-- now: seconds since 1970, or 0 for the present time
-- timezone: of the days and hours
-- machine: one machine, or '' for all
-- agents: agents with commas between, or '' for all
SET param_recent = '1900-01-01';
SET param_now = 0;
SET param_timezone = 'UTC';
SET param_machine = '';
SET param_agents = '';
WITH
    if({now:UInt64} = 0, now(), toDateTime({now:UInt64}, 'UTC')) AS present,
    toTimeZone(present, {timezone:String}) AS local,
    toHour(local) + toMinute(local) / 60 AS so_far,
    spread AS (
        SELECT
            start_time,
            cost_usd,
            dateDiff('hour', start_time, ifNull(actual_end_time, start_time)) + 1
                AS hours
        FROM ccusage_usage_blocks FINAL
        WHERE NOT is_gap
            AND toDate32(end_time, {timezone:String}) >= {recent:Date32}
            AND has(['', machine_name], {machine:String})
            AND ({agents:String} = '' OR has(splitByChar(',', {agents:String}), agent))
    )
SELECT
    toDate32(start_time + toIntervalHour(passed), {timezone:String}) AS date,
    sum(cost_usd / hours * greatest(0, least(1,
        so_far - toHour(start_time + toIntervalHour(passed), {timezone:String})
    ))) / sum(cost_usd / hours) AS part
FROM spread
ARRAY JOIN range(toUInt64(greatest(hours, 1))) AS passed
GROUP BY date
HAVING sum(cost_usd) > 0
ORDER BY date ASC;

-- name: statistics-spending
-- What have all machines and agents spent on each of the recent days, of the budget?
-- recent: the first day
SET param_recent = '1900-01-01';
SELECT
    date,
    sum(daily.total_cost) AS total_cost
FROM ccusage_usage_daily AS daily FINAL
WHERE date >= {recent:Date32}
GROUP BY date
ORDER BY date ASC;

-- name: statistics-runs
-- What did the last import of each machine find, and what did it add to the one before?
-- timezone: of the times
-- machine: one machine, or '' for all
SET param_timezone = 'UTC';
SET param_machine = '';
WITH newest AS (
    SELECT *
    FROM ccusage_import_history
    WHERE has(['', machine_name], {machine:String})
    ORDER BY machine_name ASC, updated_at DESC
    LIMIT 2 BY machine_name
)
SELECT
    machine_name,
    toTimeZone(argMax(started_at, updated_at), {timezone:String}) AS at,
    argMax(ccusage_version, updated_at) AS version,
    toBool(argMax(hashed_projects, updated_at)) AS is_hashed,
    argMax(newest.total_cost, updated_at) AS cost,
    argMax(newest.total_tokens, updated_at) AS tokens,
    if(count() > 1, toTimeZone(argMin(started_at, updated_at), {timezone:String}), NULL)
        AS previous_at,
    round(cost - argMin(newest.total_cost, updated_at), 8) AS added_cost,
    toInt64(tokens) - toInt64(argMin(newest.total_tokens, updated_at)) AS added_tokens,
    argMax(held_reasons, updated_at) AS held
FROM newest
GROUP BY machine_name
ORDER BY at DESC, machine_name ASC;

-- name: statistics-imports
-- On which days were days imported, and how long did Claude Code keep transcripts then?
-- year: the first day
-- timezone: of the days
-- machine: one machine, or '' for all
SET param_year = '1900-01-01';
SET param_timezone = 'UTC';
SET param_machine = '';
SELECT
    toDate32(started_at, {timezone:String}) AS date,
    max(history.cleanup_period_days) AS cleanup_period_days
FROM ccusage_import_history AS history
WHERE toDate32(started_at, {timezone:String}) >= {year:Date32}
    AND arrayExists(feed -> endsWith(feed, 'daily'), feeds_imported)
    AND has(['', machine_name], {machine:String})
GROUP BY date
ORDER BY date ASC;

-- Charts: the columns are always time, value, series ----------------------------------

-- name: chart-cost-by-machine
-- Daily cost, one line per machine
-- days: how many days back
SET param_days = 30;
SELECT
    date AS time,
    sum(daily.total_cost) AS value,
    machine_name AS series
FROM ccusage_v_daily_summary AS daily
WHERE date > toDate32(today()) - {days:UInt32}
GROUP BY time, series
ORDER BY
    series ASC,
    time ASC WITH FILL
        FROM toDate32(today()) - {days:UInt32} + 1
        TO toDate32(today()) + 1;

-- name: chart-cost-by-agent
-- Daily cost, one line per agent
-- days: how many days back
SET param_days = 30;
SELECT
    date AS time,
    sum(daily.total_cost) AS value,
    agent AS series
FROM ccusage_v_daily_summary AS daily
WHERE date > toDate32(today()) - {days:UInt32}
GROUP BY time, series
ORDER BY
    series ASC,
    time ASC WITH FILL
        FROM toDate32(today()) - {days:UInt32} + 1
        TO toDate32(today()) + 1;

-- name: chart-cost-by-model
-- Daily cost, one line for each of the most expensive models and one for the others
-- days: how many days back
-- top: how many models have a line of their own
SET param_days = 30;
SET param_top = 6;
WITH
    costs AS (
        SELECT
            toDate32(record_key) AS date,
            model_name,
            sum(breakdowns.cost) AS total_cost
        FROM ccusage_model_breakdowns AS breakdowns FINAL
        WHERE record_type = 'daily'
            AND record_key > toString(toDate32(today()) - {days:UInt32})
        GROUP BY date, model_name
    ),
    leaders AS (
        SELECT model_name
        FROM costs
        GROUP BY model_name
        ORDER BY sum(total_cost) DESC, model_name ASC
        LIMIT {top:UInt32}
    )
SELECT
    date AS time,
    sum(total_cost) AS value,
    if(model_name IN (leaders), toString(model_name), 'others') AS series
FROM costs
GROUP BY time, series
ORDER BY
    series ASC,
    time ASC WITH FILL
        FROM toDate32(today()) - {days:UInt32} + 1
        TO toDate32(today()) + 1;

-- name: chart-cost-by-project
-- Daily cost, one line for each of the most expensive projects and one for the others
-- days: how many days back
-- top: how many projects have a line of their own
SET param_days = 30;
SET param_top = 6;
WITH
    costs AS (
        SELECT
            date,
            project_key,
            max(projects.project_id) AS project_id,
            sum(projects.total_cost) AS total_cost
        FROM ccusage_usage_projects_daily AS projects FINAL
        WHERE date > toDate32(today()) - {days:UInt32}
        GROUP BY date, project_key
    ),
    leaders AS (
        SELECT
            project_key,
            max(project_id) AS project
        FROM costs
        GROUP BY project_key
        ORDER BY sum(total_cost) DESC, project_key ASC
        LIMIT {top:UInt32}
    )
SELECT
    date AS time,
    sum(total_cost) AS value,
    if(leaders.project_key = '', 'others', project) AS series
FROM costs
LEFT JOIN leaders ON leaders.project_key = costs.project_key
GROUP BY time, series
ORDER BY
    series ASC,
    time ASC WITH FILL
        FROM toDate32(today()) - {days:UInt32} + 1
        TO toDate32(today()) + 1;

-- name: chart-tokens-by-kind
-- Daily tokens, one line each for input, output, cache writes and cache reads
-- days: how many days back
-- machine: one machine, or '' for all
SET param_days = 30;
SET param_machine = '';
SELECT
    date AS time,
    sum(kind.2) AS value,
    kind.1 AS series
FROM ccusage_v_daily_summary
ARRAY JOIN [
    ('input', input_tokens),
    ('output', output_tokens),
    ('cache write', cache_creation_tokens),
    ('cache read', cache_read_tokens)
] AS kind
WHERE date > toDate32(today()) - {days:UInt32}
    AND has(['', machine_name], {machine:String})
GROUP BY time, series
ORDER BY
    series ASC,
    time ASC WITH FILL
        FROM toDate32(today()) - {days:UInt32} + 1
        TO toDate32(today()) + 1;

-- name: chart-cumulative-cost
-- Running total of the cost of each year, one line per year
SELECT
    date AS time,
    sum(sum(daily.total_cost)) OVER (PARTITION BY series ORDER BY time ASC) AS value,
    toString(toYear(date)) AS series
FROM ccusage_v_daily_summary AS daily
GROUP BY time, series
ORDER BY series ASC, time ASC;

-- name: chart-cache-hits
-- Share of the prompt that came from the cache, in percent, one line per agent
-- Days without a prompt have no point: a ratio of nothing is not zero.
-- days: how many days back
SET param_days = 30;
SELECT
    date AS time,
    100 * sum(cache_read_tokens)
        / sum(input_tokens + cache_creation_tokens + cache_read_tokens) AS value,
    agent AS series
FROM ccusage_v_daily_summary
WHERE date > toDate32(today()) - {days:UInt32}
    AND input_tokens + cache_creation_tokens + cache_read_tokens > 0
GROUP BY time, series
ORDER BY series ASC, time ASC;

-- Report: what --stats --format html is made of -------------------------------------

-- name: report-choices
-- What did each agent use on each machine, day by day, and what did all together?
-- A machine or an agent of '' stands for all of them.
-- machine: one machine, or '' for all
-- agents: agents with commas between, or '' for all
SET param_machine = '';
SET param_agents = '';
SELECT
    machine_name,
    agent,
    date,
    sum(daily.total_cost) AS total_cost,
    sum(daily.total_tokens) AS total_tokens,
    sum(input_tokens + cache_creation_tokens + cache_read_tokens) AS prompt_tokens,
    sum(daily.cache_read_tokens) AS read_tokens
FROM ccusage_v_daily_summary AS daily
WHERE has(['', machine_name], {machine:String})
    AND ({agents:String} = '' OR has(splitByChar(',', {agents:String}), agent))
GROUP BY
    GROUPING SETS (
        (date), (date, machine_name), (date, agent), (date, machine_name, agent)
    )
ORDER BY machine_name ASC, agent ASC, date ASC;

-- name: report-days
-- What did each agent use on each machine, day by day, as one row?
-- Days are numbers from 1970 on; each step leads from the day before to the next one.
-- since: the first day
-- machine: one machine, or '' for all
-- agents: agents with commas between, or '' for all
SET param_since = '1900-01-01';
SET param_machine = '';
SET param_agents = '';
WITH arraySort(groupArray((
        toInt32(date),
        total_tokens,
        toInt64(round(1e6 * total_cost))
    ))) AS points
SELECT
    machine_name,
    agent,
    points[1].1 AS first_day,
    arrayDifference(points.1) AS steps,
    points.2 AS tokens,
    points.3 AS micro_dollars
FROM ccusage_v_daily_summary
WHERE date >= {since:Date32}
    AND has(['', machine_name], {machine:String})
    AND ({agents:String} = '' OR has(splitByChar(',', {agents:String}), agent))
GROUP BY machine_name, agent
ORDER BY machine_name ASC, agent ASC;

-- name: report-models
-- What did each model cost on each machine, in such rows, and what has caching saved?
-- The saving is estimated as in cache-savings, and for Claude's models alone.
-- since: the first day
-- machine: one machine, or '' for all
-- agents: agents with commas between, or '' for all
SET param_since = '1900-01-01';
SET param_machine = '';
SET param_agents = '';
WITH
    shares AS (
        SELECT
            toDate32(record_key) AS date,
            machine_name,
            agent,
            model_name,
            breakdowns.total_tokens AS total_tokens,
            breakdowns.cost AS total_cost,
            input_tokens
                + 5 * output_tokens
                + 1.25 * cache_creation_tokens
                + 0.1 * cache_read_tokens AS priced_tokens,
            if(model_name ILIKE '%claude%', 0.9, 0) * cache_read_tokens
                - if(model_name ILIKE '%claude%', 0.25, 0) * cache_creation_tokens
                AS tokens_saved,
            sum(total_cost) OVER same_month
                / nullIf(sum(priced_tokens) OVER same_month, 0) AS price
        FROM ccusage_model_breakdowns AS breakdowns FINAL
        WHERE record_type = 'daily'
            AND record_key >= toString({since:Date32})
            AND has(['', machine_name], {machine:String})
            AND ({agents:String} = '' OR has(splitByChar(',', {agents:String}), agent))
        WINDOW same_month AS (PARTITION BY substring(record_key, 1, 7), model_name)
    ),
    arraySort(groupArray((
        toInt32(date),
        total_tokens,
        toInt64(round(1e6 * total_cost))
    ))) AS points
SELECT
    machine_name,
    agent,
    points[1].1 AS first_day,
    arrayDifference(points.1) AS steps,
    points.2 AS tokens,
    points.3 AS micro_dollars,
    model_name,
    sum(ifNull(tokens_saved * price, 0)) AS saved
FROM shares
GROUP BY machine_name, agent, model_name
ORDER BY machine_name ASC, agent ASC, model_name ASC;

-- name: report-projects
-- What did each project cost on each machine, in such rows, and what is its last name?
-- since: the first day
-- machine: one machine, or '' for all
-- agents: agents with commas between, or '' for all
SET param_since = '1900-01-01';
SET param_machine = '';
SET param_agents = '';
WITH
    projects AS (
        SELECT
            *,
            argMax(project_id, (updated_at, project_id)) OVER (
                PARTITION BY project_key
            ) AS project
        FROM ccusage_usage_projects_daily FINAL
        WHERE date >= {since:Date32}
            AND has(['', machine_name], {machine:String})
            AND ({agents:String} = '' OR has(splitByChar(',', {agents:String}), agent))
    ),
    arraySort(groupArray((
        toInt32(date),
        total_tokens,
        toInt64(round(1e6 * total_cost))
    ))) AS points
SELECT
    machine_name,
    agent,
    points[1].1 AS first_day,
    arrayDifference(points.1) AS steps,
    points.2 AS tokens,
    points.3 AS micro_dollars,
    project_key,
    any(project) AS project
FROM projects
GROUP BY machine_name, agent, project_key
ORDER BY machine_name ASC, agent ASC, project_key ASC;

-- name: report-sessions
-- Which sessions of each machine and agent cost most?
-- machine: one machine, or '' for all
-- agents: agents with commas between, or '' for all
-- since: only sessions that were active on this day or later
-- timezone: of the days
-- limit: how many sessions of each machine and agent
SET param_machine = '';
SET param_agents = '';
SET param_since = '1900-01-01';
SET param_timezone = 'UTC';
SET param_limit = 100;
SELECT
    machine_name,
    agent,
    project_path,
    session_id,
    formatDateTime(last_activity, '%Y-%m-%d %H:%i', {timezone:String}) AS last_active,
    duration_minutes,
    total_tokens,
    total_cost
FROM ccusage_v_session_summary
WHERE has(['', machine_name], {machine:String})
    AND ({agents:String} = '' OR has(splitByChar(',', {agents:String}), agent))
    AND ifNull(toDate32(last_activity, {timezone:String}), toDate32('1900-01-01'))
        >= {since:Date32}
ORDER BY machine_name ASC, agent ASC, total_cost DESC, session_key ASC
LIMIT {limit:UInt32} BY machine_name, agent;

-- name: report-hours
-- When in the week does each machine spend, by weekday and hour?
-- A block's cost is spread evenly over the hours from its start to its last entry.
-- machine: one machine, or '' for all
-- agents: agents with commas between, or '' for all
-- since: the first day
-- timezone: of the days and hours
SET param_machine = '';
SET param_agents = '';
SET param_since = '1900-01-01';
SET param_timezone = 'UTC';
WITH spread AS (
    SELECT
        machine_name,
        agent,
        start_time,
        cost_usd,
        dateDiff('hour', start_time, ifNull(actual_end_time, start_time)) + 1 AS hours
    FROM ccusage_usage_blocks FINAL
    WHERE NOT is_gap
        AND has(['', machine_name], {machine:String})
        AND ({agents:String} = '' OR has(splitByChar(',', {agents:String}), agent))
        AND toDate32(start_time, {timezone:String}) >= {since:Date32}
)
SELECT
    machine_name,
    agent,
    toDayOfWeek(start_time + toIntervalHour(passed), 0, {timezone:String}) AS weekday,
    toHour(start_time + toIntervalHour(passed), {timezone:String}) AS hour,
    sum(cost_usd / hours) AS total_cost
FROM spread
ARRAY JOIN range(toUInt64(greatest(hours, 1))) AS passed
GROUP BY machine_name, agent, weekday, hour
ORDER BY machine_name ASC, agent ASC, weekday ASC, hour ASC;

-- name: report-imports
-- On which days did each machine import, and for how many days is usage kept there?
-- A machine of '' stands for all of them.
-- year: the first day
-- timezone: of the days
-- machine: one machine, or '' for all
SET param_year = '1900-01-01';
SET param_timezone = 'UTC';
SET param_machine = '';
SELECT
    machine_name,
    toDate32(started_at, {timezone:String}) AS date,
    max(history.cleanup_period_days) AS kept_days
FROM ccusage_import_history AS history
WHERE arrayExists(feed -> endsWith(feed, 'daily'), feeds_imported)
    AND has(['', machine_name], {machine:String})
    AND toDate32(started_at, {timezone:String}) >= {year:Date32}
GROUP BY
    GROUPING SETS ((date), (date, machine_name))
ORDER BY machine_name ASC, date ASC;

-- Integrity: what --check looks for in the tables -----------------------------------
-- Each row is a finding: machine, table, agent and key, what is wrong and the remedy.
-- A difference without a remedy is one that ccusage itself makes, and no fault.

-- name: integrity-models
-- Which rows hold less than their models do?
-- The models of a row may hold less: ccusage names no model for some messages.
WITH shares AS (
    SELECT
        machine_name,
        agent,
        CAST(record_type, 'Int8') AS kind,
        record_key,
        0 AS is_row,
        toInt64(input_tokens) AS input,
        toInt64(output_tokens) AS output,
        toInt64(cache_creation_tokens) AS written,
        toInt64(cache_read_tokens) AS read,
        toInt64(total_tokens) AS total,
        cost AS dollars
    FROM ccusage_model_breakdowns FINAL
    UNION ALL
    SELECT
        machine_name,
        agent,
        1,
        toString(date),
        1,
        -toInt64(input_tokens),
        -toInt64(output_tokens),
        -toInt64(cache_creation_tokens),
        -toInt64(cache_read_tokens),
        -toInt64(total_tokens),
        -total_cost
    FROM ccusage_usage_daily FINAL
    UNION ALL
    SELECT
        machine_name,
        agent,
        2,
        month,
        1,
        -toInt64(input_tokens),
        -toInt64(output_tokens),
        -toInt64(cache_creation_tokens),
        -toInt64(cache_read_tokens),
        -toInt64(total_tokens),
        -total_cost
    FROM ccusage_usage_monthly FINAL
    UNION ALL
    SELECT
        machine_name,
        agent,
        3,
        session_key,
        1,
        -toInt64(input_tokens),
        -toInt64(output_tokens),
        -toInt64(cache_creation_tokens),
        -toInt64(cache_read_tokens),
        -toInt64(total_tokens),
        -total_cost
    FROM ccusage_usage_sessions FINAL
    UNION ALL
    SELECT
        machine_name,
        agent,
        4,
        block_id,
        1,
        -toInt64(input_tokens),
        -toInt64(output_tokens),
        -toInt64(cache_creation_tokens),
        -toInt64(cache_read_tokens),
        -toInt64(total_tokens),
        -cost_usd
    FROM ccusage_usage_blocks FINAL
    UNION ALL
    SELECT
        machine_name,
        agent,
        5,
        concat(toString(date), '_', project_key),
        1,
        -toInt64(input_tokens),
        -toInt64(output_tokens),
        -toInt64(cache_creation_tokens),
        -toInt64(cache_read_tokens),
        -toInt64(total_tokens),
        -total_cost
    FROM ccusage_usage_projects_daily FINAL
),
excesses AS (
    SELECT
        machine_name,
        kind,
        agent,
        record_key,
        sum(is_row) AS row_count,
        greatest(sum(input), sum(output), sum(written), sum(read), sum(total))
            AS tokens,
        sum(dollars) AS excess_cost
    FROM shares
    GROUP BY machine_name, agent, kind, record_key
    HAVING tokens > 0 OR excess_cost > 0.0001
)
SELECT
    machine_name,
    [
        'ccusage_usage_daily',
        'ccusage_usage_monthly',
        'ccusage_usage_sessions',
        'ccusage_usage_blocks',
        'ccusage_usage_projects_daily'
    ][kind] AS table,
    concat(agent, ' ', record_key) AS key,
    if(
        row_count = 0,
        'there are models of a row that is not there',
        concat(
            'its models hold ', toString(greatest(tokens, 0)), ' tokens and $',
            toString(round(greatest(excess_cost, 0), 4)), ' more than it does'
        )
    ) AS problem,
    'run ccusage_importer.py --allow-shrink on that machine' AS remedy
FROM excesses
ORDER BY machine_name ASC, table ASC, key ASC;

-- name: integrity-keys
-- Which keys are there twice, were it not for FINAL?
-- While an import is running there may be some. Most keys are there just once,
-- which numbers show faster than texts do.
WITH keys AS (
    SELECT
        machine_name,
        'ccusage_usage_daily' AS table,
        agent,
        toString(date) AS shown,
        cityHash64(table, machine_name, agent, date) AS number
    FROM ccusage_usage_daily
    UNION ALL
    SELECT
        machine_name,
        'ccusage_usage_monthly' AS table,
        agent,
        month AS shown,
        cityHash64(table, machine_name, agent, month) AS number
    FROM ccusage_usage_monthly
    UNION ALL
    SELECT
        machine_name,
        'ccusage_usage_sessions' AS table,
        agent,
        session_key AS shown,
        cityHash64(table, machine_name, agent, session_key) AS number
    FROM ccusage_usage_sessions
    UNION ALL
    SELECT
        machine_name,
        'ccusage_usage_blocks' AS table,
        agent,
        block_id AS shown,
        cityHash64(table, machine_name, agent, block_id) AS number
    FROM ccusage_usage_blocks
    UNION ALL
    SELECT
        machine_name,
        'ccusage_usage_projects_daily' AS table,
        agent,
        concat(toString(date), ' ', project_key) AS shown,
        cityHash64(table, machine_name, agent, date, project_key) AS number
    FROM ccusage_usage_projects_daily
    UNION ALL
    SELECT
        machine_name,
        'ccusage_model_breakdowns' AS table,
        agent,
        concat(toString(record_type), ' ', record_key, ' ', model_name) AS shown,
        cityHash64(table, machine_name, agent, record_type, record_key, model_name)
            AS number
    FROM ccusage_model_breakdowns
    UNION ALL
    SELECT
        machine_name,
        'ccusage_models_used' AS table,
        agent,
        concat(toString(record_type), ' ', record_key, ' ', model_name) AS shown,
        cityHash64(table, machine_name, agent, record_type, record_key, model_name)
            AS number
    FROM ccusage_models_used
)
SELECT
    machine_name,
    table,
    concat(agent, ' ', shown) AS key,
    concat('is there ', toString(count()), ' times, FINAL reads one') AS problem,
    concat('unless an import is running, OPTIMIZE TABLE ', table, ' FINAL') AS remedy
FROM keys
WHERE number IN (SELECT number FROM keys GROUP BY number HAVING count() > 1)
GROUP BY machine_name, table, key
ORDER BY machine_name ASC, table ASC, key ASC;

-- name: integrity-blocks
-- Which blocks begin before the one before them has ended?
WITH blocks AS (
    SELECT
        machine_name,
        agent,
        block_id,
        start_time,
        lagInFrame(block_id) OVER earlier AS previous,
        max(end_time) OVER earlier_ones AS previous_end
    FROM ccusage_usage_blocks FINAL
    WHERE NOT is_gap
    WINDOW
        earlier AS (
            PARTITION BY machine_name, agent ORDER BY start_time ASC, block_id ASC
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ),
        earlier_ones AS (
            PARTITION BY machine_name, agent ORDER BY start_time ASC, block_id ASC
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )
)
SELECT
    machine_name,
    'ccusage_usage_blocks' AS table,
    concat(agent, ' ', block_id) AS key,
    concat('begins before ', previous, ' or an earlier block has ended') AS problem,
    'run ccusage_importer.py --allow-shrink on that machine' AS remedy
FROM blocks
WHERE previous != '' AND start_time < previous_end
ORDER BY machine_name ASC, table ASC, key ASC;

-- name: integrity-numbers
-- Which rows hold a number or a time that cannot be?
-- The counters of other agents may add up to more than their own total. A day that is
-- more than a month ahead can only come from a clock that is wrong.
WITH numbers AS (
    SELECT
        machine_name,
        agent,
        'ccusage_usage_daily' AS table,
        toString(date) AS shown,
        total_tokens AS total,
        toFloat64(input_tokens) + output_tokens + cache_creation_tokens
            + cache_read_tokens AS counted,
        total_cost AS dollars,
        date AS day,
        0 AS is_reversed
    FROM ccusage_usage_daily FINAL
    UNION ALL
    SELECT
        machine_name,
        agent,
        'ccusage_usage_monthly' AS table,
        month AS shown,
        total_tokens AS total,
        toFloat64(input_tokens) + output_tokens + cache_creation_tokens
            + cache_read_tokens AS counted,
        total_cost AS dollars,
        toDate32OrZero(concat(month, '-01')) AS day,
        NOT match(month, '^[0-9]{4}-(0[1-9]|1[0-2])$') AS is_reversed
    FROM ccusage_usage_monthly FINAL
    UNION ALL
    SELECT
        machine_name,
        agent,
        'ccusage_usage_sessions' AS table,
        session_key AS shown,
        total_tokens AS total,
        toFloat64(input_tokens) + output_tokens + cache_creation_tokens
            + cache_read_tokens AS counted,
        total_cost AS dollars,
        toDate32(ifNull(last_activity, toDateTime64('2000-01-01', 3, 'UTC'))) AS day,
        ifNull(first_activity > last_activity, 0) AS is_reversed
    FROM ccusage_usage_sessions FINAL
    UNION ALL
    SELECT
        machine_name,
        agent,
        'ccusage_usage_blocks' AS table,
        block_id AS shown,
        total_tokens AS total,
        toFloat64(input_tokens) + output_tokens + cache_creation_tokens
            + cache_read_tokens AS counted,
        cost_usd AS dollars,
        toDate32(start_time) AS day,
        start_time > end_time OR ifNull(start_time > actual_end_time, 0) AS is_reversed
    FROM ccusage_usage_blocks FINAL
    UNION ALL
    SELECT
        machine_name,
        agent,
        'ccusage_usage_projects_daily' AS table,
        concat(toString(date), '_', project_key) AS shown,
        total_tokens AS total,
        toFloat64(input_tokens) + output_tokens + cache_creation_tokens
            + cache_read_tokens AS counted,
        total_cost AS dollars,
        date AS day,
        0 AS is_reversed
    FROM ccusage_usage_projects_daily FINAL
    UNION ALL
    SELECT
        machine_name,
        agent,
        'ccusage_model_breakdowns' AS table,
        concat(toString(record_type), ' ', record_key, ' ', model_name) AS shown,
        total_tokens AS total,
        toFloat64(input_tokens) + output_tokens + cache_creation_tokens
            + cache_read_tokens AS counted,
        cost AS dollars,
        toDate32('2000-01-01') AS day,
        0 AS is_reversed
    FROM ccusage_model_breakdowns FINAL
)
SELECT
    machine_name,
    table,
    concat(agent, ' ', shown) AS key,
    multiIf(
        NOT isFinite(dollars) OR dollars < 0, concat('costs ', toString(dollars)),
        day < toDate32('1901-01-01') OR day > toDate32('2298-12-31') OR is_reversed,
        'has a time that cannot be',
        day > toDate32(today()) + 31, 'lies in the future',
        'has a total that is smaller than the sum of its counters'
    ) AS problem,
    if(
        problem = 'lies in the future',
        'set the clock of that machine right; the usage is counted all the same',
        'run ccusage_importer.py --allow-shrink on that machine'
    ) AS remedy
FROM numbers
WHERE NOT isFinite(dollars)
    OR dollars < 0
    OR is_reversed
    OR day < toDate32('1901-01-01')
    OR day > least(toDate32('2298-12-31'), toDate32(today()) + 31)
    OR (agent = 'claude' AND counted < 9e15 AND total < counted)
ORDER BY machine_name ASC, table ASC, key ASC;

-- name: integrity-machines
-- Which machines have rows, but no import in the history?
SELECT
    machine_name,
    _table AS table,
    agent AS key,
    concat('has ', toString(count()), ' rows, but no import in the history') AS problem,
    'run ccusage_importer.py on that machine' AS remedy
FROM merge(currentDatabase(), '^ccusage_(usage|models?)_') FINAL
WHERE machine_name NOT IN (SELECT machine_name FROM ccusage_import_history)
GROUP BY machine_name, table, key
ORDER BY machine_name ASC, table ASC, key ASC;

-- name: integrity-projects
-- On which days do the projects of Claude hold something else than the day does?
-- Days are compared up to the last whole import; its own day only if nobody was at work
-- then, as ccusage is asked for the one after the other.
WITH
    imports AS (
        SELECT
            machine_name,
            maxIf(started_at, empty(feeds_failed)) AS whole,
            max(started_at) AS latest
        FROM ccusage_import_history
        GROUP BY machine_name
    ),
    activity AS (
        SELECT
            machine_name,
            max(last_activity + toIntervalDay(isNull(first_activity))) AS busy_until
        FROM ccusage_usage_sessions FINAL
        WHERE agent = 'claude'
        GROUP BY machine_name
    ),
    days AS (
        SELECT
            machine_name,
            date,
            toInt64(total_tokens) AS tokens,
            total_cost AS dollars
        FROM ccusage_usage_daily FINAL
        WHERE agent = 'claude'
        UNION ALL
        SELECT
            machine_name,
            date,
            -toInt64(total_tokens),
            -total_cost
        FROM ccusage_usage_projects_daily FINAL
        WHERE agent = 'claude'
    ),
    differences AS (
        SELECT
            machine_name,
            date,
            sum(tokens) AS more_tokens,
            sum(dollars) AS more_cost
        FROM days
        GROUP BY machine_name, date
        HAVING more_tokens != 0 OR abs(more_cost) > 0.0001
    )
SELECT
    machine_name,
    'ccusage_usage_daily' AS table,
    concat('claude ', toString(date)) AS key,
    concat(
        'holds ', toString(abs(more_tokens)), ' tokens and $',
        toString(round(abs(more_cost), 4)),
        if(more_tokens < 0 OR (more_tokens = 0 AND more_cost < 0), ' less', ' more'),
        ' than its projects do'
    ) AS problem,
    'see what ccusage_importer.py --allow-shrink --dry-run would change there' AS remedy
FROM differences
INNER JOIN imports USING (machine_name)
LEFT JOIN activity USING (machine_name)
WHERE date < toDate32(whole - toIntervalHour(12))
    OR (whole = latest AND ifNull(busy_until < whole - toIntervalMinute(10), 1))
ORDER BY machine_name ASC, date ASC;

-- name: integrity-months
-- Which months hold something else than their days, or less than their sessions?
-- ccusage 20 counts lines of agent_progress in days and not in months, so that days may
-- hold up to a third more than their month. What is used during an import may be in the
-- one and not yet in the other: so much as the day of the import holds is allowed.
WITH
    imports AS (
        SELECT
            machine_name,
            maxIf(started_at, empty(feeds_failed)) AS whole
        FROM ccusage_import_history
        GROUP BY machine_name
        HAVING whole > toDateTime64(0, 3, 'UTC')
    ),
    rows_of_months AS (
        SELECT
            machine_name,
            agent,
            month,
            toInt64(total_tokens) AS month_tokens,
            0 AS day_tokens,
            0 AS session_tokens,
            0 AS allowed,
            toUInt32OrZero(splitByChar('.', ccusage_version)[1]) AS version
        FROM ccusage_usage_monthly FINAL
        UNION ALL
        SELECT
            machine_name,
            agent,
            formatDateTime(date, '%Y-%m'),
            0,
            toInt64(total_tokens),
            0,
            if(date < toDate32(whole - toIntervalHour(12)), 0, total_tokens),
            0
        FROM ccusage_usage_daily FINAL
        INNER JOIN imports USING (machine_name)
        UNION ALL
        SELECT
            machine_name,
            agent,
            formatDateTime(last_activity, '%Y-%m'),
            0,
            0,
            toInt64(total_tokens),
            0,
            0
        FROM ccusage_usage_sessions FINAL
        WHERE formatDateTime(first_activity - toIntervalHour(14), '%Y-%m')
                = formatDateTime(last_activity + toIntervalHour(14), '%Y-%m')
    ),
    months AS (
        SELECT
            machine_name,
            agent,
            month,
            sum(month_tokens) AS of_month,
            sum(day_tokens) AS of_days,
            sum(session_tokens) AS of_sessions,
            sum(allowed) AS of_today,
            of_days > of_month
                AND of_days <= of_month * 4 / 3 + of_today
                AND max(version) >= 20 AS is_usual
        FROM rows_of_months
        GROUP BY machine_name, agent, month
        HAVING abs(of_month - of_days) > of_today OR of_sessions > of_month + of_today
    )
SELECT
    machine_name,
    'ccusage_usage_monthly' AS table,
    concat(agent, ' ', month) AS key,
    concat(
        'holds ', toString(of_month), ' tokens, its days ', toString(of_days),
        ', the sessions within it ', toString(of_sessions),
        if(of_sessions <= of_month + of_today AND is_usual,
            '; ccusage 20 counts agent_progress lines in days alone', '')
    ) AS problem,
    if(of_sessions <= of_month + of_today AND is_usual, '',
        'see what ccusage_importer.py --allow-shrink --dry-run would change there')
        AS remedy
FROM months
INNER JOIN imports USING (machine_name)
ORDER BY machine_name ASC, key ASC;
