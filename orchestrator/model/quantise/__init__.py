"""From float32 matrices to what MatMulNBits computes with: carried over exactly where that can be, else fitted."""
