//! The statements, with the configured schema written in.

use postgres_protocol::escape::escape_identifier;

use crate::config::Schema;

/// Writes the configured schema into a text that says `outbox`.
///
/// The SQL files speak of `outbox.message` and of roles and channels named `outbox_…`, so that
/// they can be read and run as they stand; for another schema these names, and nothing else, are
/// exchanged.
#[must_use]
pub fn in_schema(text: &str, schema: &Schema) -> String {
    if schema.as_str() == "outbox" {
        return text.to_owned();
    }
    let quoted = escape_identifier(schema.as_str());
    let mut text = text
        .replace("outbox.", &format!("{quoted}."))
        .replace("SCHEMA outbox", &format!("SCHEMA {quoted}"))
        .replace("to_regnamespace('outbox')", &format!("to_regnamespace('{}')", schema.as_str()));
    for suffix in ["producer", "relay", "operator", "bell"] {
        text = text.replace(&format!("outbox_{suffix}"), &format!("{}_{suffix}", schema.as_str()));
    }
    text
}

macro_rules! queries {
    ($($name:ident),* $(,)?) => {
        /// Every statement of `sql/queries/`, by its file's name.
        #[derive(Debug)]
        pub struct Queries {
            $(pub(super) $name: String,)*
        }

        impl Queries {
            /// Writes the schema into every statement, once.
            #[must_use]
            pub fn new(schema: &Schema) -> Queries {
                Queries {
                    $($name: in_schema(
                        include_str!(concat!("../../sql/queries/", stringify!($name), ".sql")),
                        schema,
                    ),)*
                }
            }

            /// Name and text of every statement, for the tests that prepare them all.
            #[must_use]
            pub fn all(&self) -> Vec<(&'static str, &str)> {
                vec![$((stringify!($name), self.$name.as_str()),)*]
            }
        }
    };
}

queries!(
    add_route_set,
    add_routes,
    add_sinks,
    applied,
    applied_exists,
    clear_routes,
    close_export,
    csv_waiting,
    enter_installation,
    enter_migration,
    export_at_work,
    export_page,
    extend_ledger,
    fetch,
    forget_relays,
    gather,
    gather_page,
    hand_over,
    heads,
    heartbeat,
    installation,
    leave,
    listening,
    lock_bell,
    lock_migration,
    lock_routes,
    next_due,
    note_export,
    open_export,
    payload,
    payload_bytes,
    publish_export,
    register,
    route_existing,
    route_sets,
    settle_delivered,
    settle_expired,
    settle_open,
    sinks,
    sweep,
    take_over,
    unlock_bell,
    unrouted,
    unseen,
    write_flow,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_schema_is_written_in_quoted() {
        let schema = Schema::parse("order").unwrap();
        assert_eq!(
            in_schema("CREATE SCHEMA outbox; SELECT FROM outbox.message; 'outbox_bell_'", &schema),
            "CREATE SCHEMA \"order\"; SELECT FROM \"order\".message; 'order_bell_'"
        );
    }
}
