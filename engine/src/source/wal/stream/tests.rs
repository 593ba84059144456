//! The task against a server that the test plays, on paused time.

use bytes::{Buf, Bytes};
use tokio::net::UnixStream;

use super::*;

/// The server's end.
struct Server {
    stream: UnixStream,
    buf: BytesMut,
    /// Of the last status update: flushed, and whether it asks.
    flushed: u64,
    asked: bool,
}

const OPTIONS: StreamOptions = StreamOptions {
    status_interval: Duration::from_secs(10),
    queue_bytes: 1000,
    max_message_bytes: 500,
    shutdown_grace: Duration::from_secs(5),
    impatience: Duration::from_secs(1),
    silence: Duration::from_secs(300),
};

fn start() -> (Server, Arc<Shared>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let shared = Arc::new(Shared::default());
    let stream = Stream::of_test(ours);
    let task = Task::new(stream, BytesMut::new(), Arc::clone(&shared), OPTIONS);
    tokio::spawn(task.run());
    (Server { stream: theirs, buf: BytesMut::new(), flushed: 0, asked: false }, shared)
}

impl Server {
    async fn frame(&mut self, kind: u8, body: &[u8]) {
        let len = u32::try_from(body.len() + 4).unwrap();
        let frame = [&[kind], &len.to_be_bytes()[..], body].concat();
        // The client may have gone: what it said last is still to be read.
        let _ = self.stream.write_all(&frame).await;
    }

    async fn keepalive(&mut self, wal_end: u64, asks: bool) {
        let body = [&b"k"[..], &wal_end.to_be_bytes()[..], &[0; 8], &[u8::from(asks)]].concat();
        self.frame(b'd', &body).await;
    }

    async fn data(&mut self, lsn: u64, len: usize) {
        let header = [&b"w"[..], &lsn.to_be_bytes()[..], &[0; 16]].concat();
        self.frame(b'd', &[&header[..], &vec![b'x'; len]].concat()).await;
    }

    /// Waits for a status update; false at the end of the connection or on CopyDone.
    async fn update(&mut self) -> bool {
        loop {
            if self.buf.len() >= 39 && self.buf[0] == b'd' {
                let mut update = self.buf.split_to(39);
                update.advance(6 + 8);
                self.flushed = update.get_u64();
                update.advance(8 + 8);
                self.asked = update.get_u8() == 1;
                return true;
            }
            if self.buf.first().is_some_and(|&kind| kind != b'd') {
                return false;
            }
            if self.stream.read_buf(&mut self.buf).await.unwrap_or(0) == 0 {
                return false;
            }
        }
    }
}

async fn item(shared: &Shared) -> Item {
    loop {
        match shared.try_next(OPTIONS.queue_bytes) {
            Some(item) => return item,
            None => shared.filled().await,
        }
    }
}

async fn chunk(shared: &Shared) -> Bytes {
    match item(shared).await {
        Item::Chunk(chunk) => chunk,
        Item::End(_) => panic!("the stream has ended"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_is_answered_when_its_answer_is_known() {
    let (mut server, shared) = start();
    assert!(server.update().await, "at the start");
    let asked_at = Instant::now();
    server.keepalive(50, true).await;
    chunk(&shared).await;
    shared.acknowledge(Lsn(50));
    assert!(server.update().await);
    assert_eq!(server.flushed, 50);
    assert!(asked_at.elapsed() < ANSWER_PAUSE, "not before it would have to be answered");
}

#[tokio::test(start_paused = true)]
async fn a_question_without_a_good_answer_is_answered_after_a_pause() {
    let (mut server, _shared) = start();
    server.update().await;
    let asked_at = Instant::now();
    server.keepalive(50, true).await;
    assert!(server.update().await);
    assert_eq!(server.flushed, 0);
    assert!(asked_at.elapsed() >= Duration::from_millis(99), "{:?}", asked_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_again_and_again_is_left_after_the_grace() {
    let (mut server, shared) = start();
    server.update().await;
    let mut answers = 0;
    loop {
        server.keepalive(50, true).await;
        if !server.update().await {
            break;
        }
        answers += 1;
    }
    assert!((30..=60).contains(&answers), "{answers} answers in five seconds");
    loop {
        if let Item::End(end) = item(&shared).await {
            assert!(matches!(end, End::Closed));
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_known_to_end_does_not_wait_for_a_pipeline_that_stands_still() {
    // It asks and asks, and nothing is taken; or there is nothing to take any more, and what
    // was is not acknowledged.
    for reads in [false, true] {
        let (mut server, shared) = start();
        server.update().await;
        server.data(7, 10).await;
        shared.sound_alarm();
        let begun = Instant::now();
        loop {
            server.keepalive(50, true).await;
            if !server.update().await || (reads && ended(&shared).await) {
                break;
            }
        }
        assert!(begun.elapsed() < 2 * STALLED, "{:?}", begun.elapsed());
    }

    // The queue is full, so not even its questions are read.
    let (mut server, shared) = start();
    server.update().await;
    for lsn in 1..=20 {
        server.data(lsn, 100).await;
    }
    assert!(server.update().await, "only told so, nobody is left");
    shared.sound_alarm();
    let begun = Instant::now();
    while server.update().await {}
    assert!(begun.elapsed() < 2 * STALLED, "{:?}", begun.elapsed());

    // Something is taken all the time: it has its grace, and no more.
    let (mut server, shared) = start();
    server.update().await;
    shared.sound_alarm();
    let begun = Instant::now();
    for lsn in 1.. {
        server.data(lsn, 100).await;
        tokio::time::sleep(STALLED / 4).await;
        if ended(&shared).await {
            break;
        }
    }
    let took = begun.elapsed();
    assert!(took >= OPTIONS.shutdown_grace && took < 2 * OPTIONS.shutdown_grace, "{took:?}");
}

/// Takes the next item; whether it is the last one.
async fn ended(shared: &Shared) -> bool {
    matches!(item(shared).await, Item::End(_))
}

#[tokio::test(start_paused = true)]
async fn a_warning_that_rows_are_left_out_ends_the_stream() {
    let (mut server, shared) = start();
    server.frame(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mwords\0\0").await;
    server.frame(b'N', b"SWARNUNG\0VWARNING\0C01000\0Mwords\0\0").await;
    server.data(1, 1).await;
    drop(chunk(&shared).await);
    server.data(2, 1).await;
    server.frame(b'N', b"SWARNUNG\0VWARNING\0C55000\0Mskipped\0\0").await;
    server.data(3, 1).await;
    drop(chunk(&shared).await);
    assert!(matches!(item(&shared).await, Item::End(End::Skipped)));
    assert_eq!(shared.figures.received(), Lsn(2), "nothing behind it counts");
}

#[tokio::test(start_paused = true)]
async fn questions_of_an_idle_server_are_no_storm() {
    let (mut server, shared) = start();
    server.update().await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        server.keepalive(50, true).await;
        chunk(&shared).await;
        assert!(server.update().await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_consumer_bounds_the_queue_and_updates_go_on() {
    let (mut server, shared) = start();
    server.update().await;
    for lsn in 1..=100 {
        server.data(lsn, 100).await;
    }
    for _ in 0..100 {
        assert!(server.update().await);
    }
    // Full, and at most one read beyond.
    assert!(shared.figures.queued_bytes() >= 1000);
    let mut received = 0;
    while received < 100 * (5 + 25 + 100) {
        received += chunk(&shared).await.len();
    }
    assert_eq!(shared.figures.queued_bytes(), 0);
    assert_eq!(shared.figures.received(), Lsn(100));
}

#[tokio::test(start_paused = true)]
async fn silence_is_broken_by_asking_and_ends_when_nothing_answers() {
    let (mut server, shared) = start();
    let start = Instant::now();
    server.update().await;
    server.update().await;
    assert!(server.asked, "after one interval without a word");
    server.keepalive(1, false).await;
    chunk(&shared).await;
    let heard = Instant::now();
    let end = item(&shared).await;
    assert!(matches!(end, Item::End(End::Failed(SourceError::Silent { .. }))));
    assert!(heard.elapsed() >= OPTIONS.silence && start.elapsed() < OPTIONS.silence * 2);
}

#[tokio::test(start_paused = true)]
async fn a_large_message_is_refused_by_its_header() {
    let (mut server, shared) = start();
    server.data(7, 10).await;
    // Its header and the first bytes; the rest never comes.
    let mut large = vec![b'd'];
    large.extend_from_slice(&1_000_000u32.to_be_bytes());
    large.push(b'w');
    large.extend_from_slice(&[0; 24]);
    large.extend_from_slice(b"I");
    server.stream.write_all(&large).await.unwrap();
    assert_eq!(chunk(&shared).await.len(), 5 + 25 + 10);
    server.stream.write_all(&77u32.to_be_bytes()).await.unwrap();
    let Item::End(End::TooLarge { bytes, relation }) = item(&shared).await else {
        panic!("it was taken");
    };
    assert_eq!((bytes, relation), (999_996, Some(77)));
}

#[tokio::test(start_paused = true)]
async fn the_ends_of_a_stream() {
    let (mut server, shared) = start();
    server.data(1, 1).await;
    server.frame(b'C', b"COPY 0\0").await;
    drop(chunk(&shared).await);
    assert!(matches!(item(&shared).await, Item::End(End::Closed)), "in good order");

    let (server, shared) = start();
    drop(server);
    let end = item(&shared).await;
    assert!(matches!(end, Item::End(End::Failed(SourceError::Io { .. }))), "cut");

    let (mut server, shared) = start();
    server.frame(b'E', b"SFATAL\0C57P01\0Mrow text\0Dmore row text\0\0").await;
    let Item::End(End::Failed(error)) = item(&shared).await else { panic!("no error") };
    assert_eq!(error.sqlstate(), Some("57P01"));
    assert!(!error.to_string().contains("row"), "{error}");

    let (mut server, shared) = start();
    server.stream.write_all(&[b'd', 0, 0, 0, 3]).await.unwrap();
    let end = item(&shared).await;
    assert!(matches!(end, Item::End(End::Failed(SourceError::Protocol { .. }))), "no length");
}

#[tokio::test(start_paused = true)]
async fn the_last_word_says_what_is_durable() {
    let (mut server, shared) = start();
    server.update().await;
    server.data(9, 1).await;
    chunk(&shared).await;
    shared.acknowledge(Lsn(9));
    shared.leave();
    assert!(server.update().await);
    assert_eq!(server.flushed, 9);
    assert!(!server.update().await, "then it goes");
    assert_eq!(server.buf[0], b'c');
}
