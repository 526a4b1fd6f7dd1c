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
