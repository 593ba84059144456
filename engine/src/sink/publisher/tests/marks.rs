//! A mark is published once, with its word in the checkpoint in the same step, whatever
//! is lost on the way.

use super::*;
use crate::batch::Mark;
use crate::sink::entry::Content;

/// A transaction on each side of a mark at `lsn`.
fn batch(lsn: u64, nonce: &str) -> Batch {
    let mut batch = sample::batch(&[Part::whole(lsn - 100, 1), Part::whole(lsn + 100, 1)]);
    let piece = Piece {
        xid: 0,
        commit_lsn: Lsn(lsn),
        commit_us: 0,
        rows: 1..1,
        first: true,
        end_lsn: Some(Lsn(lsn)),
    };
    batch.pieces.insert(1, piece);
    let tables = vec!["public.t".to_owned(), "public.\"U\"".to_owned()];
    batch.marks.push((Lsn(lsn), Arc::new(Mark { nonce: nonce.into(), section: 7, tables })));
    batch
}

async fn marked(server: &MemoryServer, nonce: &str) -> Option<Lsn> {
    let mut store = server.connect().await.unwrap();
    store.inspect().await.unwrap().checkpoint.unwrap().marked(nonce)
}

#[tokio::test(start_paused = true)]
async fn a_mark_is_published_once_and_the_checkpoint_says_so() {
    for fault in [Fault::None, Fault::Cut, Fault::LoseReply, Fault::Oom] {
        let server = server().await;
        let (mut sink, _) = open(&server, 1).await;
        let mut faults = Some(fault);
        server.plan(move |step| match step {
            Step::Append(_) => faults.take().unwrap_or(Fault::None),
            _ => Fault::None,
        });
        let published = sink.publish(batch(300, "one"), 1, Lsn(100)).await;
        let there = stream(&server).await.contains(&"300-0!".to_owned());
        assert_eq!(marked(&server, "one").await.is_some(), there, "{fault:?}");
        let (mut sink, opened) = open(&server, 2).await;
        if published.is_err() {
            let mut again = batch(300, "one");
            again.skip_through(opened.published);
            sink.publish(again, 1, Lsn(100)).await.unwrap();
        }
        assert_eq!(stream(&server).await, ["200-1!", "300-0!", "400-1!"], "{fault:?}");
        assert_eq!(marked(&server, "one").await, Some(Lsn(300)));
        assert_eq!(marked(&server, "other").await, None);
        // The message was written a second time: it is none. Another one is.
        sink.publish(batch(600, "one"), 1, Lsn(100)).await.unwrap();
        sink.publish(batch(900, "two"), 1, Lsn(100)).await.unwrap();
        let rest = ["500-1!", "700-1!", "800-1!", "900-0!", "1000-1!"];
        assert_eq!(stream(&server).await[3..], rest, "{fault:?}");
        assert_eq!(marked(&server, "two").await, Some(Lsn(900)));
        let mut store = server.connect().await.unwrap();
        let raw = store.before(Epoch(1), Lane::Changes, Id { high: 300, low: 0 }).await.unwrap();
        let entry = Entry::decode(&raw.unwrap(), Lane::Changes).unwrap();
        let tables = vec!["public.t".to_owned(), "public.\"U\"".to_owned()];
        assert_eq!(entry.content, Content::Mark { section: 7, tables });
        assert_eq!((entry.op, entry.table.as_str()), (EntryOp::Restart, "public.t,public.\"U\""));
    }
}
