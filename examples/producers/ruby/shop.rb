# A shop with ActiveRecord. In Rails each class has its file in app/models, and the connection comes from
# config/database.yml.
#
# The tables come with `outboxd migrate`, or with a migration of Rails:
#
#     outboxd migrate --print --as rails
#
# Neither db/schema.rb nor db/structure.sql can hold them with their rights and rows. Where the format is
# :sql, keep them out with an initializer, and make them where a database is made from such a file:
#
#     ActiveRecord::Tasks::DatabaseTasks.structure_dump_flags = ["--exclude-schema=outbox"]
#     bin/rails db:schema:load && outboxd migrate
require 'active_record'

ActiveRecord::Base.establish_connection(
  url: ENV.fetch('DATABASE_URL'),
  # Behind a pooler in transaction mode a prepared statement may be looked for in another session.
  prepared_statements: false
)

class Order < ActiveRecord::Base
  self.table_name = 'shop.orders'
end

class OutboxMessage < ActiveRecord::Base
  self.table_name = 'outbox.message'
  self.primary_key = 'id'
  # A column named `type` means a class to ActiveRecord, and order.created is none.
  self.inheritance_column = :_type_disabled
  # created_at is outboxd's to write, and ActiveRecord would.
  self.record_timestamps = false
  # Since Rails 7 an INSERT names every column, also those a producer may not write.
  self.partial_inserts = true if respond_to?(:partial_inserts=)
end

# Writes the order, and what the shop has to say about it; returns the message.
def place_order(customer, email, total)
  # `requires_new` makes a savepoint where somebody's transaction is open already.
  ActiveRecord::Base.transaction(requires_new: true) do
    order = Order.create!(customer: customer, email: email, total: total)
    # Here, and not in `after_commit`: what fails there is lost, and the order stays. `after_create` and
    # the other callbacks before the commit will do.
    OutboxMessage.create!(
      type: 'order.created',
      key: customer,
      # BigDecimal becomes text in JSON, with its digits. to_s('F') is 7.5, and not 0.75e1.
      payload: { order_id: order.id, email: email, total: format('%.2f', order.total) }
    )
  end
end
