//! Static activation scales and flatten maps, through a whole model.

use plateau::checkpoint::{
    ActivationScale, Checkpoint, CheckpointWriter, DEFAULT_SHARD_BYTES, Dtype, LinearFormat,
    NewTensor, QuantizationConfig,
};
use plateau::exec::Executor;
use plateau::session::LoadOptions;
use plateau::tensor::{Bits, Granularity};
use plateau_shaders::pack;
use plateau_tests::{device, model};
use std::path::Path;

/// One scale for every input. The goldens' activations stay under 126 steps of it.
const SCALE: f32 = 0.1;

/// Rounds a float checkpoint to INT8 weights with static activations of `bits`, every channel in `parts` parts.
async fn write(float: &Checkpoint, out: &Path, bits: Bits, parts: u32) {
    let config = &float.config;
    let mut tensors: Vec<(NewTensor, Vec<u32>)> = Vec::new();
    let mut push = |name: String, dtype: Dtype, shape: &[u32], words: Vec<u32>| {
        let shape = shape.iter().map(|&size| u64::from(size)).collect();
        tensors.push((NewTensor { name, dtype, shape }, words));
    };
    for (norm, len) in config.norms() {
        let values = float
            .read_f32(&norm, 0, len as usize)
            .await
            .expect("a norm");
        push(norm, Dtype::F32, &[len], bytemuck::cast_vec(values));
    }
    for (name, shape) in config.float_matrices() {
        let name = format!("{name}.weight");
        let values = float.read_f32(&name, 0, (shape[0] * shape[1]) as usize);
        let words = bytemuck::cast_vec(values.await.expect("a matrix"));
        push(name, Dtype::F32, &shape, words);
    }
    for table in config.tables() {
        let (scales, rows) = rows(float, table, config.vocab_size, config.embedding_size()).await;
        let words: Vec<u32> = rows.iter().flat_map(|row| pack::pack_i8(row)).collect();
        let row_words = words.len() as u32 / config.vocab_size;
        push(
            format!("{table}.qweight"),
            Dtype::U32,
            &[config.vocab_size, row_words],
            words,
        );
        let scales = bytemuck::cast_vec(scales);
        push(
            format!("{table}.scales"),
            Dtype::F32,
            &[config.vocab_size],
            scales,
        );
    }
    for linear in config.linears() {
        let (name, inputs, outputs) = (&linear.name, linear.in_features, linear.out_features);
        let extra: Vec<u32> = (0..inputs)
            .flat_map(|source| (1..parts).map(move |part| source | part << 24))
            .collect();
        let index: Vec<u32> = (0..inputs)
            .flat_map(|source| [source * (parts - 1), parts - 1])
            .collect();
        let (scales, rows) = rows(float, name, outputs, inputs).await;
        let flat = |row: &Vec<i8>| {
            let repeated = row
                .iter()
                .flat_map(|&w| std::iter::repeat_n(w, parts as usize - 1));
            pack::pack_i8(&row.iter().copied().chain(repeated).collect::<Vec<i8>>())
        };
        let words: Vec<u32> = rows.iter().flat_map(flat).collect();
        let row_words = words.len() as u32 / outputs;
        push(
            format!("{name}.qweight"),
            Dtype::U32,
            &[outputs, row_words],
            words,
        );
        push(
            format!("{name}.scales"),
            Dtype::F32,
            &[outputs],
            bytemuck::cast_vec(scales),
        );
        push(
            format!("{name}.input_scale"),
            Dtype::F32,
            &[1],
            vec![SCALE.to_bits()],
        );
        push(
            format!("{name}.flatten_map"),
            Dtype::U32,
            &[extra.len() as u32],
            extra,
        );
        push(
            format!("{name}.flatten_index"),
            Dtype::U32,
            &[inputs, 2],
            index,
        );
        if linear.bias {
            let bias = format!("{name}.bias");
            let values = float
                .read_f32(&bias, 0, outputs as usize)
                .await
                .expect("a bias");
            push(bias, Dtype::F32, &[outputs], bytemuck::cast_vec(values));
        }
    }
    let format = LinearFormat {
        weight_bits: Bits::Int8,
        weight_scale: Granularity::PerChannel,
        group_size: 0,
        activation_bits: bits,
        activation_scale: ActivationScale::Static,
    };
    let quantization = QuantizationConfig::new("a test", format);
    let config = float.config_with(&quantization).await.expect("a config");
    let (tensors, words): (Vec<NewTensor>, Vec<Vec<u32>>) = tensors.into_iter().unzip();
    let names: Vec<String> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
    let mut writer = CheckpointWriter::create(out, tensors, DEFAULT_SHARD_BYTES).expect("a folder");
    for (name, words) in names.iter().zip(&words) {
        writer.append_words(name, words).expect("room on the disk");
    }
    writer.finish(&config).expect("room on the disk");
}

/// Scales and INT8 rows of a float tensor.
async fn rows(float: &Checkpoint, name: &str, rows: u32, columns: u32) -> (Vec<f32>, Vec<Vec<i8>>) {
    let columns = columns as usize;
    let weight = format!("{name}.weight");
    let values = float
        .read_f32(&weight, 0, rows as usize * columns)
        .await
        .expect("a weight");
    let quantized = values.chunks_exact(columns).map(|row| {
        let (scale, words) = pack::quantize_row_i8(row);
        let mut row = vec![0; columns];
        pack::unpack_i8(&words, &mut row);
        (scale, row)
    });
    quantized.unzip()
}

/// INT4 activations in 18 parts reach 18 * 7 = 126 steps: as far as INT8, in the same steps. Flattening keeps the product
/// exactly, so the logits are equal, bit for bit.
#[test]
fn flattened_int4_activations_equal_int8_ones() {
    pollster::block_on(async {
        for folder in model::goldens() {
            let float = model::open(&folder).await;
            let ids: Vec<u32> = (0..21)
                .map(|i| (i * i + 5) % float.config.vocab_size)
                .collect();
            let (whole, flat) = (tempfile::tempdir(), tempfile::tempdir());
            let (whole, flat) = (whole.expect("a folder"), flat.expect("a folder"));
            write(&float, whole.path(), Bits::Int8, 1).await;
            write(&float, flat.path(), Bits::Int4, 18).await;
            let mut devices = vec![(Executor::twin(), Executor::twin())];
            let portable = device::portable_devices().await;
            devices.extend(portable.into_iter().zip(device::portable_devices().await));
            for (a, b) in devices {
                let what = format!("{} on {}", folder.display(), a.name());
                let mut logits = Vec::new();
                for (folder, device) in [(&whole, a), (&flat, b)] {
                    let checkpoint = model::open(folder.path()).await;
                    let options = LoadOptions::default();
                    let mut session = model::load(&checkpoint, device, &options).await;
                    logits.push(model::logits(&mut session, &ids, None).await);
                    let chunked = model::logits(&mut session, &ids, Some(3)).await;
                    assert!(
                        chunked == logits[logits.len() - 1],
                        "{what}: chunks of 3 rows"
                    );
                }
                assert!(
                    logits[0].iter().any(|logit| logit.abs() > 1.0),
                    "{what}: trivial"
                );
                assert!(logits[0] == logits[1], "{what}: the logits differ");
            }
        }
    });
}
