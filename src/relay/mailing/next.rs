//! What is to be done next about the mails of a sink. Pure.
//!
//! Where a sink's cut is daily, at most one mail goes out on one day of its calendar's clock. So what
//! could not be mailed in time waits for the cut that is still to come on the same day, if there is one,
//! and goes along with its file; and what is ready on a day that has had its mail waits for the next
//! day. What an operator has sent again goes at once: that is a decision.
//!
//! A mail that some of its recipients accepted is finished for the others on the same day, and is dead after
//! that: an operator may send it to them. Nothing is added to it, and it holds up the next one for an hour
//! at most.
//!
//! A file comes so long after its cut as its rows take to settle, so the day's mail goes by a clock that
//! is as far behind: else the file of a cut late in the evening would find the next day's cut still to
//! come, and wait for it again and again.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;

use crate::calendar::Calendar;
use crate::config::MailCatchUp;
use crate::store::mailing::{Desk, Mailing, MailingState};

/// How long a mail that some have accepted may hold up the next one.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// There is none now.
    Nothing,
    /// Plan a mail for these files, called after the last of them.
    Plan { exports: Vec<i64>, period: String },
    /// The same, and close it: a newer file goes out in its place.
    PassOver { export: i64, period: String },
    /// Close the mail at work: a newer file goes out in its place.
    LetGo,
    /// Give the mail at work up for those who have not accepted it.
    GiveUp,
    /// Let these files go along with the mail at work.
    Add { exports: Vec<i64>, period: String },
    /// Send the mail at work, which takes the day if there is one.
    Send { day: Option<Date> },
    /// It was begun by this relay, and nothing was said: the answer to the intent was lost.
    Withdraw,
}

/// Decides the next step. `settle_after` is how long after its cut a file is made, and `made_until` up to
/// when all files that were due have been.
pub(super) fn next(
    calendar: Option<&Calendar>,
    settle_after: Duration,
    catch_up: MailCatchUp,
    desk: &Desk,
    made_until: Option<Timestamp>,
) -> Next {
    let one_a_day = calendar.filter(|every| every.is_daily() && catch_up != MailCatchUp::Each);
    let now = desk.now.checked_sub(settle_after).unwrap_or(desk.now);
    let all_made = calendar
        .and_then(|calendar| calendar.latest(now))
        .is_none_or(|last| made_until.is_some_and(|made_until| made_until >= last.at));
    let Some(mailing) = &desk.mailing else {
        return plan(catch_up, desk, all_made);
    };
    if mailing.state == MailingState::Sending {
        return Next::Withdraw;
    }
    let is_out = !mailing.recipients.accepted().is_empty();
    if let Some((_, period)) = desk.unmailed.last().filter(|_| !mailing.by_hand) {
        match catch_up {
            MailCatchUp::Latest => return Next::LetGo,
            _ if is_out => {
                let age = desk.now.duration_since(mailing.planned_at).unsigned_abs();
                if age >= PATIENCE {
                    return Next::GiveUp;
                }
            }
            MailCatchUp::Together => {
                let exports = desk.unmailed.iter().map(|(id, _)| *id).collect();
                return Next::Add { exports, period: period.clone() };
            }
            MailCatchUp::Each => {}
        }
    }
    if is_out && !mailing.by_hand && one_a_day.is_some_and(|every| is_past(mailing, every, now)) {
        return Next::GiveUp;
    }
    if !mailing.wait.is_zero() {
        return Next::Nothing;
    }
    match one_a_day.filter(|_| !mailing.by_hand) {
        None => Next::Send { day: None },
        Some(_) if is_out => Next::Send { day: mailing.day },
        Some(calendar) if all_made && may_go(calendar, now, desk.last_day) => {
            Next::Send { day: Some(calendar.day(now)) }
        }
        Some(_) => Next::Nothing,
    }
}

/// Whether the day is over whose mail it is.
fn is_past(mailing: &Mailing, every: &Calendar, now: Timestamp) -> bool {
    mailing.day.is_none_or(|day| day < every.day(now))
}

fn plan(catch_up: MailCatchUp, desk: &Desk, all_made: bool) -> Next {
    let (Some((oldest, of_oldest)), Some((_, newest))) =
        (desk.unmailed.first(), desk.unmailed.last())
    else {
        return Next::Nothing;
    };
    match catch_up {
        MailCatchUp::Each => Next::Plan { exports: vec![*oldest], period: of_oldest.clone() },
        _ if !all_made => Next::Nothing,
        MailCatchUp::Latest if desk.unmailed.len() > 1 => {
            Next::PassOver { export: *oldest, period: of_oldest.clone() }
        }
        MailCatchUp::Latest | MailCatchUp::Together => {
            let exports = desk.unmailed.iter().map(|(id, _)| *id).collect();
            Next::Plan { exports, period: newest.clone() }
        }
    }
}

/// Whether the day's mail may go, once all files are made.
fn may_go(calendar: &Calendar, now: Timestamp, last_day: Option<Date>) -> bool {
    let today = calendar.day(now);
    let taken = last_day.is_some_and(|last| last >= today);
    let more_to_come = calendar.next(now).is_some_and(|next| next.day == today);
    !taken && !more_to_come
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipients::{RecipientState, Recipients};

    const ZERO: Duration = Duration::ZERO;

    fn at(text: &str) -> Timestamp {
        format!("2026-11-{text}Z").parse().unwrap()
    }

    /// At one o'clock UTC.
    fn one_oclock() -> Calendar {
        Calendar::at(&["01:00:00".parse().unwrap()], &[], "UTC").unwrap()
    }

    fn desk(now: &str, unmailed: &[i64], mailing: Option<Mailing>, last_day: Option<&str>) -> Desk {
        Desk {
            now: at(now),
            mailing,
            last_day: last_day.map(|day| format!("2026-11-{day}").parse().unwrap()),
            unmailed: unmailed.iter().map(|id| (*id, format!("p{id}"))).collect(),
        }
    }

    fn mailing(state: MailingState, wait: u64) -> Mailing {
        Mailing {
            id: 1,
            period: "p1".to_owned(),
            state,
            attempt: 0,
            by_hand: false,
            planned_at: at("20T01:00:05"),
            changed_at: at("20T01:00:05"),
            wait: Duration::from_secs(wait),
            day: None,
            recipients: Recipients::default(),
        }
    }

    /// One that somebody accepted on that day.
    fn half_out(day: &str, wait: u64) -> Mailing {
        let mut recipients = Recipients::default();
        recipients.note("a@x.example", RecipientState::Accepted, "250 ok");
        recipients.note("b@x.example", RecipientState::Deferred, "451 later");
        let day = Some(format!("2026-11-{day}").parse().unwrap());
        Mailing { day, recipients, ..mailing(MailingState::Unsent, wait) }
    }

    fn together(desk: &Desk, made_until: &str) -> Next {
        next(Some(&one_oclock()), ZERO, MailCatchUp::Together, desk, Some(at(made_until)))
    }

    fn send(day: &str) -> Next {
        Next::Send { day: Some(format!("2026-11-{day}").parse().unwrap()) }
    }

    #[test]
    fn missed_days_go_out_in_one_mail_called_after_the_last() {
        let desk = desk("20T09:00:00", &[3, 4, 5], None, None);
        assert_eq!(together(&desk, "19T09:00:00"), Next::Nothing, "files are still being made");
        let plan = Next::Plan { exports: vec![3, 4, 5], period: "p5".to_owned() };
        assert_eq!(together(&desk, "20T08:59:59"), plan);
    }

    #[test]
    fn the_days_mail_goes_once_all_files_are_made() {
        let planned = || Some(mailing(MailingState::Planned, 0));
        let ready = desk("20T01:00:05", &[], planned(), Some("19"));
        assert_eq!(together(&ready, "20T01:00:04"), send("20"));
        assert_eq!(together(&ready, "20T00:59:59"), Next::Nothing);
    }

    #[test]
    fn a_day_that_had_its_mail_has_no_second_one() {
        let planned = || Some(mailing(MailingState::Unsent, 0));
        let same_day = desk("20T23:59:00", &[], planned(), Some("20"));
        assert_eq!(together(&same_day, "20T23:58:00"), Next::Nothing);
        let before_the_cut = desk("21T00:10:00", &[], planned(), Some("20"));
        assert_eq!(together(&before_the_cut, "21T00:09:00"), Next::Nothing, "a file is to come");
        let after_the_cut = desk("21T01:00:10", &[6], planned(), Some("20"));
        let add = Next::Add { exports: vec![6], period: "p6".to_owned() };
        assert_eq!(together(&after_the_cut, "21T01:00:09"), add);
    }

    #[test]
    fn what_some_accepted_is_finished_for_the_others_on_its_day_and_nothing_is_added() {
        let of = |now: &str, unmailed: &[i64], mailing| {
            together(&desk(now, unmailed, Some(mailing), Some("20")), now)
        };
        assert_eq!(of("20T01:10:00", &[], half_out("20", 0)), send("20"), "the day is its own");
        assert_eq!(of("20T01:10:00", &[], half_out("20", 60)), Next::Nothing, "it rests");
        assert_eq!(of("20T01:10:00", &[7], half_out("20", 0)), send("20"), "no file is added");
        assert_eq!(of("20T02:00:05", &[7], half_out("20", 0)), Next::GiveUp, "others wait");
        assert_eq!(of("21T00:10:00", &[], half_out("20", 60)), Next::GiveUp, "its day is over");
        let by_hand = Mailing { by_hand: true, ..half_out("20", 0) };
        assert_eq!(of("21T09:00:00", &[7], by_hand), Next::Send { day: None }, "a decision");
    }

    #[test]
    fn what_rests_is_not_begun_and_what_an_operator_sends_again_goes_at_once() {
        let resting = desk("20T02:00:00", &[], Some(mailing(MailingState::Unsent, 60)), None);
        assert_eq!(together(&resting, "20T01:59:00"), Next::Nothing);
        let again = Mailing { by_hand: true, ..mailing(MailingState::Unsent, 0) };
        let again = desk("20T02:00:00", &[7], Some(again), Some("20"));
        assert_eq!(together(&again, "20T01:59:00"), Next::Send { day: None });
    }

    #[test]
    fn each_file_can_have_a_mail_of_its_own_or_the_newest_alone() {
        let calendar = one_oclock();
        let desk = desk("20T09:00:00", &[3, 4], None, Some("20"));
        let of = |catch_up| next(Some(&calendar), ZERO, catch_up, &desk, Some(at("20T09:00:00")));
        let first = Next::Plan { exports: vec![3], period: "p3".to_owned() };
        assert_eq!(of(MailCatchUp::Each), first);
        let passed = Next::PassOver { export: 3, period: "p3".to_owned() };
        assert_eq!(of(MailCatchUp::Latest), passed);
        let planned =
            self::desk("20T09:00:00", &[4], Some(mailing(MailingState::Planned, 0)), Some("20"));
        let sent = next(Some(&calendar), ZERO, MailCatchUp::Each, &planned, None);
        assert_eq!(sent, Next::Send { day: None });
    }

    #[test]
    fn where_only_the_newest_goes_a_mail_that_could_not_go_in_time_is_let_go() {
        let calendar = one_oclock();
        let of = |desk: &Desk| {
            next(Some(&calendar), ZERO, MailCatchUp::Latest, desk, Some(at("20T09:00:00")))
        };
        let unsent = || mailing(MailingState::Unsent, 0);
        assert_eq!(of(&desk("20T09:00:00", &[2], Some(unsent()), Some("18"))), Next::LetGo);
        assert_eq!(of(&desk("20T09:00:00", &[], Some(unsent()), Some("18"))), send("20"));
        let by_hand = Mailing { by_hand: true, ..unsent() };
        let by_hand = desk("20T09:00:00", &[2], Some(by_hand), Some("18"));
        assert_eq!(of(&by_hand), Next::Send { day: None });
    }

    #[test]
    fn a_file_that_is_made_after_midnight_goes_with_the_day_of_its_cut() {
        let evening = Calendar::at(&["23:55:00".parse().unwrap()], &[], "UTC").unwrap();
        let of = |settle_after, desk: &Desk, made_until: &str| {
            let made_until = Some(at(made_until));
            next(Some(&evening), settle_after, MailCatchUp::Together, desk, made_until)
        };
        let ten = Duration::from_secs(600);
        let planned = || Some(mailing(MailingState::Planned, 0));
        let settled = desk("21T00:05:01", &[], planned(), Some("19"));
        assert_eq!(of(ten, &settled, "20T23:54:59"), Next::Nothing, "its file is to be made");
        assert_eq!(of(ten, &settled, "21T00:05:00"), send("20"));
        let twice = desk("21T00:05:01", &[], planned(), Some("20"));
        assert_eq!(of(ten, &twice, "21T00:05:00"), Next::Nothing, "the day has its mail");
        let late = desk("21T09:00:00", &[], planned(), Some("19"));
        assert_eq!(of(ten, &late, "21T08:59:59"), Next::Nothing, "a file is to come");
        // A whole day: the next cut is there when the file is made.
        let day = Duration::from_secs(24 * 3600);
        let settled = desk("21T23:55:01", &[3], None, Some("19"));
        let plan = Next::Plan { exports: vec![3], period: "p3".to_owned() };
        assert_eq!(of(day, &settled, "21T23:54:59"), plan);
    }

    #[test]
    fn an_intent_whose_answer_was_lost_is_withdrawn() {
        let sending = desk("20T01:00:05", &[], Some(mailing(MailingState::Sending, 0)), Some("20"));
        assert_eq!(together(&sending, "20T01:00:04"), Next::Withdraw);
    }
}
