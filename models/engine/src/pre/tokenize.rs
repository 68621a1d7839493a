//! Text to token ids, by the tokenizer file that came with the model.

use proto::limits::TEXT_BYTES_MAX;
use tokenizers::{Tokenizer, TruncationParams};

/// Where each sequence length costs a plan, lengths are padded to multiples of this.
pub const SEQUENCE_BUCKET: usize = 16;

/// A tokenizer with its limits.
pub struct Tokens {
    tokenizer: Tokenizer,
    pad_id: i64,
    tokens_max: usize,
    multiple: usize,
}

/// Rows of equal length.
#[derive(Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Tokens in each row, padding included.
    pub length: usize,
    /// Tokens of each row, padding not counted.
    pub lengths: Vec<usize>,
    /// Token ids, row after row; padding holds the padding id.
    pub ids: Vec<i64>,
    /// 1 for tokens, 0 for padding.
    pub mask: Vec<i64>,
    /// Segment ids; 0 for padding.
    pub types: Vec<i64>,
}

impl Tokens {
    /// Reads a `tokenizer.json`. Rows are cut to `tokens_max` and padded to a multiple of `multiple`.
    ///
    /// # Errors
    /// A sentence when the file is not a tokenizer or leaves no room for text.
    pub fn new(json: &[u8], tokens_max: usize, multiple: usize) -> Result<Self, String> {
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(|e| e.to_string())?;
        let pad_id = tokenizer
            .get_padding()
            .map_or_else(|| tokenizer.token_to_id("[PAD]").unwrap_or(0), |p| p.pad_id);
        // More special tokens than room would underflow inside the library.
        let special = tokenizer.encode_fast("", true).map_err(|e| e.to_string())?.len();
        if tokens_max <= special || tokens_max > TEXT_BYTES_MAX {
            return Err(format!(
                "rows of {tokens_max} tokens leave no room beside {special} special ones"
            ));
        }
        let cut = TruncationParams {
            max_length: tokens_max,
            ..TruncationParams::default()
        };
        tokenizer.with_truncation(Some(cut)).map_err(|e| e.to_string())?;
        tokenizer.with_padding(None);
        Ok(Self {
            tokenizer,
            pad_id: i64::from(pad_id),
            tokens_max,
            multiple: multiple.max(1),
        })
    }

    /// Tokens of a row of `length` tokens where it is the longest, padding included.
    #[must_use]
    pub fn padded(&self, length: usize) -> usize {
        let length = length.max(1);
        length.next_multiple_of(self.multiple).min(self.tokens_max.max(length))
    }

    /// How many tokens rows of text are, special ones included; what [`Tokens::encode`] refuses counts none.
    #[must_use]
    pub fn count(&self, rows: &[&[u8]]) -> usize {
        let texts = rows.iter().filter(|row| row.len() <= TEXT_BYTES_MAX);
        let texts = texts.filter_map(|row| std::str::from_utf8(row).ok());
        let counts = texts.filter_map(|text| self.tokenizer.encode_fast(text, true).ok());
        counts.map(|encoding| encoding.len()).sum()
    }

    /// Encodes rows of UTF-8 text, special tokens added, and pads them to the longest.
    ///
    /// | | shape | dtype | unit / range |
    /// |---|---|---|---|
    /// | `rows` | `[batch]` | UTF-8 | at most [`TEXT_BYTES_MAX`] bytes each |
    /// | `ids`, `mask`, `types` | `[batch, length]`, row-major | `i64` | `length <= tokens_max` |
    ///
    /// A row's tokens do not depend on the rows beside it; only its padding does.
    ///
    /// # Errors
    /// A sentence that names the row which is not UTF-8 or too long.
    pub fn encode(&self, rows: &[&[u8]]) -> Result<Encoded, String> {
        let mut encodings = Vec::with_capacity(rows.len());
        for (row, bytes) in rows.iter().enumerate() {
            if bytes.len() > TEXT_BYTES_MAX {
                return Err(format!(
                    "row {row}: has {} bytes, allowed is {TEXT_BYTES_MAX}",
                    bytes.len()
                ));
            }
            let text = std::str::from_utf8(bytes).map_err(|e| format!("row {row}: is not UTF-8 ({e})"))?;
            encodings.push(
                self.tokenizer
                    .encode_fast(text, true)
                    .map_err(|e| format!("row {row}: {e}"))?,
            );
        }
        let lengths: Vec<usize> = encodings.iter().map(tokenizers::Encoding::len).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let length = self.padded(longest);
        let size = rows.len() * length;
        let (mut ids, mut mask, mut types) = (
            Vec::with_capacity(size),
            Vec::with_capacity(size),
            Vec::with_capacity(size),
        );
        for (row, encoding) in encodings.iter().enumerate() {
            let end = (row + 1) * length;
            ids.extend(encoding.get_ids().iter().map(|&id| i64::from(id)));
            ids.resize(end, self.pad_id);
            mask.extend(encoding.get_ids().iter().map(|_| 1));
            mask.resize(end, 0);
            types.extend(encoding.get_type_ids().iter().map(|&id| i64::from(id)));
            types.resize(end, 0);
        }
        Ok(Encoded {
            length,
            lengths,
            ids,
            mask,
            types,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TOKENIZER;

    #[test]
    fn rows_are_padded_to_the_longest_and_the_mask_says_where() {
        let tokens = Tokens::new(TOKENIZER.as_bytes(), 8, 1).unwrap();
        let encoded = tokens.encode(&[b"The fleet runs", b"fleet"]).unwrap();
        assert_eq!((encoded.length, encoded.lengths), (5, vec![5, 3]));
        assert_eq!(encoded.ids, [1, 4, 5, 6, 2, 1, 5, 2, 0, 0]);
        assert_eq!(encoded.mask, [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
        assert_eq!(encoded.types, [0; 10]);
        assert_eq!(tokens.count(&[b"The fleet runs", b"fleet", b"\xff"]), 8);
    }

    #[test]
    fn a_long_row_is_cut_and_keeps_its_last_special_token() {
        let tokens = Tokens::new(TOKENIZER.as_bytes(), 4, 16).unwrap();
        let encoded = tokens.encode(&[b"the the the the the"]).unwrap();
        assert_eq!(encoded.ids, [1, 4, 4, 2]);
    }

    #[test]
    fn text_that_is_not_utf8_or_endless_names_its_row() {
        let tokens = Tokens::new(TOKENIZER.as_bytes(), 8, 1).unwrap();
        assert!(tokens.encode(&[b"ok", b"\xff"]).unwrap_err().starts_with("row 1"));
        assert!(
            tokens
                .encode(&[&vec![b'a'; TEXT_BYTES_MAX + 1]])
                .unwrap_err()
                .contains("allowed")
        );
    }

    #[test]
    fn a_tokenizer_without_room_for_text_does_not_load() {
        assert!(Tokens::new(TOKENIZER.as_bytes(), 2, 1).is_err());
        assert!(Tokens::new(b"{}", 8, 1).is_err());
    }
}
