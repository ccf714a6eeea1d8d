// What kv_append_f32 and kv_append_f16 share: four heads a workgroup, whose words follow each other in qkv. `WORD_FEATURES` is how many
// features a word has, and `word_of` makes one.
//
// grid: (ceil(kv_heads / 4), rows, 2)

const HEADS: u32 = 4u;

fn store(place: Place, first_head: u32, i: u32, word: u32) {
  let words = params.head_dim / WORD_FEATURES;
  let block = place.page * params.kv_heads + first_head + i / words;
  write_word(place.of_v, (block * PAGE_SIZE + place.key) * words + i % words, word);
}

fn run(workgroup: vec3<u32>, lane: u32) {
  let place = place_of(workgroup.y, workgroup.z == 1u);
  let first_head = workgroup.x * HEADS;
  let first = place.first_feature + first_head * params.head_dim;
  let end = min(HEADS, params.kv_heads - first_head) * params.head_dim / WORD_FEATURES;
  // Four words are on their way at once; past the end the last one again, which is not stored.
  for (var i = lane; i < end; i += 4u * WORKGROUP) {
    let i_1 = i + WORKGROUP;
    let i_2 = i + 2u * WORKGROUP;
    let i_3 = i + 3u * WORKGROUP;
    let word = word_of(first + i * WORD_FEATURES);
    let word_1 = word_of(first + min(i_1, end - 1u) * WORD_FEATURES);
    let word_2 = word_of(first + min(i_2, end - 1u) * WORD_FEATURES);
    let word_3 = word_of(first + min(i_3, end - 1u) * WORD_FEATURES);
    store(place, first_head, i, word);
    if (i_1 < end) {
      store(place, first_head, i_1, word_1);
    }
    if (i_2 < end) {
      store(place, first_head, i_2, word_2);
    }
    if (i_3 < end) {
      store(place, first_head, i_3, word_3);
    }
  }
}
