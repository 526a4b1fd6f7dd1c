class CreateOrders < ActiveRecord::Migration[6.1]
  def change
    create_table :orders do |t|
      t.text :customer, null: false
      t.decimal :total, precision: 12, scale: 2, null: false
    end
  end
end
