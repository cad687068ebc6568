-- What an application leaves in its databases beside plain tables: views, functions, and a second owner.

\set ON_ERROR_STOP on

\connect mydb
CREATE VIEW accounts_in_use AS SELECT aid, bid, abalance FROM pgbench_accounts WHERE abalance <> 0;
CREATE MATERIALIZED VIEW branch_totals AS SELECT bid, sum(abalance) AS total FROM pgbench_accounts GROUP BY bid;
CREATE FUNCTION balance_of(account integer) RETURNS integer LANGUAGE sql STABLE
    RETURN (SELECT abalance FROM pgbench_accounts WHERE aid = account);

SET ROLE warehouse;
CREATE TABLE shipments (id serial PRIMARY KEY, article text NOT NULL, shipped timestamptz);
INSERT INTO shipments (article, shipped) VALUES ('anvil', now()), ('magnet', NULL);
CREATE VIEW open_shipments AS SELECT id, article FROM shipments WHERE shipped IS NULL;
CREATE FUNCTION ship(shipment integer) RETURNS void LANGUAGE sql
    BEGIN ATOMIC UPDATE shipments SET shipped = now() WHERE id = shipment; END;

\connect otherdb
CREATE VIEW accounts_in_use AS SELECT aid, bid, abalance FROM pgbench_accounts WHERE abalance <> 0;
GRANT CREATE ON SCHEMA public TO warehouse;

SET ROLE warehouse;
CREATE TABLE returns (id serial PRIMARY KEY, article text NOT NULL);
INSERT INTO returns (article) VALUES ('anvil');
