#include "tile_kernels_impl.hpp"

namespace repgeom {

// 16-byte vectors are SSE2 on x86-64 and NEON on arm64, which has twice the registers.
#if defined(__aarch64__)
constinit const KernelTable baseline_kernels = make_table<16, 4, 4>("neon");
#else
constinit const KernelTable baseline_kernels = make_table<16, 4, 2>("baseline");
#endif

}  // namespace repgeom
