-- outboxd, migration 3: a mail server answers for each recipient apart, so outcomes are kept apart.
--
-- A relay of the version before would send a mail again to those that accepted it: works_from is 3.

-- What became of each recipient so far: {"a@shop.example": {"state": "accepted", "reply": "250 ok"}}. NULL
-- until an attempt learned something that its row does not say as a whole; most rows never have it.
ALTER TABLE outbox.delivery ADD COLUMN recipients jsonb;
ALTER TABLE outbox.mailing  ADD COLUMN recipients jsonb;

-- Where some accepted a mail, its day has had it, whatever becomes of the others.
ALTER TABLE outbox.mailing DROP CONSTRAINT mailing_day_stays;
ALTER TABLE outbox.mailing ADD CONSTRAINT mailing_day_stays CHECK (
  day IS NULL OR state IN ('sending', 'sent', 'held', 'discarded') OR recipients IS NOT NULL);
ALTER TABLE outbox.mailing ADD CONSTRAINT mailing_recipients_form CHECK (jsonb_typeof(recipients) = 'object');

-- Every change counts up rev but one: that somebody accepted is true beside whatever happens to the row.
CREATE OR REPLACE TRIGGER delivery_state_fits BEFORE UPDATE ON outbox.delivery
  FOR EACH ROW
  WHEN (NOT (CASE NEW.state
               WHEN 'pending' THEN NEW.sink <> ''
               WHEN 'unrouted' THEN NEW.sink = ''
               WHEN 'sending' THEN NEW.epoch IS NOT NULL AND NEW.repeatable IS NOT NULL
               WHEN 'held' THEN NEW.reason IS NOT NULL
               WHEN 'dead' THEN NEW.reason IS NOT NULL
               ELSE false
             END AND NEW.attempt >= 0 AND NEW.round >= 1
             AND (NEW.recipients IS NULL OR jsonb_typeof(NEW.recipients) = 'object')
             AND (NEW.rev > OLD.rev
                  OR NEW.rev = OLD.rev AND NEW.recipients IS DISTINCT FROM OLD.recipients
                     AND NEW.state = OLD.state AND NEW.due_at = OLD.due_at
                     AND NEW.attempt = OLD.attempt AND NEW.round = OLD.round)))
  EXECUTE FUNCTION outbox.refuse_state();

-- ---------------------------------------------------------------------------------------------
-- What is known of recipients. Each is accepted, refused, deferred or in doubt; of whom nothing is known
-- is not in it.

-- Whether any of them is in that state.
CREATE FUNCTION outbox.has_recipient(recipients jsonb, state text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
  SELECT coalesce(jsonb_path_exists(recipients, '$.* ? (@.state == $state)',
                                    jsonb_build_object('state', state)), false)
$$;

-- How many came to each end, in words: "2 accepted, 1 refused". NULL where nothing is known.
CREATE FUNCTION outbox.recipient_counts(recipients jsonb) RETURNS text
LANGUAGE sql IMMUTABLE STRICT AS $$
  SELECT string_agg(c.count || ' ' || c.state, ', ' ORDER BY c.place)
    FROM (SELECT s.state, s.place, count(*) AS count
            FROM unnest('{accepted,refused,deferred,in doubt}'::text[]) WITH ORDINALITY AS s (state, place)
            JOIN jsonb_each(recipients) e ON e.value ->> 'state' = s.state
           GROUP BY s.state, s.place) c
$$;

-- What is known once more was learned. Who accepted stays so, whoever learned what and when.
CREATE FUNCTION outbox.learned(known jsonb, news jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN news IS NULL THEN known
              ELSE coalesce(known, '{}') || news
                   || coalesce((SELECT jsonb_object_agg(e.key, e.value) FROM jsonb_each(known) e
                                 WHERE e.value ->> 'state' = 'accepted'), '{}') END
$$;

-- An operator has those asked again that refused: of them nothing is known any more.
CREATE FUNCTION outbox.asked_again(recipients jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT AS $$
  SELECT jsonb_object_agg(e.key, e.value) FROM jsonb_each(recipients) e WHERE e.value ->> 'state' <> 'refused'
$$;

-- Whether whoever was sending took with it whom it was sending to: it fell silent, or it is in doubt and
-- nobody is marked. Not where a hold is for another reason than doubt: then it is about nobody.
CREATE FUNCTION outbox.is_unmarked(recipients jsonb, silent boolean, reason text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
  SELECT silent OR (coalesce(reason LIKE 'in doubt%', false) AND NOT outbox.has_recipient(recipients, 'in doubt'))
$$;

-- An operator says whether it arrived at those in doubt; where they are not marked, at all that had neither
-- accepted nor refused.
CREATE FUNCTION outbox.resolved(recipients jsonb, unmarked boolean, delivered boolean, words text) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT AS $$
  SELECT jsonb_object_agg(e.key, CASE
           WHEN e.value ->> 'state' = 'in doubt'
             OR (delivered AND unmarked AND e.value ->> 'state' NOT IN ('accepted', 'refused'))
           THEN jsonb_build_object('state', CASE WHEN delivered THEN 'accepted' ELSE 'deferred' END,
                                   'reply', words)
           ELSE e.value END)
    FROM jsonb_each(recipients) e
$$;

-- What becomes of a delivery by what is known of its recipients, none of whom is in doubt.
CREATE FUNCTION outbox.end_of(recipients jsonb) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN outbox.has_recipient(recipients, 'deferred') THEN 'pending'
              WHEN outbox.has_recipient(recipients, 'refused') THEN 'dead'
              ELSE 'delivered' END
$$;

-- ---------------------------------------------------------------------------------------------
-- What operators do, where recipients are known.

-- Dead deliveries are tried again now, with all their attempts to come: also for those that refused, never
-- for those that accepted. By the rev that was looked at.
CREATE OR REPLACE FUNCTION outbox.retry_these(
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
       SET state = 'pending', due_at = clock_timestamp(), attempt = 0, crashes = NULL, rev = d.rev + 1,
           recipients = outbox.asked_again(d.recipients)
     WHERE d.message_id = one.message_id AND d.sink = one.sink AND d.target = one.target;
  END LOOP;
  INSERT INTO outbox.action (actor, verb, message_id, sink, target)
  SELECT retry_these.actor, 'retry', c.message_id, c.sink, c.target FROM unnest(dead) AS c;
  PERFORM outbox.wake(ARRAY(SELECT DISTINCT c.sink FROM unnest(dead) AS c));
  RETURN QUERY SELECT c.message_id, c.sink, c.target, c.state, 'pending' FROM unnest(dead) AS c;
END
$$;

-- Held deliveries: they arrived, or they did not and are sent again, rendered anew and with all their
-- attempts to come. Those that a silent relay may yet be sending are not sent again before hold_until.
-- What arrived at some of its recipients only is closed when no others are left: it is tried again for
-- those that deferred, and dead where somebody refused.
CREATE OR REPLACE FUNCTION outbox.resolve_these(
  ids bigint[], sinks text[], targets text[], revs integer[], delivered boolean,
  actor text DEFAULT session_user
) RETURNS SETOF outbox.change
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  held    outbox.delivery[];
  closing outbox.delivery[];
  one     outbox.delivery;
  became  text;
  words   text := 'resolved by ' || actor || CASE WHEN delivered THEN ': delivered' ELSE ': not delivered' END;
BEGIN
  SELECT array_agg(c) INTO held
    FROM outbox.chosen(ids, sinks, targets, revs) c
   WHERE c.state = 'held'
     AND (resolve_these.delivered OR coalesce(c.hold_until <= clock_timestamp(), true));
  FOREACH one IN ARRAY coalesce(held, '{}') LOOP
    one.recipients := outbox.resolved(one.recipients,
      outbox.is_unmarked(one.recipients, one.hold_until IS NOT NULL, one.reason), delivered, words);
    became := CASE WHEN delivered THEN outbox.end_of(one.recipients) ELSE 'pending' END;
    IF became = 'delivered' THEN
      closing := array_append(closing, one);
    ELSE
      UPDATE outbox.delivery d
         SET state = became, rev = d.rev + 1, epoch = NULL, repeatable = NULL, crashes = NULL,
             hold_until = NULL, recipients = one.recipients,
             due_at = CASE became WHEN 'pending' THEN clock_timestamp() ELSE 'infinity' END,
             attempt = CASE became WHEN 'pending' THEN 0 ELSE d.attempt END,
             -- Those that are left get what the others got.
             content_hash = CASE WHEN resolve_these.delivered THEN d.content_hash END,
             reason = CASE became WHEN 'dead'
                        THEN 'recipients: ' || outbox.recipient_counts(one.recipients) || '; ' || words
                        ELSE d.reason END
       WHERE d.message_id = one.message_id AND d.sink = one.sink AND d.target = one.target;
    END IF;
    INSERT INTO outbox.action (actor, verb, message_id, sink, target, note)
    VALUES (resolve_these.actor, 'resolve', one.message_id, one.sink, one.target,
            concat(CASE WHEN delivered THEN 'delivered' ELSE 'not delivered' END,
                   '; recipients: ' || outbox.recipient_counts(one.recipients),
                   '; it was held: ', one.reason));
    RETURN NEXT (one.message_id, one.sink, one.target, one.state, became)::outbox.change;
  END LOOP;
  IF closing IS NOT NULL THEN
    PERFORM outbox.close_open(closing, 'delivered', words);
  END IF;
  PERFORM outbox.wake(ARRAY(SELECT DISTINCT c.sink FROM unnest(held) AS c));
END
$$;

-- Every change of a mailing's state leaves a row, and no change leads out of what is final: what was sent
-- stays sent, and what is in doubt is left to an operator or to the relay that learns the truth late.
CREATE OR REPLACE FUNCTION outbox.mailing_changed() RETURNS trigger
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
       -- From held: it arrived at some, and others had refused it.
       WHEN 'dead' THEN OLD.state IN ('planned', 'built', 'unsent', 'sending', 'held')
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

-- What operators do to a mailing; each answers the state it was in, or refuses with what to do. One that
-- arrived at some is sent, tried again or dead as a delivery is, and its day stays taken.
CREATE OR REPLACE FUNCTION outbox.act_on_mailing(
  verb text, sink text, period text, states text[], wanted text, note text, actor text
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  was    outbox.mailing;
  other  text;
  became text := wanted;
  known  jsonb;
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
  known := CASE verb WHEN 'retry' THEN outbox.asked_again(was.recipients)
                     WHEN 'resolve' THEN outbox.resolved(was.recipients,
                                       outbox.is_unmarked(was.recipients, false, was.reason),
                                       wanted = 'sent', note)
                     ELSE was.recipients END;
  IF wanted = 'sent' THEN
    became := CASE outbox.end_of(known) WHEN 'pending' THEN 'unsent' WHEN 'dead' THEN 'dead' ELSE 'sent' END;
  END IF;
  SELECT m.period INTO other FROM outbox.mailing m
   WHERE became IN ('unsent', 'planned') AND m.sink = was.sink AND m.id <> was.id
     AND m.state IN ('planned', 'built', 'sending', 'unsent');
  IF FOUND THEN
    RAISE EXCEPTION 'the mail of % for % is at work, and there is one at a time: wait until it is out, or discard it',
        sink, other
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  UPDATE outbox.mailing m
     SET state = became, actor = act_on_mailing.actor, changed_at = clock_timestamp(),
         reason = concat(act_on_mailing.note, '; recipients: ' || outbox.recipient_counts(known)),
         hold_until = NULL, recipients = known,
         day = CASE WHEN became IN ('unsent', 'planned') AND NOT outbox.has_recipient(known, 'accepted')
                    THEN NULL ELSE m.day END,
         by_hand = became IN ('unsent', 'planned'),
         attempt = CASE WHEN became IN ('unsent', 'planned') THEN 0 ELSE m.attempt END,
         due_at = clock_timestamp()
   WHERE m.id = was.id;
  INSERT INTO outbox.action (actor, verb, sink, target, note)
  VALUES (act_on_mailing.actor, act_on_mailing.verb, act_on_mailing.sink, act_on_mailing.period,
          concat_ws('; it was ', act_on_mailing.note, concat_ws(': ', was.state, was.reason)));
  RETURN was.state;
END
$$;

-- ---------------------------------------------------------------------------------------------
-- Rights: a relay notes what it learns, an operator counts it.

REVOKE ALL ON FUNCTION outbox.has_recipient(jsonb, text), outbox.recipient_counts(jsonb),
  outbox.learned(jsonb, jsonb), outbox.asked_again(jsonb),
  outbox.is_unmarked(jsonb, boolean, text), outbox.resolved(jsonb, boolean, boolean, text),
  outbox.end_of(jsonb) FROM PUBLIC;

DO $$
BEGIN
  IF to_regrole('outbox_relay') IS NOT NULL THEN
    GRANT EXECUTE ON FUNCTION outbox.has_recipient(jsonb, text), outbox.recipient_counts(jsonb),
      outbox.learned(jsonb, jsonb) TO outbox_relay;
  END IF;
  IF to_regrole('outbox_operator') IS NOT NULL THEN
    GRANT EXECUTE ON FUNCTION outbox.recipient_counts(jsonb) TO outbox_operator;
  END IF;
END
$$;
