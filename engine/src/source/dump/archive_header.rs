//! The head of pg_dump's archives: which format version it is, and from which PostgreSQL
//! on it is read. Format: `pg_backup_archiver.h` of PostgreSQL, `K_VERS_…`.

/// What a dump that is an archive is packed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Archive {
    /// `-Fc`.
    Custom,
    /// `-Ft`.
    Tar,
}

const MAGIC: &[u8] = b"PGDMP";
/// Bytes of a tar member's header; the table of contents is the first member.
const TAR_HEADER: usize = 512;

impl Archive {
    /// By the first bytes.
    pub(super) fn of(head: &[u8]) -> Option<Archive> {
        if head.starts_with(MAGIC) {
            return Some(Archive::Custom);
        }
        (head.get(257..262) == Some(b"ustar")).then_some(Archive::Tar)
    }

    /// The format's minor version; the major one has been 1 since 2000.
    pub(super) fn version(self, head: &[u8]) -> Option<u8> {
        match self {
            Archive::Custom => version(head),
            Archive::Tar => version(head.get(TAR_HEADER..)?),
        }
    }
}

/// Of a table of contents.
pub(super) fn version(toc: &[u8]) -> Option<u8> {
    match toc.strip_prefix(MAGIC)? {
        [1, minor, ..] => Some(*minor),
        _ => None,
    }
}

/// The first PostgreSQL whose pg_restore reads the format `1.minor`, as far as known.
pub(super) fn needed(minor: u8) -> u32 {
    match minor {
        ..=13 => 10,
        14 => 12,
        15 => 16,
        16.. => 17,
    }
}

/// The major version in what `pg_restore --version` says.
pub(super) fn major(version: &str) -> Option<u32> {
    let (_, number) = version.split_once(") ")?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_versions() {
        let custom = b"PGDMP\x01\x0e\x00\x04\x08\x01";
        assert_eq!(Archive::of(custom), Some(Archive::Custom));
        assert_eq!(Archive::Custom.version(custom), Some(14));
        let mut tar = vec![0; 1024];
        tar[257..262].copy_from_slice(b"ustar");
        tar[512..518].copy_from_slice(b"PGDMP\x01");
        tar[518] = 16;
        assert_eq!(Archive::of(&tar), Some(Archive::Tar));
        assert_eq!(Archive::Tar.version(&tar), Some(16));
        assert_eq!((Archive::of(b"-- Pos"), Archive::Tar.version(b"")), (None, None));
        assert_eq!((needed(14), needed(15), needed(16)), (12, 16, 17));
        assert_eq!(major("pg_restore (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major("pg_restore (PostgreSQL) 19devel"), Some(19));
        assert_eq!(major("something"), None);
    }
}
