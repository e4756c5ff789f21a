#include "homology_links_impl.hpp"

namespace repgeom {

constinit const LinkKernels avx512_links = make_links("avx512");

}  // namespace repgeom
