//! What a manager keeps beside its membership: the key of its state, locked, and the store that is
//! sealed with it.
//!
//! The data key is locked with a disk key in a file beside it, or, with autolock, with an unlock key
//! that an operator has. Each change of the lock is one replaced file. What a crash leaves is opened
//! by the old key or by the new one, and a disk key that locks nothing is removed at the next start.
//!
//! An operator who changes to a new unlock key must have seen it before anything is lost: as long as
//! the agent runs it has the data key, and [`Manager::rotate_unlock_key`] gives another.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use overlay_cluster::{
    id::ClusterId,
    identity::unlock::{DataKey, DiskKey, Lock, LockKey, LockedKey, UnlockError, UnlockKey},
    secret::Secret,
};
use rand::CryptoRng;
use rustix::process::geteuid;
use zeroize::Zeroizing;

use super::{StateError, atomic_file, private_file};

const DIRECTORY: &str = "cluster/manager";
const LOCKED_KEY: &str = "data.key";
const DISK_KEY: &str = "disk.key";
const STORE: &str = "store.redb";

const JOIN_AGAIN: &str = "restore it from a backup of this host, or remove this manager from the cluster and join it again";

/// Why a manager's files are not opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    #[error(transparent)]
    State(#[from] StateError),
    /// The wrong key, or a damaged file.
    #[error(transparent)]
    Unlock(#[from] UnlockError),
    /// This host never was a manager, or is none any longer.
    #[error("this node is no manager: {} does not exist", path.display())]
    NotManager { path: PathBuf },
    /// A key is never replaced by another: what it has sealed would be lost.
    #[error(
        "{} has the key of a manager's state already: leave the cluster first", path.display()
    )]
    Exists { path: PathBuf },
    /// State without its key is of no use to anybody.
    #[error(
        "{} has a manager's state without its key: restore {LOCKED_KEY} beside it, or remove the store if it is not needed", path.display()
    )]
    StoreWithoutKey { path: PathBuf },
    /// There is no unlock key to change.
    #[error("autolock is off on this manager, so it has no unlock key: turn it on first")]
    NoAutolock,
}

/// The files of a manager.
#[derive(Debug)]
pub struct Manager {
    directory: PathBuf,
    cluster: ClusterId,
}

/// What a manager starts with.
#[derive(Debug)]
pub enum Opened {
    /// The key of its state.
    Open(DataKey),
    /// An operator must give the unlock key.
    Locked,
}

/// A manager's new files.
#[derive(Debug)]
pub struct Created {
    pub key: DataKey,
    /// For the operator, with autolock.
    pub unlock_key: Option<UnlockKey>,
}

impl Manager {
    pub fn new(state_dir: &Path, cluster: ClusterId) -> Self {
        Self {
            directory: state_dir.join(DIRECTORY),
            cluster,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The managers' log and state, sealed.
    pub fn store(&self) -> PathBuf {
        self.path(STORE)
    }

    /// Whether this host is a manager, locked or not.
    pub fn exists(&self) -> Result<bool, ManagerError> {
        Ok(self.locked_key()?.is_some())
    }

    /// What the state is locked with.
    pub fn lock(&self) -> Result<Lock, ManagerError> {
        Ok(self.present()?.lock())
    }

    /// Makes the key of a new manager's state, under a lock.
    pub fn create(&self, lock: Lock, rng: &mut impl CryptoRng) -> Result<Created, ManagerError> {
        if self.exists()? {
            let path = self.path(LOCKED_KEY);
            return Err(ManagerError::Exists { path });
        }
        let path = self.store();
        if fs::exists(&path).map_err(StateError::io("look at", &path))? {
            return Err(ManagerError::StoreWithoutKey { path });
        }
        atomic_file::create_directory(&self.directory)?;
        self.check_directory()?;
        let key = DataKey::generate(rng);
        let unlock_key = self.relock(&key, lock, rng)?;
        Ok(Created { key, unlock_key })
    }

    /// The key of the state, if no operator is needed for it.
    pub fn open(&self) -> Result<Opened, ManagerError> {
        let locked = self.present()?;
        self.check_directory()?;
        match locked.lock() {
            Lock::Unlock => {
                atomic_file::remove(&self.path(DISK_KEY))?;
                Ok(Opened::Locked)
            }
            Lock::Disk => {
                let key = self.disk_key()?;
                Ok(Opened::Open(
                    locked.unlock(LockKey::Disk(&key), self.cluster)?,
                ))
            }
        }
    }

    /// The key of a locked state.
    pub fn unlock(&self, key: &UnlockKey) -> Result<DataKey, ManagerError> {
        Ok(self.present()?.unlock(LockKey::Unlock(key), self.cluster)?)
    }

    /// Turns autolock on or off; `key` is that of the open state. The unlock key for the operator, if
    /// it is on now and was not.
    pub fn set_autolock(
        &self,
        on: bool,
        key: &DataKey,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<UnlockKey>, ManagerError> {
        let lock = if on { Lock::Unlock } else { Lock::Disk };
        if self.lock()? == lock {
            return Ok(None);
        }
        self.relock(key, lock, rng)
    }

    /// A new unlock key for the operator; the old one opens nothing from now on, but an old copy of
    /// the file.
    pub fn rotate_unlock_key(
        &self,
        key: &DataKey,
        rng: &mut impl CryptoRng,
    ) -> Result<UnlockKey, ManagerError> {
        match self.lock()? {
            Lock::Disk => Err(ManagerError::NoAutolock),
            Lock::Unlock => self
                .relock(key, Lock::Unlock, rng)?
                .ok_or(ManagerError::NoAutolock),
        }
    }

    /// Forgets the state, and then its keys: who was interrupted here forgets the rest the next time.
    pub fn forget(&self) -> Result<(), ManagerError> {
        for name in [STORE, LOCKED_KEY, DISK_KEY] {
            atomic_file::remove(&self.path(name))?;
        }
        if self.directory.exists() {
            atomic_file::sync_directory(&self.directory)?;
        }
        Ok(())
    }

    fn relock(
        &self,
        data: &DataKey,
        lock: Lock,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<UnlockKey>, ManagerError> {
        let write = |key: LockKey<'_>, rng: &mut _| {
            let locked = LockedKey::new(data, key, self.cluster, rng);
            atomic_file::replace(&self.path(LOCKED_KEY), &locked.to_bytes())
        };
        match lock {
            Lock::Disk => {
                // The key is there before anything is locked with it.
                let key = DiskKey::generate(rng);
                atomic_file::replace(&self.path(DISK_KEY), key.secret().expose())?;
                write(LockKey::Disk(&key), rng)?;
                Ok(None)
            }
            Lock::Unlock => {
                let key = UnlockKey::generate(rng);
                write(LockKey::Unlock(&key), rng)?;
                atomic_file::remove(&self.path(DISK_KEY))?;
                Ok(Some(key))
            }
        }
    }

    fn locked_key(&self) -> Result<Option<LockedKey>, ManagerError> {
        private_file::read(&self.path(LOCKED_KEY))?
            .map(|bytes| LockedKey::from_bytes(&bytes).map_err(Into::into))
            .transpose()
    }

    fn present(&self) -> Result<LockedKey, ManagerError> {
        self.locked_key()?.ok_or_else(|| ManagerError::NotManager {
            path: self.path(LOCKED_KEY),
        })
    }

    fn disk_key(&self) -> Result<DiskKey, ManagerError> {
        let path = self.path(DISK_KEY);
        let content = |reason: &str| StateError::Content {
            path: path.clone(),
            reason: reason.into(),
            remedy: JOIN_AGAIN,
        };
        let bytes = private_file::read(&path)?.ok_or_else(|| content("does not exist"))?;
        let key: [u8; Secret::LEN] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| content("is no key: it has another length"))?;
        let key = Zeroizing::new(key);
        Ok(DiskKey::new(Secret::new(*key)))
    }

    /// Whether nobody else can put files in the place of ours.
    fn check_directory(&self) -> Result<(), StateError> {
        let path = &self.directory;
        let metadata = fs::symlink_metadata(path).map_err(StateError::io("look at", path))?;
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
        if !metadata.is_dir() || owner != geteuid().as_raw() || mode & 0o077 != 0 {
            return Err(StateError::Content {
                path: path.clone(),
                reason: format!("others may use it (owner {owner}, mode {mode:04o})"),
                remedy: "`chown root:root` and `chmod 700` it, and consider the keys in it known",
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::{daemon::testing::rng, state::atomic_file::testing::Directory};

    const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

    fn manager(directory: &Directory) -> Manager {
        Manager::new(directory.path(), CLUSTER)
    }

    fn open(manager: &Manager) -> DataKey {
        match manager.open().unwrap() {
            Opened::Open(key) => key,
            Opened::Locked => panic!("it is locked"),
        }
    }

    fn is_locked(manager: &Manager) -> bool {
        matches!(manager.open(), Ok(Opened::Locked))
    }

    #[test]
    fn a_manager_starts_by_itself_with_the_disk_key() {
        let directory = Directory::new();
        let manager = manager(&directory);
        assert!(!manager.exists().unwrap());
        assert!(matches!(
            manager.open(),
            Err(ManagerError::NotManager { .. })
        ));
        let created = manager.create(Lock::Disk, &mut rng(1)).unwrap();
        assert_eq!(created.unlock_key, None);
        assert_eq!(open(&manager), created.key);
        for name in [LOCKED_KEY, DISK_KEY] {
            let mode = fs::metadata(manager.path(name)).unwrap().mode();
            assert_eq!(mode & 0o7777, 0o600, "{name}");
        }
        let mode = fs::metadata(&manager.directory).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o700);
        // Of another cluster.
        let other = Manager::new(directory.path(), ClusterId::from_bytes([8; 16]));
        assert!(matches!(other.open(), Err(ManagerError::Unlock(_))));
    }

    #[test]
    fn autolock_needs_the_operators_key() {
        let directory = Directory::new();
        let manager = manager(&directory);
        let created = manager.create(Lock::Unlock, &mut rng(1)).unwrap();
        let key = created.unlock_key.unwrap();
        assert!(is_locked(&manager));
        assert!(!manager.path(DISK_KEY).exists());
        assert_eq!(manager.unlock(&key).unwrap(), created.key);
        let wrong = manager.unlock(&UnlockKey::generate(&mut rng(9)));
        assert!(matches!(
            wrong,
            Err(ManagerError::Unlock(UnlockError::WrongKey { .. }))
        ));

        let next = manager
            .rotate_unlock_key(&created.key, &mut rng(2))
            .unwrap();
        assert!(manager.unlock(&key).is_err());
        assert_eq!(manager.unlock(&next).unwrap(), created.key);
    }

    #[test]
    fn autolock_is_turned_on_and_off_and_the_state_stays() {
        let directory = Directory::new();
        let manager = manager(&directory);
        let data = manager.create(Lock::Disk, &mut rng(1)).unwrap().key;
        assert!(matches!(
            manager.rotate_unlock_key(&data, &mut rng(2)),
            Err(ManagerError::NoAutolock)
        ));
        let off = manager.set_autolock(false, &data, &mut rng(2)).unwrap();
        assert_eq!(off, None, "as it was");
        assert_eq!(open(&manager), data);
        let key = manager.set_autolock(true, &data, &mut rng(3)).unwrap();
        assert!(is_locked(&manager) && !manager.path(DISK_KEY).exists());
        let again = manager.set_autolock(true, &data, &mut rng(4)).unwrap();
        assert_eq!(again, None, "the key stays");
        assert_eq!(manager.unlock(&key.unwrap()).unwrap(), data);
        manager.set_autolock(false, &data, &mut rng(5)).unwrap();
        assert_eq!(open(&manager), data);
    }

    #[test]
    fn a_crash_between_two_files_leaves_the_old_lock_or_the_new_one() {
        let directory = Directory::new();
        let manager = manager(&directory);
        let data = manager.create(Lock::Disk, &mut rng(1)).unwrap().key;
        let disk = fs::read(manager.path(DISK_KEY)).unwrap();
        let key = manager.set_autolock(true, &data, &mut rng(2)).unwrap();
        // The old disk key was not removed yet: it opens nothing, and goes.
        atomic_file::replace(&manager.path(DISK_KEY), &disk).unwrap();
        assert!(is_locked(&manager));
        assert!(!manager.path(DISK_KEY).exists());
        assert_eq!(manager.unlock(&key.unwrap()).unwrap(), data);
        // Autolock was to be turned off, and only the new disk key was written.
        atomic_file::replace(&manager.path(DISK_KEY), &[5; 32]).unwrap();
        assert!(is_locked(&manager));
    }

    #[test]
    fn a_key_is_never_replaced_and_no_store_is_left_without_one() {
        let directory = Directory::new();
        let manager = manager(&directory);
        let data = manager.create(Lock::Disk, &mut rng(1)).unwrap().key;
        assert!(matches!(
            manager.create(Lock::Disk, &mut rng(2)),
            Err(ManagerError::Exists { .. })
        ));
        assert_eq!(open(&manager), data);
        atomic_file::replace(&manager.store(), b"sealed").unwrap();
        atomic_file::remove(&manager.path(LOCKED_KEY)).unwrap();
        assert!(matches!(
            manager.create(Lock::Disk, &mut rng(2)),
            Err(ManagerError::StoreWithoutKey { .. })
        ));
        manager.forget().unwrap();
        manager.forget().unwrap();
        manager.create(Lock::Disk, &mut rng(2)).unwrap();
    }

    #[test]
    fn files_that_others_may_use_or_that_are_damaged_are_refused() {
        let directory = Directory::new();
        let manager = manager(&directory);
        manager.create(Lock::Disk, &mut rng(1)).unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        for name in [LOCKED_KEY, DISK_KEY] {
            set(&manager.path(name), 0o640);
            assert!(manager.open().is_err(), "{name}");
            set(&manager.path(name), 0o600);
        }
        set(&manager.directory, 0o770);
        let error = manager.open().unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
        set(&manager.directory, 0o700);
        atomic_file::replace(&manager.path(DISK_KEY), b"short").unwrap();
        let error = manager.open().unwrap_err().to_string();
        assert!(error.contains("another length"), "{error}");
        atomic_file::remove(&manager.path(DISK_KEY)).unwrap();
        let error = manager.open().unwrap_err().to_string();
        assert!(error.contains("does not exist"), "{error}");
    }
}
