//! What the driver gets, what is kept from it, and how that is read.

use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// As [`through`], with so many replies asked for, and what was kept.
async fn keeping(
    replies: usize,
    words: &[u8],
    piece: usize,
) -> (io::Result<Vec<u8>>, Option<Bytes>) {
    let tap = Tap::default();
    let keeping = tap.keep(replies).unwrap();
    let read = through(&tap, words, piece).await;
    (read, keeping.take())
}

/// A server's words in pieces, and what the driver reads of them.
async fn through(tap: &Tap, words: &[u8], piece: usize) -> io::Result<Vec<u8>> {
    let (mut server, client) = tokio::io::duplex(1 << 20);
    let mut tapped = Tapped::new(client, tap.clone());
    let words = words.to_vec();
    let spoken = tokio::spawn(async move {
        for piece in words.chunks(piece) {
            server.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let mut read = Vec::new();
    let done = tapped.read_to_end(&mut read).await;
    spoken.await.unwrap();
    done.map(|_| read)
}

#[tokio::test]
async fn what_nobody_asks_for_is_the_drivers() {
    let words = b"+OK\r\n*1\r\n$1\r\nx\r\n";
    let tap = Tap::default();
    assert_eq!(through(&tap, words, 3).await.unwrap(), words);
}

#[tokio::test]
async fn an_error_among_replies_is_the_drivers() {
    let words = b"+OK\r\n*2\r\n-WRONGTYPE of what\r\n$-1\r\n+more\r\n";
    let (read, kept) = keeping(2, words, 5).await;
    assert_eq!((read.unwrap(), kept), (words.to_vec(), None));
}

#[tokio::test]
async fn what_is_no_reply_ends_the_connection() {
    for words in [&b"HTTP/1.1 400\r\n"[..], b"$x\r\n", b"*-2\r\n", b"+a\rb"] {
        let (read, kept) = keeping(1, words, 100).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::InvalidData, "{words:?}");
        assert_eq!(kept, None);
    }
}

/// It may tell of an error, or of a length that nobody has room for, and close.
#[tokio::test]
async fn what_ends_before_its_end_is_the_drivers() {
    for words in [
        &b"-LOADING in a moment\r\n"[..],
        b"+OK\r\n*2\r\n$3\r\nab",
        b"$18446744073709551615\r\nx",
        b"$500000000000\r\nx",
    ] {
        let (read, kept) = keeping(5, words, 7).await;
        assert_eq!((read.unwrap(), kept), (words.to_vec(), None));
    }
}

#[tokio::test]
async fn whoever_goes_before_the_answer_leaves_it_to_the_driver_and_all_that_follow() {
    let (mut server, client) = tokio::io::duplex(1 << 10);
    let tap = Tap::default();
    let mut tapped = Tapped::new(client, tap.clone());
    let mut read = async |words: &[u8], expected: &[u8]| {
        server.write_all(words).await.unwrap();
        let mut found = vec![0; expected.len()];
        tapped.read_exact(&mut found).await.unwrap();
        assert_eq!(found, expected);
    };
    // Nothing of it is there, and it may never have been asked for.
    drop(tap.keep(2).unwrap());
    read(b":1\r\n", b":1\r\n").await;
    assert!(tap.keep(2).is_none());

    let (mut server, client) = tokio::io::duplex(1 << 10);
    let tap = Tap::default();
    let mut tapped = Tapped::new(client, tap.clone());
    // Half of it is there: the driver gets as many replies as it waits for.
    let keeping = tap.keep(2).unwrap();
    server.write_all(b"+OK\r\n$3\r\na").await.unwrap();
    let mut some = [0; 1];
    let waits = tokio::time::timeout(Duration::from_millis(20), tapped.read(&mut some)).await;
    assert!(waits.is_err());
    drop(keeping);
    assert!(tap.keep(1).is_none());
    server.write_all(b"bc\r\n:7\r\n").await.unwrap();
    drop(server);
    let mut found = Vec::new();
    tapped.read_to_end(&mut found).await.unwrap();
    assert_eq!(found, b"+OK\r\n+OK\r\n:7\r\n");
}

#[derive(Clone, Debug)]
enum Reply {
    Word,
    Number(i64),
    Value(Option<Vec<u8>>),
    Array(Vec<Reply>),
}

impl Reply {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Word => out.extend_from_slice(b"+QUEUED\r\n"),
            Reply::Number(n) => out.extend_from_slice(format!(":{n}\r\n").as_bytes()),
            Reply::Value(None) => out.extend_from_slice(b"$-1\r\n"),
            Reply::Value(Some(value)) => {
                out.extend_from_slice(format!("${}\r\n", value.len()).as_bytes());
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
            }
            Reply::Array(values) => {
                out.extend_from_slice(format!("*{}\r\n", values.len()).as_bytes());
                values.iter().for_each(|value| value.write(out));
            }
        }
    }

    fn read(&self, from: &mut Replies) {
        match self {
            Reply::Word | Reply::Number(_) => from.pass().unwrap(),
            Reply::Value(value) => {
                assert_eq!(from.value().unwrap().as_deref(), value.as_deref());
            }
            Reply::Array(values) => {
                assert_eq!(from.array(), Some(values.len()));
                values.iter().for_each(|value| value.read(from));
            }
        }
    }
}

fn reply() -> impl Strategy<Value = Reply> {
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        Just(b"\r\n$5\r\n*2\r\n".to_vec()),
        Just(vec![b'x'; 100_000]),
    ];
    let leaf = prop_oneof![
        Just(Reply::Word),
        any::<i64>().prop_map(Reply::Number),
        proptest::option::of(bytes).prop_map(Reply::Value),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        proptest::collection::vec(inner, 0..6).prop_map(Reply::Array)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn replies_are_kept_whole_and_the_driver_gets_as_many(
        replies in proptest::collection::vec(reply(), 1..5),
        piece in prop_oneof![1usize..40, Just(70_000)],
        beyond in proptest::option::of(reply()),
    ) {
        let (mut kept, mut words) = (Vec::new(), Vec::new());
        replies.iter().for_each(|reply| reply.write(&mut kept));
        words.extend_from_slice(&kept);
        let mut expected = NOTHING.repeat(replies.len());
        if let Some(reply) = &beyond {
            reply.write(&mut words);
            reply.write(&mut expected);
        }
        // Many small pieces of much take long.
        let piece = piece.max(words.len() / 500).max(1);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (read, taken) = runtime.block_on(keeping(replies.len(), &words, piece));
        prop_assert_eq!(read.unwrap(), expected);
        let taken = taken.unwrap();
        prop_assert_eq!(&taken, &kept);
        let mut found = Replies::of(taken);
        replies.iter().for_each(|reply| reply.read(&mut found));
    }
}
