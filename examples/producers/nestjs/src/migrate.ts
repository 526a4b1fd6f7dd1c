// Runs the migrations in dist/migrations, as `typeorm migration:run` does; that of the outbox is what
//
//     outboxd migrate --print --as typeorm
//
// prints, which says where to save it.
import 'reflect-metadata';
import { DataSource } from 'typeorm';

const dataSource = new DataSource({
  type: 'postgres',
  url: process.env.DATABASE_URL,
  migrations: ['dist/migrations/*.js'],
});
await dataSource.initialize();
for (const migration of await dataSource.runMigrations({ transaction: 'all' })) {
  console.log(`ran ${migration.name}`);
}
await dataSource.destroy();
