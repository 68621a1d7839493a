//! Releases on this node's disk: manifests whose signature was checked, and whole files that match their digest.
//!
//! Everything here blocks on the disk. Nothing here speaks to the network.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::pack::PackedFolder;
use models::chunk::ChunkIndex;
use models::store::{Assembly, Store, StoreError};
use proto::ids::ContentHash;
use proto::manifest::{Manifest, Variant};
use proto::signed::{PublicKey, Signed, TrustError};

use super::machine::Target;
use super::package::Package;

/// The artifact store as this node uses it. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    store: Store,
    root: PathBuf,
    packed: PackedFolder,
    operators: Arc<[PublicKey]>,
}

/// Files of a release that are not whole yet.
#[derive(Debug)]
pub(super) struct Lack {
    pub(super) assemblies: Vec<Assembly>,
    /// Bytes that were found in other files on disk.
    pub(super) reused_bytes: u64,
    /// Bytes that must come over the network.
    pub(super) missing_bytes: u64,
}

impl Shelf {
    /// Opens the store in `root`; what is made of its models is kept in `packed`.
    pub(crate) fn open(root: &Path, packed: PackedFolder, operators: Vec<PublicKey>) -> Result<Self, StoreError> {
        Ok(Self {
            store: Store::open(root)?,
            root: root.to_owned(),
            packed,
            operators: operators.into(),
        })
    }

    /// Checks that `signed` is the manifest `id` and was signed by an operator.
    pub(super) fn trusted(&self, id: &ContentHash, signed: &Signed) -> Result<Arc<Manifest>, TrustError> {
        if signed.id() != *id {
            let what = format!("asked for manifest {id}, got {}", signed.id());
            return Err(proto::signed::DecodeError::Invalid { what }.into());
        }
        signed.open::<Manifest>(&self.operators, 1).map(Arc::new)
    }

    /// The manifest `id`, its signature checked again; `None` where there is none that is trusted.
    pub(super) fn manifest(&self, id: &ContentHash) -> Result<Option<Arc<Manifest>>, StoreError> {
        let signed = self.store.document(id)?;
        Ok(signed.and_then(|signed| self.trusted(id, &signed).ok()))
    }

    /// Keeps a manifest that was found good.
    pub(super) fn keep_manifest(&self, signed: &Signed) -> Result<(), StoreError> {
        self.store.put_document(signed).map(|_| ())
    }

    /// Begins or resumes every file that `variant` needs and that is not here; takes what other releases on disk hold.
    pub(super) fn lack(
        &self,
        manifest: &Manifest,
        variant: &Variant,
        known: &[Arc<Manifest>],
    ) -> Result<Lack, StoreError> {
        let mut index = ChunkIndex::default();
        for file in known
            .iter()
            .flat_map(|m| &m.files)
            .filter(|f| self.store.has(&f.blake3))
        {
            index.add(file);
        }
        let mut lack = Lack {
            assemblies: Vec::new(),
            reused_bytes: 0,
            missing_bytes: 0,
        };
        let mut begun = BTreeSet::new();
        for file in manifest.files_for(variant).filter(|f| !self.store.has(&f.blake3)) {
            if !begun.insert(file.blake3) {
                continue; // the same bytes under two names
            }
            let mut assembly = self.store.assemble(file)?;
            lack.reused_bytes += assembly.fill_from(&index)?;
            lack.missing_bytes += assembly.missing_bytes();
            lack.assemblies.push(assembly);
        }
        Ok(lack)
    }

    /// Hashes every file that `variant` needs. A changed one is removed, so that it is fetched again and never loaded.
    /// Gives how many are not whole.
    pub(super) fn unsound(&self, manifest: &Manifest, variant: &Variant) -> Result<usize, StoreError> {
        models::verify::missing_files(&self.store, manifest, variant).map(|files| files.len())
    }

    /// Where the files lie.
    pub(super) fn package(&self, manifest: &Arc<Manifest>, variant: &Variant) -> Package {
        let files = manifest
            .files_for(variant)
            .map(|f| (f.path.clone(), self.store.path(&f.blake3)))
            .collect();
        Package {
            manifest: Arc::clone(manifest),
            variant: variant.clone(),
            files,
            packed: self.packed.clone(),
        }
    }

    /// Bytes that may still be written here.
    pub(super) fn free_bytes(&self) -> std::io::Result<u64> {
        let fs = rustix::fs::statvfs(&self.root)?;
        Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
    }

    /// Removes every file and manifest that no release of `keep` needs; gives how many files went. Does nothing while a
    /// manifest of `keep` is not here, because then nobody knows its files.
    pub(super) fn sweep(&self, keep: &BTreeSet<Target>) -> Result<usize, StoreError> {
        let (mut files, mut documents) = (BTreeSet::new(), BTreeSet::new());
        for target in keep {
            let Some(manifest) = self.manifest(&target.manifest)? else {
                return Ok(0);
            };
            documents.insert(target.manifest);
            if let Some(variant) = manifest.variant(&target.variant) {
                files.extend(manifest.files_for(variant).map(|f| f.blake3));
            }
        }
        let mut swept = BTreeSet::new();
        for id in self.store.documents()?.into_iter().filter(|id| !documents.contains(id)) {
            // Its half-assembled files are known by nothing else.
            let manifest = self.manifest(&id)?;
            swept.extend(manifest.iter().flat_map(|m| &m.files).map(|f| f.blake3));
            self.store.remove_document(&id)?;
        }
        swept.extend(self.store.list()?);
        let swept: Vec<_> = swept.difference(&files).collect();
        swept.iter().try_for_each(|file| self.store.remove(file))?;
        if let Err(error) = self.packed.retain(|file| files.contains(file)) {
            tracing::warn!(%error, "could not remove packed weights of files that went");
        }
        Ok(swept.len())
    }
}
