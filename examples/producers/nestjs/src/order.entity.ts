import { Column, Entity, PrimaryGeneratedColumn } from 'typeorm';

@Entity({ schema: 'shop', name: 'orders', synchronize: false })
export class Order {
  @PrimaryGeneratedColumn('identity', { type: 'bigint', generatedIdentity: 'ALWAYS' })
  id: string;

  @Column('text')
  customer: string;

  @Column('text')
  email: string;

  // numeric comes as a string and stays one: 7.50 as a number of JavaScript is 7.5.
  @Column('numeric', { precision: 12, scale: 2 })
  total: string;
}
