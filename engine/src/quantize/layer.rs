//! The float weights of one decoder layer in host memory, and what may be done to them without changing the model: scaling a
//! channel where it is produced and undoing that in the columns that read it.

use super::QuantizeError;
use super::smooth::{divide_rows, multiply_columns, widen_column_absmax};
use crate::checkpoint::{Checkpoint, Fold, LinearGroup, LinearShape, ModelConfig};
use std::collections::BTreeMap;

/// Every tensor of a layer by its name in the checkpoint.
#[derive(Clone, Debug, Default)]
pub struct HostLayer {
    tensors: BTreeMap<String, Vec<f32>>,
}

impl HostLayer {
    pub async fn read(checkpoint: &Checkpoint, layer: u32) -> Result<Self, QuantizeError> {
        let config = &checkpoint.config;
        let mut tensors = BTreeMap::new();
        for (name, len) in config.layer_norms(layer) {
            let values = checkpoint.read_f32(&name, 0, len as usize).await?;
            tensors.insert(name, values);
        }
        for linear in config.layer_linears(layer) {
            let weight = format!("{}.weight", linear.name);
            let len = linear.in_features as usize * linear.out_features as usize;
            let values = checkpoint.read_f32(&weight, 0, len).await?;
            tensors.insert(weight, values);
            if linear.bias {
                let bias = format!("{}.bias", linear.name);
                let values = checkpoint
                    .read_f32(&bias, 0, linear.out_features as usize)
                    .await?;
                tensors.insert(bias, values);
            }
        }
        Ok(Self { tensors })
    }

    /// The vectors after the last layer.
    pub async fn read_last(checkpoint: &Checkpoint) -> Result<Self, QuantizeError> {
        let mut tensors = BTreeMap::new();
        for (name, len) in checkpoint.config.final_norms() {
            let values = checkpoint.read_f32(&name, 0, len as usize).await?;
            tensors.insert(name, values);
        }
        Ok(Self { tensors })
    }

    /// The tensor of that name.
    ///
    /// # Panics
    /// When the layer has none: [`ModelConfig`] names those that it has.
    pub fn tensor(&self, name: &str) -> &[f32] {
        let found = self.tensors.get(name);
        found.unwrap_or_else(|| panic!("{name} is a tensor of the layer"))
    }

    fn tensor_mut(&mut self, name: &str) -> &mut [f32] {
        self.values_mut(name)
    }

    fn values_mut(&mut self, name: &str) -> &mut Vec<f32> {
        let found = self.tensors.get_mut(name);
        found.unwrap_or_else(|| panic!("{name} is a tensor of the layer"))
    }

    /// [out_features, in_features]
    pub fn weight(&self, linear: &str) -> &[f32] {
        self.tensor(&format!("{linear}.weight"))
    }

    /// Takes a linear's [out_features, in_features] out; nobody may ask for them again.
    pub fn take_weight(&mut self, linear: &str) -> Vec<f32> {
        std::mem::take(self.values_mut(&format!("{linear}.weight")))
    }

    /// Puts other values, [out_features, in_features], in the place of a linear's.
    pub fn set_weight(&mut self, linear: &str, values: &[f32]) {
        self.tensor_mut(&format!("{linear}.weight"))
            .copy_from_slice(values);
    }

    /// [out_features], or nothing.
    pub fn bias(&self, linear: &LinearShape) -> &[f32] {
        match linear.bias {
            true => self.tensor(&format!("{}.bias", linear.name)),
            false => &[],
        }
    }

    /// Divides what the group is given by `scales`, where it is produced, and multiplies the columns that read it: in exact
    /// arithmetic no output changes. One scale for each channel that is produced (see [`Producer::channels`]).
    pub fn rescale(&mut self, group: &LinearGroup, producer: &Producer, scales: &[f32]) {
        match &group.fold {
            Fold::None => return,
            Fold::Norm { weight, bias } => {
                for name in std::iter::once(weight).chain(bias) {
                    divide_rows(self.tensor_mut(name), scales);
                }
            }
            Fold::Linear { name, bias, .. } => {
                divide_rows(self.tensor_mut(&format!("{name}.weight")), scales);
                if *bias {
                    divide_rows(self.tensor_mut(&format!("{name}.bias")), scales);
                }
            }
        }
        let scales = producer.expand(scales);
        for linear in &group.linears {
            multiply_columns(self.tensor_mut(&format!("{}.weight", linear.name)), &scales);
        }
    }

    /// The largest magnitude in each column over all linears of the group.
    pub fn column_absmax(&self, group: &LinearGroup) -> Vec<f32> {
        let mut absmax = vec![0.0_f32; group.in_features as usize];
        for linear in &group.linears {
            widen_column_absmax(&mut absmax, self.weight(&linear.name));
        }
        absmax
    }

    /// The Euclidean norm of each column over all linears of the group.
    pub fn column_norm(&self, group: &LinearGroup) -> Vec<f32> {
        let mut squares = vec![0.0_f64; group.in_features as usize];
        for linear in &group.linears {
            for row in self.weight(&linear.name).chunks_exact(squares.len()) {
                for (square, value) in squares.iter_mut().zip(row) {
                    *square += f64::from(*value) * f64::from(*value);
                }
            }
        }
        squares
            .into_iter()
            .map(|square| square.sqrt() as f32)
            .collect()
    }
}

/// Which channel of what precedes a group becomes which channel of its input: each one, or, with grouped heads, one of the value
/// projection for some heads of the output's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Channels that are produced, and that are read.
    pub channels: usize,
    in_features: usize,
    head_dim: usize,
    /// Query heads that read one head of values; 1 where there are none.
    repeat: usize,
}

impl Producer {
    pub fn of(config: &ModelConfig, group: &LinearGroup) -> Self {
        let (head_dim, repeat) = match group.fold {
            Fold::Linear { per_head: true, .. } => (
                config.head_dim as usize,
                (config.num_attention_heads / config.num_key_value_heads) as usize,
            ),
            _ => (1, 1),
        };
        let in_features = group.in_features as usize;
        Self {
            channels: in_features / repeat,
            in_features,
            head_dim,
            repeat,
        }
    }

    /// The channel that is produced, for input channel `j`.
    pub const fn channel(&self, j: usize) -> usize {
        j / (self.head_dim * self.repeat) * self.head_dim + j % self.head_dim
    }

    /// A value for each channel that is produced to one for each that is read.
    pub fn expand(&self, values: &[f32]) -> Vec<f32> {
        (0..self.in_features)
            .map(|j| values[self.channel(j)])
            .collect()
    }

    /// The largest of the values of the channels that come from one.
    pub fn reduce_max(&self, values: &[f32]) -> Vec<f32> {
        let mut largest = vec![0.0_f32; self.channels];
        for (j, value) in values.iter().enumerate() {
            let largest = &mut largest[self.channel(j)];
            *largest = largest.max(*value);
        }
        largest
    }
}
