#include "neighbors_pairs_impl.hpp"

namespace repgeom {

#if defined(__aarch64__)
constinit const PairKernels baseline_pairs = make_pairs("neon");
#else
constinit const PairKernels baseline_pairs = make_pairs("baseline");
#endif

}  // namespace repgeom
