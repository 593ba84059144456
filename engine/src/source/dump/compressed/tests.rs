//! What others compressed comes out whole, or as an error: never a part of it as if it
//! were all.

use std::io::{Cursor, Write};

use super::*;

fn text(n: usize) -> Vec<u8> {
    (0..n).flat_map(|i| format!("{i}\tsome text of row {}\n", i * 7919).into_bytes()).collect()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
}

fn lz4(text: &[u8]) -> Vec<u8> {
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
    let compression = Compression::of(packed).expect("recognised");
    let mut text = Vec::new();
    compression.decoder(Box::new(Cursor::new(packed.to_vec()))).read_to_end(&mut text)?;
    Ok(text)
}

#[test]
fn several_members_and_frames_are_one_text() {
    let (a, b) = (text(5000), text(10));
    let whole = [a.clone(), b.clone()].concat();
    for pack in [gzip, zstd, lz4] {
        assert_eq!(unpack(&pack(&a)).unwrap(), a);
        assert_eq!(unpack(&[pack(&a), pack(&b)].concat()).unwrap(), whole);
        assert_eq!(unpack(&[pack(&a), pack(b"")].concat()).unwrap(), a);
    }
    // A frame to be skipped, as parallel zstd writes it.
    let skipped = [&[0x50, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(&a)].concat();
    assert_eq!(unpack(&skipped).unwrap(), a);
}

#[test]
fn every_cut_is_an_error() {
    let whole = text(200);
    for pack in [gzip, zstd, lz4] {
        let packed = pack(&whole);
        for end in 8..packed.len() {
            let error = unpack(&packed[..end]).expect_err("cut");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{end}: {error}");
        }
    }
}

#[test]
fn damage_is_an_error_or_does_not_matter() {
    let whole = text(200);
    for pack in [gzip, zstd] {
        let packed = pack(&whole);
        for at in 10..packed.len() {
            let mut damaged = packed.clone();
            damaged[at] ^= 0x10;
            if let Ok(text) = unpack(&damaged) {
                assert_eq!(text, whole, "a changed byte {at} changes the text without a word");
            }
        }
    }
}

#[test]
fn other_beginnings_are_not_compressed() {
    for head in [&b""[..], b"-", b"--\n-- PostgreSQL", b"PGDMP", &[0x1F], &[0x28, 0xB5, 0x2F]] {
        assert_eq!(Compression::of(head), None);
    }
}
