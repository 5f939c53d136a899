"""The statements that read and write runs in Postgres; the tables are those of ``postgres_schema``.

1. Every write is one statement. No transaction is held open: a process that is paused in one would hold its locks. So
   would one that takes nothing of a long answer: the server ends its connection.
2. A process has a claim: a number, higher than all before, drawn when it opens the journal and when it takes over a
   part. The jobs it works on bear that number (``taken``). A write names the number, and changes nothing where another
   one stands: the job was taken over. A lower claim never takes back what a higher one has.
3. A statement may be repeated: it sets what it names, whatever was there.
4. Many jobs come as one array for each column; jobs are found by an index, one by one, and locked in their order. The
   planner knows little of a new run, and must have no choice: a job is found by its number alone, which no other run
   has, and what has to be looked up first by a LATERAL part with a LIMIT for each.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from soundpiece_async._core.job_records import KEY_LIFETIME
from soundpiece_async._core.json_types import JsonValue

# a job is found by an index: until the first ANALYZE, or by a plan made when the table was empty, all would be read;
# a table without one has the cost of what is forbidden, for which the server would spend 0.1 s on compiling each plan
SETTINGS = """
SET idle_in_transaction_session_timeout = 5000; SET tcp_user_timeout = 5000;
SET plan_cache_mode = force_custom_plan; SET jit = off; SET enable_seqscan = off; SET enable_hashjoin = off;
SET enable_mergejoin = off
"""
# a reader counts millions of jobs in few groups: never by sorting them
READER_SETTINGS = "SET default_transaction_read_only = on; SET enable_sort = off; SET jit = off"
CREATE_RUN = "INSERT INTO soundpiece_run (run, name) VALUES (%(run)s, %(name)s) ON CONFLICT (name) DO NOTHING"
OPEN_RUN = """
SELECT run, claims, refusal, extract(epoch FROM clock_timestamp())::float8 AS now
FROM soundpiece_run WHERE name = %(name)s
"""
CLAIM = "UPDATE soundpiece_run SET claims = claims + 1 WHERE run = %(run)s RETURNING claims"
TAKE_PART = """
WITH claim AS (UPDATE soundpiece_run SET claims = claims + 1 WHERE run = %(run)s RETURNING claims),
part AS (
  UPDATE soundpiece_job AS j SET taken = claims FROM claim
  WHERE run = %(run)s AND (NOT done OR (%(failed)s AND state = 'failed')) AND number %% %(parts)s = %(part)s
  RETURNING 1
)
SELECT claims, (SELECT count(*) FROM part) AS jobs FROM claim
"""
READ_PART = """
SELECT * FROM soundpiece_job
WHERE run = %(run)s AND (NOT done OR (%(failed)s AND state = 'failed')) AND taken = %(claim)s
  AND number %% %(parts)s = %(part)s AND number > %(after)s
ORDER BY number LIMIT %(limit)s
"""
FIND_HEIR = """
SELECT FROM soundpiece_job
WHERE run = %(run)s AND taken > %(claim)s AND NOT taken = ANY(%(own)s) AND number %% %(parts)s = %(part)s LIMIT 1
"""

_NO_ERROR = "error_kind = NULL, error_code = NULL, error_text = NULL, retryable = NULL"
_ERROR = "error_kind = u.error, error_code = u.code, error_text = u.text, retryable = u.retryable"
_ERROR_TYPES = {"error": "text", "code": "text", "text": "text", "retryable": "bool"}
_MINE = "j.taken = u.taken"


def _rows(prefix: str, types: Mapping[str, str]) -> str:
    """Return what makes rows, called ``u``, of one array for each column; texts and bytes are sent as they are."""
    form = {"text": "b", "bytea": "b"}
    arrays = ", ".join(f"%({prefix}_{name}){form.get(kind, 's')}::{kind}[]" for name, kind in types.items())
    return f"unnest({arrays}) AS u({', '.join(types)})"


def arrays(prefix: str, types: Mapping[str, str], rows: Sequence[Mapping[str, JsonValue]]) -> dict[str, list[Any]]:
    return {f"{prefix}_{name}": [row[name] for row in rows] for name in types}


@attrs.frozen
class _Kind:
    """A kind of change: one part of the statement that writes a group.

    Attributes:
        changes: what is set, from the values ``u`` that come with each job.
        types: of those values.
        condition: what else must hold of a job that is changed.
    """

    changes: str
    types: Mapping[str, str]
    condition: str = _MINE

    @property
    def all_types(self) -> dict[str, str]:
        """Of the values of a step, with the job and the claim that must be on it."""
        return {"number": "bigint", "taken": "bigint", **self.types}

    def part(self, name: str) -> str:
        """Return its part of a statement; it gives the jobs that were changed."""
        return (
            f"{name} AS (UPDATE soundpiece_job AS j SET {self.changes} FROM {_rows(name, self.all_types)} "
            f"WHERE j.number = u.number AND {self.condition} RETURNING j.number, j.title)"
        )


KINDS = {
    "sending": _Kind("state = 'sending', sent_at = coalesce(j.sent_at, u.now)", {"now": "float8"}),
    "unsent": _Kind("state = 'planned', sent_at = NULL", {}),
    "submitted": _Kind(
        "state = 'submitted', operation = u.operation, created_at = u.created_at, echo_differences = u.echoes, "
        f"submitted_at = u.now, {_NO_ERROR}",
        {"operation": "text", "created_at": "text", "echoes": "text", "now": "float8"},
    ),
    "ready": _Kind(
        "state = 'ready', outputs = u.outputs, title = u.title, ready_at = coalesce(j.ready_at, u.now)",
        {"outputs": "text", "title": "text", "now": "float8"},
        f"{_MINE} AND NOT EXISTS (SELECT FROM refused WHERE refused.job = j.number)",
    ),
    "saved": _Kind(
        f"state = 'saved', outputs = u.outputs, files = u.files, verified = u.verified, ended_at = u.now, "
        f"done = true, {_NO_ERROR}",
        {"outputs": "text", "files": "text", "verified": "text", "now": "float8"},
    ),
    "failed": _Kind(
        f"state = 'failed', ended_at = u.now, done = j.outputs IS NULL, {_ERROR}", {**_ERROR_TYPES, "now": "float8"}
    ),
    "uncertain": _Kind(f"state = 'uncertain', {_ERROR}", _ERROR_TYPES),
    "annotated": _Kind(
        "name = u.name, metadata = u.metadata, line = u.line, source = u.source, "
        "title = CASE WHEN u.titled THEN j.title END",
        {"name": "text", "metadata": "text", "line": "int", "source": "text", "titled": "bool"},
    ),
    "verified": _Kind(
        "files = u.files, verified = u.verified, done = u.whole",
        {"files": "text", "verified": "text", "whole": "bool", "ended_at": "float8"},
        "j.state = 'saved' AND j.ended_at IS NOT DISTINCT FROM u.ended_at",
    ),
}

# the names of a title belong to a job if all of them do; ``refused`` are the jobs that did not get theirs
NAMES = """
wanted AS (SELECT * FROM unnest(%(names_job)s::bigint[], %(names_name)s::text[]) AS w(job, name)),
given AS (
  INSERT INTO soundpiece_file_name (run, name, job) SELECT %(run)s, name, job FROM wanted
  ON CONFLICT (run, name) DO NOTHING RETURNING job, name
),
owned AS (
  SELECT job, name FROM given UNION
  SELECT w.job, w.name FROM wanted AS w CROSS JOIN LATERAL (
    SELECT job FROM soundpiece_file_name WHERE run = %(run)s AND name = w.name LIMIT 1
  ) AS f WHERE f.job = w.job
),
refused AS (
  SELECT DISTINCT w.job FROM wanted AS w LEFT JOIN owned AS o ON o.job = w.job AND o.name = w.name WHERE o.job IS NULL
)
"""
FREE_NAMES = """
freed AS (
  DELETE FROM soundpiece_file_name AS f USING annotated AS a
  WHERE f.job = a.number AND a.title IS NULL
)
"""
ARE_TAKEN = "SELECT FROM soundpiece_file_name WHERE run = %(run)s AND name = ANY(%(names)s) AND job <> %(job)s LIMIT 1"

IDENTITY_TYPES = {"position": "int", "digest": "bytea", "occurrence": "int", "key": "text"}
NEW_TYPES = {
    **IDENTITY_TYPES,
    "new_key": "text",
    "route": "text",
    "body": "bytea",
    "name": "text",
    "metadata": "text",
    "line": "int",
    "source": "text",
}


def _match(types: Mapping[str, str]) -> str:
    """Return a part of a statement that finds the job of each identity ``m``: its number, or NULL."""
    job = "(SELECT number, route AS known FROM soundpiece_job WHERE run = %(run)s AND"
    return f"""
    m AS (
      SELECT u.*, coalesce(a.number, b.number, c.number) AS number, coalesce(a.known, b.known, c.known) AS known
      FROM {_rows("match", types)}
      LEFT JOIN LATERAL {job} key = u.key LIMIT 1) AS a ON true
      LEFT JOIN LATERAL {job} given_key = u.key LIMIT 1) AS b ON true
      LEFT JOIN LATERAL {job} digest = u.digest AND occurrence = u.occurrence AND u.key IS NULL LIMIT 1) AS c ON true
    )
    """


FIND = f"""
WITH {_match(IDENTITY_TYPES)}, owned AS (
  UPDATE soundpiece_job AS j SET taken = %(claim)s FROM m
  WHERE j.number = m.number AND NOT j.done AND j.taken < %(claim)s
  RETURNING m.position, j.*
)
SELECT * FROM owned UNION ALL
SELECT m.position, j.* FROM m JOIN soundpiece_job AS j ON j.number = m.number
WHERE j.done OR j.taken >= %(claim)s
"""

LOOK_UP = f"WITH {_match(IDENTITY_TYPES)} SELECT j.* FROM m JOIN soundpiece_job AS j ON j.number = m.number"

STATE = f"CASE WHEN j.state = 'sending' AND j.sent_at < %(now)s - {KEY_LIFETIME} THEN 'uncertain' ELSE j.state END"
FIND_STATES = f"""
WITH {_match(IDENTITY_TYPES)}
SELECT m.position, {STATE} AS state
FROM m JOIN soundpiece_job AS j ON j.number = m.number
"""
LOOK_OVER = f"""
SELECT route, {STATE} AS now_state, error_kind, error_code, verified, echo_differences, count(*) AS jobs,
  count(source) AS dependents, count(*) FILTER (WHERE ended_at > %(since)s) AS ended, min(error_text) AS text
FROM soundpiece_job AS j WHERE run = %(run)s GROUP BY 1, 2, 3, 4, 5, 6
"""

_NEW_COLUMNS = "digest, occurrence, key, route, body, name, metadata, line, source"
_NEW_VALUES = "digest, occurrence, new_key, route, body, name, metadata, line, source"
INSERT = f"""
INSERT INTO soundpiece_job (run, taken, {_NEW_COLUMNS})
SELECT %(run)s, %(claim)s, {_NEW_VALUES} FROM {_rows("match", NEW_TYPES)}
ON CONFLICT DO NOTHING RETURNING *
"""
# of jobs whose keys were made: then nothing but the indexes has to be asked whether one is known
PLAN_NEW = f"""
WITH new AS (
  INSERT INTO soundpiece_job (run, {_NEW_COLUMNS})
  SELECT %(run)s, {_NEW_VALUES} FROM {_rows("match", NEW_TYPES)} ON CONFLICT DO NOTHING RETURNING number
)
SELECT count(*) AS new FROM new
"""
PLAN = f"""
WITH {_match(NEW_TYPES)}, new AS (
  INSERT INTO soundpiece_job (run, {_NEW_COLUMNS})
  SELECT %(run)s, {_NEW_VALUES} FROM m WHERE number IS NULL ORDER BY position ON CONFLICT DO NOTHING RETURNING number
), known AS (
  UPDATE soundpiece_job AS j SET name = m.name, metadata = m.metadata, line = m.line, source = m.source
  FROM m
  WHERE j.number = m.number
    AND (j.name, j.metadata, j.line, j.source) IS DISTINCT FROM (m.name, m.metadata, m.line, m.source)
)
SELECT (SELECT count(*) FROM new) AS new, NULL::int AS position, NULL::text AS known UNION ALL
SELECT 0, position, known FROM m WHERE known <> route
"""
REPLAN = f"""
UPDATE soundpiece_job SET state = 'planned', given_key = coalesce(given_key, key), digest = %(digest)s, key = %(key)s,
  body = %(body)s, attempt = attempt + 1, taken = %(claim)s, done = false, sent_at = NULL, operation = NULL,
  created_at = NULL, echo_differences = NULL, submitted_at = NULL, ended_at = NULL, {_NO_ERROR}
WHERE run = %(run)s AND number = %(number)s AND taken = %(taken)s RETURNING *
"""
