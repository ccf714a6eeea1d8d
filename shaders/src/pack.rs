//! Integers and halves in 32-bit words: with the kernels, the only place where bits are moved.
