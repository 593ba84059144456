//! The little of WASI preview 1 that Go's runtime cannot start without, for bindings that
//! say `wasi = true`.
//!
//! There is no world behind it: no files, arguments or variables; the clocks stand still,
//! but that whoever waits has waited; random bytes are the same in every instance; what is
//! written to standard output and error goes through the gate to the log. So two runs of
//! one guest see the same. Every range and count is checked, whatever is wrong is a trap,
//! and the work is linear in the guest's memory: no deadline interrupts it.

use wasmparser::ValType;
use wasmtime::{Caller, Linker, Result, bail};

use super::imports::{GuestState, memory, range, say};

/// The module of its imports.
pub(super) const MODULE: &str = "wasi_snapshot_preview1";

const I32: ValType = ValType::I32;
const I64: ValType = ValType::I64;

/// A function: its name, parameters, results.
type Function = (&'static str, &'static [ValType], &'static [ValType]);

/// What there is, with the types of preview 1.
pub(super) const IMPORTS: [Function; 16] = [
    ("args_get", &[I32, I32], &[I32]),
    ("args_sizes_get", &[I32, I32], &[I32]),
    ("clock_time_get", &[I32, I64, I32], &[I32]),
    ("environ_get", &[I32, I32], &[I32]),
    ("environ_sizes_get", &[I32, I32], &[I32]),
    ("fd_close", &[I32], &[I32]),
    ("fd_fdstat_get", &[I32, I32], &[I32]),
    ("fd_fdstat_set_flags", &[I32, I32], &[I32]),
    ("fd_prestat_dir_name", &[I32, I32, I32], &[I32]),
    ("fd_prestat_get", &[I32, I32], &[I32]),
    ("fd_read", &[I32, I32, I32, I32], &[I32]),
    ("fd_write", &[I32, I32, I32, I32], &[I32]),
    ("poll_oneoff", &[I32, I32, I32, I32], &[I32]),
    ("proc_exit", &[I32], &[]),
    ("random_get", &[I32, I32], &[I32]),
    ("sched_yield", &[], &[I32]),
];

/// Errors of preview 1.
const SUCCESS: u32 = 0;
const EBADF: u32 = 8;
const EINVAL: u32 = 28;
const ENOTSUP: u16 = 58;

/// The clocks begin here: a runtime takes 0 for a clock that does not work.
const BEGIN_NS: u64 = 1_000_000_000;
/// What the wall clock shows then: 2000-01-01 UTC.
const EPOCH_NS: u64 = 946_684_800_000_000_000;
/// Pieces of one write, subscriptions of one wait.
const MOST: u32 = 1024;
/// Bytes of a subscription, and of an event.
const SUBSCRIPTION: u64 = 48;
const EVENT: usize = 32;
/// A character device: a terminal, for want of anything else.
const CHARACTER_DEVICE: u8 = 2;

type Guest<'a> = Caller<'a, GuestState>;

/// What an instance has of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wasi {
    /// The monotonic clock.
    now_ns: u64,
    /// Of the random bytes.
    seed: u64,
}

impl Default for Wasi {
    fn default() -> Wasi {
        Wasi { now_ns: BEGIN_NS, seed: 0 }
    }
}

impl Wasi {
    fn clock(self, id: u32) -> Option<u64> {
        match id {
            0 => Some(EPOCH_NS.saturating_add(self.now_ns)),
            1 => Some(self.now_ns),
            _ => None,
        }
    }

    /// SplitMix64 (Steele, Lea, Flood, 2014), from a seed that everybody knows.
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Adds it to a linker; only a module whose binding may have it has been checked to ask.
pub(super) fn link(linker: &mut Linker<GuestState>) -> Result<()> {
    let (one, two) = (|_: u32| EBADF, |_: u32, _: u32| EBADF);
    linker.func_wrap(MODULE, "args_get", |_: u32, _: u32| SUCCESS)?;
    linker.func_wrap(MODULE, "args_sizes_get", no_strings)?;
    linker.func_wrap(MODULE, "clock_time_get", clock_time_get)?;
    linker.func_wrap(MODULE, "environ_get", |_: u32, _: u32| SUCCESS)?;
    linker.func_wrap(MODULE, "environ_sizes_get", no_strings)?;
    linker.func_wrap(MODULE, "fd_close", one)?;
    linker.func_wrap(MODULE, "fd_fdstat_get", fd_fdstat_get)?;
    linker.func_wrap(MODULE, "fd_fdstat_set_flags", |fd: u32, _: u32| known(fd))?;
    linker.func_wrap(MODULE, "fd_prestat_dir_name", |_: u32, _: u32, _: u32| EBADF)?;
    // The first descriptor that is none ends a runtime's search for folders.
    linker.func_wrap(MODULE, "fd_prestat_get", two)?;
    linker.func_wrap(MODULE, "fd_read", fd_read)?;
    linker.func_wrap(MODULE, "fd_write", fd_write)?;
    linker.func_wrap(MODULE, "poll_oneoff", poll_oneoff)?;
    linker.func_wrap(MODULE, "proc_exit", proc_exit)?;
    linker.func_wrap(MODULE, "random_get", random_get)?;
    linker.func_wrap(MODULE, "sched_yield", || SUCCESS)?;
    Ok(())
}

/// Standard input, output and error are all there is.
fn known(fd: u32) -> u32 {
    if fd < 3 { SUCCESS } else { EBADF }
}

/// `bytes` to the guest's memory.
fn put(guest: &mut Guest<'_>, at: u32, bytes: &[u8]) -> Result<()> {
    let memory = memory(guest)?;
    let data = memory.data_mut(guest);
    let place = range(data, at, bytes.len() as u64)?;
    data[place].copy_from_slice(bytes);
    Ok(())
}

/// Copies `N` bytes out of the guest's memory.
fn get<const N: usize>(data: &[u8], at: u64) -> Result<[u8; N]> {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    let bytes = data.get(at..).and_then(<[u8]>::first_chunk);
    bytes.copied().ok_or_else(|| wasmtime::format_err!("pointer out of range"))
}

fn no_strings(mut guest: Guest<'_>, count: u32, bytes: u32) -> Result<u32> {
    put(&mut guest, count, &[0; 4])?;
    put(&mut guest, bytes, &[0; 4])?;
    Ok(SUCCESS)
}

fn clock_time_get(mut guest: Guest<'_>, id: u32, _: u64, out: u32) -> Result<u32> {
    let Some(now) = guest.data().wasi.clock(id) else { return Ok(EINVAL) };
    put(&mut guest, out, &now.to_le_bytes())?;
    Ok(SUCCESS)
}

fn fd_fdstat_get(mut guest: Guest<'_>, fd: u32, out: u32) -> Result<u32> {
    if known(fd) != SUCCESS {
        return Ok(EBADF);
    }
    let mut stat = [0; 24];
    stat[0] = CHARACTER_DEVICE;
    put(&mut guest, out, &stat)?;
    Ok(SUCCESS)
}

/// Standard input is at its end.
fn fd_read(mut guest: Guest<'_>, fd: u32, _: u32, _: u32, read: u32) -> Result<u32> {
    if fd != 0 {
        return Ok(EBADF);
    }
    put(&mut guest, read, &[0; 4])?;
    Ok(SUCCESS)
}

fn fd_write(mut guest: Guest<'_>, fd: u32, pieces: u32, n: u32, written: u32) -> Result<u32> {
    if fd != 1 && fd != 2 {
        return Ok(EBADF);
    }
    if n > MOST {
        return Ok(EINVAL);
    }
    let mut total = 0_u32;
    for i in 0..n {
        let memory = memory(&mut guest)?;
        let data = memory.data(&guest);
        let at = u64::from(pieces) + 8 * u64::from(i);
        let ptr = u32::from_le_bytes(get(data, at)?);
        let len = u32::from_le_bytes(get(data, at + 4)?);
        say(&mut guest, if fd == 2 { 2 } else { 3 }, ptr, len)?;
        total = total.saturating_add(len);
    }
    put(&mut guest, written, &total.to_le_bytes())?;
    Ok(SUCCESS)
}

/// Every clock that is waited for has come; nothing else ever happens.
fn poll_oneoff(mut guest: Guest<'_>, from: u32, to: u32, n: u32, events: u32) -> Result<u32> {
    if n == 0 || n > MOST {
        return Ok(EINVAL);
    }
    let mut now = guest.data().wasi.now_ns;
    for i in 0..u64::from(n) {
        let memory = memory(&mut guest)?;
        let data = memory.data(&guest);
        let at = u64::from(from) + SUBSCRIPTION * i;
        let mut event = [0; EVENT];
        event[..8].copy_from_slice(&get::<8>(data, at)?);
        let [kind] = get(data, at + 8)?;
        event[10] = kind;
        if kind == 0 {
            let id = u32::from_le_bytes(get(data, at + 16)?);
            let timeout = u64::from_le_bytes(get(data, at + 24)?);
            let absolute = get::<2>(data, at + 40)?[0] & 1 == 1;
            let base = if id == 0 { EPOCH_NS } else { 0 };
            let until = match absolute {
                true => timeout.saturating_sub(base),
                false => guest.data().wasi.now_ns.saturating_add(timeout),
            };
            now = now.max(until);
        } else {
            event[8..10].copy_from_slice(&ENOTSUP.to_le_bytes());
        }
        let place = u64::from(to) + EVENT as u64 * i;
        put(&mut guest, u32::try_from(place).unwrap_or(u32::MAX), &event)?;
    }
    guest.data_mut().wasi.now_ns = now;
    put(&mut guest, events, &n.to_le_bytes())?;
    Ok(SUCCESS)
}

fn proc_exit(mut guest: Guest<'_>, _: u32) -> Result<()> {
    // Its code is a number that the guest chooses.
    let said = std::mem::take(&mut guest.data_mut().said);
    let after = if said.is_empty() { "nothing" } else { said.trim() };
    guest.data_mut().failed = Some(format!("it exited after it wrote: {after}"));
    bail!("the plugin exited");
}

fn random_get(mut guest: Guest<'_>, at: u32, len: u32) -> Result<u32> {
    let memory = memory(&mut guest)?;
    let (data, state) = memory.data_and_store_mut(&mut guest);
    let place = range(data, at, u64::from(len))?;
    for eight in data[place].chunks_mut(8) {
        eight.copy_from_slice(&state.wasi.random().to_le_bytes()[..eight.len()]);
    }
    Ok(SUCCESS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::super::testing::{Guest, Setup, columns, insert, shown, users};
    use super::*;

    /// A guest that imports all of it, and does this at `_initialize`.
    fn guest(initialize: &str) -> Guest {
        let mut imports = String::new();
        for (name, params, results) in IMPORTS {
            let list = |types: &[ValType]| {
                types.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            };
            let (params, results) = (list(params), list(results));
            imports.push_str(&format!(
                "(import \"{MODULE}\" \"{name}\" (func ${name} (param {params}) (result {results})))\n"
            ));
        }
        let mut guest = Guest::new(&[("email", "mask"), ("id", "pass")]);
        guest.imports = imports;
        guest.fields = format!("(func (export \"_initialize\") {initialize})");
        guest
    }

    fn setup(guest: &Guest) -> Setup {
        let mut setup = Setup::new(guest);
        setup.binding().wasi = true;
        setup
    }

    /// Traps unless the value is so.
    fn expect(what: &str, ty: &str, is: &str) -> String {
        format!("(if ({ty}.ne {what} ({ty}.const {is})) (then unreachable))\n")
    }

    fn call(function: &str, arguments: &[u32]) -> String {
        let arguments: String = arguments.iter().map(|n| format!("(i32.const {n}) ")).collect();
        format!("(call ${function} {arguments})")
    }

    fn starts(initialize: &str) {
        setup(&guest(initialize)).chain(&[&users()]);
    }

    #[test]
    fn it_is_refused_unless_the_binding_says_so() {
        let refusal = Setup::new(&guest("")).refusal(&[&users()]);
        assert!(refusal.contains("`wasi = true`"), "{refusal}");
        let mut other = guest("");
        other.imports = other.imports.replace("random_get", "path_open");
        let refusal = setup(&other).refusal(&[&users()]);
        assert!(refusal.contains("wasi_snapshot_preview1.path_open"), "{refusal}");
        let mut other = guest("");
        other.imports =
            other.imports.replace("(func $sched_yield (param ) (result i32))", "(func)");
        assert!(setup(&other).refusal(&[&users()]).contains("another type"));
    }

    #[test]
    fn there_is_no_world_behind_it() {
        let mut body = String::new();
        for name in ["args_sizes_get", "environ_sizes_get"] {
            body += "(i64.store (i32.const 512) (i64.const -1))";
            body += &expect(&call(name, &[512, 516]), "i32", "0");
            body += &expect("(i64.load (i32.const 512))", "i64", "0");
        }
        body += &expect(&call("fd_prestat_get", &[3, 512]), "i32", "8");
        body += &expect(&call("fd_prestat_dir_name", &[3, 512, 4]), "i32", "8");
        body += &expect(&call("fd_close", &[1]), "i32", "8");
        body += &expect(&call("fd_fdstat_get", &[1, 512]), "i32", "0");
        body += &expect("(i32.load8_u (i32.const 512))", "i32", "2");
        body += &expect(&call("fd_fdstat_get", &[3, 512]), "i32", "8");
        body += &expect(&call("fd_fdstat_set_flags", &[2, 0]), "i32", "0");
        body += &expect(&call("fd_read", &[0, 0, 0, 512]), "i32", "0");
        body += &expect(&call("fd_read", &[5, 0, 0, 512]), "i32", "8");
        body += &expect(&call("fd_write", &[5, 0, 0, 512]), "i32", "8");
        body += &expect("(call $sched_yield)", "i32", "0");
        starts(&body);
    }

    #[test]
    fn clocks_stand_still_until_somebody_waits() {
        let clock = |id: u32, is: u64| {
            let ask =
                format!("(call $clock_time_get (i32.const {id}) (i64.const 0) (i32.const 512))");
            let is = is.to_string();
            expect(&ask, "i32", "0") + &expect("(i64.load (i32.const 512))", "i64", &is)
        };
        let mut body = clock(1, BEGIN_NS) + &clock(1, BEGIN_NS) + &clock(0, EPOCH_NS + BEGIN_NS);
        let unknown = "(call $clock_time_get (i32.const 7) (i64.const 0) (i32.const 512))";
        body += &expect(unknown, "i32", "28");
        // A subscription to the monotonic clock, five seconds from now.
        body +=
            "(i64.store (i32.const 512) (i64.const 77)) (i32.store (i32.const 528) (i32.const 1))";
        body += "(i64.store (i32.const 536) (i64.const 5000000000))";
        body += &expect(&call("poll_oneoff", &[512, 1024, 1, 2048]), "i32", "0");
        body += &expect("(i32.load (i32.const 2048))", "i32", "1");
        body += &expect("(i64.load (i32.const 1024))", "i64", "77");
        body += &clock(1, BEGIN_NS + 5_000_000_000);
        body += &expect(&call("poll_oneoff", &[512, 1024, 0, 2048]), "i32", "28");
        starts(&body);
    }

    #[test]
    fn random_bytes_are_everywhere_the_same() {
        let first = Wasi::default().random().cast_signed().to_string();
        let mut body = expect(&call("random_get", &[512, 8]), "i32", "0");
        body += &expect("(i64.load (i32.const 512))", "i64", &first);
        body += &expect(&call("random_get", &[512, 3]), "i32", "0");
        let setup = setup(&guest(&body));
        for _ in 0..2 {
            setup.chain(&[&users()]);
        }
    }

    #[test]
    fn what_it_writes_passes_the_gate_and_an_exit_is_its_failure() {
        // One piece: the 16 bytes of text at 768; then the value that the block carries.
        let write = |at: &str, len: u32| {
            format!(
                "(i32.store (i32.const 600) {at}) (i32.store (i32.const 604) (i32.const {len}))
                 (drop {})",
                call("fd_write", &[2, 600, 1, 608])
            )
        };
        let bytes = "(i32.add (local.get $p) (i32.load offset=12 (i32.add (local.get $p) \
                     (i32.load offset=32 (local.get $p)))))";
        let body = write("(i32.const 768)", 16) + &write(bytes, 16);
        let mut guest = guest("");
        guest.data.push((768, b"panic: my mishap".to_vec()));
        let exits = guest.clone().body(&format!("{body} {} unreachable", call("proc_exit", &[2])));
        let error = setup(&exits).chain(&[&users()]).apply(&mut insert("ada@lovelace.org"));
        let text = error.unwrap_err().to_string();
        assert!(text.contains("exited after it wrote: panic: my mishap «16 bytes"), "{text}");
        assert!(!text.contains("lovelace"), "{text}");
        let wild = expect(&call("fd_write", &[2, 4_294_967_290, 1, 608]), "i32", "0");
        let refusal = setup(&self::guest(&wild)).refusal(&[&users()]);
        assert!(refusal.contains("out of range"), "{refusal}");
    }

    #[test]
    fn a_guest_with_it_masks() {
        use kasho_plugin_sdk::batch::Image;
        let mut guest = guest("").masks("x@y.z", &[Image::New]);
        guest.wanted = columns(&[("email", "mask"), ("id", "pass")]);
        let mut batch = insert("ada@lovelace.org");
        setup(&guest).chain(&[&users()]).apply(&mut batch).unwrap();
        assert_eq!(shown(&batch), ["insert public.users [1 x@y.z] []"]);
    }
}
