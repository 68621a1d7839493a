//! An encoded picture to the numbers that an image model takes.
#![allow(
    clippy::as_conversions,
    reason = "pixel arithmetic between u8, u32 and f32 inside proven ranges"
)]

use std::io::Cursor;

use image::imageops::{self, FilterType};
use image::{ImageReader, Limits, RgbImage};
use proto::limits::{IMAGE_DECODE_BYTES_MAX, IMAGE_SIDE_MAX};

/// Why a picture cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Neither JPEG nor PNG, cut short, altered, or larger than allowed.
    #[error("is no readable JPEG or PNG of at most {IMAGE_SIDE_MAX} pixels a side: {why}")]
    Unreadable {
        /// What the decoder said.
        why: String,
    },
    /// So narrow that scaling its shorter side makes the longer one enormous.
    #[error("is {width} x {height} pixels, too narrow to be scaled; cut it first")]
    TooNarrow {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
}

/// What a model expects of a picture; the fields are those of the manifest's step.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Pixels {
    pub width: u32,
    pub height: u32,
    pub resize_shorter: Option<u32>,
    pub scale: f32,
    pub mean: [f32; 3],
    pub std: [f32; 3],
    pub channels_first: bool,
    pub bgr: bool,
}

/// Pixels of a scaled picture before its crop.
const SCALED_PIXELS_MAX: u64 = 1 << 24;
/// Pixels along one side of a model's input.
const INPUT_SIDE_MAX: u32 = 4096;

impl Pixels {
    /// Whether these figures can be carried out.
    pub(crate) fn check(&self) -> Result<(), String> {
        let side = 1..=INPUT_SIDE_MAX;
        if !side.contains(&self.width) || !side.contains(&self.height) {
            return Err(format!(
                "{} x {} pixels, allowed are 1 to {INPUT_SIDE_MAX} a side",
                self.width, self.height
            ));
        }
        match self.resize_shorter {
            Some(shorter) if !(self.width.max(self.height)..=INPUT_SIDE_MAX).contains(&shorter) => Err(format!(
                "the shorter side is scaled to {shorter}, which a crop of {} x {} does not fit",
                self.width, self.height
            )),
            _ if self.std.contains(&0.0) => Err("`std` holds a zero".to_owned()),
            _ => Ok(()),
        }
    }
    /// Names what [`scaled`] makes of a picture: all figures that it depends on.
    pub(crate) fn stage(&self) -> String {
        format!("rgb {} {} {:?}", self.width, self.height, self.resize_shorter)
    }
    pub(crate) fn shape(&self, rows: usize) -> Vec<usize> {
        let (width, height) = (self.width as usize, self.height as usize);
        if self.channels_first {
            vec![rows, 3, height, width]
        } else {
            vec![rows, height, width, 3]
        }
    }
}

/// Decodes, scales, crops and normalises one picture.
///
/// | | shape | dtype | unit / range |
/// |---|---|---|---|
/// | `encoded` | JPEG or PNG file | `u8` | sides up to [`IMAGE_SIDE_MAX`] |
/// | returns | `[3, height, width]` or `[height, width, 3]` | `f32` | `(value * scale - mean) / std` |
///
/// The picture becomes 8-bit RGB (transparency dropped, EXIF orientation not applied). With `resize_shorter` the shorter
/// side is scaled to it, the longer to the floor of its share, and the centre is cut out; without, the whole picture
/// is squeezed. Scaling is bilinear with a filter that widens when shrinking, rounded to 8 bits, as PIL and torchvision
/// do it; single values differ from theirs by at most a few 255ths. Equal bytes give equal numbers on every node of one build target.
///
/// # Errors
/// [`ImageError`]. Memory is bounded by [`IMAGE_DECODE_BYTES_MAX`] before decoding. Never panics.
pub fn pixels(encoded: &[u8], how: &Pixels) -> Result<Vec<f32>, ImageError> {
    let mut out = Vec::new();
    numbers(&scaled(encoded, how)?, how, &mut out);
    Ok(out)
}

/// The first part of [`pixels`], which takes nearly all of its time: decodes, scales and crops one picture.
///
/// | | shape | dtype | unit / range |
/// |---|---|---|---|
/// | `encoded` | JPEG or PNG file | `u8` | sides up to [`IMAGE_SIDE_MAX`] |
/// | returns | `[height, width, 3]`, row-major | `u8` | red, green, blue |
///
/// # Errors
/// Those of [`pixels`].
pub fn scaled(encoded: &[u8], how: &Pixels) -> Result<Vec<u8>, ImageError> {
    let picture = decode(encoded)?;
    Ok(fit(&picture, how)?.into_raw())
}

/// The second part: appends the numbers of a picture that [`scaled`] made.
pub fn numbers(rgb: &[u8], how: &Pixels, out: &mut Vec<f32>) {
    let count = how.width as usize * how.height as usize;
    let begin = out.len();
    out.resize(begin + 3 * count, 0.0);
    let out = &mut out[begin..];
    for (place, pixel) in rgb.as_chunks::<3>().0.iter().take(count).enumerate() {
        for channel in 0..3 {
            let value = f32::from(pixel[if how.bgr { 2 - channel } else { channel }]);
            let at = if how.channels_first {
                channel * count + place
            } else {
                place * 3 + channel
            };
            out[at] = (value * how.scale - how.mean[channel]) / how.std[channel];
        }
    }
}

fn decode(encoded: &[u8]) -> Result<RgbImage, ImageError> {
    let unreadable = |why: String| ImageError::Unreadable { why };
    let mut reader = ImageReader::new(Cursor::new(encoded))
        .with_guessed_format()
        .map_err(|e| unreadable(e.to_string()))?;
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(IMAGE_SIDE_MAX);
    limits.max_image_height = Some(IMAGE_SIDE_MAX);
    limits.max_alloc = Some(IMAGE_DECODE_BYTES_MAX);
    reader.limits(limits);
    let picture = reader.decode().map_err(|e| unreadable(e.to_string()))?;
    if picture.width() == 0 || picture.height() == 0 {
        return Err(unreadable("it has no pixels".to_owned()));
    }
    Ok(picture.to_rgb8())
}

fn fit(picture: &RgbImage, how: &Pixels) -> Result<RgbImage, ImageError> {
    let (width, height) = picture.dimensions();
    let Some(shorter) = how.resize_shorter else {
        return Ok(resized(picture, how.width, how.height));
    };
    let long = |side: u32| u64::from(shorter) * u64::from(side) / u64::from(width.min(height));
    let (to_width, to_height) = if width <= height {
        (u64::from(shorter), long(height))
    } else {
        (long(width), u64::from(shorter))
    };
    if to_width * to_height > SCALED_PIXELS_MAX {
        return Err(ImageError::TooNarrow { width, height });
    }
    let (to_width, to_height) = (to_width as u32, to_height as u32);
    let scaled = resized(picture, to_width, to_height);
    // Python's round(): halves go to the even neighbour, as in torchvision's center_crop.
    let offset = |outer: u32, inner: u32| (f64::from(outer - inner) / 2.0).round_ties_even() as u32;
    let (left, top) = (offset(to_width, how.width), offset(to_height, how.height));
    Ok(imageops::crop_imm(&scaled, left, top, how.width, how.height).to_image())
}

fn resized(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    if picture.dimensions() == (width, height) {
        return picture.clone();
    }
    imageops::resize(picture, width, height, FilterType::Triangle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ImageFormat, Rgb};

    const PLAIN: Pixels = Pixels {
        width: 2,
        height: 2,
        resize_shorter: None,
        scale: 1.0,
        mean: [0.0; 3],
        std: [1.0; 3],
        channels_first: true,
        bgr: false,
    };

    fn png(picture: &RgbImage) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        picture.write_to(&mut out, ImageFormat::Png).unwrap();
        out.into_inner()
    }

    #[test]
    fn channels_and_rows_stand_where_the_model_wants_them() {
        let picture = RgbImage::from_fn(2, 2, |x, y| Rgb([x as u8, y as u8, 9]));
        assert_eq!(
            pixels(&png(&picture), &PLAIN).unwrap(),
            [0., 1., 0., 1., 0., 0., 1., 1., 9., 9., 9., 9.]
        );
        let last = Pixels {
            channels_first: false,
            bgr: true,
            ..PLAIN
        };
        assert_eq!(
            pixels(&png(&picture), &last).unwrap(),
            [9., 0., 0., 9., 0., 1., 9., 1., 0., 9., 1., 1.]
        );
    }

    #[test]
    fn values_are_scaled_then_shifted_then_divided() {
        let grey = png(&RgbImage::from_pixel(5, 9, Rgb([51; 3])));
        let how = Pixels {
            scale: 1.0 / 255.0,
            mean: [0.1, 0.2, 0.3],
            std: [0.5, 0.25, 0.1],
            ..PLAIN
        };
        let out = pixels(&grey, &how).unwrap();
        for (got, want) in out.iter().step_by(4).zip([0.2, 0.0, -1.0]) {
            assert!((got - want).abs() < 1e-5, "{got} {want}");
        }
    }

    #[test]
    fn shrinking_averages_all_pixels_under_the_filter() {
        let ramp = RgbImage::from_fn(8, 8, |x, _| Rgb([(x * 32) as u8; 3]));
        let how = Pixels {
            width: 4,
            height: 4,
            ..PLAIN
        };
        let out = pixels(&png(&ramp), &how).unwrap();
        // Each output pixel covers two; the triangle of width two on either side weighs 1/8 3/8 3/8 1/8, cut and renormalised at the edge.
        for (got, want) in out[..4].iter().zip([22.857, 80.0, 144.0, 201.143]) {
            assert!((got - want).abs() <= 1.0, "{got} {want}");
        }
    }

    #[test]
    fn the_centre_is_cut_out_of_a_wide_picture() {
        let wide = RgbImage::from_fn(6, 2, |x, _| Rgb([x as u8; 3]));
        let how = Pixels {
            resize_shorter: Some(2),
            ..PLAIN
        };
        assert_eq!(pixels(&png(&wide), &how).unwrap()[..2], [2.0, 3.0]);
    }

    #[test]
    fn what_is_no_picture_or_a_giant_one_is_an_error_and_not_memory() {
        assert!(pixels(b"", &PLAIN).is_err());
        assert!(pixels(b"\x89PNG\r\n\x1a\n....", &PLAIN).is_err());
        let mut giant = png(&RgbImage::new(2, 2));
        giant[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
        assert!(matches!(pixels(&giant, &PLAIN), Err(ImageError::Unreadable { .. })));
        let narrow = png(&RgbImage::new(1, 16_000));
        let how = Pixels {
            width: 64,
            height: 64,
            resize_shorter: Some(64),
            ..PLAIN
        };
        assert_eq!(
            pixels(&narrow, &how),
            Err(ImageError::TooNarrow {
                width: 1,
                height: 16_000
            })
        );
    }

    #[test]
    fn figures_that_cannot_be_carried_out_are_refused_at_load() {
        assert!(Pixels { width: 0, ..PLAIN }.check().is_err());
        assert!(
            Pixels {
                resize_shorter: Some(1),
                ..PLAIN
            }
            .check()
            .is_err()
        );
        assert!(
            Pixels {
                std: [1.0, 0.0, 1.0],
                ..PLAIN
            }
            .check()
            .is_err()
        );
        assert!(PLAIN.check().is_ok());
    }
}
