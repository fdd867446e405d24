//! What a node keeps of its cluster: its key and certificate, the roots it trusts, how often its
//! agent has started, and the managers' state as it was told last.
//!
//! The key is there from the first step of joining, the rest from the last: a node that was
//! interrupted in between joins again with the same key.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use overlay_cluster::{
    id::{EpochName, Generation},
    identity::{
        node_key::NodeKey,
        pem::{self, CERTIFICATE},
        trust::TrustBundle,
    },
    log::view::{Update, View},
};

use super::{StateError, atomic_file, private_file};

const DIRECTORY: &str = "cluster";
const KEY: &str = "node.key";
const CERTIFICATE_FILE: &str = "node.crt";
const ROOTS: &str = "roots";
const GENERATION: &str = "generation";
const EPOCH: &str = "epoch";
const VIEW: &str = "view";
const LISTEN: &str = "listen";

const JOIN_AGAIN: &str = "restore it from a backup of this node, or leave and join again";

/// The files.
#[derive(Debug)]
pub struct Membership {
    directory: PathBuf,
}

/// What a member has on disk.
#[derive(Debug, Clone)]
pub struct Stored {
    pub key: NodeKey,
    /// DER.
    pub certificate: Vec<u8>,
    pub trust: TrustBundle,
    pub view: View,
}

impl Membership {
    pub fn new(state_dir: &Path) -> Self {
        Self {
            directory: state_dir.join(DIRECTORY),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn damaged(&self, name: &str, reason: impl ToString) -> StateError {
        StateError::Content {
            path: self.path(name),
            reason: reason.to_string(),
            remedy: JOIN_AGAIN,
        }
    }

    /// The node's key; `None` on a host that never began to join.
    pub fn key(&self) -> Result<Option<NodeKey>, StateError> {
        let Some(bytes) = private_file::read(&self.path(KEY))? else {
            return Ok(None);
        };
        let text = str::from_utf8(&bytes).map_err(|error| self.damaged(KEY, error))?;
        NodeKey::from_pem(text)
            .map(Some)
            .map_err(|error| self.damaged(KEY, error))
    }

    /// Keeps a new node's key. One that is there is never replaced: it is who the node is.
    pub fn keep_key(&self, key: &NodeKey) -> Result<(), StateError> {
        if self.key()?.is_some() {
            return Err(StateError::Content {
                path: self.path(KEY),
                reason: "holds the key of this node already".into(),
                remedy: "leave the cluster first",
            });
        }
        atomic_file::replace(&self.path(KEY), key.to_pem().as_bytes())
    }

    /// What the node has; `None` if it is no member.
    pub fn load(&self) -> Result<Option<Stored>, StateError> {
        let read = |name| private_file::read(&self.path(name));
        let (Some(key), Some(certificate), Some(roots), Some(view)) = (
            self.key()?,
            read(CERTIFICATE_FILE)?,
            read(ROOTS)?,
            read(VIEW)?,
        ) else {
            return Ok(None);
        };
        let text =
            str::from_utf8(&certificate).map_err(|error| self.damaged(CERTIFICATE_FILE, error))?;
        let certificate = pem::decode(CERTIFICATE, text)
            .map_err(|error| self.damaged(CERTIFICATE_FILE, error))?;
        let trust = postcard::from_bytes(&roots).map_err(|error| self.damaged(ROOTS, error))?;
        let view = match Update::decode(&view).map_err(|error| self.damaged(VIEW, error))? {
            Update::Whole(view) => *view,
            Update::Delta(_) => return Err(self.damaged(VIEW, "it is a difference, not a view")),
        };
        if view.node != key.node_id() {
            return Err(self.damaged(VIEW, format!("it is of node {}", view.node)));
        }
        Ok(Some(Stored {
            key,
            certificate: certificate.to_vec(),
            trust,
            view,
        }))
    }

    /// DER.
    pub fn keep_certificate(&self, certificate: &[u8]) -> Result<(), StateError> {
        let text = pem::encode(CERTIFICATE, certificate);
        atomic_file::replace(&self.path(CERTIFICATE_FILE), text.as_bytes())
    }

    pub fn keep_trust(&self, trust: &TrustBundle) -> Result<(), StateError> {
        let bytes = postcard::to_stdvec(trust).map_err(|error| self.damaged(ROOTS, error))?;
        atomic_file::replace(&self.path(ROOTS), &bytes)
    }

    pub fn keep_view(&self, view: &View) -> Result<(), StateError> {
        let bytes = Update::Whole(Box::new(view.clone())).encode();
        atomic_file::replace(&self.path(VIEW), &bytes)
    }

    /// Where the node takes others' connections, if an operator has said it.
    pub fn listen(&self) -> Result<Option<SocketAddr>, StateError> {
        let Some(bytes) = private_file::read(&self.path(LISTEN))? else {
            return Ok(None);
        };
        str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .map(Some)
            .ok_or_else(|| self.damaged(LISTEN, "is no address with a port"))
    }

    pub fn keep_listen(&self, listen: SocketAddr) -> Result<(), StateError> {
        atomic_file::replace(&self.path(LISTEN), format!("{listen}\n").as_bytes())
    }

    /// The number of this start of the agent: larger than every one before, also after a crash.
    pub fn start(&self) -> Result<Generation, StateError> {
        let next = Generation(self.generation()?.0.saturating_add(1));
        self.keep_generation(next)?;
        Ok(next)
    }

    fn generation(&self) -> Result<Generation, StateError> {
        let Some(bytes) = private_file::read(&self.path(GENERATION))? else {
            return Ok(Generation(0));
        };
        str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .map(Generation)
            .ok_or_else(|| self.damaged(GENERATION, "is no number"))
    }

    /// Keeps a number that is larger than the one kept: others know this node by it.
    pub fn keep_generation(&self, generation: Generation) -> Result<(), StateError> {
        let generation = generation.max(self.generation()?);
        atomic_file::replace(&self.path(GENERATION), format!("{generation}\n").as_bytes())
    }

    /// The newest epoch that an agent of this node has seen.
    pub fn newest_epoch(&self) -> Result<Option<EpochName>, StateError> {
        let Some(bytes) = private_file::read(&self.path(EPOCH))? else {
            return Ok(None);
        };
        postcard::from_bytes(&bytes)
            .map(Some)
            .map_err(|error| self.damaged(EPOCH, error))
    }

    /// Keeps the newer of the epoch kept and this one.
    pub fn keep_epoch(&self, epoch: EpochName) -> Result<(), StateError> {
        let newest = self.newest_epoch()?.map_or(epoch, |kept| kept.max(epoch));
        let bytes = postcard::to_stdvec(&newest).map_err(|error| self.damaged(EPOCH, error))?;
        atomic_file::replace(&self.path(EPOCH), &bytes)
    }

    /// Forgets the cluster, the key last: a node that was interrupted here forgets the rest the next
    /// time.
    pub fn forget(&self) -> Result<(), StateError> {
        for name in [
            VIEW,
            EPOCH,
            ROOTS,
            CERTIFICATE_FILE,
            GENERATION,
            LISTEN,
            KEY,
        ] {
            atomic_file::remove(&self.path(name))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use overlay_cluster::{
        id::ClusterId,
        identity::{
            Role,
            authority::{Authority, Validity},
        },
    };
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;
    use crate::{plan::testing, state::atomic_file::testing::Directory};

    /// The files of a member, and what is in them.
    fn member(directory: &Directory) -> (Membership, Stored) {
        let mut rng = StdRng::seed_from_u64(1);
        let (validity, now) = (Validity::default(), testing::TIME);
        let cluster = ClusterId::from_bytes([7; 16]);
        let authority = Authority::generate(cluster, &validity, now, &mut rng).unwrap();
        let key = NodeKey::generate(&mut rng);
        let certificate = authority
            .issue(&key.public(), Role::Worker, &validity, now, &mut rng)
            .unwrap();
        let view = View {
            node: key.node_id(),
            ..testing::view()
        };
        let stored = Stored {
            key,
            certificate,
            trust: TrustBundle::new(authority.root().clone()),
            view,
        };
        let files = Membership::new(directory.path());
        files.keep_key(&stored.key).unwrap();
        files.keep_certificate(&stored.certificate).unwrap();
        files.keep_trust(&stored.trust).unwrap();
        assert!(files.load().unwrap().is_none(), "not yet whole");
        files.keep_view(&stored.view).unwrap();
        (files, stored)
    }

    #[test]
    fn a_member_finds_again_what_it_kept() {
        let directory = Directory::new();
        let (files, kept) = member(&directory);
        let found = files.load().unwrap().unwrap();
        assert_eq!(found.key.node_id(), kept.key.node_id());
        assert_eq!(found.certificate, kept.certificate);
        assert_eq!((found.trust, found.view), (kept.trust, kept.view));
    }

    #[test]
    fn a_host_without_files_is_no_member() {
        let directory = Directory::new();
        let files = Membership::new(directory.path());
        assert!(files.key().unwrap().is_none());
        assert!(files.load().unwrap().is_none());
        assert_eq!(files.newest_epoch().unwrap(), None);
        files.forget().unwrap();
    }

    #[test]
    fn each_start_has_a_larger_number() {
        let directory = Directory::new();
        let files = Membership::new(directory.path());
        assert_eq!(files.start().unwrap(), Generation(1));
        assert_eq!(files.start().unwrap(), Generation(2));
        files.keep_generation(Generation(9)).unwrap();
        files.keep_generation(Generation(3)).unwrap();
        assert_eq!(files.start().unwrap(), Generation(10));
    }

    #[test]
    fn the_newest_epoch_stays() {
        let directory = Directory::new();
        let files = Membership::new(directory.path());
        let epoch = |incarnation, number| EpochName {
            incarnation,
            number,
            hash: [1; 8],
        };
        files.keep_epoch(epoch(1, 3)).unwrap();
        files.keep_epoch(epoch(0, 9)).unwrap();
        assert_eq!(files.newest_epoch().unwrap(), Some(epoch(1, 3)));
    }

    #[test]
    fn a_key_is_never_replaced_and_leaving_forgets_it() {
        let directory = Directory::new();
        let (files, kept) = member(&directory);
        let error = files.keep_key(&kept.key).unwrap_err().to_string();
        assert!(error.contains("leave the cluster first"), "{error}");
        files.forget().unwrap();
        assert!(files.key().unwrap().is_none());
        files.keep_key(&kept.key).unwrap();
    }

    #[test]
    fn a_file_that_others_may_read_and_a_damaged_one_are_named() {
        let directory = Directory::new();
        let (files, _) = member(&directory);
        let directory = directory.path().join(DIRECTORY);
        for name in [KEY, CERTIFICATE_FILE, ROOTS, VIEW] {
            let path = directory.join(name);
            let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode));
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
                0o600
            );
            mode(0o644).unwrap();
            let error = files.load().unwrap_err().to_string();
            assert!(
                error.contains(name) && error.contains("chmod 600"),
                "{error}"
            );
            mode(0o600).unwrap();
            let whole = fs::read(&path).unwrap();
            fs::write(&path, &whole[..whole.len() / 2]).unwrap();
            let error = files.load().unwrap_err().to_string();
            assert!(
                error.contains(name) && error.contains("join again"),
                "{error}"
            );
            fs::write(&path, &whole).unwrap();
            files.load().unwrap();
        }
    }

    #[test]
    fn a_view_of_another_node_is_refused() {
        let directory = Directory::new();
        let (files, _) = member(&directory);
        files.keep_view(&testing::view()).unwrap();
        let error = files.load().unwrap_err().to_string();
        assert!(error.contains("it is of node"), "{error}");
    }
}
