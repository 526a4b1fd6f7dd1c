-- The users of the demonstration. `up` runs it each time, so it makes only what is not there.
DO $$
BEGIN
  IF to_regrole('shop_app') IS NULL THEN
    CREATE ROLE shop_app LOGIN PASSWORD 'app';
  END IF;
  IF to_regrole('shop_relay') IS NULL THEN
    CREATE ROLE shop_relay LOGIN PASSWORD 'relay';
  END IF;
END
$$;
GRANT outbox_producer TO shop_app;
GRANT outbox_relay TO shop_relay;
CREATE TABLE IF NOT EXISTS shop_order (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL);
GRANT INSERT, SELECT ON shop_order TO shop_app;
