// What every kernel here is given, and how its work is shared out: tests/support/cuda/mod.rs.
//
// The kernels are written from the definitions (the twins), plainly: a thread computes an output alone, sums of floats are in double, and
// nothing is tiled. They are there to be right, not fast.

#ifdef __CUDACC__
// NVRTC has the functions of math.h and string.h without their headers, but not these.
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fc00000)
#define KERNEL(name) extern "C" __global__ void name(const Call call)
#define FUNCTION __device__ static inline
#define METHOD __device__ inline
// Compiled once, not into each that calls it: the compiler is much faster so.
#define SEPARATE_FUNCTION __device__ __noinline__ static
#else
// As plain C++, one thread does everything.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#define KERNEL(name) extern "C" void name(const Call call)
#define FUNCTION static inline
#define METHOD inline
#define SEPARATE_FUNCTION static
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

const u32 MOST_PARAMS = 32;
const u32 MOST_BUFFERS = 8;
const u32 K_STEP = 32;
const u32 PAGE_SIZE = 64;

// A dispatch: the words of its uniform, its storage bindings 1, 2, .. and their words, and the constants that change what is computed.
struct Call {
  u32 params[MOST_PARAMS];
  u32* buffers[MOST_BUFFERS];
  u64 words[MOST_BUFFERS];
  u32 group_size;
  u32 raw_accumulators;
};

// Each thread does the items first(), first() + step(), .. below their number.
FUNCTION u64 first() {
#ifdef __CUDACC__
  return (u64)blockIdx.x * blockDim.x + threadIdx.x;
#else
  return 0;
#endif
}

FUNCTION u64 step() {
#ifdef __CUDACC__
  return (u64)gridDim.x * blockDim.x;
#else
  return 1;
#endif
}

template <typename P>
FUNCTION P params_of(const Call& call) {
  static_assert(sizeof(P) <= sizeof(call.params), "more parameters than a call has");
  P params;
  memcpy(&params, call.params, sizeof(P));
  return params;
}

// Storage binding 1, 2, ..
template <typename T>
FUNCTION T* binding(const Call& call, u32 number) {
  return (T*)call.buffers[number - 1];
}

FUNCTION u32 float_bits(float value) {
  u32 bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

FUNCTION float float_of_bits(u32 bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

FUNCTION u32 padded(u32 features) {
  return (features + K_STEP - 1) / K_STEP * K_STEP;
}

// (sequence, position)
struct Row {
  u32 sequence;
  u32 position;
};
