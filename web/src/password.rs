//! The password: a file with its Argon2id hash, and the check of what clients send.

use std::collections::HashMap;
use std::fs::Permissions;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use argon2::password_hash::phc::{PasswordHash, Salt};
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Argon2, Params};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tokio::sync::Semaphore;

use crate::error::WebError;

/// Shortest and longest password in bytes.
const LENGTHS: std::ops::RangeInclusive<usize> = 8..=1024;
/// Largest password file.
const MAX_BYTES: u64 = 4096;
/// Largest memory (KiB), passes and lanes of a hash that is checked.
const MAX_COST: [u32; 3] = [65_536, 16, 8];
/// Wrong passwords of one address before it has to wait, and the pause for each further one.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(10);
/// Addresses whose wrong passwords are counted; with more, the oldest is forgotten.
const ADDRESSES: usize = 1024;
/// How long a client waits while the passwords of others are checked.
const PATIENCE: Duration = Duration::from_secs(5);

/// Writes a hash of `password` to `path`, readable for its owner alone. The password is at least 8 bytes long.
///
/// # Errors
/// [`WebError::Password`], [`WebError::PasswordFile`].
pub fn write_password_file(path: &Path, password: &str) -> Result<(), WebError> {
    if !LENGTHS.contains(&password.len()) {
        return Err(WebError::Password(format!(
            "expected {} to {} bytes, found {}",
            LENGTHS.start(),
            LENGTHS.end(),
            password.len()
        )));
    }
    let hash: PasswordHash = Argon2::default()
        .hash_password(password.as_bytes())
        .map_err(|e| WebError::Password(e.to_string()))?;
    let write = || {
        let private = Permissions::from_mode(0o600);
        if path.is_file() {
            // The new file has the permissions of the old one.
            std::fs::set_permissions(path, private.clone())?;
        }
        let mut file = pinhole_fs::AtomicFile::create(path)?;
        file.file().set_permissions(private)?;
        writeln!(file.file(), "{hash}")?;
        file.replace()
    };
    write().map_err(|e| file_error(path, format!("cannot write: {e}")))
}

/// Reads a password from a line of standard input, and writes its hash as [`write_password_file`] does. Where a person types
/// it, `ask` is called first, with what to ask.
///
/// # Errors
/// [`WebError::Password`], [`WebError::PasswordFile`].
pub fn set_password(path: &Path, ask: impl FnOnce(&str)) -> Result<(), WebError> {
    let input = std::io::stdin();
    if input.is_terminal() {
        ask("Password for the page, at least 8 characters, then Enter (it is shown as you type):");
    }
    let mut line = String::new();
    // More is too long anyway.
    let read = input
        .lock()
        .take(2 * *LENGTHS.end() as u64)
        .read_line(&mut line);
    read.map_err(|e| WebError::Password(format!("standard input: cannot read it: {e}")))?;
    write_password_file(path, line.trim_end_matches(['\r', '\n']))
}

fn file_error(path: &Path, reason: String) -> WebError {
    WebError::PasswordFile {
        path: path.to_owned(),
        reason,
    }
}

/// A password's hash, as a file holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPassword {
    path: PathBuf,
    hash: String,
}

impl StoredPassword {
    /// Reads a file that [`write_password_file`] wrote.
    ///
    /// # Errors
    /// [`WebError::PasswordFile`]: it cannot be read, others than its owner may read it, or it holds something else.
    pub fn read(path: &Path) -> Result<Self, WebError> {
        let wrong = |reason| file_error(path, reason);
        let file = std::fs::File::open(path).map_err(|e| {
            wrong(format!(
                "cannot read: {e}; `pinhole serve --set-password FILE` writes it"
            ))
        })?;
        let mode = file.metadata().map_err(|e| wrong(e.to_string()))?;
        let mode = mode.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(wrong(format!(
                "expected permissions for its owner alone, found {mode:04o}; `chmod 600` sets them"
            )));
        }
        let mut text = String::new();
        let read = file.take(MAX_BYTES).read_to_string(&mut text);
        read.map_err(|e| wrong(format!("cannot read: {e}")))?;
        let hash = text.trim().to_owned();
        check_hash(&hash).map_err(wrong)?;
        Ok(Self {
            path: path.to_owned(),
            hash,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Checks that a text is a hash that can be verified within bounds of memory and time.
///
/// # Errors
/// What was expected and found.
pub fn check_hash(text: &str) -> Result<(), String> {
    let expected = "expected an Argon2 hash as `pinhole serve --set-password FILE` writes it";
    let hash =
        PasswordHash::new(text).map_err(|e| format!("{expected}, found something else: {e}"))?;
    if !hash.algorithm.as_str().starts_with("argon2") || hash.hash.is_none() {
        return Err(format!("{expected}, found one of {}", hash.algorithm));
    }
    let salt: Option<&Salt> = hash.salt.as_ref();
    let params = Params::try_from(&hash).map_err(|e| format!("{expected}: {e}"))?;
    let costs = [params.m_cost(), params.t_cost(), params.p_cost()];
    if salt.is_none() || costs.iter().zip(MAX_COST).any(|(cost, most)| *cost > most) {
        return Err(format!(
            "{expected}, with costs m, t and p of at most {MAX_COST:?}, found {costs:?}"
        ));
    }
    Ok(())
}

/// Why a client may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    Wrong,
    /// Too many wrong passwords from its address.
    Wait(Duration),
    /// Others are being checked.
    Busy,
}

/// Checks passwords.
pub(crate) struct Checker {
    hash: String,
    /// Random. Passwords that were right are remembered as hashes with it, so that only the first costs time.
    key: [u8; 32],
    known: Mutex<Option<[u8; 32]>>,
    attempts: Mutex<HashMap<IpAddr, Attempts>>,
    /// One check at a time: each takes 19 MiB of memory.
    hashing: Arc<Semaphore>,
}

#[derive(Clone, Copy)]
struct Attempts {
    wrong: u32,
    last: Instant,
}

impl Attempts {
    /// How long its address has to wait.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let until = self.last + PAUSE;
        (self.wrong >= ATTEMPTS && now < until).then(|| until - now)
    }
}

impl Checker {
    pub(crate) fn new(stored: StoredPassword) -> Result<Self, WebError> {
        // The salt of a hash nobody uses is as random as a key has to be.
        let random: PasswordHash = Argon2::default()
            .hash_password(stored.hash.as_bytes())
            .map_err(|e| WebError::Password(e.to_string()))?;
        Ok(Self {
            key: Sha256::digest(random.to_string()).into(),
            hash: stored.hash,
            known: Mutex::default(),
            attempts: Mutex::default(),
            hashing: Arc::new(Semaphore::new(1)),
        })
    }

    fn tag(&self, password: &str) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(self.key);
        hasher.update(password);
        hasher.finalize().into()
    }

    fn is_known(&self, tag: &[u8; 32]) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let equal: Choice = match &*known {
            Some(known) => known.ct_eq(tag),
            None => Choice::from(0),
        };
        equal.into()
    }

    /// Checks the password of a client. One that was right before costs no time and is not limited.
    pub(crate) async fn check(
        self: &Arc<Self>,
        password: &str,
        peer: IpAddr,
    ) -> Result<(), Denied> {
        let tag = self.tag(password);
        if self.is_known(&tag) {
            return Ok(());
        }
        self.may_try(peer)?;
        if !LENGTHS.contains(&password.len()) {
            self.count_wrong(peer);
            return Err(Denied::Wrong);
        }
        let permit = tokio::time::timeout(PATIENCE, self.hashing.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            return Err(Denied::Busy);
        };
        // Others of this address may have failed while it waited.
        self.may_try(peer)?;
        let (checker, password) = (self.clone(), password.to_owned());
        // It goes on when the client has disconnected, so it keeps the permit and counts.
        let right = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let right = checker.verify(&password);
            if right {
                checker.remember(tag, peer);
            } else {
                checker.count_wrong(peer);
            }
            right
        });
        match right.await {
            Ok(true) => Ok(()),
            _ => Err(Denied::Wrong),
        }
    }

    fn remember(&self, tag: [u8; 32], peer: IpAddr) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(tag);
        self.lock_attempts().remove(&network(peer));
    }

    fn verify(&self, password: &str) -> bool {
        let Ok(hash) = PasswordHash::new(&self.hash) else {
            return false;
        };
        (Argon2::default().verify_password(password.as_bytes(), &hash)).is_ok()
    }

    fn lock_attempts(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, Attempts>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_try(&self, peer: IpAddr) -> Result<(), Denied> {
        let now = Instant::now();
        let attempts = self.lock_attempts();
        match attempts.get(&network(peer)).and_then(|a| a.wait(now)) {
            Some(wait) => Err(Denied::Wait(wait)),
            None => Ok(()),
        }
    }

    fn count_wrong(&self, peer: IpAddr) {
        let (peer, now) = (network(peer), Instant::now());
        let mut attempts = self.lock_attempts();
        if attempts.len() >= ADDRESSES && !attempts.contains_key(&peer) {
            let oldest = attempts
                .iter()
                .min_by_key(|(_, a)| a.last)
                .map(|(ip, _)| *ip);
            oldest.map(|ip| attempts.remove(&ip));
        }
        let entry = attempts.entry(peer).or_insert(Attempts {
            wrong: 0,
            last: now,
        });
        // Long ago does not count.
        if now.duration_since(entry.last) > PAUSE * 30 {
            entry.wrong = 0;
        }
        entry.wrong = entry.wrong.saturating_add(1);
        entry.last = now;
    }
}

/// The address, or the /64 network of an IPv6 address, of which one client has as many addresses as it likes.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_private_and_holds_no_password() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "old").unwrap();
        write_password_file(&path, "correct horse").unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("$argon2id$v=19$m=") && !text.contains("horse"),
            "{text}"
        );
        StoredPassword::read(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let error = StoredPassword::read(&path).unwrap_err().to_string();
        assert!(
            error.contains("0640") && error.contains("chmod 600"),
            "{error}"
        );
        assert!(write_password_file(&path, "short").is_err());
        // A folder is left as it is.
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        let before = mode(folder.path());
        assert!(write_password_file(folder.path(), "correct horse").is_err());
        assert_eq!(mode(folder.path()), before);
    }

    #[test]
    fn hashes_that_cost_too_much_and_other_texts_are_refused() {
        let salt = "$c29tZXNhbHQ$";
        let hash = "iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A";
        let with = |params: &str| check_hash(&format!("$argon2id$v=19${params}{salt}{hash}"));
        with("m=19456,t=2,p=1").unwrap();
        for text in [
            "m=4000000,t=2,p=1",
            "m=19456,t=2000,p=1",
            "m=19456,t=2,p=100",
        ] {
            assert!(with(text).is_err(), "{text}");
        }
        for text in [
            "",
            "password",
            "$argon2id$v=19$m=19456,t=2,p=1",
            "$pbkdf2$i=1$c29tZXNhbHQ$c29tZXNhbHQ",
        ] {
            assert!(check_hash(text).is_err(), "{text}");
        }
    }

    /// If this fails, passwords can be guessed quickly, or guessing locks the owner out.
    #[test]
    fn wrong_passwords_are_limited_for_each_address_and_right_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        write_password_file(&path, "correct horse").unwrap();
        let checker = Arc::new(Checker::new(StoredPassword::read(&path).unwrap()).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let (a, b): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        runtime.block_on(async {
            for _ in 0..ATTEMPTS {
                assert_eq!(checker.check("incorrect", a).await, Err(Denied::Wrong));
            }
            let waits = |result| matches!(result, Err(Denied::Wait(_)));
            assert!(waits(checker.check("incorrect", a).await));
            assert!(waits(checker.check("correct horse", a).await));
            assert_eq!(checker.check("correct horse", b).await, Ok(()));
            // Known now, so that it costs nothing and is not limited.
            assert_eq!(checker.check("correct horse", a).await, Ok(()));
            assert_eq!(checker.check("", b).await, Err(Denied::Wrong));
        });
        // A client that disconnects while its password is checked does not escape the limit.
        let gone: IpAddr = [192, 0, 2, 3].into();
        for _ in 0..ATTEMPTS {
            runtime.block_on(async {
                let started = Duration::from_millis(20);
                let _ = tokio::time::timeout(started, checker.check("incorrect", gone)).await;
                drop(checker.hashing.acquire().await);
            });
        }
        let after = runtime.block_on(checker.check("incorrect", gone));
        assert!(matches!(after, Err(Denied::Wait(_))), "{after:?}");
        // A right password ends the count, also of an IPv6 address.
        let six: IpAddr = "2001:db8::1".parse().unwrap();
        checker.count_wrong(six);
        checker.remember([0; 32], six);
        assert!(!checker.lock_attempts().contains_key(&network(six)));
        for i in 0..3000u32 {
            checker.count_wrong(IpAddr::V4(i.into()));
        }
        assert!(checker.lock_attempts().len() <= ADDRESSES);
        assert_eq!(
            network("2001:db8::1".parse().unwrap()),
            network("2001:db8::2".parse().unwrap())
        );
    }
}
