//! The exports of a guest: what [`export_plugin!`](crate::export_plugin) puts between the
//! host and a [`Session`].
//!
//! WebAssembly has one thread, and the host never calls into a call, so the cells here are
//! never borrowed twice. A call the host gets wrong answers 0; a panic says where it was
//! (import `fail`, unless the feature is off) and traps.

use std::cell::RefCell;
use std::thread::LocalKey;

use crate::abi::{ANSWER_NONE, ANSWER_NOTHING, pack_answer};
use crate::plugin::Plugin;
use crate::session::{Answered, Session};

thread_local! {
    static ARENA: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The cell that an exported plugin lives in.
pub type Cell<P> = LocalKey<RefCell<Session<P>>>;

/// `kasho_alloc`: an arena of at least `size` bytes in place of the former one, or 0.
#[must_use]
pub fn alloc(size: u32) -> u32 {
    ARENA.with_borrow_mut(|arena| {
        let Some(len) = (size as usize).checked_add(8) else { return 0 };
        if arena.len() < len {
            *arena = Vec::new();
            if arena.try_reserve_exact(len).is_err() {
                return 0;
            }
            arena.resize(len, 0);
        }
        u32::try_from(start(arena)).unwrap_or(0)
    })
}

/// The first aligned address of the arena.
fn start(arena: &mut [u8]) -> usize {
    let at = arena.as_mut_ptr();
    at.expose_provenance() + at.align_offset(8)
}

fn call(ptr: u32, len: u32, f: impl FnOnce(&[u8]) -> u64) -> i64 {
    ARENA
        .with_borrow_mut(|arena| {
            if start(arena) != ptr as usize {
                return ANSWER_NONE;
            }
            // The host wrote there since the compiler last looked.
            let arena: &[u8] = std::hint::black_box(arena);
            let from = arena.as_ptr().align_offset(8);
            arena.get(from..).and_then(|arena| arena.get(..len as usize)).map_or(ANSWER_NONE, f)
        })
        .cast_signed()
}

fn answer(answered: Answered<'_>) -> u64 {
    match answered {
        Answered::Nothing => ANSWER_NOTHING,
        Answered::Bytes(bytes) => {
            let ptr = u32::try_from(bytes.as_ptr().expose_provenance()).unwrap_or(0);
            pack_answer(ptr, u32::try_from(bytes.len()).unwrap_or(0))
        }
    }
}

/// `kasho_init`.
pub fn init<P: Plugin>(session: &'static Cell<P>, ptr: u32, len: u32) -> i64 {
    #[cfg(feature = "fail")]
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("a panic without text");
        let (file, line, column) =
            panic.location().map_or(("", 0, 0), |at| (at.file(), at.line(), at.column()));
        crate::imports::sys::fail(text, file, line, column);
    }));
    call(ptr, len, |json| session.with_borrow_mut(|session| answer(session.init(json))))
}

/// `kasho_relation`.
pub fn relation<P: Plugin>(session: &'static Cell<P>, ptr: u32, len: u32) -> i64 {
    call(ptr, len, |json| session.with_borrow_mut(|session| answer(session.relation(json))))
}

/// `kasho_batch`.
pub fn batch<P: Plugin>(session: &'static Cell<P>, ptr: u32, len: u32) -> i64 {
    call(ptr, len, |block| {
        session.with_borrow_mut(|session| session.batch(block).map_or(ANSWER_NONE, answer))
    })
}
