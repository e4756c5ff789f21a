#include "homology_surfaces_impl.hpp"

namespace repgeom {

constinit const SurfaceKernels avx2_surfaces = make_surfaces("avx2");

}  // namespace repgeom
