// Runs the migrations in dist/migrations, as `typeorm migration:run` does.
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
