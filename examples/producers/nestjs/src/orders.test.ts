// How a test sees that a message was written, with Node's own runner; in Jest `beforeEach` and `afterEach`
// are called the same. `app` may be a module of @nestjs/testing, which has the same `get`.
//
//     npm run build && DATABASE_URL=postgresql://… npm test
//
// It reads messages, which a producer may not: run it as a role that may read them there:
//
//     GRANT SELECT ON outbox.message TO shop_app;
import 'reflect-metadata';
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { INestApplicationContext } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { DataSource, EntityManager, QueryRunner } from 'typeorm';
import { AppModule } from './app.module.js';
import { Message } from './message.entity.js';
import { OrdersService } from './orders.service.js';

let app: INestApplicationContext;
let runner: QueryRunner;
let orders: OrdersService;

before(async () => {
  app = await NestFactory.createApplicationContext(AppModule, { logger: ['error'] });
});
after(() => app.close());

// The service begins a transaction of its own, on a connection of its own. Here it gets one inside of
// the test's, which is a savepoint there. Nothing is committed, so nothing is ever delivered.
beforeEach(async () => {
  runner = app.get(DataSource).createQueryRunner();
  await runner.startTransaction();
  const transaction = (run: (manager: EntityManager) => Promise<unknown>) =>
    runner.manager.transaction(run);
  orders = new OrdersService({ transaction } as DataSource);
});
afterEach(async () => {
  await runner.rollbackTransaction();
  await runner.release();
});

test('says that an order was created', async () => {
  await orders.placeOrder('carol', 'carol@example.com', '7.50');
  const message = await runner.manager.findOneByOrFail(Message, { type: 'order.created' });
  assert.equal(message.key, 'carol');
  assert.equal((message.payload as { total: string }).total, '7.50');
});

test('says nothing of an order that is refused', async () => {
  const check = () => {
    throw new Error('the payment was declined');
  };
  await assert.rejects(orders.placeOrder('dave', 'dave@example.com', '99.00', check));
  assert.equal(await runner.manager.count(Message), 0);
});

test('writes a message once', async () => {
  const message = await orders.placeOrder('carol', 'carol@example.com', '7.50');
  message.key = 'dave';
  await assert.rejects(runner.manager.save(message), /permission denied for table message/);
});
