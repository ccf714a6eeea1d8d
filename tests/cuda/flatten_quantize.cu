// Flat integers: one static scale for the tensor, large channels in several parts.

struct FlattenParams {
  u32 rows, features, flat_features, q_max;
  float inv_scale;
};

// The words of a row of flat integers.
FUNCTION u32 flat_words(u32 flat_features) {
  return padded(flat_features) / 4;
}

// The channel of x that flat channel `c` is a part of.
FUNCTION u32 flat_source(const u32* map, u32 features, u32 c) {
  return c < features ? c : map[c] & 0xffffffu;
}

// What flat channel `c` is, of the value `x` of its channel.
FUNCTION int flat_part(const u32* map, u32 features, u32 q_max, float inv_scale, u32 c, float x) {
  const u32 parts = map[flat_source(map, features, c)];
  const int part = c < features ? 0 : (int)(map[c] >> 24);
  const float limit = (float)(parts * q_max);
  const int q = (int)rintf(fminf(fmaxf(x * inv_scale, -limit), limit));
  int left = abs(q) - part * (int)q_max;
  left = left < 0 ? 0 : left > (int)q_max ? (int)q_max : left;
  return q < 0 ? -left : left;
}

// A word of a row of flat integers, where `value_of(source)` is the row's value of a channel.
template <typename ValueOf>
FUNCTION u32 flat_word(const FlattenParams& p, const u32* map, u64 word, ValueOf value_of) {
  int values[4] = {0, 0, 0, 0};
  for (u32 lane = 0; lane < 4; lane += 1) {
    const u32 c = (u32)word * 4 + lane;
    if (c < p.flat_features) {
      const float value = value_of(flat_source(map, p.features, c));
      values[lane] = flat_part(map, p.features, p.q_max, p.inv_scale, c, value);
    }
  }
  return packed(values);
}

KERNEL(flatten_quantize) {
  const auto p = params_of<FlattenParams>(call);
  const float* x = binding<float>(call, 1);
  const u32* map = binding<u32>(call, 2);
  u32* x_q = binding<u32>(call, 3);
  const u32 words = flat_words(p.flat_features);
  for (u64 n = first(); n < (u64)p.rows * words; n += step()) {
    const float* row = x + n / words * p.features;
    x_q[n] = flat_word(p, map, n % words, [&](u32 source) { return row[source]; });
  }
}
