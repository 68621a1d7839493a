//! What a model release is made of. Immutable: its identity is the BLAKE3 digest of its encoded bytes.

use serde::{Deserialize, Serialize};

use crate::ids::{ContentHash, ModelName, ModelVersion, NodeClass, Release, VariantId};
use crate::limits::{
    FILE_BYTES_MAX, FILES_MAX, MANIFEST_BYTES_MAX, NUMERICS_BYTES_MAX, RANK_MAX, SIGNATURES_MAX, TENSORS_MAX,
};
use crate::signed::{DecodeError, Document};

/// Element type of a tensor, in the spelling of the Open Inference Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum DataType {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
    /// Byte strings: text, or an encoded image.
    Bytes,
}

impl DataType {
    /// Bytes of one element; `None` for [`DataType::Bytes`], whose elements differ in length.
    #[must_use]
    pub const fn element_bytes(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }
    /// The protocol's spelling, such as `FP32`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }
}

/// One dimension of a tensor's declared shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dim {
    /// Always this many.
    Fixed(u32),
    /// Chosen by the request; equal names within one request mean equal sizes. `batch` on axis 0 is what the batcher joins.
    Named(String),
}

/// A tensor that a model takes or gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Name in requests and in the model file.
    pub name: String,
    /// Element type.
    pub datatype: DataType,
    /// Declared shape, outermost axis first.
    pub shape: Vec<Dim>,
}

/// A way to call a model: which inputs a request names, and what happens around the tensors.
///
/// The names of a request's inputs select the signature. The plain `tensors` signature has no steps and its
/// inputs and outputs are those of the model file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signature {
    /// Such as `tensors`, `text`, `image` or `file`.
    pub name: String,
    /// What a request gives.
    pub inputs: Vec<TensorSpec>,
    /// What the answer holds.
    pub outputs: Vec<TensorSpec>,
    /// From the request's inputs to the model's inputs, in order.
    pub pre: Vec<PreStep>,
    /// From the model's outputs to the answer's outputs, in order.
    pub post: Vec<PostStep>,
}

/// A step before the model runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PreStep {
    /// Text to token ids: `from` BYTES `[batch]` to INT64 `[batch, seq]` tensors, padded to the longest row.
    Tokenize {
        /// Input of the request.
        from: String,
        /// `tokenizer.json` in the package (Hugging Face `tokenizers` format).
        tokenizer: String,
        /// Rows are cut to this many tokens.
        tokens_max: u32,
        /// Model input that takes the ids.
        ids: String,
        /// Model input that takes 1 for tokens and 0 for padding.
        mask: Option<String>,
        /// Model input that takes segment ids.
        types: Option<String>,
    },
    /// Encoded JPEG or PNG to pixels: `from` BYTES `[batch]` to FP32 `[batch, 3, height, width]` or `[batch, height, width, 3]`.
    Image {
        /// Input of the request.
        from: String,
        /// Model input that takes the pixels.
        to: String,
        /// Pixels of the model's input, after the crop.
        width: u32,
        /// Pixels of the model's input, after the crop.
        height: u32,
        /// The shorter side is scaled to this before a centre crop; `None` squeezes the whole picture to `width` x `height`.
        resize_shorter: Option<u32>,
        /// Multiplied with each 0..255 channel value first, such as 1/255.
        scale: f32,
        /// Subtracted from each scaled channel, in the model's channel order.
        mean: [f32; 3],
        /// Then divided by, in the model's channel order.
        std: [f32; 3],
        /// `true`: channels before rows (`[batch, 3, height, width]`).
        channels_first: bool,
        /// `true`: blue, green, red.
        bgr: bool,
    },
    /// First and last bytes of a file, as magika reads them: `from` BYTES `[batch]` to INT32 `[batch, begin + end]`.
    /// White space is stripped from the head and tail blocks; missing places hold `padding`.
    FileEnds {
        /// Input of the request.
        from: String,
        /// Model input that takes the byte values.
        to: String,
        /// Bytes taken from the beginning.
        begin: u32,
        /// Bytes taken from the end.
        end: u32,
        /// Bytes read at either end before stripping.
        block: u32,
        /// Value of places without a byte.
        padding: i32,
    },
}

/// A step after the model ran. Steps work on a set of named tensors; what the signature's `outputs` name is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PostStep {
    /// `exp(x - max) / sum` over the last axis, FP32.
    Softmax {
        /// Tensor read.
        from: String,
        /// Tensor made.
        to: String,
    },
    /// Averages `[batch, seq, dim]` over the tokens whose mask is 1, giving `[batch, dim]`.
    MeanPool {
        /// Token vectors.
        from: String,
        /// The model input that held the mask.
        mask: String,
        /// Tensor made.
        to: String,
    },
    /// Divides each row of `[batch, dim]` by its Euclidean length.
    L2Normalize {
        /// Tensor read.
        from: String,
        /// Tensor made.
        to: String,
    },
    /// The `count` highest of `[batch, classes]`: their labels as BYTES `[batch, count]` and values as FP32 `[batch, count]`.
    TopLabels {
        /// Tensor read.
        from: String,
        /// Text file of the package, one label a line, in class order.
        labels_file: String,
        /// How many.
        count: u32,
        /// Tensor made: labels, best first.
        labels: String,
        /// Tensor made: values, best first.
        scores: String,
    },
}

/// How close a variant's output must be to the golden output, for every output of every vector.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Every element: `|got - want| <= abs + rel * |want|`.
    Close {
        /// Absolute part.
        abs: f32,
        /// Relative part.
        rel: f32,
    },
    /// Every row of the last axis: cosine to the golden row is at least this.
    Cosine {
        /// Lowest allowed cosine, such as 0.99.
        min: f32,
    },
    /// The largest element of every row of the last axis stands at the same place, in at least this share of rows.
    SameTop1 {
        /// Lowest allowed share, 0 to 1.
        share_min: f32,
    },
}

/// One form of the model's weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// Such as `cpu-f32`.
    pub id: VariantId,
    /// Which nodes can run it.
    pub class: NodeClass,
    /// Its file of the package.
    pub file: String,
    /// Names the arithmetic: equal class, equal file and equal input mean equal bits. Such as `tract-0.23.9+kernels-4/f32`.
    pub numerics: String,
    /// What it must reproduce of the golden vectors before it may serve.
    pub checks: Vec<Check>,
    /// As measured when it was published.
    pub measured: Measured,
    /// Largest number of rows worth joining into one run: 1 where joining gained less than 1.2x.
    pub batch_rows_max: u32,
}

/// What publishing measured of a variant, on the publisher's machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Lowest cosine to the golden outputs over all rows.
    pub cosine_min: f32,
    /// Share of rows whose largest element stands at the golden place.
    pub top1_share: f32,
    /// Largest absolute difference to the golden outputs.
    pub abs_max: f32,
    /// Median time of one row, microseconds, one thread.
    pub row_us: u32,
    /// Median time of eight rows in one run, microseconds, one thread; 0 where the model has no batch axis.
    pub rows8_us: u32,
    /// Time from opening the file to the first answer, microseconds.
    pub load_us: u32,
}

/// A file of the package and the chunks it is moved in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Name inside the package: a plain file name.
    pub path: String,
    /// Length.
    pub bytes: u64,
    /// Identity of the whole file: the name it is stored under.
    pub blake3: ContentHash,
    /// For tools that speak SHA-256 only.
    pub sha256: [u8; 32],
    /// Content-defined chunks, in order; their lengths sum to `bytes`.
    pub chunks: Vec<ChunkEntry>,
}

/// A piece of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkEntry {
    /// Identity.
    pub blake3: ContentHash,
    /// Length.
    pub bytes: u32,
}

/// Which variant a class of nodes should run, and why the publisher thinks so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// For these nodes.
    pub class: NodeClass,
    /// This variant.
    pub variant: VariantId,
    /// A sentence with the figures that decided.
    pub why: String,
}

/// One immutable version of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Which model.
    pub model: ModelName,
    /// Which version.
    pub version: ModelVersion,
    /// One line for people.
    pub description: String,
    /// SPDX expression.
    pub licence: String,
    /// Where it comes from: package and version, or the file it was published from.
    pub source: String,
    /// ONNX operator-set version of the default domain.
    pub opset: u32,
    /// What made and measured the variants, such as `tract-0.23.9+kernels-4`.
    pub engine: String,
    /// All files, variants and golden vectors included.
    pub files: Vec<FileEntry>,
    /// Inputs of the model file.
    pub inputs: Vec<TensorSpec>,
    /// Outputs of the model file.
    pub outputs: Vec<TensorSpec>,
    /// Ways to call it; the first is the plain `tensors`.
    pub signatures: Vec<Signature>,
    /// Forms of the weights.
    pub variants: Vec<Variant>,
    /// What to run where.
    pub proposals: Vec<Proposal>,
    /// Golden vectors: a file of the package, one JSON object `{"inputs": [..], "outputs": [..]}` of Open Inference
    /// Protocol tensors a line; the inputs' names select the signature.
    pub golden_file: String,
    /// The version this one was made from.
    pub parent: Option<ContentHash>,
    /// `(key, value)` facts about how it was made, such as tool versions.
    pub provenance: Vec<(String, String)>,
}

impl Document for Manifest {
    const CONTEXT: &'static str = "meridian/manifest/v1";
    const FORMAT: u8 = 1;
    const BYTES_MAX: usize = MANIFEST_BYTES_MAX;
    fn check(&self) -> Result<(), DecodeError> {
        let wrong = |what: String| Err(DecodeError::Invalid { what });
        if self.files.is_empty() || self.files.len() > FILES_MAX {
            return wrong(format!("{} files, allowed is 1 to {FILES_MAX}", self.files.len()));
        }
        for file in &self.files {
            check_file(file)?;
        }
        for (i, file) in self.files.iter().enumerate() {
            if self.files[..i].iter().any(|other| other.path == file.path) {
                return wrong(format!("file `{}` is named twice", file.path));
            }
        }
        let tensors = self.inputs.len().max(self.outputs.len());
        if tensors > TENSORS_MAX || self.signatures.len() > SIGNATURES_MAX || self.signatures.is_empty() {
            return wrong(format!("{tensors} tensors, {} signatures", self.signatures.len()));
        }
        if self
            .inputs
            .iter()
            .chain(&self.outputs)
            .any(|t| t.shape.len() > RANK_MAX)
        {
            return wrong(format!("a tensor of more than {RANK_MAX} dimensions"));
        }
        if self.variants.is_empty() || self.variants.len() > FILES_MAX {
            return wrong(format!("{} variants", self.variants.len()));
        }
        let named_well = |numerics: &str| {
            (1..=NUMERICS_BYTES_MAX).contains(&numerics.len()) && numerics.bytes().all(|b| b.is_ascii_graphic())
        };
        if let Some(variant) = self.variants.iter().find(|v| !named_well(&v.numerics)) {
            let id = &variant.id;
            return wrong(format!(
                "the numerics of `{id}` are not 1 to {NUMERICS_BYTES_MAX} printable ASCII characters without blanks"
            ));
        }
        let named = self
            .variants
            .iter()
            .map(|v| &v.file)
            .chain([&self.golden_file])
            .chain(self.step_files());
        for path in named {
            if self.file(path).is_none() {
                return wrong(format!("`{path}` is used but is not among the files"));
            }
        }
        match self.proposals.iter().find(|p| self.variant(&p.variant).is_none()) {
            Some(p) => wrong(format!("proposal names the unknown variant `{}`", p.variant)),
            None => Ok(()),
        }
    }
}

impl Manifest {
    /// Model and version.
    #[must_use]
    pub fn release(&self) -> Release {
        Release {
            model: self.model.clone(),
            version: self.version,
        }
    }
    /// The file called `path`.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&FileEntry> {
        self.files.iter().find(|f| f.path == path)
    }
    /// The variant called `id`.
    #[must_use]
    pub fn variant(&self, id: &VariantId) -> Option<&Variant> {
        self.variants.iter().find(|v| &v.id == id)
    }
    /// What the publisher proposes for nodes of `class`.
    #[must_use]
    pub fn proposed(&self, class: &NodeClass) -> Option<&Proposal> {
        self.proposals.iter().find(|p| &p.class == class)
    }
    /// Files that a node must hold to run `variant`: all but the other variants' weights.
    pub fn files_for<'a>(&'a self, variant: &'a Variant) -> impl Iterator<Item = &'a FileEntry> {
        self.files
            .iter()
            .filter(move |f| f.path == variant.file || !self.variants.iter().any(|v| v.file == f.path))
    }
    /// Digest of everything around the weights that shapes an answer: signatures and the files their steps read.
    /// Part of the result-cache key.
    #[must_use]
    pub fn pipeline_digest(&self) -> ContentHash {
        let mut hasher = blake3::Hasher::new();
        let text = format!("{:?}", self.signatures);
        hasher.update(text.as_bytes());
        for path in self.step_files() {
            if let Some(file) = self.file(path) {
                hasher.update(file.blake3.as_bytes());
            }
        }
        hasher.finalize().into()
    }
    fn step_files(&self) -> impl Iterator<Item = &String> {
        let pre = self
            .signatures
            .iter()
            .flat_map(|s| &s.pre)
            .filter_map(|step| match step {
                PreStep::Tokenize { tokenizer, .. } => Some(tokenizer),
                PreStep::Image { .. } | PreStep::FileEnds { .. } => None,
            });
        let post = self
            .signatures
            .iter()
            .flat_map(|s| &s.post)
            .filter_map(|step| match step {
                PostStep::TopLabels { labels_file, .. } => Some(labels_file),
                PostStep::Softmax { .. } | PostStep::MeanPool { .. } | PostStep::L2Normalize { .. } => None,
            });
        pre.chain(post)
    }
}

/// A package holds plain file names only, so that unpacking can never write outside its folder.
fn check_file(file: &FileEntry) -> Result<(), DecodeError> {
    let wrong = |what: String| Err(DecodeError::Invalid { what });
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if file.path.is_empty() || file.path.len() > 128 || file.path.starts_with('.') || !file.path.bytes().all(plain) {
        return wrong(format!("`{}` is not a plain file name", file.path.escape_default()));
    }
    if file.bytes > FILE_BYTES_MAX {
        return wrong(format!(
            "`{}` has {} bytes, allowed is {FILE_BYTES_MAX}",
            file.path, file.bytes
        ));
    }
    let sum: u64 = file.chunks.iter().map(|c| u64::from(c.bytes)).sum();
    if sum != file.bytes {
        return wrong(format!(
            "chunks of `{}` hold {sum} bytes, the file {}",
            file.path, file.bytes
        ));
    }
    match file
        .chunks
        .iter()
        .find(|c| !usize::try_from(c.bytes).is_ok_and(|n| (1..=crate::limits::CHUNK_BYTES_MAX).contains(&n)))
    {
        Some(c) => wrong(format!("a chunk of `{}` has {} bytes", file.path, c.bytes)),
        None => Ok(()),
    }
}
