
// The kernels above as a program: dispatches come in on stdin, their buffers go out on stdout as the kernels leave them. A dispatch is
// the place of its kernel in ENTRIES, then `Call` without addresses, then the buffers' words.

#include <stdio.h>

struct Entry {
  void (*run)(const Call);
};

static const Entry ENTRIES[] = {
// ENTRIES
};

static void read_words(void* to, size_t words) {
  if (fread(to, 4, words, stdin) != words) {
    abort();
  }
}

int main() {
  u32 entry;
  while (fread(&entry, 4, 1, stdin) == 1) {
    Call call;
    read_words(&call, sizeof(Call) / 4);
    for (u32 i = 0; i < MOST_BUFFERS; i += 1) {
      call.buffers[i] = (u32*)malloc(4 * call.words[i] + 1);
      read_words(call.buffers[i], call.words[i]);
    }
    ENTRIES[entry].run(call);
    for (u32 i = 0; i < MOST_BUFFERS; i += 1) {
      fwrite(call.buffers[i], 4, call.words[i], stdout);
      free(call.buffers[i]);
    }
    fflush(stdout);
  }
}
