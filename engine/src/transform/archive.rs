//! Generations, kept from start to start: the code of their plugins under its own digest,
//! and what attaches it to tables, so that a transaction that is published in part is
//! finished by what began it although the files have changed since.
//!
//! An entry says of masking keys their names, check values and where they were found, and
//! never holds one. It carries an HMAC under the key of the store of compiled code, and
//! lies in a folder that this service's user alone can read (0700, files 0600): rules that
//! this service did not write are not run. What can go wrong: the folder was lost, emptied
//! or tampered with, or cannot be written; each is told with what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::config::{Config, KeySource, Plugins};
use super::coverage::Coverage;
use super::error::LoadError;
use super::host::hex;
use super::keys::Key;
use super::seal::DeadKey;
use super::store::{self, Store};

const ENTRY: &str = "generation";
const CODE: &str = "wasm";
/// Hexadecimal digits of a SHA-256.
const DIGEST_CHARS: usize = 64;

/// All that a generation is made of, but its keys.
#[derive(Clone)]
pub struct Kept {
    /// Its digest when it was loaded first.
    pub(super) digest: String,
    /// Bindings and policies, without what confirmed them.
    pub(super) config: Config,
    /// The `.wasm` of each binding, by its name.
    pub(super) code: BTreeMap<String, Arc<[u8]>>,
    /// Check values of the keys it uses, by name.
    pub(super) keys: BTreeMap<String, String>,
    /// Check value of the key that it seals letters under, if there is one.
    pub(super) dead: Option<String>,
    /// What it covers.
    pub(super) coverage: Coverage,
}

/// Where keys are by the configuration in force.
#[derive(Clone, Debug, Default)]
pub struct KeySources {
    /// Masking keys, by name.
    pub keys: BTreeMap<String, KeySource>,
    /// The key that letters are sealed under.
    pub dead: Option<KeySource>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({})", self.digest)
    }
}

/// A [`Kept`] as it is written; code stands beside it.
#[derive(Serialize, Deserialize)]
struct Entry {
    digest: String,
    config: Config,
    code: BTreeMap<String, String>,
    keys: BTreeMap<String, String>,
    #[serde(default)]
    dead: Option<String>,
    coverage: Coverage,
}

impl Kept {
    /// Without what confirms something, and without what is this process's: where plugins are.
    /// Where keys were stays: that is looked at once more where they are nowhere else.
    pub(super) fn config(config: &Config) -> Config {
        let (accept_unmask, accept) = (false, None);
        Config { accept_unmask, accept, plugins: Plugins::default(), ..config.clone() }
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Its bindings and policies.
    #[must_use]
    pub fn settings(&self) -> &Config {
        &self.config
    }

    /// The same with what it was found to cover since.
    #[must_use]
    pub fn covering(self, coverage: Coverage) -> Kept {
        Kept { coverage, ..self }
    }

    /// The key that it seals letters under, from wherever it is now; if it is nowhere, the one
    /// of the file in force, which whoever opens them has. A letter can be sealed or not:
    /// what it has of keys keeps no generation from going on.
    pub(super) fn read_dead(
        &self,
        known: &KeySources,
        warnings: &mut Vec<String>,
    ) -> Option<DeadKey> {
        let own = self.config.dead_letter_key.as_ref()?;
        let sources = known.dead.iter().chain([own]);
        let mut found: Vec<DeadKey> = sources.filter_map(|s| DeadKey::read(s).ok()).collect();
        let same = |key: &DeadKey| self.dead.as_ref().is_none_or(|was| was == key.check_value());
        if let Some(at) = found.iter().position(same) {
            return Some(found.swap_remove(at));
        }
        let found = found.into_iter().next();
        warnings.push(match &found {
            Some(_) => "dead_letter_key is another one than this generation was loaded with: \
                        letters are sealed under the new one"
                .to_owned(),
            None => "dead_letter_key is not there any more: a row that is to be set aside stops \
                     the stream until it is put back"
                .to_owned(),
        });
        found
    }

    /// Its keys, from wherever they are now: `known` are those of the file in force.
    pub(super) fn read_keys(
        &self,
        known: &KeySources,
        errors: &mut Vec<LoadError>,
    ) -> BTreeMap<String, Arc<Key>> {
        let mut keys = BTreeMap::new();
        for name in self.config.keys.keys() {
            // Where the check value is the same, so is the key, whatever it is called there.
            let own = self.config.keys.get(name);
            let sources = known.keys.get(name).into_iter().chain(own);
            let found = sources.chain(known.keys.values()).filter_map(|s| Key::read(name, s).ok());
            let check = self.keys.get(name);
            let mut found = found.filter(|key| check.is_none_or(|c| c == key.check_value()));
            match (found.next(), check) {
                (Some(key), _) => drop(keys.insert(name.clone(), Arc::new(key))),
                // None of its bindings uses it.
                (None, None) => {}
                (None, Some(check)) => errors.push(LoadError::whole(
                    "keys",
                    format!(
                        "key `{name}` with the check value {check} is not there any more: put it \
                         back"
                    ),
                )),
            }
        }
        keys
    }
}

/// The folder of kept generations of one service.
pub struct Archive {
    folder: PathBuf,
    store: Store,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Archive {
    /// Opens the part of a store (`plugins.store`) that belongs to the service `whose`,
    /// making it if need be.
    ///
    /// # Errors
    /// It cannot be made, or others can reach into it.
    pub fn open(folder: &Path, whose: &str) -> Result<Arc<Archive>, String> {
        let store = Store::open(folder)?;
        let name = hex(&Sha256::digest(whose)[..8]);
        let folder = folder.join(format!("generations-{name}"));
        store::private_folder(&folder)?;
        Ok(Arc::new(Archive { folder, store }))
    }

    /// Writes a generation down, durably: from here on it can be had again.
    ///
    /// # Errors
    /// It cannot be written; nothing may be published by it then.
    pub fn keep(&self, kept: &Kept) -> Result<(), String> {
        let mut code = BTreeMap::new();
        for (binding, wasm) in &kept.code {
            let sha256 = hex(&Sha256::digest(wasm));
            let path = self.path(&sha256, CODE);
            if !fs::read(&path).is_ok_and(|there| there == **wasm) {
                store::write(&path, wasm).map_err(|e| self.says(&e))?;
            }
            code.insert(binding.clone(), sha256);
        }
        let entry = Entry {
            digest: kept.digest.clone(),
            config: kept.config.clone(),
            code,
            keys: kept.keys.clone(),
            dead: kept.dead.clone(),
            coverage: kept.coverage.clone(),
        };
        let text = serde_json::to_vec(&entry).map_err(|e| self.says(&e))?;
        let mut bytes = hex(&self.store.mac(ENTRY, &text)).into_bytes();
        bytes.push(b'\n');
        bytes.extend(text);
        store::write(&self.path(&kept.digest, ENTRY), &bytes).map_err(|e| self.says(&e))?;
        fs::File::open(&self.folder).and_then(|f| f.sync_all()).map_err(|e| self.says(&e))
    }

    /// A generation by its digest.
    ///
    /// # Errors
    /// Why it cannot be had, and what that means.
    pub fn find(&self, digest: &str) -> Result<Kept, String> {
        let lost = |what: &str| {
            format!(
                "{what} in plugins.store ({}); if the folder was lost, put its copy back, or the \
                 former plugins and rules",
                self.folder.display()
            )
        };
        if !is_digest(digest) {
            return Err(lost("the checkpoint names no generation that could be kept"));
        }
        let short = &digest[..12];
        let path = self.path(digest, ENTRY);
        let entry = self.entry(&path);
        let entry = entry.ok_or_else(|| lost(&format!("generation {short} is not kept")))?;
        let mut code = BTreeMap::new();
        for (binding, sha256) in &entry.code {
            let wasm = fs::read(self.path(sha256, CODE)).unwrap_or_default();
            if hex(&Sha256::digest(&wasm)) != *sha256 {
                return Err(lost(&format!("the plugin of `{binding}` (SHA-256 {sha256}) is not")));
            }
            code.insert(binding.clone(), Arc::from(wasm));
        }
        let Entry { digest, config, keys, dead, coverage, .. } = entry;
        Ok(Kept { digest, config, code, keys, dead, coverage })
    }

    /// Forgets all but these and the `newest` ones; says which plugins are still used, by
    /// their SHA-256. What cannot be removed only takes room.
    pub fn collect(&self, named: &BTreeSet<String>, newest: usize) -> BTreeSet<String> {
        let mut entries: Vec<(SystemTime, PathBuf)> = self
            .files(ENTRY)
            .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
            .collect();
        entries.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        let mut used = BTreeSet::new();
        for (at, (_, path)) in entries.iter().enumerate() {
            let digest = path.file_stem().unwrap_or_default().to_string_lossy();
            if at >= newest && !named.contains(&*digest) {
                let _ = fs::remove_file(path);
            } else if let Some(entry) = self.entry(path) {
                used.extend(entry.code.into_values());
            } else if named.contains(&*digest) {
                // Whatever it needs may still be repaired.
                let all = self.files(CODE).filter_map(|path| stem(&path));
                return all.collect();
            }
        }
        for path in self.files(CODE) {
            let sha256 = path.file_stem().unwrap_or_default().to_string_lossy();
            if !used.contains(&*sha256) {
                let _ = fs::remove_file(&path);
            }
        }
        used
    }

    /// What one file says, if this store wrote it.
    fn entry(&self, path: &Path) -> Option<Entry> {
        let bytes = fs::read(path).ok().filter(|_| store::private(path))?;
        let (mac, text) = bytes.split_at_checked(DIGEST_CHARS)?;
        let text = text.strip_prefix(b"\n")?;
        let same = hex(&self.store.mac(ENTRY, text));
        let ours = bool::from(subtle::ConstantTimeEq::ct_eq(same.as_bytes(), mac));
        let entry: Entry = serde_json::from_slice(text).ok().filter(|_| ours)?;
        (path.file_stem()? == entry.digest.as_str()).then_some(entry)
    }

    fn files(&self, extension: &'static str) -> impl Iterator<Item = PathBuf> {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        files.map(|file| file.path()).filter(move |p| p.extension().is_some_and(|e| e == extension))
    }

    fn path(&self, digest: &str, extension: &str) -> PathBuf {
        self.folder.join(format!("{digest}.{extension}"))
    }

    fn says(&self, error: &dyn fmt::Display) -> String {
        format!("plugins.store {}: {error}", self.folder.display())
    }
}

fn stem(path: &Path) -> Option<String> {
    Some(path.file_stem()?.to_string_lossy().into_owned())
}

fn is_digest(text: &str) -> bool {
    text.len() == DIGEST_CHARS && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::testing::{Guest, Setup, catalog, host, insert, said, shown, users};
    use super::super::{Chain, Generation, Options, load, restore};
    use super::*;

    fn masks(fake: &str) -> Guest {
        let sides = [kasho_plugin_sdk::batch::Image::New];
        Guest::new(&[("email", "mask"), ("id", "pass")]).masks(fake, &sides)
    }

    fn open(setup: &Setup) -> Arc<Archive> {
        Archive::open(&setup.folder.path().join("store"), "kasho kasho_slot").unwrap()
    }

    fn entry_of(archive: &Archive, digest: &str) -> PathBuf {
        archive.path(digest, ENTRY)
    }

    #[test]
    fn a_generation_is_had_again_although_its_files_are_gone() {
        let mut setup = Setup::new(&masks("kept"));
        let key = setup.folder.path().join("key");
        fs::write(&key, "11".repeat(16) + &"22".repeat(16)).unwrap();
        setup.config.keys.insert("k1".to_owned(), KeySource::File(key.clone()));
        setup.config.accept_unmask = true;
        setup.binding().rules =
            toml::from_str("since = 1979-05-27\nlist = [1, 2.5]\n[deep]\nx = \"${y}\"").unwrap();
        let generation = setup.load(&catalog(&[&users()])).unwrap();
        let archive = open(&setup);
        archive.keep(generation.kept()).unwrap();
        for (path, mode) in [
            (archive.folder.clone(), 0o700),
            (entry_of(&archive, generation.digest()), 0o600),
            (archive.files(CODE).next().unwrap(), 0o600),
        ] {
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, mode, "{}", path.display());
        }
        let text = fs::read(entry_of(&archive, generation.digest())).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(!text.contains("1111") && text.contains(generation.key_checks()["k1"].as_str()));
        setup.write("mask.wasm", b"something else");
        let again = open(&setup).find(generation.digest()).unwrap();
        assert!(!again.config.accept_unmask);
        assert_eq!(again.config.transform, generation.kept().config.transform);
        let restored = restore(&host(), &again, &KeySources::default(), &catalog(&[&users()]), 7);
        let restored = restored.unwrap_or_else(|e| panic!("{}", said(&e)));
        assert_eq!((restored.number(), restored.digest()), (7, generation.digest()));
        assert_eq!(restored.coverage(), generation.coverage());
        let mut batch = insert("ada@secret");
        Chain::new(Arc::new(restored)).apply(&mut batch).unwrap();
        assert!(shown(&batch)[0].contains("kept"));
        // A key that is another one now is not taken for it, one that moved is found.
        let elsewhere = setup.folder.path().join("moved");
        fs::rename(&key, &elsewhere).unwrap();
        fs::write(&key, "33".repeat(16) + &"44".repeat(16)).unwrap();
        let none = restore(&host(), &again, &KeySources::default(), &catalog(&[&users()]), 7);
        assert!(said(&none.unwrap_err()).contains("key `k1` with the check value"));
        let keys = BTreeMap::from([("other".to_owned(), KeySource::File(elsewhere))]);
        let moved = KeySources { keys, dead: None };
        restore(&host(), &again, &moved, &catalog(&[&users()]), 7).unwrap();
    }

    #[test]
    fn letters_are_sealed_under_the_key_of_then_wherever_it_is_now() {
        let mut setup = Setup::new(&masks("kept"));
        let file = setup.folder.path().join("dead");
        fs::write(&file, "11".repeat(16) + &"22".repeat(16)).unwrap();
        setup.config.dead_letter_key = Some(KeySource::File(file.clone()));
        let generation = setup.load(&catalog(&[&users()])).unwrap();
        let was = generation.dead.as_ref().unwrap().check_value().to_owned();
        open(&setup).keep(generation.kept()).unwrap();
        let kept = open(&setup).find(generation.digest()).unwrap();
        let elsewhere = setup.folder.path().join("moved");
        let moved =
            KeySources { dead: Some(KeySource::File(elsewhere.clone())), ..KeySources::default() };
        let sealing = |known: &KeySources| {
            let tables = catalog(&[&users()]);
            let restored = restore(&host(), &kept, known, &tables, 7).unwrap();
            let options = Options { kept: Some((&kept, known)), ..Options::default() };
            let again = load(&host(), kept.settings(), &tables, options).unwrap();
            let check = |g: &Generation| g.dead.as_ref().map(|key| key.check_value().to_owned());
            assert_eq!(check(&restored), check(&again));
            assert_eq!(restored.warnings(), again.warnings());
            (check(&restored), restored.warnings().join("; "))
        };
        assert_eq!(sealing(&KeySources::default()), (Some(was.clone()), String::new()));
        // It has moved, and another one stands where it was.
        fs::rename(&file, &elsewhere).unwrap();
        fs::write(&file, "33".repeat(16) + &"44".repeat(16)).unwrap();
        assert_eq!(sealing(&moved), (Some(was.clone()), String::new()));
        let (other, told) = sealing(&KeySources::default());
        assert!(other.is_some_and(|other| other != was) && told.contains("another one"), "{told}");
        // It is nowhere: the stream goes on as long as nothing has to be set aside.
        fs::remove_file(&file).unwrap();
        fs::remove_file(&elsewhere).unwrap();
        let (none, told) = sealing(&moved);
        assert!(none.is_none() && told.contains("is not there any more"), "{told}");
    }

    #[test]
    fn what_was_tampered_with_or_lost_is_not_run() {
        let setup = Setup::new(&masks("kept"));
        let generation = setup.load(&catalog(&[&users()])).unwrap();
        let archive = open(&setup);
        archive.keep(generation.kept()).unwrap();
        let digest = generation.digest();
        let (entry, code) = (entry_of(&archive, digest), archive.files(CODE).next().unwrap());
        archive.find(digest).unwrap();
        let told = archive.find(&"0".repeat(64)).unwrap_err();
        assert!(told.contains("is not kept in plugins.store"), "{told}");
        assert!(archive.find("../../x").unwrap_err().contains("names no generation"));
        let whole = fs::read(&entry).unwrap();
        let changed = String::from_utf8(whole.clone()).unwrap().replace("halt", "pass");
        for bad in [changed.as_bytes(), &whole[..whole.len() / 2], b""] {
            fs::write(&entry, bad).unwrap();
            assert!(archive.find(digest).unwrap_err().contains("is not kept"));
        }
        fs::write(&entry, &whole).unwrap();
        archive.find(digest).unwrap();
        fs::write(&code, masks("other").wasm()).unwrap();
        assert!(archive.find(digest).unwrap_err().contains("the plugin of `mask`"));
        archive.keep(generation.kept()).unwrap();
        // Another service's store, or another store's entry, is another.
        let other = Archive::open(&setup.folder.path().join("store"), "other").unwrap();
        assert!(other.find(digest).is_err());
    }

    #[test]
    fn all_but_the_named_and_the_newest_are_forgotten() {
        let setup = Setup::new(&masks("one"));
        let archive = open(&setup);
        let mut digests = Vec::new();
        for n in 0..6 {
            setup.write("mask.wasm", &masks(&format!("fake{n}")).wasm());
            let generation = setup.load(&catalog(&[&users()])).unwrap();
            archive.keep(generation.kept()).unwrap();
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000 + n);
            let entry = entry_of(&archive, generation.digest());
            fs::File::open(entry).unwrap().set_modified(at).unwrap();
            digests.push(generation.digest().to_owned());
        }
        let used = archive.collect(&BTreeSet::from([digests[1].clone()]), 2);
        assert_eq!(used.len(), 3);
        let there: Vec<bool> = digests.iter().map(|d| archive.find(d).is_ok()).collect();
        assert_eq!(there, [false, true, false, false, true, true]);
        assert_eq!(archive.files(CODE).count(), 3);
    }
}
