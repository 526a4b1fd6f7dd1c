-- The outbox: what applications said, the work still open, and the record of what is closed.
--
-- Every name is qualified, so this text can stand in a team's own migrations; outboxd writes the
-- configured schema in place of "outbox". It runs in one transaction and touches nothing outside
-- its schema but three group roles (outbox_producer, outbox_relay, outbox_operator), which are
-- left out with a warning where the migrating role may not create roles.

DO $$
BEGIN
  -- CREATE SCHEMA IF NOT EXISTS asks for a right on the database even where the schema exists.
  IF to_regnamespace('outbox') IS NULL THEN
    CREATE SCHEMA outbox;
  END IF;
END
$$;

CREATE TABLE outbox.migration (
  number     integer     NOT NULL CONSTRAINT migration_pk PRIMARY KEY,
  name       text        NOT NULL,
  sha256     text        NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE outbox.migration IS 'Which migrations ran, and the hash of the text of each.';

-- Which cluster this is; NULL where the server does not tell. A dump that is restored meets another.
CREATE FUNCTION outbox.cluster() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT c.system_identifier FROM pg_control_system() c);
EXCEPTION WHEN insufficient_privilege OR undefined_function OR feature_not_supported THEN
  RETURN NULL;
END
$$;

CREATE TABLE outbox.installation (
  one        boolean NOT NULL DEFAULT true
             CONSTRAINT installation_pk PRIMARY KEY
             CONSTRAINT installation_one_row CHECK (one),
  name       text    NOT NULL CONSTRAINT installation_name_form CHECK (name ~ '^[a-z][a-z0-9-]{0,39}$'),
  -- NOTIFY makes PREPARE TRANSACTION fail, so it stays off where prepared transactions are on.
  doorbell   boolean NOT NULL DEFAULT current_setting('max_prepared_transactions')::integer = 0,
  -- Nothing is fetched while it is set: by an operator, or because this is not the cluster that it was.
  paused     boolean NOT NULL DEFAULT false,
  paused_for text,
  -- The cluster that it was made in, or resumed in.
  system_identifier bigint DEFAULT outbox.cluster(),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE outbox.installation IS
  'Whose outbox this is. A relay whose config names another installation works nothing here.';

-- ---------------------------------------------------------------------------------------------
-- What the application said.

-- Its form is checked by the routing trigger, under the names of constraints: PostgreSQL reads and
-- compiles each CHECK anew for each statement, and six of them cost a single INSERT more than all of
-- its routing.
CREATE TABLE outbox.message (
  id         bigint      NOT NULL GENERATED ALWAYS AS IDENTITY CONSTRAINT message_pk PRIMARY KEY,
  type       text        NOT NULL,
  payload    jsonb       NOT NULL,
  key        text,
  due_at     timestamptz,
  expires_at timestamptz,
  dedupe_key text,
  headers    jsonb,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE outbox.message IS
  'What applications said. INSERT only; producers write type, payload, key, due_at, expires_at, dedupe_key, headers.';

-- ---------------------------------------------------------------------------------------------
-- Where it goes.

CREATE TABLE outbox.sink (
  name     text    NOT NULL CONSTRAINT sink_pk PRIMARY KEY,
  kind     text    NOT NULL CONSTRAINT sink_kind_known CHECK (kind IN ('webhook', 'smtp', 'csv', 'export')),
  -- The sink's number in advisory locks and in the channel's name.
  bell     integer NOT NULL GENERATED ALWAYS AS IDENTITY CONSTRAINT sink_bell_unique UNIQUE,
  owner    text,
  epoch    bigint  NOT NULL DEFAULT 0 CONSTRAINT sink_epoch_rises CHECK (epoch >= 0),
  paused   boolean NOT NULL DEFAULT false,
  taken_at timestamptz
);
COMMENT ON TABLE outbox.sink IS
  'One row a sink, exports among them: which relay works it, and the epoch that fences all former owners. Changes only on hand-over.';

CREATE TABLE outbox.flow (
  sink             text        NOT NULL CONSTRAINT flow_pk PRIMARY KEY,
  in_flight        integer     NOT NULL DEFAULT 0,
  delivered_minute integer     NOT NULL DEFAULT 0,
  failed_minute    integer     NOT NULL DEFAULT 0,
  -- Rows that only a full poll found, since the sink was taken: the fetch floor hid them.
  hidden           bigint      NOT NULL DEFAULT 0,
  -- Settlements that found their row gone, since the sink was taken.
  gone             bigint      NOT NULL DEFAULT 0,
  -- Keys whose head cannot be delivered now, as far as the owner knows them.
  parked           integer     NOT NULL DEFAULT 0,
  -- Since when the sink's breaker is open, and why; NULL while it is closed.
  open_since       timestamptz,
  open_reason      text,
  -- The sink takes nothing before then: Retry-After, a rate, a quota, the next probe; and why.
  waits_until      timestamptz,
  waits_for        text,
  -- From the owner's config: after so long a message that is still open is past its retry horizon.
  horizon          interval,
  updated_at       timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
COMMENT ON TABLE outbox.flow IS
  'What the owner of a sink is doing; written at most once a second, and only on change.';

CREATE TABLE outbox.relay (
  id           text        NOT NULL CONSTRAINT relay_pk PRIMARY KEY,
  started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  lease        interval    NOT NULL CONSTRAINT relay_lease_positive CHECK (lease > interval '0'),
  host         text        NOT NULL,
  pid          integer     NOT NULL,
  version      text        NOT NULL,
  routes_hash  text        NOT NULL,
  -- The sinks its config knows.
  sinks        text[]      NOT NULL,
  -- And the schedules.
  schedules    text[]      NOT NULL DEFAULT '{}',
  draining     boolean     NOT NULL DEFAULT false
) WITH (fillfactor = 50);
COMMENT ON TABLE outbox.relay IS
  'One row a running relay. Its heartbeat is the lease of every sink it owns.';

CREATE TABLE outbox.route_set (
  generation bigint      NOT NULL GENERATED ALWAYS AS IDENTITY CONSTRAINT route_set_pk PRIMARY KEY,
  hash       text        NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  applied_by text        NOT NULL
);
COMMENT ON TABLE outbox.route_set IS
  'Every set of routes that was in force, the last one is. A start never goes back to a former one.';

CREATE TABLE outbox.route (
  pattern     text     NOT NULL,
  -- Empty: nowhere, on purpose.
  sink        text     NOT NULL,
  -- Empty: the route has no name.
  target      text     NOT NULL,
  lane        smallint NOT NULL DEFAULT 0,
  exact       boolean  NOT NULL,
  prefix      text     NOT NULL,
  -- NULL where the prefix alone decides ("order.*").
  regex       text,
  specificity integer  NOT NULL,
  -- The sink's bell, or NULL where producers must not NOTIFY.
  bell        integer,
  CONSTRAINT route_pk PRIMARY KEY (pattern, sink, target)
);
COMMENT ON TABLE outbox.route IS 'The routes in force, mirrored from the config by a relay.';

-- ---------------------------------------------------------------------------------------------
-- The work still open, and the record of what is closed.

CREATE TABLE outbox.delivery (
  message_id   bigint      NOT NULL,
  sink         text        NOT NULL,
  target       text        NOT NULL DEFAULT '',
  lane         smallint    NOT NULL DEFAULT 0,
  state        text        NOT NULL DEFAULT 'pending',
  due_at       timestamptz NOT NULL,
  key          text,
  -- Attempts that were settled, or begun where an intent is committed first.
  attempt      integer     NOT NULL DEFAULT 0,
  -- Counts every change; outcomes other than "delivered" apply only to the rev that was fetched.
  rev          integer     NOT NULL DEFAULT 0,
  round        integer     NOT NULL DEFAULT 1,
  -- The owner's epoch when the intent was committed.
  epoch        bigint,
  -- While sending: whether it may be sent again if its end stays unknown. False under at-most-once;
  -- true where the intent was only written to count crashes.
  repeatable   boolean,
  -- Attempts in whose middle a relay ended without a word. NULL is none: most rows never have one.
  crashes      smallint,
  -- Held because its relay fell silent: until then that relay may yet be sending it.
  hold_until   timestamptz,
  -- SHA-256 of what the first attempt sent.
  content_hash bytea,
  reason       text,
  CONSTRAINT delivery_pk PRIMARY KEY (message_id, sink, target),
  -- The one CHECK that producers pay for; the trigger below holds the rest.
  CONSTRAINT delivery_due_if_pending CHECK ((state = 'pending') = isfinite(due_at))
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);
COMMENT ON TABLE outbox.delivery IS
  'The work still open: a row exists if and only if no final outcome is recorded.';

-- The shape of each state. Rows are inserted by the routing functions alone, and changed by relays and
-- operators: this looks at changes, whose cost is not the producers'.
CREATE FUNCTION outbox.refuse_state() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'outbox.delivery: state % does not fit its row', NEW.state
    USING ERRCODE = 'check_violation', CONSTRAINT = 'delivery_state_fits',
          SCHEMA = 'outbox', TABLE = 'delivery';
END
$$;
CREATE TRIGGER delivery_state_fits BEFORE UPDATE ON outbox.delivery
  FOR EACH ROW
  WHEN (NOT (CASE NEW.state
               WHEN 'pending' THEN NEW.sink <> ''
               WHEN 'unrouted' THEN NEW.sink = ''
               WHEN 'sending' THEN NEW.epoch IS NOT NULL AND NEW.repeatable IS NOT NULL
               WHEN 'held' THEN NEW.reason IS NOT NULL
               WHEN 'dead' THEN NEW.reason IS NOT NULL
               ELSE false
             END AND NEW.attempt >= 0 AND NEW.rev > OLD.rev AND NEW.round >= 1))
  EXECUTE FUNCTION outbox.refuse_state();

CREATE INDEX delivery_fetch ON outbox.delivery (sink, lane, due_at, message_id);
CREATE UNIQUE INDEX delivery_key ON outbox.delivery (sink, target, key, message_id)
  WHERE key IS NOT NULL;
-- For the few rows that wait for an operator or a route, among the many that wait for time.
CREATE INDEX delivery_stuck ON outbox.delivery (state, sink, message_id) WHERE state <> 'pending';

CREATE TABLE outbox.ledger (
  message_id bigint      NOT NULL,
  sink       text        NOT NULL,
  target     text        NOT NULL,
  round      integer     NOT NULL,
  attempts   integer     NOT NULL,
  outcome    text        NOT NULL CONSTRAINT ledger_outcome_known CHECK (
               outcome IN ('delivered', 'expired', 'discarded', 'skipped', 'duplicate', 'exported')),
  receipt    text,
  export_id  bigint,
  closed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT ledger_exported_has_export CHECK ((outcome = 'exported') = (export_id IS NOT NULL))
) PARTITION BY RANGE (closed_at);
COMMENT ON TABLE outbox.ledger IS
  'Append-only: one row for each closed life of a delivery. A partition a day (UTC), no default partition.';
CREATE INDEX ledger_message ON outbox.ledger (message_id);
CREATE INDEX ledger_export ON outbox.ledger (export_id, message_id) WHERE export_id IS NOT NULL;

CREATE TABLE outbox.spent (
  sink   text        NOT NULL,
  -- "rate" or "day": which of the sink's limits it counts for.
  span   text        NOT NULL CONSTRAINT spent_span_known CHECK (span IN ('rate', 'day')),
  bucket timestamptz NOT NULL,
  used   integer     NOT NULL CONSTRAINT spent_used_counts CHECK (used >= 0),
  CONSTRAINT spent_pk PRIMARY KEY (sink, span, bucket)
) WITH (fillfactor = 50);
COMMENT ON TABLE outbox.spent IS
  'How much of its rate and of its daily quota a sink has used, by spans of time: reserved before it is used, so that no crash forgets it.';

CREATE TABLE outbox.dedupe (
  type       text        NOT NULL,
  key        text        NOT NULL,
  message_id bigint      NOT NULL,
  expires_at timestamptz NOT NULL,
  CONSTRAINT dedupe_pk PRIMARY KEY (type, key)
);
COMMENT ON TABLE outbox.dedupe IS 'Which message won a dedupe_key, for seven days.';

CREATE TABLE outbox.unseen (
  message_id bigint      NOT NULL CONSTRAINT unseen_pk PRIMARY KEY,
  found_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE outbox.unseen IS
  'Messages with neither an open delivery nor a ledger row: written past the trigger. Found by the sweep.';

CREATE TABLE outbox.late (
  sink       text        NOT NULL,
  message_id bigint      NOT NULL,
  target     text        NOT NULL,
  found_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT late_pk PRIMARY KEY (sink, message_id, target)
);
COMMENT ON TABLE outbox.late IS
  'Pending deliveries past the retry horizon of their sink, some thousand a sink at most. Found by the sweep.';

CREATE TABLE outbox.alert (
  cause        text        NOT NULL CONSTRAINT alert_cause_known CHECK (
                 cause IN ('dead', 'held', 'open', 'orphaned', 'unrouted', 'unseen', 'late', 'paused',
                           'missed', 'overdue', 'file', 'mail')),
  -- A sink; of unrouted a type; of missed a schedule; of overdue a schedule or the sink whose files are
  -- late; empty where the whole outbox is meant.
  subject      text        NOT NULL,
  since        timestamptz NOT NULL,
  last_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- Counted up to a limit.
  count        bigint      NOT NULL,
  -- What makes it worth telling again: more of them, or a newer one. Zero where once is enough.
  news         bigint      NOT NULL DEFAULT 0,
  newest       bigint      NOT NULL DEFAULT 0,
  example      text,
  reason       text,
  -- It is over. The row stays a while: until that is told, and so that the cause is not told too often.
  gone         boolean     NOT NULL DEFAULT false,
  -- When a message last told of it, and how much; told_news is NULL where there is nothing told that
  -- a recovery would have to take back.
  told_at      timestamptz,
  told_news    bigint,
  told_newest  bigint,
  CONSTRAINT alert_pk PRIMARY KEY (cause, subject)
) WITH (fillfactor = 50);
COMMENT ON TABLE outbox.alert IS
  'What is in trouble, as every relay looks every few seconds; told by messages of type outboxd.alert.';

-- ---------------------------------------------------------------------------------------------
-- Files, the calendar, and what operators did.

-- Where the calendar's rules stand, those of schedules and those by which files are cut.
CREATE TABLE outbox.calendar (
  kind          text        NOT NULL CONSTRAINT calendar_kind_known CHECK (kind IN ('schedule', 'cut')),
  -- A schedule, or a sink.
  name          text        NOT NULL,
  -- In words, as the relay that wrote it last has it.
  rule          text        NOT NULL,
  -- When it was first seen: nothing before then counts as missed.
  since         timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- Of a schedule: nothing up to then is looked at again. The last period that ran or was passed over,
  -- or the begin of the last day on which a relay looked.
  settled_until timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- What comes next, or has come and is not done yet.
  next_at       timestamptz,
  -- Of a schedule: why a period that is due could not run when it was last tried.
  reason        text,
  -- How long after it is due something may still be open before that is told, an export's time to settle
  -- included; NULL for ever.
  late_after    interval,
  CONSTRAINT calendar_pk PRIMARY KEY (kind, name)
);
COMMENT ON TABLE outbox.calendar IS
  'One row for each schedule, and for each sink that is cut by the calendar: what comes next.';

CREATE TABLE outbox.occurrence (
  schedule  text        NOT NULL,
  period    text        NOT NULL,
  -- Counted from 1: an operator can have a period once more.
  round     integer     NOT NULL DEFAULT 1 CONSTRAINT occurrence_round_counts CHECK (round >= 1),
  -- "missed": passed over by catch_up or max_lateness; an operator can still run it.
  state     text        NOT NULL CONSTRAINT occurrence_state_known CHECK (state IN ('ran', 'missed')),
  due_at    timestamptz NOT NULL,
  ran_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- How many periods before it were passed over with it, itself not counted.
  passed    bigint      NOT NULL DEFAULT 0,
  messages  bigint      NOT NULL DEFAULT 0,
  first_id  bigint,
  last_id   bigint,
  -- From then on that something of it is still open is told.
  late_at   timestamptz,
  -- The relay, or the operator.
  actor     text        NOT NULL,
  CONSTRAINT occurrence_pk PRIMARY KEY (schedule, period, round)
);
COMMENT ON TABLE outbox.occurrence IS
  'One row for each run of a schedule, entered with its messages: unique on its local period.';
CREATE INDEX occurrence_due ON outbox.occurrence (schedule, due_at);
-- These two are for the relays' look for trouble, every few seconds.
CREATE INDEX occurrence_missed ON outbox.occurrence (schedule, ran_at) WHERE state = 'missed' OR passed > 0;
CREATE INDEX occurrence_late ON outbox.occurrence (schedule, late_at) WHERE first_id IS NOT NULL;

CREATE TABLE outbox.export (
  id           bigint      NOT NULL GENERATED ALWAYS AS IDENTITY CONSTRAINT export_pk PRIMARY KEY,
  sink         text        NOT NULL,
  period       text        NOT NULL,
  -- Counted from 1: a cut by count can close several files within one period.
  part         integer     NOT NULL DEFAULT 1 CONSTRAINT export_part_counts CHECK (part >= 1),
  state        text        NOT NULL DEFAULT 'open',
  -- Of a cut by time, where the span begins: the cut before.
  due_from     timestamptz,
  due_before   timestamptz NOT NULL,
  rows_max     bigint,
  row_count    bigint      NOT NULL DEFAULT 0,
  first_id     bigint,
  last_id      bigint,
  -- Of an export: rows that committed after its file was made though they belong into it, as the next
  -- run counted them.
  late_rows    bigint,
  -- Names and forms of the columns, as a hash.
  layout       text,
  file         text,
  bytes        bigint,
  sha256       text,
  -- Whether a mail is to carry it, as the config had it when it was cut: one that gets a mail later does
  -- not send all that was published before.
  to_mail      boolean     NOT NULL DEFAULT false,
  -- The mail it goes out with.
  mailing      bigint,
  -- From then on that it is not done is told.
  late_at      timestamptz,
  opened_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  closed_at    timestamptz,
  published_at timestamptz,
  reason       text,
  CONSTRAINT export_period_unique UNIQUE (sink, period, part),
  CONSTRAINT export_state_known CHECK (state IN ('open', 'closed', 'built', 'published', 'empty')),
  CONSTRAINT export_closed_has_time CHECK ((state = 'open') = (closed_at IS NULL)),
  CONSTRAINT export_built_has_hash CHECK (
    (state IN ('built', 'published')) = (file IS NOT NULL AND sha256 IS NOT NULL AND bytes IS NOT NULL)),
  CONSTRAINT export_published_has_time CHECK ((state = 'published') = (published_at IS NOT NULL))
);
COMMENT ON TABLE outbox.export IS
  'One row a file: open while its set is gathered, closed once the set is fixed, built once its bytes are, published once the file stands; empty where there was nothing to write.';
CREATE UNIQUE INDEX export_one_at_work ON outbox.export (sink) WHERE state NOT IN ('published', 'empty');
-- Up to where the last cut reached is asked for once a second.
CREATE INDEX export_cut ON outbox.export (sink, due_before);
CREATE INDEX export_ticked ON outbox.export (sink, due_before) WHERE rows_max IS NULL;
CREATE INDEX export_unmailed ON outbox.export (sink, id)
 WHERE state = 'published' AND mailing IS NULL AND to_mail;
CREATE INDEX export_mailing ON outbox.export (mailing) WHERE mailing IS NOT NULL;

-- planned -> built -> sending -> sent | unsent | held; unsent -> planned | built; held is an operator's.
CREATE TABLE outbox.mailing (
  id         bigint      NOT NULL GENERATED ALWAYS AS IDENTITY CONSTRAINT mailing_pk PRIMARY KEY,
  -- Whose files it carries.
  sink       text        NOT NULL,
  -- Of the last of them.
  period     text        NOT NULL,
  state      text        NOT NULL DEFAULT 'planned' CONSTRAINT mailing_state_known CHECK (
               state IN ('planned', 'built', 'sending', 'unsent', 'sent', 'held', 'dead', 'discarded')),
  -- Where at most one goes out a day: the day on which its dialogue began. NULL as long as it is known
  -- that nothing was sent.
  day        date,
  attempt    integer     NOT NULL DEFAULT 0,
  -- Of what was built: the whole mail, envelope included.
  hash       text,
  due_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- Who changed it last: a relay, or an operator.
  actor      text        NOT NULL,
  -- Of the relay whose dialogue it is, or was.
  epoch      bigint      NOT NULL,
  -- An operator had it sent again: then not held to one a day.
  by_hand    boolean     NOT NULL DEFAULT false,
  -- Of a held one that a silent relay may yet be sending: not to be sent again before then.
  hold_until timestamptz,
  -- The mail server's last words, or an operator's.
  reason     text,
  -- What was said, as far as it was, of the last dialogue.
  transcript text,
  planned_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT mailing_period_unique UNIQUE (sink, period),
  CONSTRAINT mailing_one_a_day UNIQUE (sink, day),
  CONSTRAINT mailing_built_has_hash CHECK (state NOT IN ('built', 'sending') OR hash IS NOT NULL),
  CONSTRAINT mailing_day_stays CHECK (day IS NULL OR state IN ('sending', 'sent', 'held', 'discarded'))
);
COMMENT ON TABLE outbox.mailing IS
  'One row a mail that carries exported files: at most one a period, and one a day where the config says so.';
CREATE UNIQUE INDEX mailing_one_at_work ON outbox.mailing (sink)
 WHERE state IN ('planned', 'built', 'sending', 'unsent');
CREATE INDEX mailing_stuck ON outbox.mailing (sink) WHERE state IN ('held', 'dead');

CREATE TABLE outbox.mailing_step (
  mailing bigint      NOT NULL,
  step    integer     NOT NULL,
  state   text        NOT NULL,
  at      timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- Who: a relay, or an operator.
  actor   text        NOT NULL,
  hash    text,
  note    text,
  CONSTRAINT mailing_step_pk PRIMARY KEY (mailing, step)
);
COMMENT ON TABLE outbox.mailing_step IS
  'One row for each change of a mailing''s state, written by a trigger: who, when, and the hash of what was sent.';

CREATE TABLE outbox.action (
  id         bigint      NOT NULL GENERATED ALWAYS AS IDENTITY CONSTRAINT action_pk PRIMARY KEY,
  acted_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor      text        NOT NULL,
  verb       text        NOT NULL,
  message_id bigint,
  sink       text,
  target     text,
  note       text
);
COMMENT ON TABLE outbox.action IS 'What operators did, and who.';
CREATE INDEX action_message ON outbox.action (message_id) WHERE message_id IS NOT NULL;

CREATE TABLE outbox.paused_route (
  pattern   text        NOT NULL,
  sink      text        NOT NULL,
  target    text        NOT NULL,
  paused_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor     text        NOT NULL,
  CONSTRAINT paused_route_pk PRIMARY KEY (pattern, sink, target)
);
COMMENT ON TABLE outbox.paused_route IS
  'Routes whose deliveries an operator lets wait; those of the sink''s other routes go on.';

-- ---------------------------------------------------------------------------------------------
-- Functions. Those that act with the owner's rights pin their search_path.

-- Makes the ledger's partitions for today (UTC) and the three days after. Attaching, unlike
-- CREATE TABLE PARTITION OF, lets writers go on.
CREATE FUNCTION outbox.extend_ledger() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
  day   date;
  part  text;
BEGIN
  FOR n IN 0..3 LOOP
    day := today + n;
    part := 'ledger_' || to_char(day, 'YYYYMMDD');
    CONTINUE WHEN to_regclass(format('outbox.%I', part)) IS NOT NULL;
    PERFORM pg_advisory_xact_lock('outbox.ledger'::regclass::oid::bigint);
    CONTINUE WHEN to_regclass(format('outbox.%I', part)) IS NOT NULL;
    EXECUTE format('CREATE TABLE outbox.%I (LIKE outbox.ledger INCLUDING ALL)', part);
    EXECUTE format('ALTER TABLE outbox.ledger ATTACH PARTITION outbox.%I FOR VALUES FROM (%L) TO (%L)',
                   part, day::text || ' 00:00:00+00', (day + 1)::text || ' 00:00:00+00');
  END LOOP;
END
$$;
SELECT outbox.extend_ledger();

-- The routes whose pattern takes a type: for each (sink, target) the most specific one. The prefix is
-- a cheap test that spares most wildcard routes the regular expression, which is costly.
CREATE FUNCTION outbox.matching(message_type text)
RETURNS TABLE (sink text, target text, lane smallint, bell integer, specificity integer)
LANGUAGE sql STABLE AS $$
  SELECT DISTINCT ON (r.sink, r.target) r.sink, r.target, r.lane, r.bell, r.specificity
    FROM outbox.route r
   WHERE CASE WHEN r.exact THEN r.pattern = message_type
              ELSE starts_with(message_type, r.prefix)
                   AND (r.regex IS NULL OR message_type ~ r.regex) END
   ORDER BY r.sink, r.target, r.specificity DESC
$$;

-- The routes that a type goes by: a route to nowhere silences those that are less specific.
CREATE FUNCTION outbox.routes_of(message_type text)
RETURNS TABLE (sink text, target text, lane smallint, bell integer)
LANGUAGE sql STABLE AS $$
  SELECT m.sink, m.target, m.lane, m.bell
    FROM (SELECT r.*, max(r.specificity) FILTER (WHERE r.sink = '') OVER () AS silenced_below
            FROM outbox.matching(message_type) r) m
   WHERE m.silenced_below IS NULL OR m.specificity >= m.silenced_below
$$;

-- Closes messages that get no delivery, as "skipped" or "duplicate". A ledger without a partition
-- for today must not abort the producer's transaction, so the partition is made on the spot.
CREATE FUNCTION outbox.close_undelivered(ids bigint[], outcome text, receipts text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  BEGIN
    INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome, receipt)
    SELECT u.id, '', '', 1, 0, close_undelivered.outcome, u.receipt FROM unnest(ids, receipts) AS u (id, receipt);
  EXCEPTION WHEN check_violation THEN
    PERFORM outbox.extend_ledger();
    INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome, receipt)
    SELECT u.id, '', '', 1, 0, close_undelivered.outcome, u.receipt FROM unnest(ids, receipts) AS u (id, receipt);
  END;
END
$$;

-- Rings the bells of sinks whose owner sleeps. An owner about to sleep holds its bell exclusively,
-- so the shared try fails exactly then; on a busy system nobody notifies. The lock is kept to the
-- end of the transaction: an owner cannot fall asleep between this look and the commit.
CREATE FUNCTION outbox.ring(bells integer[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  bell integer;
BEGIN
  FOREACH bell IN ARRAY bells LOOP
    -- NULL: a CSV sink, which looks at the clock, or a database where producers must not NOTIFY.
    CONTINUE WHEN bell IS NULL;
    IF NOT pg_try_advisory_xact_lock_shared('outbox.sink'::regclass::oid::integer, bell) THEN
      PERFORM pg_notify('outbox_bell_' || bell, '');
    END IF;
  END LOOP;
END
$$;

-- Enters the dedupe keys of new messages, and answers which messages lost to an earlier one; those
-- are closed as duplicates. In key order, so that two statements with the same keys wait for, not
-- lock out, each other.
CREATE FUNCTION outbox.close_duplicates(ids bigint[], types text[], keys text[]) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
  losers  bigint[];
  winners text[];
BEGIN
  INSERT INTO outbox.dedupe AS d (type, key, message_id, expires_at)
  SELECT DISTINCT ON (n.type, n.key) n.type, n.key, n.id, clock_timestamp() + interval '7 days'
    FROM unnest(ids, types, keys) AS n (id, type, key)
   ORDER BY n.type, n.key, n.id
      ON CONFLICT ON CONSTRAINT dedupe_pk DO UPDATE
         SET message_id = excluded.message_id, expires_at = excluded.expires_at
       WHERE d.expires_at <= clock_timestamp();
  SELECT array_agg(n.id ORDER BY n.id), array_agg('duplicate of ' || d.message_id ORDER BY n.id)
    INTO losers, winners
    FROM unnest(ids, types, keys) AS n (id, type, key)
    JOIN outbox.dedupe d ON d.type = n.type AND d.key = n.key AND d.message_id <> n.id;
  IF losers IS NOT NULL THEN
    PERFORM outbox.close_undelivered(losers, 'duplicate', winners);
  END IF;
  RETURN losers;
END
$$;

-- Refuses a message whose columns break the contract, as the constraint of that name would.
CREATE FUNCTION outbox.refuse(fault text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'outbox.message: %', CASE fault
      WHEN 'message_type_form' THEN 'type must be 1 to 200 characters, dotted like order.created, without white space and *'
      WHEN 'message_due_at_finite' THEN 'due_at must be a time within the years 1 to 9998'
      WHEN 'message_expires_at_finite' THEN 'expires_at must be a time within the years 1 to 9998'
      WHEN 'message_key_length' THEN 'key must be 1 to 1000 bytes long'
      WHEN 'message_dedupe_key_length' THEN 'dedupe_key must be 1 to 1000 bytes long'
      WHEN 'message_headers_form' THEN 'headers must be a JSON object of strings'
    END
    USING ERRCODE = 'check_violation', CONSTRAINT = fault, SCHEMA = 'outbox', TABLE = 'message';
END
$$;

-- Which part of the contract a message breaks, by the name of a constraint; none if it keeps it.
-- Inlined by the planner.
CREATE FUNCTION outbox.fault_of(
  type text, key text, due_at timestamptz, expires_at timestamptz, dedupe_key text, headers jsonb
) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE
      -- Dotted, no white space, no "*" (which patterns use).
      WHEN length(type) NOT BETWEEN 1 AND 200 OR type <> translate(type, E' *\t\n\r\x0B\f', '')
           OR '.' || type || '.' LIKE '%..%' THEN 'message_type_form'
      -- Finite, and within the years that clients can read.
      WHEN due_at NOT BETWEEN timestamptz '0001-01-01 00:00:00+00' AND timestamptz '9999-01-01 00:00:00+00'
        THEN 'message_due_at_finite'
      WHEN expires_at NOT BETWEEN timestamptz '0001-01-01 00:00:00+00' AND timestamptz '9999-01-01 00:00:00+00'
        THEN 'message_expires_at_finite'
      -- Both keys stand in indexes, whose entries are limited to a third of a page.
      WHEN octet_length(key) NOT BETWEEN 1 AND 1000 THEN 'message_key_length'
      WHEN octet_length(dedupe_key) NOT BETWEEN 1 AND 1000 THEN 'message_dedupe_key_length'
      WHEN jsonb_typeof(headers) <> 'object'
           OR jsonb_path_exists(headers, '$.* ? (@.type() != "string")') THEN 'message_headers_form'
    END
$$;

-- Checks and routes what a statement inserted, in the producer's own transaction: each distinct type
-- once. Few and simple statements, because every producer pays for them; the plain case, one type, no
-- duplicate, somewhere to go, pays for no other.
CREATE FUNCTION outbox.route_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  low     text;
  high    text;
  deduped boolean;
  fault   text;
  losers  bigint[];
  route   record;
  routed  boolean := false;
  kinds   text[];
  sinks   text[];
  targets text[];
  lanes   smallint[];
  bells   integer[] := '{}';
BEGIN
  SELECT min(i.type), max(i.type), bool_or(i.dedupe_key IS NOT NULL),
         min(outbox.fault_of(i.type, i.key, i.due_at, i.expires_at, i.dedupe_key, i.headers))
    INTO low, high, deduped, fault
    FROM inserted i;
  IF fault IS NOT NULL THEN
    PERFORM outbox.refuse(fault);
  ELSIF low IS NULL THEN
    RETURN NULL;
  END IF;
  IF deduped THEN
    SELECT outbox.close_duplicates(array_agg(i.id), array_agg(i.type), array_agg(i.dedupe_key))
      INTO losers FROM inserted i WHERE i.dedupe_key IS NOT NULL;
  END IF;

  IF low = high AND losers IS NULL THEN
    FOR route IN SELECT r.sink, r.target, r.lane, r.bell FROM outbox.matching(low) r LOOP
      -- A route to nowhere comes first, as its sink is empty.
      EXIT WHEN route.sink = '';
      routed := true;
      INSERT INTO outbox.delivery (message_id, sink, target, lane, due_at, key)
      SELECT i.id, route.sink, route.target, route.lane, greatest(i.due_at, clock_timestamp()), i.key
        FROM inserted i;
      bells := bells || route.bell;
    END LOOP;
  END IF;

  IF NOT routed THEN
    SELECT array_agg(t.type), array_agg(r.sink), array_agg(r.target), array_agg(r.lane),
           array_agg(DISTINCT r.bell)
      INTO kinds, sinks, targets, lanes, bells
      FROM (SELECT i.type FROM inserted i GROUP BY i.type) t
      LEFT JOIN LATERAL outbox.routes_of(t.type) r ON true;
    INSERT INTO outbox.delivery (message_id, sink, target, lane, state, due_at, key)
    SELECT i.id, coalesce(k.sink, ''), coalesce(k.target, ''), coalesce(k.lane, 0::smallint),
           CASE WHEN k.sink IS NULL THEN 'unrouted' ELSE 'pending' END,
           CASE WHEN k.sink IS NULL THEN 'infinity' ELSE greatest(i.due_at, clock_timestamp()) END,
           i.key
      FROM inserted i
      JOIN unnest(kinds, sinks, targets, lanes) AS k (type, sink, target, lane) ON k.type = i.type
     WHERE k.sink IS DISTINCT FROM ''
       AND (losers IS NULL OR i.id NOT IN (SELECT l.id FROM unnest(losers) AS l (id)));
    -- Types that are routed nowhere, on purpose, and nowhere else.
    PERFORM outbox.close_undelivered(array_agg(i.id), 'skipped', '{}')
       FROM inserted i
      WHERE i.type IN (SELECT k.type FROM unnest(kinds, sinks) AS k (type, sink)
                        GROUP BY k.type HAVING bool_and(k.sink = ''))
        AND (losers IS NULL OR i.id NOT IN (SELECT l.id FROM unnest(losers) AS l (id)))
     HAVING count(*) > 0;
  END IF;
  PERFORM outbox.ring(bells);
  RETURN NULL;
END
$$;

CREATE TRIGGER route_inserted AFTER INSERT ON outbox.message
  REFERENCING NEW TABLE AS inserted
  FOR EACH STATEMENT EXECUTE FUNCTION outbox.route_inserted();

-- Routes messages that stand there already: unrouted ones for which a route has come, and unseen
-- ones. Answers how many messages are no longer waiting for a route.
CREATE FUNCTION outbox.route_existing(ids bigint[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  nowhere bigint[];
  bells   integer[];
  done    bigint;
BEGIN
  -- The lock keeps two relays from routing the same message twice; messages that got a delivery
  -- or a ledger row meanwhile are left alone.
  PERFORM pg_advisory_xact_lock('outbox.route'::regclass::oid::bigint);
  WITH waiting AS MATERIALIZED (
    SELECT m.id, m.type, m.key, m.due_at
      FROM outbox.message m
     WHERE m.id = ANY (ids)
       AND NOT EXISTS (SELECT FROM outbox.delivery d WHERE d.message_id = m.id AND d.state <> 'unrouted')
       AND NOT EXISTS (SELECT FROM outbox.ledger l WHERE l.message_id = m.id)
  ), kind AS MATERIALIZED (
    SELECT t.type, r.sink, r.target, r.lane, r.bell
      FROM (SELECT DISTINCT w.type FROM waiting w) t
      CROSS JOIN LATERAL outbox.routes_of(t.type) r
  ), routed AS (
    INSERT INTO outbox.delivery (message_id, sink, target, lane, due_at, key)
    SELECT w.id, k.sink, k.target, k.lane, greatest(w.due_at, clock_timestamp()), w.key
      FROM waiting w JOIN kind k ON k.type = w.type
     WHERE k.sink <> ''
    RETURNING message_id
  ), passed AS (
    SELECT w.id FROM waiting w
     WHERE EXISTS (SELECT FROM kind k WHERE k.type = w.type AND k.sink = '')
       AND NOT EXISTS (SELECT FROM kind k WHERE k.type = w.type AND k.sink <> '')
  ), gone AS (
    DELETE FROM outbox.delivery d
     USING waiting w
     WHERE d.message_id = w.id AND d.state = 'unrouted'
       AND EXISTS (SELECT FROM kind k WHERE k.type = w.type)
  )
  SELECT ARRAY(SELECT p.id FROM passed p),
         (SELECT array_agg(DISTINCT k.bell) FROM kind k WHERE k.bell IS NOT NULL),
         (SELECT count(DISTINCT r.message_id) FROM routed r) + (SELECT count(*) FROM passed)
    INTO nowhere, bells, done;

  IF cardinality(nowhere) > 0 THEN
    PERFORM outbox.close_undelivered(nowhere, 'skipped', '{}');
  END IF;
  -- An unseen message whose type no route takes waits as unrouted, like any other.
  INSERT INTO outbox.delivery (message_id, sink, target, state, due_at, key)
  SELECT m.id, '', '', 'unrouted', 'infinity', m.key
    FROM outbox.message m
   WHERE m.id = ANY (ids)
     AND NOT EXISTS (SELECT FROM outbox.delivery d WHERE d.message_id = m.id)
     AND NOT EXISTS (SELECT FROM outbox.ledger l WHERE l.message_id = m.id);
  DELETE FROM outbox.unseen u WHERE u.message_id = ANY (ids);
  IF bells IS NOT NULL THEN
    PERFORM outbox.ring(bells);
  END IF;
  RETURN done;
END
$$;

-- The contract as a function, for those who prefer a call to an INSERT. The caller's own rights.
CREATE FUNCTION outbox.send(
  type       text,
  payload    jsonb,
  key        text        DEFAULT NULL,
  due_at     timestamptz DEFAULT NULL,
  expires_at timestamptz DEFAULT NULL,
  dedupe_key text        DEFAULT NULL,
  headers    jsonb       DEFAULT NULL
) RETURNS bigint
LANGUAGE sql AS $$
  INSERT INTO outbox.message (type, payload, key, due_at, expires_at, dedupe_key, headers)
  VALUES ($1, $2, $3, $4, $5, $6, $7)
  RETURNING id
$$;
COMMENT ON FUNCTION outbox.send IS
  'Sends a message with the transaction it is called in; answers its id. Contract version 1.';

-- ---------------------------------------------------------------------------------------------
-- Alerts and retention.

-- Tells of one cause: writes its messages, closes those of their deliveries that would go through a
-- sink they speak of, and notes what was told, all in one transaction. Of several relays that saw the
-- same one tells: whoever finds that the cause was told since it looked, or less than "pause" ago,
-- does nothing. While the installation is paused nothing would carry a message, and a restored copy
-- must not draw ids. Answers how many messages were written.
--   told      [{"subject", "news", "newest", "gone"}]
--   messages  [{"payload", "barred": [sinks]}]
CREATE FUNCTION outbox.tell(
  cause text, last_told timestamptz, pause interval, told jsonb, messages jsonb
) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  last   timestamptz;
  one    jsonb;
  new_id bigint;
BEGIN
  PERFORM pg_advisory_xact_lock('outbox.alert'::regclass::oid::bigint);
  SELECT max(a.told_at) INTO last FROM outbox.alert a WHERE a.cause = tell.cause;
  IF last IS DISTINCT FROM last_told OR last > clock_timestamp() - pause
     OR EXISTS (SELECT FROM outbox.installation i WHERE i.paused) THEN
    RETURN 0;
  END IF;
  FOR one IN SELECT m.value FROM jsonb_array_elements(messages) m LOOP
    INSERT INTO outbox.message (type, payload) VALUES ('outboxd.alert', one -> 'payload')
    RETURNING id INTO new_id;
    WITH barred AS (
      DELETE FROM outbox.delivery d
       WHERE d.message_id = new_id
         AND d.sink IN (SELECT b.value FROM jsonb_array_elements_text(one -> 'barred') b)
      RETURNING d.message_id, d.sink, d.target, d.round
    )
    INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome, receipt)
    SELECT b.message_id, b.sink, b.target, b.round, 0, 'skipped',
           'an alert does not go through the sink it speaks of'
      FROM barred b;
  END LOOP;
  UPDATE outbox.alert a
     SET told_at = clock_timestamp(),
         told_news = CASE WHEN NOT t.gone THEN t.news END,
         told_newest = CASE WHEN NOT t.gone THEN t.newest END
    FROM jsonb_to_recordset(told) AS t (subject text, news bigint, newest bigint, gone boolean)
   WHERE a.cause = tell.cause AND a.subject = t.subject;
  RETURN jsonb_array_length(messages);
END
$$;

-- One bounded step of retention: of the next messages, those are deleted that a ledger row speaks of,
-- that have no open delivery, whose last delivery was closed longer ago than their type is kept, and
-- whose files are published. It walks messages and not the ledger, because that costs what is left
-- and not what ever was; and a span of ids, not a number of rows, because between two messages that
-- are kept there may be millions of ledger rows of others. One relay at a time.
--   kinds     [{"pattern", "exact", "prefix", "regex", "specificity", "keep_ms"}]: types that are
--             kept for another time; the most specific wins, of two that are equally so the longer
-- Answers where the step ended, NULL where there is nothing old enough behind it, or another relay is
-- at work; and how many messages were deleted.
CREATE FUNCTION outbox.prune(
  after bigint, span integer, keep interval, kinds jsonb, OUT reached bigint, OUT pruned bigint
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
DECLARE
  shortest interval;
  low      bigint;
  oldest   timestamptz;
  doomed   bigint[];
BEGIN
  pruned := 0;
  IF NOT pg_try_advisory_xact_lock('outbox.message'::regclass::oid::bigint) THEN
    RETURN;
  END IF;
  SELECT least(keep, min(k.keep_ms) * interval '1 ms') INTO shortest
    FROM jsonb_to_recordset(kinds) AS k (keep_ms bigint);
  SELECT m.id, m.created_at INTO low, oldest
    FROM outbox.message m WHERE m.id > after ORDER BY m.id LIMIT 1;
  -- Ids are about as old as they are low; what is out of order is met by a later round.
  IF low IS NULL OR oldest > clock_timestamp() - shortest THEN
    RETURN;
  END IF;
  -- The rows are locked first and looked at for open deliveries after, by another statement: a replay
  -- that locks its message either comes first and is seen, or finds the message gone.
  SELECT array_agg(c.id) INTO doomed
    FROM (SELECT m.id
            FROM outbox.message m
            JOIN (SELECT l.message_id, max(l.closed_at) AS closed_at, array_agg(DISTINCT l.export_id) AS files
                    FROM outbox.ledger l
                   WHERE l.message_id >= low AND l.message_id < low + span
                   GROUP BY l.message_id) l ON l.message_id = m.id
           WHERE m.id >= low AND m.id < low + span
             AND l.closed_at < clock_timestamp() - coalesce(
                   (SELECT k.keep_ms * interval '1 ms'
                      FROM jsonb_to_recordset(kinds) AS k (
                             pattern text, exact boolean, prefix text, regex text, specificity integer,
                             keep_ms bigint)
                     WHERE CASE WHEN k.exact THEN k.pattern = m.type
                                ELSE starts_with(m.type, k.prefix)
                                     AND (k.regex IS NULL OR m.type ~ k.regex) END
                     ORDER BY k.specificity DESC, k.keep_ms DESC LIMIT 1), keep)
             AND NOT EXISTS (SELECT FROM outbox.export e
                              WHERE e.id = ANY (l.files) AND e.state <> 'published')
           FOR UPDATE OF m SKIP LOCKED) c;
  DELETE FROM outbox.message m
   WHERE m.id = ANY (doomed)
     AND NOT EXISTS (SELECT FROM outbox.delivery d WHERE d.message_id = m.id);
  GET DIAGNOSTICS pruned = ROW_COUNT;
  reached := low + span - 1;
END
$$;

-- Lets go of a partition of the ledger: one that is past "keep" as a whole and speaks of no message
-- that is left. First it is detached and renamed, which locks the ledger for a moment, and the next
-- call drops it, which may take long and locks nobody. Whoever waits for that lock holds up those that
-- come after, so it is waited for no longer than an insert may be delayed: 50 ms, then the lock_timeout
-- is the caller's to see (55P03), who tries again later. Answers what was done, NULL if there is nothing.
CREATE FUNCTION outbox.drop_ledger(keep interval) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' SET enable_seqscan = off SET jit = off
AS $$
DECLARE
  part     text;
  standing boolean;
BEGIN
  IF NOT pg_try_advisory_xact_lock('outbox.message'::regclass::oid::bigint) THEN
    RETURN NULL;
  END IF;
  SELECT c.relname INTO part
    FROM pg_class c
   WHERE c.relnamespace = (SELECT l.relnamespace FROM pg_class l WHERE l.oid = 'outbox.ledger'::regclass)
     AND c.relname ~ '^pruned_[0-9]{8}$' AND c.relkind = 'r' AND NOT c.relispartition
   ORDER BY c.relname LIMIT 1;
  IF part IS NOT NULL THEN
    EXECUTE format('DROP TABLE outbox.%I', part);
    RETURN 'dropped ' || part;
  END IF;
  FOR part IN
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'outbox.ledger'::regclass AND c.relname ~ '^ledger_[0-9]{8}$'
       AND (to_date(right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp AT TIME ZONE 'UTC'
             < clock_timestamp() - keep
     ORDER BY c.relname
  LOOP
    -- A few of its rows tell most of the time. Then the messages that are left where it speaks of any:
    -- where that are very many, it is too early.
    EXECUTE format($check$
      SELECT EXISTS (SELECT FROM (SELECT l.message_id FROM outbox.%1$I l LIMIT 1000) s
                       JOIN outbox.message m ON m.id = s.message_id)
             OR EXISTS (SELECT FROM (SELECT m.id, row_number() OVER (ORDER BY m.id) AS place
                                       FROM outbox.message m
                                      WHERE m.id BETWEEN (SELECT min(l.message_id) FROM outbox.%1$I l)
                                                     AND (SELECT max(l.message_id) FROM outbox.%1$I l)
                                      ORDER BY m.id LIMIT 200000) w
                         WHERE w.place = 200000
                            OR EXISTS (SELECT FROM outbox.%1$I l WHERE l.message_id = w.id))
      $check$, part) INTO standing;
    IF NOT standing THEN
      EXECUTE format('ALTER TABLE outbox.ledger DETACH PARTITION outbox.%I', part);
      EXECUTE format('ALTER TABLE outbox.%I RENAME TO %I', part, replace(part, 'ledger_', 'pruned_'));
      RETURN 'detached ' || part;
    END IF;
  END LOOP;
  RETURN NULL;
END
$$;

-- Forgets what is of no more use, a bounded number at a time: what operators did longer ago than
-- "keep", all but the last thousand sets of routes, counters of days past, and what the sweep found
-- that has been dealt with. Answers how many rows.
CREATE FUNCTION outbox.forget(keep interval) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_hashjoin = off SET jit = off
AS $$
DECLARE
  total bigint := 0;
  few   bigint;
BEGIN
  IF NOT pg_try_advisory_xact_lock('outbox.message'::regclass::oid::bigint) THEN
    RETURN 0;
  END IF;
  DELETE FROM outbox.action a
   USING (SELECT o.id, o.acted_at FROM outbox.action o ORDER BY o.id LIMIT 10000) o
   WHERE a.id = o.id AND o.acted_at < clock_timestamp() - keep;
  GET DIAGNOSTICS few = ROW_COUNT; total := total + few;
  DELETE FROM outbox.route_set s
   WHERE s.generation < (SELECT n.generation FROM outbox.route_set n
                          ORDER BY n.generation DESC OFFSET 999 LIMIT 1);
  GET DIAGNOSTICS few = ROW_COUNT; total := total + few;
  DELETE FROM outbox.spent s WHERE s.bucket < clock_timestamp() - interval '3 days';
  GET DIAGNOSTICS few = ROW_COUNT; total := total + few;
  RETURN total;
END
$$;

-- Forgets what the calendar did longer ago than "keep", a bounded number at a time: runs of schedules,
-- files, and mails with their steps. The last run of a schedule and the last file of a sink stay, and the
-- last that was cut by time: the calendar goes on from them. A file stays as long as the ledger speaks of
-- it or its mail is not done, and a mail as long as one of its files. Answers how many rows.
CREATE FUNCTION outbox.forget_calendar(keep interval) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_hashjoin = off SET jit = off
AS $$
DECLARE
  past  timestamptz := clock_timestamp() - keep;
  total bigint := 0;
  few   bigint;
BEGIN
  IF NOT pg_try_advisory_xact_lock('outbox.message'::regclass::oid::bigint) THEN
    RETURN 0;
  END IF;
  DELETE FROM outbox.occurrence o
   USING outbox.calendar c
   CROSS JOIN LATERAL (
          SELECT x.period, x.round, x.ran_at FROM outbox.occurrence x
           WHERE x.schedule = c.name AND x.due_at < past
             AND x.due_at < (SELECT max(m.due_at) FROM outbox.occurrence m WHERE m.schedule = c.name)
           ORDER BY x.due_at LIMIT 2000) old
   WHERE c.kind = 'schedule' AND old.ran_at < past
     AND o.schedule = c.name AND o.period = old.period AND o.round = old.round;
  GET DIAGNOSTICS few = ROW_COUNT; total := total + few;
  DELETE FROM outbox.export e
   USING outbox.sink s
   CROSS JOIN LATERAL (
          SELECT max(m.due_before) AS last_before,
                 (SELECT t.id FROM outbox.export t WHERE t.sink = s.name AND t.rows_max IS NULL
                   ORDER BY t.due_before DESC LIMIT 1) AS last_by_time
            FROM outbox.export m WHERE m.sink = s.name) kept
   CROSS JOIN LATERAL (
          SELECT x.id, x.opened_at, x.mailing FROM outbox.export x
           WHERE x.sink = s.name AND x.due_before < past AND x.due_before < kept.last_before
           ORDER BY x.due_before LIMIT 2000) old
   WHERE s.kind IN ('csv', 'export') AND old.opened_at < past
     AND e.id = old.id AND e.id IS DISTINCT FROM kept.last_by_time AND e.state IN ('published', 'empty')
     AND NOT EXISTS (SELECT FROM outbox.ledger l WHERE l.export_id = old.id)
     AND NOT EXISTS (SELECT FROM outbox.mailing m
                      WHERE m.id = old.mailing AND m.state NOT IN ('sent', 'discarded'));
  GET DIAGNOSTICS few = ROW_COUNT; total := total + few;
  WITH gone AS (
    DELETE FROM outbox.mailing m
     USING (SELECT o.id FROM outbox.mailing o ORDER BY o.id LIMIT 2000) old
     WHERE m.id = old.id AND m.changed_at < past AND m.state IN ('sent', 'discarded')
       AND NOT EXISTS (SELECT FROM outbox.export e WHERE e.mailing = m.id)
    RETURNING m.id
  ), steps AS (
    DELETE FROM outbox.mailing_step s USING gone g WHERE s.mailing = g.id
  )
  SELECT count(*) INTO few FROM gone;
  RETURN total + few;
END
$$;

-- ---------------------------------------------------------------------------------------------
-- Restored or cloned.

-- Whether this is another cluster than the installation's own; NULL where that cannot be known.
CREATE FUNCTION outbox.is_restored() RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT outbox.cluster() <> i.system_identifier FROM outbox.installation i
$$;

-- Pauses a copy in another cluster: what it holds open may long be delivered by the original. Answers
-- whether it is one.
CREATE FUNCTION outbox.pause_restored(actor text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  WITH paused AS (
    UPDATE outbox.installation i
       SET paused = true, paused_for = 'restored'
     WHERE outbox.cluster() <> i.system_identifier
       AND (NOT i.paused OR i.paused_for IS DISTINCT FROM 'restored')
    RETURNING i.system_identifier
  )
  INSERT INTO outbox.action (actor, verb, note)
  SELECT pause_restored.actor, 'pause',
         format('restored: made in cluster %s, this is %s', p.system_identifier, outbox.cluster())
    FROM paused p;
  RETURN outbox.is_restored();
END
$$;

-- The highest id ever given to a message, as far as this database knows.
CREATE FUNCTION outbox.highest_id() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN greatest(
    0,
    (SELECT max(m.id) FROM outbox.message m),
    (SELECT max(d.message_id) FROM outbox.delivery d),
    (SELECT max(l.message_id) FROM outbox.ledger l),
    (SELECT max(k.message_id) FROM outbox.dedupe k),
    (SELECT max(u.message_id) FROM outbox.unseen u),
    (SELECT max(a.message_id) FROM outbox.action a WHERE a.message_id IS NOT NULL),
    pg_sequence_last_value(pg_get_serial_sequence('outbox.message', 'id')::regclass));
END
$$;

-- Makes this cluster the installation's own and resumes. Ids are part of idempotency keys, so they go
-- on above all that the original may have given away since: above the one that is named, or a billion
-- higher. Answers the first.
CREATE FUNCTION outbox.resume_restored(actor text, ids_above bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
  first_id bigint;
BEGIN
  -- Whoever takes an id meanwhile must not have it taken again.
  LOCK TABLE outbox.message IN SHARE ROW EXCLUSIVE MODE;
  first_id := 1 + CASE WHEN ids_above IS NULL THEN outbox.highest_id() + 1000000000
                       ELSE greatest(ids_above, outbox.highest_id()) END;
  PERFORM setval(pg_get_serial_sequence('outbox.message', 'id')::regclass, first_id, false);
  UPDATE outbox.installation i
     SET system_identifier = outbox.cluster(), paused = false, paused_for = NULL;
  INSERT INTO outbox.action (actor, verb, note)
  VALUES (resume_restored.actor, 'resume', format('restored: ids go on at %s', first_id));
  PERFORM outbox.ring(ARRAY(SELECT s.bell FROM outbox.sink s JOIN outbox.installation i ON i.doorbell
                             WHERE s.kind NOT IN ('csv', 'export')));
  RETURN first_id;
END
$$;

-- ---------------------------------------------------------------------------------------------
-- What operators do. Each of these records who did it; counts up rev, so that the end of an attempt
-- that was under way changes nothing unless it delivered; and wakes the sinks. What is in flight is
-- not recalled. They answer the deliveries they changed, none if there was nothing to change.

CREATE TYPE outbox.change AS (message_id bigint, sink text, target text, was text, became text);

-- Wakes the owners of these sinks.
CREATE FUNCTION outbox.wake(sinks text[]) RETURNS void
LANGUAGE sql AS $$
  SELECT outbox.ring(ARRAY(
           SELECT s.bell
             FROM outbox.sink s
             JOIN outbox.installation i ON i.doorbell
            WHERE s.name = ANY (sinks) AND s.kind NOT IN ('csv', 'export')
            ORDER BY s.bell))
$$;

-- Locks the open deliveries of a message; waits for whoever is changing them.
CREATE FUNCTION outbox.open_of(message_id bigint, sink text, target text)
RETURNS TABLE (ids bigint[], sinks text[], targets text[], revs integer[])
LANGUAGE sql AS $$
  SELECT array_agg(o.message_id), array_agg(o.sink), array_agg(o.target), array_agg(o.rev)
    FROM (SELECT d.message_id, d.sink, d.target, d.rev
            FROM outbox.delivery d
           WHERE d.message_id = $1 AND d.sink = coalesce($2, d.sink) AND d.target = coalesce($3, d.target)
           ORDER BY d.sink, d.target
             FOR UPDATE) o
$$;

-- Locks the open deliveries that an operator chose. Those that changed since they were looked at, and
-- those that somebody is changing now, are left out: to wait for them could lock out a relay. Row by
-- row, here and in what follows: no statistics, however wrong, make that a walk through all of them.
CREATE FUNCTION outbox.chosen(ids bigint[], sinks text[], targets text[], revs integer[])
RETURNS SETOF outbox.delivery
LANGUAGE sql AS $$
  SELECT d.*
    FROM (SELECT c.* FROM unnest(ids, sinks, targets, revs) AS c (message_id, sink, target, rev)
           ORDER BY c.message_id, c.sink, c.target) c
   CROSS JOIN LATERAL (
          SELECT l.* FROM outbox.delivery l
           WHERE l.message_id = c.message_id AND l.sink = c.sink AND l.target = c.target
             AND l.rev = c.rev
             FOR UPDATE SKIP LOCKED) d
$$;

-- Closes open deliveries. The next of a key whose head was among them falls due anew: its due time may
-- lie below where its sink's owner looks next. It is left alone if somebody is changing it, as then it
-- does not wait.
CREATE FUNCTION outbox.close_open(closing outbox.delivery[], outcome text, receipt text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  one outbox.delivery;
BEGIN
  PERFORM outbox.extend_ledger();
  FOREACH one IN ARRAY coalesce(closing, '{}') LOOP
    DELETE FROM outbox.delivery d
     WHERE d.message_id = one.message_id AND d.sink = one.sink AND d.target = one.target;
  END LOOP;
  INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome, receipt)
  -- What arrived was attempted, though a retry may have begun to count anew.
  SELECT c.message_id, c.sink, c.target, c.round,
         greatest(c.attempt, CASE WHEN close_open.outcome = 'delivered' THEN 1 ELSE 0 END),
         close_open.outcome, close_open.receipt
    FROM unnest(closing) AS c;
  FOR one IN
    SELECT next.*
      FROM (SELECT c.sink, c.target, c.key, min(c.message_id) AS closed
              FROM unnest(closing) AS c
             WHERE c.key IS NOT NULL
             GROUP BY c.sink, c.target, c.key) k
     CROSS JOIN LATERAL (
            SELECT n.message_id FROM outbox.delivery n
             WHERE n.sink = k.sink AND n.target = k.target AND n.key = k.key
             ORDER BY n.message_id LIMIT 1) head
     CROSS JOIN LATERAL (
            SELECT n.* FROM outbox.delivery n
             WHERE n.message_id = head.message_id AND n.sink = k.sink AND n.target = k.target
               AND n.message_id > k.closed AND n.state = 'pending' AND n.due_at <= clock_timestamp()
               FOR UPDATE SKIP LOCKED) next
  LOOP
    UPDATE outbox.delivery d
       SET due_at = clock_timestamp(), rev = d.rev + 1
     WHERE d.message_id = one.message_id AND d.sink = one.sink AND d.target = one.target;
  END LOOP;
  PERFORM outbox.wake(ARRAY(SELECT DISTINCT c.sink FROM unnest(closing) AS c));
END
$$;

-- Dead deliveries are tried again now, with all their attempts to come. By the rev that was looked at.
CREATE FUNCTION outbox.retry_these(
  ids bigint[], sinks text[], targets text[], revs integer[], actor text DEFAULT session_user
) RETURNS SETOF outbox.change
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  dead outbox.delivery[];
  one  outbox.delivery;
BEGIN
  SELECT array_agg(c) INTO dead FROM outbox.chosen(ids, sinks, targets, revs) c WHERE c.state = 'dead';
  FOREACH one IN ARRAY coalesce(dead, '{}') LOOP
    UPDATE outbox.delivery d
       SET state = 'pending', due_at = clock_timestamp(), attempt = 0, crashes = NULL, rev = d.rev + 1
     WHERE d.message_id = one.message_id AND d.sink = one.sink AND d.target = one.target;
  END LOOP;
  INSERT INTO outbox.action (actor, verb, message_id, sink, target)
  SELECT retry_these.actor, 'retry', c.message_id, c.sink, c.target FROM unnest(dead) AS c;
  PERFORM outbox.wake(ARRAY(SELECT DISTINCT c.sink FROM unnest(dead) AS c));
  RETURN QUERY SELECT c.message_id, c.sink, c.target, c.state, 'pending' FROM unnest(dead) AS c;
END
$$;

CREATE FUNCTION outbox.retry(
  message_id bigint, sink text DEFAULT NULL, target text DEFAULT NULL, actor text DEFAULT session_user
) RETURNS SETOF outbox.change
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT t.*
    FROM outbox.open_of($1, $2, $3) o
   CROSS JOIN LATERAL outbox.retry_these(o.ids, o.sinks, o.targets, o.revs, $4) t
$$;
COMMENT ON FUNCTION outbox.retry IS
  'Tries dead deliveries of a message again, now; a sink or target left out means each.';

-- Open deliveries are closed as discarded. By the rev that was looked at.
CREATE FUNCTION outbox.discard_these(
  ids bigint[], sinks text[], targets text[], revs integer[], actor text DEFAULT session_user
) RETURNS SETOF outbox.change
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  unwanted outbox.delivery[];
BEGIN
  SELECT array_agg(c) INTO unwanted FROM outbox.chosen(ids, sinks, targets, revs) c;
  PERFORM outbox.close_open(unwanted, 'discarded', 'discarded by ' || actor);
  INSERT INTO outbox.action (actor, verb, message_id, sink, target, note)
  SELECT discard_these.actor, 'discard', c.message_id, c.sink, c.target,
         'it was ' || concat_ws(': ', c.state, c.reason)
    FROM unnest(unwanted) AS c;
  RETURN QUERY SELECT c.message_id, c.sink, c.target, c.state, 'discarded' FROM unnest(unwanted) AS c;
END
$$;

CREATE FUNCTION outbox.discard(
  message_id bigint, sink text DEFAULT NULL, target text DEFAULT NULL, actor text DEFAULT session_user
) RETURNS SETOF outbox.change
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT t.*
    FROM outbox.open_of($1, $2, $3) o
   CROSS JOIN LATERAL outbox.discard_these(o.ids, o.sinks, o.targets, o.revs, $4) t
$$;
COMMENT ON FUNCTION outbox.discard IS
  'Closes open deliveries of a message for good; an attempt that is in flight is not recalled.';

-- Held deliveries: they arrived, or they did not and are sent again, rendered anew and with all their
-- attempts to come. Those that a silent relay may yet be sending are not sent again before hold_until.
CREATE FUNCTION outbox.resolve_these(
  ids bigint[], sinks text[], targets text[], revs integer[], delivered boolean,
  actor text DEFAULT session_user
) RETURNS SETOF outbox.change
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  held outbox.delivery[];
  one  outbox.delivery;
BEGIN
  SELECT array_agg(c) INTO held
    FROM outbox.chosen(ids, sinks, targets, revs) c
   WHERE c.state = 'held'
     AND (resolve_these.delivered OR coalesce(c.hold_until <= clock_timestamp(), true));
  IF delivered THEN
    PERFORM outbox.close_open(held, 'delivered', 'resolved by ' || actor || ': delivered');
  ELSE
    FOREACH one IN ARRAY coalesce(held, '{}') LOOP
      UPDATE outbox.delivery d
         SET state = 'pending', due_at = clock_timestamp(), attempt = 0, rev = d.rev + 1,
             epoch = NULL, repeatable = NULL, crashes = NULL, hold_until = NULL, content_hash = NULL
       WHERE d.message_id = one.message_id AND d.sink = one.sink AND d.target = one.target;
    END LOOP;
    PERFORM outbox.wake(ARRAY(SELECT DISTINCT c.sink FROM unnest(held) AS c));
  END IF;
  INSERT INTO outbox.action (actor, verb, message_id, sink, target, note)
  SELECT resolve_these.actor, 'resolve', c.message_id, c.sink, c.target,
         CASE WHEN resolve_these.delivered THEN 'delivered' ELSE 'not delivered' END
           || '; it was held: ' || c.reason
    FROM unnest(held) AS c;
  RETURN QUERY
  SELECT c.message_id, c.sink, c.target, c.state,
         CASE WHEN resolve_these.delivered THEN 'delivered' ELSE 'pending' END
    FROM unnest(held) AS c;
END
$$;

CREATE FUNCTION outbox.resolve(
  message_id bigint, sink text, target text, delivered boolean, actor text DEFAULT session_user
) RETURNS SETOF outbox.change
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  wait timestamptz;
BEGIN
  SELECT max(d.hold_until) INTO wait
    FROM outbox.delivery d
   WHERE d.message_id = resolve.message_id AND d.sink = coalesce(resolve.sink, d.sink)
     AND d.target = coalesce(resolve.target, d.target) AND d.state = 'held';
  IF NOT delivered AND wait > clock_timestamp() THEN
    RAISE EXCEPTION 'not before %: until then the relay that fell silent may yet be sending it', wait
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  RETURN QUERY
  SELECT t.*
    FROM outbox.open_of(message_id, sink, target) o
   CROSS JOIN LATERAL outbox.resolve_these(o.ids, o.sinks, o.targets, o.revs, delivered, actor) t;
END
$$;
COMMENT ON FUNCTION outbox.resolve IS
  'Says of held deliveries of a message whether they arrived; a sink or target of NULL means each.';

-- Closed deliveries begin another life, due from "delay" on, "every" apart; under the idempotency key
-- they had. By the round that was looked at, so that of two operators one begins it. Never while one is
-- open, nor without its message, nor past the message's expires_at. The lane is the route's unless given.
CREATE FUNCTION outbox.replay_these(
  ids bigint[], sinks text[], targets text[], rounds integer[], actor text DEFAULT session_user,
  lane smallint DEFAULT NULL, delay interval DEFAULT '0', every interval DEFAULT '0'
) RETURNS SETOF outbox.change
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  start timestamptz := clock_timestamp() + delay;
BEGIN
  -- Of two replays the second sees what became of the first.
  PERFORM pg_advisory_xact_lock('outbox.action'::regclass::oid::bigint);
  RETURN QUERY
  WITH closed AS MATERIALIZED (
    SELECT c.message_id, c.sink, c.target, c.round, m.type, m.key, life.outcome,
           row_number() OVER (ORDER BY c.message_id, c.sink, c.target) - 1 AS place
      FROM unnest(ids, sinks, targets, rounds) AS c (message_id, sink, target, round)
     CROSS JOIN LATERAL (
            -- Locked: retention either sees the new life, or had the message first.
            SELECT w.type, w.key FROM outbox.message w
             WHERE w.id = c.message_id AND (w.expires_at IS NULL OR w.expires_at > clock_timestamp())
               FOR KEY SHARE) m
     CROSS JOIN LATERAL (
            SELECT l.round, l.outcome FROM outbox.ledger l
             WHERE l.message_id = c.message_id AND l.sink = c.sink AND l.target = c.target
             ORDER BY l.round DESC, l.closed_at DESC LIMIT 1) life
     WHERE life.round = c.round AND life.outcome IN ('delivered', 'expired', 'discarded')
       AND EXISTS (SELECT FROM outbox.sink s WHERE s.name = c.sink AND s.kind NOT IN ('csv', 'export'))
  ), begun AS (
    INSERT INTO outbox.delivery AS d (message_id, sink, target, lane, due_at, key, round, rev)
    SELECT c.message_id, c.sink, c.target,
           coalesce(replay_these.lane,
                    (SELECT r.lane FROM outbox.matching(c.type) r
                      WHERE r.sink = c.sink AND r.target = c.target), 0::smallint),
           greatest(start + c.place * every, clock_timestamp()), c.key, c.round + 1,
           -- Above the revs of the life before, of which an attempt may still be in flight.
           least(c.round, 2000) * 1000000
      FROM closed c
     ORDER BY c.place
        ON CONFLICT ON CONSTRAINT delivery_pk DO NOTHING
    RETURNING d.message_id, d.sink, d.target, d.round
  ), noted AS (
    INSERT INTO outbox.action (actor, verb, message_id, sink, target, note)
    SELECT replay_these.actor, 'replay', b.message_id, b.sink, b.target, 'round ' || b.round FROM begun b
  )
  SELECT b.message_id, b.sink, b.target, c.outcome, 'pending'::text
    FROM begun b
    JOIN closed c ON c.message_id = b.message_id AND c.sink = b.sink AND c.target = b.target;
  PERFORM outbox.wake(ARRAY(SELECT DISTINCT s.name FROM unnest(sinks) AS s (name)));
END
$$;

CREATE FUNCTION outbox.replay(
  message_id bigint, sink text DEFAULT NULL, target text DEFAULT NULL, actor text DEFAULT session_user
) RETURNS SETOF outbox.change
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT t.*
    FROM (SELECT array_agg(c.message_id) AS ids, array_agg(c.sink) AS sinks,
                 array_agg(c.target) AS targets, array_agg(c.round) AS rounds
            FROM (SELECT l.message_id, l.sink, l.target, max(l.round) AS round
                    FROM outbox.ledger l
                   WHERE l.message_id = $1 AND l.sink = coalesce($2, l.sink)
                     AND l.target = coalesce($3, l.target)
                   GROUP BY l.message_id, l.sink, l.target) c) o
   CROSS JOIN LATERAL outbox.replay_these(o.ids, o.sinks, o.targets, o.rounds, $4) t
$$;
COMMENT ON FUNCTION outbox.replay IS
  'Sends closed deliveries of a message again, under their idempotency keys; a sink or target left out means each.';

-- Every change of a mailing's state leaves a row, and no change leads out of what is final: what was sent
-- stays sent, and what is in doubt is left to an operator or to the relay that learns the truth late.
CREATE FUNCTION outbox.mailing_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND OLD.state = NEW.state AND OLD.hash IS NOT DISTINCT FROM NEW.hash THEN
    RETURN NULL;
  END IF;
  IF TG_OP = 'INSERT' AND NEW.state <> 'planned' OR TG_OP = 'UPDATE' AND NOT (CASE NEW.state
       WHEN 'planned' THEN OLD.state IN ('planned', 'built', 'unsent', 'dead')
       WHEN 'built' THEN OLD.state IN ('planned', 'built', 'unsent')
       WHEN 'sending' THEN OLD.state = 'built'
       WHEN 'unsent' THEN OLD.state IN ('planned', 'built', 'sending', 'held')
       WHEN 'sent' THEN OLD.state <> 'sent'
       WHEN 'held' THEN OLD.state = 'sending'
       WHEN 'dead' THEN OLD.state IN ('planned', 'built', 'unsent', 'sending')
       WHEN 'discarded' THEN OLD.state NOT IN ('sent', 'sending')
       END)
  THEN
    RAISE EXCEPTION 'a mailing that is % cannot become %',
        CASE WHEN TG_OP = 'UPDATE' THEN OLD.state ELSE 'new' END, NEW.state
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  INSERT INTO outbox.mailing_step (mailing, step, state, actor, hash, note)
  SELECT NEW.id, 1 + coalesce(max(s.step), 0), NEW.state, NEW.actor, NEW.hash, NEW.reason
    FROM outbox.mailing_step s WHERE s.mailing = NEW.id;
  RETURN NULL;
END
$$;
CREATE TRIGGER mailing_changed AFTER INSERT OR UPDATE ON outbox.mailing
  FOR EACH ROW EXECUTE FUNCTION outbox.mailing_changed();

-- What operators do to a mailing; each answers the state it was in, or refuses with what to do.
CREATE FUNCTION outbox.act_on_mailing(
  verb text, sink text, period text, states text[], wanted text, note text, actor text
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  was   outbox.mailing;
  other text;
BEGIN
  -- A mail of several files can be named by each of them.
  SELECT * INTO was FROM outbox.mailing m
   WHERE m.sink = act_on_mailing.sink
     AND (m.period = act_on_mailing.period
          OR m.id IN (SELECT e.mailing FROM outbox.export e
                       WHERE e.sink = act_on_mailing.sink
                         AND concat_ws('-', e.period, CASE WHEN e.part > 1 THEN e.part END)
                               = act_on_mailing.period))
   FOR UPDATE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'there is no mail of % for %', sink, period USING ERRCODE = 'undefined_object';
  END IF;
  IF was.state <> ALL (states) THEN
    RAISE EXCEPTION 'the mail of % for % is %, not %', sink, period, was.state,
        array_to_string(states, ' or ')
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  IF wanted = 'unsent' AND was.hold_until > clock_timestamp() THEN
    RAISE EXCEPTION 'not before %: until then the relay that fell silent may yet be sending it', was.hold_until
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  SELECT m.period INTO other FROM outbox.mailing m
   WHERE wanted IN ('unsent', 'planned') AND m.sink = was.sink AND m.id <> was.id
     AND m.state IN ('planned', 'built', 'sending', 'unsent');
  IF FOUND THEN
    RAISE EXCEPTION 'the mail of % for % is at work, and there is one at a time: wait until it is out, or discard it',
        sink, other
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  UPDATE outbox.mailing m
     SET state = wanted, actor = act_on_mailing.actor, changed_at = clock_timestamp(),
         reason = act_on_mailing.note, hold_until = NULL,
         day = CASE WHEN wanted IN ('unsent', 'planned') THEN NULL ELSE m.day END,
         by_hand = wanted IN ('unsent', 'planned'),
         attempt = CASE WHEN wanted IN ('unsent', 'planned') THEN 0 ELSE m.attempt END,
         due_at = clock_timestamp()
   WHERE m.id = was.id;
  INSERT INTO outbox.action (actor, verb, sink, target, note)
  VALUES (act_on_mailing.actor, act_on_mailing.verb, act_on_mailing.sink, act_on_mailing.period,
          concat_ws('; it was ', act_on_mailing.note, concat_ws(': ', was.state, was.reason)));
  RETURN was.state;
END
$$;

CREATE FUNCTION outbox.resolve_mailing(
  sink text, period text, delivered boolean, actor text DEFAULT session_user
) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT outbox.act_on_mailing('resolve', $1, $2, '{held}', CASE WHEN $3 THEN 'sent' ELSE 'unsent' END,
    'resolved by ' || $4 || CASE WHEN $3 THEN ': delivered' ELSE ': not delivered' END, $4)
$$;
COMMENT ON FUNCTION outbox.resolve_mailing IS
  'Says of a held mail whether it arrived; one that did not is sent again.';

CREATE FUNCTION outbox.retry_mailing(sink text, period text, actor text DEFAULT session_user)
RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT outbox.act_on_mailing('retry', $1, $2, '{dead}', 'planned', 'tried again by ' || $3, $3)
$$;
COMMENT ON FUNCTION outbox.retry_mailing IS 'Tries a dead mail again.';

CREATE FUNCTION outbox.discard_mailing(sink text, period text, actor text DEFAULT session_user)
RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT outbox.act_on_mailing('discard', $1, $2, '{planned,built,unsent,held,dead}', 'discarded',
    'discarded by ' || $3, $3)
$$;
COMMENT ON FUNCTION outbox.discard_mailing IS 'Gives a mail up for good; its files stay.';

-- Pauses a sink, or lets it go on; answers whether that changed anything.
CREATE FUNCTION outbox.pause_sink(
  sink text, paused boolean DEFAULT true, actor text DEFAULT session_user
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE outbox.sink s SET paused = pause_sink.paused
   WHERE s.name = pause_sink.sink AND s.paused <> pause_sink.paused;
  IF NOT FOUND THEN
    PERFORM FROM outbox.sink s WHERE s.name = pause_sink.sink;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'there is no sink %', sink USING ERRCODE = 'undefined_object';
    END IF;
    RETURN false;
  END IF;
  INSERT INTO outbox.action (actor, verb, sink)
  VALUES (pause_sink.actor, CASE WHEN pause_sink.paused THEN 'pause' ELSE 'resume' END, pause_sink.sink);
  IF NOT paused THEN
    PERFORM outbox.wake(ARRAY[sink]);
  END IF;
  RETURN true;
END
$$;

-- Pauses the whole installation, or lets it go on; answers whether that changed anything.
CREATE FUNCTION outbox.pause_all(
  paused boolean DEFAULT true, actor text DEFAULT session_user
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM FROM outbox.installation i WHERE i.paused AND i.paused_for IS DISTINCT FROM 'operator';
  IF FOUND AND NOT paused THEN
    RAISE EXCEPTION 'paused because this is not the cluster that it was; use: outboxd resume --restored'
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  UPDATE outbox.installation i
     SET paused = pause_all.paused,
         paused_for = CASE WHEN pause_all.paused THEN 'operator' END
   WHERE i.paused <> pause_all.paused;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  INSERT INTO outbox.action (actor, verb, note)
  VALUES (pause_all.actor, CASE WHEN pause_all.paused THEN 'pause' ELSE 'resume' END, 'all');
  IF NOT paused THEN
    PERFORM outbox.wake(ARRAY(SELECT s.name FROM outbox.sink s));
  END IF;
  RETURN true;
END
$$;

-- Pauses a route in force, or lets a paused one go on; answers whether that changed anything.
CREATE FUNCTION outbox.pause_route(
  pattern text, sink text, target text DEFAULT '', paused boolean DEFAULT true,
  actor text DEFAULT session_user
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF paused THEN
    PERFORM FROM outbox.route r
      WHERE r.pattern = pause_route.pattern AND r.sink = pause_route.sink AND r.target = pause_route.target;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'no route in force takes % to % %', pattern, sink, target
        USING ERRCODE = 'undefined_object';
    END IF;
    INSERT INTO outbox.paused_route (pattern, sink, target, actor)
    VALUES (pause_route.pattern, pause_route.sink, pause_route.target, pause_route.actor)
        ON CONFLICT ON CONSTRAINT paused_route_pk DO NOTHING;
  ELSE
    DELETE FROM outbox.paused_route p
     WHERE p.pattern = pause_route.pattern AND p.sink = pause_route.sink AND p.target = pause_route.target;
  END IF;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  INSERT INTO outbox.action (actor, verb, sink, target, note)
  VALUES (pause_route.actor, CASE WHEN pause_route.paused THEN 'pause' ELSE 'resume' END,
          pause_route.sink, pause_route.target, 'route ' || pause_route.pattern);
  RETURN true;
END
$$;

-- Deliveries that were put back because their route was paused fall due now. By the rev that was looked
-- at; answers how many.
CREATE FUNCTION outbox.release_these(ids bigint[], sinks text[], targets text[], revs integer[])
RETURNS SETOF outbox.change
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  waiting outbox.delivery[];
  one     outbox.delivery;
BEGIN
  SELECT array_agg(c) INTO waiting
    FROM outbox.chosen(ids, sinks, targets, revs) c
   WHERE c.state = 'pending' AND c.due_at > clock_timestamp() AND starts_with(c.reason, 'route paused');
  FOREACH one IN ARRAY coalesce(waiting, '{}') LOOP
    UPDATE outbox.delivery d
       SET due_at = clock_timestamp(), rev = d.rev + 1,
           reason = CASE WHEN d.attempt > 0 THEN 'the route was paused' END
     WHERE d.message_id = one.message_id AND d.sink = one.sink AND d.target = one.target;
  END LOOP;
  PERFORM outbox.wake(ARRAY(SELECT DISTINCT c.sink FROM unnest(waiting) AS c));
  RETURN QUERY SELECT c.message_id, c.sink, c.target, c.state, c.state FROM unnest(waiting) AS c;
END
$$;

-- ---------------------------------------------------------------------------------------------
-- Views, without payloads.

CREATE VIEW outbox.open AS
  SELECT d.message_id, m.type, d.sink, d.target, d.state, d.attempt, d.due_at, d.key, d.round,
         d.rev, d.reason, m.created_at
    FROM outbox.delivery d
    LEFT JOIN outbox.message m ON m.id = d.message_id;
COMMENT ON VIEW outbox.open IS 'All that is open, with the type and age of its message.';

CREATE VIEW outbox.history AS
  SELECT m.id AS message_id, m.type, m.key, m.created_at, x.sink, x.target,
         coalesce(x.state, 'unseen') AS state, x.attempts, x.round, x.due_at, x.closed_at, x.words
    FROM outbox.message m
    LEFT JOIN LATERAL (
      SELECT d.sink, d.target, d.state, d.attempt AS attempts, d.round, d.due_at,
             NULL::timestamptz AS closed_at, d.reason AS words
        FROM outbox.delivery d WHERE d.message_id = m.id
      UNION ALL
      SELECT l.sink, l.target, l.outcome, l.attempts, l.round, NULL, l.closed_at, l.receipt
        FROM outbox.ledger l WHERE l.message_id = m.id
    ) x ON true;
COMMENT ON VIEW outbox.history IS
  'Any message with all its deliveries, open and closed; "unseen" where it has neither.';

CREATE VIEW outbox.parked AS
  SELECT h.sink, h.target, h.key, h.message_id, h.state,
         CASE WHEN isfinite(h.due_at) THEN h.due_at END AS due_at, h.reason
    FROM outbox.delivery h
   WHERE h.key IS NOT NULL
     AND (h.state IN ('dead', 'held') OR (h.state = 'pending' AND h.due_at > statement_timestamp()))
     AND NOT EXISTS (SELECT FROM outbox.delivery l
                      WHERE l.sink = h.sink AND l.target = h.target AND l.key = h.key
                        AND l.message_id < h.message_id)
     AND EXISTS (SELECT FROM outbox.delivery f
                  WHERE f.sink = h.sink AND f.target = h.target AND f.key = h.key
                    AND f.message_id > h.message_id);
COMMENT ON VIEW outbox.parked IS
  'Keys with deliveries that wait behind a head which cannot be delivered now: the head of each.';

CREATE VIEW outbox.files AS
  SELECT e.sink, e.period, e.part, e.state, e.row_count, e.late_rows, e.file, e.bytes, e.sha256,
         e.due_from, e.due_before, e.opened_at, e.published_at, e.late_at, e.reason,
         m.period AS mail, m.state AS mail_state, m.reason AS mail_reason, m.changed_at AS mail_changed_at
    FROM outbox.export e
    LEFT JOIN outbox.mailing m ON m.id = e.mailing;
COMMENT ON VIEW outbox.files IS 'One row a file, with what became of the mail that carries it.';

-- An operator may not read headers; which run a message is of is no secret.
CREATE VIEW outbox.scheduled AS
  SELECT m.id AS message_id, m.headers ->> 'outboxd-schedule' AS schedule,
         m.headers ->> 'outboxd-period' AS period
    FROM outbox.message m
   WHERE m.headers ? 'outboxd-schedule';
COMMENT ON VIEW outbox.scheduled IS 'Messages that schedules wrote, each with its period.';

-- ---------------------------------------------------------------------------------------------
-- Rights: a producer may write its columns, a relay may work, an operator may look.

REVOKE ALL ON FUNCTION outbox.cluster() FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.is_restored() FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.pause_restored(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.highest_id() FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.resume_restored(text, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.extend_ledger() FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.matching(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.routes_of(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.refuse(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.fault_of(text, text, timestamptz, timestamptz, text, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.refuse_state() FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.mailing_changed() FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.close_undelivered(bigint[], text, text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.ring(integer[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.close_duplicates(bigint[], text[], text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.route_inserted() FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.route_existing(bigint[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.tell(text, timestamptz, interval, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.prune(bigint, integer, interval, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.drop_ledger(interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.forget(interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.forget_calendar(interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.send(text, jsonb, text, timestamptz, timestamptz, text, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.wake(text[]), outbox.open_of(bigint, text, text),
  outbox.chosen(bigint[], text[], text[], integer[]),
  outbox.close_open(outbox.delivery[], text, text),
  outbox.retry_these(bigint[], text[], text[], integer[], text),
  outbox.retry(bigint, text, text, text),
  outbox.discard_these(bigint[], text[], text[], integer[], text),
  outbox.discard(bigint, text, text, text),
  outbox.resolve_these(bigint[], text[], text[], integer[], boolean, text),
  outbox.resolve(bigint, text, text, boolean, text),
  outbox.replay_these(bigint[], text[], text[], integer[], text, smallint, interval, interval),
  outbox.replay(bigint, text, text, text),
  outbox.act_on_mailing(text, text, text, text[], text, text, text),
  outbox.resolve_mailing(text, text, boolean, text), outbox.retry_mailing(text, text, text),
  outbox.discard_mailing(text, text, text),
  outbox.pause_sink(text, boolean, text), outbox.pause_all(boolean, text),
  outbox.pause_route(text, text, text, boolean, text),
  outbox.release_these(bigint[], text[], text[], integer[]) FROM PUBLIC;

DO $$
DECLARE
  role text;
BEGIN
  FOREACH role IN ARRAY ARRAY['outbox_producer', 'outbox_relay', 'outbox_operator'] LOOP
    BEGIN
      IF to_regrole(role) IS NULL THEN
        EXECUTE format('CREATE ROLE %I NOLOGIN', role);
      END IF;
    EXCEPTION
      -- Roles belong to the whole cluster: another database may have been first.
      WHEN duplicate_object OR unique_violation THEN NULL;
      WHEN insufficient_privilege THEN
        RAISE WARNING 'role % is left out: % may not create roles; have an administrator run CREATE ROLE % NOLOGIN and grant as the README says',
          role, current_user, role;
    END;
  END LOOP;

  IF to_regrole('outbox_producer') IS NOT NULL THEN
    GRANT USAGE ON SCHEMA outbox TO outbox_producer;
    GRANT INSERT (type, payload, key, due_at, expires_at, dedupe_key, headers), SELECT (id)
      ON outbox.message TO outbox_producer;
    GRANT EXECUTE ON FUNCTION
      outbox.send(text, jsonb, text, timestamptz, timestamptz, text, jsonb) TO outbox_producer;
  END IF;

  IF to_regrole('outbox_operator') IS NOT NULL THEN
    GRANT USAGE ON SCHEMA outbox TO outbox_operator;
    GRANT SELECT ON outbox.open, outbox.history, outbox.sink, outbox.flow, outbox.relay,
      outbox.route, outbox.route_set, outbox.delivery, outbox.ledger, outbox.unseen, outbox.export,
      outbox.files, outbox.scheduled, outbox.occurrence, outbox.calendar, outbox.mailing, outbox.mailing_step,
      outbox.action, outbox.migration, outbox.installation, outbox.alert, outbox.late, outbox.parked,
      outbox.paused_route TO outbox_operator;
    GRANT EXECUTE ON FUNCTION outbox.matching(text), outbox.routes_of(text) TO outbox_operator;
    GRANT SELECT (id, type, key, due_at, expires_at, created_at) ON outbox.message TO outbox_operator;
    -- For the audit: no id may be drawn twice.
    GRANT SELECT ON SEQUENCE outbox.message_id_seq TO outbox_operator;
  END IF;

  IF to_regrole('outbox_relay') IS NOT NULL THEN
    GRANT USAGE ON SCHEMA outbox TO outbox_relay;
    GRANT SELECT ON outbox.open, outbox.history, outbox.message, outbox.migration,
      outbox.installation, outbox.parked, outbox.paused_route TO outbox_relay;
    GRANT INSERT (type, payload, key, due_at, expires_at, dedupe_key, headers)
      ON outbox.message TO outbox_relay;
    GRANT SELECT, UPDATE, DELETE ON outbox.delivery TO outbox_relay;
    GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.sink, outbox.flow, outbox.relay,
      outbox.route, outbox.unseen, outbox.export, outbox.occurrence, outbox.calendar, outbox.mailing, outbox.dedupe,
      outbox.spent, outbox.late, outbox.alert TO outbox_relay;
    GRANT SELECT ON outbox.mailing_step, outbox.files, outbox.scheduled TO outbox_relay;
    GRANT SELECT, INSERT ON outbox.ledger, outbox.route_set, outbox.action TO outbox_relay;
    GRANT EXECUTE ON FUNCTION outbox.is_restored(), outbox.pause_restored(text),
      outbox.highest_id(), outbox.resume_restored(text, bigint),
      outbox.extend_ledger(), outbox.matching(text),
      outbox.routes_of(text),
      outbox.route_existing(bigint[]), outbox.ring(integer[]),
      outbox.tell(text, timestamptz, interval, jsonb, jsonb),
      outbox.prune(bigint, integer, interval, jsonb), outbox.drop_ledger(interval),
      outbox.forget(interval), outbox.forget_calendar(interval),
      outbox.send(text, jsonb, text, timestamptz, timestamptz, text, jsonb) TO outbox_relay;
  END IF;

  -- Whoever runs relays may operate them.
  FOREACH role IN ARRAY ARRAY['outbox_operator', 'outbox_relay'] LOOP
    CONTINUE WHEN to_regrole(role) IS NULL;
    EXECUTE format('GRANT EXECUTE ON FUNCTION
      outbox.retry_these(bigint[], text[], text[], integer[], text),
      outbox.retry(bigint, text, text, text),
      outbox.discard_these(bigint[], text[], text[], integer[], text),
      outbox.discard(bigint, text, text, text),
      outbox.resolve_these(bigint[], text[], text[], integer[], boolean, text),
      outbox.resolve(bigint, text, text, boolean, text),
      outbox.replay_these(bigint[], text[], text[], integer[], text, smallint, interval, interval),
      outbox.replay(bigint, text, text, text),
      outbox.resolve_mailing(text, text, boolean, text), outbox.retry_mailing(text, text, text),
      outbox.discard_mailing(text, text, text),
      outbox.pause_sink(text, boolean, text), outbox.pause_all(boolean, text),
      outbox.pause_route(text, text, text, boolean, text),
      outbox.release_these(bigint[], text[], text[], integer[]) TO %I', role);
  END LOOP;
END
$$;
