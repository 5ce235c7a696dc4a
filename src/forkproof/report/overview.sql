-- The events of many files as one table, and what is asked of it. DuckDB's SQL; each statement follows its name.
-- docs/overview.md has the tables in words. FILES, PLAIN and so on are filled in by overview.py.

-- name: events
-- One row for each line that says what happened; the lines that could not be read have no event. Which keys are read is said
-- here, so that others cost nothing, and what a later version adds does no harm.
CREATE TABLE events (
    source VARCHAR,                 -- the file
    v INTEGER, event VARCHAR, time TIMESTAMP, host VARCHAR, program VARCHAR,
    pid BIGINT, parent BIGINT, child BIGINT, fork BIGINT,
    risk VARCHAR, outcome VARCHAR, waited_ms DOUBLE,
    file VARCHAR, line INTEGER,     -- the place that forked
    hazards STRUCT(kind VARCHAR, what VARCHAR, certainty VARCHAR, cleared BOOLEAN)[],
    seconds DOUBLE, verdict VARCHAR, waits_for VARCHAR, hazard VARCHAR, thread VARCHAR   -- of a hang
);

-- name: load
INSERT INTO events
SELECT filename, v, event, try_cast(time AS TIMESTAMP), coalesce(host, '?'),
       coalesce(program, parse_filename("where".file), '?'),
       pid, parent, child, fork, risk, outcome, coalesce(waited_ms, 0), "where".file, "where".line,
       hazards, seconds, verdict, waits_for.what, hazard.what, thread.name
FROM read_json($files, format = 'newline_delimited', compression = $compression, filename = true, ignore_errors = true,
    maximum_object_size = 16777216,
    columns = {
        v: 'INTEGER', event: 'VARCHAR', time: 'VARCHAR', host: 'VARCHAR', program: 'VARCHAR',
        pid: 'BIGINT', parent: 'BIGINT', child: 'BIGINT', fork: 'BIGINT',
        risk: 'VARCHAR', outcome: 'VARCHAR', waited_ms: 'DOUBLE',
        "where": 'STRUCT(file VARCHAR, line INTEGER)',
        hazards: 'STRUCT(kind VARCHAR, what VARCHAR, certainty VARCHAR, cleared BOOLEAN)[]',
        seconds: 'DOUBLE', verdict: 'VARCHAR', waits_for: 'STRUCT(what VARCHAR)', hazard: 'STRUCT(what VARCHAR)',
        thread: 'STRUCT(name VARCHAR)'
    })
WHERE event IS NULL OR event NOT IN ('born', 'resolved');

-- name: forks
CREATE VIEW forks AS SELECT * FROM events WHERE event = 'fork' AND v = 1;

-- name: hazards
-- One row for each thing that was seen at a fork, whatever became of it.
CREATE VIEW hazards AS
SELECT source, time, host, program, pid, fork, risk, outcome, waited_ms, h.kind AS kind, h.what AS what,
       h.certainty AS certainty, coalesce(h.cleared, false) AS cleared
FROM (SELECT *, unnest(hazards) AS h FROM forks WHERE len(hazards) > 0);

-- name: hangs
CREATE VIEW hangs AS
SELECT source, time, host, program, pid, parent, fork, seconds, verdict, coalesce(hazard, waits_for) AS what, thread
FROM events WHERE event = 'hang' AND v = 1;

-- name: totals
-- All there is, in one row.
SELECT count(*) AS forks, count(DISTINCT program) AS programs, count(DISTINCT host) AS hosts,
       count(*) FILTER (WHERE risk <> 'none' AND outcome IS DISTINCT FROM 'refused') AS at_risk,
       count(*) FILTER (WHERE outcome = 'refused') AS refused,
       count(*) FILTER (WHERE waited_ms > 0) AS waited,
       median(waited_ms) FILTER (WHERE waited_ms > 0) AS wait_median,
       quantile_cont(waited_ms, 0.95) FILTER (WHERE waited_ms > 0) AS wait_95,
       max(waited_ms) AS wait_max, min(time) AS since, (SELECT max(time) FROM events WHERE v = 1) AS until,
       (SELECT count(*) FROM hangs) AS hung,
       (SELECT count(*) FROM events WHERE event IS NULL OR v IS DISTINCT FROM 1) AS left_out
FROM forks;

-- name: locks
-- What was at risk or waited for, the worst first. What only a child misses that asks for it (vanished workers, native pools)
-- is there if a child hung for it. A fork counts once for each thing, however many threads had it or wanted it.
WITH once AS (
    SELECT program, host, time, outcome, waited_ms, hazards, unnest(list_distinct([h.what for h in hazards])) AS what
    FROM forks WHERE len(hazards) > 0
), seen AS (
    SELECT what, any_value([h.kind for h in hazards if h.what = what][1]) AS kind,
           list(DISTINCT program) AS programs, list(DISTINCT host) AS hosts, count(*) AS forks,
           count(*) FILTER (WHERE outcome IS DISTINCT FROM 'refused'
               AND list_contains([h.what for h in hazards if NOT coalesce(h.cleared, false)], what)) AS at_risk,
           min(time) AS since, max(time) AS until,
           median(waited_ms) FILTER (WHERE waited_ms > 0) AS wait_median, max(waited_ms) AS wait_max
    FROM once GROUP BY what
), hung AS (
    SELECT what, count(*) AS hung, min(time) AS since, max(time) AS until,
           list(DISTINCT program) AS programs, list(DISTINCT host) AS hosts
    FROM hangs GROUP BY what
)
SELECT what, seen.kind, list_sort(list_distinct(list_concat(seen.programs, hung.programs))) AS programs,
       list_sort(list_distinct(list_concat(seen.hosts, hung.hosts))) AS hosts, coalesce(forks, 0) AS forks,
       CASE WHEN seen.kind IN ('vanished-worker', 'native-pool') THEN 0 ELSE coalesce(at_risk, 0) END AS at_risk,
       coalesce(hung, 0) AS hung, least(seen.since, hung.since) AS since, greatest(seen.until, hung.until) AS until,
       wait_median, wait_max
FROM seen FULL JOIN hung USING (what)
WHERE hung.hung > 0 OR seen.kind NOT IN ('vanished-worker', 'native-pool')
ORDER BY coalesce(hung, 0) DESC, at_risk DESC, forks DESC, what;

-- name: programs
-- Each program on each host.
SELECT program, host, count(*) FILTER (WHERE event = 'fork') AS forks,
       count(*) FILTER (WHERE event = 'fork' AND risk <> 'none' AND outcome IS DISTINCT FROM 'refused') AS at_risk,
       count(*) FILTER (WHERE event = 'hang') AS hung,
       count(*) FILTER (WHERE waited_ms > 0) AS waited,
       median(waited_ms) FILTER (WHERE waited_ms > 0) AS wait_median,
       quantile_cont(waited_ms, 0.95) FILTER (WHERE waited_ms > 0) AS wait_95,
       max(waited_ms) FILTER (WHERE waited_ms > 0) AS wait_max,
       min(time) AS since, max(time) AS until
FROM events WHERE event IN ('fork', 'hang') AND v = 1
GROUP BY program, host ORDER BY hung DESC, at_risk DESC, forks DESC, program, host;

-- name: left_out
-- Files with lines that gave no event.
SELECT source, count(*) AS lines FROM events WHERE event IS NULL OR v IS DISTINCT FROM 1
GROUP BY source ORDER BY lines DESC, source;
