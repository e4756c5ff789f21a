#include "neighbors_pairs_impl.hpp"

namespace repgeom {

constinit const PairKernels avx2_pairs = make_pairs("avx2");

}  // namespace repgeom
