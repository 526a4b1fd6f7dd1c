-- A producer in SQL. The business's row and its message stand or fall together.
--
--   psql --set ON_ERROR_STOP=1 --file examples/producer.sql DATABASE
--
-- Needs examples/shop.sql, and a role that may write orders and is a member of outbox_producer.

-- An order and what the shop has to say about it, in one transaction.
BEGIN;
WITH o AS (
  INSERT INTO shop.orders (customer, email, total)
  VALUES ('ann', 'ann@example.com', 19.90)
  RETURNING *
)
INSERT INTO outbox.message (type, key, payload)
SELECT 'order.created', o.customer,
       jsonb_build_object('order_id', o.id, 'email', o.email, 'total', o.total)
  FROM o;
COMMIT;

-- The payment failed: neither the order nor the message was ever there.
BEGIN;
INSERT INTO shop.orders (customer, email, total) VALUES ('bob', 'bob@example.com', 5.00);
INSERT INTO outbox.message (type, payload) VALUES ('order.created', '{"customer": "bob"}');
ROLLBACK;

-- The same as a function; it answers the message's id. Not before tomorrow, not after a week.
SELECT outbox.send(
  'reminder.due', '{"email": "ann@example.com"}',
  due_at     => now() + interval '1 day',
  expires_at => now() + interval '7 days'
);

-- Said twice, delivered once: the second is kept, and closed as a duplicate of the first.
SELECT outbox.send('order.paid', '{"payment": 7}', dedupe_key => 'payment-7');
SELECT outbox.send('order.paid', '{"payment": 7}', dedupe_key => 'payment-7');

-- Many at once.
INSERT INTO outbox.message (type, payload)
SELECT 'newsletter.sent', jsonb_build_object('email', email) FROM shop.orders
    ON CONFLICT DO NOTHING;

COPY outbox.message (type, key, payload) FROM STDIN;
order.shipped	ann	{"parcel": "A-1"}
order.shipped	ann	{"parcel": "A-2"}
\.
