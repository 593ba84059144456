-- A small SaaS company: organisations, users, subscriptions, invoices.
-- Every value is made from row numbers, so each run of the demo shows the same people.
CREATE TABLE organisations (
    id         bigint PRIMARY KEY,
    name       text NOT NULL,
    country    text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE users (
    id              bigint PRIMARY KEY,
    organisation_id bigint NOT NULL REFERENCES organisations,
    full_name       text NOT NULL,
    email           text NOT NULL UNIQUE,
    phone           text,
    notes           text,
    last_login      timestamptz
);
CREATE TABLE subscriptions (
    id              bigint PRIMARY KEY,
    organisation_id bigint NOT NULL REFERENCES organisations,
    plan            text NOT NULL,
    seats           integer NOT NULL,
    started_on      date NOT NULL
);
CREATE TABLE invoices (
    id              bigint PRIMARY KEY,
    subscription_id bigint NOT NULL REFERENCES subscriptions,
    amount          numeric(12, 2) NOT NULL,
    paid            boolean NOT NULL DEFAULT false,
    issued_at       timestamptz NOT NULL DEFAULT now()
);
-- Who logged in when: of no use to a copy, and dropped by a filter.
CREATE TABLE login_log (
    id      bigint PRIMARY KEY,
    user_id bigint NOT NULL,
    address inet NOT NULL,
    at      timestamptz NOT NULL DEFAULT now()
);

INSERT INTO organisations
SELECT n, 'Organisation ' || n, (ARRAY['DE', 'FR', 'JP', 'US', 'BR'])[1 + n % 5], '2020-01-01'::timestamptz + n * interval '1 hour'
FROM generate_series(1, 2000) n;

INSERT INTO users
SELECT n, 1 + n % 2000,
       (ARRAY['Ada', 'Bo', 'Chiara', 'Dmitri', 'Emre', 'Fatima', 'Goro', 'Hanna', 'Ines', 'Jamal'])[1 + n % 10] || ' ' ||
       (ARRAY['Okafor', 'Lindqvist', 'Moreau', 'Tanaka', 'Weber', 'Silva', 'Novak', 'Haddad'])[1 + n % 8] || ' the ' || n || 'th',
       'user' || n || '@customers.example',
       CASE WHEN n % 7 = 0 THEN NULL ELSE '+1 555 ' || lpad((n % 1000000)::text, 7, '0') END,
       CASE WHEN n % 20 = 0 THEN repeat('Prefers a call in the morning. ', 120) END,
       '2026-01-01'::timestamptz + n * interval '7 minutes'
FROM generate_series(1, 60000) n;

INSERT INTO subscriptions
SELECT n, 1 + n % 2000, (ARRAY['starter', 'team', 'business'])[1 + n % 3], 1 + n % 250, '2023-01-01'::date + (n % 1000)::int
FROM generate_series(1, 12000) n;

INSERT INTO invoices
SELECT n, 1 + n % 12000, (n % 100000) / 100.0, n % 3 <> 0, '2024-01-01'::timestamptz + n * interval '11 minutes'
FROM generate_series(1, 80000) n;

INSERT INTO login_log
SELECT n, 1 + n % 60000, ('10.0.' || (n / 250) % 250 || '.' || n % 250)::inet
FROM generate_series(1, 5000) n;

CREATE SEQUENCE live_id START 1000001;
ANALYZE;
CREATE PUBLICATION kasho_pub FOR TABLE organisations, users, subscriptions, invoices, login_log;
