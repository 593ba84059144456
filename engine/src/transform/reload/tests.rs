//! Candidates on files that change: what is taken, what is refused, and that no cut of a file
//! unmasks.

use super::super::coverage::TableCoverage;
use super::super::testing::{Guest, Setup, catalog, host, insert, push, said, shown, table, users};
use super::super::{Chains, Report, Run};
use super::*;
use std::sync::Mutex;

use crate::pipeline::Chains as _;
use crate::position::Position;

fn masks(fake: &str) -> Guest {
    let sides = [kasho_plugin_sdk::batch::Image::New];
    Guest::new(&[("email", "mask"), ("id", "pass")]).masks(fake, &sides)
}

struct World {
    setup: Setup,
    config: Arc<Mutex<Result<Config, String>>>,
    handle: Arc<Handle>,
}

impl World {
    fn new() -> World {
        World::of(Setup::new(&masks("one")))
    }

    fn of(setup: Setup) -> World {
        let config = Arc::new(Mutex::new(Ok(setup.config.clone())));
        let generation = setup.load(&catalog(&[&users()])).unwrap();
        World { setup, config, handle: Handle::sampling(generation, 8) }
    }

    fn sources(&self) -> Sources {
        let config = Arc::clone(&self.config);
        Sources {
            folders: vec![self.setup.folder.path().to_owned()],
            poll: Duration::from_secs(3600),
            config: Box::new(move || config.lock().unwrap().clone()),
            fresh: Box::new(|| false),
            catalog: Box::new(|| catalog(&[&users()])),
            keep: Box::new(|_| Ok(Box::new(()))),
        }
    }

    fn reloader(&self) -> Reloader {
        Reloader {
            handle: Arc::clone(&self.handle),
            host: host(),
            sources: self.sources(),
            seen: None,
            pending: None,
        }
    }

    fn refused(&self) -> String {
        let report = self.handle.report().borrow().clone();
        report.refused.map(|refused| said(&refused.reasons)).unwrap_or_default()
    }
}

/// Looks until nothing more is to be looked at soon; how often.
fn settle(reloader: &mut Reloader) -> usize {
    (1..).find(|_| !reloader.consider()).unwrap()
}

#[test]
fn content_counts_once_it_has_settled() {
    let world = World::new();
    let mut reloader = world.reloader();
    assert_eq!(settle(&mut reloader), 2);
    assert_eq!(world.handle.newest().number(), 1, "the same content is no new generation");
    assert_eq!(settle(&mut reloader), 1);
    world.setup.write("mask.wasm", &masks("two").wasm());
    assert!(reloader.consider());
    world.setup.write("mask.wasm", &masks("three").wasm());
    assert!(reloader.consider(), "it is still being written");
    assert_eq!(world.handle.newest().number(), 1);
    assert!(!reloader.consider());
    assert_eq!(world.handle.newest().number(), 2);
}

#[test]
fn what_settles_is_compiled_already_and_run_only_if_it_stays() {
    let world = World::new();
    let store = world.setup.folder.path().join("store");
    let mut reloader = world.reloader();
    settle(&mut reloader);
    reloader.host = Host::new(Some(&store)).unwrap();
    let codes = || {
        let files = std::fs::read_dir(&store).unwrap().flatten();
        files.filter(|file| file.path().extension().is_some_and(|e| e == "code")).count()
    };
    assert_eq!(codes(), 0);
    for (at, fake) in [(1, "two"), (2, "three")] {
        world.setup.write("mask.wasm", &masks(fake).wasm());
        assert!(reloader.consider());
        assert_eq!((codes(), world.handle.newest().number()), (at, 1));
    }
    // What is no plugin is not told of before it has stayed.
    world.setup.write("mask.wasm", b"half a file");
    assert!(reloader.consider());
    assert_eq!((codes(), world.refused().as_str()), (2, ""));
    world.setup.write("mask.wasm", &masks("three").wasm());
    settle(&mut reloader);
    assert_eq!((codes(), world.handle.newest().number()), (2, 2));
    let mut chain = super::super::Chain::new(world.handle.newest());
    let mut batch = insert("a");
    chain.apply(&mut batch).unwrap();
    assert!(shown(&batch)[0].contains("three"));
}

#[test]
fn what_settles_is_left_alone_for_all_of_its_time() {
    let (wake, woken) = channel();
    let wait = 2 * DEBOUNCE;
    let gathered = |settles| {
        let begun = Instant::now();
        (gather(&woken, wait, settles), begun.elapsed() >= wait)
    };
    assert_eq!(gathered(false), (Some(Wake::Look), true), "time is up");
    for (told, want) in [(&[Wake::Look][..], Wake::Look), (&[Wake::Again, Wake::Look], Wake::Again)]
    {
        told.iter().for_each(|one| wake.send(*one).unwrap());
        assert_eq!(gathered(true), (Some(want), true));
        told.iter().for_each(|one| wake.send(*one).unwrap());
        assert_eq!(gather(&woken, Duration::from_secs(3600), false), Some(want), "at once");
    }
    // Events without end are not waited for.
    (0..10 * PATIENCE).for_each(|_| wake.send(Wake::Look).unwrap());
    assert_eq!(gather(&woken, Duration::ZERO, true), Some(Wake::Look));
    wake.send(Wake::Stop).unwrap();
    assert_eq!(gather(&woken, Duration::from_secs(3600), true), None);
    drop(wake);
    assert_eq!(gather(&woken, Duration::from_secs(3600), false), None);
}

#[test]
fn a_bad_candidate_changes_nothing_and_is_told_once() {
    let world = World::new();
    let mut reloader = world.reloader();
    settle(&mut reloader);
    let wasm = masks("two").wasm();
    world.setup.write("mask.wasm", &wasm[..wasm.len() / 2]);
    settle(&mut reloader);
    assert!(world.refused().contains("not a valid module"));
    assert_eq!(world.handle.newest().number(), 1);
    std::fs::remove_file(world.setup.folder.path().join("mask.wasm")).unwrap();
    settle(&mut reloader);
    assert!(world.refused().contains("No such file"));
    *world.config.lock().unwrap() = Err("line 3: unclosed string".to_owned());
    settle(&mut reloader);
    assert_eq!(world.refused(), "configuration: line 3: unclosed string");
    *world.config.lock().unwrap() = Ok(Config::default());
    settle(&mut reloader);
    assert!(world.refused().contains("without saying so"));
    assert_eq!(world.handle.newest().number(), 1);
    *world.config.lock().unwrap() = Ok(world.setup.config.clone());
    world.setup.write("mask.wasm", &wasm);
    settle(&mut reloader);
    assert_eq!(world.handle.newest().number(), 2);
    assert_eq!(world.refused(), "");
}

#[tokio::test]
async fn a_transaction_passes_through_one_generation() {
    let world = World::new();
    let mut chains = Chains::new(&world.handle);
    assert_eq!(chains.adopt(), 1);
    let email = |batch: &crate::batch::Batch| shown(batch)[0].clone();
    let batch = chains.apply(insert("a")).await.unwrap();
    assert!(email(&batch).contains("one"));
    world.setup.write("mask.wasm", &masks("two").wasm());
    settle(&mut world.reloader());
    let batch = chains.apply(insert("a")).await.unwrap();
    assert!(email(&batch).contains("one"), "until it is adopted");
    assert_eq!(chains.adopt(), 2);
    let batch = chains.apply(insert("a")).await.unwrap();
    assert!(email(&batch).contains("two"));
}

#[tokio::test]
async fn a_changed_file_is_noticed_and_so_is_a_poke() {
    let world = World::new();
    let watch = watch(&world.handle, &host(), world.sources()).unwrap();
    assert!(watch._events.is_some(), "no inotify: see fs.inotify.max_user_instances");
    let mut report = world.handle.report();
    let file = world.setup.folder.path().join("new");
    std::fs::write(&file, masks("two").wasm()).unwrap();
    std::fs::rename(&file, world.setup.folder.path().join("mask.wasm")).unwrap();
    until(&mut report, 2).await;
    let mut other = world.setup.config.clone();
    other.unruled_tables = Some(super::super::Unruled::Drop);
    *world.config.lock().unwrap() = Ok(other);
    watch.poke();
    until(&mut report, 3).await;
}

/// Far less than the poll, far more than a look takes.
async fn until(report: &mut tokio::sync::watch::Receiver<Report>, generation: u64) {
    let newer = report.wait_for(|report| report.generation == generation);
    tokio::time::timeout(Duration::from_secs(300), newer).await.expect("a look").unwrap();
}

#[tokio::test]
async fn a_load_that_begins_again_need_not_wait_for_the_next_poll() {
    let world = World::new();
    let watch = watch(&world.handle, &host(), world.sources()).unwrap();
    let looked = async || {
        let look = async {
            while !world.handle.has_looked() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Far less than the poll, far more than a look takes.
        tokio::time::timeout(Duration::from_secs(300), look).await.expect("a look");
    };
    looked().await;
    for _ in 0..2 {
        world.handle.may_move(BTreeSet::from(["public.users".to_owned()]));
        assert!(!world.handle.has_looked());
        watch.poker().look();
        looked().await;
        world.handle.settle_moves();
    }
}

#[test]
fn a_key_changed_in_place_is_noticed_and_refused_for_the_epoch() {
    let mut world = World::new();
    let file = world.setup.folder.path().join("key");
    std::fs::write(&file, "11".repeat(16) + &"22".repeat(16)).unwrap();
    let source = crate::transform::KeySource::File(file.clone());
    world.setup.config.keys.insert("k1".to_owned(), source);
    *world.config.lock().unwrap() = Ok(world.setup.config.clone());
    let mut reloader = world.reloader();
    settle(&mut reloader);
    assert_eq!((world.refused().as_str(), world.handle.newest().number()), ("", 2));
    std::fs::write(&file, "33".repeat(16) + &"44".repeat(16)).unwrap();
    assert_eq!(settle(&mut reloader), 2, "noticed without any other change");
    let text = world.refused();
    assert!(text.contains("key `k1` is not the one") && text.contains("kasho reset"), "{text}");
    assert!(!text.contains("3333"), "{text}");
    assert_eq!(world.handle.newest().number(), 2, "what runs goes on");
    let (running, keys) = (world.handle.newest(), world.handle.newest().key_checks());
    let fresh = Options {
        running: Some(running.coverage()),
        keys: Some(&keys),
        fresh: true,
        ..Options::default()
    };
    candidate(&host(), &world.setup.config, &catalog(&[&users()]), fresh).unwrap();
    std::fs::remove_file(&file).unwrap();
    settle(&mut reloader);
    assert!(world.refused().contains("cannot read"), "{}", world.refused());
    std::fs::write(&file, "11".repeat(16) + &"22".repeat(16)).unwrap();
    settle(&mut reloader);
    assert_eq!((world.refused().as_str(), world.handle.newest().number()), ("", 2));
}

#[test]
fn a_generation_that_cannot_be_kept_waits_and_is_tried_again() {
    let world = World::new();
    let full = Arc::new(Mutex::new(true));
    let asked = Arc::clone(&full);
    let mut reloader = world.reloader();
    settle(&mut reloader);
    reloader.sources.keep = Box::new(move |_| match *asked.lock().unwrap() {
        true => Err("Redis does not answer".to_owned()),
        false => Ok(Box::new(())),
    });
    world.setup.write("mask.wasm", &masks("two").wasm());
    settle(&mut reloader);
    assert!(world.refused().contains("it waits: Redis does not answer"));
    assert_eq!(world.handle.newest().number(), 1);
    *full.lock().unwrap() = false;
    settle(&mut reloader);
    assert_eq!((world.refused().as_str(), world.handle.newest().number()), ("", 2));
}

/// What is held until a candidate is in force: notes which generation is, when it is dropped.
struct Holds(Arc<Handle>, Arc<Mutex<u64>>);

impl Drop for Holds {
    fn drop(&mut self) {
        *self.1.lock().unwrap() = self.0.newest().number();
    }
}

#[test]
fn what_rows_show_while_a_candidate_is_made_is_kept_with_it() {
    let mut setup = Setup::new(&masks("one"));
    setup.binding().tables = vec!["public.*".to_owned()];
    let world = World::of(setup);
    let mut reloader = world.reloader();
    settle(&mut reloader);
    let (shows, holds) = (Arc::clone(&world.handle), Arc::clone(&world.handle));
    reloader.sources.catalog = Box::new(move || {
        let mut batch = super::super::testing::transaction();
        let later = table(9, "later", &["id!", "email"]);
        push(&mut batch, &later, kasho_plugin_sdk::Op::Insert, &["1", "a@b"], &[]);
        super::super::Chain::new(shows.newest()).apply(&mut batch).unwrap();
        catalog(&[&users()])
    });
    let (kept, released) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(0)));
    let (keeps, releases) = (Arc::clone(&kept), Arc::clone(&released));
    reloader.sources.keep = Box::new(move |generation| {
        *keeps.lock().unwrap() = Some(generation.covered());
        Ok(Box::new(Holds(Arc::clone(&holds), Arc::clone(&releases))))
    });
    world.setup.write("mask.wasm", &masks("two").wasm());
    settle(&mut reloader);
    assert_eq!((world.refused().as_str(), world.handle.newest().number()), ("", 2));
    let kept = kept.lock().unwrap().take().unwrap();
    let column = kept.column("public.later", "email").expect("the table that came meanwhile");
    assert_eq!(column.action, super::super::Action::Mask);
    assert_eq!(*released.lock().unwrap(), 2, "held until the candidate is in force");
}

#[test]
fn a_confirmed_candidate_is_taken() {
    let world = World::new();
    let mut reloader = world.reloader();
    settle(&mut reloader);
    let open = Guest::new(&[("email", "pass"), ("id", "pass")]);
    world.setup.write("mask.wasm", &open.names("public.users", &["email"]).wasm());
    let mut config = world.setup.config.clone();
    config.unruled_tables = Some(super::super::Unruled::Halt);
    *world.config.lock().unwrap() = Ok(config.clone());
    settle(&mut reloader);
    let text = world.refused();
    assert!(text.contains("this candidate alone with accept = "), "{text}");
    config.accept = text.rsplit('"').nth(1).map(str::to_owned);
    *world.config.lock().unwrap() = Ok(config);
    settle(&mut reloader);
    assert_eq!(world.handle.newest().number(), 2);
    assert!(world.handle.newest().warnings()[0].contains("it leaves from now on"));
}

/// A folder as the demo's is, and its tables.
struct Demo {
    world: World,
    tables: Vec<Arc<kasho_plugin_sdk::Relation>>,
    text: &'static str,
}

impl Demo {
    fn new() -> Demo {
        let setup = super::super::real::setup("");
        let key = setup.folder.path().join("masking_key");
        std::fs::copy(setup.folder.path().join("key"), key).unwrap();
        let tables = [
            ("organisations", &["id!", "name", "country", "created_at"][..]),
            (
                "users",
                &["id!", "organisation_id", "full_name", "email", "phone", "notes", "last_login"],
            ),
            ("subscriptions", &["id!", "organisation_id", "plan", "seats", "started_on"]),
            ("invoices", &["id!", "subscription_id", "amount", "paid", "issued_at"]),
            ("login_log", &["id!", "user_id", "address", "at"]),
        ];
        let tables = (17_000..).zip(tables);
        let tables = tables.map(|(id, (name, columns))| table(id, name, columns)).collect();
        let text = include_str!("../../../../config/demo/kasho.toml");
        let demo = Demo { world: World::of(setup), tables, text };
        let config = demo.parsed(demo.text).unwrap();
        let mut reloader = demo.reloader();
        *demo.world.config.lock().unwrap() = Ok(config);
        settle(&mut reloader);
        assert_eq!(demo.world.refused(), "");
        demo
    }

    /// A file's text, read as the service reads it.
    fn parsed(&self, text: &str) -> Result<Config, String> {
        let path = self.world.setup.folder.path().join("kasho.toml");
        // A cut that has lost a server's address too is held against the rules none the less.
        let env = |name: &str| match name {
            "DEMO_GRPC_PORT" => Some("1".to_owned()),
            "DEMO_POSTGRES" | "DEMO_TARGET" | "DEMO_REDIS" | "PRIMARY_DATABASE_URL" | "KV_URL" => {
                Some("redis://x".to_owned())
            }
            _ => None,
        };
        let config = crate::config::Config::parse(text, &path, &env);
        let mut config = config.map_err(|errors| errors.to_string())?.chain();
        self.world.setup.folder.path().clone_into(&mut config.plugins.folder);
        Ok(config)
    }

    fn reloader(&self) -> Reloader {
        let mut reloader = self.world.reloader();
        let tables = self.tables.clone();
        reloader.sources.catalog = Box::new(move || catalog(&tables.iter().collect::<Vec<_>>()));
        reloader
    }

    /// Nothing of a person leaves by what is in force.
    fn masks(&self, what: &str) {
        let secrets = ["Ada Lovelace", "ada@secret.example", "+1 555 0100"];
        let mut chain = super::super::Chain::new(self.world.handle.newest());
        let mut batch = super::super::testing::transaction();
        let [name, email, phone] = secrets;
        let user = ["1", "2", name, email, phone, "NULL", "NULL"];
        let login = ["1", "1", "10.0.0.1", "NULL"];
        push(&mut batch, &self.tables[1], kasho_plugin_sdk::Op::Insert, &user, &[]);
        push(&mut batch, &self.tables[4], kasho_plugin_sdk::Op::Insert, &login, &[]);
        // Whoever halts lets nothing out either.
        if chain.apply(&mut batch).is_ok() {
            let left = shown(&batch).concat();
            assert!(!secrets.iter().any(|s| left.contains(s)), "{what}: {left}");
            assert!(!left.contains("login_log"), "{what}: {left}");
        }
    }
}

#[test]
fn no_cut_of_the_demos_configuration_unmasks() {
    let demo = Demo::new();
    demo.masks("whole");
    let (running, lines) = (demo.world.handle.newest(), demo.text.lines().collect::<Vec<_>>());
    let (mut parsed, mut reloader) = (0, demo.reloader());
    for n in (0..=lines.len()).rev() {
        let config = demo.parsed(&lines[..n].join("\n"));
        parsed += usize::from(config.is_ok());
        *demo.world.config.lock().unwrap() = config;
        settle(&mut reloader);
        demo.masks(&format!("cut after line {n}"));
    }
    assert!(parsed > 15, "{parsed} cuts are configurations");
    let newest = demo.world.handle.newest();
    assert_eq!(newest.digest(), running.digest(), "{}", demo.world.refused());
    assert!(demo.world.refused().contains("public.users"), "{}", demo.world.refused());
}

#[test]
fn a_candidate_that_fails_on_recent_rows_is_refused_unless_it_is_accepted() {
    let world = World::new();
    let mut reloader = world.reloader();
    settle(&mut reloader);
    world.handle.samples().take(&insert("ada@secret"));
    world.setup.write("mask.wasm", &masks("two").body("unreachable").wasm());
    settle(&mut reloader);
    let text = world.refused();
    assert!(text.contains("1 recent rows") && !text.contains("secret"), "{text}");
    assert_eq!(world.handle.newest().number(), 1);
    let refused = world.handle.report().borrow().refused.clone().unwrap();
    let digest = refused.candidate.unwrap();
    assert!(text.contains(&digest), "{text}");
    world.handle.accept(&digest);
    reloader.seen = None;
    settle(&mut reloader);
    assert_eq!((world.refused().as_str(), world.handle.newest().number()), ("", 2));
    let warnings = world.handle.newest().warnings().concat();
    assert!(warnings.contains("1 recent rows"), "{warnings}");
}

#[test]
fn what_a_file_accepts_it_accepts_as_long_as_it_says_so() {
    let world = World::new();
    let mut reloader = world.reloader();
    let accepts = |digest: &str| world.handle.report().borrow().accepts(digest);
    for (says, one, two) in
        [(Some("one"), true, false), (Some("two"), false, true), (None, false, false)]
    {
        world.config.lock().unwrap().as_mut().unwrap().accept = says.map(str::to_owned);
        settle(&mut reloader);
        assert_eq!((accepts("one"), accepts("two")), (one, two));
    }
    world.handle.accept("one");
    assert!(accepts("one"));
}

#[test]
fn what_rows_showed_to_be_lost_is_forgotten_where_a_new_epoch_loads_it() {
    let world = World::new();
    let lost = || world.handle.newest().covered().tables.values().any(|table| table.lossy);
    let running = world.handle.newest();
    let (name, table) = running.coverage().tables.iter().next().unwrap();
    let seen = (name.clone(), TableCoverage { lossy: true, ..table.clone() });
    running.seen.note(running.digest(), Position::Bootstrap(1), seen, None);
    assert!(lost());
    settle(&mut world.reloader());
    assert!(lost() && world.handle.newest().number() == 1, "rows that were lost stay lost");
    let mut reloader = world.reloader();
    reloader.sources.fresh = Box::new(|| true);
    settle(&mut reloader);
    let newest = world.handle.newest();
    assert_eq!((newest.number(), newest.digest()), (2, running.digest()));
    assert!(!lost());
}

#[test]
fn what_is_known_of_rows_is_forgotten_where_the_same_rules_have_loaded_their_table() {
    let world = World::new();
    let mut reloader = world.reloader();
    let mapped = |fake: &str| {
        let mut guest = masks(fake);
        guest.wanted["ok"]["columns"][0]["as"] = fake.into();
        guest.wasm()
    };
    world.setup.write("mask.wasm", &mapped("two"));
    settle(&mut reloader);
    let running = world.handle.newest();
    let table = running.coverage().tables["public.users"].clone();
    let seen = ("public.users".to_owned(), TableCoverage { lossy: true, ..table });
    running.seen.note(running.digest(), Position::Bootstrap(1), seen, None);
    let knows = || {
        let newest = world.handle.newest();
        let older = newest.warnings().iter().any(|told| told.contains("rows that left before"));
        let lossy = newest.covered().tables.values().any(|table| table.lossy);
        assert_eq!(older, lossy);
        (newest.number(), lossy)
    };
    assert_eq!(knows(), (2, true));
    let loaded = |by: &Run, tables: &[u32]| {
        let anything = world.handle.loaded_by(by, &tables.iter().copied().collect());
        let mut reloader = world.reloader();
        settle(&mut reloader);
        anything
    };
    let now = running.run();
    assert!(!loaded(&Run::new(), &[7]) && !loaded(now, &[8]));
    assert_eq!(knows(), (2, true));
    assert!(loaded(now, &[7]));
    assert_eq!(knows(), (3, false));
    let newest = world.handle.newest();
    assert_eq!((newest.digest(), newest.run()), (running.digest(), now));
    assert!(!loaded(now, &[7]), "there is nothing more to forget");
    assert_eq!(knows(), (3, false));
    // What was loaded by one generation is not by the next.
    world.setup.write("mask.wasm", &mapped("three"));
    settle(&mut reloader);
    let older = || world.handle.newest().warnings().concat().contains("rows that left before");
    assert!(older() && !loaded(now, &[7]) && older());
    // Nor by what is the same again, but was not in force meanwhile.
    world.setup.write("mask.wasm", &mapped("two"));
    settle(&mut reloader);
    assert_eq!(world.handle.newest().digest(), running.digest());
    assert!(older() && !loaded(now, &[7]) && older());
    assert!(loaded(world.handle.newest().run(), &[7]) && !older());
}

#[test]
fn a_table_that_loses_rows_lacks_them_however_it_was_loaded() {
    let mut setup = Setup::new(&masks("one"));
    let binding = setup.binding();
    (binding.on_error, binding.allow_misses) = (super::super::OnError::Drop, true);
    let world = World::of(setup);
    let running = world.handle.newest();
    let lossy = || {
        let covered = world.handle.newest().covered();
        covered
            .tables
            .values()
            .filter(|table| table.lossy)
            .map(|table| table.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(lossy(), [7]);
    // As rows have shown it, and beside another one that is loaded by rules that lose none.
    let table = TableCoverage { lossy: true, ..running.coverage().tables["public.users"].clone() };
    let other = TableCoverage { id: 8, loses: false, ..table.clone() };
    for (name, table) in [("public.users", table), ("public.other", other)] {
        running.seen.note(running.digest(), Position::Bootstrap(1), (name.to_owned(), table), None);
    }
    assert_eq!(lossy(), [8, 7]);
    assert!(world.handle.loaded_by(running.run(), &[7, 8].into()));
    settle(&mut world.reloader());
    assert_eq!(world.refused(), "");
    assert_eq!((lossy(), world.handle.newest().number()), (vec![7], 2));
    // Nor does a look that finds the same make one generation after the other.
    let mut reloader = world.reloader();
    reloader.sources.fresh = Box::new(|| true);
    settle(&mut reloader);
    assert_eq!((lossy(), world.handle.newest().number()), (vec![7], 2));
    assert!(!world.handle.loaded_by(running.run(), &[7, 8].into()));
}

#[test]
fn nothing_is_taken_for_an_epoch_that_begins_meanwhile_as_if_it_had_no_rows() {
    let world = World::new();
    let mut reloader = world.reloader();
    settle(&mut reloader);
    let looks = std::sync::atomic::AtomicU32::new(0);
    // The first question of each look is before, the second one behind it.
    reloader.sources.fresh =
        Box::new(move || looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0);
    let other = Guest::new(&[("email", "mask"), ("id", "mask")]);
    world.setup.write("mask.wasm", &other.wasm());
    settle(&mut reloader);
    assert_eq!((world.handle.newest().number(), world.refused().as_str()), (1, ""));
    settle(&mut reloader);
    assert!(world.refused().contains("it says where rows are"), "{}", world.refused());
}
