# A shop with Rails, as small as one can be; the outbox comes with a migration:
#
#     outboxd migrate --print --as rails
#
# which says where to save it. The tests see that a message was written:
#
#     bin/rails db:migrate && bin/rails test
require 'rails'
require 'active_record/railtie'
require 'action_controller/railtie'
require 'rails/test_unit/railtie'

class Shop < Rails::Application
  config.load_defaults 6.1
  config.eager_load = false
  # :ruby writes db/schema.rb, :sql db/structure.sql.
  config.active_record.schema_format = ENV.fetch('SCHEMA_FORMAT', 'ruby').to_sym
end
