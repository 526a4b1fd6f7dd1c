WITH placed AS (
  INSERT INTO shop_order (email) VALUES ('ann@example.org') RETURNING id, email
)
INSERT INTO outbox.message (type, payload, key)
SELECT 'order.created', jsonb_build_object('order_id', id, 'email', email), email FROM placed
\watch 5
