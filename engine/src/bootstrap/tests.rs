//! Every pair of state and command, and what a start-up makes of every slot.

use super::*;

mod reload;
mod schema;

fn a_load(mode: LoadMode) -> Load {
    let table = |oid, name: &str, snapshot| TableLoad {
        oid,
        relation: oid,
        table: name.into(),
        published_as: name.into(),
        snapshot,
        ranges: 2,
        attempt: 1,
        done: false,
        rows: 0,
        rows_estimated: 10,
        bytes_estimated: 8192,
        shape: "s".into(),
        definition: String::new(),
        gone: false,
    };
    Load {
        epoch: Epoch(3),
        slot: "kasho_slot".into(),
        start_lsn: Lsn(100),
        mode,
        snapshots: vec![
            Snapshot { name: "a".into(), lsn: Lsn(100), by: None },
            Snapshot { name: "b".into(), lsn: Lsn(200), by: None },
        ],
        holder: Some("kasho snapshot".into()),
        range_blocks: 8192,
        tables: vec![table(1, "public.t", 0), table(2, "public.u", 1)],
        loaded: false,
        published: vec!["public.t".into(), "public.u".into()],
        again: vec![],
        planned: None,
        later: vec![],
        renamed: None,
        renames: Vec::new(),
        called: [].into(),
    }
}

fn waiting() -> Phase {
    Phase::Waiting(Waiting { last_epoch: 2, last_error: Some("old".into()) })
}

fn accumulating() -> Phase {
    Phase::Accumulating(a_load(LoadMode::Direct))
}

fn streaming() -> Phase {
    Phase::Streaming(Streaming {
        epoch: Epoch(3),
        slot: "kasho_slot".into(),
        start_lsn: Lsn(100),
        load_points: [("public.u".to_owned(), Lsn(200))].into(),
        rows: 20,
        accumulated_changes: 5,
        incomplete: false,
        tables: vec!["public.t".into(), "public.u".into()],
        stale: vec![],
        later: vec![],
        renamed: None,
        renames: Vec::new(),
        called: [].into(),
        attempts: 1,
        reload: None,
        passed: None,
    })
}

fn request() -> StartRequest {
    StartRequest {
        start_lsn: None,
        snapshot_name: None,
        mode: LoadMode::Direct,
        discard: false,
        force: false,
    }
}

fn facts() -> Facts {
    Facts { slot: "kasho_slot".into(), rows_loaded: 12, changes: 5, ..Facts::default() }
}

fn loaded() -> Phase {
    let Phase::Accumulating(load) = accumulating() else { unreachable!() };
    load_done(load).next
}

fn commands() -> Vec<(&'static str, Command)> {
    vec![
        ("start", Command::Start(request())),
        ("started", Command::Started(Box::new(a_load(LoadMode::Direct)))),
        ("start failed", Command::StartFailed { error: "no slot".into() }),
        ("table done", Command::TableDone { oid: 1, attempt: 1, rows: 7 }),
        ("snapshot gone", Command::SnapshotGone),
        ("reheld", Command::Reheld(Box::new(a_load(LoadMode::Direct)))),
        ("reload", reload(&["public.t"])),
        ("marked", Command::Marked { nonce: "n".into() }),
        ("load done", Command::LoadDone),
        ("complete", Command::Complete { force: false }),
        ("complete!", Command::Complete { force: true }),
        ("abort", Command::Abort { force: false }),
        ("abort!", Command::Abort { force: true }),
        ("slot lost", Command::SlotLost { error: "lost".into() }),
    ]
}

/// The whole machine as a table: state and command to the next state, or `-` = refused.
#[test]
fn every_pair() {
    let expected = [
        ("WAITING", "start", "WAITING"),
        ("WAITING", "started", "ACCUMULATING"),
        ("WAITING", "start failed", "WAITING"),
        ("WAITING", "table done", "-"),
        ("WAITING", "snapshot gone", "-"),
        ("WAITING", "reheld", "-"),
        ("WAITING", "reload", "-"),
        ("WAITING", "marked", "-"),
        ("WAITING", "load done", "-"),
        ("WAITING", "complete", "-"),
        ("WAITING", "complete!", "-"),
        ("WAITING", "abort", "-"),
        ("WAITING", "abort!", "-"),
        ("WAITING", "slot lost", "-"),
        ("ACCUMULATING", "start", "-"),
        ("ACCUMULATING", "started", "-"),
        ("ACCUMULATING", "start failed", "-"),
        ("ACCUMULATING", "table done", "ACCUMULATING"),
        ("ACCUMULATING", "snapshot gone", "ACCUMULATING"),
        ("ACCUMULATING", "reheld", "-"),
        ("ACCUMULATING", "reload", "ACCUMULATING"),
        ("ACCUMULATING", "marked", "-"),
        ("ACCUMULATING", "load done", "ACCUMULATING"),
        ("ACCUMULATING", "complete", "-"),
        ("ACCUMULATING", "complete!", "STREAMING"),
        ("ACCUMULATING", "abort", "WAITING"),
        ("ACCUMULATING", "abort!", "WAITING"),
        ("ACCUMULATING", "slot lost", "WAITING"),
        ("STREAMING", "start", "-"),
        ("STREAMING", "started", "-"),
        ("STREAMING", "start failed", "-"),
        ("STREAMING", "table done", "-"),
        ("STREAMING", "snapshot gone", "-"),
        ("STREAMING", "reheld", "-"),
        ("STREAMING", "reload", "STREAMING"),
        ("STREAMING", "marked", "-"),
        ("STREAMING", "load done", "-"),
        ("STREAMING", "complete", "-"),
        ("STREAMING", "complete!", "-"),
        ("STREAMING", "abort", "-"),
        ("STREAMING", "abort!", "WAITING"),
        ("STREAMING", "slot lost", "WAITING"),
    ];
    let mut seen = Vec::new();
    for phase in [waiting(), accumulating(), streaming()] {
        for (name, command) in commands() {
            let state = phase.state().to_string();
            let outcome = match on(&phase, command, &facts()) {
                Ok(transition) => transition.next.state().to_string(),
                Err(refusal) => {
                    assert!(refusal.text.contains(&state), "{name} in {state}: {refusal}");
                    assert_eq!(refusal.code, RefusalCode::FailedPrecondition);
                    "-".to_owned()
                }
            };
            seen.push((state, name, outcome));
        }
    }
    let seen: Vec<_> = seen.iter().map(|(a, b, c)| (a.as_str(), *b, c.as_str())).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_start_counts_the_epochs() {
    let Transition { next, effects } = on(&waiting(), Command::Start(request()), &facts()).unwrap();
    assert_eq!(effects, [Effect::MakeSlot { epoch: Epoch(3), request: request() }]);
    assert_eq!(next, Phase::Waiting(Waiting { last_epoch: 2, last_error: None }));
    let redis_knows = Facts { checkpoint_epoch: 7, ..facts() };
    let start = on(&waiting(), Command::Start(request()), &redis_knows).unwrap();
    assert_eq!(start.effects, [Effect::MakeSlot { epoch: Epoch(8), request: request() }]);
    let reused = Load { epoch: Epoch(2), ..a_load(LoadMode::Direct) };
    let refusal = on(&waiting(), Command::Started(Box::new(reused)), &facts()).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Internal);
}

#[test]
fn a_left_over_slot_refuses_the_start_with_both_remedies() {
    let facts = Facts { slot_exists: true, ..facts() };
    let refusal = on(&waiting(), Command::Start(request()), &facts).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::FailedPrecondition);
    for part in [
        "WAITING",
        "replication slot \"kasho_slot\" already exists",
        "pg_drop_replication_slot('kasho_slot')",
        "kasho reset",
    ] {
        assert!(refusal.text.contains(part), "{refusal}");
    }
    let discard = StartRequest { discard: true, ..request() };
    let done = on(&waiting(), Command::Start(discard.clone()), &facts).unwrap();
    assert_eq!(
        done.effects,
        [
            Effect::DropSlot { terminate: false },
            Effect::MakeSlot { epoch: Epoch(3), request: discard }
        ]
    );
    assert!(on(&waiting(), Command::Abort { force: false }, &facts).is_err());
    let done = on(&waiting(), Command::Abort { force: true }, &facts).unwrap();
    assert_eq!(done.effects, [Effect::DropSlot { terminate: true }]);
}

#[test]
fn one_start_at_a_time_and_it_can_be_cancelled() {
    let facts = Facts { starting: true, slot_exists: true, ..facts() };
    let refusal = on(&waiting(), Command::Start(request()), &facts).unwrap_err();
    assert!(refusal.text.contains("under way"), "{refusal}");
    let done = on(&waiting(), Command::Abort { force: false }, &facts).unwrap();
    assert_eq!(done.effects, [Effect::CancelStart]);
}

#[test]
fn contradicting_requests_are_refused() {
    let half = StartRequest { snapshot_name: Some("x".into()), ..request() };
    let blind = StartRequest { start_lsn: Some(Lsn(1)), ..request() };
    for request in [half, blind] {
        let refusal = on(&waiting(), Command::Start(request), &facts()).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::InvalidArgument);
    }
}

#[test]
fn an_early_complete_names_the_rows_loaded_so_far() {
    let refusal = on(&accumulating(), Command::Complete { force: false }, &facts()).unwrap_err();
    assert!(refusal.text.contains("12 rows of 0 of 2 tables"), "{refusal}");
    let no_data = Facts { no_initial_data: true, ..facts() };
    let done = on(&accumulating(), Command::Complete { force: false }, &no_data).unwrap();
    let Phase::Streaming(streaming) = done.next else { panic!("not streaming") };
    assert!(!streaming.incomplete);
    let done = on(&accumulating(), Command::Complete { force: true }, &facts()).unwrap();
    assert!(done.effects.contains(&Effect::StopLoad));
    assert!(done.effects.contains(&Effect::ReleaseHolder));
    let Phase::Streaming(streaming) = done.next else { panic!("not streaming") };
    assert!(streaming.incomplete);
}

#[test]
fn a_loader_of_a_dump_finishes_the_load_by_what_it_stored() {
    let external = Phase::Accumulating(a_load(LoadMode::External));
    let refusal = on(&external, Command::Complete { force: false }, &facts()).unwrap_err();
    assert!(refusal.text.contains("has not finished, 12 rows so far"), "{refusal}");
    for loader_partial in [false, true] {
        let facts = Facts { loader_done: true, loader_partial, ..facts() };
        let done = on(&external, Command::Complete { force: false }, &facts).unwrap();
        assert!(done.effects.contains(&Effect::ReleaseHolder));
        let Phase::Streaming(streaming) = done.next else { panic!("not streaming") };
        assert_eq!(streaming.incomplete, loader_partial);
    }
}

#[test]
fn a_finished_load_completes_with_its_load_points() {
    let done = on(&loaded(), Command::Complete { force: false }, &facts()).unwrap();
    let load_points: BTreeMap<_, _> = [("public.u".to_owned(), Lsn(200))].into();
    assert_eq!(
        done.effects,
        [Effect::WriteEnd {
            start_lsn: Lsn(100),
            load_points: load_points.clone(),
            called: [].into(),
            after: None,
            whole: true
        }]
    );
    let expected = Streaming {
        epoch: Epoch(3),
        slot: "kasho_slot".into(),
        start_lsn: Lsn(100),
        load_points,
        rows: 12,
        accumulated_changes: 5,
        incomplete: false,
        tables: vec!["public.t".into(), "public.u".into()],
        stale: vec![],
        later: vec![],
        renamed: None,
        renames: Vec::new(),
        called: [].into(),
        attempts: 1,
        reload: None,
        passed: None,
    };
    assert_eq!(done.next, Phase::Streaming(expected));
}

#[test]
fn the_holder_is_released_once_with_the_last_table() {
    let phase = on(&accumulating(), Command::TableDone { oid: 1, attempt: 1, rows: 7 }, &facts())
        .unwrap()
        .next;
    let done = on(&phase, Command::LoadDone, &holding(&phase, &[])).unwrap();
    assert_eq!(done.effects, [Effect::ReleaseHolder, Effect::LoadedAnew]);
    let Phase::Accumulating(load) = &done.next else { panic!("not accumulating") };
    assert!(load.loaded && load.tables[0].done && load.tables[0].rows == 7);
    assert_eq!(on(&done.next, Command::LoadDone, &facts()).unwrap().effects, []);
}

#[test]
fn nothing_to_load_is_loaded_at_once() {
    for load in [a_load(LoadMode::None), Load { tables: vec![], ..a_load(LoadMode::Direct) }] {
        let done = on(&waiting(), Command::Started(Box::new(load)), &facts()).unwrap();
        let ends = [Effect::ReleaseHolder, Effect::LoadedAnew];
        assert_eq!(done.effects[..2], [Effect::AdoptHolder, Effect::OpenStream]);
        assert_eq!(done.effects[2..], ends);
        let Phase::Accumulating(load) = done.next else { panic!("not accumulating") };
        assert!(load.loaded);
    }
}

#[test]
fn an_abort_stops_what_runs_before_it_drops_the_slot() {
    let done = on(&accumulating(), Command::Abort { force: false }, &facts()).unwrap();
    assert_eq!(
        done.effects,
        [
            Effect::StopLoad,
            Effect::ReleaseHolder,
            Effect::CloseStream,
            Effect::DropSlot { terminate: true },
            Effect::EndEpoch(Epoch(3))
        ]
    );
    assert_eq!(done.next, Phase::Waiting(Waiting { last_epoch: 3, last_error: None }));
}

#[test]
fn the_loss_of_a_slot_drops_none_that_is_whole() {
    let lost = || Command::SlotLost { error: "it is gone".into() };
    for phase in [accumulating(), loaded(), streaming()] {
        let done = on(&phase, lost(), &Facts { slot_exists: true, ..facts() }).unwrap();
        assert!(done.effects.contains(&Effect::DropLostSlot), "{:?}", done.effects);
        let drops = done.effects.iter().any(|effect| matches!(effect, Effect::DropSlot { .. }));
        assert!(!drops, "{:?}", done.effects);
    }
}

#[test]
fn stored_phases_come_back() {
    for phase in [Phase::default(), waiting(), accumulating(), loaded(), streaming()] {
        let text = store(&phase);
        assert_eq!(load(&text).unwrap(), phase, "{text}");
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["version"], 1);
        assert_eq!(json["state"], phase.state().to_string());
        assert_eq!(
            json.get("epoch").and_then(serde_json::Value::as_u64),
            phase.epoch().map(|e| e.0)
        );
    }
    let newer = store(&waiting()).replace("\"version\":1", "\"version\":3");
    assert!(matches!(load(&newer), Err(StoreError::Version { found: 3 })));
    for damaged in ["", "{}", "{\"version\":1}", "{\"version\":1,\"state\":\"X\"}", "kasho"] {
        assert!(matches!(load(damaged), Err(StoreError::Malformed(_))), "{damaged}");
    }
}

#[test]
fn at_start_the_server_is_right() {
    let lost = SlotFact::Lost("wal_removed".into());
    let foreign = SlotFact::Foreign("of database \"other\"".into());
    let cases = [
        (waiting(), SlotFact::Absent, State::Waiting, ""),
        (waiting(), SlotFact::Usable, State::Waiting, "already exists"),
        (waiting(), lost.clone(), State::Waiting, "already exists"),
        (waiting(), foreign.clone(), State::Waiting, "of database \"other\""),
        (accumulating(), SlotFact::Absent, State::Waiting, "is gone although"),
        (accumulating(), SlotFact::Usable, State::Accumulating, ""),
        (accumulating(), lost.clone(), State::Waiting, "wal_removed"),
        (accumulating(), foreign.clone(), State::Waiting, "not ours"),
        (streaming(), SlotFact::Absent, State::Waiting, "state was STREAMING"),
        (streaming(), SlotFact::Usable, State::Streaming, ""),
        (streaming(), lost, State::Waiting, "a new bootstrap is needed"),
        (streaming(), foreign, State::Waiting, "state was STREAMING"),
    ];
    for (stored, slot, state, part) in cases {
        let next = reconcile(stored.clone(), "kasho_slot", &slot);
        assert_eq!(next.phase.state(), state, "{stored:?} {slot:?}");
        assert_eq!(next.phase.last_epoch(), stored.last_epoch());
        match next.warning {
            None => assert!(part.is_empty() && next.phase == stored),
            Some(text) => assert!(!part.is_empty() && text.contains(part), "{text}"),
        }
    }
    let renamed = reconcile(streaming(), "other_slot", &SlotFact::Usable);
    assert_eq!(renamed.phase.state(), State::Waiting);
}

/// Redis holds every table of the load whole, 7 rows each, but for these oids.
fn holding(phase: &Phase, but: &[u32]) -> Facts {
    let tables = phase.open_load().map(|load| load.tables.clone()).unwrap_or_default();
    let whole = tables.iter().filter(|table| !but.contains(&table.oid));
    let whole = whole.map(|table| ((table.oid, table.attempt), 7)).collect();
    Facts { whole, marked: Some(Lsn(400)), ..facts() }
}

/// The phase after a command that is accepted, and its effects.
fn step(phase: &Phase, command: Command) -> (Phase, Vec<Effect>) {
    let Transition { next, effects } = on(phase, command, &holding(phase, &[])).unwrap();
    // Whatever is stored comes back.
    assert_eq!(super::load(&store(&next)).unwrap(), next);
    (next, effects)
}

fn reload(tables: &[&str]) -> Command {
    let tables = tables.iter().map(|table| (*table).to_owned()).collect();
    Command::Reload { tables, nonce: "word".into(), planned: [].into() }
}

fn found(lsn: u64) -> Command {
    let mut load = a_load(LoadMode::Direct);
    load.snapshots = vec![Snapshot { name: "later".into(), lsn: Lsn(lsn), by: None }];
    load.tables.iter_mut().for_each(|table| table.snapshot = 0);
    load.holder = Some(format!("holder {lsn}"));
    Command::Reheld(Box::new(load))
}

#[test]
fn what_stands_in_the_place_of_our_phase() {
    let later = Phase::Waiting(Waiting { last_epoch: 4, last_error: None });
    let (gone, other) = (Phase::default(), waiting());
    let judged = [
        (streaming(), Some(accumulating()), Found::Earlier),
        (accumulating(), Some(loaded()), Found::Earlier),
        (streaming(), None, Found::Lost),
        (streaming(), Some(gone), Found::Lost),
        (accumulating(), Some(other), Found::Lost),
        (streaming(), Some(later.clone()), Found::Theirs),
        (waiting(), Some(streaming()), Found::Theirs),
        (later.clone(), Some(streaming()), Found::Idle),
        (later, None, Found::Idle),
    ];
    for (ours, stored, expected) in judged {
        assert_eq!(super::found(&ours, stored.as_ref()), expected, "{ours:?} {stored:?}");
    }
}
