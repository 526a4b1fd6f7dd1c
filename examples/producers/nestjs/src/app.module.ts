import { Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { Message } from './message.entity.js';
import { Order } from './order.entity.js';
import { OrdersService } from './orders.service.js';

@Module({
  imports: [
    TypeOrmModule.forRoot({
      type: 'postgres',
      url: process.env.DATABASE_URL,
      entities: [Message, Order],
      synchronize: process.env.SYNCHRONIZE === 'yes',
    }),
  ],
  providers: [OrdersService],
})
export class AppModule {}
