-- The shop's own table, and what the relay may read of it. Run after `outboxd migrate`, which makes the
-- role outbox_relay.

CREATE SCHEMA shop;

CREATE TABLE shop.orders (
  id         bigint        GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- Begin of the transaction. An order that commits later than settle_after would be late for its file.
  created_at timestamptz   NOT NULL DEFAULT now(),
  customer   text          NOT NULL,
  article    text          NOT NULL,
  total      numeric(12,2) NOT NULL
);
-- The file is a range of this.
CREATE INDEX ON shop.orders (created_at);

CREATE ROLE shop_relay LOGIN;
GRANT outbox_relay TO shop_relay;
GRANT USAGE ON SCHEMA shop TO shop_relay;
GRANT SELECT ON shop.orders TO shop_relay;
