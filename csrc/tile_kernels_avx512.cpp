#include "tile_kernels_impl.hpp"

namespace repgeom {

constinit const KernelTable avx512_kernels = make_table<64, 8, 3>("avx512");

}  // namespace repgeom
