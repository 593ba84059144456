--
-- PostgreSQL database dump
--
-- A dump of everything that has ever fooled a reader of dumps. The rows that have to come
-- out of it stand in nasty.rows, in order, one JSON list a line: table, then values. Each
-- comment says what the lines below it are about. Comments inside COPY data are rows.
--

\restrict bGkXQ2h0VnZ0c3Jd7x9

-- Dumped from database version 15.18; a comment with a semicolon; and 'a quote

SET statement_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);

-- Dollar quotes hold what looks like data, ends, and other dollar quotes.

CREATE FUNCTION public.f(a text DEFAULT 'x;y'::text) RETURNS text
    LANGUAGE plpgsql
    AS $_$
BEGIN
  -- COPY public.t (id, v) FROM stdin;
  EXECUTE $q$ COPY public.t FROM stdin; $q$ || '\.' || $1;
END $_$;

-- A body without quotes ends at its own END.

CREATE FUNCTION public.g(n integer) RETURNS integer
    LANGUAGE sql
    BEGIN ATOMIC
 SELECT
         CASE
             WHEN (g.n > 0) THEN 1
             ELSE 2
         END AS "case";
 SELECT (g.n + 1);
END;

/* A comment /* in a comment; */
COPY public.t (id, v) FROM stdin;
*/

-- Names with dots, quotes, spaces and upper case.

CREATE TABLE "My.Schema"."A ""b"".c" (
    "x.y" integer,
    "Select" text
);

-- The first column NULL; a row that begins with dashes; what looks like the end and is
-- not; blank lines, which are rows of an empty text; a backslash before ordinary letters;
-- the words NULL and \N as text; every escape.

COPY public.one (v) FROM stdin;
\N
--
-- not a comment
\\.
\\.x
.

   
\\N
NULL
;
COPY public.t (id, v) FROM stdin;
\restrict
\b\f\n\r\t\v\\
\101\x42\q
'
$$
/*
ünïcödé 日本 🎉
\.

COPY public.t (id, v) FROM stdin;
\N	first is null
1	
2	\N
3	a\tb
4	\\.
\.


-- A table without rows, a table without columns, and one in another order.

COPY public.one (v) FROM stdin;
\.


COPY public.nothing  FROM stdin;


\.


COPY public.t (v, id) FROM stdin;
turned round	5
\.

COPY "My.Schema"."A ""b"".c" ("Select", "x.y") FROM stdin;
quoted	1
\.

-- INSERT in all forms that pg_dump has.

INSERT INTO public.t VALUES (6, 'it''s; (a) -- row');
INSERT INTO public.t (id, v) VALUES (7, 'back\slash'), (8, E'esc\\aped\n');
INSERT INTO public.t (v, id) OVERRIDING SYSTEM VALUE VALUES
	(NULL, 9),
	('over
lines', -10)
ON CONFLICT DO NOTHING;
INSERT INTO "My.Schema"."A ""b"".c" VALUES (2, '$$');
INSERT INTO public.nothing DEFAULT VALUES;
INSERT INTO public.kinds VALUES (true, B'101', X'0F', 1.5e-7, 'NaN', '\x00ff');
INSERT INTO public.kinds VALUES (false, B'', NULL, -1, 'Infinity', '\\\000');

SELECT pg_catalog.setval('public."t.id"', 10, true);

ALTER TABLE ONLY public.t ADD CONSTRAINT t_pkey PRIMARY KEY (id);

--
-- PostgreSQL database dump complete
--

\unrestrict bGkXQ2h0VnZ0c3Jd7x9

