//! Loads that go on, tables that are loaded again, and those that are put off.

use super::*;
use crate::transform::Run;

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
    assert_eq!(effects, [Effect::ReleaseHolder, Effect::LoadedAnew]);
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
        called: [].into(),
        after,
        whole: false,
    };
    assert_eq!(effects, [end, Effect::ReleaseHolder, Effect::LoadedAnew]);
    let Phase::Streaming(streaming) = &phase else { panic!("not streaming") };
    assert_eq!((&streaming.load_points, streaming.attempts), (&load_points, 3));
    assert_eq!(streaming.tables, ["public.t", "public.u"], "of what is gone nothing is loaded");
    assert_eq!(step(&phase, reload(&["public.u"])).1, [Effect::Mark], "the next one");
}

/// The same facts, while this run is in force.
fn under(run: &Run, facts: Facts) -> Facts {
    Facts { run: Some(run.clone()), ..facts }
}

#[test]
fn tables_are_passed_by_what_was_in_force_from_their_snapshot_to_their_end() {
    let (one, two) = (Run::new(), Run::new());
    let go = |phase: &Phase, command, run: &Run| {
        let next = on(phase, command, &under(run, holding(phase, &[]))).unwrap().next;
        // Another process may go on.
        assert_eq!(super::super::load(&store(&next)).unwrap(), next);
        next
    };
    let marked = |phase: &Phase| {
        let (phase, _) = step(phase, reload(&["public.t", "public.gone"]));
        step(&phase, Command::Marked { nonce: "word".into() }).0
    };
    let done =
        |phase: &Phase, attempt| step(phase, Command::TableDone { oid: 1, attempt, rows: 7 }).0;
    let end = |phase: &Phase, run: &Run| {
        let ended = on(phase, Command::LoadDone, &under(run, holding(phase, &[]))).unwrap();
        assert!(ended.effects.contains(&Effect::LoadedAnew));
        ended.next.passed(run).into_iter().collect::<Vec<u32>>()
    };
    // Told with the snapshot, whatever is in force where the news of it come.
    let loading = go(&marked(&streaming()), found(500), &one);
    assert_eq!(end(&done(&loading, 2), &one), [1], "of what is gone nothing is loaded");
    assert!(end(&done(&loading, 2), &two).is_empty(), "rows have passed two of them");
    // A later snapshot: what was not finished begins again, and what was keeps its rows.
    let lost = |phase: &Phase| step(phase, Command::SnapshotGone).0;
    let again = go(&lost(&loading), found(600), &two);
    assert_eq!((end(&done(&again, 3), &two), end(&done(&again, 3), &one)), (vec![1], vec![]));
    let kept = go(&lost(&done(&loading, 2)), found(600), &two);
    assert_eq!((end(&kept, &two), end(&kept, &one)), (vec![], vec![1]));
}

#[test]
fn the_tables_of_a_bootstrap_are_passed_too_and_stay_so() {
    let (one, two) = (Run::new(), Run::new());
    let started = Command::Started(Box::new(a_load(LoadMode::Direct)));
    let begun = on(&Phase::default(), started, &under(&one, facts())).unwrap().next;
    let (first, _) = step(&begun, Command::TableDone { oid: 1, attempt: 1, rows: 7 });
    // Of the second table a later snapshot is read, by others.
    let (lost, _) = step(&first, Command::SnapshotGone);
    let later = on(&lost, found(500), &under(&two, holding(&lost, &[]))).unwrap().next;
    let (second, _) = step(&later, Command::TableDone { oid: 2, attempt: 2, rows: 7 });
    let (loaded, effects) = step(&second, Command::LoadDone);
    assert!(effects.contains(&Effect::LoadedAnew));
    assert_eq!((loaded.passed(&one), loaded.passed(&two)), ([1].into(), [2].into()));
    assert!(second.passed(&one).is_empty(), "not before all is loaded");
    let complete = Command::Complete { force: false };
    let streaming = on(&loaded, complete, &under(&two, facts())).unwrap().next;
    assert_eq!((streaming.passed(&one), streaming.passed(&two)), ([].into(), [2].into()));
    // Another table is loaded again by the same ones.
    let (phase, _) = step(&streaming, reload(&["public.t"]));
    let (phase, _) = step(&phase, Command::Marked { nonce: "word".into() });
    let phase = on(&phase, found(900), &under(&two, holding(&phase, &[]))).unwrap().next;
    let attempt = phase.open_load().unwrap().tables[0].attempt;
    let (phase, _) = step(&phase, Command::TableDone { oid: 1, attempt, rows: 7 });
    let ended = on(&phase, Command::LoadDone, &under(&two, holding(&phase, &[]))).unwrap().next;
    assert_eq!(ended.passed(&two), [1, 2].into());
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
    let ended = on(&phase, Command::LoadDone, &facts).unwrap();
    assert_eq!(ended.effects, [Effect::ReleaseHolder, Effect::LoadedAnew]);
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
    let names =
        [("public.t", plan(1, "x")), ("public.u", plan(2, "y")), ("public.w", plan(3, "z"))];
    load.planned = Some(names.map(|(name, plan)| (name.to_owned(), plan)).into());
    let begun = on(&Phase::default(), Command::Started(Box::new(load)), &facts()).unwrap();
    let Phase::Accumulating(load) = begun.next else { panic!("another state") };
    assert_eq!(load.tables.iter().map(|table| table.oid).collect::<Vec<_>>(), [1]);
    // One that was dropped, or has another name: changes of its rows are about nothing.
    let off = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), LATER)).collect();
    assert_eq!(load.load_points(), off(&["public.u", "public.w"]));
    // So it stays when another holder takes over, and one of them is dropped meanwhile.
    let lost = step(&Phase::Accumulating(load.clone()), Command::SnapshotGone).0;
    let (found, _) = step(&lost, found_so(900, vec![defined(1, "x", "public.t")]));
    let Phase::Accumulating(again) = found else { panic!("another state") };
    let points = again.load_points();
    assert_eq!((points["public.u"], points["public.w"]), (LATER, LATER));
    assert!(!store(&waiting()).contains("\"version\":2"));
    assert!(store(&Phase::Accumulating(again)).contains("\"version\":2"), "no older program");
    // Readers hear of it with the end, and the engine remembers.
    let done = load_done(load).next;
    let complete = on(&done, Command::Complete { force: false }, &facts()).unwrap();
    let Phase::Streaming(next) = complete.next else { panic!("another state") };
    assert_eq!(next.later, ["public.u", "public.w"]);
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
    let none = on(&Phase::default(), Command::Started(Box::new(none)), &facts()).unwrap().next;
    assert!(!whole(&none, false, &facts()), "nobody has loaded");
    let external = Phase::Accumulating(Load { tables: vec![], ..a_load(LoadMode::External) });
    let done = Facts { loader_done: true, ..facts() };
    assert!(!whole(&external, false, &done), "a dump need not have had all of it");
    let given = Facts { no_initial_data: true, ..facts() };
    assert!(!whole(&begun, false, &given), "the targets have it already");
}
