//! Convolutions one after another, a few rows at a time, so that what lies between two of them never leaves the processor's cache.
//!
//! ```text
//!   image -> [lines] -> Depthwise -> [lines] -> Conv of points -> [lines] -> Depthwise ... -> y
//! ```
//! Before each layer stand as many lines as its window sees at once, and as many as are made at a time. The last layer that can
//! go on does, until all is made.

use std::sync::Arc;

use crate::{Activation, Conv, Depthwise, ExactConv, MaxPool, ShapeError, Window};

mod run;
pub use run::ChainScratch;

/// What slides over an image.
#[derive(Debug)]
pub enum Layer {
    /// Each channel of a place is a sum over all of the pixels'.
    Mixed(Conv),
    /// The same in FP32.
    Exact(ExactConv),
    /// Each is a sum over its own.
    Apart(Depthwise),
    /// Each is the largest of its own.
    Pooled(MaxPool),
}

/// A layer and what is done to each number it gives.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Shared by all plans of a model.
    pub layer: Arc<Layer>,
    /// Done before the next stage sees it.
    pub activation: Activation,
}

/// Stages of which each takes what the one before it gives.
///
/// Equal to its stages one by one, bit for bit.
#[derive(Clone, Debug)]
pub struct Chain {
    stages: Vec<Stage>,
    onto: Option<Activation>,
}

/// How the elements of an image lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Row by row, pixel by pixel, channel by channel.
    Pixels,
    /// Channel by channel, row by row, pixel by pixel: only for a first stage that looks at its image as a whole.
    Planes,
}

impl Layer {
    /// Whether each channel of a place is a sum over all of the pixels'.
    pub(crate) const fn mixes(&self) -> bool {
        matches!(self, Self::Mixed(_) | Self::Exact(_))
    }
    /// Where it looks.
    #[must_use]
    pub const fn window(&self) -> &Window {
        match self {
            Self::Mixed(conv) => conv.window(),
            Self::Exact(conv) => conv.window(),
            Self::Apart(conv) => conv.window(),
            Self::Pooled(pool) => pool.window(),
        }
    }
    /// Channels of a pixel, and of a place.
    #[must_use]
    pub fn channels(&self) -> [usize; 2] {
        match self {
            Self::Mixed(conv) => [conv.channels(), conv.outputs()],
            Self::Exact(conv) => [conv.channels(), conv.outputs()],
            Self::Apart(conv) => [conv.channels(); 2],
            Self::Pooled(pool) => [pool.channels(); 2],
        }
    }
}

impl Chain {
    /// A chain of one.
    #[must_use]
    pub fn of(stage: Stage) -> Self {
        Self {
            stages: vec![stage],
            onto: None,
        }
    }

    /// The same added to what the result's place holds, and then activated.
    ///
    /// # Errors
    /// [`ShapeError`] where the last stage keeps channels apart: those are written before they are whole.
    pub fn onto(mut self, activation: Activation) -> Result<Self, ShapeError> {
        match self.stages.last().map(|stage| &*stage.layer) {
            Some(Layer::Mixed(_) | Layer::Exact(_)) => self.onto = Some(activation),
            _ => return Err(ShapeError("only sums over all channels are added to others".to_owned())),
        }
        Ok(self)
    }

    /// What is done to the sum with what the result's place holds, if the result is such a sum.
    #[must_use]
    pub const fn adds(&self) -> Option<Activation> {
        self.onto
    }

    /// This chain and then that one.
    ///
    /// # Errors
    /// [`ShapeError`] when that one takes other channels than this one gives, this one is a sum with something else, or that
    /// one looks at its image as a whole: a convolution of windows larger than a pixel that mixes channels codes all pixels
    /// alike, and copies those under each window where it codes none.
    pub fn then(&self, next: &Self) -> Result<Self, ShapeError> {
        if self.channels()[1] != next.channels()[0] {
            return Err(ShapeError(format!(
                "{} channels for {}",
                self.channels()[1],
                next.channels()[0]
            )));
        }
        if next.sees_all() || self.onto.is_some() {
            let told = "only what sees a row at a time follows, and no sum";
            return Err(ShapeError(told.to_owned()));
        }
        Ok(Self {
            stages: [&*self.stages, &*next.stages].concat(),
            onto: next.onto,
        })
    }

    /// Whether the first stage looks at its image as a whole.
    #[must_use]
    pub fn sees_all(&self) -> bool {
        let first = self.stages.first().map(|stage| &*stage.layer);
        first.is_some_and(|first| first.mixes() && !first.window().is_point())
    }

    /// The stages, in order.
    #[must_use]
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// Channels of a pixel of the image, and of a place of the last stage.
    #[must_use]
    pub fn channels(&self) -> [usize; 2] {
        let of = |stage: Option<&Stage>, at: usize| stage.map_or(0, |stage| stage.layer.channels()[at]);
        [of(self.stages.first(), 0), of(self.stages.last(), 1)]
    }

    /// Rows and columns of places of the last stage; `None` where a window does not fit.
    #[must_use]
    pub fn places(&self, image: [usize; 2]) -> Option<[usize; 2]> {
        self.stages
            .iter()
            .try_fold(image, |size, stage| stage.layer.window().places(size))
    }
}

#[cfg(test)]
pub(crate) mod tests;
