require_relative 'test_helper'

# Each of these is a transaction that is rolled back, so nothing is ever delivered.
class OrderTest < ActiveSupport::TestCase
  test 'says that an order was created' do
    Order.create!(customer: 'carol', total: '7.50')
    message = OutboxMessage.find_by!(type: 'order.created')
    assert_equal 'carol', message.key
    assert_equal '7.50', message.payload['total']
  end

  test 'says nothing of an order that is refused' do
    assert_raises(ActiveRecord::NotNullViolation) { Order.create!(total: '7.50') }
    assert_equal 0, OutboxMessage.count
  end
end
