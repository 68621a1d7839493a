//! The first and last bytes of a file, as magika's model was trained to see them.

/// Takes the first `begin` and last `end` bytes of a file, white space at its outer ends left out.
///
/// | | shape | dtype | unit / range |
/// |---|---|---|---|
/// | `file` | any length | `u8` | the whole file |
/// | returns | `[begin + end]` | `i32` | byte values 0 to 255, or `padding` |
///
/// Of the first `block` bytes leading white space is dropped, of the last `block` bytes trailing; then `begin` bytes are
/// taken from the front of the one and `end` from the back of the other. Missing places are padded behind the beginning
/// and before the end. White space is what Python's `bytes.strip` drops: space, `\t`, `\n`, `\r`, `\x0b`, `\x0c`. Never panics.
///
/// # Source
/// Package magika 1.0.3, `Magika._extract_features_from_seekable` (its text speaks of stripping small files on both
/// sides; its code does not, and the code is what is followed).
#[must_use]
pub fn file_ends(file: &[u8], begin: usize, end: usize, block: usize, padding: i32) -> Vec<i32> {
    let block = block.min(file.len());
    let white = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c);
    let head = &file[..block];
    let head = &head[head.iter().take_while(|b| white(b)).count()..];
    let tail = &file[file.len() - block..];
    let tail = &tail[..tail.len() - tail.iter().rev().take_while(|b| white(b)).count()];
    let head = &head[..head.len().min(begin)];
    let tail = &tail[tail.len() - tail.len().min(end)..];
    let mut out = Vec::with_capacity(begin + end);
    out.extend(head.iter().map(|&b| i32::from(b)));
    out.resize(begin + end - tail.len(), padding);
    out.extend(tail.iter().map(|&b| i32::from(b)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_file_is_padded_behind_its_beginning_and_before_its_end() {
        assert_eq!(
            file_ends(b"\n ab \x0b", 5, 5, 8, 256),
            [97, 98, 32, 11, 256, 256, 10, 32, 97, 98]
        );
    }

    #[test]
    fn only_white_space_inside_the_block_is_stripped() {
        let file = [b" ".repeat(6), b"x".to_vec(), b" ".repeat(6)].concat();
        assert_eq!(file_ends(&file, 2, 2, 4, 256), [256; 4]);
    }

    #[test]
    fn an_empty_file_is_all_padding() {
        assert_eq!(file_ends(b"", 3, 2, 4096, 256), [256; 5]);
    }

    proptest! {
        #[test]
        fn any_file_gives_the_length_that_the_model_takes(file in proptest::collection::vec(any::<u8>(), 0..300)) {
            let out = file_ends(&file, 16, 8, 32, 256);
            prop_assert_eq!(out.len(), 24);
            prop_assert!(out.iter().all(|v| (0..=256).contains(v)));
        }
    }
}
