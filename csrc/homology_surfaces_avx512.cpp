#include "homology_surfaces_impl.hpp"

namespace repgeom {

constinit const SurfaceKernels avx512_surfaces = make_surfaces("avx512");

}  // namespace repgeom
