#include "homology_links_impl.hpp"

namespace repgeom {

#if defined(__aarch64__)
constinit const LinkKernels baseline_links = make_links("neon");
#else
constinit const LinkKernels baseline_links = make_links("baseline");
#endif

}  // namespace repgeom
