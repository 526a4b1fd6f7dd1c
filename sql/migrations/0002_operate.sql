-- outboxd, migration 2: what an operator is told about the relays themselves.
--
-- Everything here is added beside what there is: a relay of the version before goes on working, and may
-- be started again, while this is in place (works_from below).

-- A relay that knows no more than migration N may work this schema if works_from of every later one is N
-- or less. So the schema goes first, and the relays follow one by one.
ALTER TABLE outbox.migration ADD COLUMN works_from integer NOT NULL DEFAULT 1;

-- Whether messages really go out from here. Once they did, `run --capture`, which only pretends to send,
-- is refused for good.
ALTER TABLE outbox.installation ADD COLUMN sends_since timestamptz;
UPDATE outbox.installation SET sends_since = created_at
 WHERE EXISTS (SELECT FROM outbox.ledger) OR EXISTS (SELECT FROM outbox.relay);

ALTER TABLE outbox.relay
  -- Of its config, with the files that it names: relays whose hash differs work by different rules.
  ADD COLUMN config_hash text    NOT NULL DEFAULT '',
  -- Whether it only pretends to send.
  ADD COLUMN captures    boolean NOT NULL DEFAULT false,
  -- Whether its LISTEN session hears; NULL where it does not try to.
  ADD COLUMN listens     boolean;

-- A relay that fell silent is a trouble too. Checked later, without a lock that writers notice: the rows
-- that are there satisfied a narrower check.
ALTER TABLE outbox.alert DROP CONSTRAINT alert_cause_known;
ALTER TABLE outbox.alert ADD CONSTRAINT alert_cause_known CHECK (
  cause IN ('dead', 'held', 'open', 'orphaned', 'unrouted', 'unseen', 'late', 'paused',
            'missed', 'overdue', 'file', 'mail', 'silent')) NOT VALID;

-- Whether a relay may enter: one that sends, where none that captures is at work; one that captures, where
-- nothing was ever sent. Else messages would be shared out between what sends and what pretends to. The row
-- of the installation is where they meet: whoever comes second sees what the first one did.
CREATE FUNCTION outbox.may_enter(captures boolean) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  sends timestamptz;
BEGIN
  SELECT i.sends_since INTO STRICT sends FROM outbox.installation i FOR UPDATE;
  IF captures THEN
    RETURN sends IS NULL;
  END IF;
  PERFORM FROM outbox.relay r
    WHERE r.captures AND r.heartbeat_at > clock_timestamp() - r.lease
      AND r.heartbeat_at < clock_timestamp() + r.lease;
  IF FOUND THEN
    RETURN false;
  END IF;
  IF sends IS NULL THEN
    UPDATE outbox.installation SET sends_since = clock_timestamp();
  END IF;
  RETURN true;
END
$$;

-- Rights: a relay may enter.

REVOKE ALL ON FUNCTION outbox.may_enter(boolean) FROM PUBLIC;

DO $$
BEGIN
  IF to_regrole('outbox_relay') IS NOT NULL THEN
    GRANT EXECUTE ON FUNCTION outbox.may_enter(boolean) TO outbox_relay;
    -- For `outboxd doctor`: whether a restored sequence stands below ids that are in use.
    GRANT SELECT ON SEQUENCE outbox.message_id_seq TO outbox_relay;
  END IF;
END
$$;
