//! Linear layers: quantize the input where the format asks for it, then a GEMM or a GEMV for each range of rows.

use super::producer::flatten_quantize;
use super::{GEMV_ROWS, Producer};
use crate::plan::{BufferId, GemmUnit, Grid, Plan};
use crate::tensor::Bits;
use plateau_shaders::linear::integer::{Division, FewRows, Weights};
use plateau_shaders::{Constant, Kernel, Matrices, linear as kernels, padded, quantize};
use std::sync::Arc;

/// How a weight is stored on the device. Integer weights have a scale for each output channel there; a per-tensor scale is
/// that many equal ones, so that tensors can be joined and split by rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    F32,
    F16,
    Int { bits: Bits, group_size: u32 },
}

impl WeightFormat {
    /// Words of one row of `in_features` (flat ones, where there is a flatten map).
    pub const fn row_words(self, in_features: u32) -> u32 {
        let padded = padded(in_features);
        match self {
            Self::F32 => padded,
            Self::F16 => padded / 2,
            Self::Int {
                bits: Bits::Int8, ..
            } => padded / 4,
            Self::Int {
                bits: Bits::Int4, ..
            } => padded / 8,
        }
    }

    /// Words of multipliers for one row.
    pub const fn multiplier_words(self, in_features: u32) -> u32 {
        match self {
            Self::Int { group_size, .. } if group_size > 0 => {
                padded(in_features).div_ceil(group_size).div_ceil(8)
            }
            _ => 0,
        }
    }
}

/// A per-tensor activation scale known before the run, with the flatten map.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticInput {
    pub bits: Bits,
    /// `x ≈ scale * x_q`.
    pub scale: f32,
    /// As `flatten_quantize` takes it: parts of each source channel, then the extra flat channels; after them, where attention
    /// writes the input, the words of each head.
    pub map: Arc<[u32]>,
    /// Source channels and extra parts.
    pub flat_features: u32,
}

/// What a linear does with its input.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    Float,
    /// One scale for each token, from its absmax.
    Dynamic(Bits),
    Static(StaticInput),
}

/// Rows of a weight that lie in buffers of their own, since a binding is limited.
#[derive(Clone, Debug)]
pub struct RowRange {
    pub first_row: u32,
    pub rows: u32,
    pub w: BufferId,
    /// Scales, bias, multipliers: see the kernels' headers.
    pub aux: BufferId,
}

/// `y[:, first_out..][..out_features] = x Wᵀ + b`.
#[derive(Clone, Debug)]
pub struct Linear {
    pub label: String,
    /// Columns of the stored weight: flat ones, where there is a flatten map.
    pub in_features: u32,
    pub out_features: u32,
    /// Column of the projection's output where this linear's start.
    pub first_out: u32,
    pub format: WeightFormat,
    pub input: Input,
    /// The buffers of a static input: map and scale.
    pub static_buffers: Option<(BufferId, BufferId)>,
    pub has_bias: bool,
    pub ranges: Vec<RowRange>,
}

/// Linears that share an input and write side by side: q, k, v; or gate, up.
#[derive(Clone, Debug)]
pub struct Projection {
    pub in_features: u32,
    pub out_features: u32,
    pub linears: Vec<Linear>,
}

/// The quantized input of the projection at hand; one pair of buffers serves a whole plan.
#[derive(Clone, Copy, Debug)]
pub struct Activations {
    /// [rows, padded / 4] u32
    pub x_q: BufferId,
    /// `[rows]` f32
    pub x_scale: BufferId,
}

/// `y = x Wᵀ + b`, or `y += …` where `accumulate` (the residual add), y is [rows, out_features]. `producer` makes x
/// [rows, in_features]: as floats for linears that read floats or scales of each token, as integers alone for static ones.
pub fn projection(
    plan: &mut Plan,
    projection: &Projection,
    producer: &Producer,
    y: BufferId,
    rows: u32,
    accumulate: bool,
    activations: Activations,
) {
    if norm_gemv(plan, projection, producer, y, rows, accumulate) {
        return;
    }
    let mut floats = None;
    // There is one x_q: the linears that read one input come together.
    for (first, linear) in projection.linears.iter().enumerate() {
        let (before, rest) = projection.linears.split_at(first);
        if before.iter().any(|other| other.input == linear.input) {
            continue;
        }
        let input = make_input(
            plan,
            projection,
            linear,
            producer,
            &mut floats,
            rows,
            activations,
        );
        for linear in rest.iter().filter(|other| other.input == linear.input) {
            for range in &linear.ranges {
                dispatch(
                    plan,
                    projection,
                    linear,
                    range,
                    input,
                    y,
                    rows,
                    accumulate,
                    activations,
                );
            }
        }
    }
}

/// What a fused linear of one row takes, where there is one: the norm before it, its static input and the buffer of its map.
struct FusedInput<'a> {
    from: BufferId,
    norm: BufferId,
    eps: f32,
    input: &'a StaticInput,
    map: BufferId,
    bits: Bits,
    group_size: u32,
}

impl FusedInput<'_> {
    /// Bytes of workgroup memory that every adapter has.
    const WORKGROUP_BYTES: u32 = 16 << 10;

    fn of<'a>(
        plan: &Plan,
        projection: &'a Projection,
        producer: &Producer,
        rows: u32,
    ) -> Option<FusedInput<'a>> {
        let [linear] = &projection.linears[..] else {
            return None;
        };
        let (
            &Producer::RmsNorm {
                from, weight, eps, ..
            },
            Input::Static(input),
            Some((map, _)),
            WeightFormat::Int { bits, group_size },
        ) = (
            producer,
            &linear.input,
            linear.static_buffers,
            linear.format,
        )
        else {
            return None;
        };
        let fits = kernels::norm_input::workgroup_bytes(padded(linear.in_features) / 4)
            <= Self::WORKGROUP_BYTES;
        let whole = projection
            .in_features
            .is_multiple_of(kernels::norm_input::IN_STEP);
        let chosen = plan.features.fused && plan.features.subgroups && rows == 1;
        (chosen && fits && whole).then_some(FusedInput {
            from,
            norm: weight,
            eps,
            input,
            map,
            bits,
            group_size,
        })
    }

    fn constants(&self, in_features: u32, in_words: u32) -> Vec<Constant> {
        let mut constants = kernels::norm_input::constants(in_features, in_words).to_vec();
        if self.bits == Bits::Int4 && self.group_size > 0 {
            constants.push(("GROUP_SIZE", self.group_size));
        }
        constants
    }
}

/// Norm, flat integers and linear in one dispatch, where there is a kernel for it; says whether there is.
fn norm_gemv(
    plan: &mut Plan,
    projection: &Projection,
    producer: &Producer,
    y: BufferId,
    rows: u32,
    accumulate: bool,
) -> bool {
    let Some(fused) = FusedInput::of(plan, projection, producer, rows).filter(|_| !accumulate)
    else {
        return false;
    };
    let linear = &projection.linears[0];
    let in_words = padded(linear.in_features) / 4;
    for range in &linear.ranges {
        let params = kernels::norm_input::GemvParams {
            in_features: projection.in_features,
            in_words,
            out_features: range.rows,
            first_out: linear.first_out + range.first_row,
            w_scale_stride: 1,
            has_bias: u32::from(linear.has_bias),
            in_flat_features: fused.input.flat_features,
            in_q_max: fused.input.bits.q_max(),
            in_inv_scale: 1.0 / fused.input.scale,
            x_scale: fused.input.scale,
            eps: fused.eps,
        };
        let kernel = match fused.bits {
            Bits::Int8 => &kernels::norm_gemv_i8::KERNEL,
            Bits::Int4 => &kernels::norm_gemv_i4::KERNEL,
        };
        let group = kernels::norm_input::GEMV_GROUP;
        let grid = Grid::Fixed(kernels::norm_input::gemv_grid(&params, group));
        let bindings = [fused.from, fused.norm, range.w, range.aux, fused.map, y];
        let dispatch = plan.dispatch(linear.label.clone(), kernel, params, grid, &bindings);
        dispatch.constants = fused.constants(projection.in_features, in_words);
        let ahead = kernels::norm_input::steps_ahead(weights(fused.bits));
        let division = [("GROUP", group), ("STEPS_AHEAD", ahead)];
        dispatch.constants.extend(division);
    }
    true
}

/// A gated MLP up to the input of its second half: `silu(gate) * up` of `gate_up`, [rows, 2 * features], which is made of what `producer`
/// makes. Gives what makes the input of `down`, whose static integers are made at once where there is a kernel for it.
pub fn gated(
    plan: &mut Plan,
    label: String,
    gate_up: &Projection,
    producer: &Producer,
    down: &Projection,
    y: BufferId,
    rows: u32,
    activations: Activations,
) -> Producer {
    if norm_gate_up(plan, gate_up, producer, down, rows, activations) {
        return Producer::Integers;
    }
    projection(plan, gate_up, producer, y, rows, false, activations); // [rows, 2 * features]
    Producer::SiluMul { label, gate_up: y }
}

fn norm_gate_up(
    plan: &mut Plan,
    gate_up: &Projection,
    producer: &Producer,
    down: &Projection,
    rows: u32,
    activations: Activations,
) -> bool {
    let Some(fused) = FusedInput::of(plan, gate_up, producer, rows) else {
        return false;
    };
    let (linear, tiles) = (
        &gate_up.linears[0],
        gate_up.out_features / (2 * kernels::norm_input::TILE),
    );
    let ([range], [down]) = (&linear.ranges[..], &down.linears[..]) else {
        return false;
    };
    let (Input::Static(out), Some((map, _))) = (&down.input, down.static_buffers) else {
        return false;
    };
    if !out.has_runs_of(tiles) {
        return false;
    }
    let in_words = padded(linear.in_features) / 4;
    let params = kernels::norm_input::GateUpParams {
        in_features: gate_up.in_features,
        in_words,
        out_features: range.rows,
        w_scale_stride: 1,
        has_bias: u32::from(linear.has_bias),
        in_flat_features: fused.input.flat_features,
        in_q_max: fused.input.bits.q_max(),
        in_inv_scale: 1.0 / fused.input.scale,
        x_scale: fused.input.scale,
        eps: fused.eps,
        flat_features: out.flat_features,
        q_max: out.bits.q_max(),
        inv_scale: 1.0 / out.scale,
    };
    let kernel = match fused.bits {
        Bits::Int8 => &kernels::norm_gate_up_i8::KERNEL,
        Bits::Int4 => &kernels::norm_gate_up_i4::KERNEL,
    };
    let grid = Grid::Fixed(kernels::norm_input::gate_up_grid(&params));
    let bindings = [
        fused.from,
        fused.norm,
        range.w,
        range.aux,
        fused.map,
        map,
        activations.x_q,
    ];
    let wide = plan.features.wide_workgroups;
    let dispatch = plan.dispatch(linear.label.clone(), kernel, params, grid, &bindings);
    dispatch.constants = fused.constants(gate_up.in_features, in_words);
    let division = kernels::norm_input::gate_up_constants(weights(fused.bits), wide);
    dispatch.constants.extend(division);
    true
}

/// Makes what `linear` reads, and says where it is. x as `floats` is made when a linear first asks for it.
fn make_input(
    plan: &mut Plan,
    projection: &Projection,
    linear: &Linear,
    producer: &Producer,
    floats: &mut Option<BufferId>,
    rows: u32,
    activations: Activations,
) -> BufferId {
    let label = || format!("{}.x_q", linear.label);
    let (features, x_q) = (projection.in_features, activations.x_q);
    let mut floats =
        |plan: &mut Plan| *floats.get_or_insert_with(|| producer.floats(plan, rows, features));
    match &linear.input {
        Input::Float => return floats(plan),
        Input::Dynamic(bits) => {
            let x = floats(plan);
            let params = quantize::quantize_dynamic::Params::new(rows, features, bits.q_max());
            let grid = Grid::Fixed(quantize::quantize_dynamic::grid(&params));
            let bindings = [x, x_q, activations.x_scale];
            plan.dispatch(
                label(),
                &quantize::quantize_dynamic::KERNEL,
                params,
                grid,
                &bindings,
            );
        }
        Input::Static(input) => {
            let (map, _) = linear
                .static_buffers
                .expect("weights.rs makes the buffers of a static input");
            if !producer.flat(plan, input, map, x_q, rows, features) {
                let x = floats(plan);
                flatten_quantize(plan, label(), input, x, map, x_q, rows, features);
            }
        }
    }
    x_q
}

fn dispatch(
    plan: &mut Plan,
    projection: &Projection,
    linear: &Linear,
    range: &RowRange,
    x: BufferId,
    y: BufferId,
    rows: u32,
    accumulate: bool,
    activations: Activations,
) {
    let label = linear.label.clone();
    let few = rows <= GEMV_ROWS;
    let first_out = linear.first_out + range.first_row;
    let has_bias = u32::from(linear.has_bias);
    let accumulate = u32::from(accumulate);
    match linear.format {
        WeightFormat::F32 | WeightFormat::F16 => {
            let params = kernels::gemm_f32::Params {
                rows,
                in_features: linear.in_features,
                out_features: range.rows,
                first_out,
                out_stride: projection.out_features,
                has_bias,
                accumulate,
            };
            let (kernel, grid) = match (linear.format, few) {
                (WeightFormat::F32, true) => {
                    (&kernels::gemv_f32::KERNEL, kernels::gemv_f32::grid(&params))
                }
                (WeightFormat::F32, false) => {
                    (&kernels::gemm_f32::KERNEL, kernels::gemm_f32::grid(&params))
                }
                (_, true) => (&kernels::gemv_f16::KERNEL, kernels::gemv_f32::grid(&params)),
                (_, false) => (&kernels::gemm_f16::KERNEL, kernels::gemm_f32::grid(&params)),
            };
            plan.dispatch(
                label,
                kernel,
                params,
                Grid::Fixed(grid),
                &[x, range.w, range.aux, y],
            );
        }
        WeightFormat::Int { bits, group_size } => {
            let (x_scale, x_scale_stride) = match (&linear.input, linear.static_buffers) {
                (Input::Static(_), Some((_, scale))) => (scale, 0),
                _ => (activations.x_scale, 1),
            };
            let params = kernels::integer::Params {
                rows,
                in_words: padded(linear.in_features) / 4,
                out_features: range.rows,
                first_out,
                out_stride: projection.out_features,
                x_scale_stride,
                w_scale_stride: 1,
                has_bias,
                accumulate,
            };
            let gemms = plan.features.gemms;
            let mut constants = Vec::new();
            if bits == Bits::Int4 && group_size > 0 {
                constants.push(("GROUP_SIZE", group_size));
            }
            let bindings = [x, x_scale, range.w, range.aux, y];
            if gemms == GemmUnit::Matrices(Matrices::Int8) && FEW_ROWS.contains(&rows) {
                let kernel = match bits {
                    Bits::Int8 => &kernels::gemm_i8_coop16_int8_few::KERNEL,
                    Bits::Int4 => &kernels::gemm_i4_coop16_int8_few::KERNEL,
                };
                let division = FewRows::of(rows, params.out_features, weights(bits));
                let grid = Grid::Fixed(division.grid(&params));
                constants.extend(division.constants());
                let dispatch = plan.dispatch(label, kernel, params, grid, &bindings);
                dispatch.constants = constants;
                return;
            }
            let mut division = Division::of(
                rows,
                params.in_words,
                weights(bits),
                plan.features.few_registers,
            );
            // A software driver compiles longer than it gains.
            if rows == 1 && plan.features.fused {
                division.in_words = params.in_words;
            }
            let by_subgroup = plan.features.subgroups.then_some(division);
            let most_rows = if plan.features.subgroups && plan.features.fused {
                GEMV_ROWS_BY_SUBGROUP
            } else {
                GEMV_ROWS
            };
            let few = rows <= most_rows;
            let (kernel, grid) = match (bits, few, by_subgroup) {
                (Bits::Int8, true, Some(division)) => {
                    (&kernels::gemv_i8_subgroup::KERNEL, division.grid(&params))
                }
                (Bits::Int8, true, None) => {
                    (&kernels::gemv_i8::KERNEL, kernels::gemv_i8::grid(&params))
                }
                (Bits::Int8, false, _) => gemm_i8(gemms, &params),
                (Bits::Int4, true, Some(division)) => {
                    (&kernels::gemv_i4_subgroup::KERNEL, division.grid(&params))
                }
                (Bits::Int4, true, None) => {
                    (&kernels::gemv_i4::KERNEL, kernels::gemv_i4::grid(&params))
                }
                (Bits::Int4, false, _) => gemm_i4(gemms, &params),
            };
            let dispatch = plan.dispatch(label, kernel, params, Grid::Fixed(grid), &bindings);
            dispatch.constants = constants;
            if let (true, Some(division)) = (few, by_subgroup) {
                dispatch.constants.extend(division.constants());
            }
        }
    }
}

/// Up to so many rows, linears of integers run as matrix-vector products by subgroups, on what is no software driver: their weights are read
/// once for eight rows, and GEMMs have few workgroups for few rows.
const GEMV_ROWS_BY_SUBGROUP: u32 = 32;

/// So many rows run as GEMMs of few rows, where there are INT8 matrices. On an H200 a 7B shape's step of 4 sequences takes 3.68 ms with GEMVs,
/// one of 8 3.54 so, which are as many tiles; 64 rows of a linear take half of what they do in tiles of 128.
const FEW_ROWS: std::ops::RangeInclusive<u32> = 4..=64;

fn weights(bits: Bits) -> Weights {
    match bits {
        Bits::Int8 => Weights::Int8,
        Bits::Int4 => Weights::Int4,
    }
}

type Choice = (&'static Kernel, [u32; 3]);

fn gemm_i8(gemms: GemmUnit, params: &kernels::integer::Params) -> Choice {
    use kernels::{gemm_i8, gemm_i8_coop8, gemm_i8_coop16, gemm_i8_coop16_int8, gemm_i8_f32};
    match gemms {
        GemmUnit::Dot4 => (&gemm_i8::KERNEL, gemm_i8::grid(params)),
        GemmUnit::F32 => (&gemm_i8_f32::KERNEL, gemm_i8_f32::grid(params)),
        GemmUnit::Matrices(Matrices::F16By8) => {
            (&gemm_i8_coop8::KERNEL, gemm_i8_coop8::grid(params))
        }
        GemmUnit::Matrices(Matrices::F16) => {
            (&gemm_i8_coop16::KERNEL, gemm_i8_coop16::grid(params))
        }
        GemmUnit::Matrices(Matrices::Int8) => (
            &gemm_i8_coop16_int8::KERNEL,
            gemm_i8_coop16_int8::grid(params),
        ),
    }
}

fn gemm_i4(gemms: GemmUnit, params: &kernels::integer::Params) -> Choice {
    use kernels::{gemm_i4, gemm_i4_coop8, gemm_i4_coop16, gemm_i4_coop16_int8, gemm_i4_f32};
    match gemms {
        GemmUnit::Dot4 => (&gemm_i4::KERNEL, gemm_i4::grid(params)),
        GemmUnit::F32 => (&gemm_i4_f32::KERNEL, gemm_i4_f32::grid(params)),
        GemmUnit::Matrices(Matrices::F16By8) => {
            (&gemm_i4_coop8::KERNEL, gemm_i4_coop8::grid(params))
        }
        GemmUnit::Matrices(Matrices::F16) => {
            (&gemm_i4_coop16::KERNEL, gemm_i4_coop16::grid(params))
        }
        GemmUnit::Matrices(Matrices::Int8) => (
            &gemm_i4_coop16_int8::KERNEL,
            gemm_i4_coop16_int8::grid(params),
        ),
    }
}
