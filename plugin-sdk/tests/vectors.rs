//! The test vectors are what the reference makes, and the reference does what they say.
//!
//! `KASHO_VECTORS=write cargo test -p kasho-plugin-sdk --test vectors` writes them anew. ABI
//! 1.0 is frozen: lines may be added, none may change.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "vectors/format.rs"]
mod format;
#[path = "vectors/inputs.rs"]
mod inputs;
#[path = "vectors/life.rs"]
mod life;
#[path = "vectors/replies.rs"]
mod replies;

#[path = "../../tests/golden/abi-1.0/puppet/src/lib.rs"]
mod puppet;

use format::{InputVector, Life, ReplyVector, Rows, file, load, unhex};

/// Holds the committed file against what the reference makes.
fn hold<T: serde::Serialize>(name: &str, made: &T) {
    let text = serde_json::to_string_pretty(made).unwrap() + "\n";
    if std::env::var("KASHO_VECTORS").is_ok_and(|v| v == "write") {
        std::fs::write(file(name), &text).unwrap();
    }
    let committed = std::fs::read_to_string(file(name)).unwrap();
    assert!(committed == text, "{name} is not what the reference makes: see the head of this file");
}

#[test]
fn the_vectors_of_input_blocks_are_the_references() {
    hold("input.json", &inputs::vectors());
    for vector in load::<Vec<InputVector>>("input.json") {
        let block = unhex(&vector.block);
        match (Rows::read(&block), &vector.rows, &vector.refused) {
            (Ok(rows), Some(want), None) => assert_eq!(&rows, want, "{}", vector.name),
            (Err(flaw), None, Some(want)) => assert_eq!(&flaw.to_string(), want, "{}", vector.name),
            (told, ..) => panic!("{}: {told:?}", vector.name),
        }
        if vector.written {
            assert_eq!(vector.rows.unwrap().block(), block, "{}", vector.name);
        }
    }
}

#[test]
fn the_vectors_of_replies_are_the_references() {
    hold("reply.json", &replies::vectors());
    for vector in load::<Vec<ReplyVector>>("reply.json") {
        let judged =
            replies::judge(&vector.rows, &vector.slots, vector.texts, &unhex(&vector.reply));
        match (judged, &vector.effects, &vector.refused) {
            (Ok(effects), Some(want), None) => assert_eq!(&effects, want, "{}", vector.name),
            (Err(why), None, Some(want)) => assert_eq!(&why, want, "{}", vector.name),
            (told, ..) => panic!("{}: {told:?}", vector.name),
        }
    }
}

#[test]
fn the_puppets_life_is_the_references() {
    hold("puppet.json", &life::vectors());
    let lives: Vec<Life> = load("puppet.json");
    assert!(lives.iter().flat_map(|life| &life.steps).any(|step| step.block.is_some()));
}
