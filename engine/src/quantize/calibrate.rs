//! Calibration: sample text through the model, one layer at a time, with taps on what its linears are given.
//!
//! Between the layers the samples' hidden states stand in host memory; of the model, one layer is on the device. So memory does
//! not grow with depth. The plan of a layer is the one that runs it later, cut where a tap is.

use super::QuantizeError;
use super::gptq::Hessian;
use super::layer::HostLayer;
use super::linear::QuantizedLinear;
use super::outliers::SplitMix;
use crate::checkpoint::ModelConfig;
use crate::exec::{Executor, PlanId};
use crate::model::{
    Capacity, LinearSpec, LinearWeights, Model, NormPart, Part, StepShape, WeightsConfig,
};
use crate::ops::{Input, Linear, WeightFormat};
use crate::plan::{BufferId, Grid, Plan, SharedBuffers};
use crate::tensor::KvType;
use plateau_shaders::attention::tiles;
use plateau_shaders::quantize::{gram, gram_cross, gram_f32, gram_i8};
use plateau_shaders::{PAGE_SIZE, padded};
use std::collections::BTreeMap;
use std::ops::Range;

/// Rows of one step, where a window is not longer.
const STEP_ROWS: usize = 2048;
/// Words of a Gram matrix on their way to the host at a time.
const DRAINED_WORDS: u32 = 1 << 20;
/// Logits that are read at a time, or one row.
const HEAD_LOGITS: usize = 1 << 22;
/// Elements of a table in memory at a time, or one row.
pub(super) const TABLE_ELEMENTS: u32 = 1 << 22;

/// Sample text: windows of one length, each a sequence of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Samples {
    /// At least one, of at least two tokens, all of one length.
    pub windows: Vec<Vec<u32>>,
}

impl Samples {
    /// `count` windows of `window` tokens from a text, `bos` in front of each if there is one, chosen without overlap by `seed`;
    /// all that there are, where the text has fewer. `None` where it has not even one.
    pub fn new(
        ids: &[u32],
        bos: Option<u32>,
        window: usize,
        count: usize,
        seed: u64,
    ) -> Option<Self> {
        let text = window.checked_sub(usize::from(bos.is_some()))?;
        let all: Vec<&[u32]> = ids.chunks_exact(text.max(1)).collect();
        let mut order: Vec<usize> = (0..all.len()).collect();
        let mut random = SplitMix(seed);
        let count = count.min(all.len());
        // The first `count` of a shuffle, in the order of the text.
        for at in 0..count {
            let other = at + (random.unit() * (all.len() - at) as f64) as usize;
            order.swap(at, other);
        }
        order.truncate(count);
        order.sort_unstable();
        let window_of = |at: usize| bos.into_iter().chain(all[at].iter().copied()).collect();
        let windows: Vec<Vec<u32>> = order.into_iter().map(window_of).collect();
        (!windows.is_empty() && window > 1).then_some(Self { windows })
    }

    /// Tokens of a window.
    pub fn window(&self) -> usize {
        self.windows.first().map_or(0, Vec::len)
    }

    /// Windows of one step.
    fn per_step(&self) -> usize {
        (STEP_ROWS / self.window().max(1)).clamp(1, self.windows.len().max(1))
    }
}

/// Keys and values of the first tokens at one layer, as the cache holds them: [tokens, kv_heads * head_dim] each, keys after rope.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerPrefix {
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    /// What the layer made of them: [tokens, hidden].
    pub hidden: Vec<f32>,
}

/// What a linear was given: [rows, features], rows in the order of the windows.
pub(super) struct Tap<'a> {
    /// Number of the linear among those of the stage: in a float layer, of the group that shares this input.
    pub linear: usize,
    pub features: usize,
    pub values: &'a [f32],
    /// Of the first row: its number among all, and rows of a window.
    pub first_row: usize,
    pub rows_per_window: usize,
}

/// A piece of the model on the device, and the samples that run through it.
pub(super) struct Stage<'a> {
    executor: &'a mut Executor,
    samples: &'a Samples,
    /// Position of the first row of each window that is run: those before it are in the cache.
    first: usize,
    model: Model,
    /// The float model's layer beside it, its buffers after those of `model`.
    exact: Option<Model>,
    plans: BTreeMap<(Side, usize), (PlanId, Plan)>,
}

/// Which of a stage's models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// As it will run.
    Model,
    /// The float one beside it.
    Exact,
}

/// Rows of what a linear's quantized inputs z [rows, features] have to do with the float model, over all samples, from feature
/// `first` on.
pub(super) enum Cross<'a> {
    /// Of `zᵀX` with the float model's inputs, [features, in_features].
    Inputs { first: usize, values: &'a [f32] },
    /// Of `zᵀD`, [features, out_features], where the linear's outputs are added to the hidden states: D is what these miss so far.
    Debt { first: usize, values: &'a [f32] },
}

/// The float model beside a stage's, for a linear's [`Cross`].
pub(super) struct Beside<'a> {
    /// Its hidden states.
    pub hidden: &'a [f32],
    /// Of its linear among its own.
    pub number: usize,
}

/// The matrices that [`Cross`] are rows of, on the device until they are given to [`Stage::free`].
pub(super) struct CrossSums {
    /// Of the float model's linear among its own.
    number: usize,
    /// Flat, of the model's linear.
    features: u32,
    /// Of the float model's linear.
    in_features: u32,
    inputs: BufferId,
    /// With the hidden states of the float model and of the other.
    hidden: Option<[BufferId; 2]>,
    /// Buffers of the stage without them.
    before: usize,
}

impl<'a> Stage<'a> {
    /// Frees what is on the device, then allocates the part's buffers and fills the tables.
    pub async fn new(
        executor: &'a mut Executor,
        config: &ModelConfig,
        part: Part,
        samples: &'a Samples,
        first: usize,
        linear: &dyn Fn(&str) -> LinearSpec,
    ) -> Result<Self, QuantizeError> {
        Self::beside(executor, config, part, samples, first, linear, None).await
    }

    /// The same, with another model of the part beside it, if there is one: [`Side::Exact`].
    pub async fn beside(
        executor: &'a mut Executor,
        config: &ModelConfig,
        part: Part,
        samples: &'a Samples,
        first: usize,
        linear: &dyn Fn(&str) -> LinearSpec,
        exact: Option<&dyn Fn(&str) -> LinearSpec>,
    ) -> Result<Self, QuantizeError> {
        let windows = samples.per_step() as u32;
        let len = samples.window() as u32;
        let capacity = Capacity {
            context_size: len,
            max_sequences: windows,
            max_rows: windows * len,
            kv_type: KvType::F32,
        };
        let (max_buffer_bytes, features) = (executor.max_buffer_bytes(), executor.features());
        let declare = |shared: SharedBuffers, linear: &dyn Fn(&str) -> LinearSpec| {
            let weights = WeightsConfig {
                linear,
                table: WeightFormat::F32,
                max_buffer_bytes,
                prefix_tokens: &[],
                hidden_prefix: false,
            };
            Model::after(
                shared,
                config.clone(),
                part.clone(),
                capacity,
                features,
                &weights,
            )
        };
        let model = declare(SharedBuffers::default(), linear);
        let exact = exact.map(|linear| declare(model.shared.clone(), linear));
        executor.truncate(0);
        let mut stage = Self {
            executor,
            samples,
            first,
            model,
            exact,
            plans: BTreeMap::new(),
        };
        for desc in stage.shared().descs.clone() {
            stage.executor.allocate(&desc).await?;
        }
        for model in [Some(&stage.model), stage.exact.as_ref()]
            .into_iter()
            .flatten()
        {
            let table: Vec<u32> = (0..capacity.pages()).collect();
            stage.executor.write(model.step.block_table, 0, &table)?;
            let rope = model.rope_table();
            let rope = bytemuck::cast_slice(&rope);
            stage.executor.write(model.step.rope_table, 0, rope)?;
            for linear in model.weights.linears().map(|l| &l.linear) {
                if let (Input::Static(input), Some((map, scale))) =
                    (&linear.input, linear.static_buffers)
                {
                    stage.executor.write(map, 0, &input.map)?;
                    stage.executor.write(scale, 0, &[input.scale.to_bits()])?;
                }
            }
        }
        Ok(stage)
    }

    /// The buffers of all.
    fn shared(&mut self) -> &mut SharedBuffers {
        match &mut self.exact {
            Some(exact) => &mut exact.shared,
            None => &mut self.model.shared,
        }
    }

    fn side(&self, side: Side) -> &Model {
        match (side, &self.exact) {
            (Side::Exact, Some(exact)) => exact,
            _ => &self.model,
        }
    }

    /// Rows of a window that are run.
    pub fn rows_per_window(&self) -> usize {
        self.samples.window() - self.first
    }

    /// Label and names of the linears as they are run, those that share a spec joined.
    pub fn joined(&self) -> Vec<(String, Vec<String>)> {
        let names = |linear: &LinearWeights| {
            let sources = linear.sources.iter().map(|source| source.name.clone());
            (linear.linear.label.clone(), sources.collect())
        };
        self.model.weights.linears().map(names).collect()
    }

    /// Norms, and what else is used as it is.
    pub fn write_vectors(&mut self, layer: &HostLayer) -> Result<(), QuantizeError> {
        let models = [Some(&self.model), self.exact.as_ref()]
            .into_iter()
            .flatten();
        for norm in models.flat_map(|model| model.weights.norms()) {
            let mut values: Vec<f32> = Vec::new();
            for part in &norm.parts {
                match part {
                    NormPart::Tensor(name) => values.extend(layer.tensor(name)),
                    NormPart::Constant(value) => {
                        values.resize(values.len() + norm.len as usize, *value)
                    }
                }
            }
            self.executor
                .write(norm.buffer, 0, bytemuck::cast_slice(&values))?;
        }
        Ok(())
    }

    /// Tables, and linears before the layers, in floats, some rows at a time; `read` gives `rows` rows of a tensor from one on.
    pub async fn write_embedding(
        &mut self,
        read: impl AsyncFn(&str, u32, u32, u32) -> Result<Vec<f32>, QuantizeError>,
    ) -> Result<(), QuantizeError> {
        let tables = self.model.weights.tables();
        let tables = tables.map(|t| (&t.name, t.table.hidden, &t.table.ranges));
        let linears = self.model.weights.linears();
        let linears = linears.map(|l| (&l.sources[0].name, l.in_features, &l.linear.ranges));
        for (name, features, ranges) in tables.chain(linears) {
            let stride = padded(features) as usize;
            let chunk = (TABLE_ELEMENTS / features).max(1);
            for range in ranges {
                for first in (0..range.rows).step_by(chunk as usize) {
                    let rows = chunk.min(range.rows - first);
                    let values = read(name, features, range.first_row + first, rows).await?;
                    let words = padded_rows(&values, features as usize, stride);
                    self.executor
                        .write(range.w, u64::from(first) * stride as u64, &words)?;
                }
            }
        }
        Ok(())
    }

    /// Float weights of every linear.
    pub fn write_float(&mut self, layer: &HostLayer) -> Result<(), QuantizeError> {
        let models = [Some(&self.model), self.exact.as_ref()]
            .into_iter()
            .flatten();
        let linears = models.flat_map(|model| model.weights.linears());
        for linear in linears.filter(|l| l.linear.input == Input::Float) {
            let join = |suffix: &str| -> Vec<f32> {
                let tensors = linear.sources.iter();
                tensors
                    .flat_map(|source| layer.tensor(&format!("{}.{suffix}", source.name)))
                    .copied()
                    .collect()
            };
            let weights = join("weight");
            let bias = if linear.linear.has_bias {
                join("bias")
            } else {
                Vec::new()
            };
            write_float_rows(self.executor, &linear.linear, &weights, &bias)?;
        }
        Ok(())
    }

    /// Quantized weights of the linear with this label, the quantized linears in the order of its rows: as integers, or what they
    /// stand for where the linear computes in floats.
    pub fn write_quantized(
        &mut self,
        label: &str,
        parts: &[&QuantizedLinear],
    ) -> Result<(), QuantizeError> {
        let found = self
            .model
            .weights
            .linears()
            .find(|l| l.linear.label == label);
        let linear = &found.expect("a label of this layer").linear;
        let bias: Vec<f32> = parts.iter().flat_map(|p| &p.bias).copied().collect();
        if linear.input == Input::Float {
            let features = linear.in_features as usize;
            let values: Vec<f32> = parts.iter().flat_map(|p| p.values(features)).collect();
            return write_float_rows(self.executor, linear, &values, &bias);
        }
        let words: Vec<u32> = parts.iter().flat_map(|p| &p.words).copied().collect();
        let scales: Vec<f32> = parts.iter().flat_map(|p| p.row_scales()).collect();
        let multipliers: Vec<u32> = parts.iter().flat_map(|p| &p.multipliers).copied().collect();
        let row_words = linear.format.row_words(linear.in_features) as usize;
        let multiplier_words = linear.format.multiplier_words(linear.in_features) as usize;
        for range in &linear.ranges {
            let rows = range.first_row as usize..(range.first_row + range.rows) as usize;
            self.executor.write(
                range.w,
                0,
                &words[rows.start * row_words..rows.end * row_words],
            )?;
            let mut aux: Vec<u32> = scales[rows.clone()].iter().map(|s| s.to_bits()).collect();
            if linear.has_bias {
                aux.extend(bias[rows.clone()].iter().map(|b| b.to_bits()));
            }
            aux.extend(&multipliers[rows.start * multiplier_words..rows.end * multiplier_words]);
            self.executor.write(range.aux, 0, &aux)?;
        }
        Ok(())
    }

    /// Stored keys and values for every sequence of a step.
    pub fn write_prefix(&mut self, prefix: &LayerPrefix) -> Result<(), QuantizeError> {
        let models = [Some(&self.model), self.exact.as_ref()]
            .into_iter()
            .flatten();
        let pools = models.filter_map(|model| model.kv_pools.first());
        for (pool, values) in pools.flat_map(|p| [(p.k, &prefix.k), (p.v, &prefix.v)]) {
            for (offset, position, head) in self.cache_rows() {
                let head_dim = self.model.config.head_dim as usize;
                let row = position * self.model.config.num_key_value_heads as usize + head;
                let values = &values[row * head_dim..][..head_dim];
                self.executor
                    .write(pool, offset, bytemuck::cast_slice(values))?;
            }
        }
        Ok(())
    }

    /// Keys and values of the first `self.first`-to-be positions, `tokens` of them, that the last step wrote for its first window.
    pub async fn read_prefix(&mut self, tokens: usize) -> Result<LayerPrefix, QuantizeError> {
        let Some(pools) = self.model.kv_pools.first().copied() else {
            return Ok(LayerPrefix::default());
        };
        let head_dim = u64::from(self.model.config.head_dim);
        let mut found = [Vec::new(), Vec::new()];
        for (pool, found) in [pools.k, pools.v].into_iter().zip(&mut found) {
            for position in 0..tokens {
                for head in 0..self.model.config.num_key_value_heads as usize {
                    let offset = self.cache_row(0, position, head);
                    let words = self
                        .executor
                        .read(None, pool, offset..offset + head_dim)
                        .await?;
                    found.extend(words.into_iter().map(f32::from_bits));
                }
            }
        }
        let [k, v] = found;
        let hidden = Vec::new();
        Ok(LayerPrefix { k, v, hidden })
    }

    /// Where the head's row of a position lies in a pool, in words.
    fn cache_row(&self, sequence: usize, position: usize, head: usize) -> u64 {
        let page =
            sequence * self.model.capacity.table_stride() as usize + position / PAGE_SIZE as usize;
        let heads = self.model.config.num_key_value_heads as usize;
        let slot = (page * heads + head) * PAGE_SIZE as usize + position % PAGE_SIZE as usize;
        (slot * self.model.config.head_dim as usize) as u64
    }

    /// Every (offset, position, head) of the stored positions, for each sequence of a step.
    fn cache_rows(&self) -> Vec<(u64, usize, usize)> {
        let mut rows = Vec::new();
        for sequence in 0..self.samples.per_step() {
            for position in 0..self.first {
                for head in 0..self.model.config.num_key_value_heads as usize {
                    rows.push((self.cache_row(sequence, position, head), position, head));
                }
            }
        }
        rows
    }

    /// Logits of a row.
    pub fn vocab(&self) -> usize {
        self.model.config.vocab_size as usize
    }

    /// Steps in which the logits of `rows` rows come.
    pub fn head_steps(&self, rows: usize) -> usize {
        rows.div_ceil(self.head_rows())
    }

    fn head_rows(&self) -> usize {
        (HEAD_LOGITS / self.vocab()).clamp(1, self.samples.window())
    }

    /// The logits of step `at` of all rows of `hidden`, [rows, vocab]. Of a stage that is the head.
    pub async fn logits(&mut self, hidden: &[f32], at: usize) -> Result<Vec<f32>, QuantizeError> {
        let features = self.model.config.hidden_size as usize;
        let step = self.head_rows() * features;
        let hidden = &hidden[at * step..(at * step + step).min(hidden.len())];
        let rows = hidden.len() / features;
        let shape = StepShape::Rows {
            rows: rows as u32,
            tiles: 1,
            logits: rows as u32,
        };
        let buffer = self.model.step.hidden.expect("a part has hidden states");
        let index: Vec<u32> = (0..rows as u32).collect();
        self.executor
            .write(buffer, 0, bytemuck::cast_slice(hidden))?;
        self.executor
            .write(self.model.step.logit_index, 0, &index)?;
        let step = self.model.step(&shape);
        let logits = step.logits.expect("the head has logits");
        let key = (Side::Model, rows);
        let id = match self.plans.get(&key) {
            Some((id, _)) => *id,
            None => {
                let id = self.executor.prepare(step.plan.clone()).await?;
                self.plans.insert(key, (id, step.plan));
                id
            }
        };
        let words = (rows * self.vocab()) as u64;
        let readback = self.executor.run_and_read(id, 1, logits, 0..words)?;
        Ok(bytemuck::cast_vec(self.executor.wait(readback).await?))
    }

    /// The embedding of all samples, [windows * window, hidden].
    pub async fn embed(&mut self) -> Result<Vec<f32>, QuantizeError> {
        let rows = self.samples.windows.len() * self.rows_per_window();
        let mut hidden = vec![0.0; rows * self.model.config.hidden_size as usize];
        self.forward(Side::Model, &mut hidden).await?;
        Ok(hidden)
    }

    /// Runs the samples' hidden states through a model of the stage, in place.
    pub async fn forward(&mut self, side: Side, hidden: &mut [f32]) -> Result<(), QuantizeError> {
        self.run_steps(side, hidden, None).await
    }

    /// The same through [`Side::Model`], and hands out what each linear with float inputs is given.
    pub async fn forward_tapped(
        &mut self,
        hidden: &mut [f32],
        on_tap: &mut dyn FnMut(Tap<'_>),
    ) -> Result<(), QuantizeError> {
        self.run_steps(Side::Model, hidden, Some(on_tap)).await
    }

    async fn run_steps(
        &mut self,
        side: Side,
        hidden: &mut [f32],
        mut on_tap: Option<&mut dyn FnMut(Tap<'_>)>,
    ) -> Result<(), QuantizeError> {
        let features = self.model.config.hidden_size as usize;
        let rows_per_window = self.rows_per_window();
        let step_rows = self.samples.per_step() * rows_per_window;
        for (step, hidden) in hidden.chunks_mut(step_rows * features).enumerate() {
            let rows = hidden.len() / features;
            self.write_step(side, step, hidden)?;
            let (id, plan) = self.plan(side, rows).await?;
            let mut done = 0;
            if let Some(on_tap) = &mut on_tap {
                for (number, linear) in self.model.weights.linears().enumerate() {
                    let Input::Float = linear.linear.input else {
                        continue;
                    };
                    let at = dispatch_of(&plan, 0, &linear.linear.label);
                    self.executor.run_range(id, done..at)?;
                    done = at;
                    let words = (rows * linear.in_features as usize) as u64;
                    let (x, _) = ends(&plan.dispatches[at].bindings);
                    let read = self.executor.read(Some(id), x, 0..words).await?;
                    on_tap(Tap {
                        linear: number,
                        features: linear.in_features as usize,
                        values: bytemuck::cast_slice(&read),
                        first_row: step * step_rows,
                        rows_per_window,
                    });
                }
            }
            self.executor.run_range(id, done..plan.dispatches.len())?;
            let out = self.side(side).step.hidden;
            let out = out.expect("a part has hidden states");
            let words = 0..hidden.len() as u64;
            let words = self.executor.read(None, out, words).await?;
            hidden.copy_from_slice(bytemuck::cast_slice(&words));
        }
        Ok(())
    }

    /// `XᵀX` over all samples, where X is what the linear with this label is given: its flat integers where the input is
    /// static, else floats. And for such integers, what they have to do with the float model beside this one.
    pub async fn hessian(
        &mut self,
        label: &str,
        hidden: &[f32],
        beside: Option<Beside<'_>>,
    ) -> Result<(Hessian, Option<CrossSums>), QuantizeError> {
        let features = self.model.config.hidden_size as usize;
        let step_rows = self.samples.per_step() * self.rows_per_window();
        let found = self
            .model
            .weights
            .linears()
            .find(|l| l.linear.label == label);
        let linear = &found.expect("a label of this layer").linear;
        let is_static = matches!(linear.input, Input::Static(_));
        let in_features = linear.in_features;
        let n = match is_static {
            true => padded(in_features),
            false => in_features,
        };
        let before = self.shared().descs.len();
        let beside = beside.filter(|_| is_static && self.exact.is_some());
        let cross = beside
            .as_ref()
            .and_then(|beside| CrossSums::new(self, in_features, beside.number));
        let kept = self.shared().descs.len();
        let buffers = GramBuffers {
            h: self.add_sums(n, n),
            cross,
        };
        for at in before..self.shared().descs.len() {
            let desc = self.shared().descs[at].clone();
            self.executor.allocate(&desc).await?;
        }

        let mut total = Hessian::new(in_features as usize);
        let mut rows_since = 0;
        let mut plans: BTreeMap<usize, PlanId> = BTreeMap::new();
        for (step, hidden) in hidden.chunks(step_rows * features).enumerate() {
            let rows = hidden.len() / features;
            // Sums stay in 32 bits: a matrix that is full goes to the host.
            if is_static && rows_since + rows > gram_i8::MAX_ROWS_I8 as usize {
                self.drain(buffers.h, n, is_static, &mut total).await?;
                rows_since = 0;
            }
            rows_since += rows;
            self.write_step(Side::Model, step, hidden)?;
            if let Some(beside) = &beside {
                let hidden = &beside.hidden[step * step_rows * features..][..rows * features];
                self.write_step(Side::Exact, step, hidden)?;
            }
            let id = match plans.get(&rows) {
                Some(id) => *id,
                None => {
                    let plan = self.gram_plan(label, rows as u32, n, &buffers);
                    let id = self.executor.prepare(plan).await?;
                    plans.insert(rows, id);
                    id
                }
            };
            self.executor.run(id)?;
        }
        self.drain(buffers.h, n, is_static, &mut total).await?;
        for id in plans.into_values() {
            self.executor.release(id);
        }
        self.truncate(kept);
        Ok((total, buffers.cross))
    }

    /// Frees the matrices, and what was allocated after them.
    pub fn free(&mut self, cross: CrossSums) {
        self.truncate(cross.before);
    }

    fn truncate(&mut self, buffers: usize) {
        self.executor.truncate(buffers);
        self.shared().descs.truncate(buffers);
    }

    /// A matrix to sum up in.
    fn add_sums(&mut self, rows: u32, columns: u32) -> BufferId {
        let words = u64::from(rows) * u64::from(columns);
        self.shared().add("calibration.gram", words)
    }

    /// Hands out the rows of the matrices, a band at a time, all of the inputs before those of the debt.
    pub async fn read_cross(
        &mut self,
        cross: &CrossSums,
        mut on_rows: impl FnMut(Cross<'_>),
    ) -> Result<(), QuantizeError> {
        let features = cross.features;
        for rows in bands(features, cross.in_features) {
            let first = rows.start as usize;
            let values = self
                .read_rows(cross.inputs, cross.in_features, rows)
                .await?;
            on_rows(Cross::Inputs {
                first,
                values: &values,
            });
        }
        let Some([exact, model]) = cross.hidden else {
            return Ok(());
        };
        let columns = self.model.config.hidden_size;
        for rows in bands(features, columns) {
            let first = rows.start as usize;
            let mut values = self.read_rows(exact, columns, rows.clone()).await?;
            let so_far = self.read_rows(model, columns, rows).await?;
            values
                .iter_mut()
                .zip(so_far)
                .for_each(|(debt, z)| *debt -= z);
            on_rows(Cross::Debt {
                first,
                values: &values,
            });
        }
        Ok(())
    }

    /// Rows of a matrix of floats on the device.
    async fn read_rows(
        &mut self,
        buffer: BufferId,
        columns: u32,
        rows: Range<u32>,
    ) -> Result<Vec<f32>, QuantizeError> {
        let words =
            u64::from(rows.start) * u64::from(columns)..u64::from(rows.end) * u64::from(columns);
        let found = self.executor.read(None, buffer, words).await?;
        Ok(bytemuck::cast_vec(found))
    }

    /// Adds the device's matrix to `total`, and clears it.
    async fn drain(
        &mut self,
        h: BufferId,
        n: u32,
        integers: bool,
        total: &mut Hessian,
    ) -> Result<(), QuantizeError> {
        for rows in bands(n, n) {
            let first = rows.start;
            let words = u64::from(rows.start) * u64::from(n)..u64::from(rows.end) * u64::from(n);
            let found = self.executor.read(None, h, words.clone()).await?;
            match integers {
                true => total.add_upper_rows(first as usize, n as usize, &found, |word| {
                    f64::from(word as i32)
                }),
                false => total.add_upper_rows(first as usize, n as usize, &found, |word| {
                    f64::from(f32::from_bits(word))
                }),
            }
            self.executor.write(h, words.start, &vec![0; found.len()])?;
        }
        Ok(())
    }

    /// The layer's plan up to what the linear is given, and then the Gram matrix of that. Before it, where there is a float
    /// model beside it, that one's plan up to the same place.
    fn gram_plan(&self, label: &str, rows: u32, n: u32, buffers: &GramBuffers) -> Plan {
        let mut plan = Plan::new(self.model.features);
        let shape = self.step_shape(rows as usize);
        let cross = buffers.cross.as_ref().zip(self.exact.as_ref());
        let float = cross.map(|(cross, exact)| {
            exact.add_step(&mut plan, &shape);
            let label = &linear_at(exact, cross.number).linear.label;
            let at = dispatch_of(&plan, 0, label);
            let (x, y) = ends(&plan.dispatches[at].bindings);
            plan.dispatches.truncate(at);
            // So that the other model does not share it.
            for desc in &mut plan.scratch {
                desc.label.insert_str(0, "exact.");
            }
            (cross, x, y)
        });
        let from = plan.dispatches.len();
        self.model.add_step(&mut plan, &shape);
        let mut at = dispatch_of(&plan, from, label);
        let linears = self.model.weights.linears();
        let mut linear = linears.filter(|l| l.linear.label == label);
        let input = linear.next().map(|l| &l.linear.input);
        let (mut z, so_far) = ends(&plan.dispatches[at].bindings);
        if let Some(Input::Dynamic(_)) = input {
            // The float rows that dynamic scales were found for.
            let quantized = z;
            at = (from..at)
                .rev()
                .find(|&i| plan.dispatches[i].writes().any(|id| id == quantized))
                .expect("integers that a dispatch reads were written");
            z = plan.dispatches[at].bindings[0];
        }
        plan.dispatches.truncate(at);
        let label = "calibration.gram";
        let params = gram::Params::square(rows, n);
        let grid = Grid::Fixed(gram::grid(&params));
        let kernel = match input {
            Some(Input::Static(_)) => &gram_i8::KERNEL,
            _ => &gram_f32::KERNEL,
        };
        plan.dispatch(label, kernel, params, grid, &[z, buffers.h]);
        let mut between = |x: BufferId, columns: u32, out: BufferId| {
            let params = gram::Params {
                rows,
                features: n,
                columns,
            };
            let grid = Grid::Fixed(gram::grid(&params));
            plan.dispatch(label, &gram_cross::KERNEL, params, grid, &[z, x, out]);
        };
        if let Some((cross, x, exact)) = float {
            between(x, cross.in_features, cross.inputs);
            if let Some([of_exact, of_model]) = cross.hidden {
                let columns = self.model.config.hidden_size;
                between(exact, columns, of_exact);
                between(so_far, columns, of_model);
            }
        }
        plan
    }

    fn step_shape(&self, rows: usize) -> StepShape {
        StepShape::Rows {
            rows: rows as u32,
            tiles: tiles(&self.row_info(rows)).len() as u32,
            logits: 0,
        }
    }

    /// (sequence, position) of a step's rows.
    fn row_info(&self, rows: usize) -> Vec<[u32; 2]> {
        let per_window = self.rows_per_window();
        (0..rows)
            .map(|row| {
                [
                    (row / per_window) as u32,
                    (self.first + row % per_window) as u32,
                ]
            })
            .collect()
    }

    async fn plan(&mut self, side: Side, rows: usize) -> Result<(PlanId, Plan), QuantizeError> {
        if let Some((id, plan)) = self.plans.get(&(side, rows)) {
            return Ok((*id, plan.clone()));
        }
        let plan = self.side(side).step(&self.step_shape(rows)).plan;
        let id = self.executor.prepare(plan.clone()).await?;
        self.plans.insert((side, rows), (id, plan.clone()));
        Ok((id, plan))
    }

    fn write_step(&mut self, side: Side, step: usize, hidden: &[f32]) -> Result<(), QuantizeError> {
        let rows = hidden.len() / self.model.config.hidden_size as usize;
        let info = self.row_info(rows);
        let tiles = tiles(&info);
        let buffers = self.side(side).step;
        self.executor
            .write(buffers.row_info, 0, bytemuck::cast_slice(&info))?;
        self.executor
            .write(buffers.tiles, 0, bytemuck::cast_slice(&tiles))?;
        if self.model.part.embedding {
            let first = step * self.samples.per_step();
            let windows = self.samples.windows[first..].iter();
            let tokens: Vec<u32> = windows
                .flat_map(|window| &window[self.first..])
                .take(rows)
                .copied()
                .collect();
            self.executor.write(buffers.tokens, 0, &tokens)?;
        } else {
            let buffer = buffers.hidden.expect("a part has hidden states");
            self.executor
                .write(buffer, 0, bytemuck::cast_slice(hidden))?;
        }
        Ok(())
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        for (id, _) in self.plans.values() {
            self.executor.release(*id);
        }
        self.executor.truncate(0);
    }
}

/// The rows of a matrix, as many at a time as are read at once.
fn bands(rows: u32, columns: u32) -> impl Iterator<Item = Range<u32>> {
    let band = DRAINED_WORDS / columns.max(1) + 1;
    (0..rows)
        .step_by(band as usize)
        .map(move |first| first..(first + band).min(rows))
}

/// Where the matrices of [`Stage::hessian`] are summed.
struct GramBuffers {
    h: BufferId,
    cross: Option<CrossSums>,
}

impl CrossSums {
    /// For a linear with flat `features`, and for the one of the float model with this number.
    fn new(stage: &mut Stage<'_>, features: u32, number: usize) -> Option<Self> {
        let in_features = linear_at(stage.exact.as_ref()?, number).in_features;
        let hidden_size = stage.model.config.hidden_size;
        let before = stage.shared().descs.len();
        let rows = padded(features);
        Some(Self {
            number,
            features,
            in_features,
            inputs: stage.add_sums(rows, in_features),
            // The second and the last linear of a layer add to the hidden states.
            hidden: (number % 2 == 1).then(|| {
                [
                    stage.add_sums(rows, hidden_size),
                    stage.add_sums(rows, hidden_size),
                ]
            }),
            before,
        })
    }
}

fn linear_at(model: &Model, number: usize) -> &LinearWeights {
    let linear = model.weights.linears().nth(number);
    linear.expect("a float layer has a linear for each group")
}

/// The first binding of a linear's dispatch, what it is given, and the last, what it writes.
fn ends(bindings: &[BufferId]) -> (BufferId, BufferId) {
    match bindings {
        [x, .., y] => (*x, *y),
        _ => unreachable!("a linear reads and writes"),
    }
}

/// The first dispatch from `from` on of the linear with this label.
fn dispatch_of(plan: &Plan, from: usize, label: &str) -> usize {
    let mut dispatches = plan.dispatches.iter().skip(from);
    let found = dispatches.position(|dispatch| dispatch.label == label);
    from + found.expect("a plan has each of its linears")
}

/// The rows of a linear that computes in floats: `weights` [out, in], and its bias.
fn write_float_rows(
    executor: &mut Executor,
    linear: &Linear,
    weights: &[f32],
    bias: &[f32],
) -> Result<(), QuantizeError> {
    let in_features = linear.in_features as usize;
    let stride = padded(linear.in_features) as usize;
    for range in &linear.ranges {
        let rows = range.first_row as usize..(range.first_row + range.rows) as usize;
        let weights = &weights[rows.start * in_features..rows.end * in_features];
        executor.write(range.w, 0, &padded_rows(weights, in_features, stride))?;
        if linear.has_bias {
            executor.write(range.aux, 0, bytemuck::cast_slice(&bias[rows]))?;
        }
    }
    Ok(())
}

/// Words of rows with zeros up to `stride`.
fn padded_rows(values: &[f32], features: usize, stride: usize) -> Vec<u32> {
    let mut words = vec![0; values.len() / features * stride];
    for (words, row) in words
        .chunks_exact_mut(stride)
        .zip(values.chunks_exact(features))
    {
        words[..features].copy_from_slice(bytemuck::cast_slice(row));
    }
    words
}
