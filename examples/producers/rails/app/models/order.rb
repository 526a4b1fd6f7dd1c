class Order < ActiveRecord::Base
  # In the transaction that inserts the order, and not in `after_commit`.
  after_create do
    OutboxMessage.create!(
      type: 'order.created',
      key: customer,
      payload: { order_id: id, total: format('%.2f', total) }
    )
  end
end
