// The pools of keys and values: pages of 64 keys, a block for each kv head, in f32, f16, or i8 with a scale for each key. And the append.

enum KvType { KV_F32, KV_F16, KV_I8 };

template <KvType T>
FUNCTION u64 block_words(u32 head_dim) {
  switch (T) {
    case KV_F32: return (u64)PAGE_SIZE * head_dim;
    case KV_F16: return (u64)PAGE_SIZE * head_dim / 2;
    default: return (u64)PAGE_SIZE * ((head_dim + 3) / 4 + 1);
  }
}

// Feature `d` of a key, or a value, in its block.
template <KvType T>
FUNCTION double kv_at(const u32* block, u32 key, u32 head_dim, u32 d) {
  switch (T) {
    case KV_F32: return (double)float_of_bits(block[key * head_dim + d]);
    case KV_F16: return half_at(block, key * head_dim + d);
    default: {
      const u32 row_words = (head_dim + 3) / 4;
      const float scale = float_of_bits(block[PAGE_SIZE * row_words + key]);
      return (double)scale * int8_at(block + key * row_words, d);
    }
  }
}

// Puts the features of a key, or a value, in its block.
template <KvType T>
FUNCTION void kv_put(u32* block, u32 key, u32 head_dim, const float* features) {
  switch (T) {
    case KV_F32:
      for (u32 d = 0; d < head_dim; d += 1) {
        block[key * head_dim + d] = float_bits(features[d]);
      }
      break;
    case KV_F16:
      for (u32 d = 0; d < head_dim; d += 2) {
        block[(key * head_dim + d) / 2] = half_bits(features[d]) | (u32)half_bits(features[d + 1]) << 16;
      }
      break;
    default: {
      const u32 row_words = (head_dim + 3) / 4;
      const DynamicScale s = dynamic_scale(features, head_dim, 127, 1.0f / 127.0f);
      for (u32 word = 0; word < row_words; word += 1) {
        int q[4] = {0, 0, 0, 0};
        for (u32 lane = 0; lane < 4 && 4 * word + lane < head_dim; lane += 1) {
          q[lane] = dynamic_step(s, 127, features[4 * word + lane]);
        }
        block[key * row_words + word] = packed(q);
      }
      block[PAGE_SIZE * row_words + key] = float_bits(s.scale);
    }
  }
}

// The block of a key of a sequence, in a pool of this type.
template <KvType T>
FUNCTION u64 block_of(const u32* block_table, u32 table_stride, u32 sequence, u32 key, u32 kv_heads, u32 kv_head, u32 head_dim) {
  const u32 page = block_table[sequence * table_stride + key / PAGE_SIZE];
  return ((u64)page * kv_heads + kv_head) * block_words<T>(head_dim);
}

struct KvAppendParams {
  u32 rows, kv_heads, head_dim, stride, k_offset, v_offset, table_stride;
};

template <KvType T>
FUNCTION void kv_append(const Call& call) {
  const auto p = params_of<KvAppendParams>(call);
  const Row* row_info = binding<Row>(call, 1);
  const u32* block_table = binding<u32>(call, 2);
  const float* qkv = binding<float>(call, 3);
  // Keys and values of each kv head of each row.
  for (u64 n = first(); n < (u64)p.rows * p.kv_heads * 2; n += step()) {
    const u32 is_value = n % 2, kv_head = n / 2 % p.kv_heads;
    const u64 row = n / 2 / p.kv_heads;
    const u32 position = row_info[row].position;
    const u64 block = block_of<T>(block_table, p.table_stride, row_info[row].sequence, position, p.kv_heads, kv_head, p.head_dim);
    const float* features = qkv + row * p.stride + (is_value ? p.v_offset : p.k_offset) + kv_head * p.head_dim;
    kv_put<T>(binding<u32>(call, is_value ? 5 : 4) + block, position % PAGE_SIZE, p.head_dim, features);
  }
}

KERNEL(kv_append_f32) { kv_append<KV_F32>(call); }
KERNEL(kv_append_f16) { kv_append<KV_F16>(call); }
KERNEL(kv_append_i8) { kv_append<KV_I8>(call); }
