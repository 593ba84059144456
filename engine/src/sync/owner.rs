//! Who holds the loader's turn, and whether he is alive: a process that was killed shall
//! not be waited for, one that runs must not be pushed aside.
//!
//! What can go wrong is a holder that cannot be looked at (another machine, another
//! container): then only the end of its lease tells.

use std::fs;

/// The name of this process as a holder of the turn.
#[must_use]
pub fn this() -> String {
    let pid = std::process::id();
    format!("{PROGRAM} pid {pid} started {} on {}", started(pid).unwrap_or_default(), machine())
}

const PROGRAM: &str = "pg-bootstrap-sync";

/// What is known of a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It runs.
    Alive,
    /// It has ended and can hold nothing any more.
    Dead,
    /// It cannot be looked at from here.
    Unknown,
}

/// Looks at a holder by its name.
#[must_use]
pub fn life(owner: &str) -> Life {
    let parsed = || {
        let (pid, rest) = owner.strip_prefix(PROGRAM)?.strip_prefix(" pid ")?.split_once(' ')?;
        let (start, machine) = rest.strip_prefix("started ")?.split_once(" on ")?;
        Some((pid.parse::<u32>().ok()?, start.parse::<u64>().ok()?, machine))
    };
    match parsed() {
        Some((pid, start, there)) if there == machine() => match started(pid) {
            Some(now) if now == start => Life::Alive,
            _ => Life::Dead,
        },
        _ => Life::Unknown,
    }
}

/// When a process started, in ticks since the machine did (proc(5), field 22 of `stat`).
/// A process that has ended and was not yet waited for counts as gone.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may hold anything, and ends at the last parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let gone = matches!(fields.first(), Some(&("Z" | "X")));
    fields.get(19).filter(|_| !gone)?.parse().ok()
}

/// The boot and the process namespace: process ids mean something only within both.
fn machine() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let boot = boot.split('-').next().unwrap_or_default().trim();
    let digits = |c: &char| c.is_ascii_digit();
    format!("{boot}:{}", space.display().to_string().chars().filter(digits).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_one_that_ended_and_from_strangers() {
        assert_eq!(life(&this()), Life::Alive);
        let earlier = this().replace("started ", "started 1");
        assert_eq!(life(&earlier), Life::Dead, "{earlier}");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let name = this().replacen(&std::process::id().to_string(), &child.id().to_string(), 1);
        child.wait().unwrap();
        assert_eq!(life(&name), Life::Dead, "{name}");
        for stranger in
            ["engine kasho_slot", "pg-bootstrap-sync", "pg-bootstrap-sync pid 1 started 1 on x"]
        {
            assert_eq!(life(stranger), Life::Unknown, "{stranger}");
        }
    }
}
