// A producer with pg. The order and its message stand or fall together.
//
//     DATABASE_URL=postgresql://… node examples/producers/node/orders.mjs
//
// Needs examples/shop.sql, and a role that may write orders and is a member of outbox_producer.
import { pathToFileURL } from 'node:url';
import pg from 'pg';

// Writes the order, and what the shop has to say about it; returns the message's id.
export async function placeOrder(client, customer, email, total) {
  const order = await client.query(
    'INSERT INTO shop.orders (customer, email, total) VALUES ($1, $2, $3) RETURNING id, total',
    [customer, email, total],
  );
  // numeric and bigint come as strings, and stay strings: 7.50 as a number of JavaScript is 7.5.
  const { id, total: exact } = order.rows[0];
  // Written as JSON here: of an array pg would make an array of PostgreSQL.
  const payload = JSON.stringify({ order_id: id, email, total: exact });
  const message = await client.query(
    'INSERT INTO outbox.message (type, key, payload) VALUES ($1, $2, $3) RETURNING id',
    ['order.created', customer, payload],
  );
  return message.rows[0].id;
}

// One client from the first statement to the last. `pool.query` may take another connection each time,
// and what another connection writes is not in this transaction.
export async function inTransaction(pool, work) {
  const client = await pool.connect();
  try {
    await client.query('BEGIN');
    const result = await work(client);
    await client.query('COMMIT');
    return result;
  } catch (error) {
    await client.query('ROLLBACK');
    throw error;
  } finally {
    client.release();
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
  const id = await inTransaction(pool, (client) =>
    placeOrder(client, 'carol', 'carol@example.com', '7.50'),
  );
  console.log(`committed: message ${id}`);
  try {
    await inTransaction(pool, async (client) => {
      await placeOrder(client, 'dave', 'dave@example.com', '99.00');
      throw new Error('the payment was declined');
    });
  } catch (error) {
    console.log(`rolled back: ${error.message}`);
  }
  await pool.end();
}
