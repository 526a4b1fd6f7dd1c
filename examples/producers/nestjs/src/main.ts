// A producer with NestJS and TypeORM. The order and its message stand or fall together.
//
//     npm ci && npm run build && DATABASE_URL=postgresql://… npm start
//
// Needs examples/shop.sql, and a role that may write orders and is a member of outbox_producer.
import 'reflect-metadata';
import { NestFactory } from '@nestjs/core';
import { AppModule } from './app.module.js';
import { OrdersService } from './orders.service.js';

const app = await NestFactory.createApplicationContext(AppModule, { logger: ['error'] });
const orders = app.get(OrdersService);

const message = await orders.placeOrder('carol', 'carol@example.com', '7.50');
console.log(`committed: message ${message.id}, a ${typeof message.id}`);

try {
  await orders.placeOrder('dave', 'dave@example.com', '99.00', () => {
    throw new Error('the payment was declined');
  });
} catch (error) {
  console.log(`rolled back: ${(error as Error).message}`);
}
await app.close();
