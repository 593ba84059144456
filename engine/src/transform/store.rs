//! Compiled code, kept from start to start so that a start costs milliseconds.
//!
//! An entry is named by the digest of the `.wasm` and of everything the compiler's output
//! depends on, and carries an HMAC under a key that only this store has: code that this
//! process did not write itself is never run, and a damaged entry is just compiled anew.
//! The folder belongs to this user alone (0700, files 0600), else it is refused.

use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use wasmtime::{Engine, Module};

use super::host::hex;

const MAC_BYTES: usize = 32;

/// A folder of compiled code.
pub(super) struct Store {
    folder: PathBuf,
    key: [u8; 32],
}

impl Store {
    /// Opens a folder, making it and its key if need be.
    ///
    /// # Errors
    /// It cannot be made, or others can reach into it.
    pub(super) fn open(folder: &Path) -> Result<Store, String> {
        let says = |e: &dyn std::fmt::Display| format!("plugins.store {}: {e}", folder.display());
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder).map_err(|e| says(&e))?;
        let meta = fs::metadata(folder).map_err(|e| says(&e))?;
        if !ours(&meta) {
            return Err(says(&"belongs to another user: name a folder of this service's own"));
        }
        if meta.mode() & 0o077 != 0 {
            return Err(says(&"must be closed to other users: `chmod 700` it"));
        }
        let path = folder.join("key");
        let key = match fs::read(&path) {
            Ok(key) if private(&path) => <[u8; 32]>::try_from(key).ok(),
            _ => None,
        };
        let key = match key {
            Some(key) => key,
            None => {
                let mut key = [0; 32];
                getrandom::fill(&mut key).map_err(|e| says(&e))?;
                write(&path, &key).map_err(|e| says(&e))?;
                key
            }
        };
        Ok(Store { folder: folder.to_owned(), key })
    }

    /// The module, from the store or compiled and put there.
    ///
    /// # Errors
    /// The compiler refuses it. A store that cannot be read or written only costs time.
    pub(super) fn module(
        &self,
        engine: &Engine,
        sha256: &str,
        wasm: &[u8],
    ) -> Result<Module, String> {
        let name = self.name(engine, sha256);
        let path = self.folder.join(format!("{name}.code"));
        if let Some(module) = self.load(engine, &path, &name) {
            return Ok(module);
        }
        let module = Module::from_binary(engine, wasm).map_err(|e| format!("{e:#}"))?;
        match module.serialize() {
            Ok(code) => {
                let mut entry = self.mac(&name, &code).to_vec();
                entry.extend(code);
                if let Err(e) = write(&path, &entry) {
                    tracing::warn!(path = %path.display(), "compiled code is not kept: {e}");
                }
            }
            Err(e) => tracing::warn!("compiled code is not kept: {e:#}"),
        }
        Ok(module)
    }

    fn load(&self, engine: &Engine, path: &Path, name: &str) -> Option<Module> {
        if !private(path) {
            return None;
        }
        let entry = fs::read(path).ok()?;
        let (mac, code) = entry.split_at_checked(MAC_BYTES)?;
        if !bool::from(subtle::ConstantTimeEq::ct_eq(&self.mac(name, code)[..], mac)) {
            tracing::warn!(path = %path.display(), "compiled code is damaged; compiling anew");
            return None;
        }
        deserialize(engine, code)
    }

    fn name(&self, engine: &Engine, sha256: &str) -> String {
        let mut compatibility = Digester(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut compatibility);
        compatibility.0.update(sha256);
        hex(&compatibility.0.finalize())
    }

    fn mac(&self, name: &str, code: &[u8]) -> [u8; MAC_BYTES] {
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&self.key.into_block());
        mac.update(name.as_bytes());
        mac.update(code);
        mac.finalize().into_bytes().into()
    }
}

trait IntoBlock {
    fn into_block(self) -> hmac::digest::Key<Hmac<Sha256>>;
}

impl IntoBlock for [u8; 32] {
    /// HMAC's own rule: a key shorter than the hash's block is filled with zeroes.
    fn into_block(self) -> hmac::digest::Key<Hmac<Sha256>> {
        let mut block = hmac::digest::Key::<Hmac<Sha256>>::default();
        block[..32].copy_from_slice(&self);
        block
    }
}

/// Feeds everything hashed into SHA-256.
struct Digester(Sha256);

impl Hasher for Digester {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Never asked: the digest is taken instead.
    fn finish(&self) -> u64 {
        0
    }
}

#[expect(unsafe_code, reason = "runs only code whose MAC says that this store wrote it")]
fn deserialize(engine: &Engine, code: &[u8]) -> Option<Module> {
    // SAFETY: the caller has checked the MAC under a key that only this user can read, so
    // these are bytes that `Module::serialize` gave for an engine of the same settings.
    unsafe { Module::deserialize(engine, code) }.ok()
}

/// Written by this user, closed to others, and no link.
fn private(path: &Path) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|meta| meta.is_file() && meta.mode() & 0o077 == 0 && ours(&meta))
}

/// Whether it belongs to the user that this process acts as: whoever else owns it can write
/// code there that would be run here.
fn ours(meta: &fs::Metadata) -> bool {
    meta.uid() == rustix::process::geteuid().as_raw()
}

/// Whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::super::host::Host;
    use super::super::testing::Guest;
    use super::*;

    fn entry(folder: &Path) -> PathBuf {
        let mut files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        files.find(|path| path.extension().is_some_and(|e| e == "code")).unwrap()
    }

    #[test]
    fn compiled_code_is_kept_and_only_our_own_is_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let wasm = Guest::new(&[]).wasm();
        Host::new(Some(&path)).unwrap().compile(&wasm, 1 << 20, false).unwrap();
        let code = entry(&path);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&code).unwrap().mode() & 0o777, 0o600);
        let store = Store::open(&path).unwrap();
        let host = Host::new(None).unwrap();
        let name = code.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(store.load(host.engine(), &code, &name).is_some());
        assert!(store.load(host.engine(), &code, "other").is_none(), "another module's code");
        let good = fs::read(&code).unwrap();
        for at in [0, MAC_BYTES, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&code, &bad).unwrap();
            assert!(store.load(host.engine(), &code, &name).is_none(), "byte {at}");
        }
        fs::write(&code, &good[..20]).unwrap();
        assert!(store.load(host.engine(), &code, &name).is_none());
        Host::new(Some(&path)).unwrap().compile(&wasm, 1 << 20, false).unwrap();
        assert!(store.load(host.engine(), &code, &name).is_some(), "made anew");
        fs::set_permissions(&code, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(store.load(host.engine(), &code, &name).is_none(), "others can read it");
    }

    /// Needs the right to give files away; who has it not cannot be given any either.
    #[test]
    fn what_belongs_to_another_user_is_not_used() {
        use std::os::unix::fs::chown;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let wasm = Guest::new(&[]).wasm();
        let host = Host::new(Some(&path)).unwrap();
        host.compile(&wasm, 1 << 20, false).unwrap();
        let (store, code) = (Store::open(&path).unwrap(), entry(&path));
        let name = code.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(store.load(host.engine(), &code, &name).is_some());
        assert!(ours(&fs::metadata(&code).unwrap()));
        if !rustix::process::geteuid().is_root() {
            return;
        }
        chown(&code, Some(12_345), None).unwrap();
        assert!(store.load(host.engine(), &code, &name).is_none(), "another's code");
        let before = fs::read(path.join("key")).unwrap();
        chown(path.join("key"), Some(12_345), None).unwrap();
        assert_ne!(Store::open(&path).unwrap().key.to_vec(), before, "another's key");
        chown(&path, Some(12_345), None).unwrap();
        let refusal = Host::new(Some(&path)).unwrap_err();
        assert!(refusal.contains("belongs to another user"), "{refusal}");
    }

    #[test]
    fn a_store_that_others_can_reach_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), open).unwrap();
        let refusal = Host::new(Some(folder.path())).unwrap_err();
        assert!(refusal.contains("chmod 700"), "{refusal}");
    }
}
