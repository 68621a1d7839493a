//! From what people have (text, a picture, a file) to the tensors that a graph takes.
//!
//! Each step reads tensors by name and adds those it makes. What a request can get wrong is an error with the input's name;
//! nothing here panics on any bytes.

mod file_ends;
mod image;
mod kept;
mod tokenize;

use std::collections::BTreeMap;

use proto::manifest::PreStep;
use proto::oip::Tensor;

pub use self::file_ends::file_ends;
pub use self::image::{ImageError, Pixels, numbers, pixels, scaled};
pub use self::kept::{KeptRows, Nothing};
pub use self::tokenize::{SEQUENCE_BUCKET, Tokens};

use crate::{LoadError, PackageFiles, RunError, tensor};

/// A step with its files read and its figures checked.
pub(crate) enum Step {
    Tokenize {
        from: String,
        tokens: Box<Tokens>,
        ids: String,
        mask: Option<String>,
        types: Option<String>,
    },
    Image {
        from: String,
        to: String,
        pixels: Pixels,
    },
    FileEnds {
        from: String,
        to: String,
        begin: usize,
        end: usize,
        block: usize,
        padding: i32,
    },
}

impl Step {
    /// Reads what the step needs. `wrong` gives an error its signature's name.
    pub(crate) fn new(
        step: &PreStep,
        files: &PackageFiles,
        multiple: usize,
        wrong: &impl Fn(String) -> LoadError,
    ) -> Result<Self, LoadError> {
        Ok(match step {
            PreStep::Tokenize {
                from,
                tokenizer,
                tokens_max,
                ids,
                mask,
                types,
            } => Self::Tokenize {
                from: from.clone(),
                tokens: Box::new(read_tokens(files, tokenizer, *tokens_max, multiple, wrong)?),
                ids: ids.clone(),
                mask: mask.clone(),
                types: types.clone(),
            },
            PreStep::Image {
                from,
                to,
                width,
                height,
                resize_shorter,
                scale,
                mean,
                std,
                channels_first,
                bgr,
            } => {
                let pixels = Pixels {
                    width: *width,
                    height: *height,
                    resize_shorter: *resize_shorter,
                    scale: *scale,
                    mean: *mean,
                    std: *std,
                    channels_first: *channels_first,
                    bgr: *bgr,
                };
                pixels.check().map_err(wrong)?;
                Self::Image {
                    from: from.clone(),
                    to: to.clone(),
                    pixels,
                }
            }
            PreStep::FileEnds {
                from,
                to,
                begin,
                end,
                block,
                padding,
            } => {
                let [begin, end, block] = ends([*begin, *end, *block]).map_err(wrong)?;
                Self::FileEnds {
                    from: from.clone(),
                    to: to.clone(),
                    begin,
                    end,
                    block,
                    padding: *padding,
                }
            }
        })
    }

    /// How many tokens it makes of its input; 0 for other steps, and of what it cannot read.
    pub(crate) fn tokens(&self, inputs: &[Tensor]) -> usize {
        let Self::Tokenize { from, tokens, .. } = self else {
            return 0;
        };
        let rows = inputs.iter().find(|t| t.name == *from).map(tensor::byte_strings);
        rows.and_then(Result::ok).map_or(0, |rows| tokens.count(&rows))
    }

    /// Tensors it makes that have a place for each token on axis 1, and none where it makes others.
    pub(crate) fn sequences(&self) -> Vec<&str> {
        match self {
            Self::Tokenize { ids, mask, types, .. } => {
                let more = [mask, types].into_iter().flatten();
                [ids].into_iter().chain(more).map(String::as_str).collect()
            }
            Self::Image { .. } | Self::FileEnds { .. } => Vec::new(),
        }
    }

    /// Tokens of a row of `length` tokens where no row beside it is longer, padding included.
    pub(crate) fn padded(&self, length: usize) -> usize {
        match self {
            Self::Tokenize { tokens, .. } => tokens.padded(length),
            Self::Image { .. } | Self::FileEnds { .. } => length,
        }
    }

    /// Adds the step's tensors. Gives how many tokens each row of [`Step::sequences`] has, padding not counted.
    pub(crate) fn run(
        &self,
        tensors: &mut BTreeMap<String, Tensor>,
        kept: &dyn KeptRows,
    ) -> Result<Vec<usize>, RunError> {
        let (Self::Tokenize { from, .. } | Self::Image { from, .. } | Self::FileEnds { from, .. }) = self;
        let input = tensors.get(from).ok_or_else(|| RunError::input(from, "is missing"))?;
        let wrong = |why: String| RunError::input(from, why);
        let rows = tensor::byte_strings(input).map_err(wrong)?;
        if rows.is_empty() {
            return Err(wrong("has no rows".to_owned()));
        }
        let (mut made, mut lengths) = (Vec::new(), Vec::new());
        match self {
            Self::Tokenize {
                tokens,
                ids,
                mask,
                types,
                ..
            } => {
                let encoded = tokens.encode(&rows).map_err(wrong)?;
                let shape = vec![rows.len(), encoded.length];
                made.push(tensor::of_i64s(ids, shape.clone(), &encoded.ids));
                made.extend(
                    mask.as_ref()
                        .map(|name| tensor::of_i64s(name, shape.clone(), &encoded.mask)),
                );
                made.extend(types.as_ref().map(|name| tensor::of_i64s(name, shape, &encoded.types)));
                lengths = encoded.lengths;
            }
            Self::Image { to, pixels: how, .. } => {
                let (mut values, stage) = (Vec::new(), how.stage());
                for (row, picture) in rows.iter().enumerate() {
                    let mut make = || scaled(picture, how).map_err(|e| e.to_string());
                    let bytes = kept.made(row, &stage, picture, &mut make);
                    let bytes = bytes.map_err(|e| wrong(format!("row {row}: {e}")))?;
                    numbers(&bytes, how, &mut values);
                }
                made.push(tensor::of_f32s(to, how.shape(rows.len()), &values));
            }
            Self::FileEnds {
                to,
                begin,
                end,
                block,
                padding,
                ..
            } => {
                let values: Vec<i32> = rows
                    .iter()
                    .flat_map(|file| file_ends(file, *begin, *end, *block, *padding))
                    .collect();
                made.push(tensor::of_i32s(to, vec![rows.len(), begin + end], &values));
            }
        }
        tensors.extend(made.into_iter().map(|t| (t.name.clone(), t)));
        Ok(lengths)
    }
}

fn read_tokens(
    files: &PackageFiles,
    path: &str,
    tokens_max: u32,
    multiple: usize,
    wrong: &impl Fn(String) -> LoadError,
) -> Result<Tokens, LoadError> {
    let file = files.read_step_file(path)?;
    let tokens_max = usize::try_from(tokens_max).unwrap_or(usize::MAX);
    Tokens::new(&file, tokens_max, multiple).map_err(|why| wrong(format!("`{path}`: {why}")))
}

/// Bytes taken from the beginning and from the end, and bytes read at either end.
fn ends(figures: [u32; 3]) -> Result<[usize; 3], String> {
    let [begin, end, block] = figures.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    if begin.max(end) == 0 || begin.max(end) > block || block > (1 << 20) {
        return Err(format!(
            "file ends of {begin} and {end} bytes do not fit a block of {block}"
        ));
    }
    Ok([begin, end, block])
}
