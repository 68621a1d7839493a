//! The keys that answers lie under on disk, and whose an answer is.
//!
//! ```text
//!   tenant, model, person --hashed--> rows of the key file --hashed--> secret of an owner
//!                                                                       |-> names the questions: no name without it
//!                                                                       '-> with the stretch's row: seals the answers
//! ```
//! Every answer hangs on the rows of its tenant, its model, its tenant's model, its person if it has one, and the stretch
//! of time it was written in: whichever row is overwritten, the answer cannot be read again, wherever copies of it lie.
//! Since the question's own name hangs on the same secret, nobody who asks later comes upon it either, in memory, on
//! disk or in a flight: to forget is to overwrite one row.
//!
//! Rows are overwritten where they stand, not in a new file beside the old one: the old bytes are gone from the disk, as
//! far as its file system and firmware write in place (`docs/security.md`). A write that was cut short leaves a row that
//! opens nothing, which is what it was for.

pub(super) mod layout;

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use proto::ids::{ModelName, TenantId};
use proto::limits::{NAME_BYTES_MAX, SUBJECT_BYTES_MAX};
use proto::purge::Subject;
use ring::rand::{SecureRandom, SystemRandom};

use layout::{NAMES, ROW_BYTES, ROWS, Row, Table};

/// Whose an answer is: who asks which model, and about whom.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// Whose key it is.
    pub tenant: &'a TenantId,
    /// Whose data it is, if the tenant says.
    pub subject: Option<&'a Subject>,
}

/// What is to be forgotten.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// All answers of this node.
    All,
    /// Those of one model.
    Model(&'a ModelName),
    /// Those of one tenant.
    Tenant(&'a TenantId),
    /// Those of one tenant by one model.
    TenantModel(&'a TenantId, &'a ModelName),
    /// Those about one person, of whatever model.
    Subject(&'a TenantId, &'a Subject),
}

/// The rows of an owner: of the tenant, the model, the tenant's model and, if there is one, the person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slots([u16; 4]);

/// The owner of a question and its answer, under the keys that were in force when it was asked.
#[derive(Clone, Copy)]
pub(super) struct Owner {
    pub(super) slots: Slots,
    pub(super) secret: Row,
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Owner({:?})", self.slots)
    }
}

/// Stands in a [`Slots`] for no person: row 0 is nobody's.
const NOBODY: u16 = 0;
const _: () = assert!(ROWS <= 1 << 16);

/// The keys, in memory and in their file.
pub(super) struct Keys {
    rows: RwLock<Vec<Row>>,
    store: Mutex<Store>,
    random: SystemRandom,
}

/// Where the rows lie besides in memory.
enum Store {
    /// Nowhere: what they seal does not outlive the process.
    Nowhere,
    File(File),
    /// In a file that cannot be written: nothing can be forgotten for good.
    Lost,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// Keys of a node that keeps nothing on disk.
    pub(super) fn in_memory() -> Self {
        Self::of(random_rows(), Store::Nowhere)
    }
    /// The same, where something lies on disk that could not be removed.
    pub(super) fn lost() -> Self {
        Self::of(random_rows(), Store::Lost)
    }
    /// The keys in the file at `path`; `None` when there is no good one that only this user can read.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let meta = file.metadata()?;
        let whole = meta.len() == u64::try_from(ROWS * ROW_BYTES).unwrap_or(u64::MAX);
        if !whole || meta.permissions().mode() & 0o077 != 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; ROWS * ROW_BYTES];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(layout::read(&bytes).map(|rows| Self::of(rows, Store::File(file))))
    }
    /// New keys in a new file at `path`, durable when this returns.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let rows = random_rows();
        let beside = path.with_extension("tmp");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all_at(&rows.concat(), 0)?;
        models::durable::settle(&file, &beside, path)?;
        Ok(Self::of(rows, Store::File(file)))
    }
    fn of(rows: Vec<Row>, store: Store) -> Self {
        Self {
            rows: RwLock::new(rows),
            store: Mutex::new(store),
            random: SystemRandom::new(),
        }
    }

    /// The owner of what `asker` asks `model` from now on.
    pub(super) fn owner(&self, asker: Asker<'_>, model: &ModelName) -> Owner {
        let rows = self.read();
        let slots = Slots::of(&rows[NAMES], asker, model);
        Owner {
            slots,
            secret: slots.secret(&rows),
        }
    }
    /// The owner of decoded rows of what `asker` asks: of whatever model, and of nobody else, also where others share keys.
    pub(super) fn owner_of_rows(&self, asker: Asker<'_>) -> Owner {
        let rows = self.read();
        let Slots([tenant, _, _, person]) = Slots::of_asker(&rows[NAMES], asker);
        let slots = Slots([tenant, NOBODY, NOBODY, person]);
        let mut name = blake3::Hasher::new_keyed(&slots.secret(&rows));
        for part in [
            asker.tenant.as_str().as_bytes(),
            asker.subject.map_or(&[], |s| s.as_bytes()),
        ] {
            name.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            name.update(part);
        }
        Owner {
            slots,
            secret: *name.finalize().as_bytes(),
        }
    }
    /// What `scope` covers in memory, without forgetting anything.
    pub(super) fn rows_of(&self, scope: Scope<'_>) -> Forgotten {
        Forgotten(scope.row(&self.read()[NAMES]))
    }
    /// Does `work` if nothing of `owner` was forgotten since it was made, and lets nothing be forgotten meanwhile.
    pub(super) fn while_current<T>(&self, owner: &Owner, work: impl FnOnce() -> T) -> Option<T> {
        let rows = self.read();
        (owner.slots.secret(&rows) == owner.secret).then(work)
    }
    /// The key of a stretch of time.
    pub(super) fn stretch(&self, number: u64) -> Row {
        self.read()[Table::Stretches.row(number)]
    }
    /// Destroys the keys of past stretches.
    pub(super) fn forget_stretches(&self, numbers: &[u64]) -> io::Result<()> {
        let rows: Vec<usize> = numbers.iter().map(|&number| Table::Stretches.row(number)).collect();
        rows.iter().try_for_each(|&row| self.overwrite(row..row + 1))?;
        self.sync()
    }
    /// Destroys the keys of `scope`: in memory at once, and in the file for good when this returns. Gives the rows, by
    /// which memory knows what to drop, and how many keys that were in the file.
    pub(super) fn forget(&self, scope: Scope<'_>) -> (Forgotten, io::Result<u64>) {
        let row = scope.row(&self.read()[NAMES]);
        let rows = row.map_or(NAMES + 1..ROWS, |row| row..row + 1);
        let written = self.overwrite(rows.clone()).and_then(|()| self.sync());
        let in_file = !matches!(*self.store(), Store::Nowhere);
        let keys = if in_file { rows.len() } else { 0 };
        (
            Forgotten(row),
            written.map(|()| u64::try_from(keys).unwrap_or(u64::MAX)),
        )
    }

    /// One writer at a time: memory and file end with the same rows.
    fn overwrite(&self, rows: Range<usize>) -> io::Result<()> {
        let store = self.store();
        let mut bytes = vec![0; rows.len() * ROW_BYTES];
        self.random
            .fill(&mut bytes)
            .map_err(|_| io::Error::other("the system gives no random numbers"))?;
        let (fresh, _) = bytes.as_chunks::<ROW_BYTES>();
        self.rows.write().unwrap_or_else(PoisonError::into_inner)[rows.clone()].copy_from_slice(fresh);
        match &*store {
            Store::Nowhere => Ok(()),
            Store::File(file) => file.write_all_at(&bytes, u64::try_from(rows.start * ROW_BYTES).unwrap_or(u64::MAX)),
            Store::Lost => Err(io::Error::other("the keys on disk cannot be reached")),
        }
    }
    fn sync(&self) -> io::Result<()> {
        match &*self.store() {
            Store::File(file) => file.sync_data(),
            Store::Nowhere | Store::Lost => Ok(()),
        }
    }
    fn read(&self) -> RwLockReadGuard<'_, Vec<Row>> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which answers in memory are to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forgotten(Option<usize>);

impl Forgotten {
    pub(super) fn covers(self, slots: Slots) -> bool {
        self.0
            .is_none_or(|row| slots.0.iter().any(|&slot| usize::from(slot) == row))
    }
}

fn random_rows() -> Vec<Row> {
    let mut bytes = vec![0; ROWS * ROW_BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("a system that has started gives random numbers");
    // In tests the same names share rows in every run, so that what is nobody's luck in service is none there.
    if cfg!(test) {
        bytes[NAMES * ROW_BYTES..][..ROW_BYTES].fill(7);
    }
    layout::fresh(bytes.as_chunks::<ROW_BYTES>().0.to_vec())
}

/// Names as numbers that nobody can know who does not know the row of names.
mod named {
    use super::{ModelName, NAME_BYTES_MAX, Row, SUBJECT_BYTES_MAX, Subject, TenantId};

    pub(super) fn tenant(names: &Row, tenant: &TenantId) -> u64 {
        number::<{ NAME_BYTES_MAX + 1 }>(names, b't', tenant.as_str().as_bytes())
    }
    pub(super) fn model(names: &Row, model: &ModelName) -> u64 {
        number::<{ NAME_BYTES_MAX + 1 }>(names, b'm', model.as_str().as_bytes())
    }
    pub(super) fn subject(names: &Row, subject: &Subject) -> u64 {
        number::<{ SUBJECT_BYTES_MAX + 1 }>(names, b's', subject.as_bytes())
    }
    /// `N` is the longest name, and one byte for its kind.
    fn number<const N: usize>(names: &Row, kind: u8, name: &[u8]) -> u64 {
        let mut text = [0; N];
        let length = name.len().min(N - 1);
        text[0] = kind;
        text[1..=length].copy_from_slice(&name[..length]);
        let hash = blake3::keyed_hash(names, &text[..=length]);
        u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
    }
    /// Both in one: the finaliser of SplitMix64 (Steele, Lea and Flood 2014).
    pub(super) fn both(a: u64, b: u64) -> u64 {
        let z = a ^ b.rotate_left(32);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Scope<'_> {
    /// Its one row; `None` for all of them.
    fn row(&self, names: &Row) -> Option<usize> {
        Some(match *self {
            Self::All => return None,
            Self::Model(model) => Table::Models.row(named::model(names, model)),
            Self::Tenant(tenant) => Table::Tenants.row(named::tenant(names, tenant)),
            Self::TenantModel(tenant, model) => {
                Table::TenantModels.row(named::both(named::tenant(names, tenant), named::model(names, model)))
            }
            Self::Subject(tenant, subject) => Table::Subjects.row(named::both(
                named::tenant(names, tenant),
                named::subject(names, subject),
            )),
        })
    }
}

fn slot(row: usize) -> u16 {
    u16::try_from(row).unwrap_or(NOBODY)
}

impl Slots {
    /// Of nobody.
    #[cfg(test)]
    pub(super) const NONE: Self = Self([NOBODY; 4]);

    fn of(names: &Row, asker: Asker<'_>, model: &ModelName) -> Self {
        let (tenant, model) = (named::tenant(names, asker.tenant), named::model(names, model));
        let Self([of_tenant, _, _, of_person]) = Self::of_asker(names, asker);
        let (of_model, of_both) = (
            Table::Models.row(model),
            Table::TenantModels.row(named::both(tenant, model)),
        );
        Self([of_tenant, slot(of_model), slot(of_both), of_person])
    }
    /// Of whatever model.
    fn of_asker(names: &Row, asker: Asker<'_>) -> Self {
        let tenant = named::tenant(names, asker.tenant);
        let person = |subject| Table::Subjects.row(named::both(tenant, named::subject(names, subject)));
        let of_person = asker.subject.map_or(NOBODY, |subject| slot(person(subject)));
        Self([slot(Table::Tenants.row(tenant)), NOBODY, NOBODY, of_person])
    }
    /// Without any of its rows nobody can tell it.
    fn secret(self, rows: &[Row]) -> Row {
        let mut all = [0; 4 * ROW_BYTES];
        for (part, slot) in all.as_chunks_mut().0.iter_mut().zip(self.0) {
            *part = rows[usize::from(slot)];
        }
        *blake3::keyed_hash(&rows[NAMES], &all).as_bytes()
    }
}

#[cfg(test)]
mod tests;
