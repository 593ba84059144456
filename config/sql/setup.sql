-- What Kasho needs in the source database: a role, its rights, a publication. "kasho setup"
-- does the same with narrower rights, leaves out the tables that could not be updated any more,
-- and installs the event triggers of ddl.sql.
--
--   psql "$SUPERUSER_URL" -v password="$(openssl rand -hex 24)" -f setup.sql
--
-- May be run again: what exists stays, and only the password is set anew. Waits at most
-- two seconds for any lock. The server itself needs wal_level = logical (a restart), a
-- free slot (max_replication_slots) and a free sender (max_wal_senders).

\set ON_ERROR_STOP on
\if :{?role} \else \set role kasho \endif
\if :{?publication} \else \set publication kasho_pub \endif
SET lock_timeout = '2s';

-- REPLICATION: to make the slot and read it. Nothing else is more than reading.
SELECT format('CREATE ROLE %I LOGIN REPLICATION', :'role')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
ALTER ROLE :"role" PASSWORD :'password';

SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'role') \gexec

-- The initial load reads the published tables. Narrower: GRANT USAGE ON SCHEMA …, and
-- GRANT SELECT ON each published table, instead of this line.
GRANT pg_read_all_data TO :"role";

-- Tables with row level security load only if the role sees every row; without this the
-- load of such a table stops with an error, it never loads a part without a word.
-- ALTER ROLE :"role" BYPASSRLS;

-- Every table there is and will be. Narrower: FOR TABLE … or FOR TABLES IN SCHEMA ….
-- Partitions arrive under their own names unless publish_via_partition_root is set.
SELECT format('CREATE PUBLICATION %I FOR ALL TABLES', :'publication')
WHERE NOT EXISTS (SELECT FROM pg_publication WHERE pubname = :'publication') \gexec

-- Tables whose UPDATE and DELETE would fail from now on, for want of an identity: give
-- each a primary key, or ALTER TABLE … REPLICA IDENTITY FULL.
SELECT c.oid::regclass AS "table without identity"
FROM pg_publication_tables p
JOIN pg_namespace n ON n.nspname = p.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
WHERE p.pubname = :'publication'
  AND (c.relreplident = 'n'
       OR c.relreplident = 'd'
          AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary));
