ENV['RAILS_ENV'] ||= 'test'
require_relative '../config/environment'
require 'rails/test_help'

# Rails makes a test's database from db/schema.rb or db/structure.sql, which hold no outbox.
def make_outbox
  return if ActiveRecord::Base.connection.table_exists?('outbox.message')

  Dir[Rails.root.join('db/migrate/*outbox*.rb')].sort.each do |file|
    require file
    File.basename(file, '.rb').sub(/\A\d+_/, '').camelize.constantize.new.migrate(:up)
  end
end

make_outbox

class ActiveSupport::TestCase
  parallelize(workers: 2)
  # Each worker has a database of its own.
  parallelize_setup { make_outbox }
end
