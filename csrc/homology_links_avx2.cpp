#include "homology_links_impl.hpp"

namespace repgeom {

constinit const LinkKernels avx2_links = make_links("avx2");

}  // namespace repgeom
