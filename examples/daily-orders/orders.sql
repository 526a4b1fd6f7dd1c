-- The orders of a period: $1 is its begin, $2 its end, which belongs to the next one.
SELECT id, created_at, customer, article, total
  FROM shop.orders
 WHERE created_at >= $1 AND created_at < $2
 ORDER BY id
