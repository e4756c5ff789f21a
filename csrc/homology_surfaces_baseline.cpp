#include "homology_surfaces_impl.hpp"

namespace repgeom {

constinit const SurfaceKernels baseline_surfaces = make_surfaces("baseline");

}  // namespace repgeom
