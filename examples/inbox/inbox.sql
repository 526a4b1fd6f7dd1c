-- A receiver's side: which messages it has seen, and what they changed.

CREATE SCHEMA inbox;

-- The webhook-id of every message whose effect is committed.
CREATE TABLE inbox.seen (
  id          text        NOT NULL CONSTRAINT seen_pk PRIMARY KEY,
  received_at timestamptz NOT NULL DEFAULT now()
);
-- For the retention.
CREATE INDEX seen_received_at ON inbox.seen (received_at);

-- The effect of this example. Done twice it would be wrong, which is what the inbox is for.
CREATE TABLE inbox.account (
  customer text   NOT NULL CONSTRAINT account_pk PRIMARY KEY,
  points   bigint NOT NULL DEFAULT 0
);
