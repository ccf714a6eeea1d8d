//! A loaded model with its KV cache: prompts in, logits or tokens out.

mod load;
mod prefix;

pub use load::{LoadOptions, LoadProgress, MemoryNeeded, SyntheticFormat, memory_needed};

use crate::Error;
use crate::checkpoint::{Checkpoint, ModelConfig};
use crate::exec::{Executor, PlanId, Readback};
use crate::model::{Model, Pages, StepShape, planned_pages};
use crate::ops::Sampling;
use crate::plan::BufferId;
use crate::sampler::{REPEAT_WINDOW, SamplerConfig};
use plateau_shaders::PAGE_SIZE;
use plateau_shaders::attention::{max_tiles, tiles};
use prefix::{Pass, Prefix};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Instant;

/// Why a request cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("the prompt is empty: at least one token is needed")]
    EmptyPrompt,
    #[error("the prompt has {found} tokens, the context holds {limit}")]
    PromptTooLong { found: usize, limit: u32 },
    #[error("token id {found} (number {index} from 0) is not in the vocabulary of {vocab}")]
    UnknownToken {
        index: usize,
        found: u32,
        vocab: u32,
    },
    #[error("{found} sequences at once, the session was loaded for {limit}")]
    TooManySequences { found: usize, limit: u32 },
    #[error("a step has {found} rows, the session was loaded for {limit}")]
    TooManyRows { found: usize, limit: u32 },
    #[error(
        "row {index} is of sequence {sequence}: the rows of a batch are of the sequences 0, 1, … in that order"
    )]
    SequenceOrder { sequence: u32, index: u32 },
    #[error("--quant rounds a float model; this checkpoint is quantized already ({recipe})")]
    AlreadyQuantized { recipe: String },
    #[error("the model needs {needed} bytes of device memory, {available} are available to {name}")]
    DoesNotFit {
        name: String,
        needed: u64,
        available: u64,
    },
    #[error("context size {found}: must be between 1 and {limit}")]
    ContextSize { found: u32, limit: u32 },
    #[error(transparent)]
    Pages(#[from] crate::model::PagesExhausted),
}

/// One token of one sequence in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Below [`LoadOptions::max_sequences`].
    pub sequence: u32,
    /// Keys of all earlier positions of the sequence are in the cache, or come earlier in the same step.
    pub position: u32,
    pub token: u32,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The callback said so (an end token, a stop string, Ctrl-C).
    Stopped,
    /// As many tokens as were asked for.
    Length,
    /// No room left in the context.
    ContextFull,
}

/// What a generation took.
#[derive(Clone, Copy, Debug)]
pub struct GenerateReport {
    pub finish: Finish,
    pub prompt_tokens: usize,
    /// Tokens handed to the callback.
    pub new_tokens: usize,
    /// Until the first new token was there.
    pub prefill_ns: u64,
    /// From then until the last one.
    pub decode_ns: u64,
}

/// Submissions of decode steps before the first of them is read back: a GPU never waits for the host.
const SUBMISSIONS_IN_FLIGHT: usize = 2;

/// Plans that stay prepared.
const KEPT_PLANS: usize = 6;

struct KeptPlan {
    shape: StepShape,
    id: PlanId,
    logits: Option<BufferId>,
}

/// A loaded model.
pub struct Session {
    model: Model,
    executor: Executor,
    pages: Pages,
    prefix: Prefix,
    /// Most recently used last.
    plans: Vec<KeptPlan>,
    /// Decode steps of every submission, where it is not for [`Pace`] to say.
    fixed_steps: Option<usize>,
    memory: MemoryNeeded,
}

/// A sequence that is being generated.
struct Active {
    /// Of the prompt; also the sequence's number in the cache.
    index: usize,
    /// Of the token that the next step takes.
    position: u32,
    token: u32,
    produced: usize,
}

/// How many decode steps a submission has, from how long those before took. A GPU does nothing for some µs between submissions (37 on
/// an H200), so short steps go together; their tokens come together too.
#[derive(Default)]
struct Pace {
    /// When the latest submission was read back.
    latest: Option<Instant>,
    /// Of a submission; 0: not known yet.
    steps: usize,
    fixed: Option<usize>,
}

impl Pace {
    /// What a submission may take, unless it has one step.
    const SUBMISSION_NS: u128 = 8_000_000;
    /// Steps that may be computed in vain, after an end token: less than the places of a history, which is read once for all of them.
    const MOST_STEPS: usize = 16;

    fn steps(&self, executor: &Executor) -> usize {
        match executor {
            Executor::Cpu(_) => 1,
            Executor::Gpu(_) => self.fixed.unwrap_or(self.steps).max(1),
        }
    }

    /// So many steps were read back together.
    fn took(&mut self, steps: usize) {
        if let Some(latest) = self.latest.replace(Instant::now()) {
            let step_ns = (latest.elapsed().as_nanos() / steps as u128).max(1);
            let fitting = usize::try_from(Self::SUBMISSION_NS / step_ns).unwrap_or(usize::MAX);
            self.steps = fitting.min(Self::MOST_STEPS);
        }
    }
}

const _: () = assert!(Pace::MOST_STEPS < REPEAT_WINDOW as usize);

impl Session {
    /// Reads the weights chunk by chunk into device memory.
    ///
    /// # Errors
    /// Before anything is allocated: options that the checkpoint cannot have, and [`SessionError::DoesNotFit`]. Then what
    /// files and devices do: a weight that is not finite, a file that became shorter, a device without memory.
    pub async fn load(
        checkpoint: &Checkpoint,
        executor: Executor,
        options: &LoadOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, Error> {
        load::load(checkpoint, executor, options, progress).await
    }

    /// A model of this shape with seeded random weights made on the spot, for `bench`: no file is read.
    pub async fn synthetic(
        config: &ModelConfig,
        executor: Executor,
        options: &LoadOptions,
        format: &SyntheticFormat,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, Error> {
        load::synthetic(config, executor, options, format, progress).await
    }

    fn new(model: Model, executor: Executor, memory: MemoryNeeded) -> Self {
        let pages = Pages::new(model.capacity.pages());
        let prefix = model.prefix.as_ref();
        Self {
            prefix: Prefix::new(prefix.map_or(Vec::new(), |prefix| prefix.tokens.clone())),
            model,
            executor,
            pages,
            plans: Vec::new(),
            fixed_steps: None,
            memory,
        }
    }

    /// What `config.json` says.
    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    /// Tokens that fit one sequence.
    pub fn context_size(&self) -> u32 {
        self.model.capacity.context_size
    }

    /// Bytes of device memory that the model takes.
    pub fn memory(&self) -> MemoryNeeded {
        self.memory
    }

    /// Number of weights, embedding and head included (tied: once).
    pub fn parameters(&self) -> u64 {
        self.model.parameters()
    }

    /// The graph and what runs it, for tools that look at single dispatches.
    pub fn parts(&mut self) -> (&Model, &mut Executor) {
        (&self.model, &mut self.executor)
    }

    /// From now on a submission on a GPU has so many decode steps, or as many as their pace says. For tests and measurements.
    #[doc(hidden)]
    pub fn fix_steps(&mut self, steps: Option<usize>) {
        self.fixed_steps = steps.map(|steps| steps.min(Pace::MOST_STEPS));
    }

    /// Forgets a sequence and frees its pages.
    pub fn reset(&mut self, sequence: u32) {
        self.pages.release(sequence);
        self.prefix.reset(sequence);
    }

    /// Runs rows of any sequences and gives the logits of the rows that `wanted` names, [wanted, vocab] f32. A row's logits do
    /// not depend on the other rows of the step.
    ///
    /// One submission, but where a sequence comes to begin with the checkpoint's stored prefix. From then on its rows see the
    /// stored keys and values; those of the prefix itself see computed ones, and run only where `wanted` asks for it.
    ///
    /// # Errors
    /// No rows or too many, and a token, position or sequence beyond the model's or the session's limits: nothing runs.
    pub async fn step(&mut self, rows: &[Row], wanted: &[u32]) -> Result<Vec<f32>, Error> {
        self.check(rows)?;
        let Some(passes) = self.prefix.passes(rows, wanted) else {
            return self.run_rows(rows, wanted).await;
        };
        let vocab = self.model.config.vocab_size as usize;
        let mut logits = vec![0.0; wanted.len() * vocab];
        self.run_pass(&passes.before, &mut logits).await?;
        for sequence in passes.sequences {
            self.append_prefix(sequence).await?;
        }
        self.run_pass(&passes.after, &mut logits).await?;
        Ok(logits)
    }

    /// Some rows of a step whose logits are `logits`.
    async fn run_pass(&mut self, pass: &Pass, logits: &mut [f32]) -> Result<(), Error> {
        if pass.rows.is_empty() {
            return Ok(());
        }
        let vocab = self.model.config.vocab_size as usize;
        let found = self.run_rows(&pass.rows, &pass.wanted).await?;
        for (row, &place) in found.chunks_exact(vocab).zip(&pass.places) {
            logits[place * vocab..][..vocab].copy_from_slice(row);
        }
        Ok(())
    }

    /// Gives `sequence` the stored keys and values.
    async fn append_prefix(&mut self, sequence: u32) -> Result<(), Error> {
        let Some(prefix) = &self.model.prefix else {
            return Ok(());
        };
        let (rows, row_info) = (prefix.tokens.len() as u32, prefix.row_info);
        self.reserve(sequence, rows)?;
        let rows: Vec<[u32; 2]> = (0..rows).map(|position| [sequence, position]).collect();
        self.executor
            .write(row_info, 0, bytemuck::cast_slice(&rows))?;
        let (plan, _) = self.plan(StepShape::Prefix).await?;
        Ok(self.executor.run(plan)?)
    }

    /// Runs checked rows in one submission.
    async fn run_rows(&mut self, rows: &[Row], wanted: &[u32]) -> Result<Vec<f32>, Error> {
        let shape = self.write_step(rows, wanted)?;
        let (plan, logits) = self.plan(shape).await?;
        let Some(logits) = logits else {
            self.executor.run(plan)?;
            return Ok(Vec::new());
        };
        let words = wanted.len() as u64 * u64::from(self.model.config.vocab_size);
        let readback = self.executor.run_and_read(plan, 1, logits, 0..words)?;
        Ok(bytemuck::cast_vec(self.executor.wait(readback).await?))
    }

    /// Whether `rows` can run, with room made for them.
    fn check(&mut self, rows: &[Row]) -> Result<(), Error> {
        let capacity = self.model.capacity;
        if rows.is_empty() {
            return Err(SessionError::EmptyPrompt.into());
        }
        if rows.len() > capacity.max_rows as usize {
            return Err(SessionError::TooManyRows {
                found: rows.len(),
                limit: capacity.max_rows,
            }
            .into());
        }
        let vocab = self.model.config.vocab_size;
        for (index, row) in rows.iter().enumerate() {
            if row.token >= vocab {
                return Err(SessionError::UnknownToken {
                    index,
                    found: row.token,
                    vocab,
                }
                .into());
            }
            if row.position >= capacity.context_size {
                let found = row.position as usize + 1;
                return Err(SessionError::PromptTooLong {
                    found,
                    limit: capacity.context_size,
                }
                .into());
            }
            if row.sequence >= capacity.max_sequences {
                let found = row.sequence as usize + 1;
                return Err(SessionError::TooManySequences {
                    found,
                    limit: capacity.max_sequences,
                }
                .into());
            }
        }
        for row in rows {
            self.reserve(row.sequence, row.position + 1)?;
        }
        Ok(())
    }

    /// Writes the step buffers for `rows`.
    fn write_step(&mut self, rows: &[Row], wanted: &[u32]) -> Result<StepShape, Error> {
        let tokens: Vec<u32> = rows.iter().map(|row| row.token).collect();
        let row_info: Vec<[u32; 2]> = rows
            .iter()
            .map(|row| [row.sequence, row.position])
            .collect();
        let tiles = tiles(&row_info);
        let step = self.model.step;
        self.executor.write(step.tokens, 0, &tokens)?;
        self.executor
            .write(step.row_info, 0, bytemuck::cast_slice(&row_info))?;
        self.executor
            .write(step.tiles, 0, bytemuck::cast_slice(&tiles))?;
        if !wanted.is_empty() {
            self.executor.write(step.logit_index, 0, wanted)?;
        }
        Ok(StepShape::Rows {
            rows: rows.len() as u32,
            tiles: tiles.len() as u32,
            logits: wanted.len() as u32,
        })
    }

    /// Makes room in the cache for `len` tokens of `sequence`.
    fn reserve(&mut self, sequence: u32, len: u32) -> Result<(), Error> {
        let (pages, grown) = self
            .pages
            .reserve(sequence, len)
            .map_err(SessionError::from)?;
        if grown {
            let row = u64::from(sequence) * u64::from(self.model.capacity.table_stride());
            self.executor
                .write(self.model.step.block_table, row, pages)?;
        }
        Ok(())
    }

    /// The prepared plan of a shape.
    async fn plan(&mut self, shape: StepShape) -> Result<(PlanId, Option<BufferId>), Error> {
        if let Some(i) = self.plans.iter().position(|kept| kept.shape == shape) {
            let kept = self.plans.remove(i);
            let found = (kept.id, kept.logits);
            self.plans.push(kept);
            return Ok(found);
        }
        if self.plans.len() == KEPT_PLANS {
            let oldest = self.plans.remove(0);
            self.executor.release(oldest.id);
        }
        let step = self.model.step(&shape);
        let id = self.executor.prepare(step.plan).await?;
        if let StepShape::Decode {
            rows,
            mut pages,
            sampling,
        } = shape
        {
            // What the sequences may grow to has other kernels. They are compiled before the first token, not between two.
            let most = planned_pages(self.model.capacity.table_stride());
            while pages < most {
                pages = planned_pages(pages + 1);
                let grown = StepShape::Decode {
                    rows,
                    pages,
                    sampling,
                };
                let grown = self.model.step(&grown).plan;
                self.executor.compile(&grown).await?;
            }
        }
        self.plans.push(KeptPlan {
            shape,
            id,
            logits: step.logits,
        });
        Ok((id, step.logits))
    }

    /// Runs `ids` as sequence 0 from position 0 in steps of at most `chunk` rows; `wanted` says which positions' logits
    /// are asked for, and `on_rows(first position, logits)` gets them.
    async fn run_prompt(
        &mut self,
        ids: &[u32],
        chunk: usize,
        wanted: impl Fn(usize) -> bool,
        on_rows: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        self.reset(0);
        if ids.is_empty() {
            return Err(SessionError::EmptyPrompt.into());
        }
        if ids.len() > self.context_size() as usize {
            return Err(SessionError::PromptTooLong {
                found: ids.len(),
                limit: self.context_size(),
            }
            .into());
        }
        for (i, ids) in ids.chunks(chunk.max(1)).enumerate() {
            let first = i * chunk;
            let rows = prompt_rows(0, first, ids);
            let wanted: Vec<u32> = (0..ids.len())
                .filter(|j| wanted(first + j))
                .map(|j| j as u32)
                .collect();
            let logits = self.step(&rows, &wanted).await?;
            if let Some(j) = wanted.first() {
                on_rows(first + *j as usize, &logits);
            }
        }
        Ok(())
    }

    /// Logits of every token, [tokens, vocab], of a fresh sequence. `on_rows(first_row, logits)` is called as they come.
    pub async fn logits(
        &mut self,
        ids: &[u32],
        on_rows: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        let chunk = self.logit_rows();
        self.run_prompt(ids, chunk, |_| true, on_rows).await
    }

    /// As [`Session::logits`], in steps of `chunk` rows: the same logits, bit for bit.
    pub async fn logits_in_chunks(
        &mut self,
        ids: &[u32],
        chunk: usize,
        on_rows: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        let chunk = chunk.clamp(1, self.logit_rows());
        self.run_prompt(ids, chunk, |_| true, on_rows).await
    }

    /// Rows whose logits fit one buffer, and not more than a step takes.
    pub(crate) fn logit_rows(&self) -> usize {
        /// A step's logits are read back through host memory.
        const LOGITS_BYTES: u64 = 64 << 20;
        let row = 4 * u64::from(self.model.config.vocab_size);
        let fitting = LOGITS_BYTES.min(self.executor.max_buffer_bytes()) / row;
        fitting.clamp(1, u64::from(self.model.capacity.max_rows)) as usize
    }

    /// Runs a prompt through a fresh sequence up to the logits of its last token, which stay on the device.
    pub async fn prefill(&mut self, ids: &[u32]) -> Result<(), Error> {
        let chunk = self.model.capacity.max_rows as usize;
        let last = ids.len().saturating_sub(1);
        self.run_prompt(ids, chunk, |position| position == last, &mut |_, _| {})
            .await?;
        Ok(self.executor.finish().await?)
    }

    /// Runs the prompt, then hands each new token to `on_token` until it breaks, `max_new_tokens` came, or the context is
    /// full. Some tokens may be computed ahead of the callback and dropped.
    ///
    /// # Errors
    /// An empty prompt, one longer than the context, an id beyond the vocabulary: before anything runs.
    pub async fn generate(
        &mut self,
        prompt: &[u32],
        sampler: &SamplerConfig,
        max_new_tokens: Option<usize>,
        on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<GenerateReport, Error> {
        let reports = self
            .generate_batch(&[prompt], sampler, max_new_tokens, &mut |_, token| {
                on_token(token)
            })
            .await?;
        Ok(reports[0])
    }

    /// As [`Session::generate`] for several prompts, decoded together; `on_token(prompt, token)`. Each prompt's tokens are
    /// those that it would get alone.
    pub async fn generate_batch(
        &mut self,
        prompts: &[&[u32]],
        sampler: &SamplerConfig,
        max_new_tokens: Option<usize>,
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<Vec<GenerateReport>, Error> {
        let limit = self.model.capacity.max_sequences;
        if prompts.len() > limit as usize {
            return Err(SessionError::TooManySequences {
                found: prompts.len(),
                limit,
            }
            .into());
        }
        self.prepare(prompts, sampling(sampler)).await?;
        let started = Instant::now();
        let mut active = Vec::new();
        for (index, prompt) in prompts.iter().enumerate() {
            active.push(self.start(index, prompt).await?);
        }
        let lengths = prompts.iter().map(|prompt| prompt.len()).collect();
        self.decode_all(active, lengths, started, sampler, max_new_tokens, on_token)
            .await
    }

    /// As [`Session::generate_batch`], of sequences that hold earlier positions already: `rows` has the next token of each
    /// sequence from 0 on. Every position before is in the cache, and those after are written anew. A repetition penalty
    /// sees what comes from here on.
    pub async fn continue_batch(
        &mut self,
        rows: &[Row],
        sampler: &SamplerConfig,
        max_new_tokens: Option<usize>,
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<Vec<GenerateReport>, Error> {
        if rows.is_empty() {
            return Err(SessionError::EmptyPrompt.into());
        }
        // Decoding is not bound by the rows of a step.
        for rows in rows.chunks(self.model.capacity.max_rows as usize) {
            self.check(rows)?;
        }
        let count = rows.len() as u32;
        let sampling = sampling(sampler);
        let longest = rows.iter().map(|row| row.position).max().unwrap_or(0);
        self.plan(StepShape::Decode {
            rows: count,
            pages: planned_pages(pages_of(longest as usize + 1)),
            sampling,
        })
        .await?;
        let started = Instant::now();
        let mut active = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            if row.sequence as usize != index {
                let (sequence, index) = (row.sequence, index as u32);
                return Err(SessionError::SequenceOrder { sequence, index }.into());
            }
            let first = row.position as usize;
            self.write_history(row.sequence, first, &[row.token])?;
            active.push(Active {
                index,
                position: row.position,
                token: row.token,
                produced: 0,
            });
        }
        let lengths = rows.iter().map(|row| row.position as usize + 1).collect();
        self.decode_all(active, lengths, started, sampler, max_new_tokens, on_token)
            .await
    }

    /// Decodes until every sequence is finished; `prompt_tokens` of each, for the reports.
    async fn decode_all(
        &mut self,
        mut active: Vec<Active>,
        prompt_tokens: Vec<usize>,
        started: Instant,
        sampler: &SamplerConfig,
        max_new_tokens: Option<usize>,
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<Vec<GenerateReport>, Error> {
        let mut reports: Vec<GenerateReport> = prompt_tokens
            .into_iter()
            .map(|prompt_tokens| GenerateReport {
                finish: Finish::Length,
                prompt_tokens,
                new_tokens: 0,
                prefill_ns: 0,
                decode_ns: 0,
            })
            .collect();
        let sampling = sampling(sampler);
        let max_new_tokens = max_new_tokens.unwrap_or(usize::MAX);
        active.retain(|_| max_new_tokens > 0);
        while !active.is_empty() {
            let finished = self
                .decode(
                    &mut active,
                    sampling,
                    max_new_tokens,
                    &mut |sequence, token| {
                        let report = &mut reports[sequence];
                        report.new_tokens += 1;
                        let elapsed = started.elapsed().as_nanos() as u64;
                        if report.new_tokens == 1 {
                            report.prefill_ns = elapsed;
                        }
                        report.decode_ns = elapsed - report.prefill_ns;
                        on_token(sequence, token)
                    },
                )
                .await?;
            for (sequence, finish) in finished {
                reports[sequence].finish = finish;
                active.retain(|a| a.index != sequence);
            }
        }
        Ok(reports)
    }

    /// Prepares the plans of a generation, so that no report counts the compilation of kernels as work on the prompt.
    async fn prepare(&mut self, prompts: &[&[u32]], sampling: Sampling) -> Result<(), Error> {
        let chunk = self.model.capacity.max_rows as usize;
        for prompt in prompts.iter().filter(|prompt| !prompt.is_empty()) {
            let before = &prompt[..prompt.len() - 1];
            // A prompt that does not fit is refused by `start`, and needs no plan.
            if before.len() < self.context_size() as usize {
                let stored = self.prefix.stored_len(before);
                if stored > 0 {
                    self.plan(StepShape::Prefix).await?;
                }
                for ids in before[stored..].chunks(chunk) {
                    let rows = ids.len() as u32;
                    let tiles = max_tiles(rows, 1);
                    let logits = 0;
                    self.plan(StepShape::Rows {
                        rows,
                        tiles,
                        logits,
                    })
                    .await?;
                }
            }
        }
        let rows = prompts.len() as u32;
        if rows > 0 {
            let pages = prompts.iter().map(|prompt| pages_of(prompt.len()));
            let pages = planned_pages(pages.max().unwrap_or(1));
            let shape = StepShape::Decode {
                rows,
                pages,
                sampling,
            };
            self.plan(shape).await?;
        }
        Ok(())
    }

    /// Runs all of a prompt but its last token, which the first decode step takes.
    async fn start(&mut self, index: usize, prompt: &[u32]) -> Result<Active, Error> {
        let sequence = index as u32;
        self.reset(sequence);
        let Some((&token, before)) = prompt.split_last() else {
            return Err(SessionError::EmptyPrompt.into());
        };
        if prompt.len() > self.context_size() as usize {
            return Err(SessionError::PromptTooLong {
                found: prompt.len(),
                limit: self.context_size(),
            }
            .into());
        }
        let vocab = self.model.config.vocab_size;
        if let Some(index) = prompt.iter().position(|&token| token >= vocab) {
            return Err(SessionError::UnknownToken {
                index,
                found: prompt[index],
                vocab,
            }
            .into());
        }
        let chunk = self.model.capacity.max_rows as usize;
        let stored = self.prefix.stored_len(before);
        if stored > 0 {
            self.append_prefix(sequence).await?;
        }
        for (i, ids) in before[stored..].chunks(chunk).enumerate() {
            let first = stored + i * chunk;
            self.step(&prompt_rows(sequence, first, ids), &[]).await?;
        }
        self.write_history(sequence, 0, prompt)?;
        Ok(Active {
            index,
            position: before.len() as u32,
            token,
            produced: 0,
        })
    }

    /// The latest tokens of a sequence, for the repetition penalty: `tokens` from position `first` on.
    fn write_history(&mut self, sequence: u32, first: usize, tokens: &[u32]) -> Result<(), Error> {
        let mut history = [u32::MAX; REPEAT_WINDOW as usize];
        for (position, &token) in (first..).zip(tokens) {
            history[position % history.len()] = token;
        }
        let start = u64::from(sequence * REPEAT_WINDOW);
        let buffer = self.model.decode.history;
        Ok(self.executor.write(buffer, start, &history)?)
    }

    /// Decodes all active sequences together until at least one is finished; gives the finished ones.
    async fn decode(
        &mut self,
        active: &mut [Active],
        sampling: Sampling,
        max_new_tokens: usize,
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<Vec<(usize, Finish)>, Error> {
        let context = self.context_size();
        let room = |a: &Active| ((context - a.position) as usize).min(max_new_tokens - a.produced);
        let steps = active.iter().map(room).min().unwrap_or(0);
        let tokens: Vec<u32> = active.iter().map(|a| a.token).collect();
        let row_info: Vec<[u32; 2]> = active
            .iter()
            .map(|a| [a.index as u32, a.position])
            .collect();
        self.executor.write(self.model.decode.tokens, 0, &tokens)?;
        self.executor.write(
            self.model.decode.row_info,
            0,
            bytemuck::cast_slice(&row_info),
        )?;
        let longest = active.iter().map(|a| a.position).max().unwrap_or(0) as usize;
        let sequences = active.iter().map(|a| a.index as u64 + 1).max().unwrap_or(0);
        let window = u64::from(REPEAT_WINDOW);
        let mut finished: Vec<(usize, Finish)> = Vec::new();
        // Steps of each submission, and the histories after it.
        let mut pending: VecDeque<(usize, Readback)> = VecDeque::new();
        let mut pace = Pace {
            fixed: self.fixed_steps,
            ..Pace::default()
        };
        let in_flight = match self.executor {
            Executor::Cpu(_) => 1,
            Executor::Gpu(_) => SUBMISSIONS_IN_FLIGHT,
        };
        let mut submitted = 0;
        loop {
            while finished.is_empty() && submitted < steps && pending.len() < in_flight {
                let is_open = |prefix: &Prefix, step: usize| {
                    row_info.iter().any(|&[sequence, position]| {
                        prefix.is_open(sequence, position + step as u32)
                    })
                };
                // Whether a sequence begins with the stored prefix is known when its tokens are.
                if !pending.is_empty() && is_open(&self.prefix, submitted) {
                    break;
                }
                let pages = planned_pages(pages_of(longest + submitted + 1));
                let most = (pages * PAGE_SIZE) as usize - longest;
                let most = most.min(steps).min(submitted + pace.steps(&self.executor));
                let mut end = submitted + 1;
                while end < most && !is_open(&self.prefix, end - 1) && !is_open(&self.prefix, end) {
                    end += 1;
                }
                for &[sequence, position] in &row_info {
                    self.reserve(sequence, position + end as u32)?;
                }
                let shape = StepShape::Decode {
                    rows: active.len() as u32,
                    pages,
                    sampling,
                };
                let (plan, _) = self.plan(shape).await?;
                let (times, history) = (end - submitted, self.model.decode.history);
                let words = 0..sequences * window;
                let readback = self.executor.run_and_read(plan, times, history, words)?;
                pending.push_back((times, readback));
                for (a, row) in active.iter().zip(&row_info) {
                    let row = Row {
                        sequence: row[0],
                        position: row[1] + submitted as u32,
                        token: a.token,
                    };
                    if self.prefix.is_open(row.sequence, row.position) && self.prefix.advance(&row)
                    {
                        self.append_prefix(row.sequence).await?;
                    }
                }
                submitted = end;
            }
            let Some((times, readback)) = pending.pop_front() else {
                break;
            };
            let history = self.executor.wait(readback).await?;
            pace.took(times);
            for _ in 0..times {
                for a in active.iter_mut() {
                    if finished.iter().any(|(sequence, _)| *sequence == a.index) {
                        continue;
                    }
                    a.position += 1;
                    let place = a.index as u64 * window + u64::from(a.position) % window;
                    a.token = history[place as usize];
                    a.produced += 1;
                    if on_token(a.index, a.token).is_break() {
                        finished.push((a.index, Finish::Stopped));
                    } else if a.produced == max_new_tokens {
                        finished.push((a.index, Finish::Length));
                    } else if a.position == context {
                        finished.push((a.index, Finish::ContextFull));
                    }
                }
            }
        }
        Ok(finished)
    }
}

/// Pages of a sequence of so many tokens.
fn pages_of(tokens: usize) -> u32 {
    (tokens as u32).div_ceil(PAGE_SIZE)
}

fn prompt_rows(sequence: u32, first: usize, ids: &[u32]) -> Vec<Row> {
    let row = |(i, &token)| Row {
        sequence,
        position: (first + i) as u32,
        token,
    };
    ids.iter().enumerate().map(row).collect()
}

fn sampling(config: &SamplerConfig) -> Sampling {
    let greedy = config.temperature <= 0.0;
    Sampling {
        temperature: (!greedy).then_some(config.temperature),
        // What greedy choice does not look at must not make another plan.
        top_k: if greedy { 0 } else { config.top_k },
        top_p: if greedy { 1.0 } else { config.top_p },
        min_p: if greedy { 0.0 } else { config.min_p },
        repeat_penalty: config.repeat_penalty,
        seed: if greedy { 0 } else { config.seed },
    }
}
