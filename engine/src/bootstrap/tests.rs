//! Every pair of state and command, and what a start-up makes of every slot.

use super::*;

fn a_load(mode: LoadMode) -> Load {
    let table = |oid, name: &str, snapshot| TableLoad {
        oid,
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
            Snapshot { name: "a".into(), lsn: Lsn(100) },
            Snapshot { name: "b".into(), lsn: Lsn(200) },
        ],
        holder: Some("kasho snapshot".into()),
        range_blocks: 8192,
        tables: vec![table(1, "public.t", 0), table(2, "public.u", 1)],
        loaded: false,
        published: vec!["public.t".into(), "public.u".into()],
        again: vec![],
        planned: [].into(),
        later: vec![],
        renamed: None,
        renames: Vec::new(),
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
        attempts: 1,
        reload: None,
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
        attempts: 1,
        reload: None,
    };
    assert_eq!(done.next, Phase::Streaming(expected));
}

#[test]
fn the_holder_is_released_once_with_the_last_table() {
    let phase = on(&accumulating(), Command::TableDone { oid: 1, attempt: 1, rows: 7 }, &facts())
        .unwrap()
        .next;
    let done = on(&phase, Command::LoadDone, &holding(&phase, &[])).unwrap();
    assert_eq!(done.effects, [Effect::ReleaseHolder]);
    let Phase::Accumulating(load) = &done.next else { panic!("not accumulating") };
    assert!(load.loaded && load.tables[0].done && load.tables[0].rows == 7);
    assert_eq!(on(&done.next, Command::LoadDone, &facts()).unwrap().effects, []);
}

#[test]
fn nothing_to_load_is_loaded_at_once() {
    for load in [a_load(LoadMode::None), Load { tables: vec![], ..a_load(LoadMode::Direct) }] {
        let done = on(&waiting(), Command::Started(Box::new(load)), &facts()).unwrap();
        assert_eq!(done.effects, [Effect::AdoptHolder, Effect::OpenStream, Effect::ReleaseHolder]);
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
    let newer = store(&waiting()).replace("\"version\":1", "\"version\":2");
    assert!(matches!(load(&newer), Err(StoreError::Version { found: 2 })));
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
    load.snapshots = vec![Snapshot { name: "later".into(), lsn: Lsn(lsn) }];
    load.tables.iter_mut().for_each(|table| table.snapshot = 0);
    load.holder = Some(format!("holder {lsn}"));
    Command::Reheld(Box::new(load))
}

#[test]
fn a_holder_that_is_gone_is_replaced_for_the_tables_that_are_not_loaded() {
    let (phase, _) = step(&accumulating(), Command::TableDone { oid: 1, attempt: 1, rows: 7 });
    let (phase, effects) = step(&phase, Command::SnapshotGone);
    assert_eq!(effects, [Effect::StopLoad, Effect::ReleaseHolder, Effect::Rehold]);
    assert!(on(&phase, Command::SnapshotGone, &facts()).is_err(), "once");
    let (phase, effects) = step(&phase, found(500));
    assert_eq!(effects, [Effect::AdoptHolder, Effect::BeginLoad]);
    let Phase::Accumulating(load) = &phase else { panic!("not accumulating") };
    assert_eq!(load.load_points(), [("public.u".to_owned(), Lsn(500))].into());
    assert!(on(&phase, found(600), &facts()).is_err(), "a late answer is not taken");
    // The end of an attempt that was given up says nothing about the one under way.
    let stale = on(&phase, Command::TableDone { oid: 2, attempt: 1, rows: 7 }, &facts());
    assert_eq!(stale.unwrap_err().code, RefusalCode::Internal);
    let (phase, _) = step(&phase, Command::TableDone { oid: 2, attempt: 2, rows: 7 });
    let (phase, effects) = step(&phase, Command::LoadDone);
    assert_eq!(effects, [Effect::ReleaseHolder]);
    assert!(on(&phase, Command::SnapshotGone, &facts()).is_err(), "nothing is left to load");
}

#[test]
fn a_table_asked_for_while_accumulating_is_loaded_again_after_the_others() {
    let (phase, effects) = step(&accumulating(), reload(&["public.t"]));
    assert_eq!(effects, []);
    let (phase, effects) = step(&phase, Command::LoadDone);
    assert_eq!(effects, [Effect::ReleaseHolder, Effect::Rehold]);
    assert!(on(&phase, Command::Complete { force: false }, &facts()).is_err());
    let (phase, _) = step(&phase, found(500));
    let (phase, _) = step(&phase, Command::LoadDone);
    assert_eq!(step(&phase, reload(&["public.t"])).1, [Effect::Rehold], "loaded already");
}

/// The tables of a reload whose keys may still move.
fn unloaded(phase: &Phase) -> Vec<String> {
    match phase {
        Phase::Streaming(Streaming { reload: Some(reload), .. }) => reload.unloaded(),
        _ => panic!("nothing is loaded again"),
    }
}

#[test]
fn a_table_is_loaded_again_while_changes_stream() {
    let (phase, effects) = step(&streaming(), reload(&["public.t", "public.gone"]));
    assert_eq!(effects, [Effect::Mark]);
    assert_eq!(phase.open_load(), None, "nothing is read before the mark is published");
    let refusal = on(&phase, reload(&["public.u"]), &facts()).unwrap_err();
    assert!(refusal.text.contains("public.t"), "{refusal}");
    assert!(on(&phase, found(500), &facts()).is_err(), "no snapshot before the mark");
    let other = Command::Marked { nonce: "other".into() };
    assert!(on(&phase, other, &facts()).is_err());
    // Redis may have lost it since it was seen there.
    let marked = || Command::Marked { nonce: "word".into() };
    let lost = on(&phase, marked(), &facts()).unwrap();
    assert_eq!((&lost.next, lost.effects), (&phase, vec![Effect::Mark]));
    let (phase, effects) = step(&phase, marked());
    assert_eq!(effects, [Effect::Rehold]);
    let (phase, effects) = step(&phase, found(500));
    assert_eq!(effects, [Effect::AdoptHolder, Effect::BeginLoad]);
    let load = phase.open_load().unwrap();
    let tables: Vec<_> = load.tables.iter().map(|t| (t.oid, t.attempt)).collect();
    assert_eq!(tables, [(1, 2)], "only what was asked for, under an attempt of its own");
    let (phase, effects) = step(&phase, Command::SnapshotGone);
    assert_eq!(effects, [Effect::StopLoad, Effect::ReleaseHolder, Effect::Rehold]);
    let (phase, _) = step(&phase, found(600));
    let (aborted, effects) = step(&phase, Command::Abort { force: true });
    assert_eq!(aborted.state(), State::Waiting);
    assert_eq!(effects[..2], [Effect::StopLoad, Effect::ReleaseHolder]);
    assert_eq!(unloaded(&phase), ["public.t", "public.gone"]);
    let (phase, _) = step(&phase, Command::TableDone { oid: 1, attempt: 3, rows: 7 });
    assert_eq!(unloaded(&phase), ["public.gone"]);
    let (phase, effects) = step(&phase, Command::LoadDone);
    let points = ["public.gone", "public.t"].map(|table| (table.to_owned(), Lsn(600)));
    let load_points: BTreeMap<_, _> =
        points.into_iter().chain([("public.u".to_owned(), Lsn(200))]).collect();
    let after = Some(Lsn(400));
    let end = Effect::WriteEnd {
        start_lsn: Lsn(100),
        load_points: load_points.clone(),
        after,
        whole: false,
    };
    assert_eq!(effects, [end, Effect::ReleaseHolder]);
    let Phase::Streaming(streaming) = &phase else { panic!("not streaming") };
    assert_eq!((&streaming.load_points, streaming.attempts), (&load_points, 3));
    assert_eq!(streaming.tables, ["public.t", "public.u"], "of what is gone nothing is loaded");
    assert_eq!(step(&phase, reload(&["public.u"])).1, [Effect::Mark], "the next one");
}

#[test]
fn schema_changes_make_tables_and_make_them_stale() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let command = |made: &[&str], stale: &[&str]| Command::SchemaChanged {
        made: names(made),
        stale: names(stale),
        renamed: vec![],
    };
    let done = on(&streaming(), command(&["public.n"], &["public.t", "x.y"]), &facts()).unwrap();
    let Phase::Streaming(next) = done.next else { panic!("another state") };
    assert_eq!(next.tables, ["public.t", "public.u", "public.n"]);
    // Of what nobody has loaded nothing is stale.
    assert_eq!(next.stale, ["public.t"]);
    assert!(done.effects.is_empty());

    // A table that is made, and rewritten before the engine has heard of either.
    let both = command(&["public.n"], &["public.n"]);
    let done = on(&streaming(), both.clone(), &facts()).unwrap();
    let Phase::Streaming(next) = done.next else { panic!("another state") };
    assert_eq!(next.stale, ["public.n"]);
    let done = on(&accumulating(), both, &facts()).unwrap();
    let Phase::Accumulating(next) = done.next else { panic!("another state") };
    assert_eq!(next.again, ["public.n"]);

    let done = on(&accumulating(), command(&["public.n"], &["public.u"]), &facts()).unwrap();
    let Phase::Accumulating(next) = done.next else { panic!("another state") };
    assert_eq!(next.published, ["public.t", "public.u", "public.n"]);
    assert_eq!(next.again, ["public.u"]);
    assert!(on(&waiting(), command(&["public.n"], &[]), &facts()).is_err());
}

#[test]
fn a_load_is_done_only_once_redis_holds_all_of_it() {
    let (phase, _) = step(&streaming(), reload(&["public.t"]));
    let (phase, _) = step(&phase, Command::Marked { nonce: "word".into() });
    let (reloading, _) = step(&phase, found(500));
    let (told, _) = step(&accumulating(), Command::TableDone { oid: 1, attempt: 1, rows: 7 });
    for phase in [accumulating(), told, reloading] {
        let early = on(&phase, Command::LoadDone, &holding(&phase, &[1])).unwrap();
        assert_eq!(early.effects, [Effect::StopLoad, Effect::BeginLoad]);
        let load = early.next.open_load().unwrap();
        let done: Vec<_> = load.tables.iter().map(|table| (table.oid, table.done)).collect();
        let expected = [(1, false), (2, true)];
        assert_eq!(done, expected[..done.len()], "what Redis has lost is loaded again");
        let (_, effects) = step(&early.next, Command::LoadDone);
        assert!(effects.contains(&Effect::ReleaseHolder), "{effects:?}");
    }
    // What was dropped, and what was given up, is not waited for.
    let Phase::Accumulating(mut load) = accumulating() else { unreachable!() };
    let older = TableLoad { done: true, ..load.tables[0].clone() };
    load.tables.push(TableLoad { gone: true, done: true, ..load.tables[1].clone() });
    load.tables[0].attempt = 2;
    load.tables.push(older);
    load.tables[2].oid = 3;
    let phase = Phase::Accumulating(load);
    let facts = Facts { whole: [((1, 2), 5), ((2, 1), 5)].into(), ..facts() };
    assert_eq!(on(&phase, Command::LoadDone, &facts).unwrap().effects, [Effect::ReleaseHolder]);
}

#[test]
fn no_attempt_that_has_left_progress_is_given_twice() {
    let facts = Facts { attempts: 5, ..holding(&accumulating(), &[]) };
    let (phase, _) = step(&accumulating(), Command::SnapshotGone);
    let next = on(&phase, found(500), &facts).unwrap().next;
    let attempts = |phase: &Phase| -> Vec<u32> {
        phase.open_load().unwrap().tables.iter().map(|table| table.attempt).collect()
    };
    assert_eq!(attempts(&next), [6, 6]);
    let (phase, _) = step(&streaming(), reload(&["public.t"]));
    let (phase, _) = step(&phase, Command::Marked { nonce: "word".into() });
    assert_eq!(attempts(&on(&phase, found(500), &facts).unwrap().next), [6]);
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

#[test]
fn tables_go_with_their_schemas_and_only_once() {
    let renamed = |commit, from: &str, to: &str| Renamed {
        at: (commit, 1),
        from: from.to_owned(),
        to: to.to_owned(),
    };
    let command = |renamed: &[Renamed]| Command::SchemaChanged {
        made: vec![],
        stale: vec!["public.t".to_owned()],
        renamed: renamed.to_vec(),
    };
    let swap =
        [renamed(700, "public", "x"), renamed(701, "blue", "public"), renamed(702, "x", "blue")];
    let mut phase = streaming();
    for told in [&swap[..2], &swap[1..], &swap[..]] {
        phase = on(&phase, command(told), &facts()).unwrap().next;
    }
    let Phase::Streaming(next) = phase else { panic!("another state") };
    assert_eq!(next.tables, ["blue.t", "blue.u"]);
    assert_eq!(next.renamed, Some((702, 1)));
    let done = on(&accumulating(), command(&swap), &facts()).unwrap();
    let Phase::Accumulating(next) = done.next else { panic!("another state") };
    assert_eq!(next.published, ["blue.t", "blue.u"]);
}

/// Whoever began before a rename comes under the name of before, however late.
#[test]
fn renames_are_remembered_while_transactions_may_come_that_began_before_them() {
    let renamed = |commit, ordinal| Renamed {
        at: (commit, ordinal),
        from: "public".to_owned(),
        to: "other".to_owned(),
    };
    let kept = |phase: &Phase, restart_lsn, renamed: &[Renamed]| {
        let renamed = renamed.to_vec();
        let command = Command::SchemaChanged { made: vec![], stale: vec![], renamed };
        on(phase, command, &Facts { restart_lsn: Lsn(restart_lsn), ..facts() }).unwrap().next
    };
    for phase in [streaming(), accumulating()] {
        let phase = kept(&phase, 600, &[renamed(700, 2), renamed(701, 1)]);
        // Told again, in another order, and by a slot that has moved.
        let phase = kept(&phase, 600, &[renamed(700, 1), renamed(700, 2)]);
        assert_eq!(phase.renames(), [renamed(700, 1), renamed(700, 2), renamed(701, 1)]);
        let again = load(&store(&phase)).unwrap();
        assert_eq!(again.renames(), phase.renames());
        let phase = kept(&again, 700, &[]);
        assert_eq!(phase.renames(), [renamed(701, 1)]);
        assert!(kept(&phase, 701, &[]).renames().is_empty());
    }
    let Phase::Accumulating(mut load) = loaded() else { panic!("another state") };
    load.renames.push(renamed(700, 1));
    let complete = Command::Complete { force: false };
    let done = on(&Phase::Accumulating(load), complete, &facts()).unwrap();
    assert_eq!(done.next.renames(), [renamed(700, 1)]);
}

/// Nobody of ours can load it again before the bootstrap is complete.
#[test]
fn what_somebody_else_loads_and_the_source_makes_anew_is_stale_then() {
    let load = a_load(LoadMode::External);
    let stale = vec!["public.t".to_owned()];
    let command = Command::SchemaChanged { made: vec![], stale, renamed: vec![] };
    let phase = on(&Phase::Accumulating(load), command, &facts()).unwrap().next;
    let (phase, effects) = step(&phase, Command::LoadDone);
    assert!(!effects.contains(&Effect::Rehold), "{effects:?}");
    let (complete, facts) = (Command::Complete { force: false }, facts());
    let done = on(&phase, complete, &facts).unwrap();
    let Phase::Streaming(streaming) = done.next else { panic!("another state") };
    assert_eq!(streaming.stale, ["public.t"]);
}

/// Its locks end with its holder, and whoever has read a table to its end does not notice.
#[test]
fn what_is_made_anew_behind_the_snapshot_of_a_load_is_stale_after_it() {
    let stale = || Command::SchemaChanged {
        made: vec![],
        stale: vec!["public.t".to_owned()],
        renamed: vec![],
    };
    let loaded = |phase: &Phase| {
        let (phase, _) = step(phase, Command::LoadDone);
        let Phase::Streaming(streaming) = phase else { panic!("another state") };
        assert!(streaming.reload.is_none());
        streaming.stale
    };
    let (phase, _) = step(&streaming(), stale());
    let (phase, _) = step(&phase, reload(&["public.t"]));
    let (phase, _) = step(&phase, Command::Marked { nonce: "word".into() });
    let (before, _) = step(&phase, stale());
    let (before, _) = step(&before, found(500));
    assert!(loaded(&before).is_empty());
    let (phase, _) = step(&before, stale());
    assert_eq!(loaded(&phase), ["public.t"]);
    // A later snapshot has it.
    let (phase, _) = step(&phase, Command::SnapshotGone);
    let (phase, _) = step(&phase, found(600));
    assert!(loaded(&phase).is_empty());
}

/// The table of `a_load` with this oid, defined so.
fn defined(oid: u32, definition: &str, name: &str) -> TableLoad {
    let Phase::Accumulating(load) = accumulating() else { unreachable!() };
    let table = load.tables.into_iter().find(|table| table.oid == oid).unwrap();
    TableLoad { definition: definition.into(), published_as: name.into(), snapshot: 0, ..table }
}

/// A holder has found these tables.
fn found_so(lsn: u64, tables: Vec<TableLoad>) -> Command {
    let Command::Reheld(load) = found(lsn) else { unreachable!() };
    Command::Reheld(Box::new(Load { tables, ..*load }))
}

fn planned(oid: u32, definition: &str, name: &str) -> Command {
    let planned = [(name.to_owned(), [(oid, definition.to_owned())].into())].into();
    Command::Reload { tables: vec![name.to_owned()], nonce: "word".into(), planned }
}

/// The load points that the end of a load tells, and its tables that are put off.
fn ended(phase: &Phase) -> (Phase, BTreeMap<String, Lsn>, Vec<String>) {
    let facts = holding(phase, &[]);
    let done = on(phase, Command::LoadDone, &facts).unwrap();
    let Phase::Streaming(next) = &done.next else { panic!("another state") };
    let Effect::WriteEnd { load_points, .. } = &done.effects[0] else { panic!("no end") };
    assert_eq!(&next.load_points, load_points);
    let later = next.later.clone();
    (done.next.clone(), load_points.clone(), later)
}

#[test]
fn a_table_that_is_altered_behind_its_mark_is_loaded_at_another_one() {
    let begin = |phase: &Phase, command, found| {
        let marked = Command::Marked { nonce: "word".into() };
        let (phase, _) = step(&step(phase, command).0, marked);
        step(&phase, found).0
    };
    let phase = begin(
        &streaming(),
        planned(1, "x", "public.t"),
        found_so(500, vec![defined(1, "y", "public.t")]),
    );
    let open = phase.open_load().unwrap();
    assert!(open.tables.is_empty(), "no row of it is read: {:?}", open.tables);
    let (phase, points, later) = ended(&phase);
    let unknown = ("public.t".to_owned(), LATER);
    assert_eq!(points, [unknown.clone(), ("public.u".to_owned(), Lsn(200))].into());
    assert_eq!(later, ["public.t"]);
    // While another table is loaded it stays put off.
    let other = begin(
        &phase,
        planned(2, "x", "public.u"),
        found_so(600, vec![defined(2, "x", "public.u")]),
    );
    let (phase, points, later) = ended(&done_with(&other, 2));
    assert_eq!(points, [unknown, ("public.u".to_owned(), Lsn(600))].into());
    assert_eq!(later, ["public.t"]);
    // It gets another name behind the next mark: then nobody has rows by that one.
    let renamed = begin(
        &phase,
        planned(1, "y", "public.t"),
        found_so(700, vec![defined(1, "z", "public.named")]),
    );
    let (phase, points, later) = ended(&renamed);
    assert_eq!(points["public.named"], LATER);
    assert_eq!(points["public.t"], Lsn(700), "what comes by that name is another one's");
    assert_eq!(later, ["public.named"]);
    let last = begin(
        &phase,
        planned(1, "z", "public.named"),
        found_so(800, vec![defined(1, "z", "public.named")]),
    );
    let (_, points, later) = ended(&done_with(&last, 1));
    assert_eq!(points["public.named"], Lsn(800));
    assert!(later.is_empty());
}

/// Its parts are all loaded.
fn done_with(phase: &Phase, oid: u32) -> Phase {
    let load = phase.open_load().unwrap();
    let attempt = load.tables.iter().find(|table| table.oid == oid).unwrap().attempt;
    step(phase, Command::TableDone { oid, attempt, rows: 7 }).0
}

#[test]
fn a_table_altered_before_it_was_locked_is_put_off_from_the_start() {
    let mut load = a_load(LoadMode::Direct);
    let tables = [(1, "x", "public.t"), (2, "x", "public.u")];
    load.tables = tables.map(|(oid, definition, name)| defined(oid, definition, name)).into();
    let plan = |oid, definition: &str| [(oid, definition.to_owned())].into();
    load.planned =
        [("public.t".to_owned(), plan(1, "x")), ("public.u".to_owned(), plan(2, "y"))].into();
    let begun = on(&Phase::default(), Command::Started(Box::new(load)), &facts()).unwrap();
    let Phase::Accumulating(load) = begun.next else { panic!("another state") };
    assert_eq!(load.tables.iter().map(|table| table.oid).collect::<Vec<_>>(), [1]);
    assert_eq!(load.load_points(), [("public.u".to_owned(), LATER)].into());
    // Readers hear of it with the end, and the engine remembers.
    let done = load_done(load).next;
    let complete = on(&done, Command::Complete { force: false }, &facts()).unwrap();
    let Phase::Streaming(next) = complete.next else { panic!("another state") };
    assert_eq!(next.later, ["public.u"]);
    assert_eq!(next.load_points["public.u"], LATER);
}

#[test]
fn the_end_says_whether_all_there_was_is_loaded() {
    let whole = |phase: &Phase, force, facts: &Facts| {
        let done = on(phase, Command::Complete { force }, facts).unwrap();
        let [Effect::WriteEnd { whole, .. }, ..] = done.effects[..] else { panic!("no end") };
        whole
    };
    assert!(whole(&loaded(), false, &facts()));
    let empty = Load { tables: vec![], ..a_load(LoadMode::Direct) };
    let begun = on(&Phase::default(), Command::Started(Box::new(empty)), &facts()).unwrap().next;
    assert!(whole(&begun, false, &facts()), "there was nothing");
    assert!(!whole(&accumulating(), true, &facts()), "it had not finished");
    let none = Load { tables: vec![], ..a_load(LoadMode::None) };
    let begun = on(&Phase::default(), Command::Started(Box::new(none)), &facts()).unwrap().next;
    assert!(!whole(&begun, false, &facts()), "nobody has loaded");
    let external = Phase::Accumulating(Load { tables: vec![], ..a_load(LoadMode::External) });
    let done = Facts { loader_done: true, ..facts() };
    assert!(whole(&external, false, &done));
    assert!(!whole(&external, false, &Facts { loader_partial: true, ..done }));
}
