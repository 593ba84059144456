-- One transaction of the live traffic, for pgbench.
\set user random(1, 60000)
\set subscription random(1, 12000)
\set cents random(100, 99999)
BEGIN;
SELECT nextval('live_id') AS id \gset
INSERT INTO users (id, organisation_id, full_name, email, phone)
VALUES (:id, 1 + :id % 2000, 'Newcomer ' || :id, 'newcomer' || :id || '@customers.example', '+1 555 ' || lpad((:id % 1000000)::text, 7, '0'));
UPDATE users SET last_login = now() WHERE id = :user;
UPDATE users SET phone = '+1 555 ' || lpad(:cents::text, 7, '0') WHERE id = :user + 1;
INSERT INTO invoices (id, subscription_id, amount) VALUES (:id, :subscription, :cents / 100.0);
DELETE FROM invoices WHERE id = :id - 50;
INSERT INTO login_log (id, user_id, address) VALUES (:id, :user, '192.0.2.1');
COMMIT;
