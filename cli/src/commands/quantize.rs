//! `plateau quantize`: a quantized copy of a float model.

use crate::args::{KnobArgs, Quantize};
use crate::console::{Console, Unit, bytes, print_line};
use crate::exit::{CliError, usage};
use crate::load;
use crate::text::read_text;
use anyhow::Result;
use plateau::checkpoint::{Checkpoint, DEFAULT_SHARD_BYTES, Folder, NewTensor};
use plateau::quantize::calibrate::Samples;
use plateau::quantize::gptq::{GptqConfig, Order};
use plateau::quantize::pipeline::{Progress, Source, all_tensors, decide, write};
use plateau::quantize::recipe::{Activations, BitPolicy, Recipe};
use plateau::quantize::report::{
    CalibrationReport, CostReport, LayerReport, Report, peak_memory, totals,
};
use std::io;
use std::path::Path;
use std::time::Instant;

/// Of the quantized folder.
const MODEL_CARD: &str = "README.md";
/// Tokens of a calibration window, where the model's context holds them.
const DEFAULT_WINDOW: u32 = 512;

pub async fn run(args: &Quantize, console: &Console) -> Result<()> {
    let folder = load::folder(Some(&args.model))?;
    if !args.dry_run {
        check_out(&args.out, args.force, &folder)?;
    }
    let checkpoint = Checkpoint::open(folder).await?;
    let parameters = load::parameters(&checkpoint.config);
    let mut recipe = with_knobs(&args.recipe, &args.knobs, parameters)?;
    // Without a token that begins every text there is none to be stored.
    if recipe.prefix && checkpoint.generation.bos_token_id.is_none() {
        if args.knobs.prefix == Some(true) {
            let line = "--prefix on: the model has no token that begins a text";
            return Err(usage(line));
        }
        recipe.prefix = false;
    }
    let samples = match recipe.needs_calibration() {
        true => Some(samples(args, &recipe, &checkpoint).await?),
        false => None,
    };
    let mut opened = load::open(&args.device, console).await?;
    let source = Source {
        checkpoint: &checkpoint,
        samples: samples.as_ref(),
        outliers: args.inject_outliers.map(|mut outliers| {
            outliers.seed = args.calibration.seed;
            outliers
        }),
    };
    let layers = u64::from(checkpoint.config.num_hidden_layers);
    let start = Instant::now();
    let progress = console.progress("calibrating", layers, Unit::Steps);
    let plan = decide(
        &source,
        &mut opened.executor,
        &recipe,
        &mut |now: Progress| progress.set(now.done),
    )
    .await?;
    drop(progress);
    let calibrated = Instant::now();
    let mut errors = Vec::new();
    if !args.dry_run {
        let progress = console.progress("quantizing", layers, Unit::Steps);
        let mut advance = |now: Progress| progress.set(now.done);
        errors = write(
            &source,
            &mut opened.executor,
            &recipe,
            &plan,
            &args.out,
            DEFAULT_SHARD_BYTES,
            &mut advance,
        )
        .await?;
    }
    let (bits_per_weight, int4_share, added_channels) = totals(&plan);
    let tensors = all_tensors(&checkpoint, &recipe, &plan)?;
    let report = Report {
        model: checkpoint.folder.name(),
        recipe: recipe.name.clone(),
        settings: format!("{recipe:?}"),
        calibration: samples.as_ref().zip(args.calibration.calib.as_ref()).map(
            |(samples, file)| CalibrationReport {
                file: file_name(file),
                windows: samples.windows.len(),
                tokens_per_window: samples.window(),
                stored_tokens: usize::from(recipe.prefix),
                seed: args.calibration.seed,
            },
        ),
        injected_outliers: source.outliers.map(|outliers| {
            format!(
                "{},{},{}",
                outliers.share, outliers.lowest, outliers.highest
            )
        }),
        device: opened.executor.name().to_owned(),
        bytes: tensors.iter().map(NewTensor::bytes).sum(),
        bits_per_weight,
        int4_share,
        added_channels,
        layers: plan
            .iter()
            .enumerate()
            .map(|(layer, plan)| LayerReport::new(layer, plan, &errors))
            .collect(),
        cost: CostReport {
            calibrating_seconds: (calibrated - start).as_secs_f64(),
            quantizing_seconds: calibrated.elapsed().as_secs_f64(),
            peak_memory_bytes: peak_memory(),
        },
    };
    if let Some(file) = &args.report {
        let json = serde_json::to_string_pretty(&report)?;
        write_file(file, &json)?;
    }
    if args.dry_run {
        print_line(&report.table())?;
    } else {
        write_file(&args.out.join(MODEL_CARD), &report.model_card())?;
    }
    console.note(format!(
        "{}{}: {}, {} of tensors, {:.2} bits for each weight of the linears, {:.2} % of their work in INT4 by INT4, {:.2} % channels added",
        args.out.display(),
        if args.dry_run { " (not written)" } else { "" },
        report.recipe,
        bytes(report.bytes),
        report.bits_per_weight,
        100.0 * report.int4_share,
        100.0 * report.added_channels,
    ));
    Ok(())
}

/// The last part of a path: a report does not tell where its writer keeps files.
fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(
        || "-".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|source| {
        CliError::File {
            verb: "write",
            path: path.display().to_string(),
            source,
        }
        .into()
    })
}

/// The recipe with what was asked for on the command line, for a model of so many weights.
fn with_knobs(recipe: &Recipe, knobs: &KnobArgs, parameters: u64) -> Result<Recipe> {
    let mut recipe = recipe.clone();
    if let Some(size) = knobs.group_size {
        recipe.group_size = size;
    }
    if let Some(scale) = knobs.weight_scale {
        recipe.weight_scale = scale;
    }
    if let Some(smoothing) = knobs.smooth {
        recipe.smoothing = smoothing;
    }
    if let Some(parts) = knobs.parts {
        recipe.parts = parts;
    }
    if let Some(share) = knobs.added_int4 {
        recipe.added_int4 = share;
    }
    if let Some(share) = knobs.added_int8 {
        recipe.added_int8 = share;
    }
    if let Some(share) = knobs.added_down {
        recipe.added_down = share;
    }
    if let Some(activations) = knobs.activations {
        recipe.activations = activations;
    }
    if let Some(megabytes) = knobs.target_size {
        recipe.bits = BitPolicy::Bytes((f64::from(megabytes) * 1e6) as u64);
    }
    if let Some(bits) = knobs.target_bpw {
        recipe.bits = BitPolicy::Bytes((f64::from(bits) * parameters as f64 / 8.0) as u64);
    }
    let mixing = match (knobs.int4_share, knobs.kl_limit) {
        (Some(share), _) => Some(("--int4-share", BitPolicy::Int4Share(share.into()))),
        (None, Some(limit)) => Some(("--kl-limit", BitPolicy::DivergenceLimit(limit.into()))),
        (None, None) => None,
    };
    if let Some((flag, bits)) = mixing {
        if !matches!(recipe.bits, BitPolicy::Int4Share(_)) {
            return Err(usage(format!(
                "{flag} is for recipes that mix INT4 and INT8; {} does not",
                recipe.name
            )));
        }
        recipe.bits = bits;
    }
    let mixes = matches!(
        recipe.bits,
        BitPolicy::Int4Share(_) | BitPolicy::DivergenceLimit(_)
    );
    if mixes && recipe.activations == Activations::Float {
        return Err(usage(format!(
            "--activations float: {} mixes widths of activations, which floats do not have",
            recipe.name
        )));
    }
    match knobs.gptq {
        Some(true) => recipe.gptq = recipe.gptq.or(Some(GptqConfig::default())),
        Some(false) => recipe.gptq = None,
        None => {}
    }
    if knobs.damping.is_some() || knobs.act_order.is_some() {
        let Some(gptq) = &mut recipe.gptq else {
            return Err(usage("--damping and --act-order are GPTQ's, which is off"));
        };
        if let Some(damping) = knobs.damping {
            gptq.damping = damping.into();
        }
        if let Some(descending) = knobs.act_order {
            gptq.order = if descending {
                Order::Descending
            } else {
                Order::Natural
            };
        }
    }
    if let Some(refit) = knobs.refit {
        let possible = recipe.gptq.is_some() && recipe.activations == Activations::Static;
        if refit && !possible {
            return Err(usage("--refit on needs GPTQ and static activations"));
        }
        recipe.refit = refit;
    }
    if let Some(clip) = knobs.clip {
        recipe.clip = clip;
    }
    if let Some(prefix) = knobs.prefix {
        recipe.prefix = prefix;
    }
    Ok(recipe)
}

/// The windows of the sample text.
async fn samples(args: &Quantize, recipe: &Recipe, checkpoint: &Checkpoint) -> Result<Samples> {
    let calibration = &args.calibration;
    let Some(file) = &calibration.calib else {
        return Err(usage(format!(
            "--recipe {} needs sample text: --calib FILE",
            recipe.name
        )));
    };
    let context = checkpoint.config.max_position_embeddings;
    let window = calibration.seqlen.unwrap_or(DEFAULT_WINDOW.min(context));
    if window > context {
        return Err(usage(format!(
            "--seqlen {window}: the model's context holds {context} tokens"
        )));
    }
    let text = read_text(file)?;
    let tokenizer = load::tokenizer(checkpoint).await?;
    let ids = tokenizer.encode(&text, false)?;
    let bos = checkpoint.generation.bos_token_id;
    let samples = Samples::new(
        &ids,
        bos,
        window as usize,
        calibration.nsamples as usize,
        calibration.seed,
    );
    samples.ok_or_else(|| {
        usage(format!(
            "{}: {} tokens do not fill one window of {window}",
            file.display(),
            ids.len()
        ))
    })
}

/// Nothing of the user's is overwritten unasked, and the model itself never.
fn check_out(out: &Path, force: bool, model: &Folder) -> Result<()> {
    let failure = |source| CliError::File {
        verb: "write",
        path: out.display().to_string(),
        source,
    };
    match std::fs::read_dir(out) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failure(error).into()),
        Ok(mut entries) => {
            if out.join("model.safetensors").exists()
                && !matches!(model, Folder::Disk(model) if same_folder(model, out))
            {
                return Err(usage(format!(
                    "{}: holds a model already, which is never overwritten; another folder is needed",
                    out.display()
                )));
            }
            if entries.next().is_some() && !force {
                return Err(usage(format!(
                    "{}: is not empty; --force writes into it",
                    out.display()
                )));
            }
        }
    }
    match model {
        Folder::Disk(model) if same_folder(model, out) => Err(usage(format!(
            "{}: is the model itself; another folder is needed",
            out.display()
        ))),
        Folder::Disk(_) | Folder::Embedded { .. } => Ok(()),
    }
}

fn same_folder(one: &Path, two: &Path) -> bool {
    matches!((one.canonicalize(), two.canonicalize()), (Ok(one), Ok(two)) if one == two)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{Code, code};

    #[test]
    fn what_is_there_is_not_overwritten() {
        let base = std::env::temp_dir().join(format!("plateau-quantize-{}", std::process::id()));
        let (model, empty) = (base.join("model"), base.join("empty"));
        std::fs::create_dir_all(&model).expect("the temporary folder can be written");
        std::fs::create_dir_all(&empty).expect("the temporary folder can be written");
        std::fs::write(model.join("config.json"), "{}").expect("can be written");
        let other = Folder::Embedded {
            name: "other",
            files: &[],
        };
        assert!(check_out(&base.join("new"), false, &other).is_ok());
        assert!(check_out(&empty, false, &other).is_ok());
        assert!(check_out(&model, true, &other).is_ok());
        assert_eq!(
            code(&check_out(&model, false, &other).expect_err("not empty")),
            Code::Usage
        );
        std::fs::write(model.join("model.safetensors"), "").expect("can be written");
        let occupied = check_out(&model, false, &other).expect_err("a model");
        assert!(occupied.to_string().contains("holds a model"), "{occupied}");
        let itself = Folder::Disk(model.clone());
        assert_eq!(
            code(&check_out(&model, true, &itself).expect_err("the model")),
            Code::Usage
        );
        assert!(check_out(&model.join("config.json"), false, &other).is_err());
        let _ = std::fs::remove_dir_all(base);
    }
}
