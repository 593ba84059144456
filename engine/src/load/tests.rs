//! Stored progress, and how a load begins again where an earlier attempt had published.

use super::*;
use crate::batch::Letter;
use crate::bootstrap::{LoadMode, Snapshot, TableLoad};
use crate::position::{Epoch, Position};
use crate::sink::config::{Config, Encoding};
use crate::sink::entry::{Content, Entry};
use crate::sink::id::{Id, Lane};
use crate::sink::memory::{Fault, MemoryServer, MemoryStore, Step};
use crate::sink::publisher::{Description, NewEpoch, WriterToken, begin_epoch};
use crate::sink::status::Status;
use crate::sink::store::{Connect, Feed};
use crate::source::snapshot::RangeProgress;
use kasho_plugin_sdk::Op;

#[test]
fn progress_is_ours_or_refused() {
    let stored = |field: &str, value: &str| HashMap::from([(field.into(), value.into())]);
    let key = RangeKey { oid: 16384, attempt: 1, range: 2 };
    let done = RangeProgress { rows: 7, done: true };
    assert_eq!(progress(&stored("16384:1:2", "7.")), Ok([(key, done)].into()));
    assert_eq!(progress(&stored("section:300", "12")), Ok(Progress::new()));
    for (field, value) in [("offset", "7"), ("16384:1:2", "half"), ("16384:2", "7")] {
        assert_eq!(progress(&stored(field, value)), Err(ProgressError(field.into())));
    }
}

fn table(oid: u32, attempt: u32, done: bool) -> TableLoad {
    TableLoad {
        oid,
        relation: oid,
        table: format!("public.t{oid}"),
        published_as: format!("public.t{oid}"),
        snapshot: usize::from(attempt > 1),
        ranges: 2,
        attempt,
        done,
        rows: 0,
        rows_estimated: 10,
        bytes_estimated: 8192,
        shape: "s".into(),
        definition: String::new(),
        gone: false,
    }
}

/// Table 1 stays, table 2 had published rows, table 3 none, table 4 is half done as it is.
fn a_load() -> Load {
    let snapshot = |lsn| Snapshot { name: format!("s{lsn}"), lsn: Lsn(lsn), by: None };
    Load {
        epoch: Epoch(1),
        slot: "s".into(),
        start_lsn: Lsn(100),
        mode: LoadMode::Direct,
        snapshots: vec![snapshot(100), snapshot(200)],
        holder: Some("holder".into()),
        range_blocks: 8,
        tables: vec![table(1, 1, true), table(2, 2, false), table(3, 2, false), table(4, 1, false)],
        loaded: false,
        published: vec![],
        again: vec![],
        planned: None,
        later: vec![],
        renamed: None,
        renames: Vec::new(),
        called: [].into(),
    }
}

fn letter(table: &str) -> Letter {
    Letter {
        position: Position::Bootstrap(1),
        op: Op::Read,
        oid: 1,
        table: format!("public.{table}"),
        binding: String::new(),
        plugin: String::new(),
        sha256: String::new(),
        index: None,
        reason: String::new(),
        key: Vec::new(),
        again: None,
    }
}

async fn open(server: &MemoryServer, token: u64) -> (LoadWriter<MemoryStore>, Progress) {
    let (store, config) = (server.connect().await.unwrap(), Config::default());
    let token = WriterToken(token);
    let opened = LoadWriter::open(store, &config, Epoch(1), "e", token, Status::default()).await;
    let (writer, resumed) = opened.unwrap();
    (writer, progress(&resumed.progress).unwrap())
}

#[tokio::test(start_paused = true)]
async fn readers_are_told_once_to_empty_what_an_earlier_attempt_has_published() {
    for fault in [Fault::None, Fault::Cut, Fault::LoseReply, Fault::Oom] {
        let server = MemoryServer::default();
        let new = NewEpoch {
            encoding: Encoding::Msgpack,
            load_rows: 500,
            slot: "s",
            system_id: "1",
            timeline: 1,
            start_lsn: Lsn(100),
            description: Description {
                options: String::new(),
                chain: String::new(),
                key_fingerprint: String::new(),
            },
            generation: 1,
            state: None,
            catalog: None,
        };
        begin_epoch(&mut server.connect().await.unwrap(), &new).await.unwrap();
        let (mut writer, none) = open(&server, 1).await;
        assert!(none.is_empty());
        let before = ["1:1:0", "1:1:1", "2:1:0", "2:1:1", "3:1:0", "4:1:1"];
        let rows = ["5.", "5.", "5.", "2", "0.", "3."];
        let fields = before.into_iter().zip(rows);
        let fields = fields.map(|(field, rows)| (field.to_owned(), Some(rows.to_owned())));
        let letters = vec![letter("t1"), letter("t2")];
        let mut batch = Batch::default();
        batch.aside.letters = letters;
        writer.append(&batch, 1, fields.collect()).await.unwrap();
        let mut faults = Some(fault);
        server.plan(move |step| match step {
            Step::Load(1) => faults.take().unwrap_or(Fault::None),
            _ => Fault::None,
        });
        let (mut writer, mut progress) = open(&server, 2).await;
        let begun = begin_again(&a_load(), &str::to_owned, &mut progress, &mut writer).await;
        assert_eq!(begun.is_err(), matches!(fault, Fault::Cut | Fault::LoseReply), "{begun:?}");
        // Whatever came of it, another try leaves the same.
        let (mut writer, mut progress) = open(&server, 3).await;
        begin_again(&a_load(), &str::to_owned, &mut progress, &mut writer).await.unwrap();
        let left: Vec<String> = progress.keys().map(ToString::to_string).collect();
        assert_eq!(left, ["1:1:0", "1:1:1", "4:1:1"], "{fault:?}");
        assert_eq!(open(&server, 4).await.1, progress, "as stored");
        let mut store = server.connect().await.unwrap();
        let page = store.page(Epoch(1), Lane::Bootstrap, Id::ZERO, 10).await.unwrap();
        let entries: Vec<Entry> =
            page.entries.iter().map(|raw| Entry::decode(raw, Lane::Bootstrap).unwrap()).collect();
        assert_eq!(entries.len(), 1, "{fault:?}");
        // Rows that come again may come to be set aside again.
        let letters = crate::sink::dead::list(&mut store).await.unwrap();
        let letters: Vec<_> = letters.iter().map(|letter| letter.table.as_str()).collect();
        assert_eq!(letters, ["public.t1"], "{fault:?}");
        assert_eq!(entries[0].table, "public.t2");
        assert_eq!(entries[0].content, Content::Restart { attempt: 2, load_lsn: Lsn(200) });
    }
}

#[test]
fn a_table_whose_ranges_are_all_published_is_finished_although_nobody_noted_it() {
    let mut load = a_load();
    let stored = ["4:1:0", "4:1:1", "2:1:0", "2:1:1"].map(|field| (field.into(), "5.".into()));
    let from = progress(&HashMap::from(stored)).unwrap();
    let done = settle(&mut load, &from);
    assert_eq!(done, [TableDone { oid: 4, attempt: 1, rows: 10 }], "not table 2: another attempt");
    assert!(load.tables[3].done && !load.tables[1].done);
    assert_eq!(settle(&mut load, &from), []);
}
