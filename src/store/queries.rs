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
    let (name, quoted) = (schema.as_str(), escape_identifier(schema.as_str()));
    let mut names = vec![
        ("outbox.".to_owned(), format!("{quoted}.")),
        ("SCHEMA outbox".to_owned(), format!("SCHEMA {quoted}")),
        ("to_regnamespace('outbox')".to_owned(), format!("to_regnamespace('{name}')")),
    ];
    for suffix in ["producer", "relay", "operator", "bell"] {
        names.push((format!("outbox_{suffix}"), format!("{name}_{suffix}")));
    }
    // In one pass: the new name may itself read like one of those that are exchanged.
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((at, old, new)) = names
        .iter()
        .filter_map(|(old, new)| rest.find(old.as_str()).map(|at| (at, old, new)))
        .min_by_key(|(at, ..)| *at)
    {
        out.push_str(&rest[..at]);
        out.push_str(new);
        rest = &rest[at + old.len()..];
    }
    out + rest
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
    actions,
    add_route_set,
    add_routes,
    add_sinks,
    add_to_mailing,
    alerts,
    applied,
    applied_exists,
    begin_mailing,
    begin_sending,
    build_export,
    build_mailing,
    clear_routes,
    close_export,
    csv_waiting,
    deliveries,
    discard_mailing,
    discard_message,
    discard_page,
    doctor_backend,
    doctor_catalog,
    doctor_excess,
    doctor_holders,
    doctor_ledger,
    doctor_reached,
    doctor_relays,
    doctor_replica,
    doctor_sequence,
    doctor_server,
    doctor_settings,
    doctor_tables,
    doctor_triggers,
    doctor_unseen,
    drop_ledger,
    echo,
    end_mailing,
    end_sending,
    enter_installation,
    enter_migration,
    enter_occurrence,
    enter_rule,
    enter_schedule,
    export_at_work,
    export_before,
    export_list,
    export_page,
    extend_ledger,
    fence,
    fetch,
    fetch_below,
    figures,
    fill_occurrence,
    find_exports,
    find_mailing,
    forget,
    forget_calendar,
    forget_dedupe,
    forget_relays,
    gather,
    gather_page,
    groups,
    hand_over,
    heads,
    heartbeat,
    hidden,
    hold_mailings,
    hold_schedule,
    installation,
    known_sinks,
    leave,
    leave_empty,
    list_parked,
    list_pending,
    list_schedules,
    list_stuck,
    listening,
    lock_bell,
    lock_holders,
    lock_migration,
    lock_routes,
    mailed_files,
    mailing,
    mailing_steps,
    message,
    name_installation,
    next_due,
    note_accepted,
    note_action,
    note_export,
    note_late,
    note_mailing_accepted,
    note_next,
    note_schedule,
    now,
    open_export,
    page_closed,
    page_key,
    page_pending,
    page_stuck,
    pass_mailing,
    pass_over,
    pause_all,
    pause_restored,
    pause_route,
    pause_sink,
    paused,
    paused_routes,
    payload,
    payload_bytes,
    periods,
    plan_mailing,
    prune,
    publish_export,
    put_off_mailing,
    receivers,
    register,
    release_page,
    release_paused,
    replay_message,
    replay_page,
    reserve,
    resolve_mailing,
    resolve_message,
    resolve_page,
    restored,
    resume_restored,
    retry_mailing,
    retry_message,
    retry_page,
    rights,
    route_existing,
    route_sets,
    routes_in_force,
    schedules_standing,
    send,
    sending,
    server,
    set_bells,
    settle_delivered,
    settle_expired,
    settle_late,
    settle_open,
    settle_schedule,
    sink_messages,
    sinks,
    status_mails,
    status_relays,
    status_routes,
    status_schedules,
    status_sinks,
    status_unrouted,
    status_unseen,
    sweep,
    take_over,
    tell,
    unbuild_export,
    unlock_bell,
    unmailed,
    unrouted,
    unseen,
    unsent,
    watch,
    whole_message,
    write_answer,
    write_flow,
    write_period,
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

    #[test]
    fn a_schema_named_like_something_of_ours_is_written_in_once() {
        let schema = Schema::parse("outbox_relay").unwrap();
        assert_eq!(
            in_schema("GRANT SELECT ON outbox.open TO outbox_relay", &schema),
            "GRANT SELECT ON \"outbox_relay\".open TO outbox_relay_relay"
        );
    }
}
