//! Whole models: a third executor over the same plans, beside the GPU's and the twins', made of the CUDA kernels.
//!
//! *Teacher-forced*: after each dispatch CUDA's buffers become the device's own, so each dispatch is compared with the same inputs.
//! Dispatches that do the work of several round in between, where a tie may fall otherwise in CUDA; so the plan that is compared
//! has one dispatch for each operation, and the fused plan is to give its logits, bit for bit. Integer linears have a second dispatch
//! that writes accumulators, for equality. *Free*: CUDA prefills and decodes by itself, and chooses the same tokens.

use super::parity::judge_output;
use super::{Cuda, CudaError, Tally, Words};
use crate::case::Check;
use crate::cases;
use crate::tolerance::{NEAR_TIE_FLOAT, NEAR_TIE_HALVES, NEAR_TIE_INT4, NEAR_TIE_INT8, Tolerance};
use plateau::checkpoint::{Checkpoint, Folder, ModelConfig};
use plateau::exec::{DeviceError, Executor, PlanId};
use plateau::model::{Model, StepShape, planned_pages};
use plateau::ops::Sampling;
use plateau::plan::{BufferDesc, BufferId, Dispatch, Features, Plan, SharedBuffers};
use plateau::session::{LoadOptions, LoadProgress, Session, SyntheticFormat};
use plateau::tensor::{KvType, Quant};
use plateau_shaders::attention::tiles;
use plateau_shaders::{Access, Buffer, Call, PAGE_SIZE};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

const RAW_ACCUMULATORS: &str = "RAW_ACCUMULATORS";

const GREEDY: Sampling = Sampling {
    temperature: None,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repeat_penalty: 1.0,
    seed: 0,
};

/// A block of a Llama, twice, with widths that the fused kernels take.
const BLOCK: &str = r#"{
    "model_type": "llama", "hidden_act": "silu", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 515, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false
}"#;

/// A model that is compared.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    pub name: &'static str,
    /// The built-in model, or random weights of [`BLOCK`] in a format.
    weights: Option<(Quant, SyntheticFormat)>,
    kv_type: KvType,
    /// How near the best two logits may be where CUDA by itself chooses differently.
    near_tie: Tolerance,
}

const DYNAMIC: SyntheticFormat = SyntheticFormat {
    group_size: 0,
    added: None,
};
const GROUPED: SyntheticFormat = SyntheticFormat {
    group_size: 32,
    added: None,
};
const FLATTENED: SyntheticFormat = SyntheticFormat {
    group_size: 0,
    added: Some([0.05, 0.2]),
};
const FLATTENED_GROUPED: SyntheticFormat = SyntheticFormat {
    group_size: 32,
    ..FLATTENED
};

impl Subject {
    pub const ALL: &[Self] = &[
        Self::builtin("built-in, f16 cache", KvType::F16),
        Self::builtin("built-in, i8 cache", KvType::I8),
        Self::block("block f32, f32 cache", Quant::F32, DYNAMIC, KvType::F32),
        Self::block("block f16", Quant::F16, DYNAMIC, KvType::F16),
        Self::block("block w8a8", Quant::W8A8, DYNAMIC, KvType::F16),
        Self::block("block w4a8 g32", Quant::W4A8, GROUPED, KvType::F16),
        Self::block("block w4a4", Quant::W4A4, DYNAMIC, KvType::F16),
        Self::block("block w8a8 flattened", Quant::W8A8, FLATTENED, KvType::F16),
        Self::block(
            "block w4a8 flattened g32",
            Quant::W4A8,
            FLATTENED_GROUPED,
            KvType::F16,
        ),
        Self::block("block w4a4 flattened", Quant::W4A4, FLATTENED, KvType::F16),
        Self::block(
            "block w8a8 flattened, i8 cache",
            Quant::W8A8,
            FLATTENED,
            KvType::I8,
        ),
    ];

    const fn builtin(name: &'static str, kv_type: KvType) -> Self {
        Self {
            name,
            weights: None,
            kv_type,
            near_tie: NEAR_TIE_INT8,
        }
    }

    const fn block(
        name: &'static str,
        quant: Quant,
        format: SyntheticFormat,
        kv_type: KvType,
    ) -> Self {
        Self {
            name,
            weights: Some((quant, format)),
            kv_type,
            near_tie: match quant {
                Quant::F32 => NEAR_TIE_FLOAT,
                Quant::F16 => NEAR_TIE_HALVES,
                Quant::W8A8 | Quant::W4A8 => NEAR_TIE_INT8,
                Quant::W4A4 => NEAR_TIE_INT4,
            },
        }
    }

    pub fn is_builtin(&self) -> bool {
        self.weights.is_none()
    }

    /// The model on a device.
    pub async fn load(&self, executor: Executor) -> Result<Session, plateau::Error> {
        let options = LoadOptions {
            quant: self.weights.map(|(quant, _)| quant),
            kv_type: self.kv_type,
            context_size: Some(256),
            ..LoadOptions::default()
        };
        let mut quiet = |_: LoadProgress| {};
        match &self.weights {
            None => {
                let checkpoint = Checkpoint::open(Folder::builtin()).await?;
                Session::load(&checkpoint, executor, &options, &mut quiet).await
            }
            Some((_, format)) => {
                let config = ModelConfig::parse("config.json", BLOCK)?;
                Session::synthetic(&config, executor, &options, format, &mut quiet).await
            }
        }
    }

    /// Ids that the model knows.
    pub fn prompt(&self, len: usize) -> Vec<u32> {
        (0..len as u32)
            .map(|i| 3 + (i * i * 7 + i * 13) % 500)
            .collect()
    }
}

/// What a model's comparison found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Of the teacher-forced dispatches.
    pub tally: Tally,
    /// Tokens that both chose.
    pub tokens: usize,
    /// Steps at which CUDA chose another token than the device, the best two being nearer than the bound: the gap of each.
    pub near_ties: Vec<f64>,
    /// The largest difference of the free runs' logits, over the largest logit of the step.
    pub logits: f64,
}

/// Why a model's comparison ended.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error(transparent)]
    Cuda(#[from] CudaError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("{0}")]
    Differs(String),
}

/// What a device is compared with: CUDA, or the twins, with which the comparison itself is tested.
pub trait Peer {
    /// Words in its memory.
    type Words;

    fn upload(&self, words: &[u32]) -> Result<Self::Words, CudaError>;
    fn download(&self, words: &Self::Words) -> Result<Vec<u32>, CudaError>;
    /// Runs a dispatch over its bindings.
    fn launch(&self, dispatch: &Dispatch, bindings: &[&Self::Words]) -> Result<(), CudaError>;
}

impl Peer for Cuda {
    type Words = Words;

    fn upload(&self, words: &[u32]) -> Result<Words, CudaError> {
        self.upload(words)
    }

    fn download(&self, words: &Words) -> Result<Vec<u32>, CudaError> {
        self.download(words)
    }

    fn launch(&self, dispatch: &Dispatch, bindings: &[&Words]) -> Result<(), CudaError> {
        self.launch(
            dispatch.kernel,
            &dispatch.params,
            &dispatch.constants,
            bindings,
        )
    }
}

/// The twins, over host memory.
pub struct Twins;

impl Peer for Twins {
    type Words = RefCell<Vec<u32>>;

    fn upload(&self, words: &[u32]) -> Result<Self::Words, CudaError> {
        Ok(RefCell::new(words.to_vec()))
    }

    fn download(&self, words: &Self::Words) -> Result<Vec<u32>, CudaError> {
        Ok(words.borrow().clone())
    }

    fn launch(&self, dispatch: &Dispatch, bindings: &[&Self::Words]) -> Result<(), CudaError> {
        let is_read = |place: usize| dispatch.kernel.bindings[place] == Access::Read;
        let places = || bindings.iter().enumerate();
        let mut read = places()
            .map(|(place, words)| is_read(place).then(|| words.borrow()))
            .collect::<Vec<_>>();
        let mut written = places()
            .map(|(place, words)| (!is_read(place)).then(|| words.borrow_mut()))
            .collect::<Vec<_>>();
        let buffers = read
            .iter_mut()
            .zip(&mut written)
            .filter_map(|(read, written)| match (read, written) {
                (Some(words), _) => Some(Buffer::Read(words)),
                (None, Some(words)) => Some(Buffer::ReadWrite(words)),
                (None, None) => None,
            });
        let buffers = buffers.collect();
        (dispatch.kernel.run)(&mut Call::new(
            &dispatch.params,
            &dispatch.constants,
            buffers,
        ));
        Ok(())
    }
}

/// The buffers of a model, or of a plan, in the peer's memory.
struct Buffers<P: Peer> {
    shared: Vec<P::Words>,
    scratch: Vec<P::Words>,
}

impl<P: Peer> Buffers<P> {
    fn of(&self, id: BufferId) -> &P::Words {
        match id {
            BufferId::Shared(i) => &self.shared[i as usize],
            BufferId::Scratch(i) => &self.scratch[i as usize],
        }
    }

    /// Puts other words in the place of a buffer's.
    fn put(&mut self, peer: &P, id: BufferId, words: &[u32]) -> Result<(), CudaError> {
        let place = match id {
            BufferId::Shared(i) => &mut self.shared[i as usize],
            BufferId::Scratch(i) => &mut self.scratch[i as usize],
        };
        *place = peer.upload(words)?;
        Ok(())
    }

    fn run(&self, peer: &P, dispatch: &Dispatch) -> Result<(), CudaError> {
        let bindings: Vec<&P::Words> = dispatch.bindings.iter().map(|&id| self.of(id)).collect();
        peer.launch(dispatch, &bindings)
    }

    fn run_all(&mut self, peer: &P, plan: &Plan) -> Result<(), CudaError> {
        self.scratch = scratch(peer, plan)?;
        plan.dispatches
            .iter()
            .try_for_each(|dispatch| self.run(peer, dispatch))
    }
}

fn scratch<P: Peer>(peer: &P, plan: &Plan) -> Result<Vec<P::Words>, CudaError> {
    let zeros = |desc: &BufferDesc| peer.upload(&vec![0; desc.words as usize]);
    plan.scratch.iter().map(zeros).collect()
}

/// A step's plan, prepared on the device.
struct Prepared {
    shape: StepShape,
    /// With accumulators, an operation each; and as the model has it.
    apart: (Plan, PlanId),
    whole: (Plan, PlanId),
    logits: [BufferId; 2],
}

/// One model on a device, with CUDA beside it.
struct Pair<'a, P: Peer> {
    peer: &'a P,
    executor: &'a mut Executor,
    shared: SharedBuffers,
    forced: Buffers<P>,
    free: Buffers<P>,
    checks: BTreeMap<(&'static str, usize), Check>,
    near_tie: Tolerance,
    report: Report,
}

/// Compares a fresh session's model with CUDA: the prompt but its last token by prefill, then `steps` decode steps.
pub async fn check<P: Peer>(
    peer: &P,
    session: &mut Session,
    subject: &Subject,
    prompt: &[u32],
    steps: usize,
) -> Result<Report, ModelError> {
    let (model, executor) = session.parts();
    let model = model.clone();
    // An operation each.
    let apart = Model {
        features: Features {
            fused: false,
            ..model.features
        },
        ..model.clone()
    };
    let mut shared = Vec::new();
    for (i, desc) in model.shared.descs.iter().enumerate() {
        let id = BufferId::Shared(i as u32);
        shared.push(executor.read(None, id, 0..desc.words).await?);
    }
    let upload = || -> Result<Buffers<P>, CudaError> {
        let words = shared.iter().map(|words| peer.upload(words));
        Ok(Buffers {
            shared: words.collect::<Result<_, _>>()?,
            scratch: Vec::new(),
        })
    };
    let mut pair = Pair {
        peer,
        executor,
        shared: model.shared.clone(),
        forced: upload()?,
        free: upload()?,
        checks: checks(),
        near_tie: subject.near_tie,
        report: Report::default(),
    };
    let Some((&last, before)) = prompt.split_last() else {
        return Err(ModelError::Differs("an empty prompt".to_owned()));
    };
    pair.prefill(&apart, before).await?;
    pair.decode([&model, &apart], before.len() as u32, last, steps)
        .await?;
    Ok(pair.report)
}

impl<P: Peer> Pair<'_, P> {
    /// Writes the first words of a shared buffer everywhere.
    fn write(&mut self, id: BufferId, words: &[u32]) -> Result<(), ModelError> {
        self.executor.write(id, 0, words)?;
        for buffers in [&mut self.forced, &mut self.free] {
            let mut all = self.peer.download(buffers.of(id))?;
            all[..words.len()].copy_from_slice(words);
            buffers.put(self.peer, id, &all)?;
        }
        Ok(())
    }

    async fn read(
        &mut self,
        plan: PlanId,
        id: BufferId,
        words: u64,
    ) -> Result<Vec<u32>, ModelError> {
        Ok(self.executor.read(Some(plan), id, 0..words).await?)
    }

    async fn prefill(&mut self, apart: &Model, ids: &[u32]) -> Result<(), ModelError> {
        let rows = ids.len() as u32;
        let row_info: Vec<[u32; 2]> = (0..rows).map(|position| [0, position]).collect();
        let tiles = tiles(&row_info);
        let pages: Vec<u32> = (0..apart.capacity.table_stride()).collect();
        let index: Vec<u32> = (0..rows).collect();
        self.write(apart.step.block_table, &pages)?;
        self.write(apart.step.tokens, ids)?;
        self.write(apart.step.row_info, bytemuck::cast_slice(&row_info))?;
        self.write(apart.step.tiles, bytemuck::cast_slice(&tiles))?;
        self.write(apart.step.logit_index, &index)?;
        let step = apart.step(&StepShape::Rows {
            rows,
            tiles: tiles.len() as u32,
            logits: rows,
        });
        self.free.run_all(self.peer, &step.plan)?;
        let plan = with_accumulators(&step.plan, &self.shared);
        let prepared = self.executor.prepare(plan.clone()).await?;
        self.compare_dispatches(&plan, prepared).await?;
        self.executor.release(prepared);
        Ok(())
    }

    /// The plans of a decode step of one row.
    async fn prepare(
        &mut self,
        models: [&Model; 2],
        shape: StepShape,
    ) -> Result<Prepared, ModelError> {
        let [whole, apart] = models.map(|model| model.step(&shape));
        let logits = [&whole, &apart].map(|step| step.logits.expect("a decode step has logits"));
        let apart = with_accumulators(&apart.plan, &self.shared);
        let apart_id = self.executor.prepare(apart.clone()).await?;
        let whole_id = self.executor.prepare(whole.plan.clone()).await?;
        Ok(Prepared {
            shape,
            apart: (apart, apart_id),
            whole: (whole.plan, whole_id),
            logits,
        })
    }

    fn release(&mut self, prepared: Option<Prepared>) {
        if let Some(prepared) = prepared {
            self.executor.release(prepared.apart.1);
            self.executor.release(prepared.whole.1);
        }
    }

    async fn decode(
        &mut self,
        models: [&Model; 2],
        mut position: u32,
        mut token: u32,
        steps: usize,
    ) -> Result<(), ModelError> {
        let buffers = models[0].decode;
        let vocab = u64::from(models[0].config.vocab_size);
        self.write(buffers.history, &vec![u32::MAX; buffers.window as usize])?;
        self.write(buffers.tokens, &[token])?;
        self.write(buffers.row_info, &[0, position])?;
        let mut prepared: Option<Prepared> = None;
        for _ in 0..steps {
            let shape = StepShape::Decode {
                rows: 1,
                pages: planned_pages((position + 1).div_ceil(PAGE_SIZE)),
                sampling: GREEDY,
            };
            let kept = match prepared.take() {
                Some(kept) if kept.shape == shape => kept,
                other => {
                    self.release(other);
                    self.prepare(models, shape).await?
                }
            };
            self.compare_dispatches(&kept.apart.0, kept.apart.1).await?;
            let logits = self.read(kept.apart.1, kept.logits[1], vocab).await?;

            // The plan that users run, from the same state.
            self.executor.write(buffers.tokens, 0, &[token])?;
            self.executor.write(buffers.row_info, 0, &[0, position])?;
            self.executor.run(kept.whole.1)?;
            if self.read(kept.whole.1, kept.logits[0], vocab).await? != logits {
                return Err(ModelError::Differs(format!(
                    "position {position}: the logits of the fused plan are not those of single dispatches"
                )));
            }
            let chosen = self.read(kept.whole.1, buffers.tokens, 1).await?[0];

            self.free.run_all(self.peer, &kept.whole.0)?;
            let own_logits = self.peer.download(self.free.of(kept.logits[0]))?;
            let own = self.peer.download(self.free.of(buffers.tokens))?[0];
            self.judge_choice(position, [chosen, own], [&logits, &own_logits])?;
            if own != chosen {
                // From here on with the device's.
                let mut tokens = self.peer.download(self.free.of(buffers.tokens))?;
                tokens[0] = chosen;
                self.free.put(self.peer, buffers.tokens, &tokens)?;
            }
            token = chosen;
            position += 1;
            prepared = Some(kept);
        }
        self.release(prepared);
        Ok(())
    }

    /// Tokens and logits of a step: the device's, then CUDA's.
    fn judge_choice(
        &mut self,
        position: u32,
        chosen: [u32; 2],
        logits: [&[u32]; 2],
    ) -> Result<(), ModelError> {
        let value = |bits: &u32| f64::from(f32::from_bits(*bits));
        let largest = logits[0].iter().map(|l| value(l).abs()).fold(0.0, f64::max);
        let differences = logits[0].iter().zip(logits[1]);
        let difference = differences
            .map(|(a, b)| (value(a) - value(b)).abs())
            .fold(0.0, f64::max);
        self.report.logits = self
            .report
            .logits
            .max(difference / largest.max(f64::MIN_POSITIVE));
        self.report.tokens += 1;
        if chosen[0] == chosen[1] {
            return Ok(());
        }
        let gap = value(&logits[0][chosen[0] as usize]) - value(&logits[0][chosen[1] as usize]);
        if gap > self.near_tie.allowed(0.0, largest) {
            return Err(ModelError::Differs(format!(
                "position {position}: the device chose token {}, CUDA by itself {}, whose logit is {gap} less, of {largest} at most; beyond '{}'",
                chosen[0], chosen[1], self.near_tie.name
            )));
        }
        self.report.near_ties.push(gap);
        Ok(())
    }

    /// Runs a plan dispatch by dispatch on both, CUDA with the device's inputs.
    async fn compare_dispatches(
        &mut self,
        plan: &Plan,
        prepared: PlanId,
    ) -> Result<(), ModelError> {
        self.forced.scratch = scratch(self.peer, plan)?;
        // What a scratch buffer holds at first is undefined.
        let written: BTreeSet<BufferId> =
            plan.dispatches.iter().flat_map(Dispatch::writes).collect();
        for &id in written
            .iter()
            .filter(|id| matches!(id, BufferId::Scratch(_)))
        {
            let zeros = vec![0; self.words(plan, id) as usize];
            self.executor.write_in(Some(prepared), id, 0, &zeros)?;
        }
        for (index, dispatch) in plan.dispatches.iter().enumerate() {
            self.executor.run_range(prepared, index..index + 1)?;
            self.forced.run(self.peer, dispatch)?;
            for (place, &id) in dispatch.bindings.iter().enumerate() {
                if dispatch.kernel.bindings[place] == Access::Read {
                    continue;
                }
                let words = self.words(plan, id);
                let found = self.read(prepared, id, words).await?;
                let expected = self.peer.download(self.forced.of(id))?;
                self.judge(dispatch, place + 1, &found, &expected)?;
                if found != expected {
                    self.forced.put(self.peer, id, &found)?;
                }
            }
        }
        Ok(())
    }

    fn words(&self, plan: &Plan, id: BufferId) -> u64 {
        desc(plan, &self.shared, id).words
    }

    fn judge(
        &mut self,
        dispatch: &Dispatch,
        binding: usize,
        found: &[u32],
        expected: &[u32],
    ) -> Result<(), ModelError> {
        let kernel = dispatch.kernel.name;
        let is_raw = dispatch.constants.contains(&(RAW_ACCUMULATORS, 1));
        let check = match self.checks.get(&(kernel, binding)) {
            _ if is_raw => &Check::Exact,
            Some(check) => check,
            None => &Check::Exact,
        };
        let differs = |message: String| {
            ModelError::Differs(format!(
                "{} ({kernel}), binding {binding}: {message}",
                dispatch.label
            ))
        };
        let found = judge_output(found, expected, check).map_err(differs)?;
        self.report.tally.add(kernel, &found);
        Ok(())
    }
}

fn desc<'a>(plan: &'a Plan, shared: &'a SharedBuffers, id: BufferId) -> &'a BufferDesc {
    match id {
        BufferId::Shared(i) => &shared.descs[i as usize],
        BufferId::Scratch(i) => &plan.scratch[i as usize],
    }
}

/// `plan`, with the accumulators of each integer linear in a buffer of their own, written before the linear itself runs.
fn with_accumulators(plan: &Plan, shared: &SharedBuffers) -> Plan {
    let mut tapped = plan.clone();
    tapped.dispatches.clear();
    for dispatch in &plan.dispatches {
        if dispatch.kernel.wgsl().contains(RAW_ACCUMULATORS) {
            let mut raw = dispatch.clone();
            raw.label += " accumulators";
            raw.constants.push((RAW_ACCUMULATORS, 1));
            let y = raw.bindings.last_mut().expect("a linear has an output");
            let words = desc(plan, shared, *y).words;
            *y = tapped.shared_scratch("accumulators", words);
            tapped.dispatches.push(raw);
        }
        tapped.dispatches.push(dispatch.clone());
    }
    tapped
}

/// How each kernel's outputs are judged: as in its cases, but flat integers by their steps, since their maps are other ones.
fn checks() -> BTreeMap<(&'static str, usize), Check> {
    let mut checks = BTreeMap::new();
    for case in cases::all() {
        let is_raw = case
            .constants
            .iter()
            .any(|(name, _)| *name == RAW_ACCUMULATORS);
        for (binding, check) in case.outputs {
            let check = match check {
                Check::FlatWithinStep(_) => Check::OneStep,
                check @ (Check::Exact
                | Check::Close(_)
                | Check::CloseHalves(_)
                | Check::OneStep) => check,
            };
            // Of cases of one kernel some are without ties, and exact.
            if !is_raw && !matches!(check, Check::Exact) {
                checks.insert((case.kernel.name, binding), check);
            }
        }
    }
    checks
}
