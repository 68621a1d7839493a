//! How keys lie in their file: rows of 32 bytes, and which rows are whose. Bytes in, rows out; no file is opened here.
//!
//! ```text
//!   row 0   what this file is
//!   row 1   turns names into row numbers, so that the file names nobody
//!   then    a table for each thing that can be forgotten: a stretch of time, a tenant, a model, a tenant's model, a person
//! ```

/// One key, or the first line of the file.
pub(crate) type Row = [u8; ROW_BYTES];
/// Bytes of a row.
pub(crate) const ROW_BYTES: usize = 32;
/// The row that turns names into row numbers.
pub(crate) const NAMES: usize = 1;
/// Rows of a whole file.
pub(crate) const ROWS: usize = Table::Subjects.start() + Table::Subjects.len();

/// The first row.
const FORMAT: &Row = b"meridian result cache keys v1\n\n\n";

/// Rows for things of one kind. Two things may share a row, and are then forgotten together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    /// By the number of the stretch: there are fewer at a time than rows.
    Stretches,
    Tenants,
    Models,
    TenantModels,
    Subjects,
}

impl Table {
    /// Its rows, a power of two. Twice as many persons share a row in half the rows: what one of them has erased, the
    /// others ask a model for again.
    pub(crate) const fn len(self) -> usize {
        match self {
            Self::Stretches => 128,
            Self::Tenants => 2048,
            Self::Models => 512,
            Self::TenantModels => 4096,
            Self::Subjects => 8192,
        }
    }
    const fn start(self) -> usize {
        match self {
            Self::Stretches => NAMES + 1,
            Self::Tenants => Self::Stretches.start() + Self::Stretches.len(),
            Self::Models => Self::Tenants.start() + Self::Tenants.len(),
            Self::TenantModels => Self::Models.start() + Self::Models.len(),
            Self::Subjects => Self::TenantModels.start() + Self::TenantModels.len(),
        }
    }
    /// The row in the file of this table's row `number`, counted round.
    pub(crate) fn row(self, number: u64) -> usize {
        let within = number % u64::try_from(self.len()).unwrap_or(1);
        self.start() + usize::try_from(within).unwrap_or_default()
    }
}

/// Rows of a new file, all of whose keys are of `random` bytes.
pub(crate) fn fresh(random: Vec<Row>) -> Vec<Row> {
    let mut rows = random;
    rows.resize(ROWS, [0; ROW_BYTES]);
    rows[0] = *FORMAT;
    rows
}

/// The rows of a file; `None` for anything that is not one whole file of keys. A row of zeros is no key: some disk lost it.
pub(crate) fn read(bytes: &[u8]) -> Option<Vec<Row>> {
    let (rows, rest) = bytes.as_chunks::<ROW_BYTES>();
    let good = rest.is_empty() && rows.len() == ROWS && rows[0] == *FORMAT;
    (good && !rows.contains(&[0; ROW_BYTES])).then(|| rows.to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLES: [Table; 5] = [
        Table::Stretches,
        Table::Tenants,
        Table::Models,
        Table::TenantModels,
        Table::Subjects,
    ];

    #[test]
    fn every_row_is_of_one_table_only() {
        let mut owned = vec![0; ROWS];
        for table in TABLES {
            (0..u64::try_from(table.len()).unwrap()).for_each(|number| owned[table.row(number)] += 1);
        }
        assert_eq!(owned[..2], [0, 0], "format and names are of no table");
        assert!(owned[2..].iter().all(|&times| times == 1));
    }

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let rows = fresh(vec![[7; ROW_BYTES]; ROWS]);
        let bytes = rows.concat();
        assert_eq!(read(&bytes), Some(rows));
        assert!(read(&bytes[..bytes.len() - 1]).is_none() && read(&[bytes.as_slice(), &[1]].concat()).is_none());
        let spoilt = |at: usize, with: &[u8]| {
            let mut bytes = bytes.clone();
            bytes[at..at + with.len()].copy_from_slice(with);
            read(&bytes).is_none()
        };
        assert!(spoilt(0, b"M") && spoilt(9 * ROW_BYTES, &[0; ROW_BYTES]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_and_every_number_has_a_row(
            bytes in prop::collection::vec(any::<u8>(), 0..200), number in any::<u64>(), table in 0..TABLES.len(),
        ) {
            prop_assert!(read(&bytes).is_none());
            let row = TABLES[table].row(number);
            prop_assert!(row > NAMES && row < ROWS);
        }
    }
}
