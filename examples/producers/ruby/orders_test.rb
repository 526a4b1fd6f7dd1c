# How a test sees that a message was written, with minitest. In Rails a test is a transaction already, and
# so is an example of RSpec with `use_transactional_fixtures`.
#
#     DATABASE_URL=postgresql://… ruby examples/producers/ruby/orders_test.rb
#
# It reads messages, which a producer may not: run it as the owner of the test's database, or as a role
# that may read it there:
#
#     GRANT SELECT ON outbox.message TO shop_app;
require 'minitest/autorun'
require_relative 'shop'

class OrdersTest < Minitest::Test
  def setup
    ActiveRecord::Base.connection.begin_transaction(joinable: false)
  end

  # Nothing of it was committed, so nothing of it is ever delivered.
  def teardown
    ActiveRecord::Base.connection.rollback_transaction
  end

  def test_says_that_an_order_was_created
    place_order('carol', 'carol@example.com', '7.50')
    message = OutboxMessage.find_by!(type: 'order.created')
    assert_equal 'carol', message.key
    assert_equal '7.50', message.payload['total']
  end

  def test_says_nothing_of_an_order_that_is_refused
    assert_raises(ActiveRecord::NotNullViolation) { place_order('carol', nil, '7.50') }
    assert_equal 0, OutboxMessage.count
  end
end
