//! Histories that are known to be dangerous, each made to happen.

use std::time::Duration;

use kasho::config::Size;
use kasho::position::Position;
use kasho::sink::config::{Config, Durability};
use kasho::sink::memory::{Fault, Step};
use kasho::source::Limits;

use crate::driver::{End, Run};
use crate::log::Kind;
use crate::random::Random;
use crate::stations::{Rule, Sabotage};
use crate::trace::Trace;

/// No end of turns: until time is up.
const ALWAYS: u64 = u64::MAX;

/// A run whose source makes small batches; nothing is started yet.
pub(crate) async fn quiet(durability: Durability, ack_lag_ms: u64) -> Run {
    let ack_lag_bytes = Size::mib(64);
    let settings = Config { durability, ack_lag_ms, ack_lag_bytes, ..Config::default() };
    let limits = Limits { rows: 2, ..Limits::default() };
    Run::new(settings, limits, &Trace::new(false), Sabotage::None).await
}

/// Lets it come to rest, and fails unless it ends so and everything is right.
async fn ends(mut run: Run, expected: End, what: &str) {
    let end = run.settle(false).await;
    let wrong = run.verdict(end).await;
    let trace = run.world.trace.text();
    assert_eq!((end, wrong), (expected, Vec::new()), "{what}\n{trace}");
}

/// Does `fault` to the step that is the `nth` of those that `which` names.
fn once(run: &Run, nth: usize, which: fn(Step) -> bool, fault: Fault) {
    let mut seen = 0;
    run.world.redis.plan(move |step| {
        seen += usize::from(which(step));
        let now = seen == nth && which(step);
        if now { fault } else { Fault::None }
    });
}

fn appends(step: Step) -> bool {
    matches!(step, Step::Append(_))
}

#[tokio::test(start_paused = true)]
async fn a_script_that_was_applied_is_not_sent_again_where_its_reply_was_lost() {
    for nth in 1..7 {
        let mut run = quiet(Durability::Replicas(1), 0).await;
        once(&run, nth, appends, Fault::LoseReply);
        run.world.work(|log| (log.inserts(5), log.inserts(1), log.inserts(4)));
        run.start(0);
        run.run(ALWAYS, 5_000).await;
        assert_eq!(run.world.trace.count("opened"), 2);
        ends(run, End::Quiet, &format!("append {nth}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_frozen_writer_that_thaws_after_a_take_over_changes_nothing() {
    for turns in [0, 5, 20, 60, 500] {
        let mut run = quiet(Durability::Reply, 0).await;
        once(&run, 3, appends, Fault::Slow(Duration::from_secs(1)));
        run.world.work(|log| (log.inserts(9), log.inserts(3)));
        run.start(0);
        run.run(ALWAYS, 500).await;
        // It is in the middle of a transaction, and its next script is on the way.
        run.freeze();
        run.start(0);
        run.run(ALWAYS, 800).await;
        run.world.work(|log| log.inserts(7));
        if turns > 0 {
            run.run(turns, 3_000).await;
        }
        run.thaw();
        run.run(ALWAYS, 5_000).await;
        assert_eq!(run.world.trace.count("fenced"), 1, "{}", run.world.trace.text());
        assert_eq!(run.world.trace.count("main process fenced"), 0);
        ends(run, End::Quiet, &format!("thawed after {turns}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_writer_frozen_at_any_await_does_not_end_the_one_after_it() {
    for turns in 1..60 {
        let mut run = quiet(Durability::Replicas(1), 0).await;
        run.world.work(|log| (log.inserts(2), log.inserts(3)));
        run.start(0);
        run.run(turns, 60_000).await;
        run.freeze();
        run.start(0);
        run.run(ALWAYS, 800).await;
        run.world.work(|log| log.inserts(4));
        run.thaw();
        run.run(ALWAYS, 5_000).await;
        run.world.work(|log| log.inserts(5));
        assert_eq!(run.world.trace.count("main process fenced"), 0, "frozen after {turns}");
        ends(run, End::Quiet, &format!("frozen after {turns}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_survives_a_crash_at_any_await_and_a_message_at_its_lsn() {
    for turns in 1..150 {
        let mut run = quiet(Durability::Replicas(1), 0).await;
        run.world.work(|log| {
            log.inserts(3);
            log.message_then(&[Kind::Insert, Kind::Unlisted, Kind::Insert, Kind::Insert]);
            log.message_then(&[]);
            log.inserts(1);
        });
        let happened = run.world.happened();
        assert_eq!((happened[1].xid, happened[1].lsn), (0, happened[2].lsn));
        run.start(0);
        run.run(turns, 60_000).await;
        run.crash();
        run.start(0);
        ends(run, End::Quiet, &format!("crash after {turns}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_tail_lost_inside_the_lag_heals() {
    for lost in 1..6 {
        let mut run = quiet(Durability::Reply, 5_000).await;
        run.world.work(|log| (log.inserts(5), log.inserts(6)));
        run.start(0);
        run.run(ALWAYS, 4_000).await;
        let entries = run.world.entries().await.len();
        run.fail_over(lost);
        assert!(run.world.entries().await.len() < entries && !run.doomed());
        ends(run, End::Quiet, &format!("{lost} writes lost")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_tail_lost_outside_the_lag_halts() {
    let mut run = quiet(Durability::Reply, 5_000).await;
    run.world.work(|log| (log.inserts(5), log.inserts(6)));
    run.start(0);
    run.run(ALWAYS, 20_000).await;
    run.fail_over(3);
    assert!(run.doomed());
    run.world.work(|log| log.inserts(2));
    ends(run, End::LostData, "").await;
}

#[tokio::test(start_paused = true)]
async fn a_promotion_behind_what_is_published_halts() {
    let mut run = quiet(Durability::Reply, 5_000).await;
    run.world.work(|log| log.inserts(2));
    let at = run.world.postgres().wal_end();
    run.world.work(|log| log.inserts(2));
    run.start(0);
    run.run(ALWAYS, 1_000).await;
    run.crash();
    run.world.promote(at);
    run.start(0);
    let end = run.settle(false).await;
    assert_eq!(end, End::Promoted);
    assert_eq!(run.world.entries().await.len(), 4, "nothing was added");
}

#[tokio::test(start_paused = true)]
async fn a_promotion_exactly_at_a_published_commit_record_halts() {
    let mut run = quiet(Durability::Reply, 5_000).await;
    run.world.work(|log| log.inserts(2));
    let second = run.world.work(|log| log.inserts(2));
    run.start(0);
    run.run(ALWAYS, 1_000).await;
    run.crash();
    run.world.promote(second);
    run.world.work(|log| log.inserts(3));
    run.start(0);
    assert_eq!(run.settle(false).await, End::Promoted);
    assert_eq!(run.world.entries().await.len(), 4, "nothing was added");
}

#[tokio::test(start_paused = true)]
async fn what_others_write_steadily_does_not_keep_the_slot_where_it_is() {
    let mut run = quiet(Durability::Reply, 5_000).await;
    run.world.work(|log| log.inserts(2));
    run.start(0);
    for _ in 0..100 {
        run.world.postgres().advance(500);
        run.run(ALWAYS, 300).await;
    }
    // Half a minute of it; what is older than the lag and its turn is told.
    let behind = run.world.postgres().wal_end().since(run.world.postgres().confirmed());
    assert!(behind <= 500 * 7 * 1_000 / 300, "{behind} bytes behind");
    ends(run, End::Quiet, "").await;
}

#[tokio::test(start_paused = true)]
async fn addresses_used_again_after_a_promotion_are_not_taken_for_published() {
    let mut run = quiet(Durability::Reply, 5_000).await;
    run.world.work(|log| log.inserts(2));
    let at = run.world.postgres().wal_end();
    run.start(0);
    run.run(ALWAYS, 4_000).await;
    // Log of others, which the promoted server never receives.
    run.world.postgres().advance(5_000);
    run.run(ALWAYS, 2_000).await;
    let stored = run.world.redis.checkpoint(false).unwrap();
    assert!(stored.position > Position::after(at) && stored.confirmed == at, "{stored:?}");
    run.crash();
    run.world.promote(at);
    run.world.work(|log| (log.inserts(3), log.inserts(1)));
    run.start(0);
    ends(run, End::Quiet, "").await;
}

#[tokio::test(start_paused = true)]
async fn a_transaction_whose_first_rows_were_dropped_is_begun_anew_by_another_chain() {
    for turns in 1..60 {
        let mut run = quiet(Durability::Reply, 0).await;
        run.reload(Rule(1));
        run.world.work(|log| log.inserts(9));
        run.start(0);
        run.run(turns, 60_000).await;
        run.crash();
        run.reload(Rule(0));
        run.start(0);
        ends(run, End::Quiet, &format!("crash after {turns}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_is_put_back_finishes_what_it_began_under_its_number() {
    for in_place in [true, false] {
        let mut run = quiet(Durability::Reply, 0).await;
        run.in_place = in_place;
        once(&run, 3, appends, Fault::Slow(Duration::from_secs(9)));
        run.world.work(|log| (log.inserts(9), log.inserts(3)));
        run.start(0);
        run.run(ALWAYS, 500).await;
        run.crash();
        run.reload(Rule(2));
        run.start(0);
        run.run(ALWAYS, 5_000).await;
        assert_eq!(run.world.trace.count("former rules put back"), 1);
        run.reload(Rule(3));
        run.world.work(|log| log.inserts(9));
        ends(run, End::Quiet, &format!("in place: {in_place}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_finishes_with_what_was_kept_what_another_began() {
    let mut run = quiet(Durability::Reply, 0).await;
    run.kept = true;
    once(&run, 3, appends, Fault::Slow(Duration::from_secs(9)));
    run.world.work(|log| (log.inserts(9), log.inserts(3)));
    run.start(0);
    run.run(ALWAYS, 500).await;
    run.crash();
    run.reload(Rule(2));
    run.start(0);
    run.run(ALWAYS, 5_000).await;
    assert_eq!(run.world.trace.count("finished by an older generation"), 1);
    assert_eq!(run.world.trace.count("former rules put back"), 0);
    ends(run, End::Quiet, "").await;
}

#[tokio::test(start_paused = true)]
async fn a_row_comes_again_once_although_its_message_was_written_twice() {
    for turns in [1, 3, 10, 30, ALWAYS] {
        let (mut run, mut random) = (quiet(Durability::Reply, 0).await, Random::new(turns));
        run.reload(Rule(1));
        run.world.work(|log| (log.inserts(1), log.inserts(1)));
        run.start(0);
        run.run(ALWAYS, 3_000).await;
        assert_eq!(run.world.letters().await.len(), 2);
        run.reload(Rule(0));
        while run.world.trace.count("letter asked for again") == 0 {
            run.deliver(&mut random).await;
        }
        run.run(turns, 3_000).await;
        run.write_again();
        run.run(ALWAYS, 3_000).await;
        let came = run.world.entries().await.len();
        assert_eq!(run.world.letters().await.len() + came, 2, "after {turns}");
        assert!(came > 0);
        ends(run, End::Quiet, &format!("written again after {turns}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_room_for_letters_everything_waits_and_nothing_is_lost() {
    let settings = Config { dead_letters: 2, ack_lag_ms: 0, ..Config::default() };
    let limits = Limits { rows: 2, ..Limits::default() };
    let mut run = Run::new(settings, limits, &Trace::new(false), Sabotage::None).await;
    run.reload(Rule(1));
    run.world.work(|log| (0..4).map(|_| log.inserts(1)).last());
    run.start(0);
    run.run(ALWAYS, 60_000).await;
    assert_eq!(run.world.letters().await.len(), 2);
    assert!(run.pauses()[0].contains("are 2 dead letters"), "{:?}", run.pauses());
    run.crash();
    run.start(0);
    run.run(ALWAYS, 60_000).await;
    assert_eq!((run.world.letters().await.len(), run.pauses().len()), (2, 1));
    // The operator makes room.
    ends(run, End::Quiet, "").await;
}

#[tokio::test(start_paused = true)]
async fn what_was_confirmed_before_a_cut_is_told_although_nothing_more_happens() {
    let mut run = quiet(Durability::Reply, 0).await;
    // The second wait is the one after the confirmation was stored.
    once(&run, 3, |step| step == Step::Durable, Fault::Cut);
    run.world.work(|log| log.inserts(3));
    run.start(0);
    run.run(ALWAYS, 3_000).await;
    assert_eq!(run.world.trace.count("opened"), 2);
    ends(run, End::Quiet, "").await;
}
