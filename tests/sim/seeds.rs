//! A run that a seed thinks out: workload, crashes, take-overs, reloads, and a Redis whose
//! answers cannot be relied upon.

use std::time::Duration;

use kasho::config::Size;
use kasho::error::Class;
use kasho::sink::config::{Config, Durability};
use kasho::sink::memory::{Fault, Step};
use kasho::source::Limits;

use crate::driver::{End, Run};
use crate::random::Random;
use crate::stations::{Rule, Sabotage};
use crate::trace::Trace;

/// What came of a seed.
pub(crate) struct Report {
    pub(crate) end: End,
    pub(crate) wrong: Vec<String>,
    pub(crate) trace: Trace,
}

/// Runs a seed from its beginning to its end, on a runtime and a clock of its own.
pub(crate) fn simulate(seed: u64, all_lines: bool, sabotage: Sabotage) -> Report {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let trace = Trace::new(all_lines);
        let mut random = Random::new(seed);
        let (end, wrong) = whole_run(&mut random, &trace, sabotage).await;
        Report { end, wrong, trace }
    })
}

async fn whole_run(random: &mut Random, trace: &Trace, sabotage: Sabotage) -> (End, Vec<String>) {
    let (settings, limits) = (settings(random), limits(random));
    let mut run = Run::new(settings, limits, trace, sabotage).await;
    let weather = Weather { per_mille: random.one(&[0, 10, 40, 150]) };
    let (mut chance, lines) = (random.fork(), trace.clone());
    run.world.redis.plan(move |step| {
        let fault = weather.fault(step, &mut chance);
        lines.say(format_args!("{step:?} {fault:?}"));
        fault
    });
    run.start(0);
    for _ in 0..random.within(20, 120) {
        act(&mut run, random).await;
        let (turns, ms) = (random.within(1, 40), random.one(&[0, 1, 30, 300, 3_000]));
        run.run(turns, ms).await;
        if run.ended().is_some() {
            break;
        }
    }
    let end = run.settle(random.often(200)).await;
    (end, run.verdict(end).await)
}

fn settings(random: &mut Random) -> Config {
    let kinds = [Durability::Reply, Durability::Replicas(1), Durability::Aof];
    Config {
        durability: random.one(&kinds),
        ack_lag_ms: random.one(&[0, 200, 5_000, 5_000]),
        ack_lag_bytes: Size(random.one(&[2_000, 64 << 20])),
        dead_letters: random.one(&[3, 30, 10_000, 10_000]),
        ..Config::default()
    }
}

fn limits(random: &mut Random) -> Limits {
    Limits { rows: random.one(&[1, 2, 3, 8, 1_024]), ..Limits::default() }
}

/// One thing that happens.
async fn act(run: &mut Run, random: &mut Random) {
    run.look_after_letters(random).await;
    match random.below(100) {
        0..55 => {
            for _ in 0..random.within(1, 4) {
                run.world.work(|log| log.anything(random));
            }
        }
        55..62 => {
            run.crash();
            if random.often(400) {
                run.reload(random.one(&Rule::ALL));
            }
            run.start(random.one(&[0, 10, 500, 4_000]));
        }
        62..67 if run.count() < 4 => {
            run.freeze();
            if random.often(400) {
                run.reload(random.one(&Rule::ALL));
            }
            run.start(random.one(&[0, 10, 500]));
        }
        67..75 => run.thaw(),
        75..77 => run.end_others(),
        77..88 => {
            run.in_place = random.often(500);
            run.kept = random.often(500);
            run.reload(random.one(&Rule::ALL));
        }
        88..92 => run.world.redis.cut(),
        92..95 => run.fail_over(usize::try_from(random.within(1, 12)).unwrap()),
        95..98 => run.world.postgres().fail_next(Class::Retry),
        _ => {}
    }
}

/// How bad it is at Redis.
#[derive(Clone, Copy)]
struct Weather {
    per_mille: u64,
}

impl Weather {
    fn fault(self, step: Step, random: &mut Random) -> Fault {
        if !random.often(self.per_mille) {
            return Fault::None;
        }
        match random.below(12) {
            0..3 => Fault::Slow(Duration::from_millis(random.one(&[1, 40, 900, 8_000]))),
            3 | 4 => Fault::Cut,
            5..8 => Fault::LoseReply,
            8 => Fault::ReadOnly,
            9 => Fault::Loading,
            _ if matches!(step, Step::Append(1..)) => Fault::Oom,
            _ => Fault::LoseReply,
        }
    }
}
