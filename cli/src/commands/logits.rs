//! `plateau logits`: the logits of some tokens, in a file.

use crate::args::Logits;
use crate::console::{Console, Unit};
use crate::exit::CliError;
use crate::load;
use anyhow::Result;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

pub async fn run(args: &Logits, console: &Console) -> Result<()> {
    let checkpoint = load::checkpoint(args.load.model.model.as_deref()).await?;
    let options = load::options(&args.load.format, None)?;
    load::check_length(args.ids.len(), &checkpoint.config, &options)?;
    load::check_ids(&args.ids, &checkpoint.config)?;
    let mut session = load::session(&checkpoint, &args.load, &options, console).await?;

    let vocab = checkpoint.config.vocab_size as usize;
    let mut file = LogitsFile::create(&args.output, args.ids.len(), vocab)?;
    let mut result = Ok(());
    let mut not_finite = 0;
    let progress = console.progress("logits", args.ids.len() as u64, Unit::Steps);
    let run = session
        .logits(&args.ids, &mut |first_row, logits| {
            not_finite += logits.iter().filter(|logit| !logit.is_finite()).count();
            if result.is_ok() {
                result = file.write(first_row, logits);
            }
            progress.set((first_row + logits.len() / vocab) as u64);
        })
        .await;
    drop(progress);
    run?;
    result
        .and_then(|()| file.finish(&args.output))
        .map_err(|source| CliError::File {
            verb: "write",
            path: args.output.display().to_string(),
            source,
        })?;
    if not_finite > 0 {
        let line = format!(
            "{not_finite} logits are not finite; they are in {}",
            args.output.display()
        );
        return Err(CliError::NumericCheck(line).into());
    }
    console.note(format!(
        "{}: logits [{}, {vocab}] f32",
        args.output.display(),
        args.ids.len()
    ));
    Ok(())
}

/// A safetensors file with the one tensor `logits`, written as the rows come and under another name until it is whole.
struct LogitsFile {
    file: BufWriter<File>,
    partial: Partial,
    data_start: u64,
    vocab: usize,
}

/// A file that is removed when dropped, unless it was renamed.
struct Partial {
    path: PathBuf,
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone already after the rename; otherwise nobody can be told.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl LogitsFile {
    fn create(path: &Path, tokens: usize, vocab: usize) -> Result<Self> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = Partial {
            path: PathBuf::from(partial),
        };
        let header = header(tokens, vocab);
        let open = || -> io::Result<BufWriter<File>> {
            let mut file = BufWriter::new(File::create(&partial.path)?);
            file.write_all(&header)?;
            Ok(file)
        };
        let file = open().map_err(|source| CliError::File {
            verb: "write",
            path: path.display().to_string(),
            source,
        })?;
        Ok(Self {
            file,
            partial,
            data_start: header.len() as u64,
            vocab,
        })
    }

    fn write(&mut self, first_row: usize, logits: &[f32]) -> io::Result<()> {
        let offset = (first_row * self.vocab * size_of::<f32>()) as u64;
        self.file.seek(SeekFrom::Start(self.data_start + offset))?;
        for logit in logits {
            self.file.write_all(&logit.to_le_bytes())?;
        }
        Ok(())
    }

    fn finish(mut self, path: &Path) -> io::Result<()> {
        self.file.flush()?;
        std::fs::rename(&self.partial.path, path)
    }
}

/// Header length, then JSON padded to a multiple of 8, as safetensors asks for.
fn header(tokens: usize, vocab: usize) -> Vec<u8> {
    let bytes = tokens as u64 * vocab as u64 * size_of::<f32>() as u64;
    let mut json = format!(
        r#"{{"logits":{{"dtype":"F32","shape":[{tokens},{vocab}],"data_offsets":[0,{bytes}]}}}}"#
    );
    while !json.len().is_multiple_of(8) {
        json.push(' ');
    }
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("plateau-logits-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the temporary folder can be written");
        folder
    }

    #[test]
    fn rows_in_any_order_make_a_file_that_safetensors_reads() {
        let folder = folder("order");
        let path = folder.join("logits.safetensors");
        let mut file = LogitsFile::create(&path, 3, 2).expect("can be written");
        file.write(2, &[4.0, 5.0]).expect("can be written");
        file.write(0, &[0.0, 1.0, 2.0, 3.0])
            .expect("can be written");
        file.finish(&path).expect("can be renamed");
        let bytes = std::fs::read(&path).expect("was written");
        let tensors = SafeTensors::deserialize(&bytes).expect("is valid");
        let logits = tensors.tensor("logits").expect("has logits");
        assert_eq!(logits.shape(), [3, 2]);
        let expected: Vec<u8> = (0..6u8)
            .flat_map(|value| f32::from(value).to_le_bytes())
            .collect();
        assert_eq!(logits.data(), expected);
        assert_eq!(
            std::fs::read_dir(&folder).map(Iterator::count).ok(),
            Some(1)
        );
        let _ = std::fs::remove_dir_all(folder);
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_the_old_one() {
        let folder = folder("unfinished");
        let path = folder.join("logits.safetensors");
        std::fs::write(&path, "old").expect("can be written");
        drop(LogitsFile::create(&path, 1, 1).expect("can be written"));
        assert_eq!(
            std::fs::read(&path).ok().as_deref(),
            Some(b"old".as_slice())
        );
        assert_eq!(
            std::fs::read_dir(&folder).map(Iterator::count).ok(),
            Some(1)
        );
        let _ = std::fs::remove_dir_all(folder);
    }
}
