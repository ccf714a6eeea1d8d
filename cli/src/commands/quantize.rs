//! `plateau quantize`: a quantized copy of a float model.

use crate::args::Quantize;
use crate::console::{Console, Unit};
use crate::exit::{CliError, usage};
use crate::load;
use anyhow::Result;
use plateau::checkpoint::{ActivationScale, Checkpoint, Folder, LinearFormat};
use plateau::quantize::round_to_nearest;
use plateau::tensor::{Bits, Granularity, Quant};
use std::io;
use std::path::Path;

pub async fn run(args: &Quantize, console: &Console) -> Result<()> {
    let format = format(args)?;
    let folder = load::folder(Some(&args.model))?;
    check_out(&args.out, args.force, &folder)?;
    let checkpoint = Checkpoint::open(folder).await?;
    let progress = console.progress("quantizing", 0, Unit::Bytes);
    round_to_nearest(&checkpoint, &args.out, format, &mut |now| {
        progress.load(now)
    })
    .await?;
    drop(progress);
    console.note(format!(
        "{}: {}",
        args.out.display(),
        load::linear_format_label(&format)
    ));
    Ok(())
}

fn format(args: &Quantize) -> Result<LinearFormat> {
    let (weight_bits, activation_bits) = match args.quant {
        Quant::W8A8 => (Bits::Int8, Bits::Int8),
        Quant::W4A8 => (Bits::Int4, Bits::Int8),
        Quant::W4A4 => (Bits::Int4, Bits::Int4),
        Quant::F32 | Quant::F16 => {
            return Err(usage(format!(
                "--quant {}: is not an integer format",
                args.quant
            )));
        }
    };
    if args.group_size > 0 && weight_bits == Bits::Int8 {
        return Err(usage("--group-size is for INT4 weights: w4a8 or w4a4"));
    }
    Ok(LinearFormat {
        weight_bits,
        weight_scale: if args.per_tensor {
            Granularity::PerTensor
        } else {
            Granularity::PerChannel
        },
        group_size: args.group_size,
        activation_bits,
        activation_scale: ActivationScale::Dynamic,
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
    use std::path::PathBuf;

    fn args(quant: Quant, group_size: u32) -> Quantize {
        Quantize {
            model: "model".to_owned(),
            out: PathBuf::from("out"),
            quant,
            group_size,
            per_tensor: false,
            force: false,
        }
    }

    #[test]
    fn groups_are_for_int4() {
        let format = |quant, group_size| format(&args(quant, group_size));
        assert_eq!(
            format(Quant::W4A4, 64).map(|format| format.group_size).ok(),
            Some(64)
        );
        assert_eq!(
            format(Quant::W8A8, 0).map(|format| format.weight_bits).ok(),
            Some(Bits::Int8)
        );
        assert_eq!(
            code(&format(Quant::W8A8, 64).expect_err("INT8 has no groups")),
            Code::Usage
        );
        assert_eq!(
            code(&format(Quant::F16, 0).expect_err("no integers")),
            Code::Usage
        );
    }

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
