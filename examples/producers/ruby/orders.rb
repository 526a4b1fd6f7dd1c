# A producer with ActiveRecord. The order and its message stand or fall together.
#
#     DATABASE_URL=postgresql://… ruby examples/producers/ruby/orders.rb
#
# Needs examples/shop.sql, and a role that may write orders and is a member of outbox_producer.
require_relative 'shop'

message = place_order('carol', 'carol@example.com', '7.50')
puts "committed: message #{message.id}"

begin
  ActiveRecord::Base.transaction do
    place_order('dave', 'dave@example.com', '99.00')
    raise 'the payment was declined'
  end
rescue RuntimeError => reason
  puts "rolled back: #{reason.message}"
end
