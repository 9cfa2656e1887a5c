-- Tables and views of ccusage-import. Tested with ClickHouse 26.9.
--
-- The importer applies this file itself when something is missing. By hand, in any
-- database, as often as you like:
--     clickhouse client --database usage --multiquery < ccusage_clickhouse_schema.sql
--
-- A row is identified by its table's sorting key. ReplacingMergeTree keeps of each key the
-- row with the newest updated_at, and hides it where that one has is_deleted = 1. Read with
-- FINAL, or through the views: between a run's INSERT and its DELETE both versions are there.

-- A day of one agent on one machine.
CREATE TABLE IF NOT EXISTS ccusage_usage_daily
(
    machine_name String,
    agent LowCardinality(String) DEFAULT 'claude' COMMENT 'claude, codex, opencode, …: the word of ccusage',
    date Date32 COMMENT 'in the time zone recorded for the machine',

    input_tokens UInt64,
    output_tokens UInt64,
    cache_creation_tokens UInt64,
    cache_read_tokens UInt64,
    total_tokens UInt64 COMMENT 'exceeds the four counters where an agent counts reasoning apart',
    total_cost Float64 COMMENT 'US dollars',
    models_count UInt16,

    ccusage_version LowCardinality(String) COMMENT 'the ccusage that produced this row',
    created_at DateTime64(3, 'UTC') COMMENT 'first import of this key',
    updated_at DateTime64(3, 'UTC') COMMENT 'the run that wrote this row, and its version',
    is_deleted UInt8 DEFAULT 0
)
ENGINE = ReplacingMergeTree(updated_at, is_deleted)
ORDER BY (machine_name, agent, date)
SETTINGS non_replicated_deduplication_window = 1000;

-- A month of one agent on one machine. Whole, also when its first transcripts are gone.
CREATE TABLE IF NOT EXISTS ccusage_usage_monthly
(
    machine_name String,
    agent LowCardinality(String) DEFAULT 'claude',
    month String COMMENT 'YYYY-MM',
    year UInt16 MATERIALIZED toUInt16(substring(month, 1, 4)),
    month_num UInt8 MATERIALIZED toUInt8(substring(month, 6, 2)),

    input_tokens UInt64,
    output_tokens UInt64,
    cache_creation_tokens UInt64,
    cache_read_tokens UInt64,
    total_tokens UInt64,
    total_cost Float64 COMMENT 'US dollars',
    models_count UInt16,

    ccusage_version LowCardinality(String),
    created_at DateTime64(3, 'UTC'),
    updated_at DateTime64(3, 'UTC'),
    is_deleted UInt8 DEFAULT 0
)
ENGINE = ReplacingMergeTree(updated_at, is_deleted)
ORDER BY (machine_name, agent, month)
SETTINGS non_replicated_deduplication_window = 1000;

-- A session (a conversation) of one agent on one machine.
CREATE TABLE IF NOT EXISTS ccusage_usage_sessions
(
    machine_name String,
    agent LowCardinality(String) DEFAULT 'claude',
    session_key String COMMENT 'hash of project path, NUL, session id',
    project_path String COMMENT 'as shown: 8 digits of its hash, or the path',
    session_id String COMMENT 'as shown: 8 digits of its hash, or the id',
    first_activity Nullable(DateTime64(3, 'UTC')) COMMENT 'from ccusage 20 on',
    last_activity Nullable(DateTime64(3, 'UTC')) COMMENT 'ccusage 15 to 19: midnight of the day',

    input_tokens UInt64,
    output_tokens UInt64,
    cache_creation_tokens UInt64,
    cache_read_tokens UInt64,
    total_tokens UInt64,
    total_cost Float64 COMMENT 'US dollars',
    models_count UInt16,

    ccusage_version LowCardinality(String),
    created_at DateTime64(3, 'UTC'),
    updated_at DateTime64(3, 'UTC'),
    is_deleted UInt8 DEFAULT 0
)
ENGINE = ReplacingMergeTree(updated_at, is_deleted)
ORDER BY (machine_name, agent, session_key)
SETTINGS non_replicated_deduplication_window = 1000;

-- A 5-hour billing block of Claude, or a gap between two.
CREATE TABLE IF NOT EXISTS ccusage_usage_blocks
(
    machine_name String,
    agent LowCardinality(String) DEFAULT 'claude',
    block_id String COMMENT 'its start, or gap-… of a gap',
    start_time DateTime64(3, 'UTC'),
    end_time DateTime64(3, 'UTC'),
    actual_end_time Nullable(DateTime64(3, 'UTC')) COMMENT 'last entry',
    is_active UInt8 COMMENT 'when imported',
    is_gap UInt8,
    entries UInt64 COMMENT 'messages',

    input_tokens UInt64,
    output_tokens UInt64,
    cache_creation_tokens UInt64,
    cache_read_tokens UInt64,
    total_tokens UInt64,
    cost_usd Float64,
    models_count UInt16,

    usage_limit_reset_time Nullable(DateTime64(3, 'UTC')),
    burn_rate Nullable(Float64) COMMENT 'US dollars per hour, while active',
    `projection` Nullable(Float64) COMMENT 'US dollars at the end of the block, while active',

    ccusage_version LowCardinality(String),
    created_at DateTime64(3, 'UTC'),
    updated_at DateTime64(3, 'UTC'),
    is_deleted UInt8 DEFAULT 0
)
ENGINE = ReplacingMergeTree(updated_at, is_deleted)
ORDER BY (machine_name, agent, block_id)
SETTINGS non_replicated_deduplication_window = 1000;

-- A day of one project on one machine.
CREATE TABLE IF NOT EXISTS ccusage_usage_projects_daily
(
    machine_name String,
    agent LowCardinality(String) DEFAULT 'claude',
    date Date32,
    project_key String COMMENT 'hash of the project name',
    project_id String COMMENT 'as shown: 8 digits of its hash, or the name',

    input_tokens UInt64,
    output_tokens UInt64,
    cache_creation_tokens UInt64,
    cache_read_tokens UInt64,
    total_tokens UInt64,
    total_cost Float64 COMMENT 'US dollars',
    models_count UInt16,

    ccusage_version LowCardinality(String),
    created_at DateTime64(3, 'UTC'),
    updated_at DateTime64(3, 'UTC'),
    is_deleted UInt8 DEFAULT 0
)
ENGINE = ReplacingMergeTree(updated_at, is_deleted)
ORDER BY (machine_name, agent, date, project_key)
SETTINGS non_replicated_deduplication_window = 1000;

-- What one model holds of a row above. Each token is here once per record_type:
-- always filter by one.
CREATE TABLE IF NOT EXISTS ccusage_model_breakdowns
(
    machine_name String,
    agent LowCardinality(String) DEFAULT 'claude',
    record_type Enum8('daily' = 1, 'monthly' = 2, 'session' = 3, 'block' = 4, 'project_daily' = 5),
    record_key String COMMENT 'date, month, session_key or date_project_key',
    model_name LowCardinality(String),

    input_tokens UInt64,
    output_tokens UInt64,
    cache_creation_tokens UInt64,
    cache_read_tokens UInt64,
    total_tokens UInt64,
    cost Float64 COMMENT 'US dollars, 0 also where ccusage knows no price',

    ccusage_version LowCardinality(String),
    created_at DateTime64(3, 'UTC'),
    updated_at DateTime64(3, 'UTC'),
    is_deleted UInt8 DEFAULT 0
)
ENGINE = ReplacingMergeTree(updated_at, is_deleted)
ORDER BY (machine_name, agent, record_type, record_key, model_name)
SETTINGS non_replicated_deduplication_window = 1000;

-- That a model was used in a row above.
CREATE TABLE IF NOT EXISTS ccusage_models_used
(
    machine_name String,
    agent LowCardinality(String) DEFAULT 'claude',
    record_type Enum8('daily' = 1, 'monthly' = 2, 'session' = 3, 'block' = 4, 'project_daily' = 5),
    record_key String COMMENT 'date, month, session_key, block_id or date_project_key',
    model_name LowCardinality(String),

    ccusage_version LowCardinality(String),
    created_at DateTime64(3, 'UTC'),
    updated_at DateTime64(3, 'UTC'),
    is_deleted UInt8 DEFAULT 0
)
ENGINE = ReplacingMergeTree(updated_at, is_deleted)
ORDER BY (machine_name, agent, record_type, record_key, model_name)
SETTINGS non_replicated_deduplication_window = 1000;

-- A run of the importer. It also tells a machine that lost its machine.json who it was.
CREATE TABLE IF NOT EXISTS ccusage_import_history
(
    machine_name String,
    installation_id String COMMENT 'random, of the machine.json that the run used',
    timezone LowCardinality(String),
    key_fingerprint LowCardinality(String) COMMENT 'of PROJECT_HASH_KEY, empty without one',
    ccusage_version LowCardinality(String),
    importer_version LowCardinality(String),
    cleanup_period_days UInt32 COMMENT 'retention of Claude Code then, 0: off or unreadable',
    hashed_projects UInt8,

    feeds_imported Array(LowCardinality(String)),
    feeds_failed Array(LowCardinality(String)),
    rows_inserted UInt64,
    rows_deleted UInt64,
    rows_held UInt64 COMMENT 'kept although ccusage now says less',
    rows_corrected UInt64 COMMENT 'smaller rows of another ccusage, believed',
    held_reasons Map(String, UInt64) COMMENT 'held rows per reason',
    total_tokens UInt64 COMMENT 'of all days of the machine, after the run',
    total_cost Float64 COMMENT 'of all days of the machine, after the run',

    started_at DateTime64(3, 'UTC'),
    finished_at DateTime64(3, 'UTC'),
    updated_at DateTime64(3, 'UTC') COMMENT 'the updated_at of the rows that the run wrote'
)
ENGINE = MergeTree
ORDER BY (machine_name, updated_at)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE VIEW IF NOT EXISTS ccusage_v_daily_summary AS
SELECT
    date,
    machine_name,
    agent,
    input_tokens,
    output_tokens,
    cache_creation_tokens,
    cache_read_tokens,
    total_tokens,
    total_cost,
    models_count,
    cache_read_tokens / nullIf(input_tokens + cache_creation_tokens + cache_read_tokens, 0) AS cache_hit_ratio,
    total_cost / nullIf(total_tokens, 0) * 1e6 AS cost_per_million_tokens
FROM ccusage_usage_daily FINAL;

CREATE VIEW IF NOT EXISTS ccusage_v_session_summary AS
SELECT
    machine_name,
    agent,
    session_key,
    project_path,
    session_id,
    first_activity,
    last_activity,
    dateDiff('minute', first_activity, last_activity) AS duration_minutes,
    input_tokens,
    output_tokens,
    cache_creation_tokens,
    cache_read_tokens,
    total_tokens,
    total_cost,
    models_count
FROM ccusage_usage_sessions FINAL;

CREATE VIEW IF NOT EXISTS ccusage_v_model_performance AS
SELECT
    model_name,
    machine_name,
    agent,
    count() AS days_used,
    sum(breakdowns.input_tokens) AS input_tokens,
    sum(breakdowns.output_tokens) AS output_tokens,
    sum(breakdowns.cache_creation_tokens) AS cache_creation_tokens,
    sum(breakdowns.cache_read_tokens) AS cache_read_tokens,
    sum(breakdowns.total_tokens) AS total_tokens,
    sum(breakdowns.cost) AS total_cost,
    sum(breakdowns.cost) / nullIf(sum(breakdowns.total_tokens), 0) * 1e6 AS cost_per_million_tokens,
    sum(breakdowns.cache_read_tokens) / nullIf(
        sum(breakdowns.input_tokens)
        + sum(breakdowns.cache_creation_tokens)
        + sum(breakdowns.cache_read_tokens), 0
    ) AS cache_hit_ratio
FROM ccusage_model_breakdowns AS breakdowns FINAL
WHERE record_type = 'daily'
GROUP BY model_name, machine_name, agent;

CREATE VIEW IF NOT EXISTS ccusage_v_monthly_trends AS
SELECT
    month,
    year,
    month_num,
    machine_name,
    agent,
    total_tokens,
    total_cost,
    models_count,
    lagInFrame(toNullable(total_cost)) OVER months AS previous_cost,
    total_cost - lagInFrame(toNullable(total_cost)) OVER months AS cost_change
FROM ccusage_usage_monthly FINAL
WINDOW months AS (
    PARTITION BY machine_name, agent ORDER BY month ASC
    ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
);

CREATE VIEW IF NOT EXISTS ccusage_v_active_blocks AS
SELECT
    machine_name,
    agent,
    block_id,
    start_time,
    end_time,
    actual_end_time,
    dateDiff('minute', now64(3, 'UTC'), end_time) AS minutes_left,
    entries,
    total_tokens,
    cost_usd,
    burn_rate,
    `projection`
FROM ccusage_usage_blocks FINAL
WHERE is_active AND NOT is_gap AND end_time > now();
