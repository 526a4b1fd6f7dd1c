import { Injectable } from '@nestjs/common';
import { DataSource, EntityManager } from 'typeorm';
import { Message } from './message.entity.js';
import { Order } from './order.entity.js';

@Injectable()
export class OrdersService {
  constructor(private readonly dataSource: DataSource) {}

  // Writes the order, and what the shop has to say about it; returns the message.
  async placeOrder(
    customer: string,
    email: string,
    total: string,
    check: () => void = () => {},
  ): Promise<Message> {
    return this.dataSource.transaction(async (manager: EntityManager) => {
      // All of it through this manager. A repository that was injected has a connection of its own:
      // what it writes is committed by itself, whatever becomes of this transaction. So is what an
      // `afterInsert` subscriber writes through anything but `event.manager`.
      const order = await manager.save(manager.create(Order, { customer, email, total }));
      const payload = { order_id: order.id, email, total };
      const message = manager.create(Message, { type: 'order.created', key: customer, payload });
      await manager.save(message);
      check();
      return message;
    });
  }
}
