//! Numbers in memory of our own, or in a file that lies in memory as it is.

use std::fmt;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::sync::Arc;

use memmap2::Mmap;

/// A file in memory: pages that nothing reads are never fetched, and the system may drop the others, for it can fetch them again.
pub struct MappedFile(Mmap);

impl MappedFile {
    /// Maps the whole of a file that is never written again.
    ///
    /// What a mapped file holds is used without being looked at again, so whoever makes such files gives them their name only once
    /// they are whole, and replaces them by renaming alone. Shortening one ends the process at the next read beyond its end.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(file: &File) -> io::Result<Arc<Self>> {
        // SAFETY: the mapping lives as long as `self` and is only read, and its bytes are plain numbers, any of which are valid. That they stay
        // as they are while it lives is the caller's promise above: the node's files get their names when they are whole, and a file of
        // somebody else's is opened here by a process that is his own, or one that was started to judge it.
        let map = unsafe { Mmap::map(file) }?;
        Ok(Arc::new(Self(map)))
    }

    /// What the file holds.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedFile({} bytes)", self.0.len())
    }
}

/// Types of which any bytes are a value.
///
/// # Safety
/// No padding, no bytes that are no value, nothing that owns anything.
pub(crate) unsafe trait Plain: Copy + 'static {}

/// A slice that is owned, or part of a mapped file.
pub(crate) enum Stored<T> {
    Own(Vec<T>),
    Mapped(Part<T>),
}

/// Elements of a mapped file: they lie within it and are aligned, which was checked when this was made.
pub(crate) struct Part<T> {
    file: Arc<MappedFile>,
    at: usize,
    len: usize,
    holds: PhantomData<T>,
}

impl<T: Plain> Stored<T> {
    /// The elements that these bytes of a file are; `None` where they are not within it, not aligned, or not whole elements.
    pub(crate) fn of_file(file: &Arc<MappedFile>, range: Range<usize>) -> Option<Self> {
        let bytes = file.bytes().get(range.clone())?;
        let aligned = bytes.as_ptr().cast::<T>().is_aligned() && bytes.len().is_multiple_of(size_of::<T>());
        aligned.then(|| {
            Self::Mapped(Part {
                file: Arc::clone(file),
                at: range.start,
                len: bytes.len() / size_of::<T>(),
                holds: PhantomData,
            })
        })
    }

    /// The bytes of all elements.
    pub(crate) fn bytes(&self) -> &[u8] {
        let elements: &[T] = self;
        // SAFETY: `Plain` types have no padding, so all these bytes are written; they are borrowed as long as `self`.
        unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) }
    }
}

impl<T: Plain> Deref for Stored<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match self {
            Self::Own(elements) => elements,
            // SAFETY: `of_file` found `len` aligned elements at `at` within the mapping, which this keeps and which never changes its
            // place or length; any bytes are a `Plain` value.
            Self::Mapped(part) => unsafe {
                std::slice::from_raw_parts(part.file.bytes().as_ptr().add(part.at).cast(), part.len)
            },
        }
    }
}

impl<T> fmt::Debug for Stored<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(elements) => write!(f, "{} elements", elements.len()),
            Self::Mapped(part) => write!(f, "{} elements at {} of {:?}", part.len, part.at, part.file),
        }
    }
}

/// Numbers of four bytes, the lowest first, as sections of files hold them.
pub(crate) fn read_words<T>(bytes: &[u8], number: fn([u8; 4]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|word| number(*word)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write;

    /// A mapped file of these bytes, which is gone from its folder at once.
    pub(crate) fn mapped(bytes: &[u8]) -> Arc<MappedFile> {
        static NAMES: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NAMES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("meridian-mapped-{}-{number}", std::process::id()));
        File::create_new(&path).unwrap().write_all(bytes).unwrap();
        let file = MappedFile::open(&File::open(&path).unwrap()).unwrap();
        std::fs::remove_file(&path).unwrap();
        file
    }

    #[test]
    fn only_whole_aligned_elements_within_the_file_are_taken() {
        let bytes: Vec<u8> = (0..=255).collect();
        let file = mapped(&bytes);
        let part: Stored<crate::linear::Block> = Stored::of_file(&file, 64..192).unwrap();
        assert_eq!((part.len(), part.bytes()), (2, &bytes[64..192]));
        assert_eq!(part[1].0[0], i8::MIN);
        for range in [1..65, 64..191, 192..320] {
            let told = format!("{range:?}");
            assert!(
                Stored::<crate::linear::Block>::of_file(&file, range).is_none(),
                "{told}"
            );
        }
    }
}
