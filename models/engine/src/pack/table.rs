//! Tables of 8-bit codes: only the rows that are asked for become FP32, and only those are read where the table lies in a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Rows of `width` codes, each row with its scale.
#[derive(Debug)]
pub(crate) struct Table {
    codes: Codes,
    scales: Vec<f32>,
    width: usize,
}

#[derive(Debug)]
enum Codes {
    Own(Vec<i8>),
    /// From this place of a file on. Not mapped: a row is a fraction of a page, and the system maps many pages around each.
    InFile(Arc<File>, u64),
}

impl Table {
    /// Takes `codes`, row by row, and a scale for each row; `None` where there are none, or the codes are not as many for each.
    pub(super) fn new(codes: Vec<i8>, scales: Vec<f32>) -> Option<Self> {
        let width = codes.len().checked_div(scales.len())?;
        (width > 0 && codes.len() == width * scales.len()).then_some(Self {
            codes: Codes::Own(codes),
            scales,
            width,
        })
    }

    /// A table whose section begins at `at` of a file that holds `bytes`.
    pub(super) fn in_file(file: &Arc<File>, bytes: &[u8], at: usize, rows: usize, width: usize) -> Option<Self> {
        let scales_at = at.checked_add(rows.checked_mul(width)?)?;
        let scales = bytes.get(scales_at..scales_at.checked_add(rows.checked_mul(4)?)?)?;
        (rows > 0 && width > 0).then_some(Self {
            codes: Codes::InFile(Arc::clone(file), u64::try_from(at).ok()?),
            scales: scales
                .as_chunks()
                .0
                .iter()
                .map(|scale| f32::from_le_bytes(*scale))
                .collect(),
            width,
        })
    }

    /// Appends the table as [`Table::in_file`] takes it: codes, then scales.
    pub(super) fn write(&self, section: &mut Vec<u8>) -> io::Result<()> {
        match &self.codes {
            Codes::Own(codes) => section.extend(codes.iter().map(|code| code.to_le_bytes()[0])),
            Codes::InFile(file, at) => {
                let start = section.len();
                section.resize(start + self.scales.len() * self.width, 0);
                file.read_exact_at(&mut section[start..], *at)?;
            }
        }
        section.extend(self.scales.iter().flat_map(|scale| scale.to_le_bytes()));
        Ok(())
    }

    pub(crate) const fn rows(&self) -> usize {
        self.scales.len()
    }
    /// Elements of a row.
    pub(crate) const fn width(&self) -> usize {
        self.width
    }

    /// Writes row `row` into `out`, which is as wide; `held` is scratch. `false` where there is no such row.
    ///
    /// # Errors
    /// Those of the file that it lies in.
    pub(crate) fn read(&self, row: usize, held: &mut Vec<u8>, out: &mut [f32]) -> io::Result<bool> {
        let Some(scale) = self.scales.get(row) else {
            return Ok(false);
        };
        let first = row * self.width;
        match &self.codes {
            Codes::Own(codes) => {
                for (out, code) in out.iter_mut().zip(&codes[first..]) {
                    *out = f32::from(*code) * scale;
                }
            }
            Codes::InFile(file, at) => {
                held.resize(self.width, 0);
                file.read_exact_at(held, at + u64::try_from(first).map_err(io::Error::other)?)?;
                for (out, code) in out.iter_mut().zip(held) {
                    *out = f32::from(i8::from_le_bytes([*code])) * scale;
                }
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_from_memory_and_from_files_alike_and_rows_that_are_not_there_do_not() {
        let table = Table::new(vec![1, -2, 3, 4, 5, -128], vec![0.5, 2.0]).unwrap();
        let mut section = vec![7; 5];
        table.write(&mut section).unwrap();
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), &section).unwrap();
        let file = Arc::new(File::open(path.path()).unwrap());
        let there = |at, rows, width| Table::in_file(&file, &section, at, rows, width);
        for table in [&table, &there(5, 2, 3).unwrap()] {
            let (mut held, mut row) = (Vec::new(), [0.0; 3]);
            assert!(table.read(0, &mut held, &mut row).unwrap());
            assert_eq!(row, [0.5, -1.0, 1.5]);
            assert!(table.read(1, &mut held, &mut row).unwrap() && row == [8.0, 10.0, -256.0]);
            assert!(!table.read(2, &mut held, &mut row).unwrap());
            let mut again = vec![7; 5];
            table.write(&mut again).unwrap();
            assert_eq!(again, section);
        }
        for (at, rows, width) in [
            (6, 2, 3),
            (5, 3, 3),
            (5, usize::MAX, 3),
            (usize::MAX, 2, 3),
            (5, 0, 3),
            (5, 2, 0),
        ] {
            assert!(there(at, rows, width).is_none(), "{rows} x {width} at {at}");
        }
        assert!(Table::new(vec![1, 2, 3], vec![1.0, 1.0]).is_none());
    }
}
