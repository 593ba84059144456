//! Copies and zeros of few bytes, as values and bitmaps mostly are.
//!
//! A copy whose length is known only when it runs is `memory.copy` in WebAssembly, and
//! that leaves the compiled code for a function of the host: dear where twenty bytes are
//! copied. Pieces of fixed length are plain loads and stores; and whoever copies them on
//! soon finds them in the same pieces, which a processor hands on from its store buffer,
//! while a load across two stores waits for both. Nothing can go wrong here:
//! what does not fit where it is put is left out, which the callers exclude.

/// From here on one bulk copy costs less.
const LONG: usize = 64;

const ZEROS: [u8; LONG] = [0; LONG];

/// Appends the text of a value, in two pieces that may overlap: the least that can be done,
/// for most values are copied on together with others.
pub(crate) fn value(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        0..=3 => bytes.iter().for_each(|byte| out.push(*byte)),
        4..=7 => both_ends::<4>(out, bytes),
        8..=15 => both_ends::<8>(out, bytes),
        16..=31 => both_ends::<16>(out, bytes),
        32..LONG => both_ends::<32>(out, bytes),
        _ => out.extend_from_slice(bytes),
    }
}

/// Appends between `N` and twice `N` bytes: the first `N` and the last.
#[inline]
fn both_ends<const N: usize>(out: &mut Vec<u8>, bytes: &[u8]) {
    if let (Some(head), Some(tail)) = (bytes.first_chunk::<N>(), bytes.last_chunk::<N>()) {
        out.reserve(2 * N);
        let end = out.len() + bytes.len();
        out.extend_from_slice(head);
        out.truncate(end - N);
        out.extend_from_slice(tail);
    }
}

/// Appends bytes.
pub(crate) fn append(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.len() >= LONG {
        return out.extend_from_slice(bytes);
    }
    out.reserve(bytes.len());
    let bytes = piece::<32>(out, bytes);
    let bytes = piece::<16>(out, bytes);
    let bytes = piece::<8>(out, bytes);
    let bytes = piece::<4>(out, bytes);
    let bytes = piece::<2>(out, bytes);
    piece::<1>(out, bytes);
}

/// Appends the first `N` bytes, if there are so many; gives the rest.
#[inline]
fn piece<'b, const N: usize>(out: &mut Vec<u8>, bytes: &'b [u8]) -> &'b [u8] {
    match bytes.split_first_chunk::<N>() {
        Some((head, rest)) => {
            out.extend_from_slice(head);
            rest
        }
        None => bytes,
    }
}

/// Appends words, each by itself where they are few: so they were written.
#[inline]
pub(crate) fn words(out: &mut Vec<u8>, words: &[[u8; 4]]) {
    if words.len() > LONG / 4 {
        return out.extend_from_slice(words.as_flattened());
    }
    words.iter().for_each(|word| out.extend_from_slice(word));
}

/// Appends `n` zeros.
#[inline]
pub(crate) fn zeros(out: &mut Vec<u8>, n: usize) {
    match ZEROS.get(..n) {
        Some(few) if n > 3 => append(out, few),
        Some(_) => (0..n).for_each(|_| out.push(0)),
        None => out.resize(out.len() + n, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_arrives_whole_behind_what_was_there() {
        let bytes: Vec<u8> = (0..=255).collect();
        for len in 0..=200 {
            let mut out = b"before".to_vec();
            append(&mut out, &bytes[..len]);
            let mut again = b"before".to_vec();
            value(&mut again, &bytes[..len]);
            assert_eq!(again, out, "{len}");
            zeros(&mut out, len);
            let (head, tail) = out[6..].split_at(len);
            assert_eq!((&out[..6], head), (&b"before"[..], &bytes[..len]));
            assert!(tail.len() == len && tail.iter().all(|byte| *byte == 0), "{len}");
        }
    }
}
