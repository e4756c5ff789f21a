#include "tile_kernels_impl.hpp"

namespace repgeom {

constinit const KernelTable avx2_kernels = make_table<32, 4, 3>("avx2");

}  // namespace repgeom
