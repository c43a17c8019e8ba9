//! A multi-layer perceptron by hand: the part of a training program that is *not* the library's.
//!
//! gradstep sees nothing of it but shapes, parameters and gradients. Any other source of
//! gradients (a framework, a simulation, a different machine) takes its place.

use fastrand::Rng;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayViewD, ArrayViewMutD, Axis, Zip};

use crate::data::Digits;

/// Dense layers with ReLU between them. A second one of the same sizes holds the gradients.
#[derive(Clone)]
pub(crate) struct Mlp {
    layers: Vec<Dense>,
}

/// `y = x·W + b`
#[derive(Clone)]
struct Dense {
    weight: Array2<f32>,
    bias: Array1<f32>,
}

impl Mlp {
    /// Random weights (He et al., 2015, in the uniform form), biases zero.
    pub(crate) fn new(sizes: &[usize], rng: &mut Rng) -> Self {
        let layers = sizes.windows(2).map(|size| {
            let (inputs, outputs) = (size[0], size[1]);
            let bound = (6.0 / inputs as f32).sqrt();
            let weight =
                Array2::from_shape_simple_fn((inputs, outputs), || bound * (2.0 * rng.f32() - 1.0));
            Dense { weight, bias: Array1::zeros(outputs) }
        });
        Self { layers: layers.collect() }
    }

    /// Weights and biases, each a tensor of its own: what an optimizer works on.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = ArrayViewD<'_, f32>> {
        self.layers
            .iter()
            .flat_map(|layer| [layer.weight.view().into_dyn(), layer.bias.view().into_dyn()])
    }

    /// The same, to change them.
    pub(crate) fn tensors_mut(&mut self) -> impl Iterator<Item = ArrayViewMutD<'_, f32>> {
        self.layers.iter_mut().flat_map(|layer| {
            [layer.weight.view_mut().into_dyn(), layer.bias.view_mut().into_dyn()]
        })
    }

    /// The shapes of the tensors, in their order.
    pub(crate) fn shapes(&self) -> Vec<Vec<usize>> {
        self.tensors().map(|tensor| tensor.shape().to_vec()).collect()
    }

    /// The number of parameters.
    pub(crate) fn len(&self) -> usize {
        self.tensors().map(|tensor| tensor.len()).sum()
    }

    /// What every layer puts out: rectified, except for the last one.
    fn forward(&self, images: &Array2<f32>) -> Vec<Array2<f32>> {
        let mut outputs: Vec<Array2<f32>> = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            let mut output = outputs.last().unwrap_or(images).dot(&layer.weight) + &layer.bias;
            if i + 1 < self.layers.len() {
                output.mapv_inplace(|x| x.max(0.0));
            }
            outputs.push(output);
        }
        outputs
    }

    /// The cross-entropy of a batch, summed over its images. Its mean's gradients go to `grads`.
    pub(crate) fn loss(&self, batch: &Digits, grads: &mut Self) -> f64 {
        let mut outputs = self.forward(&batch.images);
        let mut delta = outputs.pop().expect("a model has a layer");

        // Softmax and cross-entropy; `delta` becomes the gradient of their mean.
        let mut loss = 0.0;
        for (mut row, &label) in delta.rows_mut().into_iter().zip(&batch.labels) {
            let max = row.fold(f32::MIN, |max, &x| max.max(x));
            row.mapv_inplace(|x| (x - max).exp());
            let sum = row.sum();
            row /= sum;
            loss -= f64::from(row[label].max(f32::MIN_POSITIVE)).ln();
            row[label] -= 1.0;
        }
        delta /= batch.len() as f32;

        for i in (0..self.layers.len()).rev() {
            let input = if i == 0 { &batch.images } else { &outputs[i - 1] };
            general_mat_mul(1.0, &input.t(), &delta, 0.0, &mut grads.layers[i].weight);
            grads.layers[i].bias.assign(&delta.sum_axis(Axis(0)));
            if i > 0 {
                delta = delta.dot(&self.layers[i].weight.t());
                // Where the ReLU was shut, nothing passes back.
                Zip::from(&mut delta)
                    .and(input)
                    .for_each(|d, &x| *d = if x > 0.0 { *d } else { 0.0 });
            }
        }
        loss
    }

    /// The share of images whose digit is found.
    pub(crate) fn accuracy(&self, digits: &Digits) -> f64 {
        let outputs = self.forward(&digits.images);
        let scores = outputs.last().expect("a model has a layer");
        let hits = scores.rows().into_iter().zip(&digits.labels).filter(|(row, label)| {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            best.is_some_and(|(class, _)| class == **label)
        });
        hits.count() as f64 / digits.len() as f64
    }
}
