use super::*;
use crate::calendar::Calendar;
use crate::name::Name;

const HOUR: Duration = Duration::from_secs(3600);

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn vienna(time: &str, days: &[usize]) -> Calendar {
    let time = format!("{time}:00").parse().unwrap();
    Calendar::at(&[time], days, "Europe/Vienna").unwrap()
}

fn schedule(every: Calendar, catch_up: CatchUp) -> ScheduleConfig {
    ScheduleConfig {
        name: Name::parse("reminders").unwrap(),
        message_type: "reminder.due".to_owned(),
        every,
        query: None,
        jitter: Duration::ZERO,
        catch_up,
        max_lateness: None,
        late_after: HOUR,
        valid_from: None,
    }
}

/// A relay that comes at `now` and was not there before.
fn seen(now: &str, settled_until: &str) -> Seen {
    Seen {
        now: at(now),
        settled_until: at(settled_until),
        settled_by_period: false,
        there_since: at(now),
    }
}

/// The same where a period ran then.
fn ran(now: &str, settled_until: &str) -> Seen {
    Seen { settled_by_period: true, ..seen(now, settled_until) }
}

/// What happens until there is nothing left to do: `+` runs, `-` passes over.
fn story(config: &ScheduleConfig, mut seen: Seen) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        let (sign, due) = match plan(config, &seen) {
            Step::Run(due) => ('+', due),
            Step::PassOver(due) => ('-', due),
            Step::Wait { .. } => return told,
        };
        assert!(due.tick.at > seen.settled_until, "always on");
        (seen.settled_until, seen.settled_by_period) = (due.tick.at, true);
        told.push(format!("{sign}{}/{}", due.tick.name, due.passed));
    }
}

#[test]
fn after_five_days_down_catch_up_decides() {
    let down = ran("2026-11-20T12:00:00Z", "2026-11-15T09:00:00Z");
    let story = |catch_up| story(&schedule(vienna("10:00", &[]), catch_up), down);
    assert_eq!(story(CatchUp::Skip), ["-2026-11-20/4"]);
    assert_eq!(story(CatchUp::Latest), ["+2026-11-20/4"]);
    let days = ["+2026-11-16/0", "+2026-11-17/0", "+2026-11-18/0", "+2026-11-19/0"];
    let all = story(CatchUp::All);
    assert_eq!((&all[..4], all[4].as_str()), (&days.map(String::from)[..], "+2026-11-20/0"));
}

#[test]
fn a_period_that_is_too_late_runs_by_no_policy() {
    let down = ran("2026-11-20T12:00:00Z", "2026-11-15T09:00:00Z");
    let story = |catch_up, hours| {
        let config = ScheduleConfig {
            max_lateness: Some(hours * HOUR),
            ..schedule(vienna("10:00", &[]), catch_up)
        };
        story(&config, down)
    };
    assert_eq!(story(CatchUp::Latest, 2), ["-2026-11-20/4"]);
    assert_eq!(story(CatchUp::Latest, 3), ["+2026-11-20/4"]);
    assert_eq!(story(CatchUp::All, 30), ["-2026-11-18/2", "+2026-11-19/0", "+2026-11-20/0"]);
    assert_eq!(story(CatchUp::All, 2), ["-2026-11-20/4"]);
}

#[test]
fn skip_runs_what_somebody_was_there_for() {
    let config = schedule(vienna("10:00", &[]), CatchUp::Skip);
    let late = ran("2026-11-20T09:01:01Z", "2026-11-19T09:00:00Z");
    assert_eq!(story(&config, late), ["-2026-11-20/0"]);
    let hardly = ran("2026-11-20T09:01:00Z", "2026-11-19T09:00:00Z");
    assert_eq!(story(&config, hardly), ["+2026-11-20/0"]);
    // Its query failed for an hour.
    let there = Seen {
        there_since: at("2026-11-20T09:00:00Z"),
        ..ran("2026-11-20T10:00:00Z", "2026-11-19T09:00:00Z")
    };
    assert_eq!(story(&config, there), ["+2026-11-20/0"]);
    assert_eq!(
        story(&config, Seen { now: at("2026-11-21T09:00:00Z"), ..there }),
        ["+2026-11-21/1"]
    );
}

#[test]
fn a_moved_time_fires_no_day_twice_and_none_that_it_had_not() {
    let latest = |time, days: &[usize]| schedule(vienna(time, days), CatchUp::All);
    // Half past ten in Vienna.
    let now = "2026-11-20T09:30:00Z";
    let done = ran(now, "2026-11-20T09:00:00Z");
    assert_eq!(story(&latest("11:00", &[]), done), [""; 0]);
    let later = Seen { now: at("2026-11-20T23:00:00Z"), ..done };
    assert_eq!(story(&latest("11:00", &[]), later), [""; 0], "not at eleven either");
    // A relay looked today, so yesterday is settled.
    let waiting = seen(now, "2026-11-19T22:59:59.999999Z");
    assert_eq!(story(&latest("10:00", &[]), waiting), ["+2026-11-20/0"], "from 11:00");
    // It was mondays, and is every day since this friday.
    assert_eq!(story(&latest("11:00", &[]), waiting), [""; 0]);
    let noon = Seen { now: at("2026-11-20T11:00:00Z"), ..waiting };
    assert_eq!(story(&latest("11:00", &[]), noon), ["+2026-11-20/0"]);
}

#[test]
fn days_that_are_over_are_settled_where_nothing_is_due() {
    let mondays = schedule(vienna("10:00", &[0]), CatchUp::Latest);
    let friday = ran("2026-11-20T09:30:00Z", "2026-11-16T09:00:00Z");
    let Step::Wait { next_at, settled } = plan(&mondays, &friday) else { panic!("nothing is due") };
    assert_eq!(next_at, Some(at("2026-11-23T09:00:00Z")));
    assert_eq!(settled, Some(at("2026-11-19T22:59:59.999999Z")));
    // And once a day only.
    let settled = Seen { settled_until: settled.unwrap(), settled_by_period: false, ..friday };
    assert_eq!(plan(&mondays, &settled), Step::Wait { next_at, settled: None });
    // A tick at midnight is of the day that begins.
    let midnight = schedule(vienna("00:00", &[]), CatchUp::Latest);
    let early = ran("2026-11-19T22:59:59Z", "2026-11-18T23:00:00Z");
    let Step::Wait { settled, .. } = plan(&midnight, &early) else { panic!("nothing is due") };
    assert_eq!(settled, None);
    let on_time = ran("2026-11-19T23:00:00Z", "2026-11-18T23:00:00Z");
    assert_eq!(story(&midnight, on_time), ["+2026-11-20/0"]);
}

#[test]
fn nothing_is_due_before_the_schedule_begins() {
    let config = schedule(vienna("10:00", &[]), CatchUp::All);
    let new = seen("2026-11-20T09:30:00Z", "2026-11-20T09:29:59Z");
    assert_eq!(story(&config, new), [""; 0]);
    let next_week = ScheduleConfig {
        valid_from: Some(at("2026-11-27T09:00:00Z")),
        ..schedule(vienna("10:00", &[]), CatchUp::All)
    };
    let Step::Wait { next_at, .. } = plan(&next_week, &new) else { panic!("nothing is due") };
    assert_eq!(next_at, Some(at("2026-11-27T09:00:00Z")), "that instant included");
    let then = Seen { now: at("2026-11-27T10:00:00Z"), ..new };
    assert_eq!(story(&next_week, then), ["+2026-11-27/0"]);
}

#[test]
fn both_days_on_which_clocks_change_run_once() {
    let config = schedule(vienna("02:30", &[]), CatchUp::All);
    let spring = ran("2026-03-30T12:00:00Z", "2026-03-28T01:30:00Z");
    assert_eq!(story(&config, spring), ["+2026-03-29/0", "+2026-03-30/0"]);
    let autumn = ran("2026-10-26T12:00:00Z", "2026-10-24T00:30:00Z");
    assert_eq!(story(&config, autumn), ["+2026-10-25/0", "+2026-10-26/0"]);
    let Step::Run(due) = plan(&config, &autumn) else { panic!("due") };
    let Step::Run(next) = plan(&config, &Seen { settled_until: due.tick.at, ..autumn }) else {
        panic!("due")
    };
    assert_eq!((next.from, next.tick.at.duration_since(next.from).as_hours()), (due.tick.at, 25));
}

#[test]
fn jitter_is_the_same_for_all_and_reaches_into_no_other_period() {
    let config = ScheduleConfig { jitter: HOUR, ..schedule(vienna("10:00", &[]), CatchUp::Latest) };
    let shift = |config: &ScheduleConfig, name: &str| {
        let tick = config.every.named(name).unwrap();
        let next = config.every.next(tick.at);
        ready_at(config, &tick, next.as_ref()).duration_since(tick.at).as_secs()
    };
    let shifts: Vec<i64> =
        (1..=28).map(|day| shift(&config, &format!("2026-11-{day:02}"))).collect();
    assert!(shifts.iter().all(|s| (0..3600).contains(s)), "{shifts:?}");
    assert!(shifts.iter().max().unwrap() - shifts.iter().min().unwrap() > 1800, "{shifts:?}");
    assert_eq!(shift(&config, "2026-11-20"), shifts[19]);
    let minutes = ScheduleConfig {
        jitter: HOUR,
        ..schedule(Calendar::Span(Duration::from_secs(60)), CatchUp::Latest)
    };
    assert!((0..60).contains(&shift(&minutes, "2026-11-20T1405")));
    // Not due at its tick; and what waits for its jitter over midnight is not settled away.
    let tick = config.every.named("2026-11-20").unwrap().at;
    let early = Seen { now: tick, ..ran("2026-11-20T09:00:00Z", "2026-11-19T09:00:00Z") };
    assert!(matches!(plan(&config, &early), Step::Wait { .. }));
    let last = schedule(vienna("23:59", &[]), CatchUp::Latest);
    let last = ScheduleConfig { jitter: HOUR, ..last };
    let midnight = ran("2026-11-20T23:00:00Z", "2026-11-19T22:59:00Z");
    let Step::Wait { settled, .. } = plan(&last, &midnight) else { panic!("it waits") };
    assert_eq!(settled, None);
}

#[test]
fn a_long_outage_of_a_short_span_is_passed_over_in_bounded_steps() {
    let seconds = |catch_up| schedule(Calendar::Span(Duration::from_secs(1)), catch_up);
    let down = ran("2026-11-20T12:00:00Z", "2026-11-20T11:40:00Z");
    let latest = story(&seconds(CatchUp::Latest), down);
    assert_eq!(
        latest,
        ["-2026-11-20T114820/499", "-2026-11-20T115640/499", "+2026-11-20T120000/199"]
    );
    assert_eq!(story(&seconds(CatchUp::Skip), down), latest, "the last one is in time");
    let all = story(&seconds(CatchUp::All), down);
    assert_eq!((all.len(), all[0].as_str()), (1200, "+2026-11-20T114001/0"));
}
