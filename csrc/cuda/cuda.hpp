// The whole device API on one page. no_cuda.cpp defines the same symbols for builds without CUDA; the linker
// chooses, callers ask available().
#pragma once

namespace repgeom::cuda {

// Whether this build has CUDA kernels and a device that can run them.
bool available();

}  // namespace repgeom::cuda
