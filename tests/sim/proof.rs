//! That the simulation is what it claims to be: a seed runs the same way twice, and the
//! oracle complains when something is broken on purpose.

use kasho::position::Position;
use kasho::sink::config::Durability;
use kasho::sink::entry::RawEntry;

use crate::cases::quiet;
use crate::check::check;
use crate::driver::End;
use crate::log::Happened;
use crate::seeds::simulate;
use crate::stations::{Rule, Sabotage};

#[test]
fn a_seed_runs_the_same_way_twice() {
    let digests = |seed| {
        let report = simulate(seed, false, Sabotage::None);
        (report.trace.digest(), format!("{:?}", report.end))
    };
    let first: Vec<_> = (1_000..1_010).map(digests).collect();
    let second: Vec<_> = (1_000..1_010).map(digests).collect();
    assert_eq!(first, second);
    assert!(first.windows(2).all(|pair| pair[0].0 != pair[1].0), "seeds differ");
}

/// The complaints of the first seed that has any.
fn found(sabotage: Sabotage) -> String {
    let reports = (0..200).map(|seed| simulate(seed, false, sabotage).wrong);
    reports.map(|wrong| wrong.join("\n")).find(|wrong| !wrong.is_empty()).unwrap_or_default()
}

#[test]
fn what_is_broken_on_purpose_is_found() {
    for (sabotage, complaint) in [
        (Sabotage::LoseRows, "are not what any of"),
        (Sabotage::MixGenerations, "more than one generation"),
        (Sabotage::ForgetWhatBegan, "more than one generation"),
        (Sabotage::DeliverTwice, "comes 2 times"),
        (Sabotage::LieAboutDurability, "is acknowledged, what is durable says"),
    ] {
        let found = found(sabotage);
        assert!(found.contains(complaint), "{sabotage:?}: {found:?}");
    }
}

/// What happened and what was published of it, all of it right.
async fn right() -> (Vec<Happened>, Vec<RawEntry>, Position) {
    let mut run = quiet(Durability::Reply, 0).await;
    run.reload(Rule(2));
    run.world.work(|log| {
        for rows in [3, 9, 0, 1, 5] {
            log.inserts(rows);
        }
        log.message_then(&[]);
        log.inserts(4);
    });
    run.start(0);
    assert_eq!(run.settle(false).await, End::Quiet);
    let through = Position::after(run.world.postgres().wal_end());
    (run.world.happened(), run.world.entries().await, through)
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_right_is_seen_at_every_entry() {
    let (happened, entries, through) = right().await;
    assert_eq!(check(&happened, &entries, through), Vec::<String>::new());
    assert!(entries.len() > 10, "{}", entries.len());
    let spoilt = |spoil: &dyn Fn(&mut Vec<RawEntry>)| {
        let mut entries = entries.clone();
        spoil(&mut entries);
        !check(&happened, &entries, through).is_empty()
    };
    for at in 0..entries.len() {
        assert!(spoilt(&|e| drop(e.remove(at))), "{at} is lost");
        assert!(spoilt(&|e| e.insert(at, e[at].clone())), "{at} is repeated");
        assert!(at == 0 || spoilt(&|e| e.swap(at - 1, at)), "{at} is out of order");
        let toggle = |e: &mut Vec<RawEntry>| {
            let fields = &mut e[at].fields;
            match fields.iter().position(|(name, _)| name == "l") {
                Some(field) => drop(fields.remove(field)),
                None => fields.push(("l".into(), "1".into())),
            }
        };
        assert!(spoilt(&toggle), "{at} is marked otherwise");
        let neighbour = if at == 0 { 1 } else { at - 1 };
        let data = |e: &mut Vec<RawEntry>| e[at].fields = entries[neighbour].fields.clone();
        assert!(spoilt(&data), "{at} has another row");
    }
    let half = |e: &mut Vec<RawEntry>| {
        let generation = e[1].fields.iter_mut().find(|(name, _)| name == "g");
        generation.unwrap().1 = "99".into();
    };
    assert!(spoilt(&half), "two generations");
}
