-- Five orders a second, until it is stopped.
INSERT INTO shop.orders (customer, article, total)
SELECT (ARRAY['Ann', 'Börge', 'Zoë', 'O''Neill; Sons'])[1 + floor(random() * 4)::int],
       (ARRAY['tea', 'Käse', '2" pipe', '=SUM(A1)'])[1 + floor(random() * 4)::int],
       round((5 + random() * 95)::numeric, 2)
\watch 0.2
