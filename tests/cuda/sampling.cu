// Logits to tokens, and what follows a token.

// What follows a chosen token of a row.
FUNCTION void advance(u32 window, u64 row, u32 token, u32* tokens, Row* row_info, u32* history) {
  row_info[row].position += 1;
  tokens[row] = token;
  history[row_info[row].sequence * window + row_info[row].position % window] = token;
}

// Larger for larger floats, 0 for NaN, one for both zeros.
FUNCTION u32 key_of_best(float value) {
  if (isnan(value)) {
    return 0;
  }
  const u32 bits = float_bits(value);
  return value == 0.0f ? 0x80000000u : bits >> 31 ? ~bits : bits | 0x80000000u;
}

struct Best {
  u32 key, index;
};

struct ArgmaxPartsParams {
  u32 rows, vocab;
};

KERNEL(argmax_parts) {
  const u32 part = 256;
  const auto p = params_of<ArgmaxPartsParams>(call);
  const float* logits = binding<float>(call, 1);
  Best* best = binding<Best>(call, 2);
  const u64 parts = (p.vocab + part - 1) / part;
  for (u64 i = first(); i < p.rows * parts; i += step()) {
    const float* of_row = logits + i / parts * p.vocab;
    const u32 start = (u32)(i % parts) * part;
    Best of_part = {key_of_best(of_row[start]), start};
    for (u32 j = start + 1; j < start + part && j < p.vocab; j += 1) {
      const u32 key = key_of_best(of_row[j]);
      if (key > of_part.key) {
        of_part = {key, j};
      }
    }
    best[i] = of_part;
  }
}

struct ArgmaxParams {
  u32 rows, parts, window;
};

KERNEL(argmax) {
  const auto p = params_of<ArgmaxParams>(call);
  const Best* best = binding<Best>(call, 1);
  u32* tokens = binding<u32>(call, 2);
  Row* row_info = binding<Row>(call, 3);
  u32* history = binding<u32>(call, 4);
  for (u64 row = first(); row < p.rows; row += step()) {
    Best largest = best[row * p.parts];
    for (u32 i = 1; i < p.parts; i += 1) {
      const Best other = best[row * p.parts + i];
      largest = other.key > largest.key ? other : largest;
    }
    advance(p.window, row, largest.index, tokens, row_info, history);
  }
}

struct RepeatPenaltyParams {
  u32 rows, vocab, window;
  float penalty, inv_penalty;
};

KERNEL(repeat_penalty) {
  const auto p = params_of<RepeatPenaltyParams>(call);
  const Row* row_info = binding<Row>(call, 1);
  const u32* history = binding<u32>(call, 2);
  float* logits = binding<float>(call, 3);
  for (u64 row = first(); row < p.rows; row += step()) {
    const u32* of_row = history + (u64)row_info[row].sequence * p.window;
    for (u32 i = 0; i < p.window; i += 1) {
      bool is_new = of_row[i] < p.vocab;
      for (u32 j = 0; j < i; j += 1) {
        is_new = is_new && of_row[j] != of_row[i];
      }
      if (is_new) {
        float& logit = logits[row * p.vocab + of_row[i]];
        logit *= logit > 0.0f ? p.inv_penalty : p.penalty;
      }
    }
  }
}

struct SampleParams {
  u32 rows, vocab, top_k;
  float top_p, min_p, inv_temp;
  u32 seed_lo, seed_hi, window;
};

// One word of pcg4d.
FUNCTION u32 random_word(u32 x, u32 y, u32 z, u32 w) {
  u32 v[4] = {x, y, z, w};
  for (u32 i = 0; i < 4; i += 1) {
    v[i] = v[i] * 1664525u + 1013904223u;
  }
  for (u32 round = 0; round < 2; round += 1) {
    v[0] += v[1] * v[3];
    v[1] += v[2] * v[0];
    v[2] += v[0] * v[1];
    v[3] += v[1] * v[2];
    for (u32 i = 0; i < 4 && round == 0; i += 1) {
      v[i] ^= v[i] >> 16;
    }
  }
  return v[0];
}

// Larger for larger floats, -0 before 0.
FUNCTION u32 order_key(float value) {
  const u32 bits = float_bits(value);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

FUNCTION float value_of_key(u32 key) {
  return float_of_bits(key >> 31 ? key & 0x7fffffffu : ~key);
}

// e^((logit - largest) * inv_temp), 1 of the largest itself also where that is infinite.
FUNCTION double sample_weight(float logit, float largest, float inv_temp) {
  return logit == largest ? 1.0 : exp(((double)logit - (double)largest) * (double)inv_temp);
}

// The logits of a row that are still candidates: numbers of at least `low`.
struct Candidates {
  const float* logits;
  u32 vocab;
  float largest, low;
};

FUNCTION bool is_candidate(const Candidates& c, float logit) {
  return !isnan(logit) && logit >= c.low;
}

// How many candidates have a key of at least `key`, or how much they weigh.
FUNCTION double amount(const Candidates& c, u32 key, bool weighs) {
  double sum = 0.0;
  for (u32 i = 0; i < c.vocab; i += 1) {
    const float logit = c.logits[i];
    if (is_candidate(c, logit) && order_key(logit) >= key) {
      sum += weighs ? sample_weight(logit, c.largest, 1.0f) : 1.0;
    }
  }
  return sum;
}

// Leaves the largest candidates, as few as amount to `needed`, with all that equal the last of them.
FUNCTION void keep_largest(Candidates& c, double needed, bool weighs) {
  // The largest key whose amount suffices, by bisection: key 0 has all.
  u32 key = 0;
  for (u32 bit = 1u << 31; bit > 0; bit >>= 1) {
    if (amount(c, key | bit, weighs) >= needed && order_key(c.largest) >= (key | bit)) {
      key |= bit;
    }
  }
  if (key > 0) {
    c.low = fmaxf(c.low, value_of_key(key));
  }
}

FUNCTION u32 draw(const SampleParams& p, const float* logits, double u) {
  Candidates c = {logits, p.vocab, -INFINITY, -INFINITY};
  u32 count = 0;
  for (u32 i = 0; i < p.vocab; i += 1) {
    if (!isnan(logits[i])) {
      c.largest = fmaxf(c.largest, logits[i]);
      count += 1;
    }
  }
  if (count == 0) {
    return 0;
  }
  if (p.top_k > 0 && p.top_k < count) {
    keep_largest(c, p.top_k, false);
  }
  if (p.top_p < 1.0f) {
    keep_largest(c, (double)p.top_p * amount(c, 0, true), true);
  }
  double total = 0.0;
  for (u32 pass = 0; pass < 2; pass += 1) {
    double running = 0.0;
    u32 last = 0;
    for (u32 i = 0; i < p.vocab; i += 1) {
      const float logit = logits[i];
      if (!is_candidate(c, logit) || (p.min_p > 0.0f && sample_weight(logit, c.largest, 1.0f) < (double)p.min_p)) {
        continue;
      }
      const double weight = sample_weight(logit, c.largest, p.inv_temp);
      running += weight;
      last = weight > 0.0 ? i : last;
      if (pass == 1 && running > u * total) {
        return i;
      }
    }
    if (pass == 1) {
      return last;
    }
    total = running;
  }
  return 0;
}

KERNEL(sample) {
  const auto p = params_of<SampleParams>(call);
  const float* logits = binding<float>(call, 1);
  u32* tokens = binding<u32>(call, 3);
  Row* row_info = binding<Row>(call, 4);
  u32* history = binding<u32>(call, 5);
  for (u64 row = first(); row < p.rows; row += step()) {
    const u32 word = random_word(p.seed_lo, p.seed_hi, row_info[row].sequence, row_info[row].position);
    const u32 token = draw(p, logits + row * p.vocab, (double)(word >> 8) / 16777216.0);
    advance(p.window, row, token, tokens, row_info, history);
  }
}
