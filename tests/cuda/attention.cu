// Attention over the pools, with rope and the append in one or apart, to floats and to flat integers.

struct RopeParams {
  u32 rows, num_heads, head_dim, stride;
};

struct Turn {
  float cos, sin;
};

// Feature `d` of a head after rope, of the head's features before it and its position's turns.
FUNCTION float rotated(const float* head, const Turn* turns, u32 head_dim, u32 d) {
  const u32 half = head_dim / 2;
  const u32 i = d % half;
  const double c = turns[i].cos, s = turns[i].sin, a = head[i], b = head[i + half];
  return (float)(d < half ? a * c - b * s : b * c + a * s);
}

KERNEL(rope) {
  const auto p = params_of<RopeParams>(call);
  const Row* row_info = binding<Row>(call, 1);
  const Turn* table = binding<Turn>(call, 2);
  float* qkv = binding<float>(call, 3);
  const u32 half = p.head_dim / 2;
  for (u64 n = first(); n < (u64)p.rows * p.num_heads * half; n += step()) {
    const u32 i = n % half;
    const u64 row = n / half / p.num_heads;
    float* head = qkv + row * p.stride + n / half % p.num_heads * p.head_dim;
    const Turn* turns = table + (u64)row_info[row].position * half;
    const float low = rotated(head, turns, p.head_dim, i), high = rotated(head, turns, p.head_dim, i + half);
    head[i] = low;
    head[i + half] = high;
  }
}

struct AttentionParams {
  // Rows, or tiles of rows.
  u32 count, heads, kv_heads, head_dim, stride, table_stride, window;
  float scale;
};

struct FlatAttentionParams {
  AttentionParams attention;
  u32 flat_features, q_max;
  float inv_scale;
};

struct Inputs {
  const Row* row_info;
  const u32* block_table;
  const float* qkv;
  const u32* k_pool;
  const u32* v_pool;
  // Where the dispatch rotates the heads and appends the new key itself; else 0.
  const Turn* rope_table;
  // Queries are scaled and rounded to halves first, for matrices of halves.
  bool rounds_queries;
};

const u32 MOST_HEAD_DIM = 256;

FUNCTION u32 first_visible(const AttentionParams& p, u32 position) {
  return p.window == 0 || position + 1 < p.window ? 0 : position + 1 - p.window;
}

// A query of a row.
FUNCTION void load_query(const AttentionParams& p, const Inputs& in, u64 row, u32 head, double* q) {
  const float* features = in.qkv + row * p.stride + head * p.head_dim;
  const Turn* turns = in.rope_table + (u64)in.row_info[row].position * (p.head_dim / 2);
  for (u32 d = 0; d < p.head_dim; d += 1) {
    const float plain = in.rope_table ? rotated(features, turns, p.head_dim, d) : features[d];
    // The largest half is 65504.
    const float in_range = fminf(fmaxf(p.scale * plain, -65504.0f), 65504.0f);
    q[d] = in.rounds_queries ? half_value(half_bits(in_range)) : (double)plain;
  }
}

// Feature `d` of the key, or the value, of `key` as the row sees it. Of the new one, where the dispatch appends it, what the pool will hold.
template <KvType T, bool IS_VALUE>
FUNCTION double seen(const AttentionParams& p, const Inputs& in, u64 row, u32 kv_head, u32 key, u32 d) {
  const Row info = in.row_info[row];
  if (in.rope_table && key == info.position) {
    const u32 first_head = p.heads + (IS_VALUE ? p.kv_heads : 0);
    const float* features = in.qkv + row * p.stride + (first_head + kv_head) * p.head_dim;
    const Turn* turns = in.rope_table + (u64)key * (p.head_dim / 2);
    return half_value(half_bits(IS_VALUE ? features[d] : rotated(features, turns, p.head_dim, d)));
  }
  const u64 block = block_of<T>(in.block_table, p.table_stride, info.sequence, key, p.kv_heads, kv_head, p.head_dim);
  return kv_at<T>((IS_VALUE ? in.v_pool : in.k_pool) + block, key % PAGE_SIZE, p.head_dim, d);
}

// Of some keys of a head: the largest score, the sum of the weights against it, and that of four features of the weighted values.
struct Partial {
  double max, sum, o[4];
};

template <KvType T>
FUNCTION double score(const AttentionParams& p, const Inputs& in, u64 row, u32 head, u32 key, const double* q) {
  double dot = 0.0;
  for (u32 d = 0; d < p.head_dim; d += 1) {
    dot += q[d] * seen<T, false>(p, in, row, head / (p.heads / p.kv_heads), key, d);
  }
  return in.rounds_queries ? dot : (double)p.scale * dot;
}

// Of the keys `begin` to `last`; `features` beyond the head are left out.
template <KvType T>
SEPARATE_FUNCTION Partial attend(const AttentionParams& p, const Inputs& in, u64 row, u32 head, u32 begin, u32 last, const u32 features[4]) {
  double q[MOST_HEAD_DIM];
  load_query(p, in, row, head, q);
  Partial partial = {-INFINITY, 0.0, {0.0, 0.0, 0.0, 0.0}};
  for (u32 key = begin; key <= last; key += 1) {
    partial.max = fmax(partial.max, score<T>(p, in, row, head, key, q));
  }
  for (u32 key = begin; key <= last; key += 1) {
    const double weight = exp(score<T>(p, in, row, head, key, q) - partial.max);
    partial.sum += weight;
    for (u32 i = 0; i < 4; i += 1) {
      if (features[i] < p.head_dim) {
        partial.o[i] += weight * seen<T, true>(p, in, row, head / (p.heads / p.kv_heads), key, features[i]);
      }
    }
  }
  return partial;
}

// Four features of a head's output, of all keys that the row sees.
template <KvType T>
FUNCTION void attended(const AttentionParams& p, const Inputs& in, u64 row, u32 head, const u32 features[4], float y[4]) {
  const u32 position = in.row_info[row].position;
  const Partial all = attend<T>(p, in, row, head, first_visible(p, position), position, features);
  for (u32 i = 0; i < 4; i += 1) {
    y[i] = (float)(all.o[i] / all.sum);
  }
}

// Rows `begin` to `end`, to floats.
template <KvType T>
FUNCTION void float_rows(const AttentionParams& p, const Inputs& in, u32 begin, u32 end, float* y) {
  const u32 quads = (p.head_dim + 3) / 4;
  for (u64 n = first(); n < (u64)(end - begin) * p.heads * quads; n += step()) {
    const u32 d = n % quads * 4;
    const u32 head = n / quads % p.heads;
    const u64 row = begin + n / quads / p.heads;
    const u32 features[4] = {d, d + 1, d + 2, d + 3};
    float values[4];
    attended<T>(p, in, row, head, features, values);
    for (u32 i = 0; i < 4 && d + i < p.head_dim; i += 1) {
      y[(row * p.heads + head) * p.head_dim + d + i] = values[i];
    }
  }
}

// The same to flat integers.
template <KvType T>
FUNCTION void flat_rows(const FlatAttentionParams& p, const Inputs& in, u32 begin, u32 end, const u32* map, u32* x_q) {
  const AttentionParams& a = p.attention;
  const u32 words = flat_words(p.flat_features), features = a.heads * a.head_dim;
  for (u64 n = first(); n < (u64)(end - begin) * words; n += step()) {
    const u64 row = begin + n / words;
    u32 sources[4];
    u32 in_head[4];
    bool is_one_head = true;
    for (u32 lane = 0; lane < 4; lane += 1) {
      const u32 c = (u32)(n % words) * 4 + lane;
      sources[lane] = c < p.flat_features ? flat_source(map, features, c) : 0;
      in_head[lane] = sources[lane] % a.head_dim;
      is_one_head = is_one_head && sources[lane] / a.head_dim == sources[0] / a.head_dim;
    }
    float y[4];
    if (is_one_head) {
      attended<T>(a, in, row, sources[0] / a.head_dim, in_head, y);
    } else {
      for (u32 lane = 0; lane < 4; lane += 1) {
        float values[4];
        attended<T>(a, in, row, sources[lane] / a.head_dim, in_head, values);
        y[lane] = values[lane];
      }
    }
    int values[4] = {0, 0, 0, 0};
    for (u32 lane = 0; lane < 4; lane += 1) {
      const u32 c = (u32)(n % words) * 4 + lane;
      if (c < p.flat_features) {
        values[lane] = flat_part(map, features, p.q_max, p.inv_scale, c, y[lane]);
      }
    }
    x_q[row * words + n % words] = packed(values);
  }
}

FUNCTION Inputs inputs(const Call& call, bool rounds_queries) {
  return {binding<Row>(call, 1), binding<u32>(call, 2), binding<float>(call, 3), binding<u32>(call, 4), binding<u32>(call, 5), 0, rounds_queries};
}

template <KvType T>
FUNCTION void attention_decode(const Call& call) {
  const auto p = params_of<AttentionParams>(call);
  float_rows<T>(p, inputs(call, false), 0, p.count, binding<float>(call, 6));
}

template <KvType T>
FUNCTION void attention_decode_flat(const Call& call) {
  const auto p = params_of<FlatAttentionParams>(call);
  flat_rows<T>(p, inputs(call, false), 0, p.attention.count, binding<u32>(call, 6), binding<u32>(call, 7));
}

struct Tile {
  u32 first_row, rows;
};

template <KvType T>
FUNCTION void attention_prefill(const Call& call, bool rounds_queries = false) {
  const auto p = params_of<AttentionParams>(call);
  const Tile* tiles = binding<Tile>(call, 6);
  for (u32 tile = 0; tile < p.count; tile += 1) {
    const u32 begin = tiles[tile].first_row;
    float_rows<T>(p, inputs(call, rounds_queries), begin, begin + tiles[tile].rows, binding<float>(call, 7));
  }
}

template <KvType T>
FUNCTION void attention_prefill_flat(const Call& call, bool rounds_queries = false) {
  const auto p = params_of<FlatAttentionParams>(call);
  const Tile* tiles = binding<Tile>(call, 6);
  for (u32 tile = 0; tile < p.attention.count; tile += 1) {
    const u32 begin = tiles[tile].first_row;
    flat_rows<T>(p, inputs(call, rounds_queries), begin, begin + tiles[tile].rows, binding<u32>(call, 7), binding<u32>(call, 8));
  }
}

KERNEL(attention_decode_f32) { attention_decode<KV_F32>(call); }
KERNEL(attention_decode_f16) { attention_decode<KV_F16>(call); }
KERNEL(attention_decode_i8) { attention_decode<KV_I8>(call); }
KERNEL(attention_decode_f32_flat) { attention_decode_flat<KV_F32>(call); }
KERNEL(attention_decode_f16_flat) { attention_decode_flat<KV_F16>(call); }
KERNEL(attention_decode_i8_flat) { attention_decode_flat<KV_I8>(call); }
KERNEL(attention_prefill_f32) { attention_prefill<KV_F32>(call); }
KERNEL(attention_prefill_f16) { attention_prefill<KV_F16>(call); }
KERNEL(attention_prefill_i8) { attention_prefill<KV_I8>(call); }
KERNEL(attention_prefill_f32_flat) { attention_prefill_flat<KV_F32>(call); }
KERNEL(attention_prefill_f16_flat) { attention_prefill_flat<KV_F16>(call); }
KERNEL(attention_prefill_i8_flat) { attention_prefill_flat<KV_I8>(call); }
KERNEL(attention_prefill_coop16) { attention_prefill<KV_F16>(call, true); }
KERNEL(attention_prefill_coop16_flat) { attention_prefill_flat<KV_F16>(call, true); }

FUNCTION Inputs rotating_inputs(const Call& call, bool rounds_queries = false) {
  return {binding<Row>(call, 1), binding<u32>(call, 2), binding<float>(call, 3), binding<u32>(call, 5), binding<u32>(call, 6),
          binding<Turn>(call, 4), rounds_queries};
}

// The new keys and values of rows, each of a sequence of its own, to the pools. No thread of the dispatch reads them there.
FUNCTION void append_rotated(const AttentionParams& p, const Call& call) {
  const Inputs in = rotating_inputs(call);
  for (u64 n = first(); n < (u64)p.count * p.kv_heads * 2; n += step()) {
    const u32 is_value = n % 2, kv_head = n / 2 % p.kv_heads;
    const u64 row = n / 2 / p.kv_heads;
    const Row info = in.row_info[row];
    const u32 first_head = p.heads + (is_value ? p.kv_heads : 0);
    const float* head = in.qkv + row * p.stride + (first_head + kv_head) * p.head_dim;
    const Turn* turns = in.rope_table + (u64)info.position * (p.head_dim / 2);
    float features[MOST_HEAD_DIM];
    for (u32 d = 0; d < p.head_dim; d += 1) {
      features[d] = is_value ? head[d] : rotated(head, turns, p.head_dim, d);
    }
    const u64 block = block_of<KV_F16>(in.block_table, p.table_stride, info.sequence, info.position, p.kv_heads, kv_head, p.head_dim);
    kv_put<KV_F16>(binding<u32>(call, is_value ? 6 : 5) + block, info.position % PAGE_SIZE, p.head_dim, features);
  }
}

KERNEL(rope_attention_f16) {
  const auto p = params_of<AttentionParams>(call);
  append_rotated(p, call);
  float_rows<KV_F16>(p, rotating_inputs(call), 0, p.count, binding<float>(call, 7));
}

KERNEL(rope_attention_f16_flat) {
  const auto p = params_of<FlatAttentionParams>(call);
  append_rotated(p.attention, call);
  flat_rows<KV_F16>(p, rotating_inputs(call), 0, p.attention.count, binding<u32>(call, 7), binding<u32>(call, 8));
}

// Pages that the partials have room for, of each head of each row; a slot is a maximum, a sum and the features.
FUNCTION u32 slots_of(const AttentionParams& p, u64 words) {
  return words / ((u64)p.count * p.heads * (p.head_dim + 2));
}

FUNCTION void rope_attention_split(const Call& call, bool rounds_queries) {
  const auto p = params_of<AttentionParams>(call);
  append_rotated(p, call);
  const Inputs in = rotating_inputs(call, rounds_queries);
  float* partials = binding<float>(call, 7);
  const u32 slots = slots_of(p, call.words[6]), quads = (p.head_dim + 3) / 4;
  for (u64 n = first(); n < (u64)p.count * p.heads * slots * quads; n += step()) {
    const u32 d = n % quads * 4;
    const u64 slot_of_all = n / quads;
    const u32 head = slot_of_all / slots % p.heads;
    const u64 row = slot_of_all / slots / p.heads;
    const u32 position = in.row_info[row].position, begin = first_visible(p, position);
    const u32 page = begin / PAGE_SIZE + (u32)(slot_of_all % slots);
    if (page > position / PAGE_SIZE) {
      continue;
    }
    const u32 page_first = page * PAGE_SIZE, page_last = page * PAGE_SIZE + PAGE_SIZE - 1;
    const u32 features[4] = {d, d + 1, d + 2, d + 3};
    const Partial partial = attend<KV_F16>(p, in, row, head, begin > page_first ? begin : page_first,
                                           position < page_last ? position : page_last, features);
    float* slot = partials + slot_of_all * (p.head_dim + 2);
    if (d == 0) {
      slot[0] = (float)partial.max;
      slot[1] = (float)partial.sum;
    }
    for (u32 i = 0; i < 4 && d + i < p.head_dim; i += 1) {
      slot[2 + d + i] = (float)partial.o[i];
    }
  }
}

KERNEL(rope_attention_f16_split) { rope_attention_split(call, false); }
KERNEL(rope_attention_f16_split4) { rope_attention_split(call, false); }
KERNEL(rope_attention_coop16_split) { rope_attention_split(call, true); }

// Feature `d` of a head, of what its pages gave.
FUNCTION float merged(const AttentionParams& p, const Row* row_info, const float* partials, u32 slots, u64 row, u32 head, u32 d) {
  const u32 position = row_info[row].position;
  const u32 used = position / PAGE_SIZE - first_visible(p, position) / PAGE_SIZE + 1;
  const float* of_head = partials + (row * p.heads + head) * slots * (p.head_dim + 2);
  double max = -INFINITY, sum = 0.0, o = 0.0;
  for (u32 s = 0; s < used; s += 1) {
    max = fmax(max, (double)of_head[(u64)s * (p.head_dim + 2)]);
  }
  for (u32 s = 0; s < used; s += 1) {
    const float* slot = of_head + (u64)s * (p.head_dim + 2);
    const double factor = exp((double)slot[0] - max);
    sum += factor * (double)slot[1];
    o += factor * (double)slot[2 + d];
  }
  return (float)(o / sum);
}

KERNEL(attention_merge) {
  const auto p = params_of<AttentionParams>(call);
  const u32 slots = slots_of(p, call.words[1]);
  float* y = binding<float>(call, 3);
  for (u64 n = first(); n < (u64)p.count * p.heads * p.head_dim; n += step()) {
    const u32 head = n / p.head_dim % p.heads;
    y[n] = merged(p, binding<Row>(call, 1), binding<float>(call, 2), slots, n / p.head_dim / p.heads, head, n % p.head_dim);
  }
}

KERNEL(attention_merge_flat) {
  const auto p = params_of<FlatAttentionParams>(call);
  const AttentionParams& a = p.attention;
  const u32* map = binding<u32>(call, 3);
  u32* x_q = binding<u32>(call, 4);
  const u32 slots = slots_of(a, call.words[1]), words = flat_words(p.flat_features);
  const FlattenParams flattening = {a.count, a.heads * a.head_dim, p.flat_features, p.q_max, p.inv_scale};
  for (u64 n = first(); n < (u64)a.count * words; n += step()) {
    const auto value_of = [&](u32 source) {
      return merged(a, binding<Row>(call, 1), binding<float>(call, 2), slots, n / words, source / a.head_dim, source % a.head_dim);
    };
    x_q[n] = flat_word(flattening, map, n % words, value_of);
  }
}
