//! The WAL source on a real server: what it reads, what it tells the server, how it
//! connects, and what it says when something is wrong.

mod connecting;
mod contract;
mod duties;
mod preparing;
mod reading;
mod refusing;

use std::time::Duration;

use kasho::ack::{Durable, Lag, Ledger};
use kasho::batch::{Batch, Cell, Image, Row};
use kasho::position::{Lsn, Position};
use kasho::source::conninfo::Conninfo;
use kasho::source::wal::{KnownRelations, Options, WalSource};
use kasho::source::{Received, Source, SourceError};

use crate::harness::{PATIENCE, Postgres, eventually};

/// Slot and publication of these tests.
const SLOT: &str = "wal_test";

/// Options without heartbeat, so that nothing comes but what a test makes.
pub(crate) fn options() -> Options {
    Options {
        slot: SLOT.to_owned(),
        publications: vec!["p".to_owned()],
        messages: vec!["app".to_owned()],
        heartbeat: Duration::ZERO,
        ..Options::default()
    }
}

/// Runs `schema`, then makes a publication of all tables and the slot.
pub(crate) async fn prepare(server: &Postgres, schema: &str) {
    server.sql(schema).await;
    server.sql("CREATE PUBLICATION p FOR ALL TABLES").await;
    make_slot(server).await;
}

pub(crate) async fn make_slot(server: &Postgres) {
    let make = format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')");
    server.value(&make).await;
}

fn info(server: &Postgres) -> Conninfo {
    Conninfo::parse(&server.url()).unwrap()
}

async fn open_with(server: &Postgres, options: &Options) -> WalSource {
    let known = KnownRelations::default();
    WalSource::open(options, &info(server), Lsn::ZERO, &known).await.unwrap()
}

pub(crate) async fn open(server: &Postgres) -> WalSource {
    open_with(server, &options()).await
}

/// Opens as soon as the server let go of the slot.
async fn reopen(server: &Postgres, options: &Options, known: &KnownRelations) -> WalSource {
    let info = info(server);
    let opened = eventually("a free slot", async || {
        match WalSource::open(options, &info, Lsn::ZERO, known).await {
            Ok(source) => Some(source),
            Err(SourceError::SlotBusy { .. }) => None,
            Err(other) => panic!("{other}"),
        }
    });
    opened.await
}

/// `next`, with an end to patience.
async fn next<S: Source>(source: &mut S) -> Result<Received, S::Error> {
    let received = tokio::time::timeout(PATIENCE, source.next()).await;
    received.expect("the source says nothing")
}

/// What the engine would hold after it made everything up to `lsn` durable.
fn durable(lsn: Lsn) -> Durable {
    let mut ledger = Ledger::new(Lsn::ZERO, Lag { ms: 0, bytes: 0 });
    ledger.published(lsn);
    ledger.flushed(0);
    ledger.ripe(0);
    ledger.confirmed(lsn)
}

/// The next `count` rows, described.
pub(crate) async fn rows(source: &mut WalSource, count: usize) -> Vec<String> {
    let mut described = Vec::new();
    while described.len() < count {
        if let Received::Batch(batch) = next(source).await.unwrap() {
            described.extend(batch.rows.iter().map(|row| describe(&batch, row)));
        }
    }
    assert_eq!(described.len(), count, "{described:#?}");
    described
}

/// The error that ends the source, after any rows.
async fn error(source: &mut WalSource) -> SourceError {
    loop {
        match next(source).await {
            Err(error) => return error,
            Ok(Received::Closed) => panic!("closed instead of an error"),
            Ok(_) => {}
        }
    }
}

/// `ordinal op table old -> new`, `~` for NULL, `^` for unchanged, `-` for absent.
fn describe(batch: &Batch, row: &Row) -> String {
    let Position::Wal { ordinal, .. } = row.position else { panic!("{:?}", row.position) };
    let image = |image: Option<Image>| image.map_or(String::new(), |i| cells(batch, i));
    let table = batch.relation_of(row).qualified();
    let (old, new) = (image(row.old), image(row.new));
    format!("{ordinal} {} {table} {old} -> {new}", row.op.name()).trim_end().to_owned()
}

fn cells(batch: &Batch, image: Image) -> String {
    let cell = |cell: &Cell| match (cell, batch.text(*cell)) {
        (_, Some(text)) if text.len() > 60 => format!("[{}]", text.len()),
        (_, Some(text)) => String::from_utf8(text.to_vec()).unwrap(),
        (Cell::Null, None) => "~".to_owned(),
        (Cell::Unchanged, None) => "^".to_owned(),
        (_, None) => "-".to_owned(),
    };
    let cells: Vec<String> = batch.cells(image).iter().map(cell).collect();
    format!("({})", cells.join(","))
}

/// Reads for ever, acknowledges everything at once, and says how it ended.
async fn consume(mut source: WalSource) -> Result<(), SourceError> {
    loop {
        match source.next().await? {
            Received::Batch(batch) => {
                if let Some(end) = batch.pieces.iter().rev().find_map(|piece| piece.end_lsn) {
                    source.acknowledge(durable(end));
                }
            }
            Received::Idle { wal_end } => source.acknowledge(durable(wal_end)),
            Received::Closed => return Ok(()),
        }
    }
}
