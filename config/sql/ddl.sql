-- How schema changes come onto the stream: event triggers that write each statement into the
-- log, in its own transaction. "kasho setup --apply" runs this; so may a superuser by hand:
--
--   psql "$SUPERUSER_URL" -f ddl.sql
--
-- May be run again. The triggers fire for sessions in replica role too, say nothing of
-- temporary objects and of Kasho's own, and never make a statement fail: what they cannot do
-- is a warning to whoever ran it. "kasho teardown" takes all of it away.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

-- A function that is replaced keeps its owner, who could replace it again at any time, by one
-- that does his will whenever a superuser changes the schema.
DO $kasho$
DECLARE
  theirs text;
BEGIN
  SELECT string_agg(format('%s of %s', p.oid::regprocedure, r.rolname), ', ' ORDER BY p.proname)
    INTO theirs
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'kasho'
    JOIN pg_roles r ON r.oid = p.proowner
   WHERE p.proname IN ('ddl_path', 'ddl_start', 'ddl_drop', 'ddl_rewrite', 'ddl_end') AND p.pronargs = 0
     AND NOT r.rolsuper AND r.rolname <> current_user;
  IF theirs IS NOT NULL THEN
    RAISE EXCEPTION 'functions of the event triggers belong to roles that are no superusers: %; '
      'find out who made them, then DROP them with CASCADE, and run this again', theirs;
  END IF;
END
$kasho$;

CREATE SCHEMA IF NOT EXISTS kasho;
COMMENT ON SCHEMA kasho IS 'Kasho: event triggers for schema changes';

-- Runs with the rights and the search_path of whoever changes the schema, so that it can say
-- which search_path that is; the triggers below have one of their own. All names are
-- qualified and it has no operator, so nothing in that path can be meant instead.
CREATE OR REPLACE FUNCTION kasho.ddl_path() RETURNS event_trigger
LANGUAGE plpgsql AS $kasho$
BEGIN
  PERFORM pg_catalog.set_config('kasho.path', pg_catalog.current_setting('search_path'), true);
EXCEPTION WHEN OTHERS THEN
  NULL;
END
$kasho$;

-- At its end a statement shows what things are called now; a schema's tables are described on
-- the stream under its old name until something is done to them, and what is loaded of a table
-- is known by the name that it had: what they were called is noted before.
CREATE OR REPLACE FUNCTION kasho.ddl_start() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $kasho$
DECLARE
  stack text;
  parts text[];
  words name[];
  this text;
  noted jsonb;
  names jsonb;
BEGIN
  IF tg_tag = 'ALTER SCHEMA' THEN
    PERFORM set_config('kasho.schemas',
      (SELECT jsonb_object_agg(oid, nspname) FROM pg_namespace)::text, true);
    RETURN;
  END IF;
  -- The statement is part of what the client has sent, or in the stack of contexts under ours.
  GET DIAGNOSTICS stack = PG_CONTEXT;
  stack := substr(stack, strpos(stack, E'\n'));
  parts := regexp_split_to_array(coalesce(current_query(), '') || stack,
                                 '\mrename\M|\mset\M[^;]{0,99}?\mschema\M', 'i');
  -- One that runs within another that is not at its end (another event trigger may do so) leaves
  -- that one's notes as they are.
  this := extract(epoch FROM statement_timestamp())::text;
  noted := nullif(current_setting('kasho.tables', true), '')::jsonb;
  IF noted ->> 'of' IS DISTINCT FROM this THEN
    noted := NULL;
  END IF;
  IF cardinality(parts) > 1 THEN
    -- Of tables whose names stand shortly before such words: as they are, and as words without
    -- quotes are meant. Missed are names that begin or end with a quote, and U&"" of them: then
    -- nobody knows what the table was called.
    words := ARRAY(
      SELECT DISTINCT w::name
        FROM unnest(parts[:cardinality(parts) - 1]) AS part, right(part, 400) AS near, LATERAL (
             SELECT replace(string_to_table(replace(near, '""', E'\001'), '"'), E'\001', '"')
             UNION ALL
             SELECT regexp_split_to_table(lower(near COLLATE "C"),
               '[\u0001-\u0023\u0025-\u002f\u003a-\u0040\u005b-\u005e\u0060\u007b-\u007f]+')) AS of (w));
    SELECT jsonb_object_agg(c.oid, jsonb_build_array(n.nspname, c.relname)) INTO names
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relname = ANY (words) AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't';
  ELSIF stack LIKE E'\nSQL function %' THEN
    -- What a function in SQL runs stands nowhere: of all of them, within reason.
    SELECT jsonb_object_agg(c.oid, jsonb_build_array(n.nspname, c.relname)) INTO names
      FROM (SELECT oid, relname, relnamespace FROM pg_class
             WHERE relkind IN ('r', 'p') AND relpersistence <> 't' LIMIT 10000) AS c
      JOIN pg_namespace n ON n.oid = c.relnamespace;
  ELSIF noted IS NULL THEN
    RETURN;
  END IF;
  PERFORM set_config('kasho.tables', jsonb_build_object('of', this,
    'open', coalesce((noted ->> 'open')::int, 0) + 1,
    'names', coalesce(names, '{}') || coalesce(noted -> 'names', '{}'))::text, true);
EXCEPTION WHEN OTHERS THEN
  PERFORM set_config('kasho.tables', '', true);
  RAISE WARNING 'kasho: what schemas or tables are called was not noted: %', SQLERRM;
END
$kasho$;

-- What is dropped can be asked for only here, before the statement's end. A list, for a
-- statement may drop within a statement.
CREATE OR REPLACE FUNCTION kasho.ddl_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $kasho$
DECLARE
  gone jsonb;
BEGIN
  SELECT jsonb_agg(jsonb_build_object('type', object_type, 'identity', object_identity,
                     'schema', schema_name, 'name', object_name, 'dropped', true)
                   ORDER BY original DESC, n)
    INTO gone
    FROM pg_event_trigger_dropped_objects() WITH ORDINALITY AS d (classid, objid, objsubid,
         original, normal, is_temporary, object_type, schema_name, object_name, object_identity,
         address_names, address_args, n)
   WHERE NOT is_temporary
     AND schema_name IS DISTINCT FROM 'pg_toast'
     AND (original OR object_type IN ('table', 'table column', 'index', 'view',
          'materialized view', 'sequence', 'schema', 'foreign table'))
     AND (original OR n <= 10000);
  PERFORM set_config('kasho.dropped', coalesce(gone::text, ''), true);
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING 'kasho: dropped objects were not noted: %', SQLERRM;
END
$kasho$;

-- A rewrite that makes values anew (a volatile default, or what USING calls) leaves no trace
-- in the log: the values are other ones elsewhere. A partition may be published as the table
-- above it.
CREATE OR REPLACE FUNCTION kasho.ddl_rewrite() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $kasho$
DECLARE
  calls CONSTANT text := '\musing\M.*([(]|\mcurrent_|\mlocaltime|_user\M)';
  reason int;
  stack text;
BEGIN
  reason := pg_event_trigger_table_rewrite_reason();
  GET DIAGNOSTICS stack = PG_CONTEXT;
  -- 2: AT_REWRITE_DEFAULT_VAL. 4: AT_REWRITE_COLUMN_REWRITE, of which only the statement
  -- tells how: a client's own, or one in the stack of contexts under ours.
  IF reason & 2 <> 0 OR (reason & 4 <> 0 AND (current_query() ~* calls
     OR substr(stack, strpos(stack, E'\n')) ~* calls)) THEN
    PERFORM set_config('kasho.recomputed',
      (coalesce(nullif(current_setting('kasho.recomputed', true), ''), '[]')::jsonb
       || (SELECT coalesce(jsonb_agg(jsonb_build_object('schema', n.nspname, 'name', c.relname)
                                     ORDER BY c.oid), '[]')
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relpersistence <> 't' AND (c.oid = pg_event_trigger_table_rewrite_oid()
                  OR c.oid IN (SELECT a.relid::oid
                       FROM pg_partition_ancestors(pg_event_trigger_table_rewrite_oid()) a))))::text,
      true);
  END IF;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING 'kasho: a rewrite was not noted: %', SQLERRM;
END
$kasho$;

-- Writes the message.
CREATE OR REPLACE FUNCTION kasho.ddl_end() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $kasho$
DECLARE
  -- Nothing is computed here: what fails before BEGIN is caught by nobody.
  query text;
  gone text;
  anew text;
  schemas text;
  noted jsonb;
  tables jsonb;
  language text;
  objects jsonb;
  stack text;
  ran text;
  counted jsonb;
  counting text;
  nth int := 0;
  made boolean := false;
BEGIN
  query := current_query();
  -- For this statement alone.
  gone := current_setting('kasho.dropped', true);
  anew := current_setting('kasho.recomputed', true);
  schemas := current_setting('kasho.schemas', true);
  PERFORM set_config('kasho.dropped', '', true), set_config('kasho.recomputed', '', true),
          set_config('kasho.schemas', '', true);
  IF tg_tag IN ('ALTER TABLE', 'ALTER INDEX') THEN
    noted := nullif(current_setting('kasho.tables', true), '')::jsonb;
    IF noted ->> 'of' = extract(epoch FROM statement_timestamp())::text THEN
      tables := noted -> 'names';
    END IF;
    -- For one that this one runs within it is called from now on what it is called now.
    noted := CASE WHEN tables IS NOT NULL AND (noted ->> 'open')::int > 1
             THEN jsonb_build_object('of', noted -> 'of', 'open', (noted ->> 'open')::int - 1,
               'names', tables || coalesce((
                  SELECT jsonb_object_agg(c.oid, jsonb_build_array(n.nspname, c.relname))
                    FROM pg_event_trigger_ddl_commands() e
                    JOIN pg_class c ON e.classid = 'pg_class'::regclass AND c.oid = e.objid
                    JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE tables ? c.oid::text), '{}')) END;
    PERFORM set_config('kasho.tables', coalesce(noted::text, ''), true);
  END IF;

  -- What a function runs is in the stack of contexts, under ours; what a client sends is not.
  -- Contexts come in the language of messages, which only a superuser may set. Without that
  -- right, the text of what a function runs may be unknown.
  BEGIN
    language := current_setting('lc_messages');
    PERFORM set_config('lc_messages', 'C', true);
  EXCEPTION WHEN OTHERS THEN
    language := NULL;
  END;
  GET DIAGNOSTICS stack = PG_CONTEXT;
  IF language IS NOT NULL THEN
    PERFORM set_config('lc_messages', language, true);
  END IF;
  stack := substr(stack, strpos(stack, E'\n'));
  -- From 18 on an extension's own script is there, too; it stands for all that it does.
  IF stack ~ (E'\n' || 'extension script file "[^"]*", near line \d+') THEN
    RETURN;
  END IF;
  ran := CASE WHEN stack LIKE E'\nSQL statement "%'
              THEN substring(stack from E'^\nSQL statement "(.*?)"(?:\n(?:PL/|SQL |compilation |[A-Za-z]* ?function )|$)') END;

  IF stack !~ E'^\n' THEN
    -- A client may have sent several at once: which one of this tag is it? Counted with those
    -- that tell nothing.
    counting := extract(epoch FROM statement_timestamp())::text || md5(query);
    counted := coalesce(nullif(current_setting('kasho.counted', true), ''), '{}')::jsonb;
    IF counted ->> 'of' IS DISTINCT FROM counting THEN
      counted := jsonb_build_object('of', counting);
    END IF;
    nth := coalesce((counted ->> tg_tag)::int, 0) + 1;
    PERFORM set_config('kasho.counted', (counted || jsonb_build_object(tg_tag, nth))::text, true);
    ran := query;
  END IF;

  SELECT jsonb_agg(object ORDER BY n) INTO objects FROM (
    SELECT n, jsonb_build_object('type', coalesce(c.object_type, ''),
             'identity', coalesce(c.object_identity, ''), 'schema', c.schema_name,
             'name', coalesce(rel.relname, typ.typname, nsp.nspname), 'dropped', false,
             -- Which publications bring the rows that a new table gets from now on.
             'published', CASE WHEN rel.relkind IN ('r', 'p') AND rel.relpersistence = 'p'
               AND tg_tag IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'CREATE SCHEMA')
               THEN (SELECT coalesce(jsonb_agg(p.pubname ORDER BY p.pubname), '[]')
                       FROM pg_publication p
                      WHERE p.pubinsert AND (p.puballtables OR EXISTS (
                            SELECT FROM pg_get_publication_tables(p.pubname::text) t
                             WHERE t.relid = rel.oid OR t.relid::oid IN (
                                   SELECT a.relid::oid FROM pg_partition_ancestors(rel.oid) a))))
               ELSE '[]' END)
             -- What a schema, or a table, was called until now.
             || CASE WHEN nullif(schemas, '')::jsonb ->> nsp.oid::text <> nsp.nspname
                THEN jsonb_build_object('was', nullif(schemas, '')::jsonb ->> nsp.oid::text)
                WHEN c.object_type = 'table'
                 AND tables -> rel.oid::text <> jsonb_build_array(c.schema_name, rel.relname)
                THEN jsonb_build_object('was', tables -> rel.oid::text ->> 1,
                                        'was_in', tables -> rel.oid::text ->> 0)
                ELSE '{}' END
      FROM pg_event_trigger_ddl_commands() WITH ORDINALITY AS c (classid, objid, objsubid,
           command_tag, object_type, schema_name, object_identity, in_extension, command, n)
      LEFT JOIN pg_class rel ON c.classid = 'pg_class'::regclass AND rel.oid = c.objid
      LEFT JOIN pg_type typ ON c.classid = 'pg_type'::regclass AND typ.oid = c.objid
      LEFT JOIN pg_namespace nsp ON c.classid = 'pg_namespace'::regclass AND nsp.oid = c.objid
     WHERE NOT c.in_extension
       -- What is never published has no remarks that are.
       AND NOT (c.command_tag = 'COMMENT' AND c.object_type IN ('publication', 'subscription'))
       AND coalesce(c.schema_name, '') NOT IN ('pg_temp', 'kasho')
       AND NOT (c.classid = 'pg_namespace'::regclass AND nsp.nspname = 'kasho')
       AND coalesce(rel.relpersistence, 'p') <> 't'
    UNION ALL
    SELECT 1000000 + n, object FROM jsonb_array_elements(nullif(gone, '')::jsonb)
                            WITH ORDINALITY AS d (object, n)
     WHERE coalesce(object ->> 'schema', '') <> 'kasho'
       AND NOT (object ->> 'type' = 'schema' AND object ->> 'name' = 'kasho')
  ) AS concerned (n, object);

  -- Rights on Kasho's own are its own business; they come without a schema.
  IF objects IS NULL OR (tg_tag IN ('GRANT', 'REVOKE') AND query ~ '\mkasho\.') THEN
    RETURN;
  END IF;

  IF tg_tag IN ('CREATE TABLE AS', 'SELECT INTO') THEN
    -- Its query must not run again: structure only.
    ran := (SELECT format('CREATE TABLE IF NOT EXISTS %s (%s)', c.oid::regclass,
                     (SELECT string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod))
                               || CASE WHEN a.attcollation <> t.typcollation
                                       THEN ' COLLATE ' || a.attcollation::regcollation ELSE '' END,
                               ', ' ORDER BY a.attnum)
                        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
              FROM pg_event_trigger_ddl_commands() e
              JOIN pg_class c ON e.classid = 'pg_class'::regclass AND c.oid = e.objid
             WHERE c.relkind = 'r' LIMIT 1);
    made := ran IS NOT NULL;
  ELSIF tg_tag = 'ALTER TABLE' THEN
    -- A default that is no constant, of a column that is new in this transaction: existing rows
    -- have what it was here and now, without having been rewritten; those of the tables under
    -- it too.
    anew := (coalesce(nullif(anew, ''), '[]')::jsonb || coalesce((
      WITH RECURSIVE altered (oid) AS (
        SELECT e.objid FROM pg_event_trigger_ddl_commands() e WHERE e.classid = 'pg_class'::regclass
        UNION
        SELECT i.inhrelid FROM pg_inherits i JOIN altered ON altered.oid = i.inhparent),
      -- To read an expression locks its table: of none but those that are locked already, or
      -- the statement would wait for, or fail by, a lock on a table that it has nothing to do
      -- with. So the planner must not read them first.
      missing (oid, bin) AS MATERIALIZED (
        SELECT c.oid, d.adbin FROM altered JOIN pg_class c ON c.oid = altered.oid
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.atthasmissing AND NOT a.attisdropped
          JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
         WHERE c.relpersistence <> 't' AND age(a.xmin) <= 0),
      given (oid) AS (
        SELECT oid FROM missing
         WHERE pg_get_expr(bin, oid) ~ '[(]|CURRENT_|LOCALTIME|_USER'),
      named (oid) AS (
        SELECT oid FROM given
        UNION
        SELECT a.relid::oid FROM given, pg_partition_ancestors(given.oid) a)
      SELECT jsonb_agg(jsonb_build_object('schema', n.nspname, 'name', c.relname) ORDER BY c.oid)
        FROM named JOIN pg_class c ON c.oid = named.oid
        JOIN pg_namespace n ON n.oid = c.relnamespace), '[]'))::text;
  END IF;

  PERFORM pg_logical_emit_message(true, 'kasho:ddl', convert_to(jsonb_build_object(
    'v', 1, 'tag', tg_tag,
    'text', CASE WHEN octet_length(ran) <= 1000000 THEN ran END,
    'made', made, 'inner', nth = 0, 'nth', nth,
    'path', coalesce(current_setting('kasho.path', true), ''),
    'username', session_user, 'database', current_database(),
    -- What literals mean, and what values of one type are as another, depends on these.
    'settings', (SELECT jsonb_object_agg(s, current_setting(s, true)) FROM unnest(ARRAY[
       'TimeZone', 'DateStyle', 'IntervalStyle', 'bytea_output', 'extra_float_digits',
       'standard_conforming_strings', 'xmloption', 'check_function_bodies']) s),
    'objects', objects,
    'recomputed', coalesce(nullif(anew, '')::jsonb, '[]'))::text, 'UTF8'));
  -- A message counts as standing where its record ends, a row as standing where its begins, and
  -- one of a subtransaction (this is one) may come behind a row that begins just there. So
  -- that none does, something else stands there: a message that is nothing.
  PERFORM pg_logical_emit_message(false, 'kasho.heartbeat', '');
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING 'kasho: this schema change was not recorded: %', SQLERRM;
  BEGIN
    PERFORM pg_logical_emit_message(true, 'kasho:ddl',
      convert_to(jsonb_build_object('v', 1, 'tag', tg_tag, 'username', session_user,
        'database', current_database())::text, 'UTF8'));
    PERFORM pg_logical_emit_message(false, 'kasho.heartbeat', '');
  EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'kasho: nor could that be: %', SQLERRM;
  END;
END
$kasho$;

-- Only the triggers call them.
REVOKE ALL ON FUNCTION kasho.ddl_drop(), kasho.ddl_rewrite(), kasho.ddl_end(), kasho.ddl_path(),
  kasho.ddl_start() FROM PUBLIC;
ALTER FUNCTION kasho.ddl_path() OWNER TO CURRENT_USER;
ALTER FUNCTION kasho.ddl_start() OWNER TO CURRENT_USER;
ALTER FUNCTION kasho.ddl_drop() OWNER TO CURRENT_USER;
ALTER FUNCTION kasho.ddl_rewrite() OWNER TO CURRENT_USER;
ALTER FUNCTION kasho.ddl_end() OWNER TO CURRENT_USER;

DO $kasho$
DECLARE
  wanted record;
BEGIN
  -- Of the same event they fire in the order of their names.
  FOR wanted IN
    SELECT * FROM (VALUES ('kasho_ddl_1_path', 'ddl_command_end', 'ddl_path', NULL::text[]),
                          ('kasho_ddl_2_end', 'ddl_command_end', 'ddl_end', NULL),
                          ('kasho_ddl_drop', 'sql_drop', 'ddl_drop', NULL),
                          ('kasho_ddl_rewrite', 'table_rewrite', 'ddl_rewrite', NULL),
                          -- Whatever else gets another name is no table: ALTER VIEW and others
                          -- refuse those, ALTER INDEX does not.
                          ('kasho_ddl_start', 'ddl_command_start', 'ddl_start',
                           ARRAY['ALTER SCHEMA', 'ALTER TABLE', 'ALTER INDEX']))
      AS w (name, event, function, tags)
  LOOP
    -- Made before it had to see as much.
    IF EXISTS (SELECT FROM pg_catalog.pg_event_trigger
                WHERE evtname = wanted.name AND evttags IS DISTINCT FROM wanted.tags) THEN
      EXECUTE format('DROP EVENT TRIGGER %I', wanted.name);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_event_trigger WHERE evtname = wanted.name) THEN
      EXECUTE format('CREATE EVENT TRIGGER %I ON %s %s EXECUTE FUNCTION kasho.%I()',
                     wanted.name, wanted.event,
                     'WHEN TAG IN (' || (SELECT string_agg(quote_literal(tag), ', ')
                                           FROM unnest(wanted.tags) AS tag) || ')',
                     wanted.function);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_event_trigger
                    WHERE evtname = wanted.name AND evtenabled = 'A') THEN
      EXECUTE format('ALTER EVENT TRIGGER %I ENABLE ALWAYS', wanted.name);
    END IF;
  END LOOP;
END
$kasho$;

COMMIT;
