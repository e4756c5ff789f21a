#include "neighbors_pairs_impl.hpp"

namespace repgeom {

constinit const PairKernels avx512_pairs = make_pairs("avx512");

}  // namespace repgeom
