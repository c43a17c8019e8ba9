//! The handwritten digits and their mini-batches.

use std::io::Read;

use fastrand::Rng;
use ndarray::{Array2, Axis, s};

/// 1797 lines of 64 pixels (0 to 16) and the digit. See `examples/data/README.md`.
const CSV: &[u8] = include_bytes!("../data/digits.csv.gz");

pub(crate) const PIXELS: usize = 64;
pub(crate) const CLASSES: usize = 10;

/// Images and what they show.
pub(crate) struct Digits {
    /// One image a row: the ink of each pixel (0 to 1) less the mean training image.
    pub(crate) images: Array2<f32>,
    pub(crate) labels: Vec<usize>,
}

impl Digits {
    /// The whole set, shuffled by `seed` and cut into 80 % for training and 20 % for testing.
    pub(crate) fn load(seed: u64) -> Result<(Self, Self), Box<dyn std::error::Error>> {
        let mut csv = String::new();
        flate2::read::GzDecoder::new(CSV).read_to_string(&mut csv)?;
        let mut lines: Vec<&str> = csv.lines().collect();
        Rng::with_seed(seed).shuffle(&mut lines);

        let mut pixels = Vec::with_capacity(lines.len() * PIXELS);
        let mut labels = Vec::with_capacity(lines.len());
        for line in &lines {
            let (image, label) = line.rsplit_once(',').ok_or("a line without a comma")?;
            for pixel in image.split(',') {
                pixels.push(pixel.parse::<f32>()? / 16.0);
            }
            labels.push(label.parse()?);
        }
        let mut images = Array2::from_shape_vec((labels.len(), PIXELS), pixels)?;

        let cut = labels.len() * 4 / 5;
        // Without it, half of the first layer's units are off for nearly every image.
        images -= &images.slice(s![..cut, ..]).mean_axis(Axis(0)).ok_or("no images")?;
        let test =
            Self { images: images.slice(s![cut.., ..]).to_owned(), labels: labels.split_off(cut) };
        let train = Self { images: images.slice(s![..cut, ..]).to_owned(), labels };
        Ok((train, test))
    }

    pub(crate) fn len(&self) -> usize {
        self.labels.len()
    }

    /// All images once, `size` at a time, in an order that only `rng` decides.
    pub(crate) fn batches(&self, size: usize, rng: &mut Rng) -> impl Iterator<Item = Self> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        rng.shuffle(&mut order);
        (0..self.len()).step_by(size).map(move |first| {
            let rows = &order[first..(first + size).min(order.len())];
            Self {
                images: self.images.select(Axis(0), rows),
                labels: rows.iter().map(|&row| self.labels[row]).collect(),
            }
        })
    }
}
