//! What schema changes mean for the tables.

use super::*;

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
fn tables_go_with_their_schemas_and_only_once() {
    let renamed = |commit, from: &str, to: &str| Renamed {
        at: (commit, 1),
        from: from.to_owned(),
        to: to.to_owned(),
        table: false,
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
        table: false,
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

fn table_renamed(at: (u64, u64), from: &str, to: &str) -> Renamed {
    Renamed { at, from: from.to_owned(), to: to.to_owned(), table: true }
}

fn told(phase: &Phase, renamed: &[Renamed]) -> Phase {
    let renamed = renamed.to_vec();
    let command = Command::SchemaChanged { made: vec![], stale: vec![], renamed };
    on(phase, command, &facts()).unwrap().next
}

#[test]
fn tables_keep_what_they_are_under_other_names_and_are_not_swapped_twice() {
    let swap = [
        table_renamed((700, 1), "public.t", "public.x"),
        table_renamed((700, 2), "public.u", "public.t"),
        table_renamed((700, 3), "public.x", "public.u"),
        table_renamed((701, 1), "public.u", "b.\"W\""),
    ];
    let Phase::Streaming(mut before) = streaming() else { panic!("another state") };
    before.stale.push("public.t".into());
    let mut phase = Phase::Streaming(before);
    for renamed in [&swap[..2], &swap[..3], &swap[1..], &swap[..]] {
        phase = told(&phase, renamed);
    }
    assert!(phase.renames().is_empty(), "nobody comes behind it who has begun before");
    let Phase::Streaming(next) = phase else { panic!("another state") };
    assert_eq!(next.tables, ["b.\"W\"", "public.t"]);
    assert_eq!(next.stale, ["b.\"W\""]);
    let Phase::Accumulating(next) = told(&accumulating(), &swap) else { panic!("another state") };
    assert_eq!(next.published, ["b.\"W\"", "public.t"]);
    assert!(next.later.is_empty());
}

/// A reader that has not come to the rename means another table by that name, which must not be
/// skipped.
#[test]
fn a_table_that_is_put_off_is_known_by_its_next_name_from_there_on() {
    let mut load = a_load(LoadMode::Direct);
    load.later = vec!["public.t".into()];
    load.loaded = true;
    let chain = [
        table_renamed((700, 1), "public.x", "public.y"),
        table_renamed((700, 2), "public.t", "public.x"),
    ];
    let phase = told(&told(&Phase::Accumulating(load), &chain), &chain);
    let again = super::load(&store(&phase)).unwrap();
    let done = on(&again, Command::Complete { force: false }, &facts()).unwrap();
    let Phase::Streaming(next) = &done.next else { panic!("another state") };
    assert_eq!(next.later, ["public.t", "public.x"]);
    let Effect::WriteEnd { load_points, called, .. } = &done.effects[0] else { panic!("no end") };
    assert_eq!((load_points["public.t"], load_points["public.x"]), (LATER, LATER));
    assert_eq!(called, &[("public.x".to_owned(), (700, 2))].into());
    // Another table is loaded, and what is put off stays so, and known from there on.
    let (phase, _) = step(&done.next, reload(&["public.u"]));
    let (phase, _) = step(&phase, Command::Marked { nonce: "word".into() });
    let (phase, _) = step(&phase, found(800));
    let phase = told(&phase, &[table_renamed((900, 1), "public.x", "public.z")]);
    let done = on(&phase, Command::LoadDone, &holding(&phase, &[])).unwrap();
    let Effect::WriteEnd { load_points, called, .. } = &done.effects[0] else { panic!("no end") };
    assert_eq!(load_points["public.z"], LATER);
    let places = [("public.x".to_owned(), (700, 2)), ("public.z".to_owned(), (900, 1))];
    assert_eq!(called, &places.into());
}

/// A later snapshot knows it by that name, and readers who have not come so far do not.
#[test]
fn a_name_that_was_only_told_of_is_none_of_what_is_gone() {
    let (phase, _) = step(&accumulating(), Command::SnapshotGone);
    let Phase::Accumulating(mut load) = phase else { panic!("another state") };
    load.later = vec!["public.w".into()];
    let renamed = [table_renamed((700, 1), "public.w", "public.x")];
    let phase = told(&Phase::Accumulating(load), &renamed);
    let (phase, _) = step(&phase, found(800));
    let Phase::Accumulating(load) = phase else { panic!("another state") };
    assert_eq!(load.later, ["public.w"]);
    assert!(load.called.is_empty());
}

/// Whoever keeps the locks may be gone, and a schema has none.
#[test]
fn what_is_loaded_again_and_renamed_behind_its_snapshot_is_loaded_under_that_name() {
    let Phase::Streaming(mut before) = streaming() else { panic!("another state") };
    before.stale.push("public.t".into());
    let (phase, _) = step(&Phase::Streaming(before), reload(&["public.t"]));
    let (phase, _) = step(&phase, Command::Marked { nonce: "word".into() });
    let (phase, _) = step(&phase, found(500));
    let phase = told(&phase, &[table_renamed((600, 1), "public.t", "public.x")]);
    let stale = Command::SchemaChanged {
        made: vec![],
        stale: vec!["public.x".to_owned()],
        renamed: vec![],
    };
    let anew = on(&phase, stale, &facts()).unwrap().next;
    for (phase, stale) in [(phase, &[][..]), (anew, &["public.x".to_owned()][..])] {
        let done = on(&phase, Command::LoadDone, &holding(&phase, &[])).unwrap();
        let Phase::Streaming(next) = &done.next else { panic!("another state") };
        assert_eq!(next.tables, ["public.x", "public.u"]);
        assert_eq!(next.stale, stale);
        assert_eq!(next.load_points["public.t"], Lsn(500), "as readers at the mark know it");
    }
}
