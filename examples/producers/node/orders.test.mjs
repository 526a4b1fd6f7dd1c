// How a test sees that a message was written, with Node's own runner. In Jest `before`, `after` and
// `assert.equal` are called beforeAll, afterAll and `expect(…).toBe(…)`.
//
//     DATABASE_URL=postgresql://… node --test examples/producers/node/orders.test.mjs
//
// It reads messages, which a producer may not: run it as the owner of the test's database, or as a role
// that was granted SELECT on outbox.message there.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import pg from 'pg';
import { placeOrder } from './orders.mjs';

const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
before(() => client.connect());
after(() => client.end());
// Nothing is committed, so nothing is ever delivered.
beforeEach(() => client.query('BEGIN'));
afterEach(() => client.query('ROLLBACK'));

test('says that an order was created', async () => {
  await placeOrder(client, 'carol', 'carol@example.com', '7.50');
  const { rows } = await client.query(
    "SELECT key, payload FROM outbox.message WHERE type = 'order.created'",
  );
  assert.equal(rows.length, 1);
  assert.equal(rows[0].key, 'carol');
  assert.equal(rows[0].payload.total, '7.50');
});

test('says nothing of an order that is refused', async () => {
  await client.query('SAVEPOINT refused');
  await assert.rejects(placeOrder(client, 'carol', null, '7.50'));
  await client.query('ROLLBACK TO refused');
  const { rows } = await client.query('SELECT id FROM outbox.message');
  assert.equal(rows.length, 0);
});
