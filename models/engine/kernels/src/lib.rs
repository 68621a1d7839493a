//! The arithmetic that the engine's time goes to: linear layers over 8-bit codes, and what stands between them.
//!
//! ```text
//!   f32 rows --quantize--> u8 codes, a scale a row --dot with packed s8 weights--> i32 --scale, bias--> f32 rows
//! ```
//! Every function takes the [`Isa`] that it runs on, and every [`Isa`] gives the same bits: integer sums are exact, and
//! each floating-point result is made by the same IEEE 754 operations in the same order. So the portable form is the
//! reference, and nodes with different processors agree.
//!
//! No input makes a function here read or write outside its slices: lengths are checked before any pointer is made. This is the only
//! package of ours where `unsafe` may stand; each block says why it is sound.

mod activation;
mod attention;
mod chain;
mod conv;
mod depthwise;
mod exact;
mod isa;
mod linear;
mod lines;
mod matrix;
mod memory;
mod outer;
pub mod peak;
mod plain;
mod pool;
mod products;
mod rounding;
mod rows;
mod stored;
mod taps;
mod tile;
mod vector;
mod window;

pub use activation::Activation;
pub use attention::{Attention, AttentionScratch, AttentionShape, Mask};
pub use chain::{Chain, ChainScratch, Layer, Order, Stage};
pub use conv::Conv;
pub use depthwise::Depthwise;
pub use exact::ExactConv;
pub use isa::Isa;
pub use linear::{Linear, ShapeError};
pub use matrix::Matrix;
pub use memory::give_back;
pub use plain::{
    Combine, combine_parts, combine_rows, exchange_axes, floats_of_i32, floats_of_i64, multiply_rows, square, sum_rows,
};
pub use pool::MaxPool;
pub use rounding::{Moments, Rounding};
pub use rows::QuantizedRows;
pub use stored::MappedFile;
pub use vector::{add_and_normalize_rows, gelu, gelu_tanh, normalize_rows, softmax_rows};
pub use window::Window;
