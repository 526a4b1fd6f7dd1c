import { Column, Entity, PrimaryGeneratedColumn } from 'typeorm';

// What a producer may write, and no more: TypeORM names every column of the entity in its INSERT.
//
// `synchronize: false`, because the table is outboxd's: a DataSource that synchronizes would make it as
// it stands here, without indexes and defaults, and drop what it does not know.
@Entity({ schema: 'outbox', name: 'message', synchronize: false })
export class Message {
  // Not 'identity', though it is one: a column of that kind TypeORM names in the INSERT, as DEFAULT, and a
  // producer may not name it. bigint comes as a string: not every bigint is a number of JavaScript.
  @PrimaryGeneratedColumn('increment', { type: 'bigint' })
  id: string;

  @Column('text')
  type: string;

  @Column('jsonb')
  payload: object;

  @Column('text', { nullable: true })
  key?: string | null;

  @Column('timestamptz', { name: 'due_at', nullable: true })
  dueAt?: Date | null;

  @Column('timestamptz', { name: 'expires_at', nullable: true })
  expiresAt?: Date | null;

  @Column('text', { name: 'dedupe_key', nullable: true })
  dedupeKey?: string | null;

  @Column('jsonb', { nullable: true })
  headers?: Record<string, string> | null;
}
